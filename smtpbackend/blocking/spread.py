"""One `send_many` over several connections: a thread for each, the receipts in the order of the messages."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from smtpbackend.delivery.spreading import Spread
from smtpbackend.protocol.effects import LATER

__all__ = ["spread"]


def spread(source: Iterator[Any], streams: int, most: int, send: Callable[[Iterator[Any]], Iterator[Any]]) -> Any:
    """The receipts of everything in ``source``; ``send`` makes a stream of receipts of one of messages.

    ``next()`` is called on the source by one thread at a time. At most ``most`` messages are under way.
    """
    state = Spread(most)
    changed = threading.Condition()
    failures: list[BaseException] = []
    running = streams

    def share(mine: deque[int]) -> Iterator[Any]:
        """The messages that one thread takes, while its numbers wait in ``mine``."""
        return iter(lambda: take(mine), END)

    def take(mine: deque[int]) -> Any:
        with changed:
            while not state.may_take:
                if mine:  # whose receipt the others may be waiting for
                    return LATER
                changed.wait()
            if state.ended:
                return END
            try:
                item = next(source, END)
            except Exception as error:
                state.failed, item = error, END
            if item is END:
                state.ended = True
                changed.notify_all()
                return END
            mine.append(state.take())
            return item

    def work() -> None:
        nonlocal running
        mine: deque[int] = deque()
        try:
            receipts = send(share(mine))
            try:
                for receipt in receipts:
                    with changed:
                        state.put(mine.popleft(), receipt)
                        changed.notify_all()
                    if failures:
                        break
            finally:
                receipts.close()  # type: ignore[attr-defined]
        except BaseException as error:
            failures.append(error)
        finally:
            with changed:
                running -= 1
                state.ended = state.ended or bool(failures)
                changed.notify_all()

    threads = [threading.Thread(target=work, name=f"smtpbackend-{n}", daemon=True) for n in range(streams)]
    for thread in threads:
        thread.start()
    try:
        while True:
            with changed:
                while (receipt := state.next()) is None and running:
                    changed.wait()
                changed.notify_all()
            if receipt is None:
                break
            yield receipt
    except GeneratorExit:
        failures.append(GeneratorExit())
        raise
    finally:
        with changed:
            state.ended = True
            state.most = 1 << 62  # who waits for others to be taken goes on, and finds the end
            changed.notify_all()
        for thread in threads:
            thread.join()
    for failure in failures:
        raise failure
    if state.failed is not None:
        raise state.failed


END = object()
