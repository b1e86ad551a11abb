"""Which recipients share a transaction, where a server limits that (RFC 9422)."""

from __future__ import annotations

from collections.abc import Sequence

from smtpbackend.envelope import Recipient
from smtpbackend.protocol.capabilities import Limits
from smtpbackend.protocol.transaction import Transaction

__all__ = ["first_group", "may_follow", "rest_of"]


def first_group(recipients: Sequence[Recipient], limits: Limits) -> tuple[Recipient, ...]:
    """Those who go first; the others follow in transactions of their own.

    Under RCPTDOMAINMAX the domains that come first are taken, each with its recipients wherever they stand.
    """
    chosen = tuple(recipients)
    if limits.rcptdomainmax is not None:
        domains = list(dict.fromkeys(recipient.address.key[1] for recipient in chosen))
        taken = set(domains[: limits.rcptdomainmax])
        chosen = tuple(recipient for recipient in chosen if recipient.address.key[1] in taken)
    return chosen[: limits.rcptmax]


def rest_of(recipients: Sequence[Recipient], transaction: Transaction) -> tuple[Recipient, ...]:
    """Those whom a transaction left out."""
    done = set(transaction.recipients)
    return tuple(recipient for recipient in recipients if recipient not in done)


def may_follow(transaction: Transaction) -> bool:
    """Whether those left out go to the same server: not where it turned sender or content away for now (DESIGN 4.4)."""
    replies = (transaction.mail, transaction.final)
    return transaction.error is None and not any(reply is not None and reply.is_transient for reply in replies)
