"""``outbox run``: workers that deliver all mail of a site, until a signal asks them to end."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from smtpbackend.outbox import Worker
from smtpbackend_django.outbox.database import store
from smtpbackend_django.outbox.process import DjangoSite
from smtpbackend_django.outbox.waking import Waking

__all__ = ["Signals", "run", "run_processes", "signals"]

logger = logging.getLogger("smtpbackend.outbox")

ENDS = (signal.SIGTERM, signal.SIGINT)
END = 20.0  # seconds that mail under way has to be finished and recorded
TICK = 1.0  # seconds between looks whether the parent process is there
LOOK = 0.05  # seconds between looks whether all is done
PAUSE = 1.0  # seconds until a process that died is replaced

Signals = queue.SimpleQueue[int]
"""Signals that came: handlers put them in, and do no more. `put` may interrupt `get`."""


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    """SIGTERM and SIGINT end nothing by themselves, but are noted."""
    came: Signals = queue.SimpleQueue()
    before = {number: signal.signal(number, lambda number, _: came.put(number)) for number in ENDS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(sites: Sequence[DjangoSite], came: Signals, *, once: bool = False, parent: int | None = None) -> None:
    """Deliver until a signal comes; with ``once`` also until nothing is due, with ``parent`` until that one ends."""
    workers = [(Worker(site, for_all=True), site) for site in sites]
    wakings = [] if once else [Waking(site, worker.wake, worker.was_busy) for worker, site in workers]
    for worker, _ in workers:
        worker.start()
    for waking in wakings:
        waking.start()
    try:
        while _next(came, LOOK if once else TICK) not in ENDS and parent in (None, os.getppid()):
            if once and all(_is_done(worker, site) for worker, site in workers):
                return
    finally:
        for waking in wakings:
            waking.stop()
        _stop([worker for worker, _ in workers])


def _stop(workers: Sequence[Worker]) -> None:
    until = time.monotonic() + END
    for worker in workers:
        worker.stop(0)  # all of them at once
    if not all(worker.stop(max(0.0, until - time.monotonic())) for worker in workers):
        logger.warning(
            "outbox_ended_early: mail is under way after %d s; it is sent again in a minute, and may arrive twice",
            END,
        )


def _next(came: Signals, seconds: float) -> int:
    """The next signal, or 0."""
    try:
        return came.get(timeout=seconds)
    except queue.Empty:
        return 0


def _is_done(worker: Worker, site: DjangoSite) -> bool:
    """Whether nothing is due that can be sent now. The database is asked, for a worker may be between two looks."""
    if not worker.is_idle:
        return False
    its = store(site.database, site.environment)
    rows = its.mailers()
    if "" in rows and rows[""].is_paused:
        return True
    for alias, seconds in its.soonest(site.aliases()).items():
        row = rows.get(alias)
        if row is None or row.down_for is None:
            if seconds <= 0 and not (row is not None and row.is_paused):
                return False
        elif row.trial_left > 0 or (seconds <= 0 and row.rest_left <= 0 and not row.is_paused):
            return False
    return True


def run_processes(count: int, work: Callable[[], None], came: Signals) -> None:
    """Have ``count`` processes do ``work``, until each has done it or a signal comes; one that dies is replaced."""
    if sys.platform == "win32":
        raise OSError("Windows does not fork")
    handler = signal.signal(signal.SIGCHLD, lambda number, _: came.put(number))
    try:
        running = {_fork(work) for _ in range(count)}
        starts: list[float] = []
        is_ending = False
        while running or (starts and not is_ending):
            if _next(came, PAUSE) in ENDS:
                is_ending = True
                for pid in running:
                    os.kill(pid, signal.SIGTERM)
            for pid in list(running):
                if code := _code(pid):
                    running.discard(pid)
                    if code != "0" and not is_ending:
                        logger.error("outbox_process_died: process %d ended with %s, and is replaced", pid, code)
                        starts.append(time.monotonic() + PAUSE)
            while starts and not is_ending and starts[0] <= time.monotonic():
                del starts[0]
                running.add(_fork(work))
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _code(pid: int) -> str:
    """With what a process has ended, "" while it runs; -9 was SIGKILL."""
    if sys.platform == "win32":
        raise OSError("Windows does not fork")
    ended, status = os.waitpid(pid, os.WNOHANG)
    return str(os.waitstatus_to_exitcode(status)) if ended else ""


def _fork(work: Callable[[], None]) -> int:
    if sys.platform == "win32":
        raise OSError("Windows does not fork")
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        os._exit(code)
