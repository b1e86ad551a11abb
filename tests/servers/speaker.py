"""What a scripted server says: octets in, octets and deeds out. No socket, so that a list can be its network too."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "SIZE 10000000")
GOOD: Final[dict[str, Any]] = {
    "MAIL": "250 2.1.0 sender ok",
    "RCPT": "250 2.1.5 recipient ok",
    "DATA": "354 go ahead",
    ".": "250 2.0.0 Ok: queued as {number:05}ABC",
    "RSET": "250 2.0.0 reset",
    "NOOP": "250 2.0.0 ok",
    "VRFY": "252 2.5.2 send some mail, i'll try my best",
    "HELP": "214 2.0.0 help yourself",
    "AUTH": "235 2.7.0 welcome",
    "STARTTLS": "220 2.0.0 go ahead",
    "HELO": "250 mx.example.com",
}


class Deed(NamedTuple):
    """What a server does besides speaking."""

    name: str
    value: Any = None


CUT: Final = Deed("cut")
"""Close the connection without a word."""
SILENCE: Final = Deed("silence")
"""Say nothing any more, whatever comes."""
TLS: Final = Deed("tls")
"""Begin the handshake."""


def drip(text: str) -> Deed:
    """Octet by octet, and never the line end."""
    return Deed("drip", text.encode())


Answer = Any
"""A line without its end, several with "\\n" between them, octets as they are, a `Deed`, a tuple of these, or what
makes one of the line that was heard."""


@dataclass(frozen=True)
class Play:
    """How a server answers. Whatever is not said here is answered as a good server does.

    ``answers`` maps the beginning of a command (the longest that fits counts), "." for the end of content or "" for the
    greeting to an `Answer`; a list has one for each time that it is asked, the last for all later times.
    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    extensions: tuple[str, ...] = EXTENSIONS
    after_tls: tuple[str, ...] | None = None
    implicit_tls: bool = False


class Transaction(NamedTuple):
    """What a server was handed: the commands as they came, and the content with its dots unstuffed."""

    mail: str
    recipients: tuple[str, ...]
    content: bytes


class Speaker:
    """One connection of a scripted server."""

    def __init__(self, play: Play, count: Callable[[], int] = lambda: 1) -> None:
        self.play = play
        self.commands: list[str] = []
        """Every line that came, content aside."""
        self.handed_over: list[Transaction] = []
        """Content that came to its end, whatever was answered."""
        self.taken: list[Transaction] = []
        """Those that were not refused: they may have arrived."""
        self.received = bytearray()
        self.secured = False
        self._count = count
        self._asked: dict[str, int] = {}
        self._buffer = bytearray()
        self._searched = 0
        self._mail: str | None = None
        self._recipients: list[str] = []
        self._content = False
        self._challenges: list[str] = []

    @property
    def verbs(self) -> list[str]:
        """The first words of the commands."""
        return [command.split(" ")[0].upper() for command in self.commands]

    def greet(self) -> list[Any]:
        """What is said before anything was heard."""
        return [*([TLS] if self.play.implicit_tls else []), *self._answer("", "220 mx.example.com ESMTP ready")]

    def hear(self, data: bytes) -> list[Any]:
        """Octets and deeds in answer to octets."""
        self.received += data
        self._buffer += data
        said: list[Any] = []
        while True:
            end = b"\r\n.\r\n" if self._content else b"\r\n"
            found = self._buffer.find(end, self._searched)
            if found < 0:
                self._searched = max(len(self._buffer) - len(end), 0)
                return said
            self._searched = 0
            line = bytes(self._buffer[:found])
            del self._buffer[: found + len(end)]
            said += self._end_of_content(line) if self._content else self._command(line)
            if self._content:
                self._buffer[:0] = b"\r\n"  # so that an empty content has an end, too

    def _end_of_content(self, stuffed: bytes) -> list[Any]:
        self._content = False
        content = (stuffed + b"\r\n").replace(b"\r\n..", b"\r\n.").removeprefix(b"\r\n")
        self.handed_over.append(Transaction(self._mail or "", tuple(self._recipients), content))
        self._mail, self._recipients = None, []
        said = self._answer(".", GOOD["."].format(number=self._count()))
        if not (isinstance(said[0], bytes) and said[0][:1] in (b"4", b"5")):
            self.taken.append(self.handed_over[-1])
        return said

    def _command(self, raw: bytes) -> list[Any]:
        line = raw.decode("utf-8", "surrogateescape")
        self.commands.append(line)
        if self._challenges:
            if line == "*":
                self._challenges = []
                return [b"501 5.7.0 cancelled\r\n"]
            return self._encoded(self._challenges.pop(0)) if len(self._challenges) > 1 else self._login_end()
        verb = line.split(" ")[0].upper()
        if verb in ("EHLO", "LHLO"):
            extensions = self.play.extensions
            if self.secured and not self.play.implicit_tls:
                after = self.play.after_tls
                extensions = tuple(e for e in extensions if e != "STARTTLS") if after is None else after
            lines = ("mx.example.com", *extensions)
            said = self._answer(line, "\n".join(f"250{' ' if e is lines[-1] else '-'}{e}" for e in lines))
        elif verb == "MAIL":
            said = self._answer(line, GOOD[verb])
            if said[0][:1] == b"2":
                self._mail, self._recipients = line, []
        elif verb == "RCPT":
            said = self._answer(line, GOOD[verb] if self._mail else "503 5.5.1 MAIL first")
            if said[0][:1] == b"2":
                self._recipients.append(line)
        elif verb == "DATA":
            said = self._answer(line, GOOD[verb] if self._recipients else "554 5.5.1 no valid recipients")
            self._content = said[0][:1] == b"3"
        elif verb == "AUTH":
            return self._login(line)
        elif verb == "QUIT":
            said = [*self._answer(line, "221 2.0.0 bye"), CUT]
        elif verb == "STARTTLS":
            said = self._answer(line, GOOD[verb])
            if said[0][:3] == b"220" and TLS not in said:
                said.append(TLS)
        else:
            if verb == "RSET":
                self._mail, self._recipients = None, []
            said = self._answer(line, GOOD.get(verb, "500 5.5.1 unknown command"))
        return said

    def _login(self, line: str) -> list[Any]:
        _, mechanism, *initial = line.split(" ")
        self._auth = line
        if mechanism == "LOGIN":
            self._challenges = ["Password:", ""]
            return self._encoded("Username:")
        if mechanism == "CRAM-MD5":
            self._challenges = [""]
            return self._encoded("<1896.697170952@mx.example.com>")
        if not initial:
            self._challenges = [""]
            return self._encoded("")
        return self._login_end()

    def _login_end(self) -> list[Any]:
        self._challenges = []
        return self._answer(self._auth, GOOD["AUTH"])

    @staticmethod
    def _encoded(challenge: str) -> list[Any]:
        return [b"334 " + base64.b64encode(challenge.encode()) + b"\r\n"]

    def _answer(self, heard: str, good: str) -> list[Any]:
        line = heard.upper()
        fitting = [key for key in self.play.answers if line.startswith(key.upper()) and bool(key) == bool(line)]
        answer: Answer = good
        if fitting:
            key = max(fitting, key=len)
            answer = self.play.answers[key]
            if isinstance(answer, list):
                turn = self._asked.get(key, 0)
                self._asked[key] = turn + 1
                answer = answer[min(turn, len(answer) - 1)]
        if callable(answer):
            answer = answer(self.commands[-1])
        parts = answer if isinstance(answer, tuple) and not isinstance(answer, Deed) else (answer,)
        return [
            b"".join(line.encode() + b"\r\n" for line in part.split("\n")) if isinstance(part, str) else part
            for part in parts
        ]
