"""`send_many(..., connections=N)`: several connections share one stream, and receipts keep its order."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Message
from smtpbackend.delivery.dispatch import SLOW
from smtpbackend.errors import InvalidInput
from smtpbackend.testing import CUT, EXTENSIONS, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import PATIENCE, Twin, hello
from tests.servers.ports import free_ports, wait_until
from tests.telling import names_of


def numbered(count: int) -> list[Message]:
    return [hello(f"u{number}@example.com", subject=f"nr {number}.") for number in range(count)]


def recipients(receipts: Any) -> list[str]:
    return [str(receipt.outcomes[0].address).partition("@")[0] for receipt in receipts]


@pytest.mark.parametrize("extensions", [EXTENSIONS, (*EXTENSIONS, "CHUNKING"), ()])
@pytest.mark.parametrize("as_generator", [True, False])
def test_receipts_keep_the_order_of_the_messages(
    twin: Twin, scripted: Scripted, extensions: tuple[str, ...], as_generator: bool
) -> None:
    chance = random.Random(1)

    def late(_: str) -> str:
        time.sleep(chance.random() / 200)
        return "250 ok"

    server = scripted(Play({"RCPT": late}, extensions))
    mailer = twin(server.url, chunk_in_flight="probe")
    messages: Any = iter(numbered(200)) if as_generator else numbered(200)
    receipts = mailer.send_many(messages, connections=4)
    assert recipients(receipts) == [f"u{number}" for number in range(200)]
    assert all(receipt.ok for receipt in receipts)
    assert 1 < server.connections <= 4
    assert sorted(line.recipients[0] for line in server.handed_over) == sorted(
        f"RCPT TO:<u{number}@example.com>" for number in range(200)
    )


def test_one_that_dies_harms_nobody_else(twin: Twin, scripted: Scripted) -> None:
    dying = Play({"MAIL": ["250 ok"] * 5 + [CUT]})
    server = scripted(dying, dying, Play())
    receipts = twin(server.url).send_many(numbered(100), connections=3)
    assert recipients(receipts) == [f"u{number}" for number in range(100)]
    assert all(receipt.ok for receipt in receipts)
    assert len(server.handed_over) == 100


def test_a_server_that_is_down_is_tried_by_each_at_most_once(twin: Twin, scripted: Scripted) -> None:
    [closed] = free_ports(1)
    events: list[str] = []
    mailer = twin(f"smtp://127.0.0.1:{closed}", listeners=[lambda event: events.append(event.name)])
    receipts = mailer.send_many(numbered(500), connections=4)
    assert all(receipt.deferred for receipt in receipts)
    assert len(receipts) == 500
    assert 1 <= events.count("server_failed") <= 4


def test_an_exception_of_the_source_comes_after_the_receipts(twin: Twin, scripted: Scripted) -> None:
    def source() -> Iterator[Message]:
        yield from numbered(20)
        raise LookupError("no more")

    server = scripted()
    stream = twin(server.url).stream(source(), connections=3)
    receipts: list[Any] = []
    with pytest.raises(LookupError):
        receipts.extend(stream)
    assert len(receipts) == len(server.handed_over) == 20


def test_who_stops_taking_receipts_frees_the_connections(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play(extensions=(*EXTENSIONS, "CHUNKING")))
    mailer = twin(server.url, chunk_in_flight="probe")
    told: list[str] = []
    stream = mailer.stream(
        (hello() for _ in range(10_000)), connections=4, listeners=[lambda event: told.extend(names_of(event))]
    )
    assert next(stream).ok
    stream.close()
    stats = mailer.raw.stats()
    assert stats.open == stats.idle
    assert told.count("message_sent") == len(server.handed_over)
    assert mailer.send(hello()).ok


def test_no_more_is_taken_than_windows_hold(twin: Twin, scripted: Scripted) -> None:
    """Memory does not grow with the source where one message holds the others' receipts up."""
    taken = 0

    def source() -> Iterator[Message]:
        nonlocal taken
        for message in numbered(400):
            taken += 1
            yield message

    def late(_: str) -> str:
        assert wait_until(lambda: taken >= 12, 20)
        time.sleep(0.3)
        return "250 ok"

    server = scripted(Play({"RCPT TO:<u0@": late}))
    receipts = iter(twin(server.url, window=4).stream(source(), connections=3))
    next(receipts)
    assert taken <= 3 * 4 + 3
    assert len(list(receipts)) == 399


def test_it_may_be_no_more_than_the_pool_has(twin: Twin, scripted: Scripted) -> None:
    mailer = twin(scripted().url, max_connections=2)
    for wrong in (0, 3, "2", 1.5):
        with pytest.raises(InvalidInput, match="max_connections, which is 2"):
            mailer.send_many([], connections=wrong)


def test_a_source_that_is_slow_holds_no_receipt_up(twin: Twin, scripted: Scripted) -> None:
    """What was taken from it is given while it is asked for the next one."""
    go_on = threading.Event()

    def source() -> Iterator[Message]:
        for message in numbered(4):
            time.sleep(2 * SLOW)
            yield message
        assert go_on.wait(PATIENCE)
        yield from numbered(2)

    async def slow() -> AsyncIterator[Message]:
        for message in numbered(4):
            await asyncio.sleep(2 * SLOW)
            yield message
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        for message in numbered(2):
            yield message

    messages: Any = source() if twin.name == "blocking" else slow()
    stream = iter(twin(scripted().url).stream(messages, connections=2))
    assert recipients([next(stream) for _ in range(4)]) == ["u0", "u1", "u2", "u3"]
    go_on.set()
    assert recipients(list(stream)) == ["u0", "u1"]


def test_who_leaves_does_not_wait_for_the_source(
    twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For ever, that is: what is in flight may take its time."""
    for room in ("blocking", "aio"):
        monkeypatch.setattr(f"smtpbackend.{room}.spread.LEAVING", 0.2)
    never = threading.Event()

    def source() -> Iterator[Message]:
        yield from numbered(4)
        never.wait(PATIENCE)

    async def silent() -> AsyncIterator[Message]:
        for message in numbered(4):
            yield message
        await asyncio.sleep(PATIENCE)

    messages: Any = source() if twin.name == "blocking" else silent()
    mailer = twin(scripted().url)
    stream = mailer.stream(messages, connections=2)
    assert next(stream).ok
    begun = time.monotonic()
    stream.close()
    assert time.monotonic() - begun < PATIENCE / 2
    never.set()
    assert mailer.send(hello()).ok


async def test_a_task_that_waits_for_the_source_can_be_cancelled(scripted: Scripted) -> None:
    server = scripted()
    waiting: asyncio.Queue[Message] = asyncio.Queue()
    for message in numbered(4):
        waiting.put_nowait(message)

    async def source() -> AsyncIterator[Message]:
        while True:
            yield await waiting.get()

    got: list[Any] = []
    async with AsyncMailer(server.url) as mailer:

        async def take() -> None:
            async for receipt in mailer.send_many(source(), connections=2):
                got.append(receipt)

        task = asyncio.ensure_future(take())
        async with asyncio.timeout(PATIENCE):
            while not got:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (await mailer.send(hello())).ok


def test_each_connection_has_a_window(twin: Twin, scripted: Scripted) -> None:
    """A list says that it does not make anybody wait: its messages leave together."""
    server = scripted(Play(extensions=(*EXTENSIONS, "CHUNKING")))
    receipts = twin(server.url, chunk_in_flight="probe").send_many(numbered(200), connections=2)
    assert all(receipt.ok for receipt in receipts)
    assert server.waits < 200  # one by one each would be a wait, and there are those of both openings
    assert sum(line.endswith(" LAST") for line in server.commands) > 190
