"""Header fields that the ``email`` package has folded: whether readers find in them what was given.

A field in which they do not is written anew, by the rules of ``header.py``. The package has faults that change what is
read: it takes quotes off a long name, so that one mailbox becomes several (CPython gh-80222, gh-121284); it writes
encoded words where none may stand (gh-100991), and loses or adds blanks between them (gh-92081, gh-144156). What is
compared is what a reader decodes, and not the octets.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from smtpbackend.address import Address, addresses_in_field, parse_addresses
from smtpbackend.errors import InvalidInput
from smtpbackend.header import IDENTIFIERS, LINE, list_field, mailbox_text, parameter, phrase, text_field
from smtpbackend.part_encoding import has_header_signature, is_signed

if TYPE_CHECKING:
    import email.message

__all__ = ["arrives", "refolded", "rewritten"]

_encoded_word = re.compile(r"=\?([!#-'*+0-9A-Z^_`a-z{|}~-]+)\?([bBqQ])\?([!->@-~]*)\?=").fullmatch
_has_surrogate = re.compile("[\ud800-\udfff]").search
# In these fields a reader decodes encoded words (RFC 2047 5), and a text in ASCII may be written as one
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
            return True  # there is no mailbox that could be lost
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


def refolded(message: email.message.Message, octets: bytes) -> bytes:
    """``octets``, which the package wrote for ``message``, with header fields as `Flattener` writes them.

    Fields in which a reader finds what the message says stay, and all that were signed.
    """
    end = message.policy.linesep.encode()
    if has_header_signature(message) or end + b"DKIM-Signature:" in octets.partition(end + end)[0]:
        return octets
    done: list[bytes] = []
    at = 0
    for part in [message] if is_signed(message) else message.walk():
        if any(_may_differ(name, value) for name, value in part.raw_items()):
            fields = [(name, value, message.policy.fold_binary(name, value)) for name, value in part.raw_items()]
            section = b"".join(field for *_, field in fields) + end
            begin = octets.find(section, at)  # the whole section: a text may have a line that looks like a field of it
            if begin < 0:
                continue
            done += [octets[at:begin], *(_arriving(*field) for field in fields), end]
            at = begin + len(section)
    return b"".join([*done, octets[at:]])


def _may_differ(name: str, value: Any) -> bool:
    return hasattr(value, "fold") and not (value.isascii() and len(name) + len(value) <= LINE - 2)


def _arriving(name: str, value: Any, field: bytes) -> bytes:
    """The field, or its text by our own rules where it would not be read as what it is."""
    if not _may_differ(name, value) or arrives(name, value, field.decode("utf-8", "surrogateescape")):
        return field
    return rewritten(name, value).encode()


_Named = list[tuple[str | None, tuple[str, str]]]
"""The mailboxes with their names."""


def _named(addresses: list[Address]) -> _Named:
    return [(decoded(one.display_name), one.key) for one in addresses]


def _read(name: str, body: str) -> _Named | None:
    """The mailboxes that a strict reader finds, or None where such a reader may find others.

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
    """The text without what stands in quotes or in angle brackets. A quote without an end stays in it."""
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
