"""The envelope of a message: reverse-path, forward-paths and SMTP parameters; and the one that its headers ask for.

Values are valid from birth: if an `Envelope` exists, it can be sent. ``protocol/command.py`` writes its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from smtpbackend.address import Address, addresses_in_field, check_tuple, is_pair, parse_addresses
from smtpbackend.address_list import Refused, sift_field
from smtpbackend.errors import InvalidInput, few
from smtpbackend.text import characters
from smtpbackend.values import Value

if TYPE_CHECKING:
    import email.message

    from smtpbackend.address import Addresses, Mailbox
    from smtpbackend.message import Message

__all__ = ["Envelope", "Recipient"]

MAX_ENVID = 100  # characters before encoding, RFC 3461 4.4
MAX_ORCPT = 500  # characters before encoding, RFC 3461 4.2
MAX_HOLD = 999_999_999  # seconds: future-release-integer has nine digits, RFC 4865 4

_printable = re.compile(r"[ -~]*").fullmatch
_keyword = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*").fullmatch  # esmtp-keyword, RFC 5321 4.1.2
_value = re.compile(r"[!-<>-~]+").fullmatch  # esmtp-value, RFC 5321 4.1.2
_OURS = {
    "SIZE": "it is counted",
    "BODY": "it follows from the content",
    "SMTPUTF8": "it follows from the addresses and the content",
    "RET": "use dsn_return",
    "ENVID": "use envid",
    "REQUIRETLS": "use require_tls",
    "HOLDFOR": "use hold_for",
    "HOLDUNTIL": "use hold_until",
}


class Recipient(Value):
    """One forward-path with its DSN parameters (RFC 3461).

    ``notify`` is ``("NEVER",)`` or some of SUCCESS, FAILURE, DELAY; ``orcpt`` the address of the original recipient,
    outside ASCII too (RFC 6533). Raises `InvalidInput`.
    """

    address: Address
    notify: tuple[str, ...]
    orcpt: str | None

    def __init__(self, address: Mailbox, notify: str | Iterable[str] = (), orcpt: str | None = None) -> None:
        if not isinstance(address, Address):
            address = Address.parse(address, "recipients")
        put = self.__dict__  # past `__setattr__`, which refuses
        put["address"] = address
        put["notify"] = _notify(notify) if notify else ()
        put["orcpt"] = _orcpt(orcpt) if orcpt is not None else None

    def to_json(self) -> dict[str, Any]:
        """A mapping that ``json.dumps`` takes, without what has its default."""
        given: dict[str, Any] = {"address": self.address.to_json()}
        if self.notify:
            given["notify"] = list(self.notify)
        if self.orcpt:
            given["orcpt"] = self.orcpt
        return given

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Recipient:
        """The recipient that `to_json` was called on. Raises `InvalidInput`."""
        return cls(**{**given, "address": Address.from_json(given["address"])})

    def __hash__(self) -> int:
        # of both parts: all recipients of a list may be info@
        return hash((self.address.local_part, self.address.domain))


def _notify(notify: str | Iterable[str]) -> tuple[str, ...]:
    """RFC 3461 4.1."""
    given = characters(notify).split(",") if isinstance(notify, str) else notify
    words = tuple((characters(word) if isinstance(word, str) else str(word)).strip().upper() for word in given)
    if not set(words) <= {"NEVER", "SUCCESS", "FAILURE", "DELAY"} or ("NEVER" in words and len(words) > 1):
        raise InvalidInput(
            f"notify: {notify!r} is neither NEVER alone nor some of SUCCESS, FAILURE, DELAY", field="notify"
        )
    return tuple(dict.fromkeys(words))


def _orcpt(orcpt: str) -> str:
    """RFC 3461 4.2: the address without its type, which is rfc822; or utf-8, RFC 6533 3."""
    if isinstance(orcpt, str):
        orcpt = characters(orcpt)
        kind, separator, rest = orcpt.partition(";")
        if separator and kind.lower() in ("rfc822", "utf-8"):
            orcpt = rest
    if not isinstance(orcpt, str) or not orcpt or not orcpt.isprintable() or len(orcpt) > MAX_ORCPT:
        raise InvalidInput(f"orcpt: {orcpt!r} is not 1 to {MAX_ORCPT} printable characters", field="orcpt")
    return orcpt


class Envelope(Value):
    """Reverse-path, forward-paths and SMTP parameters of one message.

    ``sender`` is an address, or "" for the null reverse-path (then the attribute is None). ``recipients`` is a list of
    str, `Address`, pairs of name and address, or `Recipient`, or one str, comma-separated; duplicates collapse into
    one. ``dsn_return`` is FULL or HDRS and ``envid`` an identifier of yours (RFC 3461); ``require_tls`` asks for RFC
    8689; ``hold_for`` (seconds) or ``hold_until`` (a datetime with its zone) for RFC 4865; ``extra`` has further
    parameters of MAIL, keyword to value or None. Raises `InvalidInput`.
    """

    sender: Address | None
    recipients: tuple[Recipient, ...]
    dsn_return: str | None
    envid: str | None
    require_tls: bool
    hold_for: int | None
    hold_until: datetime | None
    extra: Mapping[str, str | None]
    # Not fields: they follow from those
    is_plain = True
    """Whether it has no SMTP parameters."""
    wants_dsn = False
    """Whether it has parameters of delivery status notifications (RFC 3461)."""
    needs_smtputf8 = False
    """Whether an address needs a server with SMTPUTF8 (RFC 6531 3.2)."""

    def __init__(
        self,
        sender: Mailbox | None,
        recipients: Addresses | Recipient | Iterable[Mailbox | Recipient],
        *,
        dsn_return: str | None = None,
        envid: str | None = None,
        require_tls: bool = False,
        hold_for: int | None = None,
        hold_until: datetime | None = None,
        extra: Mapping[str, str | None] = {},
    ) -> None:
        if hold_for is not None or hold_until is not None:
            _check_hold(hold_for, hold_until)
        put = self.__dict__  # past `__setattr__`, which refuses
        put["sender"] = origin = _reverse_path(sender)
        put["recipients"] = found = _recipients(recipients)
        put["dsn_return"] = _dsn_return(dsn_return) if dsn_return is not None else None
        put["envid"] = _envid(envid) if envid is not None else None
        put["require_tls"] = bool(require_tls)
        put["hold_for"] = hold_for
        put["hold_until"] = hold_until
        put["extra"] = _extra(extra) if extra else {}
        wants_dsn = bool(dsn_return or envid)
        is_plain = not (require_tls or hold_for is not None or hold_until is not None or extra)
        utf8 = origin is not None and origin.needs_smtputf8
        for recipient in found:
            wants_dsn = wants_dsn or bool(recipient.notify or recipient.orcpt)
            utf8 = utf8 or recipient.address.needs_smtputf8
        put["is_plain"] = is_plain and not wants_dsn
        put["wants_dsn"] = wants_dsn
        put["needs_smtputf8"] = utf8

    def __hash__(self) -> int:
        return hash((self.sender, self.recipients))  # ``extra`` has no hash

    def __repr__(self) -> str:
        """Many recipients are cut."""
        return (
            f"Envelope(sender={self.sender!r}, recipients={few(self.recipients)}, dsn_return={self.dsn_return!r}, "
            f"envid={self.envid!r}, require_tls={self.require_tls!r}, hold_for={self.hold_for!r}, "
            f"hold_until={self.hold_until!r}, extra={self.extra!r})"
        )

    def to_json(self) -> dict[str, Any]:
        """A mapping that ``json.dumps`` takes, without what has its default."""
        given = self.to_json_without_recipients()
        if self.recipients:
            given["recipients"] = [recipient.to_json() for recipient in self.recipients]
        return given

    def to_json_without_recipients(self) -> dict[str, Any]:
        """The same of what all recipients have in common."""
        if self.is_plain:
            return {"sender": self.sender.to_json()} if self.sender is not None else {}
        given = {
            "sender": self.sender and self.sender.to_json(),
            "dsn_return": self.dsn_return,
            "envid": self.envid,
            "require_tls": self.require_tls,
            "hold_for": self.hold_for,
            "hold_until": self.hold_until and self.hold_until.isoformat(),
            "extra": dict(self.extra),
        }
        return {name: value for name, value in given.items() if value}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Envelope:
        """The envelope that `to_json` was called on. Raises `InvalidInput`."""
        values = dict(given)
        sender, until = values.pop("sender", None), values.pop("hold_until", None)
        return cls(
            sender and Address.from_json(sender),
            [Recipient.from_json(recipient) for recipient in values.pop("recipients")],
            hold_until=until and datetime.fromisoformat(until),
            **values,
        )

    @classmethod
    def from_headers(cls, message: Message | email.message.Message) -> Envelope:
        """The envelope that the headers of ``message`` ask for.

        Originator: From; where that has several mailboxes, Sender or the first of them (RFC 5322 3.6.2). Recipients:
        To, Cc, Bcc and Dcc. If there are Resent- fields, only the first block of them counts (RFC 5322 3.6.6). Raises
        `InvalidInput`.
        """
        routing = Routing(message)
        recipients, refused = routing.recipients()
        for _, error in refused:
            raise error
        return cls(routing.originator(), recipients)


class Routing:
    """Originator and recipients in the headers of a message, see `Envelope.from_headers`."""

    def __init__(self, message: Any) -> None:
        fields = _address_fields(message)
        resent = _first_resent_block(fields)
        self._prefix = "resent-" if resent else ""
        self._fields = [
            (name.lower().removeprefix(self._prefix), ours, value) for name, ours, value in resent or fields
        ]

    def originator(self) -> Address:
        """Raises `InvalidInput` where there is none."""
        authors = self._addresses("from")
        origin = authors if len(authors) == 1 else self._addresses("sender") or authors
        if not origin:
            wanted = f"{self._prefix.title()}From"
            raise InvalidInput(f"the message has no {wanted}, and no envelope names the sender", field=wanted)
        return origin[0]

    def _addresses(self, wanted: str) -> list[Address]:
        found = [(ours, value) for kind, ours, value in self._fields if kind == wanted]
        return [one for ours, value in found for one in addresses_in_field(ours, value)]

    def recipients(self) -> tuple[list[Address], list[Refused]]:
        """The recipients, and the bad entries. Raises `Injection`."""
        found: list[Address] = []
        refused: list[Refused] = []
        for wanted in ("to", "cc", "bcc", "dcc"):
            for kind, ours, value in self._fields:
                if kind == wanted:
                    addresses, others = sift_field(ours, value)
                    found += addresses
                    refused += others
        return found, refused


def _reverse_path(sender: Mailbox | None) -> Address | None:
    if sender is None or isinstance(sender, Address):
        return sender
    if isinstance(sender, str) and sender.strip(" ") in {"", "<>"}:
        return None
    return Address.parse(sender, "sender")


def _recipients(given: Any) -> tuple[Recipient, ...]:
    found: dict[tuple[str, str], Recipient] = {}
    alone = isinstance(given, (str, Address, Recipient)) or is_pair(given, "recipients")
    if type(given) is tuple and not alone:
        check_tuple(given, "recipients")
    for one in (given,) if alone else _iterate(given):
        if isinstance(one, Recipient):
            found.setdefault(one.address.key, one)
            continue
        for address in parse_addresses(one if alone else [one], "recipients"):
            key = address.key
            if key not in found:
                found[key] = Recipient(address)
    if not found:
        raise InvalidInput("a message needs at least one recipient", field="recipients")
    return tuple(found.values())


def _iterate(given: Any) -> Iterable[Any]:
    if type(given) is list:
        return given
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Iterable):
        # an email.headerregistry.Address, or what `parse_addresses` refuses
        return (given,)
    return given


def _dsn_return(value: str) -> str:
    """RFC 3461 4.3."""
    upper = characters(value).upper() if isinstance(value, str) else ""
    if upper not in {"FULL", "HDRS"}:
        raise InvalidInput(f"dsn_return: {value!r} is neither FULL nor HDRS", field="dsn_return")
    return upper


def _envid(value: str) -> str:
    """RFC 3461 4.4."""
    if not isinstance(value, str) or not value or _printable(value) is None or len(value) > MAX_ENVID:
        raise InvalidInput(f"envid: {value!r} is not 1 to {MAX_ENVID} printable ASCII characters", field="envid")
    return characters(value)


def _check_hold(hold_for: int | None, hold_until: datetime | None) -> None:
    """RFC 4865 4."""
    if hold_for is not None and hold_until is not None:
        raise InvalidInput("hold_for and hold_until exclude each other", field="hold_until")
    if hold_for is not None and not (type(hold_for) is int and 0 < hold_for <= MAX_HOLD):
        raise InvalidInput(f"hold_for: {hold_for!r} is not a number of seconds up to {MAX_HOLD}", field="hold_for")
    if hold_until is not None and not (isinstance(hold_until, datetime) and hold_until.utcoffset() is not None):
        raise InvalidInput(f"hold_until: {hold_until!r} is not a datetime with its zone", field="hold_until")


def _extra(given: Mapping[str, str | None]) -> dict[str, str | None]:
    """RFC 5321 4.1.2, esmtp-param."""
    found: dict[str, str | None] = {}
    for keyword, value in given.items():
        if not isinstance(keyword, str) or _keyword(keyword) is None:
            raise InvalidInput(f"extra: {keyword!r} is not an SMTP parameter", field="extra")
        keyword = characters(keyword)
        if keyword.upper() in _OURS:
            raise InvalidInput(f"extra: {keyword} cannot be given here, {_OURS[keyword.upper()]}", field="extra")
        if value is not None and (not isinstance(value, str) or _value(value) is None):
            raise InvalidInput(f"extra: {keyword}={value!r} is not an SMTP parameter", field="extra")
        found[keyword] = None if value is None else characters(value)
    return found


# Headers


_Field = tuple[str, str, Any]
"""A header, what its errors call it, and its value."""


def _address_fields(message: Any) -> list[_Field]:
    raw_items = getattr(message, "raw_items", None)  # email.message.Message: the headers as they are stored
    if raw_items is None:
        return list(message.address_fields())
    return [(name, name, value) for name, value in raw_items()]


def _first_resent_block(fields: list[_Field]) -> list[_Field]:
    """The Resent- fields of the last forwarding: they are on top, and each block has a name once (RFC 5322 3.6.6)."""
    block: dict[str, _Field] = {}
    for one in fields:
        lower = one[0].lower()
        if lower.startswith("resent-"):
            if lower in block:
                break
            block[lower] = one
        elif block and lower in {"received", "return-path"}:  # trace fields stand above each block
            break
    return list(block.values())
