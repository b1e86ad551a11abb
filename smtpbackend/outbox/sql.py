"""Every statement of the outbox but those that store mail, once for each dialect, on a connection that is given.

No SMTP here, and no framework. Times are seconds since 1970 as the *database* has them, so that workers on several
hosts agree: NOW stands in the statements. Placeholders are ``%s``. What a worker writes later names the number of its
lease, and changes nothing where another worker has claimed the entry since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from smtpbackend.outbox.entry import BLOCK, VERSION, Draft, State
from smtpbackend.outbox.schedule import LANES, LEASE, SUSPECTS, TRIAL, deferred
from smtpbackend.outbox.storing import (
    BORN_LEASED,
    CLOCK,
    CONTENT,
    DUE,
    ENTRY,
    LEASED,
    MAX_ERROR,
    PENDING,
    RECIPIENT,
    ROWS,
    UNLEASED,
    Connection,
    Stored,
    Storing,
    cut,
    marks,
)

__all__ = ["CHANNEL", "Change", "Claimed", "MailerRow", "Purged", "Store", "Written"]

CHANNEL = "smtpbackend_outbox"
"""What NOTIFY and LISTEN name (PostgreSQL)."""
AWAKE = 730325  # names the lock of those that listen and are awake
CONTENTS = 100  # rows of content that one statement of pruning deletes
PART = 100
"""Recipients that a worker has in hand of one entry."""

ACCEPTED, CANCELLED = State.ACCEPTED.value, State.CANCELLED.value

MAILER = "smtpbackend_outbox_mailer"

_NOW = {
    # A scalar subquery is evaluated once, and an index is used for what is compared with it; but each is planned
    "postgresql": f"(SELECT {CLOCK})",
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
}


class Claimed(NamedTuple):
    """One claimed row of ``due``. ``expires_in``: seconds until it expires."""

    id: int
    lease: int
    lane: int
    lapses: int
    tries: int
    expires_in: float


class Written(NamedTuple):
    """What is stored of an entry. ``octets`` are empty where they take more than one row: see `Store.content`."""

    envelope: str
    message_id: str
    subject: str
    priority: int
    size: int
    is_8bit: bool
    created: float
    send_at: float | None
    octets: bytes


class Change(NamedTuple):
    """What a worker records of one claimed entry.

    ``recipients``: (position, state, doubts, reply, server, error). ``next_try`` in seconds from now.
    """

    id: int
    lease: int
    recipients: Sequence[tuple[int, str, int, Any, str | None, str | None]]
    is_final: bool
    next_try: float
    lane: int
    tries: int
    may_have_arrived: bool = False


class Purged(NamedTuple):
    """What one step did: contents erased, entries deleted, and whether the next one has something to do at once."""

    erased: int
    deleted: int
    has_more: bool


class MailerRow(NamedTuple):
    """The row that all workers of a mailer share. Times are in seconds from now; what is over is not positive."""

    alias: str
    is_paused: bool
    rest: float
    rest_left: float
    trial_left: float
    backlog_by: str
    backlog_left: float
    down_for: float | None
    last_error: str


class Store:
    """The outbox of one environment in one database, on one connection."""

    def __init__(self, connection: Connection, environment: str) -> None:
        self.connection = connection
        self.environment = environment
        self._is_postgresql = connection.dialect == "postgresql"
        self._now = _NOW[connection.dialect]
        self._skip_locked = " FOR UPDATE SKIP LOCKED" if self._is_postgresql else ""
        self._for_update = " FOR UPDATE" if self._is_postgresql else ""
        # SQLite reads and sorts all that is due where it was analysed when that was little. With the index that it is
        # told to use, rows come in the order of that
        self._due_by_lane = DUE if self._is_postgresql else f"{DUE} INDEXED BY smtpbackend_outbox_claim"
        self._longest_first = " ORDER BY next_try" if self._is_postgresql else ""

    @property
    def has_clock_of_host(self) -> bool:
        """Whether the times are those of the host, whose clock may be set, and not of a server."""
        return not self._is_postgresql

    def _rows(self, sql: str, *params: Any) -> list[Any]:
        return self.connection.rows(sql.replace("NOW", self._now), params)

    def _among(self, column: str, values: Sequence[Any]) -> tuple[str, tuple[Any, ...]]:
        """A condition that a column has one of some values, and its parameter: one, as drivers take so many only."""
        if self._is_postgresql:
            return f"{column} = ANY(%s)", (list(values),)
        return f"{column} IN (SELECT value FROM json_each(%s))", (json.dumps(list(values)),)

    def _with_lease(self, leases: Iterable[tuple[int, int]]) -> tuple[str, tuple[Any, ...]]:
        """A condition that a row of ``due`` still has the lease, for pairs of entry and number, and its parameters.

        Rows are locked in the order of their entries: two that lock some of the same never wait for each other.
        """
        pairs = tuple(leases)
        select = (
            f"SELECT {DUE}.entry_id FROM {DUE} JOIN (VALUES {_row_marks(len(pairs), 2)}) AS v ON "
            f"{DUE}.entry_id = v.column1 AND {DUE}.lease = v.column2"
        )
        values = tuple(value for pair in pairs for value in pair)
        if self._is_postgresql:
            return f"entry_id = ANY(ARRAY({select} ORDER BY {DUE}.entry_id FOR UPDATE OF {DUE}))", values
        return f"entry_id IN ({select})", values

    # Enqueue -----------------------------------------------------------------------------------------------------

    def enqueue(
        self, drafts: Sequence[Draft], alias: str, group: int, place: int = 0, born_leased: int = 0
    ) -> list[Stored]:
        """Store drafts of one group in the transaction that is open, or in one of their own; in their order.

        ``place`` is that of the first in its group. The first ``born_leased`` are leased by the caller, as number 1.
        """
        return Storing(self.connection, self._rows, self.environment, drafts, alias, group, place, born_leased).run()

    # Claim -------------------------------------------------------------------------------------------------------

    def claim(
        self,
        alias: str,
        branches: Sequence[tuple[int, int]],
        count: int,
        *,
        after: int | None = None,
        grace: float = 0.0,
    ) -> list[Claimed]:
        """Lease up to ``count`` due entries, from the lanes in their order; each lane gives at most so many.

        ``after``: only those with a higher id. ``grace``: seconds for which a lapsed lease is still left to its worker.
        """
        # An expression, and no column: there must be no other index that could serve it
        where = f"environment = %s AND alias = %s AND next_try <= NOW AND version <= {VERSION} AND expires - NOW > 0"
        values: list[Any] = [self.environment, alias]
        if after is not None:
            where += " AND entry_id + 0 > %s"
            values.append(after)
        if grace:
            where += f" AND (leased = {UNLEASED} OR next_try <= NOW - %s)"
            values.append(grace)
        places = _without_repeats(branches)
        if self._is_postgresql:
            # A lane is read only as far as those before it did not suffice, and one plan serves them all
            chosen = (
                f"SELECT d.entry_id FROM (VALUES {_row_marks(len(places), 3)}) AS b (lane, most, skipped) CROSS JOIN "
                f"LATERAL (SELECT entry_id FROM {DUE} WHERE {where} AND lane = b.lane{self._longest_first} "
                "LIMIT b.most OFFSET b.skipped FOR UPDATE SKIP LOCKED) AS d LIMIT %s"
            )
            which = f"WHERE entry_id = ANY(ARRAY({chosen}))"
            params = [*(value for place in places for value in place), *values, count]
        else:
            select = (
                f"SELECT entry_id AS id FROM {self._due_by_lane} WHERE {where} AND lane = %s{self._longest_first} "
                "LIMIT %s OFFSET %s"
            )
            union = " UNION ALL ".join([f"SELECT id FROM ({select})"] * len(places))
            # Not IN: where statistics know of a few dozen rows it reads all that are due
            which = f"FROM ({union} LIMIT %s) AS chosen WHERE entry_id = chosen.id"
            params = [*(value for place in places for value in (*values, *place)), count]
        rows = self._rows(
            f"UPDATE {DUE} SET lease = lease + 1, lapses = lapses + (CASE WHEN leased = {LEASED} THEN 1 ELSE 0 END), "
            f"leased = {LEASED}, next_try = NOW + {LEASE} {which} RETURNING {_CLAIMED}",
            *params,
        )
        return [Claimed(*row) for row in rows]

    def claim_born(self, ids: Sequence[int]) -> list[Claimed]:
        """Lease entries that were born leased by this process, and still are."""
        condition, values = self._among("entry_id", ids)
        rows = self._rows(
            f"UPDATE {DUE} SET lease = 2, leased = {LEASED}, next_try = NOW + {LEASE} WHERE {condition} AND lease = 1 "
            f"AND leased = {BORN_LEASED} RETURNING {_CLAIMED}",
            *values,
        )
        return [Claimed(*row) for row in rows]

    def set_aside(self, claimed: Sequence[Claimed]) -> None:
        """Put claimed entries whose leases lapsed often into the lane of those that are claimed alone."""
        condition, values = self._with_lease((one.id, one.lease) for one in claimed)
        self._rows(
            f"UPDATE {DUE} SET lane = {SUSPECTS}, leased = {UNLEASED}, next_try = NOW WHERE {condition}", *values
        )

    def has_suspect(self, alias: str, *, grace: float = 0.0) -> bool:
        """Whether an entry of a mailer is to be claimed alone. ``grace``: as that of `claim`."""
        return bool(
            self._rows(
                f"SELECT 1 FROM {self._due_by_lane} WHERE environment = %s AND alias = %s AND lane = {SUSPECTS} AND "
                f"next_try <= NOW AND version <= {VERSION} AND expires > NOW AND (leased = {UNLEASED} OR "
                "next_try <= NOW - %s) LIMIT 1",
                *(self.environment, alias, grace),
            )
        )

    def read(self, ids: Sequence[int]) -> dict[int, Written]:
        """What is stored of entries that does not change."""
        condition, values = self._among("id", ids)
        rows = self._rows(
            "SELECT id, envelope, message_id, subject, priority, size, is_8bit, created, send_at, "
            f"CASE WHEN size <= {BLOCK} THEN octets END FROM {ENTRY} LEFT JOIN {CONTENT} ON entry_id = id "
            f"AND number = 0 WHERE {condition}",
            *values,
        )
        return {row[0]: Written(*row[1:])._replace(octets=bytes(row[-1] or b"")) for row in rows}

    def pending(self, ids: Sequence[int]) -> dict[int, list[tuple[Any, ...]]]:
        """The recipients that are pending, the least tried first, at most `PART` + 1 of each entry.

        Rows: (position, data, attempts, doubts, how many of the entry are pending).
        """
        condition, values = self._among("entry_id", ids)
        rows = self._rows(
            "SELECT entry_id, position, data, attempts, doubts, pending FROM (SELECT entry_id, position, data, "
            "attempts, doubts, count(*) OVER of_entry AS pending, "
            "row_number() OVER (of_entry ORDER BY attempts, position) AS number "
            f"FROM {RECIPIENT} WHERE {condition} AND state = '{PENDING}' WINDOW of_entry AS (PARTITION BY entry_id)) "
            f"AS owed WHERE number <= {PART + 1} ORDER BY entry_id, number",
            *values,
        )
        found: dict[int, list[tuple[Any, ...]]] = {}
        for row in rows:
            found.setdefault(row[0], []).append(tuple(row[1:]))
        return found

    def content(self, entry_id: int) -> Iterator[bytes]:
        """The octets of one entry, a row at a time."""
        number = 0
        while rows := self._rows(f"SELECT octets FROM {CONTENT} WHERE entry_id = %s AND number = %s", entry_id, number):
            yield bytes(rows[0][0])
            number += 1

    # Leases ------------------------------------------------------------------------------------------------------

    def renew(self, leases: Mapping[int, int]) -> set[int]:
        """Renew leases, entry to number. Returns those that still hold, and were not given back meanwhile."""
        if not leases:
            return set()
        condition, values = self._with_lease(leases.items())
        rows = self._rows(
            f"UPDATE {DUE} SET next_try = NOW + {LEASE}, leased = {LEASED} WHERE {condition} AND "
            f"leased <> {UNLEASED} RETURNING entry_id",
            *values,
        )
        return {row[0] for row in rows}

    def holds(self, entry_id: int, lease: int) -> bool:
        """Whether a lease still holds, by its number."""
        return bool(self._rows(f"SELECT 1 FROM {DUE} WHERE entry_id = %s AND lease = %s", entry_id, lease))

    def give_back(self, leases: Mapping[int, int]) -> None:
        """Let others claim entries of which nothing was begun. No try and no lapse is counted."""
        if not leases:
            return
        condition, values = self._with_lease(leases.items())
        self._rows(f"UPDATE {DUE} SET next_try = NOW, leased = {UNLEASED} WHERE {condition}", *values)

    # Record ------------------------------------------------------------------------------------------------------

    def record(self, changes: Sequence[Change]) -> set[int]:
        """Write what became of claimed entries, in one transaction. Returns those whose lease still held."""
        with self.connection.atomic():
            held = self._held(changes)
            changes = [change for change in changes if change.id in held]
            self._record_recipients(changes)
            self._finish([change.id for change in changes if change.is_final])
            if others := [change for change in changes if not change.is_final]:
                self._postpone(others)
            self._may_have_arrived([change.id for change in changes if change.may_have_arrived])
        return held

    def _held(self, changes: Sequence[Change]) -> set[int]:
        """Those that still have their lease; their rows are locked."""
        if not changes:
            return set()
        condition, values = self._with_lease((change.id, change.lease) for change in changes)
        return {row[0] for row in self._rows(f"SELECT entry_id FROM {DUE} WHERE {condition}", *values)}

    def _may_have_arrived(self, ids: Sequence[int]) -> None:
        if ids:
            condition, values = self._among("id", ids)
            self._rows(f"UPDATE {ENTRY} SET may_have_arrived = true WHERE {condition}", *values)

    def _record_recipients(self, changes: Sequence[Change]) -> None:
        rows = [
            (
                change.id,
                position,
                state,
                doubts,
                reply and json.dumps(reply),
                cut(server, 255),
                cut(error, MAX_ERROR),
            )
            for change in changes
            for position, state, doubts, reply, server, error in change.recipients
        ]
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            self._rows(
                f"UPDATE {RECIPIENT} SET state = v.column3, doubts = v.column4, attempts = attempts + 1, "
                "reply = COALESCE(v.column5, ''), server = v.column6, error = v.column7 FROM "
                f"(VALUES {_row_marks(len(some), 7)}) AS v WHERE {RECIPIENT}.entry_id = v.column1 AND "
                f"{RECIPIENT}.position = v.column2 AND {RECIPIENT}.state = '{PENDING}'",
                *(value for row in some for value in row),
            )

    def _finish(self, ids: Sequence[int]) -> None:
        """Entries of which no recipient is pending: they are due no more, and lose what nobody needs."""
        if not ids:
            return
        due, values = self._among("entry_id", ids)
        entry, _ = self._among("id", ids)
        kept = (
            f"EXISTS (SELECT 1 FROM {RECIPIENT} WHERE {RECIPIENT}.entry_id = {{}} AND "
            f"{RECIPIENT}.state NOT IN ('{ACCEPTED}', '{CANCELLED}'))"
        )
        of_entry = kept.format(f"{ENTRY}.id")
        steps = [
            f"DELETE FROM {DUE} WHERE {due}",
            f"DELETE FROM {CONTENT} WHERE {due} AND NOT {kept.format(f'{CONTENT}.entry_id')}",
            f"UPDATE {ENTRY} SET finished = NOW, erased = NOT {of_entry}, "
            f"subject = CASE WHEN {of_entry} THEN subject ELSE '' END WHERE {entry}",
        ]
        if self._is_postgresql:  # one statement: a server is some way off, and others wait for room in the window
            steps = [f"WITH ended AS ({steps[0]}), erased AS ({steps[1]}) {steps[2]}"]
            values *= 3
        for step in steps:
            self._rows(step, *values)

    def _postpone(self, changes: Sequence[Change]) -> None:
        """Entries that are tried again, but never later than they expire."""
        later = "NOW + CAST(v.column3 AS double precision)"
        least = "LEAST" if self._is_postgresql else "MIN"
        self._rows(
            f"UPDATE {DUE} SET next_try = CASE WHEN v.column3 > 0 THEN {least}({later}, {DUE}.expires) ELSE NOW END, "
            f"lane = v.column4, tries = v.column5, leased = {UNLEASED}, lapses = 0 FROM "
            f"(VALUES {_row_marks(len(changes), 5)}) AS v WHERE {DUE}.entry_id = v.column1 AND {DUE}.lease = v.column2",
            *(value for c in changes for value in (c.id, c.lease, c.next_try, c.lane, c.tries)),
        )

    def expire(self, limit: int = 100, *, grace: float = 0.0) -> list[tuple[int, str]]:
        """Make final what nobody leases and has expired, of every mailer. Returns the entries with their mailers.

        ``grace``: seconds for which a lapsed lease is still left to its worker.
        """
        with self.connection.atomic():
            rows = self._rows(
                f"SELECT entry_id, {_LAPSED}, alias FROM {DUE} WHERE expires <= NOW AND environment = %s AND "
                f"(leased = {UNLEASED} OR next_try <= NOW - %s) ORDER BY expires LIMIT %s{self._skip_locked}",
                *(self.environment, grace, limit),
            )
            self._settle([row[:2] for row in rows], State.EXPIRED)
            return [(row[0], row[2]) for row in rows]

    def fail(self, claimed: Sequence[Claimed], why: str) -> list[int]:
        """Make final as failed what is pending of claimed entries. Returns those whose lease still held."""
        changes = [Change(one.id, one.lease, (), True, 0.0, one.lane, one.tries) for one in claimed]
        with self.connection.atomic():
            held = self._held(changes)
            self._settle([(one.id, one.lapses) for one in claimed if one.id in held], State.FAILED, why)
            return sorted(held)

    def _settle(self, rows: Sequence[Any], state: State, why: str = "") -> None:
        """Give all pending recipients of locked entries a final state. Rows: (entry, whether a lease of it lapsed)."""
        ids = [row[0] for row in rows]
        if not ids:
            return
        self._may_have_arrived([row[0] for row in rows if row[1]])
        condition, values = self._among("entry_id", ids)
        error = ", error = %s" if why else ""
        self._rows(
            f"UPDATE {RECIPIENT} SET state = %s{error} WHERE {condition} AND state = '{PENDING}'",
            *(state.value, *((cut(why, MAX_ERROR),) if why else ()), *values),
        )
        self._finish(ids)

    # Mailers -----------------------------------------------------------------------------------------------------

    def mailers(self, aliases: Sequence[str] = ()) -> dict[str, MailerRow]:
        """The rows of mailers that have one; "" stands for the whole environment. None named: all of them."""
        condition, values = self._among("alias", [*aliases, ""]) if aliases else ("true", ())
        rows = self._rows(
            "SELECT alias, paused, rest, rest_until - NOW, trial_until - NOW, backlog_by, backlog_until - NOW, "
            f"NOW - down_since, last_error FROM {MAILER} WHERE environment = %s AND {condition}",
            *(self.environment, *values),
        )
        return {row[0]: MailerRow(row[0], bool(row[1]), *row[2:]) for row in rows}

    def _have_row(self, alias: str) -> None:
        self._rows(
            f"INSERT INTO {MAILER} (environment, alias, paused, rest, rest_until, trial_until, trial_entry, "
            "backlog_by, backlog_until, last_error) VALUES (%s, %s, false, 0, 0, 0, 0, '', 0, '') ON CONFLICT DO "
            "NOTHING",
            *(self.environment, alias),
        )

    def rest(self, alias: str, seconds: Any, error: str, tried: int = 0) -> tuple[float, bool] | None:
        """Let a mailer that failed with an entry rest; ``seconds(last)`` tells how long after its last rest.

        Returns how long, and whether it was well before; None where it rests already.
        """
        self._have_row(alias)
        with self.connection.atomic():
            rows = self._rows(
                f"SELECT rest, rest_until > NOW, down_since IS NULL FROM {MAILER} WHERE environment = %s AND alias = %s"
                f"{self._for_update}",
                *(self.environment, alias),
            )
            last, rests, was_well = rows[0]
            if rests:
                return None
            length = float(seconds(last))
            self._rows(
                f"UPDATE {MAILER} SET rest = %s, rest_until = NOW + %s, trial_until = 0, last_error = %s, "
                "down_since = COALESCE(down_since, NOW), trial_entry = %s WHERE environment = %s AND alias = %s",
                *(length, length, cut(error, MAX_ERROR), tried, self.environment, alias),
            )
            return length, bool(was_well)

    def has_sent(self, alias: str, seconds: float) -> bool:
        """Whether a server took mail of a mailer, from any worker, within the last seconds.

        That is seen from entries that reached everybody, and so are erased; those that were cancelled are erased too.
        """
        return bool(
            self._rows(
                # The latest ones first of all: PostgreSQL would else read the whole table
                f"SELECT 1 FROM (SELECT erased FROM {ENTRY} WHERE environment = %s AND alias = %s AND "
                "finished > NOW - %s ORDER BY finished DESC LIMIT 100) AS latest WHERE erased LIMIT 1",
                *(self.environment, alias, seconds),
            )
        )

    def end_rest(self, alias: str) -> None:
        """A mailer works: all that is due may go."""
        self._rows(
            f"UPDATE {MAILER} SET rest = 0, rest_until = 0, trial_until = 0, down_since = NULL, last_error = '' "
            "WHERE environment = %s AND alias = %s AND down_since IS NOT NULL",
            *(self.environment, alias),
        )

    def begin_trial(self, alias: str) -> int | None:
        """The right to try a mailer whose rest is over, for one worker at a time: the entry of the last trial.

        None: it rests, or another worker tries it.
        """
        rows = self._rows(
            f"UPDATE {MAILER} SET trial_until = NOW + {TRIAL} WHERE environment = %s AND alias = %s AND "
            "rest_until <= NOW AND trial_until <= NOW AND down_since IS NOT NULL AND NOT paused RETURNING trial_entry",
            *(self.environment, alias),
        )
        return rows[0][0] if rows else None

    def put_off(self, entry_id: int, seconds: float) -> None:
        """Charge a try to an entry with which a mailer failed that works for others."""
        least = "LEAST" if self._is_postgresql else "MIN"
        self._rows(
            f"UPDATE {DUE} SET next_try = {least}(NOW + %s, expires), tries = tries + 1 WHERE entry_id = %s AND "
            f"leased = {UNLEASED}",
            *(seconds, entry_id),
        )

    def note_trial(self, alias: str, entry_id: int | None) -> None:
        """Which entry is tried; None: there was none to try."""
        if entry_id is None:
            changed, values = "trial_until = %s", 0
        else:
            changed, values = "trial_entry = %s", entry_id
        self._rows(
            f"UPDATE {MAILER} SET {changed} WHERE environment = %s AND alias = %s", values, self.environment, alias
        )

    def hold_backlog(self, alias: str, who: str) -> bool:
        """Get or renew the lease of what no process has in hand, for one process at a time."""
        self._have_row(alias)
        return bool(
            self._rows(
                f"UPDATE {MAILER} SET backlog_by = %s, backlog_until = NOW + {LEASE} WHERE environment = %s AND "
                "alias = %s AND (backlog_by = %s OR backlog_until <= NOW) RETURNING 1",
                *(who, self.environment, alias, who),
            )
        )

    def leave_backlog(self, alias: str, who: str) -> None:
        """Let another process have it."""
        self._rows(
            f"UPDATE {MAILER} SET backlog_until = 0 WHERE environment = %s AND alias = %s AND backlog_by = %s",
            *(self.environment, alias, who),
        )

    def pause(self, alias: str, paused: bool) -> None:
        """Stop or go on; alias "" is the whole environment. It holds until it is changed, over restarts too."""
        self._have_row(alias)
        self._rows(
            f"UPDATE {MAILER} SET paused = %s WHERE environment = %s AND alias = %s", paused, self.environment, alias
        )

    def soonest(self, aliases: Sequence[str]) -> dict[str, float]:
        """Seconds until each mailer has something due; those without are left out."""
        found = {}
        for alias in aliases:
            lanes = " UNION ALL ".join(
                f"SELECT * FROM (SELECT next_try FROM {self._due_by_lane} WHERE environment = %s AND alias = %s AND "
                f"lane = {lane} AND version <= {VERSION}{self._longest_first} LIMIT 1) AS lane{lane}"
                for lane in range(LANES)
            )
            rows = self._rows(f"SELECT min(next_try) - NOW FROM ({lanes}) AS lanes", *(self.environment, alias) * LANES)
            if rows[0][0] is not None:
                found[alias] = float(rows[0][0])
        return found

    def notify(self, *, always: bool = False) -> None:
        """Wake processes that listen (PostgreSQL), in a transaction that no commit has to wait for.

        Nobody is woken while one of them is awake, unless ``always``.
        """
        if self._is_postgresql:
            sleeps = (
                "true"
                if always
                else (
                    "NOT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM "
                    f"pg_database WHERE datname = current_database()) AND classid = {AWAKE} AND objid = {AWAKE})"
                )
            )
            with self.connection.atomic():
                self._rows("SET LOCAL synchronous_commit TO off")
                self._rows(f"SELECT pg_notify('{CHANNEL}', '') WHERE {sleeps}")

    def stay_awake(self) -> None:
        """Have nobody woken: the process of this connection looks again and again, until `fall_asleep`."""
        self._rows(f"SELECT pg_try_advisory_lock_shared({AWAKE}, {AWAKE})")

    def fall_asleep(self) -> None:
        """Be woken again. A look has to follow: somebody may have committed and found this process awake."""
        self._rows(f"SELECT pg_advisory_unlock_shared({AWAKE}, {AWAKE})")

    def listen(self) -> None:
        """Be sent what `notify` sends, on this connection (PostgreSQL)."""
        self._rows(f"LISTEN {CHANNEL}")

    def data_version(self) -> int:
        """A number that changes as another connection commits (SQLite)."""
        return int(self._rows("PRAGMA data_version")[0][0])

    # What people ask for -----------------------------------------------------------------------------------------

    def cancel(self, ids: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
        """Cancel what nobody has in hand: for each entry its recipients, each with the state it has now.

        What a worker has in hand stays "pending": it is too late. Unknown entries are left out.
        """
        with self.connection.atomic():
            condition, values = self._among("entry_id", ids)
            rows = self._rows(
                f"SELECT entry_id, {_LAPSED} FROM {DUE} WHERE {condition} AND environment = %s AND "
                f"(leased = {UNLEASED} OR next_try <= NOW){self._skip_locked}",
                *(*values, self.environment),
            )
            self._settle(rows, State.CANCELLED)
            found: dict[int, list[tuple[str, str]]] = {}
            rows = self._rows(
                f"SELECT entry_id, address, state FROM {RECIPIENT} JOIN {ENTRY} ON id = entry_id WHERE {condition} AND "
                "environment = %s ORDER BY entry_id, position",
                *(*values, self.environment),
            )
            for entry_id, address, state in rows:
                found.setdefault(entry_id, []).append((address, state))
            return found

    def retry(self, ids: Sequence[int], lasts: float, alias: str | None = None) -> dict[int, str]:
        """Try entries again now, also those that failed; with ``alias`` by another mailer.

        Tells of each: "due", "in hand", "erased" (its content is gone), "accepted" (nobody is owed it), "unknown".
        """
        told: dict[int, str] = {}
        for entry_id in sorted(ids):
            with self.connection.atomic():
                told[entry_id] = self._retry(entry_id, lasts, alias)
        return told

    def _retry(self, entry_id: int, lasts: float, alias: str | None) -> str:
        # The row of `due` is locked first, as it is wherever both are
        due = self._rows(
            f"SELECT leased <> {UNLEASED} AND next_try > NOW, {_LAPSED} FROM {DUE} WHERE entry_id = %s AND "
            f"environment = %s{self._for_update}",
            *(entry_id, self.environment),
        )
        rows = self._rows(
            f"SELECT alias, priority, version, erased, send_at FROM {ENTRY} WHERE id = %s AND environment = %s"
            f"{self._for_update}",
            *(entry_id, self.environment),
        )
        if not rows:
            return "unknown"
        old_alias, priority, version, erased, send_at = rows[0]
        if due and due[0][0]:
            return "in hand"
        owed = f"entry_id = %s AND state <> '{ACCEPTED}'"
        if not erased:
            owed += " AND data <> ''"  # else it is no address, or was forgotten
        if not self._rows(f"SELECT 1 FROM {RECIPIENT} WHERE {owed} LIMIT 1", entry_id):
            return "accepted"
        first = f"SELECT 1 FROM {CONTENT} WHERE entry_id = %s AND number = 0"
        if erased or not self._rows(first, entry_id):
            return "erased"
        if due and due[0][1]:
            self._may_have_arrived([entry_id])
        self._rows(f"UPDATE {RECIPIENT} SET state = '{PENDING}', attempts = 0, doubts = 0 WHERE {owed}", entry_id)
        alias = old_alias if alias is None else alias
        greatest = "GREATEST" if self._is_postgresql else "MAX"
        if due:
            self._rows(
                f"UPDATE {DUE} SET alias = %s, next_try = {greatest}(NOW, %s), leased = {UNLEASED}, lapses = 0, "
                "tries = 0, lease = lease + 1, lane = CASE WHEN lane = %s THEN %s ELSE lane END WHERE entry_id = %s",
                *(alias, send_at or 0.0, SUSPECTS, deferred(priority), entry_id),
            )
        else:  # leases are numbered from the time on: a worker that was stopped may still have an earlier one
            self._rows(
                f"INSERT INTO {DUE} (entry_id, environment, alias, lane, next_try, expires, lease, leased, version, "
                f"lapses, tries) VALUES (%s, %s, %s, %s, NOW, NOW + %s, CAST(NOW AS bigint), {UNLEASED}, %s, 0, 0) "
                "ON CONFLICT DO NOTHING",  # another did the same
                *(entry_id, self.environment, alias, deferred(priority), lasts, version),
            )
            self._rows(f"UPDATE {ENTRY} SET expires = NOW + %s WHERE id = %s", lasts, entry_id)
        self._rows(f"UPDATE {ENTRY} SET alias = %s, finished = NULL WHERE id = %s", alias, entry_id)
        return "due"

    def entries(self, state: str = "", alias: str = "", limit: int = 50, before: int | None = None) -> list[Any]:
        """The latest entries: (id, alias, created, finished, subject, [(address, state)])."""
        where, values = ["environment = %s"], [self.environment]
        if alias:
            where.append("alias = %s")
            values.append(alias)
        if before is not None:
            where.append("id < %s")
            values.append(before)  # type: ignore[arg-type]
        if state == PENDING:
            where.append(f"id IN (SELECT entry_id FROM {DUE} WHERE environment = %s)")
            values.append(self.environment)
        elif state:
            indexed = f" AND state IN {_UNREACHED}" if f"'{state}'" in _UNREACHED else ""
            where.append(f"id IN (SELECT entry_id FROM {RECIPIENT} WHERE state = %s{indexed})")
            values.append(state)
        rows = self._rows(
            f"SELECT id, alias, created, finished, subject FROM {ENTRY} WHERE {' AND '.join(where)} ORDER BY id DESC "
            "LIMIT %s",
            *(*values, limit),
        )
        if not rows:
            return []
        condition, ids = self._among("entry_id", [row[0] for row in rows])
        found: dict[int, list[tuple[str, str]]] = {}
        for entry_id, address, its in self._rows(
            f"SELECT entry_id, address, state FROM {RECIPIENT} WHERE {condition} AND position < 20 "
            "ORDER BY entry_id, position",
            *ids,
        ):
            found.setdefault(entry_id, []).append((address, its))
        return [(*row, found.get(row[0], [])) for row in rows]

    def show(self, entry_id: int) -> dict[str, Any] | None:
        """All that is stored of an entry but its content."""
        rows = self._rows(
            "SELECT id, environment, alias, envelope, message_id, subject, priority, key, version, size, is_8bit, "
            f"created, send_at, expires, finished, may_have_arrived, erased FROM {ENTRY} WHERE id = %s",
            entry_id,
        )
        if not rows:
            return None
        names = "id environment alias envelope message_id subject priority key version size is_8bit created send_at"
        names += " expires finished may_have_arrived erased"
        told = dict(zip(names.split(), rows[0], strict=True))
        told["envelope"] = _parsed(told["envelope"])
        for flag in ("is_8bit", "may_have_arrived", "erased"):
            told[flag] = bool(told[flag])
        told["recipients"] = [
            dict(zip(("address", "state", "attempts", "doubts", "reply", "server", "error"), row, strict=True))
            for row in self._rows(
                f"SELECT address, state, attempts, doubts, reply, server, error FROM {RECIPIENT} WHERE entry_id = %s "
                "ORDER BY position",
                entry_id,
            )
        ]
        for one in told["recipients"]:
            one["reply"] = _parsed(one["reply"]) if one["reply"] else None
        due = self._rows(
            f"SELECT lane, next_try, lease, leased, lapses, tries FROM {DUE} WHERE entry_id = %s", entry_id
        )
        of_due = ("lane", "next_try", "lease", "leased", "lapses", "tries")
        told["due"] = dict(zip(of_due, due[0], strict=True)) if due else None
        return told

    def purge(self, keep: float, keep_failed: float, limit: int = 500, alias: str = "") -> Purged:
        """One small step: erase contents that are kept no longer, delete entries that are.

        ``keep`` and ``keep_failed`` are seconds after an entry was finished, ``limit`` so many entries at most, of one
        mailer or of each.
        """
        erased = deleted = 0
        has_more = False
        for one in [alias] if alias else self.aliases_of_finished():
            step = self._purge(one, keep, keep_failed, limit)
            erased, deleted, has_more = erased + step.erased, deleted + step.deleted, has_more or step.has_more
        return Purged(erased, deleted, has_more)

    def aliases_of_finished(self) -> Iterator[str]:
        """The mailers of finished entries, each with one look into the index."""
        select = f"SELECT min(alias) FROM {ENTRY} WHERE environment = %s AND alias > %s AND finished IS NOT NULL"
        alias = ""
        while (alias := self._rows(select, self.environment, alias)[0][0]) is not None:
            yield alias

    def _purge(self, alias: str, keep: float, keep_failed: float, limit: int) -> Purged:
        with self.connection.atomic():
            old = self._finished(alias, "finished <= NOW - %s", keep, limit)
            deleted = self._delete(CONTENT, old, CONTENTS) and self._delete(RECIPIENT, old, ROWS)
            if old and deleted:
                condition, values = self._among("id", old)
                self._rows(f"DELETE FROM {ENTRY} WHERE {condition}", *values)
        with self.connection.atomic():
            # As the index says it: Django 6.1 writes its condition in another way on SQLite
            kept = "NOT erased" if self._is_postgresql else "NOT erased AND erased = 0"
            failed = self._finished(alias, f"{kept} AND finished <= NOW - %s", keep_failed, limit)
            erased = self._delete(CONTENT, failed, CONTENTS)
            if failed and erased:
                self._mark_erased(failed)
        has_more = not (deleted and erased) or limit in (len(old), len(failed))
        return Purged(len(failed) if erased else 0, len(old) if deleted else 0, has_more)

    def _finished(self, alias: str, when: str, seconds: float, limit: int) -> list[int]:
        rows = self._rows(
            f"SELECT id FROM {ENTRY} WHERE environment = %s AND alias = %s AND {when} ORDER BY finished LIMIT %s"
            f"{self._skip_locked}",
            *(self.environment, alias, seconds, limit),
        )
        return [row[0] for row in rows]

    def _delete(self, table: str, ids: Sequence[int], most: int) -> bool:
        """Delete at most so many rows of entries, the first ones first; whether none is left."""
        if not ids:
            return True
        column = "number" if table == CONTENT else "position"
        condition, values = self._among("entry_id", ids)
        rows = self._rows(
            f"DELETE FROM {table} WHERE (entry_id, {column}) IN (SELECT entry_id, {column} FROM {table} WHERE "
            f"{condition} ORDER BY entry_id, {column} LIMIT %s) RETURNING 1",
            *(*values, most),
        )
        return len(rows) < most

    def _erase(self, ids: Sequence[int]) -> None:
        if ids:
            condition, values = self._among("entry_id", ids)
            self._rows(f"DELETE FROM {CONTENT} WHERE {condition}", *values)
            self._mark_erased(ids)

    def _mark_erased(self, ids: Sequence[int]) -> None:
        condition, values = self._among("id", ids)
        self._rows(f"UPDATE {ENTRY} SET erased = true, subject = '' WHERE {condition}", *values)

    def forget(self, address: str) -> tuple[int, int]:
        """Erase a person's address where its outcome is final, with the contents. Returns (erased, still pending).

        In all environments of this database: a person has one address.
        """
        with self.connection.atomic():
            # As `retry` does. What is pending is left to the workers, which write recipients before entries
            ids = self._rows(
                f"SELECT id FROM {ENTRY} WHERE id IN (SELECT entry_id FROM {RECIPIENT} WHERE "
                f"lower(address) = lower(%s)) ORDER BY id{self._for_update}",
                address,
            )
            condition, values = self._among("entry_id", [row[0] for row in ids])
            rows = self._rows(
                f"SELECT entry_id, state FROM {RECIPIENT} WHERE {condition} AND lower(address) = lower(%s)",
                *(*values, address),
            )
            final = [row[0] for row in rows if row[1] != PENDING]
            if final:
                condition, values = self._among("entry_id", final)
                self._rows(
                    f"UPDATE {RECIPIENT} SET address = '', data = '', reply = '', error = '' WHERE {condition} AND "
                    f"lower(address) = lower(%s) AND state <> '{PENDING}'",
                    *(*values, address),
                )
                finished = self._rows(
                    f"SELECT id FROM {ENTRY} WHERE {self._among('id', final)[0]} AND finished IS NOT NULL", *values
                )
                self._erase([row[0] for row in finished])
            return len(final), len(rows) - len(final)

    def due_environments(self) -> list[str]:
        """The environments of this database that have mail due."""
        return self._distinct(DUE, "environment", "true", ())

    def due_mailers(self) -> list[str]:
        """The mailers that have mail due."""
        return self._distinct(DUE, "alias", "environment = %s", (self.environment,))

    def _distinct(self, table: str, column: str, where: str, values: tuple[Any, ...]) -> list[str]:
        """The values of an indexed column: one look for each, however many rows there are."""
        found: list[str] = []
        select = f"SELECT min({column}) FROM {table} WHERE {where} AND {column} > %s"
        while (value := self._rows(select, *values, found[-1] if found else "")[0][0]) is not None:
            found.append(value)
        return found

    def environments(self) -> dict[str, int]:
        """How many entries are due in each environment of this database, also where all are finished."""
        rows = self._rows(f"SELECT environment, count(*) FROM {DUE} GROUP BY environment")
        finished = self._distinct(ENTRY, "environment", "finished IS NOT NULL", ())
        return dict.fromkeys(finished, 0) | {row[0]: row[1] for row in rows}

    def adopt(self, environment: str) -> int:
        """Take over the entries of another environment. Returns how many are due.

        What was paused there is paused here.
        """
        if environment == self.environment:
            return 0
        with self.connection.atomic():
            for (alias,) in self._rows(f"SELECT alias FROM {MAILER} WHERE environment = %s AND paused", environment):
                self.pause(alias, True)
            self._rows(
                f"UPDATE {ENTRY} SET key = NULL WHERE environment = %s AND key IN (SELECT key FROM {ENTRY} WHERE "
                "environment = %s AND key IS NOT NULL)",
                *(environment, self.environment),
            )
            self._rows(f"DELETE FROM {MAILER} WHERE environment = %s", environment)
            self._rows(f"UPDATE {ENTRY} SET environment = %s WHERE environment = %s", self.environment, environment)
            rows = self._rows(
                f"UPDATE {DUE} SET environment = %s WHERE environment = %s RETURNING 1", self.environment, environment
            )
            return len(rows)

    def aliases(self) -> list[str]:
        """The mailers of which mail is pending, or that have a row."""
        rows = self._rows(
            f"SELECT alias FROM {DUE} WHERE environment = %s UNION SELECT alias FROM {MAILER} WHERE environment = %s "
            "AND alias <> '' ORDER BY alias",
            *(self.environment, self.environment),
        )
        return [row[0] for row in rows]

    def statistics(self) -> list[dict[str, Any]]:
        """For each mailer how much is due, in hand, waiting for its next try or its time, and for how long.

        ``oldest``: seconds since the first of them was due; ``unclaimed``: the same without those that are claimed
        alone, for they wait for each other, and those of a newer version.
        """
        rows = self._rows(
            "SELECT alias, count(*), "
            f"sum(CASE WHEN leased = {UNLEASED} AND next_try <= NOW THEN 1 ELSE 0 END), "
            f"sum(CASE WHEN leased <> {UNLEASED} AND next_try > NOW THEN 1 ELSE 0 END), "
            f"sum(CASE WHEN leased <> {UNLEASED} AND next_try <= NOW THEN 1 ELSE 0 END), "
            f"sum(CASE WHEN leased = {UNLEASED} AND next_try > NOW AND tries > 0 THEN 1 ELSE 0 END), "
            f"sum(CASE WHEN leased = {UNLEASED} AND next_try > NOW AND tries = 0 THEN 1 ELSE 0 END), "
            f"sum(CASE WHEN version > {VERSION} THEN 1 ELSE 0 END), "
            "NOW - min(CASE WHEN next_try <= NOW THEN next_try END), "
            f"NOW - min(CASE WHEN next_try <= NOW AND version <= {VERSION} AND lane <> {SUSPECTS} THEN next_try END) "
            f"FROM {DUE} WHERE environment = %s GROUP BY alias ORDER BY alias",
            self.environment,
        )
        names = (
            "alias",
            "pending",
            "due",
            "in_hand",
            "lapsed",
            "deferred",
            "scheduled",
            "newer",
            "oldest",
            "unclaimed",
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def old_snapshot(self) -> dict[str, Any] | None:
        """PostgreSQL: the oldest transaction that keeps dead rows alive, and how many this makes claims read."""
        if not self._is_postgresql:
            return None
        rows = self._rows(
            "SELECT (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relid = to_regclass(%s)), "
            "(SELECT extract(epoch FROM clock_timestamp() - min(xact_start))::float8 FROM pg_stat_activity WHERE "
            "backend_xmin IS NOT NULL AND datname = current_database() AND backend_type = 'client backend' AND "
            "pid <> pg_backend_pid())",
            DUE,
        )
        return {"dead_rows": rows[0][0], "oldest_transaction": rows[0][1]}


def _parsed(text: str) -> Any:
    """What is stored as JSON; the text itself where it cannot be read, for whoever has to find out why."""
    try:
        return json.loads(text)
    except ValueError:
        return text


_UNREACHED = "('rejected', 'expired', 'in_doubt', 'failed')"  # as the index of recipients has it
_LAPSED = f"lapses > 0 OR (leased = {LEASED} AND next_try <= NOW)"
_CLAIMED = "entry_id, lease, lane, lapses, tries, expires - NOW"


def _without_repeats(branches: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(lane, most, skipped): a lane that is named again goes on behind what it gave before."""
    given: dict[int, int] = {}
    places = []
    for lane, most in branches:
        places.append((lane, most, given.get(lane, 0)))
        given[lane] = given.get(lane, 0) + most
    return places


def _row_marks(rows: int, columns: int) -> str:
    row = f"({marks(columns)})"
    return ", ".join([row] * rows)
