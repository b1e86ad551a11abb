"""What a scripted server understands and says: SMTP and LMTP from the server's side, driven by a `Play`.

No socket, no clock, no thread: octets in, octets and deeds out. Whoever owns a `Speaker` performs the deeds.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from smtpbackend.testing.play import CUT, HANG_UP, SILENCE, TLS, Deed, Fault, Play

__all__ = ["Speaker", "Transaction"]

GOOD: Final = {
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
ENDS: Final = {"cut", "reset", "silence", "deaf", "flood", "drip"}
"""The deeds after which nothing is heard any more."""
READ: Final = 65536
REFUSALS: Final = (b"4", b"5")
BDAT: Final = re.compile(r"BDAT (\d+)( LAST)?", re.IGNORECASE)
BEHIND: Final = re.compile(rb"(?:(?!RSET\r)[^\r]*\r\n)*?MAIL ", re.IGNORECASE)
"""MAIL, and no RSET before it."""


class Transaction(NamedTuple):
    """What a server was handed: the commands as they came, and the content with its dots unstuffed."""

    mail: str
    recipients: tuple[str, ...]
    content: bytes


class Speaker:
    """One connection of a scripted server.

    ``count`` gives the number in the queue identifier of a content that came to its end.
    """

    def __init__(self, play: Play, count: Callable[[], int] = lambda: 1) -> None:
        self.play = play
        self.commands: list[str] = []
        """Every line that came, content and chunks aside."""
        self.handed_over: list[Transaction] = []
        """Content that came to its end, whatever was answered. A refused BDAT LAST counts if anybody was accepted."""
        self.taken: list[Transaction] = []
        """Those that were not refused: they may have arrived. In LMTP without the recipients that were refused then."""
        self.received = bytearray()
        """Every octet that was read."""
        self.secured = False
        """Whether the handshake is done; who performs `TLS` sets it."""
        self.waits = 0
        """How often the client had to stop and wait for the server: once for the greeting, once for each TLS handshake,
        and once for each flight of octets that was answered, but for QUIT alone.

        A flight begins with the first octet after everything that had come was complete and answered. What comes while
        a command line, a chunk or a content is incomplete belongs to the same flight, for the client was still writing;
        only a pause exactly between two commands can be mistaken for its waiting, and ``patience`` of `ScriptedServer`
        is against that. Without a socket each complete `hear` is a flight.
        """
        self._count = count
        self._asked: dict[str, int] = {}
        self._buffer = bytearray()
        self._searched = 0
        self._is_last_octet = False  # whether what was taken from the buffer last was all of it
        self._is_waited_for = False  # whether the flight at hand is in `waits`
        self._over = False
        self._cut = False
        self._answered = 0
        self._said = 0
        self._offers_chunking = False
        self._lmtp = False
        self._challenges: list[str] = []
        self._forget()

    def _forget(self) -> None:
        """Begin without a transaction."""
        self._mail: str | None = None
        self._recipients: list[str] = []
        self._content = False  # whether the lines that come are content
        self._chunk: tuple[int, bool] | None = None  # octets of the chunk that is due, and whether it is the last
        self._chunks: bytearray | None = None  # those before it
        self._failed = False  # whether one of them was refused

    @property
    def verbs(self) -> list[str]:
        """The first words of the commands."""
        return [command.split(" ")[0].upper() for command in self.commands]

    @property
    def room(self) -> int:
        """How many octets to read at most before the next `hear`."""
        limit = self.play.cut_after_reading
        return READ if limit is None or self._cut else min(READ, limit - len(self.received))

    def greet(self) -> list[bytes | Deed]:
        """What is said before anything was heard."""
        said: list[bytes | Deed] = [TLS] if self.play.implicit_tls else []
        if self.play.cut_after_reading == 0:
            return self._utter(said, cut=True)
        return self._utter([*said, *self._answer("", "220 mx.example.com ESMTP ready")])

    def hear(self, data: bytes) -> list[bytes | Deed]:
        """Octets and deeds in answer to octets."""
        if self._cut:
            return []
        if not self._buffer and self._chunk is None:
            self._is_waited_for = False
        data = data[: self.room]
        self.received += data
        is_all = len(self.received) == self.play.cut_after_reading
        said: list[bytes | Deed] = []
        if not self._over:
            self._buffer += data
        while not self._over and (answer := self._next()) is not None:
            is_silenced = is_all and self._is_last_octet
            said += self._utter([] if is_silenced else answer, counts=self.commands[-1][:4].upper() != "QUIT")
        if is_all and not self._cut:
            said += self._utter([], cut=True)
        return said

    def _utter(self, said: list[bytes | Deed], *, counts: bool = True, cut: bool = False) -> list[bytes | Deed]:
        """What becomes of an answer on its way out: it may be counted, cut short, or split."""
        out: list[bytes | Deed] = []
        limit = self.play.cut_after_saying
        for part in said:
            if limit is not None:
                rest = limit - self._said
                if isinstance(part, Deed) and part.name in ("flood", "drip"):
                    part = part.value * (rest // len(part.value) + 1)
                if isinstance(part, bytes) and len(part) >= rest:
                    part, cut = part[:rest], True
            if isinstance(part, bytes):
                self._said += len(part)
                self.waits += counts and not self._is_waited_for and bool(part)
                self._is_waited_for = self._is_waited_for or bool(part)
                out += [part[at : at + 1] for at in range(len(part))] if self.play.split else [part]
            else:
                out.append(part)
                if part == TLS:
                    self._buffer.clear()  # RFC 3207 4.2: what was sent ahead of the handshake is not to be trusted
                    self._forget()
                    self.waits += 1
                    self._is_waited_for = False
                self._over = part.name in ENDS
            if cut or self._over:
                break
        if cut:
            self._over = self._cut = True
            out += [HANG_UP, SILENCE] if self.play.cut_by == HANG_UP else [self.play.cut_by]
        return out

    # What is heard ------------------------------------------------------------------------------------------------

    def _next(self) -> list[bytes | Deed] | None:
        """The answer to the next command, chunk or content; None until it is complete."""
        if self._chunk is not None:
            if len(self._buffer) < self._chunk[0]:
                return None
            return self._end_of_chunk(self._take(self._chunk[0]), *self._chunk)
        end = b"\r\n.\r\n" if self._content else b"\r\n"
        if self._content and self._buffer.startswith(b".\r\n"):
            found, end = 0, b".\r\n"
        else:
            found = self._buffer.find(end, self._searched)
        if found < 0:
            self._searched = max(len(self._buffer) - len(end), 0)
            return None
        self._searched = 0
        raw = self._take(found + len(end))
        if not self._content:
            return self._command(raw[:-2].decode("utf-8", "surrogateescape"))
        content = raw.removesuffix(b".\r\n")
        return self._end_of_content((b"\r\n" + content).replace(b"\r\n..", b"\r\n.")[2:])

    def _take(self, octets: int) -> bytes:
        taken = bytes(self._buffer[:octets])
        del self._buffer[:octets]
        self._is_last_octet = not self._buffer
        return taken

    def _command(self, line: str) -> list[bytes | Deed]:
        self.commands.append(line)
        if self._challenges:
            if line == "*":
                self._challenges = []
                return self._reply(["501 5.7.0 cancelled"])
            return self._encoded(self._challenges.pop(0)) if len(self._challenges) > 1 else self._login_end()
        verb = line.split(" ")[0].upper()
        if verb in ("EHLO", "LHLO"):
            return self._hello(line, verb)
        if verb == "BDAT":
            return self._bdat(line)
        if verb == "AUTH":
            return self._login(line)
        if verb == "RSET" and self._chunks is not None and Fault.CRASHES_ON_RSET_AMID_CHUNKS in self.play.faults:
            return [CUT]
        said = self._answer(line, self._good(line, verb))
        code = _code(said)
        if verb == "MAIL" and code == b"2":
            self._forget()
            self._mail = line
        elif verb == "RCPT" and code == b"2":
            self._recipients.append(line)
        elif verb == "DATA":
            self._content = code == b"3"
        elif verb in ("RSET", "HELO") and code == b"2":
            self._forget()
        elif verb == "STARTTLS" and TLS not in said and isinstance(said[0], bytes) and said[0][:3] == b"220":
            said.append(TLS)
        elif verb == "QUIT":
            said.append(CUT)
        return said

    def _good(self, line: str, verb: str) -> str:
        """What a good server answers."""
        if verb == "MAIL" and self._mail is not None:
            return "503 5.5.1 sender already given"
        if verb == "RCPT" and self._mail is None:
            return "503 5.5.1 MAIL first"
        if verb in ("RCPT", "DATA") and (self._failed or self._chunks is not None):
            return f"503 5.5.1 {verb} behind BDAT"  # RFC 3030 2
        if verb == "DATA" and not self._recipients:
            return "554 5.5.1 no valid recipients"
        if verb == "DATA" and "BODY=BINARYMIME" in (self._mail or "").upper():
            return "503 5.5.1 BINARYMIME needs BDAT"  # RFC 3030 3
        return "221 2.0.0 bye" if verb == "QUIT" else GOOD.get(verb, "500 5.5.1 unknown command")

    def _hello(self, line: str, verb: str) -> list[bytes | Deed]:
        extensions = self.play.extensions
        if self.secured and not self.play.implicit_tls:
            after = self.play.after_tls
            extensions = tuple(e for e in extensions if e != "STARTTLS") if after is None else after
        *others, last = ("mx.example.com", *extensions)
        said = self._answer(line, "\n".join([*(f"250-{other}" for other in others), f"250 {last}"]))
        if _code(said) == b"2":
            self._forget()
            self._lmtp = verb == "LHLO"
            self._offers_chunking = bool(
                re.search(rb"^250[- ]CHUNKING\r$", _octets(said), re.MULTILINE | re.IGNORECASE)
            )
        return said

    # Content ------------------------------------------------------------------------------------------------------

    def _bdat(self, line: str) -> list[bytes | Deed]:
        match = BDAT.fullmatch(line)
        if match is None or not self._offers_chunking:
            return self._answer(line, "501 5.5.4 BDAT size [LAST]" if self._offers_chunking else "500 5.5.1 unknown")
        self._chunk = int(match[1]), match[2] is not None
        return []

    def _end_of_chunk(self, chunk: bytes, octets: int, is_last: bool) -> list[bytes | Deed]:
        self._chunk = None
        before = self._chunks or bytearray()
        if is_last and self._recipients and not self._failed:
            said = self._end_of_content(bytes(before) + chunk)
        else:
            said = self._answer(self.commands[-1], self._good_for_chunk(octets))
            if is_last:
                mail = self._mail
                keeps_sender = Fault.KEEPS_SENDER in self.play.faults and not self._recipients
                self._forget()
                self._mail = mail if keeps_sender else None
            elif _code(said) in REFUSALS:
                self._failed = self._mail is not None
            else:
                self._chunks = before + chunk
        if _code(said) in REFUSALS and Fault.READS_REFUSED_CHUNKS in self.play.faults:
            self._buffer[:0] = chunk
        return said

    def _good_for_chunk(self, octets: int) -> str:
        if self._mail is None:
            return "503 5.5.1 MAIL first"
        if not self._recipients:
            return "503 5.5.1 no valid recipients"
        return "503 5.5.1 an earlier chunk was refused" if self._failed else f"250 2.0.0 {octets} octets"

    def _end_of_content(self, content: bytes) -> list[bytes | Deed]:
        whole = Transaction(self._mail or "", tuple(self._recipients), content)
        self.handed_over.append(whole)
        self._forget()
        faults = self.play.faults
        if Fault.CRASHES_ON_MAIL_BEHIND_CONTENT in faults and BEHIND.match(self._buffer[:READ]):
            self.taken.append(whole)
            return [CUT]
        line = self.commands[-1]
        heard = line if line[:4].upper() == "BDAT" and self._key(line) is not None else "."
        replies = max(len(whole.recipients), 1) if self._lmtp else 1
        said = self._answer(heard, GOOD["."].format(number=self._count()), replies)
        codes = [reply[:1] for reply in _octets(said).split(b"\r\n") if reply and reply[3:4] != b"-"]
        if self._lmtp:
            codes += [b""] * len(whole.recipients)
            kept = [each for each, code in zip(whole.recipients, codes, strict=False) if code not in REFUSALS]
            if kept:
                self.taken.append(whole._replace(recipients=tuple(kept)))
        elif not codes or codes[0] not in REFUSALS:
            self.taken.append(whole)
        if heard == "." and Fault.SWALLOWS_BEHIND_DOT in faults and line[:4].upper() != "BDAT":
            self._buffer.clear()
        return said

    # What is said -------------------------------------------------------------------------------------------------

    def _login(self, line: str) -> list[bytes | Deed]:
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

    def _login_end(self) -> list[bytes | Deed]:
        self._challenges = []
        return self._answer(self._auth, GOOD["AUTH"])

    def _encoded(self, challenge: str) -> list[bytes | Deed]:
        return self._reply([f"334 {base64.b64encode(challenge.encode()).decode()}"])

    def _key(self, heard: str) -> str | None:
        """The key of the answer that fits best."""
        line = heard.upper()
        fitting = [key for key in self.play.answers if line.startswith(key.upper()) and bool(key) == bool(line)]
        return max(fitting, key=len, default=None)

    def _answer(self, heard: str, good: str, replies: int = 1) -> list[bytes | Deed]:
        """What the play says to it, or else what is good; a single reply so many times."""
        key = self._key(heard)
        answer: Any = good if key is None else self.play.answers[key]
        if key is not None and isinstance(answer, list):
            turn = self._asked.get(key, 0)
            self._asked[key] = turn + 1
            answer = answer[min(turn, len(answer) - 1)]
        if callable(answer):
            answer = answer(self.commands[-1] if self.commands else "")
        if isinstance(answer, tuple):
            return self._reply(answer)
        return self._reply([answer] * (replies if isinstance(answer, str) else 1))

    def _reply(self, parts: Iterable[str | bytes | Deed]) -> list[bytes | Deed]:
        self._answered += 1
        if self._answered - 1 == self.play.goodbye_after:
            parts = ["421 4.3.2 going down", CUT]
        return [
            b"".join(line.encode() + b"\r\n" for line in part.split("\n")) if isinstance(part, str) else part
            for part in parts
        ]


def _octets(said: list[bytes | Deed]) -> bytes:
    return b"".join(part for part in said if isinstance(part, bytes))


def _code(said: list[bytes | Deed]) -> bytes:
    """The first digit of what is said, or nothing."""
    return _octets(said)[:1]
