"""Delivering: a stream of mail transactions over one connection, several of them in flight where the window allows it.

Each transaction is a straight dialogue of its own (``transacting.py``), which composes commands and waits for its
replies; the scheduler (`deliver`) hands it the replies in the order in which the commands went out. The next message
behind the end of one a connection has to earn, by `_prove_overlap` (DESIGN 5.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

from smtpbackend.errors import ConnectionLost, DeliveryError, InvalidInput
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.dialogue import Transcript
from smtpbackend.protocol.effects import ENOUGH, LATER, Conversation, Next, Settled, Write
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.protocol.transacting import MAX_UNANSWERED, Closed, Flight, Transacting
from smtpbackend.protocol.transaction import Transaction

__all__ = ["Delivering"]

MAX_UNSENT = 256 * 1024  # octets composed before they leave: a window of large contents is not held in memory
AT_ONCE = 16384  # octets that any socket takes without a wait, when all before them has arrived
OVERLAP_PATIENCE = 3.0  # seconds for a RSET in the write that ended a content, whose reply has come: DESIGN 5.2


class Delivering(Transacting):
    """A dialogue that carries many messages."""

    def __init__(self, server: str, timeouts: Timeouts, transcript: Transcript | None, lmtp: bool = False) -> None:
        super().__init__(server, timeouts, transcript, lmtp)
        self.overlaps: bool | None = None
        """Whether it has proven that it answers what follows the end of a content in one write; None: not asked."""
        self.overlapping = False
        """Whether the connection was asked to prove that, and has not answered."""
        self._was_full = False  # the window, and half of it is not free yet

    def deliver(self, policy: str = "any", window: int = 1, chunk_in_flight: str = "probe") -> Conversation[None]:
        """Take a stream of transactions (`Next`) and give each back when it is settled (`Settled`), in order.

        At most ``window`` are in flight. Replies are matched by counting (RFC 2920 3.1): those still to come belong to
        the oldest transaction first, because each one's commands are contiguous. ``chunk_in_flight`` says when content
        may leave beside its recipients: "probe" (where the connection proves that this is safe), "always" or "never".
        A connection that ends settles what is in flight and leaves the session ``broken``; nothing is raised.
        """
        if "PIPELINING" not in self.capabilities:
            window = 1
        flights: deque[Flight] = deque()
        self._was_full = False
        more = True
        ahead: Transaction | None = None  # taken while a reply was awaited, and begun when it is its turn
        done: deque[Transaction] = deque()  # settled, and told when the server has its next work
        try:
            while True:
                last = flights[-1] if flights else None
                if last is not None and not last.has_begun:
                    if last is flights[0] or self._fits(last):
                        yield from self._begin(last, policy, chunk_in_flight)
                        continue
                elif (more or ahead) and not self.broken and (last is None or self._may_follow(flights, window)):
                    if last is None:
                        if not self._replies.is_empty:
                            yield from self._hear_out()
                    elif len(self._unsent) > MAX_UNSENT:
                        yield from self._flush()
                    transaction, ahead = ahead, None
                    if transaction is None:
                        if done:
                            yield from _told(done)
                        transaction = yield Next(bool(self._unsent))
                    if transaction is None:
                        more = False
                        continue
                    if last is not None and not self.overlaps and self._unsent:
                        flights.append(self._prove_overlap())
                    if transaction is not LATER:
                        flights.append(Flight(transaction))
                        more = not transaction.is_last
                        continue
                    if self._unsent and self._replies.is_empty:
                        yield from self._flush()
                        continue
                if last is None:
                    if ahead is None:
                        break
                    flights.append(Flight(ahead))
                    ahead = None
                    continue
                flight = flights[0]
                was_free = flight.line_free
                while flight.wait is not None and flight.line_free is was_free:
                    reply = self._at_hand()
                    if reply is None:
                        if done:
                            if len(self._unsent) <= AT_ONCE:
                                yield from self._flush()
                            yield from _told(done)
                        if self.overlaps and more and ahead is None and len(flights) < window:
                            # the server has its work now, and we prepare the next one meanwhile
                            yield from self._flush()
                            if not self.broken:
                                transaction = yield Next(True)
                                ahead = transaction if transaction is not LATER else None
                                more = transaction is LATER or (ahead is not None and not ahead.is_last)
                        reply = yield from self._reply(flight.wait)
                        if reply.code == 421:
                            raise Closed(reply)
                    try:
                        step = flight.steps.send(reply)
                    except StopIteration:
                        flight.wait = None
                        flight.line_free = True
                    else:
                        if type(step) is Write:
                            if done:
                                yield from _told(done)
                            yield from self._write_on(flight, step)
                        else:
                            flight.wait = step
                if flight.wait is None:
                    flights.popleft()
                    transaction = flight.transaction
                    if transaction is not None:
                        transaction.is_settled = True
                        if done:
                            yield from _told(done)
                        if ahead is not None and self._due <= len(self._replies.ready):
                            done.append(transaction)  # all is answered: the server waits for us
                        else:
                            answer = yield Settled(transaction)
                            more = more or (transaction.is_last and answer is not ENOUGH)
        except Closed as closed:
            self.broken = True
            yield from _told(done)
            if ahead is not None:
                flights.append(Flight(ahead))
            for transaction in _unsettled(flights):
                transaction.close(closed.reply)
                transaction.error = ConnectionLost(
                    f"{self.server} closed the connection: {closed.reply}", server=self.server, reply=closed.reply
                )
                yield Settled(transaction)
        except DeliveryError as error:
            self.broken = True
            if self._unsent:  # what was composed and has not left has asked nothing
                self.probing = self.overlapping = False
            yield from _told(done)
            if ahead is not None:
                flights.append(Flight(ahead))
            for transaction in _unsettled(flights):
                transaction.error = transaction.error or error
                yield Settled(transaction)
        except BaseException:
            self.broken = self.broken or bool(flights)
            raise
        yield from _told(done)
        self._unsent.clear()
        self._ending.clear()
        if not self._replies.is_empty and not self._replies.says_goodbye:
            self.is_talkative = self.broken = True
        if not self.broken:
            self.phase = "idle"

    # The window --------------------------------------------------------------------------------------------------

    def _may_follow(self, flights: deque[Flight], window: int) -> bool:
        """Whether another transaction may be asked for while these are in flight.

        A window that was full is filled again when half of it is free: not one by one, as replies trickle in.
        """
        if not flights[-1].line_free:
            return False
        if len(flights) > (window // 2 if self._was_full else window - 1):
            self._was_full = True
            return False
        self._was_full = False
        if len(self._unsent) > MAX_UNSENT and not self._replies.is_empty:
            return False  # what was read is heard first: one reply too many would be taken for that to what leaves now
        return self.overlaps is not False

    def _fits(self, flight: Flight) -> bool:
        """Whether a transaction that waits for its turn may begin behind those in flight."""
        return bool(self.overlaps) and self._due + self._composed + flight.commands <= MAX_UNANSWERED

    def _prove_overlap(self) -> Flight:
        """RSET alone, in the write that ends the first content.

        The window opens when both are answered. Courier discards whatever it has read behind the dot.
        """
        proof = Flight(None)
        proof.steps = self._await_overlap()
        proof.wait = next(proof.steps)
        proof.has_begun = True
        return proof

    def _await_overlap(self) -> Generator[float, Reply, None]:
        self._put(command.RSET)
        self._is_new = self.overlapping = True
        self.overlaps = False  # until it is proven
        reply = yield min(self.timeouts.reply, OVERLAP_PATIENCE)
        self.overlapping = False
        self._is_new = self.overlaps = reply.is_positive

    def _begin(self, flight: Flight, policy: str, chunk_in_flight: str) -> Conversation[None]:
        """Let a transaction begin, or end where it cannot."""
        assert flight.transaction is not None
        flight.has_begun = True
        if self.broken:
            flight.transaction.error = ConnectionLost(
                f"{self.server} could not be given another message on this connection", server=self.server
            )
            flight.line_free = True
            return
        flight.steps = self._transact(flight, flight.transaction, policy, chunk_in_flight)
        try:
            yield from self._start(flight)
        except InvalidInput as error:  # by the write gate or the source, before anything of it was composed
            flight.transaction.error = error
            flight.line_free = True

    def _start(self, flight: Flight) -> Conversation[None]:
        """Let a transaction go on until it waits for its first reply, or is over (``wait`` is None)."""
        try:
            step = next(flight.steps)
        except StopIteration:
            flight.line_free = True
        else:
            if type(step) is Write:
                yield from self._write_on(flight, step)
            else:
                flight.wait = step

    def _write_on(self, flight: Flight, step: Any) -> Conversation[None]:
        """Let a transaction write pieces of a large content, until it waits for a reply, or is over."""
        steps = flight.steps
        try:
            while type(step) is Write:
                try:
                    yield from self._flush()  # what was composed before it goes first
                    if self._unwritable is not None:
                        raise self._unwritable
                    yield step
                except OSError as error:
                    self._unwritable = error
                    step = steps.throw(error)
                else:
                    step = next(steps)
            flight.wait = step
        except StopIteration:
            flight.wait = None
            flight.line_free = True


def _told(done: deque[Transaction]) -> Conversation[None]:
    """Tell those that were settled before."""
    while done:
        yield Settled(done.popleft())


def _unsettled(flights: deque[Flight]) -> Iterator[Transaction]:
    return (flight.transaction for flight in flights if flight.transaction is not None)
