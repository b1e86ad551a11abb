"""One mail transaction as a straight dialogue: its commands, its content by DATA or as one chunk, the replies to each.

It composes what may go out in one group and yields where it needs a reply, or writes a piece of a large content; who
hands it the replies, and what else is in flight, is the matter of ``delivering.py``. A chunk (BDAT) is sent only on a
connection that has proven that it discards one that it refuses (DESIGN 5.1).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from smtpbackend.errors import DeliveryError, InvalidInput, ProtocolViolation
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.dialogue import Dialogue, Transcript
from smtpbackend.protocol.effects import NOW, Write
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.protocol.transaction import Transaction

__all__ = ["GROUP", "MAX_CHUNK", "MAX_UNANSWERED", "PROBE_PATIENCE", "Closed", "Flight", "Transacting"]

MAX_UNANSWERED = 256  # commands in flight on one connection: DESIGN 5.2
GROUP = MAX_UNANSWERED - 3  # of them in one group: DATA or BDAT may come on top, and the two of a probe
MAX_CHUNK = 256 * 1024  # octets of content that may leave as one chunk: DESIGN 5.1
IN_ONE_PIECE = 65536  # octets of content that may share a write with commands
PROBE_PATIENCE = 2.0  # seconds for the replies to a probe: DESIGN 5.1
PROBE_SLOW = 1.0  # seconds over which a probe is slow, where it also took twice the slowest other reply: DESIGN 5.1
UNKNOWN = (500, 502, 504)  # RFC 5321 4.2.2: the command or its parameter is not known, or not implemented


class Flight:
    """A transaction in flight: its steps, the time-out of the reply it waits for, whether others may follow it.

    Without a transaction it is a proof that the connection is asked for.
    """

    __slots__ = ("clears", "has_begun", "line_free", "steps", "transaction", "wait")

    steps: Generator[Any, Any, None]

    def __init__(self, transaction: Transaction | None) -> None:
        self.transaction = transaction
        self.has_begun = False
        self.wait: float | None = None
        self.line_free = False  # nothing that this one still sends could come between another's commands
        self.clears = False  # the reply that it waits for is to RSET or to the probe, and no message's


class Closed(Exception):
    """The server said 421: that reply is the argument."""


class Transacting(Dialogue):
    """A dialogue that carries mail. ``transactions`` tells how many were begun on this connection."""

    def __init__(self, server: str, timeouts: Timeouts, transcript: Transcript | None, lmtp: bool = False) -> None:
        super().__init__(server, timeouts, transcript)
        self.lmtp = lmtp
        """Whether each accepted recipient has a final reply of its own (RFC 2033 4.2)."""
        self.capabilities = Capabilities()
        self.in_lock_step = False
        """Whether each command waits for the reply to the one before it, whatever the server offers."""
        self.mixes_up = False
        """Whether a group of commands was answered as if some of it had not been read."""
        self.transactions = 0
        self.discards: bool | None = None
        """Whether it has proven that the chunk of a BDAT that it refuses is not read as commands; None: not asked."""
        self.probing = False
        """Whether the connection was asked to prove that, and has not answered."""
        self.probed_slowly = False
        """Whether its answer took so long that it may have been a punishment."""
        self.refusals = 0
        """Errors since the last accepted message: senders, recipients, contents; DATA for nobody; the probe."""
        self._latest: Transaction | None = None  # begun, and not followed by RSET
        self._refused_reset: Reply | None = None  # until the next reply

    @property
    def pipelines(self) -> bool:
        """Whether commands may leave in groups (RFC 2920)."""
        return "PIPELINING" in self.capabilities and not self.in_lock_step

    def _transact(
        self, flight: Flight, transaction: Transaction, policy: str, probe_from: int | None
    ) -> Generator[Any, Any, None]:
        """One transaction as a straight dialogue: composes commands, yields the time-out of each reply it needs.

        It is given its first reply when it is its turn; from then on it may take what is at hand.
        """
        commands = transaction.commands(self.capabilities)
        chunk = self._chunk(transaction)
        grouped = self.pipelines
        ahead = policy == "any" and not self.refusals  # in a run of dead addresses it would be for nobody
        beside = chunk if ahead and transaction.is_awake else b""
        with_data = grouped and ahead and not chunk
        follows = bool(self._due or self._composed)  # others are in flight
        was_clean = self._latest is None or self._latest.left_nothing
        self._latest = transaction
        self.transactions += 1
        transaction.number = self.transactions
        if not follows:
            self.phase = "mail"
        begun: float | None = None
        if probe_from is not None and self.transactions >= probe_from and was_clean and not follows and self._may_probe:
            begun = yield NOW
            self._put_probe(flight)
        elif follows or not was_clean:  # DESIGN 5.2: without RSET Exim keeps the old sender
            flight.clears = True
            commands.insert(0, command.RSET)
        batch = GROUP if grouped else 1
        is_first = grouped and self.transactions == 1
        heard = False
        rcpt = transaction.rcpt
        before = len(commands) - len(rcpt)  # MAIL, and perhaps RSET
        for start in range(0, len(commands), batch):
            end = min(start + batch, len(commands))
            is_last = end == len(commands)
            group = commands if is_last and not start else commands[start:end]
            if with_data and is_last:
                group.append(command.DATA)  # RFC 2920 3.1: at the end of a group
            self._put(*group)
            if beside and is_last:
                self._put_chunk(transaction, flight, beside)
            if begun is not None and not heard:
                yield from self._hear_probe(flight, begun)
                heard = True
            for place in range(start - before, end - before):
                reply = (self._at_hand() if heard else None) or (yield self.timeouts.reply)
                heard = True
                if place >= 0:
                    rcpt[place] = reply
                elif place == -1:
                    if self._refused_reset is not None:
                        self._go_on_without_reset(was_clean)
                    transaction.mail = reply
                    self.phase = "rcpt"
                else:
                    self._hear_reset(flight, reply)
                if is_first and reply.code == 503:
                    self._check_order(transaction, reply)
            if not (is_last or transaction.mail is None or transaction.mail.is_positive):
                return  # and neither DATA nor content has been sent
        if not (self._due or self._replies.is_empty or self._replies.says_goodbye):
            transaction.forget_replies()  # one is too many, and any of them may be another's
            raise self._spoke(True)
        self.phase = "data"
        wanted = transaction.everybody_accepted if policy == "all" else transaction.has_recipients
        if beside:
            yield from self._await_chunk(transaction, wanted)
        elif chunk and wanted:
            self._put_chunk(transaction, flight, chunk)
            yield from self._await_chunk(transaction, wanted)
        elif wanted or with_data:
            yield from self._by_data(transaction, flight, wanted, with_data)

    def _at_hand(self) -> Reply | None:
        """The next reply, where it is awaited and was read already: most come together."""
        if not self._due:
            return None
        ready = self._replies.ready
        if ready and self._transcript is None and self._mask is None:
            self._due -= 1
            reply: Reply | None = ready.popleft()
        else:
            reply = self._heard()
        if reply is not None and reply.code == 421:
            raise Closed(reply)
        return reply

    def _hear_reset(self, flight: Flight, reply: Reply) -> None:
        """What a refusal means, the next reply tells, or the end of the connection."""
        flight.clears = False
        self.phase = "mail"
        self._refused_reset = None if reply.code < 300 else reply

    def _go_on_without_reset(self, was_clean: bool) -> None:
        """A server without RSET is survived where there was nothing to reset."""
        reply, self._refused_reset = self._refused_reset, None
        self.probing = self.overlapping = False
        if not was_clean:
            raise self._failed(ProtocolViolation, f"{self.server} refused RSET with {reply}")

    def _check_order(self, transaction: Transaction, reply: Reply) -> None:
        """503 is about the order of commands, which was right: the server has not read all of the group.

        The first message of a connection shows it. What it was answered says nothing about sender or recipient.
        """
        if transaction.mail is not None and (transaction.mail is reply or transaction.mail.is_positive):
            transaction.forget_replies()
            self.mixes_up = True
            raise self._failed(
                ProtocolViolation, f"{self.server} answered {reply}: it does not read what is sent as one group"
            )

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

    def _unreadable(self, error: Exception) -> InvalidInput:
        what = f"the content could not be read to its end: {type(error).__name__}: {error}"
        return InvalidInput(what, field="content", server=self.server)

    # The content, by DATA ----------------------------------------------------------------------------------------

    def _by_data(
        self, transaction: Transaction, flight: Flight, wanted: bool, with_data: bool
    ) -> Generator[Any, Any, None]:
        """DATA, the content, and the replies to both (RFC 5321 4.1.1.4)."""
        if not with_data:
            self._put(command.DATA)
        data = self._at_hand() or (yield self.timeouts.reply)
        # some servers say 250 for 354; behind a group, and where another reply follows, it is another command's
        go_on = data.is_positive and not with_data and (yield from self._stays_silent())
        if not (300 <= data.code < 400 or go_on):
            if data.is_positive:
                raise self._failed(ProtocolViolation, f"{self.server} answered DATA with {data}")
            if wanted and data.code == 503 and with_data and self.transactions == 1:
                self._check_order(transaction, data)
            transaction.refuse(data, wanted)
        elif wanted:
            if self.lmtp:
                transaction.finals = [None] * len(transaction.rcpt)
            try:
                yield from self._put_content(transaction)
            except DeliveryError:
                raise
            except OSError:
                yield from self._last_words(transaction)
                return
            flight.line_free = True
            yield from self._await_finals(transaction)
        else:
            yield from self._put_nothing(transaction)

    def _put_nothing(self, transaction: Transaction) -> Generator[float, Reply, None]:
        """The server asks for a content although nobody is to get it: it ends at once (RFC 2920 3.1)."""
        if transaction.accepted:
            # MAIL refused, recipients taken, content awaited: whose mail would an empty content be?
            raise self._failed(ProtocolViolation, f"{self.server} refused MAIL and went on to ask for the content")
        if self.lmtp:  # RFC 2033 4.2: it must not, and how many replies would follow?
            raise self._failed(ProtocolViolation, f"{self.server} wants content for nobody")
        self._put(command.END)
        transaction.for_nobody = self._at_hand() or (yield self.timeouts.final)

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
            except Exception as error:  # DESIGN 4.3: it closes the connection
                transaction.error = self._unreadable(error)
                raise self._failed(DeliveryError, str(transaction.error)) from error
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

    # The content, as one chunk (RFC 3030) ------------------------------------------------------------------------

    def _chunk(self, transaction: Transaction) -> bytes:
        """The whole content, where it may leave as one chunk; nothing where it goes by DATA (DESIGN 5.1).

        Exim over its limit refuses a chunk and reads it as commands, proof or not, unless MAIL declared the SIZE. A
        source that fails has harmed nothing yet: raises `InvalidInput`.
        """
        content = transaction.content
        if not (self.discards and "SIZE" in self.capabilities and content.size <= MAX_CHUNK):
            return b""
        if content.whole is not None:
            return content.whole
        try:
            return b"".join(content.chunks())
        except Exception as error:
            raise self._unreadable(error) from error

    def _put_chunk(self, transaction: Transaction, flight: Flight, chunk: bytes) -> None:
        self._put(command.bdat(len(chunk), last=True))
        self._unsent += chunk
        if self._transcript:
            self._transcript(">", f"<{len(chunk)} octets>")
        transaction.is_chunked = True
        self._ending.append(transaction)
        flight.line_free = True

    def _await_chunk(self, transaction: Transaction, wanted: bool) -> Generator[float, Reply, None]:
        """The reply to a chunk, which may have left beside its recipients."""
        final = self._at_hand() or (yield self.timeouts.final)
        if 300 <= final.code < 400:
            raise self._failed(ProtocolViolation, f"{self.server} answered the end of content with {final}")
        if not self._due and not self._replies.is_empty and not self._replies.says_goodbye:
            # one reply too many, and nobody knows which: any of these may be another's
            transaction.is_confused = self.is_talkative = True
            raise self._failed(ProtocolViolation, f"{self.server} gave more replies than there were commands")
        if wanted:
            transaction.final = final
        elif final.is_positive and transaction.accepted:
            transaction.final = final
            raise self._failed(ProtocolViolation, f"{self.server} refused MAIL and took the content")
        else:
            transaction.refuse(final, wanted)

    @property
    def _may_probe(self) -> bool:
        """Whether there is a proof to be had, for which this connection was not asked yet.

        In LMTP there is none: how many replies come to a chunk depends on those to the recipients.
        """
        needed = {"CHUNKING", "SIZE"}
        return self.discards is None and self.pipelines and not self.lmtp and needed <= self.capabilities.keys()

    def _put_probe(self, flight: Flight) -> None:
        """BDAT outside of a transaction: who discards its octet sees RSET behind it, who does not sees XRSET.

        go-smtp (issue 315) reads the chunk of a refused BDAT as commands: content made to look like some would be run.
        """
        flight.clears = self.probing = True
        self.discards = False  # until it is proven
        self._put(command.bdat(1, last=False))
        self._unsent += b"X"
        self._put(command.RSET)

    def _hear_probe(self, flight: Flight, begun: float) -> Generator[Any, Any, None]:
        """The two replies to the probe: a refusal of BDAT where it stands, and to RSET 250 where X was discarded."""
        patience = min(self.timeouts.reply, PROBE_PATIENCE)
        refusal = yield patience
        self.refusals += refusal.code >= 400
        reset = self._at_hand() or (yield patience)
        self._hear_reset(flight, reset)
        self.probing = self._refused_reset is not None  # until the next reply: the refusal may be its last word
        self.probed_slowly = (yield NOW) - begun > max(PROBE_SLOW, 2 * self.slowest)
        self.discards = refusal.is_permanent and refusal.code not in UNKNOWN and reset.code == 250
