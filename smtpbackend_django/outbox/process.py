"""The worker of each process that stores mail, and what hands committed entries to it.

It is started by the first commit with an entry, and in a process that serves requests by its first one: never at
import, in a reloader's parent, under Django's tests, or where threads cannot run.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from django.db import connections, transaction

from smtpbackend.adapters import at_end_of_process, at_fork, call_receiver, forks_unseen
from smtpbackend.outbox import Due, Entry, EntryFailed, MailerDown, MessageExpired, Options, Store, Worker
from smtpbackend_django import outbox
from smtpbackend_django.outbox import conf
from smtpbackend_django.outbox.database import own_store, store
from smtpbackend_django.outbox.stored import StoredMessage
from smtpbackend_django.signalling import Signalling

__all__ = ["Committed", "DjangoSite", "start_with_request", "stop_workers", "threads_are_off"]

BEFORE_FORK = 1.0  # seconds that a fork waits for mail under way
WAKE_UP_EACH = 0.1  # seconds between two wake-ups of other processes

_workers: dict[tuple[str, str], Worker] = {}
_lock = threading.RLock()
_has_forked = False
_is_watching = False
_last_wake_ups: dict[tuple[str, str], float] = {}
_seen_request = False


class DjangoSite:
    """What a worker is given of a site: the outboxes of one database.

    ``in_process``: it is that of a process which stores, and leaves mail of outboxes alone whose ``worker`` is "none".
    """

    def __init__(self, database: str, environment: str, *, in_process: bool = False) -> None:
        self.database = database
        self.environment = environment
        self._in_process = in_process

    def open(self) -> Store:
        return own_store(self.database, self.environment)

    def _outbox(self, alias: str) -> conf.Outbox:
        found = conf.outboxes().get(alias)
        if found is None:
            raise conf.wrong(None, f"no outbox of this site sends by {alias!r}")
        return found

    def aliases(self) -> Sequence[str]:
        return [one.alias for one in self._all() if self._delivers(one)]

    def others(self) -> Sequence[str]:
        return [one.alias for one in self._all() if not self._delivers(one)]

    def _all(self) -> list[conf.Outbox]:
        return [
            one
            for one in conf.outboxes().values()
            if one.database == self.database and one.options.environment == self.environment
        ]

    def _delivers(self, one: conf.Outbox) -> bool:
        return not self._in_process or one.options.worker == "process"

    def mailer(self, alias: str) -> Any:
        return conf.mailer_of(self._outbox(alias))

    def options(self, alias: str) -> Options:
        return self._outbox(alias).options

    def tell(self, alias: str, due: Due | None, event: Any) -> None:
        for connection in connections.all(initialized_only=True):  # of this thread: receivers may use the ORM
            if connection.errors_occurred:
                connection.close_if_unusable_or_obsolete()
        if isinstance(event, MessageExpired):
            _tell(outbox.message_expired, event.name, entry=event.entry, alias=alias)
        elif isinstance(event, EntryFailed):
            _tell(outbox.entry_failed, event.name, entry=event.entry, state=event.state, error=event.error, alias=alias)
        elif isinstance(event, MailerDown):
            _tell(outbox.mailer_down, event.name, error=event.error, alias=alias)
        else:
            if due is not None:
                event = event.replace(message=StoredMessage(due))
            Signalling(outbox.OutboxBackend, alias)(event)

    def idle(self) -> None:
        connections.close_all()  # of this thread


def _tell(signal: Any, name: str, **fields: Any) -> None:
    for receiver in signal._live_receivers(outbox.OutboxBackend)[0]:
        call_receiver(receiver, name, signal=signal, sender=outbox.OutboxBackend, **fields)


# The worker of this process


def _worker(its: conf.Outbox) -> Worker | None:
    """The worker of this process for an outbox; it is not started yet. None where there must be none."""
    if its.options.worker != "process" or conf.in_tests() or forks_unseen() or threads_are_off():
        return None
    key = (its.database, its.options.environment)
    with _lock:
        if key not in _workers:
            _workers[key] = Worker(DjangoSite(*key, in_process=True))
        return _workers[key]


def _started(worker: Worker) -> bool:
    """Start a worker, unless it runs. At the end of Python no thread can be started."""
    global _is_watching
    with _lock:
        if worker.is_started:
            return True
        if not _is_watching:
            _is_watching = True
            atexit.register(_leave)
            at_end_of_process(_leave)
        try:
            worker.start()
        except Exception as error:  # no thread can be started, or the settings are wrong
            logging.getLogger("smtpbackend.outbox").warning("worker_not_started", exc_info=error)
            for key in [key for key, one in _workers.items() if one is worker]:
                del _workers[key]
            return False
        return True


def threads_are_off() -> bool:
    """Whether this process is one of uWSGI without threads: there a thread of Python runs only within requests."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None:
        return False
    options = getattr(uwsgi, "opt", {})
    return not any(options.get(name) or options.get(name.encode()) for name in ("enable-threads", "threads"))


def start_with_request(**_: Any) -> None:
    """What other processes left is looked for from the first request on."""
    global _seen_request
    if _seen_request:
        return
    _seen_request = True
    with contextlib.suppress(Exception):  # wrong settings are told by the checks, and as a mail is stored
        for one in conf.outboxes().values():
            worker = _worker(one)
            if worker is not None:
                _started(worker)


def _leave() -> None:
    with _lock:
        workers = list(_workers.values())
    for worker in workers:
        if not worker.is_started:
            continue
        if "uwsgi" in sys.modules:  # its threads may not run any more as it ends
            worker.stop(0.0)
        else:
            worker.leave()


def stop_workers(seconds: float = 5.0) -> None:
    """Stop the workers of this process; another mail starts them again."""
    with _lock:
        workers = list(_workers.values())
        _workers.clear()
    for worker in workers:
        if worker.is_started:
            worker.stop(seconds)


def _before_fork() -> None:
    """A process that forks has no thread at that moment, and what it stores afterwards is not born leased."""
    global _has_forked, _seen_request
    if _workers:
        stop_workers(BEFORE_FORK)
    _has_forked = True
    _seen_request = False  # the next request starts another


def _in_child() -> None:
    global _lock, _has_forked, _is_watching, _seen_request
    _lock = threading.RLock()
    _workers.clear()
    _has_forked = _is_watching = _seen_request = False


at_fork(before=_before_fork, in_child=_in_child)


# Commits


class Committed:
    """What a call stored, handed to the worker once the transaction has committed.

    All that one transaction stores is one group, in whose order it is counted.
    """

    def __init__(self, outbox: conf.Outbox, worker: Worker | None, group: int, place: int, taken: int = 0) -> None:
        self.outbox = outbox
        self.worker = worker
        self.group = group
        self.place = place
        room = worker.room(outbox.alias) if worker is not None and not _has_forked else 0
        self.room = max(0, room - taken)  # what was leased before in the transaction takes its room at the commit too
        self._taken_before = taken
        self.born: list[Entry] = []
        self.others = False

    @property
    def taken(self) -> int:
        """How much of the room of its outbox the transaction has taken so far."""
        return self._taken_before + len(self.born)

    @classmethod
    def of(cls, outbox: conf.Outbox) -> Self:
        """One for a call that stores, in the group of the transaction that is open."""
        connection = connections[outbox.database]
        worker = _worker(outbox)
        if not _tells_of_commits(connection):
            worker = None
        hooks = (hook for _, hook, _ in reversed(connection.run_on_commit) if isinstance(hook, Committed))
        last = next(hooks, None)
        if last is None:
            return cls(outbox, worker, secrets.randbits(62), 0)
        same = next((hook for hook in itertools.chain((last,), hooks) if hook.outbox.alias == outbox.alias), None)
        return cls(outbox, worker, last.group, last.place, 0 if same is None else same.taken)

    def register(self) -> None:
        """Be called after the commit. Under Django's tests, and where nobody waits for it, there is no hook."""
        connection = connections[self.outbox.database]
        if not (self.born or self.others) or conf.in_tests():
            return
        if not _tells_of_commits(connection):
            return
        if self.worker is None and connection.vendor != "postgresql":
            return
        transaction.on_commit(self, using=self.outbox.database, robust=True)

    def __call__(self) -> None:
        worker = self.worker
        if worker is not None and worker.is_over:  # a fork ended it meanwhile
            worker = _worker(self.outbox)
        if worker is not None and _started(worker):
            if self.born:
                worker.hand_over(self.born)
            if self.others:
                worker.wake(self.outbox.alias)
        else:
            _wake_up_others(self.outbox)


def _tells_of_commits(connection: Any) -> bool:
    """Whether Django tells when the transaction commits: not where autocommit is off, and the site commits itself."""
    return bool(connection.commit_on_exit if connection.in_atomic_block else connection.get_autocommit())


def _wake_up_others(outbox: conf.Outbox) -> None:
    """Wake processes that listen, behind the commit and not for each: PostgreSQL alone can."""
    key, now = (outbox.database, outbox.options.environment), time.monotonic()
    with _lock:
        if now - _last_wake_ups.get(key, -WAKE_UP_EACH) < WAKE_UP_EACH:
            return  # the process that woke up looks again soon
        _last_wake_ups[key] = now
    try:
        store(outbox.database, outbox.options.environment).notify()
    except Exception as error:  # it looks by itself as well
        logging.getLogger("smtpbackend.outbox").debug("wake_up_failed", exc_info=error)
