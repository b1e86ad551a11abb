"""No path through a pool loses a connection, counts one twice, or lets somebody wait for what is free."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Mailer
from smtpbackend.errors import InvalidInput
from smtpbackend.testing import SILENCE
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.ports import wait_until


def test_a_cancelled_goodbye_leaves_room_for_the_next(scripted: Scripted) -> None:
    """A task cancelled while an expired connection is told QUIT has counted a connection that it never opens."""
    server = scripted({"QUIT": SILENCE})

    async def run() -> None:
        async with AsyncMailer(server.url, max_connections=1, max_idle=0.05, timeout=20) as mailer:
            await mailer.send(hello())
            await asyncio.sleep(0.1)
            task = asyncio.create_task(mailer.send(hello()))
            await asyncio.sleep(0.3)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert (await mailer.send(hello())).ok

    asyncio.run(run())


def test_an_impossible_host_name_leaves_no_connection(
    twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EHLO cannot be said with it: the connection that was opened is closed and not counted."""
    server = scripted({})
    mailer = twin(server.url, max_connections=1, timeout=20)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "gethostname", lambda: "mail.example-")
        with pytest.raises(InvalidInput, match="client_name"):
            mailer.send(hello())
    server.wait_for_end()
    assert mailer.send(hello()).ok


def test_who_waits_for_another_server_does_not_swallow_the_call(scripted: Scripted) -> None:
    """Two threads wait for two servers; the connection that comes free is for the one who waits second."""
    mailer = Mailer(scripted({}).url, scripted({}).url, max_connections=1, timeout=60)
    first, second = mailer.configuration.servers
    pool = mailer._pool
    busy = pool.lease(first, False, None), pool.lease(second, False, None)
    waited: dict[str, float] = {}

    def wait(server: Any) -> None:
        start = time.monotonic()
        with suppress(OSError):
            connection = pool.lease(server, False, None)
            waited[server.name] = time.monotonic() - start
            pool.release(connection)

    threads = []
    for number, server in enumerate((first, second), 1):
        threads.append(threading.Thread(target=wait, args=(server,)))
        threads[-1].start()
        assert wait_until(lambda number=number: mailer.stats().waiting == number, 20)  # type: ignore[misc]
    pool.release(busy[1])
    threads[1].join()
    assert waited[second.name] < 30
    pool.release(busy[0])
    threads[0].join()
    mailer.close()


def test_closing_lets_no_more_be_open_than_allowed(scripted: Scripted) -> None:
    """What was in use at the close counts until it comes back, and a waiter is then served."""
    server = scripted({})
    mailer = Mailer(server.url, max_connections=1, timeout=60)
    stream = mailer.send_many([hello(), hello()])
    next(stream)
    mailer.close()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(mailer.send(hello()).ok))
    thread.start()
    time.sleep(0.2)
    assert server.open_connections == 1
    assert [receipt.ok for receipt in stream] == [True]
    thread.join(30)
    assert results == [True]
    mailer.close()


def test_each_loop_closes_what_it_opened(scripted: Scripted) -> None:
    """An AsyncMailer that lives longer than its loops, as under a framework's `async_to_sync`, keeps none of them."""
    server = scripted({})
    mailer = AsyncMailer(server.url)
    for _ in range(3):
        asyncio.run(mailer.send(hello()))  # type: ignore[arg-type]
        assert wait_until(lambda: not server.open_connections, 20)
    gc.collect()
    assert len(mailer._pools) == 1
