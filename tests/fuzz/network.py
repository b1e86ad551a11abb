"""A network made of choices: a server that may say anything at any time, and a wire that may end anywhere.

The choices come off a `Tape`, which hypothesis fills. Where it is at its end, or has zeros, all is well: a good server.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from smtpbackend.protocol.effects import Channel, Ended, Now, Read, StartTLS, Work, Write
from smtpbackend.protocol.line import SILENCE
from tests.fuzz.ledger import Due, Ledger

EXTENSIONS = (
    b"PIPELINING",
    b"CHUNKING",
    b"8BITMIME",
    b"SIZE",
    b"SMTPUTF8",
    b"DSN",
    b"STARTTLS",
    b"AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256",
)
ODD_EXTENSIONS = (
    (b"LIMITS RCPTMAX=1 MAILMAX=2",),
    (b"LIMITS RCPTMAX=2 RCPTDOMAINMAX=1", b"XQUE"),
    (b"SIZE 100",),
    (b"SIZE 99999999999999999999999", b"LIMITS RCPTMAX=0 MAILMAX=x"),
    (b"AUTH=LOGIN", b"AUTH LOGIN PLAIN", b"XQUE"),
    (b"AUTH XOAUTH2 NTLM", b"", b"  ", b"\xc3\xa9"),
    (b"pipelining", b"chunking", b"size 300000"),
    (b"SIZE -1", b"PIPELINING x", b"CHUNKING CHUNKING"),
)
LIMITS = (
    b"452 4.5.3 too many",
    b"452 #4.5.3 too many",
    b"451 4.5.3 too many",
    b"452 too many",
    b"552 5.5.3 too many",
    b"552 too many",
)
TARPIT = 5.0  # seconds for each reply behind an error: Exchange's TarpitInterval
OFTEN = (0, 0, 3, 8, 20, 50)  # of 256 replies, how many are odd


class Tape:
    """Choices, one octet each; behind the last zeros, or the same ones again and again."""

    def __init__(self, octets: bytes, is_endless: bool = False) -> None:
        self._octets = octets
        self._is_endless = is_endless and any(octets)
        self._at = 0

    def take(self) -> int:
        if self._is_endless and self._at == len(self._octets):
            self._at = 0
        self._at += 1
        return self._octets[self._at - 1] if self._at <= len(self._octets) else 0

    def below(self, limit: int) -> int:
        """A number from 0 on."""
        return self.take() % limit

    def happens(self, often: int) -> bool:
        """Something that happens in ``often`` of 256 cases."""
        return self.take() >= 256 - often


class Network:
    """One connection to such a server, which the ``ledger`` watches.

    ``raw`` are octets for it to say amid others; ``wait`` is told the seconds that pass, which ``ledger.clock`` shows.
    """

    def __init__(
        self, tape: Tape, raw: bytes, ledger: Ledger, wait: Callable[[float], object] = lambda seconds: None
    ) -> None:
        self.ledger = ledger
        self._wait = wait
        self._is_slow = False  # an error was punished by that
        self.performed = 0
        self._tape = tape
        self._raw = raw
        self._often = OFTEN[tape.below(len(OFTEN))]
        self._vice = tape.below(12)
        self._splits = tape.happens(64)
        self._breaks = 2 if tape.happens(48) else 0
        self._extensions = self._offers()
        self._incoming = b""
        self._end: bytes | OSError | None = None
        """What is read behind ``_incoming``: silence where it is None."""
        self._answer(ledger.due[0])

    def _offers(self) -> list[bytes]:
        bits = self._tape.take()
        found = [line for place, line in enumerate(EXTENSIONS) if bits >> place & 1]
        if self._tape.happens(64):
            found += ODD_EXTENSIONS[self._tape.below(len(ODD_EXTENSIONS))]
        return found

    # The wire ------------------------------------------------------------------------------------------------------

    def talk(self, conversation: Generator[Any, Any, Any], value: Any = None, deadline: float | None = None) -> Any:
        """Perform network effects until something else is yielded or the conversation returns."""
        try:
            step = conversation.send(value)
            while type(step) in (Write, Read, StartTLS, Now, Work):
                try:
                    answer = self.perform(step)
                except OSError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
            return step
        except StopIteration as stop:
            return Ended(stop.value)

    def perform(self, effect: Write | Read | StartTLS | Now | Work) -> Any:
        """Answer one effect, or raise what it ends in."""
        self.performed += 1
        assert self.performed < 20_000, "this never ends"
        if isinstance(effect, Now):
            return self.ledger.clock()
        if isinstance(effect, Work):
            return effect.do()
        if isinstance(effect, Write):
            return self._write(bytes(effect.data))
        if isinstance(effect, Read):
            return self._read(effect.timeout)
        if self._tape.happens(16):
            self.ledger.failed()
            raise (ConnectionResetError(104, "reset"), TimeoutError("timed out"))[self._tape.below(2)]
        self.ledger.secured()
        return Channel(b"certificate")

    def _write(self, octets: bytes) -> None:
        due = self.ledger.heard(octets)
        if self._breaks and self._tape.happens(self._breaks * 8):
            self.ledger.failed()
            if self._tape.below(2):
                self._end = ConnectionResetError(104, "reset")
            elif self._tape.below(2):
                self._incoming += b"421 4.3.2 going down\r\n"
                self._end = b""
            else:
                self._end = b""
            raise (BrokenPipeError(32, "broken pipe"), TimeoutError("timed out"))[self._tape.below(2)]
        for one in due:
            self._answer(one)

    def _read(self, timeout: float) -> bytes:
        if self._is_slow and (self._incoming or self._end is not None):
            self._wait(min(TARPIT, timeout))
            if timeout < TARPIT:
                self._timed_out(timeout)
                raise TimeoutError("timed out")
        if self._incoming:
            size = len(self._incoming)
            if self._splits:
                size = min(size, 1 + self._tape.below(64))
            octets, self._incoming = self._incoming[:size], self._incoming[size:]
            self.ledger.said(octets)
            return octets
        if self._end is None:
            self._timed_out(timeout)
            self._wait(timeout)
            raise TimeoutError("timed out")
        if isinstance(self._end, OSError):
            self.ledger.failed()
            raise self._end
        self.ledger.said(b"")
        return b""

    def _timed_out(self, timeout: float) -> None:
        if timeout != SILENCE:  # which is what was hoped for, behind 250 to DATA
            self.ledger.failed(timed_out=True)

    # The server ----------------------------------------------------------------------------------------------------

    def _answer(self, due: Due) -> None:
        if self._end is not None:
            return
        if self._often and self._tape.happens(self._often):
            self._odd(due)
        else:
            said = self._usual(due)
            self._is_slow = self._is_slow or (self._vice == 8 and said[:1] in (b"4", b"5"))
            self._say(said)

    def _usual(self, due: Due) -> bytes:
        """What it says every time: some servers have a vice."""
        is_chunk = due.what == "end" and due.mailing is not None and due.mailing.is_chunked
        match self._vice, due.what:
            case 1, "RSET" if self.ledger.due[self.ledger.due.index(due) - 1].what == "chunk":
                return b"500 5.5.2 what is XRSET\r\n"  # go-smtp
            case 2, "chunk":
                return b"502 5.5.1 BDAT is not implemented\r\n"  # a gateway
            case 3, "end" if is_chunk:
                return (b"502 5.5.1 not here\r\n", b"500 5.5.1 what\r\n", b"451 4.3.0 later\r\n")[self._tape.below(3)]
            case 5, "chunk":
                return b"250 2.0.0 taken\r\n"  # also of nothing
            case 6, "RSET":
                return b"500 5.5.2 what is XRSET\r\n"
            case 7, "end" if self._tape.happens(128):
                return self._proper(due) * 2
        return self._proper(due)

    def _say(self, octets: bytes) -> None:
        self._incoming += octets

    def _proper(self, due: Due) -> bytes:
        match due.what:
            case "greeting":
                return b"220 mx.example.com ESMTP\r\n"
            case "EHLO" | "LHLO":
                lines = [b"mx.example.com", *self._extensions]
                return b"".join(b"250%s%s\r\n" % (b"- "[line is lines[-1] :][:1], line) for line in lines)
            case "STARTTLS":
                return b"220 2.0.0 go ahead\r\n"
            case "AUTH":
                return (b"235 2.7.0 welcome\r\n", b"334 VXNlcm5hbWU6\r\n", b"535 5.7.8 no\r\n", b"334 \r\n")[
                    self._tape.below(4)
                ]
            case "DATA":
                return b"354 go ahead\r\n"
            case "QUIT":
                return b"221 2.0.0 bye\r\n"
        return b"250 2.0.0 ok\r\n" if due.is_good else b"503 5.5.1 not now\r\n"

    def _odd(self, due: Due) -> None:
        """Something that a good server would not say here, or not in this way."""
        proper = self._proper(due)
        match self._tape.below(32):
            case 0 | 1 | 2:
                self._say(b"451 4.3.0 later\r\n")
            case 3 | 4 | 5:
                self._say(b"550 5.7.1 no\r\n")
            case 6:
                self._say(b"421 4.3.2 bye\r\n")
                self._end = b""
            case 7:
                self._say(b"421 4.3.2 bye\r\n")  # and goes on
            case 8:
                self._say(b"354 go ahead\r\n")
            case 9:
                self._say(b"250 2.0.0 ok\r\n")
            case 10:
                self._say(self._raw)
            case 11:
                self._say(self._raw + b"\r\n")
            case 12:
                self._say(proper + self._raw)
            case 13:
                pass  # every reply from here on belongs to the command before
            case 14:
                self._say(proper * 2)
            case 15:
                self._end = b""
            case 16:
                self._end = ConnectionResetError(104, "reset")
            case 17:
                self._say(proper[: self._tape.below(len(proper))])
                self._end = b""
            case 18:
                self._say(b"-".join((proper[:3], b"first\r\n")) + proper)
            case 19:
                self._say(b"250-first\r\n550 second\r\n")
            case 20:
                self._say(proper[:4] + b"\x00 \xc3\xa9\xff \x1b[2J\r\n")
            case 21:
                self._say(proper[:4] + b"x" * (500, 8180, 8190, 9000)[self._tape.below(4)] + b"\r\n")
            case 22:
                self._say(
                    (
                        b"\r\n",
                        b"\r\n" + proper,
                        proper + b"\r\n",
                        b"\n \t\r\n".join((b"", *proper.splitlines(keepends=True), b"")),
                        proper[:3] + b"OK id=1\r\n",
                        proper.replace(b" ", b"\t"),
                    )[self._tape.below(6)]
                )
            case 23:
                self._say(proper.replace(b"\r\n", b"\n"))
            case 24:
                self._say(LIMITS[self._tape.below(len(LIMITS))] + b"\r\n")
            case 25:
                self._say(b"552 5.3.4 too big\r\n")
            case 28:
                self._say(b"554 5.7.0 too many errors\r\n")
                self._end = b""
            case 29:
                self._say(b"502 5.5.1 not here\r\n")
                self._end = (b"", ConnectionResetError(104, "reset"))[self._tape.below(2)]
            case 30:
                self._say(proper + b"421 4.3.2 bye\r\n")
                self._end = b""
            case 31:
                self._say(b"503 5.5.1 order\r\n")
            case 26:
                self._say((proper[:3] + b"-and so on\r\n") * (5, 300)[self._tape.below(2)] + proper)
            case _:
                self._say(proper[:3] + b"\r\n")
