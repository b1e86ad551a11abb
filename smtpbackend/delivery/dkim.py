"""DKIM (RFC 6376): the signature of a content, a field in front of the octets that leave.

The library (dkimpy) parses keys, makes the field and signs. The body is hashed here in one pass over its chunks, so
that a large content is never held in memory. Time is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, NoReturn, Self

from smtpbackend.content import CHUNK, CRLF, Content
from smtpbackend.delivery.setting_names import check_keys
from smtpbackend.domain import ascii_domain
from smtpbackend.errors import InvalidInput, InvalidSetting, MissingExtra, SMTPError
from smtpbackend.hiding import discreet, keep_here

__all__ = ["Signer", "signed"]

# RFC 6376 5.4.1, and other fields that a reader sees
HEADERS = (
    *("From", "Sender", "Reply-To", "Subject", "Date", "Message-ID", "To", "Cc", "In-Reply-To", "References"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-ID", "Content-Description"),
    *("Resent-Date", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc", "Resent-Message-ID"),
    *("List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe", "List-Post"),
    *("List-Owner", "List-Archive"),
)
# RFC 6376 5.4: removed or changed on the way
_NEVER = frozenset(("return-path", "received", "comments", "keywords", "bcc", "dcc", "resent-bcc", "dkim-signature"))
_blanks = re.compile(rb"[ \t]+")
_field_name = re.compile(r"[!-9;-~]+").fullmatch
_label = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_dns_name = re.compile(rf"{_label}(?:\.{_label})*")
# RFC 8410 7: version, algorithm 1.3.101.112, and an OCTET STRING in an OCTET STRING, of 32 octets
_ED25519 = re.compile(rb"\A0.\x02\x01[\x00\x01]0\x05\x06\x03\+ep\x04\x22\x04\x20(.{32})", re.DOTALL)
_PEM = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----([^-]+)-----END \1PRIVATE KEY-----", re.DOTALL)


class Signer:
    """One domain with its selector and key, and the names of the fields that it signs. Raises `InvalidSetting`."""

    @discreet
    def __init__(self, domain: Any, selector: Any, key: Any, headers: Any = None, setting: str = "dkim") -> None:
        self.domain = _name("domain", domain, setting)
        self.selector = _name("selector", selector, setting)
        self.headers = _headers(headers, setting)
        self.algorithm, self._key = _private_key(key, setting)

    def __repr__(self) -> str:
        return f"<Signer {self.selector}._domainkey.{self.domain} {self.algorithm}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        keep_here("the key of a DKIM signer")

    @discreet
    def field(self, header_fields: Sequence[Sequence[bytes]], body_hash: bytes, date: datetime) -> bytes:
        """The DKIM-Signature field for these fields, (name, value), and this SHA-256 of the body."""
        import base64

        dkim = _library()
        present = [bytes(name).decode("ascii").lower() for name, _ in header_fields]
        # each as often as it is present, and From once more, so that none can be added (RFC 6376 8.15)
        names = [name for name in self.headers for _ in range(present.count(name))] + ["from"]
        signing = dkim.DKIM(signature_algorithm=self.algorithm.encode())
        signing.headers = [list(pair) for pair in header_fields]
        signing.hasher = dkim.HASH_ALGORITHMS[signing.signature_algorithm]
        policy = dkim.CanonicalizationPolicy.from_c_value(b"relaxed/relaxed")
        tags = [
            (b"v", b"1"),
            (b"a", signing.signature_algorithm),
            (b"c", policy.to_c_value()),
            (b"d", self.domain.encode()),
            (b"q", b"dns/txt"),
            (b"s", self.selector.encode()),
            (b"t", str(int(date.timestamp())).encode()),
            (b"h", b" : ".join(name.encode() for name in names)),
            (b"bh", base64.b64encode(body_hash)),
            (b"b", b"0" * 60),  # as long as a line, which gives it a line of its own
        ]
        signed = tuple(name.encode() for name in names)
        field: bytes = signing.gen_header(tags, signed, policy, b"DKIM-Signature", self._key)
        return b"DKIM-Signature: " + field


def signers(name: str, value: Any) -> tuple[Signer, ...]:
    """The setting: a mapping of domain, selector, key and headers, or several of them (RFC 8463 3: RSA and Ed25519)."""
    several = [value] if isinstance(value, Mapping) else value
    if not isinstance(several, (list, tuple)) or not all(isinstance(one, Mapping) for one in several):
        raise InvalidSetting(
            f"{name} must be a mapping of domain, selector and key, or a list of such mappings", field=name
        )
    found = []
    for one in several:
        check_keys(one, ("domain", "selector", "key", "headers"), f"{name} key")
        found.append(Signer(one.get("domain"), one.get("selector"), one.get("key"), one.get("headers"), name))
    return tuple(found)


def signed(content: Content, signers: Sequence[Signer], date: datetime) -> Content:
    """``content`` with a DKIM-Signature field of each signer in front. Raises `InvalidInput`."""
    try:
        return _signed(content, signers, date)
    except SMTPError:
        raise
    except Exception as error:  # of dkimpy for malformed fields, or of the source
        raise InvalidInput(f"the content cannot be signed: {type(error).__name__}: {error}", field="dkim") from error


def _signed(content: Content, signers: Sequence[Signer], date: datetime) -> Content:
    """Reads the content once, by chunks."""
    import hashlib

    head, body = _halves(content)
    header_fields = _library().rfc822_parse(head)[0]
    if not any(name.lower() == b"from" for name, _ in header_fields):
        raise InvalidInput("the content has no From field, which DKIM has to sign (RFC 6376 5.4)", field="dkim")
    digest = hashlib.sha256()
    for part in relaxed_body(body):
        digest.update(part)
    fields = b"".join(signer.field(header_fields, digest.digest(), date) for signer in signers)
    return content.under(fields, lambda other: signed(other, signers, date))


def _halves(content: Content) -> tuple[bytes, Iterator[bytes]]:
    """The header section, and the chunks of the body without the empty line between them."""
    chunks = content.chunks()
    head = bytearray()
    for chunk in chunks:
        head += chunk
        if head.startswith(CRLF):
            return b"", chain((bytes(head[2:]),), chunks)
        # the empty line may be in two chunks
        end = head.find(CRLF + CRLF, max(len(head) - len(chunk) - 3, 0))
        if end >= 0:
            return bytes(head[: end + 2]), chain((bytes(head[end + 4 :]),), chunks)
    return bytes(head), iter(())


def relaxed_body(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A body in canonical form (RFC 6376 3.4.4): single blanks, none at line ends, no empty lines at the end."""
    kept = b""  # blanks and part of a line end, which depend on the next chunk
    lines = 0  # line ends before them, which are left out at the end of the body
    is_empty = True
    for chunk in chunks:
        data = _blanks.sub(b" ", kept + chunk).replace(b" " + CRLF, CRLF)
        done = data.rstrip(b" " + CRLF)
        kept = data[len(done) :]
        if done:
            is_empty = False
            while lines:
                some = min(lines, CHUNK // 2)
                lines -= some
                yield CRLF * some
            yield done
        ends = kept.count(CRLF)
        lines += ends
        kept = kept[2 * ends :]
    if not is_empty:
        yield CRLF


def _library() -> Any:
    try:
        import dkim
    except ImportError as error:
        raise MissingExtra('dkim needs the library dkimpy: pip install "smtpbackend[dkim]"') from error
    return dkim


def _name(name: str, value: Any, setting: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidSetting(f"{setting} {name} is missing; it is a string", field=setting)
    text = value
    if not text.isascii():
        try:
            text = ascii_domain(text, f"{setting} {name}")  # as the From that it is to be aligned with
        except InvalidInput as error:
            raise InvalidSetting(str(error), field=setting) from error
    if not _dns_name.fullmatch(text) or len(text) > 253:
        raise InvalidSetting(f"{setting} {name} {value!r} is not a domain name", field=setting)
    return text.lower()


def _headers(value: Any, setting: str) -> tuple[str, ...]:
    """Lower-case names, From among them (RFC 6376 5.4)."""
    if value is None:
        return tuple(name.lower() for name in HEADERS)
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) and _field_name(name) for name in value):
        raise InvalidSetting(f"{setting} headers must be a list of field names, not {value!r}", field=setting)
    names = [name.lower() for name in value]
    if wrong := sorted(_NEVER.intersection(names)):
        raise InvalidSetting(
            f"{setting} headers has {', '.join(wrong)}, which is changed or removed on the way (RFC 6376 5.4.1)",
            field=setting,
        )
    return tuple(dict.fromkeys(["from", *names]))


# The key, of which no error repeats anything.


def _is_bare(key: str) -> bool:
    """Whether this is a key without PEM around it, which an error would show if it were read as a path."""
    return bool(re.fullmatch(r"[A-Za-z0-9+/]{43}=|M[A-Za-z0-9+/]{60,}={0,2}", key.strip()))


def _private_key(key: Any, setting: str) -> tuple[str, Any]:
    """Algorithm and private key, from PEM or from the file at a path."""
    import os

    if isinstance(key, bytes):
        key = key.decode("ascii", "replace")
    if not isinstance(key, (str, os.PathLike)) or not os.fspath(key):
        raise InvalidSetting(f"{setting} key is missing; it is PEM, or the path of a PEM file", field=setting)
    if isinstance(key, str) and ("-----BEGIN" in key or "\n" in key.strip() or _is_bare(key)):
        where, text = f"{setting} key", key
    else:
        # a missing file may be a key in an unknown form, but no key has a dot in it
        is_path = not isinstance(key, str) or "." in key or os.path.exists(key)
        where = f"{setting} key {os.fspath(key)!r}" if is_path else f"{setting} key"
        trouble: Exception | None = None
        try:
            with open(key, encoding="ascii", errors="replace") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            trouble = error
        if trouble is not None and not is_path:
            raise InvalidSetting(
                f"{setting} key is neither PEM nor the path of a file that is there; it is not repeated, as it may be "
                "a key",
                field=setting,
            )
        if trouble is not None:
            raise InvalidSetting(f"{where} cannot be read: {trouble}", field=setting) from trouble
    found = _parsed(text)
    if isinstance(found, str):
        raise InvalidSetting(f"{where} {found}", field=setting)
    return found


def _parsed(text: str) -> tuple[str, Any] | str:
    """Algorithm and key, or what is wrong."""
    import binascii

    pem = _PEM.search(text)
    if "ENCRYPTED" in text:
        return "is encrypted; give one without a passphrase, readable for this process alone"
    try:
        # dkimpy's own form of an Ed25519 key is the 32 octets in base64
        octets = binascii.a2b_base64("".join((pem[2] if pem else text).split()), strict_mode=True)
    except ValueError:
        octets = b""
    ed25519 = _ED25519.match(octets)
    if ed25519 is not None or (pem is None and len(octets) == 32):
        return "ed25519-sha256", _ed25519(ed25519[1] if ed25519 else octets)
    if pem is None:
        return "is not a private key in PEM (-----BEGIN PRIVATE KEY-----)"
    _library()
    from dkim.crypto import UnparsableKeyError, parse_pem_private_key

    try:
        rsa: Any = parse_pem_private_key(pem[0].encode("ascii"))
        bits = rsa["modulus"].bit_length()
    except (UnparsableKeyError, ValueError, TypeError, LookupError):
        return "is neither an RSA nor an Ed25519 key"
    if bits < 1024:  # RFC 8301 3.2
        return f"has {bits} bits; verifiers ask for 1024 at least, and 2048 is usual (RFC 8301 3.2)"
    return "rsa-sha256", rsa


def _ed25519(seed: bytes) -> Any:
    _library()
    try:
        from nacl.signing import SigningKey
    except ImportError as error:
        raise MissingExtra('an Ed25519 dkim key needs PyNaCl: pip install "smtpbackend[dkim]"') from error
    return SigningKey(seed)
