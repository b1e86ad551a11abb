"""A scripted server on a port: says what its speakers say, and does their deeds. Sockets and threads live here."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import ssl
import struct
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Self

from smtpbackend.testing.play import CUT, DEAF, HANG_UP, RESET, SILENCE, TLS, Deed, Play
from smtpbackend.testing.speaker import Speaker, Transaction

__all__ = ["ScriptedServer"]

DRIP = 0.02
"""Seconds between two octets of `drip`."""
PATIENCE = 20.0
"""Seconds that a stop, a cut and `wait_for_end` wait at most."""


class ScriptedServer:
    """A running server on the loopback, as a context manager: `with ScriptedServer(Play({"MAIL": "450 later"})) as s:`.

    The nth connection gets the nth of ``plays``, all later ones the last; a mapping stands for a `Play` of these
    answers. ``context`` is for TLS. ``port`` 0 is a free one; with ``path`` it listens on that unix socket instead.
    ``scheme`` is that of `url`.

    With ``patience``, in seconds, whatever comes within that time of what was read last is read before any of it is
    answered. Then `Speaker.waits` is exact for whoever writes without a longer pause, at the price of that time for
    each wait; 0.02 is plenty.

    What came is in `speakers`, one for each connection, in clear as the server read it. What goes wrong in a script
    itself is raised at the end of the with statement.
    """

    def __init__(
        self,
        *plays: Play | Mapping[str, Any],
        context: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | None = None,
        scheme: str = "smtp",
        patience: float = 0.0,
    ) -> None:
        self.plays = tuple(play if isinstance(play, Play) else Play(play) for play in plays) or (Play(),)
        self.host = host
        self.port = port
        self.path = path
        self.scheme = scheme
        self.patience = patience
        self.peers: list[str] = []
        """The address of the client of each connection, but on a unix socket."""
        self.speakers: list[Speaker] = []
        self.handshakes: list[Exception | None] = []
        """What became of each TLS handshake; None: it succeeded."""
        self.resumed: list[bool] = []
        """Whether each that succeeded resumed an earlier session."""
        self._context = context
        self._open: set[_Line] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._failures: list[Exception] = []
        self._numbers = itertools.count(1)

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
    def taken(self) -> list[Transaction]:
        """Every content that was not refused and so may have arrived, over all connections."""
        return [transaction for speaker in list(self.speakers) for transaction in speaker.taken]

    @property
    def commands(self) -> list[str]:
        """Every command, over all connections."""
        return [command for speaker in list(self.speakers) for command in speaker.commands]

    @property
    def waits(self) -> int:
        """How often clients stopped and waited for the server (see `Speaker.waits`), over all connections."""
        return sum(speaker.waits for speaker in list(self.speakers))

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
        self._tls.load_verify_locations(ca_file)
        self._tls.verify_mode = ssl.CERT_REQUIRED

    def speak_only(self, version: ssl.TLSVersion) -> None:
        """Speak this version of TLS."""
        self._tls.minimum_version = self._tls.maximum_version = version

    def resume_nothing(self) -> None:
        """Give no TLS sessions that could be resumed."""
        self._tls.num_tickets = 0
        self._tls.options |= ssl.OP_NO_TICKET

    def note_names(self) -> list[str | None]:
        """The list that every name of a client hello (SNI) will be noted in."""
        told: list[str | None] = []
        self._tls.sni_callback = lambda sock, name, context: told.append(name)
        return told

    @property
    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            raise ValueError(
                "a scripted server without a context has no TLS; give it one: ScriptedServer(..., context=)"
            )
        return self._context

    def say(self, data: bytes) -> None:
        """Say something unasked on every open connection."""
        with self._lock:
            lines = list(self._open)
        for line in lines:
            with contextlib.suppress(OSError):  # it may have gone
                line.send(data)

    def cut(self) -> None:
        """Close every open connection without a word, and return when they are closed."""
        self._wait_for_end(is_cut=True)

    def wait_for_end(self) -> None:
        """Wait until every connection is closed, by the client or by a deed; TimeoutError after 20 s."""
        self._wait_for_end(is_cut=False)

    def _wait_for_end(self, is_cut: bool) -> None:
        end = time.monotonic() + PATIENCE
        while self._is_wanted():
            if is_cut:
                self._end_all()
            if time.monotonic() > end:
                raise TimeoutError("a connection to the scripted server stayed open")
            time.sleep(0.005)

    def _end_all(self) -> None:
        with self._lock:
            for line in self._open:
                line.end()

    def _is_wanted(self) -> bool:
        """Whether a connection is open, or about to be accepted."""
        with self._lock:
            if self._open or self._stopping.is_set():
                return bool(self._open)
            with selectors.DefaultSelector() as selector:
                selector.register(self._listening, selectors.EVENT_READ)
                return bool(selector.select(0))

    def __enter__(self) -> Self:
        if self.path is not None:
            if not hasattr(socket, "AF_UNIX"):
                raise OSError("path: Python has no unix sockets on this system")
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(self.path)
            self._listening.listen(50)
        else:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            self._listening = socket.create_server((self.host, self.port), family=family, backlog=50)
            self.port = self._listening.getsockname()[1]
        self._listening.setblocking(False)
        self._wake, self._woken = socket.socketpair()
        self._start(self._accept)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        with self._lock:
            self._stopping.set()
        self._wake.close()
        self._join(self._threads[:1])  # the one who accepts, and so starts the others
        self._end_all()
        self._join(self._threads)
        if self._failures and error is None:
            raise self._failures[0]

    @staticmethod
    def _join(threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                raise TimeoutError("the scripted server does not stop")

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="scripted", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with self._listening, self._woken, selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while selector.select() and not self._stopping.is_set():
                with self._lock, contextlib.suppress(OSError):  # who came may have gone again
                    sock, peer = self._listening.accept()
                    try:
                        self._welcome(sock, peer)
                    except OSError:
                        sock.close()

    def _welcome(self, sock: socket.socket, peer: Any) -> None:
        sock.setblocking(True)
        play = self.plays[min(len(self.speakers), len(self.plays) - 1)]
        if self.path is None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not play.nagle)
            self.peers.append(peer[0])
        line = _Line(sock, Speaker(play, lambda: next(self._numbers)), self.patience)
        self.speakers.append(line.speaker)
        self._open.add(line)
        self._start(self._serve, line)

    def _serve(self, line: _Line) -> None:
        try:
            self._perform(line, line.speaker.greet())
            while data := line.read():
                self._perform(line, line.speaker.hear(data))
        except (OSError, _Over):
            pass
        except Exception as error:
            self._failures.append(error)
        finally:
            with self._lock:
                self._open.remove(line)
                line.sock.close()

    def _perform(self, line: _Line, deeds: list[bytes | Deed]) -> None:
        for deed in deeds:
            if isinstance(deed, bytes):
                line.send(deed)
            elif deed == TLS:
                self._secure(line)
            elif deed == CUT:
                raise _Over
            elif deed == RESET:
                line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise _Over
            elif deed == HANG_UP:
                line.sock.shutdown(socket.SHUT_WR)
            elif deed == SILENCE:
                pass  # the speaker has nothing to say any more
            elif deed == DEAF:
                self._stopping.wait()
            elif deed.name == "delay":
                self._stopping.wait(deed.value)
            elif deed.name == "when_heard":
                line.sock.recv(1, socket.MSG_PEEK)
                line.send(deed.value)
            elif deed.name == "flood":
                while not self._stopping.is_set():
                    line.send(deed.value)
            elif deed.name == "drip":
                for octet in itertools.cycle(deed.value):
                    if self._stopping.wait(DRIP):
                        break
                    line.send(bytes([octet]))
            else:
                raise ValueError(f"{deed!r} is no deed of a scripted server")

    def _secure(self, line: _Line) -> None:
        context = self._tls
        try:
            is_resumed = line.secure(context)
        except OSError as error:
            self.handshakes.append(error)
            for frame, _ in traceback.walk_tb(error.__traceback__):
                half_made = frame.f_locals.get("self")
                if isinstance(half_made, ssl.SSLSocket):  # wrap_socket leaves it open where the client has reset
                    half_made.close()
            raise _Over from error
        self.handshakes.append(None)
        self.resumed.append(is_resumed)
        line.speaker.secured = True


class _Line:
    """The socket of one connection. One thread reads it, several may write."""

    def __init__(self, sock: socket.socket, speaker: Speaker, patience: float) -> None:
        self.sock = sock
        self.speaker = speaker
        self.patience = patience
        self._lock = threading.Lock()  # an SSLSocket breaks when one thread reads and another writes
        self._ended = False

    def secure(self, context: ssl.SSLContext) -> bool:
        """Take the server's part of a handshake; whether it resumed an earlier session."""
        self.sock = secured = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        if self._ended:
            raise ConnectionAbortedError("the server stops")  # `end` may have met a socket that was being wrapped
        secured.do_handshake()
        return bool(secured.session_reused)

    def end(self) -> None:
        """Let whoever reads or writes find the end of the stream."""
        self._ended = True
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # below TLS, whose state is the reader's

    def send(self, data: bytes) -> None:
        """Send all of it, as a segment of its own where the socket has TCP_NODELAY."""
        with self._lock:
            self.sock.sendall(data)

    def read(self) -> bytes:
        """What has come, as much as the speaker wants; nothing at the end of the stream. This is where one waits."""
        data = self._receive(self.speaker.room)
        if self.patience and data:
            self.sock.settimeout(self.patience)
            with contextlib.suppress(TimeoutError):
                while (room := self.speaker.room - len(data)) > 0 and (more := self._receive(room)):
                    data += more
            self.sock.settimeout(None)
        return data

    def _receive(self, octets: int) -> bytes:
        if not isinstance(self.sock, ssl.SSLSocket):
            return self.sock.recv(octets)
        if not self.sock.pending():
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)  # waits without the lock, below TLS
        with self._lock:
            return self.sock.recv(octets)


class _Over(Exception):
    """The connection is to be closed."""
