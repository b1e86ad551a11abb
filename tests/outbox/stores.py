"""Stores on every kind of connection, for the contract that all of them pass.

Each store has its tables from Django's migration, whatever its connection: there is one truth of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import psycopg
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.db.utils import ConnectionHandler

from smtpbackend.outbox import Store, Stored
from smtpbackend.outbox.sql import Claimed
from smtpbackend.outbox.storing import Connection
from smtpbackend_django.outbox.database import DjangoConnection
from tests.outbox.lab import letter

__all__ = ["ALIAS", "ENVIRONMENT", "EVERY_LANE", "KINDS", "Counted", "Stores", "make_tables"]

KINDS = ("sqlite-plain", "sqlite-django", "postgresql-plain", "postgresql-django")
ALIAS, ENVIRONMENT = "default", "here"
EVERY_LANE = [(lane, 1000) for lane in range(9)]
TABLES = ("due", "content", "recipient", "entry", "mailer")


class SqliteConnection:
    """A connection of ``sqlite3``, without a framework."""

    dialect = "sqlite"

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=20, check_same_thread=False)
        self._depth = 0

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        return self._connection.execute(sql.replace("%s", "?"), params).fetchall()

    @contextmanager
    def atomic(self, savepoint: bool = True) -> Iterator[None]:
        if self._depth and not savepoint:
            yield
            return
        name = f"s{self._depth}"
        self.rows(f"SAVEPOINT {name}" if self._depth else "BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            self.rows(f"ROLLBACK TO {name}" if self._depth else "ROLLBACK")
            raise
        self._depth -= 1
        self.rows(f"RELEASE {name}" if self._depth else "COMMIT")

    def close(self) -> None:
        self._connection.close()


class PsycopgConnection:
    """A connection of psycopg, without a framework. Its parameters are bound by the server."""

    dialect = "postgresql"

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        cursor = self._connection.execute(sql, params)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description is not None else []

    def atomic(self, savepoint: bool = True) -> AbstractContextManager[Any]:
        return self._connection.transaction() if savepoint or not self._is_in_transaction else nullcontext()

    @property
    def _is_in_transaction(self) -> bool:
        return self._connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE

    def close(self) -> None:
        self._connection.close()


class Counted:
    """A connection that remembers its statements."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect
        self.statements: list[tuple[str, Sequence[Any]]] = []

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        self.statements.append((sql, params))
        return self._connection.rows(sql, params)

    def atomic(self, savepoint: bool = True) -> AbstractContextManager[Any]:
        return self._connection.atomic(savepoint)

    def close(self) -> None:
        self._connection.close()


class Stores:
    """One database with the tables of the outbox, and stores on it, each with a connection of its own.

    ``store`` has the connection that a view would have; those that `open` gives may be used in any thread.
    """

    def __init__(self, kind: str, database: dict[str, Any]) -> None:
        self.dialect, _, self._way = kind.partition("-")
        self._database = database
        self._handler = ConnectionHandler({"default": database, "contract": database})
        self._opened: list[Connection] = []
        if self._way == "django":
            connections.settings["contract"] = self._handler.settings["contract"]
            self.connection: Connection = DjangoConnection("contract")
        else:
            self.connection = self._connect()
        self.store = Store(self.connection, ENVIRONMENT)

    def _connect(self) -> Connection:
        connection: Connection
        if self._way == "django":
            wrapper: Any = self._handler.create_connection("contract")
            wrapper.inc_thread_sharing()
            connection = DjangoConnection("contract", wrapper)
        elif self.dialect == "sqlite":
            connection = SqliteConnection(str(self._database["NAME"]))
        else:
            its = self._database
            connection = PsycopgConnection(f"postgresql://{its['USER']}@{its['HOST']}:{its['PORT']}/{its['NAME']}")
        self._opened.append(connection)
        return connection

    def open(self, environment: str = ENVIRONMENT) -> Store:
        return Store(self._connect(), environment)

    def counted(self) -> tuple[Store, Counted]:
        connection = Counted(self._connect())
        return Store(connection, ENVIRONMENT), connection

    def close(self) -> None:
        for connection in self._opened:
            connection.close()
        if self._way == "django":
            connections["contract"].close()
            del connections["contract"], connections.settings["contract"]

    # What a test does

    def put(self, count: int = 1, **options: Any) -> list[int]:
        """Store letters to one person each; their ids."""
        drafts = [letter(f"p{number}@example.com", **options) for number in range(count)]
        return [its.id for its in self.store.enqueue(drafts, ALIAS, 1)]

    def enqueue(self, *drafts: Any, store: Store | None = None, **options: Any) -> list[Stored]:
        return (store or self.store).enqueue(drafts, ALIAS, options.pop("group", 1), **options)

    def claim(self, count: int = 100, *, store: Store | None = None, **options: Any) -> list[Claimed]:
        return (store or self.store).claim(ALIAS, EVERY_LANE, count, **options)

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement in which a table of the outbox is written {entry}, {due} and so on."""
        names = {name: f"smtpbackend_outbox_{name}" for name in TABLES}
        return [tuple(row) for row in self.connection.rows(sql.format(**names), params)]

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {{{table}}}")[0][0])

    def states(self, entry_id: int) -> list[str]:
        rows = self.rows("SELECT state FROM {recipient} WHERE entry_id = %s ORDER BY position", entry_id)
        return [row[0] for row in rows]

    def octets(self, entry_id: int) -> bytes:
        return b"".join(self.store.content(entry_id))

    def shift(self, seconds: float) -> None:
        """Let time pass, for what is stored."""
        self.rows("UPDATE {due} SET next_try = next_try - %s, expires = expires - %s", seconds, seconds)
        self.rows("UPDATE {entry} SET finished = finished - %s, created = created - %s", seconds, seconds)
        self.rows(
            "UPDATE {mailer} SET rest_until = rest_until - %s, trial_until = trial_until - %s, "
            "backlog_until = backlog_until - %s, down_since = down_since - %s",
            *(seconds, seconds, seconds, seconds),
        )


def make_tables(database: dict[str, Any]) -> None:
    """Make the tables of the outbox in an empty database, as ``migrate`` does."""
    wrapper: Any = ConnectionHandler({"default": database}).create_connection("default")
    loader = MigrationLoader(None)
    target = [key for key in loader.graph.leaf_nodes() if key[0] == "smtpbackend_outbox"]
    state = loader.project_state([])
    with wrapper.schema_editor(atomic=False) as editor:
        for key in loader.graph.forwards_plan(target[0]):
            state = loader.get_migration(*key).apply(state, editor)
    wrapper.close()
