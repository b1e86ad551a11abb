"""AsyncMailer: hands messages to servers. It performs what ``delivery/dispatch.py`` decides."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

from smtpbackend.after_fork import notice_fork
from smtpbackend.base_mailer import BaseMailer
from smtpbackend.delivery.caller import Caller
from smtpbackend.errors import SMTPError
from smtpbackend.hiding import keep_here
from smtpbackend.streams import AsyncStream

if TYPE_CHECKING:
    from smtpbackend.aio.pool import Pool
    from smtpbackend.delivery.diagnosis import Check
    from smtpbackend.delivery.parcel import Parcel
    from smtpbackend.delivery.server import Server
    from smtpbackend.delivery.statistics import Statistics
    from smtpbackend.delivery.tls import Context
    from smtpbackend.envelope import Envelope
    from smtpbackend.events import Listener
    from smtpbackend.message import Sendable
    from smtpbackend.outcome import Receipt, Reply

__all__ = ["AsyncMailer", "SharedAsyncMailer", "pool_of"]


class AsyncMailer(BaseMailer):
    """Sends mail through one or several servers, on connections that it keeps for each event loop.

    The same arguments and methods as `smtpbackend.Mailer`, to be awaited. Safe for tasks, and for several event loops.

    >>> async with AsyncMailer("smtp://localhost:1025") as mailer:          # doctest: +SKIP
    ...     receipt = await mailer.send(Message(subject="Hi", from_="a@example.com", to="b@example.com", text="Hello"))
    """

    _name = "AsyncMailer"
    _twin = "smtpbackend.aio"
    _modules = ("concurrent.futures.thread", "smtpbackend.aio.pool", "smtpbackend.aio.spread")

    def _set_up(self, with_files: Sequence[Server]) -> None:
        from smtpbackend.aio.pool import Pools
        from smtpbackend.delivery.tls import client_context

        self._contexts: dict[Server, Context] = {server: client_context(server) for server in with_files}
        self._pools = Pools()

    def _here(self) -> Pool:
        return pool_of(self)

    def _spread(self, *args: Any) -> AsyncIterator[Any]:
        from smtpbackend.aio.spread import spread

        return spread(*args)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def __del__(self) -> None:
        pools = vars(self).get("_pools", {})  # none where the settings were wrong
        try:
            if any(pool.has_idle() for pool in pools.values()) and not sys.is_finalizing():
                self._forgotten()
        finally:
            pools.clear()  # each closes itself; a recorded warning holds the mailer

    def _forgotten(self) -> None:
        """It was forgotten, and it has open connections."""
        why = f"unclosed {self!r}: await its close(), or use it in an async with statement"
        warnings.warn(why, ResourceWarning, stacklevel=3, source=self)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        keep_here("an AsyncMailer")

    async def send(
        self, message: Sendable, envelope: Envelope | None = None, *, listeners: Sequence[Listener] = ()
    ) -> Receipt:
        """Send one message; returns when every recipient is settled. See `smtpbackend.Mailer.send`."""
        caller = Caller(iter([(message, envelope)]))
        receipt: Receipt = await self._perform(self._dispatch(self._lifecycle(listeners), caller).run(1), caller)
        if receipt.error is not None:
            raise receipt.error
        return receipt

    def send_many(
        self,
        messages: Iterable[Sendable | tuple[Sendable, Envelope]] | AsyncIterable[Sendable | tuple[Sendable, Envelope]],
        *,
        connections: int = 1,
        listeners: Sequence[Listener] = (),
    ) -> AsyncStream[Receipt]:
        """Send each of a stream of messages, which may be asynchronous. See `smtpbackend.Mailer.send_many`.

        With ``connections`` as many tasks share the stream.
        """
        caller = Caller(_iterator(messages))
        return AsyncStream(self._stream(caller, connections, listeners, pairs=False, in_order=True))

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

        ``prepare`` is called in the task that iterates. It, ``holds`` and ``pace`` may be coroutine functions. A
        time-out around one step of the iteration ends the stream.
        """
        caller = Caller(_iterator(items), prepare, holds, pace)
        return AsyncStream(self._stream(caller, connections, listeners, suppress, pairs=True, in_order=in_order))

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

    async def check(self, send_to: str | None = None) -> list[Check]:
        """Find out what becomes of mail at each server. See `smtpbackend.Mailer.check`."""
        targets = [target for server in self.configuration.servers for target in await self._each(server)]
        return [await self._check(target, send_to) for target in targets]

    async def _each(self, server: Server) -> list[Server]:
        """The servers that SRV records name, or the server itself; also where they cannot be found."""
        if server.srv:
            with contextlib.suppress(SMTPError):
                return await pool_of(self).find(server, None)
        return [server]

    async def _check(self, server: Server, send_to: str | None) -> Check:
        from smtpbackend.aio.dial import unconnectable
        from smtpbackend.delivery.diagnosis import Watch, check_of, message_to

        watch = Watch(server, self._here().clock, self.configuration.rules.recipient_policy, self._route.experience)
        error: Exception | None = None
        receipt: Receipt | None = None
        async with self._beside(server.replace(watch=watch.note)) as mailer:
            try:
                await mailer._perform(mailer._dispatch().ask(watch.look))
                if send_to is not None:
                    receipt = await mailer.send(message_to(send_to, self.bounce_address))
            except SMTPError as failed:
                error, receipt = failed, failed.receipt
        if others := watch.others():
            watch.dead = await unconnectable(server, others)
        return check_of(server, watch, error, time.time(), receipt)

    def stats(self) -> Statistics:
        """How many connections are open and idle, and what was done with them, over all event loops."""
        notice_fork()
        return self._pools.statistics()

    async def close(self) -> None:
        """Close the connections of this event loop. See `smtpbackend.Mailer.close`."""
        pool = self._pools.get(asyncio.get_running_loop())
        if pool is not None:
            await pool.close()

    async def _ask(self, question: Generator[Any, Any, None]) -> Reply:
        reply: Reply = await self._perform(question)
        return reply

    async def _perform(self, dispatch: Generator[Any, Any, None], caller: Caller | None = None) -> Any:
        """The one thing that a dispatch gives."""
        effects = pool_of(self).perform(dispatch, caller or Caller(iter(())))
        try:
            (given,) = [given async for given in effects]
        finally:
            await effects.aclose()
        return given


class SharedAsyncMailer(AsyncMailer):
    """One that an adapter shares among all that send: it closes itself with the last reference, without a warning."""

    def _forgotten(self) -> None:
        pass


def _iterator(items: Iterable[Any] | AsyncIterable[Any]) -> Any:
    return aiter(items) if isinstance(items, AsyncIterable) else iter(items)


def pool_of(mailer: AsyncMailer) -> Pool:
    """Its pool for the running loop."""
    from smtpbackend.aio.pool import Pool

    notice_fork()
    loop = asyncio.get_running_loop()
    pools = mailer._pools
    pool = pools.get(loop)
    if pool is None:
        pools.drop_ended()
        pool = pools[loop] = Pool(mailer.configuration.limits, mailer._contexts)
    return pool
