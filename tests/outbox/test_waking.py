"""What wakes ``outbox run``: it hears of mail that others store, and knows when it does not."""

from __future__ import annotations

import logging
import queue
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest
from django.db import connections

from smtpbackend.testing import ScriptedServer
from smtpbackend_django.outbox import waking
from smtpbackend_django.outbox.process import DjangoSite
from smtpbackend_django.outbox.waking import Waking
from tests.django.conftest import email_settings
from tests.outbox.deaf_pooler import NO_ENCRYPTION, DeafPooler
from tests.outbox.desk import ALIAS, Desk, database_of_site, desk_of
from tests.outbox.lab import letter
from tests.outbox.sites import OUTBOX_BACKEND, mail_settings
from tests.servers.ports import wait_until

MakeDesk = Callable[..., Desk]
NOWHERE = {"host": "127.0.0.1", "port": 1, "tls": "none"}
LONG = 20.0


class Woken:
    """How often, and for which mailers."""

    def __init__(self) -> None:
        self._came: queue.Queue[str | None] = queue.Queue()

    def __call__(self, alias: str | None) -> None:
        self._came.put(alias)

    def wait(self) -> str | None:
        """Wait for the next time."""
        return self._came.get(timeout=LONG)

    def clear(self) -> None:
        while not self._came.empty():
            self._came.get()

    @property
    def count(self) -> int:
        return self._came.qsize()


class Looking(DjangoSite):
    """A site that tells when its mailers are looked at."""

    def __init__(self, database: str, environment: str) -> None:
        super().__init__(database, environment)
        self.has_looked = threading.Event()

    def aliases(self) -> Sequence[str]:
        self.has_looked.set()
        return super().aliases()


@contextmanager
def awake(site: DjangoSite, wake: Callable[[str | None], None]) -> Iterator[Waking]:
    its = Waking(site, wake)
    its.start()
    try:
        assert wait_until(lambda: its.is_heard, LONG)
        yield its
    finally:
        its.stop()
        its.join(LONG)
        assert not its.is_alive()


def tell(desk: Desk) -> None:
    """What the process does that has stored mail."""
    desk.put()
    desk.store.notify()


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    return make_desk(NOWHERE)


def test_mail_of_others_wakes(desk: Desk) -> None:
    woken = Woken()
    with awake(desk.site(), woken) as its:
        if desk.store.connection.dialect == "postgresql":
            assert woken.wait() is None  # what came before it listened
        woken.clear()
        tell(desk)
        assert woken.wait() in (None, ALIAS)
    assert its.is_heard is False


def test_on_sqlite_only_mail_that_can_go_wakes(desk: Desk) -> None:
    """Whatever the site writes, and mail that is due later, paused or whose mailer is down, wakes nobody."""
    if desk.store.connection.dialect != "sqlite":
        pytest.skip("SQLite")
    woken = Woken()
    site = Looking("default", desk.site().environment)
    with awake(site, woken):

        def after(write: Callable[[], object]) -> int:
            """How often it has woken, once it has looked; a second look begins when the first is over."""
            for change in (write, lambda: desk.rows("INSERT INTO of_the_site VALUES (1)")):
                site.has_looked.clear()
                change()
                assert site.has_looked.wait(LONG)
            return woken.count

        assert after(lambda: desk.rows("CREATE TABLE of_the_site (number int)")) == 0
        assert after(lambda: desk.store.rest(ALIAS, lambda last: 60.0, "down")) == 0
        assert after(desk.put) == 0
        assert after(lambda: desk.store.pause(ALIAS, True)) == 0
        assert after(lambda: desk.store.end_rest(ALIAS)) == 0
        assert after(lambda: desk.store.pause(ALIAS, False)) > 0
        assert woken.wait() == ALIAS


def test_a_worker_that_is_woken_delivers_and_sleeps_again(make_desk: MakeDesk, smtp_server: Any) -> None:
    """What it writes itself wakes it no more often than there is mail."""
    server: ScriptedServer = smtp_server()
    desk = make_desk({"host": "127.0.0.1", "port": server.port, "tls": "none"})
    woken = Woken()
    with desk.worker() as worker:

        def wake(alias: str | None) -> None:
            woken(alias)
            worker.wake(alias)

        with awake(desk.site(), wake):
            for number in range(3):
                desk.put(letter(f"to{number}@example.com"))
                desk.store.notify()
                desk.wait_for(lambda: not desk.pending)
    assert len(server.taken) == 3
    assert woken.count <= 20


def test_the_end_does_not_wait_for_the_database(desk: Desk) -> None:
    its = Waking(desk.site(), Woken())
    its.start()
    its.stop()
    its.join(LONG)
    assert not its.is_alive()


@pytest.mark.servers
def test_the_end_does_not_wait_for_a_database_that_says_nothing(postgresql: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        database = {**postgresql.settings("site"), "PORT": str(silent.getsockname()[1])}
        with (
            email_settings(**mail_settings(OUTBOX_BACKEND, NOWHERE, {"worker": "none"})),
            database_of_site(database),
        ):
            its = Waking(Desk.site(), Woken())
            its.start()
            asked, _ = silent.accept()
            its.stop()
            assert its.is_alive()
            asked.close()
            its.join(LONG)
            assert not its.is_alive()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "smtpbackend.outbox")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "smtpbackend.outbox"]


@pytest.mark.servers
def test_a_pooler_that_keeps_notifications_is_found_and_told_once(
    postgresql: Any, logged: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    postgresql.start()
    postgresql.create_database("site")
    monkeypatch.setattr(waking, "PROOF", 0.5)
    with DeafPooler(postgresql.host, postgresql.port) as pooler:
        database = {**postgresql.settings("site"), "PORT": str(pooler.port), "OPTIONS": NO_ENCRYPTION}
        with desk_of(database, NOWHERE) as desk:
            woken = Woken()
            its = Waking(desk.site(), woken)
            its.start()
            its.join(LONG)
            assert not its.is_alive()
            its.stop()
    assert (woken.count, pooler.kept) == (0, 1)
    [said] = logged()
    assert said.startswith("outbox_polls: mail of other processes waits up to a second, for NOTIFY does not arrive")


@pytest.mark.servers
def test_it_listens_again_after_the_database_was_away(
    postgresql: Any, make_desk: MakeDesk, logged: Callable[[], list[str]], request: pytest.FixtureRequest
) -> None:
    desk = make_desk(NOWHERE)
    if desk.store.connection.dialect != "postgresql":
        pytest.skip("PostgreSQL")
    woken = Woken()
    with awake(desk.site(), woken) as its:
        woken.wait()
        for _ in range(2):
            postgresql.stop()
            assert wait_until(lambda: not its.is_heard, LONG)
            postgresql.start()
            assert woken.wait() is None, "what came meanwhile is looked for"
            assert wait_until(lambda: its.is_heard, LONG)
        woken.clear()
        connections["default"].close()  # that of before
        tell(desk)
        woken.wait()
    assert len(logged()) == 2, "once each time"
    assert "its connection to the database broke" in logged()[0]


def test_it_reads_again_after_a_file_was_away(
    desk: Desk, logged: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if desk.store.connection.dialect != "sqlite":
        pytest.skip("SQLite")
    monkeypatch.setattr(waking, "AGAIN", 0.05)
    woken = Woken()
    with awake(desk.site(), woken) as its:
        with closing(sqlite3.connect(connections["default"].settings_dict["NAME"])) as other:
            other.execute("ALTER TABLE smtpbackend_outbox_due RENAME TO gone")
            assert wait_until(lambda: bool(logged()), LONG)
            time.sleep(0.3)  # it tries again in vain, and does not tell that
            other.execute("ALTER TABLE gone RENAME TO smtpbackend_outbox_due")
        assert wait_until(lambda: its.is_heard, LONG)
        desk.put()
        assert woken.wait() == ALIAS
    assert len(logged()) == 1


def test_psycopg2_is_understood() -> None:
    """It gives what has come in a list, once it was asked to read."""

    class Connection:
        notifies: list[str] = []  # noqa: RUF012
        waiting = ["a wake-up"]  # noqa: RUF012

        def poll(self) -> None:
            self.notifies += self.waiting
            self.waiting.clear()

    connection = Connection()
    assert waking.received(connection) is True
    assert waking.received(connection) is False
