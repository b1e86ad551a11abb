"""Delivering: a stream of mail transactions over one connection, several of them in flight where the window allows it.

Each transaction is a straight dialogue of its own (`_transact`), which composes commands and waits for its replies; the
scheduler (`deliver`) hands it the replies in the order in which the commands went out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from smtpbackend.errors import ConnectionLost, DeliveryError, InvalidInput, ProtocolViolation
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.dialogue import Dialogue, Transcript
from smtpbackend.protocol.effects import LATER, Conversation, Next, Settled, Write
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.protocol.transaction import Transaction

__all__ = ["Delivering"]

MAX_UNANSWERED = 256  # commands in flight on one connection: DESIGN 5.2
IN_ONE_PIECE = 65536  # octets of content that may share a write with commands


class Delivering(Dialogue):
    """A dialogue that carries mail. ``transactions`` tells how many were begun on this connection."""

    def __init__(self, server: str, timeouts: Timeouts, transcript: Transcript | None, lmtp: bool = False) -> None:
        super().__init__(server, timeouts, transcript)
        self.lmtp = lmtp
        """Whether each accepted recipient has a final reply of its own (RFC 2033 4.2)."""
        self.capabilities = Capabilities()
        self.transactions = 0
        self._clean = True  # whether the last transaction left nothing behind that RSET would have to clear

    def deliver(self, policy: str = "any", window: int = 1) -> Conversation[None]:
        """Take a stream of transactions (`Next`) and give each back when it is settled (`Settled`), in order.

        At most ``window`` are in flight. Replies are matched by counting (RFC 2920 3.1): those still to come belong to
        the oldest transaction first, because each one's commands are contiguous. A connection that ends settles
        what is in flight and leaves the session ``broken``; nothing is raised.
        """
        if "PIPELINING" not in self.capabilities:
            window = 1
        flights: deque[_Flight] = deque()
        more = True
        unanswered = 0
        try:
            while True:
                while more and not self.broken and len(flights) < window and unanswered < MAX_UNANSWERED:
                    if flights and not flights[-1].line_free:
                        break
                    if not flights:
                        self._check_quiet()
                    transaction = yield Next(bool(self._unsent))
                    if transaction is LATER:
                        yield from self._flush()
                        continue
                    if transaction is None:
                        more = False
                        break
                    flight = _Flight(transaction)
                    flight.steps = self._transact(flight, policy)
                    flights.append(flight)
                    try:
                        yield from self._step(flight, None)
                    except InvalidInput as error:  # refused by the write gate, before anything of it was composed
                        transaction.error = error
                    unanswered += len(transaction.recipients) + 3
                yield from self._flush()
                if not flights:
                    break
                flight = flights[0]
                if flight.wait is not None:
                    reply = yield from self._reply(self._patience(flight.wait))
                    if reply.code == 421:
                        raise _Closed(reply)
                    yield from self._step(flight, reply)
                if flight.wait is None:
                    flights.popleft()
                    unanswered -= len(flight.transaction.recipients) + 3
                    yield Settled(flight.transaction)
        except _Closed as closed:
            self.broken = True
            for flight in flights:
                flight.transaction.close(closed.reply)
                flight.transaction.error = ConnectionLost(
                    f"{self.server} closed the connection: {closed.reply}", server=self.server, reply=closed.reply
                )
                yield Settled(flight.transaction)
        except DeliveryError as error:
            self.broken = True
            for flight in flights:
                flight.transaction.error = flight.transaction.error or error
                yield Settled(flight.transaction)
        except BaseException:
            self.broken = self.broken or bool(flights)
            raise
        self._unsent.clear()
        self._ending.clear()
        if not self.broken:
            self.phase = "idle"

    def _step(self, flight: _Flight, reply: Reply | None) -> Conversation[None]:
        """Let a transaction go on until it waits for its next reply, or is over (``wait`` is None)."""
        steps = flight.steps
        try:
            step = steps.send(reply)
            while type(step) is Write:
                # A piece of a large content; what was composed before it goes first.
                try:
                    yield from self._flush()
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

    def _transact(self, flight: _Flight, policy: str) -> Generator[Any, Any, None]:
        """One transaction as a straight dialogue: composes commands, yields the time-out of each reply it needs."""
        transaction = flight.transaction
        timeouts = self.timeouts
        offered = self.capabilities
        utf8 = transaction.needs_smtputf8
        grouped = "PIPELINING" in offered
        mail = command.mail(transaction.envelope.sender, transaction.mail_parameters(offered), utf8)
        rcpts = [
            command.rcpt(recipient, transaction.rcpt_parameters(recipient, offered), utf8)
            for recipient in transaction.recipients
        ]
        # DESIGN 5.2: without RSET Exim keeps the old sender. In lock step a clean end leaves nothing to reset.
        reset = self.transactions > 0 and (grouped or not self._clean)
        self.transactions += 1
        number = self.transactions
        was_clean, self._clean = self._clean, False
        with_data = grouped and policy == "any"

        if grouped:
            group, rest = rcpts[: MAX_UNANSWERED - 3], rcpts[MAX_UNANSWERED - 3 :]
            if reset:
                self._put(command.RSET)
            self._put(mail, *group)
            if with_data and not rest:
                self._put(command.DATA)
            if reset:
                self._reset_answered((yield timeouts.reply), was_clean)
            self.phase = "mail"
            transaction.mail = yield timeouts.reply
            self.phase = "rcpt"
            for place in range(len(group)):
                transaction.rcpt[place] = yield timeouts.reply
            done = len(group)
            while rest and transaction.mail.is_positive:
                group, rest = rest[: MAX_UNANSWERED - 1], rest[MAX_UNANSWERED - 1 :]
                self._put(*group)
                if with_data and not rest:
                    self._put(command.DATA)
                for place in range(done, done + len(group)):
                    transaction.rcpt[place] = yield timeouts.reply
                done += len(group)
            if rest:
                return  # MAIL was refused, and DATA has not been sent
        else:
            if reset:
                self._put(command.RSET)
                self._reset_answered((yield timeouts.reply), was_clean)
            self.phase = "mail"
            self._put(mail)
            transaction.mail = yield timeouts.reply
            self.phase = "rcpt"
            if not transaction.mail.is_positive:
                return
            for place, line in enumerate(rcpts):
                self._put(line)
                transaction.rcpt[place] = yield timeouts.reply

        self.phase = "data"
        wanted = transaction.everybody_accepted if policy == "all" else transaction.has_recipients
        if not with_data:
            if not wanted:
                return
            self._put(command.DATA)
        data = yield timeouts.reply
        if not 300 <= data.code < 400:
            if data.is_positive:
                raise self._failed(ProtocolViolation, f"{self.server} answered DATA with {data}")
            if wanted:
                transaction.final = data
            return
        if not wanted:
            if any(reply and reply.is_positive for reply in transaction.rcpt):
                # MAIL refused, recipients taken, content awaited: whose mail would an empty content be?
                raise self._failed(ProtocolViolation, f"{self.server} refused MAIL and went on to ask for the content")
            if self.lmtp:  # RFC 2033 4.2: it must not, and how many replies would follow?
                raise self._failed(ProtocolViolation, f"{self.server} wants content for nobody")
            self._put(command.END)  # RFC 2920 3.1
            yield timeouts.final
            return
        if self.lmtp:
            transaction.finals = [None] * len(rcpts)
        try:
            yield from self._put_content(transaction)
        except DeliveryError:
            raise
        except OSError:
            # DESIGN 4.3: what did the server have to say (421, 552)?
            final = yield timeouts.reply
            if final.is_positive:
                raise self._failed(
                    ProtocolViolation, f"{self.server} accepted content that was not sent in full"
                ) from None
            transaction.final = final
            self.broken = True
            return
        flight.line_free = True
        while (due := transaction.next_final) is not None:
            final = yield timeouts.final
            if 300 <= final.code < 400:
                raise self._failed(ProtocolViolation, f"{self.server} answered the end of content with {final}")
            if transaction.finals is None:
                transaction.final = final
            else:
                transaction.finals[due] = final
        if self.transactions == number:  # nobody has begun another one behind it
            self._clean = self.lmtp or final.is_positive

    def _put_content(self, transaction: Transaction) -> Generator[Write, None, None]:
        """Stuffed content and the final dot; a large one leaves piece by piece, up to the end that hands it over."""
        size = 0
        content = iter(command.stuffed(transaction.content.chunks()))
        while True:
            try:
                chunk = next(content, None)
            except Exception as error:
                # DESIGN 4.3: a source that fails in mid-content closes the connection.
                raise self._source_failed(transaction, error) from error
            if chunk is None:
                break
            size += len(chunk)
            if size <= IN_ONE_PIECE:
                self._unsent += chunk
            else:
                yield Write(chunk, self.timeouts.content)
        self._unsent += command.END
        self._ending.append(transaction)
        if self._transcript:
            self._transcript(">", f"<{size} octets>")
            self._transcript(">", ".")

    def _source_failed(self, transaction: Transaction, error: Exception) -> DeliveryError:
        what = f"the content could not be read to its end: {type(error).__name__}: {error}"
        transaction.error = InvalidInput(what, field="content", server=self.server)
        return self._failed(DeliveryError, what)

    def _reset_answered(self, reply: Reply, was_clean: bool) -> None:
        """A server without RSET is survived where there was nothing to reset."""
        if not reply.is_positive and not was_clean:
            raise self._failed(ProtocolViolation, f"{self.server} refused RSET with {reply}")


class _Flight:
    """A transaction in flight: its steps, the time-out of the reply it waits for, whether others may follow it."""

    __slots__ = ("line_free", "steps", "transaction", "wait")

    steps: Generator[Any, Any, None]

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.wait: float | None = None
        self.line_free = False  # nothing that this one still sends could come between another's commands


class _Closed(Exception):
    """The server said 421."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply
