"""DIGEST-MD5 (RFC 2831; historic since RFC 6331, and used only where it is asked for)."""

from __future__ import annotations

import hashlib
import os
import re

from smtpbackend.protocol.sasl import Credentials, Exchange, Refused

__all__ = ["digest_md5"]

# RFC 2831 7.1: token or quoted-string
_DIRECTIVE = re.compile(r'\s*([A-Za-z0-9-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"\s*|([^\s",]+)\s*|)(?:,|$)', re.DOTALL)


def digest_md5(credentials: Credentials, cnonce: str | None = None, service: str = "smtp") -> Exchange:
    """One digest that proves the password to the server, and one back that proves it to us (rspauth)."""
    challenge = yield None
    if challenge is None:
        raise Refused("the server accepted the login without a challenge", impostor=True)
    asked = directives(challenge)
    nonce = asked.get("nonce", [""])
    qop = ",".join(asked.get("qop", ["auth"])).replace(" ", "").split(",")
    if len(nonce) != 1 or not nonce[0] or asked.get("algorithm") != ["md5-sess"] or "auth" not in qop:
        raise Refused("the server's challenge is not of DIGEST-MD5 (RFC 2831 2.1.1)")
    utf8 = asked.get("charset", [""])[0].lower() == "utf-8"
    username, realm = _realm(credentials.username, asked.get("realm", []))
    uri = f"{service}/{credentials.host}"
    cnonce = cnonce or os.urandom(18).hex()
    try:
        secret = b":".join(_hashed(part, utf8) for part in (username, realm or "", credentials.password))
        a1 = hashlib.md5(secret).digest() + f":{nonce[0]}:{cnonce}".encode()
        encoding = "utf-8" if utf8 else "iso-8859-1"
        fields = {
            "charset": "utf-8" if utf8 else None,
            "username": _quoted(username),
            "realm": None if realm is None else _quoted(realm),
            "nonce": _quoted(nonce[0]),
            "nc": "00000001",
            "cnonce": _quoted(cnonce),
            "digest-uri": _quoted(uri),
            "response": _digest(a1, nonce[0], cnonce, f"AUTHENTICATE:{uri}"),
            "qop": "auth",
        }
        answer = ",".join(f"{name}={value}" for name, value in fields.items() if value is not None).encode(encoding)
    except UnicodeEncodeError:
        raise Refused("the server accepts only names and passwords in ISO 8859-1") from None
    challenge = yield answer
    # RFC 2831 2.1.3
    import hmac

    proof = directives(challenge).get("rspauth", [""])[0] if challenge is not None else ""
    if not hmac.compare_digest(proof.encode(), _digest(a1, nonce[0], cnonce, f":{uri}").encode()):
        raise Refused("the server did not prove that it knows the password", impostor=True)
    challenge = yield b""
    if challenge is not None:
        raise Refused("the server sent a challenge after its last message", impostor=True)


def directives(challenge: bytes) -> dict[str, list[str]]:
    """The directives of a challenge, each with its values: realm may occur several times."""
    try:
        text = challenge.decode().strip()
    except UnicodeDecodeError:  # RFC 2831 2.1.1: without charset
        text = challenge.decode("iso-8859-1").strip()
    found: dict[str, list[str]] = {}
    place = 0
    while place < len(text):
        match = _DIRECTIVE.match(text, place)
        if match is None:
            if text[place] != ",":  # RFC 2831 7.1: a list may have empty elements
                raise Refused("the server's challenge cannot be parsed (RFC 2831 7.1)")
            place += 1
            continue
        name, quoted, token = match.groups()
        found.setdefault(name.lower(), []).append((token or "") if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        place = match.end()
    return found


def _realm(username: str, offered: list[str]) -> tuple[str, str | None]:
    """Name and realm: user@realm is split if the server offers that realm; else its first realm is used."""
    user, _, domain = username.rpartition("@")
    if user and domain in offered:
        return user, domain
    return username, offered[0] if offered else None


def _hashed(text: str, utf8: bool) -> bytes:
    """RFC 2831 2.1.2.1: text that ISO 8859-1 has is hashed in it, whatever the charset."""
    try:
        return text.encode("iso-8859-1")
    except UnicodeEncodeError:
        if not utf8:
            raise
        return text.encode("utf-8")


def _digest(a1: bytes, nonce: str, cnonce: str, a2: str) -> str:
    h1, h2 = hashlib.md5(a1).hexdigest(), hashlib.md5(a2.encode()).hexdigest()
    return hashlib.md5(f"{h1}:{nonce}:00000001:{cnonce}:auth:{h2}".encode()).hexdigest()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
