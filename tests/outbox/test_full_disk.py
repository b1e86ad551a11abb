"""A full disk on SQLite: what cannot be stored is not claimed to be, and what was sent is recorded once there is room.

A connection that may make its file no larger gets the very error of a full disk, and SQLite may end its transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError

from smtpbackend.outbox import Options
from smtpbackend.testing import Play, ScriptedServer
from tests.outbox.lab import Lab, letter
from tests.outbox.sites import Site, sqlite
from tests.outbox.tables import Tables
from tests.outbox.test_process import arrived, options, run
from tests.outbox.test_worker import at, recipients

Start = Callable[..., ScriptedServer]

pytestmark = pytest.mark.slow

LONG = "\n".join(f"250-2.0.0 {number} {'x' * 400}" for number in range(50)) + "\n250 2.0.0 taken"
"""A reply of several pages: to record it takes room."""
FULL = "database or disk is full"


def full_at(database: dict[str, Any], pages: int) -> dict[str, Any]:
    """The same database, whose connections may let it have so many pages."""
    command = f"{database['OPTIONS']['init_command']}; PRAGMA max_page_count={pages}"
    return {**database, "OPTIONS": {**database["OPTIONS"], "init_command": command}}


@pytest.fixture
def database(tmp_path: Path) -> dict[str, Any]:
    return sqlite(tmp_path / "db.sqlite3")


class FullLab(Lab):
    """A lab whose connections, but the test's own, may let the database have `most_pages`."""

    most_pages = 0

    def open(self) -> Any:
        if self.most_pages:
            settings: Any = self._handler.settings
            settings["lab"] = full_at(settings["default"], self.most_pages)
        return super().open()

    @property
    def pages(self) -> int:
        return int(self.rows("PRAGMA page_count")[0][0])


@pytest.mark.parametrize("room", [0, 2, 8, 40])
def test_what_was_sent_is_recorded_once_there_is_room(
    database: dict[str, Any], smtp_server: Start, caplog: pytest.LogCaptureFixture, room: int
) -> None:
    """With so many pages left: what is sent is kept in mind, no more begins, and no mail goes twice."""
    server = smtp_server(Play({".": LONG}))
    with closing(FullLab(database, default=at(server))) as here:
        here.all_options["default"] = Options(window=8)
        here.put(*[letter(f"to{number}@example.com") for number in range(60)])
        here.most_pages = here.pages + room
        with here.worker():
            here.wait_for(lambda: FULL in caplog.text)
            opened = here.opened
            here.wait_for(lambda: here.opened >= opened + 2)  # it has tried again, in vain
            recorded = sum(state == "accepted" for _, state in here.states())
            assert here.pages <= here.most_pages
            assert here.pending() == 60 - recorded > 0
            assert recorded <= len(server.taken) <= recorded + 8
            here.most_pages = 1_000_000
            here.wait_for(lambda: not here.pending())
        assert FULL in caplog.text
        assert len(recipients(server)) == len(set(recipients(server))) == 60
        sent = [whose for name, whose in here.told if name == "message_sent"]
        assert len(sent) == len(set(sent)) == 60
        rows = here.rows("SELECT DISTINCT state, attempts, doubts FROM smtpbackend_outbox_recipient")
        assert [tuple(row) for row in rows] == [("accepted", 1, 0)]


def test_who_stores_is_told_and_the_rest_is_delivered(
    database: dict[str, Any], tmp_path: Path, smtp_server: Start
) -> None:
    """What `send_mail` took is there, and what it did not take is not: neither the mail nor the order with it.

    Not even where the error is caught: SQLite may have undone the transaction by itself.
    """
    server = smtp_server()
    with Site(tmp_path / "roomy", database, server=options(server), outbox={"worker": "none"}) as roomy:
        roomy.migrate()
        tables = Tables(database)
        pages = tables.rows("PRAGMA page_count")[0][0]
        full = full_at(database, pages + 40)
        with Site(tmp_path / "full", full, server=options(server), outbox={"worker": "none"}) as site:
            said = run(
                site,
                """
                from django.core.mail import send_mail
                from django.db import DatabaseError, OperationalError, transaction
                from site_app.models import Order

                def mail(name, size):
                    send_mail("Hello", "0123456789 abcdef\\n" * size, None, [f"{name}@example.com"])

                def order(name, size):
                    with transaction.atomic():
                        Order.objects.create(number=name)
                        mail(name, size)

                def careless(name, size):
                    with transaction.atomic():
                        Order.objects.create(number=name)
                        try:
                            mail(name, size)
                        except OperationalError:
                            pass
                        Order.objects.create(number=name)

                def attempt(how, name, size):
                    try:
                        how(name, size)
                    except DatabaseError as error:
                        return f"{type(error).__name__}: {error}"

                print(attempt(order, "first", 1))
                for how in (mail, order, careless):
                    print(attempt(how, "large", 100_000))
                print(attempt(order, "second", 1))
                for number in range(100):
                    if error := attempt(order, f"to{number}", 500):
                        break
                print(number, error)
                for how in (mail, order, careless):
                    print(attempt(how, "last", 500))
                """,
            )
        full_error = f"OperationalError: {FULL}"
        refused = [full_error, full_error, "TransactionManagementError: "]
        first, *large, second, stopped, mail, order, careless = said.splitlines()
        count, _, error = stopped.partition(" ")
        assert (first, second, error) == ("None", "None", full_error)
        for answers in (large, [mail, order, careless]):
            assert all(map(str.startswith, answers, refused)), answers
        assert int(count) > 0
        names = ["first", "second", *(f"to{number}" for number in range(int(count)))]
        wanted = sorted(f"{name}@example.com" for name in names)
        assert sorted(row[0] for row in tables.rows("SELECT address FROM smtpbackend_outbox_recipient")) == wanted
        assert [row[0] for row in tables.rows("SELECT number FROM site_app_order ORDER BY id")] == names
        for table in ("content", "due"):
            assert len(tables.rows(f"SELECT DISTINCT entry_id FROM smtpbackend_outbox_{table}")) == len(names)
        done = roomy.manage("outbox", "run", "--once")
        assert done.returncode == 0, done.stderr
        assert arrived(server) == wanted
        assert tables.states() == {"accepted": len(names)}
        tables.close()


def test_the_error_is_that_of_the_disk(database: dict[str, Any]) -> None:
    """SQLite rolls back by itself then, and there is nothing to roll back any more."""
    with closing(FullLab(database)) as here:
        here.most_pages = here.pages
        store = here.open()

        def store_many() -> None:
            for _ in range(100):
                with store.connection.atomic():
                    store.connection.rows(
                        "INSERT INTO smtpbackend_outbox_content (entry_id, number, octets) "
                        "VALUES (1, (SELECT count(*) FROM smtpbackend_outbox_content), zeroblob(9000))"
                    )

        with closing(store.connection), pytest.raises(OperationalError, match=FULL):
            store_many()
