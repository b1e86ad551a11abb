"""One delivery over several connections: a thread for each. ``delivery/spreading.py`` decides who takes what."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

from smtpbackend.blocking.pool import ask
from smtpbackend.delivery.asks import END
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.dispatch import LEAVING
from smtpbackend.delivery.inside import Delivery, enter, is_here
from smtpbackend.delivery.lifecycle import Lifecycle
from smtpbackend.delivery.spreading import Spread, Step, Turn
from smtpbackend.protocol.effects import LATER

__all__ = ["spread"]


class _Share:
    """The source as one thread sees it: mails that were begun."""

    def __init__(self, source: Iterator[Any], state: Spread, changed: threading.Condition) -> None:
        self._source = source
        self._state = state
        self._changed = changed

    def __length_hint__(self) -> int:
        left = self._state.left()
        return left if left >= 0 else NotImplemented

    def pull(self, busy: bool) -> Any:
        """The next mail, LATER or END. The source is asked by one thread at a time, and holds up no other."""
        while True:
            with self._changed:
                while (step := self._state.step(busy)) is Step.WAIT:
                    self._changed.wait()
            if step is Step.LATER:
                return LATER
            if step is not Step.TAKE:
                return END if step is Step.END else step
            _take(self._source, self._state, self._changed)

    def sleep(self, until: float) -> bool:
        """Wait until then, or until nobody takes what becomes of the messages any more: then true."""
        with self._changed:
            while not self._state.is_over and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._state.is_over


def _take(source: Iterator[Any], state: Spread, changed: threading.Condition) -> None:
    """Ask the source for its next item."""
    item, failed = END, None
    try:
        item = next(source, END)
    except Exception as error:
        failed = error
    finally:
        with changed:
            state.answered(item, failed)
            changed.notify_all()


def spread(
    caller: Caller,
    state: Spread,
    pool: object,
    lifecycle: Lifecycle,
    perform: Callable[[Caller, Delivery], Iterator[Any]],
) -> Iterator[Any]:
    """What becomes of all that the ``caller`` has; ``perform`` does a part of it over one connection of ``pool``.

    Messages are prepared and begun in the thread that iterates. Whoever leaves waits for
    what is in flight, and for a source that does not answer not longer than for that. The thread that iterates is
    inside of this delivery, as the others are: each may wait for what another has.
    """
    changed = threading.Condition()
    failures: list[BaseException] = []
    running = state.streams
    process = os.getpid()
    shared, taking = Delivery(pool), Delivery(pool)

    def work() -> None:
        nonlocal running
        enter(shared)
        try:
            share = _Share(caller.source, state, changed)
            given: Any = perform(caller._replace(source=share, sleep=share.sleep), shared)
            try:
                for one in given:
                    with changed:
                        state.known(one.number, one.value)
                        changed.notify_all()
                    if failures:
                        break
            finally:
                given.close()
        except BaseException as error:
            failures.append(error)
        finally:
            with changed:
                running -= 1
                if failures:
                    state.end()
                changed.notify_all()

    def begin() -> None:
        """Make a mail of the item that was taken."""
        message, asked = state.item, time.monotonic()
        try:
            if caller.prepare is None:
                first, parcel = lifecycle.open(message)
                message = message if state.pairs else first
            else:
                parcel = ask(caller.parcel, message)
            mail = lifecycle.begin(state.taken, message, parcel)
        except BaseException as error:
            with changed:
                state.end(error)
                changed.notify_all()
        else:
            with changed:
                state.begun(mail, time.monotonic() - asked)
                changed.notify_all()

    threads = [  # inside of what the caller is inside of, as tasks are
        threading.Thread(target=copy_context().run, args=(work,), name=f"smtpbackend-{n}", daemon=True)
        for n in range(state.streams)
    ]
    enter(taking)
    try:
        for thread in threads:
            thread.start()
        while True:
            with changed:
                while (turn := state.turn())[0] is Turn.WAIT and running:
                    changed.wait()
                changed.notify_all()
            todo, given = turn
            if todo is Turn.TAKE:
                _take(caller.source, state, changed)
            if todo is Turn.BEGIN:
                begin()
            if todo is Turn.WAIT:
                break
            if todo is not Turn.GIVE:
                continue
            yield given
            if not is_here(taking):  # another thread goes on
                taking.leave()
                taking = enter(Delivery(pool))
    except GeneratorExit:
        failures.append(GeneratorExit())
        raise
    finally:
        taking.leave()
        if os.getpid() == process:  # a fork has no such threads, and may have been made while one held the lock
            with changed:
                left = state.abandon()
                changed.notify_all()
            end = time.monotonic() + LEAVING
            for thread in threads:
                if thread.ident is not None:  # else it could not be started
                    thread.join(max(end - time.monotonic(), 0.1))
            for mail in left:
                lifecycle.break_off(mail, "nobody took the receipts any more before this message was sent")
        shared.leave()
    for failure in failures:
        raise failure
    if state.failed is not None:
        raise state.failed
