"""Performs what ``delivery/dispatch.py`` asks for, in a task: the effects of ``asks.py``. Nothing is decided here."""

from __future__ import annotations

import asyncio
import inspect
import operator
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any

from smtpbackend.delivery.asks import (
    END,
    GONE,
    NOT_ASKED,
    Find,
    Give,
    Holds,
    Lease,
    Pace,
    Prepare,
    Pull,
    Release,
    Reserve,
    Sleep,
    Talk,
    Token,
)
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.inside import Delivery, enter, is_here
from smtpbackend.errors import SMTPError

if TYPE_CHECKING:
    from smtpbackend.aio.pool import Pool

__all__ = ["ask", "perform"]


async def perform(
    pool: Pool, dispatch: Generator[Any, Any, None], caller: Caller, within: Delivery | None = None
) -> AsyncGenerator[Any, None]:
    """Perform what a dispatch decides for a caller; yields what it gives.

    ``within``: the stream over several connections that this is a share of; then numbers are given too.
    """
    source = caller.source
    await pool.keep()
    held = delivery = None
    generation = pool.generation
    failed: BaseException | None = None
    gone = False
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
                    if not gone:
                        try:
                            yield effect.value if within is None else effect
                        except GeneratorExit:  # the stream was left: what is in flight is still ended
                            gone = True
                        if delivery is not None and not is_here(delivery, task := asyncio.current_task()):
                            delivery.leave()  # another task goes on
                            delivery = enter(Delivery(pool, task))
                    answer = GONE if gone else None
                elif kind is Pull:
                    # a source that may make us wait for an item does not know how many it has
                    if effect.unsent and operator.length_hint(source, -1) < 0:
                        answer = NOT_ASKED
                    elif within is not None:
                        answer = await source.pull(effect.busy)
                    else:
                        try:
                            answer = (
                                await anext(source, END) if isinstance(source, AsyncIterator) else next(source, END)
                            )
                        except Exception as error:
                            answer, failed = END, error
                elif kind is Prepare:
                    try:
                        answer = await ask(caller.prepare, effect.item)
                    except asyncio.CancelledError:
                        raise
                    except BaseException as error:
                        answer, failed = END, error
                elif kind is Lease:
                    answer = held = await pool.lease(effect.server, effect.fresh, effect.deadline, within, generation)
                    held.deadline = effect.deadline
                    delivery = enter(Delivery(pool, asyncio.current_task()))
                elif kind is Release:
                    if delivery is not None:
                        delivery.leave()
                    held = delivery = None
                    answer = await pool.release(*effect)
                else:
                    answer = await _answer(pool, effect, caller)
            except SMTPError as error:
                effect = dispatch.throw(error)
            else:
                effect = dispatch.send(answer)
    except StopIteration:
        pass
    finally:
        dispatch.close()
        if delivery is not None:
            delivery.leave()
        if held is not None:
            held.session.end("the delivery was broken off")
            await pool.release(held)
    if failed is not None:
        raise failed


async def _answer(pool: Pool, effect: Any, caller: Caller) -> Any:
    """Perform what a dispatch asks for less often."""
    kind = type(effect)
    if kind is Find:
        return await pool.find(*effect)
    if kind is Token:
        from smtpbackend.aio.tokens import token

        return await token(*effect)
    if kind is Pace:
        return pool.pace(*effect)
    if kind is Holds:
        return await ask(caller.holds, *effect)
    if kind is Reserve:
        return await ask(caller.pace, *effect)
    assert kind is Sleep
    if caller.sleep is not None:
        return GONE if await caller.sleep(effect.until) else None
    return await asyncio.sleep(max(effect.until - pool.clock(), 0))


async def ask(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of the caller says, which may be a coroutine function, or the Exception that it raised."""
    try:
        answer = function(*args)
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        return error
