"""From ``app.config`` to the settings of one app.

``SMTPBACKEND_*`` are the keys of ``docs/reference/settings.md`` in upper case, and four of Flask's own. Others are read
from Flask-Mail's ``MAIL_*``; but where ``SMTPBACKEND_SERVERS`` or ``SMTPBACKEND_HOST`` names the server, the ``MAIL_*``
of a server (host, port, TLS, credentials) are not read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from smtpbackend import InvalidSetting, Server
from smtpbackend.adapters import MAILER_KEYS, SERVER_KEYS, configure, discreet, nearest, port_doubt

__all__ = ["Config", "read_config"]

PREFIX = "SMTPBACKEND_"

_TRUE = frozenset(("1", "true", "yes", "on"))
_FALSE = frozenset(("", "0", "false", "no", "off"))
_OWN = ("default_sender", "suppress_send", "ascii_attachments", "debug")


class Config(NamedTuple):
    """The settings of one app. ``mailer`` has the core's; ``suppress`` None means: while the app is testing."""

    mailer: dict[str, Any]
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

    def __repr__(self) -> str:
        return f"<Config {self.server}:{self.port}>"


@discreet
def read_config(config: Mapping[str, Any], app_debug: bool | int = False) -> Config:
    """Read and check the settings in ``app.config``. Raises `InvalidSetting`; nothing is connected.

    Warns of a port that does not fit the kind of TLS, and of a password without a username.
    """
    ours = _ours(config)
    own = {key: ours.pop(key, None) for key in _OWN}
    mailer = _from_flask_mail(config, has_server="servers" in ours or "host" in ours)
    mailer.update(ours)
    servers = configure(mailer).servers
    first = servers[0]
    if any(server.ca_file or server.client_cert for server in servers):
        from smtpbackend.adapters import check_files

        for server in servers:  # a wrong path is found now, not at the first mail
            check_files(server)
    for server in servers:
        if doubt := port_doubt(server):
            warnings.warn(f"{server.name}: {doubt}; {_remedy(server)}", RuntimeWarning, stacklevel=4)
    suppress = _either(own["suppress_send"], config.get("MAIL_SUPPRESS_SEND"))
    debug = _either(own["debug"], config.get("MAIL_DEBUG"))
    max_emails = mailer.get("max_messages")
    return Config(
        mailer=mailer,
        server=first.host,
        port=first.port,
        username=first.username,
        password=first.password,
        use_tls=first.tls == "required",
        use_ssl=first.tls == "implicit",
        default_sender=_sender(_either(own["default_sender"], config.get("MAIL_DEFAULT_SENDER"))),
        suppress=None if suppress is None else _flag("MAIL_SUPPRESS_SEND", suppress),
        ascii_attachments=_flag(
            "MAIL_ASCII_ATTACHMENTS", _either(own["ascii_attachments"], config.get("MAIL_ASCII_ATTACHMENTS"))
        ),
        debug=int(app_debug if debug is None else _level(debug)),
        max_emails=None if max_emails is None else int(max_emails),
        wants_transcript=debug is not None and _level(debug) > 0,
    )


def _remedy(server: Server) -> str:
    if server.tls == "implicit":
        return "set MAIL_USE_TLS instead of MAIL_USE_SSL (SMTPBACKEND_TLS = 'required'), or MAIL_PORT = 465"
    return "set MAIL_USE_SSL instead of MAIL_USE_TLS (SMTPBACKEND_TLS = 'implicit'), or MAIL_PORT = 587"


def _ours(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under ``SMTPBACKEND_`` in the core's names; one with None is not set."""
    known = {"servers", "ports", *SERVER_KEYS, *MAILER_KEYS, *_OWN}
    found: dict[str, Any] = {}
    for key, value in config.items():
        if not isinstance(key, str) or not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX).lower()
        if name not in known:
            near = nearest(name, known)
            known_names = ", ".join(PREFIX + one.upper() for one in sorted(known))
            hint = f"did you mean {PREFIX}{near.upper()}?" if near else f"known are {known_names}"
            raise InvalidSetting(f"unknown setting {key}; {hint}", field=key)
        if value is not None:
            found[name] = value
    return found


def _from_flask_mail(config: Mapping[str, Any], has_server: bool) -> dict[str, Any]:
    """The settings of ``MAIL_*`` in the core's names, with Flask-Mail's defaults."""
    found = {"max_messages": config.get("MAIL_MAX_EMAILS") or None, "timeout": config.get("MAIL_TIMEOUT")}
    if not has_server:
        use_tls = _flag("MAIL_USE_TLS", config.get("MAIL_USE_TLS"))
        use_ssl = _flag("MAIL_USE_SSL", config.get("MAIL_USE_SSL"))
        if use_tls and use_ssl:
            raise InvalidSetting(
                "MAIL_USE_TLS and MAIL_USE_SSL exclude each other: STARTTLS (mostly port 587), or TLS from the first "
                "byte (mostly port 465)",
                field="MAIL_USE_SSL",
            )
        found["host"] = config.get("MAIL_SERVER") or "127.0.0.1"
        found["port"] = config.get("MAIL_PORT") or (465 if use_ssl else 25)
        found["tls"] = "implicit" if use_ssl else "required" if use_tls else "opportunistic"
        if config.get("MAIL_PASSWORD") and not config.get("MAIL_USERNAME"):
            why = "MAIL_PASSWORD is set, MAIL_USERNAME is not: there is no login; set both, or neither"
            warnings.warn(why, RuntimeWarning, stacklevel=4)
        secret = config.get("MAIL_PASSWORD") or config.get(f"{PREFIX}TOKEN")
        if config.get("MAIL_USERNAME") and secret:  # Flask-Mail logs in with both only
            found["username"], found["password"] = config["MAIL_USERNAME"], config.get("MAIL_PASSWORD") or None
    return {key: value for key, value in found.items() if value is not None}


def _either(ours: Any, theirs: Any) -> Any:
    return theirs if ours is None else ours


def _flag(name: str, value: Any) -> bool:
    """A flag, also as a string from the environment."""
    if isinstance(value, str):
        if value.strip().lower() not in _TRUE | _FALSE:
            raise InvalidSetting(f"{name} must be true or false, not {value!r}", field=name)
        return value.strip().lower() in _TRUE
    return bool(value)


def _level(value: Any) -> int:
    return int(value) if isinstance(value, str) and value.isdecimal() else int(_flag("MAIL_DEBUG", value))


def _sender(value: Any) -> Any:
    """A str, or a pair of name and address, which ``from_prefixed_env`` reads as a list."""
    if isinstance(value, list) and len(value) == 2:
        return tuple(value)
    if value is not None and not isinstance(value, str) and not (isinstance(value, tuple) and len(value) == 2):
        raise InvalidSetting(
            "MAIL_DEFAULT_SENDER must be an address or a pair of name and address", field="MAIL_DEFAULT_SENDER"
        )
    return value or None
