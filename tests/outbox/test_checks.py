"""The system checks of the outbox, and those of the mailer behind it."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
import pytest
from django.apps import apps
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections
from django.db.backends.sqlite3 import base as sqlite_backend
from django.test import override_settings
from django.utils.log import AdminEmailHandler

from smtpbackend import Mailer
from smtpbackend.outbox import MailerDown
from smtpbackend.testing import ScriptedServer
from smtpbackend_django import mailer_settings
from smtpbackend_django.checks import check_settings
from smtpbackend_django.outbox import mailer_down
from smtpbackend_django.outbox.checks import check_outboxes
from smtpbackend_django.outbox.conf import outboxes
from smtpbackend_django.outbox.database import environment_of, own_store
from smtpbackend_django.outbox.process import DjangoSite
from tests.django.conftest import email_settings
from tests.outbox.desk import database_of_site
from tests.outbox.sites import EMAIL_BACKEND, HAS_MAILERS, OUTBOX_BACKEND, Site, mail_settings, sqlite

NOWHERE = {"host": "127.0.0.1", "port": 1, "tls": "none"}
mailers_only = pytest.mark.skipif(not HAS_MAILERS, reason="6.1")


@contextmanager
def site(entry: dict[str, Any], server: dict[str, Any] | None = None, /, **outbox: Any) -> Iterator[None]:
    with (
        email_settings(**mail_settings(OUTBOX_BACKEND, server or NOWHERE, outbox)),
        database_of_site(entry),
    ):
        yield


@pytest.fixture
def file(tmp_path: Path) -> dict[str, Any]:
    return sqlite(tmp_path / "db")


def found() -> dict[str, str]:
    """What the checks say, by their ids."""
    return {str(one.id): f"{one.msg} {one.hint or ''}" for one in check_outboxes()}


def test_settings_that_are_right(file: dict[str, Any]) -> None:
    with site(file):
        assert found() == {}
        assert [one for one in run_checks(tags=["mail"]) if str(one.id).startswith("smtpbackend")] == []


def test_a_site_without_outbox_is_not_checked() -> None:
    with email_settings(**mail_settings(EMAIL_BACKEND, NOWHERE, {})):
        assert found() == {}


@pytest.mark.parametrize(
    ("outbox", "why"),
    [
        ({"window": 0}, "WINDOW must be a whole number of at least 1"),
        ({"worker": "thread"}, "WORKER must be 'process' or 'none'"),
        ({"environment": 5}, "ENVIRONMENT must be at most 255"),
        ({"database": "no_such"}, "DATABASE is 'no_such', which is not in DATABASES"),
        ({"database": ["default"]}, "DATABASE is ['default'], which is not in DATABASES"),
        ({"expirse": 3}, "EXPIRES"),
    ],
)
def test_wrong_options(file: dict[str, Any], outbox: dict[str, Any], why: str) -> None:
    """Each is named as it is written: `WINDOW` stands for it here."""
    name = why.split()[0]
    if HAS_MAILERS:
        why = why.replace(name, '"database"' if name == "DATABASE" else name.lower(), 1)
    elif name != "EXPIRES":
        why = why.replace(name, f'SMTPBACKEND["OUTBOX"]["{name}"]', 1)
    with site(file, **outbox):
        assert list(found()) == ["smtpbackend_outbox.E001"]
        assert why in found()["smtpbackend_outbox.E001"]


def mailers(**given: Any) -> Any:
    return override_settings(MAILERS=given)


OUTBOX = {"BACKEND": OUTBOX_BACKEND, "OPTIONS": {"using": "smtp"}}
SMTP = {"BACKEND": EMAIL_BACKEND, "OPTIONS": {"host": "mail.example.com"}}


@mailers_only
@pytest.mark.parametrize(
    ("given", "number", "why"),
    [
        ({"default": {"BACKEND": OUTBOX_BACKEND}}, "E001", '"using"'),
        ({"default": {"BACKEND": OUTBOX_BACKEND, "OPTIONS": {"using": "stmp"}}, "smtp": SMTP}, "E001", "'smtp'?"),
        ({"default": {"BACKEND": OUTBOX_BACKEND, "OPTIONS": {"using": "default"}}}, "E002", "the outbox itself"),
        (
            {"default": {"BACKEND": OUTBOX_BACKEND, "OPTIONS": {"using": "other"}}, "other": OUTBOX, "smtp": SMTP},
            "E002",
            "an outbox too",
        ),
        ({"default": OUTBOX, "smtp": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}}, "E007", "smtp."),
        (
            {
                "default": OUTBOX,
                "news": {"BACKEND": OUTBOX_BACKEND, "OPTIONS": {"using": "smtp", "window": 3}},
                "smtp": SMTP,
            },
            "E001",
            "one mailer has one outbox",
        ),
        ({"default": {"BACKEND": OUTBOX_BACKEND, "OPTIONS": ["using"]}}, "E001", "must be a dict"),
    ],
)
def test_mailers_that_cannot_work(file: dict[str, Any], given: dict[str, Any], number: str, why: str) -> None:
    with mailers(**given), database_of_site(file):
        assert list(found()) == [f"smtpbackend_outbox.{number}"]
        assert why in found()[f"smtpbackend_outbox.{number}"]


@mailers_only
def test_what_is_wrong_with_the_mailer_behind_is_told_once(file: dict[str, Any]) -> None:
    with mailers(default=OUTBOX, smtp={"BACKEND": EMAIL_BACKEND, "OPTIONS": {"hots": "x"}}), database_of_site(file):
        assert found() == {}
        assert [one.id for one in check_settings()] == ["smtpbackend.E002"]


@mailers_only
@pytest.mark.parametrize("wrong", [["default"], {"default": ["BACKEND"]}])
def test_mailers_that_cannot_be_read_are_told_elsewhere(wrong: Any) -> None:
    with override_settings(MAILERS=wrong):
        assert found() == {}
        assert check_settings()


def test_the_app_has_to_be_installed(file: dict[str, Any]) -> None:
    """The checks of ``smtpbackend_django`` say so, since the other app is not there to say it."""
    with site(file), override_settings(INSTALLED_APPS=["smtpbackend_django"]):
        assert not apps.is_installed("smtpbackend_django.outbox")
        told = [one for one in check_settings() if one.id == "smtpbackend_outbox.E003"]
    assert len(told) == 1
    assert "manage.py migrate" in str(told[0].hint)


# The database


@pytest.mark.parametrize(("worker", "number"), [("process", "E004"), ("none", "W002")])
def test_sqlite_needs_options_with_which_two_can_write(file: dict[str, Any], worker: str, number: str) -> None:
    wanted = {
        "transaction_mode": '"transaction_mode": "IMMEDIATE"',
        "timeout": '"timeout": 20',
        "init_command": '"init_command": "PRAGMA journal_mode=WAL"',
    }
    for lacking, said in wanted.items():
        options = {name: value for name, value in file["OPTIONS"].items() if name != lacking}
        with site({**file, "OPTIONS": options}, worker=worker):
            assert list(found()) == [f"smtpbackend_outbox.{number}"]
            text = found()[f"smtpbackend_outbox.{number}"]
        assert f"OPTIONS lack {said}:" in text
        assert all(one in text for one in wanted.values()), "the hint has the whole dict"


def test_other_ways_to_write_these_options(file: dict[str, Any]) -> None:
    options = {
        "transaction_mode": "immediate",
        "timeout": 60.0,
        "init_command": "PRAGMA foreign_keys=ON; pragma journal_mode = 'wal';",
    }
    with site({**file, "OPTIONS": options}):
        assert found() == {}
    with site({**file, "OPTIONS": {**options, "init_command": "PRAGMA journal_mode=DELETE"}}):
        assert list(found()) == ["smtpbackend_outbox.E004"]


def test_an_old_sqlite(file: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_backend.Database, "sqlite_version_info", (3, 34, 1))
    with site(file):
        assert "3.34.1" in found()["smtpbackend_outbox.E005"]


def test_another_database() -> None:
    with site({"ENGINE": "django.db.backends.dummy"}):
        assert "PostgreSQL and SQLite" in found()["smtpbackend_outbox.E006"]


class ToPrimary:
    """A router of a site with replicas."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "primary"


def test_the_database_is_the_one_that_requests_write_to(file: dict[str, Any], tmp_path: Path) -> None:
    installed = ["smtpbackend_django", "smtpbackend_django.outbox", "django.contrib.contenttypes"]
    with (
        database_of_site(sqlite(tmp_path / "primary"), "primary"),
        override_settings(INSTALLED_APPS=installed, DATABASE_ROUTERS=["tests.outbox.test_checks.ToPrimary"]),
    ):
        with site(file):
            assert list(found()) == ["smtpbackend_outbox.W001"]
            assert "--database=primary" in found()["smtpbackend_outbox.W001"]
        with site(file, database="primary"):
            assert found() == {}
    with database_of_site(sqlite(tmp_path / "other"), "other"), site(file, database="other"):
        assert list(found()) == ["smtpbackend_outbox.W001"]


@pytest.mark.parametrize(("options", "worker", "is_told"), [({}, "process", True), ({}, "none", False)])
def test_uwsgi_without_threads(
    file: dict[str, Any], options: dict[str, Any], worker: str, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt=options))
    with site(file, worker=worker):
        assert ("smtpbackend_outbox.W003" in found()) == is_told
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt={"enable-threads": True}))
    with site(file, worker=worker):
        assert found() == {}


# Error mails


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[AdminEmailHandler]:
    """The one of Django's default LOGGING, alone."""
    loggers = (logging.root, logging.getLogger("django"))
    for logger in loggers:
        others = [one for one in logger.handlers if not isinstance(one, AdminEmailHandler)]
        monkeypatch.setattr(logger, "handlers", others)
    its = AdminEmailHandler()
    loggers[1].addHandler(its)
    with override_settings(ADMINS=["ops@example.com"] if django.VERSION >= (6, 0) else [("Ops", "ops@example.com")]):
        yield its


def test_error_mails_by_the_outbox(file: dict[str, Any], handler: AdminEmailHandler) -> None:
    """While the database is down they raise, in place of the page for errors."""
    with site(file):
        warning = found()["smtpbackend_outbox.W004"]
        assert "'django'" in warning
        assert ('"using"' if HAS_MAILERS else '"email_backend": "smtpbackend_django.EmailBackend"') in warning
        with override_settings(ADMINS=[]):
            assert found() == {}
        if HAS_MAILERS:
            handler.using = "smtp"
        else:
            handler.email_backend = EMAIL_BACKEND
        assert found() == {}
        if not HAS_MAILERS:
            handler.email_backend = OUTBOX_BACKEND
            assert list(found()) == ["smtpbackend_outbox.W004"]


def test_error_mails_that_are_sent_directly(handler: AdminEmailHandler) -> None:
    with email_settings(**mail_settings(EMAIL_BACKEND, NOWHERE, {})):
        assert found() == {}


# The mailer behind


def test_the_settings_of_the_mailer_behind_are_checked(file: dict[str, Any]) -> None:
    with site(file, {"host": "mail.example.com", "port": 465, "tls": "required"}):
        assert [one.id for one in check_settings()] == ["smtpbackend.W003"]
    with site(file, {"host": "mail.example.com", "hots": "x"}):
        assert [one.id for one in check_settings()] == ["smtpbackend.E002"]


def test_smtpcheck_asks_the_mailer_behind(file: dict[str, Any], smtp_server: Callable[..., ScriptedServer]) -> None:
    server = smtp_server()
    out = io.StringIO()
    with site(file, {"host": "127.0.0.1", "port": server.port, "tls": "none"}):
        call_command("smtpcheck", stdout=out, no_color=True)
    assert server.name in out.getvalue()
    assert len(server.taken) == 0


@mailers_only
def test_smtpcheck_takes_the_alias_of_the_outbox(
    file: dict[str, Any], smtp_server: Callable[..., ScriptedServer]
) -> None:
    server = smtp_server()
    out = io.StringIO()
    with site(file, {"host": "127.0.0.1", "port": server.port, "tls": "none"}):
        call_command("smtpcheck", "default", stdout=out, no_color=True)
    assert out.getvalue().startswith("MAILERS['smtp']")


def test_mailer_settings_are_those_of_the_mailer_behind(file: dict[str, Any]) -> None:
    with site(file, {"host": "mail.example.com", "port": 2525}):
        mailer = Mailer(**mailer_settings())
    (server,) = mailer.configuration.servers
    assert (server.host, server.port) == ("mail.example.com", 2525)


@pytest.mark.slow
def test_sendtestemail_stores_and_sends(
    make_site: Callable[..., Site], smtp_server: Callable[..., ScriptedServer]
) -> None:
    """A command that mails once and ends sends its mail before it does."""
    server = smtp_server()
    its = make_site(server={"host": "127.0.0.1", "port": server.port, "tls": "none"})
    done = its.manage("sendtestemail", "ann@example.com")
    assert done.returncode == 0, done.stderr
    assert len(server.taken) == 1
    assert its.manage("check", "--fail-level", "WARNING").returncode == 0


@mailers_only
@pytest.mark.slow
@pytest.mark.parametrize("backend", [EMAIL_BACKEND, OUTBOX_BACKEND])
def test_who_still_has_the_settings_of_before_mailers_is_told_so_by_django_alone(
    make_site: Callable[..., Site], smtp_server: Callable[..., ScriptedServer], backend: str
) -> None:
    """No line of ours warns: a site that makes errors of warnings would meet it."""
    server = smtp_server()
    site = make_site(server={"host": server.host, "port": server.port, "tls": "none"}, backend=backend, mailers=False)
    send = "from django.core.mail import send_mail; send_mail('Hello', 'Text', None, ['ann@example.com'])"
    asked = [("check", "--tag", "mail"), ("smtpcheck",), ("shell", "--command", send)]
    if backend == OUTBOX_BACKEND:
        asked += [("outbox", "run", "--once"), ("outbox", "list")]
    for arguments in asked:
        done = site.manage(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        warned = [line.partition("Warning: ")[0] for line in done.stderr.splitlines() if "Warning: " in line]
        assert warned
        assert not [where for where in warned if "smtpbackend" in where], done.stderr
    assert len(server.taken) == 1


@mailers_only
def test_a_process_leaves_mail_alone_that_only_outbox_run_delivers(file: dict[str, Any]) -> None:
    """Each outbox of a database says who delivers, and all of them are pruned."""
    alone = {"BACKEND": OUTBOX_BACKEND, "OPTIONS": {"using": "news", "worker": "none"}}
    with mailers(default=OUTBOX, smtp=SMTP, bulk=alone, news=SMTP), database_of_site(file):
        of_process = DjangoSite("default", environment_of("default"), in_process=True)
        of_run = DjangoSite("default", environment_of("default"))
        (environment,) = {one.options.environment for one in outboxes().values()}
        of_process.environment = of_run.environment = environment
        assert (of_process.aliases(), of_process.others()) == (["smtp"], ["news"])
        assert (of_run.aliases(), of_run.others()) == (["smtp", "news"], [])


def test_the_connection_of_a_worker_commits_and_does_not_hang(database: dict[str, Any]) -> None:
    """Whatever the site has for its requests: autocommit off, another level of isolation, no limits of time."""
    if not database["ENGINE"].endswith("postgresql"):
        return
    from psycopg import IsolationLevel

    given = {"isolation_level": IsolationLevel.SERIALIZABLE, "keepalives_idle": 7}
    with database_of_site({**database, "AUTOCOMMIT": False, "OPTIONS": given}):
        store = own_store("default")
        assert store.connection.rows("SHOW transaction_isolation") == [("read committed",)]
        driver: Any = store.connection.driver  # type: ignore[attr-defined]
        assert driver.autocommit
        said = driver.info.get_parameters()
        assert {name: said[name] for name in ("connect_timeout", "keepalives_idle", "tcp_user_timeout")} == {
            "connect_timeout": "10",
            "keepalives_idle": "7",
            "tcp_user_timeout": "30000",
        }
        store.connection.close()


@pytest.mark.parametrize(
    ("entry", "environment"),
    [
        ({"NAME": "app", "HOST": "db"}, "postgresql db:5432 app"),
        ({"NAME": "", "OPTIONS": {"service": "production"}}, "postgresql service production : "),
        ({"NAME": "app", "OPTIONS": {"service": "staging"}}, "postgresql service staging : app"),
    ],
)
def test_a_copy_elsewhere_has_another_address(entry: dict[str, Any], environment: str) -> None:
    with database_of_site({"ENGINE": "django.db.backends.postgresql", **entry}):
        assert environment_of("default") == environment


def test_a_receiver_goes_on_after_the_database_was_restarted(database: dict[str, Any]) -> None:
    """In a thread that lives as long as the process, nobody else closes a connection that was lost."""
    if not database["ENGINE"].endswith("postgresql"):
        return
    asked: list[Any] = []

    def ask(**_: Any) -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            asked.append(cursor.fetchone()[0])

    mailer_down.connect(ask)
    try:
        with database_of_site(database):
            its = DjangoSite("default", "here")
            its.tell("default", None, MailerDown("default", "why"))
            own = own_store("default", "here")
            own.connection.rows(f"SELECT pg_terminate_backend({asked[0]})")
            own.connection.close()
            for _ in range(3):
                its.tell("default", None, MailerDown("default", "why"))
            assert len(set(asked)) == 2
            assert len(asked) == 3, "one was lost with the connection"
    finally:
        mailer_down.disconnect(ask)
