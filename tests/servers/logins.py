"""Every login that a server offers, on smtplib and the standard library alone: proof that the server takes it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import smtplib
from collections.abc import Callable


def log_in(client: smtplib.SMTP, mechanism: str, user: str, secret: str) -> tuple[int, bytes]:
    """Log in after EHLO and return the last reply; `secret` is the password, or the bearer token.

    Raises smtplib.SMTPAuthenticationError if the server refuses, AssertionError if it does not prove that it knows
    the password, where the mechanism has it prove that.
    """
    if mechanism == "EXTERNAL":  # RFC 4422: the empty identity is that of the certificate
        code, text = client.docmd("AUTH", "EXTERNAL =")
        if code != 235:
            raise smtplib.SMTPAuthenticationError(code, text)
        return code, text
    answers: dict[str, Callable[[], smtplib._AuthObject]] = {
        "OAUTHBEARER": lambda: lambda challenge=None: "\x01" if challenge else oauthbearer(user, secret),
        "XOAUTH2": lambda: lambda challenge=None: "" if challenge else xoauth2(user, secret),
        "DIGEST-MD5": lambda: DigestMD5(user, secret),
        "SCRAM-SHA-1": lambda: Scram("sha1", user, secret),
        "SCRAM-SHA-256": lambda: Scram("sha256", user, secret),
        "SCRAM-SHA-512": lambda: Scram("sha512", user, secret),
    }
    if mechanism in answers:
        return client.auth(mechanism, answers[mechanism](), initial_response_ok=mechanism != "DIGEST-MD5")
    client.user, client.password = user, secret
    return client.auth(mechanism, getattr(client, f"auth_{mechanism.lower().replace('-', '_')}"))


def oauthbearer(user: str, token: str) -> str:
    """RFC 7628 3.1."""
    return f"n,a={user},\x01auth=Bearer {token}\x01\x01"


def xoauth2(user: str, token: str) -> str:
    """What Google published."""
    return f"user={user}\x01auth=Bearer {token}\x01\x01"


class Scram:
    """RFC 5802 without channel binding; the user's name needs neither escapes nor SASLprep."""

    def __init__(self, digest: str, user: str, password: str) -> None:
        self._digest = digest
        self._password = password.encode()
        self._nonce = secrets.token_urlsafe(18)
        self._first = f"n={user},r={self._nonce}"
        self._signature = b""

    def __call__(self, challenge: bytes | None = None) -> str:
        if challenge is None:
            return f"n,,{self._first}"
        fields = dict(field.split("=", 1) for field in challenge.decode().split(","))
        if "v" in fields:
            assert hmac.compare_digest(base64.b64decode(fields["v"]), self._signature)
            return ""
        assert fields["r"].startswith(self._nonce)
        salted = hashlib.pbkdf2_hmac(
            self._digest, self._password, base64.b64decode(fields["s"], validate=True), int(fields["i"])
        )
        without_proof = f"c=biws,r={fields['r']}"
        exchanged = f"{self._first},{challenge.decode()},{without_proof}".encode()
        client_key = hmac.digest(salted, b"Client Key", self._digest)
        stored_key = hashlib.new(self._digest, client_key).digest()
        mask = hmac.digest(stored_key, exchanged, self._digest)
        proof = bytes(one ^ other for one, other in zip(client_key, mask, strict=True))
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", self._digest), exchanged, self._digest)
        return f"{without_proof},p={base64.b64encode(proof).decode()}"


class DigestMD5:
    """RFC 2831, for the realm of the user's name and qop "auth"."""

    def __init__(self, user: str, password: str) -> None:
        self._user, _, self._realm = user.partition("@")
        self._password = password
        self._expected = ""

    def __call__(self, challenge: bytes | None = None) -> str:
        assert challenge is not None
        fields = dict(re.findall(r'([\w-]+)="?([^",]*)"?', challenge.decode()))
        if "rspauth" in fields:
            assert fields["rspauth"] == self._expected
            return ""
        nonce, cnonce, uri = fields["nonce"], secrets.token_hex(16), "smtp/lab.example.com"

        def md5(octets: bytes) -> str:
            return hashlib.md5(octets).hexdigest()

        known = hashlib.md5(f"{self._user}:{self._realm}:{self._password}".encode()).digest()
        a1 = md5(known + f":{nonce}:{cnonce}".encode())

        def response(a2: str) -> str:
            return md5(f"{a1}:{nonce}:00000001:{cnonce}:auth:{md5(a2.encode())}".encode())

        self._expected = response(f":{uri}")
        return (
            f'username="{self._user}",realm="{self._realm}",nonce="{nonce}",cnonce="{cnonce}",nc=00000001,qop=auth,'
            f'digest-uri="{uri}",response={response(f"AUTHENTICATE:{uri}")},charset=utf-8'
        )
