"""A task that is cancelled, wherever it waits, leaves nothing half done (DESIGN 4.5)."""

from __future__ import annotations

import asyncio
import base64
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import dns.asyncresolver
import pytest

from smtpbackend import AsyncMailer, Message
from smtpbackend.delivery import addresses
from smtpbackend.delivery.credentials import Grant, Provider
from smtpbackend.testing import SILENCE, Play, ScriptedServer, delay
from tests.mailer.conftest import Names, Scripted
from tests.mailer.suspensions import When, at_every_point, eventually, leaving_nothing
from tests.mailer.twins import PATIENCE, hello
from tests.servers.nameserver import Nameserver
from tests.servers.ports import free_ports
from tests.servers.proxy import Proxy
from tests.servers.tls import Certificates

LOCKSTEP = ("8BITMIME",)  # no PIPELINING: a wait for each command
MANY = 3

whenever = pytest.mark.parametrize("when", list(When), ids=lambda when: when.value)


def secured(server: ScriptedServer, ca: Certificates, **settings: Any) -> dict[str, Any]:
    """A server, for a mailer, with TLS."""
    return {"host": "127.0.0.1", "port": server.port, "tls": "required", "ca_file": str(ca.ca_file), **settings}


class TestASend:
    @whenever
    async def test_over_starttls_with_a_login(self, scripted: Scripted, ca: Certificates, when: When) -> None:
        play = Play(extensions=("STARTTLS",), after_tls=("AUTH PLAIN LOGIN", *LOCKSTEP))
        server = scripted(play, certificate="server")
        mailer = AsyncMailer(secured(server, ca, username="ann", password="secret", auth_mechanisms="login"))
        points = await at_every_point(mailer, [server], lambda subject: mailer.send(hello(subject=subject)), when)
        # two EHLO, STARTTLS, the handshake, three steps of the login, MAIL, RCPT, DATA, content
        assert len(points) >= 12

    @whenever
    async def test_over_implicit_tls(self, scripted: Scripted, ca: Certificates, when: When) -> None:
        server = scripted(Play(implicit_tls=True), certificate="server")
        mailer = AsyncMailer(secured(server, ca, tls="implicit"))
        await at_every_point(mailer, [server], lambda subject: mailer.send(hello(subject=subject)), when)

    @whenever
    @pytest.mark.parametrize("extensions", [LOCKSTEP, ("PIPELINING",)], ids=["lock step", "pipelining"])
    async def test_on_a_kept_connection(self, scripted: Scripted, extensions: tuple[str, ...], when: When) -> None:
        server = scripted(Play(extensions=extensions))
        mailer = AsyncMailer(server.url)

        async def before() -> None:
            await mailer.send(hello(subject=f"before, {len(server.handed_over)}"))

        async def act(subject: str) -> None:
            await mailer.send(hello(subject=subject))

        await at_every_point(mailer, [server], act, when, before=before)

    @pytest.mark.exhaustive
    @whenever
    async def test_of_what_does_not_fit_the_buffers(self, scripted: Scripted, when: When) -> None:
        """The server reads nothing for a while: the content waits for room in between."""
        server = scripted(Play({"DATA": ("354 go ahead", delay(0.03))}, ("PIPELINING",)))
        mailer = AsyncMailer(server.url)
        text = "x" * 70 + "\n"

        async def act(subject: str) -> None:
            await mailer.send(hello(subject=subject, text=text * 300_000))

        points = await at_every_point(mailer, [server], act, when)
        assert "Write of the wire" in points, points

    @whenever
    async def test_on_the_way_to_the_next_server(self, scripted: Scripted, when: When) -> None:
        """One is not there, one refuses the sender for now, one the content."""
        [nobody] = free_ports(1)
        servers = [
            scripted(Play({"MAIL": "451 4.3.2 later"}, LOCKSTEP)),
            scripted(Play({".": "452 4.3.1 full"}, LOCKSTEP)),
            scripted(),
        ]
        mailer = AsyncMailer(f"smtp://127.0.0.1:{nobody}", *(server.url for server in servers), rest=0)
        await at_every_point(mailer, servers, lambda subject: mailer.send(hello(subject=subject)), when)

    @whenever
    async def test_while_it_connects_to_nowhere(self, scripted: Scripted, unreachable: int, when: When) -> None:
        server = scripted()
        mailer = AsyncMailer(f"smtp://127.0.0.1:{unreachable}", server.url, rest=0, timeout={"connect": 0.05})
        await at_every_point(mailer, [server], lambda subject: mailer.send(hello(subject=subject)), when)

    @whenever
    async def test_while_it_connects_to_several_addresses(
        self,
        scripted: Scripted,
        names: Names,
        several_unreachable: list[int],
        when: When,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One refuses, three are silent: those are under way when the one that is well is connected."""
        monkeypatch.setattr(addresses, "DELAY", 0.005)
        server = scripted()
        [closed] = free_ports(1)
        names["mx.example.com"] = [
            ("::1", closed),
            *[("127.0.0.1", port) for port in (*several_unreachable, server.port)],
        ]
        mailer = AsyncMailer("smtp://mx.example.com?tls=none")

        async def before() -> None:
            addresses.remembered.clear()

        act = lambda subject: mailer.send(hello(subject=subject))  # noqa: E731
        points = await at_every_point(mailer, [_Named(server, "mx.example.com:25")], act, when, before=before)
        assert sum("dial" in point for point in points) >= 4, points

    @whenever
    async def test_through_a_proxy(self, scripted: Scripted, when: When) -> None:
        server = scripted()
        with Proxy() as proxy:
            mailer = AsyncMailer(server.url, proxy=f"socks5://{proxy.name}")
            await at_every_point(mailer, [server], lambda subject: mailer.send(hello(subject=subject)), when)

    @whenever
    async def test_to_a_server_by_srv_records(
        self, scripted: Scripted, ca: Certificates, when: When, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = scripted(Play(implicit_tls=True), certificate="server")
        with Nameserver() as names:
            resolver = dns.asyncresolver.Resolver(configure=False)
            resolver.nameservers, resolver.port = ["127.0.0.1"], names.port
            monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
            names.ttl = 0
            names.records = {"_submissions._tcp.localhost.": [f"0 0 {server.port} localhost."]}
            mailer = AsyncMailer("smtp+srv://localhost", ca_file=str(ca.ca_file))
            await at_every_point(mailer, [_Named(server)], lambda subject: mailer.send(hello(subject=subject)), when)


class _Named:
    """A server that is reached by a name: that of this machine, or another."""

    def __init__(self, server: ScriptedServer, name: str = "") -> None:
        self.name = name or f"localhost:{server.port}"
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class TestWaitingForAConnection:
    @whenever
    async def test_it_neither_keeps_nor_loses_its_place(self, scripted: Scripted, when: When) -> None:
        """The only connection is in use; who waits behind the cancelled one gets it."""
        free = threading.Event()

        def answer(line: str) -> str:
            assert free.wait(PATIENCE)
            return "250 ok"

        server = scripted({"MAIL": answer})
        mailer = AsyncMailer(server.url, max_connections=1)
        running: list[asyncio.Task[Any]] = []

        async def let_go() -> None:
            await eventually(lambda: mailer.stats().waiting == 2)
            free.set()

        async def before() -> None:
            free.clear()
            asked = len(server.commands)
            running[:] = [asyncio.create_task(mailer.send(hello(subject=f"holds, {asked}")))]
            await eventually(lambda: len(server.commands) > asked + 1)

        async def act(subject: str) -> None:
            running.append(asyncio.create_task(mailer.send(hello(subject=f"behind {subject}"))))
            running.append(asyncio.create_task(let_go()))
            await mailer.send(hello(subject=subject))

        async def after() -> None:
            free.set()
            *sent, _ = running
            assert [receipt.ok for receipt in await asyncio.wait_for(asyncio.gather(*sent), PATIENCE)] == [True, True]
            running.pop().cancel()
            running.clear()

        await at_every_point(mailer, [server], act, when, before=before, after=after)

    async def test_the_first_two_of_four_go(self, scripted: Scripted) -> None:
        server = scripted({"MAIL": SILENCE}, {})
        mailer = AsyncMailer(server.url, max_connections=1)
        async with leaving_nothing(mailer, server):
            first, second, third, fourth = (asyncio.create_task(mailer.send(hello())) for _ in range(4))
            await eventually(lambda: len(server.commands) > 1)
            for task in (second, first):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert (await third).ok
            assert (await fourth).ok
        assert server.connections == 2


class TestATokenFetch:
    class Endpoint(Provider):
        """Gives "fresh"; blocks for a moment, as one that asks a network does."""

        def fetch(self, timeout: float = 0.0) -> Grant:
            threading.Event().wait(0.002)
            return Grant("fresh", 3600.0)

    @staticmethod
    def login(line: str) -> str:
        fresh = b"fresh" in base64.b64decode(line.split(" ")[2])
        return "235 2.7.0 welcome" if fresh else "535 5.7.8 no"

    def server(self, scripted: Scripted) -> ScriptedServer:
        return scripted(Play({"AUTH": self.login}, ("PIPELINING", "AUTH XOAUTH2")))

    @whenever
    async def test_in_a_thread_after_a_refusal(self, scripted: Scripted, when: When) -> None:
        """The token that was kept is refused: another is fetched, and the login is tried once more."""
        server, provider = self.server(scripted), self.Endpoint()
        mailer = AsyncMailer(server.url, username="ann", token=provider)

        async def before() -> None:
            provider._token, provider._until = "stale", float("inf")

        async def act(subject: str) -> None:
            await mailer.send(hello(subject=subject))

        points = await at_every_point(mailer, [server], act, when, before=before)
        assert any("token" in point for point in points), points

    @whenever
    async def test_by_a_coroutine(self, scripted: Scripted, when: When) -> None:
        server = self.server(scripted)

        async def token() -> str:
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return "fresh"

        mailer = AsyncMailer(server.url, username="ann", token=token)
        points = await at_every_point(mailer, [server], lambda subject: mailer.send(hello(subject=subject)), when)
        assert sum("token" in point for point in points) == 2, points

    async def test_who_waits_for_the_same_token_gets_it(self, scripted: Scripted) -> None:
        """The one that fetches is cancelled, the other fetches."""
        server, asked, go = self.server(scripted), [], threading.Event()

        class Slow(Provider):
            def fetch(self, timeout: float = 0.0) -> Grant:
                asked.append(timeout)
                go.wait(PATIENCE)
                return Grant("fresh", 3600.0)

        mailer = AsyncMailer(server.url, username="ann", token=Slow())
        async with leaving_nothing(mailer, server):
            first, second = (asyncio.create_task(mailer.send(hello())) for _ in range(2))
            await eventually(lambda: asked)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            go.set()
            assert (await second).ok


class TestAStream:
    """`send_many`, with the source and the end of every kind."""

    @staticmethod
    def plain(subject: str) -> Iterator[Message]:
        for number in range(MANY):
            yield hello(subject=f"{subject} {number}")

    @staticmethod
    async def slow(subject: str) -> AsyncIterator[Message]:
        for number in range(MANY):
            await asyncio.sleep(0)
            yield hello(subject=f"{subject} {number}")
            await asyncio.sleep(0.001)

    @whenever
    @pytest.mark.parametrize("source", ["plain", "slow"])
    @pytest.mark.parametrize("extensions", [LOCKSTEP, ("PIPELINING",)], ids=["lock step", "pipelining"])
    async def test_that_is_read_to_its_end(
        self, scripted: Scripted, source: str, extensions: tuple[str, ...], when: When
    ) -> None:
        server = scripted(Play(extensions=extensions))
        mailer = AsyncMailer(server.url)

        async def act(subject: str) -> None:
            receipts = [receipt async for receipt in mailer.send_many(getattr(self, source)(subject))]
            assert [receipt.ok for receipt in receipts] == [True] * MANY

        points = await at_every_point(mailer, [server], act, when)
        assert len(points) >= 3 + MANY

    @whenever
    @pytest.mark.parametrize("source", ["plain", "slow"])
    async def test_that_is_closed_after_the_first_receipt(self, scripted: Scripted, source: str, when: When) -> None:
        server = scripted()
        mailer = AsyncMailer(server.url, max_connections=1)

        async def act(subject: str) -> None:
            async with aclosing(mailer.send_many(getattr(self, source)(subject))) as stream:
                async for receipt in stream:
                    assert receipt.ok
                    break

        await at_every_point(mailer, [server], act, when)

    @whenever
    @pytest.mark.parametrize("source", ["plain", "slow"])
    async def test_that_is_left_after_the_first_receipt(self, scripted: Scripted, source: str, when: When) -> None:
        """Nobody closes it: the loop does, when it is collected."""
        server = scripted()
        mailer = AsyncMailer(server.url, max_connections=1)

        async def act(subject: str) -> None:
            async for receipt in mailer.send_many(getattr(self, source)(subject)):
                assert receipt.ok
                break

        await at_every_point(mailer, [server], act, when)

    @whenever
    async def test_whose_replies_are_awaited_when_it_is_closed(self, scripted: Scripted, when: When) -> None:
        """The server takes its time to answer the second content: the one who closes waits, and is cancelled."""
        answers = iter(range(1_000_000))

        def take_its_time(_: str) -> str:
            if next(answers) % 2:
                threading.Event().wait(0.02)
            return "250 2.1.0 sender ok"

        server = scripted({"MAIL": take_its_time})
        mailer = AsyncMailer(server.url, max_connections=1)

        async def act(subject: str) -> None:
            async with aclosing(mailer.send_many(self.plain(subject))) as stream:
                assert (await anext(stream)).ok

        await at_every_point(mailer, [server], act, when)

    @whenever
    async def test_that_fails_over(self, scripted: Scripted, when: When) -> None:
        first, second = scripted({"RCPT": ["250 ok", "450 4.2.1 later", "250 ok"]}), scripted()
        mailer = AsyncMailer(first.url, second.url)

        async def act(subject: str) -> None:
            assert [receipt.ok async for receipt in mailer.send_many(self.plain(subject))] == [True] * MANY

        await at_every_point(mailer, [first, second], act, when)


class TestTheRest:
    @pytest.fixture
    def server(self, scripted: Scripted) -> ScriptedServer:
        return scripted()

    @whenever
    @pytest.mark.parametrize("question", ["verify", "expand", "help"])
    async def test_a_question(self, server: ScriptedServer, question: str, when: When) -> None:
        mailer = AsyncMailer(server.url)

        async def ask(_: str) -> Any:
            return await getattr(mailer, question)("ann")

        await at_every_point(mailer, [server], ask, when)

    @whenever
    async def test_connect(self, server: ScriptedServer, when: When) -> None:
        mailer = AsyncMailer(server.url)

        async def connect(_: str) -> Any:
            return await mailer.connect()

        await at_every_point(mailer, [server], connect, when)

    @whenever
    async def test_check(self, server: ScriptedServer, scripted: Scripted, when: When) -> None:
        other, broken = scripted(), scripted({"EHLO": "502 no", "HELO": "502 no"})
        servers = [broken, server, other]
        mailer = AsyncMailer(*(one.url for one in servers))

        async def check(_: str) -> Any:
            return await mailer.check()

        await at_every_point(mailer, servers, check, when)

    @whenever
    @pytest.mark.parametrize("answer", ["221 bye", SILENCE], ids=["QUIT is answered", "QUIT is not answered"])
    async def test_close(self, scripted: Scripted, answer: Any, when: When, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("smtpbackend.aio.pool.GOODBYE", 0.05)
        servers = [scripted({"QUIT": answer}), scripted({"QUIT": answer})]
        mailer = AsyncMailer(*(server.url for server in servers), strategy="round_robin")
        numbers = itertools.count()

        async def before() -> None:
            for _ in servers:
                await mailer.send(hello(subject=f"before {next(numbers)}"))

        async def close(_: str) -> None:
            await mailer.close()

        await at_every_point(mailer, servers, close, when, before=before)

    @whenever
    async def test_a_goodbye_to_what_was_idle_for_too_long(self, server: ScriptedServer, when: When) -> None:
        mailer = AsyncMailer(server.url, max_connections=1, max_idle=1e-9)

        async def before() -> None:
            await mailer.connect()

        async def act(subject: str) -> None:
            await mailer.send(hello(subject=subject))

        await at_every_point(mailer, [server], act, when, before=before)

    @whenever
    async def test_the_end_of_the_block(self, server: ScriptedServer, when: When) -> None:
        mailer = AsyncMailer(server.url)

        async def act(subject: str) -> None:
            async with mailer:
                await mailer.send(hello(subject=subject))

        await at_every_point(mailer, [server], act, when)
