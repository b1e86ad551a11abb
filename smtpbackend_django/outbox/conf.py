"""The outboxes of a site: ``OPTIONS`` of each in ``MAILERS``, else ``SMTPBACKEND["OUTBOX"]``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from django.conf import settings
from django.core import mail
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from smtpbackend import InvalidSetting, Mailer
from smtpbackend.adapters import nearest
from smtpbackend.outbox import Options
from smtpbackend_django import EmailBackend
from smtpbackend_django.conf import OF_OTHER_BACKENDS, SettingsError
from smtpbackend_django.conf import OPTIONS as OF_MAILERS
from smtpbackend_django.setting_names import has_mailers, quietly

__all__ = [
    "OPTIONS",
    "Outbox",
    "behind",
    "check_names",
    "configured",
    "in_tests",
    "mailer_of",
    "outbox_of",
    "outboxes",
    "until_settings_change",
    "wrong",
]

R = TypeVar("R")

OPTIONS = ("using", "database", *Options._fields)
MAX_MESSAGES = 1000  # over one connection, unless the setting says otherwise: a new one proves its window anew
OF_CALLS = {"username": "auth_user", "password": "auth_password"}


class Outbox(NamedTuple):
    """One outbox: ``alias`` names the mailer behind it, ``mailer`` its own alias in ``MAILERS``, or None."""

    alias: str
    mailer: str | None
    database: str
    options: Options


def until_settings_change(function: Callable[..., R]) -> Callable[..., R]:
    """Keep what a function makes of the settings, for each mail asks for it. Tests change them and tell so."""
    kept = functools.lru_cache(maxsize=32)(function)

    def forget(**_: Any) -> None:
        kept.cache_clear()

    setting_changed.connect(forget, weak=False)
    return kept


def in_tests() -> bool:
    """Whether Django's test runner has taken the place of the mail backends."""
    return hasattr(mail, "outbox")


def outbox_of(given: Mapping[str, Any], mailer: str | None) -> Outbox:
    """The outbox of the options that one backend was given. Raises as Django does for wrong settings."""
    if not isinstance(given, Mapping):
        raise wrong(mailer, f"OPTIONS must be a dict, not a {type(given).__name__}")
    options = {name: value for name, value in given.items() if value is not None}
    if mailer is not None:
        return _outbox_of(options, mailer)
    if options:
        raise _not_of_site(next(iter(options)))
    return _of_site()


@until_settings_change
def _of_site() -> Outbox:
    return _outbox_of({"using": "default", **site_options()}, None)


def _outbox_of(options: dict[str, Any], mailer: str | None) -> Outbox:
    using, database = options.pop("using", None), options.pop("database", "default")
    if not isinstance(using, str) or not using:
        raise wrong(mailer, 'OPTIONS must define "using": the alias in MAILERS of the mailer that sends')
    elif using == mailer:
        raise wrong(mailer, f'"using" is {using!r}, the outbox itself: name the mailer that sends')
    if not isinstance(database, str) or database not in settings.DATABASES:
        name = '"database"' if mailer is not None else _of_outbox("database")
        raise wrong(mailer, f"{name} is {database!r}, which is not in DATABASES")
    try:
        return Outbox(using, mailer, database, Options.of(options))
    except InvalidSetting as error:
        why, name = str(error), error.field
        if mailer is None and name is not None and why.startswith(f"{name} "):
            why = _of_outbox(name) + why.removeprefix(name)
        raise wrong(mailer, why) from error


def _of_outbox(name: str) -> str:
    """An option as it is written without ``MAILERS``."""
    return f'SMTPBACKEND["OUTBOX"]["{name.upper()}"]'


def site_options() -> dict[str, Any]:
    """``SMTPBACKEND["OUTBOX"]``, with its keys in lower case."""
    site = getattr(settings, "SMTPBACKEND", None)
    given = site.get("OUTBOX") if isinstance(site, Mapping) else None
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise SettingsError(f'SMTPBACKEND["OUTBOX"] must be a dict, not a {type(given).__name__}', field="OUTBOX")
    known = [name for name in OPTIONS if name != "using"]
    for key in given:
        if key not in map(str.upper, known):
            meant = nearest(str(key), known)
            hint = f"; did you mean {meant.upper()!r}?" if meant else ""
            raise SettingsError(f'SMTPBACKEND["OUTBOX"]: unknown setting {key!r}{hint}', field=str(key))
    return {key.lower(): value for key, value in given.items() if value is not None}


def wrong(mailer: str | None, why: str) -> Exception:
    """The error of a setting, as Django has it."""
    if mailer is None:
        return SettingsError(why, field="OUTBOX")
    from django.core.mail import InvalidMailer

    error: Exception = InvalidMailer(why, alias=mailer)
    return error


def outboxes() -> dict[str, Outbox]:
    """The outboxes of the settings, by the alias of the mailer behind each. Raises for settings that cannot work."""
    found: dict[str, Outbox] = {}
    for mailer, options in configured():
        outbox = outbox_of(options, mailer)
        other = found.setdefault(outbox.alias, outbox)
        if other._replace(mailer=mailer) != outbox:
            raise wrong(
                mailer,
                f'"using" is {outbox.alias!r}, as in MAILERS[{other.mailer!r}], whose OPTIONS differ: one mailer has '
                "one outbox",
            )
    return found


def configured() -> Iterator[tuple[str | None, Any]]:
    """The alias in ``MAILERS``, or None, and the options of each outbox, as they are written in the settings."""
    if not has_mailers():
        if is_outbox(quietly("EMAIL_BACKEND")):
            yield None, {}
        return
    for alias, mailer in settings.MAILERS.items() if isinstance(settings.MAILERS, Mapping) else ():
        if isinstance(mailer, Mapping) and is_outbox(mailer.get("BACKEND", "")):
            yield alias, mailer.get("OPTIONS", {})


def is_outbox(path: Any) -> bool:
    try:
        return _stores(import_string(path))
    except Exception:  # whatever the module raises: Django says so when it is used
        return False


def _stores(backend: Any) -> bool:
    """Whether a backend, or its class, is an outbox."""
    return bool(getattr(backend, "is_outbox", False))


def behind(outbox: Outbox) -> Any:
    """The backend that sends what is stored. Raises where it is an outbox itself, or is not there."""
    if outbox.mailer is None:
        return EmailBackend()
    from django.core.mail import mailers

    backend = mailers[outbox.alias]
    if _stores(backend):
        raise wrong(
            outbox.mailer,
            f'"using" is {outbox.alias!r}, which is an outbox too: name the mailer that sends',
        )
    return backend


def mailer_of(outbox: Outbox) -> Mailer:
    """The Mailer that sends what is stored."""
    backend = behind(outbox)
    if isinstance(backend, EmailBackend):
        return backend.mailer_with(max_messages=MAX_MESSAGES)
    kind = type(backend)
    raise wrong(
        outbox.mailer,
        f'"using" is {outbox.alias!r}, a {kind.__module__}.{kind.__qualname__}: the outbox sends by '
        "smtpbackend_django.EmailBackend",
    )


def check_names(given: Mapping[str, Any], mailer: str | None) -> None:
    """Refuse what is for one connection, and what is not known."""
    for name, value in given.items():
        if value is None or name in OF_OTHER_BACKENDS:
            continue
        if name in OF_MAILERS:
            raise wrong(
                mailer,
                f"{OF_CALLS.get(name, name)} was given for one connection, and the outbox has none: it stores mail, "
                "which is sent later by the mailer behind it. Set it there, or send this mail by another mailer",
            )
        meant = nearest(name, OPTIONS)
        raise wrong(mailer, f"Unknown options {name!r}" + (f"; did you mean {meant!r}?" if meant else "."))


def _not_of_site(name: str) -> Exception:
    """Without ``MAILERS`` an option of the outbox can only have been given for one connection."""
    if name == "using":
        return wrong(None, "using was given, and there is one mailer: the settings have no MAILERS")
    return wrong(
        None,
        f"{name} was given for one connection, and the outbox is the same for all of them: set {_of_outbox(name)}",
    )
