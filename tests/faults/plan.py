"""What a case is: a delivery through two servers, and the one thing that goes wrong on the way. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from smtpbackend import Envelope

__all__ = ["MESSAGES", "RECIPIENTS", "Case", "Cut", "Fault", "Odd", "Silence", "envelope"]

MESSAGES = 3  # and one more behind them: the next send on the same mailer
RECIPIENTS = ("p@q.r", "s@t.u")
ENVELOPES = [Envelope(f"{number}@b.c", RECIPIENTS) for number in range(MESSAGES + 1)]


def envelope(number: int) -> Envelope:
    """Of the message with this number, which stands in its sender and is its content."""
    return ENVELOPES[number]


@dataclass(frozen=True)
class Cut:
    """The connection ends after ``at`` octets that the server ``heard`` or ``said``.

    They count in clear, or with ``raw`` as TLS has them. The command that ends with the last octet heard is carried
    out, and its answer does not get out any more. ``by``: "fin" ends what is said, and whatever else comes is looked
    at; "rst" ends both directions.
    """

    of: Literal["heard", "said"]
    at: int
    by: Literal["fin", "rst"] = "fin"
    raw: bool = False
    every: bool = False
    """On every connection to the first server, and not on the first one alone."""


@dataclass(frozen=True)
class Silence:
    """The server says ``reply`` replies, and then nothing more; it does what it is told all the same."""

    reply: int
    every: bool = False


@dataclass(frozen=True)
class Odd:
    """At one point of the dialogue, for the first time with this message, something else is said.

    With ``extra`` it is said behind the good reply, in one write with it. ``times`` makes a flood of it. With
    ``closes`` the server closes the connection behind it, and does nothing more. With ``unclean`` all recipients of the
    first message are refused, so that the second one needs RSET.
    """

    point: str
    octets: bytes
    message: int = 0
    times: int = 1
    extra: bool = False
    closes: bool = False
    unclean: bool = False
    every: bool = False


Fault = Cut | Silence | Odd


@dataclass(frozen=True)
class Case:
    """A delivery of three messages to two recipients each, and one message behind it."""

    twin: Literal["blocking", "asyncio"]
    extensions: tuple[str, ...] = ()
    tls: Literal["none", "required", "implicit"] = "none"
    way: Literal["send", "send_many"] = "send"
    fault: Fault | None = None
    alone: bool = False
    """Without the second server."""
    closing: bool = False
    """Close the mailer before the last message."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Of the mailer, beside those that every case has."""

    @property
    def has_window(self) -> bool:
        """Whether several messages may be in flight."""
        return self.way == "send_many" and "PIPELINING" in self.extensions

    runs_chunks: bool = False
    """The servers read a chunk that they refuse as commands."""

    @property
    def is_probed(self) -> bool:
        """Whether the servers are asked to prove that they discard a refused chunk."""
        return {"PIPELINING", "CHUNKING", "SIZE"} <= set(self.extensions)

    @property
    def flies(self) -> bool:
        """Whether content may leave before anything of its transaction is answered, once that is proven."""
        return self.is_probed and not self.runs_chunks

    @property
    def probed(self) -> int:
        """The message whose flight has the probe on the first connection: DESIGN 5.1."""
        return 0 if self.way == "send_many" else 1

    def is_chunked(self, message: int) -> bool:
        """Whether the content of this message leaves as a chunk on the first connection."""
        return self.flies and message > self.probed
