"""The line to one server: commands go out and replies come in, and no reply is taken for another's.

Replies are matched with commands by counting (RFC 2920 3.1): `put` and `ask` count the replies to come, and each one
that is read counts one fewer. What is read while none is awaited is an error (DESIGN 4.5). Attributes of a `Line` are
set in this module alone, but for `phase`: it says in errors and events what the line is used for.

A line ends once, by `Line.end`: with every error that `fatal` makes, and where a conversation is broken off. Then its
connection must be closed, and is never used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from smtpbackend.errors import ConnectionLost, DeliveryError, ProtocolViolation, SMTPError, TimedOut, shortened
from smtpbackend.hiding import Mask
from smtpbackend.known_replies import explained
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.effects import NOW, Conversation, Read, Write
from smtpbackend.protocol.reply import MAX_LINE, ReplyReader
from smtpbackend.protocol.timeouts import DeadlinePassed, Timeouts
from smtpbackend.protocol.transaction import Transaction
from smtpbackend.spelling import KEYWORDS, Spelling

__all__ = ["SILENCE", "Closed", "Line", "Transcript"]

SILENCE = 1.5  # seconds in which nothing may follow 250 to DATA, before the content is sent: DESIGN 4.9
LAST_WORD = 0.5  # seconds for the rest of a 421 whose beginning came unasked: servers send it in one piece, or nearly

Transcript = Callable[[str, str], object]
"""Takes ">" or "<" and a line that is safe to log."""


class Closed(Exception):
    """The server said 421: that reply is the argument."""


class Line:
    """What is composed and not yet sent, read and not yet parsed; ``server`` names the peer in errors.

    ``spelled`` says how errors write settings.
    """

    def __init__(
        self, server: str, timeouts: Timeouts, transcript: Transcript | None, spelled: Spelling = KEYWORDS
    ) -> None:
        self.server = server
        self.spelled = spelled
        self.timeouts = timeouts
        self.phase = "connect"
        self.ended: str | None = None
        """Why the connection must not be used again."""
        self.unsent = bytearray()
        """What is composed and has not left."""
        self.replies = ReplyReader()
        self.is_talkative = False
        """Whether it gave more replies than there were commands: those in flight can only be told apart by counting."""
        self.slowest = 0.0
        """Seconds that the slowest reply took: of the greeting, and of those to one command alone (EHLO, AUTH)."""
        self.reads = 0
        """How often something was read."""
        self.is_reused = False
        """Whether it comes from the pool, and nothing was read since."""
        self.unwritable: OSError | None = None
        """What a write ended in. The line has ended, but the server may have said why: that is still read."""
        self._transcript = transcript
        self._is_bare = transcript is None  # a reply is neither masked nor shown
        self._due = 1  # replies to what was sent; the greeting comes without a command
        self._composed = 0  # replies to what is in `unsent`
        self._ending: list[Transaction] = []  # the content of these ends in `unsent`
        self._mask: Mask | None = None  # of the secrets that a server may repeat
        self._as_said: Reply | None = None  # the last reply without the mask
        self._refusal: Reply | None = None  # of the last command of `ask`, where nothing was read since

    def resume(self) -> None:
        """Say that the connection comes from the pool: the first reply has `Timeouts.reused` (DESIGN 4.5)."""
        self.is_reused = True
        self._refusal = None

    @property
    def unanswered(self) -> int:
        """How many replies are to come, also to what has not left yet."""
        return self._due + self._composed

    @property
    def is_answered(self) -> bool:
        """Whether every reply to what was sent has been read."""
        return self._due <= len(self.replies.ready)

    @property
    def has_unasked(self) -> bool:
        """Whether something was read that no command asked for, and that is not 421."""
        return not (self._due or self.replies.is_empty or self.replies.says_goodbye)

    # The end -----------------------------------------------------------------------------------------------------

    def end(self, why: str) -> None:
        """Never use this connection again; the first reason is kept."""
        if self.ended is None:
            self.ended = why

    def fatal(self, kind: type[DeliveryError], message: str, reply: Reply | None = None) -> DeliveryError:
        """The error to raise, which ends the line."""
        self.end(message)
        return kind(message, server=self.server, reply=reply)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the line if anything is raised inside, also where the conversation is broken off."""
        try:
            yield
        except BaseException as error:
            self.end(type(error).__name__)
            raise

    def goodbye(self, reply: Reply) -> DeliveryError:
        """The error of a 421."""
        why = explained(reply, self.phase, self.spelled)
        return self.fatal(ConnectionLost, f"{self.server} closed the connection: {why}", reply)

    def lost(self) -> DeliveryError:
        """The error of a line that could not be written to."""
        return self.fatal(ConnectionLost, f"{self.server} could not be written to: {self.unwritable}")

    def cannot_write(self, error: OSError) -> None:
        """A write failed. A server that hangs up has often said why, so reading goes on (DESIGN 4.3)."""
        self.unwritable = error
        self.end(str(error))

    def too_many_replies(self) -> DeliveryError:
        """The error of one reply more than there were commands: any of those in flight may be the extra one."""
        self.is_talkative = True
        return self.fatal(ProtocolViolation, f"{self.server} gave more replies than there were commands")

    def spoke_unasked(self) -> DeliveryError:
        """The error of octets that came before a command: they would be taken for the reply to it (DESIGN 4.5).

        Only 421 may come so (RFC 5321 3.8): then it is the reason why the connection ends.
        """
        if not self.replies.says_goodbye:
            self.is_talkative = True
        elif (reply := self._next_reply()) is not None:
            return self.goodbye(reply)
        return self.fatal(ProtocolViolation, f"{self.server} spoke when it was not asked ({self.phase})")

    # Commands ----------------------------------------------------------------------------------------------------

    def put(self, *lines: bytes) -> None:
        """Compose commands, which get one reply each."""
        self.unsent += b"".join(lines)
        self._composed += len(lines)
        if self._transcript:
            for line in lines:
                self._transcript(">", line[:-2].decode("utf-8"))

    def put_octets(self, octets: bytes) -> None:
        """Compose octets that get no reply of their own: a part of a content, or of a chunk."""
        self.unsent += octets

    def put_chunk(self, transaction: Transaction, chunk: bytes) -> None:
        """Compose a whole content as one chunk (RFC 3030 2)."""
        self.put(command.bdat(len(chunk), last=True))
        self.unsent += chunk
        self._ending.append(transaction)
        if self._transcript:
            self._transcript(">", f"<{len(chunk)} octets>")

    def put_end(self, transaction: Transaction, size: int, replies: int) -> None:
        """Compose the final dot of a content of ``size`` octets, which gets so many replies."""
        self.unsent += command.END
        self._composed += replies
        self._ending.append(transaction)
        if self._transcript:
            self._transcript(">", f"<{size} octets>")
            self._transcript(">", ".")

    def discard(self) -> None:
        """Forget what has not left."""
        self.unsent.clear()
        self._ending.clear()

    def flush(self) -> Conversation[None]:
        """Send what is composed, in one write: a write ends at a command's end, and a flight is one write (Nagle).

        If the end of a content is in it, the content is handed over with this write (DESIGN 4.3).
        """
        if not self.unsent:
            return
        if not self._due:  # what is composed comes after every reply to what was sent before it
            if not self.replies.is_empty:
                raise self.spoke_unasked()
            self.replies.has_skipped = False
        if self.unwritable is not None:
            raise self.lost()
        data, self.unsent = self.unsent, bytearray()
        self._due += self._composed
        self._composed = 0
        for transaction in self._ending:
            transaction.handed_over = True
        self._ending.clear()
        try:
            yield Write(data, self.timeouts.content)
        except OSError as error:
            self.cannot_write(error)

    def ask(self, line: bytes, shown: str | None = None) -> Conversation[Reply]:
        """One command, and the reply to it. ``shown`` stands for it in the transcript."""
        yield from self.expect_silence()
        if self._transcript:
            self._transcript(">", shown or line[:-2].decode("utf-8"))
        self._due += 1
        begun = yield NOW
        try:
            yield Write(line, self.timeouts.reply)
        except OSError as error:
            self.cannot_write(error)
        reply = yield from self.await_reply(self.timeouts.reply)
        self.slowest = max(self.slowest, (yield NOW) - begun)
        if reply.code == 421:
            self.end(str(reply))
        if reply.code >= 400:
            self._refusal = reply
        return reply

    # Replies -----------------------------------------------------------------------------------------------------

    def greeting(self, goes_on: bool) -> Conversation[Reply]:
        """The first reply. ``goes_on``: its time began with the handshake just before."""
        begun = yield NOW
        reply = yield from self.await_reply(self.timeouts.greeting, goes_on)
        self.slowest = (yield NOW) - begun
        return reply

    def await_reply(self, timeout: float, goes_on: bool = False) -> Conversation[Reply]:
        """The next reply, whatever it is. ``timeout`` (seconds) is for all of it; ``goes_on`` as in `Read`."""
        read: Read | None = None
        if not self._due:  # the reply that is awaited is to what was not sent yet
            yield from self.flush()
        try:
            while (reply := self._next_reply()) is None:
                if self.unsent:
                    yield from self.flush()
                read = read or Read(self._patience(timeout), goes_on)
                data = yield read
                if not data:
                    raise self._hung_up(f"{self.server} closed the connection")
                self.reads += 1
                self.replies.feed(data)
        except OSError as error:
            if isinstance(error, SMTPError):
                self.end(str(error))
                raise
            if not isinstance(error, TimeoutError):
                raise self._hung_up(f"the connection to {self.server} was lost", f": {error}") from error
            limit = f"at most {self._patience(timeout):g} s); see {self.spelled('timeout')}"
            if isinstance(error, DeadlinePassed):
                limit = f"{error})"
            raise self.fatal(TimedOut, f"{self.server} did not answer in time ({self.phase}, {limit}") from error
        self.is_reused = False
        self._refusal = None
        return reply

    def reply_at_hand(self) -> Reply | None:
        """The next reply, where one is awaited and was read already: most come together. Raises `Closed`."""
        if not self._due:
            return None
        ready = self.replies.ready
        if ready and self._is_bare:
            self._due -= 1
            reply: Reply | None = ready.popleft()
        else:
            reply = self._next_reply()
        if reply and reply.code == 421:
            raise Closed(reply)
        return reply

    def expect_silence(self) -> Conversation[None]:
        """Raise the error of octets that were not asked for, if there are any; a 421 is read to its end first."""
        if self.replies.is_empty:
            return
        if self.replies.says_goodbye:
            self._due += 1
            self.is_talkative = True  # unless it is 421
            reply = yield from self.await_reply(LAST_WORD)
            self.is_talkative = reply.code != 421
            if reply.code == 421:
                raise self.goodbye(reply)
        raise self.spoke_unasked()

    def stays_silent(self) -> Conversation[bool]:
        """Whether nothing more is said for a while: then the last reply was to the last command, and to no other."""
        try:
            if self.replies.is_empty:
                self.replies.feed((yield Read(SILENCE)))
        except OSError as error:
            return isinstance(error, TimeoutError) and not isinstance(error, DeadlinePassed)
        return False

    def _patience(self, timeout: float) -> float:
        return min(timeout, self.timeouts.reused) if self.is_reused or self.unwritable is not None else timeout

    def _hung_up(self, what: str, why: str = "") -> DeliveryError:
        """The error of a connection that ended without a reply: a refusal just before is the reason for it."""
        behind = "" if self._refusal is None else f" behind {self._refusal}"
        return self.fatal(ConnectionLost, f"{what}{behind} ({self.phase}){why}", self._refusal)

    def _next_reply(self) -> Reply | None:
        """The next reply of what was read already, or None."""
        violation = ""
        try:
            reply = self.replies.next()
        except ProtocolViolation as error:
            violation = self.masked(str(error))
        if violation:  # raised here: the error that quotes the line must not be its context
            if self.phase == "greeting":
                violation += f"; check {self.spelled.together('host', 'port')}: no mail server answers there"
            raise self.fatal(ProtocolViolation, f"{self.server}: {violation}")
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

    # Secrets -----------------------------------------------------------------------------------------------------

    def hide(self, *secrets: str) -> None:
        """From now on show none of these where the server repeats it."""
        if self._mask is None:
            self._mask = Mask()
            self._is_bare = False
        self._mask.add(*secrets)

    def hide_as_written(self, text: str) -> None:
        """The same for what is made of a secret; no other form of it is looked for."""
        if self._mask is not None:
            self._mask.add_as_written(text)

    def masked(self, text: str) -> str:
        """What the server said, without secrets in it."""
        return text if self._mask is None else self._mask(text)

    def as_said(self, reply: Reply) -> Reply:
        """The last reply without the mask: for what is parsed and not shown."""
        return reply if self._mask is None or self._as_said is None else self._as_said
