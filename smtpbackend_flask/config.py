"""From ``app.config`` to the settings of one app.

``SMTPBACKEND_*`` are the keys of ``docs/reference/settings.md`` in upper case, and four of Flask's own. Others are read
from Flask-Mail's ``MAIL_*``; but where ``SMTPBACKEND_SERVERS`` or ``SMTPBACKEND_HOST`` names the server, the ``MAIL_*``
of a server (host, port, TLS, credentials) are not read. Errors name a setting as it was written.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from smtpbackend import InvalidSetting, Server
from smtpbackend.adapters import (
    MAILER_KEYS,
    SERVER_KEYS,
    configure,
    discreet,
    flag,
    half_login,
    nearest,
    port_doubt,
)
from smtpbackend_flask.spelling import FLAGS, PREFIX, AppConfig

if TYPE_CHECKING:
    from smtpbackend.adapters import Configuration

__all__ = ["Config", "mailer_settings", "read_config", "warn"]

_OWN = ("default_sender", "suppress_send", "ascii_attachments", "debug")
_OF_SERVER = {"host": "MAIL_SERVER", "port": "MAIL_PORT", "username": "MAIL_USERNAME", "password": "MAIL_PASSWORD"}
_OF_MAILER = {"timeout": "MAIL_TIMEOUT", "max_messages": "MAIL_MAX_EMAILS"}
_READ = {"MAIL_USE_TLS", "MAIL_USE_SSL", *_OF_SERVER.values(), *_OF_MAILER.values()}
_READ.update(f"MAIL_{name.upper()}" for name in _OWN)
# What Flask-Mailman 1.1 and Flask-Mailing 3.0 read beside these
_OF_OTHERS = frozenset(
    f"MAIL_{name}"
    for name in (
        *("BACKEND", "SSL_KEYFILE", "SSL_CERTFILE", "USE_LOCALTIME", "FILE_PATH", "DEFAULT_CHARSET", "SEND_OPTIONS"),
        *("FROM", "FROM_NAME", "TEMPLATE_FOLDER"),
    )
)
# Names by which other programs call the same
_MEANT = {
    "MAIL_SERVER": ("HOST", "HOSTNAME", "SMTP_HOST", "SMTP_SERVER"),
    "MAIL_PORT": ("SMTP_PORT",),
    "MAIL_USERNAME": ("USER", "LOGIN", "HOST_USER"),
    "MAIL_PASSWORD": ("PASS", "PASSWD", "PWD", "HOST_PASSWORD"),
    "MAIL_USE_TLS": ("TLS", "STARTTLS", "USE_STARTTLS"),
    "MAIL_USE_SSL": ("SSL", "SSL_TLS"),
    "MAIL_SUPPRESS_SEND": ("SUPPRESS",),
}
_NAMES = {"servers", "ports", *SERVER_KEYS, *MAILER_KEYS}
_CREDENTIALS = frozenset(("username", "password", "token", "client_key_password"))


class Config(NamedTuple):
    """The settings of one app. ``mailer`` has the core's, and ``spelling`` their keys.

    ``suppress`` None means: while the app is testing.
    """

    mailer: dict[str, Any]
    spelling: AppConfig
    server: str
    port: int
    username: str | None
    password: str | None
    use_tls: bool
    use_ssl: bool
    default_sender: Any
    suppress: bool | None
    ascii_attachments: bool
    debug: int
    max_emails: int | None
    wants_transcript: bool
    bounce_address: Any

    def __repr__(self) -> str:
        return f"<Config {self.server}:{self.port}>"


@discreet
def read_config(config: Mapping[str, Any], app_debug: bool | int = False) -> Config:
    """Read and check the settings in ``app.config``. Raises `InvalidSetting`; nothing is connected.

    Warns of what is set and cannot be meant so: a port that does not fit the kind of TLS, half of a login, a name of
    Flask-Mail that is misspelt.
    """
    keys: dict[str, str] = {}  # for each setting the key that it was written under
    ours = _ours(config, keys)
    own = {name: ours.pop(name, None) for name in _OWN}
    has_server = "servers" in ours or "host" in ours
    try:
        mailer, told = ({}, []) if has_server else _server_of_flask_mail(config, ours, keys)
        switched = FLAGS.get(mailer.get("tls", ""), "")
        for name, key in _OF_MAILER.items():
            if name not in ours and (value := _value(config, key)) not in (None, "", "0"):
                mailer[name], keys[name] = value, key
        mailer.update(ours)
        theirs = tuple((name, key) for name, key in keys.items() if not key.startswith(PREFIX))
        spelling = AppConfig(theirs, switched)
        configuration = _configured(mailer, spelling)
        servers = configuration.servers
        told += _check_files(servers)
    except InvalidSetting as error:
        if error.field in _NAMES:
            error.field = keys.get(error.field) or PREFIX + ("SERVERS" if "servers" in ours else error.field.upper())
        raise
    first = servers[0]
    told += [f"{server.name}: {'; '.join(doubt)}" for server in servers if (doubt := port_doubt(server))]
    for why in (*told, *_misspelt(config)):
        warn(why)
    for name in _OWN:
        key = f"MAIL_{name.upper()}"
        if _is_empty(own[name]):
            own[name], keys[name] = config.get(key), key
        if name != "default_sender":
            own[name] = None if _is_empty(own[name]) else _plain(own[name], name, keys[name])
    debug = None if own["debug"] is None else _level(keys["debug"], own["debug"])
    max_emails = mailer.get("max_messages")
    return Config(
        mailer=mailer,
        spelling=spelling,
        server=first.host,
        port=first.port,
        username=first.username,
        password=first.password,
        use_tls=first.tls == "required",
        use_ssl=first.tls == "implicit",
        default_sender=_sender(keys["default_sender"], own["default_sender"]),
        suppress=None if own["suppress_send"] is None else flag(keys["suppress_send"], own["suppress_send"]),
        ascii_attachments=flag(keys["ascii_attachments"], own["ascii_attachments"] or False),
        debug=int(app_debug) if debug is None else debug,
        max_emails=None if max_emails is None else int(max_emails),
        wants_transcript=debug is not None and debug > 0,
        bounce_address=configuration.rules.bounce_address,
    )


@discreet
def mailer_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in ``app.config`` as those of a mailer: ``AsyncMailer(**mailer_settings(app.config))``.

    ``app.config`` may be of another framework (Quart). Such a mailer sends nothing either while the app is testing or
    ``MAIL_SUPPRESS_SEND`` says so, and has no default sender. Raises `InvalidSetting`.
    """
    read = read_config(config)
    suppress = bool(config.get("TESTING")) if read.suppress is None else read.suppress
    return {**read.mailer, "suppress_send": suppress, "spelling": read.spelling}


def warn(why: str) -> None:
    """A ``RuntimeWarning`` at the line of the site that called us, through however many functions of ours.

    Filters by module find the site, and Python shows the warning, which it does not for each line of a library.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PACKAGES:
        level, frame = level + 1, frame.f_back
    warnings.warn(why, RuntimeWarning, stacklevel=level)


_PACKAGES = ("smtpbackend", "smtpbackend_flask")


def _configured(mailer: Mapping[str, Any], spelling: AppConfig) -> Configuration:
    """The configuration; or one error that names all settings that cannot work, each tried without those before it."""
    left, errors = dict(mailer), list[InvalidSetting]()
    while True:
        try:
            configuration = configure(left, spelling)
        except InvalidSetting as error:
            errors.append(error)
            if error.field not in left:
                break
            del left[error.field]
        else:
            break
    if not errors:
        return configuration
    first, *others = errors
    if others:
        texts = " ".join(f"({number}) {error}" for number, error in enumerate(errors, 1))
        raise InvalidSetting(f"{len(errors)} settings cannot work: {texts}", field=first.field)
    raise first


def _check_files(servers: tuple[Server, ...]) -> list[str]:
    """A wrong path is found now, not at the first mail; returns what to warn of."""
    with_files = [server for server in servers if server.ca_file or server.client_cert]
    if not with_files:
        return []
    from smtpbackend.adapters import check_files, expired_files

    for server in with_files:
        check_files(server)
    return [
        f"a certificate in {server.spelling(setting)} {path!r} has expired on {date}: renew it, or leave it out"
        for server in with_files
        for setting, path, date in expired_files(server)
    ]


def _misspelt(config: Mapping[str, Any]) -> Iterator[str]:
    """The names that are not read, and are one slip away from one that is. Other ``MAIL_*`` may belong to the site."""
    for key, value in config.items():
        if not isinstance(key, str) or not key.startswith("MAIL_") or value is None or key in _READ | _OF_OTHERS:
            continue
        slips = [name for name in sorted(_READ) if _is_slip(key, name)]
        near = min(slips, key=lambda name: sorted(name) != sorted(key), default="")  # two exchanged are the likeliest
        if not near:
            names = (meant for meant, others in _MEANT.items() if key.removeprefix("MAIL_") in others)
            near = next((meant for meant in names if config.get(meant) is None), "")
        if near:
            yield f"{key} is set, and no setting is called so: did you mean {near}?"


def _is_slip(typed: str, meant: str) -> bool:
    """Whether one letter is left out, added or another one, or two are exchanged.

    The first letter is seldom mistaken; and a name that goes on behind another, such as that of a second one, is meant.
    """
    same = next((place for place, (one, other) in enumerate(zip(typed, meant, strict=False)) if one != other), None)
    if same is None:
        return len(typed) == len(meant) - 1
    of_typed, of_meant = typed[same:], meant[same:]
    if same <= len("MAIL_"):
        return False
    if of_typed[1:] == of_meant[1:] or of_typed == of_meant[1:] or of_typed[1:] == of_meant:
        return True
    return of_typed[:2] == of_meant[1::-1] and of_typed[2:] == of_meant[2:]


def _ours(config: Mapping[str, Any], keys: dict[str, str]) -> dict[str, Any]:
    """The settings under ``SMTPBACKEND_`` in the core's names; one with None is not set."""
    known = {*_NAMES, *_OWN}
    found: dict[str, Any] = {}
    for key, value in config.items():
        if not isinstance(key, str) or not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX).lower()
        if name not in known:
            from smtpbackend.adapters import of_peer

            if of_other := of_peer(name, AppConfig()):
                raise InvalidSetting(f"unknown setting {key}, {of_other}", field=key)
            near = nearest(name, known)
            known_names = ", ".join(PREFIX + one.upper() for one in sorted(known))
            hint = f"did you mean {PREFIX}{near.upper()}?" if near else f"known are {known_names}"
            raise InvalidSetting(f"unknown setting {key}; {hint}", field=key)
        if value is not None:
            found[name] = value if name == "default_sender" else _plain(value, name, key)
            keys[name] = key
    return found


def _server_of_flask_mail(
    config: Mapping[str, Any], ours: Mapping[str, Any], keys: dict[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """The server of ``MAIL_*`` in the core's names, with Flask-Mail's defaults; and what to warn of."""
    use_tls, use_ssl = [flag(key, _value(config, key) or False) for key in ("MAIL_USE_TLS", "MAIL_USE_SSL")]
    if use_tls and use_ssl:
        raise InvalidSetting(
            "MAIL_USE_TLS and MAIL_USE_SSL exclude each other: STARTTLS (mostly port 587), or TLS from the first "
            "byte (mostly port 465)",
            field="MAIL_USE_SSL",
        )
    of_theirs = {**_OF_SERVER, "tls": "MAIL_USE_SSL" if use_ssl else "MAIL_USE_TLS"}
    keys.update({name: key for name, key in of_theirs.items() if name not in ours})
    given = {name: _value(config, key) for name, key in _OF_SERVER.items()}
    found: dict[str, Any] = {
        "host": given["host"] or "127.0.0.1",
        "port": given["port"] if given["port"] not in (None, "", "0") else 465 if use_ssl else 25,
        "tls": "implicit" if use_ssl else "required" if use_tls else "opportunistic",
    }
    login = {name: given[name] for name in ("username", "password") if given[name]}
    username, password = (ours.get(name) or login.get(name) for name in ("username", "password"))
    lacking = half_login(username, password, ours.get("token"), ours.get("auth_mechanisms"), AppConfig())
    if lacking is None or not login:
        return {**found, **login}, []
    has, misses = [_OF_SERVER[name] for name in (*login, lacking)]
    return found, [f"{has} is set, {misses} is not, or is empty: there is no login; set both, or neither"]


def _value(config: Mapping[str, Any], key: str) -> Any:
    """What stands under a key of ``MAIL_*``."""
    name = next((name for name, theirs in _OF_SERVER.items() if theirs == key), key)
    return _plain(config.get(key), name, key)


def _plain(value: Any, name: str, key: str) -> Any:
    """A value with its numbers as text, which every setting takes.

    ``from_prefixed_env`` reads JSON where it can, so that a password of digits comes as a number.
    """
    if isinstance(value, Mapping):
        return {inner: _plain(one, inner, key) for inner, one in value.items()}
    if type(value) in (list, tuple):  # a NamedTuple, such as `Timeouts`, is a value by itself
        return [_plain(one, name, key) for one in value]
    if isinstance(value, float) and name in _CREDENTIALS:  # it may have been 1.50 or 1e5
        raise InvalidSetting(
            f"{key}: {name} was read as a number with a fraction or an exponent, and its own text is lost; in an "
            "environment variable put it into double quotes",
            field=key,
        )
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _is_empty(value: Any) -> bool:
    """Whether a key is not set: None, or an empty variable of the environment, which switches nothing on or off."""
    return value is None or (isinstance(value, str) and not value.strip())


def _level(key: str, value: Any) -> int:
    return int(value) if isinstance(value, str) and value.isdecimal() else int(flag(key, value))


def _sender(key: str, value: Any) -> Any:
    """A str, or a pair of name and address, which ``from_prefixed_env`` reads as a list."""
    if isinstance(value, list) and len(value) == 2:
        return tuple(value)
    if value is not None and not isinstance(value, str) and not (isinstance(value, tuple) and len(value) == 2):
        raise InvalidSetting(f"{key} must be an address or a pair of name and address", field=key)
    return value or None
