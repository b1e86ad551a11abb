"""How a reader leaves a list: the URIs of List-Unsubscribe (RFC 2369 3.2), and which one takes a POST (RFC 8058).

``mime.py`` writes the fields. A URI is ASCII (RFC 3986 2) and stays in one piece, for no encoded word may stand there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from smtpbackend.address import parse_addresses, reject_injection
from smtpbackend.errors import Injection, InvalidInput
from smtpbackend.text import characters

__all__ = ["has_one_click", "uris"]

FIELD = "list_unsubscribe"
MAX_URI = 900  # characters: it cannot be folded, and its line has 998 octets at most (RFC 5322 2.1.1)
_IN_PATH = r"[A-Za-z0-9._~:/\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
_CHAR = rf"(?:{_IN_PATH}|[?#])"
_url = re.compile(
    rf"(?i:https?)://(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?(?:[/?#]{_CHAR}*)?"
).fullmatch
_mailto = re.compile(rf"(?i:mailto):(?P<to>(?:{_IN_PATH})+)(?:\?(?P<fields>{_CHAR}*))?").fullmatch
_line_end = re.compile("%0[0AaDd]").search


def uris(given: Iterable[Any]) -> list[str]:
    """The URIs of ``Message.list_unsubscribe``: https:, http: or mailto:. Raises `InvalidInput`."""
    found = [_checked(one) for one in given]
    if sum(map(_is_https, found)) > 1:
        raise InvalidInput(
            f"{FIELD}: it has several https: URLs, and a reader could not tell which one to ask (RFC 8058 3.1)",
            field=FIELD,
        )
    return found


def has_one_click(found: list[str]) -> bool:
    """Whether one of these URIs is asked by a POST, over TLS alone (RFC 8058 3.1)."""
    return any(map(_is_https, found))


def _is_https(uri: str) -> bool:
    return uri[:6].lower() == "https:"


def _checked(given: Any) -> str:
    if not isinstance(given, str):
        raise InvalidInput(f"{FIELD}: a URL or a mailto: URI is a str, not {given!r}", field=FIELD)
    uri = characters(given)
    reject_injection(uri, FIELD)
    if len(uri) > MAX_URI:
        raise InvalidInput(
            f"{FIELD}: {uri[:60]!r}... has {len(uri):,} characters; a line has room for {MAX_URI}", field=FIELD
        )
    if _url(uri) is not None:
        return uri
    mailto = _mailto(uri)
    if mailto is None:
        raise InvalidInput(
            f"{FIELD}: {uri!r} is neither a URL (https://...) nor a mailto: URI (mailto:leave@example.com). It stands "
            "without angle brackets, several in a list, and what is not ASCII or has a meaning in URIs is "
            "percent-encoded (urllib.parse.quote; a domain as xn--...)",
            field=FIELD,
        )
    from urllib.parse import unquote

    found = parse_addresses(unquote(mailto["to"]), FIELD)
    if not found or not all(one.domain for one in found):
        raise InvalidInput(f"{FIELD}: {uri!r} has no address that a reader could write to", field=FIELD)
    for field in (mailto["fields"] or "").split("&"):
        if _line_end(field) is not None and not field.lower().startswith("body="):  # RFC 6068 5
            raise Injection(f"{FIELD}: {uri!r} would add lines to the header of the reader's mail", field=FIELD)
    return uri
