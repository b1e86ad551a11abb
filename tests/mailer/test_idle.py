"""What is idle is closed in time, by nobody's send: after `max_idle`, and soon after its server has ended it."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Mailer
from smtpbackend.blocking.idle import watch
from smtpbackend.testing import SILENCE, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import PATIENCE, Driven, Twin, hello
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates

SOON = 0.05  # seconds of max_idle: long enough to be idle for a while, whatever that is
NAME = "smtpbackend-idle"


def delayed(_: str) -> str:
    """The connection is in use most of the time."""
    time.sleep(0.02)
    return "250 ok"


def watching() -> list[threading.Thread]:
    """The threads that look at what is idle."""
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def comes(mailer: Driven, condition: Callable[[], object]) -> bool:
    """Whether it comes true, while the event loop of an AsyncMailer runs and nobody sends."""
    return mailer.begin([]).wait_until(condition)


def has_none(mailer: Driven) -> Callable[[], bool]:
    return lambda: mailer.raw.stats().open == 0


class TestMaxIdle:
    def test_it_is_closed_with_quit_though_nobody_sends(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url, max_idle=SOON)
        mailer.send(hello())
        assert comes(mailer, has_none(mailer))
        assert comes(mailer, lambda: not server.open_connections)
        assert server.speakers[0].verbs[-1] == "QUIT"
        assert mailer.send(hello()).ok
        assert server.connections == 2

    def test_all_that_are_idle_are(self, twin: Twin, scripted: Scripted) -> None:
        first, second = scripted(), scripted()
        mailer = twin(first.url, second.url, max_idle=SOON, strategy="round_robin")
        assert [mailer.send(hello()).server for _ in range(2)] == [first.name, second.name]
        assert comes(mailer, has_none(mailer))
        for server in (first, second):
            assert comes(mailer, lambda server=server: not server.open_connections)  # type: ignore[misc]
            assert server.speakers[0].verbs[-1] == "QUIT"

    def test_again_and_again(self, twin: Twin, scripted: Scripted) -> None:
        """When nothing is idle nobody looks; what is idle later is found all the same."""
        server = scripted()
        mailer = twin(server.url, max_idle=SOON)
        for number in range(1, 4):
            mailer.send(hello())
            assert comes(mailer, has_none(mailer))
            assert comes(mailer, lambda: not server.open_connections)
            assert server.connections == number

    def test_one_in_use_is_not(self, twin: Twin, scripted: Scripted) -> None:
        """However long its server takes; the time begins when it comes back."""
        go_on = threading.Event()

        def late(_: str) -> str:
            go_on.wait(PATIENCE)
            return "250 ok"

        server, other = scripted({".": late}), scripted()
        slow, quick = twin(server.url, max_idle=SOON), twin(other.url, max_idle=SOON)
        sending = slow.begin([hello()])
        assert sending.wait_until(lambda: server.handed_over)
        quick.send(hello())
        assert comes(quick, has_none(quick))  # so somebody has looked
        assert slow.raw.stats().open == 1
        go_on.set()
        assert sending.wait()
        assert sending.results[0].ok  # type: ignore[union-attr]
        assert comes(slow, has_none(slow))

    def test_a_server_that_does_not_answer_quit_is_left(self, twin: Twin, scripted: Scripted) -> None:
        """And what is sent meanwhile does not wait for that."""
        server = scripted({"QUIT": SILENCE})
        mailer = twin(server.url, max_idle=SOON)
        mailer.send(hello())
        assert comes(mailer, lambda: server.speakers[0].verbs[-1] == "QUIT")
        assert mailer.send(hello()).ok
        assert comes(mailer, lambda: not server.open_connections)


class TestTheServerEndsIt:
    """Else it would stand in CLOSE_WAIT until the next send, which may be tomorrow."""

    @pytest.mark.parametrize("tls", ["none", "required"])
    @pytest.mark.parametrize("said", [b"", b"421 4.4.2 idle for too long\r\n"], ids=["without a word", "421"])
    def test_it_is_closed_soon(self, twin: Twin, scripted: Scripted, ca: Certificates, said: bytes, tls: str) -> None:
        server = scripted(Play(extensions=("STARTTLS",)), certificate="server")
        mailer = twin({"host": "127.0.0.1", "port": server.port, "tls": tls, "ca_file": str(ca.ca_file)}, max_idle=3600)
        mailer.send(hello())
        if said:
            server.say(said)
        else:
            server.cut()
        assert comes(mailer, has_none(mailer))
        assert comes(mailer, lambda: not server.open_connections)
        assert "QUIT" not in server.speakers[0].verbs
        assert mailer.send(hello()).ok

    def test_and_the_others_stay(self, twin: Twin, scripted: Scripted) -> None:
        first, second = scripted(), scripted()
        mailer = twin(first.url, second.url, max_idle=3600, strategy="round_robin")
        assert [mailer.send(hello()).server for _ in range(2)] == [first.name, second.name]
        first.cut()
        assert comes(mailer, lambda: mailer.raw.stats().open == 1)
        assert second.open_connections == 1
        assert "QUIT" not in second.speakers[0].verbs


class TestTheThread:
    """A blocking mailer is looked at by a thread: one for all, and none where there is nothing to look at."""

    def test_there_is_one_for_all_mailers_and_it_ends_when_nothing_is_idle(self, scripted: Scripted) -> None:
        assert wait_until(lambda: not watching(), PATIENCE)
        server = scripted()
        mailers = [Mailer(server.url, max_idle=3600) for _ in range(20)]
        for mailer in mailers:
            mailer.send(hello())
        [thread] = watching()
        assert thread.daemon  # it keeps no program
        for mailer in mailers:
            mailer.close()
        assert wait_until(lambda: not watching(), PATIENCE)
        assert not watch.pools

    def test_there_is_none_before_something_is_idle(self, scripted: Scripted) -> None:
        assert wait_until(lambda: not watching(), PATIENCE)
        server = scripted()
        mailer = Mailer(server.url)
        stream = mailer.send_many(hello() for _ in range(2))
        next(stream)
        assert not watching()
        list(stream)
        assert len(watching()) == 1
        mailer.close()

    def test_it_is_not_begun_anew_for_each_message(self, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
        """It would be, if it ended whenever it finds the one connection in use."""
        assert wait_until(lambda: not watching(), PATIENCE)
        server = scripted({".": delayed})
        begun: list[str] = []
        start = threading.Thread.start

        def count(thread: threading.Thread) -> None:
            begun.append(thread.name)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", count)
        with Mailer(server.url) as mailer:
            for _ in range(60):
                mailer.send(hello())
        assert begun.count(NAME) == 1

    def test_it_holds_no_mailer(self, scripted: Scripted) -> None:
        server = scripted()
        mailer = Mailer(server.url, max_idle=3600)
        mailer.send(hello())
        pool = weakref.ref(mailer._pool)
        with pytest.warns(ResourceWarning):
            del mailer
        assert wait_until(lambda: not server.open_connections, PATIENCE)
        assert wait_until(lambda: pool() is None, PATIENCE)

    def test_where_none_can_be_started_what_is_due_goes_with_the_next_send(
        self, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No threads at all, or no more of them; Python 3.12 starts none when the program ends."""
        assert wait_until(lambda: not watching(), PATIENCE)
        server = scripted()

        start = threading.Thread.start

        def start_none_of_ours(thread: threading.Thread) -> None:
            if thread.name == NAME:
                raise RuntimeError("can't start new thread")
            start(thread)

        with Mailer(server.url, max_idle=1e-9) as mailer:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start_none_of_ours)
                mailer.send(hello())
                assert mailer.stats().idle == 1
                mailer.send(hello())
                assert server.connections == 2
                assert server.speakers[0].verbs[-1] == "QUIT"
                assert not watching()
            mailer.send(hello())  # now that there are threads again
            assert wait_until(lambda: mailer.stats().open == 0, PATIENCE)

    def test_a_pool_that_fails_does_not_end_it_for_good(
        self, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = scripted()
        failed: list[Any] = []
        monkeypatch.setattr(threading, "excepthook", failed.append)

        class Failing:
            def look(self) -> float | None:
                raise OSError("too bad")

        watch.add(Failing())
        assert wait_until(lambda: bool(failed) and not watching(), PATIENCE)
        with Mailer(server.url, max_idle=SOON) as mailer:
            mailer.send(hello())
            assert wait_until(lambda: mailer.stats().open == 0, PATIENCE)


class TestTheTimer:
    """An AsyncMailer is looked at by a timer of its loop."""

    async def test_it_is_no_task(self, scripted: Scripted) -> None:
        """Which a service that waits for its tasks would wait for."""
        mailer = AsyncMailer(scripted().url, max_idle=3600)
        await mailer.send(hello())
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await mailer.close()

    def test_a_loop_may_end_beside_it(self, scripted: Scripted) -> None:
        """`asyncio.run` returns, and the connection has its QUIT."""
        server = scripted()

        async def main() -> None:
            await mailer.send(hello())

        mailer = AsyncMailer(server.url, max_idle=3600)
        asyncio.run(main())
        server.wait_for_end()
        assert server.speakers[0].verbs[-1] == "QUIT"
