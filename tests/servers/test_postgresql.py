"""PostgreSQL does what the other tests rely on, shown with psycopg."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from tests.servers.ports import answers
from tests.servers.postgresql import Postgresql, state

NAME = "tests_of_postgresql"


@pytest.fixture
def server(postgresql: Postgresql) -> Iterator[Postgresql]:
    """The PostgreSQL of this run with an empty database; it runs after the test too."""
    postgresql.create_database(NAME)
    yield postgresql
    postgresql.start()


def ask(server: Postgresql, question: str) -> list[tuple[object, ...]]:
    with closing(psycopg.connect(server.dsn(NAME), autocommit=True)) as connection:
        cursor = connection.execute(question)
        return cursor.fetchall() if cursor.description else []


def test_it_commits_as_in_production(server: Postgresql) -> None:
    assert ask(server, "SHOW synchronous_commit") == [("on",)]
    assert ask(server, "SHOW max_connections") == [("100",)]
    assert ask(server, "SHOW server_encoding") == [("UTF8",)]


def test_a_database_that_is_made_again_is_empty(server: Postgresql) -> None:
    ask(server, "CREATE TABLE letters (letter text)")
    with closing(psycopg.connect(server.dsn(NAME))) as connection:
        server.create_database(NAME)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert ask(server, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_the_entry_of_django_reaches_the_database(server: Postgresql) -> None:
    entry = server.settings(NAME)
    given = {name: entry[name.upper()] for name in ("host", "port", "user", "password")}
    with closing(psycopg.connect(dbname=entry["NAME"], **given)) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == (NAME,)


@pytest.mark.parametrize("how", [Postgresql.stop, Postgresql.kill])
def test_committed_rows_are_kept_and_others_are_not(server: Postgresql, how: Callable[[Postgresql], None]) -> None:
    port = server.port
    ask(server, "CREATE TABLE letters (letter text)")
    ask(server, "INSERT INTO letters VALUES ('committed')")
    with closing(psycopg.connect(server.dsn(NAME))) as connection:
        connection.execute("INSERT INTO letters VALUES ('open')")
        how(server)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        assert not answers(server.host, port)
    server.start()
    assert server.port == port
    assert ask(server, "SELECT letter FROM letters") == [("committed",)]


def test_a_restart_closes_the_connections(server: Postgresql) -> None:
    ask(server, "CREATE TABLE letters AS SELECT 'a' AS letter")
    with closing(psycopg.connect(server.dsn(NAME))) as connection:
        server.restart()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert ask(server, "SELECT letter FROM letters") == [("a",)]


@pytest.mark.parametrize("how", [Postgresql.stop, Postgresql.kill])
def test_no_process_is_left(server: Postgresql, how: Callable[[Postgresql], None]) -> None:
    """Not one that is at work for a client either."""
    with closing(psycopg.connect(server.dsn(NAME))) as connection:
        (backend,) = connection.execute("SELECT pg_backend_pid()").fetchone() or ()
        connection.pgconn.send_query(b"SELECT pg_sleep(600)")
        pids = server.pids
        assert backend in pids
        how(server)
    assert [pid for pid in pids if state(pid)] == []
    assert server.pids == []


def test_it_may_be_ended_twice_and_started_twice(server: Postgresql) -> None:
    server.stop()
    server.stop()
    server.kill()
    server.start()
    pids = server.pids
    server.start()
    assert server.pids[0] == pids[0]


def test_a_second_one_leaves_nothing_behind(server: Postgresql) -> None:
    with Postgresql() as second:
        second.create_database(NAME)
        ask(second, "CREATE TABLE letters (letter text)")
        pids = second.pids
    assert ask(server, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    assert pids
    assert not any(map(state, pids))
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(second.dsn(NAME))
