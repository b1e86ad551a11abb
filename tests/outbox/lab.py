"""An outbox in a database of its own, and a worker's site around it, without a site of Django."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.db.utils import ConnectionHandler

from smtpbackend import CancelSend, Envelope, Mailer, Message
from smtpbackend.adapters import Parcel, signals_of, stamp
from smtpbackend.outbox import Draft, Due, MailerDown, Options, Store, Stored, Worker, draft
from smtpbackend_django.outbox.database import DjangoConnection
from tests.servers.ports import wait_until

__all__ = ["Lab", "letter"]

ENVIRONMENT = "lab"


def letter(*to: str, subject: str = "Hello", text: str = "Text", **options: Any) -> Draft:
    """What is stored of a plain message."""
    message = Message(subject=subject, from_="shop@example.com", to=list(to) or ["ann@example.com"], text=text)
    return draft(Parcel.of(message), stamp, time.time(), **{"lasts": 3600.0, **options})


class Lab:
    """The site of a worker: a database, mailers by alias, and what was told of them."""

    def __init__(self, database: dict[str, Any], **mailers: Any) -> None:
        self._handler = ConnectionHandler({"default": database, "lab": database})
        self.dialect = "sqlite" if database["ENGINE"].endswith("sqlite3") else "postgresql"
        self.mailers: dict[str, Mailer] = {}
        self._making = threading.Lock()
        self.settings = mailers
        self.told: list[tuple[str, Any]] = []
        self.cancelled: Callable[[Due], bool] = lambda due: False
        self.raising = ""
        self.all_options: dict[str, Options] = {}
        self.opened = 0
        self.idled: list[str] = []
        self.store = self.open()
        wrapper: Any = self.store.connection._own  # type: ignore[attr-defined]
        with wrapper.schema_editor(atomic=False) as editor:
            for model in apps.get_app_config("smtpbackend_outbox").get_models():
                editor.create_model(model)

    # What a worker is given

    def open(self) -> Store:
        self.opened += 1
        wrapper: Any = self._handler.create_connection("lab")
        wrapper.inc_thread_sharing()
        return Store(DjangoConnection("lab", wrapper), ENVIRONMENT)

    def aliases(self) -> Sequence[str]:
        return list(self.settings)

    def others(self) -> Sequence[str]:
        return []

    def mailer(self, alias: str) -> Mailer:
        with self._making:
            if alias not in self.mailers:
                self.mailers[alias] = Mailer(**self.settings[alias])
            return self.mailers[alias]

    def options(self, alias: str) -> Options:
        return self.all_options.get(alias, Options())

    def tell(self, alias: str, due: Due | None, event: Any) -> None:
        names = [event.name] if not hasattr(event, "message") else [name for name, _ in signals_of(event)]
        whose = due.id if due is not None else (event.entry, alias) if hasattr(event, "entry") else alias
        self.told += [(name, whose) for name in names]
        if self.raising in names:
            raise SystemExit(f"{self.raising}: no Exception")
        if event.name == "message_sending" and due is not None and self.cancelled(due):
            raise CancelSend("not wanted")

    def idle(self) -> None:
        """Nothing is left open in a thread."""
        self.idled.append(threading.current_thread().name)

    # What a test does

    def put(self, *drafts: Draft, alias: str = "default", group: int = 1, born_leased: int = 0) -> list[Stored]:
        return self.store.enqueue(drafts, alias, group, 0, born_leased)

    def rows(self, sql: str, *params: Any) -> list[Any]:
        return self.store.connection.rows(sql, params)

    def states(self, entry_id: int | None = None) -> list[tuple[str, str]]:
        """Address and state of each recipient."""
        where = "" if entry_id is None else f"WHERE entry_id = {entry_id} "
        rows = self.rows(f"SELECT address, state FROM smtpbackend_outbox_recipient {where}ORDER BY entry_id, position")
        return [tuple(row) for row in rows]

    def pending(self) -> int:
        return int(self.rows("SELECT count(*) FROM smtpbackend_outbox_due")[0][0])

    def shift(self, seconds: float) -> None:
        """Let time pass, for what is stored and not leased."""
        self.rows(
            "UPDATE smtpbackend_outbox_due SET next_try = next_try - %s, expires = expires - %s WHERE leased = 0",
            *(seconds, seconds),
        )
        self.rows(
            "UPDATE smtpbackend_outbox_mailer SET rest_until = rest_until - %s, trial_until = trial_until - %s, "
            "backlog_until = backlog_until - %s",
            *(seconds, seconds, seconds),
        )

    @contextmanager
    def worker(self, *, for_all: bool = True) -> Iterator[Worker]:
        worker = Worker(self, for_all=for_all)
        worker.start()
        try:
            yield worker
        finally:
            assert worker.stop(20), "the worker did not end"

    def wait_for(self, what: Callable[[], object]) -> None:
        assert wait_until(lambda: bool(what()), 20), "it did not come"

    def close(self) -> None:
        for mailer in self.mailers.values():
            mailer.close()
        self.store.connection.close()


def down(told: list[tuple[str, Any]]) -> int:
    return sum(name == MailerDown("", "").name for name, _ in told)


def to(*addresses: str) -> Envelope:
    return Envelope("shop@example.com", list(addresses))
