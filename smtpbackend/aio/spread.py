"""One `send_many` over several connections: a task for each, the receipts in the order of the messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from smtpbackend.delivery.dispatch import LEAVING
from smtpbackend.delivery.inside import Delivery, enter, is_here
from smtpbackend.delivery.spreading import Spread, Step
from smtpbackend.protocol.effects import LATER

__all__ = ["spread"]


class _Share:
    """The messages that one task takes; ``numbers`` are those whose receipts are still to come."""

    def __init__(self, source: Any, state: Spread, changed: asyncio.Event) -> None:
        self.numbers: deque[int] = deque()
        self.is_asking = False
        self._source = source
        self._state = state
        self._changed = changed

    def __aiter__(self) -> _Share:
        return self

    def __length_hint__(self) -> int:
        left = self._state.left()
        return left if left >= 0 else NotImplemented

    async def __anext__(self) -> Any:
        while (step := self._state.step(bool(self.numbers))) is Step.WAIT:
            await self._changed.wait()
        if step is Step.LATER:
            return LATER
        if step is Step.END:
            raise StopAsyncIteration
        is_item, item, failed = False, None, None
        self.is_asking = True
        try:
            item = await anext(self._source) if isinstance(self._source, AsyncIterator) else next(self._source)
            is_item = True
        except (StopIteration, StopAsyncIteration):
            pass
        except Exception as error:
            failed = error
        finally:
            self.is_asking = False
            number = self._state.answered(is_item, failed)
            self._state.composed()  # it is, ahead of whatever another task does
            _notify(self._changed)
        if number is None:
            raise StopAsyncIteration
        self.numbers.append(number)
        return item


def _notify(changed: asyncio.Event) -> None:
    """Wake those who wait now."""
    changed.set()
    changed.clear()


async def spread(
    source: Any,
    streams: int,
    most: int,
    pool: Callable[[], object],
    send: Callable[[Any, Delivery], AsyncGenerator[Any, None]],
) -> AsyncGenerator[Any, None]:
    """The receipts of everything in ``source``; ``send`` makes a stream of receipts of one of messages, over ``pool``.

    The source is asked by one task at a time. At most ``most`` messages are under way. Whoever leaves waits for what is
    in flight, and does not wait for the source. Who takes the receipts is inside of this delivery, as the tasks are:
    each may wait for what another has.
    """
    state = Spread(source, most)
    changed = asyncio.Event()
    failures: list[BaseException] = []
    shares = [_Share(source, state, changed) for _ in range(streams)]
    running = streams
    shared, taking = Delivery(pool()), Delivery(pool(), asyncio.current_task())

    async def work(share: _Share) -> None:
        nonlocal running
        enter(shared)
        try:
            receipts = send(share, shared)
            try:
                async for receipt in receipts:
                    state.put(share.numbers.popleft(), receipt)
                    _notify(changed)
                    if failures:
                        break
            finally:
                await receipts.aclose()
        except BaseException as error:
            failures.append(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            running -= 1
            state.ended = state.ended or bool(failures)
            _notify(changed)

    tasks = [asyncio.ensure_future(work(share)) for share in shares]  # each in a copy of this context
    enter(taking)
    try:
        while True:
            while (receipt := state.next()) is None and running:
                await changed.wait()
            _notify(changed)
            if receipt is None:
                break
            yield receipt
            if not is_here(taking, task := asyncio.current_task()):  # another task goes on
                taking.leave()
                taking = enter(Delivery(pool(), task))
    except GeneratorExit:
        failures.append(GeneratorExit())
        raise
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    finally:
        taking.leave()
        state.ended = True
        _notify(changed)
        for task, share in zip(tasks, shares, strict=True):
            if share.is_asking and not share.numbers:
                task.cancel()
        _, stuck = await asyncio.wait(tasks, timeout=LEAVING)
        for task in stuck:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        shared.leave()
    for failure in failures:
        raise failure
    if state.failed is not None:
        raise state.failed
