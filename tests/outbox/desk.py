"""A site's outbox within the process of the tests: its settings, its tables, and `manage.py outbox` on them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.utils import ConnectionHandler

from smtpbackend.outbox import Draft, Stored, Worker
from smtpbackend_django.outbox import conf
from smtpbackend_django.outbox.database import store
from smtpbackend_django.outbox.process import DjangoSite
from tests.django.conftest import email_settings
from tests.outbox.lab import letter
from tests.outbox.sites import HAS_MAILERS, OUTBOX_BACKEND, mail_settings
from tests.servers.ports import wait_until

__all__ = ["Desk", "database_of_site", "desk_of"]

ALIAS = "smtp" if HAS_MAILERS else "default"
"""The mailer behind the outbox."""


@contextmanager
def database_of_site(database: Mapping[str, Any], alias: str = "default") -> Iterator[None]:
    """Put an entry into DATABASES; `override_settings` cannot."""
    connections.settings  # noqa: B018 -- read once, from settings.DATABASES, into which it puts a "default"
    before = settings.DATABASES.get(alias)
    settings.DATABASES[alias] = ConnectionHandler({"default": dict(database)}).settings["default"]
    _forget(alias)
    try:
        yield
    finally:
        connections[alias].close()
        _forget(alias)
        if before is None:
            del settings.DATABASES[alias]
        else:
            settings.DATABASES[alias] = before


def _forget(alias: str) -> None:
    if hasattr(connections._connections, alias):
        del connections[alias]


@contextmanager
def desk_of(database: Mapping[str, Any], server: Mapping[str, Any], **outbox: Any) -> Iterator[Desk]:
    """The outbox of a site, with its tables."""
    with (
        email_settings(**mail_settings(OUTBOX_BACKEND, server, {"worker": "none", **outbox})),
        database_of_site(database),
    ):
        call_command("migrate", verbosity=0, interactive=False)
        yield Desk()


class Desk:
    def __init__(self) -> None:
        self.store = store("default")

    @staticmethod
    def ask(*arguments: Any) -> tuple[int, str]:
        """The exit code of `manage.py outbox`, and what it says."""
        out = io.StringIO()
        try:
            call_command("outbox", *map(str, arguments), stdout=out, no_color=True)
        except SystemExit as ended:
            return int(str(ended.code)), out.getvalue()
        except CommandError as error:
            return error.returncode, str(error)
        return 0, out.getvalue()

    def json(self, *arguments: Any) -> Any:
        return json.loads(self.ask(*arguments, "--json")[1])

    def put(self, *drafts: Draft, alias: str = ALIAS, environment: str = "", leased: int = 0) -> list[int]:
        """Store mail, and return the ids."""
        its = store("default", environment)
        stored: list[Stored] = its.enqueue(drafts or [letter()], alias, 1, 0, leased)
        return [one.id for one in stored]

    def rows(self, sql: str, *params: Any) -> list[Any]:
        return self.store.connection.rows(sql, params)

    def states(self, entry_id: int) -> list[str]:
        rows = self.rows(
            "SELECT state FROM smtpbackend_outbox_recipient WHERE entry_id = %s ORDER BY position", entry_id
        )
        return [row[0] for row in rows]

    def end(self, entry_id: int, state: str = "failed") -> None:
        """Make an entry final."""
        (claimed,) = [
            one for one in self.store.claim(ALIAS, [(lane, 100) for lane in range(9)], 100) if one.id == entry_id
        ]
        self.store.fail([claimed], "it cannot be sent")
        if state != "failed":
            self.rows("UPDATE smtpbackend_outbox_recipient SET state = %s WHERE entry_id = %s", state, entry_id)

    def age(self, seconds: float) -> None:
        """Let time pass, for what is stored."""
        self.rows("UPDATE smtpbackend_outbox_due SET next_try = next_try - %s", seconds)
        self.rows(
            "UPDATE smtpbackend_outbox_mailer SET rest_until = rest_until - %s, trial_until = trial_until - %s",
            *(seconds, seconds),
        )
        self.rows("UPDATE smtpbackend_outbox_entry SET finished = finished - %s", seconds)

    @property
    def pending(self) -> int:
        return int(self.rows("SELECT count(*) FROM smtpbackend_outbox_due")[0][0])

    @staticmethod
    def site() -> DjangoSite:
        (outbox,) = conf.outboxes().values()
        return DjangoSite(outbox.database, outbox.options.environment)

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        worker = Worker(self.site(), for_all=True)
        worker.start()
        try:
            yield worker
        finally:
            assert worker.stop(20), "the worker did not end"

    @staticmethod
    def wait_for(what: Any) -> None:
        assert wait_until(lambda: bool(what()), 20), "it did not come"
