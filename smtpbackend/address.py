"""Mail addresses: the one place that knows what a mailbox looks like.

An `Address` is valid from birth: it has no control character, fits the limits of RFC 5321 4.5.3.1, and its domain can
be written on the wire. Parsing of RFC 5322 address lists and the IDNA encoding of domains live here; how an address is
written into a header, display name included, is the matter of ``header.py``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from smtpbackend.errors import InvalidInput

__all__ = ["ATEXT", "DOT_STRING", "Address", "parse_addresses"]

MAX_LOCAL_PART = 64  # octets, RFC 5321 4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 4.5.3.1.2
MAX_PATH = 256  # octets, the angle brackets included, RFC 5321 4.5.3.1.3

ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"  # RFC 5322 3.2.3
# RFC 5321 4.1.2 sub-domain; the underscore is not in it, but hosts that have one do get mail.
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
DOT_STRING = rf"{ATEXT}+(?:\.{ATEXT}+)*"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"

_plain = re.compile(rf"({DOT_STRING})@({_DOMAIN})").fullmatch
# RFC 6531 3.3 lets atext be any UTF-8 character beyond ASCII; so it is all but the specials (RFC 5322 3.2.3).
_ATEXT_UTF8 = r'[^\x00- "(),.:;<>@\[\\\]\x7f]'
_dot_string = re.compile(rf"{_ATEXT_UTF8}+(?:\.{_ATEXT_UTF8}+)*").fullmatch
_ascii_domain = re.compile(_DOMAIN).fullmatch
# RFC 5321 4.1.3 General-address-literal: a standardised tag and dcontent.
_GENERAL_LITERAL = r"\[[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+\]"
_control = re.compile(r"[\x00-\x1f\x7f]").search  # C0 and DEL

# One token of an address list (RFC 5322 3.4). White space and comments are skipped by the caller.
_token = re.compile(
    r'(?P<atom>[^ \t()<>\[\]:;@\\,"]+)'
    r'|"(?P<quoted>(?:[^"\\]|\\.)*)"'
    r"|(?P<literal>\[[^\[\]\\]*\])"
    r"|(?P<special>[<>@,;:])",
).match
_white = re.compile(r"[ \t]*").match
_comment_run = re.compile(r"[^()\\]*").match
_quoted_pair = re.compile(r"\\(.)")


def _has_control(text: str) -> bool:
    if text.isascii():
        return _control(text) is not None
    # C1 too; the line and paragraph separators, which str.splitlines honours; surrogates, which no octets stand for.
    return re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", text) is not None


def _reject_control(text: str, field: str) -> None:
    if _has_control(text):
        raise InvalidInput(f"{field}: {text!r} has a control character, which no address may have", field=field)


@dataclass(frozen=True)
class Address:
    """A mailbox: ``local_part`` in its unquoted meaning, ``domain`` as given, and what people call it.

    The domain is a name in ASCII or Unicode, an address literal in brackets (``[192.0.2.1]``, ``[IPv6:2001:db8::1]``),
    or "" for a local mailbox. Raises `InvalidInput` for anything that could not be sent.
    """

    local_part: str
    domain: str = ""
    display_name: str = ""

    def __post_init__(self) -> None:
        _validate(self, "address")

    @classmethod
    def parse(cls, text: str, field: str = "address") -> Address:
        """The one address in ``text``: ``ann@example.org`` or ``Ann <ann@example.org>``, quoted as in RFC 5322 3.4.

        Comments are skipped. Raises `InvalidInput` naming ``field``.
        """
        found = _parse_list(text, field) if type(text) is str else parse_addresses(text, field)
        if len(found) != 1:
            raise InvalidInput(f"{field}: {text!r} is {len(found)} addresses where one is wanted", field=field)
        return found[0]

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
        """The domain as A-labels; what was ASCII already is as it was given."""
        return self.__dict__.get("_ascii_domain", self.domain)  # type: ignore[no-any-return]

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only a server with SMTPUTF8 can take it: the local part is not ASCII (RFC 6531 3.2)."""
        return not self.local_part.isascii()

    @property
    def key(self) -> tuple[str, str]:
        """What two spellings of the same mailbox share: only domains are blind to case (RFC 5321 2.4)."""
        return self.local_part, self.ascii_domain.lower()

    def __str__(self) -> str:
        return self.addr_spec


def _trusted(local_part: str, domain: str, display_name: str = "") -> Address:
    """An `Address` of parts that were already checked."""
    address = object.__new__(Address)
    state = address.__dict__
    state["local_part"] = local_part
    state["domain"] = domain
    state["display_name"] = display_name
    return address


def _validate(address: Address, field: str) -> None:
    for part in (address.local_part, address.domain, address.display_name):
        if not isinstance(part, str):
            raise InvalidInput(f"{field}: an address is made of str, not {part!r}", field=field)
        _reject_control(part, field)
    if not address.local_part:
        raise InvalidInput(f"{field}: an address needs something before the @", field=field)
    if address.domain:
        if len(address.domain) > MAX_DOMAIN:  # before it is encoded, which takes the longer the longer it is
            raise InvalidInput(f"{field}: the domain of {address.domain!r} is over {MAX_DOMAIN} octets", field=field)
        encoded = _encode_domain(address.domain, field)
        if encoded != address.domain:
            object.__setattr__(address, "_ascii_domain", encoded)
        if len(encoded) > MAX_DOMAIN:
            raise InvalidInput(f"{field}: the domain of {str(address)!r} is over {MAX_DOMAIN} octets", field=field)
    path = address.addr_spec
    octets = len(path.encode())
    local_octets = octets - len(address.ascii_domain) - bool(address.domain)
    if local_octets > MAX_LOCAL_PART:
        raise InvalidInput(
            f"{field}: what stands before the @ in {path!r} is over {MAX_LOCAL_PART} octets", field=field
        )
    if octets > MAX_PATH - 2:
        raise InvalidInput(f"{field}: {path!r} is over {MAX_PATH - 2} octets", field=field)


def _encode_domain(domain: str, field: str) -> str:
    if domain.startswith("["):
        return _check_literal(domain, field)
    if domain.isascii():
        if _ascii_domain(domain) is None:
            raise InvalidInput(f"{field}: {domain!r} is not a domain name", field=field)
        return domain
    import idna  # costs as much as smtplib, and most domains are ASCII

    try:
        # UTS 46 maps case and width; labels that are ASCII, encoded ones included, are left alone.
        mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
        encoded = ".".join(
            label if label.isascii() else idna.alabel(label).decode("ascii") for label in mapped.split(".")
        )
    except (idna.IDNAError, UnicodeError, ValueError, IndexError) as error:
        raise InvalidInput(f"{field}: {domain!r} is not a domain name: {error}", field=field) from error
    # What was mapped may have become anything: "℀" becomes "a/c".
    if _ascii_domain(encoded) is None:
        raise InvalidInput(f"{field}: {domain!r} is not a domain name", field=field)
    return encoded


def _check_literal(domain: str, field: str) -> str:
    import ipaddress

    content = domain[1:-1]
    try:
        if not domain.endswith("]"):
            raise ValueError
        if content[:5].lower() == "ipv6:":
            if "%" in content:  # a zone is known to one host only
                raise ValueError
            ipaddress.IPv6Address(content[5:])
        elif re.fullmatch(_GENERAL_LITERAL, domain) is None:
            ipaddress.IPv4Address(content)
    except ValueError:
        raise InvalidInput(f"{field}: {domain!r} is not an address literal", field=field) from None
    return domain


def parse_addresses(value: str | Address | Iterable[str | Address], field: str = "address") -> list[Address]:
    """All addresses of one or more comma-separated lists, groups (``friends: a@b, c@d;``) flattened, in order.

    Raises `InvalidInput` naming ``field``.
    """
    if isinstance(value, str):
        return list(_parse_list(value, field))
    if isinstance(value, Address):
        return [value]
    if type(value) is not list and (isinstance(value, (bytes, bytearray)) or not isinstance(value, Iterable)):
        return [_address_like(value, field)]
    found: list[Address] = []
    for one in value:
        if isinstance(one, str):
            found += _parse_list(one, field)
        elif isinstance(one, Address):
            found.append(one)
        else:
            found.append(_address_like(one, field))
    return found


def _address_like(value: Any, field: str) -> Address:
    if hasattr(value, "username") and hasattr(value, "display_name"):  # email.headerregistry.Address
        return _of_parts(value.username, value.domain, value.display_name, field)
    raise InvalidInput(f"{field}: an address is a str or an Address, not {value!r}", field=field)


def _of_parts(local_part: str, domain: str, display_name: str, field: str) -> Address:
    address = _trusted(local_part, domain, display_name)
    _validate(address, field)
    return address


_Token = tuple[str, str, bool]
"""Kind ("atom", "quoted", "literal", "special"), text, and whether space or a comment stands before it."""


def _tokens(text: str, field: str) -> Iterator[_Token]:
    position, end, spaced = 0, len(text), False
    while True:
        if (white := _white(text, position)) and white.end() > position:
            position, spaced = white.end(), True
        if position >= end:
            return
        if text[position] == "(":
            position, spaced = _after_comment(text, position, field), True
            continue
        match = _token(text, position)
        if match is None:
            raise InvalidInput(f"{field}: {text!r} is not an address list (at {text[position:]!r})", field=field)
        kind = str(match.lastgroup)
        token = match[kind]
        yield kind, _quoted_pair.sub(r"\1", token) if kind == "quoted" else token, spaced
        position, spaced = match.end(), False


def _after_comment(text: str, position: int, field: str) -> int:
    """The position behind the comment that begins at ``position``; comments nest (RFC 5322 3.2.2)."""
    depth, end = 0, len(text)
    while position < end:
        char = text[position]
        if char == "\\":
            position += 1  # a quoted-pair
        elif char == "(":
            depth += 1
        elif depth := depth - 1:
            pass
        else:
            return position + 1
        run = _comment_run(text, position + 1)
        position = run.end() if run else end
    raise InvalidInput(f"{field}: {text!r} has a comment that does not end", field=field)


@functools.lru_cache(maxsize=256)  # the sender of a thousand messages is parsed once
def _parse_list(text: str, field: str) -> tuple[Address, ...]:
    if (match := _plain(text)) is not None and len(text) <= MAX_PATH - 2:
        local_part, domain = match.groups()
        if len(local_part) <= MAX_LOCAL_PART:
            return (_trusted(local_part, domain),)
    # Tabs are white space here, line ends are not: a folded header is unfolded before it comes here.
    _reject_control(text.replace("\t", " "), field)

    def wrong(why: str) -> InvalidInput:
        return InvalidInput(f"{field}: {text!r} is not an address: {why}", field=field)

    found: list[Address] = []
    tokens = [*_tokens(text, field), ("special", "", False)]
    words: list[_Token] = []
    position, in_group = 0, False
    while position < len(tokens):
        kind, token, _ = tokens[position]
        if kind != "special":
            words.append(tokens[position])
            position += 1
            continue
        display_name = ""
        if token == "<":
            display_name = " ".join(word for _, word, _ in words)
            position += 1
            words = []
            while tokens[position][0] != "special":
                words.append(tokens[position])
                position += 1
            local_part, domain, position = _addr_spec(words, tokens, position, wrong)
            if tokens[position][1] != ">":
                raise wrong("'<' without '>'")
            position += 1
        elif token == ":":
            if in_group:
                raise wrong("a group cannot stand in a group")
            words, in_group = [], True
            position += 1
            continue
        elif token == ">":
            raise wrong("'>' without '<'")
        elif words or token == "@":
            local_part, domain, position = _addr_spec(words, tokens, position, wrong)
        else:
            if token == ";" and not in_group:
                raise wrong("';' ends a group, and none was begun")
            if not token and in_group:
                raise wrong("the group does not end in ';'")
            in_group = in_group and token != ";"
            position += 1
            continue
        words = []
        found.append(_of_parts(local_part, domain, display_name, field))
        if tokens[position][0] != "special" or tokens[position][1] not in {",", ";", ""}:
            raise wrong("addresses are separated by commas, and a name with special characters stands in quotes")
        if tokens[position][1] == ",":
            position += 1
    return tuple(found)


def _addr_spec(words: list[_Token], tokens: list[_Token], position: int, wrong: Any) -> tuple[str, str, int]:
    """The local part in ``words`` and the domain at ``position``, if an @ stands there; and where they end."""
    if not words:
        raise wrong("nothing stands before the @" if tokens[position][1] == "@" else "it is empty")
    local_part = ""
    for number, (kind, word, spaced) in enumerate(words):
        if kind == "literal":
            raise wrong("an address literal stands after the @")
        # RFC 5322 4.4 obs-local-part: words may be separated by a dot and white space around it.
        if number and (spaced or kind == "quoted" or words[number - 1][0] == "quoted"):
            dotted = local_part.endswith(".") if words[number - 1][0] == "atom" else False
            if not dotted and not (kind == "atom" and word.startswith(".")):
                raise wrong("white space stands in it, or a name is not followed by an address in <>")
        local_part += word
    if tokens[position][1] != "@":
        return local_part, "", position
    position += 1
    kind, domain, _ = tokens[position]
    if kind == "literal":
        return local_part, domain, position + 1
    domain = ""
    while tokens[position][0] == "atom":
        spaced = tokens[position][2]
        atom = tokens[position][1]
        if domain and not (spaced and (domain.endswith(".") or atom.startswith("."))):  # RFC 5322 4.4 obs-domain
            raise wrong("white space stands in the domain")
        domain += atom
        position += 1
    if not domain:
        raise wrong("nothing stands after the @")
    return local_part, domain, position


# Addresses in headers


def addresses_in_field(name: str, value: Any) -> list[Address]:
    """The addresses of a header, as it is stored in one of our messages or in an ``email.message.Message``."""
    if hasattr(value, "addresses"):  # email.headerregistry: already parsed
        return parse_addresses(value.addresses, name)
    if not isinstance(value, str):
        if not hasattr(value, "encode"):
            return parse_addresses(value, name)
        value = value.encode()  # email.header.Header
    return parse_addresses(_unfold(name, value), name)


def _unfold(name: str, value: str) -> str:
    """A header's value on one line, raw UTF-8 decoded. Line ends that are no folding raise `InvalidInput`."""
    if not value.isascii():
        try:  # octets of a parsed message are stored as surrogates
            value = value.encode("utf-8", "surrogateescape").decode("utf-8")
        except UnicodeError:
            raise InvalidInput(f"{name}: {value!r} has octets that are not UTF-8", field=name) from None
    value = re.sub(r"\r?\n(?=[ \t])", "", value)
    if _has_control(value.replace("\t", " ")):
        raise InvalidInput(f"{name}: {value!r} has a control character", field=name)
    return value
