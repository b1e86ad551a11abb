"""From claimed rows to what is in hand, and from receipts to what is recorded."""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

import pytest

from smtpbackend import ConnectFailed, Outcome, Receipt, Reply, Status
from smtpbackend.events import MessageEnded, RecipientDeferred
from smtpbackend.outbox import ledger
from smtpbackend.outbox.entry import BLOCK, Due
from smtpbackend.outbox.ledger import Entry, Ledger
from smtpbackend.outbox.schedule import LEASE, MARGIN, MAX_LAPSES, SUSPECTS, deferred
from smtpbackend.outbox.sql import PART
from tests.outbox.lab import letter
from tests.outbox.stores import ALIAS, Stores
from tests.outbox.test_store import sized

OK = Reply(250, (2, 0, 0), ("OK",))
NOW = 1000.0


class Book(Ledger):
    """A ledger, and what it logged."""

    def __init__(self, stores: Stores, retry_in_doubt: int = 2) -> None:
        self.logged: list[tuple[str, dict[str, Any]]] = []
        super().__init__(
            stores.store, lambda alias: retry_in_doubt, lambda event, **fields: self.logged.append((event, fields))
        )
        self.stores = stores

    def claim(self, count: int = 100) -> list[Due]:
        return self.take(ALIAS, self.stores.claim(count), NOW)


def receipt_of(due: Due, *statuses: Status, reply: Reply | None = OK) -> Receipt:
    outcomes = [
        Outcome(recipient, status, reply, "mx", None, 1)
        for recipient, status in zip(due.envelope.recipients, statuses, strict=True)
    ]
    return Receipt(due.message_id, tuple(outcomes), envelope=due.envelope, answered=True)


def people(count: int) -> list[str]:
    return [f"p{number}@example.com" for number in range(count)]


class TestTake:
    def test_what_is_in_hand(self, stores: Stores) -> None:
        draft = letter("ann@example.com", "bob@example.com", subject="Hi", priority="high")
        (its,) = stores.enqueue(draft)
        (due,) = Book(stores).claim()
        assert (due.id, due.alias, due.lease, due.lapses, due.tries) == (its.id, ALIAS, 1, 0, 0)
        assert due.envelope == draft.envelope
        assert due.as_bytes() == b"".join(draft.blocks())
        assert due.begins_by == NOW + LEASE - MARGIN
        assert (due.positions, due.doubts, due.others, due.has_untried) == ((0, 1), (0, 0), 0, False)
        assert (due.subject, due.message_id, due.priority) == ("Hi", draft.message_id, 0)
        assert 3590 < due.expires_at - NOW <= 3600

    def test_it_is_what_a_process_hands_to_itself(self, stores: Stores) -> None:
        """The entry in memory and the one that is read are one and the same."""
        draft = letter("ann@example.com", "bob@example.com")
        (its,) = stores.enqueue(draft, born_leased=1)
        lane, created = stores.rows("SELECT lane, created FROM {due} JOIN {entry} ON id = entry_id")[0]
        ours = Entry(its.id, ALIAS, draft, lane, NOW, created).due()
        assert ours is not None
        stores.store.give_back({its.id: 1})
        (read,) = Book(stores).claim()
        for name in vars(read).keys() - {"lease", "events", "expires_at"}:
            assert getattr(ours, name) == getattr(read, name), name
        assert ours.expires_at == pytest.approx(read.expires_at, abs=30)
        assert ours.lease == 1

    @pytest.mark.parametrize("draft", [letter(*people(PART + 1)), sized(2 * BLOCK)], ids=["many", "large"])
    def test_what_a_process_reads_anew(self, draft: Any) -> None:
        """Many recipients and large contents are not kept in memory."""
        assert Entry(1, ALIAS, draft, 3, NOW, NOW).due() is None

    def test_a_large_content_is_in_a_file(self, stores: Stores) -> None:
        draft = sized(3 * BLOCK)
        stores.enqueue(draft)
        (due,) = Book(stores).claim()
        assert not isinstance(due.octets, bytes)
        assert due.as_bytes() == b"".join(draft.blocks())
        due.close()
        assert due.octets.closed

    @pytest.mark.parametrize(
        ("spoil", "why"),
        [
            ("UPDATE {entry} SET envelope = 'no json'", "JSONDecodeError"),
            ("UPDATE {entry} SET envelope = '[]'", "TypeError"),
            ("UPDATE {recipient} SET data = '{{\"address\": 1}}'", "Error"),
            ("DELETE FROM {content}", "0 of"),
            ("UPDATE {entry} SET size = size + 1", "octets are stored"),
            ("UPDATE {recipient} SET state = 'accepted'", "no recipient is pending"),
            ("DELETE FROM {entry}", "KeyError"),
        ],
    )
    def test_what_cannot_be_read_holds_up_no_other(self, stores: Stores, spoil: str, why: str) -> None:
        (bad,) = stores.put()
        stores.rows(spoil)
        (good,) = stores.put()
        book = Book(stores)
        assert [due.id for due in book.claim()] == [good]
        assert stores.states(bad)[0] in ("failed", "accepted")
        assert [(event, fields["entry"]) for event, fields in book.logged] == [("entry_failed", bad)]
        assert why in book.logged[0][1]["error"]
        assert [(its.entry, its.state) for its in book.ended] == [(bad, "failed")]

    def test_no_room_for_a_large_content_is_no_fault_of_it(
        self, stores: Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (large,) = stores.enqueue(sized(2 * BLOCK))
        (small,) = stores.put()
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
        book = Book(stores)
        assert [due.id for due in book.claim()] == [small]
        assert [event for event, _ in book.logged] == ["entry_put_off"]
        assert stores.states(large.id) == ["pending"]
        monkeypatch.undo()
        assert not book.claim()
        stores.shift(LEASE - 1)
        stores.store.renew({small: 1})
        stores.shift(2)
        (due,) = book.claim()
        assert (due.id, due.tries, due.lapses) == (large.id, 0, 0)
        due.close()

    def test_leases_that_lapsed(self, stores: Stores) -> None:
        """The second makes an entry a suspect, the fifth ends it."""
        (entry_id,) = stores.put()
        book = Book(stores)
        for lapses in range(2):
            (due,) = book.claim()
            assert due.lapses == lapses
            stores.shift(LEASE + 1)
        assert not book.claim()
        for lapses in range(2, MAX_LAPSES):
            (due,) = book.take(ALIAS, stores.store.claim(ALIAS, [(SUSPECTS, 1)], 1), NOW)
            assert due.lapses == lapses
            stores.shift(LEASE + 1)
        assert not book.take(ALIAS, stores.store.claim(ALIAS, [(SUSPECTS, 1)], 1), NOW)
        shown = stores.store.show(entry_id)
        assert shown is not None
        assert shown["recipients"][0]["state"] == "failed"
        assert "5 workers ended" in shown["recipients"][0]["error"]
        assert shown["may_have_arrived"]

    def test_a_lapse_is_final_where_nothing_is_sent_twice(self, stores: Stores) -> None:
        """Exactly those whom the worker that ended had in hand are in doubt, the others go on."""
        (its,) = stores.enqueue(letter(*people(250)))
        book = Book(stores, retry_in_doubt=0)
        (first,) = book.claim()
        book.record([(first, receipt_of(first, *[Status.ACCEPTED] * PART))])
        (second,) = book.claim()
        assert second.positions == tuple(range(100, 200))
        stores.shift(LEASE + 1)
        assert not book.claim()
        states = stores.states(its.id)
        assert states == ["accepted"] * 100 + ["in_doubt"] * 100 + ["pending"] * 50
        assert [(its.entry, its.state) for its in book.ended] == [(first.id, "in_doubt")]
        (third,) = book.claim()
        assert third.positions == tuple(range(200, 250))
        stores.shift(LEASE + 1)
        assert not book.claim()
        assert stores.count("due") == 0
        assert stores.store.show(its.id)["may_have_arrived"]  # type: ignore[index]

    def test_of_a_round_only_those_not_tried_yet_were_in_hand(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter(*people(150)))
        book = Book(stores, retry_in_doubt=0)
        (first,) = book.claim()
        book.record([(first, receipt_of(first, *[Status.DEFERRED] * PART, reply=Reply(450)))])
        (second,) = book.claim()
        assert second.positions == tuple(range(100, 150))
        stores.shift(LEASE + 1)
        assert not book.claim()
        assert stores.states(its.id) == ["pending"] * 100 + ["in_doubt"] * 50
        assert stores.rows("SELECT lane, tries FROM {due}") == [(deferred(1), 1)]
        stores.shift(91)
        (third,) = book.claim()
        assert third.positions == tuple(range(100)), "who was deferred is tried again"

    def test_what_is_read_at_a_time_is_bounded(self, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leases of large entries are not renewed while others are read: the rest of them is given back."""
        monkeypatch.setattr(ledger, "MOST_READ", 3 * BLOCK)
        stores.enqueue(*[sized(2 * BLOCK) for _ in range(5)])
        book = Book(stores)
        dues = [book.claim() for _ in range(3)]
        assert [len(some) for some in dues] == [2, 2, 1]
        for due in itertools.chain(*dues):
            due.close()
        assert stores.rows("SELECT max(lapses) FROM {due}") == [(0,)]


class TestRecord:
    def test_each_recipient(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter(*people(3)))
        book = Book(stores)
        (due,) = book.claim()
        receipt = receipt_of(due, Status.ACCEPTED, Status.DEFERRED, Status.REJECTED, reply=Reply(450))
        recorded = book.record([(due, receipt)])
        assert stores.states(its.id) == ["accepted", "pending", "rejected"]
        assert recorded.next_try is not None
        assert 60 <= recorded.next_try <= 90
        assert stores.rows("SELECT lane, tries FROM {due}") == [(deferred(1), 1)]
        stores.shift(91)
        (due,) = book.claim()
        assert due.positions == (1,)
        assert book.record([(due, receipt_of(due, Status.ACCEPTED))]).next_try is None
        assert stores.count("due") == 0

    def test_the_entry_that_a_mailer_failed_with_is_told(self, stores: Stores) -> None:
        """Not one that was taken before."""
        stores.put(3)
        book = Book(stores)
        taken, first, second = book.claim()
        error = ConnectFailed("it is down")
        failed = [
            Receipt("id", (Outcome(due.envelope.recipients[0], Status.DEFERRED, None, "mx", error),), error=error)
            for due in (first, second)
        ]
        recorded = book.record([(taken, receipt_of(taken, Status.ACCEPTED)), (first, failed[0]), (second, failed[1])])
        assert recorded.culprits == {ALIAS: first.id}

    def test_an_entry_of_many_goes_in_parts_and_its_tries_are_counted_by_round(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter(*people(250)))
        book = Book(stores)
        waits = []
        for part in (100, 100, 50):
            (due,) = book.claim()
            assert len(due.positions) == part
            waits.append(book.record([(due, receipt_of(due, *[Status.DEFERRED] * part, reply=Reply(450)))]).next_try)
        assert waits[:2] == [0.0, 0.0]
        assert waits[2]
        assert stores.rows("SELECT tries FROM {due}") == [(1,)]
        assert set(stores.states(its.id)) == {"pending"}

    def test_nobody_is_tried_twice_in_the_round_of_an_entry_that_was_put_off(self, stores: Stores) -> None:
        (its,) = stores.enqueue(letter(*people(250)))
        stores.store.put_off(its.id, 0.0)
        book = Book(stores)
        for part in (100, 100, 50):
            (due,) = book.claim()
            assert len(due.positions) == part
            book.record([(due, receipt_of(due, *[Status.DEFERRED] * part, reply=Reply(450)))])
        assert stores.rows("SELECT min(attempts), max(attempts) FROM {recipient}") == [(1, 1)]
        assert not book.claim()

    def test_what_the_mailer_is_charged_with_costs_no_try(self, stores: Stores) -> None:
        (entry_id,) = stores.put()
        book = Book(stores)
        (due,) = book.claim()
        error = ConnectFailed("it is down")
        outcome = Outcome(due.envelope.recipients[0], Status.DEFERRED, None, "mx", error)
        recorded = book.record([(due, Receipt("id", (outcome,), error=error, envelope=due.envelope))])
        assert recorded.down == {ALIAS: "it is down"}
        (due,) = book.claim()
        assert (due.id, due.tries, due.lapses) == (entry_id, 0, 0)

    def test_a_mailer_has_failed_whoever_has_the_entry_now(self, stores: Stores) -> None:
        """What was given back is renewed no more, and so is lost: where the record failed it is given again."""
        stores.put()
        book = Book(stores)
        (due,) = book.claim()
        due.is_lost = True
        error = ConnectFailed("it is down")
        outcome = Outcome(due.envelope.recipients[0], Status.DEFERRED, None, "mx", error)
        recorded = book.record([(due, Receipt("id", (outcome,), error=error, envelope=due.envelope))])
        assert recorded.down == {ALIAS: "it is down"}

    def test_nothing_is_recorded_over_what_another_settled(self, stores: Stores) -> None:
        stores.put()
        book = Book(stores)
        (old,) = book.claim()
        stores.shift(LEASE + 1)
        (new,) = book.claim()
        old.events.append(
            MessageEnded(message=old, envelope=old.envelope, notes=None, receipt=receipt_of(old, Status.ACCEPTED))
        )
        recorded = book.record([(old, receipt_of(old, Status.ACCEPTED))])
        assert recorded.events == []
        assert stores.states(new.id) == ["pending"]

    def test_what_was_not_begun_is_given_back(self, stores: Stores) -> None:
        (entry_id,) = stores.put()
        book = Book(stores)
        (due,) = book.claim()
        due.is_returned = True
        outcome = Outcome(due.envelope.recipients[0], Status.DEFERRED)
        book.record([(due, Receipt("id", (outcome,), envelope=due.envelope))])
        (due,) = book.claim()
        assert (due.id, due.tries, due.lapses, due.lease) == (entry_id, 0, 0, 2)

    def test_in_doubt_twice_and_no_more(self, stores: Stores) -> None:
        (entry_id,) = stores.put()
        book = Book(stores)
        for state in ("pending", "pending", "in_doubt"):
            (due,) = book.claim()
            book.record([(due, receipt_of(due, Status.IN_DOUBT, reply=None))])
            assert stores.states(entry_id) == [state]
            stores.shift(200)
        assert stores.store.show(entry_id)["may_have_arrived"]  # type: ignore[index]

    def test_signals_tell_what_is_final(self, stores: Stores) -> None:
        stores.enqueue(letter("ann@example.com"))
        book = Book(stores)
        (due,) = book.claim()
        receipt = receipt_of(due, Status.DEFERRED, reply=Reply(450))
        due.events += [
            RecipientDeferred(message=due, envelope=due.envelope, notes=None, outcome=receipt.outcomes[0]),
            MessageEnded(message=due, envelope=due.envelope, notes=None, receipt=receipt),
        ]
        assert [event.name for _, event in book.record([(due, receipt)]).events] == ["recipient_deferred"]
