"""What a mailer has done and holds, in numbers."""

from __future__ import annotations

from smtpbackend.outcome import Receipt
from smtpbackend.values import Value

__all__ = ["Statistics", "Tally"]


class Statistics(Value):
    """``open`` and ``idle`` connections and sends ``waiting`` for one, now; and since the mailer was made:

    messages ``sent`` (to at least one recipient), recipients ``refused`` for good, and how often a message ``failed
    over`` from one server to the next. Each process has its own counts.
    """

    open: int = 0
    idle: int = 0
    waiting: int = 0
    sent: int = 0
    refused: int = 0
    failed_over: int = 0

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(*(mine + theirs for mine, theirs in zip(_values(self), _values(other), strict=True)))


def _values(statistics: Statistics) -> tuple[int, ...]:
    s = statistics
    return s.open, s.idle, s.waiting, s.sent, s.refused, s.failed_over


class Tally:
    """Counts what became of messages. Threads that share it need a lock around it."""

    def __init__(self) -> None:
        self.sent = self.refused = self.failed_over = 0

    def add(self, other: Tally) -> None:
        """Take what another one has counted."""
        self.sent += other.sent
        self.refused += other.refused
        self.failed_over += other.failed_over

    def count(self, receipt: Receipt) -> None:
        """Take one receipt."""
        if receipt.ok:
            self.sent += 1
            return
        self.sent += bool(receipt.accepted)
        self.refused += len(receipt.rejected)
