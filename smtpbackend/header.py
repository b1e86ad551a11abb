"""How one header field is written: folded, encoded, and free of control characters.

A field that is short ASCII, the common case, is written as it is. All functions return whole fields, line end included.
"""

from __future__ import annotations

import functools
import re
from datetime import datetime, timedelta
from typing import Any

from smtpbackend.address import ATEXT, DOT_STRING, Address, parse_addresses
from smtpbackend.content import MAX_LINE
from smtpbackend.errors import InvalidInput
from smtpbackend.message import ADDRESS_FIELDS, check_name, check_text, readable_filename
from smtpbackend.text import characters

__all__ = [
    "address_field",
    "any_field",
    "date_of",
    "filename_parameter",
    "fold",
    "identifier_text",
    "list_field",
    "mailbox_text",
    "parameter",
    "phrase",
    "short_ascii",
    "text_field",
]

_AROUND = len("=?utf-8?b??=")
LINE = 78  # octets a line should have at most, RFC 5322 2.1.1
# Octets of a word that is not encoded: some readers put spaces between encoded words
_LONGEST_WORD = 700

MAX_FOLDED = 500  # characters of a field that the email package may fold, even if that takes it long
MAX_PLAIN = 2_000  # characters of any field that it may fold, but for a list of plain mailboxes

# Mailboxes that every program writes and reads alike: an addr-spec alone, or after atoms. Its host has letters, digits
# and hyphens (RFC 1123 2.1).
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
ADDR_SPEC = rf"{DOT_STRING}@{_HOST}(?:\.{_HOST})*"
MAILBOX = rf"(?:{ADDR_SPEC}|{ATEXT}+(?: {ATEXT}+)* <{ADDR_SPEC}>)"
mailboxes = re.compile(f"{MAILBOX}(?:, {MAILBOX})*").fullmatch
short_ascii = re.compile(r"[!-~](?:[ -~]*[!-~])?").fullmatch
_folding_unit = re.compile(r"[ \t]+[^ \t]*|[^ \t]+").findall
_atoms = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*").fullmatch
# Identifiers (RFC 5322 3.6.4) and URLs (RFC 2369, 5064, 8058): no reader decodes encoded words in them (RFC 2047 5)
IDENTIFIERS = frozenset(
    (
        *("message-id", "in-reply-to", "references", "resent-message-id", "content-id", "archived-at"),
        *("list-unsubscribe", "list-unsubscribe-post", "list-help", "list-subscribe", "list-post", "list-owner"),
        "list-archive",
    )
)
_simple_parameter = re.compile(r"[!#-\[\]-~](?:[ !#-\[\]-~]{0,58}[!#-\[\]-~])?").fullmatch


def text_field(name: str, value: str, field: str = "") -> str:
    """One unstructured field, folded and encoded where it must be (RFC 5322 2.2.3, RFC 2047)."""
    value = characters(value)
    if short_ascii(value) is not None and len(name) + len(value) <= LINE - 2:
        return f"{name}: {value}\r\n"
    value = check_text(value, field or name).strip(" \t")
    if is_identifier := name.lower() in IDENTIFIERS:
        value = identifier_text(value)
    if value.isascii():
        folded = fold(name, value)
        if len(folded) <= MAX_LINE or max(map(len, folded.split("\r\n"))) < MAX_LINE:
            return folded
        if is_identifier:
            raise InvalidInput(
                f"{name}: it has {max(map(len, value.split())):,} characters without a blank; a line of mail has room "
                f"for {MAX_LINE} (RFC 5322 2.1.1), and in this field no reader joins what is cut",
                field=field or name,
            )
    return fold(name, _encoded_words(value, LINE - 4 - len(name)))


def fold(name: str, value: str) -> str:
    """``value`` in lines that break before white space; nothing but the line ends is added."""
    first, *units = _folding_unit(value.rstrip(" \t")) or [""]
    lines, line = [], f"{name}: {first}"
    for unit in units:
        if len(line) + len(unit) > LINE:
            lines.append(line)
            line = unit
        else:
            line += unit
    return "\r\n".join([*lines, line]) + "\r\n"


def identifier_text(value: str) -> str:
    """Identifiers or URLs in ASCII: percent-encoded (RFC 3987 3.1), since encoded words may not stand there.

    Raises `InvalidInput` for control characters beyond ASCII and Unicode's line ends.
    """
    if value.isascii():
        return value
    if re.search("[\x80-\x9f\u2028\u2029]", value) is not None:
        raise InvalidInput(f"headers: {value[:100]!r} has a control character", field="headers")
    from urllib.parse import quote

    return re.sub("[^\x00-\x7f]+", lambda match: quote(match[0]), value)


def _encoded_words(text: str, first: int = 64) -> str:
    """``text`` as encoded words of at most 64 characters, the first shorter (RFC 2047).

    The header classes of ``email.policy`` lose white space between encoded words. ``Charset`` writes the same as this,
    but encodes a word again for each of its characters.
    """
    from email import base64mime, quoprimime

    octets = text.encode()
    coder: Any = quoprimime
    if base64mime.header_length(octets) < quoprimime.header_length(octets):
        coder = base64mime
    room = max(first, 24) - _AROUND
    words, word, length = [], bytearray(), 0
    lengths: dict[str, int] = {}
    for char in text:
        own = lengths.get(char)
        if own is None:
            own = lengths[char] = coder.header_length(char.encode()) if coder is quoprimime else len(char.encode())
        length += own
        if (length if coder is quoprimime else (length + 2) // 3 * 4) > room:
            words.append(bytes(word))
            word, length, room = bytearray(), own, 64 - _AROUND
        word += char.encode()
    words.append(bytes(word))
    return " ".join(coder.header_encode(word, "utf-8") for word in words if word)


def phrase(name: str) -> str:
    """A display name as it stands in a field: words, a quoted string, or encoded words (RFC 5322 3.2.5, RFC 2047)."""
    if name.isascii() and max(map(len, _folding_unit(name) or [""])) <= _LONGEST_WORD:
        if _atoms(name) is not None:
            return name
        return '"' + name.replace("\\", r"\\").replace('"', r"\"") + '"'
    return _encoded_words(name, 60)


def mailbox_text(address: Address) -> str:
    """A mailbox as it stands in a field, in one line."""
    if not address.display_name:
        return address.addr_spec
    return f"{phrase(address.display_name)} <{address.addr_spec}>"


def address_field(name: str, addresses: list[Address]) -> str:
    """An address list, folded after commas; local parts beyond ASCII stay UTF-8 (RFC 6532 3.2)."""
    return list_field(name, [mailbox_text(address) for address in addresses])


def list_field(name: str, mailboxes: list[str]) -> str:
    """A list of mailboxes, or of beginnings and ends of groups, folded after commas."""
    line = f"{name}: {', '.join(mailboxes)}"
    if len(line) <= LINE:
        return line + "\r\n"
    lines, line = [], ""
    for number, mailbox in enumerate(mailboxes):
        if number and len(line) + 2 + len(mailbox) <= LINE:
            line += f", {mailbox}"
            continue
        if number:
            lines.append(line + ",\r\n")
        line = f"{name}: {mailbox}" if not number else f" {mailbox}"
        if len(line) > LINE:
            line = fold(name, mailbox)[:-2] if not number else fold("", mailbox)[1:-2]
    return "".join(lines) + line + "\r\n"


def any_field(name: str, value: str) -> str:
    """One field: an address list or a text, by its name."""
    name, value = check_name(name), characters(value)
    lower = name.lower()
    if short_ascii(value) is not None and len(name) + len(value) <= LINE - 2:
        return f"{name}: {value}\r\n"
    if lower in ADDRESS_FIELDS:
        return address_field(name, parse_addresses(check_text(value, name).strip(" \t"), name))
    return text_field(name, value)


def is_costly(value: str, is_structured: bool = True) -> bool:
    """Whether the ``email`` package may take long to fold a field with this value.

    It takes a second for a thousand characters beyond ASCII. For quotes, comments and encoded words its time grows with
    the square of their number.
    """
    if len(value) <= MAX_FOLDED:
        return False
    hard = is_structured or not value.isascii() or "=?" in value or len(value) > MAX_PLAIN
    return hard and mailboxes(value) is None


def in_time(name: str, value: str) -> str:
    """A field that the ``email`` package would take too long to fold; a bad address list is written as text."""
    try:
        return any_field(name, value)
    except InvalidInput:
        return text_field(name, value)


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def date_of(moment: datetime) -> str:
    """RFC 5322 3.3. A moment without a zone is UTC, and gets "-0000"."""
    if not isinstance(moment, datetime):
        raise InvalidInput(f"date: {moment!r} is not a datetime", field="date")
    return _date(moment.replace(microsecond=0, tzinfo=None), moment.utcoffset())


@functools.lru_cache(maxsize=16)  # of a thousand messages most are of the same second
def _date(moment: datetime, offset: timedelta | None) -> str:
    sign, minutes = ("-", 0) if offset is None else ("+", round(offset / timedelta(minutes=1)))
    if minutes < 0:
        sign, minutes = "-", -minutes
    return (
        f"{_DAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year:04} "
        f"{moment.hour:02}:{moment.minute:02}:{moment.second:02} {sign}{minutes // 60:02}{minutes % 60:02}"
    )


def filename_parameter(filename: str | None) -> str:
    """The filename parameter of an attachment, or nothing."""
    return "" if filename is None else parameter("filename", readable_filename(characters(filename)))


def parameter(name: str, value: str) -> str:
    """A parameter with its semicolon: quoted if it is short and simple, else as in RFC 2231."""
    value = characters(value)
    if _simple_parameter(value) is not None and "=?" not in value:
        return f'; {name}="{value}"'
    from urllib.parse import quote

    sections, section = [], ""
    for char in check_text(value, name):
        octets = quote(char, safe="")
        if len(section) + len(octets) > 54:
            sections.append(section)
            section = ""
        section += octets
    sections.append(section)
    if len(sections) == 1:
        return f";\r\n {name}*=utf-8''{section}"
    sections[0] = f"utf-8''{sections[0]}"  # only the first section has the charset, RFC 2231 4.1
    return "".join(f";\r\n {name}*{number}*={section}" for number, section in enumerate(sections))
