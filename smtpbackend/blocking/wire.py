"""The network for one blocking connection: performs a conversation's effects on a socket, and owns its buffer.

A write never waits: where it cannot go on it reads what the server has to say meanwhile, so that neither side can
deadlock, and every wait has its end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

from smtpbackend.blocking.dial import dial
from smtpbackend.delivery.hostnames import certificate_name
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.tls import Context
from smtpbackend.errors import ProtocolViolation
from smtpbackend.forking import sockets, unforked
from smtpbackend.hiding import forget_locals
from smtpbackend.polling import MAX_POLL, READABLE, WRITABLE, new_poll
from smtpbackend.protocol.effects import Channel, Conversation, Ended, Now, Read, StartTLS, Work, Write
from smtpbackend.protocol.timeouts import earliest, time_is_up

__all__ = ["Wire"]

READ_SIZE = 65536
IN_RECV = 0.25  # seconds that recv waits by itself: a reply that comes sooner takes one system call and not two
MAX_AHEAD = 1 << 18  # octets read while writing: 256 unanswered commands have far shorter replies
# Not everywhere: Windows has neither, macOS has no second one
DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
QUICK_ACK: int = getattr(socket, "TCP_QUICKACK", 0)


class Wire:
    """One connected socket. ``peer`` and ``local`` are its addresses, None on a unix socket."""

    def __init__(self, server: Server, context: Callable[[], Context], sock: socket.socket) -> None:
        self._is_patient = _is_patient(sock)
        self._flags = DONT_WAIT  # of what must not wait; 0 where the socket itself never does
        self._server = server
        self._context_of = context
        self._socket: socket.socket = sock
        self._poll = new_poll()
        self._ahead = bytearray()
        self._ended = False
        self._is_secured = False
        self._has_heard = False  # since we wrote last
        self._deadline: float | None = None
        is_unix = sock.family not in (socket.AF_INET, socket.AF_INET6)
        self._may_hurry = bool(QUICK_ACK) and not is_unix
        self.peer: str | None = None if is_unix else sock.getpeername()[0]
        self.local: str | None = None if is_unix else sock.getsockname()[0]

    @classmethod
    def connect(cls, server: Server, context: Callable[[], Context], deadline: float | None) -> Wire:
        """Connect by name or address, through a proxy where there is one. Raises `ConnectFailed`."""
        return dial(server, deadline, lambda sock: cls(server, context, sock))

    def talk(self, conversation: Conversation[Any], value: Any = None, deadline: float | None = None) -> Any:
        """Carry a conversation on until it yields what is no effect of the network, or ends: then `Ended`.

        Whatever it raises closes the connection. ``deadline`` is in seconds of ``time.monotonic``.
        """
        reading: Read | None = None
        until = 0.0
        self._deadline = deadline
        try:
            step = conversation.send(value)
            while True:
                try:
                    answer: Any = None
                    kind = type(step)
                    if kind is Read:
                        if step is not reading:
                            reading = step
                            if not step.goes_on:
                                until = earliest(time.monotonic() + step.timeout, deadline)
                        answer = self._read(until)
                    elif kind is Write:
                        self._write(step.data, step.timeout)
                    elif kind is StartTLS:
                        until = earliest(time.monotonic() + step.timeout, deadline)
                        answer = self._start_tls(until)
                    elif kind is Now:
                        answer = time.monotonic()
                    elif kind is Work:
                        until = earliest(time.monotonic() + step.timeout, deadline)
                        answer = step.do()
                        if time.monotonic() >= until:
                            raise time_is_up(until, deadline)
                    else:
                        return step
                except OSError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
        except StopIteration as stop:
            return Ended(stop.value)
        except BaseException as error:
            self.close()
            conversation.close()
            step = answer = value = None
            forget_locals(error)
            raise

    def is_quiet(self) -> bool:
        """Whether nothing waits to be read: on an idle connection that could only be its end (DESIGN 4.5)."""
        if self._ahead or self._ended:
            return False
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return False
        self._poll.register(self._socket, READABLE)
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close the socket, at once and without a word."""
        self._ended = True
        if self._is_secured and isinstance(self._socket, ssl.SSLSocket):
            self._is_secured = False
            self._context.keep_session(self._socket)
        with unforked:
            self._socket.close()

    def _read(self, until: float) -> bytes:
        if self._has_heard and self._may_hurry:
            self._acknowledge()
        self._has_heard = True
        if self._ahead:
            data, self._ahead = bytes(self._ahead), bytearray()
            return data
        if self._ended:
            return b""
        if self._flags and not (self._is_patient and until - time.monotonic() > IN_RECV):
            self._wait(READABLE, until)  # a reply is never there yet
        while True:
            try:
                if self._flags:
                    return self._socket.recv(READ_SIZE)
                with unforked:  # a session ticket may come along
                    return self._socket.recv(READ_SIZE)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(READABLE, until)
            except ssl.SSLWantWriteError:
                self._wait(WRITABLE, until)
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return b""

    def _acknowledge(self) -> None:
        """Acknowledge at once: what was read was not all, and a server may be holding the rest back for that (Nagle).

        Linux acknowledges late on a connection where commands and replies take turns, and has to be told each time.
        """
        with contextlib.suppress(OSError):  # reading will raise what is wrong
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)

    def _write(self, data: bytes | bytearray, timeout: float) -> None:
        self._has_heard = False
        left = memoryview(data)
        until: float | None = None
        while left:
            try:
                if self._flags:
                    sent = self._socket.send(left, self._flags)
                else:
                    with unforked:
                        sent = self._socket.send(left)
                left = left[sent:]
                until = None
                continue
            except (BlockingIOError, ssl.SSLWantWriteError):
                wanted = READABLE | WRITABLE
            except ssl.SSLWantReadError:
                wanted = READABLE
            if until is None:  # the time-out is for each piece of progress
                until = earliest(time.monotonic() + timeout, self._deadline)
            if self._wait(wanted, until) & READABLE:
                self._read_ahead()

    def _read_ahead(self) -> None:
        """Take what the server says while we write."""
        try:
            with unforked:
                data = self._socket.recv(READ_SIZE, self._flags)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        self._ahead += data
        self._ended = not data
        if not data or len(self._ahead) > MAX_AHEAD:
            raise ConnectionError(
                f"{self._server.name} closed the connection" if not data else "the server does not stop talking"
            )

    def _start_tls(self, until: float) -> Channel:
        if not self.is_quiet():
            if not self._read(until):
                raise ConnectionError("the server closed the connection")
            # RFC 3207 4.2; whoever can inject into the clear part must not be heard inside TLS
            raise ProtocolViolation(
                f"{self._server.name} (or someone in between) sent data ahead of the TLS handshake",
                server=self._server.name,
            )
        self._poll.unregister(self._socket)
        self._socket.setblocking(False)
        self._flags = 0  # an SSLSocket takes no flags
        self._context = self._context_of()  # to make one takes long, and many servers need none
        with unforked:
            secured = self._context.wrap_socket(
                self._socket,
                server_hostname=certificate_name(self._server.identity or self._server.host),
                session=self._context.take_session(),
                do_handshake_on_connect=False,
            )
            self._socket = secured
            sockets.add(secured)
        while True:
            try:
                with unforked:
                    secured.do_handshake()
                self._is_secured = True
                return Channel.of(secured)
            except ssl.SSLWantReadError:
                self._wait(READABLE, until)
            except ssl.SSLWantWriteError:
                self._wait(WRITABLE, until)

    def _wait(self, wanted: int, until: float) -> int:
        """Wait for the socket; raises TimeoutError at ``until``."""
        self._poll.register(self._socket, wanted)
        # also when that has passed: what is there already did not come too late
        left = max(until - time.monotonic(), 0.0)
        events = self._poll.poll(min(left, MAX_POLL) * 1000)
        if not events:
            raise time_is_up(until, self._deadline)
        # an error or hang-up is for the next call to find
        return wanted if events[0][1] & ~(READABLE | WRITABLE) else events[0][1]


def _is_patient(sock: socket.socket) -> bool:
    """Have ``recv`` of a socket wait by itself for `IN_RECV`; False where that cannot be had: then it never waits."""
    seconds, rest = divmod(IN_RECV, 1)
    sock.setblocking(True)
    # without MSG_DONTWAIT a socket that waits would wait in `send` too; gevent's and eventlet's never block the
    # kernel's way, and wait without an end
    if DONT_WAIT and hasattr(os, "get_blocking") and os.get_blocking(sock.fileno()):
        with contextlib.suppress(OSError):  # another struct timeval
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(seconds), int(rest * 1e6)))
            return True
    sock.setblocking(False)
    return False
