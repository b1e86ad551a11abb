"""A server that answers as a test wants it to, on a free loopback port: refusals, cuts, silence, injected octets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from typing import Any, Self

from tests.servers.ports import wait_until
from tests.servers.speaker import CUT, SILENCE, TLS, Deed, Play, Speaker, Transaction

__all__ = ["ScriptedServer"]


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
        assert wait_until(lambda: not self._open, 5)

    def wait_for_end(self) -> None:
        """Wait until every client has closed."""
        assert wait_until(lambda: not self._open, 5), "a connection stayed open"

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
            raise _Over from error
        self.handshakes.append(None)
        self.resumed.append(bool(secured.session_reused))
        speaker.secured = True
        return secured


RESET = Deed("reset")
"""Close the connection with RST."""
HANG_UP = Deed("hang up")
"""Say that nothing more will be said."""
DEAF = Deed("deaf")
"""Read nothing any more, and keep the connection."""


def when_heard(data: bytes) -> Deed:
    """Send this as soon as the client has sent something, which is not read."""
    return Deed("when_heard", data)


def flood(data: bytes) -> Deed:
    """Send this again and again, and read nothing."""
    return Deed("flood", data)


class _Over(Exception):
    """The connection is to be closed."""
