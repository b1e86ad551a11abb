"""Performs what ``delivery/dispatch.py`` asks for, in a thread: the effects of ``asks.py``. Nothing is decided here."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Generator, Iterator
from types import CoroutineType
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
    from smtpbackend.blocking.pool import Pool

__all__ = ["ask", "perform"]


def perform(
    pool: Pool, dispatch: Generator[Any, Any, None], caller: Caller, within: Delivery | None = None
) -> Iterator[Any]:
    """Perform what a dispatch decides for a caller; yields what it gives.

    ``within``: the stream over several connections that this is a share of; then numbers are given too.
    """
    source = caller.source
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
                    answer = connection.wire.talk(effect.conversation, effect.value, connection.deadline)
                elif kind is Give:
                    if not gone:
                        try:
                            yield effect.value if within is None else effect
                        except GeneratorExit:  # the stream was left: what is in flight is still ended
                            gone = True
                        if delivery is not None and not is_here(delivery):
                            delivery.leave()  # another thread goes on
                            delivery = enter(Delivery(pool))
                    answer = GONE if gone else None
                elif kind is Pull:
                    # a source that may make us wait for an item does not know how many it has
                    if effect.unsent and operator.length_hint(source, -1) < 0:
                        answer = NOT_ASKED
                    elif within is not None:
                        answer = source.pull(effect.busy)
                    else:
                        try:
                            answer = next(source, END)
                        except Exception as error:
                            answer, failed = END, error
                elif kind is Prepare:
                    try:
                        answer = ask(caller.prepare, effect.item)
                    except BaseException as error:
                        answer, failed = END, error
                elif kind is Lease:
                    answer = held = pool.lease(effect.server, effect.fresh, effect.deadline, within, generation)
                    held.deadline = effect.deadline
                    delivery = enter(Delivery(pool))
                elif kind is Release:
                    if delivery is not None:
                        delivery.leave()
                    held = delivery = None
                    answer = pool.release(*effect)
                else:
                    answer = _answer(pool, effect, caller)
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
            pool.release(held)
    if failed is not None:
        raise failed


def _answer(pool: Pool, effect: Any, caller: Caller) -> Any:
    """Perform what a dispatch asks for less often."""
    kind = type(effect)
    if kind is Find:
        return pool.find(*effect)
    if kind is Token:
        from smtpbackend.blocking.tokens import token

        return token(*effect)
    if kind is Pace:
        return pool.pace(*effect)
    if kind is Holds:
        return ask(caller.holds, *effect)
    if kind is Reserve:
        return ask(caller.pace, *effect)
    assert kind is Sleep
    if caller.sleep is not None:
        return GONE if caller.sleep(effect.until) else None
    return time.sleep(max(effect.until - time.monotonic(), 0))


def ask(function: Callable[..., Any], *args: Any) -> Any:
    """What a function of the caller says, or the Exception that it raised. A coroutine function says nothing here."""
    try:
        answer = function(*args)
    except Exception as error:
        return error
    if type(answer) is CoroutineType:
        answer.close()
        return TypeError(f"{function.__name__} is given a coroutine function, which only an AsyncMailer awaits")
    return answer
