"""One stream of messages over several connections: who may take the next message, and which receipt is next.

The twins act on it, a lock or a loop around it.
"""

from __future__ import annotations

from typing import Any

from smtpbackend.delivery.configuration import Configuration
from smtpbackend.errors import InvalidInput

__all__ = ["Spread", "check_connections"]


class Spread:
    """Numbers the messages as they are taken, and gives the receipts in that order.

    ``most``: how many messages may be under way or have a receipt that waits for its turn.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.ended = False
        """No message is taken any more: the source is at its end or raised, or nobody takes receipts."""
        self.failed: Exception | None = None
        """What the source raised."""
        self._taken = 0
        self._given = 0
        self._known: dict[int, Any] = {}

    @property
    def may_take(self) -> bool:
        """Whether another message may be taken."""
        return self.ended or self._taken - self._given < self.most

    def take(self) -> int:
        """The number of the message that was taken."""
        self._taken += 1
        return self._taken

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
