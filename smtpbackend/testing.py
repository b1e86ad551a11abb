"""For tests: a scripted server that answers as a test wants it to, on a free loopback port.

A `Speaker` is one connection of it, octets in and octets and deeds out, without a socket, so that a list can be its
network too; a `ScriptedServer` gives speakers a port. Nothing of the package imports this.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import struct
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

__all__ = [
    "CUT",
    "DEAF",
    "EXTENSIONS",
    "HANG_UP",
    "RESET",
    "SILENCE",
    "TLS",
    "Deed",
    "Play",
    "ScriptedServer",
    "Speaker",
    "Transaction",
    "drip",
    "flood",
    "when_heard",
]

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


RESET: Final = Deed("reset")
"""Close the connection with RST."""
HANG_UP: Final = Deed("hang up")
"""Say that nothing more will be said."""
DEAF: Final = Deed("deaf")
"""Read nothing any more, and keep the connection."""


def when_heard(data: bytes) -> Deed:
    """Send this as soon as the client has sent something, which is not read."""
    return Deed("when_heard", data)


def flood(data: bytes) -> Deed:
    """Send this again and again, and read nothing."""
    return Deed("flood", data)


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


class ScriptedServer:
    """A running server, as a context manager; with ``path`` on a unix socket, and ``scheme`` is that of its URL.

    The nth connection gets the nth of ``plays``, all later ones the last.

    ``context`` is for TLS. What came is in ``speakers``, one for each connection, in clear as the server read it.
    """

    def __init__(
        self,
        *plays: Play,
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | None = None,
        scheme: str = "smtp",
    ) -> None:
        self.plays = plays or (Play(),)
        self.host = host
        self.port = port
        self.path = path
        self.scheme = scheme
        self.peers: list[str] = []
        self.speakers: list[Speaker] = []
        self.handshakes: list[Exception | None] = []
        """What became of each TLS handshake; None: it succeeded."""
        self.resumed: list[bool] = []
        """Whether each that succeeded resumed an earlier session."""
        self._context = context
        self._open: dict[Speaker, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Where it is, without TLS."""
        if self.path is not None:
            return f"{self.scheme}+unix://{self.path}?tls=none"
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}?tls=none"

    @property
    def name(self) -> str:
        """How errors call it."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many were accepted."""
        return len(self.speakers)

    @property
    def handed_over(self) -> list[Transaction]:
        """Every content that came to its end, over all connections."""
        return [transaction for speaker in list(self.speakers) for transaction in speaker.handed_over]

    @property
    def commands(self) -> list[str]:
        """Every command, over all connections."""
        return [command for speaker in list(self.speakers) for command in speaker.commands]

    @property
    def received(self) -> bytes:
        """Every octet, over all connections; those inside TLS decrypted."""
        return b"".join(bytes(speaker.received) for speaker in list(self.speakers))

    @property
    def open_connections(self) -> int:
        """How many are open now."""
        return len(self._open)

    def ask_for_certificate(self, ca_file: str) -> None:
        """Ask clients for a certificate that this authority signed."""
        assert self._context is not None
        self._context.load_verify_locations(ca_file)
        self._context.verify_mode = ssl.CERT_REQUIRED

    def speak_only(self, version: ssl.TLSVersion) -> None:
        """Speak this version of TLS."""
        assert self._context is not None
        self._context.minimum_version = self._context.maximum_version = version

    def resume_nothing(self) -> None:
        """Give no TLS sessions that could be resumed."""
        assert self._context is not None
        self._context.num_tickets = 0
        self._context.options |= ssl.OP_NO_TICKET

    def note_names(self) -> list[str | None]:
        """The list that every name of a client hello (SNI) will be noted in."""
        assert self._context is not None
        told: list[str | None] = []
        self._context.sni_callback = lambda sock, name, context: told.append(name)
        return told

    def say(self, data: bytes) -> None:
        """Say something unasked on every open connection."""
        with self._lock:
            for sock in self._open.values():
                sock.sendall(data)

    def cut(self) -> None:
        """Close every open connection without a word."""
        with self._lock:
            for sock in self._open.values():
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        assert _wait_until(lambda: not self._open, 5)

    def wait_for_end(self) -> None:
        """Wait until every client has closed."""
        assert _wait_until(lambda: not self._open, 5), "a connection stayed open"

    def __enter__(self) -> Self:
        if self.path is not None:
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(self.path)
            self._listening.listen(50)
        else:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            self._listening = socket.create_server((self.host, self.port), family=family, backlog=50)
            self.port = self._listening.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError), socket.socket(self._listening.family) as waker:
            waker.settimeout(5)
            waker.connect(self.path or (self.host, self.port))  # wakes the one who accepts
        with self._lock:
            for sock in self._open.values():
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(5)
            assert not thread.is_alive(), "the scripted server hangs"

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="scripted", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with self._listening:
            while True:
                sock, peer = self._listening.accept()
                if self._stopping.is_set():
                    sock.close()
                    return
                if self.path is None:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.peers.append(peer[0])
                play = self.plays[min(len(self.speakers), len(self.plays) - 1)]
                speaker = Speaker(play, lambda: len(self.handed_over))
                with self._lock:
                    self.speakers.append(speaker)
                    self._open[speaker] = sock
                self._start(self._serve, speaker, sock)

    def _serve(self, speaker: Speaker, sock: socket.socket) -> None:
        try:
            sock = self._perform(speaker, sock, speaker.greet())
            while data := sock.recv(65536):
                sock = self._perform(speaker, sock, speaker.hear(data))
        except (OSError, _Over):
            pass
        finally:
            with self._lock:
                self._open.pop(speaker).close()

    def _perform(self, speaker: Speaker, sock: socket.socket, deeds: list[Any]) -> socket.socket:
        for deed in deeds:
            if isinstance(deed, bytes):
                sock.sendall(deed)
            elif deed == TLS:
                sock = self._secure(speaker, sock)
            elif deed == CUT:
                raise _Over
            elif deed == SILENCE:
                while data := sock.recv(65536):
                    speaker.received += data
                raise _Over
            elif deed.name == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise _Over
            elif deed.name == "drip":
                while not self._stopping.wait(0.02):
                    for octet in deed.value:
                        sock.sendall(bytes([octet]))
                        if self._stopping.wait(0.02):
                            break
            elif deed.name == "flood":
                while not self._stopping.is_set():
                    sock.sendall(deed.value)
            elif deed == HANG_UP:
                sock.shutdown(socket.SHUT_WR)
            elif deed == DEAF:
                self._stopping.wait()
            elif deed.name == "when_heard":
                sock.recv(1, socket.MSG_PEEK)
                sock.sendall(deed.value)
            else:
                raise AssertionError(f"{deed!r} is unknown")
        return sock

    def _secure(self, speaker: Speaker, sock: socket.socket) -> socket.socket:
        assert self._context is not None, "the play wants TLS, and there is no context"
        secured = sock  # it may have gone already
        try:
            secured = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            with self._lock:
                self._open[speaker] = secured
            secured.do_handshake()
        except OSError as error:
            self.handshakes.append(error)
            secured.close()
            for frame, _ in traceback.walk_tb(error.__traceback__):
                half_made = frame.f_locals.get("self")
                if isinstance(half_made, ssl.SSLSocket):  # wrap_socket leaves it open where the client has reset
                    half_made.close()
            raise _Over from error
        self.handshakes.append(None)
        self.resumed.append(bool(secured.session_reused))
        speaker.secured = True
        return secured


class _Over(Exception):
    """The connection is to be closed."""


def _wait_until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
