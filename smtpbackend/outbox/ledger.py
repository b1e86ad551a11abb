"""From claimed rows to what is in hand, and from receipts to what is recorded.

It runs in the thread that has the connection, and decides by ``schedule.py``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from os import SEEK_END
from typing import IO, Any, NamedTuple

from smtpbackend.delivery.connecting import is_crowd
from smtpbackend.envelope import Recipient
from smtpbackend.errors import SMTPError
from smtpbackend.events import MessageEnded, RecipientDeferred, RecipientRejected
from smtpbackend.outbox.entry import BLOCK, Draft, Due, State, envelope_of, spooled
from smtpbackend.outbox.schedule import (
    LEASE,
    MARGIN,
    MAX_LAPSES,
    SUSPECT,
    SUSPECTS,
    backoff,
    deferred,
    is_of_mailer,
    verdict_on,
)
from smtpbackend.outbox.sql import PART, Change, Claimed, Store, Written
from smtpbackend.outcome import Receipt, Status

__all__ = ["Entry", "EntryFailed", "Ledger", "MailerDown", "MessageExpired", "Recorded"]

MOST_READ = 64_000_000  # octets of large entries that are read at a time: their leases are not renewed meanwhile
PUT_OFF = 60.0  # seconds until an entry is read again for which there was no room


class MessageExpired(NamedTuple):
    """An entry expired: what was pending of it is not tried any more. ``entry`` is its id."""

    entry: int
    name: str = "message_expired"


class EntryFailed(NamedTuple):
    """An entry, or a part of it, ended without a reply that tells why: it cannot be read, or its workers ended.

    ``entry`` is its id, ``state`` "failed" or "in_doubt".
    """

    entry: int
    state: str
    error: str
    name: str = "entry_failed"


class MailerDown(NamedTuple):
    """A mailer cannot send: every entry would fail. Told once, when it begins."""

    alias: str
    error: str
    name: str = "mailer_down"


class Recorded(NamedTuple):
    """What `Ledger.record` did: events to tell, mailers that failed with their errors, seconds until the next try.

    ``culprits``: the entry with which each of these failed first. ``crowded``: those whose servers have too many
    connections.
    """

    events: list[tuple[Due, Any]]
    down: dict[str, str]
    culprits: dict[str, int]
    crowded: set[str]
    next_try: float | None


class Ledger:
    """Reads and writes for one store.

    ``retry_in_doubt(alias)`` is that option of a mailer; ``log`` takes the name of an event and its fields.
    """

    def __init__(self, store: Store, retry_in_doubt: Callable[[str], int], log: Callable[..., object]) -> None:
        self.store = store
        self.ended: list[EntryFailed] = []
        """What `take` made final, and is to be told."""
        self._retry_in_doubt = retry_in_doubt
        self._log = log

    # Reading -----------------------------------------------------------------------------------------------------

    def take(self, alias: str, claimed: Sequence[Claimed], claimed_at: float) -> list[Due]:
        """What is in hand of claimed rows. ``claimed_at``: the worker's clock before they were claimed.

        What cannot be sent is made final here.
        """
        claimed = self._fit_to_send(alias, claimed)
        if not claimed:
            return []
        ids = [one.id for one in claimed]
        entries, owed = self.store.read(ids), self.store.pending(ids)
        dues = []
        spooled_octets = 0
        for number, one in enumerate(claimed):
            if spooled_octets > MOST_READ:
                self.store.give_back({later.id: later.lease for later in claimed[number:]})
                break
            written = entries.get(one.id)
            octets: bytes | IO[bytes] = written.octets if written else b""
            if written and written.size > BLOCK:
                spooled_octets += written.size
                try:
                    octets = spooled(self.store.content(one.id))
                except OSError as error:  # no room for a temporary file, which is not the fault of the entry
                    self._log("entry_put_off", entry=one.id, error=f"{type(error).__name__}: {error}")
                    later = Change(one.id, one.lease, (), False, PUT_OFF, one.lane, one.tries, one.lapses > 0)
                    self.store.record([later])
                    continue
            try:
                dues.append(self._due(alias, one, claimed_at, entries[one.id], owed.get(one.id, []), octets))
            except Exception as error:  # whatever is wrong with one entry holds up no other
                if not isinstance(octets, bytes):
                    octets.close()
                why = f"the entry cannot be read: {type(error).__name__}: {error}"
                self._fail(one, why)
        return dues

    def _fail(self, one: Claimed, why: str) -> None:
        self._log("entry_failed", entry=one.id, error=why)
        if self.store.fail([one], why):
            self.ended.append(EntryFailed(one.id, State.FAILED.value, why))

    def _fit_to_send(self, alias: str, claimed: Sequence[Claimed]) -> list[Claimed]:
        """Those that may be sent, after so many leases lapsed."""
        fit, suspects = [], []
        for one in claimed:
            if one.lapses and not self._retry_in_doubt(alias):
                self._leave_in_doubt(one)
            elif one.lapses >= MAX_LAPSES:
                why = f"{one.lapses} workers ended while they had this entry in hand, which may be what ended them"
                self._fail(one, why)
            elif one.lapses >= SUSPECT and one.lane != SUSPECTS:
                suspects.append(one)
            else:
                fit.append(one)
        if suspects:
            self.store.set_aside(suspects)
        return fit

    def _leave_in_doubt(self, one: Claimed) -> None:
        """A worker ended while it had this entry: it may have arrived, and is not to be sent twice."""
        why = "the worker that had this entry ended: it may have arrived"
        owed = self.store.pending([one.id]).get(one.id, [])
        untried = _untried(owed)
        part = untried[:PART]  # what it had in hand
        rows = [(position, State.IN_DOUBT.value, doubts, None, None, why) for position, _, _, doubts, _ in part]
        is_final = not part or part[0][4] == len(part)
        tries, lane, seconds = one.tries, one.lane, 0.0
        if not is_final and len(untried) == len(part):  # the others were tried in this round
            tries += 1
            priority = self.store.read([one.id])[one.id].priority
            lane, seconds = deferred(priority), backoff(tries, random.random())
        if self.store.record([Change(one.id, one.lease, rows, is_final, seconds, lane, tries, True)]):
            self.ended.append(EntryFailed(one.id, State.IN_DOUBT.value, why))

    def _due(
        self,
        alias: str,
        one: Claimed,
        claimed_at: float,
        written: Written,
        owed: Sequence[tuple[Any, ...]],
        octets: bytes | IO[bytes],
    ) -> Due:
        untried = _untried(owed)
        part = untried[:PART]
        if not part:
            raise ValueError("no recipient is pending")
        length = len(octets) if isinstance(octets, bytes) else octets.seek(0, SEEK_END)
        if length != written.size:
            raise ValueError(f"{length} of {written.size} octets are stored")
        if not isinstance(octets, bytes):
            octets.seek(0)
        return Due(
            id=one.id,
            alias=alias,
            lease=one.lease,
            begins_by=claimed_at + LEASE - MARGIN,
            expires_at=claimed_at + one.expires_in,
            lane=one.lane,
            lapses=one.lapses,
            tries=one.tries,
            envelope=envelope_of(written.envelope, [_recipient(row[1]) for row in part]),
            positions=tuple(row[0] for row in part),
            doubts=tuple(row[3] for row in part),
            has_untried=len(untried) > len(part),
            others=part[0][4] - len(part),
            octets=octets,
            size=written.size,
            is_8bit=bool(written.is_8bit),
            message_id=written.message_id,
            subject=written.subject,
            priority=written.priority,
            created=written.created,
            send_at=written.send_at,
        )

    # Writing -----------------------------------------------------------------------------------------------------

    def record(self, done: Sequence[tuple[Due, Receipt]]) -> Recorded:
        """Write what became of what was in hand. After a failure all of it can be given again."""
        changes: list[Change] = []
        back: dict[int, int] = {}
        down: dict[str, str] = {}
        culprits: dict[str, int] = {}
        crowded: set[str] = set()
        told: dict[int, Due] = {}
        for due, receipt in done:
            if due.is_lost and not is_of_mailer(receipt):  # whoever has the entry now, the mailer has failed
                continue
            if due.is_returned and not _is_begun(receipt):
                back[due.id] = due.lease
            elif is_of_mailer(receipt):
                back[due.id] = due.lease
                down[due.alias] = str(receipt.error)
                culprits.setdefault(due.alias, due.id)
                if isinstance(receipt.error, SMTPError) and is_crowd(receipt.error.reply):
                    crowded.add(due.alias)
            else:
                changes.append(self.change(due, receipt))
                told[due.id] = due
        self.store.give_back(back)
        held = self.store.record(changes) if changes else set()
        events = [
            (told[change.id], event)
            for change in changes
            if change.id in held
            for event in _events(told[change.id], change)
        ]
        waits = [change.next_try for change in changes if not change.is_final]
        return Recorded(events, down, culprits, crowded, min(waits, default=None))

    def change(self, due: Due, receipt: Receipt) -> Change:
        """What is recorded of one receipt."""
        retry_in_doubt = self._retry_in_doubt(due.alias)
        places = {recipient.address.key: n for n, recipient in enumerate(due.envelope.recipients)}
        rows = []
        pending = len(due.positions)
        may_have_arrived, untried = due.lapses > 0, due.has_untried
        for outcome in receipt.outcomes:
            recipient = outcome.recipient
            place = places.pop(recipient.address.key, None) if isinstance(recipient, Recipient) else None
            if place is None:
                continue
            if due.is_returned and outcome.status is Status.DEFERRED and not outcome.attempts:
                untried = True
                continue
            doubts = due.doubts[place]
            verdict = verdict_on(outcome, doubts, retry_in_doubt)
            pending -= verdict.state is not State.PENDING
            may_have_arrived = may_have_arrived or verdict.is_doubtful
            reply = verdict.reply and verdict.reply.to_json()
            doubts += verdict.is_doubtful
            rows.append((due.positions[place], verdict.state.value, doubts, reply, verdict.server, verdict.error))
        is_final = not pending and not due.others
        tries, lane, seconds = due.tries, due.lane, 0.0
        if not untried and not is_final:
            tries += 1
            lane, seconds = deferred(due.priority), backoff(tries, random.random())
        return Change(due.id, due.lease, rows, is_final, seconds, lane, tries, may_have_arrived)


def _untried(owed: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Of the recipients that are pending those that were not tried in this round: the least tried, which go first."""
    return [row for row in owed if row[2] == owed[0][2]]


def _is_begun(receipt: Receipt) -> bool:
    """Whether a server was told of the message, so that there is something to record."""
    return receipt.answered or any(outcome.reply is not None for outcome in receipt.outcomes) or bool(receipt.in_doubt)


def _recipient(data: str) -> Recipient:
    return Recipient.from_json(json.loads(data))


def _events(due: Due, change: Change) -> list[Any]:
    """What the signals tell of a try, once it is recorded. Mail that is tried again has not failed."""
    events: list[Any] = []
    for event in due.events:
        if isinstance(event, (RecipientRejected, RecipientDeferred)) or (
            isinstance(event, MessageEnded) and (change.is_final or event.receipt.accepted or event.receipt.in_doubt)
        ):
            events.append(event)
    return events


class Entry(NamedTuple):
    """What a process hands to its own worker: a draft that was stored."""

    id: int
    alias: str
    draft: Draft
    lane: int
    stored_at: float
    """The worker's clock before it was stored."""
    created: float
    """When it was stored, in seconds since 1970."""

    def due(self) -> Due | None:
        """What is in hand of it, without a look into the database; None where it has to be read there."""
        draft = self.draft
        envelope = draft.envelope
        if envelope is None or len(envelope.recipients) > PART or draft.size > BLOCK:
            return None
        return Due(
            id=self.id,
            alias=self.alias,
            lease=1,
            begins_by=self.stored_at + LEASE - MARGIN,
            expires_at=self.stored_at + draft.expires - self.created,
            lane=self.lane,
            lapses=0,
            tries=0,
            envelope=envelope,
            positions=tuple(range(len(envelope.recipients))),
            doubts=(0,) * len(envelope.recipients),
            octets=b"".join(draft.blocks()),
            size=draft.size,
            is_8bit=draft.is_8bit,
            message_id=draft.message_id,
            subject=draft.subject,
            priority=int(draft.priority),
            created=self.created,
            send_at=draft.send_at,
        )


def why_of(error: BaseException) -> str:
    """The text of an error for a row that people read."""
    return str(error) if isinstance(error, SMTPError) else f"{type(error).__name__}: {error}"
