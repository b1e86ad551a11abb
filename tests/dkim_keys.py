"""Keys to sign with, and the DNS in which their other halves stand."""

from __future__ import annotations

import base64
import email
from pathlib import Path
from typing import Any

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

# 512 bits: no library makes such a key any more
SHORT_RSA = """\
-----BEGIN RSA PRIVATE KEY-----
{}
-----END RSA PRIVATE KEY-----
"""


def pem(key: Any, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> str:
    """A private key as PEM."""
    text: bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return text.decode()


def der_integers(*numbers: int) -> bytes:
    """A SEQUENCE of INTEGERs."""

    def tagged(tag: int, octets: bytes) -> bytes:
        size = len(octets)
        length = bytes([size]) if size < 128 else bytes([0x82, size >> 8, size & 255])
        return bytes([tag]) + length + octets

    return tagged(0x30, b"".join(tagged(2, n.to_bytes(n.bit_length() // 8 + 1, "big")) for n in numbers))


class DkimKeys:
    """Private keys by kind, as files below `folder`; `dns` is the ``dnsfunc`` of dkimpy's verifier."""

    def __init__(self, folder: Path) -> None:
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.private: dict[str, Any] = {
            "rsa": rsa_key,
            "rsa_pkcs1": rsa_key,
            "ed25519": ed25519.Ed25519PrivateKey.generate(),
        }
        self._folder = folder
        self._records: dict[bytes, bytes] = {}
        for kind, private in self.private.items():
            form = serialization.PrivateFormat
            text = pem(private, form.TraditionalOpenSSL if kind == "rsa_pkcs1" else form.PKCS8)
            (folder / f"{kind}.pem").write_text(text)
            raw = kind == "ed25519"
            public = private.public_key().public_bytes(
                serialization.Encoding.Raw if raw else serialization.Encoding.DER,
                serialization.PublicFormat.Raw if raw else serialization.PublicFormat.SubjectPublicKeyInfo,
            )
            record = b"v=DKIM1; k=%s; p=%s" % (b"ed25519" if raw else b"rsa", base64.b64encode(public))
            self._records[f"{self.selector(kind)}._domainkey.example.org.".encode()] = record

    @staticmethod
    def selector(kind: str) -> str:
        """The selector of a key."""
        return kind.replace("_", "-")

    def text(self, kind: str) -> str:
        """The PEM."""
        return (self._folder / f"{kind}.pem").read_text()

    def setting(self, kind: str, as_path: bool = True) -> dict[str, Any]:
        """The setting `dkim` for a key."""
        key = str(self._folder / f"{kind}.pem") if as_path else self.text(kind)
        return {"domain": "example.org", "selector": self.selector(kind), "key": key}

    @property
    def short_rsa(self) -> str:
        """An RSA key of 512 bits, in PEM; its numbers have the size that counts and no other use."""
        p, q = (1 << 256) - 189, (1 << 256) - 357
        numbers = (0, p * q, 65537, 3, p, q, 3, 3, 3)
        return SHORT_RSA.format(base64.encodebytes(der_integers(*numbers)).decode().strip())

    def dns(self, name: bytes, timeout: float = 5) -> bytes | None:
        """The TXT record of a name."""
        return self._records.get(name)


UNSUBSCRIBE = {
    "List-Unsubscribe": "<https://example.org/leave/3f9a>, <mailto:leave@example.org>",
    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
}


def signs_how_to_leave(octets: bytes, keys: DkimKeys) -> bool:
    """Whether both fields of `UNSUBSCRIBE` are there, and no signature is left where one of them was changed."""
    read = email.message_from_bytes(octets)
    changed = [octets.replace(b"3f9a", b"0000"), octets.replace(b"=One-Click", b"=Two-Click")]
    return (
        all(" ".join(read[name].split()) == value for name, value in UNSUBSCRIBE.items())
        and verifies(octets, keys)
        and not any(one == octets or verifies(one, keys) for one in changed)
    )


def verifies(octets: bytes, keys: DkimKeys, place: int = 0) -> bool:
    """Whether the signature at that place is good."""
    try:
        return bool(dkim.DKIM(octets).verify(idx=place, dnsfunc=keys.dns))
    except dkim.DKIMException:
        return False
