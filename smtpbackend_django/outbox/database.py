"""The connections of Django as the outbox uses them. Every query names its database."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, transaction

from smtpbackend.outbox import Store

__all__ = ["DjangoConnection", "environment_of", "own_store", "store"]

_DIALECTS = ("postgresql", "sqlite")


_SILENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Options of PostgreSQL, in seconds and the last in milliseconds: else a host that vanished holds a worker up."""

_BEGIN = {
    "sqlite": "BEGIN IMMEDIATE",
    # A process that is stopped amid a transaction keeps what it locked from all others no longer than this
    "postgresql": "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '10s'",
}


class DjangoConnection:
    """Django's connection of this thread to one database; or ``own``, one of the outbox's."""

    def __init__(self, database: str, own: Any = None) -> None:
        self.database = database
        self._own = own
        if own is not None:
            own.in_outbox_transaction = False
        self.dialect = self._wrapper().vendor
        if self.dialect not in _DIALECTS:
            raise ImproperlyConfigured(
                f"the outbox cannot be in DATABASES[{database!r}], which is {self._wrapper().display_name}: it takes "
                "PostgreSQL and SQLite"
            )

    def _wrapper(self) -> Any:
        return connections[self.database] if self._own is None else self._own

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        with self._wrapper().cursor() as cursor:
            cursor.execute(sql, params or None)
            return cursor.fetchall() if cursor.description is not None else []

    def atomic(self, savepoint: bool = True) -> AbstractContextManager[Any]:
        if self._own is None:
            within: AbstractContextManager[Any] = transaction.atomic(using=self.database, savepoint=savepoint)
            return within
        return _Transaction(self._own) if savepoint or not self._own.in_outbox_transaction else nullcontext()

    @property
    def driver(self) -> Any:
        """The connection of the driver, which is open."""
        return self._wrapper().connection

    def close(self) -> None:
        """Close it, where it is one of the outbox's own."""
        if self._own is not None:
            self._own.close()


class _Transaction:
    """A transaction on a connection that Django's `atomic` does not know; a savepoint within another."""

    def __init__(self, wrapper: Any) -> None:
        self._wrapper = wrapper

    def __enter__(self) -> None:
        self._is_savepoint = self._wrapper.in_outbox_transaction
        self._execute("SAVEPOINT outbox" if self._is_savepoint else _BEGIN[self._wrapper.vendor])
        self._wrapper.in_outbox_transaction = True

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._is_savepoint:
            if kind is not None:
                self._execute("ROLLBACK TO SAVEPOINT outbox")
            self._execute("RELEASE SAVEPOINT outbox")
            return
        self._wrapper.in_outbox_transaction = False
        if kind is None:
            self._execute("COMMIT")
            return
        with suppress(DatabaseError):  # SQLite has rolled back by itself where its disk is full
            self._execute("ROLLBACK")

    def _execute(self, sql: str) -> None:
        with self._wrapper.cursor() as cursor:
            cursor.execute(sql)


def store(database: str, environment: str = "") -> Store:
    """The outbox on Django's connection of this thread, in whose transaction it writes."""
    return Store(DjangoConnection(database), environment or environment_of(database))


def own_store(database: str, environment: str = "") -> Store:
    """The outbox on a connection of its own, which any thread may use and `close` closes.

    It does not come from a pool: requests would wait for it. It commits what it does, at the usual level of isolation,
    and fails within a minute where the host of the database has vanished.
    """
    of_thread: Any = connections[database]
    given = of_thread.settings_dict["OPTIONS"].items()
    options = {name: value for name, value in given if name not in ("pool", "isolation_level")}
    if of_thread.vendor == "postgresql":
        options = _SILENCE | options
    wrapper = type(of_thread)({**of_thread.settings_dict, "OPTIONS": options, "AUTOCOMMIT": True}, database)
    wrapper.inc_thread_sharing()
    return Store(DjangoConnection(database, wrapper), environment or environment_of(database))


def environment_of(database: str) -> str:
    """The address of a database: mail of a copy elsewhere is not sent until it is adopted."""
    settings = connections[database].settings_dict
    vendor, name, options = connections[database].vendor, str(settings["NAME"]), settings["OPTIONS"]
    if vendor == "sqlite":
        return f"sqlite {name if _is_in_memory(name) else os.path.abspath(name)}"[-255:]
    if service := options.get("service"):  # of pg_service.conf, which has what the settings lack
        return f"{vendor} service {service} {settings['HOST']}:{settings['PORT']} {name}"[-255:]
    return f"{vendor} {settings['HOST'] or 'localhost'}:{settings['PORT'] or 5432} {name}"[-255:]


def _is_in_memory(name: str) -> bool:
    return name == ":memory:" or name.startswith("file:")
