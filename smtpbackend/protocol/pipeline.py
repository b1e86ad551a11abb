"""A stream of mail transactions over one line, several of them in flight where the window allows it (RFC 2920).

Each transaction is a dialogue of its own (``transaction_steps.py``), which composes commands and waits for replies.
Replies are matched by counting: those to come belong to the oldest transaction first, because the commands of each are
contiguous. Before a message follows another in one write, the connection must pass `OverlapProof` (DESIGN 5.2).
"""

from __future__ import annotations

from collections import deque
from typing import Any

from smtpbackend.errors import ConnectionLost, DeliveryError, InvalidInput
from smtpbackend.outcome import Reply
from smtpbackend.protocol.effects import ENOUGH, LATER, Conversation, Next, Settled, Write
from smtpbackend.protocol.history import RATION, History
from smtpbackend.protocol.line import Closed, Line
from smtpbackend.protocol.transaction import Transaction
from smtpbackend.protocol.transaction_steps import MAX_UNANSWERED, Flight, OverlapProof, Terms, TransactionSteps

__all__ = ["AT_ONCE", "MAX_UNSENT", "Pipeline"]

MAX_UNSENT = 256 * 1024  # octets composed before they leave: a window of large contents is not held in memory
AT_ONCE = 16384  # octets that any socket takes without a wait, when all before them has arrived


class Pipeline:
    """One run of transactions: takes each (`Next`) and gives it back when it is settled (`Settled`), in order.

    At most ``window`` are in flight.
    """

    def __init__(self, line: Line, history: History, terms: Terms, window: int) -> None:
        self.line = line
        self.history = history
        self.terms = terms
        self.window = window if terms.grouped else 1
        self._flights: deque[Flight] = deque()  # the oldest first
        self._more = True  # whether another transaction may come
        self._was_full = False  # the window, and half of it is not free yet
        self._ahead: Transaction | None = None  # taken while a reply was awaited, and begun in its turn
        self._done: deque[Transaction] = deque()  # settled, and told when the server has its next work

    def run(self) -> Conversation[None]:
        """A connection that ends settles what is in flight, and ends the line; nothing is raised."""
        line, flights = self.line, self._flights
        try:
            while True:
                last = flights[-1] if flights else None
                if last is not None and not last.has_begun and (last is flights[0] or self._fits(last)):
                    yield from self._begin(last)
                elif self._may_take(last) and (yield from self._take_next(last)):
                    continue
                elif flights:
                    yield from self._receive(flights[0])
                elif self._ahead is not None:
                    self._put_in_flight(self._ahead)
                    self._ahead = None
                else:
                    break
        except Closed as closed:
            yield from self._end(closed.args[0], not flights[0].clears)
        except DeliveryError as error:
            # 421 may also come before anything was asked
            goodbye = error.reply if error.reply is not None and error.reply.code == 421 else self.history.refused_reset
            yield from self._end((goodbye if isinstance(error, ConnectionLost) else None) or error)
        except BaseException as error:
            if flights:
                line.end(type(error).__name__)
            raise
        yield from self._tell()
        line.discard()
        if line.ended is None and line.has_unasked:
            line.too_many_replies()  # what was settled stays so
        if line.ended is None:
            line.phase = "idle"

    def _put_in_flight(self, transaction: Transaction) -> None:
        self._flights.append(TransactionSteps(self.line, self.history, self.terms, transaction))

    # Taking the next ---------------------------------------------------------------------------------------------

    def _may_take(self, last: Flight | None) -> bool:
        """Whether another transaction may be asked for now.

        A window that was full is filled again when half of it is free: not one by one, as replies trickle in.
        """
        line = self.line
        if line.ended is not None or not (self._more or self._ahead):
            return False
        if last is None:
            return True
        if not last.has_begun or not last.line_free:
            return False
        room = min(self.history.room, self.window)
        if len(self._flights) > (room // 2 if self._was_full else room - 1):
            self._was_full = True
            return False
        self._was_full = False
        if len(line.unsent) > MAX_UNSENT and not line.replies.is_empty:
            return False  # parse what was read first: an extra reply would be taken for one to what leaves now
        return self.history.overlaps is not False

    def _take_next(self, last: Flight | None) -> Conversation[bool]:
        """Ask for the next transaction; False where it is not known yet whether there is one."""
        line = self.line
        if last is None:
            yield from line.expect_silence()
        elif len(line.unsent) > MAX_UNSENT:
            yield from line.flush()
        transaction, self._ahead = self._ahead, None
        if transaction is None:
            if self._done:
                yield from self._tell()
            transaction = yield Next(bool(line.unsent))
        if transaction is None:
            self._more = False
            return True
        if last is not None and not self.history.overlaps and line.unsent:
            proof = OverlapProof(line, self.history, self.terms)
            proof.advance()
            self._flights.append(proof)
        if transaction is not LATER:
            self._put_in_flight(transaction)
            self._more = not transaction.is_last
            return True
        if line.unsent and line.replies.is_empty:
            yield from line.flush()
            return True
        return False

    def _look_ahead(self) -> Conversation[None]:
        """The server has its work now: take the next transaction meanwhile."""
        yield from self.line.flush()
        if self.line.ended is None:
            transaction = yield Next(True)
            self._ahead = transaction if transaction is not LATER else None
            self._more = transaction is LATER or (transaction is not None and not transaction.is_last)

    # In flight ---------------------------------------------------------------------------------------------------

    def _fits(self, flight: Flight) -> bool:
        """Whether a transaction that waits for its turn may begin behind those in flight."""
        assert flight.transaction is not None
        commands = 3 + len(flight.transaction.recipients)  # RSET, MAIL, and DATA or BDAT besides
        return bool(self.history.overlaps) and self.line.unanswered + commands <= MAX_UNANSWERED

    def _begin(self, flight: Flight) -> Conversation[None]:
        """Let a transaction begin, or end where it cannot."""
        assert flight.transaction is not None
        flight.has_begun = True
        if self.line.ended is not None:
            flight.transaction.error = ConnectionLost(
                f"{self.line.server} ended the connection before another message could be sent", server=self.line.server
            )
            flight.line_free = True
            return
        try:
            step = flight.advance()
        except InvalidInput as error:  # of a command or the source, before anything was composed
            flight.transaction.error = error
            flight.line_free = True
        else:
            if step is not None:
                yield from self._perform(flight, step)

    def _receive(self, flight: Flight) -> Conversation[None]:
        """Give the oldest in flight its replies, until it is over or lets another one follow."""
        line = self.line
        was_free = flight.line_free
        while flight.wait is not None and flight.line_free is was_free:
            reply = line.reply_at_hand()
            if reply is None:
                if self._done:
                    if len(line.unsent) <= AT_ONCE:
                        yield from line.flush()
                    yield from self._tell()
                if (
                    self.history.overlaps
                    and self._more
                    and self._ahead is None
                    and len(self._flights) < min(self.window, self.history.room)
                ):
                    yield from self._look_ahead()
                reply = yield from line.await_reply(flight.wait)
                if reply.code == 421:
                    raise Closed(reply)
            step = flight.advance(reply)
            if step is not None:
                yield from self._perform(flight, step)
        if flight.wait is None:
            self._flights.popleft()
            if flight.transaction is not None:
                yield from self._settle(flight.transaction)

    def _perform(self, flight: Flight, step: Any) -> Conversation[None]:
        """Hand the wire what a transaction wants of it, until it waits for a reply or is over."""
        line = self.line
        while step is not None:
            try:
                if type(step) is Write:
                    yield from line.flush()  # what was composed before it goes first
                    if line.unwritable is not None:
                        raise line.unwritable
                answer = yield step
            except OSError as error:
                if type(step) is Write:
                    line.cannot_write(error)
                step = flight.advance(error=error)
            else:
                step = flight.advance(answer)

    # Settling ----------------------------------------------------------------------------------------------------

    def _settle(self, transaction: Transaction) -> Conversation[None]:
        """All replies to a transaction have come."""
        history = self.history
        transaction.is_settled = True
        if transaction.was_taken:
            history.room = max(history.room, RATION) + 1
            history.refusals = 0
        elif refusals := transaction.refusals:
            history.refusals += refusals
            history.room = RATION - history.refusals
        if self._done:
            yield from self._tell()
        if self._ahead is not None and self.line.is_answered:
            self._done.append(transaction)  # the server waits for us: its next work leaves first
        else:
            answer = yield Settled(transaction)
            self._more = self._more or (transaction.is_last and answer is not ENOUGH)

    def _tell(self) -> Conversation[None]:
        """Give back those that were settled before."""
        while self._done:
            yield Settled(self._done.popleft())

    def _end(self, why: Reply | DeliveryError, is_own: bool = False) -> Conversation[None]:
        """The connection has ended: settle what is in flight.

        Where the server's last word was a reply, nothing behind it was read (RFC 5321 3.8); ``is_own``: it was the
        reply to a command of the oldest in flight.
        """
        line, history = self.line, self.history
        error = line.goodbye(why) if isinstance(why, Reply) else why
        line.end(str(error))
        if line.unsent:  # what was composed and has not left has asked nothing
            history.probing = history.overlapping = False
        yield from self._tell()
        transactions = [flight.transaction for flight in self._flights if flight.transaction is not None]
        if self._ahead is not None:
            transactions.append(self._ahead)
        history.ended_by = error
        if isinstance(why, Reply) and transactions:  # the end of an idle connection says nothing of a limit
            history.ended_at = transactions[0].number or history.transactions + 1
        history.refused_first = is_own and history.ended_at == 1 and transactions[0].mail is None
        for transaction in transactions:
            transaction.error = transaction.error or error
            if line.replies.has_skipped:  # a blank line may have been meant for a reply
                transaction.forget_replies()
            if isinstance(why, Reply):
                transaction.close(why, is_own and transaction is transactions[0])
        for transaction in transactions:
            yield Settled(transaction)
