"""System checks of the settings. They open no connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from smtpbackend import MissingExtra
from smtpbackend.adapters import bares_password, is_loopback
from smtpbackend_django.setting_names import EMAIL_SETTINGS, FLAGS, flag_doubt, has_mailers, quietly

# Every process of a site registers checks, and few run them
if TYPE_CHECKING:
    from smtpbackend_django import EmailBackend

__all__ = ["backends", "behind", "check_credentials", "check_settings", "register_checks"]

TAG = "mail"  # Django 6.1's Tags.mail
OUTBOX_APP = "smtpbackend_django.outbox"
UNUSABLE = (ImproperlyConfigured, ValueError, TypeError, MissingExtra)


def register_checks() -> None:
    """What the app does when Django is ready."""
    register(check_settings, TAG)
    register(check_credentials, TAG, deploy=True)


def check_settings(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Settings that cannot work, or hardly are what was meant.

    Errors: see ``_identifier``. W002: ``SMTPBACKEND`` is set and not read. W003: the port does not fit the kind of TLS.
    W004: a URL has a password in it, which Django's error pages and mails show. W005: half a login. W006: a flag is a
    string. W007: ``EMAIL_*`` are set and not read, for ``SMTPBACKEND`` names the server. W008: a certificate in a file
    has expired. smtpbackend_outbox.E003: an outbox whose app is not installed. No connection is opened.
    """
    found_backends = list(backends())
    found = [message for name, backend in found_backends for message in _of_backend(name, backend)]
    found += _outboxes_without_tables()
    found += _unread(is_used=bool(found_backends))
    for name, options in _options(is_used=bool(found_backends)):
        for key, value in options.items():
            found += _of_value(name, str(key), value)
    return found


def _of_backend(name: str, backend: EmailBackend | Exception) -> Iterator[CheckMessage]:
    from smtpbackend.adapters import expired_files, port_doubt

    if isinstance(backend, Exception):
        hint = "`python -m smtpbackend settings` lists all settings with their meaning."
        yield Error(str(backend), id=_identifier(backend), hint=hint)
        return
    spelled = backend._spelling
    if lacking := backend.lacking:
        has = "password" if lacking == "username" else "username"
        yield Warning(
            f"{name} has a {has} and no {lacking}: there is no login.",
            id="smtpbackend.W005",
            hint=f"Set {spelled(lacking)} too, or leave {spelled(has)} out.",
        )
    for server in backend.mailer().configuration.servers:
        if doubt := port_doubt(server):
            why, remedy = doubt
            hint = f"{remedy[0].upper()}{remedy[1:]}."
            yield Warning(f"{name}, {server.name}: {why}.", id="smtpbackend.W003", hint=hint)
        for setting, path, date in expired_files(server):
            yield Warning(
                f"{name}: a certificate in {spelled(setting)} {path!r} has expired on {date}.",
                id="smtpbackend.W008",
                hint="Renew it, or leave the setting out where it is needed no more.",
            )


def _identifier(error: Exception) -> str:
    """E001: a value that cannot work. E002: a name that is not known. E003: kinds of TLS that exclude each other.

    E004: a file that cannot be used. E005: a key that does not fit its certificate. E006: a ``token`` that cannot be
    had. E007: mechanisms that are not known. E008: a library that is not installed.
    """
    from smtpbackend_django.conf import OPTIONS

    field, number = getattr(error, "field", ""), 1
    if isinstance(error, MissingExtra) or isinstance(error.__cause__, MissingExtra):
        number = 8
    elif field == "use_tls" or "mutually exclusive" in str(error) or "incompatible" in str(error):
        number = 3
    elif field in ("ca_file", "client_cert", "client_key", "client_key_password"):
        number = 5 if "does not belong to the certificate" in str(error) else 4
    elif field in _OWN_NUMBER:
        number = _OWN_NUMBER[field]
    elif field and field.lower() not in OPTIONS:
        number = 2
    return f"smtpbackend.E{number:03}"


_OWN_NUMBER = {"token": 6, "auth_mechanisms": 7, "SMTPBACKEND": 1}


def _unread(is_used: bool) -> Iterator[CheckMessage]:
    """What is set and not read, since other settings take its place."""
    given = getattr(settings, "SMTPBACKEND", None)
    if has_mailers():
        if given is not None:
            yield Warning(
                "SMTPBACKEND is not read where MAILERS is defined.",
                id="smtpbackend.W002",
                hint="Move its keys, in lower case, to OPTIONS of a mailer.",
            )
        return
    names = [name for name in EMAIL_SETTINGS.values() if settings.is_overridden(name)]
    named_by = [name for name in ("SERVERS", "HOST") if isinstance(given, Mapping) and given.get(name) is not None]
    if is_used and names and named_by:
        yield Warning(
            f"Set and not read, since SMTPBACKEND has {named_by[0]}: {', '.join(names)}.",
            id="smtpbackend.W007",
            hint="Move what still holds to SMTPBACKEND. Without SERVERS and HOST it adds to EMAIL_*.",
        )


def _of_value(name: str, key: str, value: Any) -> Iterator[CheckMessage]:
    is_flag = key.lower().removeprefix("email_") in FLAGS
    if is_flag and isinstance(value, str) and value and not flag_doubt(key, value):  # else it is an error
        yield Warning(
            f"{name} has the string {value!r} for {key}: Django takes every string for true.",
            id="smtpbackend.W006",
            hint='Set True or False, without quotes. From the environment: os.environ.get("...") == "true".',
        )
    if bares_password(value):
        yield Warning(
            f"{name} has a password in a URL of {key!r}: Django's error pages and error mails show it.",
            id="smtpbackend.W004",
            hint='Write {"url": "smtp://host", "username": ..., "password": ...}, of which Django hides the password, '
            "or wrap the URL: smtpbackend.Secret(url).",
        )


def _options(is_used: bool) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The name and the options of each mailer of ours, as they are written in the settings."""
    if not has_mailers():
        if is_used:
            yield "The site", {EMAIL_SETTINGS[flag]: quietly(EMAIL_SETTINGS[flag]) for flag in ("use_tls", "use_ssl")}
        if isinstance(given := getattr(settings, "SMTPBACKEND", None), Mapping):
            yield "SMTPBACKEND", given
        return
    for alias, mailer in _mailers().items():
        if not _malformed(alias, mailer) and _is_ours(mailer.get("BACKEND", "")):
            yield f"MAILERS[{alias!r}]", mailer.get("OPTIONS", {})


def check_credentials(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """W001: a login on another host that does not require TLS. W009: another host without TLS."""
    servers = [
        (name, server)
        for name, backend in backends()
        if not isinstance(backend, Exception)
        for server in backend.mailer().configuration.servers
        if not is_loopback(server.host) and server.path is None
    ]
    in_clear = [
        Warning(
            f"{name} sends to {server.name} in clear: {server.spelling('tls', 'none')} is set.",
            id="smtpbackend.W009",
            hint=f"Set {server.spelling('tls', 'required')} (STARTTLS) or {server.spelling('tls', 'implicit')}, unless "
            "the way to the server is private.",
        )
        for name, server in servers
        if server.tls == "none" and not server.username
    ]
    return in_clear + [
        Warning(
            f"{name} logs in to {server.name} and does not require TLS: mail fails there whenever TLS does"
            + (", or the password is sent in clear." if server.allow_cleartext_auth else "."),
            id="smtpbackend.W001",
            hint=f"Set {server.spelling('tls', 'required')} (STARTTLS) or {server.spelling('tls', 'implicit')}.",
        )
        for name, server in servers
        if server.username and server.tls in ("none", "opportunistic")
    ]


def _mailers() -> Mapping[Any, Any]:
    """``MAILERS``; nothing where it is no dict."""
    return settings.MAILERS if isinstance(settings.MAILERS, Mapping) else {}


def _malformed(alias: Any, mailer: Any) -> str:
    """What cannot be read of a mailer in ``MAILERS``, or ""."""
    name = f"MAILERS[{alias!r}]"
    if not isinstance(mailer, Mapping):
        return f"{name} must be a dict, not {_kind(mailer)}"
    if not isinstance(path := mailer.get("BACKEND", ""), str):
        return f"{name}['BACKEND'] must be {_PATH}, not {_kind(path)}"
    if not isinstance(options := mailer.get("OPTIONS", {}), Mapping):
        return f"{name}['OPTIONS'] must be a dict, not {_kind(options)}"
    if strange := [key for key in options if not isinstance(key, str)]:
        return f"{name}['OPTIONS'] has the key {strange[0]!r}, which is no name of an option"
    return ""


_PATH = "the dotted path of a class, as a string"


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def backends() -> Iterator[tuple[str, EmailBackend | Exception]]:
    """The name of each mailer of ours in the settings, and its backend or error; and of each that cannot be read.

    Where ``EMAIL_BACKEND`` is an outbox, it is the mailer behind that.
    """
    if not has_mailers():
        path = quietly("EMAIL_BACKEND")
        if not isinstance(path, str):
            yield "EMAIL_BACKEND", ImproperlyConfigured(f"EMAIL_BACKEND must be {_PATH}, not {_kind(path)}")
        elif _is_ours(path) or _is_outbox(path):
            from smtpbackend_django import EmailBackend

            name = "EMAIL_BACKEND" if getattr(settings, "SMTPBACKEND", None) is None else "SMTPBACKEND"
            yield name, _made(import_string(path) if _is_ours(path) else EmailBackend)
        return
    from django.core.mail import mailers as handler

    if not isinstance(settings.MAILERS, Mapping):
        yield "MAILERS", ImproperlyConfigured(f"MAILERS must be a dict, not {_kind(settings.MAILERS)}")
    for alias, mailer in _mailers().items():
        if wrong := _malformed(alias, mailer):
            yield f"MAILERS[{alias!r}]", ImproperlyConfigured(wrong)
        elif _is_ours(mailer.get("BACKEND", "")):
            yield f"MAILERS[{alias!r}]", _made(partial(handler.__getitem__, alias))


def _made(make: Callable[[], EmailBackend]) -> EmailBackend | Exception:
    """A backend that can be used, or why it cannot."""
    try:
        backend = make()
        backend.mailer()
    except UNUSABLE as error:
        return error
    return backend


def _is_ours(path: str) -> bool:
    from smtpbackend_django import EmailBackend

    backend = _imported(path)
    return isinstance(backend, type) and issubclass(backend, EmailBackend)


def _is_outbox(path: str) -> bool:
    return bool(getattr(_imported(path), "is_outbox", False))


def behind(alias: str) -> str:
    """The alias in ``MAILERS`` of the mailer that sends: of an outbox the one that its "using" names."""
    mailer = _mailers().get(alias) if has_mailers() else None
    if mailer is None or _malformed(alias, mailer) or not _is_outbox(mailer.get("BACKEND", "")):
        return alias
    return str(mailer.get("OPTIONS", {}).get("using", alias))


def _imported(path: str) -> Any:
    try:
        return import_string(path)
    except Exception:  # whatever the module raises
        return None  # Django says so when it is used


def _outboxes_without_tables() -> Iterator[CheckMessage]:
    """Outboxes of a site that does not install their app, whose own checks are missing then."""
    if apps.is_installed(OUTBOX_APP):
        return
    if has_mailers():
        paths = {
            f"MAILERS[{alias!r}]": mailer.get("BACKEND", "")
            for alias, mailer in _mailers().items()
            if not _malformed(alias, mailer)
        }
    else:
        paths = {"EMAIL_BACKEND": quietly("EMAIL_BACKEND")}
    for name, path in paths.items():
        if isinstance(path, str) and _is_outbox(path):
            yield Error(
                f"{name} is an outbox, and {OUTBOX_APP!r} is not in INSTALLED_APPS: there are no tables for its mail.",
                id="smtpbackend_outbox.E003",
                hint=f"Add {OUTBOX_APP!r} to INSTALLED_APPS, and run `manage.py migrate`.",
            )
