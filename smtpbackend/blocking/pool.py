"""The connections of one mailer, shared by its threads. ``delivery/pooling.py`` decides what is kept."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from typing import Any

from smtpbackend.blocking.tokens import token
from smtpbackend.blocking.wire import Wire
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
    """Open connections by server. Safe for threads; a forked child starts with an empty one."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._contexts: dict[Server, Context] = {}
        self._forget()
        _pools.add(self)

    def _forget(self) -> None:
        """Start anew, as a forked child must: its parent's sockets and locks are not its own."""
        for shelf in getattr(self, "_shelves", {}).values():
            for connection in shelf.idle:
                connection.wire.close()
        self._shelves: dict[Server, Shelf[Wire]] = {}
        self._found: dict[Server, tuple[Found, float]] = {}
        self._changed = threading.Condition()

    def context(self, server: Server) -> Context:
        """The TLS context of a server, made once. Raises `InvalidSetting` for a file that cannot be used."""
        if server not in self._contexts:
            self._contexts[server] = client_context(server)
        return self._contexts[server]

    def perform(self, dispatch: Generator[Any, Any, None], source: Iterator[Any]) -> Iterator[Any]:
        """Perform what a dispatch decides; yields what it gives."""
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
                        answer = connection.wire.talk(effect.conversation, effect.value, connection.deadline)
                    elif kind is Give:
                        yield effect[0]
                    elif kind is Pull:
                        try:
                            answer = next(source, END)
                        except Exception as error:
                            answer, failed = END, error
                    elif kind is Lease:
                        answer = held = self.lease(*effect)
                        held.deadline = effect.deadline
                    elif kind is Find:
                        answer = self.find(*effect)
                    elif kind is Token:
                        answer = token(*effect)
                    elif kind is Release:
                        held = None
                        self.release(effect.connection)
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
                self.release(held)
        if failed is not None:
            raise failed

    def find(self, server: Server, deadline: float | None) -> list[Server]:
        """The servers that SRV records name, which are remembered for as long as they hold. Raises `ConnectFailed`."""
        from random import random

        from smtpbackend.blocking.lookup import find

        known = self._found.get(server)
        if known is None or known[1] <= time.monotonic():
            found = find(server, deadline)
            known = self._found[server] = found, time.monotonic() + found.ttl
        return known[0].servers(random)

    def lease(self, server: Server, fresh: bool, deadline: float | None) -> Connection[Wire]:
        """An idle connection that is alive, unless ``fresh``; else a new one, on which nothing has been said.

        Waits for one where ``max_connections`` are in use. Raises `ConnectFailed` and `TimedOut`.
        """
        while True:
            connection, gone = self._find(server, fresh, deadline)
            try:
                self._say_goodbye(*gone)
                if connection is None:
                    return self._open(server, deadline)
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

    def _find(
        self, server: Server, fresh: bool, deadline: float | None
    ) -> tuple[Connection[Wire] | None, list[Connection[Wire]]]:
        """An idle connection, or None when one may be opened, which is then counted; and those to say goodbye to."""
        end = time.monotonic() + server.timeout.connect if deadline is None else deadline
        with self._changed:
            gone: list[Connection[Wire]] = []
            while True:
                shelf = self._shelves.setdefault(server, Shelf(self.limits))
                expired = shelf.expired(time.monotonic())
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
                if not self._changed.wait(end - time.monotonic()):
                    raise TimedOut(
                        f"all {self.limits.max_connections} connections to {server} stayed in use; see max_connections",
                        server=server.name,
                    )

    def _open(self, server: Server, deadline: float | None) -> Connection[Wire]:
        generation = self._shelves[server].generation
        wire = Wire.connect(server, self.context(server), deadline)
        try:
            session = new_session(server, socket.gethostname(), wire.local, wire.peer, transcript(server))
        except BaseException:
            wire.close()
            raise
        return Connection(server, wire, session, self.limits.max_messages, generation)

    def release(self, connection: Connection[Wire]) -> None:
        """Take a connection back; what cannot be used again is closed."""
        connection.deadline = None
        with self._changed:
            shelf = self._shelves.get(connection.server)
            kept = shelf is not None and shelf.put(connection, time.monotonic())
            if shelf is not None and not kept:
                shelf.open -= 1
            self._changed.notify_all()  # who waits for another server must not swallow the call
        if not kept:
            self._say_goodbye(connection)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back."""
        with self._changed:
            gone = [connection for shelf in self._shelves.values() for connection in shelf.empty()]
            self._changed.notify_all()
        self._say_goodbye(*gone)

    def _say_goodbye(self, *connections: Connection[Wire]) -> None:
        try:
            for connection in connections:
                if not connection.session.broken:
                    with contextlib.suppress(SMTPError):
                        connection.wire.talk(connection.session.quit(), None, time.monotonic() + GOODBYE)
        finally:
            for connection in connections:
                connection.wire.close()

    def _count_out(self, server: Server) -> None:
        with self._changed:
            if server in self._shelves:
                self._shelves[server].open -= 1
            self._changed.notify_all()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
