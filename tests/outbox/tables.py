"""The tables of a site, mail in them, and a server that strikes at a reply."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from django.db.utils import ConnectionHandler

from smtpbackend.outbox import Draft, Store
from smtpbackend.outbox.schedule import MAX_LAPSES
from smtpbackend.testing import Play
from smtpbackend_django.outbox.database import DjangoConnection
from tests.outbox.sites import Site

LAPSE = 61.0


class Tables:
    """The tables of a site, on a connection of the test's own."""

    def __init__(self, database: dict[str, Any]) -> None:
        handler = ConnectionHandler({"default": {**database, "OPTIONS": database.get("OPTIONS", {})}})
        self._connection: Any = handler.create_connection("default")
        self._connection.inc_thread_sharing()
        self._is_sqlite = self._connection.vendor == "sqlite"

    def rows(self, sql: str, *params: Any) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description else []

    def states(self) -> Counter[str]:
        return Counter(row[0] for row in self.rows("SELECT state FROM smtpbackend_outbox_recipient"))

    def pending(self) -> set[str]:
        rows = self.rows("SELECT address FROM smtpbackend_outbox_recipient WHERE state = 'pending'")
        return {row[0] for row in rows}

    def due(self) -> int:
        return int(self.rows("SELECT count(*) FROM smtpbackend_outbox_due")[0][0])

    def put(self, *drafts: Draft, alias: str, environment: str) -> None:
        """Store mail that nobody has in hand."""
        Store(DjangoConnection("default", self._connection), environment).enqueue(drafts, alias, 1, 0, 0)

    def has_one_that_may_die_no_more(self) -> bool:
        """Whether an entry is in hand that is ``failed`` if this worker ends too, as what may end workers."""
        lapses = f"lapses >= {MAX_LAPSES - 1}"
        return bool(self.rows(f"SELECT 1 FROM smtpbackend_outbox_due WHERE leased <> 0 AND {lapses} LIMIT 1"))

    def let_leases_lapse(self) -> None:
        self.rows("UPDATE smtpbackend_outbox_due SET next_try = next_try - %s WHERE leased <> 0", LAPSE)
        self.rows("UPDATE smtpbackend_outbox_mailer SET backlog_until = backlog_until - %s", LAPSE)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """While nobody else can write."""
        self.rows("BEGIN IMMEDIATE" if self._is_sqlite else "BEGIN")
        if not self._is_sqlite:
            self.rows("LOCK TABLE smtpbackend_outbox_due IN ACCESS EXCLUSIVE MODE")
        try:
            yield
        finally:
            self.rows("ROLLBACK")

    def close(self) -> None:
        self._connection.close()


class Executioner:
    """A server that kills its client before a reply: the message that was named, or handed over, is in flight.

    While ``spares`` says so it waits for the next reply.
    """

    def __init__(self, spares: Callable[[], bool] = lambda: False) -> None:
        self.seen: list[str] = []
        self._spares = spares
        self._lock = threading.Lock()
        self._left = -1
        self._kill: Callable[[], None] = lambda: None
        self._is_content = False
        self.has_killed = threading.Event()

    def arm(self, replies: int, kill: Callable[[], None], *, at_content: bool = False) -> None:
        self.has_killed.clear()
        self._kill, self._is_content, self._left = kill, at_content, replies

    def _count(self, is_content: bool) -> None:
        with self._lock:  # each connection has a thread
            if self._left < 0 or self._is_content != (is_content and self._is_content):
                return
            self._left -= 1
            if self._left < 0 and self._spares():
                self._left = 0
            if self._left >= 0:
                return
        self._kill()
        self.has_killed.set()

    def play(self) -> Play:
        def rcpt(line: str) -> str:
            self.seen.append(line.split("<")[1].split(">")[0])
            self._count(False)
            return "250 2.1.5 OK"

        def content(line: str) -> str:
            self._count(True)
            return "250 2.0.0 taken"

        return Play({"RCPT": rcpt, ".": content})


def enqueue(site: Site, count: int, first: int = 0) -> None:
    """Store mail to to0@example.com and so on, or from to`first`@example.com on."""
    done = site.manage(
        "shell",
        "--no-imports" if django_has_imports() else "--verbosity=0",
        "-c",
        "from django.core.mail import EmailMessage\n"
        "from smtpbackend_django.outbox.backend import OutboxBackend\n"
        "from django.core import mail\n"
        "backend = mail.mailers['default'] if hasattr(mail, 'mailers') else OutboxBackend()\n"
        f"numbers = range({first}, {first + count})\n"
        "mails = [EmailMessage('Hi', 'Text', None, [f'to{n}@example.com']) for n in numbers]\n"
        "backend.send_messages(mails)\n",
    )
    assert done.returncode == 0, done.stderr


def django_has_imports() -> bool:
    import django

    return django.VERSION >= (5, 2)
