"""The dict ``SMTPBACKEND`` with Django's names of options and ours, and the Mailers that backends share.

``smtpbackend.delivery.settings`` has the meaning of a mailer's settings.
"""

from __future__ import annotations

import importlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from smtpbackend import InvalidSetting
from smtpbackend.adapters import MAILER_KEYS, SERVER_KEYS, at_fork, discreet, nearest

if TYPE_CHECKING:
    from smtpbackend import Mailer
    from smtpbackend.adapters import Configuration, Spelling

__all__ = [
    "DJANGO_OPTIONS",
    "OF_OTHER_BACKENDS",
    "OPTIONS",
    "SettingsError",
    "close_mailers",
    "hint",
    "key_of",
    "known_mailer",
    "load_for_mail",
    "names_server",
    "overridden",
    "shared_mailer",
    "site_options",
]

DJANGO_OPTIONS = (
    *("host", "port", "username", "password", "use_tls", "use_ssl"),
    *("timeout", "ssl_keyfile", "ssl_certfile", "fail_silently"),
)
OPTIONS = frozenset({*DJANGO_OPTIONS, "servers", "ports", *SERVER_KEYS, *MAILER_KEYS})
OF_OTHER_BACKENDS = frozenset({"file_path", "stream"})
"""Options of Django's file and console backends, which code for any backend gives beside those of SMTP."""
OF_OUTBOX = "OUTBOX"
"""The key of ``SMTPBACKEND`` that ``smtpbackend_django.outbox`` reads."""
_TLS = {"tls", "use_tls", "use_ssl"}

MAX_MAILERS = 32  # configurations that are kept; there may be more, such as a password for each customer


class SettingsError(InvalidSetting, ImproperlyConfigured):
    """A setting of this site is unknown, or has a value that cannot work."""


def site_options() -> dict[str, Any] | None:
    """``settings.SMTPBACKEND`` with its keys in lower case, or None. Raises `SettingsError`."""
    given = getattr(django_settings, "SMTPBACKEND", None)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise SettingsError(f"SMTPBACKEND must be a dict, not a {type(given).__name__}", field="SMTPBACKEND")
    known = {name.upper() for name in OPTIONS}
    given = {key: value for key, value in given.items() if key != OF_OUTBOX}
    for key in given:
        if key not in known:
            from smtpbackend_django.spelling import SiteSettings

            ours = {name.lower(): value for name, value in given.items() if name in known}
            spelled = SiteSettings(given=tuple(ours), is_ours=names_server(ours))
            raise SettingsError(f"SMTPBACKEND: unknown setting {key!r}{hint([key], known, spelled)}", field=str(key))
    return {key.lower(): value for key, value in given.items() if value is not None}


def overridden(site: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The options of the site under those given for one backend."""
    replaced: set[str] = set()
    if not given.keys().isdisjoint(_TLS):
        replaced |= _TLS
    if "servers" in given:  # with their own credentials
        replaced |= {"host", "port", "ports", "username", "password", "token"}
    elif "host" in given:
        replaced |= {"servers", "ports"}
    if "password" in given:  # one login is overridden by another, not mixed with it
        replaced.add("token")
    if "token" in given:
        replaced.add("password")
    return {**{name: value for name, value in site.items() if name not in replaced}, **given}


def names_server(site: Mapping[str, Any] | None) -> bool:
    """Whether the options of the site name servers: then ``EMAIL_*`` are not read."""
    return site is not None and not site.keys().isdisjoint(("servers", "host"))


def hint(given: Iterable[Any], known: Iterable[str], spelled: Spelling) -> str:
    """The end of an error about unknown names: whose name one is, or the names that may have been meant."""
    from smtpbackend.adapters import of_peer

    given = list(given)
    for one in given:
        if of_other := of_peer(str(one).lower(), spelled):
            return f", {of_other}"
    by_lower_case = {name.lower(): name for name in known}
    names = [repr(by_lower_case[name]) for one in given if (name := nearest(str(one), by_lower_case))]
    return f"; did you mean {', '.join(names)}?" if names else ""


# Shared mailers


class Key:
    """A configuration as a key of a dict, with the face that its errors show. Its repr hides the passwords in it."""

    __slots__ = ("_frozen", "_hash")

    def __init__(self, settings: Mapping[str, Any], face: tuple[Any, ...]) -> None:
        kinds = tuple(map(type, settings.values()))
        flat = _FLAT.issuperset(kinds)
        frozen = frozenset(zip(settings, kinds, settings.values(), strict=True)) if flat else _freeze(settings)
        self._frozen = frozen, face
        self._hash = hash(self._frozen)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._frozen == other._frozen

    def __repr__(self) -> str:
        return "<a configuration>"


_FLAT = frozenset((str, int, bool, float))


def _freeze(value: Any) -> Any:
    """A hashable form of ``value``, with its types: True is not 1 here."""
    if isinstance(value, Mapping):
        return frozenset((key, _freeze(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(map(_freeze, value))
    return type(value), value


shared_mailers: OrderedDict[Key, Mailer] = OrderedDict()
_lock = threading.Lock()


@discreet
def shared_mailer(settings: Mapping[str, Any], face: tuple[Any, ...]) -> Mailer:
    """The one Mailer of this process with these neutral settings and this face. Raises `InvalidSetting`.

    ``face`` is what a `SiteSettings` is made of.
    """
    from smtpbackend.adapters import SharedMailer
    from smtpbackend_django.spelling import SiteSettings

    if (key := key_of(settings, face)) is None:  # the Mailer names the setting
        return SharedMailer.from_settings({**settings, "spelling": SiteSettings(*face)})
    with _lock:
        mailer = shared_mailers.get(key)
        if mailer is None:
            settings = {**settings, "spelling": SiteSettings(*face)}
            mailer = shared_mailers[key] = SharedMailer.from_settings(settings)
        shared_mailers.move_to_end(key)
        surplus = shared_mailers.popitem(last=False)[1] if len(shared_mailers) > MAX_MAILERS else None
    del surplus  # not under the lock: it closes itself when it is not used any more
    return mailer


def load_for_mail(configuration: Configuration) -> None:
    """Load all that mails need: for the first one a request may be waiting, and a process may be forked meanwhile."""
    from smtpbackend.adapters import SharedMailer

    SharedMailer.load(configuration)
    for module in ("smtpbackend_django.message", "smtpbackend_django.signalling"):
        importlib.import_module(module)


def key_of(settings: Mapping[str, Any], face: tuple[Any, ...]) -> Key | None:
    """The key of a Mailer with these settings and this face; None where a value cannot be one of a setting."""
    try:
        return Key(settings, face)
    except TypeError:
        return None


def known_mailer(key: Key) -> Mailer | None:
    """The Mailer with these settings, which were checked then, or None."""
    with _lock:
        mailer = shared_mailers.get(key)
        if mailer is not None:
            shared_mailers.move_to_end(key)
    return mailer


def close_mailers() -> None:
    """Close the connections of every shared Mailer, and forget them."""
    with _lock:
        mailers = list(shared_mailers.values())
        shared_mailers.clear()
    for mailer in mailers:
        mailer.close()


def _setting_changed(*, setting: str, **_: Any) -> None:
    if setting in ("SMTPBACKEND", "MAILERS") or setting.startswith("EMAIL_"):
        close_mailers()


# Keys hold the settings, so a Mailer is never wrong; this closes those that a test leaves behind.
setting_changed.connect(_setting_changed, dispatch_uid="smtpbackend_django")


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


at_fork(in_child=_renew_lock)
