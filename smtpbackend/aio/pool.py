"""The connections of one mailer in one event loop. ``delivery/pooling.py`` decides what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import Any

from smtpbackend.aio.tokens import token
from smtpbackend.aio.wire import Wire
from smtpbackend.delivery.configuration import Limits
from smtpbackend.delivery.dispatch import END, Find, Give, Lease, Pull, Release, Talk, Token
from smtpbackend.delivery.pooling import Connection, Shelf, new_session
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.srv import Found
from smtpbackend.delivery.tls import Context, client_context
from smtpbackend.delivery.transcript import transcript
from smtpbackend.errors import SMTPError, TimedOut

__all__ = ["Pool"]

GOODBYE = 1.0  # seconds for QUIT and its reply


class Pool:
    """Open connections by server, for the tasks of one loop."""

    def __init__(self, limits: Limits, contexts: dict[Server, Context]) -> None:
        self.limits = limits
        self._contexts = contexts
        self._loop = asyncio.get_running_loop()
        self._shelves: dict[Server, Shelf[Wire]] = {}
        self._found: dict[Server, tuple[Found, float]] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._keeper: AsyncGenerator[None, None] | None = None

    def context(self, server: Server) -> Context:
        """The TLS context of a server, made once. Raises `InvalidSetting` for a file that cannot be used."""
        if server not in self._contexts:
            self._contexts[server] = client_context(server)
        return self._contexts[server]

    async def perform(self, dispatch: Generator[Any, Any, None], source: Any) -> AsyncGenerator[Any, None]:
        """Perform what a dispatch decides; yields what it gives."""
        if self._keeper is None:
            self._keeper = self._closing()
            await anext(self._keeper)
        held = None
        failed: Exception | None = None
        answer: Any = None
        try:
            effect = next(dispatch)
            while True:
                try:
                    answer = None
                    kind = type(effect)
                    if kind is Talk:
                        connection = effect.connection
                        answer = await connection.wire.talk(effect.conversation, effect.value, connection.deadline)
                    elif kind is Give:
                        yield effect[0]
                    elif kind is Pull:
                        try:
                            answer = (
                                await anext(source, END) if isinstance(source, AsyncIterator) else next(source, END)
                            )
                        except Exception as error:
                            answer, failed = END, error
                    elif kind is Lease:
                        answer = held = await self.lease(*effect)
                        held.deadline = effect.deadline
                    elif kind is Find:
                        answer = await self.find(*effect)
                    elif kind is Token:
                        answer = await token(*effect)
                    elif kind is Release:
                        held = None
                        await self.release(effect.connection)
                except SMTPError as error:
                    effect = dispatch.throw(error)
                else:
                    effect = dispatch.send(answer)
        except StopIteration:
            pass
        finally:
            dispatch.close()
            if held is not None:
                held.session.broken = True
                await self.release(held)
        if failed is not None:
            raise failed

    async def find(self, server: Server, deadline: float | None) -> list[Server]:
        """The servers that SRV records name, which are remembered for as long as they hold. Raises `ConnectFailed`."""
        from random import random

        from smtpbackend.aio.lookup import find

        known = self._found.get(server)
        if known is None or known[1] <= self._loop.time():
            found = await find(server, deadline)
            known = self._found[server] = found, self._loop.time() + found.ttl
        return known[0].servers(random)

    async def lease(self, server: Server, fresh: bool, deadline: float | None) -> Connection[Wire]:
        """An idle connection that is alive, unless ``fresh``; else a new one, on which nothing has been said.

        Waits for one where ``max_connections`` are in use. Raises `ConnectFailed` and `TimedOut`.
        """
        while True:
            connection, gone = await self._find(server, fresh, deadline)
            try:
                await self._say_goodbye(*gone)
                if connection is None:
                    return await self._open(server, deadline)
                if connection.wire.is_quiet():
                    connection.reused = True
                    return connection
            except BaseException:
                if connection is not None:
                    connection.wire.close()
                self._count_out(server)
                raise
            connection.wire.close()
            self._count_out(server)

    async def _find(
        self, server: Server, fresh: bool, deadline: float | None
    ) -> tuple[Connection[Wire] | None, list[Connection[Wire]]]:
        """An idle connection, or None when one may be opened, which is then counted; and those to say goodbye to."""
        end = self._loop.time() + server.timeout.connect if deadline is None else deadline
        gone: list[Connection[Wire]] = []
        while True:
            shelf = self._shelves.setdefault(server, Shelf(self.limits))
            expired = shelf.expired(self._loop.time())
            if fresh and not expired and not shelf.may_open() and shelf.idle:
                expired = [shelf.idle.pop(0)]
            gone += expired
            shelf.open -= len(expired)
            connection = None if fresh else shelf.take()
            if connection is not None:
                return connection, gone
            if shelf.may_open():
                shelf.open += 1
                return None, gone
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout_at(end):
                    await waiter
            except TimeoutError:
                raise TimedOut(
                    f"all {self.limits.max_connections} connections to {server} stayed in use; see max_connections",
                    server=server.name,
                ) from None
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    async def _open(self, server: Server, deadline: float | None) -> Connection[Wire]:
        generation = self._shelves[server].generation
        wire = await Wire.connect(server, self.context(server), deadline)
        try:
            session = new_session(server, socket.gethostname(), wire.local, wire.peer, transcript(server))
        except BaseException:
            wire.close()
            raise
        return Connection(server, wire, session, self.limits.max_messages, generation)

    async def release(self, connection: Connection[Wire]) -> None:
        """Take a connection back; what cannot be used again is closed."""
        connection.deadline = None
        shelf = self._shelves.get(connection.server)
        kept = shelf is not None and shelf.put(connection, self._loop.time())
        if shelf is not None and not kept:
            shelf.open -= 1
        self._notify()
        if not kept:
            await self._say_goodbye(connection)

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        gone = [connection for shelf in self._shelves.values() for connection in shelf.empty()]
        self._notify()
        await self._say_goodbye(*gone)

    async def _closing(self) -> AsyncGenerator[None, None]:
        """Close with the loop: ``asyncio.run`` ends the asynchronous generators that are left."""
        try:
            yield
        finally:
            await self.close()

    async def _say_goodbye(self, *connections: Connection[Wire]) -> None:
        try:
            for connection in connections:
                if not connection.session.broken:
                    with contextlib.suppress(SMTPError):
                        await connection.wire.talk(connection.session.quit(), None, self._loop.time() + GOODBYE)
        finally:
            for connection in connections:
                connection.wire.close()

    def _count_out(self, server: Server) -> None:
        if server in self._shelves:
            self._shelves[server].open -= 1
        self._notify()

    def _notify(self) -> None:
        # all of them look again, in the order they came: who waits for another server must not swallow the call
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
