"""To a server by its name or address: the look-up, its addresses as they shall be tried, a proxy where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from smtpbackend.delivery.addresses import Begin, Wait, each, reach
from smtpbackend.delivery.hostnames import is_address, server_hostname
from smtpbackend.delivery.server import Server, unreachable
from smtpbackend.forking import Attempts, at_path
from smtpbackend.hiding import forget_locals
from smtpbackend.protocol.timeouts import earliest, time_is_up

__all__ = ["dial", "unconnectable"]

LONGEST_PAUSE = 0.01  # seconds between two looks at what connects, where no loop tells of it

Ready = TypeVar("Ready")


async def dial(server: Server, deadline: float | None, ready: Callable[[socket.socket], Awaitable[Ready]]) -> Ready:
    """Connect, and return what ``ready`` makes of the socket. If it raises OSError, the next address is tried.

    Performs what ``delivery/addresses.py`` decides. Raises `ConnectFailed`.
    """
    race = reach(server, await _find(server, deadline), asyncio.get_running_loop().time, deadline)
    attempts = Attempts(server.source_address)
    answer: Any
    try:
        step = next(race)
        while True:
            if isinstance(step, Wait):
                answer = attempts.ended(await _wait(attempts, step.until))
            elif isinstance(step, Begin):
                answer = attempts.begin(step.info)
            else:
                sock = attempts.under_way[step.info]
                try:
                    if server.proxy is not None:
                        await _pass_proxy(server, sock, step.until)
                    made = await ready(sock)
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


async def unconnectable(server: Server, infos: list[Any]) -> dict[Any, OSError]:
    """Which of these addresses of a server do not connect, and why. Those that do are closed at once."""
    steps = each(infos, server.timeout.connect, asyncio.get_running_loop().time)
    attempts = Attempts(server.source_address)
    answer: Any = None
    try:
        while True:
            step = steps.send(answer)
            if isinstance(step, Begin):
                answer = attempts.begin(step.info)
                continue
            answer = attempts.ended(await _wait(attempts, step.until))
            for info in attempts.under_way.keys() & answer.keys():
                attempts.close(info)
    except StopIteration as ended:
        return dict(ended.value)
    finally:
        attempts.close_all()


async def _wait(attempts: Attempts, until: float) -> list[Any]:
    """Those that have arrived or failed, once there is one, or at ``until``. No task: nothing to be cancelled."""
    loop = asyncio.get_running_loop()
    try:
        return await _told(loop, attempts.under_way, until)
    except NotImplementedError:  # asyncio's loop on Windows tells only of connects that it began itself
        pause = 0.001
        while not (ended := attempts.ready(0)) and (left := until - loop.time()) > 0:
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_PAUSE)
        return ended


async def _told(loop: asyncio.AbstractEventLoop, under_way: dict[Any, socket.socket], until: float) -> list[Any]:
    """The same, where the loop tells."""
    woken = loop.create_future()
    ended: list[Any] = []

    def wake(info: Any = None) -> None:
        if info is not None and info not in ended:
            ended.append(info)
        if not woken.done():
            woken.set_result(None)

    timer = loop.call_at(until, wake)
    watched: list[int] = []
    try:
        for info, sock in under_way.items():
            loop.add_writer(sock.fileno(), wake, info)
            watched.append(sock.fileno())
        await woken
    finally:
        timer.cancel()
        for number in watched:
            loop.remove_writer(number)
    return ended


async def _find(server: Server, deadline: float | None) -> list[Any]:
    """The addresses of a server, or of its proxy. Raises `ConnectFailed`."""
    if server.path is not None:
        return [at_path(server)]
    host, port = server.next_hop
    end = earliest(asyncio.get_running_loop().time() + server.timeout.connect, deadline)
    try:
        async with asyncio.timeout_at(end):
            return await _look_up(server_hostname(host), port)
    except TimeoutError as error:
        words = TimeoutError(f"the look-up of {host} took too long")
        raise unreachable(server, [("", words)], time_is_up(end, deadline)) from error
    except (OSError, UnicodeError) as error:
        raise unreachable(server, [("", error if isinstance(error, OSError) else OSError(str(error)))]) from error


async def _look_up(host: str, port: int) -> list[Any]:
    """The addresses of a host. The loop has few threads for look-ups: one that hangs would hold up all that follow."""
    if is_address(host):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()

    def settle(addresses: list[Any], error: Exception | None) -> None:
        if found.done():  # it is not awaited any more
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

    try:
        threading.Thread(target=ask, name="smtpbackend-look-up", daemon=True).start()
    except RuntimeError:  # none can be started any more, as from Python 3.12 on where the program ends
        ask()
    return await found


async def _pass_proxy(server: Server, sock: socket.socket, end: float) -> None:
    """Have a proxy to which we are connected connect to the server."""
    from python_socks.async_.asyncio import Proxy

    from smtpbackend.delivery.proxy import Tunnel, failed

    proxy = server.proxy

    class Connected:
        """What python-socks takes for the proxy in front of its proxy."""

        async def connect(self, **to: Any) -> Any:
            return Tunnel(sock, proxy.scheme)

    trouble: OSError | None = None
    try:
        async with asyncio.timeout_at(end):
            await Proxy(**proxy.arguments(Connected())).connect(server_hostname(server.host), server.port)
    except Exception as error:
        trouble = failed(proxy, error)
    except BaseException as error:
        forget_locals(error)
        raise
    if trouble is not None:  # raised here: what the library raised, with the credentials in it, is no context of it
        raise trouble
