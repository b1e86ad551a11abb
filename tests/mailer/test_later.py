"""`LATER`: a source of `deliver` that has no item now, and is asked again when another pair was given."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Envelope
from smtpbackend.adapters import LATER, Parcel
from smtpbackend.testing import CUT, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello
from tests.servers.ports import free_ports

MANY = pytest.mark.parametrize("connections", [1, 4])


def parcel(item: int) -> Parcel:
    return Parcel(Envelope(SENDER, [f"u{item}@example.com"]), hello(f"u{item}@example.com"))


class Outbox:
    """Has ``count`` items, and gives no more than ``most`` whose receipts it was not told. It is asked ``asks`` times.

    ``LATER`` where it has none now; when all are told there is none, and it says the same.
    """

    def __init__(self, count: int, most: int) -> None:
        self.left = list(range(count))
        self.most = most
        self.under_way: set[int] = set()
        self.told: list[int] = []
        self.asks = 0
        self.waits: list[int] = []
        """How many receipts had been told, each time that it said LATER."""
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        with self._lock:
            self.asks += 1
            if not self.left or len(self.under_way) >= self.most:
                self.waits.append(len(self.told))
                return LATER
            item = self.left.pop(0)
            self.under_way.add(item)
            return item

    def tell(self, item: int) -> None:
        with self._lock:
            self.under_way.remove(item)
            self.told.append(item)


class AsyncOutbox:
    """The same, asked asynchronously."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return next(self.outbox)


def sources(twin: Twin, outbox: Outbox) -> Any:
    return AsyncOutbox(outbox) if twin.kind is AsyncMailer else outbox


def drain(stream: Any, outbox: Outbox) -> list[Any]:
    receipts = []
    for item, receipt in stream:
        receipts.append(receipt)
        outbox.tell(item)
    return receipts


@MANY
@pytest.mark.parametrize("as_async", [False, True])
@pytest.mark.parametrize("most", [1, 3, 7, 1000])
def test_each_item_is_delivered_once(
    twin: Twin, scripted: Scripted, connections: int, most: int, as_async: bool
) -> None:
    """And the source is asked no more often than there are items and pairs."""
    server = scripted()
    outbox = Outbox(60, most)
    source = sources(twin, outbox) if as_async else outbox
    receipts = drain(twin(server.url).deliver(source, prepare=parcel, connections=connections), outbox)
    assert all(receipt.ok for receipt in receipts)
    assert sorted(outbox.told) == list(range(60))
    assert len(server.handed_over) == 60
    assert outbox.asks <= 60 + 60 + 1


@MANY
def test_at_the_very_start_it_ends_the_stream(twin: Twin, scripted: Scripted, connections: int) -> None:
    server = scripted()
    outbox = Outbox(0, 1)
    assert drain(twin(server.url).deliver(outbox, prepare=parcel, connections=connections), outbox) == []
    assert outbox.asks == 1
    assert server.connections == 0 or connections > 1


@MANY
def test_another_pair_comes_before_it_is_asked_again(twin: Twin, scripted: Scripted, connections: int) -> None:
    """Each time that it says LATER it was told of more."""
    outbox = Outbox(40, 5)
    drain(twin(scripted().url).deliver(outbox, prepare=parcel, connections=connections), outbox)
    assert outbox.waits == sorted(outbox.waits)
    # over several it may be asked while the caller has a pair, and once more when it comes back
    assert max(outbox.waits.count(told) for told in outbox.waits) <= (1 if connections == 1 else 2)


@MANY
@pytest.mark.parametrize("known", [True, False])
def test_it_is_no_item(twin: Twin, scripted: Scripted, connections: int, known: bool) -> None:
    """Nor in a list, which says how many items it has. Nothing behind it is lost: who gave it still has it."""
    prepared: list[Any] = []

    def prepare(item: int) -> Parcel:
        prepared.append(item)
        return parcel(item)

    items = [0, 1, 2, LATER, 3, LATER, LATER, 4, 5]
    source: Any = iter(items) if known else (item for item in items)
    pairs = twin(scripted().url).deliver(source, prepare=prepare, connections=connections)
    given = sorted(item for item, _ in pairs)
    assert given == sorted(prepared)
    assert given + [item for item in source if item is not LATER] == list(range(6))


@MANY
@pytest.mark.parametrize("most", [1, 4])
def test_servers_that_fail_end_no_stream(twin: Twin, scripted: Scripted, connections: int, most: int) -> None:
    """One hangs up again and again, one refuses some, and one is not there: each item has one receipt."""
    [closed] = free_ports(1)
    dying = scripted(Play({"MAIL": ["250 ok", "250 ok", CUT]}))
    refusing = scripted(Play({"RCPT TO:<u3@": "550 5.1.1 no", "RCPT TO:<u1": "450 4.2.0 later"}))
    mailer = twin(f"smtp://127.0.0.1:{closed}", dying.url, refusing.url)
    outbox = Outbox(30, most)
    receipts = drain(mailer.deliver(outbox, prepare=parcel, connections=connections), outbox)
    assert sorted(outbox.told) == list(range(30))
    assert all(receipt.outcomes for receipt in receipts)
    assert outbox.asks <= 30 + 30 + 1


@MANY
def test_no_server_at_all_ends_no_stream(twin: Twin, connections: int) -> None:
    [closed] = free_ports(1)
    outbox = Outbox(30, 4)
    mailer = twin(f"smtp://127.0.0.1:{closed}")
    receipts = drain(mailer.deliver(outbox, prepare=parcel, connections=connections), outbox)
    assert len(receipts) == 30
    assert all(receipt.deferred for receipt in receipts)
    assert outbox.asks <= 30 + 30 + 1


@MANY
def test_items_that_are_not_sent_have_pairs_too(twin: Twin, scripted: Scripted, connections: int) -> None:
    def prepare(item: int) -> Parcel | None:
        if item % 3 == 1:
            raise LookupError(item)
        return parcel(item) if item % 3 else None

    outbox = Outbox(30, 2)
    drain(twin(scripted().url).deliver(outbox, prepare=prepare, connections=connections), outbox)
    assert sorted(outbox.told) == list(range(30))
    assert outbox.asks <= 30 + 30 + 1


@MANY
@pytest.mark.parametrize("most", [1, 5])
def test_in_order_too(twin: Twin, scripted: Scripted, connections: int, most: int) -> None:
    """Pairs that wait for those before them are under way."""
    server = scripted(Play({"RCPT TO:<u1@": ["450 4.2.0 later", "250 ok"]}))
    outbox = Outbox(30, most)
    mailer = twin(server.url, server.url.replace("127.0.0.1", "localhost"))
    drain(mailer.deliver(outbox, prepare=parcel, connections=connections, in_order=True), outbox)
    assert outbox.told == list(range(30))


@MANY
def test_who_leaves_the_stream_is_not_held_up(twin: Twin, scripted: Scripted, connections: int) -> None:
    """What is under way is waited for, the source is not asked again, and the connections are free."""
    server = scripted()
    mailer = twin(server.url)
    outbox = Outbox(1000, 6)
    stream = mailer.deliver(outbox, prepare=parcel, connections=connections)
    for _ in range(10):
        item, receipt = next(stream)
        assert receipt.ok
        outbox.tell(item)
    stream.close()
    asks = outbox.asks
    assert len(server.handed_over) <= 10 + 6
    stats = mailer.raw.stats()
    assert stats.open == stats.idle
    assert mailer.send(hello()).ok
    assert outbox.asks == asks


@MANY
def test_what_it_raises_comes_after_the_receipts(twin: Twin, scripted: Scripted, connections: int) -> None:
    def source() -> Iterator[Any]:
        yield from (0, 1, 2)
        raise LookupError("no more")

    given = []
    stream = twin(scripted().url).deliver(source(), prepare=parcel, connections=connections)
    with pytest.raises(LookupError):
        given.extend(stream)
    assert sorted(item for item, _ in given) == [0, 1, 2]
