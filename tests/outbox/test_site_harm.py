"""The site is not harmed: its requests write while mail is delivered beside them."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smtpbackend.outbox.sql import CHANNEL
from smtpbackend.testing import ScriptedServer
from tests.outbox.lab import letter
from tests.outbox.sites import HAS_MAILERS, Site, Web
from tests.outbox.tables import Tables
from tests.servers.ports import wait_until
from tests.servers.postgresql import Postgresql

MakeSite = Callable[..., Site]
Start = Callable[..., ScriptedServer]

pytestmark = pytest.mark.slow

ALIAS = "smtp" if HAS_MAILERS else "default"
PROCESSES = 4


def options(server: ScriptedServer) -> dict[str, Any]:
    return {"host": server.host, "port": server.port, "tls": "none"}


class Crowd:
    """Threads that ask for pages of a site, one after the other, and count the answers."""

    def __init__(self, web: Web, threads: int, path: Callable[[int], str]) -> None:
        self.answers: Counter[int] = Counter()
        self._web = web
        self._path = path
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        while not self._is_over.is_set():
            self.answers[self._web.get(self._path(next(self._numbers))).status] += 1

    @contextmanager
    def asking(self) -> Iterator[Counter[int]]:
        for thread in self._threads:
            thread.start()
        try:
            yield self.answers
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join()


@pytest.mark.parametrize(
    ("database", "atomic_requests", "count"),
    [
        ("sqlite", False, 1000),
        ("sqlite", True, 1000),
        pytest.param("sqlite", False, 10_000, marks=pytest.mark.exhaustive),
        pytest.param("sqlite", True, 10_000, marks=pytest.mark.exhaustive),
        pytest.param("postgresql", True, 1000, marks=[pytest.mark.exhaustive, pytest.mark.servers]),
    ],
    indirect=["database"],
)
def test_requests_write_while_a_backlog_drains(
    make_site: MakeSite, smtp_server: Start, database: dict[str, Any], atomic_requests: bool, count: int
) -> None:
    """No request fails: the database is locked for none of them longer than it waits."""
    server = smtp_server()
    database = {**database, "ATOMIC_REQUESTS": atomic_requests}
    site = make_site(server=options(server), outbox={"environment": "here"}, database=database)
    tables = Tables(database)
    tables.put(*(letter(f"to{number}@example.com") for number in range(count)), alias=ALIAS, environment="here")
    with site.gunicorn(workers=PROCESSES, threads=5, worker_class="gthread") as web:
        with Crowd(web, 20, lambda _: "/write").asking() as answers:
            assert wait_until(lambda: not tables.due(), 60 + count / 10), site.log[-2000:]
        assert web.stop() == 0
    print(f"{answers.total()} requests wrote while {count} mails were delivered")
    assert set(answers) == {200}, site.log[-2000:]
    assert answers.total() > count / 20
    assert "locked" not in site.log
    assert tables.rows("SELECT count(*) FROM site_app_order") == [(answers[200],)]
    assert len(server.taken) == count
    assert tables.states() == {"accepted": count}
    tables.close()


# PostgreSQL: what is asked, and when


@pytest.fixture
def statements(postgresql: Postgresql) -> Statements:
    """What the processes of the site ask its database."""
    return Statements(postgresql)


class Statements:
    """The statements that others ask a PostgreSQL, read in its log."""

    def __init__(self, postgresql: Postgresql) -> None:
        self._postgresql = postgresql
        self._seen = 0

    def begin(self, tables: Tables) -> None:
        """Note what is asked on connections that are opened from now on."""
        tables.rows("ALTER DATABASE site SET log_statement = 'all'")
        self._seen = len(self._postgresql.log)

    def by_session(self) -> dict[int, list[str]]:
        """The statements since then, in their order, by the process that serves each connection."""
        found: dict[int, list[str]] = {}
        for line in self._postgresql.log[self._seen :].splitlines():
            told = re.search(r" \[(\d+)\] LOG:  (?:statement|execute [^:]*): (.*)", line)
            if told:
                found.setdefault(int(told[1]), []).append(told[2])
        return found


def transactions(session: list[str]) -> Iterator[list[str]]:
    """The statements of a connection by transaction."""
    open_one: list[str] = []
    for statement in session:
        open_one.append(statement)
        if not open_one[0].startswith("BEGIN") or statement in ("COMMIT", "ROLLBACK"):
            yield open_one
            open_one = []


CLIENTS = """
import threading, time
import django
django.setup()
from django.core.mail import send_mail
from django.db import connection, transaction
from site_app.models import Order

spans = []

def order():
    connection.ensure_connection()
    ready.wait()
    started = time.monotonic()
    for number in range(100):
        with transaction.atomic():
            Order.objects.create(number=number)
            send_mail("Order", "Thank you.", None, ["ann@example.com"])
    spans.append((started, time.monotonic()))
    connection.close()

ready = threading.Barrier(4)
threads = [threading.Thread(target=order) for _ in range(4)]
for one in threads: one.start()
for one in threads: one.join()
print(max(end for _, end in spans) - min(start for start, _ in spans))
"""


@pytest.mark.servers
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_commits_of_many_wake_few_times(
    make_site: MakeSite,
    smtp_server: Start,
    database: dict[str, Any],
    postgresql: Postgresql,
    statements: Statements,
) -> None:
    """16 clients in 4 processes store mail that `outbox run` delivers. No wake-up is in a transaction of the site."""
    import psycopg

    site = make_site(server=options(smtp_server()), outbox={"worker": "none"})
    (site.folder / "clients.py").write_text(CLIENTS)
    tables = Tables(database)
    worker = site.start_manage("outbox", "run")
    listens = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' OR query LIKE '%%advisory%%'"
    assert wait_until(lambda: tables.rows(listens)[0][0] >= 1, 60), site.log
    statements.begin(tables)
    came: list[Any] = []
    with psycopg.connect(postgresql.dsn("site"), autocommit=True) as listening:
        listening.add_notify_handler(came.append)
        listening.execute(f"LISTEN {CHANNEL}")
        clients = [
            subprocess.Popen(
                [sys.executable, "clients.py"], cwd=site.folder, env=site.environment(), stdout=subprocess.PIPE
            )
            for _ in range(PROCESSES)
        ]
        seconds = [float(one.communicate(timeout=120)[0]) for one in clients]
        listening.execute("SELECT 1")  # what was sent has come before its answer
    commits = tables.rows("SELECT count(*) FROM smtpbackend_outbox_entry")[0][0]
    print(f"{len(came)} wake-ups for {commits} commits in {max(seconds):.1f} s")
    assert commits == PROCESSES * 400
    assert len(came) > 0
    assert len(came) * 100 <= 5 * commits
    assert wait_until(lambda: not tables.due(), 60), site.log
    worker.terminate()
    assert worker.wait(25) == 0, site.log

    asked = [one for session in statements.by_session().values() for one in transactions(session)]
    waking = [one for one in asked if any("pg_notify" in statement for statement in one)]
    assert waking
    for begin, unhurried, notify, commit in waking:
        assert begin.startswith("BEGIN")
        assert (unhurried, commit) == ("SET LOCAL synchronous_commit TO off", "COMMIT")
        assert notify.startswith(f"SELECT pg_notify('{CHANNEL}', '')")
    tables.close()


@pytest.mark.servers
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("seconds", [0, pytest.param(35, marks=pytest.mark.exhaustive)])
def test_an_idle_process_leaves_the_database_alone(
    make_site: MakeSite, smtp_server: Start, database: dict[str, Any], statements: Statements, seconds: int
) -> None:
    """It holds no connection. What it asks in a look, which is each 30 s, is counted."""
    server = smtp_server()
    site = make_site(server=options(server))
    tables = Tables(database)
    statements.begin(tables)

    def is_alone() -> bool:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'site' AND pid <> pg_backend_pid()"
        return bool(tables.rows(sessions) == [(0,)])

    with site.gunicorn(workers=1) as web:
        assert web.get("/ping").status == 200  # asks nothing; the worker looks for what others left
        assert wait_until(lambda: bool(statements.by_session()), 20), site.log
        assert wait_until(is_alone, 20), site.log
        look = statements.by_session()
        print("statements of the first look, by connection:", [len(asked) for asked in look.values()])
        assert len(look) <= 2
        assert sum(map(len, look.values())) <= 16

        assert web.get("/order?to=ann@example.com").status == 200
        assert wait_until(lambda: not tables.due(), 20), site.log
        assert wait_until(is_alone, 20), site.log
        assert len(server.taken) == 1
        statements.begin(tables)
        time.sleep(seconds)
        assert is_alone()
        looks = statements.by_session()
        print(f"statements in {seconds} s, by connection:", [len(asked) for asked in looks.values()])
        assert len(looks) <= 1
        assert sum(map(len, looks.values())) <= 2  # the time zone, and whether something is due
    tables.close()
