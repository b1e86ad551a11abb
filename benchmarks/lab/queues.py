"""A Django site that stores its mail: by our outbox, django-mailer or django-post-office; on PostgreSQL or SQLite.

Each is set up as its documentation says. A database is an entry of ``DATABASES``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lab import sites
from benchmarks.lab.environments import queues
from benchmarks.lab.samples import ROOT, NotMeasured, within

BACKENDS = {
    "ours": "smtpbackend_django.outbox.OutboxBackend",
    "django_mailer": "mailer.backend.DbBackend",
    "post_office": "post_office.EmailBackend",
}
SMTP = "django.core.mail.backends.smtp.EmailBackend"
DATABASES = ("postgresql", "sqlite")
TABLES = ("smtpbackend_outbox_", "mailer_", "post_office_")
THREADS = 5  # of django-post-office, as it has them by default


# In the process of a site


def site(database: Mapping[str, Any], port: int = 25, side: str = "ours", **outbox: Any) -> None:
    """Django with all three, of which one is its mail backend, before a server on loopback; ``outbox``: our options."""
    engine = {"BACKEND": "post_office.template.backends.post_office.PostOfficeTemplates", "APP_DIRS": True}
    options = {name.upper(): value for name, value in {"worker": "none", **outbox}.items()}
    more = {
        "INSTALLED_APPS": ["smtpbackend_django", "smtpbackend_django.outbox", "mailer", "post_office"],
        "DATABASES": {"default": database},
        "USE_TZ": True,
        "SMTPBACKEND": {"TLS": "none", "OUTBOX": options},
        "MAILER_EMAIL_BACKEND": SMTP,
        "MAILER_USE_FILE_LOCK": False,
        "POST_OFFICE": {"BACKENDS": {"default": SMTP}, "THREADS_PER_PROCESS": THREADS},
        "TEMPLATES": [{**engine, "OPTIONS": {"context_processors": []}}],
    }
    sites.django_site(BACKENDS[side], more=more, host="127.0.0.1", port=port)


def migrate(database: Mapping[str, Any]) -> None:
    """Make the tables."""
    from django.core.management import call_command

    site(database)
    call_command("migrate", verbosity=0, interactive=False)


def empty() -> None:
    """Forget all mail."""
    from django.db import connection

    tables = [name for name in connection.introspection.table_names() if name.startswith(TABLES)]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"TRUNCATE {', '.join(tables)}")
            return
        with connection.constraint_checks_disabled():
            for table in tables:
                cursor.execute(f"DELETE FROM {table}")


def letter(number: int, mark: str = "") -> Any:
    """A notification: subject, text and HTML are what templates make. ``mark`` stands first in the subject."""
    from django.core.mail import EmailMultiAlternatives
    from django.template.loader import render_to_string
    from django.utils.safestring import mark_safe

    shown = sites.context(number, "https://shop.example.com/stop")
    subject = mark_safe(f"{mark}Order {number} has left")
    message = EmailMultiAlternatives(subject, render_to_string("notification.txt", shown), None, [sites.TO])
    message.attach_alternative(render_to_string("notification.html", shown), "text/html")
    return message


def queued(side: str) -> int:
    """How many messages wait."""
    return _count(
        {
            "ours": "SELECT count(*) FROM smtpbackend_outbox_due",
            "django_mailer": "SELECT count(*) FROM mailer_message",
            "post_office": "SELECT count(*) FROM post_office_email WHERE status = 2",
        }[side]
    )


def sent(side: str) -> int:
    """How many a server has accepted."""
    return _count(
        {
            "ours": "SELECT count(*) FROM smtpbackend_outbox_recipient WHERE state = 'accepted'",
            "django_mailer": "SELECT count(*) FROM mailer_messagelog WHERE result = '1'",
            "post_office": "SELECT count(*) FROM post_office_email WHERE status = 0",
        }[side]
    )


def _count(sql: str) -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql)
        return int(cursor.fetchone()[0])


def drain(side: str) -> None:
    """Send all that waits, by the command that a site runs for it."""
    from django.core.management import call_command

    match side:
        case "ours":
            call_command("outbox", "run", "--once")
        case "django_mailer":
            call_command("send_mail")
        case _:
            call_command("send_queued_mail", lockfile=os.path.join(tempfile.mkdtemp(), "lock"))


@contextmanager
def statements() -> Iterator[list[str]]:
    """What all threads of this process ask their databases; BEGIN and COMMIT of the drivers are not among it."""
    from django.db.backends.utils import CursorWrapper

    asked: list[str] = []
    execute, executemany = CursorWrapper.execute, CursorWrapper.executemany

    def noted(wrapped: Any) -> Any:
        def run(cursor: Any, sql: str, *args: Any) -> Any:
            asked.append(sql)
            return wrapped(cursor, sql, *args)

        return run

    CursorWrapper.execute, CursorWrapper.executemany = noted(execute), noted(executemany)
    try:
        yield asked
    finally:
        CursorWrapper.execute, CursorWrapper.executemany = execute, executemany


def run(database: Mapping[str, Any], port: int, **outbox: Any) -> None:
    """``manage.py outbox run``."""
    from django.core.management import call_command

    site(database, port, **outbox)
    call_command("outbox", "run")


# In the process that measures


@contextmanager
def databases() -> Iterator[dict[str, dict[str, Any]]]:
    """Databases with the tables of all three, by the names of `DATABASES`; commits wait for the disk, as on a site."""
    from tests.outbox.sites import sqlite
    from tests.servers.postgresql import Postgresql

    if reason := Postgresql.missing():
        raise NotMeasured(reason)
    with tempfile.TemporaryDirectory() as folder, Postgresql(waits_for_disk=True) as server:
        server.create_database("site")
        found = {"postgresql": server.settings("site"), "sqlite": sqlite(Path(folder) / "site.sqlite3")}
        for database in found.values():
            within(queues(), __name__, "migrate", database=database)
        yield found


@contextmanager
def running(function: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A function of this module in a process of its own, until SIGTERM."""
    program = f"import json, sys, {__name__} as module; module.{function}(**json.loads(sys.argv[1]))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([queues(), "-c", program, json.dumps(options)], env=env, cwd=ROOT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
