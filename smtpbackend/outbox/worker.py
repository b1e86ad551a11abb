"""The worker of one process: it claims, drains by `Mailer.deliver`, and records. It knows no framework and no driver.

Its threads, and what each may touch:

* one for each connection of a mailer talks to a server, and touches no database;
* the writer claims, reads and records, on a connection of its own; receivers of signals are called by it;
* the timer renews leases, on another connection, so that a writer that waits loses none. On SQLite it also serves the
  look at a lease before each transaction.

What is claimed, handed over and not yet recorded is never more than ``window`` for each mailer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from smtpbackend.adapters import LATER
from smtpbackend.errors import CancelSend
from smtpbackend.events import MessageSending, ServerFailed
from smtpbackend.logs import log
from smtpbackend.outbox.entry import Due
from smtpbackend.outbox.ledger import Entry, EntryFailed, Ledger, MailerDown, MessageExpired, why_of
from smtpbackend.outbox.options import Options
from smtpbackend.outbox.schedule import (
    CROWDED,
    LEASE,
    MARGIN,
    RENEW,
    SUSPECTS,
    TOOK_MAIL,
    Turns,
    backoff,
    is_of_mailer,
    rest_after,
)
from smtpbackend.outbox.sql import Claimed, MailerRow, Store

if TYPE_CHECKING:
    from smtpbackend.blocking.mailer import Mailer
    from smtpbackend.outcome import Receipt

__all__ = ["Site", "Worker", "clock", "deliver_due"]

LOGGER = "smtpbackend.outbox"
POLL = 1.0  # seconds between looks of a worker that delivers for all
LOOK = 30.0  # seconds between looks of a process that delivers what it stores
IDLE = 1.0  # seconds after which a connection to the database that is not used is closed
FRESH = 1.0  # seconds for which the row of a mailer is believed
HOUSEKEEPING = 600.0  # seconds between steps of pruning
SWEEP = 10.0  # seconds between sweeps of what expired
AWAY = 10.0  # seconds for which lapsed leases are left to their workers after the database was away: they write first
LONGEST_PAUSE = AWAY / 2  # seconds between tries to reach the database: each worker is back before others take its mail
MOST_SUSPECTED = 100  # entries of which is remembered that an outage began with them
CLEARING = 2.0  # seconds that what is in hand may take to be settled before one that is claimed alone; then twice that
LONGEST_CLEARING = 16.0  # for slow servers; nothing else is claimed meanwhile
BETWEEN_CLEARINGS = 4  # before the next try other mail goes on for so many times its length: what is in hand may hang
SUSPECT_PAUSE = 1.0  # seconds between looks for what is claimed alone, while there is other mail: it waits for each
ECHO = 0.12  # seconds for which a wake-up is followed by quick looks: those that came right behind it sent none
QUICK = 0.01  # seconds between these
BLOCKED = 0.2  # seconds until it is looked again whether a mailer may go on whose trial, or whose suspect, is under way


class Site(Protocol):
    """What a worker is given by the adapter of a framework."""

    def open(self) -> Store:
        """The store on a connection of its own, which `Store.connection.close` closes."""

    def aliases(self) -> Sequence[str]:
        """The mailers that have an outbox here, and whose mail this worker may deliver."""

    def others(self) -> Sequence[str]:
        """The mailers that have one too, and whose mail is left to other processes."""

    def mailer(self, alias: str) -> Mailer:
        """The Mailer behind the outbox. Raises where its settings are wrong."""

    def options(self, alias: str) -> Options:
        """The options of its outbox."""

    def tell(self, alias: str, due: Due | None, event: Any) -> None:
        """Send the signals of an event. Raises `CancelSend` alone, for a `MessageSending`."""

    def idle(self) -> None:
        """A thread of the worker has nothing to do for a while: receivers may have left something open in it."""


def clock() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _log(event: str, level: int = logging.WARNING, error: Exception | None = None, /, **fields: Any) -> None:
    log(LOGGER, level, event, error, **fields)


class _Flow:
    """The mail of one mailer that is in hand here, and what is known of the mailer."""

    def __init__(self, alias: str, options: Options) -> None:
        self.alias = alias
        self.options = options
        self.queue: deque[Due] = deque()  # to be handed over
        self.born: deque[Entry] = deque()  # stored and leased by this process, and no room for them yet
        self.in_hand = 0
        self.turns = Turns()
        self.has_threads = False
        self.has_more = False  # something may be due that was not claimed
        self.next_look = 0.0
        self.quick_until = 0.0
        self.is_open = False  # the mailer neither rests nor is paused, when its row was read
        self.read_at = -1e9
        self.is_paused = False
        self.crowded_until = 0.0  # a server had too many connections for one more
        self.is_trial = False
        self.took_down: Counter[int] = Counter()  # how often an entry began an outage
        self.has_backlog = False
        self.renew_backlog = 0.0
        self.suspect_at = 0.0

        self.worth_a_claim = max(1, options.window // 8)
        """So much room is claimed for: less would be many statements for few mails, more would let servers wait."""

    @property
    def room(self) -> int:
        return self.options.window - self.in_hand


class Worker:
    """Delivers the mail of an outbox, in threads of its own.

    ``for_all``: it claims whatever is due (``outbox run``). Else it is the worker of a process that delivers what it
    stores itself: others' mail it takes only while no other process of the site does. Start it, and stop it.
    """

    def __init__(self, site: Site, *, for_all: bool = False) -> None:
        self._site = site
        self._for_all = for_all
        self._who = f"{platform.node()[:60]}:{os.getpid()}:{id(self):x}"
        self._changed = threading.Condition()
        self._flows: dict[str, _Flow] = {}
        self._in_hand: dict[tuple[int, int], Due] = {}  # by entry and lease
        self._done: list[tuple[Due, Receipt]] = []
        self._back: dict[int, int] = {}  # leases of what was not begun, to be given back
        self._failed: dict[str, str] = {}  # mailers that could not even begin
        self._ended: list[tuple[str, EntryFailed]] = []  # to be told
        self._is_stopping = False
        self._is_leaving = False
        self._is_away = False  # the database cannot be written
        self._grace_until = 0.0
        self._clearing: str | None = None  # this mailer's suspect is next, as soon as nothing is in hand
        self._clear_for = CLEARING
        self._clear_until = 0.0
        self._clear_from = 0.0  # not before
        self._suspect: tuple[int, int] | None = None  # is in hand, alone
        self._next_sweep = 0.0
        self._next_housekeeping = clock() + HOUSEKEEPING
        self._threads: list[threading.Thread] = []
        self._store: Store | None = None
        self._beside_store: Store | None = None  # what the timer uses, and who looks at leases
        self._beside_lock = threading.Lock()
        self._checks_number = False
        self._has_said = False
        self.is_started = False
        self.claimed = 0  # entries, since the start
        self._seen = 0  # of these, by `was_busy`

    # From outside ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start its threads."""
        try:
            for alias in self._site.aliases():
                flow = self._flow(alias)
                flow.has_more = True
                self._have_thread(flow)  # now, for at the end of Python none can be started
            for name, target in (("writer", self._write), ("timer", self._renew)):
                self._start(f"smtpbackend-outbox-{name}", target)
        except BaseException:
            self.stop(0.0)
            raise
        self.is_started = True

    def _have_thread(self, flow: _Flow) -> None:
        if not flow.has_threads:
            flow.has_threads = True
            for number in range(flow.options.connections):
                self._start(f"smtpbackend-outbox-{flow.alias}-{number}", lambda: self._drain(flow))

    def _start(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def room(self, alias: str) -> int:
        """How many entries of a mailer may be born leased now."""
        with self._changed:
            if self._is_stopping or self._is_leaving or self._is_away or self._for_all:
                return 0
            flow = self._flow(alias)
            is_known_to_rest = flow.is_trial or (flow.read_at > 0 and not flow.is_open and not flow.has_more)
            if not flow.options.retry_in_doubt or is_known_to_rest or clock() < flow.crowded_until:
                return 0
            return max(0, flow.room - len(flow.born))

    def hand_over(self, entries: Sequence[Entry]) -> None:
        """Take entries that were born leased and are committed."""
        with self._changed:
            for entry in entries:
                flow = self._flow(entry.alias)
                if not flow.in_hand and clock() - flow.read_at > FRESH:
                    flow.is_open = False  # until its row was read
                has_to_wait = flow.born or flow.is_trial or self._suspect is not None or self._clearing is not None
                due = entry.due() if flow.room > 0 and not has_to_wait else None
                if due is None:
                    flow.born.append(entry)
                else:
                    self._take_in(flow, [due])
            self._changed.notify_all()

    def wake(self, alias: str | None = None) -> None:
        """Look now for what is due, of one mailer or of all."""
        with self._changed:
            now = clock()
            for flow in self._flows.values() if alias is None else [self._flow(alias)]:
                flow.has_more = True
                if self._for_all:
                    flow.quick_until = now + ECHO
            self._changed.notify_all()

    def stop(self, seconds: float = 20.0) -> bool:
        """Begin nothing more, give back what was not begun, and wait for what was. Returns whether all has ended."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        return self._join(seconds)

    def leave(self, seconds: float = 5.0) -> bool:
        """Deliver what this process has in hand, then stop; for the end of a process."""
        until = clock() + seconds
        with self._changed:
            self._is_leaving = True
            self._changed.notify_all()
            while any(flow.in_hand or flow.born for flow in self._flows.values()) and (left := until - clock()) > 0:
                self._changed.wait(min(left, 0.2))
            left_over = sum(len(flow.queue) + len(flow.born) for flow in self._flows.values())
        if left_over:
            _log("left_in_outbox", logging.INFO, entries=left_over)
        return self.stop(max(0.5, until - clock()))

    def _join(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def is_over(self) -> bool:
        """Whether it begins nothing more."""
        return self._is_stopping

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in hand, and nothing is known to be due."""
        with self._changed:
            return self._clearing is None and not any(
                flow.in_hand or flow.has_more or flow.is_trial or flow.born for flow in self._flows.values()
            )

    def was_busy(self) -> bool:
        """Whether it was given mail since this was asked last, or has some in hand."""
        with self._changed:
            before, self._seen = self._seen, self.claimed
            return self.claimed != before or bool(self._in_hand)

    # What is in hand; the lock is held ---------------------------------------------------------------------------

    def _flow(self, alias: str) -> _Flow:
        flow = self._flows.get(alias)
        if flow is None:
            flow = self._flows[alias] = _Flow(alias, self._site.options(alias))
        return flow

    def _take_in(self, flow: _Flow, dues: Sequence[Due]) -> None:
        for due in dues:
            self._in_hand[due.id, due.lease] = due
            flow.queue.append(due)
        flow.in_hand += len(dues)
        if dues:
            self._have_thread(flow)
        self._changed.notify_all()

    def _let_go(self, dues: Sequence[Due]) -> None:
        for due in dues:
            key = (due.id, due.lease)
            if key == self._suspect:
                self._suspect = None
            if self._in_hand.pop(key, None) is not None:
                self._flows[due.alias].in_hand -= 1
            due.close()

    def _begins(self, flow: _Flow) -> bool:
        """Whether anything of a mailer may begin now."""
        return flow.is_open and not self._is_stopping and not self._is_away

    # The thread of a mailer --------------------------------------------------------------------------------------

    def _drain(self, flow: _Flow) -> None:
        has_told = False  # receivers were called in this thread
        while True:
            with self._changed:
                has_come = self._changed.wait_for(
                    lambda: self._is_stopping or (flow.queue and self._begins(flow)), IDLE if has_told else None
                )
            if self._is_stopping or not has_come:
                has_told = False
                self._tidy_up()
                if self._is_stopping:
                    return
                continue
            has_told = True
            under_way: dict[tuple[int, int], Due] = {}
            try:
                mailer = self._site.mailer(flow.alias)
            except Exception as error:
                self._could_not_begin(flow, why_of(error))
                continue
            try:
                self._deliver(flow, mailer, under_way)
            except BaseException as error:  # of a receiver too: a thread that ended would hold its mail for ever
                _log("outbox_stream_broke", logging.ERROR, _shown(error), mailer=flow.alias)
                self._forget(under_way)
                self._could_not_begin(flow, why_of(error))

    def _tidy_up(self) -> None:
        with contextlib.suppress(Exception):  # of what receivers left open
            self._site.idle()

    def _forget(self, under_way: dict[tuple[int, int], Due]) -> None:
        """It is not known what became of it: its leases lapse, and it says that it may have arrived."""
        with self._changed:
            self._let_go(list(under_way.values()))

    def _deliver(self, flow: _Flow, mailer: Mailer, under_way: dict[tuple[int, int], Due]) -> None:
        stream = mailer.deliver(
            self._source(flow, under_way),
            prepare=Due.parcel,
            listeners=[_Listener(self._site, flow.alias)],
            holds=self._holds,
        )
        with contextlib.closing(stream):
            for due, receipt in stream:
                if receipt is None:
                    continue
                with self._changed:
                    del under_way[due.id, due.lease]
                    if not due.is_returned and is_of_mailer(receipt):
                        flow.is_open = False
                    self._done.append((due, receipt))
                    self._changed.notify_all()

    def _source(self, flow: _Flow, under_way: dict[tuple[int, int], Due]) -> Iterator[Any]:
        """What goes next; `LATER` where nothing does now, so that what is under way is settled."""
        while True:
            with self._changed:
                due = flow.queue.popleft() if flow.queue and self._begins(flow) else None
                if due is not None:
                    under_way[due.id, due.lease] = due
            yield LATER if due is None else due

    def _holds(self, due: Due) -> bool:
        """Whether the lease of an entry still holds for another transaction."""
        if (
            due.is_lost
            or clock() >= due.begins_by
            or clock() >= due.expires_at
            or not self._begins(self._flows[due.alias])
        ):
            due.is_returned = True
        elif self._checks_number:
            self._look_at_number(due)
        return not due.is_returned

    def _look_at_number(self, due: Due) -> None:
        """SQLite has the clock of its host, which may be set: there the number of the lease is looked at as well."""
        try:
            with self._beside() as store:
                due.is_lost = due.is_returned = not store.holds(due.id, due.lease)
        except Exception:  # nothing was begun of it
            due.is_returned = True

    def _could_not_begin(self, flow: _Flow, why: str) -> None:
        with self._changed:
            flow.is_open = False
            self._failed[flow.alias] = why
            self._changed.notify_all()

    # The writer --------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        pause = 0.0
        told: set[str] = set()  # what is wrong with the database: a lost connection is often the first of it alone
        while self._wait_for_work(pause):
            try:
                self._work()
            except BaseException as error:
                pause = min(LONGEST_PAUSE, pause * 2 or 0.5)
                if (why := str(error)) not in told:
                    _log("outbox_database_away", logging.ERROR, _shown(error), again_in=pause)
                told.add(why)
                self._is_away = True
                self._grace_until = float("inf")
                self._close_store()
            else:
                pause = 0.0
                told.clear()
                if self._is_away:
                    self._is_away = False
                    self._grace_until = clock() + AWAY
                    with self._changed:
                        self._changed.notify_all()
        self._close_store()

    def _wait_for_work(self, pause: float) -> bool:
        """Wait until there is something to do; False at the end. The connection is closed in long waits."""
        if pause:
            return self._wait_for_database(pause)
        if self._has_come(IDLE):
            return not self._has_ended
        self._close_store()  # without the lock, for which a request may be waiting
        self._has_come(None)
        return not self._has_ended

    def _wait_for_database(self, pause: float) -> bool:
        """All that has come is kept, and written first when the database is there again."""
        with self._changed:
            if self._is_stopping:  # what has just failed was the try of the stop
                self._changed.wait_for(lambda: self._has_ended, pause)
            else:
                self._changed.wait_for(lambda: self._is_stopping, pause)
            return not self._has_ended

    @property
    def _has_ended(self) -> bool:
        return self._is_stopping and not self._in_hand and not self._has_work()

    def _has_come(self, seconds: float | None) -> bool:
        """Wait so long for something to do, or for the end; without ``seconds`` as long as it takes."""
        end = float("inf") if seconds is None else clock() + seconds
        with self._changed:
            while not self._has_work() and not self._has_ended:
                if clock() >= end:
                    return False
                left = min(self._next_time(), end) - clock()
                self._changed.wait(min(60.0, left) if left > 0 else BLOCKED)
            return True

    def _has_work(self) -> bool:
        if self._done or self._failed or self._back:
            return True
        if self._is_stopping:
            return any(flow.queue or flow.born or flow.has_backlog for flow in self._flows.values())
        now = clock()
        return any(self._wants(flow, now) for flow in self._flows.values())

    def _wants(self, flow: _Flow, now: float) -> bool:
        if flow.is_trial:
            return False
        if flow.queue and not flow.is_open:
            return True
        if self._suspect is not None:
            return False
        if self._is_leaving:
            return bool(flow.born) and flow.room > 0
        if self._clearing is not None:
            return not self._in_hand or now >= self._clear_until
        if flow.born and flow.room > 0:
            return True
        if flow.next_look <= now:
            return True
        return flow.has_more and flow.room >= flow.worth_a_claim

    def _next_time(self) -> float:
        if self._is_stopping or self._is_leaving:
            return clock() + 1.0
        if self._clearing is not None:
            return self._clear_until
        return min((flow.next_look for flow in self._flows.values()), default=clock() + LOOK)

    def _close_store(self) -> None:
        _close(self._store)
        self._store = None
        with self._beside_lock:
            _close(self._beside_store)
            self._beside_store = None
        self._tidy_up()

    def _work(self) -> None:
        if self._store is None:
            self._store = self._site.open()
            self._checks_number = self._store.has_clock_of_host
        store = self._store
        ledger = Ledger(store, lambda alias: self._flows[alias].options.retry_in_doubt, _log)
        self._give_back(store)
        self._tell_ended()
        self._record(ledger)
        with self._changed:
            flows = list(self._flows.values())
        for flow in flows:
            if flow.in_hand and not flow.is_trial and clock() - flow.read_at >= FRESH:
                self._read_row(store, flow)  # somebody may have paused it
            if self._is_stopping or (flow.queue and not flow.is_open):
                self._open_or_return(store, flow)
            if not self._is_stopping:
                self._fill(store, ledger, flow)
        if not self._is_stopping and not self._is_leaving:
            self._keep_house(store)

    def _record(self, ledger: Ledger) -> None:
        """Write whatever has come; it is kept until it is written."""
        with self._changed:
            done, failed = list(self._done), dict(self._failed)
            ours = [(due, receipt) for due, receipt in done if not due.is_lost]  # what is recorded is not renewed
        if not done and not failed:
            return
        recorded = ledger.record(done)
        aliases = {due.alias for due, _ in done}
        with self._changed:
            del self._done[: len(done)]
            for alias in failed:
                self._failed.pop(alias, None)
            self._let_go([due for due, _ in done])
            if recorded.next_try is not None:
                for due, _ in done:
                    flow = self._flows[due.alias]
                    flow.next_look = min(flow.next_look, clock() + recorded.next_try + 0.1)
                    flow.has_more = flow.has_more or recorded.next_try == 0
            for due, _ in ours:
                if due.is_returned:
                    self._flows[due.alias].has_more = True
            # Ended here already, for what is written below may fail: then the trial of the row ends by itself
            trials = {flow for alias in aliases | failed.keys() if (flow := self._flows[alias]).is_trial}
            for flow in trials:
                flow.is_trial = flow.is_open = False
            self._changed.notify_all()
        for entry, event in recorded.events:
            self._tell(entry.alias, entry, event)
        down = failed | recorded.down
        well = {due.alias for due, receipt in ours if receipt.answered}
        for alias, error in down.items():
            flow = self._flows[alias]
            tried = recorded.culprits.get(alias, 0)
            is_crowded = alias in recorded.crowded
            if is_crowded and flow not in trials and ledger.store.has_sent(alias, TOOK_MAIL):
                self._step_back(ledger.store, flow, error)
            else:
                self._let_rest(ledger.store, flow, error, 0 if is_crowded else tried)
        for flow in trials:
            if flow.alias not in down:
                self._end_trial(ledger.store, flow, flow.alias in well)

    def _tell(self, alias: str, due: Due | None, event: Any) -> None:
        """Receivers may raise what is no Exception: the mail of others is not theirs."""
        try:
            self._site.tell(alias, due, event)
        except BaseException as error:
            _log("receiver_failed", logging.ERROR, _shown(error), told=event.name)

    def _step_back(self, store: Store, flow: _Flow, error: str) -> None:
        """A server that takes mail has too many connections: others go on, and this worker tries again later."""
        with self._changed:
            flow.crowded_until = flow.next_look = clock() + CROWDED
            flow.is_open = flow.has_more = False
        self._return(store, flow)
        self._leave_backlog(store, flow)
        _log("mailer_crowded", logging.INFO, mailer=flow.alias, error=error, again_in=CROWDED)

    def _let_rest(self, store: Store, flow: _Flow, error: str, culprit: int) -> None:
        rested = store.rest(flow.alias, rest_after, error, culprit)
        with self._changed:
            flow.is_open = False  # its row may have been read since the mailer failed
        if rested is not None:
            length, was_well = rested
            flow.next_look = clock() + length + 0.05
            flow.has_more = False
            if was_well:
                self._suspect_of_outage(store, flow, culprit)
                _log("mailer_down", logging.ERROR, mailer=flow.alias, error=error, rest=length)
                self._tell(flow.alias, None, MailerDown(flow.alias, error))
        self._return(store, flow)
        self._leave_backlog(store, flow)

    @staticmethod
    def _suspect_of_outage(store: Store, flow: _Flow, entry_id: int) -> None:
        """An entry that began an outage twice may be what the server cannot take: it alone is charged, and put off."""
        if len(flow.took_down) > MOST_SUSPECTED:
            flow.took_down.clear()
        flow.took_down[entry_id] += 1
        if (times := flow.took_down[entry_id]) > 1:
            store.put_off(entry_id, backoff(times - 1, random.random()))

    def _end_trial(self, store: Store, flow: _Flow, is_well: bool) -> None:
        """A server answered, or nothing was said to one: then somebody has to try again."""
        with self._changed:
            flow.has_more = is_well
            flow.next_look = clock() + (0.0 if is_well else POLL)
            self._changed.notify_all()
        if is_well:
            store.end_rest(flow.alias)
            _log("mailer_up", logging.INFO, mailer=flow.alias)
        else:
            store.note_trial(flow.alias, None)

    def _return(self, store: Store, flow: _Flow) -> None:
        """Give back the leases of what was not begun."""
        with self._changed:
            dues = list(flow.queue)
            flow.queue.clear()
            self._back |= {due.id: due.lease for due in dues} | {entry.id: 1 for entry in flow.born}
            flow.born.clear()
            self._let_go(dues)
            self._changed.notify_all()
        self._give_back(store)

    def _give_back(self, store: Store) -> None:
        """What cannot be given back now is the first thing to be done next."""
        store.give_back(self._back)
        self._back.clear()

    def _open_or_return(self, store: Store, flow: _Flow) -> None:
        """Read the row of a mailer before a stream is opened; while it rests or is paused, leases are given back."""
        if self._is_stopping:
            self._return(store, flow)
            self._leave_backlog(store, flow)
            return
        if flow.is_trial:
            return
        if not self._read_row(store, flow):
            self._return(store, flow)

    def _read_row(self, store: Store, flow: _Flow) -> bool:
        """Whether the row of a mailer lets its mail go, and no server was crowded just now."""
        rows = store.mailers([flow.alias])
        row, whole = rows.get(flow.alias), rows.get("")
        is_paused = any(one is not None and one.is_paused for one in (row, whole))
        with self._changed:
            flow.read_at = clock()
            flow.is_paused = is_paused
            flow.is_open = not is_paused and (row is None or row.down_for is None) and clock() >= flow.crowded_until
            if not flow.is_open:
                flow.has_more = False
                flow.next_look = clock() + self._next_look_of(flow, row)
            self._changed.notify_all()
        return flow.is_open

    def _next_look_of(self, flow: _Flow, row: MailerRow | None) -> float:
        usual = POLL if self._for_all else LOOK
        if (left := flow.crowded_until - clock()) > 0:
            return left
        if flow.is_paused or row is None:
            return usual
        return min(60.0, max(0.05, row.rest_left, row.trial_left))

    # Claims ------------------------------------------------------------------------------------------------------

    def _fill(self, store: Store, ledger: Ledger, flow: _Flow) -> None:
        now = clock()
        if self._suspect is not None or flow.is_trial:
            return
        if self._is_leaving:
            self._clearing = None  # nothing is claimed alone any more
        if self._clearing is not None and now >= self._clear_until:  # something hangs, or is slow: later, for longer
            self._clearing = None
            self._clear_for = min(self._clear_for * 2, LONGEST_CLEARING)
            self._clear_from = now + self._clear_for * BETWEEN_CLEARINGS
        if flow.born and flow.room > 0 and self._clearing is None:
            self._claim_born(store, ledger, flow)
        if self._is_leaving:
            return
        if self._clearing is not None:
            if self._clearing == flow.alias and not self._in_hand:
                flow.has_more = self._claim_suspect(store, ledger, flow) > 0  # it may not be the only one
            return
        is_time = flow.next_look <= now
        if not is_time and not (flow.has_more and flow.room >= flow.worth_a_claim):
            return
        if flow.room < 1:
            flow.next_look = now + POLL
            return
        self._look(store, ledger, flow, is_time)

    def _look(self, store: Store, ledger: Ledger, flow: _Flow, is_time: bool) -> None:
        """Claim what is due, if the mailer works and, in a process that stores, no other takes care of it."""
        now = clock()
        if now < flow.crowded_until:
            flow.has_more = False
            flow.next_look = flow.crowded_until
            return
        wait = QUICK if now < flow.quick_until else POLL if self._for_all else LOOK
        if is_time and not self._for_all and not flow.has_more and not flow.has_backlog:
            soonest = store.soonest([flow.alias]).get(flow.alias)
            if soonest is not None and soonest <= 0:
                self._next_sweep = 0.0  # it may have expired
            else:
                flow.next_look = now + (wait if soonest is None else max(0.01, min(wait, soonest + 0.05)))
                return
        if now - flow.read_at >= FRESH or not flow.is_open:
            is_open = self._read_row(store, flow)
            if not is_open:
                self._leave_backlog(store, flow)  # who finds the mailer well may be another
                if not flow.is_paused:
                    self._try_alone(store, ledger, flow)
                return
        if not self._for_all and not self._has_backlog(store, flow):
            flow.has_more = False
            flow.next_look = now + wait
            return
        if not self._has_said:
            self._say_of_others(store)
        room = flow.room
        claimed = self._claim(store, ledger, flow, flow.turns.branches(room), room)
        flow.has_more = claimed > 0
        if flow.has_more:
            flow.next_look = now + POLL
        else:
            soonest = None if self._for_all else store.soonest([flow.alias]).get(flow.alias)
            # Not at once: what is due and was not claimed is locked, or to be claimed alone
            flow.next_look = now + (wait if soonest is None else max(POLL, min(wait, soonest + 0.05)))
            if flow.has_backlog and not self._in_hand:
                self._leave_backlog(store, flow)
            elif flow.has_backlog:
                flow.next_look = now + POLL
        may_clear = now >= self._clear_from or not self._in_hand
        is_alone = not claimed and len(self._flows) == 1  # else there may be mail of another mailer
        if may_clear and (now >= flow.suspect_at or is_alone):
            flow.suspect_at = now + SUSPECT_PAUSE
            if store.has_suspect(flow.alias, grace=self._grace(now)):
                self._clearing, self._clear_until = flow.alias, now + self._clear_for

    def _has_backlog(self, store: Store, flow: _Flow) -> bool:
        if not flow.has_backlog or clock() >= flow.renew_backlog:
            flow.has_backlog = store.hold_backlog(flow.alias, self._who)
            flow.renew_backlog = clock() + RENEW
        return flow.has_backlog

    def _leave_backlog(self, store: Store, flow: _Flow) -> None:
        if flow.has_backlog:
            store.leave_backlog(flow.alias, self._who)
            flow.has_backlog = False

    def _try_alone(self, store: Store, ledger: Ledger, flow: _Flow) -> None:
        """A mailer that was down and has rested is tried with one entry, by one worker."""
        last = store.begin_trial(flow.alias)
        if last is None:
            return
        claimed = self._claim(store, ledger, flow, flow.turns.branches(1), 1, after=last)
        if not claimed:
            claimed = self._claim(store, ledger, flow, flow.turns.branches(1), 1)
        if not claimed:
            self._try_suspect(store, ledger, flow)
        with self._changed:
            tried = flow.queue[0].id if flow.queue else None
            flow.is_trial = flow.is_open = tried is not None
            if tried is None:
                flow.next_look = clock() + (POLL if self._for_all else LOOK)
            self._changed.notify_all()
        if tried is None and not store.soonest([flow.alias]):
            store.end_rest(flow.alias)  # nothing waits for it any more, and nobody knows whether it works
        else:
            store.note_trial(flow.alias, tried)

    def _try_suspect(self, store: Store, ledger: Ledger, flow: _Flow) -> None:
        """There is no other entry to try the mailer with. It is in hand alone, as always."""
        with self._changed:
            if self._in_hand:
                return
            self._clearing, self._clear_until = flow.alias, clock() + CLEARING  # what is handed over waits
        self._claim_suspect(store, ledger, flow)

    def _claim_suspect(self, store: Store, ledger: Ledger, flow: _Flow) -> int:
        """Nothing is in hand, and nothing is taken in beside it."""
        count = self._claim(store, ledger, flow, [(SUSPECTS, 1)], 1)
        with self._changed:
            self._suspect = next(iter(self._in_hand), None)
            self._clearing = None
            self._clear_for = CLEARING
        return count

    def _claim(
        self,
        store: Store,
        ledger: Ledger,
        flow: _Flow,
        branches: Sequence[tuple[int, int]],
        count: int,
        after: int | None = None,
    ) -> int:
        with self._room(flow, count) as (count, dues):
            claimed_at = clock()
            grace = self._grace(claimed_at)
            claimed = store.claim(flow.alias, branches, count, after=after, grace=grace) if count else []
            self.claimed += len(claimed)
            flow.turns.note(one.lane for one in claimed if one.lane != SUSPECTS)
            dues += self._read(ledger, flow, claimed, claimed_at)
        self._tell_ended()
        return len(claimed)

    def _grace(self, now: float) -> float:
        """Seconds for which lapsed leases are still left to their workers."""
        return AWAY if now < self._grace_until else 0.0

    def _claim_born(self, store: Store, ledger: Ledger, flow: _Flow) -> None:
        with self._room(flow, len(flow.born)) as (count, dues):
            entries = [flow.born.popleft() for _ in range(min(count, len(flow.born)))]
            claimed_at = clock()
            try:
                claimed = store.claim_born([entry.id for entry in entries]) if entries else []
            except BaseException:
                flow.born.extendleft(reversed(entries))
                raise
            dues += self._read(ledger, flow, claimed, claimed_at)
        self._tell_ended()

    @contextlib.contextmanager
    def _room(self, flow: _Flow, count: int) -> Iterator[tuple[int, list[Due]]]:
        """Keep room for ``count`` entries, or for as many as there is, while they are claimed and read.

        Gives how many, and a list for what is in hand then. What is handed over meanwhile must not take the room.
        """
        with self._changed:
            count = min(count, flow.room)
            flow.in_hand += count
        dues: list[Due] = []
        try:
            yield count, dues
        finally:
            with self._changed:
                flow.in_hand -= count
                self._take_in(flow, dues)

    def _read(self, ledger: Ledger, flow: _Flow, claimed: Sequence[Claimed], claimed_at: float) -> list[Due]:
        """Read what was claimed. Where that fails nothing of it was begun, and it is given back first of all."""
        try:
            return ledger.take(flow.alias, claimed, claimed_at) if claimed else []
        except BaseException:
            self._back |= {one.id: one.lease for one in claimed}
            raise
        finally:
            self._ended += [(flow.alias, event) for event in ledger.ended]
            ledger.ended.clear()

    def _tell_ended(self) -> None:
        """Once what was claimed beside them is in hand: receivers may be slow, and leases have to be renewed."""
        ended, self._ended = self._ended, []
        for alias, event in ended:
            self._tell(alias, None, event)

    def _say_of_others(self, store: Store) -> None:
        """A copied database, and mailers that these settings do not have: their mail is left alone."""
        self._has_said = True
        for environment in store.due_environments():
            if environment != store.environment:
                _log("other_environment", mail_of=environment, this_one=store.environment)
        known = {*self._site.aliases(), *self._site.others()}
        for alias in store.due_mailers():
            if alias not in known:
                _log("unknown_mailer", mailer=alias)

    # Housekeeping ------------------------------------------------------------------------------------------------

    def _keep_house(self, store: Store) -> None:
        now = clock()
        if now >= self._next_sweep:
            self._next_sweep = now + (SWEEP if self._for_all else HOUSEKEEPING)
            while expired := store.expire(grace=self._grace(now)):
                for entry_id, alias in expired:
                    self._tell(alias, None, MessageExpired(entry_id))
        if now >= self._next_housekeeping:
            with self._changed:
                flows = list(self._flows.values())
            of = {flow.alias: flow.options for flow in flows} | {
                alias: self._site.options(alias) for alias in self._site.others()
            }
            usual = Options()  # of mailers that the settings do not have any more
            of = dict.fromkeys(store.aliases_of_finished(), usual) | of
            steps = [store.purge(its.keep, its.keep_failed, alias=alias) for alias, its in of.items()]
            if not any(step.has_more for step in steps):  # else the next small step follows
                self._next_housekeeping = now + HOUSEKEEPING

    # The timer ---------------------------------------------------------------------------------------------------

    def _renew(self) -> None:
        """Renew leases in time."""
        is_told = False  # that it cannot
        while True:
            with self._changed:
                if self._is_stopping and not self._in_hand:
                    return
                aged = [due for due in self._in_hand.values() if due.begins_by - clock() < LEASE - MARGIN - RENEW]
                if not aged:
                    self._changed.wait(1.0 if self._is_stopping else RENEW / 4 if self._in_hand else None)
                    continue
            before = clock()
            try:
                with self._beside() as store:
                    held = store.renew({due.id: due.lease for due in aged})
            except BaseException as error:
                if not is_told:
                    _log("lease_not_renewed", logging.WARNING, _shown(error))
                is_told = True
                time.sleep(1.0)
                continue
            is_told = False
            with self._changed:
                for due in aged:
                    if due.id in held:
                        due.begins_by = before + LEASE - MARGIN
                    else:
                        due.is_lost = True
                        due.begins_by = float("inf")  # it is not asked for again

    @contextlib.contextmanager
    def _beside(self) -> Iterator[Store]:
        """The connection beside the writer's, for one thread at a time."""
        with self._beside_lock:
            try:
                self._beside_store = self._beside_store or self._site.open()
                yield self._beside_store
            except BaseException:
                _close(self._beside_store)
                self._beside_store = None
                raise


def _shown(error: BaseException) -> Exception:
    """What a log can show: what is no Exception would end more than it should."""
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")


def _close(store: Store | None) -> None:
    if store is not None:
        with contextlib.suppress(Exception):
            store.connection.close()


class _Listener:
    """Tells what comes before a mail at once; what follows it is kept until it is recorded."""

    def __init__(self, site: Site, alias: str) -> None:
        self._site = site
        self._alias = alias

    def __call__(self, event: Any) -> None:
        if not isinstance(event, (ServerFailed, MessageSending)):
            event.message.events.append(event)
            return
        try:
            self._site.tell(self._alias, getattr(event, "message", None), event)
        except CancelSend:
            raise
        except BaseException as error:  # it would end the stream of all others
            _log("receiver_failed", logging.ERROR, _shown(error), told=event.name)


def deliver_due(
    site: Site, store: Store, alias: str, deliver: Callable[[Any], Iterator[tuple[Due, Receipt]]] | None = None
) -> int:
    """Deliver all that is due now of one mailer, in this thread and on the connection of ``store``.

    ``deliver`` takes what is in hand and gives it back with receipts; by default that is `Mailer.deliver`. Returns how
    many entries were finished.
    """
    options = site.options(alias)
    send = deliver or _by_smtp(site, alias)  # first, for its settings may be wrong
    rows = store.mailers([alias])
    if any(row.is_paused for row in rows.values()):
        return 0
    ledger = Ledger(store, lambda _: options.retry_in_doubt, _log)
    turns = Turns()
    finished = 0
    while True:
        for entry_id, whose in store.expire():
            site.tell(whose, None, MessageExpired(entry_id))
        claimed_at = clock()
        claimed = store.claim(alias, [*turns.branches(options.window), (SUSPECTS, options.window)], options.window)
        if not claimed:
            return finished
        dues = ledger.take(alias, claimed, claimed_at)
        for event in ledger.ended:
            site.tell(alias, None, event)
        ledger.ended.clear()
        done = [(due, receipt) for due, receipt in send(dues) if receipt is not None]
        recorded = ledger.record(done)
        finished += sum(ledger.change(due, receipt).is_final for due, receipt in done)
        for due, event in recorded.events:
            site.tell(alias, due, event)
        for due in dues:
            due.close()
        if recorded.down:
            site.tell(alias, None, MailerDown(alias, recorded.down[alias]))
            return finished


def _by_smtp(site: Site, alias: str) -> Callable[[Any], Iterator[Any]]:
    mailer = site.mailer(alias)

    def holds(due: Due) -> bool:
        due.is_returned = not clock() < min(due.begins_by, due.expires_at)
        return not due.is_returned

    def send(dues: Any) -> Iterator[Any]:
        return mailer.deliver(iter(dues), prepare=Due.parcel, listeners=[_Listener(site, alias)], holds=holds)

    return send
