"""One `send_many` over several connections: a task for each, the receipts in the order of the messages."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from smtpbackend.delivery.spreading import Spread
from smtpbackend.protocol.effects import LATER

__all__ = ["spread"]


async def spread(
    source: Any, streams: int, most: int, send: Callable[[AsyncIterator[Any]], AsyncGenerator[Any, None]]
) -> AsyncGenerator[Any, None]:
    """The receipts of everything in ``source``; ``send`` makes a stream of receipts of one of messages.

    The source is asked by one task at a time. At most ``most`` messages are under way.
    """
    state = Spread(most)
    changed = asyncio.Condition()
    failures: list[BaseException] = []
    running = streams

    async def share(mine: deque[int]) -> AsyncIterator[Any]:
        """The messages that one task takes, while its numbers wait in ``mine``."""
        while (item := await take(mine)) is not END:
            yield item

    async def take(mine: deque[int]) -> Any:
        async with changed:
            while not state.may_take:
                if mine:  # whose receipt the others may be waiting for
                    return LATER
                await changed.wait()
            if state.ended:
                return END
            try:
                item = await anext(source, END) if isinstance(source, AsyncIterator) else next(source, END)
            except Exception as error:
                state.failed, item = error, END
            if item is END:
                state.ended = True
                changed.notify_all()
                return END
            mine.append(state.take())
            return item

    async def work() -> None:
        nonlocal running
        mine: deque[int] = deque()
        try:
            receipts = send(share(mine))
            try:
                async for receipt in receipts:
                    async with changed:
                        state.put(mine.popleft(), receipt)
                        changed.notify_all()
                    if failures:
                        break
            finally:
                await receipts.aclose()
        except BaseException as error:
            failures.append(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            async with changed:
                running -= 1
                state.ended = state.ended or bool(failures)
                changed.notify_all()

    tasks = [asyncio.ensure_future(work()) for _ in range(streams)]
    try:
        while True:
            async with changed:
                while (receipt := state.next()) is None and running:
                    await changed.wait()
                changed.notify_all()
            if receipt is None:
                break
            yield receipt
    except GeneratorExit:
        failures.append(GeneratorExit())
        raise
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    finally:
        state.ended = True
        state.most = 1 << 62  # who waits for others to be taken goes on, and finds the end
        async with changed:
            changed.notify_all()
        await asyncio.gather(*tasks, return_exceptions=True)
    for failure in failures:
        raise failure
    if state.failed is not None:
        raise state.failed


END = object()
