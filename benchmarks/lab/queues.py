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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lab import sites
from benchmarks.lab.environments import queues
from benchmarks.lab.samples import ROOT, NotMeasured, within

SIDES = ("ours", "django_mailer", "post_office")
SMTP = "django.core.mail.backends.smtp.EmailBackend"
DATABASES = ("postgresql", "sqlite")
THREADS = 5  # of django-post-office, as it has them by default
TABLES = {"ours": "smtpbackend_outbox_", "django_mailer": "mailer_", "post_office": "post_office_"}


# In the process of a site


def site(side: str, database: Mapping[str, Any], port: int = 25, **outbox: Any) -> None:
    """Django with that side as its mail backend, before a server on loopback; ``outbox`` are options of ours."""
    more: dict[str, Any] = {"DATABASES": {"default": database}, "USE_TZ": True}
    options: dict[str, Any] = {"host": "127.0.0.1", "port": port}
    if side == "ours":
        backend = "smtpbackend_django.outbox.OutboxBackend"
        more["INSTALLED_APPS"] = ["smtpbackend_django", "smtpbackend_django.outbox"]
        outbox = {"worker": "none", **outbox}
        more["SMTPBACKEND"] = {"TLS": "none", "OUTBOX": {name.upper(): value for name, value in outbox.items()}}
    elif side == "django_mailer":
        backend = "mailer.backend.DbBackend"
        more |= {"INSTALLED_APPS": ["mailer"], "MAILER_EMAIL_BACKEND": SMTP, "MAILER_USE_FILE_LOCK": False}
    else:
        backend = "post_office.EmailBackend"
        engine = {"BACKEND": "post_office.template.backends.post_office.PostOfficeTemplates", "APP_DIRS": True}
        engine["OPTIONS"] = {"context_processors": []}
        more |= {"INSTALLED_APPS": ["post_office"], "TEMPLATES": [engine]}
        more["POST_OFFICE"] = {"BACKENDS": {"default": SMTP}, "THREADS_PER_PROCESS": THREADS}
    sites.django_site(backend, more=more, **options)


def migrate(side: str, database: Mapping[str, Any]) -> None:
    """Make the tables."""
    from django.core.management import call_command

    site(side, database)
    call_command("migrate", verbosity=0, interactive=False)


def empty(side: str) -> None:
    """Make the tables of a side empty."""
    from django.db import connection

    tables = [name for name in connection.introspection.table_names() if name.startswith(TABLES[side])]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"TRUNCATE {', '.join(tables)}")
        else:
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

    site("ours", database, port, **outbox)
    call_command("outbox", "run")


# In the process that measures


@contextmanager
def databases(*sides: str) -> Iterator[dict[str, dict[str, Any]]]:
    """Databases with the tables of sides: those of `DATABASES`, by kind and side."""
    from tests.outbox.sites import sqlite
    from tests.servers.postgresql import Postgresql

    if reason := Postgresql.missing():
        raise NotMeasured(reason)
    python = queues()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(Postgresql())
        found: dict[str, dict[str, Any]] = {kind: {} for kind in DATABASES}
        for side in sides:
            server.create_database(side)
            found["postgresql"][side] = server.settings(side)
            found["sqlite"][side] = sqlite(folder / f"{side}.sqlite3")
            for kind in DATABASES:
                within(python, __name__, "migrate", side=side, database=found[kind][side])
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
