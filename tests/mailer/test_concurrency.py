"""Threads, forks, event loops and cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator

import pytest

from smtpbackend import AsyncMailer, Mailer, Message, Receipt, Server
from smtpbackend.aio.wire import Wire
from smtpbackend.errors import SMTPError
from smtpbackend.testing import CUT, SILENCE, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates


class TestAtOnce:
    @pytest.mark.parametrize("tls", ["none", "required"])
    def test_sixteen_share_one_mailer(self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str) -> None:
        server = scripted(Play(extensions=("PIPELINING", "STARTTLS")), certificate="server")
        mailer = twin(
            {"host": "127.0.0.1", "port": server.port, "tls": tls, "ca_file": str(ca.ca_file)}, max_connections=4
        )
        results = mailer.send_at_once([hello(f"u{n}@example.com", subject=f"nr {n}.") for n in range(16)])
        for number, receipt in enumerate(results):
            assert isinstance(receipt, Receipt), receipt
            assert receipt.ok
            assert str(receipt.outcomes[0].address) == f"u{number}@example.com"
        assert server.connections <= 4
        assert len(server.handed_over) == 16
        for transaction in server.handed_over:
            number = transaction.recipients[0].split("<u")[1].split("@")[0]
            assert f"Subject: nr {number}.\r\n".encode() in transaction.content

    def test_connections_that_die_starve_nobody(self, twin: Twin, scripted: Scripted) -> None:
        play = Play({"MAIL": ["250 ok", CUT]})
        server = scripted(*[play] * 30)
        results = twin(server.url, max_connections=2).send_at_once([hello() for _ in range(16)])
        # a connection serves one message and dies with the next, which is replayed on a fresh one
        assert [result.ok for result in results] == [True] * 16  # type: ignore[union-attr]
        assert len(server.handed_over) == 16

    def test_many_wait_for_a_server_that_is_down(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"": "554 no"})
        results = twin(server.url, max_connections=1).send_at_once([hello() for _ in range(8)])
        assert all(isinstance(result, SMTPError) for result in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process forks here")
class TestFork:
    @pytest.mark.parametrize("tls", ["none", "required"])
    def test_a_child_has_its_own_connection(self, scripted: Scripted, ca: Certificates, tls: str) -> None:
        server = scripted(Play(extensions=("PIPELINING", "STARTTLS")), certificate="server")
        mailer = Mailer({"host": "127.0.0.1", "port": server.port, "tls": tls, "ca_file": str(ca.ca_file)})
        with mailer:
            mailer.send(hello("parent@example.com"))
            child = os.fork()
            if child == 0:  # pragma: no cover - in the child
                code = 1
                try:
                    code = 0 if mailer.send(hello("child@example.com")).ok else 2
                    mailer.close()
                finally:
                    os._exit(code)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert server.connections == 2
            mailer.send(hello("parent@example.com"))
        assert server.connections == 2
        assert [len(speaker.handed_over) for speaker in server.speakers] == [2, 1]

    def test_a_fork_while_a_thread_holds_the_lock_does_not_hang_the_child(self, scripted: Scripted) -> None:
        server = scripted()
        with Mailer(server.url) as mailer:
            held, free = threading.Event(), threading.Event()

            def hold() -> None:
                with mailer._pool._lock:
                    held.set()
                    free.wait(10)

            thread = threading.Thread(target=hold)
            thread.start()
            held.wait(10)
            child = os.fork()
            if child == 0:  # pragma: no cover - in the child
                os._exit(0 if mailer.send(hello()).ok else 1)
            free.set()
            thread.join()
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0


class TestLoops:
    def test_each_loop_has_its_own_connections(self, scripted: Scripted) -> None:
        server = scripted()
        mailer = AsyncMailer(server.url)

        async def send() -> bool:
            first, second = await mailer.send(hello()), await mailer.send(hello())
            await mailer.close()
            await asyncio.sleep(0)
            return first.ok and second.ok

        assert asyncio.run(send())
        assert asyncio.run(send())
        assert server.connections == 2

    def test_two_loops_at_once(self, scripted: Scripted) -> None:
        server = scripted()
        mailer = AsyncMailer(server.url)
        results: list[bool] = []

        async def send() -> None:
            for _ in range(5):
                results.append((await mailer.send(hello())).ok)
            await mailer.close()
            await asyncio.sleep(0)

        threads = [threading.Thread(target=lambda: asyncio.run(send())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert results == [True] * 10
        assert server.connections == 2


class TestCancellation:
    @pytest.mark.parametrize("command", ["", "EHLO", "MAIL", "."])
    async def test_it_closes_the_connection(self, scripted: Scripted, command: str) -> None:
        server = scripted({command: SILENCE})
        async with AsyncMailer(server.url) as mailer:
            task = asyncio.create_task(mailer.send(hello()))
            reached = {"": lambda: server.connections, ".": lambda: server.handed_over}.get(
                command, lambda: [line for line in server.commands if line.startswith(command)]
            )
            assert await asyncio.to_thread(wait_until, lambda: bool(reached()), 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(server.wait_for_end)

    async def test_the_next_message_has_a_fresh_connection(self, scripted: Scripted) -> None:
        server = scripted({"MAIL": ["250 ok", SILENCE], "RSET": "250 ok"}, {})
        async with AsyncMailer(server.url, max_connections=1) as mailer:
            await mailer.send(hello())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await mailer.send(hello())
            assert (await mailer.send(hello())).ok
        assert server.connections == 2
        await asyncio.sleep(0)

    async def test_who_waits_for_a_connection_can_be_cancelled(self, scripted: Scripted) -> None:
        server = scripted({"MAIL": SILENCE}, {})
        async with AsyncMailer(server.url, max_connections=1) as mailer:
            first = asyncio.create_task(mailer.send(hello()))
            second = asyncio.create_task(mailer.send(hello()))
            third = asyncio.create_task(mailer.send(hello()))
            assert await asyncio.to_thread(wait_until, lambda: len(server.commands) > 1, 20)
            for task in (second, first):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert (await third).ok
        await asyncio.sleep(0)

    async def test_connecting_can_be_cancelled(self, unreachable: int) -> None:
        async with AsyncMailer(f"smtp://127.0.0.1:{unreachable}") as mailer:
            task = asyncio.create_task(mailer.send(hello()))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    async def test_a_stream_that_is_left_frees_its_connection(self, scripted: Scripted) -> None:
        server = scripted()

        async def source() -> AsyncIterator[Message]:
            while True:
                yield hello()

        async with AsyncMailer(server.url, max_connections=1) as mailer:
            stream = mailer.send_many(source())
            async for receipt in stream:
                assert receipt.ok
                break
            await stream.aclose()
            assert (await mailer.send(hello())).ok
        await asyncio.sleep(0)

    async def test_what_is_logged_is_logged_for_who_sends(self, scripted: Scripted) -> None:
        """A kept connection is not that of whoever opened it: the context of its conversation is the present task's."""
        server = scripted()
        request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="")
        seen: dict[str, set[str]] = {}
        subject = ""

        class Collect(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.setdefault(subject, set()).add(request.get())

        logger, handler = logging.getLogger("smtpbackend.wire"), Collect()
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            async with AsyncMailer(server.url) as mailer:

                async def send() -> None:
                    request.set(subject)
                    assert (await mailer.send(hello(subject=subject))).ok

                for subject in ("one", "two"):  # noqa: B007 - it is used above
                    await asyncio.create_task(send())
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        assert server.connections == 1
        assert seen["one"] == {"one"}
        assert seen["two"] == {"two", ""}  # who closes says QUIT, and is nobody's task

    async def test_what_is_there_is_not_too_late_for_a_handshake(self) -> None:
        """A loop that was busy meanwhile looks once more before time is up, as in all other waits."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        wire = Wire(Server("x.example", tls="none"), ssl.create_default_context, ours)  # type: ignore[arg-type]
        await loop.create_connection(lambda: wire, sock=ours)
        theirs.send(b"there already")
        await wire.wait(loop.time() - 0.001)
        assert wire.received() == b"there already"
        with pytest.raises(TimeoutError):
            await wire.wait(loop.time() - 0.001)
        wire.close()
        theirs.close()
        await asyncio.sleep(0)
