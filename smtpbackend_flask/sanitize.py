"""Flask-Mail's functions for texts and addresses, and what the adapter itself needs of that kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.header import Header
from typing import TYPE_CHECKING, Any

from smtpbackend import Address, InvalidInput
from smtpbackend.adapters import characters

if TYPE_CHECKING:
    Mailbox = str | tuple[str, str] | Address
    """An address, with a display name or without, or a pair of name and address."""

__all__ = ["FlaskMailUnicodeDecodeError", "force_text", "sanitize_address", "sanitize_addresses", "sanitize_subject"]

_line_end = re.compile(r"\r\n|\r|\n")
_specials = re.compile(r'[][\\()<>@,:;"]').search  # RFC 5322 3.2.3, the dot aside (4.1)


class FlaskMailUnicodeDecodeError(UnicodeDecodeError):
    """Octets that are not in the encoding they were taken for; ``obj`` is what was given."""

    def __init__(self, obj: Any, *args: Any) -> None:
        self.obj = obj
        super().__init__(*args)

    def __str__(self) -> str:
        return f"{super().__str__()}. You passed in {self.obj!r} ({type(self.obj)})"


def force_text(s: Any, encoding: str = "utf-8", errors: str = "strict") -> str:
    """``s`` as a plain str: octets decoded, lazy strings resolved. Raises `FlaskMailUnicodeDecodeError`."""
    if isinstance(s, str):
        return characters(s)
    try:
        return str(s, encoding, errors) if isinstance(s, (bytes, bytearray)) else characters(str(s))
    except UnicodeDecodeError as error:
        raise FlaskMailUnicodeDecodeError(s, *error.args) from error


def sanitize_subject(subject: str, encoding: str = "utf-8") -> str:
    """``subject`` as encoded words (RFC 2047) if it is not ASCII."""
    return subject if subject.isascii() else encoded(subject, encoding)


def sanitize_address(addr: Mailbox, encoding: str = "utf-8") -> str:
    """``addr`` as Flask-Mail writes it in a header: the name in encoded words, the domain as A-labels, no line breaks.

    The core's rule, `phrase` in ``header.py``, is another one: it also quotes dots and runs of blanks, as RFC 5322
    asks, and makes encoded words of a name in ASCII that cannot be folded.
    """
    name, addr_spec = parts_of(addr)
    if not name:
        return addr_spec
    if not name.isascii():  # Reply-To is the longest name: the first line fits behind any
        return f"{encoded(name, encoding, header_name='Reply-To')} <{addr_spec}>"
    return f"{_quoted(name)} <{addr_spec}>"


def _quoted(name: str) -> str:
    """``name``, as a quoted string if it has special characters."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' if _specials(name) else name


def sanitize_addresses(addresses: Iterable[Mailbox], encoding: str = "utf-8") -> list[str]:
    """`sanitize_address` of each."""
    return [sanitize_address(address, encoding) for address in addresses]


def parts_of(mailbox: Any) -> tuple[str, str]:
    """Display name and addr-spec, also of a bad address, which is refused where the envelope is made."""
    name = ""
    if isinstance(mailbox, (tuple, list)) and len(mailbox) == 2:
        name, mailbox = _line_end.sub("", force_text(mailbox[0] or "")), mailbox[1]
    if not isinstance(mailbox, Address):
        mailbox = address_text(mailbox)
        if not mailbox.isprintable():
            mailbox = _line_end.sub("", mailbox)
    try:
        address = Address.parse((name, mailbox))
    except InvalidInput:
        found_name, addr_spec = _angle_address(mailbox) or ("", mailbox.strip())
        return name or found_name, addr_spec
    return address.display_name, address.addr_spec


def _angle_address(text: str) -> tuple[str, str] | None:
    """Name and address of ``name <address>`` without a check, or None."""
    name, bracket, rest = text.partition("<")
    addr_spec = rest.strip().rstrip(">")
    if not bracket or ">" in name or "<" in addr_spec or ">" in addr_spec:
        return None
    return name.strip().strip('"'), addr_spec


def encoded(text: str, encoding: str, **options: Any) -> str:
    try:
        return Header(text, encoding, **options).encode()
    except (UnicodeEncodeError, LookupError):
        return Header(text, "utf-8", **options).encode()


def address_text(mailbox: Any, field: str = "address") -> str:
    """An address as str: octets decoded, lazy strings and headers resolved. Raises `InvalidInput` for all else.

    The text of a model, a number or None may look like a mailbox of the server.
    """
    if isinstance(mailbox, (str, bytes, bytearray, Header)) or hasattr(mailbox, "casefold"):
        return force_text(mailbox)
    raise InvalidInput(
        f"{field}: an address is a str, an Address or a pair of name and address, not {mailbox!r}", field=field
    )


def joined(pair: Any, field: str) -> str:
    """A pair of name and address as one str that can be parsed again."""
    if len(pair) != 2:
        raise InvalidInput(f"{field}: {pair!r} is no pair of name and address", field=field)
    name, addr = pair
    if isinstance(addr, Address):
        addr = addr.addr_spec
    name, addr = force_text(name or ""), address_text(addr, field)
    if "<" in addr or "," in addr:  # else one of a pair would be two
        addr = Address.parse(addr, field).addr_spec
    return f"{_quoted(name)} <{addr}>" if name else addr
