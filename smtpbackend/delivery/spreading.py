"""One stream of messages over several connections: who may take the next message, and which receipt is next.

The twins act on it, a lock or a loop around it.
"""

from __future__ import annotations

import operator
from enum import Enum
from typing import Any

from smtpbackend.delivery.configuration import Configuration
from smtpbackend.errors import InvalidInput

__all__ = ["Spread", "Step", "check_connections"]


class Step(Enum):
    """What who would take a message does now."""

    TAKE = "take"
    """Ask the source, and say what it answered: `Spread.answered`."""
    WAIT = "wait"
    """Wait until something has changed."""
    LATER = "later"
    """Look after what is in flight, and come again."""
    END = "end"
    """There is no other message."""


class Spread:
    """Numbers the messages as they are taken, and gives the receipts in that order.

    ``most``: how many messages may be under way or have a receipt that waits for its turn.
    """

    def __init__(self, source: Any, most: int) -> None:
        self.most = most
        self.ended = False
        """No message is taken any more: the source is at its end or raised, or nobody takes receipts."""
        self.failed: Exception | None = None
        """What the source raised."""
        self._source = source
        self._is_asked = False
        self._taken = 0
        self._given = 0
        self._known: dict[int, Any] = {}

    def left(self) -> int:
        """How many items the source has, -1 where it does not say: then it may make us wait for the next one."""
        return operator.length_hint(self._source, -1)

    def step(self, has_some: bool) -> Step:
        """What to do for another message. ``has_some``: whether receipts of one's own are still to come."""
        if self.ended:
            return Step.END
        if not self._is_asked and self._taken - self._given < self.most:
            self._is_asked = True
            return Step.TAKE
        at_once = self._is_asked and self.left() >= 0  # whoever asks has its answer in a moment
        return Step.LATER if has_some and not at_once else Step.WAIT

    def answered(self, is_item: bool, failed: Exception | None = None) -> int | None:
        """Take down what the source answered: the number of its item, or None at its end.

        It is asked for no other before `composed`: who yields one message again and again, changed, may change it then.
        """
        if not is_item:
            self.composed()
            self.failed = failed
            self.ended = True
            return None
        self._taken += 1
        return self._taken

    def composed(self) -> None:
        """Nothing more is read of the item that was taken last."""
        self._is_asked = False

    def put(self, number: int, receipt: Any) -> None:
        """Take a receipt."""
        self._known[number] = receipt

    def next(self) -> Any:
        """The receipt whose turn it is, or None where it is not known yet."""
        receipt = self._known.pop(self._given + 1, None)
        if receipt is not None:
            self._given += 1
        return receipt


def check_connections(connections: int, configuration: Configuration) -> None:
    """Raise `InvalidInput` for a number of connections that a pool does not have."""
    most = configuration.limits.max_connections
    if not isinstance(connections, int) or not 1 <= connections <= most:
        raise InvalidInput(
            f"connections must be a whole number from 1 to max_connections, which is {most}, not {connections!r}",
            field="connections",
        )
