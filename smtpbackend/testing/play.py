"""What a scripted server is told: the words and deeds of a script, and the `Play` that holds them.

Values only; what they lead to is in `speaker` (what is said) and `server` (what happens on the socket).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias

__all__ = [
    "CUT",
    "DEAF",
    "EXTENSIONS",
    "HANG_UP",
    "RESET",
    "SILENCE",
    "TLS",
    "Answer",
    "Deed",
    "Fault",
    "Play",
    "delay",
    "drip",
    "flood",
    "when_heard",
]

EXTENSIONS: Final = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "SIZE 10000000")
"""What a `Play` offers unless it says otherwise."""


@dataclass(frozen=True)
class Deed:
    """What a server does besides speaking."""

    name: str
    value: Any = None


CUT: Final = Deed("cut")
"""Close the connection without a word, as a process that dies does: FIN, or RST where octets were left unread."""
RESET: Final = Deed("reset")
"""Close the connection with RST."""
HANG_UP: Final = Deed("hang up")
"""Say that nothing more will be said (FIN), and keep the connection."""
SILENCE: Final = Deed("silence")
"""Say nothing any more, whatever comes."""
DEAF: Final = Deed("deaf")
"""Read nothing any more, and keep the connection."""
TLS: Final = Deed("tls")
"""Begin the handshake."""


def delay(seconds: float) -> Deed:
    """Wait this long before going on."""
    return Deed("delay", seconds)


def when_heard(data: bytes) -> Deed:
    """Send this as soon as the client has sent something, which is not read; without TLS only."""
    return Deed("when_heard", data)


def flood(data: bytes = b"250-and so on\r\n") -> Deed:
    """Send this again and again until the server stops, and read nothing: continuation lines without end."""
    return Deed("flood", data)


def drip(text: str) -> Deed:
    """Send this again and again, an octet every 20 ms and never a line end, until the server stops."""
    return Deed("drip", text.encode())


Said: TypeAlias = str | bytes | Deed
Answer: TypeAlias = Said | tuple[Said, ...] | Callable[[str], Said | tuple[Said, ...]]
"""A reply as str without its line end, several lines with "\\n" between them; octets as they are, so also part of a
line; a `Deed`; a tuple of these; or what makes one of the command line that was heard."""


class Fault(Enum):
    """What some servers do wrong. A `Play` has any number of them."""

    READS_REFUSED_CHUNKS = "the chunk of a refused BDAT is read as commands"
    """RFC 3030 2 wants it discarded. go-smtp; Exim over its size limit. What was executed is in `Speaker.commands`."""
    SWALLOWS_BEHIND_DOT = "what was received together with the end of a content is lost"
    """RSET, NOOP and QUIT too, and without a reply; a later command is answered. Courier 1.0."""
    CRASHES_ON_MAIL_BEHIND_CONTENT = "MAIL received together with the end of a content, no RSET between, crashes it"
    """The content was taken, and there is no reply to it. Dovecot 2.3 submission."""
    CRASHES_ON_RSET_AMID_CHUNKS = "RSET after a BDAT that was not the last crashes it"
    """Exim 4.96."""
    KEEPS_SENDER = "BDAT LAST refused because nobody was accepted leaves the sender standing until RSET"
    """The next MAIL is answered 503, and what follows goes out with the previous sender. Exim 4.96."""


@dataclass(frozen=True)
class Play:
    """How a server answers on a connection. Whatever is not said here is answered as a good server does.

    ``answers`` maps the beginning of a command (the longest that fits counts; case does not), "." for the end of
    content or "" for the greeting to an `Answer`; a list has one for each time that it is asked, the last for all later
    times. "BDAT" answers each chunk, once it was read; without it the last one is answered as ".". In LMTP what is not
    a tuple is said once for each accepted recipient at the end of content; a tuple has the replies one by one.

    ``extensions`` are the lines of the reply to EHLO, ``after_tls`` those after STARTTLS (None: the same without
    STARTTLS), be they true or not; ``"CHUNKING"`` among them makes BDAT known. ``implicit_tls`` begins with the
    handshake. ``faults`` are those that it has.

    ``goodbye_after`` this many replies (the greeting is the first) the next is 421, and the connection is closed.
    At the moment that ``cut_after_reading`` octets have been read, or ``cut_after_saying`` octets of replies said, in
    clear and inside TLS together, ``cut_by`` (`CUT`, `RESET` or `HANG_UP`) happens: what the last octet that is read
    completes is done, but not answered.

    ``split``: each octet of a reply leaves alone. ``nagle``: the replies to a group of commands leave one by one, each
    when the one before it has been acknowledged, which takes 40 ms where the client acknowledges late; Haraka's manner.
    """

    answers: Mapping[str, Answer | list[Any]] = field(default_factory=dict)
    extensions: tuple[str, ...] = EXTENSIONS
    after_tls: tuple[str, ...] | None = None
    implicit_tls: bool = False
    faults: Collection[Fault] = ()
    goodbye_after: int | None = None
    cut_after_reading: int | None = None
    cut_after_saying: int | None = None
    cut_by: Deed = CUT
    split: bool = False
    nagle: bool = False
