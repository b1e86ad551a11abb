"""Delivering: a stream of mail transactions over one connection, several of them in flight where the window allows it.

Each transaction is a straight dialogue of its own (`_transact`), which composes commands and waits for its replies; the
scheduler (`deliver`) hands it the replies in the order in which the commands went out. What a connection may be given
ahead of its replies it has to earn: content beside its recipients by `_probe`, the next message behind the end of one
by `_prove_overlap` (DESIGN 5.1, 5.2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

from smtpbackend.errors import ConnectionLost, DeliveryError, InvalidInput, ProtocolViolation
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.dialogue import Dialogue, Transcript
from smtpbackend.protocol.effects import ENOUGH, LATER, Conversation, Next, Settled, Write
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.protocol.transaction import Transaction

__all__ = ["Delivering"]

MAX_UNANSWERED = 256  # commands in flight on one connection: DESIGN 5.2
MAX_TOGETHER = 256 * 1024  # octets of content that may leave beside its recipients: DESIGN 5.1
IN_ONE_PIECE = 65536  # octets of content that may share a write with commands
MAX_UNSENT = 256 * 1024  # octets composed before they leave: a window of large contents is not held in memory
AT_ONCE = 16384  # octets that any socket takes without a wait, when all before them has arrived
CHUNK = 256 * 1024  # octets of one BDAT of a large content
CHUNKS_AHEAD = 4  # chunks without a reply: enough to fill 1 MB of a network's delay
OVERLAP_PATIENCE = 3.0  # seconds for a RSET in the write that ended a content, whose reply has come: DESIGN 5.2


class Delivering(Dialogue):
    """A dialogue that carries mail. ``transactions`` tells how many were begun on this connection."""

    def __init__(self, server: str, timeouts: Timeouts, transcript: Transcript | None, lmtp: bool = False) -> None:
        super().__init__(server, timeouts, transcript)
        self.lmtp = lmtp
        """Whether each accepted recipient has a final reply of its own (RFC 2033 4.2)."""
        self.capabilities = Capabilities()
        self.transactions = 0
        self.discards: bool | None = None
        """Whether it has proven that the chunk of a BDAT that it refuses is not read as commands; None: not asked."""
        self.probing = False
        """Whether the connection was asked to prove that, and has not answered."""
        self.overlaps: bool | None = None
        """Whether it has proven that it answers what follows the end of a content in one write; None: not asked."""
        self.overlapping = False
        """Whether the connection was asked to prove that, and has not answered."""
        self._was_full = False  # the window, and half of it is not free yet
        self._is_new = True  # whether nothing was said since the greeting, or RSET, that RSET would have to clear
        self._clean = True  # whether the last transaction left nothing behind that RSET would have to clear

    def deliver(self, policy: str = "any", window: int = 1, chunk_in_flight: str = "probe") -> Conversation[None]:
        """Take a stream of transactions (`Next`) and give each back when it is settled (`Settled`), in order.

        At most ``window`` are in flight. Replies are matched by counting (RFC 2920 3.1): those still to come belong to
        the oldest transaction first, because each one's commands are contiguous. ``chunk_in_flight`` says when content
        may leave beside its recipients: "probe" (where the connection proves that this is safe), "always" or "never".
        A connection that ends settles what is in flight and leaves the session ``broken``; nothing is raised.
        """
        if "PIPELINING" not in self.capabilities:
            window = 1
        flights: deque[_Flight] = deque()
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
                        self._check_quiet()
                    elif len(self._unsent) > MAX_UNSENT:
                        yield from self._flush()
                    transaction, ahead = ahead, None
                    if transaction is None:
                        while done:
                            yield Settled(done.popleft())
                        transaction = yield Next(bool(self._unsent))
                    if transaction is None:
                        more = False
                        continue
                    if last is not None and not self.overlaps and self._unsent:
                        flights.append(self._prove_overlap())
                    if transaction is not LATER:
                        flights.append(_Flight(transaction))
                        more = not transaction.is_last
                        continue
                    if self._unsent and self._replies.is_empty:
                        yield from self._flush()
                        continue
                if last is None:
                    if ahead is None:
                        break
                    flights.append(_Flight(ahead))
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
                            while done:
                                yield Settled(done.popleft())
                        if self.overlaps and more and ahead is None and len(flights) < window:
                            # the server has its work now, and we prepare the next one meanwhile
                            yield from self._flush()
                            if not self.broken:
                                transaction = yield Next(True)
                                ahead = transaction if transaction is not LATER else None
                                more = transaction is LATER or (ahead is not None and not ahead.is_last)
                        reply = yield from self._reply(flight.wait)
                        if reply.code == 421:
                            raise _Closed(reply)
                    try:
                        step = flight.steps.send(reply)
                    except StopIteration:
                        flight.wait = None
                        flight.line_free = True
                    else:
                        if type(step) is Write:
                            while done:
                                yield Settled(done.popleft())
                            yield from self._write_on(flight, step)
                        else:
                            flight.wait = step
                if flight.wait is None:
                    flights.popleft()
                    transaction = flight.transaction
                    if transaction is not None:
                        transaction.is_settled = True
                        while done:
                            yield Settled(done.popleft())
                        if ahead is not None and self._due <= len(self._replies.ready):
                            done.append(transaction)  # all is answered: the server waits for us
                        else:
                            answer = yield Settled(transaction)
                            more = more or (transaction.is_last and answer is not ENOUGH)
        except _Closed as closed:
            self.broken = True
            while done:
                yield Settled(done.popleft())
            if ahead is not None:
                flights.append(_Flight(ahead))
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
            while done:
                yield Settled(done.popleft())
            if ahead is not None:
                flights.append(_Flight(ahead))
            for transaction in _unsettled(flights):
                transaction.error = transaction.error or error
                yield Settled(transaction)
        except BaseException:
            self.broken = self.broken or bool(flights)
            raise
        while done:
            yield Settled(done.popleft())
        self._unsent.clear()
        self._ending.clear()
        if not self._replies.is_empty and not self._replies.says_goodbye:
            self.is_talkative = self.broken = True
        if not self.broken:
            self.phase = "idle"

    # The window --------------------------------------------------------------------------------------------------

    def _may_follow(self, flights: deque[_Flight], window: int) -> bool:
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

    def _fits(self, flight: _Flight) -> bool:
        """Whether a transaction that waits for its turn may begin behind those in flight."""
        return bool(self.overlaps) and self._due + self._composed + flight.commands <= MAX_UNANSWERED

    def _prove_overlap(self) -> _Flight:
        """RSET alone, in the write that ends the first content.

        The window opens when both are answered. Courier discards whatever it has read behind the dot.
        """
        proof = _Flight(None)
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

    def _at_hand(self) -> Reply | None:
        """The next reply, where it is awaited and was read already: most come together."""
        if not self._due:
            return None
        ready = self._replies.ready
        if ready and self._transcript is None and not self._hidden:
            self._due -= 1
            reply: Reply | None = ready.popleft()
        else:
            reply = self._heard()
        if reply is not None and reply.code == 421:
            raise _Closed(reply)
        return reply

    def _begin(self, flight: _Flight, policy: str, chunk_in_flight: str) -> Conversation[None]:
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

    def _start(self, flight: _Flight) -> Conversation[None]:
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

    def _write_on(self, flight: _Flight, step: Any) -> Conversation[None]:
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

    # One transaction ---------------------------------------------------------------------------------------------

    def _transact(
        self, flight: _Flight, transaction: Transaction, policy: str, chunk_in_flight: str
    ) -> Generator[Any, Any, None]:
        """One transaction as a straight dialogue: composes commands, yields the time-out of each reply it needs.

        It is given its first reply when it is its turn; from then on it may take what is at hand.
        """
        timeouts = self.timeouts
        offered = self.capabilities
        grouped = "PIPELINING" in offered
        chunked = "CHUNKING" in offered
        utf8 = transaction.needs_smtputf8
        mail = command.mail(transaction.envelope.sender, transaction.mail_parameters(offered), utf8)
        rcpts = [
            command.rcpt(recipient, transaction.rcpt_parameters(recipient, offered), utf8)
            for recipient in transaction.recipients
        ]
        # In LMTP the number of replies to the content depends on those to the recipients.
        may_fly = chunked and grouped and policy == "any" and not self.lmtp
        probes = may_fly and chunk_in_flight == "probe" and self.discards is None
        flies = (
            may_fly
            and (self.discards or chunk_in_flight == "always")
            and transaction.is_awake
            and transaction.content.size <= MAX_TOGETHER
        )
        together = self._whole(transaction) if flies else b""
        with_data = grouped and policy == "any" and not chunked
        # DESIGN 5.2: without RSET Exim keeps the old sender. In lock step a clean end leaves nothing to reset.
        reset = not self._is_new and (grouped or not self._clean) and not probes
        self.transactions += 1
        number = self.transactions
        was_clean, self._clean, self._is_new = self._clean, False, False

        if grouped:
            group, rest = rcpts[: MAX_UNANSWERED - 3], rcpts[MAX_UNANSWERED - 3 :]
            if probes:
                self._put_probe()
            lines = [command.RSET, mail, *group] if reset else [mail, *group]
            self._put_group(transaction, flight, lines, with_data and not rest, b"" if rest else together)
            if probes:
                yield from self._probe(was_clean)
            elif reset:
                self._reset_answered((yield timeouts.reply), was_clean)
            self.phase = "mail"
            transaction.mail = (self._at_hand() if probes or reset else None) or (yield timeouts.reply)
            self.phase = "rcpt"
            for place in range(len(group)):
                transaction.rcpt[place] = self._at_hand() or (yield timeouts.reply)
            done = len(group)
            while rest and transaction.mail.is_positive:
                group, rest = rest[: MAX_UNANSWERED - 1], rest[MAX_UNANSWERED - 1 :]
                self._put_group(transaction, flight, [*group], with_data and not rest, b"" if rest else together)
                for place in range(done, done + len(group)):
                    transaction.rcpt[place] = self._at_hand() or (yield timeouts.reply)
                done += len(group)
            if rest:
                return  # MAIL was refused, and neither DATA nor content has been sent
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
                transaction.rcpt[place] = self._at_hand() or (yield timeouts.reply)

        self.phase = "data"
        wanted = transaction.everybody_accepted if policy == "all" else transaction.has_recipients
        if together:
            yield from self._await_chunk(transaction, wanted)
        else:
            if not with_data and not wanted:
                return
            if chunked:
                yield from self._put_chunks(transaction, flight)
            elif not (yield from self._put_data(transaction, flight, wanted, with_data)):
                return
            yield from self._await_finals(transaction)
        if chunked and transaction.final is not None and transaction.final.code == 552:
            self.broken = True  # Exim over its limit does not discard the rest of the chunk: DESIGN 5.2
        if self.transactions == number:  # nobody has begun another one behind it
            self._clean = self.lmtp or (transaction.final is not None and transaction.final.is_positive)

    def _reset_answered(self, reply: Reply, was_clean: bool) -> None:
        """A server without RSET is survived where there was nothing to reset."""
        if not reply.is_positive and not was_clean:
            raise self._failed(ProtocolViolation, f"{self.server} refused RSET with {reply}")

    def _put_group(
        self, transaction: Transaction, flight: _Flight, lines: list[bytes], with_data: bool, together: bytes
    ) -> None:
        """Commands of one group, with what may stand at its end: DATA (RFC 2920 3.1), or the whole content."""
        if with_data:
            lines.append(command.DATA)
        self._put(*lines)
        if together:
            self._put_chunk(together, last=True)
            self._ending.append(transaction)
            flight.line_free = True

    def _await_finals(self, transaction: Transaction) -> Generator[float, Reply, None]:
        """What the server says to the content: once, or in LMTP once for each recipient that it accepted."""
        while (due := transaction.next_final) is not None:
            final = self._at_hand() or (yield self.timeouts.final)
            if 300 <= final.code < 400:
                raise self._failed(ProtocolViolation, f"{self.server} answered the end of content with {final}")
            if transaction.finals is None:
                transaction.final = final
            else:
                transaction.finals[due] = final

    def _source_failed(self, transaction: Transaction, error: Exception) -> DeliveryError:
        """DESIGN 4.3: a source that fails in mid-content closes the connection."""
        transaction.error = self._unreadable(error)
        return self._failed(DeliveryError, str(transaction.error))

    def _unreadable(self, error: Exception) -> InvalidInput:
        what = f"the content could not be read to its end: {type(error).__name__}: {error}"
        return InvalidInput(what, field="content", server=self.server)

    # The content, by DATA ----------------------------------------------------------------------------------------

    def _put_data(
        self, transaction: Transaction, flight: _Flight, wanted: bool, with_data: bool
    ) -> Generator[Any, Any, bool]:
        """DATA and the content (RFC 5321 4.1.1.4); False where it did not come to its end."""
        if not with_data:
            self._put(command.DATA)
        data = self._at_hand() or (yield self.timeouts.reply)
        if not 300 <= data.code < 400:
            if data.is_positive:
                raise self._failed(ProtocolViolation, f"{self.server} answered DATA with {data}")
            if wanted:
                transaction.final = data
            return False
        if not wanted:
            if any(reply and reply.is_positive for reply in transaction.rcpt):
                # MAIL refused, recipients taken, content awaited: whose mail would an empty content be?
                raise self._failed(ProtocolViolation, f"{self.server} refused MAIL and went on to ask for the content")
            if self.lmtp:  # RFC 2033 4.2: it must not, and how many replies would follow?
                raise self._failed(ProtocolViolation, f"{self.server} wants content for nobody")
            self._put(command.END)  # RFC 2920 3.1
            self._at_hand() or (yield self.timeouts.final)
            return False
        if self.lmtp:
            transaction.finals = [None] * len(transaction.rcpt)
        try:
            yield from self._put_content(transaction)
        except DeliveryError:
            raise
        except OSError:
            yield from self._last_words(transaction)
            return False
        flight.line_free = True
        return True

    def _put_content(self, transaction: Transaction) -> Generator[Write, None, None]:
        """Stuffed content and the final dot; a large one leaves piece by piece, up to the end that hands it over."""
        whole = transaction.content.whole
        size = 0
        if whole is not None:
            whole = command.stuffed_whole(whole)
            size = len(whole)
            self._unsent += whole
        content = command.stuffed(transaction.content.chunks())
        while whole is None:
            try:
                chunk = next(content, None)
            except Exception as error:
                raise self._source_failed(transaction, error) from error
            if chunk is None:
                break
            size += len(chunk)
            if size <= IN_ONE_PIECE:
                self._unsent += chunk
            else:
                yield Write(chunk, self.timeouts.content)
        self._unsent += command.END
        self._composed += transaction.accepted if self.lmtp else 1
        self._ending.append(transaction)
        if self._transcript:
            self._transcript(">", f"<{size} octets>")
            self._transcript(">", ".")

    def _last_words(self, transaction: Transaction) -> Generator[float, Reply, None]:
        """The content could not be written. DESIGN 4.3: what did the server have to say (421, 552)?"""
        final = self._at_hand() or (yield self.timeouts.reply)
        if final.is_positive:
            raise self._failed(ProtocolViolation, f"{self.server} accepted content that was not sent in full") from None
        transaction.final = final
        self.broken = True

    # The content, by BDAT (RFC 3030) -----------------------------------------------------------------------------

    def _put_probe(self) -> None:
        """BDAT outside of a transaction: who discards its octet sees RSET behind it, who does not sees XRSET.

        go-smtp (issue 315) reads the chunk of a refused BDAT as commands: content made to look like some would be run.
        """
        self.probing = True
        self.discards = False  # until it is proven
        self._put_chunk(b"X", last=False)
        self._put(command.RSET)

    def _probe(self, was_clean: bool) -> Generator[float, Reply, None]:
        """The two replies to the probe: a refusal, and to RSET a success where the octet was discarded."""
        patience = min(self.timeouts.reply, self.timeouts.reused)
        refusal = yield patience
        reset = self._at_hand() or (yield patience)
        self.probing = False
        self.discards = refusal.code >= 400 and reset.is_positive
        self._reset_answered(reset, was_clean)

    def _put_chunk(self, chunk: bytes, last: bool, replies: int = 1) -> None:
        self._unsent += command.bdat(len(chunk), last)
        self._unsent += chunk
        self._composed += replies
        if self._transcript:
            self._transcript(">", f"BDAT {len(chunk)}{' LAST' if last else ''}")
            self._transcript(">", f"<{len(chunk)} octets>")

    def _whole(self, transaction: Transaction) -> bytes:
        """A content that leaves beside its recipients. A source that fails has harmed nothing yet."""
        if transaction.content.whole is not None:
            return transaction.content.whole
        try:
            return b"".join(transaction.content.chunks())
        except Exception as error:
            raise self._unreadable(error) from error

    def _await_chunk(self, transaction: Transaction, wanted: bool) -> Generator[float, Reply, None]:
        """The reply to a content that left beside its recipients."""
        final = self._at_hand() or (yield self.timeouts.final)
        if 300 <= final.code < 400:
            raise self._failed(ProtocolViolation, f"{self.server} answered the end of content with {final}")
        if not self._due and not self._replies.is_empty and not self._replies.says_goodbye:
            # one reply too many, and nobody knows which: any of these may be another's
            transaction.is_confused = self.is_talkative = True
            raise self._failed(ProtocolViolation, f"{self.server} gave more replies than there were commands")
        if wanted:
            transaction.final = final
        elif final.is_positive and any(reply and reply.is_positive for reply in transaction.rcpt):
            transaction.final = final
            raise self._failed(ProtocolViolation, f"{self.server} refused MAIL and took the content")

    def _put_chunks(self, transaction: Transaction, flight: _Flight) -> Generator[Any, Any, None]:
        """The content by one BDAT or several; the last is composed when those before it are answered.

        So no RSET can follow a chunk that is not the last, which crashes Exim (DESIGN 5.2).
        """
        ahead = 0
        most = CHUNKS_AHEAD if "PIPELINING" in self.capabilities else 1  # RFC 3030 2, RFC 2920 3.1
        if self.lmtp:
            transaction.finals = [None] * len(transaction.rcpt)
        chunks = _chunks(transaction.content.chunks())
        try:
            while True:
                try:
                    chunk, last = next(chunks)
                except Exception as error:
                    raise self._source_failed(transaction, error) from error
                # RFC 3030 2: none after a refusal, be it only read and not yet heard
                while ahead and (last or ahead >= most or not self._replies.is_empty):
                    refusal = self._at_hand() or (yield self.timeouts.final)
                    ahead -= 1
                    if not refusal.is_positive:
                        transaction.final = refusal
                        self.broken = True
                        return
                if last:
                    break
                self._put_chunk(chunk, last)
                ahead += 1
                yield Write(self._take(), self.timeouts.content)
        except DeliveryError:
            raise
        except OSError as error:
            while ahead:  # DESIGN 4.3: what did the server have to say (421, 552)?
                refusal = self._at_hand() or (yield self.timeouts.reply)
                ahead -= 1
                if not refusal.is_positive:
                    transaction.final = refusal
                    return
            raise self._lost(error) from error
        self._put_chunk(chunk, last, transaction.accepted if self.lmtp else 1)
        self._ending.append(transaction)
        flight.line_free = True


def _chunks(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Content as chunks for BDAT, and whether each is the last."""
    chunk = b""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        if size + len(piece) > CHUNK and waiting:
            chunk, waiting, size = b"".join(waiting), [], 0
            yield chunk, False
        waiting.append(piece)
        size += len(piece)
    yield b"".join(waiting), True


def _unsettled(flights: deque[_Flight]) -> Iterator[Transaction]:
    return (flight.transaction for flight in flights if flight.transaction is not None)


class _Flight:
    """A transaction in flight: its steps, the time-out of the reply it waits for, whether others may follow it.

    Without a transaction it is a proof that the connection is asked for.
    """

    __slots__ = ("has_begun", "line_free", "steps", "transaction", "wait")

    steps: Generator[Any, Any, None]

    def __init__(self, transaction: Transaction | None) -> None:
        self.transaction = transaction
        self.has_begun = False
        self.wait: float | None = None
        self.line_free = False  # nothing that this one still sends could come between another's commands

    @property
    def commands(self) -> int:
        """How many it sends: RSET, MAIL, each RCPT, and DATA or BDAT."""
        return 3 + len(self.transaction.recipients) if self.transaction is not None else 1


class _Closed(Exception):
    """The server said 421."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply
