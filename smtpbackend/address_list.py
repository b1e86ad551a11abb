"""Address lists with bad entries in them: a badly written one does not cost the others (DESIGN 4.2).

A list that cannot be parsed as a whole is parsed entry by entry.
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
"""The text of a bad entry as it was given, and its error, whose field names its place."""

# Where an entry ends: a quoted-pair, and the signs of RFC 5322 3.4 that may enclose a comma. Compiled when needed.
_SIGN = r'(?s:\\.|[",:;()<>\[\]])'


def sift(value: Any, field: str) -> tuple[list[Address], list[Refused]]:
    """The addresses in ``value``, which is as for `parse_addresses`, and the bad entries.

    Raises `Injection` where an entry has a line end or NUL: that is no slip of the pen.
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
    """The entries of ``text``, a list with commas: addresses, or where one is bad all of them as they were given."""
    found, refused = sift(text, field)
    if not refused:
        return [*found]
    parts = _split(text)
    return [*_whole(parts)] if len(parts) > 1 else [text]


def _entry_by_entry(value: Any, field: str, error: InvalidInput) -> tuple[list[Address], list[Refused]]:
    """``error`` is that of the whole list."""
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
    """Entries of a text. One without an @ is joined to the next: a comma may have cut a name in two."""
    begun = ""
    for part in parts:
        begun = f"{begun}, {part}" if begun else part
        if not is_word(part):
            yield begun
            begun = ""
    if begun:
        yield begun


def _one(entry: Any, field: str, in_list: bool) -> list[Address]:
    """The address in an entry. In a text or tuple it needs a domain: a name, or half of one, is no mailbox."""
    (found,) = parse_addresses([entry], field)
    if not in_list and not found.domain:
        raise no_mailbox(entry, field)
    return [found]


def no_mailbox(word: Any, field: str) -> InvalidInput:
    """The error of a word beside addresses: it may be a name."""
    return InvalidInput(
        f"{field}: {word!r} has no domain, and others beside it have; mailboxes of this host are given as elements of "
        "a list",
        field=field,
    )


def _split(value: Any) -> list[Any]:
    """The entries of ``value``. A str is one entry where it has a group (``friends: a@b;``) or an open quote."""
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
    if closing or comments:  # its end is not known
        return [value]
    return [one for one in map(str.strip, (*parts, value[begin:])) if one]


_CLOSING = {'"': '"', "<": ">", "[": "]"}


def _as_given(entry: Any) -> str:
    return str(entry) if isinstance(entry, str) or is_header(entry) else repr(entry)
