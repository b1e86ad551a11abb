"""System checks of the outbox. They read settings, and open no connection."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.utils.log import AdminEmailHandler
from django.utils.module_loading import import_string

from smtpbackend.adapters import nearest
from smtpbackend_django import EmailBackend
from smtpbackend_django.outbox import conf, process

__all__ = ["check_outboxes", "register_checks"]

OLDEST_SQLITE = (3, 35)  # RETURNING
TIMEOUT = 20  # seconds
SQLITE_OPTIONS = (
    '"OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": "PRAGMA journal_mode=WAL"}'
)


def register_checks() -> None:
    """What the app does when Django is ready."""
    register(check_outboxes, "mail")


def check_outboxes(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Settings of outboxes that cannot work, or hardly are what was meant.

    E001: options that cannot work. E002: an outbox that sends by itself, or by another outbox. (E003, the app is not
    installed, is a check of ``smtpbackend_django``.) E004 and W002: SQLite without the options that let two processes
    write. E005: a SQLite that is too old. E006: another database. E007: the mailer behind is not ours. W001: not the
    database that requests write to. W003: no threads under uWSGI. W004: the error mails of the site go by an outbox.
    """
    found: list[CheckMessage] = []
    configured = list(conf.configured())
    for mailer, options in configured:
        name = "The outbox" if mailer is None else f"MAILERS[{mailer!r}]"
        try:
            outbox = conf.outbox_of(options, mailer)
        except ImproperlyConfigured as error:
            is_itself = mailer is not None and isinstance(options, dict) and options.get("using") == mailer
            found.append(Error(str(error), id=f"smtpbackend_outbox.{'E002' if is_itself else 'E001'}"))
            continue
        found += _of_mailer(name, outbox)
        found += _of_database(name, outbox)
    if not any(isinstance(one, Error) for one in found):
        try:
            conf.outboxes()  # two that contradict each other
        except ImproperlyConfigured as error:
            found.append(Error(str(error), id="smtpbackend_outbox.E001"))
    found += _of_error_mails([mailer for mailer, _ in configured])
    return found


def _of_mailer(name: str, outbox: conf.Outbox) -> Iterator[CheckMessage]:
    if outbox.options.worker == "process" and process.threads_are_off():
        yield Warning(
            f'{name} has the worker "process", and uWSGI runs no threads here: its mail waits for another process.',
            id="smtpbackend_outbox.W003",
            hint='Start uWSGI with --enable-threads, or set the worker to "none" and run `manage.py outbox run`.',
        )
    if outbox.mailer is None:
        return  # `EmailBackend`, which checks of its own look at
    using = f'{name}: "using" is {outbox.alias!r}'
    if outbox.alias not in settings.MAILERS:
        meant = nearest(outbox.alias, [str(one) for one in settings.MAILERS])
        hint = f"; did you mean {meant!r}?" if meant else ""
        yield Error(f"{using}, which is not in MAILERS{hint}", id="smtpbackend_outbox.E001")
        return
    try:
        backend: Any = import_string(settings.MAILERS[outbox.alias]["BACKEND"])
    except Exception:  # whatever the module raises: Django says so
        return
    if getattr(backend, "is_outbox", False):
        yield Error(f"{using}, which is an outbox too: name the mailer that sends.", id="smtpbackend_outbox.E002")
    elif not (isinstance(backend, type) and issubclass(backend, EmailBackend)):
        yield Error(
            f"{using}, a {backend.__module__}.{backend.__qualname__}.",
            id="smtpbackend_outbox.E007",
            hint='The outbox sends by {"BACKEND": "smtpbackend_django.EmailBackend"}.',
        )


def _of_database(name: str, outbox: conf.Outbox) -> Iterator[CheckMessage]:
    try:
        connection: Any = connections[outbox.database]
    except ImproperlyConfigured:
        return  # told by Django
    options = connection.settings_dict.get("OPTIONS", {})
    where = f"DATABASES[{outbox.database!r}]"
    if connection.vendor == "sqlite":
        yield from _of_sqlite(name, where, options, outbox)
        if (version := connection.Database.sqlite_version_info) < OLDEST_SQLITE:
            yield Error(
                f"{name} is in {where}, and the SQLite of this Python is {'.'.join(map(str, version))}.",
                id="smtpbackend_outbox.E005",
                hint="The outbox needs SQLite 3.35 or newer, or PostgreSQL.",
            )
    elif connection.vendor != "postgresql":
        yield Error(
            f"{name} is in {where}, which is {connection.display_name}.",
            id="smtpbackend_outbox.E006",
            hint='The outbox takes PostgreSQL and SQLite: name another one as its "database".',
        )
    usual = _database_of_requests()
    if usual != outbox.database:
        yield Warning(
            f"{name} is in {where}, and requests write to {usual!r}: mail does not depend on what they commit.",
            id="smtpbackend_outbox.W001",
            hint=f'Set "database": {usual!r} for the outbox, and run `manage.py migrate --database={usual}`.',
        )


def _of_sqlite(name: str, where: str, options: dict[str, Any], outbox: conf.Outbox) -> Iterator[CheckMessage]:
    """Without these a write of the worker makes transactions of the site fail with "database is locked"."""
    lacking = []
    if str(options.get("transaction_mode")).upper() != "IMMEDIATE":
        lacking.append('"transaction_mode": "IMMEDIATE"')
    timeout = options.get("timeout")
    if not isinstance(timeout, (int, float)) or timeout < TIMEOUT:
        lacking.append(f'"timeout": {TIMEOUT}')
    if not re.search(r"journal_mode\s*[=(]\s*['\"]?wal\b", str(options.get("init_command")), re.IGNORECASE):
        lacking.append('"init_command": "PRAGMA journal_mode=WAL"')
    if lacking:
        has_worker = outbox.options.worker == "process"
        yield (Error if has_worker else Warning)(
            f'{name} is in {where}, whose OPTIONS lack {", ".join(lacking)}: requests fail with "database is locked" '
            "while mail is sent.",
            id=f"smtpbackend_outbox.{'E004' if has_worker else 'W002'}",
            hint=f"Set {SQLITE_OPTIONS} in {where}.",
        )


def _of_error_mails(outboxes: list[str | None]) -> Iterator[CheckMessage]:
    """Where the database is down such a mail cannot be stored, and the line that logs raises."""
    has_mailers = None not in outboxes
    known = tuple(logging.root.manager.loggerDict.values())  # another thread may add one
    loggers = [logging.root, *(one for one in known if isinstance(one, logging.Logger))]
    for logger in loggers if settings.ADMINS else ():
        for handler in logger.handlers:
            if not isinstance(handler, AdminEmailHandler):
                continue
            if handler.email_backend:
                is_stored = conf.is_outbox(handler.email_backend)
            else:
                is_stored = (getattr(handler, "using", None) or ("default" if has_mailers else None)) in outboxes
            if is_stored:
                instead = (
                    '"using": an alias in MAILERS that is no outbox'
                    if has_mailers
                    else '"email_backend": "smtpbackend_django.EmailBackend"'
                )
                yield Warning(
                    f"The error mails of the logger {logger.name!r} go by the outbox: while the database is down "
                    "they cannot be stored, and requests fail without the page for errors.",
                    id="smtpbackend_outbox.W004",
                    hint=f"Give its AdminEmailHandler in LOGGING {instead}.",
                )


def _database_of_requests() -> str:
    """The database that most models are written to."""
    written: Counter[str] = Counter()
    for model in apps.get_models():
        if model._meta.app_label != "smtpbackend_outbox":
            with suppress(Exception):  # routers are code of the site
                written[router.db_for_write(model)] += 1
    return written.most_common(1)[0][0] if written else "default"
