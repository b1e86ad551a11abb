"""The network for one asyncio connection: performs a conversation's effects on a transport, and owns its buffer.

TLS is an ``SSLObject`` of our own: ``asyncio.StreamWriter.start_tls`` would hand octets injected before the handshake
on as if they had come inside TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from smtpbackend.aio.dial import dial
from smtpbackend.delivery.hostnames import certificate_name
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.tls import Context
from smtpbackend.errors import ProtocolViolation
from smtpbackend.forking import unforked
from smtpbackend.hiding import forget_locals
from smtpbackend.polling import READABLE, new_poll
from smtpbackend.protocol.effects import Channel, Conversation, Ended, Now, Read, StartTLS, Work, Write
from smtpbackend.protocol.timeouts import earliest, time_is_up

__all__ = ["Wire"]

READ_SIZE = 65536
BUFFER = 8192  # octets: the replies to a window of messages are fewer, and each idle connection has one
MAX_AHEAD = 1 << 18  # octets read while writing: 256 unanswered commands have far shorter replies
QUICK_ACK: int = getattr(socket, "TCP_QUICKACK", 0)  # of Linux alone


class Wire(asyncio.BufferedProtocol):
    """One connected transport. ``peer`` and ``local`` are its addresses, None on a unix socket."""

    _transport: asyncio.Transport
    _tls: ssl.SSLObject | None

    def __init__(self, server: Server, context: Callable[[], Context], sock: socket.socket) -> None:
        self._server = server
        self._context_of = context
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(BUFFER)  # where the loop puts what it reads
        self._ahead = bytearray()
        self._tls = None
        self._is_secured = False
        self._from_server = ssl.MemoryBIO()
        self._to_server = ssl.MemoryBIO()
        self._ended = False
        self._error: Exception | None = None
        self._paused = False
        self._waiting: asyncio.Future[None] | None = None
        self._of_task: contextvars.Context | None = None  # in which the conversation goes on; None: a handshake waits
        self._conversation: Conversation[Any]
        self._step: Any = None  # the effect that the conversation yielded last
        self._has_begun = False  # whether that effect was begun, and waits
        self._reading: Read | None = None  # the Read whose time runs
        self._deadline: float | None = None
        self._until = 0.0  # when the present wait is over
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._has_heard = False  # since we wrote last
        is_unix = sock.family not in (socket.AF_INET, socket.AF_INET6)
        self._may_hurry = bool(QUICK_ACK) and not is_unix
        # not asked of the transport: it has None where the connection is lost again, and that must not seem local
        self.peer: str | None = None if is_unix else sock.getpeername()[0]
        self.local: str | None = None if is_unix else sock.getsockname()[0]

    @classmethod
    async def connect(cls, server: Server, context: Callable[[], Context], deadline: float | None) -> Wire:
        """Connect by name or address, through a proxy where there is one. Raises `ConnectFailed`."""

        async def ready(sock: socket.socket) -> Wire:
            wire = cls(server, context, sock)
            await wire._loop.create_connection(lambda: wire, sock=sock)
            return wire

        return await dial(server, deadline, ready)

    async def talk(self, conversation: Conversation[Any], value: Any = None, deadline: float | None = None) -> Any:
        """Carry a conversation on until it yields what is no effect of the network, or ends: then `Ended`.

        Whatever it raises, cancellation too, closes the connection. ``deadline`` is in seconds of the loop's clock.
        """
        self._conversation, self._deadline, self._reading = conversation, deadline, None
        try:
            self._step, self._has_begun = conversation.send(value), False
            while True:
                if not self.go_on():
                    self._waiting = self._loop.create_future()
                    self._of_task = contextvars.copy_context()
                    await self._waiting
                step = self._step
                if type(step) not in (StartTLS, Work):
                    return step
                try:
                    self._until = earliest(self._loop.time() + step.timeout, deadline)
                    if type(step) is StartTLS:
                        answer = await self._start_tls(self._until)
                    else:
                        answer = await self._do(step, self._until)
                except OSError as error:
                    self._step = conversation.throw(error)
                else:
                    self._step = conversation.send(answer)
        except StopIteration as stop:
            return Ended(stop.value)
        except BaseException as error:
            self.close()
            conversation.close()
            step = value = None
            forget_locals(error)
            raise
        finally:
            self._waiting = self._step = self._of_task = None  # an idle connection holds no content

    def go_on(self, trouble: OSError | None = None) -> bool:
        """Carry the conversation on for as long as that needs no waiting; whether it yielded what is not for here.

        The loop calls it when something was read, before any task: the next group leaves without a turn of the loop.
        """
        conversation, step = self._conversation, self._step
        while True:
            try:
                if trouble is not None:
                    raise trouble
                answer: Any = None
                kind = type(step)
                if kind is Read:
                    answer = self._read(step)
                    waits = answer is None
                elif kind is Write:
                    waits = not self._write(step)
                elif kind is Now:
                    answer, waits = self._loop.time(), False
                else:
                    self._step = step
                    return True
            except OSError as error:
                trouble = None
                step = conversation.throw(error)
            else:
                if waits:
                    self._step, self._has_begun = step, True
                    self._wait_until(self._until)
                    return False
                step = conversation.send(answer)
            self._has_begun = False

    def wake(self, trouble: OSError | None = None) -> None:
        """Something happened that was perhaps waited for."""
        waiting = self._waiting
        if waiting is None or waiting.done():
            return
        failed: BaseException | None = None
        try:
            if self._of_task is not None and not self._of_task.run(self.go_on, trouble):
                return
        except StopIteration as stop:  # which no future can hold
            self._step = Ended(stop.value)
        except BaseException as error:
            failed = error
        if waiting.done():  # cancelled meanwhile: the task that waited closes what there is
            return
        if failed is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(failed)
            failed = None  # it holds this frame

    def _wait_until(self, when: float) -> None:
        """Have the wait end at this time. One timer serves many waits: if it goes off too early, it is set anew."""
        self._until = when
        if self._timer is None or self._timer_at > when:
            self._set_timer(when)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._time_is_up, 2)

    def _time_is_up(self, looks: int) -> None:
        """What has arrived by now is in time: the loop looks again before the wait is given up."""
        self._timer = None
        if self._waiting is None or self._waiting.done():
            return
        if self._until > self._loop.time():
            self._set_timer(self._until)
        elif looks:
            self._timer = self._loop.call_soon(self._time_is_up, looks - 1)
        elif self._of_task is not None:
            self.wake(time_is_up(self._until, self._deadline))
        else:
            self._waiting.set_exception(time_is_up(self._until, self._deadline))

    def is_quiet(self) -> bool:
        """Whether nothing waits to be read: on an idle connection that could only be its end (DESIGN 4.5)."""
        if self._ahead or self._ended or self._from_server.pending or (self._tls and self._tls.pending()):
            return False
        # what the loop has not seen yet
        poll = new_poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), READABLE)
        return not poll.poll(0)

    def leave(self, conversation: Conversation[Any]) -> None:
        """Say what a conversation begins with, as far as that takes no wait, and close."""
        try:
            step = conversation.send(None)
            while type(step) is Now:
                step = conversation.send(self._loop.time())
            self._has_begun = False
            with contextlib.suppress(OSError):  # the server has closed it
                self._write(step)
        finally:
            conversation.close()
            self.close()

    def close(self) -> None:
        """Close the transport, at once and without a word."""
        self._ended = True
        if self._is_secured and self._tls is not None:
            self._is_secured = False
            self._context.keep_session(self._tls)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    # What asyncio tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of ``asyncio.BufferedProtocol``."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Part of ``asyncio.BufferedProtocol``."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Part of ``asyncio.BufferedProtocol``."""
        self._take(self._buffer[:nbytes])

    def _take(self, data: bytes | bytearray) -> None:
        if self._tls is None:
            self._ahead += data
        else:
            self._from_server.write(data)
        if len(self._ahead) + self._from_server.pending > MAX_AHEAD:
            self._error = ConnectionError("the server does not stop talking")
            self.close()
        self.wake()

    def eof_received(self) -> bool:
        """Part of ``asyncio.BufferedProtocol``."""
        self._ended = True
        self.wake()
        return True  # we close it ourselves

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of ``asyncio.BufferedProtocol``."""
        if exc is not None:
            # a write failed, and what the server said before it hung up may not have been read yet
            with contextlib.suppress(OSError):
                self._take(self._socket.recv(READ_SIZE))
        self._ended = True
        self._error = self._error or exc
        self._paused = False
        self.wake()

    def pause_writing(self) -> None:
        """Part of ``asyncio.BufferedProtocol``."""
        self._paused = True

    def resume_writing(self) -> None:
        """Part of ``asyncio.BufferedProtocol``."""
        self._paused = False
        self.wake()

    def _read(self, step: Read) -> bytes | None:
        """What was read, b"" at the end; None: it has to be waited for."""
        if not self._has_begun:
            if step is not self._reading:
                self._reading = step
                if not step.goes_on:
                    self._until = earliest(self._loop.time() + step.timeout, self._deadline)
            if self._has_heard and self._may_hurry:
                self._acknowledge()
            self._has_heard = True
        return self.received()

    def received(self) -> bytes | None:
        if self._tls is not None:
            try:
                with unforked:  # a session ticket may come along
                    return self._tls.read(READ_SIZE)
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return b""
        elif self._ahead:
            data, self._ahead = bytes(self._ahead), bytearray()
            return data
        if not self._ended:
            return None
        if self._error is not None and not isinstance(self._error, ConnectionResetError):
            raise self._error
        return b""

    def _acknowledge(self) -> None:
        """Acknowledge at once: what was read was not all, and a server may be holding the rest back for that (Nagle).

        Linux acknowledges late on a connection where commands and replies take turns, and has to be told each time.
        """
        with contextlib.suppress(OSError):  # reading will raise what is wrong
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)

    def _write(self, step: Write) -> bool:
        """Whether it has left, except for what the transport may hold; False: it has to be waited for."""
        if not self._has_begun:
            self._has_heard = False
            if self._transport.is_closing():
                raise self._error or ConnectionError(f"{self._server.name} closed the connection")
            if self._tls is None:
                self._transport.write(step.data)
            else:
                with unforked:
                    self._tls.write(step.data)
                self._transport.write(self._to_server.read())
            if self._paused:
                self._until = earliest(self._loop.time() + step.timeout, self._deadline)
        if self._paused:
            if self._ended:
                raise ConnectionError(f"{self._server.name} closed the connection")
            return False
        if self._error is not None:
            raise self._error
        return True

    async def _start_tls(self, until: float) -> Channel:
        if not self.is_quiet():
            while (data := self.received()) is None:
                await self.wait(until)
            if not data:
                raise ConnectionError("the server closed the connection")
            # RFC 3207 4.2; whoever can inject into the clear part must not be heard inside TLS
            raise ProtocolViolation(
                f"{self._server.name} (or someone in between) sent data ahead of the TLS handshake",
                server=self._server.name,
            )
        self._context = self._context_of()  # to make one takes long, and many servers need none
        with unforked:
            self._tls = self._context.wrap_bio(
                self._from_server,
                self._to_server,
                server_hostname=certificate_name(self._server.identity or self._server.host),
                session=self._context.take_session(),
            )
        while True:
            try:
                with unforked:
                    self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._transport.write(self._to_server.read())
            except ssl.SSLError:
                self._transport.write(self._to_server.read())  # the alert tells the server why
                raise
            else:
                self._transport.write(self._to_server.read())
                self._is_secured = True
                return Channel.of(self._tls)
            if self._ended:
                raise self._error or ConnectionError("the server closed the connection during the handshake")
            await self.wait(until)

    async def _do(self, work: Work, until: float) -> Any:
        """In a thread, which hashes beside the loop; one that is given up on comes to its end by itself."""
        try:
            async with asyncio.timeout_at(until):
                return await asyncio.to_thread(work.do)
        except TimeoutError:
            raise time_is_up(until, self._deadline) from None

    async def wait(self, until: float) -> None:
        """Wait in a handshake until something happens; raises TimeoutError at ``until``."""
        self._waiting, self._of_task = self._loop.create_future(), None
        self._wait_until(until)
        try:
            await self._waiting
        finally:
            self._waiting = None
