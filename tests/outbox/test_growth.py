"""What a statement costs does not grow with what is stored: plans in each run, a million entries in the exhaustive one.

In the normal run the plans decide, with statistics that know nothing of the mail. Times are told, and decide only where
a hundred times as much is allowed as is needed.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpbackend.outbox import Store
from smtpbackend.outbox.schedule import SUSPECTS, Turns, deferred, lane_of
from smtpbackend.outbox.sql import Change, Claimed
from tests import tally
from tests.outbox.lab import letter
from tests.outbox.stores import ALIAS, EVERY_LANE, Counted, Stores
from tests.servers.ports import wait_until

PLAIN = pytest.mark.parametrize(
    "stores", ["sqlite-plain", pytest.param("postgresql-plain", marks=pytest.mark.servers)], indirect=True
)
"""Statements are the same over each kind of connection."""
DAY = 86400.0
TWENTY = {"sqlite": "zeroblob(20)", "postgresql": "decode(repeat('00', 20), 'hex')"}
NOW = {"sqlite": "unixepoch()", "postgresql": "extract(epoch FROM now())::float8"}


def fill(
    stores: Stores,
    count: int,
    *,
    first: int,
    lane: int = lane_of(1, 0),
    next_try: float = -100.0,
    finished: float | None = None,
    erased: bool = True,
    state: str = "accepted",
    recipients: int = 1,
    environment: str = "here",
) -> range:
    """Write many entries by the database itself, due or finished so many seconds from now; their ids."""
    now, last = NOW[stores.dialect], first + count - 1
    expires = f"{now} + {DAY}"
    numbers = f"WITH RECURSIVE n (id) AS (SELECT {first} UNION ALL SELECT id + 1 FROM n WHERE id < {last})"
    if stores.dialect == "postgresql":
        numbers = f"WITH n AS (SELECT generate_series({first}, {last}) AS id)"
    at = "NULL" if finished is None else f"{now} + {finished}"
    stores.rows(
        f"{numbers} INSERT INTO {{entry}} (id, environment, alias, envelope, message_id, subject, priority, "
        "group_number, place, version, size, is_8bit, created, expires, finished, may_have_arrived, erased) "
        f"SELECT id, '{environment}', 'default', '{{{{}}}}', '<x@example.com>', 'Subject', 1, 1, 0, 1, 20, false, "
        f"{now}, {expires}, {at}, false, {erased and finished is not None} FROM n"
    )
    for position in range(recipients):
        stores.rows(
            f"{numbers} INSERT INTO {{recipient}} (entry_id, position, address, data, state, attempts, doubts, reply, "
            f"server, error) SELECT id, {position}, 'ann@example.com', '{{{{\"address\": \"ann@example.com\"}}}}', "
            f"'{'pending' if finished is None else state}', 0, 0, '', '', '' FROM n"
        )
    if finished is None or not erased:
        stores.rows(
            f"{numbers} INSERT INTO {{content}} (entry_id, number, octets) SELECT id, 0, "
            f"{TWENTY[stores.dialect]} FROM n"
        )
    if finished is None:
        stores.rows(
            f"{numbers} INSERT INTO {{due}} (entry_id, environment, alias, lane, version, next_try, expires, lease, "
            f"leased, lapses, tries) SELECT id, '{environment}', 'default', {lane}, 1, {now} + {next_try}, {expires}, "
            "0, 0, 0, 0 FROM n"
        )
    if stores.dialect == "postgresql":
        stores.rows("SELECT setval(pg_get_serial_sequence('{entry}', 'id'), max(id)) FROM {entry}")
    return range(first, last + 1)


def forget_statistics(stores: Stores) -> None:
    """From now on the planner knows what is in the tables at this moment, and nothing of what comes."""
    for table in ("entry", "recipient", "content", "due", "mailer"):
        if stores.dialect == "postgresql":
            stores.rows(f"ALTER TABLE {{{table}}} SET (autovacuum_enabled = false)")
        stores.rows(f"{'VACUUM ' if stores.dialect == 'postgresql' else ''}ANALYZE {{{table}}}")


@pytest.fixture
def stale(stores: Stores) -> Iterator[Stores]:
    """Tables whose statistics are from the time when they had little."""
    fill(stores, 500, first=9_000_000, finished=-10.0, erased=False, state="failed")
    fill(stores, 500, first=9_001_000, lane=deferred(1))
    forget_statistics(stores)
    for table in ("entry", "recipient", "content", "due"):
        stores.rows(f"DELETE FROM {{{table}}}")
    yield stores
    if stores.dialect == "postgresql":
        for table in ("entry", "recipient", "content", "due", "mailer"):
            stores.rows(f"ALTER TABLE {{{table}}} RESET (autovacuum_enabled)")


def plan(stores: Stores, sql: str, params: Any) -> str:
    rows = stores.connection.rows(f"EXPLAIN {'QUERY PLAN ' if stores.dialect == 'sqlite' else ''}{sql}", params)
    return "\n".join(str(row[-1]) for row in rows)


_whole_table = re.compile(
    r"Seq Scan on smtpbackend_outbox_(?:due|entry|recipient|content)"
    r"|SCAN smtpbackend_outbox_(?:due|entry|recipient|content)"
)


def turn(store: Store) -> list[Claimed]:
    return store.claim(ALIAS, Turns().branches(32), 32)


def recorded(store: Store) -> None:
    claimed = turn(store)
    rows = [(0, "accepted", 0, {"code": 250, "enhanced": None, "lines": []}, "mx", None)]
    changes = [Change(one.id, one.lease, rows, number % 2 == 0, 90.0, deferred(1), 1, True) for number, one in
               enumerate(claimed)]  # fmt: skip
    store.record(changes)


def in_hand(store: Store) -> None:
    ids = [one.id for one in turn(store)]
    store.read(ids)
    store.pending(ids)
    list(store.content(ids[0]))
    leases = dict.fromkeys(ids, 1)
    store.renew(leases)
    store.holds(ids[0], 1)
    store.give_back(leases)


def suspects(store: Store) -> None:
    store.set_aside(turn(store))
    store.has_suspect(ALIAS)
    store.claim(ALIAS, [(SUSPECTS, 1)], 1)


WORK: dict[str, Callable[[Store], Any]] = {
    "claim": turn,
    "claim of one": lambda store: store.claim(ALIAS, EVERY_LANE, 1, after=5, grace=10.0),
    "claim of born": lambda store: store.claim_born([1, 2, 3]),
    "look": lambda store: store.soonest([ALIAS]),
    "in hand": in_hand,
    "record": recorded,
    "suspects": suspects,
    "mail was sent": lambda store: store.has_sent(ALIAS, 1000.0),
    "fail": lambda store: store.fail(turn(store), "why"),
    "sweep": lambda store: store.expire(),
    "prune": lambda store: store.purge(0, 0),
    "prune one": lambda store: store.purge(0, 0, alias=ALIAS),
    "cancel": lambda store: store.cancel([1, 2, 3]),
    "retry": lambda store: store.retry([1, 2, 30_000], 60.0),
    "show": lambda store: store.show(1),
    "list of failed": lambda store: store.entries(state="failed"),
    "a key": lambda store: [store.enqueue([letter(key="k")], ALIAS, 1) for _ in range(2)],
}


@PLAIN
@pytest.mark.parametrize("name", WORK)
def test_no_statement_reads_a_whole_table(stale: Stores, name: str) -> None:
    fill(stale, 20_000, first=1)
    fill(stale, 20_000, first=30_000, finished=-100.0, erased=False, state="failed")
    store, connection = stale.counted()
    WORK[name](store)
    for sql, params in connection.statements:
        if sql.startswith(("INSERT", "BEGIN")) and "SELECT" not in sql:
            continue
        found = plan(stale, sql, params)
        assert _whole_table.search(found) is None, f"{sql}\n{found}"


@PLAIN
@pytest.mark.parametrize("known", ["0", "5", "50", "little"])
def test_a_claim_is_served_by_its_index(stale: Stores, known: str) -> None:
    """Whatever the statistics say: nothing, or that a few rows are in a lane where they are no more."""
    stale.rows("DELETE FROM {due}")
    if known != "little":
        fill(stale, int(known), first=1, lane=lane_of(0, 0))
        forget_statistics(stale)
        stale.rows("DELETE FROM {due}")
    fill(stale, 20_000, first=1000, lane=deferred(1), next_try=5000.0)
    fill(stale, 20_000, first=100_000, lane=lane_of(1, 10))
    store, connection = stale.counted()
    assert len(turn(store)) == 32
    found = plan(stale, *connection.statements[0])
    assert "smtpbackend_outbox_claim" in found
    assert "smtpbackend_outbox_expires" not in found
    assert "Sort" not in found
    assert "TEMP B-TREE" not in found
    if stale.dialect == "postgresql":
        assert found.count("Index Scan using smtpbackend_outbox_claim") == 1, "one plan for all lanes"


@PLAIN
def test_pruning_and_sweeping_are_served_by_theirs(stale: Stores) -> None:
    """Pruning also where another environment has much that is older, as in a copied database."""
    fill(stale, 20_000, first=1, finished=-100.0, erased=False, state="failed", environment="copied")
    fill(stale, 20_000, first=30_000, environment="copied")
    stale.rows("UPDATE {due} SET expires = 1")
    fill(stale, 100, first=70_000, finished=-50.0, erased=False, state="failed")
    store, connection = stale.counted()
    store.purge(1e6, 10)
    store.expire()
    plans = [plan(stale, sql, params) for sql, params in connection.statements]
    assert any("smtpbackend_outbox_finished" in one for one in plans)
    assert any("smtpbackend_outbox_unerased" in one for one in plans)
    assert any("smtpbackend_outbox_expires" in one for one in plans)
    if stale.dialect == "postgresql":
        for sql, params in connection.statements[:-1]:
            rows = stale.connection.rows(f"EXPLAIN (ANALYZE, FORMAT TEXT) {sql}", params)
            removed = [int(n) for n in re.findall(r"Rows Removed by Filter: (\d+)", "\n".join(row[0] for row in rows))]
            assert sum(removed) < 1000, rows


# A million entries


def milliseconds(work: Callable[[], Any], times: int = 15) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken)


def told(text: str) -> None:
    tally.warnings.append(f"outbox: {text}")


def claim_cost(stores: Stores) -> float:
    turns, store = Turns(), stores.store

    def work() -> None:
        claimed = store.claim(ALIAS, turns.branches(100), 100)
        turns.note(one.lane for one in claimed)
        assert claimed
        store.give_back({one.id: one.lease for one in claimed})

    return milliseconds(work)


@PLAIN
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "what",
    [
        "1,000,000 final",
        "1,000,000 due",
        "200,000 deferred",
        "200,000 deferred and due",
        "100,000 scheduled",
        "1,000,000 of another environment",
    ],
)
def test_a_claim_costs_the_same(stale: Stores, what: str) -> None:
    fill(stale, 200, first=5_000_000)
    few = claim_cost(stale)
    if what == "1,000,000 final":
        fill(stale, 1_000_000, first=1, finished=-100.0)
    elif what == "1,000,000 due":
        fill(stale, 1_000_000, first=1)
    elif what == "200,000 deferred":
        fill(stale, 200_000, first=1, lane=deferred(1), next_try=3000.0)
    elif what == "200,000 deferred and due":
        fill(stale, 200_000, first=1, lane=deferred(1))
    elif what == "100,000 scheduled":
        fill(stale, 100_000, first=1, next_try=40_000.0)
    else:
        fill(stale, 1_000_000, first=1, environment="there")
    many = claim_cost(stale)
    told(f"{stale.dialect}: a claim of 100 and its return take {few:.1f} ms, {many:.1f} ms beside {what}")
    assert many < 20 * few + 50


@PLAIN
@pytest.mark.exhaustive
def test_a_million_is_pruned_in_small_steps(stale: Stores) -> None:
    fill(stale, 1_000_000, first=1, finished=-100.0)
    fill(stale, 20, first=2_000_000, finished=-90.0, state="failed", erased=False, recipients=500)
    timed = _Timed(stale.open().connection)
    store = Store(timed, stale.store.environment)
    deleted = 0
    while any(step := store.purge(10, 10)):
        deleted += step.deleted
    assert deleted == 1_000_020
    assert stale.count("entry") == stale.count("recipient") == stale.count("content") == 0
    slow = sorted(timed.seconds, reverse=True)
    told(
        f"{stale.dialect}: of {len(slow)} statements that pruned a million entries the slowest took "
        f"{slow[0] * 1000:.0f} ms, one in a hundred {slow[len(slow) // 100] * 1000:.1f} ms, all {sum(slow):.0f} s"
    )
    assert slow[len(slow) // 1000] < 0.1


class _Timed(Counted):
    """A connection that tells how long each statement took."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.seconds: list[float] = []

    def rows(self, sql: str, params: Any = ()) -> list[Any]:
        begun = time.perf_counter()
        rows = super().rows(sql, params)
        self.seconds.append(time.perf_counter() - begun)
        self.statements.clear()
        return rows


@pytest.mark.parametrize("stores", [pytest.param("postgresql-plain", marks=pytest.mark.servers)], indirect=True)
@pytest.mark.exhaustive
def test_what_an_old_snapshot_costs_is_told(stores: Stores) -> None:
    """Rows that a transaction of somebody else keeps alive are read by each claim that finds nothing."""
    other = stores.open()
    empty = milliseconds(lambda: turn(stores.store))
    with other.connection.atomic():
        other.connection.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.entries()
        fill(stores, 200_000, first=1)
        stores.rows("DELETE FROM {due}")
        held = milliseconds(lambda: turn(stores.store), 5)
        snapshots: list[dict[str, Any]] = []

        def is_told() -> bool:
            snapshots.append(stores.store.old_snapshot() or {})
            return snapshots[-1]["dead_rows"] >= 190_000  # sessions tell their counts once a second

        assert wait_until(is_told, 30), snapshots[-1]
        assert snapshots[-1]["oldest_transaction"] > 0
    stores.rows("VACUUM {due}")
    after = milliseconds(lambda: turn(stores.store))
    told(f"an empty claim takes {empty:.1f} ms, {held:.0f} ms behind 200,000 dead rows, {after:.1f} ms after VACUUM")
    assert after < held
