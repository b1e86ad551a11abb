"""One mail transaction (RFC 5321 3.3) as a straight dialogue: its commands, its content, the replies to each.

The steps of a `Flight` compose what may go out in one group, and yield the time-out of each reply that they need, or an
effect of the wire: a piece of a large content, or the time. ``pipeline.py`` hands them the replies. A content goes by
DATA, or as one chunk (BDAT) on a connection that has proved that it discards a chunk that it refuses (DESIGN 5.1).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from smtpbackend.errors import DeliveryError, InvalidInput, ProtocolViolation
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.effects import NOW, OF_THE_WIRE, Write
from smtpbackend.protocol.history import History
from smtpbackend.protocol.line import Line
from smtpbackend.protocol.transaction import Transaction

__all__ = [
    "GROUP",
    "MAX_CHUNK",
    "MAX_UNANSWERED",
    "OVERLAP_PATIENCE",
    "PROBE_PATIENCE",
    "PROBE_SLOW",
    "Flight",
    "OverlapProof",
    "Terms",
    "TransactionSteps",
]

MAX_UNANSWERED = 256  # commands in flight on one connection: DESIGN 5.2
GROUP = MAX_UNANSWERED - 3  # of them in one group: DATA or BDAT may come on top, and the two of a probe
MAX_CHUNK = 256 * 1024  # octets of content that may leave as one chunk: DESIGN 5.1
IN_ONE_PIECE = 65536  # octets of content that may share a write with commands
OVERLAP_PATIENCE = 3.0  # seconds for a RSET in the write that ended a content, whose reply has come: DESIGN 5.2
PROBE_PATIENCE = 2.0  # seconds for the replies to a probe: DESIGN 5.1
PROBE_SLOW = 1.0  # seconds over which a probe is slow, where it also took twice the slowest other reply: DESIGN 5.1
UNKNOWN = (500, 502, 504)  # RFC 5321 4.2.2: the command or its parameter is not known, or not implemented


class Terms(NamedTuple):
    """How mail is sent on a connection. ``probe_from`` is the number of the transaction from which on it may be asked
    to prove that it discards refused chunks, None: never; ``grouped``: commands may leave in groups (RFC 2920).
    """

    capabilities: Capabilities
    lmtp: bool
    policy: str
    probe_from: int | None
    grouped: bool

    @property
    def can_prove(self) -> bool:
        """Whether a connection can prove that it discards refused chunks.

        In LMTP none can: how many replies come to a chunk depends on those to the recipients.
        """
        return self.grouped and not self.lmtp and {"CHUNKING", "SIZE"} <= self.capabilities.keys()


class Flight:
    """What waits for replies on a line: a transaction, or without one a proof that the connection is asked for."""

    transaction: Transaction | None
    has_begun = False
    wait: float | None = None
    """The time-out of the reply that it waits for; None: it waits for none."""
    line_free = False
    """Whether others may follow: nothing that this one still sends could come between their commands."""
    clears = False
    """Whether the reply that it waits for is to RSET or to the probe, and not to a command of its message."""

    def __init__(self, line: Line, history: History, terms: Terms, transaction: Any = None) -> None:
        self.line = line
        self.history = history
        self.terms = terms
        self.transaction = transaction
        self.steps = self._converse()

    def _converse(self) -> Generator[Any, Any, None]:
        raise NotImplementedError

    def advance(self, answer: Any = None, error: OSError | None = None) -> Any:
        """Go on with the steps. Returns an effect for the wire; None where they wait for a reply, or are over."""
        try:
            step = self.steps.send(answer) if error is None else self.steps.throw(error)
        except StopIteration:
            self.wait, self.line_free = None, True
            return None
        if type(step) in OF_THE_WIRE:
            return step
        self.wait = step
        return None

    def take_reset_reply(self, reply: Reply) -> None:
        """The reply to RSET. What a refusal means, the next reply tells, or the end of the connection."""
        self.clears = False
        self.line.phase = "mail"
        self.history.refused_reset = None if reply.code < 300 else reply


class OverlapProof(Flight):
    """RSET alone, in the write that ends the first content (DESIGN 5.2).

    The window opens when both are answered. Courier discards whatever it has read behind the dot.
    """

    def _converse(self) -> Generator[float, Reply, None]:
        line, history = self.line, self.history
        line.put(command.RSET)
        self.has_begun = self.clears = history.overlapping = True
        history.overlaps = False  # until it is proved
        reply = yield min(line.timeouts.reply, OVERLAP_PATIENCE)
        self.take_reset_reply(reply)
        history.overlapping = history.refused_reset is not None
        history.overlaps = reply.is_positive
        if history.overlaps:
            history.latest = None


class TransactionSteps(Flight):
    """A transaction, in which the replies to it are noted."""

    transaction: Transaction

    def _converse(self) -> Generator[Any, Any, None]:
        """Raises `InvalidInput` before anything is composed.

        The first reply is given when it is this transaction's turn. Replies that were read already are then taken
        without a wait.
        """
        line, history, terms, transaction = self.line, self.history, self.terms, self.transaction
        commands = transaction.commands(terms.capabilities)
        chunk = self._chunk()
        ahead = terms.policy == "any" and not history.refusals  # after a refusal the next recipient may be refused too
        beside = chunk if ahead and transaction.is_awake else b""  # leaves in the group of the recipients
        with_data = terms.grouped and ahead and not chunk
        follows = bool(line.unanswered)
        was_clean = history.latest is None or history.latest.left_nothing
        history.latest = transaction
        history.transactions += 1
        transaction.number = history.transactions
        if not follows:
            line.phase = "mail"
        probed_at: float | None = None
        if was_clean and not follows and terms.probe_from is not None and self._may_probe(terms.probe_from):
            probed_at = yield NOW
            self._put_probe()
        elif follows or not was_clean:  # DESIGN 5.2: without RSET Exim keeps the old sender
            self.clears = True
            commands.insert(0, command.RSET)
        if not (yield from self._envelope(commands, with_data, beside, probed_at, was_clean)):
            return
        if line.has_unasked:
            transaction.forget_replies()  # there is one too many
            raise line.spoke_unasked()
        line.phase = "data"
        wanted = transaction.everybody_accepted if terms.policy == "all" else transaction.has_recipients
        if beside or (chunk and wanted):
            if not beside:
                self._put_chunk(chunk)
            yield from self._await_chunk(wanted)
        elif wanted or with_data:
            yield from self._by_data(wanted, with_data)

    def _envelope(
        self, commands: list[bytes], with_data: bool, beside: bytes, probed_at: float | None, was_clean: bool
    ) -> Generator[Any, Any, bool]:
        """MAIL and RCPT in groups, and the replies; False where MAIL was refused ahead of the last group."""
        line, history, transaction = self.line, self.history, self.transaction
        batch = GROUP if self.terms.grouped else 1
        is_first = self.terms.grouped and history.transactions == 1
        has_turn = False
        rcpt = transaction.rcpt
        before = len(commands) - len(rcpt)  # MAIL, and perhaps RSET
        for start in range(0, len(commands), batch):
            end = min(start + batch, len(commands))
            is_last = end == len(commands)
            group = commands if is_last and not start else commands[start:end]
            if with_data and is_last:
                group.append(command.DATA)  # RFC 2920 3.1: at the end of a group
            line.put(*group)
            if beside and is_last:
                self._put_chunk(beside)
            if probed_at is not None and not has_turn:
                yield from self._await_probe(probed_at)
                has_turn = True
            for place in range(start - before, end - before):
                reply = (line.reply_at_hand() if has_turn else None) or (yield line.timeouts.reply)
                has_turn = True
                if place >= 0:
                    rcpt[place] = reply
                elif place == -1:
                    if history.refused_reset is not None:
                        self._go_on_without_reset(was_clean)
                    transaction.mail = reply
                    line.phase = "rcpt"
                else:
                    self.take_reset_reply(reply)
                if is_first and reply.code == 503:
                    self._check_order(reply)
            if not (is_last or transaction.mail is None or transaction.mail.is_positive):
                return False
        return True

    def _go_on_without_reset(self, was_clean: bool) -> None:
        """A server may refuse RSET where there was nothing to reset."""
        history, refusal = self.history, self.history.refused_reset
        history.refused_reset = None
        history.probing = history.overlapping = False
        if not was_clean:
            raise self.line.fatal(ProtocolViolation, f"{self.line.server} refused RSET with {refusal}")

    def _check_order(self, reply: Reply) -> None:
        """503 is about the order of commands, which was right: the server has not read all of the group.

        The first message of a connection shows it. Its replies say nothing about sender or recipient.
        """
        transaction = self.transaction
        if transaction.mail is not None and (transaction.mail is reply or transaction.mail.is_positive):
            transaction.forget_replies()
            self.history.mixes_up = True
            raise self.line.fatal(
                ProtocolViolation, f"{self.line.server} answered {reply}: it does not read all commands of a group"
            )

    def _unreadable(self, error: Exception) -> InvalidInput:
        what = f"the content could not be read to its end: {type(error).__name__}: {error}"
        return InvalidInput(what, field="content", server=self.line.server)

    def _check_final(self, final: Reply) -> None:
        if 300 <= final.code < 400:
            raise self.line.fatal(ProtocolViolation, f"{self.line.server} answered the end of content with {final}")

    # The content, by DATA ----------------------------------------------------------------------------------------

    def _by_data(self, wanted: bool, with_data: bool) -> Generator[Any, Any, None]:
        """DATA, the content, and the replies to both (RFC 5321 4.1.1.4)."""
        line, transaction = self.line, self.transaction
        if not with_data:
            line.put(command.DATA)
        data = line.reply_at_hand() or (yield line.timeouts.reply)
        # some servers say 250 for 354; after a group, or if another reply follows, it is to another command
        go_on = data.is_positive and not with_data and (yield from line.stays_silent())
        if not (300 <= data.code < 400 or go_on):
            if data.is_positive:
                raise line.fatal(ProtocolViolation, f"{line.server} answered DATA with {data}")
            if wanted and data.code == 503 and with_data and self.history.transactions == 1:
                self._check_order(data)
            transaction.refuse(data, wanted)
        elif wanted:
            if self.terms.lmtp:
                transaction.finals = [None] * len(transaction.rcpt)
            try:
                yield from self._put_content()
            except DeliveryError:
                raise
            except OSError:
                yield from self._last_words()
                return
            self.line_free = True
            yield from self._await_finals()
        else:
            yield from self._put_nothing()

    def _put_nothing(self) -> Generator[float, Reply, None]:
        """The server asks for a content although no recipient was accepted: it ends at once (RFC 2920 3.1)."""
        line, transaction = self.line, self.transaction
        if transaction.accepted:
            # MAIL was refused and recipients were accepted: an empty content might be taken for a mail to them
            raise line.fatal(ProtocolViolation, f"{line.server} refused MAIL and asked for the content")
        if self.terms.lmtp:  # RFC 2033 4.2 forbids it, and nothing says how many replies would follow
            raise line.fatal(ProtocolViolation, f"{line.server} asked for the content, and accepted no recipient")
        line.put(command.END)
        transaction.unwanted = line.reply_at_hand() or (yield line.timeouts.final)

    def _put_content(self) -> Generator[Write, None, None]:
        """Stuffed content and the final dot; a large one leaves piece by piece, up to the end that hands it over."""
        line, transaction = self.line, self.transaction
        whole = transaction.content.whole
        size = 0
        if whole is not None:
            whole = command.stuffed_whole(whole)
            size = len(whole)
            line.put_octets(whole)
        content = command.stuffed(transaction.content.chunks())
        while whole is None:
            try:
                chunk = next(content, None)
            except Exception as error:  # DESIGN 4.3: it closes the connection
                transaction.error = self._unreadable(error)
                raise line.fatal(DeliveryError, str(transaction.error)) from error
            if chunk is None:
                break
            size += len(chunk)
            if size <= IN_ONE_PIECE:
                line.put_octets(chunk)
            else:
                yield Write(chunk, line.timeouts.content)
        line.put_end(transaction, size, transaction.accepted if self.terms.lmtp else 1)

    def _last_words(self) -> Generator[float, Reply, None]:
        """The content could not be written: the server may have said why (421, 552; DESIGN 4.3)."""
        line = self.line
        final = line.reply_at_hand() or (yield line.timeouts.reply)
        if final.is_positive:
            raise line.fatal(ProtocolViolation, f"{line.server} accepted content that was not sent in full") from None
        self.transaction.final = final

    def _await_finals(self) -> Generator[float, Reply, None]:
        """The reply to the content; in LMTP one for each accepted recipient."""
        transaction = self.transaction
        while (due := transaction.next_final) is not None:
            final = self.line.reply_at_hand() or (yield self.line.timeouts.final)
            self._check_final(final)
            if transaction.finals is None:
                transaction.final = final
            else:
                transaction.finals[due] = final

    # The content, as one chunk (RFC 3030) ------------------------------------------------------------------------

    def _chunk(self) -> bytes:
        """The whole content, where it may leave as one chunk; empty where it goes by DATA (DESIGN 5.1).

        Exim over its limit refuses a chunk and reads it as commands, proof or not, unless MAIL declared the SIZE. A
        source that fails has harmed nothing yet: raises `InvalidInput`.
        """
        content = self.transaction.content
        if not (self.history.discards and "SIZE" in self.terms.capabilities and content.size <= MAX_CHUNK):
            return b""
        if content.whole is not None:
            return content.whole
        try:
            return b"".join(content.chunks())
        except Exception as error:
            raise self._unreadable(error) from error

    def _put_chunk(self, chunk: bytes) -> None:
        self.line.put_chunk(self.transaction, chunk)
        self.transaction.is_chunked = True
        self.line_free = True

    def _await_chunk(self, wanted: bool) -> Generator[float, Reply, None]:
        """The reply to a chunk, which may have left in the group of the recipients."""
        line, transaction = self.line, self.transaction
        final = line.reply_at_hand() or (yield line.timeouts.final)
        self._check_final(final)
        if line.has_unasked:
            transaction.is_confused = True
            raise line.too_many_replies()
        if wanted:
            transaction.final = final
        elif final.is_positive and transaction.accepted:
            transaction.final = final
            raise line.fatal(ProtocolViolation, f"{line.server} refused MAIL and accepted the content")
        else:
            transaction.refuse(final, wanted)

    def _may_probe(self, probe_from: int) -> bool:
        """Whether this connection can prove that it discards refused chunks, and was not asked yet."""
        history = self.history
        return history.transactions >= probe_from and history.discards is None and self.terms.can_prove

    def _put_probe(self) -> None:
        """BDAT outside of a transaction: a server that discards its octet sees RSET behind it, else XRSET.

        go-smtp (issue 315) reads the chunk of a refused BDAT as commands: content made to look like some would be run.
        """
        self.clears = self.history.probing = True
        self.history.discards = False  # until it is proved
        self.line.put(command.bdat(1, last=False))
        self.line.put_octets(b"X")
        self.line.put(command.RSET)

    def _await_probe(self, probed_at: float) -> Generator[Any, Any, None]:
        """The two replies to the probe: a refusal of BDAT, and to RSET 250 where X was discarded."""
        line, history = self.line, self.history
        patience = min(line.timeouts.reply, PROBE_PATIENCE)
        refusal = yield patience
        history.refusals += refusal.code >= 400
        reset = line.reply_at_hand() or (yield patience)
        self.take_reset_reply(reset)
        history.probing = history.refused_reset is not None
        history.probed_slowly = (yield NOW) - probed_at > max(PROBE_SLOW, 2 * line.slowest)
        history.discards = refusal.is_permanent and refusal.code not in UNKNOWN and reset.code == 250
