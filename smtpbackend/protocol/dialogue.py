"""The lowest layer of a conversation: commands go out, replies come in, and nothing is taken for what it is not.

Any exception that leaves here leaves the dialogue ``broken``: its connection must be closed and never be used again
(DESIGN 4.5).
"""

from __future__ import annotations

from collections.abc import Callable

from smtpbackend.errors import ConnectionLost, DeliveryError, ProtocolViolation, SMTPError, TimedOut, shortened
from smtpbackend.hiding import Mask
from smtpbackend.outcome import Reply
from smtpbackend.protocol.effects import NOW, Conversation, Read, Write
from smtpbackend.protocol.reply import MAX_LINE, ReplyReader
from smtpbackend.protocol.timeouts import DeadlinePassed, Timeouts
from smtpbackend.protocol.transaction import Transaction

__all__ = ["SILENCE", "Dialogue", "Transcript"]

SILENCE = 1.5  # seconds in which nothing may follow 250 to DATA, for the content to leave: DESIGN 4.9
LAST_WORD = 0.5  # seconds for the rest of a goodbye that was begun unasked: it left in one piece, or nearly so

Transcript = Callable[[str, str], object]
"""Takes ">" or "<" and a line that is safe to log."""


class Dialogue:
    """What is composed and not yet sent, read and not yet understood; ``server`` names the peer in errors."""

    def __init__(self, server: str, timeouts: Timeouts, transcript: Transcript | None) -> None:
        self.server = server
        self.timeouts = timeouts
        self.phase = "connect"
        self.broken = False
        self._transcript = transcript
        self._mask: Mask | None = None  # of the secrets that a server may repeat
        self._as_said: Reply | None = None  # the last reply without that
        self._replies = ReplyReader()
        self._unsent = bytearray()
        self._composed = 0  # replies that what is in _unsent will be answered with
        self._due = 1  # replies that what was sent will be answered with; the greeting comes unasked
        self._ending: list[Transaction] = []  # their last octets are in _unsent
        self.is_talkative = False
        """Whether it gave more replies than there were commands: those in flight can only be told apart by counting."""
        self.slowest = 0.0
        """Seconds that the slowest reply took: of the greeting, and of those to one command alone (EHLO, AUTH)."""
        self.reads = 0
        """How often something was read."""
        self._resumed = False
        self._unwritable: OSError | None = None
        self._refusal: Reply | None = None  # to the last command of `_ask`, where nothing was said since

    def resume(self) -> None:
        """Say that the connection comes from the pool: the first reply has `Timeouts.reused` (DESIGN 4.5)."""
        self._resumed = True
        self._refusal = None

    @property
    def is_quiet(self) -> bool:
        """Whether nothing that was read waits to be understood: on an idle connection it could only be bad news."""
        return self._replies.is_empty

    def _put(self, *lines: bytes) -> None:
        self._unsent += b"".join(lines)
        self._composed += len(lines)
        if self._transcript:
            for line in lines:
                self._transcript(">", line[:-2].decode("utf-8"))

    def _take(self) -> bytearray:
        """What is composed, to be given to the wire now. What ends a content is handed over by that (DESIGN 4.3)."""
        if not self._due:  # what is composed comes after every reply to what was sent before it
            if not self._replies.is_empty:
                raise self._spoke()
            self._replies.has_skipped = False
        if self._unwritable is not None:
            raise self._lost(self._unwritable)
        data, self._unsent = self._unsent, bytearray()
        self._due += self._composed
        self._composed = 0
        for transaction in self._ending:
            transaction.handed_over = True
        self._ending.clear()
        return data

    def _flush(self) -> Conversation[None]:
        """Send what is composed, in one write: a write ends at a command's end, and a flight is one write (Nagle)."""
        if not self._unsent:
            return
        try:
            yield Write(self._take(), self.timeouts.content)
        except OSError as error:
            if isinstance(error, DeliveryError):
                raise
            # Not the end yet: a server that hangs up has often said why (DESIGN 4.3).
            self._unwritable = error
            self.broken = True

    def _patience(self, timeout: float) -> float:
        return min(timeout, self.timeouts.reused) if self._resumed or self._unwritable is not None else timeout

    def _ask(self, line: bytes, shown: str | None = None) -> Conversation[Reply]:
        """One command, one reply."""
        if not self._replies.is_empty:
            yield from self._hear_out()
        if self._transcript:
            self._transcript(">", shown or line[:-2].decode("utf-8"))
        self._due += 1
        begun = yield NOW
        try:
            yield Write(line, self.timeouts.reply)
        except OSError as error:
            self._unwritable = error
            self.broken = True
        reply = yield from self._reply(self.timeouts.reply)
        self.slowest = max(self.slowest, (yield NOW) - begun)
        if reply.code == 421:
            self.broken = True
        if reply.code >= 400:
            self._refusal = reply
        return reply

    def _hear_out(self) -> Conversation[None]:
        """Raise what it means that something was read before it was asked for: a goodbye is read to its end first."""
        if self._replies.says_goodbye:
            self._due += 1
            self.is_talkative = True  # unless it says all of it
            reply = yield from self._reply(LAST_WORD)
            self.is_talkative = reply.code != 421
            raise self._left(reply) if reply.code == 421 else self._spoke(True)
        raise self._spoke(True)

    def _stays_silent(self) -> Conversation[bool]:
        """Whether nothing more is said for a while: then the last reply was to the last command, and to no other."""
        try:
            if self._replies.is_empty:
                self._replies.feed((yield Read(SILENCE)))
        except OSError as error:
            return isinstance(error, TimeoutError) and not isinstance(error, DeadlinePassed)
        return False

    def _spoke(self, is_talkative: bool = False) -> DeliveryError:
        """DESIGN 4.5: what came before it was asked for would be taken for the answer to the next command.

        Only 421 may come so (RFC 5321 3.8): then it is the reason why the connection ends.
        """
        if not is_talkative and self._replies.says_goodbye:
            if (reply := self._heard()) is not None:
                return self._left(reply)
        else:
            self.is_talkative = True
        return self._failed(ProtocolViolation, f"{self.server} spoke when it was not asked ({self.phase})")

    def _left(self, reply: Reply) -> DeliveryError:
        """The error of a 421."""
        return self._failed(ConnectionLost, f"{self.server} closed the connection: {reply}", reply)

    def _reply(self, timeout: float, goes_on: bool = False) -> Conversation[Reply]:
        """The next reply, whatever it is. ``timeout`` (seconds) is for all of it; ``goes_on`` as in `Read`."""
        read: Read | None = None
        if not self._due:  # the one that is awaited is to what was not sent yet
            yield from self._flush()
        try:
            while (reply := self._heard()) is None:
                if self._unsent:
                    yield from self._flush()
                read = read or Read(self._patience(timeout), goes_on)
                data = yield read
                if not data:
                    raise self._hung_up(f"{self.server} closed the connection")
                self.reads += 1
                self._replies.feed(data)
        except TimeoutError as error:
            if isinstance(error, SMTPError):
                self.broken = True
                raise
            limit = f"at most {self._patience(timeout):g} s); see timeout"
            if isinstance(error, DeadlinePassed):
                limit = f"{error})"
            raise self._failed(TimedOut, f"{self.server} did not answer in time ({self.phase}, {limit}") from error
        except OSError as error:
            if isinstance(error, SMTPError):
                self.broken = True
                raise
            raise self._hung_up(f"the connection to {self.server} was lost", f": {error}") from error
        self._resumed = False
        self._refusal = None
        return reply

    def _hung_up(self, what: str, why: str = "") -> DeliveryError:
        """The error of a connection that ended without a word: what was refused just before is the reason for it."""
        behind = "" if self._refusal is None else f" behind {self._refusal}"
        return self._failed(ConnectionLost, f"{what}{behind} ({self.phase}){why}", self._refusal)

    def _heard(self) -> Reply | None:
        """The next reply of what was read already, or None."""
        violation = ""
        try:
            reply = self._replies.next()
        except ProtocolViolation as error:
            violation = self._masked(str(error))
        if violation:  # raised here: the error that quotes the line must not go along as its context
            raise self._failed(ProtocolViolation, f"{self.server}: {violation}")
        if reply is None:
            return None
        if self._due:
            self._due -= 1
        if self._mask is not None:
            self._as_said = reply
            reply = Reply(reply.code, reply.enhanced, tuple([self._mask(line) for line in reply.lines]))
        if self._transcript:
            self._transcript("<", shortened(reply.whole, MAX_LINE))
        return reply

    def _hide(self, *secrets: str) -> None:
        """From now on show none of these, wherever the server repeats it."""
        if self._mask is None:
            self._mask = Mask()
        self._mask.add(*secrets)

    def _masked(self, text: str) -> str:
        """What the server said, without secrets in it."""
        return text if self._mask is None else self._mask(text)

    def _said(self, reply: Reply) -> Reply:
        """The reply just heard as it was said: for what is read and not shown."""
        return reply if self._mask is None or self._as_said is None else self._as_said

    def _lost(self, error: OSError) -> DeliveryError:
        return self._failed(ConnectionLost, f"{self.server} could not be written to: {error}")

    def _failed(self, kind: type[DeliveryError], message: str, reply: Reply | None = None) -> DeliveryError:
        self.broken = True
        return kind(message, server=self.server, reply=reply)
