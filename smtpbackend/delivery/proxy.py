"""The way to a server through a proxy: the setting ``proxy``, and the socket that python-socks is given.

The twins connect to the proxy as to any host, and lend its socket to python-socks until the proxy is connected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from smtpbackend.delivery.setting_names import check_keys
from smtpbackend.errors import InvalidSetting, MissingExtra
from smtpbackend.hiding import Mask, Secret

__all__ = ["Proxy", "Tunnel", "failed", "parse"]

# For each scheme the proxy's type in python-socks, the usual port, and whether the proxy looks names up
_SCHEMES = {
    "socks5": ("SOCKS5", 1080, False),
    "socks5h": ("SOCKS5", 1080, True),
    "socks4": ("SOCKS4", 1080, False),
    "socks4a": ("SOCKS4", 1080, True),
    "http": ("HTTP", 8080, True),
}
MAX_HEAD = 16384  # octets of a proxy's answer to CONNECT: servers of HTTP take 8 to 16 KiB


class Proxy(NamedTuple):
    """Kind and address of a proxy, and the credentials for it."""

    scheme: str
    host: str
    port: int
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"<Proxy {self.name}>"

    @property
    def name(self) -> str:
        """Its name in errors, without credentials."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def arguments(self, forward: Any) -> dict[str, Any]:
        """Arguments for a Proxy of python-socks; ``forward`` connects to the proxy."""
        from python_socks import ProxyType

        kind, _, remote = _SCHEMES[self.scheme]
        return {
            "proxy_type": ProxyType[kind],
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "password": self.password,
            "rdns": remote,
            "forward": forward,
        }


def parse(name: str, value: Any) -> Proxy:
    """The proxy that a URL, or a mapping of ``url``, ``username`` and ``password``, describes.

    Raises `InvalidSetting`, which never repeats any of it, and `MissingExtra`.
    """
    proxy = _read(name, value)
    if proxy is None:
        schemes = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise InvalidSetting(
            f"{name} must be the URL of a proxy, such as socks5h://proxy.example.com:1080, with one of {schemes}, or a "
            "mapping of url, username and password; in a URL credentials are percent-encoded",
            field=name,
        )
    username, password = proxy.username or "", proxy.password or ""
    if password and not username:
        raise InvalidSetting(f"{name} has a password and no user name", field=name)
    if proxy.scheme == "http":
        wrong = ":" in username or any(c > "\xff" or c < " " for c in username + password)  # RFC 7617 2
    else:
        wrong = len(username.encode()) > 255 or len(password.encode()) > 255 or "\0" in username  # RFC 1929 2
        if password and proxy.scheme.startswith("socks4"):
            raise InvalidSetting(f"{name} has a password, and SOCKS4 knows none", field=name)
    if wrong:
        raise InvalidSetting(f"{name} has credentials that {proxy.scheme} cannot carry", field=name)
    try:
        import python_socks  # noqa: F401 - a missing one is found now, not at the first mail
    except ImportError as error:
        raise MissingExtra(f'{name} needs python-socks: pip install "smtpbackend[socks]"') from error
    if proxy.username and proxy.password is None and not proxy.scheme.startswith("socks4"):
        proxy = proxy._replace(password="")
    return proxy


def _read(name: str, value: Any) -> Proxy | None:
    """A proxy from its URL or mapping, or None."""
    if isinstance(value, Proxy):
        return value
    username = password = None
    if isinstance(value, Mapping):
        check_keys(value, ("url", "username", "password"), f"{name} key")
        value, username, password = (value.get(key) or None for key in ("url", "username", "password"))
        if not all(isinstance(text, str) for text in (username or "", password or "")):
            return None
    proxy = _from_url(value) if isinstance(value, str) else None
    if proxy is None or (username is None and password is None):
        return proxy
    if proxy.username is not None or proxy.password is not None:
        raise InvalidSetting(f"{name} has credentials in its url and beside it; give them once", field=name)
    return proxy._replace(username=username, password=None if password is None else Secret(password))


def _from_url(url: str) -> Proxy | None:
    from urllib.parse import unquote, urlsplit

    url = url.strip()
    if re.search(r"\s", url):  # which `urlsplit` drops
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        username = unquote(parts.username, errors="strict") if parts.username else None
        password = Secret(unquote(parts.password, errors="strict")) if parts.password else None
    except ValueError:
        return None
    known = _SCHEMES.get(parts.scheme)
    if known is None or not host or port == 0 or parts.path not in ("", "/") or parts.query or parts.fragment:
        return None
    if any(c.isspace() or not c.isprintable() for c in host):
        return None
    return Proxy(parts.scheme, host, port or known[1], username, password)


class Tunnel:
    """The connected socket to a proxy, for python-socks.

    A mail server speaks first, and its greeting may follow the proxy's answer in one packet: nothing after that answer
    is read. ``hurry`` is called before each wait of a blocking socket, to set the time that is left.
    """

    def __init__(self, sock: Any, scheme: str, hurry: Callable[[], object] | None = None) -> None:
        self._socket = sock
        self._is_http = scheme == "http"
        self._hurry = hurry or (lambda: None)
        self._head = bytearray()
        self.fileno = sock.fileno
        self.gettimeout = sock.gettimeout
        self.send = sock.send
        self.close = sock.close

    def sendall(self, data: bytes) -> None:
        """Part of a socket."""
        self._hurry()
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        """Part of a socket; for HTTP it returns the whole head of the answer (RFC 9110 9.3.6)."""
        while True:
            self._hurry()
            data: bytes = self._socket.recv(1 if self._is_http else size)
            if not self._is_http or not data:
                return data
            self._head += data
            if self._head[-4:] == bytes((13, 10, 13, 10)):
                return bytes(self._head)
            if len(self._head) > MAX_HEAD:
                raise ConnectionError("its answer has no end")


def failed(proxy: Proxy, error: Exception) -> OSError:
    """The error of a proxy as one of a server that cannot be reached, with credentials in its text masked."""
    if isinstance(error, TimeoutError):
        return TimeoutError()
    words = Mask(*filter(None, (proxy.password, proxy.username)))(str(error) or type(error).__name__)
    return ConnectionError(f"proxy {proxy.name}: {words}")
