"""Which recipients may get mail: the settings ``only_to`` and ``redirect_to``, for staging and for tests by hand.

Decisions only: which recipients of an envelope are left, and what goes to the one address instead.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any, NamedTuple

from smtpbackend.address import Address
from smtpbackend.content import Content
from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.errors import InvalidInput, InvalidSetting
from smtpbackend.header import text_field
from smtpbackend.outcome import Outcome, Status

__all__ = ["OnlyTo", "address", "only_to", "redirected", "with_original_to"]


class OnlyTo(NamedTuple):
    """Addresses and domains, with ASCII letters in lower case. Other letters stay: two may have one lower case.

    ``setting`` is how the user writes this setting.
    """

    addresses: frozenset[str]
    domains: frozenset[str]
    setting: str = "only_to"

    def allows(self, address: Address) -> bool:
        """Whether mail may go to this address."""
        return _small(address.ascii_domain) in self.domains or _small(address.addr_spec) in self.addresses

    def sift(self, recipients: Iterable[Recipient]) -> tuple[tuple[Recipient, ...], tuple[Outcome, ...]]:
        """Those that may get mail, and the outcomes of the others."""
        left: list[Recipient] = []
        refused: list[Outcome] = []
        for recipient in recipients:
            if self.allows(recipient.address):
                left.append(recipient)
            else:
                why = f"{recipient.address} is not in {self.setting}, so that nothing was sent there"
                refused.append(Outcome(recipient, Status.REJECTED, error=InvalidInput(why, field="only_to")))
        return tuple(left), tuple(refused)


def only_to(name: str, value: Any) -> OnlyTo:
    """The setting: addresses, and domains with or without an @ before them. Raises `InvalidSetting`."""
    entries = [one for one in map(str.strip, value.split(",")) if one] if isinstance(value, str) else value
    if not isinstance(entries, (list, tuple, set, frozenset)) or not entries:
        raise InvalidSetting(
            f"{name} must be a list of addresses and domains, with at least one; leave it out to send to every address",
            field=name,
        )
    addresses: set[str] = set()
    domains: set[str] = set()
    for entry in entries:
        is_domain = isinstance(entry, str) and "@" not in entry.lstrip("@")
        found = address(name, f"postmaster@{entry.lstrip('@')}" if is_domain else entry)
        if is_domain:
            domains.add(_small(found.ascii_domain))
        else:
            addresses.add(_small(found.addr_spec))
    return OnlyTo(frozenset(addresses), frozenset(domains), name)


def _small(text: str) -> str:
    return text.translate(_SMALL)


_SMALL = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def address(name: str, value: Any) -> Address:
    """The setting: one address. Raises `InvalidSetting`."""
    try:
        return value if isinstance(value, Address) else Address.parse(value, name)
    except InvalidInput as error:
        raise InvalidSetting(str(error), field=name) from error


def redirected(envelope: Envelope, to: Address) -> Envelope:
    """The envelope of what goes to ``to`` instead; without what was asked for each recipient."""
    return envelope.replace(recipients=(Recipient(Address(to.local_part, to.domain)),))


def with_original_to(content: Content, envelope: Envelope) -> Content:
    """``content`` with a field in front that names the recipients of the envelope."""
    names = ", ".join(recipient.address.addr_spec for recipient in envelope.recipients)
    field = text_field("X-Original-To", names).encode()
    return content.under(field, lambda other: with_original_to(other, envelope))
