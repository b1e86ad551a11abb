"""What a mailer leaves behind: nothing, when it is closed while it sends and when it is forgotten."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Mailer, Status
from smtpbackend.blocking.mailer import SharedMailer
from smtpbackend.errors import InvalidSetting, MailerClosed, RecipientsRefused
from smtpbackend.testing import CUT, Play, ScriptedServer
from tests.mailer.conftest import Scripted
from tests.mailer.twins import PATIENCE, Driven, Twin, hello
from tests.processes.script import run
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates


class Slow:
    """What a server says to a content: nothing, until it may go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, _: str) -> str:
        self.go_on.wait(PATIENCE)
        return "250 ok"


def comes_to_none(mailer: Driven, server: ScriptedServer) -> bool:
    """Whether no connection is left, neither here nor there."""
    return mailer.begin([]).wait_until(lambda: mailer.raw.stats().open == 0 and server.open_connections == 0)


class TestWhileItSends:
    def test_who_has_a_connection_finishes_and_who_waits_gets_none(self, twin: Twin, scripted: Scripted) -> None:
        slow = Slow()
        server, other = scripted({".": slow}), scripted()
        events: list[str] = []
        mailer = twin(
            server.url, other.url, max_connections=2, listeners=[lambda event: events.append(event.name)], max_idle=3600
        )
        sending = mailer.begin([hello() for _ in range(6)])
        assert sending.wait_until(lambda: len(server.handed_over) == 2 and mailer.raw.stats().waiting == 4)
        mailer.close()
        slow.go_on.set()
        assert sending.wait()
        closed = [result for result in sending.results if isinstance(result, MailerClosed)]
        assert len(closed) == 4
        assert sum(not isinstance(result, BaseException) and result.ok for result in sending.results) == 2
        assert closed[0].is_transient
        assert closed[0].receipt is not None
        assert [outcome.status for outcome in closed[0].receipt.outcomes] == [Status.DEFERRED]
        assert "server_failed" not in events  # they are well
        assert comes_to_none(mailer, server)
        assert (server.connections, other.connections) == (2, 0)
        assert server.speakers[0].verbs[-1] == "QUIT"

    def test_a_connection_that_is_being_opened_is_not_kept(self, twin: Twin, scripted: Scripted) -> None:
        slow = Slow()
        server = scripted({"EHLO": lambda line: slow(line)})
        mailer = twin(server.url, max_idle=3600)
        sending = mailer.begin([hello()])
        assert sending.wait_until(lambda: server.commands)
        mailer.close()
        slow.go_on.set()
        assert sending.wait()
        assert sending.results[0].ok  # type: ignore[union-attr]
        assert comes_to_none(mailer, server)

    def test_a_stream_opens_no_other_connection(self, twin: Twin, scripted: Scripted) -> None:
        """It goes on over the one that it has, for as many messages as that carries."""
        server = scripted()
        mailer = twin(server.url, max_messages=3, window=1)
        stream = mailer.stream(hello() for _ in range(8))
        assert next(stream).ok
        mailer.close()
        receipts = list(stream)
        assert [receipt.ok for receipt in receipts] == [True] * 2 + [False] * 5
        assert {type(receipt.error) for receipt in receipts[2:]} == {MailerClosed}
        assert server.connections == 1
        assert comes_to_none(mailer, server)

    def test_nor_does_a_message_whose_connection_is_lost(self, twin: Twin, scripted: Scripted) -> None:
        slow = Slow()
        server = scripted({"MAIL": lambda line: slow(line) and CUT})
        mailer = twin(server.url)
        sending = mailer.begin([hello()])
        assert sending.wait_until(lambda: "MAIL" in [command[:4] for command in server.commands])
        mailer.close()
        slow.go_on.set()
        assert sending.wait()
        assert isinstance(sending.results[0], Exception)
        assert comes_to_none(mailer, server)
        assert server.connections == 1

    def test_a_message_sent_afterwards_opens_a_connection_that_is_kept(self, twin: Twin, scripted: Scripted) -> None:
        slow = Slow()
        server = scripted({".": slow}, {})
        mailer = twin(server.url)
        sending = mailer.begin([hello()])
        assert sending.wait_until(lambda: server.handed_over)
        mailer.close()
        later = mailer.begin([hello()])
        assert later.wait()
        assert later.results[0].ok  # type: ignore[union-attr]
        assert mailer.send(hello()).ok
        slow.go_on.set()
        assert sending.wait()
        assert mailer.raw.stats().idle == 1
        assert server.connections == 2

    async def test_the_end_of_async_with_leaves_nothing(self, scripted: Scripted) -> None:
        """The tasks are not awaited inside, as they should be."""
        slow = Slow()
        server = scripted({".": slow})
        async with AsyncMailer(server.url, max_connections=2, max_idle=3600) as mailer:
            tasks = [asyncio.create_task(mailer.send(hello())) for _ in range(5)]
            while len(server.handed_over) < 2:
                await asyncio.sleep(0.005)
        slow.go_on.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(result, MailerClosed) for result in results) == 3
        assert mailer.stats().open == 0
        assert server.connections == 2


@contextmanager
def no_collector() -> Iterator[None]:
    """What goes here goes because nobody holds it any more."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class TestForgotten:
    """A mailer that nobody closes and nobody has any more."""

    def test_it_closes_its_connections_and_warns(self, scripted: Scripted) -> None:
        server = scripted()
        mailer = Mailer(server.url, max_idle=3600)
        mailer.send(hello())
        with no_collector(), pytest.warns(ResourceWarning, match=r"unclosed <Mailer 127\.0\.0\.1:\d+>: call its close"):
            del mailer
        server.wait_for_end()
        assert server.speakers[0].verbs[-1] == "QUIT"

    async def test_an_async_one_too(self, scripted: Scripted) -> None:
        """One for each of fifty requests: their sockets go with them, and not when the collector comes."""
        server = scripted()

        async def serve() -> None:
            assert (await AsyncMailer(server.url, max_idle=3600).send(hello())).ok

        with no_collector(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(10):
                await serve()
            await asyncio.gather(*[serve() for _ in range(40)])
            await asyncio.to_thread(server.wait_for_end)
        assert [str(one.message).partition(" 127")[0] for one in told] == ["unclosed <AsyncMailer"] * 50
        assert {one.category for one in told} == {ResourceWarning}
        assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"] * 50
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_inside_tls_as_well(self, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=("STARTTLS",)), certificate="server")
        mailer = AsyncMailer(f"smtp://127.0.0.1:{server.port}?tls=required", ca_file=str(ca.ca_file))
        await mailer.send(hello())
        with no_collector(), pytest.warns(ResourceWarning):
            del mailer
        await asyncio.to_thread(server.wait_for_end)
        assert server.speakers[0].verbs[-1] == "QUIT"

    async def test_in_another_thread(self, scripted: Scripted) -> None:
        """Which must not touch what the loop has."""
        server = scripted()
        held = [AsyncMailer(server.url)]
        await held[0].send(hello())
        with no_collector(), pytest.warns(ResourceWarning):
            await asyncio.to_thread(held.clear)
        await asyncio.to_thread(server.wait_for_end)
        assert server.speakers[0].verbs[-1] == "QUIT"

    async def test_its_server_has_hung_up(self, scripted: Scripted) -> None:
        server = scripted()
        mailer = AsyncMailer(server.url)
        await mailer.send(hello())
        await asyncio.to_thread(server.cut)
        with pytest.warns(ResourceWarning):
            del mailer
        await asyncio.sleep(0)

    @pytest.mark.parametrize("between", ["asyncio.run(main())", "loop.run_until_complete(main()); loop.close()"])
    def test_at_the_end_of_its_loop(self, scripted: Scripted, tmp_path: Path, between: str) -> None:
        """A local variable of the main coroutine: the loop has a turn or two left."""
        server = scripted()
        source = f"""
            async def main():
                mailer = AsyncMailer(sys.argv[1])
                await mailer.send(hello())

            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "unclosed <AsyncMailer")
            loop = asyncio.new_event_loop()
            {between}
            loop.close()
            gc.collect()
            """
        assert run(tmp_path, source, server.url) == ""
        server.wait_for_end()
        assert server.speakers[0].verbs[-1] == "QUIT"

    def test_after_its_loop(self, scripted: Scripted) -> None:
        """`asyncio.run` has closed its connections, and there is nothing to tell."""
        server = scripted()
        mailer = AsyncMailer(server.url)
        asyncio.run(mailer.send(hello()))  # type: ignore[arg-type]
        del mailer
        gc.collect()
        server.wait_for_end()
        assert server.speakers[0].verbs[-1] == "QUIT"

    def test_one_that_is_closed_or_was_not_used_says_nothing(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        mailer.send(hello())
        mailer.close()
        twin._mailers.clear()
        del mailer
        twin.kind(server.url)
        gc.collect()

    def test_nor_one_whose_settings_were_wrong(self, twin: Twin) -> None:
        with pytest.raises(InvalidSetting):
            twin.kind("smtp://localhost", max_idle=-1)
        gc.collect()

    def test_after_a_refusal_the_collector_does_it(self, scripted: Scripted) -> None:
        """The error and its receipt hold each other, and with their traceback the mailer."""
        server = scripted({"RCPT": "550 no"})

        def send() -> None:
            with pytest.raises(RecipientsRefused):
                Mailer(server.url).send(hello())

        send()
        with pytest.warns(ResourceWarning):
            gc.collect()
        server.wait_for_end()

    def test_that_warnings_are_errors_does_not_keep_it_open(
        self, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unraisable: list[Any] = []
        monkeypatch.setattr("sys.unraisablehook", lambda thrown: unraisable.append(thrown.exc_type))
        server = scripted()
        mailer = Mailer(server.url)
        mailer.send(hello())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del mailer
        server.wait_for_end()
        assert unraisable == [ResourceWarning]

    def test_one_that_an_adapter_shares_closes_itself_and_says_nothing(self, scripted: Scripted) -> None:
        server = scripted()
        mailer = SharedMailer.from_settings({"host": "127.0.0.1", "port": server.port})
        mailer.send(hello())
        with no_collector():
            del mailer
        server.wait_for_end()
        assert server.speakers[0].verbs[-1] == "QUIT"

    def test_it_is_closed_where_the_collector_finds_it(self, scripted: Scripted) -> None:
        """In the middle of whatever holds the lock of its pool: nobody waits for himself."""
        server = scripted()
        mailer = Mailer(server.url)
        mailer.send(hello())
        pool = mailer._pool
        done = threading.Event()

        def forget(held: list[Mailer]) -> None:
            with pool._lock, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                held.clear()
            done.set()

        held = [mailer]
        del mailer
        threading.Thread(target=forget, args=(held,), daemon=True).start()
        assert done.wait(PATIENCE)
        assert wait_until(lambda: not server.open_connections, PATIENCE)
