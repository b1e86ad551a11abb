"""One delivery over several connections: a task for each. ``delivery/spreading.py`` decides who takes what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from smtpbackend.aio.pool import ask
from smtpbackend.delivery.asks import END
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.dispatch import LEAVING
from smtpbackend.delivery.inside import Delivery, enter, is_here
from smtpbackend.delivery.lifecycle import Lifecycle
from smtpbackend.delivery.spreading import Spread, Step, Turn
from smtpbackend.protocol.effects import LATER

__all__ = ["spread"]


class _Share:
    """The source as one task sees it: mails that were begun. ``only_asks``: it waits for the source alone."""

    def __init__(self, source: Any, state: Spread, changed: asyncio.Event) -> None:
        self.only_asks = False
        self._source = source
        self._state = state
        self._changed = changed

    def __length_hint__(self) -> int:
        left = self._state.left()
        return left if left >= 0 else NotImplemented

    async def pull(self, busy: bool) -> Any:
        """The next mail, LATER or END. The source is asked by one task at a time, and holds up no other."""
        while True:
            while (step := self._state.step(busy)) is Step.WAIT:
                await self._changed.wait()
            if step is Step.LATER:
                return LATER
            if step is not Step.TAKE:
                return END if step is Step.END else step
            self.only_asks = not busy
            try:
                await _take(self._source, self._state, self._changed)
            finally:
                self.only_asks = False

    async def sleep(self, until: float) -> bool:
        """Wait until then, or until nobody takes what becomes of the messages any more: then true."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while not self._state.is_over:
                    await self._changed.wait()
        return self._state.is_over


async def _take(source: Any, state: Spread, changed: asyncio.Event) -> None:
    """Ask the source for its next item."""
    item, failed = END, None
    try:
        item = await anext(source, END) if isinstance(source, AsyncIterator) else next(source, END)
    except Exception as error:
        failed = error
    finally:
        state.answered(item, failed)
        _notify(changed)


def _notify(changed: asyncio.Event) -> None:
    """Wake those who wait now."""
    changed.set()
    changed.clear()


async def spread(
    caller: Caller,
    state: Spread,
    pool: object,
    lifecycle: Lifecycle,
    perform: Callable[[Caller, Delivery], AsyncGenerator[Any, None]],
) -> AsyncGenerator[Any, None]:
    """What becomes of all that the ``caller`` has; ``perform`` does a part of it over one connection of ``pool``.

    Messages are prepared and begun in the task that iterates. At most ``most`` are under way. Whoever leaves waits for
    what is in flight, and does not wait for the source. The task that iterates is inside of this delivery, as the
    others are: each may wait for what another has.
    """
    changed = asyncio.Event()
    failures: list[BaseException] = []
    running = state.streams
    shares = [_Share(caller.source, state, changed) for _ in range(state.streams)]
    shared, taking = Delivery(pool), Delivery(pool, asyncio.current_task())

    async def work(share: _Share) -> None:
        nonlocal running
        enter(shared)
        try:
            given = perform(caller._replace(source=share, sleep=share.sleep), shared)
            try:
                async for one in given:
                    state.known(one.number, one.value)
                    _notify(changed)
                    if failures:
                        break
            finally:
                await given.aclose()
        except BaseException as error:
            failures.append(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            running -= 1
            if failures:
                state.end()
            _notify(changed)

    async def begin() -> None:
        """Make a mail of the item that was taken."""
        message, asked = state.item, asyncio.get_running_loop().time()
        try:
            if caller.prepare is None:
                first, parcel = lifecycle.open(message)
                message = message if state.pairs else first
            else:
                parcel = await ask(caller.parcel, message)
            mail = lifecycle.begin(state.taken, message, parcel)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            state.end(error)
        else:
            state.begun(mail, asyncio.get_running_loop().time() - asked)
        _notify(changed)

    tasks = [asyncio.ensure_future(work(share)) for share in shares]  # each in a copy of this context
    enter(taking)
    try:
        while True:
            while (turn := state.turn())[0] is Turn.WAIT and running:
                await changed.wait()
            _notify(changed)
            todo, given = turn
            if todo is Turn.TAKE:
                await _take(caller.source, state, changed)
            if todo is Turn.BEGIN:
                await begin()
            if todo is Turn.WAIT:
                break
            if todo is not Turn.GIVE:
                continue
            yield given
            if not is_here(taking, task := asyncio.current_task()):  # another task goes on
                taking.leave()
                taking = enter(Delivery(pool, task))
    except GeneratorExit:
        failures.append(GeneratorExit())
        raise
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    finally:
        taking.leave()
        left = state.abandon()
        _notify(changed)
        for task, share in zip(tasks, shares, strict=True):
            if share.only_asks:
                task.cancel()
        _, stuck = await asyncio.wait(tasks, timeout=LEAVING)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for mail in left:
            lifecycle.break_off(mail, "nobody took the receipts any more before this message was sent")
        shared.leave()
    for failure in failures:
        raise failure
    if state.failed is not None:
        raise state.failed
