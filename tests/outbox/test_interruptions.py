"""What ends, stops or mistakes the time in the middle of delivery: SIGTERM, SIGSTOP, a wrong clock, the database."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpbackend.testing import Play, ScriptedServer, delay
from tests.outbox.sites import Site
from tests.outbox.tables import Executioner, Tables, enqueue
from tests.servers.ports import wait_until
from tests.servers.postgresql import Postgresql

MakeSite = Callable[..., Site]
Start = Callable[..., ScriptedServer]

pytestmark = pytest.mark.slow


def arrived(server: ScriptedServer) -> Counter[str]:
    return Counter(one.split("<")[1].rstrip(">") for taken in server.taken for one in taken.recipients)


def options(server: ScriptedServer) -> dict[str, Any]:
    return {"host": server.host, "port": server.port, "tls": "none"}


TIMES = [pytest.param(5, id="5"), pytest.param(50, id="50", marks=pytest.mark.exhaustive)]


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("way", ["run", "web"])
def test_sigterm_leaves_nothing_half_done_or_stranded(
    make_site: MakeSite, tables: Tables, way: str, times: int
) -> None:
    """Processes of each kind are ended at a random reply: no mail twice, no lease left, no try counted."""
    executioner = Executioner()
    with ScriptedServer(executioner.play()) as server:
        site = make_site(server=options(server), outbox={"worker": "none"} if way == "run" else {})
        wanted: set[str] = set()
        numbers = itertools.count()
        for _ in range(times):
            if way == "run":
                if tables.due() < 40:  # one that is slow to end sends on meanwhile
                    enqueue(site, 400, len(wanted))
                    wanted |= {f"to{n}@example.com" for n in range(len(wanted), len(wanted) + 400)}
                program = site.start_manage("outbox", "run")
                executioner.arm(random.randint(1, 20), program.terminate)
                assert executioner.has_killed.wait(60), site.log
                assert program.wait(25) == 0, site.log
            else:
                with site.gunicorn(workers=1) as web:
                    executioner.arm(random.randint(1, 12), web.process.terminate)
                    while not executioner.has_killed.is_set():
                        address = f"web{next(numbers)}@example.com"
                        try:
                            if web.get(f"/order?to={address}", timeout=25).status == 200:
                                wanted.add(address)
                        except OSError:
                            pass
                    assert web.process.wait(25) == 0, site.log
            rows = tables.rows("SELECT coalesce(max(leased), 0), coalesce(max(tries), 0) FROM smtpbackend_outbox_due")
            assert [tuple(row) for row in rows] == [(0, 0)], site.log
        if tables.pending():
            last = site.start_manage("outbox", "run")
            assert wait_until(lambda: not tables.pending(), 60), site.log
            last.terminate()
            assert last.wait(25) == 0
        found = arrived(server)
        assert wanted <= found.keys()
        assert set(found.values()) == {1}
        assert set(tables.states()) == {"accepted"}


def threads(pid: int) -> set[str]:
    """The letters of what the threads of a process do, see proc(5)."""
    return {path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")}


def test_a_worker_that_was_stopped_begins_nothing_and_records_nothing(make_site: MakeSite, tables: Tables) -> None:
    """It slept longer than its lease, and another worker has sent all of its mail."""
    executioner = Executioner()
    count = 200
    with ScriptedServer(executioner.play()) as server:
        site = make_site(server=options(server), outbox={"worker": "none"})
        enqueue(site, count)
        first = site.start_manage("outbox", "run", LEASE="12")

        def stop() -> None:  # not amid a transaction of its own: what is locked then, stays locked as long as it sleeps
            with tables.locked():
                os.kill(first.pid, signal.SIGSTOP)
                assert wait_until(lambda: threads(first.pid) == {"T"}, 20)  # each goes on until it has its turn

        executioner.arm(40, stop)
        assert executioner.has_killed.wait(60), site.log
        time.sleep(14)
        in_flight = set(executioner.seen) & tables.pending()  # what it had written by then
        second = site.start_manage("outbox", "run", LEASE="12")
        assert wait_until(lambda: not tables.pending(), 60), site.log
        before = len(server.taken), [tuple(row) for row in tables.rows("SELECT * FROM smtpbackend_outbox_recipient")]
        os.kill(first.pid, signal.SIGCONT)
        time.sleep(3)
        after = len(server.taken), [tuple(row) for row in tables.rows("SELECT * FROM smtpbackend_outbox_recipient")]
        for program in (first, second):
            program.terminate()
            assert program.wait(25) == 0, site.log
        found = arrived(server)
        twice = {address for address, times in found.items() if times > 1}
        assert len(found) == count
        assert twice <= in_flight, "it began a message that it did not hold"
        assert before[1] == after[1], "it recorded something over what another settled"
        assert set(tables.states()) == {"accepted"}


@pytest.mark.servers
@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_clock_that_is_an_hour_off_repeats_and_stalls_nothing(
    postgresql: Postgresql, make_site: MakeSite, smtp_server: Start, database: dict[str, Any], offset: str
) -> None:
    """Times are those of the database. (On SQLite they are the host's.)"""
    if not database["ENGINE"].endswith("postgresql"):
        return
    faketime = shutil.which("faketime")
    assert faketime is not None, "faketime is not installed"
    server = smtp_server()
    site = make_site(server=options(server), outbox={"worker": "none"})
    enqueue(site, 200)
    right = site.start_manage("outbox", "run")
    with (site.folder / "log").open("ab") as log:
        wrong = subprocess.Popen(
            [faketime, "-f", offset, sys.executable, "manage.py", "outbox", "run"],
            cwd=site.folder,
            env=site.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,  # faketime starts another process, and does not end it
        )
    try:
        assert wait_until(lambda: len(arrived(server)) == 200, 60), site.log
    finally:
        right.terminate()
        right.wait(25)
        os.killpg(wrong.pid, signal.SIGTERM)
        assert wait_until(lambda: not group_lives(wrong.pid), 25)
        wrong.wait(25)
    assert set(arrived(server).values()) == {1}


class Clock:
    """The clock of a host, which may be set while programs run; not the one that only goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0)
        said = subprocess.run(["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True)
        self.environment = {
            "LD_PRELOAD": said.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, seconds: int) -> None:
        """Set it to so many seconds from the real time."""
        new = self._path.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._path)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    if shutil.which("faketime") is None and os.environ.get("SMTPBACKEND_REQUIRE_SERVERS") != "1":
        pytest.skip("faketime is not installed")
    return Clock(tmp_path / "clock")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("jump", [3600, -3600, -8], ids="{:+d}".format)
def test_a_jump_of_the_clock_on_sqlite_repeats_at_most_a_window_and_stalls_no_longer_than_itself(
    make_site: MakeSite, tables: Tables, clock: Clock, jump: int
) -> None:
    """Two workers go by the clock of the host. What they hold is given to the other as it is set ahead."""
    executioner = Executioner()
    count, window = 200, 8
    at_jump: set[str] = set()
    with ScriptedServer(executioner.play()) as server:
        site = make_site(server=options(server), outbox={"worker": "none", "window": window})
        enqueue(site, count)
        workers = [site.start_manage("outbox", "run", **clock.environment) for _ in range(2)]

        def set_it() -> None:
            with tables.locked():  # so that nobody claims between
                rows = tables.rows(
                    "SELECT address FROM smtpbackend_outbox_due JOIN smtpbackend_outbox_recipient USING (entry_id) "
                    "WHERE leased <> 0"
                )
                at_jump.update(row[0] for row in rows)
                clock.set(jump)
            if jump > 0:  # the other sends the one whose reply is awaited meanwhile
                assert wait_until(lambda: any(executioner.seen.count(one) > 1 for one in at_jump), 60), site.log

        executioner.arm(40, set_it)
        assert executioner.has_killed.wait(60), site.log
        if jump == -3600:  # what is in hand goes, and the rest when the clock has come so far again
            assert wait_until(lambda: not tables.rows("SELECT 1 FROM smtpbackend_outbox_due WHERE leased <> 0"), 60)
            assert 0 < tables.due() < count
            clock.set(0)
        assert wait_until(lambda: not tables.pending(), 120), site.log
        for worker in workers:
            worker.terminate()
            assert worker.wait(25) == 0, site.log
    found = arrived(server)
    twice = {address for address, times in found.items() if times > 1}
    print(f"{len(twice)} of {len(at_jump)} in hand were repeated")
    assert len(found) == count
    assert max(found.values()) <= 2
    assert twice <= at_jump
    assert len(at_jump) <= 2 * window, "a window of each"
    assert not twice or jump > 0
    assert tables.states() == {"accepted": count}


def group_lives(pid: int) -> bool:
    """Whether a process of this group is there, other than its leader, which is waited for."""
    found = subprocess.run(["pgrep", "-g", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return any(int(one) != pid for one in found)


@pytest.mark.servers
def test_the_database_is_killed_between_a_reply_and_its_record(
    postgresql: Postgresql, make_site: MakeSite, database: dict[str, Any]
) -> None:
    """A worker that lived writes what it knows when the database is back, and sends nothing twice."""
    if not database["ENGINE"].endswith("postgresql"):
        return
    killed = threading.Event()
    count = itertools.count()

    def content(line: str) -> Any:
        if next(count) == 30:
            postgresql.kill()
            killed.set()
        return "250 2.0.0 taken"

    with ScriptedServer(Play({".": content})) as server:
        site = make_site(server=options(server), outbox={"worker": "none"})
        enqueue(site, 200)
        worker = site.start_manage("outbox", "run")
        assert killed.wait(60), site.log
        time.sleep(1)
        postgresql.start()
        tables = Tables(database)
        assert wait_until(lambda: not tables.pending(), 90), site.log
        worker.terminate()
        assert worker.wait(25) == 0, site.log
        assert set(tables.states()) == {"accepted"}
        tables.close()
        found = arrived(server)
        assert len(found) == 200
        assert set(found.values()) == {1}


def test_a_database_that_cannot_be_written_keeps_what_is_known(make_site: MakeSite, tables: Tables) -> None:
    """The record waits while the table is locked; nothing is lost or sent again when it is free."""
    executioner = Executioner()
    with ScriptedServer(executioner.play()) as server:
        site = make_site(server=options(server), outbox={"worker": "none"})
        enqueue(site, 100)
        worker = site.start_manage("outbox", "run")
        lock = tables.locked()
        taken: list[int] = []

        def hold() -> None:
            lock.__enter__()
            taken.append(len(server.taken))

        executioner.arm(10, hold, at_content=True)
        assert executioner.has_killed.wait(60), site.log
        leased = "SELECT count(*) FROM smtpbackend_outbox_due WHERE leased <> 0"
        in_hand = 100 - tables.due() + tables.rows(leased)[0][0]  # with what was recorded before
        assert wait_until(lambda: len(server.taken) >= in_hand, 60), site.log
        time.sleep(1)
        assert len(server.taken) == in_hand <= taken[0] + 32, "more was begun than a window"
        lock.__exit__(None, None, None)
        assert wait_until(lambda: not tables.pending(), 60), site.log
        worker.terminate()
        assert worker.wait(25) == 0, site.log
        assert set(arrived(server).values()) == {1}


def test_mail_for_a_slow_server_is_delivered_before_the_process_ends(make_site: MakeSite, smtp_server: Start) -> None:
    server = smtp_server(Play({".": (delay(0.2), "250 taken")}))
    site = make_site(server=options(server))
    with site.gunicorn(workers=1) as web:
        for number in range(5):
            assert web.get(f"/order?to=to{number}@example.com").status == 200
        assert web.stop() == 0
    assert len(arrived(server)) == 5
