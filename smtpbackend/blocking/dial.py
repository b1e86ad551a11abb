"""To a server by its name or address: the look-up, each address in turn, a proxy where there is one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from smtpbackend.delivery.server import Server, is_address, shown, unreachable
from smtpbackend.delivery.tls import server_hostname
from smtpbackend.forking import sockets, unforked
from smtpbackend.protocol.timeouts import earliest

__all__ = ["MAX_POLL", "dial"]

MAX_POLL = 1e6  # seconds: poll takes no more milliseconds than an int holds

Ready = TypeVar("Ready")


def dial(server: Server, deadline: float | None, ready: Callable[[socket.socket], Ready]) -> Ready:
    """What ``ready`` makes of a socket that is connected: an OSError of it counts against the address.

    Look-up and all addresses share one budget. Raises `ConnectFailed`.
    """
    end = earliest(time.monotonic() + server.timeout.connect, deadline)
    causes: list[tuple[str, OSError]] = []
    host, port = server.next_hop
    try:
        if server.path is not None:
            found: list[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", server.path)]
        else:
            found = _look_up(server_hostname(host), port, end)
    except (OSError, UnicodeError) as error:
        raise unreachable(server, [("", error if isinstance(error, OSError) else OSError(str(error)))]) from error
    for number, (family, kind, protocol, _, address) in enumerate(found):
        born: socket.socket | None = None
        try:
            with unforked:
                sock = born = socket.socket(family, kind, protocol)
                sockets.add(sock)
        except OSError as error:  # a kernel without IPv6 has no such sockets
            causes.append((shown(address), error))
            continue
        except BaseException:
            if born is not None:
                born.close()
            raise
        try:
            # what is left is shared among the addresses left: one that is silent does not use up all
            share = (end - time.monotonic()) / (len(found) - number)
            sock.settimeout(min(max(share, 0.001), MAX_POLL))
            if server.source_address and server.path is None:
                sock.bind((server.source_address, 0))
            sock.connect(address)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server.proxy is not None:
                _pass_proxy(server, sock, end)
            return ready(sock)
        except OSError as error:
            sock.close()
            causes.append((shown(address), error))
        except BaseException:
            sock.close()
            raise
    raise unreachable(server, causes) from causes[-1][1]


def _look_up(host: str, port: int, end: float) -> list[Any]:
    """The addresses of a host. The system's resolver cannot be told how long it may take, so we do not wait for it."""
    if is_address(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    thread = threading.Thread(target=ask, name="smtpbackend-look-up", daemon=True)
    thread.start()
    thread.join(max(end - time.monotonic(), 0.0))
    if not found:
        raise TimeoutError(f"the look-up of {host} took too long")
    if isinstance(found[0], Exception):
        raise found[0]
    return list(found[0])


def _pass_proxy(server: Server, sock: socket.socket, end: float) -> None:
    """Have a proxy, just connected to, connect to the server."""
    from python_socks.sync import Proxy

    from smtpbackend.delivery.proxy import Tunnel, failed, proxy_of

    proxy = proxy_of(server.proxy)

    class Connected:
        """What python-socks takes for the proxy in front of its proxy."""

        def connect(self, **to: Any) -> Any:
            return Tunnel(sock, proxy.scheme, lambda: sock.settimeout(max(end - time.monotonic(), 0.001)))

    try:
        Proxy(**proxy.arguments(Connected())).connect(server_hostname(server.host), server.port)
    except Exception as error:
        raise failed(proxy, error) from None
