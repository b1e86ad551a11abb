"""Delivering: a stream of mail transactions over one connection, several of them in flight where the window allows it.

Each transaction is a straight dialogue of its own (``transacting.py``), which composes commands and waits for its
replies; the scheduler (`deliver`) hands it the replies in the order in which the commands went out. Before a message
follows another in one write, the connection must pass `_prove_overlap` (DESIGN 5.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from smtpbackend.errors import ConnectionLost, DeliveryError, InvalidInput, SMTPError
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.dialogue import Transcript
from smtpbackend.protocol.effects import ENOUGH, LATER, OF_THE_WIRE, Conversation, Next, Settled, Write
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.protocol.transacting import MAX_UNANSWERED, Closed, Flight, Transacting
from smtpbackend.protocol.transaction import Transaction

__all__ = ["RATION", "Delivering"]

MAX_UNSENT = 256 * 1024  # octets composed before they leave: a window of large contents is not held in memory
AT_ONCE = 16384  # octets that any socket takes without a wait, when all before them has arrived
OVERLAP_PATIENCE = 3.0  # seconds for a RSET in the write that ended a content, whose reply has come: DESIGN 5.2
# Errors in a row on one connection. From the tenth on Postfix sleeps a second before each reply, and ends the
# connection at the twentieth (smtpd_soft_error_limit, smtpd_hard_error_limit); Exim ends it at the eleventh RSET behind
# a refusal (smtp_accept_max_nonmail).
RATION = 9


class Delivering(Transacting):
    """A dialogue that carries many messages."""

    def __init__(self, server: str, timeouts: Timeouts, transcript: Transcript | None, lmtp: bool = False) -> None:
        super().__init__(server, timeouts, transcript, lmtp)
        self.overlaps: bool | None = None
        """Whether it has proven that it answers what follows the end of a content in one write; None: not asked."""
        self.overlapping = False
        """Whether the connection was asked to prove that, and has not answered."""
        self.ended_by: SMTPError | None = None
        """What ended the connection while mail was in flight."""
        self.ended_at: int | None = None
        """The number of the transaction at which the server ended it."""
        self.refused_first = False
        """Whether it did so in answer to the first MAIL."""
        self._room = RATION  # messages that may be in flight: refusals close the window, for servers punish them
        self._was_full = False  # the window, and half of it is not free yet
        self._flights: deque[Flight] = deque()
        self._more = True  # whether another transaction may come
        self._ahead: Transaction | None = None  # taken while a reply was awaited, and begun when it is its turn
        self._done: deque[Transaction] = deque()  # settled, and told when the server has its next work

    @property
    def is_spent(self) -> bool:
        """Whether another error might be one too many for its server."""
        return self.refusals >= RATION

    @property
    def is_on_trial(self) -> bool:
        """Whether it ended over what we tried on it, and not over the message that was on its way."""
        return self.probing or self.overlapping or self.mixes_up

    def deliver(self, policy: str = "any", window: int = 1, probe_from: int | None = None) -> Conversation[None]:
        """Take a stream of transactions (`Next`) and give each back when it is settled (`Settled`), in order.

        At most ``window`` are in flight. Replies are matched by counting (RFC 2920 3.1): those still to come belong to
        the oldest transaction first, because each one's commands are contiguous. From the transaction of number
        ``probe_from`` on the connection may be asked to prove that it discards refused chunks; None: never.
        A connection that ends settles what is in flight and leaves the session ``broken``; nothing is raised.
        """
        if not self.pipelines:
            window = 1
        flights = self._flights = deque()
        self._more, self._was_full = True, False
        try:
            while True:
                last = flights[-1] if flights else None
                if last is not None and not last.has_begun and (last is flights[0] or self._fits(last)):
                    yield from self._begin(last, policy, probe_from)
                elif self._may_take(last, window) and (yield from self._take_next(last)):
                    continue
                elif flights:
                    yield from self._hear(flights[0], window)
                elif self._ahead is not None:
                    self._take_up_ahead()
                else:
                    break
        except Closed as closed:
            yield from self._end(closed.args[0], not flights[0].clears)
        except DeliveryError as error:
            # 421 may also come before anything was asked
            goodbye = error.reply if error.reply is not None and error.reply.code == 421 else self._refused_reset
            yield from self._end((goodbye if isinstance(error, ConnectionLost) else None) or error)
        except BaseException:
            self.broken = self.broken or bool(flights)
            raise
        yield from self._tell()
        self._unsent.clear()
        self._ending.clear()
        if not self.broken and not self._replies.is_empty and not self._replies.says_goodbye:
            self.is_talkative = self.broken = True
        if not self.broken:
            self.phase = "idle"

    def _take_next(self, last: Flight | None) -> Conversation[bool]:
        """Ask for the next transaction; False where it is not known yet whether there is one."""
        if last is None:
            if not self._replies.is_empty:
                yield from self._hear_out()
        elif len(self._unsent) > MAX_UNSENT:
            yield from self._flush()
        transaction, self._ahead = self._ahead, None
        if transaction is None:
            if self._done:
                yield from self._tell()
            transaction = yield Next(bool(self._unsent))
        if transaction is None:
            self._more = False
            return True
        if last is not None and not self.overlaps and self._unsent:
            self._flights.append(self._prove_overlap())
        if transaction is not LATER:
            self._flights.append(Flight(transaction))
            self._more = not transaction.is_last
            return True
        if self._unsent and self._replies.is_empty:
            yield from self._flush()
            return True
        return False

    def _hear(self, flight: Flight, window: int) -> Conversation[None]:
        """Hand the oldest in flight its replies, until it is over or lets another one follow."""
        was_free = flight.line_free
        while flight.wait is not None and flight.line_free is was_free:
            reply = self._at_hand()
            if reply is None:
                if self._done:
                    if len(self._unsent) <= AT_ONCE:
                        yield from self._flush()
                    yield from self._tell()
                if (
                    self.overlaps
                    and self._more
                    and self._ahead is None
                    and len(self._flights) < min(window, self._room)
                ):
                    yield from self._look_ahead()
                reply = yield from self._reply(flight.wait)
                if reply.code == 421:
                    raise Closed(reply)
            try:
                step = flight.steps.send(reply)
            except StopIteration:
                flight.wait, flight.line_free = None, True
            else:
                if type(step) in OF_THE_WIRE:
                    yield from self._go_on(flight, step)
                else:
                    flight.wait = step
        if flight.wait is None:
            self._flights.popleft()
            if flight.transaction is not None:
                yield from self._settle(flight.transaction)

    def _look_ahead(self) -> Conversation[None]:
        """The server has its work now, and we prepare the next one meanwhile."""
        yield from self._flush()
        if not self.broken:
            transaction = yield Next(True)
            self._ahead = transaction if transaction is not LATER else None
            self._more = transaction is LATER or (transaction is not None and not transaction.is_last)

    def _take_up_ahead(self) -> None:
        self._flights.append(Flight(self._ahead))
        self._ahead = None

    def _settle(self, transaction: Transaction) -> Conversation[None]:
        """All replies to a transaction have come."""
        transaction.is_settled = True
        if transaction.was_taken:
            self._room = max(self._room, RATION) + 1
            self.refusals = 0
        elif refusals := transaction.refusals:
            self.refusals += refusals
            self._room = RATION - self.refusals
        if self._done:
            yield from self._tell()
        if self._ahead is not None and self._due <= len(self._replies.ready):
            self._done.append(transaction)  # all is answered: the server waits for us
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
        answer to the oldest in flight.
        """
        self.broken = True
        if self._unsent:  # what was composed and has not left has asked nothing
            self.probing = self.overlapping = False
        yield from self._tell()
        if self._ahead is not None:
            self._take_up_ahead()
        transactions = [flight.transaction for flight in self._flights if flight.transaction is not None]
        if isinstance(why, Reply):
            error: DeliveryError = ConnectionLost(
                f"{self.server} closed the connection: {why}", server=self.server, reply=why
            )
        else:
            error = why
        self.ended_by = error
        if isinstance(why, Reply) and transactions:  # the end of an idle connection says nothing of a limit
            self.ended_at = transactions[0].number or self.transactions + 1
        self.refused_first = is_own and self.ended_at == 1 and transactions[0].mail is None
        for transaction in transactions:
            transaction.error = transaction.error or error
            if self._replies.has_skipped:  # a blank line may have been meant for a reply
                transaction.forget_replies()
            if isinstance(why, Reply):
                transaction.close(why, is_own and transaction is transactions[0])
        for transaction in transactions:
            yield Settled(transaction)

    # The window --------------------------------------------------------------------------------------------------

    def _may_take(self, last: Flight | None, window: int) -> bool:
        """Whether another transaction may be asked for now.

        A window that was full is filled again when half of it is free: not one by one, as replies trickle in.
        """
        if self.broken or not (self._more or self._ahead):
            return False
        if last is None:
            return True
        if not last.has_begun or not last.line_free:
            return False
        room = self._room if self._room < window else window
        if len(self._flights) > (room // 2 if self._was_full else room - 1):
            self._was_full = True
            return False
        self._was_full = False
        if len(self._unsent) > MAX_UNSENT and not self._replies.is_empty:
            return False  # what was read is heard first: one reply too many would be taken for that to what leaves now
        return self.overlaps is not False

    def _fits(self, flight: Flight) -> bool:
        """Whether a transaction that waits for its turn may begin behind those in flight."""
        assert flight.transaction is not None
        commands = 3 + len(flight.transaction.recipients)  # RSET, MAIL, and DATA or BDAT besides
        return bool(self.overlaps) and self._due + self._composed + commands <= MAX_UNANSWERED

    def _prove_overlap(self) -> Flight:
        """RSET alone, in the write that ends the first content.

        The window opens when both are answered. Courier discards whatever it has read behind the dot.
        """
        proof = Flight(None)
        proof.steps = self._await_overlap(proof)
        proof.wait = next(proof.steps)
        proof.has_begun = True
        return proof

    def _await_overlap(self, proof: Flight) -> Generator[float, Reply, None]:
        self._put(command.RSET)
        proof.clears = self.overlapping = True
        self.overlaps = False  # until it is proven
        reply = yield min(self.timeouts.reply, OVERLAP_PATIENCE)
        self._hear_reset(proof, reply)
        self.overlapping = self._refused_reset is not None  # until the next reply: the refusal may be its last word
        self.overlaps = reply.is_positive
        if self.overlaps:
            self._latest = None

    def _begin(self, flight: Flight, policy: str, probe_from: int | None) -> Conversation[None]:
        """Let a transaction begin, or end where it cannot."""
        assert flight.transaction is not None
        flight.has_begun = True
        if self.broken:
            flight.transaction.error = ConnectionLost(
                f"{self.server} could not be given another message on this connection", server=self.server
            )
            flight.line_free = True
            return
        flight.steps = self._transact(flight, flight.transaction, policy, probe_from)
        try:
            yield from self._go_on(flight, next(flight.steps))
        except InvalidInput as error:  # by the write gate or the source, before anything of it was composed
            flight.transaction.error = error
            flight.line_free = True

    def _go_on(self, flight: Flight, step: Any) -> Conversation[None]:
        """Let a transaction write pieces of its content, or ask for the time, until it waits for a reply or is over."""
        steps = flight.steps
        try:
            while type(step) in OF_THE_WIRE:
                try:
                    if type(step) is Write:
                        yield from self._flush()  # what was composed before it goes first
                        if self._unwritable is not None:
                            raise self._unwritable
                    answer = yield step
                except OSError as error:
                    self._unwritable = error if type(step) is Write else self._unwritable
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
            flight.wait = step
        except StopIteration:
            flight.wait = None
            flight.line_free = True
