"""One `send_many` over several connections: a thread for each, the receipts in the order of the messages."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

from smtpbackend.delivery.dispatch import LEAVING
from smtpbackend.delivery.inside import Delivery, enter, is_here
from smtpbackend.delivery.spreading import Spread, Step
from smtpbackend.protocol.effects import LATER

__all__ = ["spread"]


class _Share:
    """The messages that one thread takes; ``numbers`` are those whose receipts are still to come."""

    def __init__(self, source: Iterator[Any], state: Spread, changed: threading.Condition) -> None:
        self.numbers: deque[int] = deque()
        self._source = source
        self._state = state
        self._changed = changed

    def __iter__(self) -> _Share:
        return self

    def __length_hint__(self) -> int:
        left = self._state.left()
        return left if left >= 0 else NotImplemented

    def __next__(self) -> Any:
        with self._changed:
            while (step := self._state.step(bool(self.numbers))) is Step.WAIT:
                self._changed.wait()
        if step is Step.LATER:
            return LATER
        if step is Step.END:
            raise StopIteration
        is_item, item, failed = False, None, None
        try:
            item = next(self._source)  # nobody else is held up while it takes its time
            is_item = True
        except StopIteration:
            pass
        except Exception as error:
            failed = error
        finally:
            with self._changed:
                number = self._state.answered(is_item, failed)
                self._changed.notify_all()
        if number is None:
            raise StopIteration
        self.numbers.append(number)
        return item

    def composed(self) -> None:
        """Another thread may ask the source."""
        with self._changed:
            self._state.composed()
            self._changed.notify_all()


def spread(
    source: Iterator[Any], streams: int, most: int, pool: object, send: Callable[[Any, Delivery], Iterator[Any]]
) -> Any:
    """The receipts of everything in ``source``; ``send`` makes a stream of receipts of one of messages, over ``pool``.

    ``next()`` is called on the source by one thread at a time. At most ``most`` messages are under way. Whoever leaves
    waits for what is in flight, and for a source that does not answer not longer than for that. Who takes the receipts
    is inside of this delivery, as the threads are: each may wait for what another has.
    """
    state = Spread(source, most)
    changed = threading.Condition()
    failures: list[BaseException] = []
    running = streams
    process = os.getpid()
    shared, taking = Delivery(pool), Delivery(pool)

    def work() -> None:
        nonlocal running
        share = _Share(source, state, changed)
        enter(shared)
        try:
            receipts: Any = send(share, shared)
            try:
                for receipt in receipts:
                    with changed:
                        state.put(share.numbers.popleft(), receipt)
                        changed.notify_all()
                    if failures:
                        break
            finally:
                receipts.close()
        except BaseException as error:
            failures.append(error)
        finally:
            with changed:
                running -= 1
                state.ended = state.ended or bool(failures)
                changed.notify_all()

    threads = [  # inside of what the caller is inside of, as tasks are
        threading.Thread(target=copy_context().run, args=(work,), name=f"smtpbackend-{n}", daemon=True)
        for n in range(streams)
    ]
    enter(taking)
    try:
        for thread in threads:
            thread.start()
        while True:
            with changed:
                while (receipt := state.next()) is None and running:
                    changed.wait()
                changed.notify_all()
            if receipt is None:
                break
            yield receipt
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
                state.ended = True
                changed.notify_all()
            end = time.monotonic() + LEAVING
            for thread in threads:
                if thread.ident is not None:  # else it could not be started
                    thread.join(max(end - time.monotonic(), 0.1))
        shared.leave()
    for failure in failures:
        raise failure
    if state.failed is not None:
        raise state.failed
