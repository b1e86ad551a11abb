"""AsyncMailer: hands messages to servers. It performs what ``delivery/dispatch.py`` decides."""

from __future__ import annotations

import asyncio
import operator
import sys
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from smtpbackend.delivery.configuration import configure
from smtpbackend.delivery.parcel import Caller
from smtpbackend.errors import SMTPError
from smtpbackend.hiding import discreet, keep_here

# What sends is loaded with the first Mailer: a program that only imports it does not pay for it (DESIGN 5.6).
if TYPE_CHECKING:
    from smtpbackend.address import Address
    from smtpbackend.aio.pool import Pool
    from smtpbackend.delivery.dispatch import Dispatch
    from smtpbackend.delivery.inside import Delivery
    from smtpbackend.delivery.lifecycle import Lifecycle
    from smtpbackend.delivery.parcel import Parcel
    from smtpbackend.delivery.route import Route
    from smtpbackend.delivery.server import Server
    from smtpbackend.delivery.statistics import Statistics
    from smtpbackend.envelope import Envelope
    from smtpbackend.events import Listener
    from smtpbackend.outcome import Receipt, Reply

__all__ = ["AsyncMailer", "AsyncStream", "pool_of"]

T = TypeVar("T")


class AsyncMailer:
    """Sends mail through one or several servers, on connections that it keeps for each event loop.

    The same arguments and methods as `smtpbackend.Mailer`, to be awaited. Safe for tasks, and for several event loops.

    >>> async with AsyncMailer("smtp://localhost:1025") as mailer:          # doctest: +SKIP
    ...     receipt = await mailer.send(Message(subject="Hi", from_="a@example.com", to="b@example.com", text="Hello"))
    """

    @discreet
    def __init__(self, *servers: Any, listeners: Sequence[Listener] = (), **settings: Any) -> None:
        from smtpbackend.delivery.route import Route
        from smtpbackend.delivery.tls import Context, client_context
        from smtpbackend.events import check_listeners

        self._listeners = check_listeners(listeners)
        if servers:
            settings["servers"] = list(servers)
        self.configuration = configure(settings)
        config = self.configuration
        self._route = Route(config.servers, config.strategy, config.rest)
        self._contexts: dict[Server, Context] = {
            # a wrong path is found now, not at the first mail
            server: client_context(server)
            for server in config.servers
            if server.ca_file or server.client_cert
        }
        self._pools: dict[asyncio.AbstractEventLoop, Pool] = {}

    @classmethod
    @discreet
    def from_settings(cls, settings: Mapping[str, Any], listeners: Sequence[Listener] = ()) -> AsyncMailer:
        """An AsyncMailer from the neutral keys, as an adapter has them. Raises `InvalidSetting`."""
        return cls(listeners=listeners, **settings)

    async def __aenter__(self) -> AsyncMailer:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __del__(self) -> None:
        pools = vars(self).get("_pools", {})  # none where the settings were wrong
        try:
            if any(pool.has_idle() for pool in pools.values()) and not sys.is_finalizing():
                why = f"unclosed {self!r}: await its close(), or use it in an async with statement"
                warnings.warn(why, ResourceWarning, stacklevel=2, source=self)
        finally:
            pools.clear()  # each closes itself; whoever records the warning has the mailer with it

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        keep_here("an AsyncMailer")

    def __repr__(self) -> str:
        return f"<AsyncMailer {', '.join(server.name for server in self.configuration.servers)}>"

    async def send(
        self, message: Any, envelope: Envelope | None = None, *, listeners: Sequence[Listener] = ()
    ) -> Receipt:
        """Send one message; returns when every recipient is settled. See `smtpbackend.Mailer.send`."""
        caller = Caller(iter([(message, envelope)]))
        receipt: Receipt = await self._perform(self._dispatch(self._lifecycle(listeners), caller).run(1), caller)
        if receipt.error is not None:
            raise receipt.error
        return receipt

    def send_many(
        self,
        messages: Iterable[Any] | AsyncIterable[Any],
        *,
        connections: int = 1,
        listeners: Sequence[Listener] = (),
    ) -> AsyncStream[Receipt]:
        """Send each of a stream of messages, which may be asynchronous. See `smtpbackend.Mailer.send_many`.

        With ``connections`` as many tasks share the stream.
        """
        return self._stream(Caller(_iterator(messages)), connections, listeners, pairs=False, in_order=True)

    def deliver(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        prepare: Callable[[Any], Parcel | Awaitable[Parcel | None] | None] | None = None,
        connections: int = 1,
        listeners: Sequence[Listener] = (),
        holds: Callable[[Any], bool | Awaitable[bool]] | None = None,
        pace: Callable[[str, int], float | Awaitable[float]] | None = None,
        suppress: bool | None = None,
        in_order: bool = False,
    ) -> AsyncStream[tuple[Any, Receipt | None]]:
        """Send what ``prepare`` makes of each item; gives item and receipt together. See `smtpbackend.Mailer.deliver`.

        ``prepare`` is called in the task that iterates. It, ``holds`` and ``pace`` may be coroutine functions.
        """
        caller = Caller(_iterator(items), prepare, holds, pace)
        return self._stream(caller, connections, listeners, suppress, pairs=True, in_order=in_order)

    def _stream(
        self,
        caller: Caller,
        connections: int,
        listeners: Sequence[Listener],
        suppress: bool | None = None,
        *,
        pairs: bool,
        in_order: bool,
    ) -> AsyncStream[Any]:
        lifecycle = self._lifecycle(listeners, suppress)
        if connections == 1:
            dispatch = self._dispatch(lifecycle, caller, pairs=pairs, in_order=in_order)
            return AsyncStream(pool_of(self).perform(dispatch.run(operator.length_hint(caller.source)), caller))
        from smtpbackend.aio.spread import spread
        from smtpbackend.delivery.spreading import Spread, check_connections

        check_connections(connections, self.configuration)
        down: dict[Server, SMTPError] = {}
        most = connections * max(server.window for server in self.configuration.servers)
        state = Spread(caller.source, connections, most, pairs, in_order)

        def perform(share: Caller, within: Delivery) -> AsyncGenerator[Any, None]:
            dispatch = self._dispatch(lifecycle, share, pairs=True, down=down)
            return pool_of(self).perform(dispatch.run(operator.length_hint(share.source)), share, within)

        return AsyncStream(spread(caller, state, lambda: pool_of(self), lifecycle, perform))

    async def verify(self, address: str) -> Reply:
        """Ask the first server that answers about a mailbox (VRFY): 250, 251, 252 or 550 (RFC 5321 3.5)."""
        return await self._ask(self._dispatch().verify(address))

    async def expand(self, name: str) -> Reply:
        """Ask for the members of a mailing list (EXPN)."""
        return await self._ask(self._dispatch().expand(name))

    async def help(self, argument: str = "") -> Reply:
        """Ask for help (HELP)."""
        return await self._ask(self._dispatch().help(argument))

    async def connect(self) -> bool:
        """Have a connection ready, logged in; True when it had to be opened. Raises `DeliveryError`."""
        return bool(await self._perform(self._dispatch().ask(lambda session: session.is_new())))

    async def check(self) -> list[tuple[str, SMTPError | None]]:
        """Connect and log in to each server; its name, and the error or None."""
        from smtpbackend.delivery.route import Route

        found: list[tuple[str, SMTPError | None]] = []
        for server in self.configuration.servers:
            try:
                await self._perform(self._dispatch(route=Route([server])).ask(lambda session: session.noop()))
            except SMTPError as error:
                found.append((server.name, error))
            else:
                found.append((server.name, None))
        return found

    @property
    def bounce_address(self) -> Address | None:
        """The setting of that name: the sender that an envelope made from a message has, or None."""
        return self.configuration.rules.bounce_address

    def stats(self) -> Statistics:
        """How many connections are open and idle, and what was done with them, over all event loops."""
        from smtpbackend.delivery.statistics import Statistics

        return sum((pool.statistics() for pool in list(self._pools.values())), Statistics())

    async def close(self) -> None:
        """Close the connections of this event loop. See `smtpbackend.Mailer.close`."""
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is not None:
            await pool.close()

    async def _ask(self, question: Generator[Any, Any, None]) -> Reply:
        reply: Reply = await self._perform(question)
        return reply

    def _lifecycle(self, listeners: Sequence[Listener] = (), suppress: bool | None = None) -> Lifecycle:
        from smtpbackend.delivery.date_and_id import stamp
        from smtpbackend.delivery.lifecycle import Lifecycle
        from smtpbackend.events import Telling, check_listeners
        from smtpbackend.signals import SignalListener

        if listeners != ():
            listeners = check_listeners(listeners)
        rules = self.configuration.rules
        return Lifecycle(
            rules,
            tell=Telling((*listeners, *self._listeners, SignalListener(self))),
            clock=asyncio.get_running_loop().time,
            stamp=stamp,
            deadline=self.configuration.deadline,
            ended=pool_of(self).count,
            suppress=rules.suppress_send if suppress is None else suppress,
        )

    def _dispatch(
        self,
        lifecycle: Lifecycle | None = None,
        caller: Caller | None = None,
        *,
        pairs: bool = False,
        in_order: bool = False,
        route: Route | None = None,
        down: dict[Server, SMTPError] | None = None,
    ) -> Dispatch:
        from smtpbackend.delivery.dispatch import Dispatch

        return Dispatch(
            route or self._route,
            lifecycle or self._lifecycle(),
            moved=pool_of(self).count_move,
            down=down,
            caller=caller,
            pairs=pairs,
            in_order=in_order,
        )

    async def _perform(self, dispatch: Generator[Any, Any, None], caller: Caller | None = None) -> Any:
        """The one thing that a dispatch gives."""
        effects = pool_of(self).perform(dispatch, caller or Caller(iter(())))
        try:
            (given,) = [given async for given in effects]
        finally:
            await effects.aclose()
        return given


def _iterator(items: Iterable[Any] | AsyncIterable[Any]) -> Any:
    return aiter(items) if isinstance(items, AsyncIterable) else iter(items)


class AsyncStream(Generic[T]):
    """What becomes of the messages of a `deliver` or `send_many`, while they are sent: an asynchronous iterator.

    Nothing is sent before it is iterated: one that never is warns (``RuntimeWarning``). `aclose` ends it: what is in
    flight is waited for, and nothing more begins.
    """

    def __init__(self, given: AsyncGenerator[T, None]) -> None:
        self._given = given
        self._is_begun = False

    def __aiter__(self) -> AsyncIterator[T]:
        self._is_begun = True
        return self._given

    async def __anext__(self) -> T:
        self._is_begun = True
        return await anext(self._given)

    async def aclose(self) -> None:
        """Wait for what is in flight, and begin nothing more."""
        self._is_begun = True
        await self._given.aclose()

    def __del__(self) -> None:
        if not self._is_begun:
            why = "a stream of messages was never iterated, so that nothing of it was sent: iterate over it"
            warnings.warn(why, RuntimeWarning, stacklevel=2, source=self)


def pool_of(mailer: AsyncMailer) -> Pool:
    """Its pool for the running loop."""
    from smtpbackend.aio.pool import Pool

    loop = asyncio.get_running_loop()
    pools = mailer._pools
    pool = pools.get(loop)
    if pool is None:
        for other in [other for other in list(pools) if other.is_closed()]:
            pools.pop(other, None)
        pool = pools[loop] = Pool(mailer.configuration.limits, mailer._contexts)
    return pool
