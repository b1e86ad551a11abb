"""A database that cannot be written any more while mail is in hand, as after a failover."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Callable

import pytest

from smtpbackend.outbox import Options, Worker
from smtpbackend.testing import Play, ScriptedServer
from tests.outbox.lab import Lab, letter
from tests.outbox.sites import Site
from tests.outbox.tables import Tables, enqueue
from tests.outbox.test_interruptions import arrived, options
from tests.servers.ports import wait_until

MakeLab = Callable[..., Lab]
MakeSite = Callable[..., Site]


def set_writable(tables: Tables, is_writable: bool) -> None:
    """Of a PostgreSQL: for all connections but this one, which are ended."""
    tables.rows(f"ALTER DATABASE site SET default_transaction_read_only = {'off' if is_writable else 'on'}")
    if not is_writable:
        tables.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'site' AND pid <> pg_backend_pid()"
        )


class ReadOnlyLab:
    """Makes the connections of a lab's worker read-only."""

    def __init__(self, here: Lab, tables: Tables) -> None:
        self._here = here
        self._tables = tables
        self._options = here._handler.settings["lab"].get("OPTIONS", {})
        self._before = self._options.get("init_command")

    def begin(self, worker: Worker) -> None:
        if self._here.dialect == "postgresql":
            set_writable(self._tables, False)
            return
        self._options["init_command"] = f"{self._before}; PRAGMA query_only = ON"
        if (store := worker._store) is not None:
            store.connection.rows("PRAGMA query_only = ON")

    def end(self) -> None:
        if self._here.dialect == "postgresql":
            set_writable(self._tables, True)
        else:
            self._options["init_command"] = self._before


@pytest.mark.parametrize("for_all", [True, False], ids=["run", "process"])
def test_what_is_known_is_kept_and_told_once(
    lab: MakeLab, tables: Tables, caplog: pytest.LogCaptureFixture, for_all: bool
) -> None:
    """Nothing more begins, nothing goes twice, and all goes when the database can be written again."""
    caplog.set_level(logging.INFO, "smtpbackend.outbox")
    numbers = itertools.count(1)
    workers: list[Worker] = []

    def content(line: str) -> str:
        if next(numbers) == 10:
            read_only.begin(workers[0])
        return "250 2.0.0 taken"

    with ScriptedServer(Play({".": content})) as server:
        here = lab(default={"servers": [server.url], "rest": 0})
        here.all_options["default"] = Options(window=8)
        read_only = ReadOnlyLab(here, tables)
        here.put(*[letter(f"to{number}@example.com") for number in range(60)])
        here.store.connection.close()  # of the test; it would be ended
        with here.worker(for_all=for_all) as worker:
            workers.append(worker)
            here.wait_for(lambda: worker._is_away)
            here.wait_for(lambda: len(worker._done) == len(worker._in_hand) - len(worker._flows["default"].queue))
            begun = len(server.taken)
            assert begun <= 10 + 8
            tries = here.opened
            here.wait_for(lambda: here.opened >= tries + 3)
            assert len(server.taken) == begun
            told = [
                str(one.exc_info[1])
                for one in caplog.records
                if one.getMessage().startswith("outbox_database_away") and one.exc_info is not None
            ]
            assert re.search("read-?only", told[-1])
            assert len(told) == len(set(told))  # on PostgreSQL the connection is lost first
            read_only.end()
            assert wait_until(lambda: not tables.due(), 60)
    assert set(arrived(server).values()) == {1}
    assert len(arrived(server)) == 60
    assert tables.states() == {"accepted": 60}


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_leases_that_cannot_be_renewed_are_told_once(make_site: MakeSite, tables: Tables) -> None:
    """An outage of minutes is no page of the log."""
    numbers = itertools.count(1)

    def content(line: str) -> str:
        if next(numbers) == 10:
            set_writable(tables, False)
        return "250 2.0.0 taken"

    with ScriptedServer(Play({".": content})) as server:
        site = make_site(server=options(server), outbox={"worker": "none"})
        enqueue(site, 100)
        worker = site.start_manage("outbox", "run", LEASE="6")
        assert wait_until(lambda: "lease_not_renewed" in site.log, 60), site.log
        time.sleep(5)  # it tries each second
        assert site.log.count("lease_not_renewed") == 1
        assert site.log.count("outbox_database_away") <= 3  # the connection is lost, and the next one is read-only
        set_writable(tables, True)
        assert wait_until(lambda: not tables.due(), 60), site.log
        worker.terminate()
        assert worker.wait(25) == 0, site.log
    assert len(arrived(server)) == 100
    assert set(arrived(server).values()) == {1}
