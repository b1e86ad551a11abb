"""A `send_many` that is closed or left, or whose source raises or sleeps (DESIGN 4.11)."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from smtpbackend import Message
from smtpbackend.errors import RecipientsRefused
from smtpbackend.testing import EXTENSIONS, SILENCE, Play, ScriptedServer, delay, drip
from tests.mailer.conftest import Scripted
from tests.mailer.leftovers import Leftovers, taken
from tests.mailer.suspensions import eventually, others
from tests.mailer.twins import PATIENCE, AsyncioTwin, Driven, Twin, hello
from tests.servers.ports import wait_until
from tests.telling import names_of

SHORT = 0.3  # seconds

windows = pytest.mark.parametrize("window", [{}, {"window": 1}], ids=["window", "one at a time"])
PROBED: Any = {"chunk_in_flight": "probe"}
ways = pytest.mark.parametrize("extensions", [EXTENSIONS, (*EXTENSIONS, "CHUNKING"), ()], ids=["DATA", "BDAT", "plain"])


def never_iterated() -> Any:
    return pytest.warns(RuntimeWarning, match="never iterated")


class Heard:
    """A Listener that knows which messages were begun, and how each ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: dict[str, list[str]] = {}

    def __call__(self, event: Any) -> None:
        if event.name == "message_sending":
            self.begun.append(event.message.subject)
        elif event.name == "message_ended":
            self.ended.setdefault(event.message.subject, []).extend(names_of(event))

    def check(self, *servers: ScriptedServer) -> None:
        """Each message that was begun has one end, which agrees with the servers; nothing was sent twice.

        What is in doubt may not have been read.
        """
        assert {subject: len(ends) for subject, ends in self.ended.items()} == dict.fromkeys(self.begun, 1)
        arrived = taken(servers)
        assert max(arrived.values(), default=1) == 1
        for subject, [end] in self.ended.items():
            assert end == "message_in_doubt" or (end == "message_sent") == (subject in arrived), f"{subject}: {end}"


def numbered(count: int = 1_000_000, asked: list[int] | None = None) -> Iterator[Message]:
    """Messages whose subjects are their numbers."""
    for number in range(count):
        if asked is not None:
            asked.append(number)
        yield hello(subject=str(number))


async def slowly(messages: Iterator[Message]) -> AsyncIterator[Message]:
    """The same from an asynchronous source."""
    for message in messages:
        await asyncio.sleep(0)
        yield message


@pytest.fixture(params=["plain", "asynchronous"])
def of_kind(request: pytest.FixtureRequest, twin: Twin) -> Callable[[Iterator[Message]], Any]:
    """Make a source of one kind: for each test there is one source that is iterated, and one that is awaited."""
    if request.param == "plain":
        return lambda messages: messages
    if twin.name == "blocking":
        pytest.skip("a Mailer takes no asynchronous source")
    return slowly


def let_go(twin: Twin) -> None:
    """Collect what nobody holds any more; a loop ends what is left of it."""
    gc.collect()
    if isinstance(twin, AsyncioTwin):

        async def end() -> None:
            await asyncio.sleep(0)
            await eventually(lambda: not others(), "tasks are left", others)

        twin.runner.run(end())


def is_free(twin: Twin, mailer: Driven, *servers: ScriptedServer) -> None:
    """The one connection that may be open is not in use, and the next message goes out on it or on a fresh one."""
    with Leftovers() as leftovers:
        let_go(twin)
        leftovers.check(mailer.pool(), servers, "the connection is not freed")
    receipt = mailer.send(hello(subject="the next"))
    assert receipt.ok
    [server] = [server for server in servers if server.name == receipt.server]
    assert receipt.queue_id == f"{len(server.handed_over):05}ABC"  # this message's reply, and no other's


@windows
@ways
class TestClosed:
    """After so many receipts, by a server that answers at once."""

    @pytest.mark.parametrize("receipts", [0, 1, 2, 5])
    @pytest.mark.parametrize("how", ["closed", "left"])
    def test_at_every_receipt(
        self,
        twin: Twin,
        scripted: Scripted,
        of_kind: Callable[[Iterator[Message]], Any],
        window: dict[str, int],
        extensions: tuple[str, ...],
        receipts: int,
        how: str,
    ) -> None:
        server, heard, asked = scripted(Play(extensions=extensions)), Heard(), []
        mailer = twin(server.url, max_connections=1, listeners=[heard], **PROBED, **window)
        stream = mailer.stream(of_kind(numbered(asked=asked)))
        for number in range(receipts):
            receipt = next(stream)
            assert receipt.ok
            assert heard.ended[str(number)] == ["message_sent"]
            assert receipt.queue_id == f"{number + 1:05}ABC"
        if how == "closed":
            stream.close()
        with never_iterated() if how == "left" and receipts == 0 else nullcontext():
            del stream
        let_go(twin)
        heard.check(server)
        assert asked == list(range(len(heard.begun)))
        if receipts == 0:
            assert server.connections == 0
        is_free(twin, mailer, server)

    def test_it_is_over(
        self, twin: Twin, scripted: Scripted, window: dict[str, int], extensions: tuple[str, ...]
    ) -> None:
        server = scripted(Play(extensions=extensions))
        stream = twin(server.url, **PROBED, **window).stream(numbered())
        next(stream)
        stream.close()
        count = len(server.handed_over)
        stream.close()
        with pytest.raises(StopIteration):
            next(stream)
        assert len(server.handed_over) == count

    def test_at_the_end_it_changes_nothing(
        self, twin: Twin, scripted: Scripted, window: dict[str, int], extensions: tuple[str, ...]
    ) -> None:
        server, heard = scripted(Play(extensions=extensions)), Heard()
        mailer = twin(server.url, max_connections=1, listeners=[heard], **PROBED, **window)
        stream = mailer.stream(numbered(3))
        assert [next(stream).ok for _ in range(3)] == [True] * 3
        stream.close()
        heard.check(server)
        assert set(heard.begun) == {"0", "1", "2"}
        is_free(twin, mailer, server)

    def test_by_an_error_in_the_loop_that_reads_it(
        self, twin: Twin, scripted: Scripted, window: dict[str, int], extensions: tuple[str, ...]
    ) -> None:
        server, heard = scripted(Play(extensions=extensions)), Heard()
        mailer = twin(server.url, max_connections=1, listeners=[heard], **PROBED, **window)

        def read() -> None:
            for receipt in mailer.stream(numbered()):
                raise LookupError(receipt)

        with pytest.raises(LookupError):
            read()
        let_go(twin)
        heard.check(server)
        is_free(twin, mailer, server)


@pytest.mark.parametrize("extensions", [EXTENSIONS, (*EXTENSIONS, "CHUNKING")], ids=["DATA", "BDAT"])
class TestRepliesInFlight:
    """The server has what was sent, and its replies have not come when the stream is closed.

    The first message goes out alone; behind the second the window is open.
    """

    @pytest.mark.parametrize("how", ["closed", "left"])
    def test_are_awaited_and_told(self, twin: Twin, scripted: Scripted, extensions: tuple[str, ...], how: str) -> None:
        """The reply comes after the close has begun: the message counts as sent."""
        heard = Heard()

        def answer(_: str) -> Any:
            said = f"250 2.0.0 Ok: queued as {len(server.handed_over):05}ABC"
            return (delay(SHORT), said) if len(server.handed_over) == 3 else said

        server = scripted(Play({".": answer}, extensions))
        mailer = twin(server.url, max_connections=1, listeners=[heard], **PROBED)
        stream = mailer.stream(numbered())
        assert next(stream).ok
        assert next(stream).ok
        if how == "closed":
            stream.close()
        del stream
        let_go(twin)
        heard.check(server)
        assert {end for [end] in heard.ended.values()} <= {"message_sent", "message_failed"}
        is_free(twin, mailer, server)

    @pytest.mark.parametrize("never", [SILENCE, drip("250 ok"), "421 4.3.2 shutting down", b"nonsense\r\n"], ids=str)
    def test_that_never_come(self, twin: Twin, scripted: Scripted, extensions: tuple[str, ...], never: Any) -> None:
        """The wait has its end, by the time-outs at the latest; what was handed over is in doubt."""
        heard = Heard()
        first = Play({".": ["250 ok", "250 ok", never]}, extensions)
        server = scripted(first, Play(extensions=extensions))
        mailer = twin(server.url, max_connections=1, listeners=[heard], timeout=SHORT, **PROBED)
        stream = mailer.stream(numbered())
        assert next(stream).ok
        assert next(stream).ok
        stream.close()
        heard.check(server)
        is_free(twin, mailer, server)

    def test_the_wait_is_bounded_where_the_time_outs_are_long(
        self,
        twin: Twin,
        scripted: Scripted,
        monkeypatch: pytest.MonkeyPatch,
        extensions: tuple[str, ...],
    ) -> None:
        """A final reply has five minutes: nobody who breaks a loop off waits for that."""
        monkeypatch.setattr("smtpbackend.delivery.dispatch.LEAVING", SHORT)
        heard = Heard()
        first = Play({".": ["250 ok", "250 ok", SILENCE]}, extensions)
        server = scripted(first, Play(extensions=extensions))
        mailer = twin(server.url, max_connections=1, listeners=[heard], timeout=300, **PROBED)
        stream = mailer.stream(numbered())
        assert next(stream).ok
        assert next(stream).ok
        stream.close()
        heard.check(server)
        is_free(twin, mailer, server)

    @pytest.mark.parametrize("command", ["MAIL", "RCPT", "RSET"])
    def test_to_what_is_not_handed_over(
        self,
        twin: Twin,
        scripted: Scripted,
        extensions: tuple[str, ...],
        command: str,
    ) -> None:
        """The server falls silent in the envelope of the next message."""
        heard = Heard()
        answers: dict[str, Any] = {command: ["250 ok", "250 ok", SILENCE]}
        server = scripted(Play(answers, extensions), Play(extensions=extensions))
        mailer = twin(server.url, max_connections=1, listeners=[heard], timeout=SHORT, **PROBED)
        stream = mailer.stream(numbered())
        assert next(stream).ok
        assert next(stream).ok
        stream.close()
        heard.check(server)
        is_free(twin, mailer, server)

    def test_that_are_refusals(self, twin: Twin, scripted: Scripted, extensions: tuple[str, ...]) -> None:
        """Nobody is in doubt; a 4xx would mean the next server, to which nobody goes any more."""
        heard = Heard()
        answers = {"RCPT": ["250 ok", "250 ok", "550 5.1.1 nobody", "450 4.2.1 later"]}
        server, other = scripted(Play(answers, extensions)), scripted(Play(extensions=extensions))
        mailer = twin(server.url, other.url, max_connections=1, listeners=[heard], rest=0, **PROBED)
        stream = mailer.stream(numbered())
        assert next(stream).ok
        assert next(stream).ok
        stream.close()
        heard.check(server, other)
        is_free(twin, mailer, server, other)


@windows
class TestInterrupted:
    """What does not come as a `close`: KeyboardInterrupt and its like in the source."""

    class Stop(BaseException):
        pass

    @ways
    @pytest.mark.parametrize("position", range(4))
    def test_by_the_source(
        self,
        twin: Twin,
        scripted: Scripted,
        of_kind: Callable[[Iterator[Message]], Any],
        window: dict[str, int],
        extensions: tuple[str, ...],
        position: int,
    ) -> None:
        """It comes out as it is, the Listeners are told of everything, and the connection is freed."""
        # an event loop has its own way with KeyboardInterrupt
        stop = KeyboardInterrupt() if twin.name == "blocking" else self.Stop()
        server, heard = scripted(Play(extensions=extensions)), Heard()
        mailer = twin(server.url, max_connections=1, listeners=[heard], **PROBED, **window)

        def source() -> Iterator[Message]:
            yield from numbered(position)
            raise stop

        stream = mailer.stream(of_kind(source()))
        with pytest.raises(type(stop)) as caught:
            assert all(next(stream).ok for _ in range(position + 1))
        assert caught.value is stop
        del stream
        heard.check(server)
        is_free(twin, mailer, server)


@windows
class TestASourceThatRaises:
    @ways
    @pytest.mark.parametrize("position", [0, 1, 2, 5, 40])
    def test_at_every_position(
        self,
        twin: Twin,
        scripted: Scripted,
        of_kind: Callable[[Iterator[Message]], Any],
        window: dict[str, int],
        extensions: tuple[str, ...],
        position: int,
    ) -> None:
        """The very error is raised after the receipts of what came before it, and the connection is kept."""
        error = LookupError("the database is gone")
        server, heard = scripted(Play(extensions=extensions)), Heard()
        mailer = twin(server.url, max_connections=1, listeners=[heard], **PROBED, **window)

        def source() -> Iterator[Message]:
            yield from numbered(position)
            raise error

        stream = mailer.stream(of_kind(source()))
        assert [next(stream).ok for _ in range(position)] == [True] * position
        with pytest.raises(LookupError) as caught:
            next(stream)
        assert caught.value is error
        with pytest.raises(StopIteration):
            next(stream)
        heard.check(server)
        assert len(heard.begun) == position
        is_free(twin, mailer, server)
        assert server.connections == 1

    @ways
    def test_while_replies_are_in_flight(
        self, twin: Twin, scripted: Scripted, window: dict[str, int], extensions: tuple[str, ...]
    ) -> None:
        """The server answers late, after the source has raised where that is possible: the receipts come first."""
        raised = threading.Event()

        def answer(_: str) -> str:
            raised.wait(0.1)
            return f"250 2.0.0 Ok: queued as {len(server.handed_over):05}ABC"

        server = scripted(Play({".": answer}, extensions))
        mailer = twin(server.url, **PROBED, **window)

        def source() -> Iterator[Message]:
            yield from numbered(4)
            raised.set()
            raise LookupError

        stream = mailer.stream(source())
        assert [next(stream).ok for _ in range(4)] == [True] * 4
        with pytest.raises(LookupError):
            next(stream)

    def test_before_a_message_that_failed(self, twin: Twin, scripted: Scripted, window: dict[str, int]) -> None:
        """Refused, invalid, or without a server: each has its receipt before the error of the source."""
        server = scripted({"RCPT TO:<b@": "550 no", "RCPT TO:<d@": "450 later"})

        def source() -> Iterator[Any]:
            yield hello("a@example.com")
            yield hello("b@example.com")
            yield b"no envelope"
            yield hello("d@example.com")
            raise LookupError

        stream = twin(server.url, **PROBED, **window).stream(source())
        assert [next(stream).ok for _ in range(4)] == [True, False, False, False]
        with pytest.raises(LookupError):
            next(stream)

    def test_an_error_of_ours_is_the_sources(self, twin: Twin, scripted: Scripted, window: dict[str, int]) -> None:
        server = scripted()

        def source() -> Iterator[Message]:
            yield hello("a@example.com")
            raise RecipientsRefused("mine")

        with pytest.raises(RecipientsRefused, match="mine"):
            twin(server.url, **PROBED, **window).send_many(source())
        assert len(server.handed_over) == 1

    def test_an_iterator_that_is_no_generator(self, twin: Twin, scripted: Scripted, window: dict[str, int]) -> None:
        class Source:
            left = 3

            def __iter__(self) -> Iterator[Message]:
                return self

            def __next__(self) -> Message:
                self.left -= 1
                if self.left < 0:
                    raise ZeroDivisionError
                return hello()

            def __length_hint__(self) -> int:
                return self.left

        server = scripted()
        stream = twin(server.url, **PROBED, **window).stream(Source())
        assert [next(stream).ok for _ in range(3)] == [True] * 3
        with pytest.raises(ZeroDivisionError):
            next(stream)


@windows
class TestASourceThatSleeps:
    @ways
    @pytest.mark.parametrize("refused", [False, True], ids=["all accepted", "every third refused"])
    def test_is_asked_only_when_nothing_is_unsent(
        self, twin: Twin, scripted: Scripted, window: dict[str, int], extensions: tuple[str, ...], refused: bool
    ) -> None:
        """It gives the next message only when the server has everything that was composed before: else nobody moves."""
        server = scripted(Play({"RCPT TO:<u2@": "550 no"} if refused else {}, extensions))

        def has_all(count: int) -> bool:
            due = {str(number) for number in range(count) if not refused or number % 3 != 2}
            return due <= set(taken([server]))

        def source() -> Iterator[Message]:
            for number in range(12):
                assert wait_until(lambda number=number: has_all(number), PATIENCE)  # type: ignore[misc]
                yield hello(f"u{number % 3}@example.com", subject=str(number))

        receipts = twin(server.url, **PROBED, **window).send_many(source())
        assert [receipt.ok for receipt in receipts] == [not refused or number % 3 != 2 for number in range(12)]
        assert server.connections == 1

    @ways
    def test_also_one_that_is_awaited(
        self, twin: Twin, scripted: Scripted, window: dict[str, int], extensions: tuple[str, ...]
    ) -> None:
        if twin.name == "blocking":
            pytest.skip("a Mailer takes no asynchronous source")
        server = scripted(Play(extensions=extensions))

        async def source() -> AsyncIterator[Message]:
            for number in range(6):
                await eventually(lambda number=number: len(server.handed_over) == number, "unsent")  # type: ignore[misc]
                yield hello(subject=str(number))

        receipts = twin(server.url, **PROBED, **window).send_many(source())  # type: ignore[arg-type]
        assert [receipt.ok for receipt in receipts] == [True] * 6

    @ways
    def test_at_most_a_window_is_on_its_way(
        self, twin: Twin, scripted: Scripted, window: dict[str, int], extensions: tuple[str, ...]
    ) -> None:
        """Whatever the source could give: what was taken from it and has no receipt yet stays within the window."""
        limit = window.get("window", 32)
        given = 0
        ahead: list[int] = []

        class Source:
            taken = 0

            def __iter__(self) -> Iterator[Message]:
                return self

            def __next__(self) -> Message:
                if self.taken == 150:
                    raise StopIteration
                ahead.append(self.taken - given)
                self.taken += 1
                return hello(subject=str(self.taken))

            def __length_hint__(self) -> int:
                return 150 - self.taken

        server = scripted(Play(extensions=extensions))
        for receipt in twin(server.url, max_messages=1000, **PROBED, **window).stream(Source()):
            assert receipt.ok
            given += 1
        assert given == 150
        assert max(ahead) <= limit

    @ways
    def test_held_receipts_are_within_the_window_too(
        self, twin: Twin, scripted: Scripted, window: dict[str, int], extensions: tuple[str, ...]
    ) -> None:
        """The first message waits for its second server, which is slow; those behind it are accepted and held."""
        limit = window.get("window", 32)
        go, given, ahead = threading.Event(), 0, []

        def answer(_: str) -> str:
            go.wait(0.2)
            return "250 2.0.0 Ok: queued as 00001ABC"

        first = scripted(Play({"RCPT": ["450 4.2.1 later", "250 ok"]}, extensions))
        second = scripted(Play({".": answer}, extensions))

        def source() -> Iterator[Message]:
            for number in range(100):
                ahead.append(number - given)
                yield hello(subject=str(number))

        receipts = []
        for receipt in twin(first.url, second.url, max_messages=1000, **PROBED, **window).stream(source()):
            given += 1
            receipts.append(receipt)
        assert [receipt.ok for receipt in receipts] == [True] * 100
        assert receipts[0].server == second.name
        assert {receipt.server for receipt in receipts[1:]} == {first.name}
        assert max(ahead) <= limit

    def test_nothing_is_asked_before_the_first_receipt_is(
        self, twin: Twin, scripted: Scripted, window: dict[str, int]
    ) -> None:
        server, asked = scripted(), []
        stream = twin(server.url, **PROBED, **window).stream(numbered(asked=asked))
        assert asked == []
        next(stream)
        assert asked[0] == 0
        stream.close()

    def test_the_reader_may_sleep_too(self, twin: Twin, scripted: Scripted, window: dict[str, int]) -> None:
        """The server closes what is idle meanwhile; nothing is lost, and nothing is sent twice."""
        server, heard = scripted(), Heard()
        receipts = []
        for receipt in twin(server.url, listeners=[heard], **PROBED, **window).stream(numbered(6)):
            receipts.append(receipt)
            if len(receipts) == 2:
                threading.Event().wait(0.05)
                server.cut()
        assert len(receipts) == 6
        heard.check(server)
