"""One delivery over several connections: a thread for each. ``delivery/spreading.py`` decides which takes what."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

from smtpbackend.blocking.perform import ask
from smtpbackend.delivery.asks import END, NOT_ASKED
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.dispatch import LEAVING
from smtpbackend.delivery.inside import Delivery, enter, is_here
from smtpbackend.delivery.lifecycle import Lifecycle
from smtpbackend.delivery.spreading import Spread, Step, Turn

__all__ = ["spread"]


def spread(
    caller: Caller,
    state: Spread,
    pool: object,
    lifecycle: Lifecycle,
    perform: Callable[[Caller, Delivery], Iterator[Any]],
) -> Iterator[Any]:
    """What becomes of all messages of ``caller``; ``perform`` does a part of them over one connection of ``pool``.

    Messages are prepared and begun in the thread that iterates. When the stream is left, it waits for what is in
    flight, and for a source that does not answer no longer than for that. The thread that iterates is inside of this
    delivery, as the others are: each may wait for what another has.
    """
    crew = _Crew(caller, state, lifecycle, perform, Delivery(pool))
    process = os.getpid()
    taking = enter(Delivery(pool))
    try:
        crew.start()
        while True:
            turn, value = crew.next_turn()
            if turn is Turn.GIVE:
                yield value
                if not is_here(taking):  # another thread goes on
                    taking.leave()
                    taking = enter(Delivery(pool))
            elif turn is Turn.TAKE:
                crew.take()
            elif turn is Turn.BEGIN:
                crew.begin(value)
            else:
                break
    except GeneratorExit:
        crew.failures.append(GeneratorExit())
        raise
    finally:
        taking.leave()
        if os.getpid() == process:  # a fork has no such threads, and may have been made while one held the lock
            crew.end()
        crew.shared.leave()
    for failure in crew.failures:
        raise failure
    if state.failed is not None:
        raise state.failed


class _Crew:
    """The threads of one delivery, and what they share. It is their source: see `pull`."""

    def __init__(
        self,
        caller: Caller,
        state: Spread,
        lifecycle: Lifecycle,
        perform: Callable[[Caller, Delivery], Iterator[Any]],
        shared: Delivery,
    ) -> None:
        self.caller = caller
        self.state = state
        self.lifecycle = lifecycle
        self.perform = perform
        self.shared = shared
        self.failures: list[BaseException] = []
        self.changed = threading.Condition()
        self.running = state.streams
        self.threads = [  # inside of what the caller is inside of, as tasks are
            threading.Thread(target=copy_context().run, args=(self._work,), name=f"smtpbackend-{n}", daemon=True)
            for n in range(state.streams)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self.threads:
            thread.start()

    def next_turn(self) -> tuple[Turn, Any]:
        """What the caller's thread does next; `Turn.WAIT`: nothing is left to do."""
        with self.changed:
            while (turn := self.state.turn())[0] is Turn.WAIT and self.running:
                self.changed.wait()
            self.changed.notify_all()
        return turn

    def take(self) -> None:
        """Ask the source for its next item."""
        item, failed = END, None
        try:
            item = next(self.caller.source, END)
        except Exception as error:
            failed = error
        finally:
            with self.changed:
                self.state.answered(item, failed)
                self.changed.notify_all()

    def begin(self, item: Any) -> None:
        """Make a mail of an item."""
        asked = time.monotonic()
        try:
            if self.caller.prepare is None:
                item, parcel = self.lifecycle.open(item, self.state.pairs)
            else:
                parcel = ask(self.caller.prepare, item)
            mail = self.lifecycle.begin(self.state.taken, item, parcel)
        except BaseException as error:
            with self.changed:
                self.state.end(error)
                self.changed.notify_all()
        else:
            with self.changed:
                self.state.begun(mail, time.monotonic() - asked)
                self.changed.notify_all()

    def end(self) -> None:
        """Begin nothing more, and wait for what is in flight."""
        with self.changed:
            left = self.state.abandon()
            self.changed.notify_all()
        end = time.monotonic() + LEAVING
        for thread in self.threads:
            if thread.ident is not None:  # else it could not be started
                thread.join(max(end - time.monotonic(), 0.1))
        for mail in left:
            self.lifecycle.break_off(mail, "the stream was left before this message was sent")

    def _work(self) -> None:
        enter(self.shared)
        try:
            given: Any = self.perform(self.caller._replace(source=self, sleep=self.sleep), self.shared)
            try:
                for one in given:
                    with self.changed:
                        self.state.known(one.number, one.value)
                        self.changed.notify_all()
                    if self.failures:
                        break
            finally:
                given.close()
        except BaseException as error:
            self.failures.append(error)
        finally:
            with self.changed:
                self.running -= 1
                if self.failures:
                    self.state.end()
                self.changed.notify_all()

    # What a thread has in place of the source

    def __length_hint__(self) -> int:
        left = self.state.left()
        return left if left >= 0 else NotImplemented

    def pull(self, busy: bool) -> Any:
        """The next mail, NOT_ASKED or END. The source is asked by one thread at a time, and holds up no other."""
        while True:
            with self.changed:
                while (step := self.state.step(busy)) is Step.WAIT:
                    self.changed.wait()
            if step is Step.LATER:
                return NOT_ASKED
            if step is not Step.TAKE:
                return END if step is Step.END else step
            self.take()

    def sleep(self, until: float) -> bool:
        """Wait until then, or until the stream is left: then true."""
        with self.changed:
            while not self.state.is_over and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)
            return self.state.is_over
