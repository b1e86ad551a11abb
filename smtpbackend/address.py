"""Mail addresses: the one place that knows what a mailbox looks like.

An `Address` is valid from birth: it has no control character, fits a command line, and its domain can be written on
the wire. What people give as an address is read here, RFC 5322 address lists among it; domains are the matter of
``domain.py``, and how an address is written into a header, display name included, that of ``header.py``.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from smtpbackend.domain import DOMAIN, MAX_DOMAIN, ascii_domain
from smtpbackend.errors import Injection, InvalidInput

if TYPE_CHECKING:
    Mailbox: TypeAlias = "str | tuple[str, str] | Address"
    """One address as people give it: an `Address`, a str, or a pair of name and address."""
    Addresses: TypeAlias = "Mailbox | Iterable[Mailbox]"
    """Some of them: one, a comma-separated str, or an iterable."""

__all__ = ["ATEXT", "DOT_STRING", "Address", "addresses_in_field", "is_pair", "parse_addresses", "reject_injection"]

# The limits of local part and path (RFC 5321 4.5.3.1.1, 4.5.3.1.3) are for servers to judge: VERP and SRS go beyond
# them. What is sent has to fit a command line (4.5.3.1.4).
MAX_ADDR_SPEC = 512 - len("MAIL FROM:<>\r\n")  # octets

ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"  # RFC 5322 3.2.3
DOT_STRING = rf"{ATEXT}+(?:\.{ATEXT}+)*"

_plain = re.compile(rf"({DOT_STRING})@({DOMAIN})").fullmatch
# RFC 6531 3.3 lets atext be any UTF-8 character beyond ASCII; so it is all but the specials (RFC 5322 3.2.3).
_ATEXT_UTF8 = r'[^\x00- "(),.:;<>@\[\\\]\x7f]'
_dot_string = re.compile(rf"{_ATEXT_UTF8}+(?:\.{_ATEXT_UTF8}+)*").fullmatch
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


def reject_injection(text: str, field: str) -> None:
    """Raise `Injection` where ``text`` has CR, LF or NUL."""
    if "\n" in text or "\r" in text or "\0" in text:
        raise Injection(f"{field}: {text!r} has a line end or NUL, a control character that may add lines", field=field)


def _reject_control(text: str, field: str) -> None:
    reject_injection(text, field)
    if _has_control(text):
        raise InvalidInput(f"{field}: {text!r} has a control character, which no address may have", field=field)


@dataclass(frozen=True)
class Address:
    """A mailbox: ``local_part`` in its unquoted meaning, ``domain`` as given, and what people call it.

    The domain is a name in ASCII or Unicode, an address literal in brackets (``[192.0.2.1]``, ``[IPv6:2001:db8::1]``),
    or "" for a local mailbox. Tabs and their kind in the name become blanks. Raises `InvalidInput` for anything that
    could not be sent.
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
        if type(text) is str:
            found = _parse_list(text, field)
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
    local_part, domain, display_name = address.local_part, address.domain, address.display_name
    for part in (local_part, domain, display_name):
        if not isinstance(part, str):
            raise InvalidInput(f"{field}: an address is made of str, not {part!r}", field=field)
    _reject_control(local_part, field)
    _reject_control(domain, field)
    if display_name and not display_name.isprintable():
        object.__setattr__(address, "display_name", _without_controls(display_name, field))
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
        object.__setattr__(address, "_ascii_domain", encoded)
    octets = len(address.addr_spec.encode())
    if octets > MAX_ADDR_SPEC:
        raise InvalidInput(
            f"{field}: {str(address)[:60]!r}... has {octets} octets; a command line has room for {MAX_ADDR_SPEC} "
            "(RFC 5321 4.5.3.1.4)",
            field=field,
        )


def _without_controls(name: str, field: str) -> str:
    """A display name as it can be written: C0 and DEL as blanks. What is beyond ASCII goes into encoded words."""
    reject_injection(name, field)
    if re.search("[\ud800-\udfff]", name):
        raise InvalidInput(f"{field}: {name!r} has half a surrogate pair, which no octets stand for", field=field)
    return re.sub(r"[\x00-\x1f\x7f]", " ", name)


def parse_addresses(value: Any, field: str = "address") -> list[Address]:
    """The addresses in ``value`` (`Addresses`), in order.

    One str may be a list: separated by commas, groups (``friends: a@b, c@d;``) flattened. An element of an iterable is
    one address and is never split: it may come out of a form. A tuple can be a pair, as `is_pair` says. Raises
    `InvalidInput` naming ``field``.
    """
    if isinstance(value, str):
        return list(_parse_list(value, field))
    if type(value) is not list and (is_one(value) or is_pair(value, field)):
        return [_address_of(value, field)]
    if type(value) is tuple:
        check_tuple(value, field)
    found: list[Address] = []
    for one in value:  # of a list mostly, and mostly str
        if type(one) is str:
            addresses = _parse_list(one, field)
            found += addresses if len(addresses) == 1 else (_one_of(addresses, one, field),)
        else:
            found.append(_address_of(one, field))
    return found


def is_pair(value: Any, field: str = "address") -> bool:
    """Whether ``value``, given where several addresses may be, is one: a tuple of name and address.

    Of two str the first is a name unless it is an address itself (with an @ inside), and another one than the second:
    two addresses never become one with a name, and no name becomes a mailbox. Two words without an @ may be either, and
    so may what looks like a mistyped address; they raise `InvalidInput`. In a list, a pair is always name and address.
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
    """Whether ``text`` may be a name, or half of one: no @ is in it, nor what looks like one."""
    return bool(text.strip()) and not any(sign in text for sign in "@\uff20\ufe6b")


def check_tuple(value: tuple[Any, ...], field: str) -> None:
    """Raise `InvalidInput` for a tuple of words and addresses, which may be a name with addresses, or mailboxes."""
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
    """Whether it is a mailbox by itself, or nothing that has elements."""
    return (
        isinstance(value, (Address, bytes, bytearray, Mapping)) or not isinstance(value, Iterable) or is_header(value)
    )


def is_header(value: Any) -> bool:
    """Whether it is an ``email.header.Header``."""
    return hasattr(value, "encode") and hasattr(value, "append")


def _address_of(value: Any, field: str) -> Address:
    """The address that ``value`` is, where one is wanted."""
    if isinstance(value, Address):
        return value
    if isinstance(value, str):
        return _one_of(_parse_list(value, field), value, field)
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
        raise InvalidInput(f"{field}: {given!r} is no address", field=field)
    raise InvalidInput(
        f"{field}: {given!r} is {len(found)} addresses where one is wanted; an element of a list is not split at "
        "commas",
        field=field,
    )


def check_mixed(found: Sequence[Address], field: str, given: Any) -> None:
    """Raise `InvalidInput` where a comma, not in quotes, seems to have cut a name in two: RFC 5322 3.2.5."""
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


_Token = tuple[str, str, bool]
"""Kind ("atom", "quoted", "literal", "special"), text, and whether space or a comment stands before it."""


def _tokens(text: str, field: str, comments: dict[int, list[str]]) -> Iterator[_Token]:
    """The tokens of ``text``; into ``comments`` go those that stand before a token, by its number."""
    position, end, spaced, number = 0, len(text), False, 0
    while True:
        if (white := _white(text, position)) and white.end() > position:
            position, spaced = white.end(), True
        if position >= end:
            return
        if text[position] == "(":
            begin, position, spaced = position + 1, _after_comment(text, position, field), True
            comments.setdefault(number, []).append(_quoted_pair.sub(r"\1", text[begin : position - 1]).strip())
            continue
        match = _token(text, position)
        if match is None:
            raise InvalidInput(f"{field}: {text!r} is not an address list (at {text[position:]!r})", field=field)
        kind = str(match.lastgroup)
        token = match[kind]
        yield kind, _quoted_pair.sub(r"\1", token) if kind == "quoted" else token, spaced
        position, spaced, number = match.end(), False, number + 1


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
    if (match := _plain(text)) is not None and len(text) <= MAX_DOMAIN:
        return (_trusted(match[1], match[2]),)
    # Line ends are no white space here: a folded header is unfolded before it comes here.
    reject_injection(text, field)

    def wrong(why: str) -> InvalidInput:
        return InvalidInput(f"{field}: {text!r} is not an address: {why}", field=field)

    found: list[Address] = []
    comments: dict[int, list[str]] = {}
    tokens = [*_tokens(text, field, comments), ("special", "", False)]
    words: list[_Token] = []
    position, begin, in_group = 0, 0, False
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
            display_name = _with_comments(display_name, comments, begin, position)
            position += 1
        elif token == ":":
            if in_group:
                raise wrong("a group cannot stand in a group")
            words, in_group = [], True
            begin = position = position + 1
            continue
        elif token == ">":
            raise wrong("'>' without '<'")
        elif words or token == "@":
            local_part, domain, position = _addr_spec(words, tokens, position, wrong)
            display_name = _with_comments("", comments, begin, position)
        else:
            if token == ";" and not in_group:
                raise wrong("';' ends a group, and none was begun; addresses are separated by commas")
            if not token and in_group:
                raise wrong("the group does not end in ';'")
            in_group = in_group and token != ";"
            begin = position = position + 1
            continue
        words = []
        found.append(_of_parts(local_part, domain, display_name, field))
        if tokens[position][0] != "special" or tokens[position][1] not in {",", ";", ""}:
            raise wrong("addresses are separated by commas, and a name with special characters stands in quotes")
        if tokens[position][1] == ",":
            position += 1
        begin = position
    if len(found) > 1:
        check_mixed(found, field, text)
    return tuple(found)


def _with_comments(display_name: str, comments: dict[int, list[str]], begin: int, end: int) -> str:
    """The name with what is said in comments, the old place for names: as `email.utils.parseaddr` has it.

    That says nothing of what stands behind the address in its brackets.
    """
    if not comments:
        return display_name
    said = " ".join(comment for number in range(begin, end + 1) for comment in comments.get(number, ()) if comment)
    if display_name and said:
        return f"{display_name} ({said})"
    return display_name or said


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
        text = as_written(value)
        found = parse_addresses(list(value.addresses) if text is None else text, name)
        check_mixed(found, name, str(value))
        return found
    if isinstance(value, str):
        return parse_addresses(unfold(name, value), name)
    return _of_header(value, name) if is_header(value) else parse_addresses(value, name)


def as_written(value: Any) -> str | None:
    """The text of a field that ``email.headerregistry`` could not read in full; None where it could.

    It makes somebody else of what is badly written: of "bob smith@example.org" a mailbox of that name.
    """
    from email.errors import InvalidHeaderDefect

    if not any(isinstance(defect, InvalidHeaderDefect) for defect in value.defects):
        return None
    from email.policy import SMTPUTF8

    return str(value.fold(policy=SMTPUTF8.clone(max_line_length=0))).partition(":")[2].strip()


def _of_header(value: Any, field: str) -> list[Address]:
    """The addresses of an ``email.header.Header``: as it would be written, where that shows any.

    Many programs encode the whole of it, address included. Then they are in its text.
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
    """A header's value on one line, raw UTF-8 decoded. Line ends that are no folding raise `InvalidInput`."""
    if not value.isascii():
        try:  # octets of a parsed message are stored as surrogates
            value = value.encode("utf-8", "surrogateescape").decode("utf-8")
        except UnicodeError:
            raise InvalidInput(f"{name}: {value!r} has octets that are not UTF-8", field=name) from None
    value = re.sub(r"\r?\n(?=[ \t])", "", value)
    reject_injection(value, name)
    return value
