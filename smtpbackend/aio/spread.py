"""One delivery over several connections: a task for each. ``delivery/spreading.py`` decides which takes what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from smtpbackend.aio.perform import ask
from smtpbackend.delivery.asks import END, NOT_ASKED
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.dispatch import LEAVING
from smtpbackend.delivery.inside import Delivery, enter, is_here
from smtpbackend.delivery.lifecycle import Lifecycle
from smtpbackend.delivery.spreading import Spread, Step, Turn

__all__ = ["spread"]


async def spread(
    caller: Caller,
    state: Spread,
    pool: object,
    lifecycle: Lifecycle,
    perform: Callable[[Caller, Delivery], AsyncGenerator[Any, None]],
) -> AsyncGenerator[Any, None]:
    """What becomes of all messages of ``caller``; ``perform`` does a part of them over one connection of ``pool``.

    Messages are prepared and begun in the task that iterates. When the stream is left, it waits for what is in flight,
    and not for the source. The task that iterates is inside of this delivery, as the others are: each may wait for what
    another has.
    """
    crew = _Crew(caller, state, lifecycle, perform, Delivery(pool))
    taking = enter(Delivery(pool, asyncio.current_task()))
    try:
        while True:
            turn, value = await crew.next_turn()
            if turn is Turn.GIVE:
                yield value
                if not is_here(taking, task := asyncio.current_task()):  # another task goes on
                    taking.leave()
                    taking = enter(Delivery(pool, task))
            elif turn is Turn.TAKE:
                await crew.take()
            elif turn is Turn.BEGIN:
                await crew.begin(value)
            else:
                break
    except GeneratorExit:
        crew.failures.append(GeneratorExit())
        raise
    except asyncio.CancelledError:
        for task in crew.tasks:
            task.cancel()
        raise
    finally:
        taking.leave()
        await crew.end()
        crew.shared.leave()
    for failure in crew.failures:
        raise failure
    if state.failed is not None:
        raise state.failed


class _Crew:
    """The tasks of one delivery, and what they share. It is their source: see `pull`."""

    def __init__(
        self,
        caller: Caller,
        state: Spread,
        lifecycle: Lifecycle,
        perform: Callable[[Caller, Delivery], AsyncGenerator[Any, None]],
        shared: Delivery,
    ) -> None:
        self.caller = caller
        self.state = state
        self.lifecycle = lifecycle
        self.perform = perform
        self.shared = shared
        self.failures: list[BaseException] = []
        self.changed = asyncio.Event()
        self.running = state.streams
        self.only_ask: set[asyncio.Task[Any] | None] = set()
        """Tasks that wait for the source, and for no reply."""
        self.tasks = [
            asyncio.ensure_future(self._work()) for _ in range(state.streams)
        ]  # each in a copy of this context

    def notify(self) -> None:
        """Wake what waits now."""
        self.changed.set()
        self.changed.clear()

    async def next_turn(self) -> tuple[Turn, Any]:
        """What the caller's task does next; `Turn.WAIT`: nothing is left to do."""
        while (turn := self.state.turn())[0] is Turn.WAIT and self.running:
            await self.changed.wait()
        self.notify()
        return turn

    async def take(self) -> None:
        """Ask the source for its next item."""
        source, item, failed = self.caller.source, END, None
        try:
            item = await anext(source, END) if isinstance(source, AsyncIterator) else next(source, END)
        except Exception as error:
            failed = error
        finally:
            self.state.answered(item, failed)
            self.notify()

    async def begin(self, item: Any) -> None:
        """Make a mail of an item."""
        clock = asyncio.get_running_loop().time
        asked = clock()
        try:
            if self.caller.prepare is None:
                item, parcel = self.lifecycle.open(item, self.state.pairs)
            else:
                parcel = await ask(self.caller.prepare, item)
            mail = self.lifecycle.begin(self.state.taken, item, parcel)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.state.end(error)
        else:
            self.state.begun(mail, clock() - asked)
        self.notify()

    async def end(self) -> None:
        """Begin nothing more, and wait for what is in flight."""
        left = self.state.abandon()
        self.notify()
        for task in self.tasks:
            if task in self.only_ask:
                task.cancel()
        _, stuck = await asyncio.wait(self.tasks, timeout=LEAVING)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for mail in left:
            self.lifecycle.break_off(mail, "the stream was left before this message was sent")

    async def _work(self) -> None:
        enter(self.shared)
        try:
            given = self.perform(self.caller._replace(source=self, sleep=self.sleep), self.shared)
            try:
                async for one in given:
                    self.state.known(one.number, one.value)
                    self.notify()
                    if self.failures:
                        break
            finally:
                await given.aclose()
        except BaseException as error:
            self.failures.append(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.running -= 1
            if self.failures:
                self.state.end()
            self.notify()

    # What a task has in place of the source

    def __length_hint__(self) -> int:
        left = self.state.left()
        return left if left >= 0 else NotImplemented

    async def pull(self, busy: bool) -> Any:
        """The next mail, NOT_ASKED or END. The source is asked by one task at a time, and holds up no other."""
        while True:
            while (step := self.state.step(busy)) is Step.WAIT:
                await self.changed.wait()
            if step is Step.LATER:
                return NOT_ASKED
            if step is not Step.TAKE:
                return END if step is Step.END else step
            task = None if busy else asyncio.current_task()
            self.only_ask.add(task)
            try:
                await self.take()
            finally:
                self.only_ask.discard(task)

    async def sleep(self, until: float) -> bool:
        """Wait until then, or until the stream is left: then true."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while not self.state.is_over:
                    await self.changed.wait()
        return self.state.is_over
