"""`deliver`: what an adapter is promised. Item and receipt together, whom it asks, in which thread, what is told."""

from __future__ import annotations

import asyncio
import email.message
import re
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from smtpbackend import (
    AsyncMailer,
    CancelSend,
    Envelope,
    InvalidInput,
    Mailer,
    Outcome,
    Recipient,
    Status,
)
from smtpbackend.delivery.dispatch import SLOW
from smtpbackend.delivery.parcel import Parcel
from smtpbackend.testing import CUT, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello
from tests.telling import names

MANY = pytest.mark.parametrize("connections", [1, 4])


def parcel(item: Any) -> Parcel:
    """An item is a name."""
    return Parcel(Envelope(SENDER, [f"{item}@example.com"]), hello(f"{item}@example.com"), notes=f"of {item}")


def statuses(receipt: Any) -> list[Status]:
    return [outcome.status for outcome in receipt.outcomes]


@MANY
def test_each_item_comes_with_its_own_receipt(twin: Twin, scripted: Scripted, connections: int) -> None:
    """Also where others are skipped, fail or are refused: nothing can slip."""
    server = scripted(Play({"RCPT TO:<no": "550 5.1.1 no"}))

    def prepare(item: str) -> Parcel | None:
        if item.startswith("skip"):
            return None
        if item.startswith("bad"):
            raise LookupError(item)
        return parcel(item)

    items = [f"{kind}{n}" for n in range(20) for kind in ("ann", "skip", "no", "bad")]
    pairs = list(twin(server.url).deliver(items, prepare=prepare, connections=connections))
    assert sorted(item for item, _ in pairs) == sorted(items)
    for item, receipt in pairs:
        if item.startswith("skip"):
            assert receipt is None
        elif item.startswith("bad"):
            assert isinstance(receipt.error, LookupError)
            assert receipt.error.args == (item,)
            assert receipt.outcomes == ()
        else:
            assert str(receipt.outcomes[0].address) == f"{item}@example.com"
            assert receipt.ok == item.startswith("ann")


def test_a_slow_message_holds_back_no_other(twin: Twin, scripted: Scripted) -> None:
    """The answer to the first comes when all the others are known."""
    others = threading.Event()

    def wait(_: str) -> str:
        assert others.wait(20)
        return "250 ok"

    server = scripted(Play({"RCPT TO:<u0@": wait}))
    known = []
    items = [f"u{n}" for n in range(12)]
    for item, receipt in twin(server.url).deliver(items, prepare=parcel, connections=4):
        assert receipt.ok
        known.append(item)
        if len(known) == 11:
            others.set()
    assert known[-1] == "u0"


def test_in_order_it_waits_for_those_before(twin: Twin, scripted: Scripted) -> None:
    others = threading.Event()

    def wait(_: str) -> str:
        others.wait(20)
        return "250 ok"

    def tell(line: str) -> str:
        others.set()
        return "250 ok"

    server = scripted(Play({"RCPT TO:<u0@": wait, "RCPT TO:<u5@": tell}))
    items = [f"u{n}" for n in range(6)]
    pairs = twin(server.url).deliver(items, prepare=parcel, connections=4, in_order=True)
    assert [item for item, _ in pairs] == items


def test_one_that_goes_again_holds_back_no_other(twin: Twin, scripted: Scripted) -> None:
    """Over one connection too: the first is deferred there and goes on to the next server last."""
    first = scripted(Play({"RCPT TO:<u0@": "450 later"}))
    second = scripted(Play())
    mailer = twin(first.url, second.url)
    pairs = list(mailer.deliver([f"u{n}" for n in range(8)], prepare=parcel))
    assert len(pairs) == 8
    assert all(receipt.ok for _, receipt in pairs)
    assert dict(pairs)["u0"].server == f"127.0.0.1:{second.port}"


current: ContextVar[str] = ContextVar("current", default="nowhere")


@MANY
def test_prepare_runs_where_deliver_is_iterated(twin: Twin, scripted: Scripted, connections: int) -> None:
    """One at a time, in that thread and task: an app context, a language and a database connection are there."""
    server = scripted(Play())
    places, running, most = [], 0, 0

    def prepare(item: str) -> Parcel:
        nonlocal running, most
        running += 1
        most = max(most, running)
        places.append((threading.get_ident(), current.get()))
        running -= 1
        return parcel(item)

    current.set("here")
    pairs = list(twin(server.url).deliver([f"u{n}" for n in range(30)], prepare=prepare, connections=connections))
    assert len(pairs) == 30
    assert set(places) == {(threading.get_ident(), "here")}
    assert most == 1


@MANY
async def test_prepare_may_be_a_coroutine_function(scripted: Scripted, connections: int) -> None:
    """It is awaited in the task that iterates; so are ``holds`` and ``pace``."""
    server = scripted(Play())
    tasks, asked = set(), []

    async def prepare(item: str) -> Parcel:
        await asyncio.sleep(0)
        tasks.add(asyncio.current_task())
        return parcel(item)

    async def holds(item: str) -> bool:
        await asyncio.sleep(0)
        asked.append(item)
        return item != "u1"

    async def pace(server: str, number: int) -> float:
        await asyncio.sleep(0)
        return 0.0

    async with AsyncMailer(server.url) as mailer:
        stream = mailer.deliver(["u0", "u1", "u2"], prepare=prepare, holds=holds, pace=pace, connections=connections)
        pairs = [pair async for pair in stream]
    assert {item: receipt.ok for item, receipt in pairs} == {"u0": True, "u1": False, "u2": True}
    assert sorted(asked) == ["u0", "u1", "u2"]
    assert tasks == {asyncio.current_task()}


@MANY
def test_what_is_no_exception_ends_the_stream_after_what_is_in_flight(
    twin: Twin, scripted: Scripted, connections: int
) -> None:
    class Stop(BaseException):
        pass

    def prepare(item: str) -> Parcel:
        if item == "u5":
            raise Stop
        return parcel(item)

    server = scripted(Play())
    events: list[Any] = []
    pairs = []
    stream = twin(server.url).deliver(
        [f"u{n}" for n in range(9)], prepare=prepare, connections=connections, listeners=[events.append]
    )
    with pytest.raises(Stop):
        pairs.extend(stream)
    assert sorted(item for item, receipt in pairs if receipt.ok) == [f"u{n}" for n in range(5)]
    assert sorted(event.message for event in events if event.name == "message_ended") == [f"u{n}" for n in range(5)]


class TestEvents:
    @MANY
    def test_each_item_begins_and_ends_once(self, twin: Twin, scripted: Scripted, connections: int) -> None:
        """Accepted, refused, cancelled, never made or in doubt; they carry the item and the notes of its parcel."""
        server = scripted(Play({"RCPT TO:<no@": "550 5.1.1 no", "RCPT TO:<later@": "450 later", ".": ["250 ok", CUT]}))

        def prepare(item: str) -> Parcel | None:
            if item == "raise":
                raise LookupError(item)
            if item == "skip":
                return None
            if item == "all refused":
                return Parcel(None, b"", (Outcome("ann@", Status.REJECTED, error=InvalidInput("no")),))
            if item == "unreadable":
                return Parcel(Envelope(SENDER, ["x@example.com"]), LookupError("gone"))
            return parcel(item)

        events: list[Any] = []

        def listen(event: Any) -> None:
            events.append(event)
            if event.name == "message_sending" and event.message == "cancel":
                raise CancelSend

        items = ["ann", "raise", "skip", "no", "later", "cancel", "all refused", "unreadable", "bob"]
        pairs = dict(
            twin(server.url, window=1).deliver(items, prepare=prepare, listeners=[listen], connections=connections)
        )
        told = {item: [event for event in events if getattr(event, "message", None) == item] for item in items}
        assert told.pop("skip") == []
        assert pairs["skip"] is None
        for item, its in told.items():
            assert [event.name for event in its][:1] == ["message_sending"], item
            assert [event.name for event in its].count("message_sending") == 1
            assert [event.name for event in its][-1:] == ["message_ended"], item
            assert [event.name for event in its].count("message_ended") == 1
            assert its[-1].receipt is pairs[item]
            assert [event.notes for event in its] == [its[0].notes] * len(its)
        assert told["ann"][0].notes == "of ann"
        assert told["raise"][0].envelope is None
        assert told["all refused"][0].envelope is None
        assert names(told["raise"]) == ["message_sending", "message_failed"]
        assert names(told["no"]) == ["message_sending", "recipient_rejected", "message_failed"]
        assert names(told["later"]) == ["message_sending", "recipient_deferred", "message_failed"]
        assert names(told["cancel"]) == ["message_sending", "message_ended"]
        assert names(told["all refused"]) == ["message_sending", "recipient_rejected", "message_failed"]
        assert names(told["unreadable"]) == ["message_sending", "message_failed"]
        assert statuses(pairs["unreadable"]) == [Status.FAILED]
        assert isinstance(pairs["raise"].error, LookupError)

    @MANY
    def test_also_where_nobody_takes_the_receipts(self, twin: Twin, scripted: Scripted, connections: int) -> None:
        server = scripted(Play())
        events: list[Any] = []
        stream = twin(server.url).deliver(
            (f"u{n}" for n in range(50)), prepare=parcel, listeners=[events.append], connections=connections
        )
        next(stream)
        stream.close()
        begun = [event.message for event in events if event.name == "message_sending"]
        ended = [event.message for event in events if event.name == "message_ended"]
        assert sorted(begun) == sorted(ended)
        assert len(set(begun)) == len(begun)

    async def test_also_where_the_task_is_cancelled(self, scripted: Scripted) -> None:
        waiting = threading.Event()
        go_on = threading.Event()

        def wait(_: str) -> str:
            waiting.set()
            go_on.wait(20)
            return "250 ok"

        server = scripted(Play({"RCPT TO:<u3@": wait}))
        events: list[Any] = []
        async with AsyncMailer(server.url) as mailer:

            async def run() -> None:
                async for _ in mailer.deliver(
                    [f"u{n}" for n in range(9)], prepare=parcel, listeners=[events.append], connections=3
                ):
                    pass

            task = asyncio.create_task(run())
            await asyncio.to_thread(waiting.wait, 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        go_on.set()
        begun = [event.message for event in events if event.name == "message_sending"]
        ended = [event.message for event in events if event.name == "message_ended"]
        assert sorted(begun) == sorted(ended)
        assert len(set(begun)) == len(begun)


class TestHolds:
    def test_it_is_asked_before_each_transaction(self, twin: Twin, scripted: Scripted) -> None:
        """Replays and further servers included; what it lets go is deferred, with that reason."""
        first = scripted(Play({"RCPT": "450 later"}))
        second = scripted(Play())
        asked: list[str] = []

        def holds(item: str) -> bool:
            asked.append(item)
            return asked.count(item) < 2

        [(item, receipt)] = twin(first.url, second.url).deliver(["ann"], prepare=parcel, holds=holds)
        assert asked == ["ann", "ann"]
        assert statuses(receipt) == [Status.DEFERRED]
        assert "holds()" in str(receipt.error) or receipt.outcomes[0].reply is not None
        assert second.handed_over == []
        assert receipt.owed().recipients[0].address.local_part == item

    def test_what_is_not_held_is_never_written(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play())
        items = [f"u{n}" for n in range(10)]
        pairs = dict(twin(server.url).deliver(items, prepare=parcel, holds=lambda item: item not in ("u3", "u4")))
        assert [item for item in items if not pairs[item].ok] == ["u3", "u4"]
        assert statuses(pairs["u3"]) == [Status.DEFERRED]
        assert "holds()" in str(pairs["u3"].error)
        assert not any("<u3@" in line for line in server.commands)

    def test_one_that_raises_lets_go(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play())

        def holds(item: str) -> bool:
            raise LookupError("the database is away")

        [(_, receipt)] = twin(server.url).deliver(["ann"], prepare=parcel, holds=holds)
        assert statuses(receipt) == [Status.DEFERRED]
        assert "the database is away" in str(receipt.error)
        assert server.handed_over == []


class TestSuppress:
    def test_everything_happens_but_the_conversation(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play())
        events: list[Any] = []
        refused = (Outcome("ann@", Status.REJECTED, error=InvalidInput("no address")),)

        def prepare(item: str) -> Parcel:
            if item == "bad":
                raise LookupError(item)
            return parcel(item)._replace(refused=refused)

        mailer = twin(server.url)
        pairs = dict(mailer.deliver(["ann", "bad"], prepare=prepare, suppress=True, listeners=[events.append]))
        assert statuses(pairs["ann"]) == [Status.ACCEPTED, Status.REJECTED]
        assert pairs["ann"].notes == ("sending is suppressed: nothing was sent",)
        assert pairs["ann"].message_id is not None
        assert isinstance(pairs["bad"].error, LookupError)
        assert names(events) == [
            *("message_sending", "recipient_rejected", "message_sent", "message_sending", "message_failed")
        ]
        assert server.connections == 0

    def test_the_setting_is_the_default(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play())
        mailer = twin(server.url, suppress_send=True)
        assert mailer.send(hello()).ok
        assert server.connections == 0
        [(_, receipt)] = mailer.deliver(["ann"], prepare=parcel, suppress=False)
        assert receipt.ok
        assert len(server.handed_over) == 1


def test_pace_says_how_long_to_wait(scripted: Scripted) -> None:
    """It is asked once for each message that begins, with the server's name; what waits is not begun before."""
    server = scripted(Play())
    asked: list[tuple[str, int]] = []
    slept = []

    def pace(name: str, number: int) -> float:
        asked.append((name, number))
        return 0.05 if len(asked) == 2 else 0.0

    with Mailer(server.url) as mailer:
        for item, receipt in mailer.deliver(["u0", "u1", "u2"], prepare=parcel, pace=pace):
            slept.append(item)
            assert receipt is not None
            assert receipt.ok
    assert asked == [(f"127.0.0.1:{server.port}", 1)] * 3
    assert slept == ["u0", "u1", "u2"]


@pytest.mark.parametrize("answer", [None, -1, float("nan"), "soon", LookupError("away")])
def test_a_pace_that_is_none_defers_the_message(twin: Twin, scripted: Scripted, answer: Any) -> None:
    """It ends no stream: the others have their own answers."""
    server = scripted(Play())
    answers = iter([0, answer, 0])

    def pace(name: str, number: int) -> Any:
        said = next(answers)
        if isinstance(said, Exception):
            raise said
        return said

    pairs = dict(twin(server.url).deliver(["u0", "u1", "u2"], prepare=parcel, pace=pace))
    assert {item: receipt.ok for item, receipt in pairs.items()} == {"u0": True, "u1": False, "u2": True}
    assert statuses(pairs["u1"]) == [Status.DEFERRED]
    assert "pace()" in str(pairs["u1"].error)


class TestNeverIterated:
    @pytest.mark.parametrize("method", ["deliver", "send_many"])
    def test_it_warns(self, method: str) -> None:
        mailer = Mailer("smtp://localhost:1")
        with pytest.warns(RuntimeWarning, match="never iterated"):
            getattr(mailer, method)([hello()])

    @pytest.mark.parametrize("method", ["deliver", "send_many"])
    async def test_of_tasks(self, method: str) -> None:
        async with AsyncMailer("smtp://localhost:1") as mailer:
            with pytest.warns(RuntimeWarning, match="never iterated"):
                getattr(mailer, method)([hello()])

    def test_one_that_was_begun_or_closed_does_not(self, scripted: Scripted) -> None:
        server = scripted(Play())
        with Mailer(server.url) as mailer:
            mailer.deliver([hello()]).close()
            assert all(receipt.ok for _, receipt in mailer.deliver([hello()]))
            next(mailer.send_many([hello()]))


def test_an_outcome_has_its_recipient(twin: Twin, scripted: Scripted) -> None:
    """NOTIFY and ORCPT included, and a receipt gives the envelope of those still owed."""
    server = scripted(Play({"RCPT TO:<later@": "450 later", "RCPT TO:<no@": "550 no"}, ("DSN", "PIPELINING")))
    later = Recipient("later@example.com", ("FAILURE", "DELAY"), "old@example.com")
    envelope = Envelope(SENDER, ["ann@example.com", later, "no@example.com"], envid="one", dsn_return="HDRS")
    receipt = twin(server.url).send(hello(), envelope)
    assert [outcome.recipient for outcome in receipt.outcomes] == list(envelope.recipients)
    assert receipt.owed() == Envelope(SENDER, [later], envid="one", dsn_return="HDRS")
    assert receipt.owed(Status.REJECTED) == Envelope(SENDER, ["no@example.com"], envid="one", dsn_return="HDRS")
    assert receipt.owed(Status.FAILED) is None


def test_a_source_is_taken_lazily(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play())
    taken = []

    def source() -> Iterator[str]:
        for n in range(1000):
            taken.append(n)
            yield f"u{n}"

    stream = twin(server.url, window=2).deliver(source(), prepare=parcel)
    next(stream)
    stream.close()
    assert len(taken) < 20


@MANY
def test_a_slow_prepare_holds_back_no_pair_that_is_known(twin: Twin, scripted: Scripted, connections: int) -> None:
    """When an item is prepared, every one before the last that was sent has been given."""
    server = scripted(Play())
    given: list[str] = []
    known: list[tuple[int, int]] = []

    def prepare(item: str) -> Parcel:
        time.sleep(2 * SLOW)
        known.append((len(server.handed_over), len(given)))
        return parcel(item)

    for item, _ in twin(server.url).deliver([f"u{n}" for n in range(8)], prepare=prepare, connections=connections):
        given.append(item)
    assert all(taken - told <= connections + 1 for taken, told in known)


def test_what_needs_no_delivery_is_bounded_too(twin: Twin, scripted: Scripted) -> None:
    """A long run of items with nothing to send is not taken at once while a message is in flight."""
    server = scripted(Play())
    prepared: list[int] = []
    most = 0

    def prepare(item: int) -> Parcel | None:
        prepared.append(item)
        return parcel("ann") if item == 0 else None

    for count, _ in enumerate(twin(server.url, window=4).deliver(range(5000), prepare=prepare), 1):
        most = max(most, len(prepared) - count)
    assert len(prepared) == 5000
    assert most <= 6


@pytest.mark.parametrize("rate", [None, 50.0])
def test_pace_is_asked_once_for_each_message(twin: Twin, scripted: Scripted, rate: float | None) -> None:
    """Also where the server has a rate, and where it says to wait."""
    server = scripted(Play())
    asked: list[str] = []

    def pace(name: str, number: int) -> float:
        asked.append(name)
        return 0.01

    pairs = list(twin(server.url, rate=rate).deliver([f"u{n}" for n in range(60)], prepare=parcel, pace=pace))
    assert all(receipt.ok for _, receipt in pairs)
    assert len(asked) == 60


@pytest.mark.parametrize("limit", ["pace", "rate"])
def test_what_waits_for_its_turn_is_not_sent_when_the_stream_is_left(
    twin: Twin, scripted: Scripted, limit: str
) -> None:
    """Be it the caller's pace or the server's rate: nothing is sent later, and nothing is left that would."""
    server = scripted(Play())
    answers = iter([0.0] + [1000.0] * 99)
    events: list[Any] = []
    stream = twin(server.url, rate=0.001 if limit == "rate" else None).deliver(
        [f"u{n}" for n in range(9)],
        prepare=parcel,
        pace=(lambda name, number: next(answers)) if limit == "pace" else None,
        connections=2,
        listeners=[events.append],
    )
    next(stream)
    stream.close()
    assert not [thread.name for thread in threading.enumerate() if re.fullmatch(r"smtpbackend-\d+", thread.name)]
    assert len(server.handed_over) == 1
    begun = [event.message for event in events if event.name == "message_sending"]
    ended = [event.message for event in events if event.name == "message_ended"]
    assert sorted(begun) == sorted(ended)


@MANY
def test_without_prepare_the_items_come_back(twin: Twin, scripted: Scripted, connections: int) -> None:
    server = scripted(Play())
    items = [(b"Subject: x\r\n\r\nx\r\n", Envelope(SENDER, [f"u{n}@example.com"])) for n in range(5)]
    pairs = list(twin(server.url).deliver(items, connections=connections))
    assert sorted(id(item) for item, _ in pairs) == sorted(map(id, items))
    assert all(receipt.ok and receipt.envelope is item[1] for item, receipt in pairs)


def test_a_sender_that_is_not_known_is_not_told_as_the_null_one(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play())
    events: list[Any] = []
    message = email.message.EmailMessage()
    message["To"] = "ann@example.com"
    [(_, receipt)] = twin(server.url).deliver([message], listeners=[events.append])
    assert statuses(receipt) == [Status.FAILED]
    assert receipt.envelope is None
    assert receipt.owed(Status.FAILED) is None
    assert [event.envelope for event in events] == [None, None]


@pytest.mark.parametrize("name", ["message_sending", "message_ended"])
@MANY
def test_an_interrupt_in_a_listener_ends_each_message_once(scripted: Scripted, name: str, connections: int) -> None:
    server = scripted(Play())
    events: list[Any] = []

    def interrupt(event: Any) -> None:
        events.append(event)
        if event.name == name and event.message == "u2":
            raise KeyboardInterrupt

    with Mailer(server.url) as mailer, pytest.raises(KeyboardInterrupt):
        list(
            mailer.deliver([f"u{n}" for n in range(5)], prepare=parcel, listeners=[interrupt], connections=connections)
        )
    begun = [event.message for event in events if event.name == "message_sending"]
    ended = [event.message for event in events if event.name == "message_ended"]
    assert sorted(begun) == sorted(ended)
    assert len(set(ended)) == len(ended)


@pytest.mark.parametrize("what", ["holds", "pace", "prepare"])
def test_a_coroutine_function_is_refused_where_nothing_awaits_it(scripted: Scripted, what: str) -> None:
    """Else a lease that is lost would count as held."""
    server = scripted(Play())

    async def answer(*_: Any) -> bool:
        return False

    with Mailer(server.url) as mailer:
        [(_, receipt)] = mailer.deliver(["ann"], **{"prepare": parcel, what: answer})
    assert not receipt.ok
    assert "only an AsyncMailer awaits" in str(receipt.error)
    assert server.handed_over == []


OUTCOME = Outcome("ann@", Status.REJECTED, error=InvalidInput("no \ud800"))


@pytest.mark.parametrize("made", ["text", 5, Parcel(None, b"", "ann@"), Parcel(None, b"", ["ann@"])], ids=str)  # type: ignore[arg-type]
@MANY
def test_a_parcel_that_is_none_fails_its_item_alone(
    twin: Twin, scripted: Scripted, made: Any, connections: int
) -> None:
    server = scripted(Play())

    def prepare(item: str) -> Any:
        return made if item == "u1" else parcel(item)

    pairs = dict(twin(server.url).deliver(["u0", "u1", "u2"], prepare=prepare, connections=connections))
    assert {item: receipt.ok for item, receipt in pairs.items()} == {"u0": True, "u1": False, "u2": True}
    assert isinstance(pairs["u1"].error, InvalidInput)


@pytest.mark.parametrize("refused", [OUTCOME, [OUTCOME], (OUTCOME,)])
def test_refused_recipients_may_stand_in_a_list(twin: Twin, scripted: Scripted, refused: Any) -> None:
    server = scripted(Play())
    [(_, receipt)] = twin(server.url).deliver(["ann"], prepare=lambda item: parcel(item)._replace(refused=refused))
    assert statuses(receipt) == [Status.ACCEPTED, Status.REJECTED]
    [(_, receipt)] = twin(server.url).deliver(["ann"], prepare=lambda item: Parcel(None, b"", refused))
    assert statuses(receipt) == [Status.REJECTED]
