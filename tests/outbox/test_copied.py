"""A copied or restored database sends nothing: neither its site nor `outbox run`, until its mail is adopted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpbackend.testing import SILENCE, Play, ScriptedServer
from tests.outbox.sites import Site, sqlite
from tests.outbox.tables import Tables
from tests.servers.ports import wait_until

OLD = [f"to{number}@example.com" for number in range(3)]


def copy_of(database: dict[str, Any], folder: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The entry of DATABASES of a copy under another name."""
    if database["ENGINE"].endswith("sqlite3"):
        for part in ("", "-wal"):  # a process that was killed has left a journal
            if (path := Path(database["NAME"] + part)).exists():
                shutil.copy(path, folder / f"copy.sqlite3{part}")
        return sqlite(folder / "copy.sqlite3")
    postgresql = request.getfixturevalue("postgresql")
    postgresql.create_database("copy", template=database["NAME"])
    entry: dict[str, Any] = postgresql.settings("copy")
    return entry


@pytest.mark.slow
def test_a_copied_database_sends_nothing_until_it_is_adopted(
    make_site: Callable[..., Site],
    database: dict[str, Any],
    smtp_server: Callable[..., ScriptedServer],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The copy is made of a site that had mail in hand."""
    silent, server = smtp_server(Play({"": SILENCE})), smtp_server()
    site = make_site(server={"host": silent.host, "port": silent.port, "tls": "none"})
    with site.gunicorn() as web:
        for address in OLD:
            assert web.get(f"/order?to={address}").status == 200, site.log
        assert wait_until(lambda: silent.connections > 0, 40), site.log
        web.kill()
    copied = copy_of(database, tmp_path, request)
    copy = make_site(server={"host": server.host, "port": server.port, "tls": "none"}, database=copied)
    tables = Tables(copied)
    try:
        assert tables.pending() == set(OLD)
        tables.let_leases_lapse()

        ran = copy.manage("outbox", "run", "--once")
        assert ran.returncode == 0, ran.stderr
        assert "other_environment" in ran.stderr
        running = copy.start_manage("outbox", "run")
        with copy.gunicorn(workers=1) as web:
            assert web.get("/ping").status == 200
            # A worker says so as it has looked for what is due
            assert wait_until(lambda: copy.log.count("other_environment") == 2, 40), copy.log
            assert server.connections == 0

            assert web.get("/order?to=new@example.com").status == 200
            assert wait_until(lambda: tables.pending() == set(OLD), 40), copy.log
        assert running.poll() is None, copy.log
        assert arrived(server) == ["new@example.com"]
        assert tables.states() == {"pending": 3, "accepted": 1}

        (old,) = json.loads(copy.manage("outbox", "adopt", "--json").stdout)["others"]
        adopted = copy.manage("outbox", "adopt", old)
        assert adopted.returncode == 0, adopted.stderr
        assert wait_until(lambda: not tables.pending(), 40), copy.log
        assert arrived(server) == ["new@example.com", *OLD]
    finally:
        tables.close()


def arrived(server: ScriptedServer) -> list[str]:
    return sorted(one.split("<")[1].rstrip(">") for taken in server.taken for one in taken.recipients)
