"""Logging in with an OAuth 2.0 access token: OAUTHBEARER (RFC 7628), and the older XOAUTH2 of Google and Microsoft.

A server that refuses the token says why in JSON, in a challenge that is answered with a dummy (RFC 7628 3.2.3).
"""

from __future__ import annotations

import json
from typing import Any

from smtpbackend.hiding import Mask
from smtpbackend.protocol.sasl import Credentials, Exchange, Refused

__all__ = ["oauthbearer", "xoauth2"]


def oauthbearer(credentials: Credentials) -> Exchange:
    """RFC 7628 3.1: the GS2 header with the name, and key=value pairs that end in ^A."""
    name = credentials.username.replace("=", "=3D").replace(",", "=2C")  # RFC 5801 4
    pairs = (
        f"n,{f'a={name}' if name else ''},",
        f"host={credentials.host}",
        f"port={credentials.port}",
        f"auth=Bearer {credentials.token}",
    )
    challenge = yield "\x01".join((*pairs, "", "")).encode()
    if challenge is not None:
        raise _refused(challenge, b"\x01", credentials)


def xoauth2(credentials: Credentials) -> Exchange:
    """As OAUTHBEARER, without header, host and port; the dummy is empty."""
    challenge = yield f"user={credentials.username}\x01auth=Bearer {credentials.token}\x01\x01".encode()
    if challenge is not None:
        raise _refused(challenge, b"", credentials)


def _refused(challenge: bytes, dummy: bytes, credentials: Credentials) -> Refused:
    details: dict[str, Any] = {}
    try:
        # masked once it is decoded: an escape hides what it stands for
        said = _masked(json.loads(challenge.decode("utf-8", "replace")), Mask(credentials.token, credentials.password))
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict):
        details = said
    shown = ", ".join(f"{key}: {value}" for key, value in details.items() if isinstance(value, (str, int)))
    shown = "".join(c if c.isprintable() else "?" for c in shown)[:500]
    return Refused(shown or "the token is refused", answer=dummy, by_server=True, details=details)


def _masked(said: Any, mask: Mask) -> Any:
    """What a server said in JSON, with the secrets in its texts masked."""
    if isinstance(said, str):
        return mask(said)
    if isinstance(said, dict):
        return {mask(key): _masked(value, mask) for key, value in said.items()}
    return [_masked(item, mask) for item in said] if isinstance(said, list) else said
