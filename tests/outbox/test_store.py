"""The contract of a store: what each statement does, on SQLite and PostgreSQL, over every kind of connection."""

from __future__ import annotations

import contextlib
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from smtpbackend import Envelope, InvalidInput, Message
from smtpbackend.adapters import Parcel, stamp
from smtpbackend.outbox import Draft, draft
from smtpbackend.outbox.entry import BLOCK, VERSION
from smtpbackend.outbox.schedule import LANES, LEASE, SUSPECTS, deferred, lane_of, rest_after
from smtpbackend.outbox.sql import CONTENTS, PART, Change, Claimed
from tests.outbox.lab import letter
from tests.outbox.stores import ALIAS, EVERY_LANE, KINDS, Stores

ON_POSTGRESQL = pytest.mark.parametrize(
    "stores", [pytest.param(kind, marks=pytest.mark.servers) for kind in KINDS if "postgresql" in kind], indirect=True
)
"""SQLite has one writer at a time."""
TABLES = ("entry", "recipient", "content", "due")


def sized(size: int) -> Draft:
    """A message of so many octets, and a little."""

    def octets() -> Iterator[bytes]:
        yield b"From: shop@example.com\r\nSubject: Large\r\n\r\n"
        line = b"x" * 76 + b"\r\n"
        for _ in range(size // len(line)):
            yield line

    return draft(Parcel(Envelope("shop@example.com", ["ann@example.com"]), _Iterable(octets)), stamp, 0.0, lasts=1e10)


class _Iterable:
    def __init__(self, make: Callable[[], Iterable[bytes]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._make())


def refused() -> Draft:
    """A message whose only recipient is no address."""
    message = Message(subject="S", from_="shop@example.com", to=["ann@example.com"], text="T")
    parcel = Parcel.of(message)
    from smtpbackend import Outcome, Status

    outcome = Outcome("no address", Status.REJECTED, error=InvalidInput("it has no @"))
    return draft(Parcel(None, parcel.content, (outcome,)), stamp, 0.0, lasts=1e10)


def partly_refused() -> Draft:
    from smtpbackend import Outcome, Status

    message = Message(subject="S", from_="shop@example.com", to=["ann@example.com"], text="T")
    parcel = Parcel.of(message)
    outcome = Outcome("no address", Status.REJECTED, error=InvalidInput("it has no @"))
    return draft(Parcel(parcel.envelope, parcel.content, (outcome,)), stamp, 0.0, lasts=1e10)


class _RolledBack(Exception):
    pass


@contextlib.contextmanager
def rolled_back(stores: Stores) -> Iterator[None]:
    """A transaction, or a savepoint, that is rolled back at its end."""
    with contextlib.suppress(_RolledBack), stores.connection.atomic():
        yield
        raise _RolledBack


def change(one: Claimed, *states: str, position: int = 0, final: bool = True, **more: Any) -> Change:
    """What is recorded of the recipients from ``position`` on."""
    reply = {"code": 250, "enhanced": None, "lines": ["ok"]}
    rows = [(position + number, state, 0, reply, "mx", None) for number, state in enumerate(states)]
    given: dict[str, Any] = {"next_try": 0.0, "lane": one.lane, "tries": one.tries, **more}
    return Change(one.id, one.lease, rows, final, **given)


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each thread's work returns; they begin together."""
    begin = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        begin.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


class TestEnqueue:
    def test_all_that_a_draft_says_is_stored(self, stores: Stores) -> None:
        one = letter("ann@example.com", "bob@example.com", subject="Grüße", priority="high", key="k")
        (its,) = stores.enqueue(one, group=7, place=3)
        assert its == (its.id, True, True)
        shown = stores.store.show(its.id)
        assert shown is not None
        assert shown["subject"] == "Grüße"
        assert (shown["environment"], shown["alias"], shown["priority"], shown["key"]) == ("here", ALIAS, 0, "k")
        assert (shown["finished"], shown["erased"], shown["may_have_arrived"]) == (None, False, False)
        assert shown["message_id"] == one.message_id
        assert shown["size"] == one.size == len(stores.octets(its.id))
        assert [row["address"] for row in shown["recipients"]] == ["ann@example.com", "bob@example.com"]
        assert shown["due"]["lane"] == lane_of(0, 3)
        assert stores.octets(its.id) == b"".join(one.blocks())

    def test_a_list_keeps_its_order(self, stores: Stores) -> None:
        """Also over several batches, and where keys are inserted sorted."""
        drafts = [letter(f"p{n}@example.com", key=f"key {(n * 7) % 250:03}" if n % 2 else None) for n in range(250)]
        stored = stores.enqueue(*drafts, place=5)
        for number, its in enumerate(stored):
            shown = stores.store.show(its.id)
            assert shown is not None
            assert shown["recipients"][0]["address"] == f"p{number}@example.com"
            assert shown["key"] == drafts[number].key
        lanes = Counter(row[0] for row in stores.rows("SELECT lane FROM {due}"))
        assert lanes == {lane_of(1, 0): 5, lane_of(1, 10): 245}, "five of the group came before"

    def test_a_message_is_one_statement_on_postgresql_and_one_a_table_elsewhere(self, stores: Stores) -> None:
        store, connection = stores.counted()
        stores.enqueue(letter("ann@example.com", "bob@example.com"), store=store)
        assert len(connection.statements) == (1 if stores.dialect == "postgresql" else len(TABLES))
        connection.statements.clear()
        stores.enqueue(*(letter() for _ in range(100)), store=store)
        assert len(connection.statements) == (1 if stores.dialect == "postgresql" else len(TABLES))
        connection.statements.clear()
        stores.enqueue(letter(key="new"), store=store)
        assert len(connection.statements) == (1 if stores.dialect == "postgresql" else len(TABLES))

    def test_a_list_is_a_statement_for_each_hundred(self, stores: Stores) -> None:
        store, connection = stores.counted()
        stores.enqueue(*(letter() for _ in range(1000)), store=store)
        assert len(connection.statements) == 10 * (1 if stores.dialect == "postgresql" else len(TABLES))
        assert all(stores.count(table) == 1000 for table in TABLES)

    def test_many_recipients(self, stores: Stores) -> None:
        """More than any driver takes parameters in one statement."""
        many = [f"p{number}@example.com" for number in range(12_000)]
        one = draft(
            Parcel(Envelope("shop@example.com", many), b"Subject: S\r\n\r\nT\r\n"), stamp, 0.0, lasts=1e10, key="k"
        )
        (its,) = stores.enqueue(one)
        rows = stores.rows("SELECT position, address FROM {recipient} WHERE entry_id = %s ORDER BY position", its.id)
        assert rows == list(enumerate(many))
        many_each = [letter(*(f"p{number}@example.com" for number in range(150))) for _ in range(100)]
        stores.enqueue(*many_each)
        assert stores.count("recipient") == 12_000 + 15_000

    def test_a_large_content_is_stored_in_rows(self, stores: Stores) -> None:
        one = sized(3 * BLOCK)
        (its,) = stores.enqueue(one)
        sizes = [row[0] for row in stores.rows("SELECT length(octets) FROM {content} ORDER BY number")]
        assert sizes[:-1] == [BLOCK] * (len(sizes) - 1)
        assert sum(sizes) == one.size == 3 * BLOCK - 3 * BLOCK % 78 + 42
        assert stores.octets(its.id) == b"".join(one.blocks())
        assert stores.store.read([its.id])[its.id].octets == b""
        assert b"".join(stores.store.content(its.id)) == stores.octets(its.id)

    @pytest.mark.slow
    def test_a_content_of_50_mb_is_never_in_memory(self, stores: Stores) -> None:
        one = sized(50_000_000)
        assert one.size > 49_000_000
        tracemalloc.start()
        try:
            (its,) = stores.enqueue(one)
            assert tracemalloc.get_traced_memory()[1] < 6_000_000
            tracemalloc.reset_peak()
            assert sum(len(row) for row in stores.store.content(its.id)) == one.size
            assert tracemalloc.get_traced_memory()[1] < 6_000_000
        finally:
            tracemalloc.stop()

    def test_large_contents_share_no_statement(self, stores: Stores) -> None:
        """The statements of one list hold a megabyte of content or so, whatever it has."""
        store, connection = stores.counted()
        stores.enqueue(*(sized(200_000) for _ in range(12)), store=store)
        largest = max(sum(len(one) for one in params if isinstance(one, bytes)) for _, params in connection.statements)
        assert largest < 2_000_000

    def test_a_list_is_stored_whole_or_not_at_all(self, stores: Stores) -> None:
        good = sized(100)
        bad = sized(BLOCK * 2).replace(content=_Failing())
        with pytest.raises(OSError, match="gone"):
            stores.enqueue(*([good] * 150), bad)
        assert [stores.count(table) for table in TABLES] == [0, 0, 0, 0]

    def test_what_is_rolled_back_is_not_stored(self, stores: Stores) -> None:
        with rolled_back(stores):
            stores.enqueue(letter(), letter())
        assert [stores.count(table) for table in TABLES] == [0, 0, 0, 0]

    def test_a_savepoint_that_is_rolled_back_takes_its_mail_along(self, stores: Stores) -> None:
        with stores.connection.atomic():
            stores.enqueue(letter("ann@example.com"))
            with rolled_back(stores):
                stores.enqueue(letter("bob@example.com"))
            stores.enqueue(letter("cid@example.com"))
        rows = stores.rows("SELECT address FROM {recipient} ORDER BY entry_id")
        assert rows == [("ann@example.com",), ("cid@example.com",)]

    def test_nobody_sees_what_is_not_committed(self, stores: Stores) -> None:
        other = stores.open()
        with stores.connection.atomic():
            stores.enqueue(letter())
            if stores.dialect == "postgresql":  # SQLite has one writer at a time
                assert not stores.claim(store=other)
            assert not other.entries()
        assert len(stores.claim(store=other)) == 1

    @ON_POSTGRESQL
    def test_a_lower_id_that_commits_later_is_claimed(self, stores: Stores) -> None:
        first, second, worker = stores.open(), stores.open(), stores.open()
        with first.connection.atomic():
            (low,) = stores.enqueue(letter(), store=first)
            with second.connection.atomic():
                (high,) = stores.enqueue(letter(), store=second)
            assert low.id < high.id
            assert [one.id for one in stores.claim(store=worker)] == [high.id]
        assert [one.id for one in stores.claim(store=worker)] == [low.id]

    def test_who_was_refused_is_final_from_the_beginning(self, stores: Stores) -> None:
        (its,) = stores.enqueue(refused())
        shown = stores.store.show(its.id)
        assert shown is not None
        assert shown["due"] is None
        assert shown["finished"]
        assert shown["erased"]
        assert [(row["state"], row["error"]) for row in shown["recipients"]] == [("rejected", "it has no @")]
        assert stores.count("content") == 0
        (its,) = stores.enqueue(partly_refused())
        assert stores.states(its.id) == ["pending", "rejected"]
        assert stores.count("due") == 1

    def test_a_list_of_which_one_is_not_final(self, stores: Stores) -> None:
        final, due = stores.enqueue(refused(), letter())
        assert [stores.states(one.id) for one in (final, due)] == [["rejected"], ["pending"]]
        assert [one.id for one in stores.claim()] == [due.id]
        assert [bool((stores.store.show(one.id) or {})["finished"]) for one in (final, due)] == [True, False]
        assert [one.is_new for one in stores.enqueue(refused(), refused())] == [True, True]
        assert stores.count("due") == 1

    def test_mail_that_is_born_leased_is_claimed_by_nobody(self, stores: Stores) -> None:
        stored = stores.enqueue(*(letter() for _ in range(5)), letter(send_at=None), born_leased=3)
        assert {one.id for one in stores.claim()} == {its.id for its in stored[3:]}
        stores.shift(LEASE + 1)
        claimed = {one.id: one for one in stores.claim()}
        born = [claimed[its.id] for its in stored[:3]]
        assert {(one.lease, one.lapses) for one in born} == {(2, 0)}, "that its process did not take it is no lapse"
        again = {claimed[its.id].lapses for its in stored[3:]}
        assert again == {1}

    def test_mail_for_later(self, stores: Stores) -> None:
        from datetime import UTC, datetime, timedelta

        (its,) = stores.enqueue(letter(send_at=datetime.now(UTC) + timedelta(seconds=100)), born_leased=1)
        assert not stores.claim()
        soonest = stores.store.soonest([ALIAS, "unknown"])
        assert soonest.keys() == {ALIAS}
        assert 90 < soonest[ALIAS] <= 100
        stores.shift(101)
        assert [(one.id, one.lease) for one in stores.claim()] == [(its.id, 1)]


class _Failing:
    def chunks(self) -> Iterator[bytes]:
        yield b"x" * BLOCK
        raise OSError("gone")


class TestKeys:
    def test_the_second_of_a_key_gets_the_first(self, stores: Stores) -> None:
        (first,) = stores.enqueue(letter(key="k", text="One"))
        assert stores.enqueue(letter(key="k", text="One")) == [(first.id, False, True)]
        assert stores.enqueue(letter(key="k", text="Two")) == [(first.id, False, False)]
        assert stores.count("entry") == stores.count("due") == stores.count("content") == 1

    def test_a_key_is_of_its_environment(self, stores: Stores) -> None:
        there = stores.open("there")
        (first,), (second,) = stores.enqueue(letter(key="k")), stores.enqueue(letter(key="k"), store=there)
        assert second.is_new
        assert first.id != second.id

    def test_a_key_twice_in_a_list(self, stores: Stores) -> None:
        stored = stores.enqueue(letter(), letter(key="k"), letter(), letter(key="k", text="Other"))
        assert [its.is_new for its in stored] == [True, True, True, False]
        assert stored[3] == (stored[1].id, False, False)

    def test_a_key_is_free_once_its_entry_is_pruned(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter(key="k"))
        stores.store.cancel([its.id])
        assert not stores.enqueue(letter(key="k"))[0].is_new
        while any(stores.store.purge(0, 0)):
            pass
        assert stores.enqueue(letter(key="k"))[0].is_new

    def test_the_second_waits_for_the_first(self, stores: Stores) -> None:
        """It gets the entry if the first commits, and its own if the first rolls back."""
        for commits in (True, False):
            key = f"commits {commits}"
            waits, result = threading.Event(), []
            second = stores.open()

            def store_it(store: Any = second, key: str = key, waits: Any = waits, result: Any = result) -> None:
                waits.set()
                with store.connection.atomic():
                    result.extend(stores.enqueue(letter(key=key), store=store))

            thread = threading.Thread(target=store_it)
            with stores.connection.atomic() if commits else rolled_back(stores):
                first = stores.enqueue(letter(key=key))
                thread.start()
                waits.wait(20)
                thread.join(0.2)  # it might come too early; never too late
                assert not result
            thread.join(30)
            assert [its.is_new for its in result] == [not commits]
            if commits:
                assert result[0].id == first[0].id

    def test_lists_of_the_same_keys_do_not_block_each_other(self, stores: Stores) -> None:
        keys = [f"k{number:03}" for number in range(120)]

        def store_all(number: int) -> list[int]:
            store = stores.open()
            ordered = keys if number % 2 else keys[::-1]
            return [its.id for its in stores.enqueue(*(letter(key=key) for key in ordered), store=store)]

        results = in_threads(4, store_all)
        assert results[0] == results[1][::-1] == results[2] == results[3][::-1]
        assert stores.count("entry") == 120

    @ON_POSTGRESQL
    def test_a_snapshot_that_cannot_see_the_other_is_an_error(self, stores: Stores) -> None:
        late = stores.open()
        with rolled_back(stores):
            stores.connection.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            stores.store.entries()
            stores.enqueue(letter(key="k"), store=late)
            with pytest.raises(Exception, match="could not serialize"):
                stores.enqueue(letter(key="k"))


class TestClaim:
    def test_what_is_claimed(self, stores: Stores) -> None:
        ids = stores.put(3)
        claimed = stores.claim(2)
        assert [(one.lease, one.lane, one.lapses, one.tries) for one in claimed] == [(1, lane_of(1, 0), 0, 0)] * 2
        (other,) = stores.claim()
        assert sorted([other.id, *(one.id for one in claimed)]) == ids
        assert not stores.claim()

    def test_lanes_in_their_order_each_as_many_as_it_may(self, stores: Stores) -> None:
        high = stores.put(5, priority="high")
        low = stores.put(5, priority="low")
        claimed = stores.store.claim(ALIAS, [(lane_of(2, 0), 2), (lane_of(0, 0), 3), (lane_of(2, 0), 9)], 4)
        taken = [one.id for one in claimed]
        assert sum(one in low for one in taken) == 2
        assert sum(one in high for one in taken) == 2

    def test_a_lane_that_is_named_twice_fills_the_claim(self, stores: Stores) -> None:
        """As where a priority is owed its tenth, and there is nothing else."""
        stores.put(9, priority="low")
        lane = lane_of(2, 0)
        assert len(stores.store.claim(ALIAS, [(lane, 3), (lane_of(0, 0), 8), (lane, 8)], 8)) == 8

    def test_the_longest_due_go_first(self, stores: Stores) -> None:
        ids = stores.put(5)
        for number, entry_id in enumerate(reversed(ids)):
            stores.rows("UPDATE {due} SET next_try = next_try - %s WHERE entry_id = %s", 100 - number, entry_id)
        assert {one.id for one in stores.claim(2)} == set(ids[-2:])

    def test_what_is_not_claimed(self, stores: Stores) -> None:
        """What expired, a newer format, another mailer and another environment."""
        expired, newer, other_mailer = stores.put(3)
        stores.rows("UPDATE {due} SET expires = next_try WHERE entry_id = %s", expired)
        stores.rows("UPDATE {due} SET version = %s WHERE entry_id = %s", VERSION + 1, newer)
        stores.rows("UPDATE {due} SET alias = 'other' WHERE entry_id = %s", other_mailer)
        stores.enqueue(letter(), store=stores.open("there"))
        assert not stores.claim()
        (newer_told,) = [one for one in stores.store.statistics() if one["alias"] == ALIAS]
        assert newer_told["newer"] == 1

    def test_a_suspect_is_claimed_only_from_its_lane(self, stores: Stores) -> None:
        stores.put(2)
        claimed = stores.claim()
        assert not stores.store.has_suspect(ALIAS)
        stores.store.set_aside(claimed[:1])
        assert stores.store.has_suspect(ALIAS)
        assert not stores.claim()
        (one,) = stores.store.claim(ALIAS, [(SUSPECTS, 1)], 1)
        assert (one.id, one.lane, one.lease) == (claimed[0].id, SUSPECTS, 2)
        assert not stores.store.has_suspect(ALIAS)
        stores.shift(LEASE + 1)
        assert not stores.store.has_suspect(ALIAS, grace=10.0), "it is not claimed either"
        assert stores.store.has_suspect(ALIAS)

    def test_nothing_is_claimed_twice(self, stores: Stores) -> None:
        ids = [its.id for n in range(4) for its in stores.enqueue(*(letter() for _ in range(60)), group=n)]
        opened = [stores.open() for _ in range(8)]

        def claim_all(number: int) -> list[int]:
            taken = []
            while claimed := stores.claim(7, store=opened[number]):
                taken += [one.id for one in claimed]
            return taken

        results = in_threads(8, claim_all)
        assert sorted(one for taken in results for one in taken) == sorted(ids)

    @ON_POSTGRESQL
    def test_what_another_claims_is_passed_over(self, stores: Stores) -> None:
        stores.put(4)
        first, second = stores.open(), stores.open()
        with first.connection.atomic():
            held = {one.id for one in stores.claim(2, store=first)}
            others = {one.id for one in stores.claim(4, store=second)}
        assert len(held) == len(others) == 2
        assert not held & others

    def test_a_claim_that_is_rolled_back_leases_nothing(self, stores: Stores) -> None:
        stores.put(2)
        with rolled_back(stores):
            stores.claim()
        assert {one.lease for one in stores.claim()} == {1}

    def test_a_lapsed_lease_is_counted(self, stores: Stores) -> None:
        (entry_id,) = stores.put()
        for lapses in range(4):
            (one,) = stores.claim()
            assert (one.id, one.lease, one.lapses) == (entry_id, lapses + 1, lapses)
            stores.shift(LEASE + 1)

    def test_lapsed_leases_may_be_left_to_their_workers_a_while(self, stores: Stores) -> None:
        fresh, lapsed = stores.put(2)
        stores.store.claim(ALIAS, EVERY_LANE, 2)
        stores.store.give_back({fresh: 1})
        stores.shift(LEASE + 5)
        assert [one.id for one in stores.claim(grace=10)] == [fresh]
        stores.shift(6)
        assert [one.id for one in stores.claim(grace=10)] == [lapsed]

    def test_only_those_behind_another(self, stores: Stores) -> None:
        ids = stores.put(3)
        assert [one.id for one in stores.claim(1, after=ids[1])] == [ids[2]]

    def test_what_was_born_leased_is_claimed_by_its_process(self, stores: Stores) -> None:
        born, mine, lapsed = (its.id for its in stores.enqueue(letter(), letter(), letter(), born_leased=3))
        assert {(one.id, one.lease) for one in stores.store.claim_born([born, mine])} == {(born, 2), (mine, 2)}
        assert not stores.store.claim_born([born, mine]), "once"
        stores.shift(LEASE + 1)
        assert len(stores.claim()) == 3
        assert not stores.store.claim_born([lapsed])

    def test_what_is_read(self, stores: Stores) -> None:
        drafts = [letter("ann@example.com", "bob@example.com", text=f"Text {n}") for n in range(3)]
        ids = [its.id for its in stores.enqueue(*drafts)]
        read = stores.store.read(ids)
        assert read.keys() == set(ids)
        for entry_id, one in zip(ids, drafts, strict=True):
            written = read[entry_id]
            assert (written.envelope, written.message_id) == (one.envelope_json, one.message_id)
            assert (written.subject, written.priority) == ("Hello", 1)
            assert (written.size, bool(written.is_8bit), written.send_at) == (one.size, False, None)
            assert written.created > 1.6e9
            assert written.octets == b"".join(one.blocks())

    def test_an_entry_of_many_recipients_goes_in_parts(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter(*(f"p{number}@example.com" for number in range(250))))
        parts = []
        for _ in range(3):
            (one,) = stores.claim()
            rows = stores.store.pending([its.id])[its.id]
            part = rows[:PART]
            parts.append((len(part), rows[0][4]))
            changes = [(position, "accepted", 0, None, "mx", None) for position, *_ in part]
            is_final = rows[0][4] == len(part)
            stores.store.record([Change(one.id, one.lease, changes, is_final, 0.0, one.lane, one.tries)])
        assert parts == [(100, 250), (100, 150), (50, 50)]
        assert stores.count("due") == 0
        assert set(stores.states(its.id)) == {"accepted"}

    def test_the_least_tried_go_first(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter(*(f"p{number}@example.com" for number in range(5))))
        (one,) = stores.claim()
        stores.store.record([change(one, "pending", "pending", final=False)])
        assert [row[0] for row in stores.store.pending([its.id])[its.id]] == [2, 3, 4, 0, 1]


class TestLeases:
    def test_who_lost_a_lease_changes_nothing(self, stores: Stores) -> None:
        (entry_id,) = stores.put()
        (old,) = stores.claim()
        stores.shift(LEASE + 1)
        (new,) = stores.claim()
        before = stores.rows("SELECT * FROM {due}")
        store = stores.store
        assert store.record([change(old, "accepted")]) == set()
        assert store.record([change(old, "rejected", final=False, next_try=60.0, may_have_arrived=True)]) == set()
        assert store.renew({old.id: old.lease}) == set()
        assert store.fail([old], "why") == []
        assert not store.holds(old.id, old.lease)
        store.give_back({old.id: old.lease})
        store.set_aside([old])
        assert stores.rows("SELECT * FROM {due}") == before
        assert stores.states(entry_id) == ["pending"]
        assert not stores.store.show(entry_id)["may_have_arrived"]  # type: ignore[index]
        assert store.holds(new.id, new.lease)
        assert store.record([change(new, "accepted")]) == {entry_id}

    def test_a_record_takes_those_whose_lease_held(self, stores: Stores) -> None:
        first, second = stores.put(2)
        claimed = {one.id: one for one in stores.claim()}
        stores.rows("UPDATE {due} SET lease = lease + 1 WHERE entry_id = %s", second)
        assert stores.store.record([change(one, "accepted") for one in claimed.values()]) == {first}
        assert (stores.states(first), stores.states(second)) == (["accepted"], ["pending"])

    def test_renewed_leases_last(self, stores: Stores) -> None:
        ids = stores.put(3)
        claimed = stores.claim()
        stores.shift(LEASE - 10)
        assert stores.store.renew({one.id: one.lease for one in claimed[:2]}) == {one.id for one in claimed[:2]}
        stores.shift(20)
        assert [one.id for one in stores.claim()] == [claimed[2].id]
        assert stores.store.renew({}) == set()
        assert len(ids) == 3

    def test_a_lease_that_is_given_back_counts_nothing(self, stores: Stores) -> None:
        (entry_id,) = stores.put()
        (one,) = stores.claim()
        stores.store.give_back({one.id: one.lease})
        assert stores.claim() == [(entry_id, 2, one.lane, 0, 0, pytest.approx(one.expires_in, abs=60))]
        stores.store.give_back({})

    def test_what_was_given_back_or_put_off_is_renewed_no_more(self, stores: Stores) -> None:
        """A renewal that comes too late would lease it to nobody, and the lapse would count."""
        stores.put(2)
        back, later = stores.claim()
        stores.store.give_back({back.id: back.lease})
        stores.store.record([change(later, "pending", final=False, next_try=600.0)])
        before = stores.rows("SELECT * FROM {due}")
        assert stores.store.renew({one.id: one.lease for one in (back, later)}) == set()
        assert stores.rows("SELECT * FROM {due}") == before


class TestRecord:
    def test_each_recipient_has_its_state(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter("ann@example.com", "bob@example.com", "cid@example.com"))
        (one,) = stores.claim()
        rows = [
            (0, "accepted", 0, {"code": 250, "enhanced": [2, 0, 0], "lines": ["ok"]}, "mx1", None),
            (1, "pending", 1, {"code": 450, "enhanced": None, "lines": ["\udce4 \0 later"]}, "mx2", "\ud800 why\0"),
            (2, "rejected", 0, None, None, "no"),
        ]
        again = deferred(1)
        assert stores.store.record([Change(one.id, one.lease, rows, False, 60.0, again, 1)]) == {its.id}
        shown = stores.store.show(its.id)
        assert shown is not None
        told = [(row["state"], row["attempts"], row["doubts"], row["server"]) for row in shown["recipients"]]
        assert told == [("accepted", 1, 0, "mx1"), ("pending", 1, 1, "mx2"), ("rejected", 1, 0, "")]
        assert shown["recipients"][0]["reply"] == {"code": 250, "enhanced": [2, 0, 0], "lines": ["ok"]}
        assert shown["recipients"][1]["reply"]["lines"] == ["\udce4 \0 later"]
        assert (shown["recipients"][1]["error"], shown["recipients"][2]["error"]) == ("? why", "no")
        assert (shown["finished"], shown["erased"]) == (None, False)
        due = shown["due"]
        assert (due["lane"], due["tries"], due["leased"], due["lapses"]) == (again, 1, 0, 0)
        assert not stores.claim()
        stores.shift(61)
        (one,) = stores.claim()
        assert (one.lane, one.tries) == (again, 1)
        assert [row[0] for row in stores.store.pending([its.id])[its.id]] == [1]
        assert stores.store.record([change(one, "accepted", position=1)])
        shown = stores.store.show(its.id)
        assert shown is not None
        assert shown["finished"]
        assert not shown["erased"], "one was rejected: a retry may be wanted"
        assert stores.octets(its.id)

    def test_what_is_final_stays(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter("ann@example.com", "bob@example.com"))
        (one,) = stores.claim()
        stores.store.record([change(one, "accepted", "pending", final=False)])
        (one,) = stores.claim()
        stores.store.record([change(one, "rejected", "accepted")])
        assert stores.states(its.id) == ["accepted", "accepted"]

    @pytest.mark.parametrize("state", ["accepted", "rejected", "expired", "cancelled", "in_doubt", "failed"])
    def test_the_content_is_erased_where_nobody_is_owed_it(self, stores: Stores, state: str) -> None:
        """Exactly where all are accepted or cancelled."""
        (its,) = stores.enqueue(letter("ann@example.com", "bob@example.com"))
        (one,) = stores.claim()
        stores.store.record([change(one, "accepted", state)])
        shown = stores.store.show(its.id)
        assert shown is not None
        erased = state in ("accepted", "cancelled")
        assert shown["erased"] is erased
        assert (stores.octets(its.id) == b"") is erased
        assert (shown["subject"] == "") is erased
        assert stores.count("due") == 0
        assert shown["recipients"][0]["address"] == "ann@example.com"

    def test_many_changes_are_few_statements(self, stores: Stores) -> None:
        stores.put(100)
        store, connection = stores.counted()
        claimed = stores.claim()
        changes = [change(one, "accepted") for one in claimed[:50]]
        changes += [
            change(one, "pending", final=False, next_try=60.0, may_have_arrived=True, lane=deferred(1), tries=1)
            for one in claimed[50:]
        ]
        assert len(store.record(changes)) == 100
        assert len(connection.statements) == (7 if stores.dialect == "sqlite" else 5)
        assert stores.count("due") == 50

    def test_no_try_is_later_than_the_end(self, stores: Stores) -> None:
        stores.put()
        (one,) = stores.claim()
        stores.store.record([change(one, "pending", final=False, next_try=1e6, tries=1)])
        assert stores.rows("SELECT next_try = expires FROM {due}")[0][0]

    def test_that_it_may_have_arrived_stays_visible(self, stores: Stores) -> None:
        """A worker that ended with an entry in hand may have sent it, whatever becomes of it."""
        endings: dict[str, Callable[[Claimed], object]] = {
            "recorded": lambda one: stores.store.record([change(one, "accepted", may_have_arrived=True)]),
            "failed": lambda one: stores.store.fail([one], "why"),
            "expired": lambda one: (stores.shift(1e9), stores.store.expire()),
            "given back and cancelled": lambda one: (
                stores.store.give_back({one.id: one.lease}),
                stores.store.cancel([one.id]),
            ),
            "given back and retried": lambda one: (
                stores.store.give_back({one.id: one.lease}),
                stores.store.retry([one.id], 60.0),
            ),
        }
        for name, end in endings.items():
            (entry_id,) = stores.put()
            stores.claim()
            stores.shift(LEASE + 1)
            (one,) = stores.claim()
            assert one.lapses == 1
            end(one)
            shown = stores.store.show(entry_id)
            assert shown is not None
            assert shown["may_have_arrived"], name
            stores.rows("DELETE FROM {due}")

    def test_what_no_worker_had_in_hand_has_not_arrived(self, stores: Stores) -> None:
        ids = stores.put(4)
        claimed = {one.id: one for one in stores.claim(2)}
        stores.store.fail([claimed[ids[0]]], "why")
        stores.store.give_back({ids[1]: 1})
        stores.store.cancel([ids[1]])
        stores.store.retry([ids[2]], 60.0)
        stores.shift(1e9)
        assert (ids[3], ALIAS) in stores.store.expire()
        for entry_id in ids:
            assert not stores.store.show(entry_id)["may_have_arrived"]  # type: ignore[index]


class TestEnds:
    def test_what_expired_is_swept(self, stores: Stores) -> None:
        """Of every mailer, also of those that nobody knows; not what somebody has in hand."""
        ids = stores.put(3)
        stores.rows("UPDATE {due} SET alias = 'unknown' WHERE entry_id = %s", ids[0])
        stores.enqueue(letter(), store=stores.open("there"))
        (held,) = stores.claim(1)
        stores.rows("UPDATE {due} SET expires = 1")
        mailers = {ids[0]: "unknown"}
        swept = set(ids) - {held.id}
        assert sorted(stores.store.expire()) == sorted((one, mailers.get(one, ALIAS)) for one in swept)
        stores.shift(LEASE + 1)
        assert stores.store.expire(grace=10.0) == [], "its worker may only just have the database again"
        assert stores.store.expire() == [(held.id, ALIAS)]
        assert stores.store.expire() == []
        assert {stores.states(one)[0] for one in ids} == {"expired"}
        assert stores.count("due") == 1
        assert stores.octets(ids[0]), "a retry may be wanted"
        assert stores.store.record([change(held, "accepted")]) == set()

    def test_a_sweep_is_a_small_step(self, stores: Stores) -> None:
        stores.enqueue(*(letter() for _ in range(130)))
        stores.rows("UPDATE {due} SET expires = 1")
        assert [len(stores.store.expire()) for _ in range(3)] == [100, 30, 0]

    def test_what_is_failed_says_why(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter("ann@example.com", "bob@example.com"))
        (one,) = stores.claim()
        stores.store.record([change(one, "accepted", final=False)])
        (one,) = stores.claim()
        assert stores.store.fail([one], "it is \0 broken") == [its.id]
        shown = stores.store.show(its.id)
        assert shown is not None
        told = [(row["state"], row["error"]) for row in shown["recipients"]]
        assert told == [("accepted", ""), ("failed", "it is  broken")]

    def test_cancel(self, stores: Stores) -> None:
        """What nobody has in hand; for what somebody has it is too late."""
        ids = [its.id for its in stores.enqueue(letter("ann@example.com", "bob@example.com"), letter(), letter())]
        (one,) = stores.claim(1)
        stores.store.record([change(one, "accepted", "pending", final=False, next_try=60.0, tries=1)])
        half = one.id
        (held,) = stores.claim(1)
        (free,) = set(ids) - {half, held.id}
        (elsewhere,) = stores.enqueue(letter(), store=stores.open("there"))
        told = stores.store.cancel([*ids, elsewhere.id, 999_999])
        if half == ids[0]:
            assert told[half] == [("ann@example.com", "accepted"), ("bob@example.com", "cancelled")]
        assert told[held.id][0][1] == "pending"
        assert told[free][0][1] == "cancelled"
        assert told.keys() == set(ids)
        (lapsed,) = stores.enqueue(letter("eve@example.com"))
        assert [one.id for one in stores.claim(1)] == [lapsed.id]
        stores.rows("UPDATE {due} SET next_try = next_try - 61 WHERE entry_id = %s", lapsed.id)
        assert stores.store.cancel([lapsed.id])[lapsed.id] == [("eve@example.com", "cancelled")]
        assert stores.store.show(lapsed.id)["may_have_arrived"]  # type: ignore[index]
        assert stores.store.show(free)["erased"]  # type: ignore[index]
        assert stores.count("due") == 2
        assert stores.store.record([change(held, "accepted")]) == {held.id}
        assert stores.store.cancel([]) == {}

    def test_retry(self, stores: Stores) -> None:
        ids = dict(zip(("failed", "sent", "waits", "held", "cancelled"), stores.put(5), strict=True))
        claimed = {one.id: one for one in stores.claim()}
        stores.store.fail([claimed[ids["failed"]]], "why")
        stores.store.record(
            [
                change(claimed[ids["sent"]], "accepted"),
                change(claimed[ids["waits"]], "pending", final=False, next_try=3000.0, lane=deferred(1), tries=4),
            ]
        )
        stores.store.give_back({ids["cancelled"]: 1})
        stores.store.cancel([ids["cancelled"]])
        (elsewhere,) = stores.enqueue(letter(), store=stores.open("there"))
        told = stores.store.retry([*ids.values(), elsewhere.id, 999_999], 600.0, "other")
        assert list(told.values()) == ["due", "accepted", "due", "in hand", "erased", "unknown", "unknown"]
        again = {one.id: one for one in stores.store.claim("other", EVERY_LANE, 9)}
        assert again.keys() == {ids["failed"], ids["waits"]}
        assert {one.tries for one in again.values()} == {0}
        shown = stores.store.show(ids["failed"])
        assert shown is not None
        assert (shown["alias"], shown["finished"]) == ("other", None)
        assert shown["recipients"][0]["attempts"] == 0
        left = stores.rows("SELECT expires - next_try FROM {due} WHERE entry_id = %s", ids["failed"])[0][0]
        assert 530 < left < 550, "ten minutes from now, of which the lease is one"
        assert stores.store.record([change(one, "accepted") for one in again.values()]) == set(again)

    def test_no_lease_has_a_number_again(self, stores: Stores) -> None:
        """A worker that was stopped when the entry failed elsewhere must not take the next lease for its own."""
        (entry_id,) = stores.put()
        (old,) = stores.claim()
        stores.store.fail([old], "why")
        assert stores.store.retry([entry_id], 600.0) == {entry_id: "due"}
        (new,) = stores.claim()
        assert new.lease > old.lease
        assert not stores.store.holds(old.id, old.lease)

    def test_a_retry_gives_what_is_left_of_a_lapsed_lease(self, stores: Stores) -> None:
        (entry_id,) = stores.put()
        (old,) = stores.claim()
        stores.shift(LEASE + 1)
        assert stores.store.retry([entry_id], 60.0) == {entry_id: "due"}
        assert stores.store.record([change(old, "accepted")]) == set(), "it may be sent by another now"

    def test_a_retry_leaves_out_who_is_no_address(self, stores: Stores) -> None:
        """Nothing could be sent to what was refused when it was stored, and to who was forgotten."""
        (its,) = stores.enqueue(partly_refused())
        (one,) = stores.claim()
        stores.store.fail([one], "why")
        assert stores.store.retry([its.id], 60.0) == {its.id: "due"}
        assert stores.states(its.id) == ["pending", "rejected"]

    def test_a_retry_and_a_record_do_not_block_each_other(self, stores: Stores) -> None:
        """They lock the rows of an entry in one order."""
        ids = stores.put(40)
        opened = [stores.open(), stores.open()]

        def work(number: int) -> None:
            for _ in range(15):
                if number:
                    opened[1].retry(ids, 600.0)
                else:
                    claimed = stores.claim(40, store=opened[0])
                    opened[0].record([change(one, "pending", final=False, may_have_arrived=True) for one in claimed])

        in_threads(2, work)


class TestPurge:
    def finished(self, stores: Stores, count: int, state: str = "accepted", recipients: int = 1) -> list[int]:
        drafts = [letter(*(f"p{n}@example.com" for n in range(recipients))) for _ in range(count)]
        ids = [its.id for its in stores.enqueue(*drafts)]
        while claimed := stores.claim():
            stores.store.record([change(one, *[state] * recipients) for one in claimed])
        return ids

    def purge(self, stores: Stores, keep: float, keep_failed: float) -> tuple[int, int]:
        erased = deleted = 0
        while any(step := stores.store.purge(keep, keep_failed)):
            erased, deleted = erased + step[0], deleted + step[1]
        return erased, deleted

    def test_what_is_kept_and_for_how_long(self, stores: Stores) -> None:
        sent, failed = self.finished(stores, 2), self.finished(stores, 2, "failed")
        (pending,) = stores.put()
        assert self.purge(stores, 100, 50) == (0, 0)
        stores.shift(51)
        assert self.purge(stores, 100, 50) == (2, 0)
        assert stores.store.show(failed[0])["erased"]  # type: ignore[index]
        assert stores.octets(failed[0]) == b""
        assert stores.states(failed[0]) == ["failed"]
        assert stores.octets(pending)
        stores.shift(50)
        assert self.purge(stores, 100, 50) == (0, 4)
        assert all(stores.store.show(one) is None for one in (*sent, *failed))
        assert [stores.count(table) for table in TABLES] == [1, 1, 1, 1]

    def test_each_environment_prunes_its_own(self, stores: Stores) -> None:
        self.finished(stores, 1)
        assert not any(stores.open("there").purge(0, 0))
        assert stores.count("entry") == 1

    def test_a_step_is_small_whatever_an_entry_has(self, stores: Stores) -> None:
        """A few hundred rows of people and a few of content a statement, over as many steps as it takes."""
        self.finished(stores, 2, "failed", recipients=2500)
        self.finished(stores, 1500, "failed")
        (large,) = stores.enqueue(sized(60 * BLOCK))
        stores.store.fail(stores.claim(), "why")
        before = [stores.count(table) for table in TABLES]
        largest: Counter[str] = Counter()
        steps = 0
        while any(stores.store.purge(0, 0)):
            steps += 1
            after = [stores.count(table) for table in TABLES]
            for table, one, other in zip(TABLES, before, after, strict=True):
                largest[table] = max(largest[table], one - other)
            before = after
        assert [stores.count(table) for table in TABLES] == [0, 0, 0, 0]
        assert largest["recipient"] <= 1000
        assert largest["entry"] <= 1000
        assert largest["content"] <= 200
        assert large.id

    def test_two_at_once_do_not_wait_for_each_other(self, stores: Stores) -> None:
        self.finished(stores, 300)
        opened = [stores.open(), stores.open()]

        def work(number: int) -> int:
            deleted = 0
            while any(step := opened[number].purge(0, 0, 20)):
                deleted += step[1]
            return deleted

        assert sum(in_threads(2, work)) == 300
        assert stores.count("recipient") == 0

    def test_forget(self, stores: Stores) -> None:
        """A person's address and mail, where the outcome is final; what is pending is told."""
        both = stores.enqueue(letter("Ann@example.com", "bob@example.com"))[0].id
        done = stores.enqueue(letter("ann@example.com", "bob@example.com"))[0].id
        claimed = {one.id: one for one in stores.claim()}
        stores.store.record([change(claimed[done], "rejected", "accepted")])
        stores.store.record([change(claimed[both], "rejected", final=False)])
        waiting = stores.enqueue(letter("ANN@example.com"))[0].id
        elsewhere = stores.enqueue(letter("ann@example.com"), store=stores.open("there"))[0].id
        there = stores.open("there")
        (old,) = stores.enqueue(letter("ann@example.com", "cid@example.com"), store=there)
        there.fail([one for one in there.claim(ALIAS, [(lane_of(1, 0), 9)], 9) if one.id == old.id], "why")
        assert stores.store.forget("ann@EXAMPLE.com") == (3, 2), "in every environment"
        assert stores.octets(old.id) == b""
        assert [row["address"] for row in there.show(old.id)["recipients"]] == ["", "cid@example.com"]  # type: ignore[index]
        addresses = {
            one: [row["address"] for row in stores.store.show(one)["recipients"]]  # type: ignore[index]
            for one in (both, done, waiting, elsewhere)
        }
        assert addresses[both] == ["", "bob@example.com"]
        assert addresses[done] == ["", "bob@example.com"]
        assert addresses[waiting] == ["ANN@example.com"]
        assert addresses[elsewhere] == ["ann@example.com"]
        assert stores.octets(done) == b""
        assert stores.octets(both), "bob is owed it"
        assert stores.store.retry([both], 60.0) == {both: "due"}
        assert stores.states(both) == ["rejected", "pending"]
        assert stores.store.forget("nobody@example.com") == (0, 0)

    def test_who_has_much_mail_is_forgotten_too(self, stores: Stores) -> None:
        self.finished(stores, 1)
        numbers = "SELECT 2 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n < 40000"
        stores.rows(
            f"WITH RECURSIVE numbers AS ({numbers}) INSERT INTO {{entry}} (id, environment, alias, envelope, "
            "message_id, subject, priority, group_number, place, version, size, is_8bit, created, expires, finished, "
            "may_have_arrived, erased) SELECT n + 1000, environment, alias, envelope, message_id, subject, priority, "
            "group_number, place, version, size, is_8bit, created, expires, finished, may_have_arrived, erased "
            "FROM {entry} CROSS JOIN numbers"
        )
        stores.rows(
            f"WITH RECURSIVE numbers AS ({numbers}) INSERT INTO {{recipient}} SELECT {_RECIPIENT} "
            "FROM {recipient} CROSS JOIN numbers"
        )
        assert stores.store.forget("p0@example.com") == (40_000, 0)
        assert stores.rows("SELECT count(*) FROM {recipient} WHERE address <> ''") == [(0,)]


_RECIPIENT = "n + 1000, position, address, data, state, attempts, doubts, reply, server, error"


class TestMailers:
    def test_a_mailer_that_fails_rests_longer_each_time(self, stores: Stores) -> None:
        store = stores.store
        assert store.mailers([ALIAS]) == {}
        assert store.rest(ALIAS, rest_after, "it is \0 down") == (5.0, True)
        row = store.mailers([ALIAS])[ALIAS]
        assert 0 < row.rest_left <= 5
        assert row.down_for is not None
        assert row.last_error == "it is  down"
        assert store.rest(ALIAS, rest_after, "again") is None, "it rests already"
        lengths = []
        for _ in range(5):
            stores.shift(61)
            rested = store.rest(ALIAS, rest_after, "again")
            assert rested is not None
            lengths.append(rested)
        assert lengths == [(10.0, False), (20.0, False), (40.0, False), (60.0, False), (60.0, False)]
        store.end_rest(ALIAS)
        row = store.mailers()[ALIAS]
        assert (row.rest, row.down_for, row.last_error) == (0, None, "")
        assert row.rest_left < 0
        assert store.rest(ALIAS, rest_after, "again") == (5.0, True)

    def test_one_of_many_tries_a_mailer(self, stores: Stores) -> None:
        stores.store.rest(ALIAS, rest_after, "down")
        opened = [stores.open() for _ in range(8)]
        assert in_threads(8, lambda number: opened[number].begin_trial(ALIAS)) == [None] * 8, "it rests"
        stores.shift(6)
        trials = in_threads(8, lambda number: opened[number].begin_trial(ALIAS))
        assert sorted(trials, key=lambda one: one is None) == [0, *[None] * 7]
        stores.store.note_trial(ALIAS, 17)
        assert stores.store.begin_trial(ALIAS) is None
        stores.shift(LEASE + 1)
        assert stores.store.begin_trial(ALIAS) == 17, "who tried it is gone"
        stores.store.note_trial(ALIAS, None)
        assert stores.store.begin_trial(ALIAS) == 17, "there was none to try"
        stores.store.end_rest(ALIAS)
        assert stores.store.begin_trial(ALIAS) is None, "it works"

    def test_one_at_a_time_has_the_backlog(self, stores: Stores) -> None:
        opened = [stores.open() for _ in range(4)]
        won = in_threads(4, lambda number: opened[number].hold_backlog(ALIAS, f"worker {number}"))
        assert sorted(won) == [False, False, False, True]
        me = f"worker {won.index(True)}"
        stores.shift(LEASE - 5)
        assert stores.store.hold_backlog(ALIAS, me)
        stores.shift(LEASE - 5)
        assert not stores.store.hold_backlog(ALIAS, "other")
        stores.store.leave_backlog(ALIAS, "other")
        assert not stores.store.hold_backlog(ALIAS, "other")
        stores.store.leave_backlog(ALIAS, me)
        assert stores.store.hold_backlog(ALIAS, "other")
        stores.shift(LEASE + 1)
        assert stores.store.hold_backlog(ALIAS, me), "the other is gone"
        assert stores.store.mailers([ALIAS])[ALIAS].backlog_by == me

    def test_pause(self, stores: Stores) -> None:
        stores.store.pause(ALIAS, True)
        stores.store.pause("", True)
        assert {alias: row.is_paused for alias, row in stores.open().mailers([ALIAS]).items()} == {
            ALIAS: True,
            "": True,
        }
        stores.store.pause(ALIAS, False)
        assert {alias: row.is_paused for alias, row in stores.store.mailers(["other"]).items()} == {"": True}
        assert not stores.store.mailers()[ALIAS].is_paused
        assert stores.open("there").mailers() == {}

    def test_nobody_has_to_listen_for_a_wake_up(self, stores: Stores) -> None:
        stores.store.notify()


class TestLists:
    def test_entries(self, stores: Stores) -> None:
        ids = stores.put(4)
        (one,) = stores.claim(1)
        stores.store.fail([one], "why")
        rest = [entry for entry in reversed(ids) if entry != one.id]
        assert [row[0] for row in stores.store.entries()] == ids[::-1]
        assert [row[0] for row in stores.store.entries(limit=2)] == ids[:1:-1]
        assert [row[0] for row in stores.store.entries(before=ids[2])] == ids[1::-1]
        assert [row[0] for row in stores.store.entries(state="failed")] == [one.id]
        assert [row[0] for row in stores.store.entries(state="pending")] == rest
        assert stores.store.entries(alias="other") == []
        assert stores.open("there").entries() == []
        row = stores.store.entries(state="failed")[0]
        assert row[1] == ALIAS
        assert row[5][0][1] == "failed"

    def test_show_of_nothing(self, stores: Stores) -> None:
        assert stores.store.show(1) is None

    def test_statistics(self, stores: Stores) -> None:
        assert stores.store.statistics() == []
        due, held, lapsed, again, later, newer = stores.put(6)
        claimed = {one.id: one for one in stores.claim()}
        stores.store.give_back({due: 1, later: 1, newer: 1})
        stores.store.record([change(claimed[again], "pending", final=False, next_try=90.0, tries=1)])
        stores.rows("UPDATE {due} SET next_try = next_try + 90 WHERE entry_id = %s", later)
        stores.rows("UPDATE {due} SET next_try = next_try - 50 WHERE entry_id = %s", due)
        stores.rows("UPDATE {due} SET next_try = next_try - 70 WHERE entry_id = %s", lapsed)
        stores.rows("UPDATE {due} SET version = %s, next_try = next_try - 500 WHERE entry_id = %s", VERSION + 1, newer)
        stores.enqueue(letter(), store=stores.open("there"))
        (told,) = stores.store.statistics()
        assert 500 <= told.pop("oldest") < 550
        assert 50 <= told.pop("unclaimed") < 100, "another version may claim the newer one"
        assert told == {
            "alias": ALIAS,
            "pending": 6,
            "due": 2,
            "in_hand": 1,
            "lapsed": 1,
            "deferred": 1,
            "scheduled": 1,
            "newer": 1,
        }
        assert held

    def test_adopt(self, stores: Stores) -> None:
        """The mail of a copied database, once somebody said so. Where both have a key, it stays here."""
        there = stores.open("there")
        stores.enqueue(letter(key="k"), letter(key="other"), letter(), store=there)
        there.pause("", True)
        (mine,) = stores.enqueue(letter(key="k", text="Mine"))
        assert stores.store.environments() == {"here": 1, "there": 3}
        assert [one.id for one in stores.claim()] == [mine.id]
        assert stores.store.adopt("there") == 3
        assert stores.store.environments() == {"here": 4}
        assert len(stores.claim()) == 3
        assert {alias: row.is_paused for alias, row in stores.store.mailers().items()} == {"": True}
        assert there.mailers() == {}
        assert stores.enqueue(letter(key="k")) == [(mine.id, False, False)]
        assert not stores.enqueue(letter(key="other"))[0].is_new
        assert stores.store.adopt("there") == 0
        assert stores.store.adopt("here") == 0, "what is here stays as it is"
        assert stores.enqueue(letter(key="k")) == [(mine.id, False, False)]

    def test_what_is_finished_in_another_environment_is_found_and_adopted(self, stores: Stores) -> None:
        """A site whose address changed prunes, and forgets, what it sent before."""
        there = stores.open("there")
        (its,) = stores.enqueue(letter(), store=there)
        there.fail(there.claim(ALIAS, [(lane_of(1, 0), 1)], 1), "why")
        assert stores.store.environments() == {"there": 0}
        assert stores.store.adopt("there") == 0
        assert stores.store.environments() == {"here": 0}
        assert stores.store.purge(-1.0, -1.0).deleted == 1
        assert stores.store.show(its.id) is None

    def test_what_is_half_erased_is_not_sent_again(self, stores: Stores) -> None:
        """Large contents are erased in steps, and somebody may ask for a retry between them."""
        (its,) = stores.enqueue(sized(CONTENTS * BLOCK + 1))
        stores.store.fail(stores.claim(), "why")
        assert not stores.store.purge(3600.0, -1.0).erased
        assert stores.count("content") == 1
        assert stores.store.retry([its.id], 60.0) == {its.id: "erased"}

    def test_an_old_snapshot_is_told(self, stores: Stores) -> None:
        if stores.dialect == "sqlite":
            assert stores.store.old_snapshot() is None
            return
        other = stores.open()
        told = stores.store.old_snapshot()
        assert told is not None
        assert told["oldest_transaction"] is None
        with other.connection.atomic():
            other.connection.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            other.entries()
            told = stores.store.old_snapshot()
        assert told is not None
        assert told["oldest_transaction"] >= 0

    def test_every_lane_is_looked_at(self, stores: Stores) -> None:
        (entry_id,) = stores.put()
        for lane in range(LANES):
            stores.rows("UPDATE {due} SET lane = %s WHERE entry_id = %s", lane, entry_id)
            assert stores.store.soonest([ALIAS])[ALIAS] <= 0
