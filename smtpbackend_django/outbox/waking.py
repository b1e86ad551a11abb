"""What wakes ``outbox run`` as mail is stored by another process; without it mail waits for the next poll.

PostgreSQL: a connection that listens. Whether it hears is tried, for a pooler between may keep what is sent to it
(pgbouncer in transaction mode does). SQLite tells no one, so the number that changes with each commit is read.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from smtpbackend.outbox import Store
from smtpbackend_django.outbox.process import DjangoSite

__all__ = ["Waking", "received"]

logger = logging.getLogger("smtpbackend.outbox")

READ_EACH = 0.05  # seconds between looks at the number of SQLite
ECHO = 0.1  # seconds without mail after which it may be woken again
PROOF = 5.0  # seconds in which a wake-up of our own has to come
PULSE = 60.0  # seconds after which a connection that is silent is tried: a firewall may have dropped it
END = 1.0  # seconds that its end may take
AGAIN = 1.0  # seconds until the database is tried again, doubled up to the next
LONGEST = 30.0


class Waking(threading.Thread):
    """A thread that calls ``wake`` when another process has stored mail of a site; `stop` ends it.

    ``was_busy`` says whether the worker was given mail since it was asked last.
    """

    def __init__(
        self, site: DjangoSite, wake: Callable[[str | None], None], was_busy: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__(name="smtpbackend-outbox-waking", daemon=True)
        self._site = site
        self._wake = wake
        self._was_busy = was_busy
        self._end, self._other_end = socket.socketpair()
        self._is_told = False  # that it polls
        self.is_heard = False
        """Whether what is stored now wakes."""

    def stop(self) -> None:
        """End the thread. One that waits for a database which does not answer is left to the end of the process."""
        self._other_end.close()
        self.join(END)

    def run(self) -> None:
        """Wait for mail, also after the database was away."""
        with self._end:
            self._run()

    def _run(self) -> None:
        pause = AGAIN
        while True:
            store = None
            try:
                store = self._site.open()
                (self._read_number if store.has_clock_of_host else self._listen)(store)
                return
            except Exception as error:  # the worker tells what is wrong with the database
                pause = AGAIN if self.is_heard else min(LONGEST, pause * 2)
                self._polls("its connection to the database broke: %r", error)
            finally:
                self.is_heard = False
                if store is not None:
                    store.connection.close()
            if self._has_ended(pause):
                return

    def _has_ended(self, seconds: float, connection: Any = None) -> bool:
        """Wait for the end, or until something can be read of a connection. Returns whether it is the end."""
        with selectors.DefaultSelector() as either:
            either.register(self._end, selectors.EVENT_READ)
            if connection is not None:
                either.register(connection, selectors.EVENT_READ)
            return any(key.fileobj is self._end for key, _ in either.select(seconds))

    def _polls(self, why: str, *values: Any) -> None:
        """Tell once that mail waits for the next poll."""
        if not self._is_told:
            self._is_told = True
            logger.warning("outbox_polls: mail of other processes waits up to a second, for " + why, *values)

    def _hear(self) -> None:
        self.is_heard = True
        self._is_told = False

    # SQLite

    def _read_number(self, store: Store) -> None:
        """Wake for what is due alone: other commits of the site are none of the worker's business."""
        last = -1
        while not self._has_ended(READ_EACH):
            number = store.data_version()
            if number != last:
                last = number
                self._wake_due(store)
            self._hear()  # not before it has looked: where that fails again, it is not told again

    def _wake_due(self, store: Store) -> None:
        due = [alias for alias, seconds in store.soonest(self._site.aliases()).items() if seconds <= 0]
        rows = store.mailers(due) if due else {}
        whole = rows.get("")
        for alias in due:
            row = rows.get(alias)
            if not any(one is not None and (one.is_paused or one.down_for is not None) for one in (row, whole)):
                self._wake(alias)

    # PostgreSQL

    def _listen(self, store: Store) -> None:
        store.listen()
        connection = store.connection.driver  # type: ignore[attr-defined]
        if not self._hears(connection):
            self._polls(
                "NOTIFY does not arrive through DATABASES[%r]: a pooler keeps it (pgbouncer in transaction mode)",
                self._site.database,
            )
            return
        self._hear()
        self._wake(None)  # for what came while nobody listened
        while not self._has_ended(PULSE, connection):
            if not received(connection):
                store.holds(0, 0)  # raises where the connection is dead; a wake-up that comes meanwhile may be lost
                self._wake(None)
            elif self._stays_awake(store, connection):
                return

    def _stays_awake(self, store: Store, connection: Any) -> bool:
        """Look again and again while there is mail: nobody has to wake this process then. Returns whether it ends."""
        store.stay_awake()
        while True:
            self._wake(None)
            is_over = self._has_ended(ECHO)
            received(connection)
            if is_over or not self._was_busy():
                break
        store.fall_asleep()
        self._wake(None)  # somebody may have found it awake a moment ago
        return is_over

    def _hears(self, connection: Any) -> bool:
        """Whether a wake-up arrives that is sent on another connection; one of its own would pass through a pooler."""
        other = self._site.open()
        try:
            other.notify(always=True)
        finally:
            other.connection.close()
        until = time.monotonic() + PROOF
        while (left := until - time.monotonic()) > 0:
            if self._has_ended(left, connection) or received(connection):
                return True
        return False


def received(connection: Any) -> bool:
    """Whether a wake-up has come on a connection of psycopg 3 or psycopg2."""
    if hasattr(connection, "poll"):  # psycopg2
        connection.poll()
        count = len(connection.notifies)
        connection.notifies.clear()
        return count > 0
    has_come = False
    connection.pgconn.consume_input()
    while connection.pgconn.notifies() is not None:
        has_come = True
    return has_come
