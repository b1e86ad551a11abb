"""The one thread of a process that looks at what is idle, for the pools of all mailers.

``delivery/pooling.py`` decides what is due, and the pools close it. This module only decides when the thread lives:
from the first idle connection to the last open one. It ends before a fork, and before the program ends. Where no thread
can be started, what is due is closed when its pool is used the next time.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from smtpbackend.after_fork import at_fork, forks_unseen
from smtpbackend.delivery.pooling import GOODBYE, LOOK

__all__ = ["watch"]


class Watched(Protocol):
    """A pool. ``look`` closes what is due, and gives when to look again; None: it has no connection any more."""

    def look(self) -> float | None: ...


class _Watch:
    """``pools`` are those that will be looked at; a pool in which something becomes idle, and that is not, is added."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew, as a forked child must: it has no such thread."""
        self._changed = threading.Condition()  # on an RLock: garbage may be collected, and closed, at any point
        self._thread: threading.Thread | None = None
        self._rests = False
        self.pools: set[Watched] = set()

    def add(self, pool: Watched) -> None:
        """Have ``pool`` looked at, until it has no connection any more."""
        with self._changed:
            self.pools.add(pool)
            self._start()

    def _start(self) -> None:
        if self._thread is not None or self._rests or not self.pools or forks_unseen():
            return
        self._thread = threading.Thread(target=self._run, name="smtpbackend-idle", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no threads here, no more of them, or none any more: the program ends
            self._thread = None
            self.pools.clear()  # it is tried again with what becomes idle next

    def _run(self) -> None:
        again = time.monotonic() + LOOK
        try:
            while self._waits(again):
                again = self._look()
        except BaseException:
            with self._changed:
                self._thread = None
                self.pools.clear()  # each is added again with what becomes idle there
            raise

    def _waits(self, until: float) -> bool:
        """Wait until this time; False where the thread must end. From that moment another one may be started."""
        with self._changed:
            if self.pools and not self._rests:
                self._changed.wait(max(until - time.monotonic(), 0.0))
            if self.pools and not self._rests:
                return True
            self._thread = None
            return False

    def _look(self) -> float:
        """Look at each pool once; when to do so again."""
        # a pool that is looked at is not among them meanwhile: what becomes idle after our look is added anew
        with self._changed:
            pools, self.pools = self.pools, set()
        again = time.monotonic() + LOOK
        for pool in pools:
            its_own = pool.look()
            if its_own is not None:
                again = min(again, its_own)
                with self._changed:
                    self.pools.add(pool)
        return again

    def rest(self) -> None:
        """End the thread, and start none: before a fork, and at the end of the program."""
        with self._changed:
            self._rests = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(GOODBYE)  # it may be saying QUIT

    def go_on(self) -> None:
        """In the parent, behind a fork."""
        with self._changed:
            self._rests = False
            self._start()


watch = _Watch()
# Python 3.12 and later warn of a fork while other threads run: ours has ended by then
at_fork(before=watch.rest, after_in_parent=watch.go_on, in_child=watch.reset)
