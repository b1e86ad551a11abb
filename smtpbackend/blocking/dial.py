"""To a server by its name or address: the look-up, its addresses as they shall be tried, a proxy where there is one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from smtpbackend.delivery.addresses import Begin, Wait, each, reach
from smtpbackend.delivery.hostnames import is_address, server_hostname
from smtpbackend.delivery.server import Server, unreachable
from smtpbackend.forking import Attempts, at_path
from smtpbackend.hiding import forget_locals
from smtpbackend.protocol.timeouts import earliest, time_is_up

__all__ = ["dial", "unconnectable"]

Ready = TypeVar("Ready")


def dial(server: Server, deadline: float | None, ready: Callable[[socket.socket], Ready]) -> Ready:
    """Connect, and return what ``ready`` makes of the socket. If it raises OSError, the next address is tried.

    Performs what ``delivery/addresses.py`` decides. Raises `ConnectFailed`.
    """
    race = reach(server, _find(server, deadline), time.monotonic, deadline)
    attempts = Attempts(server.source_address)
    answer: Any
    try:
        step = next(race)
        while True:
            if isinstance(step, Wait):
                # what has arrived by now is in time
                answer = attempts.ended(attempts.ready(max(step.until - time.monotonic(), 0.0)))
            elif isinstance(step, Begin):
                answer = attempts.begin(step.info)
            else:
                sock = attempts.under_way[step.info]
                try:
                    if server.proxy is not None:
                        _pass_proxy(server, sock, step.until)
                    made = ready(sock)
                except OSError as error:
                    answer = error
                    attempts.close(step.info)
                else:
                    attempts.close_all(but=step.info)
                    race.close()  # its errors of other addresses would keep this frame alive
                    return made
            step = race.send(answer)
    except BaseException:
        attempts.close_all()
        raise


def unconnectable(server: Server, infos: list[Any]) -> dict[Any, OSError]:
    """Which of these addresses of a server do not connect, and why. Those that do are closed at once."""
    steps = each(infos, server.timeout.connect, time.monotonic)
    attempts = Attempts(server.source_address)
    answer: Any = None
    try:
        while True:
            step = steps.send(answer)
            if isinstance(step, Begin):
                answer = attempts.begin(step.info)
                continue
            answer = attempts.ended(attempts.ready(max(step.until - time.monotonic(), 0.0)))
            for info in attempts.under_way.keys() & answer.keys():
                attempts.close(info)
    except StopIteration as ended:
        return dict(ended.value)
    finally:
        attempts.close_all()


def _find(server: Server, deadline: float | None) -> list[Any]:
    """The addresses of a server, or of its proxy. Raises `ConnectFailed`."""
    if server.path is not None:
        return [at_path(server)]
    host, port = server.next_hop
    end = earliest(time.monotonic() + server.timeout.connect, deadline)
    try:
        return _look_up(server_hostname(host), port, end)
    except TimeoutError as error:
        raise unreachable(server, [("", error)], time_is_up(end, deadline)) from error
    except (OSError, UnicodeError) as error:
        raise unreachable(server, [("", error if isinstance(error, OSError) else OSError(str(error)))]) from error


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
    try:
        thread.start()
    except RuntimeError:  # none can be started any more, as from Python 3.12 on where the program ends
        ask()
    else:
        thread.join(max(end - time.monotonic(), 0.0))
    if not found:
        raise TimeoutError(f"the look-up of {host} took too long")
    if isinstance(found[0], Exception):
        raise found[0]
    return list(found[0])


def _pass_proxy(server: Server, sock: socket.socket, end: float) -> None:
    """Have a proxy to which we are connected connect to the server."""
    from python_socks.sync import Proxy

    from smtpbackend.delivery.proxy import Tunnel, failed

    proxy = server.proxy

    class Connected:
        """What python-socks takes for the proxy in front of its proxy."""

        def connect(self, **to: Any) -> Any:
            return Tunnel(sock, proxy.scheme, lambda: sock.settimeout(max(end - time.monotonic(), 0.001)))

    trouble: OSError | None = None
    try:
        Proxy(**proxy.arguments(Connected())).connect(server_hostname(server.host), server.port)
    except Exception as error:
        trouble = failed(proxy, error)
    except BaseException as error:
        forget_locals(error)
        raise
    if trouble is not None:  # raised here: what the library raised, with the credentials in it, is no context of it
        raise trouble
