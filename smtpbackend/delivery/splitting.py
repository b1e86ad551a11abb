"""Which recipients share a transaction, where a server limits that (RFC 9422, or 452 4.5.3).

Splitting takes as many steps as the list is long: a recipient that was taken off the queue is not looked at again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from smtpbackend.envelope import Recipient
from smtpbackend.protocol.capabilities import Limits
from smtpbackend.protocol.transaction import Transaction

__all__ = ["by_domain", "may_follow", "take"]


def by_domain(recipients: Iterable[Recipient]) -> deque[Recipient]:
    """Those of one domain next to each other; the domains in the order in which they come first."""
    domains: dict[str, list[Recipient]] = {}
    for recipient in recipients:
        domains.setdefault(recipient.address.key[1], []).append(recipient)
    return deque(recipient for together in domains.values() for recipient in together)


def take(queue: deque[Recipient], limits: Limits, most: int | None = None) -> tuple[Recipient, ...]:
    """Take off the ``queue`` those that go first; the others follow in transactions of their own.

    Under RCPTDOMAINMAX it is a queue as `by_domain` makes it. ``most``: how many the server has shown to take.
    """
    room = min(limits.rcptmax or len(queue), most or len(queue), len(queue))
    domains: set[str] = set()
    taken: list[Recipient] = []
    while len(taken) < room:
        if limits.rcptdomainmax is not None:
            domains.add(queue[0].address.key[1])
            if len(domains) > limits.rcptdomainmax:
                break
        taken.append(queue.popleft())
    return tuple(taken)


def may_follow(transaction: Transaction) -> bool:
    """Whether those left out go to the same server: not if it answered sender or content with 4xx (DESIGN 4.4)."""
    replies = (transaction.mail, transaction.final)
    return transaction.error is None and not any(reply is not None and reply.is_transient for reply in replies)
