"""Who waits for a turn on a connection, how long; and who sends from inside of a delivery, and must not wait."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Mailer, Message
from smtpbackend.aio.mailer import pool_of
from smtpbackend.errors import DeliveryError, TimedOut
from smtpbackend.testing import Play, ScriptedServer
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Driven, Twin, hello
from tests.servers.ports import wait_until
from tests.telling import names_of

CONNECT = 0.5  # seconds; everybody here waits longer for a turn


class Gate:
    """A server that answers contents when it is let."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, _: str) -> str:
        self.open.wait(30)
        return "250 ok"


class Census:
    """What counts connections at the server: ``most`` were open when a content came. Until QUIT is answered one is."""

    def __init__(self, scripted: Scripted) -> None:
        self.server = scripted(Play({".": self._count, "QUIT": self._goodbye}))
        self.most = 0
        self._ended = 0

    def _count(self, _: str) -> str:
        self.most = max(self.most, self.server.connections - self._ended)
        return "250 ok"

    def _goodbye(self, _: str) -> str:
        time.sleep(0.05)  # time enough to open another one, and to send on it
        self._ended += 1
        return "221 bye"


def lease(mailer: Driven) -> Any:
    """Somebody else's connection."""
    return mailer.on_pool("lease", mailer.raw.configuration.servers[0], False, None)


def give_back(mailer: Driven, connection: Any) -> None:
    connection.session.end("of a test")
    mailer.on_pool("release", connection)


class TestTurns:
    """A turn is not a connect: a call waits while turns advance."""

    def test_a_burst_waits_longer_than_a_connect_may_take(self, twin: Twin, scripted: Scripted) -> None:
        gate = Gate()
        server = scripted({".": gate})
        mailer = twin(server.url, max_connections=1, timeout={"connect": CONNECT})
        begun = mailer.begin([hello() for _ in range(6)])
        assert begun.wait_until(lambda: mailer.raw.stats().waiting == 5)
        late = time.monotonic() + 2 * CONNECT
        assert begun.wait_until(lambda: time.monotonic() > late)
        assert mailer.raw.stats().waiting == 5
        gate.open.set()
        assert begun.wait()
        assert [result for result in begun.results if isinstance(result, BaseException)] == []
        assert server.connections == 1
        assert len(server.handed_over) == 6

    def test_no_longer_than_the_deadline(self, twin: Twin, scripted: Scripted) -> None:
        mailer = twin(scripted().url, max_connections=1, deadline=2)
        in_use = lease(mailer)
        with pytest.raises(TimedOut, match="raise max_connections, or deadline"):
            mailer.send(hello())
        assert mailer.raw.stats().waiting == 0
        give_back(mailer, in_use)
        assert mailer.send(hello()).ok

    def test_nor_than_a_final_reply_in_which_no_connection_is_given_back(self, twin: Twin, scripted: Scripted) -> None:
        events: list[str] = []
        mailer = twin(
            scripted().url,
            max_connections=1,
            timeout={"final": 0.2},
            listeners=[lambda event: events.append(event.name)],
        )
        in_use = lease(mailer)
        with pytest.raises(TimedOut, match=r"given back for 0.2 s \(timeout: final\); raise max_connections"):
            mailer.send(hello())
        assert mailer.raw.stats().waiting == 0
        assert "server_failed" not in events
        give_back(mailer, in_use)

    def test_one_that_says_quit_is_open_until_it_is_answered(self, twin: Twin, scripted: Scripted) -> None:
        """A server that takes so many from us counts it, too."""
        census = Census(scripted)
        results = twin(census.server.url, max_connections=1, max_messages=1).send_at_once([hello() for _ in range(6)])
        assert [result for result in results if isinstance(result, BaseException)] == []
        assert (census.server.connections, census.most) == (6, 1)

    def test_nobody_stands_in_line_for_a_dead_server(self, twin: Twin, unreachable: int) -> None:
        """Each would try in its turn, and the last one after minutes."""
        mailer = twin(f"smtp://127.0.0.1:{unreachable}", max_connections=1, timeout={"connect": CONNECT})
        results = mailer.send_at_once([hello() for _ in range(8)])
        assert all(isinstance(result, DeliveryError) for result in results)
        assert sum(isinstance(result, TimedOut) for result in results) >= 4
        assert mailer.raw.stats().open == mailer.raw.stats().waiting == 0


@pytest.fixture
def server(scripted: Scripted) -> ScriptedServer:
    return scripted()


class TestInsideAStream:
    """A send from inside of a delivery has a connection beyond the limit, which is closed afterwards.

    There is one connection, and a wait for it would last longer than any test.
    """

    def test_who_takes_the_receipts(self, server: ScriptedServer) -> None:
        counts = []
        with Mailer(server.url, max_connections=1, window=1) as mailer:
            for receipt in mailer.send_many([hello(subject=str(n)) for n in range(3)]):
                assert receipt.ok
                assert mailer.send(hello(subject="inner")).ok
                counts.append((mailer.stats().open, mailer.stats().idle))
            assert mailer.stats().open == mailer.stats().idle == 1
        assert len(server.handed_over) == 6
        assert counts[:2] == [(1, 0)] * 2  # while the stream has its own
        assert [speaker.verbs[-1] for speaker in server.speakers[1:3]] == ["QUIT"] * 2

    def test_what_is_beyond_the_limit_is_counted_as_open(self, server: ScriptedServer) -> None:
        with Mailer(server.url, max_connections=1, window=1) as mailer:
            outer, inner = mailer.send_many([hello()] * 2), mailer.send_many([hello()] * 2)
            next(outer), next(inner)
            assert (mailer.stats().open, mailer.stats().idle) == (2, 0)
            assert [receipt.ok for receipt in inner] == [True]
            assert (mailer.stats().open, mailer.stats().idle) == (1, 0)
            assert [receipt.ok for receipt in outer] == [True]
            assert (mailer.stats().open, mailer.stats().idle) == (1, 1)

    def test_a_stream_within_a_stream_within_a_stream(self, server: ScriptedServer) -> None:
        with Mailer(server.url, max_connections=1, window=1) as mailer:
            for outer in mailer.send_many([hello(), hello()]):
                for middle in mailer.send_many([hello(), hello()]):
                    for inner in mailer.send_many([hello(), hello()]):
                        assert outer.ok
                        assert middle.ok
                        assert inner.ok
            assert mailer.stats().open == 1
        assert len(server.handed_over) == 2 + 4 + 8

    def test_over_several_connections(self, server: ScriptedServer) -> None:
        """Who takes the receipts holds none itself: the others do, and wait for it."""
        with Mailer(server.url, max_connections=2, window=1) as mailer:
            for receipt in mailer.send_many((hello() for _ in range(12)), connections=2):
                assert receipt.ok
                assert mailer.send(hello()).ok
            assert mailer.stats().open <= 2
        assert len(server.handed_over) == 24

    def test_a_stream_over_several_within_another(self, server: ScriptedServer) -> None:
        """Its threads are inside of what the one that began it is inside of."""
        with Mailer(server.url, max_connections=2, window=1) as mailer:
            outer = mailer.send_many([hello()] * 3), mailer.send_many([hello()] * 3)
            assert all(next(stream).ok for stream in outer)
            assert all(receipt.ok for receipt in mailer.send_many([hello()] * 6, connections=2))
            assert all(receipt.ok for stream in outer for receipt in stream)
        assert len(server.handed_over) == 12

    def test_streams_over_several_within_others_do_not_wait_for_each_other(self, server: ScriptedServer) -> None:
        """Each of two threads has one of two connections, and needs two more."""
        results: list[bool] = []
        mailer = Mailer(server.url, max_connections=2, window=1)
        both = threading.Barrier(2)

        def work() -> None:
            for receipt in mailer.send_many([hello()] * 2):
                results.append(receipt.ok)
                if len(results) <= 2:
                    both.wait(30)
                    results.extend(inner.ok for inner in mailer.send_many([hello()] * 8, connections=2))

        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == [True] * 20
        mailer.close()

    def test_that_ended_leaves_nobody_inside(self, server: ScriptedServer) -> None:
        """Read to its end, closed half-way, or thrown away."""
        with Mailer(server.url, max_connections=1, window=1, deadline=2) as mailer:
            assert all(receipt.ok for receipt in mailer.send_many([hello()]))
            stream: Any = mailer.send_many([hello(), hello()])
            next(stream)
            stream.close()
            next(mailer.send_many([hello(), hello()]))
            in_use = mailer._pool.lease(mailer.configuration.servers[0], False, None)
            with pytest.raises(TimedOut, match="waited for its turn"):
                mailer.send(hello())
            mailer._pool.release(in_use)

    def test_a_server_that_has_too_many_then_refuses_it_once(self, scripted: Scripted) -> None:
        """Nobody else can give one back: to wait, or to ask again, would be in vain."""
        server = scripted({}, {"": "421 4.3.2 too many connections"})
        with Mailer(server.url, max_connections=1, window=1) as mailer:
            stream = mailer.send_many([hello(), hello()])
            next(stream)
            with pytest.raises(DeliveryError, match="too many connections"):
                mailer.send(hello())
            assert server.connections == 2
            assert [receipt.ok for receipt in stream] == [True]
            assert mailer.stats().open == 1
            assert not mailer._route._resting, "it is well, and takes what comes over the others"


def answering(mailer: Callable[[], Mailer], results: list[Any]) -> Callable[[Any], None]:
    """A Listener that sends a message for each one that was sent."""

    def listen(event: Any) -> None:
        if names_of(event) == ["message_sent"] and event.message.subject != "answer":
            results.append(mailer().send(hello(subject="answer")).ok)

    return listen


class TestInsideAThread:
    def test_a_listener(self, scripted: Scripted) -> None:
        server, results = scripted(), []
        mailer: Mailer = Mailer(server.url, max_connections=1, listeners=[answering(lambda: mailer, results)])
        with mailer:
            assert all(receipt.ok for receipt in mailer.send_many([hello() for _ in range(5)]))
            assert mailer.send(hello()).ok
        assert results == [True] * 6

    @pytest.mark.parametrize("connections", [2, 8])
    def test_a_listener_in_each_thread_of_a_stream(self, scripted: Scripted, connections: int) -> None:
        server, results = scripted(), []
        mailer: Mailer = Mailer(
            server.url, max_connections=connections, window=1, listeners=[answering(lambda: mailer, results)]
        )
        with mailer:
            receipts = mailer.send_many([hello() for _ in range(40)], connections=connections)
            assert all(receipt.ok for receipt in receipts)
        assert results == [True] * 40

    @pytest.mark.parametrize("connections", [1, 2])
    def test_a_source(self, scripted: Scripted, connections: int) -> None:
        server = scripted()
        mailer = Mailer(server.url, max_connections=connections, window=1)

        def messages() -> Iterator[Message]:
            for _ in range(8):
                assert mailer.send(hello()).ok
                yield hello()

        with mailer:
            assert all(receipt.ok for receipt in mailer.send_many(messages(), connections=connections))
        assert len(server.handed_over) == 16

    @pytest.mark.parametrize("connections", [1, 2])
    def test_many_threads_at_once_which_all_send_from_inside(self, scripted: Scripted, connections: int) -> None:
        """More than there are connections."""
        server, results = scripted(), []
        mailer: Mailer = Mailer(server.url, max_connections=connections, window=1)

        def work() -> None:
            for receipt in mailer.send_many([hello() for _ in range(5)]):
                results.append(receipt.ok and mailer.send(hello()).ok)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == [True] * 20
        mailer.close()

    @pytest.mark.parametrize("connections", [1, 2])
    def test_a_stream_that_goes_on_in_another_thread(self, scripted: Scripted, connections: int) -> None:
        """There one is inside, and in the first thread not any more."""
        server = scripted()
        mailer = Mailer(server.url, max_connections=connections, window=1)
        stream = mailer.send_many((hello() for _ in range(12)), connections=connections)
        moved, go_on, results = threading.Event(), threading.Event(), []

        def begin() -> None:
            results.append(next(stream).ok)
            results.append(mailer.send(hello(subject="in the first thread")).ok)
            moved.set()
            go_on.wait(30)
            results.append(mailer.send(hello(subject="later")).ok)

        first = threading.Thread(target=begin)
        first.start()
        assert moved.wait(30)
        assert next(stream).ok
        assert mailer.send(hello(subject="in the second thread")).ok
        if connections == 1:
            go_on.set()
            assert wait_until(lambda: mailer.stats().waiting == 1, 20)
        assert all(receipt.ok for receipt in stream)
        go_on.set()
        first.join(30)
        assert results == [True] * 3
        mailer.close()


class TestInsideATask:
    """The same task, and the tasks that it makes."""

    def test_its_own_and_its_children_s(self, scripted: Scripted) -> None:
        """However many children send at once, each stream lends one connection at a time."""
        census = Census(scripted)

        async def run() -> None:
            async with AsyncMailer(census.server.url, max_connections=1, window=1) as mailer:
                async for receipt in mailer.send_many([hello() for _ in range(3)]):
                    assert receipt.ok
                    assert (await mailer.send(hello())).ok
                    assert (await asyncio.wait_for(mailer.send(hello()), 30)).ok
                    sent = await asyncio.gather(*(mailer.send(hello()) for _ in range(4)))
                    assert all(one.ok for one in sent)

        asyncio.run(run())
        assert len(census.server.handed_over) == 3 * 7
        assert census.most == 2

    @pytest.mark.parametrize("connections", [1, 2])
    def test_many_tasks_at_once_which_all_send_from_inside(self, scripted: Scripted, connections: int) -> None:
        server = scripted()

        async def work(mailer: AsyncMailer) -> None:
            async for receipt in mailer.send_many([hello() for _ in range(5)], connections=connections):
                assert receipt.ok
                assert (await mailer.send(hello())).ok

        async def run() -> None:
            async with AsyncMailer(server.url, max_connections=connections, window=1) as mailer:
                await asyncio.gather(*(work(mailer) for _ in range(4)))

        asyncio.run(run())
        assert len(server.handed_over) == 40

    def test_a_stream_within_a_stream(self, server: ScriptedServer) -> None:
        async def run() -> None:
            async with AsyncMailer(server.url, max_connections=2, window=1) as mailer:
                async for outer in mailer.send_many([hello()] * 3, connections=2):
                    async for middle in mailer.send_many([hello()] * 2):
                        async for inner in mailer.send_many([hello()] * 2, connections=2):
                            assert outer.ok
                            assert middle.ok
                            assert inner.ok
                assert mailer.stats().open <= 2

        asyncio.run(run())
        assert len(server.handed_over) == 3 + 6 + 12

    @pytest.mark.parametrize("connections", [1, 2])
    def test_a_stream_that_goes_on_in_another_task(self, server: ScriptedServer, connections: int) -> None:
        """There one is inside, and in the first task not any more; also where both run in one context."""
        stream: Any = None

        async def begin(mailer: AsyncMailer) -> None:
            nonlocal stream
            stream = mailer.send_many([hello()] * 12, connections=connections)
            assert (await anext(stream)).ok
            assert (await mailer.send(hello())).ok

        async def outside(mailer: AsyncMailer) -> None:
            with pytest.raises(TimedOut, match="waited for its turn"):
                await mailer.send(hello())

        async def go_on(mailer: AsyncMailer) -> None:
            async for receipt in stream:
                assert receipt.ok
                assert (await mailer.send(hello())).ok
            await mailer.close()

        with asyncio.Runner() as runner:
            mailer = AsyncMailer(
                server.url, max_connections=connections, window=1, deadline=3 if connections == 1 else 60
            )
            runner.run(begin(mailer))
            if connections == 1:
                runner.run(outside(mailer))
            runner.run(go_on(mailer))
        assert len(server.handed_over) == 12 + 1 + 11

    def test_a_stream_that_was_closed_half_way_leaves_nobody_inside(self, server: ScriptedServer) -> None:
        async def run() -> None:
            async with AsyncMailer(server.url, max_connections=1, window=1, deadline=2) as mailer:
                stream = mailer.send_many([hello(), hello()])
                await anext(stream)
                await stream.aclose()
                in_use = await pool_of(mailer).lease(mailer.configuration.servers[0], False, None)
                with pytest.raises(TimedOut, match="waited for its turn"):
                    await mailer.send(hello())
                await pool_of(mailer).release(in_use)

        asyncio.run(run())

    def test_a_server_that_has_too_many_then_refuses_it_once(self, scripted: Scripted) -> None:
        server = scripted({}, {"": "421 4.3.2 too many connections"})

        async def run() -> None:
            async with AsyncMailer(server.url, max_connections=1, window=1) as mailer:
                stream = mailer.send_many([hello(), hello()])
                await anext(stream)
                with pytest.raises(DeliveryError, match="too many connections"):
                    await mailer.send(hello())
                assert [receipt.ok async for receipt in stream] == [True]

        asyncio.run(run())
        assert server.connections == 2

    def test_a_task_that_was_made_before_waits_for_its_turn(self, scripted: Scripted) -> None:
        server = scripted()

        async def run() -> None:
            async with AsyncMailer(server.url, max_connections=1, window=1) as mailer:
                go_on = asyncio.Event()

                async def other() -> None:
                    await go_on.wait()
                    assert (await mailer.send(hello())).ok

                task = asyncio.create_task(other())
                async for receipt in mailer.send_many([hello(), hello()]):
                    assert receipt.ok
                    go_on.set()
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                await task

        asyncio.run(run())
        assert server.connections == 1


class TestCrowd:
    def test_a_server_that_says_so_by_its_code_is_waited_for(self, twin: Twin, scripted: Scripted) -> None:
        """Microsoft 365; no text is needed."""
        gate = Gate()
        server, other = scripted({".": gate}, {"": "432 4.3.2 see https://example.com/limits"}), scripted()
        events: list[str] = []
        mailer = twin(server.url, other.url, max_connections=2, listeners=[lambda event: events.append(event.name)])
        begun = mailer.begin([hello() for _ in range(6)])
        assert begun.wait_until(lambda: server.connections == 2 and mailer.raw.stats().waiting == 5)
        gate.open.set()
        assert begun.wait()
        assert [getattr(result, "server", result) for result in begun.results] == [server.name] * 6
        assert "server_failed" not in events
        assert (server.connections, other.connections) == (2, 0)
