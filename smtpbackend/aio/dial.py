"""To a server by its name or address: the look-up, each address in turn, a proxy where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from smtpbackend.delivery.server import Server, is_address, shown, unreachable
from smtpbackend.delivery.tls import server_hostname
from smtpbackend.forking import sockets, unforked
from smtpbackend.protocol.timeouts import earliest

__all__ = ["dial"]

Ready = TypeVar("Ready")


async def dial(server: Server, deadline: float | None, ready: Callable[[socket.socket], Awaitable[Ready]]) -> Ready:
    """What ``ready`` makes of a socket that is connected: an OSError of it counts against the address.

    Look-up and all addresses share one budget. Raises `ConnectFailed`.
    """
    loop = asyncio.get_running_loop()
    end = earliest(loop.time() + server.timeout.connect, deadline)
    causes: list[tuple[str, OSError]] = []
    host, port = server.next_hop
    try:
        async with asyncio.timeout_at(end):
            if server.path is not None:
                found: list[Any] = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", server.path)]
            else:
                found = await _look_up(server_hostname(host), port)
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
        sock.setblocking(False)
        try:
            if server.source_address and server.path is None:
                sock.bind((server.source_address, 0))
            # what is left is shared among the addresses left: one that is silent does not use up all
            async with asyncio.timeout(max((end - loop.time()) / (len(found) - number), 0.001)):
                await loop.sock_connect(sock, address)
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if server.proxy is not None:
                await _pass_proxy(server, sock, end)
            return await ready(sock)
        except OSError as error:
            sock.close()
            causes.append((shown(address), error))
        except BaseException:
            sock.close()
            raise
    raise unreachable(server, causes) from causes[-1][1]


async def _look_up(host: str, port: int) -> list[Any]:
    """The addresses of a host. The loop has few threads for look-ups: one that hangs would hold up all that follow."""
    if is_address(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()

    def settle(addresses: list[Any], error: Exception | None) -> None:
        if found.done():  # nobody waits for it any more
            return
        if error is not None:
            found.set_exception(error)
        else:
            found.set_result(addresses)

    def ask() -> None:
        addresses: list[Any] = []
        failed: Exception | None = None
        try:
            addresses = list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, addresses, failed)

    threading.Thread(target=ask, name="smtpbackend-look-up", daemon=True).start()
    return await found


async def _pass_proxy(server: Server, sock: socket.socket, end: float) -> None:
    """Have a proxy, just connected to, connect to the server."""
    from python_socks.async_.asyncio import Proxy

    from smtpbackend.delivery.proxy import Tunnel, failed, proxy_of

    proxy = proxy_of(server.proxy)

    class Connected:
        """What python-socks takes for the proxy in front of its proxy."""

        async def connect(self, **to: Any) -> Any:
            return Tunnel(sock, proxy.scheme)

    try:
        async with asyncio.timeout_at(end):
            await Proxy(**proxy.arguments(Connected())).connect(server_hostname(server.host), server.port)
    except Exception as error:
        raise failed(proxy, error) from None
