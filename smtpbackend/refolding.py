"""Whether a header that the ``email`` package has folded is read as what it is, and how it is written where it is not.

The package has faults that change what is read: it takes quotes off a long name, so that one mailbox becomes several
(CPython gh-80222, gh-121284); it writes encoded words where none may stand (gh-100991), and loses or adds blanks
between them (gh-92081, gh-144156). Such a field is written by ``header.py``. What is compared is what a reader decodes.
"""

from __future__ import annotations

import re
from typing import Any

from smtpbackend.address import Address, addresses_in_field, parse_addresses
from smtpbackend.errors import InvalidInput
from smtpbackend.header import IDENTIFIERS, list_field, mailbox_text, parameter, phrase, text_field

__all__ = ["arrives", "rewritten"]

_encoded_word = re.compile(r"=\?([!#-'*+0-9A-Z^_`a-z{|}~-]+)\?([bBqQ])\?([!->@-~]*)\?=").fullmatch
_has_surrogate = re.compile("[\ud800-\udfff]").search
# Fields in which a reader decodes encoded words (RFC 2047 5); in others the package may write them for what is ASCII.
_TEXTS = frozenset(("subject", "comments", "content-description"))


def arrives(name: str, value: Any, field: str) -> bool:
    """Whether a reader finds in ``field`` what is in the header object ``value``."""
    body = re.sub(r"\r?\n(?=[ \t])", "", field.partition(":")[2]).strip(" \t\r\n")
    if body == value or hasattr(value, "params") or _has_surrogate(value) is not None:
        return True
    if hasattr(value, "addresses"):
        try:
            given = addresses_in_field(name, value)
        except InvalidInput:
            given = []
        if not given:
            return True  # no mailbox is lost
        return _named(given) == _read(name, body) and _groups(name, value) == _groups(name, value, body)
    lower = name.lower()
    if "=?" in body and (lower in IDENTIFIERS or (value.isascii() and lower not in _TEXTS)):
        return False
    return decoded(body) == str(value).strip(" \t")


def rewritten(name: str, value: Any) -> str:
    """The field of a header object by our own rules. Raises `InvalidInput`."""
    if hasattr(value, "params"):
        kind = str(value).partition(";")[0].strip()
        return f"{name}: {kind}{''.join(parameter(key, one) for key, one in value.params.items())}\r\n"
    if not hasattr(value, "addresses"):
        return text_field(name, str(value))
    if all(group.display_name is None for group in value.groups):
        return list_field(name, [mailbox_text(one) for one in addresses_in_field(name, value)])
    entries: list[str] = []
    for group in value.groups:
        members = [mailbox_text(one) for one in parse_addresses(group.addresses, name)]
        if group.display_name is not None:
            first, *others = members or [""]
            written = phrase(group.display_name)
            blank = " " if written.endswith("?=") else ""  # RFC 2047 5: white space stands between it and a special
            members = [f"{written}{blank}: {first}", *others]
            members[-1] += ";"
        entries += members
    return list_field(name, entries)


_Named = list[tuple[str | None, tuple[str, str]]]
"""The mailboxes with their names."""


def _named(addresses: list[Address]) -> _Named:
    return [(decoded(one.display_name), one.key) for one in addresses]


def _read(name: str, body: str) -> _Named | None:
    """The mailboxes as a strict reader finds them; None where it may find none.

    What is special stands in quotes (RFC 5322 3.2.3), and encoded words do not (RFC 2047 5).
    """
    if '"=?' in body or not _SPECIAL.isdisjoint(_bare(body)):
        return None
    try:
        return _named(parse_addresses(body, name))
    except InvalidInput:
        return None


_SPECIAL = frozenset('[]()\\"')


def _bare(body: str) -> str:
    """What stands neither in quotes nor in angle brackets. A quote that nothing closes is in it."""
    kept, start, end = [], 0, ""  # what would end the quote or the bracket that is open
    for match in re.finditer(r'\\.|["<>]', body, re.DOTALL):
        mark = match[0]
        if end:
            if mark == end:
                start, end = match.end(), ""
        elif mark in '"<':
            kept.append(body[start : match.start()])
            start, end = match.start(), '"' if mark == '"' else ">"
    kept.append(body[start:])
    return "".join(kept)


def _groups(name: str, value: Any, body: str | None = None) -> list[str] | None:
    """The names of the groups in ``value``; with ``body`` what becomes of them there."""
    found = [group.display_name for group in value.groups if group.display_name is not None]
    if not found or body is None:
        return found
    try:
        return _groups(name, type(value)(name, body))
    except (AttributeError, IndexError, LookupError, TypeError, ValueError):  # of the package's parser
        return None


def decoded(text: str) -> str | None:
    """A text with its encoded words read (RFC 2047 6.2); None where one of them is of no charset."""
    if "=?" not in text:
        return text
    from email.base64mime import decode as octets_of_b
    from email.quoprimime import header_decode

    found, was_word, gap = [], False, ""
    for token in re.findall(r"[ \t]+|[^ \t]+", text):
        if token[0] in " \t":
            gap = token
            continue
        match = _encoded_word(token)
        if match is None:
            found += [gap, token]
        else:
            charset, encoding, coded = match.groups()
            try:
                octets = octets_of_b(coded) if encoding in "bB" else header_decode(coded).encode("latin-1")
                found += ["" if was_word else gap, octets.decode(charset)]
            except (LookupError, ValueError):
                return None
        was_word, gap = match is not None, ""
    return "".join(found)
