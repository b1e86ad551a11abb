"""Plays a conversation against a script of bytes. There is no socket, no clock and no thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from smtpbackend.content import Given
from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.mime import Content, given
from smtpbackend.protocol.effects import ENOUGH, LATER, Conversation, Next, Now, Read, Settled, StartTLS, Work, Write
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.transaction import Transaction
from smtpbackend.sources import Source

T = TypeVar("T")

Answer = bytes | OSError
"""What a Read is answered with: octets, b"" for the end of the stream, or the error it ends in."""

CONTENT = b"Subject: hello\r\n\r\nGood day\r\n"


class Failing(Source):
    """A source that can be read in full until ``fails_at`` is set: then it fails there."""

    fails_at: int | None = None

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.size = len(octets)

    def blocks(self, size: int) -> Iterator[bytes]:
        end = self.size if self.fails_at is None else self.fails_at
        for place in range(0, end, size):
            yield self._octets[place : min(place + size, end)]
        if self.fails_at is not None:
            raise OSError(5, "the disk is gone")

    def content(self) -> Content:
        """A content of it, of which everything is known that is asked before it leaves."""
        content = Content([Given(self)])
        assert content.size
        assert content.longest_line
        assert not content.is_8bit
        return content


class Script:
    """A wire made of lists.

    Each Read takes the next of ``answers``. ``fails`` maps the number of a Write (from 0) to the error it ends in.
    ``tls`` is the error that StartTLS ends in. ``transactions`` answers Next, and may have `LATER` in it; ``enough``:
    whether Settled is answered by `ENOUGH` when there are no more.
    """

    def __init__(
        self,
        *answers: Answer,
        tls: OSError | None = None,
        fails: Mapping[int, OSError] | None = None,
        transactions: Iterable[Any] = (),
        enough: bool = False,
    ) -> None:
        self.answers = deque(answers)
        self.sent: list[bytes] = []
        """Each Write."""
        self.order = ""
        """What was asked for: W(rite), R(ead), S(tartTLS)."""
        self.reads: list[Read] = []
        self.handshakes: list[StartTLS] = []
        self.asked: list[bool] = []
        """``unsent`` of each Next."""
        self.settled: list[Transaction] = []
        self.settled_after: list[int] = []
        """How many writes there were, when each of these was told."""
        self.now = 0.0
        self.delays: deque[float] = deque()
        """How many seconds each Read takes; those that are not named take none."""
        self.late: OSError | None = None
        """What `Work` ends in."""
        self._tls = tls
        self._fails = dict(fails or {})
        self._transactions = deque(transactions)
        self._enough = enough

    def run(self, conversation: Conversation[T]) -> T:
        """What the conversation returns; what it raises is raised."""
        answer: Any = None
        error: OSError | None = None
        while True:
            try:
                effect = conversation.throw(error) if error is not None else conversation.send(answer)
            except StopIteration as end:
                value: T = end.value
                return value
            answer = error = None
            if isinstance(effect, Write):
                self.order += "W"
                self.sent.append(bytes(effect.data))
                error = self._fails.get(len(self.sent) - 1)
            elif isinstance(effect, Read):
                self.order += "R"
                self.reads.append(effect)
                self.now += self.delays.popleft() if self.delays else 0.0
                assert self.answers, f"nothing is scripted for this Read; sent so far: {self.sent}"
                scripted = self.answers.popleft()
                answer, error = (scripted, None) if isinstance(scripted, bytes) else (None, scripted)
            elif isinstance(effect, StartTLS):
                self.order += "S"
                self.handshakes.append(effect)
                error = self._tls
            elif isinstance(effect, Now):
                answer = self.now
            elif isinstance(effect, Work):
                answer, error = effect.do(), self.late
            elif isinstance(effect, Next):
                self.asked.append(effect.unsent)
                answer = self._transactions.popleft() if self._transactions else None
            elif isinstance(effect, Settled):
                self.settled.append(effect.transaction)
                self.settled_after.append(len(self.sent))
                answer = ENOUGH if self._enough and not self._transactions else None
            else:
                raise AssertionError(f"{effect!r} is no effect")


def ehlo_reply(*extensions: str) -> bytes:
    """An EHLO reply in one piece."""
    lines = ("mx.example.com", *extensions)
    return b"".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n".encode() for line in lines)


def opened(*extensions: str, **options: Any) -> Session:
    """A session behind its EHLO, with a server that offers ``extensions``."""
    session = Session("mx.example.com:25", "client.example.org", **options)
    Script(b"220 welcome\r\n", ehlo_reply(*extensions)).run(session.open("none"))
    return session


def proven(*extensions: str, **options: Any) -> Session:
    """The same, on a connection that has proven what a window and content in flight ask for (DESIGN 5.1, 5.2)."""
    session = opened(*extensions, **options)
    session.history.overlaps = session.history.discards = True
    return session


def transaction(
    *recipients: str | Recipient,
    sender: str = "ann@example.org",
    content: bytes | Content = CONTENT,
    **parameters: Any,
) -> Transaction:
    """A transaction; without ``recipients`` it is for bob@example.com."""
    envelope = Envelope(sender, recipients or ["bob@example.com"], **parameters)
    return Transaction(envelope, envelope.recipients, given(content) if isinstance(content, bytes) else content)


def deliver(
    session: Session,
    transactions: Iterable[Any],
    *answers: Answer,
    policy: str = "any",
    window: int = 1,
    probe_from: int | None = None,
    in_lock_step: bool = False,
    fails: Mapping[int, OSError] | None = None,
    delays: Iterable[float] = (),
) -> Script:
    """Play `Session.deliver`."""
    script = Script(*answers, transactions=transactions, fails=fails)
    script.delays.extend(delays)
    script.run(session.deliver(policy, window, probe_from, in_lock_step))
    return script


__all__ = ["CONTENT", "LATER", "Answer", "Script", "deliver", "ehlo_reply", "opened", "proven", "transaction"]
