"""Mail addresses: `Address`, and what callers may give as one address or as several.

An `Address` is valid from birth: it has no control character, fits a command line, and its domain can be written on
the wire. ``address_syntax.py`` has the grammar of a list, ``address_list.py`` lists with bad entries in them,
``domain.py`` the domains, and ``header.py`` writes addresses into headers.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from smtpbackend.address_syntax import mailboxes
from smtpbackend.domain import DOMAIN, MAX_DOMAIN, ascii_domain
from smtpbackend.errors import Injection, InvalidInput
from smtpbackend.text import characters
from smtpbackend.values import Value

if TYPE_CHECKING:
    Mailbox: TypeAlias = "str | tuple[str, str] | Address"
    """One address as callers give it: an `Address`, a str, or a pair of name and address."""
    Addresses: TypeAlias = "Mailbox | Iterable[Mailbox]"
    """One address, a comma-separated str, or an iterable of addresses."""

__all__ = [
    "ATEXT",
    "DOT_STRING",
    "Address",
    "addresses_in_field",
    "is_pair",
    "parse_addresses",
    "reject_injection",
]

# Servers judge the limits of local part and path (RFC 5321 4.5.3.1.1, 4.5.3.1.3), which VERP and SRS exceed. An address
# has to fit a command line (4.5.3.1.4).
MAX_ADDR_SPEC = 512 - len("MAIL FROM:<>\r\n")  # octets

ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"  # RFC 5322 3.2.3
DOT_STRING = rf"{ATEXT}+(?:\.{ATEXT}+)*"

_plain = re.compile(rf"({DOT_STRING})@({DOMAIN})").fullmatch
# RFC 6531 3.3: atext has every UTF-8 character beyond ASCII, so it is all but the specials (RFC 5322 3.2.3).
_ATEXT_UTF8 = r'[^\x00- "(),.:;<>@\[\\\]\x7f]'
_dot_string = re.compile(rf"{_ATEXT_UTF8}+(?:\.{_ATEXT_UTF8}+)*").fullmatch
_control = re.compile(r"[\x00-\x1f\x7f]").search  # C0 and DEL


def _has_control(text: str) -> bool:
    if text.isascii():
        return _control(text) is not None
    # C1, the line and paragraph separators of str.splitlines, and surrogates, which have no octets.
    return re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", text) is not None


def reject_injection(text: str, field: str) -> None:
    """Raise `Injection` where ``text`` has CR, LF or NUL."""
    if "\n" in text or "\r" in text or "\0" in text:
        raise Injection(f"{field}: {text!r} has a line end or NUL, a control character that may add lines", field=field)


def _reject_control(text: str, field: str) -> None:
    reject_injection(text, field)
    if _has_control(text):
        raise InvalidInput(f"{field}: {text!r} has a control character, which no address may have", field=field)


class Address(Value):
    """A mailbox: ``local_part`` without quotes, ``domain`` as given, and ``display_name``.

    The domain is a name in ASCII or Unicode, an address literal in brackets (``[192.0.2.1]``, ``[IPv6:2001:db8::1]``),
    or "" for a local mailbox. Control characters in the name become blanks. Raises `InvalidInput` for anything that
    cannot be sent.
    """

    local_part: str
    domain: str = ""
    display_name: str = ""

    def __post_init__(self) -> None:
        _validate(self, "address")

    @classmethod
    def parse(cls, text: Mailbox, field: str = "address") -> Address:
        """The one address in ``text``: ``ann@example.org`` or ``Ann <ann@example.org>``, quoted as in RFC 5322 3.4.

        A pair is name and address. Comments belong to the name, as in ``ann@example.org (Ann)``. Raises `InvalidInput`
        naming ``field``.
        """
        if isinstance(text, str):
            found = _parse_list(characters(text), field)
            return found[0] if len(found) == 1 else _one_of(found, text, field)
        return _address_of(text, field)

    @property
    def addr_spec(self) -> str:
        """The address for the wire: the local part quoted where it must be, the domain as A-labels (RFC 5321 4.1.2)."""
        known: str | None = self.__dict__.get("_addr_spec")
        if known is not None:
            return known
        local_part = self.local_part
        if _dot_string(local_part) is None:
            local_part = '"' + re.sub(r'(["\\])', r"\\\1", local_part) + '"'
        spelt = f"{local_part}@{self.ascii_domain}" if self.domain else local_part
        self.__dict__["_addr_spec"] = spelt
        return spelt

    @property
    def ascii_domain(self) -> str:
        """The domain as A-labels; one in ASCII is as it was given."""
        return self.__dict__.get("_ascii_domain", self.domain)  # type: ignore[no-any-return]

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a server with SMTPUTF8 can take it: the local part is not ASCII (RFC 6531 3.2)."""
        return not self.local_part.isascii()

    @property
    def key(self) -> tuple[str, str]:
        """What two spellings of one mailbox share: case does not count in domains alone (RFC 5321 2.4)."""
        return self.local_part, self.ascii_domain.lower()

    def __str__(self) -> str:
        return self.addr_spec

    def to_json(self) -> list[str]:
        """Local part and domain, and the display name where there is one: what `from_json` takes."""
        parts = [self.local_part, self.domain, self.display_name]
        return parts if self.display_name else parts[:2]

    @classmethod
    def from_json(cls, given: Sequence[str]) -> Address:
        """The address that `to_json` was called on. Raises `InvalidInput`."""
        return cls(*given)


def _trusted(local_part: str, domain: str, display_name: str = "") -> Address:
    """An `Address` of parts that were already checked."""
    address = object.__new__(Address)
    state = address.__dict__
    state["local_part"] = local_part
    state["domain"] = domain
    state["display_name"] = display_name
    return address


def _validate(address: Address, field: str) -> None:
    for name in ("local_part", "domain", "display_name"):
        part = getattr(address, name)
        if not isinstance(part, str):
            raise InvalidInput(f"{field}: an address is made of str, not {part!r}", field=field)
        object.__setattr__(address, name, characters(part))
    local_part, domain, display_name = address.local_part, address.domain, address.display_name
    _reject_control(local_part, field)
    _reject_control(domain, field)
    if display_name and not display_name.isprintable():
        address.__dict__["display_name"] = _without_controls(display_name, field)
    if not domain and local_part.startswith("=?") and local_part.endswith("?="):
        raise InvalidInput(
            f"{field}: {local_part!r} is an encoded word (RFC 2047) and no address; encode the name alone", field=field
        )
    if not local_part.isascii():
        for sign in "\uff20\ufe6b":  # they look like an @
            if sign in local_part:
                raise InvalidInput(
                    f"{field}: {local_part!r} has a {sign!r} (U+{ord(sign):04X}), which is not the @ of an address",
                    field=field,
                )
    if not local_part:
        raise InvalidInput(f"{field}: an address needs something before the @", field=field)
    if domain and (encoded := ascii_domain(domain, field)) != domain:
        address.__dict__["_ascii_domain"] = encoded
    octets = len(address.addr_spec.encode())
    if octets > MAX_ADDR_SPEC:
        raise InvalidInput(
            f"{field}: {str(address)[:60]!r}... has {octets} octets; a command line has room for {MAX_ADDR_SPEC} "
            "(RFC 5321 4.5.3.1.4)",
            field=field,
        )


def _without_controls(name: str, field: str) -> str:
    """A display name with blanks in the place of C0 and DEL. Others go into encoded words."""
    reject_injection(name, field)
    if re.search("[\ud800-\udfff]", name):
        raise InvalidInput(f"{field}: {name!r} has half a surrogate pair, which no octets stand for", field=field)
    return re.sub(r"[\x00-\x1f\x7f]", " ", name)


def parse_addresses(value: Any, field: str = "address") -> list[Address]:
    """The addresses in ``value`` (`Addresses`), in order.

    A str may be a list, separated by commas; groups (``friends: a@b, c@d;``) are flattened. An element of an iterable
    is one address and is never split, for it may come from a form. A tuple can be a pair, see `is_pair`. Raises
    `InvalidInput` naming ``field``.
    """
    if isinstance(value, str):
        return list(_parse_list(characters(value), field))
    if type(value) is not list and (is_one(value) or is_pair(value, field)):
        return [_address_of(value, field)]
    if type(value) is tuple:
        check_tuple(value, field)
    found: list[Address] = []
    for one in value:
        if isinstance(one, str):
            addresses = _parse_list(characters(one), field)
            found += addresses if len(addresses) == 1 else (_one_of(addresses, one, field),)
        else:
            found.append(_address_of(one, field))
    return found


def is_pair(value: Any, field: str = "address") -> bool:
    """Whether ``value``, given as one or several addresses, is a tuple of name and address.

    The first of two str is a name, unless it has an @ inside and differs from the second: two addresses never become
    one with a name, and a name never becomes a mailbox. Raises `InvalidInput` for two words without an @, and for a
    first one that looks like a mistyped address. In a list, a pair is always name and address.
    """
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    name, address = value
    if isinstance(name, str) and "@" not in name and (address is None or address == ""):
        raise InvalidInput(f"{field}: {value!r} is a name without an address", field=field)
    if not isinstance(name, str) or not (isinstance(address, str) or hasattr(address, "display_name")):
        return False
    if re.search(r"[^\s@]@[^\s@]", name) and name != address:
        return False
    looks_mistyped = "@" in name[1:] and name != address and len(name.split()) == 1
    if looks_mistyped or (isinstance(address, str) and "@" not in address):
        raise InvalidInput(
            f"{field}: {value!r} may be two mailboxes or one with its name: give a list, [{name!r}, {address!r}] or "
            f"[({name!r}, {address!r})]",
            field=field,
        )
    return True


def is_word(text: str) -> bool:
    """Whether ``text`` may be a name, or half of one: it has no @, and no sign that looks like an @."""
    return bool(text.strip()) and not any(sign in text for sign in "@\uff20\ufe6b")


def check_tuple(value: tuple[Any, ...], field: str) -> None:
    """Raise `InvalidInput` for a tuple of words and addresses: it may be a name with addresses, or only mailboxes."""
    if has_names(value):
        raise InvalidInput(
            f"{field}: {value!r} may be a name and addresses, or mailboxes of this host beside others: give a list, "
            "with pairs of name and address in it",
            field=field,
        )


def has_names(value: tuple[Any, ...]) -> bool:
    """Whether some elements of a tuple are words, which may be names, and others are not."""
    words = [one for one in value if isinstance(one, str) and is_word(one)]
    return 0 < len(words) < len(value)


def is_one(value: Any) -> bool:
    """Whether a value is one mailbox, or nothing that can be iterated."""
    return (
        isinstance(value, (Address, bytes, bytearray, Mapping)) or not isinstance(value, Iterable) or is_header(value)
    )


def is_header(value: Any) -> bool:
    """Whether a value is an ``email.header.Header``."""
    return hasattr(value, "encode") and hasattr(value, "append")


def _address_of(value: Any, field: str) -> Address:
    """The one address in ``value``."""
    if isinstance(value, Address):
        return value
    if isinstance(value, str):
        return _one_of(_parse_list(characters(value), field), value, field)
    if isinstance(value, (tuple, list)) and len(value) == 2 and (value[0] is None or isinstance(value[0], str)):
        name, mailbox = value
        if not isinstance(mailbox, (tuple, list)):
            address = _address_of(mailbox, field)
            return _of_parts(address.local_part, address.domain, name, field) if name else address
    if hasattr(value, "username") and hasattr(value, "display_name"):  # email.headerregistry.Address
        return _of_parts(value.username, value.domain, value.display_name, field)
    if is_header(value):
        return _one_of(_of_header(value, field), value, field)
    raise InvalidInput(
        f"{field}: an address is a str, an Address or a pair of name and address, not {value!r}", field=field
    )


def _one_of(found: Sequence[Address], given: Any, field: str) -> Address:
    if len(found) == 1:
        return found[0]
    if not found:
        raise InvalidInput(f"{field}: {given!r} has no address in it", field=field)
    raise InvalidInput(
        f"{field}: {given!r} is {len(found)} addresses where one is wanted; an element of a list is not split at "
        "commas",
        field=field,
    )


def check_mixed(found: Sequence[Address], field: str, given: Any) -> None:
    """Raise `InvalidInput` where a comma without quotes seems to have cut a name in two (RFC 5322 3.2.5)."""
    if all(one.domain for one in found) or not any(one.domain for one in found):
        return
    word = next(str(one) for one in found if not one.domain)
    raise InvalidInput(
        f"{field}: {given!r} is {len(found)} addresses, and {word!r} has no domain. A name with a comma stands in "
        'quotes, as in \'"Smith, Bob" <bob@example.org>\', or is given as a pair, ("Smith, Bob", "bob@example.org"); '
        "mailboxes of this host are given as elements of a list",
        field=field,
    )


def _of_parts(local_part: str, domain: str, display_name: str, field: str) -> Address:
    address = _trusted(local_part, domain, display_name)
    _validate(address, field)
    return address


@functools.lru_cache(maxsize=256)  # the sender of a thousand messages is parsed once
def _parse_list(text: str, field: str) -> tuple[Address, ...]:
    if (match := _plain(text)) is not None and len(text) <= MAX_DOMAIN:
        return (_trusted(match[1], match[2]),)
    # A line end is no white space here: a folded header is unfolded before it is parsed.
    reject_injection(text, field)
    found = [_of_parts(*parts, field) for parts in mailboxes(text, field)]
    if len(found) > 1:
        check_mixed(found, field, text)
    return tuple(found)


# Addresses in headers


def addresses_in_field(name: str, value: Any) -> list[Address]:
    """The addresses of a header, as it is stored in one of our messages or in an ``email.message.Message``."""
    if hasattr(value, "addresses"):  # email.headerregistry: already parsed
        text = as_written(value)
        found = parse_addresses(list(value.addresses) if text is None else text, name)
        check_mixed(found, name, str(value))
        return found
    if isinstance(value, str):
        return parse_addresses(unfold(name, value), name)
    return _of_header(value, name) if is_header(value) else parse_addresses(value, name)


def as_written(value: Any) -> str | None:
    """The text of a field that ``email.headerregistry`` could not read in full; None where it could.

    The package reads "bob smith@example.org" as another mailbox.
    """
    from email.errors import InvalidHeaderDefect

    if not any(isinstance(defect, InvalidHeaderDefect) for defect in value.defects):
        return None
    from email.policy import SMTPUTF8

    return str(value.fold(policy=SMTPUTF8.clone(max_line_length=0))).partition(":")[2].strip()


def _of_header(value: Any, field: str) -> list[Address]:
    """The addresses of an ``email.header.Header`` as it would be written.

    Many programs encode the whole value, address included: then they are read from its text.
    """
    from email.errors import MessageError
    from email.header import decode_header, make_header

    try:
        found = _parse_list(unfold(field, value.encode()), field)
    except (InvalidInput, MessageError):
        return list(_parse_list(unfold(field, str(value)), field))
    return [
        _of_parts(one.local_part, one.domain, str(make_header(decode_header(one.display_name))), field) for one in found
    ]


def unfold(name: str, value: str) -> str:
    """A header's value on one line, raw UTF-8 decoded. Raises `InvalidInput` for line ends that do not fold it."""
    if not value.isascii():
        try:  # octets of a parsed message are stored as surrogates
            value = value.encode("utf-8", "surrogateescape").decode("utf-8")
        except UnicodeError:
            raise InvalidInput(f"{name}: {value!r} has octets that are not UTF-8", field=name) from None
    value = re.sub(r"\r?\n(?=[ \t])", "", value)
    reject_injection(value, name)
    return value
