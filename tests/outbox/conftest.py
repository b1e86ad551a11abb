"""Databases and sites."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import tests.django.conftest  # noqa: F401 -- configures Django
from tests.outbox.desk import Desk, desk_of
from tests.outbox.lab import Lab
from tests.outbox.sites import Site, sqlite
from tests.outbox.stores import KINDS, Stores, make_tables
from tests.outbox.tables import Tables
from tests.servers.postgresql import Postgresql

TABLES = {"DATABASES", "DATABASE_ROUTERS", "DEFAULT_AUTO_FIELD", "INSTALLED_APPS"}
"""Settings that decide which tables a site has, and where."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """An entry of Django's DATABASES for an empty database, of each kind."""
    if request.param == "sqlite":
        return sqlite(tmp_path / "db.sqlite3")
    postgresql = request.getfixturevalue("postgresql")
    postgresql.start()
    postgresql.create_database("site")
    entry: dict[str, Any] = postgresql.settings("site")
    return entry


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Site, dict[str, Any], Postgresql | None], None]:
    """Make the tables of a site in its empty database: the first of a kind by `migrate`, the next ones are copies.

    A name is that of a database of PostgreSQL, or of a file of SQLite.
    """
    folder = tmp_path_factory.mktemp("migrated")
    known: dict[tuple[str, ...], str] = {}

    def make(site: Site, database: dict[str, Any], postgresql: Postgresql | None) -> None:
        kind = (database["ENGINE"], *site.apps)
        name = known.get(kind)
        if name is None:
            site.migrate()
            name = known[kind] = f"migrated{len(known)}"
            source, copy = database["NAME"], name
        else:
            source, copy = name, database["NAME"]
        if postgresql is not None:
            postgresql.create_database(copy, source)
        else:
            shutil.copyfile(folder / source, folder / copy)

    return make


@pytest.fixture
def make_site(
    request: pytest.FixtureRequest, tmp_path: Path, database: dict[str, Any], migrated: Callable[..., None]
) -> Iterator[Callable[..., Site]]:
    """Make a site with its tables, whose programs end with the test: `make_site(server={"host": ..., "port": ...})`."""
    is_postgresql = database["ENGINE"].endswith("postgresql")
    with ExitStack() as sites:

        def make(**options: Any) -> Site:
            folder = tmp_path / f"site{len(list(tmp_path.glob('site*')))}"
            used = options.pop("database", database)
            site = sites.enter_context(Site(folder, used, **options))
            if used is database and folder.name == "site0" and not TABLES & options.keys():
                migrated(site, database, request.getfixturevalue("postgresql") if is_postgresql else None)
            else:
                site.migrate()
            return site

        yield make


@pytest.fixture
def make_desk(database: dict[str, Any]) -> Iterator[Callable[..., Desk]]:
    """Make the outbox of a site in this process: `make_desk({"host": ..., "port": ...}, keep=60)`."""
    with ExitStack() as desks:
        yield lambda server, **outbox: desks.enter_context(desk_of(database, server, **outbox))


@pytest.fixture
def lab(database: dict[str, Any]) -> Iterator[Callable[..., Lab]]:
    """Make a `Lab` on that database: `lab(default={"servers": ...})`."""
    made: list[Lab] = []

    def make(**mailers: Any) -> Lab:
        made.append(Lab(database, **mailers))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def tables(database: dict[str, Any]) -> Iterator[Tables]:
    """The tables of a site on that database."""
    found = Tables(database)
    yield found
    found.close()


@pytest.fixture(scope="session")
def contract_postgresql(request: pytest.FixtureRequest) -> dict[str, Any]:
    """An entry of Django's DATABASES for a database with the tables of the outbox; who takes it empties them."""
    postgresql = request.getfixturevalue("postgresql")
    postgresql.start()
    postgresql.create_database("contract")
    entry: dict[str, Any] = postgresql.settings("contract")
    make_tables(entry)
    return entry


@pytest.fixture(
    params=[pytest.param(kind, marks=pytest.mark.servers if "postgresql" in kind else ()) for kind in KINDS]
)
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stores]:
    """`Stores` in an empty database, over each kind of connection."""
    if request.param.startswith("sqlite"):
        database = sqlite(tmp_path / "db.sqlite3")
        make_tables(database)
    else:
        request.getfixturevalue("postgresql").start()
        database = request.getfixturevalue("contract_postgresql")
    made = Stores(request.param, database)
    if made.dialect == "postgresql":
        made.rows("TRUNCATE {due}, {content}, {recipient}, {entry}, {mailer} RESTART IDENTITY")
    yield made
    made.close()
