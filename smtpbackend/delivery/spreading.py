"""Messages spread over several connections: which stream takes the next one, and what is given to the caller next.

The twins act on it, a lock or a loop around it.
"""

from __future__ import annotations

import operator
from collections import deque
from enum import Enum
from typing import Any

from smtpbackend.delivery.asks import END
from smtpbackend.delivery.configuration import Configuration
from smtpbackend.delivery.dispatch import SLOW
from smtpbackend.delivery.mail import Mail
from smtpbackend.delivery.ordering import AsKnown, InOrder
from smtpbackend.errors import InvalidInput
from smtpbackend.protocol.effects import LATER

__all__ = ["Spread", "Step", "Turn", "check_connections"]


class Step(Enum):
    """What a stream that wants another message does now."""

    TAKE = "take"
    """Ask the source, and say what it answered: `Spread.answered`."""
    WAIT = "wait"
    """Wait until something has changed."""
    LATER = "later"
    """Look after what is in flight, and come again."""
    END = "end"
    """There is no other message."""


class Turn(Enum):
    """What the caller's own thread or task does now. Then it asks again."""

    TAKE = "take"
    """Ask the source, and say what it answered: `Spread.answered`. It has an item at once."""
    BEGIN = "begin"
    """Make a mail of this item: `Spread.begun`."""
    GIVE = "give"
    """Give the caller this, which became of a message."""
    WAIT = "wait"
    """Wait until something has changed."""


class Spread:
    """The messages on their way from the source to several streams, and what became of them on the way back.

    A stream asks the source for an item; the caller's own thread or task makes a `Mail` of it, and the first stream
    that asks for one sends it. A source that has its items at once is asked by the caller's own, for a message a stream
    ahead. ``most``: how many messages may be under way or known and not given. ``pairs`` and ``in_order`` are
    those of a `Dispatch`.
    """

    def __init__(self, source: Any, streams: int, most: int, pairs: bool, in_order: bool) -> None:
        self.streams = streams
        self.most = most
        self.item: Any = END
        """What was taken from the source last; END: a mail was made of it."""
        self.taken = 0
        """How many items were taken: the number of the last one."""
        self.failed: BaseException | None = None
        """What the source raised, or ``prepare`` where it is no Exception."""
        self._ended = False  # the source is not asked any more
        self.is_over = False
        """What was taken is not sent any more."""
        self._in_a_row = 0  # messages that were begun since something was given
        self._is_slow = False  # the last one took long to begin
        self._source = source
        self._is_asked = False
        self._asked_at = 0  # what `_received` was when the source was asked last
        self._is_dry = False  # the source has no item now: it is asked again when the caller is done with another pair
        self._begun: deque[Mail] = deque()  # and not taken by a stream
        self._given = 0
        self._received = 0  # of these, how many the caller is done with: fewer while it is not iterating
        self.pairs = pairs
        self._known: AsKnown | InOrder = InOrder() if in_order else AsKnown()

    def left(self) -> int:
        """How many items the source has, -1 where it does not say: then it may make us wait for the next one."""
        return operator.length_hint(self._source, -1)

    def step(self, busy: bool) -> Step | Mail:
        """What a stream does for another message, or the message. ``busy``: some of its own have no receipt yet."""
        if self._begun:
            return self._begun.popleft()
        if self.is_over or (self._ended and self.item is END):
            return Step.END
        if self._may_ask():
            self._ask()
            return Step.TAKE
        at_once = self.left() >= 0 if self.item is END else self._received == self._given
        return Step.LATER if busy and not (self._is_asked and at_once) else Step.WAIT

    def turn(self) -> tuple[Turn, Any]:
        """What the caller's own thread or task does, and with what.

        If it takes long to begin a message, receipts that are known are given first; else first each stream gets a
        message.
        """
        self._received = self._given
        if self._in_a_row < (1 if self._is_slow else self.streams) and (work := self._work()) is not None:
            return work, self.item
        value = self._known.take()
        if value is not None:
            self._given += 1
            self._in_a_row = 0
            return Turn.GIVE, value
        return self._work() or Turn.WAIT, self.item

    def _work(self) -> Turn | None:
        """What the streams need of the caller's own thread or task, if anything."""
        if self.item is not END:
            return Turn.BEGIN
        # a source that has said LATER does not make us wait: it says so again
        if len(self._begun) < self.streams and self._may_ask() and (self._is_dry or self.left() > 0):
            self._ask()
            return Turn.TAKE
        return None

    def _may_ask(self) -> bool:
        if self._ended or self._is_asked or (self._is_dry and self._received == self._asked_at):
            return False
        return self.taken - self._given < self.most

    def _ask(self) -> None:
        self._is_asked = True
        self._asked_at = self._received

    def answered(self, item: Any, failed: Exception | None = None) -> None:
        """Take down what the source answered: an item, `END`, or `LATER`, which ends it where nothing is under way.

        It is asked for no other before there is a mail of the item: its owner may change it then.
        """
        if item is LATER and self.taken > self._asked_at:
            self._is_asked, self._is_dry = False, True
        elif item is END or item is LATER:
            self.end(failed)
        else:
            self.taken += 1
            self.item, self._is_dry = item, False

    def begun(self, mail: Mail, took: float) -> None:
        """There is a mail of the item, which ``took`` so many seconds."""
        self._in_a_row += 1
        self._is_slow = took > SLOW
        self.item = END
        self._is_asked = False
        self._begun.append(mail)

    def end(self, failed: BaseException | None = None) -> None:
        """Do not ask the source any more. Mails that were begun are still sent."""
        self.failed = self.failed or failed
        self.item = END
        self._is_asked = False
        self._ended = True

    def abandon(self) -> list[Mail]:
        """Send nothing more; returns the mails that no stream has."""
        self.end()
        self.is_over = True
        left = list(self._begun)
        self._begun.clear()
        return left

    def known(self, number: int, pair: tuple[Any, Any]) -> None:
        """Take what became of a message, and the message."""
        self._known.add(number, pair if self.pairs else pair[1])


def check_connections(connections: int, configuration: Configuration) -> None:
    """Raise `InvalidInput` for a number of connections that a pool does not have."""
    most = configuration.limits.max_connections
    if not isinstance(connections, int) or not 1 <= connections <= most:
        raise InvalidInput(
            f"connections must be a whole number from 1 to {configuration.rules.spelling('max_connections')}, which is "
            f"{most}, not {connections!r}",
            field="connections",
        )
