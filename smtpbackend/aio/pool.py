"""The connections of one mailer in one event loop. ``delivery/pooling.py`` decides what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import weakref
from collections.abc import AsyncGenerator, Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from smtpbackend.after_fork import at_fork
from smtpbackend.aio.perform import perform
from smtpbackend.aio.wire import Wire
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.configuration import PoolLimits
from smtpbackend.delivery.inside import Delivery, lender
from smtpbackend.delivery.pooling import GOODBYE, Bucket, Connection, Shelf, new_session, next_look
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.statistics import Statistics, Tally
from smtpbackend.delivery.tls import Context, client_context
from smtpbackend.delivery.transcript import transcript
from smtpbackend.errors import SMTPError
from smtpbackend.forking import unforked
from smtpbackend.outcome import Receipt

if TYPE_CHECKING:
    from smtpbackend.delivery.srv import Found

__all__ = ["Pool"]


class Pool:
    """Open connections by server, for the tasks of one loop.

    Nothing that the loop holds refers to it, so that it goes with the last reference to it.
    """

    def __init__(self, limits: PoolLimits, contexts: dict[Server, Context]) -> None:
        self._shelves: dict[Server, Shelf[Wire]] = {}
        self._loop = asyncio.get_running_loop()
        self.clock = self._loop.time
        self.limits = limits
        self._contexts = contexts
        self._found: dict[Server, tuple[Found, float]] = {}
        self._buckets: dict[Server, Bucket] = {}
        self.tally = Tally()
        _counting.add(self)
        self.generation = 0  # how often it was closed
        self._is_watched = False  # a timer is set
        self._leaving: set[asyncio.Task[None]] = set()  # the tasks that say QUIT: the loop does not hold them
        self._keeper: AsyncGenerator[None, None] | None = None

    def __del__(self) -> None:
        """Nothing can be awaited here: QUIT is said, and its reply is not read."""
        gone = [connection for shelf in self._shelves.values() for connection in shelf.take_idle()]
        if self._keeper is not None:
            with contextlib.suppress(StopIteration):  # it ends at once, now that it has nothing to close
                self._keeper.aclose().send(None)
        if not gone:
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed, and its connections with it
            if asyncio._get_running_loop() is self._loop:
                _hang_up(gone)
            else:
                self._loop.call_soon_threadsafe(_hang_up, gone)

    def context(self, server: Server) -> Context:
        """The TLS context of a server, made once. Raises `InvalidSetting` for a file that cannot be used."""
        return _made(self._contexts, server)

    async def keep(self) -> None:
        """Have the connections closed with the loop."""
        if self._keeper is None:
            self._keeper = _closing(self._shelves)
            await anext(self._keeper)

    def perform(self, dispatch: Generator[Any, Any, None], caller: Caller, within: Delivery | None = None) -> Any:
        """What a dispatch gives, which is performed over these connections: see `perform`."""
        return perform(self, dispatch, caller, within)

    async def find(self, server: Server, deadline: float | None) -> list[Server]:
        """The servers that SRV records name, which are remembered for as long as they hold. Raises `ConnectFailed`."""
        from random import random

        from smtpbackend.aio.lookup import find

        known = self._found.get(server)
        if known is None or known[1] <= self._loop.time():
            found = await find(server, deadline)
            known = self._found[server] = found, self._loop.time() + found.ttl
        return known[0].servers(random)

    def pace(self, server: Server) -> float:
        """Take one message of what the ``rate`` of a server allows, and 0; or the seconds until there is one."""
        assert server.rate is not None
        now = self._loop.time()
        return self._buckets.setdefault(server, Bucket(server.rate, now)).take(now)

    async def lease(
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
            connection, gone, beyond = await self._find(server, fresh, deadline, within, generation)
            try:
                await _say_goodbye(*gone)
                if connection is None:
                    connection = await self._open(server, deadline, generation)
                    connection.lender = beyond
                    self._shelves[server].used.add(connection)
                    return connection
                if connection.wire.is_quiet():
                    return connection
            except BaseException as error:
                self._give_up(server, connection, beyond, isinstance(error, SMTPError))
                raise
            self._give_up(server, connection)

    async def _find(
        self, server: Server, fresh: bool, deadline: float | None, within: Delivery | None, generation: int
    ) -> tuple[Connection[Wire] | None, list[Connection[Wire]], Delivery | None]:
        """An idle connection, or None when one may be opened, which is then counted; and those to say goodbye to.

        The last value is the delivery that lends it, where it is beyond the limit.
        """
        begun = self._loop.time()
        gone: list[Connection[Wire]] = []
        turn: asyncio.Event | None = None
        shelf = self._shelves.get(server)
        if shelf is None:
            shelf = self._shelves[server] = Shelf(self.limits, self.generation)
        try:
            while True:
                shelf.check(server, generation)
                now = self._loop.time()
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
                    turn = asyncio.Event()
                    shelf.waiting.append(turn)
                turn.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(end):
                        await turn.wait()
        finally:
            if turn is not None:
                shelf.waiting.remove(turn)
                self._call_next(shelf)

    def _call_next(self, shelf: Shelf[Wire]) -> None:
        """Have the first in line look again."""
        if shelf.waiting:
            shelf.waiting[0].set()

    def _call_all(self) -> None:
        """Have all that wait look again: one of them may be inside of the delivery that has lent a connection."""
        for shelf in self._shelves.values():
            for turn in shelf.waiting:
                turn.set()

    async def _open(self, server: Server, deadline: float | None, generation: int) -> Connection[Wire]:
        wire = await Wire.connect(server, partial(_made, self._contexts, server), deadline)
        try:
            session = new_session(server, socket.gethostname(), wire.local, wire.peer, transcript(server))
        except BaseException:
            wire.close()
            raise
        return Connection(server, wire, session, self.limits.max_messages, generation)

    async def release(self, connection: Connection[Wire], crowded: bool = False) -> bool:
        """Take a connection back; what cannot be used again is closed. Whether others to its server are open."""
        connection.deadline = None
        now = self._loop.time()
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
                await _say_goodbye(connection)
            finally:
                if leaves:
                    self._give_up(connection.server, connection, connection.lender)
        elif not self._is_watched:
            self._look_again()
        return others

    def look(self) -> None:
        """Close what was idle for too long or ended by its server."""
        now, gone = self._loop.time(), []
        for shelf in self._shelves.values():
            ended = [connection for connection in shelf.idle if not connection.wire.is_quiet()]
            gone += shelf.retire(now, ended)
        if gone:
            task = self._loop.create_task(_say_goodbye(*gone))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        self._look_again()

    def _look_again(self) -> None:
        """Set the timer, unless nothing is left."""
        when = next_look(self._shelves.values(), self._loop.time())
        self._is_watched = when is not None
        if when is not None:
            self._loop.call_at(when, _look, weakref.ref(self))

    def has_idle(self) -> bool:
        """Whether a connection is idle."""
        return any(shelf.idle for shelf in self._shelves.values())

    def statistics(self) -> Statistics:
        """The counts of this loop."""
        shelves, tally = self._shelves.values(), self.tally
        return Statistics(
            sum(shelf.open for shelf in shelves),
            sum(len(shelf.idle) for shelf in shelves),
            sum(len(shelf.waiting) for shelf in shelves),
            tally.sent,
            tally.refused,
            tally.failed_over,
        )

    def forget_counts(self) -> None:
        """Count anew, as a forked child does."""
        self.tally = Tally()

    def count(self, receipt: Receipt) -> None:
        """For the statistics."""
        self.tally.count(receipt)

    def count_move(self) -> None:
        """A message went on from one server to the next."""
        self.tally.failed_over += 1

    async def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back, and what waits for one gets none."""
        self.generation += 1
        gone = [connection for shelf in self._shelves.values() for connection in shelf.empty()]
        for shelf in self._shelves.values():
            self._call_next(shelf)
        await _say_goodbye(*gone)

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
        if (shelf := self._shelves.get(server)) is not None:
            shelf.count_out(connection, beyond, self._loop.time() if failed else None)
            self._call_next(shelf)
            if beyond is not None:
                self._call_all()


class Pools(dict[asyncio.AbstractEventLoop, Pool]):
    """Those of one mailer, by loop; those of loops that have ended are counted, and not kept. Safe for threads."""

    def __init__(self) -> None:
        self.forget_counts()
        _counting.add(self)

    # as objects, not by what they hold: there is one for each mailer
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__

    def forget_counts(self) -> None:
        """Count anew, as a forked child does."""
        self._lock = threading.RLock()  # garbage may be collected, and counted, at any point
        self._ended = Tally()

    def drop_ended(self) -> None:
        """Drop those whose loop has ended."""
        with self._lock:
            for loop in [loop for loop in list(self) if loop.is_closed()]:
                self._ended.add(self.pop(loop).tally)

    def statistics(self) -> Statistics:
        """The counts of all loops of this process."""
        with self._lock:
            self.drop_ended()
            ended = self._ended
            counts = Statistics(sent=ended.sent, refused=ended.refused, failed_over=ended.failed_over)
            return sum((pool.statistics() for pool in list(self.values())), counts)


_counting: weakref.WeakSet[Pool | Pools] = weakref.WeakSet()


def _after_fork() -> None:
    for one in list(_counting):
        one.forget_counts()


at_fork(in_child=_after_fork)


def _made(contexts: dict[Server, Context], server: Server) -> Context:
    """The context of a server. It is made when TLS is first wanted: that takes long, and many servers want none."""
    if server not in contexts:
        with unforked:
            contexts[server] = client_context(server)
    return contexts[server]


async def _closing(shelves: Mapping[Server, Shelf[Wire]]) -> AsyncGenerator[None, None]:
    """Close with the loop: ``asyncio.run`` ends the asynchronous generators that are left."""
    try:
        yield
    finally:
        if gone := [connection for shelf in shelves.values() for connection in shelf.take_idle()]:
            await _say_goodbye(*gone)


def _look(pool: weakref.ref[Pool]) -> None:
    """What the timer calls: it does not keep the pool."""
    if (there := pool()) is not None:
        there.look()


async def _say_goodbye(*connections: Connection[Wire]) -> None:
    """QUIT, within one time for all of them."""
    end = asyncio.get_running_loop().time() + GOODBYE
    try:
        for connection in connections:
            if not connection.session.broken:
                with contextlib.suppress(SMTPError):
                    await connection.wire.talk(connection.session.quit(), None, end)
    finally:
        for connection in connections:
            connection.wire.close()


def _hang_up(connections: list[Connection[Wire]]) -> None:
    """QUIT, and no wait for the answer."""
    for connection in connections:
        connection.wire.leave(connection.session.quit())
