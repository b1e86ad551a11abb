"""`Server`: one mail server with its settings, valid from birth; and how it is made of a URL or a mapping."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from smtpbackend.delivery.hostnames import is_address, is_loopback
from smtpbackend.delivery.setting_names import check_keys
from smtpbackend.delivery.settings import SERVER_KEYS, read
from smtpbackend.errors import ConnectFailed, InvalidSetting, MissingExtra, cannot_connect
from smtpbackend.hiding import Secret, discreet
from smtpbackend.protocol.command import check_client_name
from smtpbackend.protocol.mechanisms import check, needs_nothing
from smtpbackend.protocol.sasl import Credentials
from smtpbackend.protocol.timeouts import DeadlinePassed, Timeouts
from smtpbackend.spelling import KEYWORDS, Spelling
from smtpbackend.text import characters
from smtpbackend.values import Value

__all__ = ["Server", "Watch", "from_url", "half_login", "port_doubt", "reason_of", "shown", "unreachable"]

Watch = Callable[..., object]
"""Is called with what happened, and with what goes with it: see ``diagnosis.py``."""

_SCHEMES = ("smtp", "smtps", "lmtp", "smtp+unix", "lmtp+unix", "smtp+srv")
_UNSHOWN = frozenset(("client_key_password", "password", "token", "proxy", "spelling", "watch"))  # most are secret


class Server(Value):
    """One mail server. The fields are the settings of ``docs/reference/settings.md``; see there for their meaning.

    ``protocol`` is "smtp" or "lmtp"; ``path`` is that of a unix socket, and then ``host`` only names the certificate.
    With ``srv`` its host is a domain whose SRV records name the servers. ``identity`` is the name that the certificate
    must hold, where it is not ``host``. ``spelling`` says how errors write its settings, and ``watch``
    is told what happens on each new connection (`Mailer.check`).

    >>> Server("smtp.example.com", username="user", password="secret").port
    587
    """

    host: str = "localhost"
    port: int = None  # type: ignore[assignment]  # filled in at birth
    tls: str = None  # type: ignore[assignment]
    on_tls_failure: Any = None
    ca_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    client_key_password: str | None = None
    pinned_sha256: tuple[str, ...] = ()
    strict_x509: bool = True
    min_tls: str = "1.2"
    username: str | None = None
    password: str | None = None
    token: Any = None
    auth_mechanisms: tuple[str, ...] | None = None
    allow_cleartext_auth: bool = False
    client_name: str | None = None
    timeout: Timeouts = Timeouts()
    ignore_extensions: tuple[str, ...] = ()
    window: int = 32
    chunk_in_flight: str = "auto"
    rate: float | None = None
    xque: bool = False
    source_address: str | None = None
    proxy: Any = None
    # Not settings: the first three come from the scheme of a URL, the next from SRV records
    protocol: str = "smtp"
    path: str | None = None
    srv: bool = False
    identity: str | None = None
    spelling: Spelling = KEYWORDS
    watch: Watch | None = None

    _left_open = frozenset[str]()

    def __repr__(self) -> str:
        """Without what is secret."""
        shown = [f"{name}={getattr(self, name)!r}" for name in self._fields if name not in _UNSHOWN]
        return f"Server({', '.join(shown)})"

    def __hash__(self) -> int:
        # needed several times a message, so not of all fields
        return hash((self.host, self.port, self.username))

    def __post_init__(self) -> None:
        put, spelled = self.__dict__, self.spelling
        # `resolve` may still fill these from a mailer's defaults
        put["_left_open"] = frozenset(key for key in ("port", "tls") if getattr(self, key) is None)
        for name, setting in SERVER_KEYS.items():
            put[name] = read(setting, getattr(self, name), spelled)
        host = self.host[1:-1] if self.host.startswith("[") and self.host.endswith("]") else self.host
        # a bad host may be a URL with a password, or a part of one: it is not repeated
        if not host or any(c.isspace() or not c.isprintable() or c in "/@" for c in host):
            raise InvalidSetting(
                f"{spelled('host')} is neither a name nor an address: it is empty, or has a blank, '/' or '@' in it; a "
                f"URL (smtp://host:port) stands in {spelled('servers')}, and credentials in "
                f"{spelled.together('username', 'password')}",
                field="host",
            )
        if ":" in host and not is_address(host):
            raise InvalidSetting(
                f"{spelled('host')} has a ':' in it, and is no IPv6 address; the port stands in {spelled('port')}, or "
                "behind the host of a URL: smtp://host:port",
                field="host",
            )
        put["host"] = host
        if self.client_name is not None:
            check_client_name(self.client_name, spelled("client_name"))
        lacking = half_login(self.username, self.password, self.token, self.auth_mechanisms, spelled)
        if lacking is not None:
            raise self._lacks(
                lacking, "username" if lacking == "password" else "password" if self.token is None else "token"
            )
        for name in ("username", "password"):
            # NUL separates the parts of PLAIN (RFC 4616 2); no error repeats the value
            if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in getattr(self, name) or ""):
                raise InvalidSetting(f"{spelled(name)} for {host} has a NUL or a lone surrogate", field=name)
        if self.username and self.username in (self.password, self.token):  # one API token as both, as at Postmark
            put["username"] = Secret(self.username)
        if self.client_key and not self.client_cert:
            raise self._lacks("client_cert", "client_key")
        if self.path is not None and (not self.path.startswith("/") or "\0" in self.path):
            raise InvalidSetting(
                f"{self.path!r} is no path of a unix socket; three slashes follow the scheme: smtp+unix:///run/mail.sock",
                field="servers",
            )
        if self.path is not None and self.proxy is not None:
            raise InvalidSetting(
                f"{self.path} is a unix socket, which no proxy leads to: leave {spelled('proxy')} out",
                field="proxy",
            )
        if self.srv:
            self._check_srv()
        if self.tls is None:
            is_near = self.path is not None or (is_loopback(host) and not self.proxy and not self.srv)
            tls = "implicit" if self.port == 465 else "opportunistic" if is_near else "required"
            put["tls"] = tls
        if self.pinned_sha256 and self.tls == "none":
            raise InvalidSetting(
                f"{spelled('pinned_sha256')} is set for {host}, and {spelled('tls', 'none')} has no certificate; give "
                "one of them",
                field="tls",
            )
        if self.protocol == "lmtp" and self.path is None and self.port in (None, 25):
            what = "LMTP is not spoken on port 25 (RFC 2033 5)" if self.port else "LMTP has no default port"
            raise InvalidSetting(f"{what}: give one, lmtp://{host}:24 or whatever the server listens on", field="port")
        if self.port is None:
            secured = self.tls == "required" or self.login
            put["port"] = 465 if self.tls == "implicit" else 587 if secured else 25

    def _lacks(self, missing: str, given: str) -> InvalidSetting:
        spelled = self.spelling
        return InvalidSetting(f"{spelled(given)} is set for {self.host}, {spelled(missing)} is not", field=missing)

    def _check_srv(self) -> None:
        spelled = self.spelling
        try:
            import dns  # noqa: F401
        except ImportError as error:
            raise MissingExtra('smtp+srv:// needs dnspython: pip install "smtpbackend[srv]"') from error
        if self.tls in ("none", "opportunistic"):
            raise InvalidSetting(
                f"servers by SRV records have TLS always (RFC 8314), and {spelled('tls', self.tls)} is set: leave it "
                "out, or set 'implicit' or 'required' for one of the two services",
                field="tls",
            )
        if self.proxy is not None:
            raise InvalidSetting(
                f"the SRV records of {self.host} would be looked up past the proxy: name the server itself, or leave "
                f"{spelled('proxy')} out",
                field="proxy",
            )

    @functools.cached_property
    def name(self) -> str:
        """Its name in errors and logs: host and port, or the path of its socket."""
        if self.path is not None:
            return f"unix:{self.path}"
        if self.srv:
            return f"smtp+srv://{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.name

    @property
    def next_hop(self) -> tuple[str, int]:
        """Host and port to connect to: the server's own, or its proxy's."""
        return (self.host, self.port) if self.proxy is None else (self.proxy.host, self.proxy.port)

    @property
    def has_token_source(self) -> bool:
        """Whether access tokens are fetched for it: ``token`` is none itself."""
        return self.token is not None and not isinstance(self.token, str)

    @property
    def login(self) -> Credentials | None:
        """Name and password or token, or None where there is no login."""
        if not self.username and not needs_nothing(self.auth_mechanisms):
            return None
        token = self.token if isinstance(self.token, str) else ""
        return Credentials(self.username or "", self.password or "", token, self.host, self.port)


# Servers that differ only in `spelling` or `watch` are equal
Server._values = attrgetter(*(name for name in Server._fields if name not in ("spelling", "watch")))
# The traceback of a wrong setting would show the passwords that were given with it
Server.__init__ = discreet(Server.__init__)  # type: ignore[method-assign]


def from_mapping(
    values: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    spelling: Spelling = KEYWORDS,
    number: int | None = None,
) -> Server:
    """A Server from its settings; with ``url``, its address and kind are read from there, and not its credentials.

    ``spelling`` is that of the mailer, and ``number`` the place in its list of servers.
    """
    given = {key: value for key, value in values.items() if value is not None}
    url = given.pop("url", None)
    spelled = spelling.of_server(number, "mapping", given)
    servers = spelled("servers")
    check_keys(given, SERVER_KEYS, where=f" in {servers}", spelled=spelling.of_server(number, "mapping", SERVER_KEYS))
    if url is None:
        return Server(**{**(defaults or {}), **given, "spelling": spelled})
    if not isinstance(url, str):
        raise InvalidSetting(f"the url of a server must be a string, not {type(url).__name__}", field="servers")
    in_url = _read_url(url, spelling, number)
    if twice := sorted(given.keys() & in_url.keys()):
        raise InvalidSetting(f"{servers} has {', '.join(twice)} in a url and beside it; give it once", field=twice[0])
    spelled = spelled.of_server(number, "URL", _written(in_url))
    return Server(**{**(defaults or {}), **given, **in_url, "spelling": spelled})


@discreet
def from_url(
    url: str,
    defaults: Mapping[str, Any] | None = None,
    spelling: Spelling = KEYWORDS,
    number: int | None = None,
) -> Server:
    """A Server from ``smtp://host:port?key=value``; credentials, ``user:password@``, are percent-encoded.

    ``smtps://`` begins with TLS, ``lmtp://`` speaks LMTP, ``smtp+unix:///path`` and ``lmtp+unix:///path`` do so over a
    unix socket, and ``smtp+srv://domain`` finds the servers of a domain by its SRV records. Any key of a server may
    stand in the query. Raises `InvalidSetting`, which repeats no part of the URL that may be of a password.
    """
    in_url = _read_url(url, spelling, number)
    spelled = spelling.of_server(number, "URL", _written(in_url))
    return Server(**{**(defaults or {}), **in_url, "spelling": spelled})


def _written(in_url: Mapping[str, Any]) -> frozenset[str]:
    """The settings that stand in a URL."""
    return frozenset(SERVER_KEYS).intersection(in_url)


def _read_url(url: str, spelling: Spelling, number: int | None) -> dict[str, Any]:
    """The fields of a Server in a URL. An error repeats no part: each may belong to a password without quoting."""
    from urllib.parse import parse_qsl, unquote, urlsplit

    def wrong(what: str) -> InvalidSetting:
        return InvalidSetting(f"{servers} has a URL {what}", field="servers")

    servers, in_url = spelling("servers"), spelling.of_server(number, "URL", SERVER_KEYS)
    quote = (
        "percent-encode '/', '?', '#', '@', '%', '[' and ']' in credentials ('/' is %2F), or set "
        f"{spelling.together('username', 'password')} beside it"
    )
    url = characters(url).strip()
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        raise wrong(f"that does not begin with one of {', '.join(f'{known}://' for known in _SCHEMES)}")
    protocol, _, way = scheme.partition("+")
    is_unix = way == "unix"
    authority = re.match(r"[^/?#]*", rest)[0]  # type: ignore[index]
    if re.search(r"\s", url):
        raise wrong(f"with a blank, which is written %20; {quote}")
    if "@" in rest[len(authority) :] and (authority or not is_unix):
        raise wrong(f"with '/', '?' or '#' ahead of '@', as of a password that is not encoded; {quote}")
    try:
        parts = urlsplit(url)
        port = parts.port
        values: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        path = unquote(parts.path)
        credentials = {
            name: unquote(text, errors="strict")
            for name, text in (("username", parts.username or None), ("password", parts.password))
            if text is not None
        }
    except ValueError:  # its text repeats the URL, so it must not be the context of the error below
        port = -1
    if port == -1:
        raise wrong(f"that cannot be read: check its port, brackets and query; {quote}")
    if (path not in ("", "/") and not is_unix) or parts.fragment:
        raise wrong(f"with a path or fragment; {quote}")
    check_keys(values, SERVER_KEYS, where=f" in a URL of {servers}", spelled=in_url)
    if is_unix and (parts.hostname or port is not None):
        raise wrong(
            "with a host or port, and a unix socket has none; three slashes follow the scheme: "
            f"{scheme}:///run/mail.sock"
        )
    if way == "srv" and (not parts.hostname or port is not None):
        raise wrong("smtp+srv:// that is not followed by a domain without a port, which its SRV records say")
    if parts.hostname:
        values["host"] = unquote(parts.hostname)
    if port is not None:
        values["port"] = port
    if scheme == "smtps" and values.setdefault("tls", "implicit") != "implicit":
        raise InvalidSetting(
            f"{servers} has a URL with smtps://, which means implicit TLS, and with another tls in its query",
            field="servers",
        )
    kind = {"protocol": protocol.removesuffix("s"), "srv": way == "srv", "path": path if is_unix else None}
    return {**values, **credentials, **kind}


def resolve(
    given: Any,
    defaults: Mapping[str, Any],
    port: Any = None,
    spelling: Spelling = KEYWORDS,
    number: int | None = None,
) -> Server:
    """A Server from a URL, a host name, a mapping or a Server.

    ``defaults`` are settings for keys that it leaves open; ``port`` is the one listed at its place, ``number``.
    ``spelling`` is that of the mailer.
    """
    if port is not None:
        defaults = {**defaults, "port": port}
    if isinstance(given, Server):
        plain = Server._field_defaults
        unset = {k: v for k, v in defaults.items() if k in given._left_open or getattr(given, k) == plain[k]}
        own = [k for k in SERVER_KEYS if k not in given._left_open and getattr(given, k) != plain[k]]
        spelled = spelling.of_server(number, "Server", own)
        if not unset and given.spelling == spelled:
            return given
        return given.replace(**{**dict.fromkeys(given._left_open), **unset, "spelling": spelled})
    if isinstance(given, Mapping):
        return from_mapping(given, defaults, spelling, number)
    if isinstance(given, str) and "://" in given:
        return from_url(given, defaults, spelling, number)
    if isinstance(given, str):
        return Server(**{**defaults, "host": given, "spelling": spelling.of_server(number, "name", ["host"])})
    if type(given) is int:  # Mailer("localhost", 2600)
        raise InvalidSetting(
            f"{spelling('servers')} holds the number {given}; if it is a port, write {spelling('port', given)}",
            field="servers",
        )
    raise InvalidSetting(
        f"{spelling('servers')} holds a {type(given).__name__}; give URLs, host names, mappings or Servers",
        field="servers",
    )


def unreachable(
    server: Server, causes: Sequence[tuple[str, OSError]], late: TimeoutError | None = None
) -> ConnectFailed:
    """The error of a server without an address that connects; ``causes`` are (address, error).

    ``late`` is the time-out or deadline that ended the waiting, or would have.
    """
    what = "; ".join(f"{address}: {reason_of(cause)}" if address else reason_of(cause) for address, cause in causes)
    spelled = server.spelling
    remedy = f"check {spelled.together('host', 'port')}, and that no firewall is in the way"
    kind = cannot_connect(causes[-1][1])  # as socket.create_connection, which smtplib calls: that of the last address
    if not any(address for address, _ in causes):
        remedy = f"check {spelled('host')}, and that this machine can look names up"
    if server.proxy is not None:
        remedy = f"check {spelled.together('host', 'port')}, and {spelled('proxy')} and its credentials"
    if server.path is not None:
        remedy = "check that the server listens there, and that this user may write to the socket"
    if isinstance(late, DeadlinePassed):
        remedy = f"{late}; {remedy}"
    return kind(f"cannot connect to {server.name} ({what}); {remedy}", server=server.name)


def shown(address: Any) -> str:
    """An address of the socket module as text; for a unix socket its path."""
    return address if isinstance(address, str) else str(address[0])


def half_login(
    username: str | None,
    password: str | None,
    token: Any = None,
    mechanisms: Any = None,
    spelled: Callable[[str], str] = str,
) -> str | None:
    """What half a login lacks: "username" or "password"; None where it is whole, or there is none.

    ``mechanisms`` is the setting ``auth_mechanisms``: with one that needs neither password nor token, such as EXTERNAL,
    a user name is a whole login. Raises `InvalidSetting` for one that is not known, and writes settings as
    ``spelled`` does.
    """
    names = read(SERVER_KEYS["auth_mechanisms"], mechanisms, spelled) or ()
    check(names, spelled("auth_mechanisms"))
    if not username:
        return "username" if password or token is not None else None
    return "password" if password is None and token is None and not needs_nothing(names) else None


def port_doubt(server: Server) -> tuple[str, str] | None:
    """Why port and ``tls`` do not seem to fit together, and what to set; or None."""
    spelled = server.spelling
    if server.path is not None or server.srv:
        return None
    if server.port == 465 and server.tls != "implicit":  # RFC 8314 7.3
        return (
            f"port 465 is that of implicit TLS, and {spelled('tls', server.tls)} is not: a server there waits for TLS, "
            "and is silent",
            f"set {spelled('tls', 'implicit')}, or {spelled('port', 587)}",
        )
    if server.port in (25, 587) and server.tls == "implicit":
        return (
            f"port {server.port} begins in clear, and {spelled('tls', 'implicit')} does not: what a server says there "
            "is not TLS",
            f"set {spelled('tls', 'required')}, or {spelled('port', 465)}",
        )
    return None


def reason_of(error: OSError) -> str:
    """Why there is no connection, in words."""
    if isinstance(error, TimeoutError):  # with an errno it is the kernel's
        return "no answer in time" if error.errno else str(error) or "no answer in time"
    if error.errno and 0 < error.errno < 10_000:  # of a look-up it is negative, on Windows larger and in words already
        return os.strerror(error.errno)
    return error.strerror or str(error) or type(error).__name__
