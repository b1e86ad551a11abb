"""From settings to the `Configuration` of a mailer, for both mailers and every adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from smtpbackend.delivery.server import Server, resolve
from smtpbackend.delivery.setting_names import check_keys
from smtpbackend.delivery.settings import MAILER_KEYS, SERVER_KEYS, read
from smtpbackend.errors import InvalidSetting
from smtpbackend.hiding import discreet
from smtpbackend.spelling import KEYWORDS, Spelling

if TYPE_CHECKING:
    from smtpbackend.address import Address
    from smtpbackend.delivery.guard import OnlyTo

__all__ = ["Configuration", "PoolLimits", "Rules", "configure"]


class PoolLimits(NamedTuple):
    """``max_connections`` to one server, ``max_idle`` seconds, ``max_messages`` over one connection."""

    max_connections: int = 4
    max_idle: float = 60.0
    max_messages: int = 100


class Rules(NamedTuple):
    """The settings about every message, and how errors write settings."""

    recipient_policy: str = "any"
    dkim: tuple[Any, ...] = ()
    bounce_address: Address | None = None
    only_to: OnlyTo | None = None
    redirect_to: Address | None = None
    suppress_send: bool = False
    spelling: Spelling = KEYWORDS


class Configuration(NamedTuple):
    """The settings of one mailer, checked."""

    servers: tuple[Server, ...]
    deadline: float | None
    strategy: str
    rest: float
    limits: PoolLimits
    rules: Rules


@discreet
def configure(settings: Mapping[str, Any], spelling: Spelling = KEYWORDS) -> Configuration:
    """Read and check settings; None is the same as a key that is not set. Raises `InvalidSetting`.

    ``spelling`` says how errors write settings, now and when mail is sent.
    """
    check_keys(settings, {"servers", "ports", *SERVER_KEYS, *MAILER_KEYS}, spelled=spelling)
    given = {key: value for key, value in settings.items() if value is not None}
    value = {name: read(setting, given.get(name), spelling) for name, setting in MAILER_KEYS.items()}
    servers = _servers(given, spelling)
    if value["recipient_policy"] == "all" and any(server.protocol == "lmtp" for server in servers):
        raise InvalidSetting(
            f"{spelling('recipient_policy', 'all')} is set, and a server speaks LMTP, which delivers to each recipient "
            "by itself: set it to 'any', or use an SMTP server",
            field="recipient_policy",
        )
    if value["only_to"] is not None and value["redirect_to"] is not None:
        raise InvalidSetting(
            f"{spelling.together('only_to', 'redirect_to')} are both set: give one of them, or say in "
            f"{spelling('redirect_to')} alone where all mail goes",
            field="redirect_to",
        )
    return Configuration(
        servers,
        value["deadline"],
        value["strategy"],
        value["rest"],
        PoolLimits(value["max_connections"], value["max_idle"], value["max_messages"]),
        Rules(**{name: value[name] for name in Rules._fields if name in value}, spelling=spelling),
    )


def _servers(given: Mapping[str, Any], spelling: Spelling) -> tuple[Server, ...]:
    """The servers, each with the port at the same place of its list, else the default. Further ports are ignored."""
    defaults = {key: given[key] for key in SERVER_KEYS if key in given}
    servers = given.get("servers", [{}])
    if "servers" in given and "host" in given:
        raise InvalidSetting(f"{spelling.together('servers', 'host')} are both set; give one of them", field="host")
    if isinstance(servers, (str, Mapping, Server)):
        servers = [servers]
    if not isinstance(servers, Sequence) or not servers:
        raise InvalidSetting(
            f"{spelling('servers')} must be a list of URLs, host names or mappings, with at least one",
            field="servers",
        )
    ports = given.get("ports", [])
    if isinstance(ports, (str, int)):
        ports = [ports]
    if not isinstance(ports, Sequence) or isinstance(ports, bytes):
        raise InvalidSetting(
            f"{spelling('ports')} must be a list of numbers, one for each server, not {type(ports).__name__}",
            field="ports",
        )
    padded = [*ports, *[None] * len(servers)]
    found = [
        resolve(server, defaults, port, spelling, None if len(servers) == 1 else number)
        for number, (server, port) in enumerate(zip(servers, padded, strict=False))
    ]
    return tuple(dict.fromkeys(found))
