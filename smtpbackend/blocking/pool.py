"""The connections of one mailer, shared by its threads. ``delivery/pooling.py`` decides what is kept."""

from __future__ import annotations

import atexit
import contextlib
import socket
import threading
import time
import weakref
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from smtpbackend.after_fork import at_fork, notice_fork
from smtpbackend.blocking.idle import watch
from smtpbackend.blocking.perform import perform
from smtpbackend.blocking.wire import Wire
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.configuration import PoolLimits
from smtpbackend.delivery.inside import Delivery, lender
from smtpbackend.delivery.pooling import GOODBYE, Bucket, Connection, Shelf, new_session, next_look
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.statistics import Statistics, Tally
from smtpbackend.delivery.tls import Context, client_context
from smtpbackend.delivery.transcript import transcript
from smtpbackend.errors import SMTPError
from smtpbackend.forking import at_end_of_process, unforked
from smtpbackend.outcome import Receipt

if TYPE_CHECKING:
    from smtpbackend.delivery.srv import Found

__all__ = ["Pool"]


def _made(contexts: dict[Server, Context], making: threading.Lock, server: Server) -> Context:
    """The context of a server. It is made when TLS is first wanted: that takes long, and many servers want none."""
    context = contexts.get(server)
    if context is None:
        with making, unforked:
            context = contexts.get(server)
            if context is None:
                context = contexts[server] = client_context(server)
    return context


class Pool:
    """Open connections by server. Safe for threads; a forked child starts with an empty one."""

    clock = staticmethod(time.monotonic)

    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self._contexts: dict[Server, Context] = {}
        self.generation = 0  # how often it was closed
        self._forget()
        _pools.add(self)

    def _forget(self) -> None:
        """Start anew, as a forked child must: its parent's connections and locks are not its own."""
        self._shelves: dict[Server, Shelf[Wire]] = {}
        self._found: dict[Server, tuple[Found, float]] = {}
        self._buckets: dict[Server, Bucket] = {}
        self._tally = Tally()
        self._lock = threading.RLock()  # garbage may be collected, and its mailer closed, at any point
        self._making = threading.Lock()  # of contexts, which takes some 30 ms
        self._epoch = getattr(self, "_epoch", -1) + 1  # how many forks ago

    def context(self, server: Server) -> Context:
        """The TLS context of a server, made once. Raises `InvalidSetting` for a file that cannot be used."""
        return _made(self._contexts, self._making, server)

    def perform(self, dispatch: Generator[Any, Any, None], caller: Caller, within: Delivery | None = None) -> Any:
        """What a dispatch gives, which is performed over these connections: see `perform`."""
        return perform(self, dispatch, caller, within)

    def find(self, server: Server, deadline: float | None) -> list[Server]:
        """The servers that SRV records name, which are remembered for as long as they hold. Raises `ConnectFailed`."""
        from random import random

        from smtpbackend.blocking.lookup import find

        known = self._found.get(server)
        if known is None or known[1] <= time.monotonic():
            found = find(server, deadline)
            known = self._found[server] = found, time.monotonic() + found.ttl
        return known[0].servers(random)

    def pace(self, server: Server) -> float:
        """Take one message of what the ``rate`` of a server allows, and 0; or the seconds until there is one."""
        assert server.rate is not None
        with self._lock:
            now = time.monotonic()
            return self._buckets.setdefault(server, Bucket(server.rate, now)).take(now)

    def lease(
        self,
        server: Server,
        fresh: bool,
        deadline: float | None,
        within: Delivery | None = None,
        generation: int = 0,
    ) -> Connection[Wire]:
        """An idle connection that is alive, unless ``fresh``; else a new one, on which nothing has been said.

        Waits for its turn where ``max_connections`` are in use, unless it is asked for from inside of a delivery
        other than ``within`` that has one. ``generation`` is that of the pool when the delivery began. Raises
        `ConnectFailed`, `TimedOut` and `MailerClosed`.
        """
        while True:
            connection, gone, beyond = self._find(server, fresh, deadline, within, generation)
            try:
                self._say_goodbye(*gone)
                if connection is None:
                    connection = self._open(server, deadline, generation)
                    connection.lender = beyond
                    with self._lock:
                        self._shelves[server].used.add(connection)
                    return connection
                if connection.wire.is_quiet():
                    return connection
            except BaseException as error:
                self._give_up(server, connection, beyond, isinstance(error, SMTPError))
                raise
            self._give_up(server, connection)

    def _find(
        self, server: Server, fresh: bool, deadline: float | None, within: Delivery | None, generation: int
    ) -> tuple[Connection[Wire] | None, list[Connection[Wire]], Delivery | None]:
        """An idle connection, or None when one may be opened, which is then counted; and those to say goodbye to.

        The last value is the delivery that lends it, where it is beyond the limit.
        """
        notice_fork()
        begun = time.monotonic()
        gone: list[Connection[Wire]] = []
        turn: threading.Condition | None = None
        with self._lock:
            shelf = self._shelves.get(server)
            if shelf is None:
                shelf = self._shelves[server] = Shelf(self.limits, self.generation)
            try:
                while True:
                    shelf.check(server, generation)
                    now = time.monotonic()
                    if not shelf.waiting or shelf.waiting[0] is turn:
                        connection, expired, may_open = shelf.serve(fresh, now)
                        gone += expired
                        if connection is not None or may_open:
                            return connection, gone, None
                    if (beyond := lender(self, within)) is not None:
                        shelf.lend(beyond)
                        return None, gone, beyond
                    end = shelf.turn_ends(server, begun, deadline)
                    if now >= end:
                        raise shelf.no_turn(server, begun, now, deadline)
                    if turn is None:
                        turn = threading.Condition(self._lock)
                        shelf.waiting.append(turn)
                    turn.wait(end - now)
            finally:
                if turn is not None:
                    shelf.waiting.remove(turn)
                    self._call_next(shelf)

    def _call_next(self, shelf: Shelf[Wire]) -> None:
        """Have the first in line look again."""
        if shelf.waiting:
            shelf.waiting[0].notify()

    def _call_all(self) -> None:
        """Have all that wait look again: one of them may be inside of the delivery that has lent a connection."""
        for shelf in self._shelves.values():
            for turn in shelf.waiting:
                turn.notify()

    def _open(self, server: Server, deadline: float | None, generation: int) -> Connection[Wire]:
        _say_goodbye_at_end()
        wire = Wire.connect(server, partial(_made, self._contexts, self._making, server), deadline)
        try:
            session = new_session(server, socket.gethostname(), wire.local, wire.peer, transcript(server))
        except BaseException:
            wire.close()
            raise
        connection = Connection(server, wire, session, self.limits.max_messages, generation)
        connection.epoch = self._epoch
        return connection

    def release(self, connection: Connection[Wire], crowded: bool = False) -> bool:
        """Take a connection back; what cannot be used again is closed. Whether others to its server are open."""
        connection.deadline = None
        if connection.epoch != self._epoch:  # it is the parent's, and was closed when this process was forked
            connection.wire.close()
            return False
        with self._lock:
            now = time.monotonic()
            shelf = self._shelves.get(connection.server)
            kept = others = leaves = False
            if shelf is not None:
                kept, others = shelf.take_back(connection, now, crowded)
                leaves = connection in shelf.used
                self._call_next(shelf)
                if connection.lender is not None:
                    self._call_all()
        if not kept:
            try:
                self._say_goodbye(connection)
            finally:
                if leaves:
                    self._give_up(connection.server, connection, connection.lender)
        elif self not in watch.pools:
            watch.add(self)
        return others

    def look(self) -> float | None:
        """Close what was idle for too long or ended by its server; when to look again, None: nothing is left."""
        with self._lock:
            now, shelves = time.monotonic(), self._shelves.values()
            gone = []
            for shelf in shelves:
                ended = [connection for connection in shelf.idle if not connection.wire.is_quiet()]
                gone += shelf.retire(now, ended)
            again = next_look(shelves, now)
        self._say_goodbye(*gone)
        return again

    def has_idle(self) -> bool:
        """Whether a connection is idle."""
        return any(shelf.idle for shelf in self._shelves.values())

    def statistics(self) -> Statistics:
        """The counts of this process."""
        with self._lock:
            shelves, tally = self._shelves.values(), self._tally
            return Statistics(
                sum(shelf.open for shelf in shelves),
                sum(len(shelf.idle) for shelf in shelves),
                sum(len(shelf.waiting) for shelf in shelves),
                tally.sent,
                tally.refused,
                tally.failed_over,
            )

    def count(self, receipt: Receipt) -> None:
        """For the statistics."""
        with self._lock:
            self._tally.count(receipt)

    def count_move(self) -> None:
        """A message went on from one server to the next."""
        with self._lock:
            self._tally.failed_over += 1

    def close(self, end: float | None = None) -> None:
        """Close what is idle; what is in use is closed when it comes back, and what waits for a connection gets none.

        ``end``: of all QUITs, on the clock.
        """
        notice_fork()
        with self._lock:
            self.generation += 1
            gone = [connection for shelf in self._shelves.values() for connection in shelf.empty()]
            for shelf in self._shelves.values():
                self._call_next(shelf)
        self._say_goodbye(*gone, end=end)

    def _say_goodbye(self, *connections: Connection[Wire], end: float | None = None) -> None:
        """QUIT, within one time for all of them."""
        if end is None:
            end = time.monotonic() + GOODBYE
        try:
            for connection in connections:
                if not connection.session.broken:
                    with contextlib.suppress(SMTPError):
                        connection.wire.talk(connection.session.quit(), None, end)
        finally:
            for connection in connections:
                connection.wire.close()

    def _give_up(
        self,
        server: Server,
        connection: Connection[Wire] | None,
        beyond: Delivery | None = None,
        failed: bool = False,
    ) -> None:
        """Close a connection that was not lent, if there is one, and count it out."""
        if connection is not None:
            connection.wire.close()
        with self._lock:
            if (shelf := self._shelves.get(server)) is not None:
                shelf.count_out(connection, beyond, time.monotonic() if failed else None)
                self._call_next(shelf)
                if beyond is not None:
                    self._call_all()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


_is_promised = False  # whether this process says QUIT at its end, even if it is a child that ends without atexit


def _say_goodbye_at_end() -> None:
    """Called for each connection, since a forked process cannot be told of its end at the time of the fork."""
    global _is_promised
    if not _is_promised:
        _is_promised = True
        at_end_of_process(_at_exit, is_last=True)


def _after_fork() -> None:
    global _is_promised
    _is_promised = False
    for pool in list(_pools):
        pool._forget()


def _at_exit() -> None:
    notice_fork()
    end = time.monotonic() + GOODBYE
    watch.rest()
    for pool in list(_pools):
        pool.close(end)


atexit.register(_at_exit)
at_fork(in_child=_after_fork)
