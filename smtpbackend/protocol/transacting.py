"""One mail transaction as a straight dialogue: its commands, its content by DATA or by BDAT, the replies to each.

It composes what may go out in one group and yields where it needs a reply, or writes a piece of a large content; who
hands it the replies, and what else is in flight, is the matter of ``delivering.py``. Content beside its recipients a
connection has to earn, by `_probe` (DESIGN 5.1).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from smtpbackend.errors import DeliveryError, InvalidInput, ProtocolViolation
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.dialogue import Dialogue, Transcript
from smtpbackend.protocol.effects import Write
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.protocol.transaction import Transaction

__all__ = ["MAX_UNANSWERED", "Closed", "Flight", "Transacting"]

MAX_UNANSWERED = 256  # commands in flight on one connection: DESIGN 5.2
MAX_TOGETHER = 256 * 1024  # octets of content that may leave beside its recipients: DESIGN 5.1
IN_ONE_PIECE = 65536  # octets of content that may share a write with commands
CHUNK = 256 * 1024  # octets of one BDAT of a large content
CHUNKS_AHEAD = 4  # chunks without a reply: enough to fill 1 MB of a network's delay


class Flight:
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


class Closed(Exception):
    """The server said 421."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class Transacting(Dialogue):
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
        self._is_new = True  # whether nothing was said since the greeting, or RSET, that RSET would have to clear
        self._clean = True  # whether the last transaction left nothing behind that RSET would have to clear

    def _transact(
        self, flight: Flight, transaction: Transaction, policy: str, chunk_in_flight: str
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
            raise Closed(reply)
        return reply

    def _reset_answered(self, reply: Reply, was_clean: bool) -> None:
        """A server without RSET is survived where there was nothing to reset."""
        if not reply.is_positive and not was_clean:
            raise self._failed(ProtocolViolation, f"{self.server} refused RSET with {reply}")

    def _put_group(
        self, transaction: Transaction, flight: Flight, lines: list[bytes], with_data: bool, together: bytes
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
        self, transaction: Transaction, flight: Flight, wanted: bool, with_data: bool
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

    def _put_chunks(self, transaction: Transaction, flight: Flight) -> Generator[Any, Any, None]:
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
