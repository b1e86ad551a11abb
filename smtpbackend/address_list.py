"""Which entries of a list are addresses: one that is badly written does not cost the others (DESIGN 4.2).

What an address is stands in ``address.py``; here it is asked entry by entry, where a list cannot be read as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from smtpbackend.address import (
    Address,
    addresses_in_field,
    as_written,
    is_header,
    is_one,
    is_pair,
    is_word,
    parse_addresses,
    unfold,
)
from smtpbackend.errors import Injection, InvalidInput

__all__ = ["Refused", "entries", "no_mailbox", "sift", "sift_field"]

Refused = tuple[str, InvalidInput]
"""What was given as an address and is none: its text as it was given, and why. The error's field names its place."""

# What decides where an entry ends: a quoted-pair, and the signs of RFC 5322 3.4 that a comma may stand between. Few
# programs need it compiled.
_SIGN = r'(?s:\\.|[",:;()<>\[\]])'


def sift(value: Any, field: str) -> tuple[list[Address], list[Refused]]:
    """The addresses in ``value``, which is as for `parse_addresses`, and apart from them what is none.

    Raises `InvalidInput` only where a line end or NUL stands in one: that is no slip of the pen.
    """
    try:
        return parse_addresses(value, field), []
    except Injection:
        raise
    except InvalidInput as error:
        return _entry_by_entry(value, field, error)


def sift_field(field: str, value: Any) -> tuple[list[Address], list[Refused]]:
    """`sift` for a header, as it is stored in one of our messages or in an ``email.message.Message``."""
    try:
        return addresses_in_field(field, value), []
    except Injection:
        raise
    except InvalidInput as error:
        if hasattr(value, "addresses"):  # email.headerregistry; it is a str as well
            value = as_written(value) or str(value)
        elif isinstance(value, str):
            value = unfold(field, value)
        return _entry_by_entry(value, field, error)


def entries(text: str, field: str) -> list[Address | str]:
    """What stands in ``text``, a list with commas: addresses; and where some are none, all as they were given."""
    found, refused = sift(text, field)
    if not refused:
        return [*found]
    parts = _split(text)
    return [*_whole(parts)] if len(parts) > 1 else [text]


def _entry_by_entry(value: Any, field: str, error: InvalidInput) -> tuple[list[Address], list[Refused]]:
    """``error``: why it cannot be read as a whole."""
    found: list[Address] = []
    refused: list[Refused] = []
    parts = _split(value)
    if len(parts) == 1:
        return [], [(_as_given(parts[0]), error)]
    for place, entry in enumerate(_whole(parts) if isinstance(value, str) else parts):
        try:
            found += _one(entry, f"{field}[{place}]", in_list=not isinstance(value, (str, tuple)))
        except Injection:
            raise
        except InvalidInput as why:
            refused.append((_as_given(entry), why))
    return found, refused


def _whole(parts: list[str]) -> Iterator[str]:
    """Entries of a text, those that a comma may have cut in two as one: what has no @ may be the begin of a name."""
    begun = ""
    for part in parts:
        begun = f"{begun}, {part}" if begun else part
        if not is_word(part):
            yield begun
            begun = ""
    if begun:
        yield begun


def _one(entry: Any, field: str, in_list: bool) -> list[Address]:
    """The address that an entry is. Of a text or a tuple it has a domain: a name, or half of one, is no mailbox."""
    (found,) = parse_addresses([entry], field)
    if not in_list and not found.domain:
        raise no_mailbox(entry, field)
    return [found]


def no_mailbox(word: Any, field: str) -> InvalidInput:
    """Why a word beside addresses is none: it may be the name of somebody."""
    return InvalidInput(
        f"{field}: {word!r} has no domain, and others beside it have; mailboxes of this host are given as elements of "
        "a list",
        field=field,
    )


def _split(value: Any) -> list[Any]:
    """The entries of ``value``. A str with a group (``friends: a@b, c@d;``) is one, and so is one that does not end."""
    if not isinstance(value, str):
        try:
            return [value] if is_one(value) or is_pair(value) else list(value)
        except InvalidInput:  # it may be a pair or two
            return [value]
    parts: list[str] = []
    begin, comments, closing = 0, 0, ""
    for match in re.finditer(_SIGN, value):
        sign = match[0]
        if closing:  # quotes, angle brackets or square ones
            closing = "" if sign == closing else closing
        elif sign == "(" or (sign == ")" and comments):  # comments nest, RFC 5322 3.2.2
            comments += 1 if sign == "(" else -1
        elif comments:
            continue
        elif sign in _CLOSING:
            closing = _CLOSING[sign]
        elif sign in (":", ";"):
            return [value]
        elif sign == ",":
            parts.append(value[begin : match.start()])
            begin = match.end()
    if closing or comments:  # who knows where it was meant to end
        return [value]
    return [one for one in map(str.strip, (*parts, value[begin:])) if one]


_CLOSING = {'"': '"', "<": ">", "[": "]"}


def _as_given(entry: Any) -> str:
    return str(entry) if isinstance(entry, str) or is_header(entry) else repr(entry)
