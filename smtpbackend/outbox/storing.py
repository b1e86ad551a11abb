"""How drafts become rows: one statement on PostgreSQL, one for each table on SQLite."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from smtpbackend.errors import InvalidInput
from smtpbackend.outbox.entry import BLOCK, VERSION, Draft, State, text_of, to_json
from smtpbackend.outbox.schedule import LEASE, lane_of

__all__ = [
    "BORN_LEASED",
    "CLOCK",
    "CONTENT",
    "DUE",
    "ENTRY",
    "LEASED",
    "MAX_ERROR",
    "PENDING",
    "RECIPIENT",
    "ROWS",
    "UNLEASED",
    "Connection",
    "Stored",
    "Storing",
    "cut",
    "marks",
]

BATCH = 100  # entries of one INSERT
BATCH_SIZE = 1024 * 1024  # octets of content in one INSERT
ROWS = 1000  # recipients in one statement: a driver takes 65,535 parameters (PostgreSQL) or 32,766 (SQLite)
MAX_ADDRESS = 320
MAX_ERROR = 2000

PENDING = State.PENDING.value
UNLEASED, LEASED, BORN_LEASED = range(3)

ENTRY = "smtpbackend_outbox_entry"
RECIPIENT = "smtpbackend_outbox_recipient"
CONTENT = "smtpbackend_outbox_content"
DUE = "smtpbackend_outbox_due"

CLOCK = "date_part('epoch', clock_timestamp())"
"""PostgreSQL: for a row that is inserted."""


class Connection(Protocol):
    """A connection to the database, as an adapter gives it.

    It keeps no prepared statements on PostgreSQL: a plan from when there was little mail reads all of it later.
    """

    dialect: str
    """"postgresql" or "sqlite"."""

    def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """Execute a statement, and return its rows; [] where it has none."""

    def atomic(self, savepoint: bool = True) -> AbstractContextManager[Any]:
        """All within it is committed together, or nothing is.

        In a transaction it is a savepoint; or without one, and then what is raised within it ends the transaction.
        """

    def close(self) -> None:
        """Close it, where it belongs to the outbox alone."""


class Stored(NamedTuple):
    """What became of a draft. ``is_new``: no entry had its key; ``is_same``: the entry says what the draft says."""

    id: int
    is_new: bool
    is_same: bool


class Storing:
    """One call that stores drafts of one group.

    ``ask`` executes a statement in which NOW may stand. ``place`` is that of the first in its group. The first
    ``born_leased`` are leased by the caller, as number 1.
    """

    def __init__(
        self,
        connection: Connection,
        ask: Callable[..., list[Any]],
        environment: str,
        drafts: Sequence[Draft],
        alias: str,
        group: int,
        place: int,
        born_leased: int,
    ) -> None:
        self._connection = connection
        self._is_postgresql = connection.dialect == "postgresql"
        self._rows = ask
        self._environment = environment
        self._drafts = drafts
        self._alias = alias
        self._group = group
        self._place = place
        self._born_leased = born_leased
        self._stored: dict[int, Stored] = {}
        self._first: dict[int, bytes | None] = {}

    def run(self) -> list[Stored]:
        """Store them in the transaction that is open, or in one of their own. What became of each, in their order."""
        drafts = self._drafts
        # Sorted, for two transactions that insert the same keys would else wait for each other
        order = sorted(range(len(drafts)), key=lambda number: drafts[number].key or "")
        batches = list(_batches(order, drafts))
        # Where nothing is read of a message between two statements only the database can fail, and PostgreSQL ends the
        # transaction then: without a savepoint SQLite does the same, in two statements less
        is_whole = len(batches) == 1 and not any(map(_has_more, drafts))
        is_one = is_whole and self._is_postgresql
        with nullcontext() if is_one else self._connection.atomic(savepoint=not is_whole):
            for batch in batches:
                self._insert(batch)
        return [self._stored[number] for number in range(len(drafts))]

    def _insert(self, batch: Sequence[int]) -> None:
        drafts = self._drafts
        blocks = {number: drafts[number].blocks() for number in batch}
        self._first = {number: next(rows, None) for number, rows in blocks.items()}
        if not self._is_postgresql:
            found = self._insert_each_table(batch)
        elif len(batch) == 1:
            found = self._insert_one(*batch)
        else:
            found = self._insert_list(batch)
        for number, entry_id in found:
            self._stored[number] = Stored(entry_id, True, True)
            if _has_more(drafts[number]):
                self._insert_more(entry_id, drafts[number], blocks[number])
        for number in batch:
            if number not in self._stored:
                self._stored[number] = self._of_key(drafts[number])

    def _insert_more(self, entry_id: int, draft: Draft, blocks: Iterable[bytes]) -> None:
        """The recipients and the rows of content that did not stand in the first statement."""
        recipients = _recipients(draft)
        for start in range(ROWS, len(recipients), ROWS):
            self._insert_recipients([(entry_id, row) for row in recipients[start : start + ROWS]])
        for number, octets in enumerate(blocks, 1):
            self._rows(
                f"INSERT INTO {CONTENT} (entry_id, number, octets) VALUES (%s, %s, %s)", entry_id, number, octets
            )

    def _insert_recipients(self, given: Sequence[tuple[int, tuple[int, str, str, str, str]]]) -> None:
        rows: list[str] = []
        values: list[Any] = []
        for entry_id, row in given:
            row_marks, its = _row_of(row)
            rows.append(f"(%s, {row_marks}, 0, 0, '', '')")
            values += (entry_id, *its)
        self._rows(
            f"INSERT INTO {RECIPIENT} (entry_id, position, address, data, state, error, attempts, doubts, reply, "
            f"server) VALUES {', '.join(rows)}",
            *values,
        )

    def _of_key(self, draft: Draft) -> Stored:
        """The entry that has the key of a draft."""
        rows = self._rows(
            f"SELECT id, digest FROM {ENTRY} WHERE environment = %s AND key = %s", self._environment, draft.key
        )
        if not rows:
            raise InvalidInput(
                f"key {draft.key!r} was taken by a transaction that this one cannot see: try again", field="key"
            )
        return Stored(rows[0][0], False, rows[0][1] == draft.digest)

    def _insert_one(self, number: int) -> list[tuple[int, int]]:
        """PostgreSQL, one entry: short, and without a join, for it is parsed and planned each time.

        What has few values stands in it, as each parameter costs the driver. Numbers are quoted: so they are read as
        what their columns are, and no cast is planned.
        """
        draft, octets = self._drafts[number], self._first[number]
        columns = "environment, alias, envelope, message_id, subject, group_number, place, size, expires"
        values: list[Any] = [self._environment, self._alias, draft.envelope_json, draft.message_id, draft.subject]
        values += [str(self._group), str(self._place + number), str(draft.size), repr(draft.expires)]
        if draft.send_at is not None:
            columns += ", send_at"
            values.append(repr(draft.send_at))
        conflict = ""
        if draft.key is not None:
            columns += ", key, digest"
            values += [draft.key, draft.digest]
            conflict = _ON_KEY
        is_final = draft.envelope is None
        parts = [
            f"WITH e AS (INSERT INTO {ENTRY} (version, priority, is_8bit, may_have_arrived, erased, created"
            f"{', finished' if is_final else ''}, {columns}) VALUES ('{VERSION}', '{int(draft.priority)}', "
            f"{_literal(draft.is_8bit)}, false, {_literal(is_final)}, {CLOCK}{f', {CLOCK}' if is_final else ''}, "
            f"{marks(len(values))}){conflict} RETURNING id, environment, alias, expires, created, send_at)"
        ]
        rows = []
        for row in _recipients(draft)[:ROWS]:
            row_marks, more = _row_of(row)
            rows.append(row_marks)
            values += more
        its = f"{rows[0]} FROM e" if len(rows) == 1 else f"v.* FROM e, (VALUES ({'), ('.join(rows)})) AS v"
        parts.append(
            f"r AS (INSERT INTO {RECIPIENT} (attempts, doubts, reply, server, entry_id, position, address, data, "
            f"state, error) SELECT '0', '0', '', '', e.id, {its})"
        )
        if octets is not None:
            parts.append(f"c AS (INSERT INTO {CONTENT} (entry_id, number, octets) SELECT e.id, '0', %s FROM e)")
            values.append(octets)
        last = "SELECT id FROM e"
        if not is_final:
            wait, lease, leased = _born(draft, number < self._born_leased)
            # Not the clock, which is volatile: that takes a step of planning more
            next_try = "e.send_at" if draft.send_at is not None else f"e.created + '{wait}'" if wait else "e.created"
            last = (
                f"INSERT INTO {DUE} (entry_id, environment, alias, expires, version, lapses, tries, lane, lease, "
                f"leased, next_try) SELECT e.id, e.environment, e.alias, e.expires, '{VERSION}', '0', '0', "
                f"'{lane_of(draft.priority, self._place + number)}', '{lease}', '{leased}', {next_try} FROM e "
                "RETURNING entry_id"
            )
        return [(number, row[0]) for row in self._rows(f"{', '.join(parts)} {last}", *values)]

    def _insert_list(self, batch: Sequence[int]) -> list[tuple[int, int]]:
        """PostgreSQL, several: an array a column, for each parameter costs the driver.

        They find their entry by its place.
        """
        entries, recipients, contents, due = [], [], [], []
        for number in batch:
            draft = self._drafts[number]
            its = self._place + number
            entries.append(
                (
                    *(its, draft.envelope_json, draft.message_id, draft.subject, int(draft.priority), draft.key),
                    *(draft.digest, draft.size, draft.is_8bit, draft.send_at, draft.expires, draft.envelope is None),
                )
            )
            recipients += [(its, *row) for row in _recipients(draft)[:ROWS]]
            if (octets := self._first[number]) is not None:
                contents.append((its, octets))
            if draft.envelope is not None:
                born = _born(draft, number < self._born_leased)
                due.append((its, lane_of(draft.priority, its), draft.send_at, *born))
        conflict = _ON_KEY if any(self._drafts[number].key is not None for number in batch) else ""
        e, of_entries, values = _spread(_ENTRY, entries)
        r, of_recipients, more = _spread(_RECIPIENT, recipients)
        values = [self._environment, self._alias, self._group, *values, *more]
        parts = [
            f"WITH e AS (INSERT INTO {ENTRY} (version, created, may_have_arrived, environment, alias, group_number, "
            "place, envelope, message_id, subject, priority, key, digest, size, is_8bit, send_at, expires, erased, "
            f"finished) SELECT {VERSION}, {CLOCK}, false, %s, %s, %s, {', '.join(e)}, CASE WHEN {e[-1]} THEN {CLOCK} "
            f"END FROM {of_entries}{conflict} RETURNING id, place, environment, alias, expires, created)",
            f"r AS (INSERT INTO {RECIPIENT} (attempts, doubts, reply, server, entry_id, position, address, data, "
            f"state, error) SELECT 0, 0, '', '', e.id, {', '.join(r[1:])} FROM e JOIN {of_recipients} "
            "ON e.place = v.place)",
        ]
        if contents:
            # No array: it would be escaped twice
            rows = ", ".join([f"({its}, %s::bytea)" for its, _ in contents])
            parts.append(
                f"c AS (INSERT INTO {CONTENT} (entry_id, number, octets) SELECT e.id, 0, v.octets FROM e JOIN "
                f"(VALUES {rows}) AS v (place, octets) ON e.place = v.place)"
            )
            values += [octets for _, octets in contents]
        if due:
            d, of_due, more = _spread(_DUE, due)
            _, lane, send_at, wait, lease, leased = d
            parts.append(
                f"d AS (INSERT INTO {DUE} (entry_id, environment, alias, expires, version, lapses, tries, lane, lease, "
                f"leased, next_try) SELECT e.id, e.environment, e.alias, e.expires, {VERSION}, 0, 0, {lane}, {lease}, "
                f"{leased}, COALESCE({send_at}, e.created + {wait}) FROM e JOIN {of_due} ON e.place = v.place)"
            )
            values += more
        found = self._rows(f"{', '.join(parts)} SELECT id, place FROM e", *values)
        return [(entry_place - self._place, entry_id) for entry_id, entry_place in found]

    def _insert_each_table(self, batch: Sequence[int]) -> list[tuple[int, int]]:
        """SQLite. What has few values stands in the statements: they are often the same, and then not parsed anew."""
        found = self._insert_entries(batch)
        if not found:
            return []
        self._insert_recipients(
            [(entry_id, row) for number, entry_id in found for row in _recipients(self._drafts[number])[:ROWS]]
        )
        contents = [(entry_id, self._first[number]) for number, entry_id in found if self._first[number] is not None]
        if contents:
            self._rows(
                f"INSERT INTO {CONTENT} (entry_id, number, octets) VALUES {', '.join(['(%s, 0, %s)'] * len(contents))}",
                *itertools.chain.from_iterable(contents),
            )
        if due := [(number, entry_id) for number, entry_id in found if self._drafts[number].envelope is not None]:
            self._insert_due(due)
        return found

    def _insert_entries(self, batch: Sequence[int]) -> list[tuple[int, int]]:
        rows: list[str] = []
        values: list[Any] = []
        conflict = ""
        for number in batch:
            draft = self._drafts[number]
            is_final = draft.envelope is None
            values += (self._environment, self._alias, draft.envelope_json, draft.message_id, draft.subject)
            values += (self._group, self._place + number, draft.size, draft.expires)
            send_at = key = "NULL"
            if draft.send_at is not None:
                send_at = "%s"
                values.append(draft.send_at)
            if draft.key is not None:
                key, conflict = "%s", _ON_KEY
                values += (draft.key, draft.digest)
            rows.append(
                f"({marks(9)}, {send_at}, {key}, {key}, {int(draft.priority)}, {_literal(draft.is_8bit)}, {VERSION}, "
                f"false, {_literal(is_final)}, NOW, {'NOW' if is_final else 'NULL'})"
            )
        found = self._rows(
            f"INSERT INTO {ENTRY} (environment, alias, envelope, message_id, subject, group_number, place, size, "
            "expires, send_at, key, digest, priority, is_8bit, version, may_have_arrived, erased, created, finished) "
            f"VALUES {', '.join(rows)}{conflict} RETURNING id, place",
            *values,
        )
        return [(place - self._place, entry_id) for entry_id, place in found]

    def _insert_due(self, due: Sequence[tuple[int, int]]) -> None:
        rows: list[str] = []
        values: list[Any] = []
        for number, entry_id in due:
            draft = self._drafts[number]
            wait, lease, leased = _born(draft, number < self._born_leased)
            values += (entry_id, self._environment, self._alias, draft.expires)
            values.append(lane_of(draft.priority, self._place + number))
            if draft.send_at is not None:
                values.append(draft.send_at)
            next_try = f"NOW + {wait}" if draft.send_at is None else "%s"
            rows.append(f"({marks(5)}, {next_try}, {lease}, {leased}, {VERSION}, 0, 0)")
        self._rows(
            f"INSERT INTO {DUE} (entry_id, environment, alias, expires, lane, next_try, lease, leased, version, "
            f"lapses, tries) VALUES {', '.join(rows)}",
            *values,
        )


_ON_KEY = " ON CONFLICT (environment, key) WHERE key IS NOT NULL DO NOTHING"


def _born(draft: Draft, is_leased: bool) -> tuple[float, int, int]:
    """Of a new row of ``due``: seconds until its next try, unless ``send_at`` says when, and its lease."""
    return (LEASE, 1, BORN_LEASED) if is_leased and draft.send_at is None else (0.0, 0, UNLEASED)


_ENTRY = {
    **{"place": "int", "envelope": "text", "message_id": "text", "subject": "text", "priority": "int", "key": "text"},
    **{"digest": "text", "size": "bigint", "is_8bit": "bool", "send_at": "float8", "expires": "float8"},
    "is_final": "bool",
}
_RECIPIENT = {"place": "int", "position": "int", "address": "text", "data": "text", "state": "text", "error": "text"}
_DUE = {"place": "int", "lane": "int", "send_at": "float8", "wait": "float8", "lease": "int", "leased": "int"}


def _spread(kinds: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> tuple[list[str], str, list[Any]]:
    """PostgreSQL: the columns of a table that is given as parameters, the table, and its parameters.

    A column is an array; but for the first one, what all rows have in common is one value.
    """
    written: list[str] = []
    values: list[Any] = []
    arrays: dict[str, list[Any]] = {}
    for (name, kind), column in zip(kinds.items(), zip(*rows, strict=True), strict=True):
        if written and column.count(column[0]) == len(column):
            written.append(f"{_literal(column[0])}::{kind}")
            if written[-1].startswith("%s"):
                values.append(column[0])
        else:
            written.append(f"v.{name}")
            arrays[name] = list(column)
    given = ", ".join([f"%s::{kinds[name]}[]" for name in arrays])
    return written, f"unnest({given}) AS v ({', '.join(arrays)})", [*values, *arrays.values()]


def _literal(value: Any) -> str:
    """As it is written where it has few values, else the mark of a parameter."""
    if value is None:
        return "NULL"
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int) else "%s"


def marks(count: int) -> str:
    return "%s, " * (count - 1) + "%s"


def _batches(order: Sequence[int], drafts: Sequence[Draft]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = people = 0
    for number in order:
        draft = drafts[number]
        size += min(draft.size, BLOCK)
        people += _count(draft)
        batch.append(number)
        if len(batch) == BATCH or size >= BATCH_SIZE or people >= ROWS:
            yield batch
            batch, size, people = [], 0, 0
    if batch:
        yield batch


def _count(draft: Draft) -> int:
    return len(draft.refused) + (len(draft.envelope.recipients) if draft.envelope is not None else 0)


def _has_more(draft: Draft) -> bool:
    """Whether it has rows that do not stand in the first statement."""
    return draft.size > BLOCK or _count(draft) > ROWS


def _recipients(draft: Draft) -> list[tuple[int, str, str, str, str]]:
    """Rows: (position, address, data, state, error). Without data it is no address, and never tried."""
    rows: list[tuple[int, str, str, str, str]] = []
    if draft.envelope is not None:
        for recipient in draft.envelope.recipients:
            data = to_json(recipient.to_json())
            rows.append((len(rows), cut(str(recipient.address), MAX_ADDRESS), data, PENDING, ""))
    for outcome in draft.refused:
        address = cut(str(outcome.address), MAX_ADDRESS)
        rows.append((len(rows), address, "", State.REJECTED.value, cut(str(outcome.error or ""), MAX_ERROR)))
    return rows


def _row_of(recipient: tuple[int, str, str, str, str]) -> tuple[str, tuple[str, ...]]:
    """How the row of a recipient is written, and its parameters."""
    position, address, data, state, error = recipient
    if not error:
        return f"{position}, %s, %s, '{state}', ''", (address, data)
    return f"{position}, %s, %s, '{state}', %s", (address, data, error)


def cut(given: str | None, limit: int) -> str:
    """A text that every database takes, cut."""
    return text_of(given or "")[:limit]
