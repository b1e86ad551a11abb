"""The worker: what it claims, sends, records and tells. A scripted server on loopback takes the mail."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from smtpbackend import Mailer, Message
from smtpbackend.adapters import Parcel, stamp
from smtpbackend.outbox import Draft, Entry, Options, Worker, clock, draft
from smtpbackend.outbox.entry import BLOCK
from smtpbackend.outbox.schedule import CROWDED
from smtpbackend.testing import HANG_UP, SILENCE, Play, ScriptedServer, delay
from tests.outbox.lab import Lab, down, letter
from tests.outbox.test_store import sized
from tests.servers.ports import free_ports, wait_until

MakeLab = Callable[..., Lab]
Start = Callable[..., ScriptedServer]


def at(server: ScriptedServer, **options: Any) -> dict[str, Any]:
    return {"servers": [server.url], "rest": 0, **options}


def recipients(server: ScriptedServer) -> list[str]:
    """Everybody whom the server took mail for, each time."""
    return sorted(one.split("<")[1].rstrip(">") for transaction in server.taken for one in transaction.recipients)


def test_what_is_stored_arrives_and_is_erased(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    here.put(letter("ann@example.com"), letter("bob@example.com", "cid@example.com"))
    with here.worker():
        here.wait_for(lambda: not here.pending())
    assert recipients(server) == ["ann@example.com", "bob@example.com", "cid@example.com"]
    assert {state for _, state in here.states()} == {"accepted"}
    assert here.rows("SELECT count(*) FROM smtpbackend_outbox_content")[0][0] == 0
    assert [
        tuple(map(bool, row)) for row in here.rows("SELECT erased, may_have_arrived FROM smtpbackend_outbox_entry")
    ] == [(True, False)] * 2
    assert [name for name, _ in here.told].count("message_sent") == 2


def test_only_who_is_owed_is_tried_again(lab: MakeLab, smtp_server: Start) -> None:
    """One accepted, one 450, one 550: the first gets it once, the second on a later try, the third never."""
    server = smtp_server(
        Play(
            {"RCPT TO:<bob@example.com": ["450 4.2.1 later", "250 now"], "RCPT TO:<cid@example.com": "550 5.1.1 nobody"}
        )
    )
    here = lab(default=at(server))
    here.put(letter("ann@example.com", "bob@example.com", "cid@example.com"))
    with here.worker() as worker:
        here.wait_for(lambda: dict(here.states())["ann@example.com"] == "accepted")
        assert dict(here.states()) == {
            "ann@example.com": "accepted",
            "bob@example.com": "pending",
            "cid@example.com": "rejected",
        }
        here.shift(120)
        worker.wake()
        here.wait_for(lambda: not here.pending())
    assert dict(here.states())["bob@example.com"] == "accepted"
    assert recipients(server) == ["ann@example.com", "bob@example.com"]
    names = [name for name, _ in here.told]
    assert names.count("message_sent") == 2
    assert names.count("recipient_rejected") == names.count("recipient_deferred") == 1
    assert names.count("message_failed") == 0
    assert here.rows("SELECT count(*) FROM smtpbackend_outbox_content")[0][0] == 1, "a retry may be wanted"


def test_temporary_refusals_are_no_failure_until_all_is_over(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server(Play({"RCPT": "450 4.2.1 later"}))
    here = lab(default=at(server))
    here.put(letter())
    with here.worker() as worker:
        here.wait_for(lambda: here.rows("SELECT max(tries) FROM smtpbackend_outbox_due")[0][0] == 1)
        assert "message_failed" not in [name for name, _ in here.told]
        here.shift(4000)
        worker._next_sweep = 0.0
        worker.wake()
        here.wait_for(lambda: not here.pending())
    assert here.states() == [("ann@example.com", "expired")]
    assert [whose for name, whose in here.told if name == "message_expired"] == [(1, "default")]


@pytest.mark.parametrize("login_fails", [False, True])
def test_a_mailer_that_is_down_rests_and_charges_no_entry(lab: MakeLab, smtp_server: Start, login_fails: bool) -> None:
    """The server refuses connections, or the password: every entry would fail alike."""
    if login_fails:
        server = smtp_server(Play({"AUTH": "535 5.7.8 no"}, extensions=("AUTH PLAIN", "PIPELINING")))
        settings: dict[str, Any] = {
            "servers": [{"url": server.url, "username": "ann", "password": "wrong", "allow_cleartext_auth": True}]
        }
    else:
        (port,) = free_ports(1)
        settings = {"servers": [f"smtp://127.0.0.1:{port}?tls=none"]}
    here = lab(default=settings)
    here.put(*[letter() for _ in range(20)])

    def rests_again() -> bool:
        worker.wake()  # each time: a worker that has not yet noted its last rest forgets it
        return here.store.mailers(["default"])["default"].rest_left > 0

    with here.worker() as worker:
        here.wait_for(lambda: down(here.told))
        here.wait_for(lambda: here.store.statistics()[0]["in_hand"] == 0)
        for _ in range(3):
            here.shift(61)
            here.wait_for(rests_again)
    rows = here.rows("SELECT max(tries), max(lapses), max(leased) FROM smtpbackend_outbox_due")
    assert [tuple(row) for row in rows] == [(0, 0, 0)]
    assert down(here.told) == 1
    assert here.pending() == 20
    assert here.store.mailers(["default"])["default"].rest == 40


def test_the_first_success_releases_all_that_is_due(lab: MakeLab, smtp_server: Start) -> None:
    (port,) = free_ports(1)
    here = lab(default={"servers": [f"smtp://127.0.0.1:{port}?tls=none"], "rest": 0})
    here.put(*[letter(f"to{number}@example.com") for number in range(50)])
    with here.worker() as worker:
        here.wait_for(lambda: down(here.told))
        with ScriptedServer(port=port) as server:
            here.shift(61)
            worker.wake()
            here.wait_for(lambda: not here.pending())
            assert len(recipients(server)) == len(set(recipients(server))) == 50
    assert here.store.mailers(["default"])["default"].down_for is None


@pytest.mark.parametrize("name", ["rest", "give_back", "begin_trial", "note_trial", "end_rest", "claim", "record"])
@pytest.mark.parametrize("turn", [1, 3])
def test_a_statement_that_fails_once_stalls_nothing(lab: MakeLab, name: str, turn: int) -> None:
    """Before, amid and after an outage of two mailers. What could not be written is written later, or lapses."""
    ports = free_ports(2)
    here = lab(
        **{
            alias: {"servers": [f"smtp://127.0.0.1:{port}?tls=none"], "rest": 0}
            for alias, port in zip(("default", "news"), ports, strict=True)
        }
    )
    for alias in ("default", "news"):
        drafts = [letter(f"{alias}{number}@example.com", lasts=86400.0) for number in range(10)]
        here.put(*drafts, alias=alias)
    asked: list[str] = []
    open_store = here.open

    def open_failing() -> Any:
        store = open_store()
        statement = getattr(store, name)

        def fail_once(*args: Any, **options: Any) -> Any:
            if name != "give_back" or len(args[0]) > 1:
                asked.append(name)
                if len(asked) == turn:
                    raise RuntimeError("the connection was lost")
            return statement(*args, **options)

        setattr(store, name, fail_once)
        return store

    here.open = open_failing  # type: ignore[method-assign]

    def all_arrive() -> bool:
        here.shift(61)
        worker.wake()
        return not here.pending()

    with here.worker() as worker:
        here.wait_for(lambda: down(here.told) == 2)
        with ScriptedServer(port=ports[0]) as server, ScriptedServer(port=ports[1]) as news:
            here.wait_for(all_arrive)
            assert set(recipients(server)) == {f"default{number}@example.com" for number in range(10)}
            assert set(recipients(news)) == {f"news{number}@example.com" for number in range(10)}
    assert asked
    assert all(row.down_for is None for row in here.store.mailers().values())


def test_a_mailer_that_rests_is_not_open_by_a_look_before(
    lab: MakeLab, smtp_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is read after it failed, and before that is recorded."""
    monkeypatch.setattr("smtpbackend.outbox.worker.FRESH", 1000.0)
    (port,) = free_ports(1)
    here = lab(other=at(smtp_server()), down={"servers": [f"smtp://127.0.0.1:{port}?tls=none"], "rest": 0})
    here.put(letter(), alias="down")  # one alone: each that fails closes the mailer
    open_store = here.open
    asked: list[str] = []

    def open_watched() -> Any:
        store = open_store()
        claim, rest, begin_trial = store.claim, store.rest, store.begin_trial

        def claim_watched(alias: str, *args: Any, **options: Any) -> Any:
            if alias == "other" and "claim" in asked and "rest" not in asked:
                wait_until(lambda: any(name == "server_failed" for name, _ in here.told), 20)
                time.sleep(0.2)  # the receipt follows
            elif alias == "down":
                asked.append("claim")
                worker.wake("other")
            return claim(alias, *args, **options)

        def rest_watched(*args: Any) -> Any:
            asked.append("rest")
            return rest(*args)

        def begin_watched(*args: Any) -> Any:
            asked.append("begin_trial")
            return begin_trial(*args)

        store.claim, store.rest, store.begin_trial = claim_watched, rest_watched, begin_watched
        return store

    here.open = open_watched  # type: ignore[method-assign]
    worker = Worker(here, for_all=True)
    worker.start()
    here.wait_for(lambda: down(here.told))
    here.wait_for(lambda: worker.wake() or asked[-1] != "rest")
    assert worker.stop(20)
    assert asked[asked.index("rest") + 1] == "begin_trial", asked


@pytest.mark.parametrize(("retry_in_doubt", "times"), [(2, 3), (0, 1)])
def test_doubt_is_bounded(lab: MakeLab, smtp_server: Start, retry_in_doubt: int, times: int) -> None:
    """A server that takes the content and always hangs up gets each mail at most 1 + retry_in_doubt times."""
    server = smtp_server(Play({".": HANG_UP}))
    here = lab(default=at(server))
    here.all_options["default"] = Options(retry_in_doubt=retry_in_doubt)
    here.put(letter(lasts=86400.0), letter("bob@example.com", lasts=86400.0))
    with here.worker() as worker:
        for _ in range(6):
            if not here.pending():
                break
            worker.wake()
            here.wait_for(
                lambda: not here.rows("SELECT 1 FROM smtpbackend_outbox_due WHERE next_try <= %s", time.time())
            )
            here.wait_for(lambda: worker.is_idle)
            here.shift(3600)
        here.wait_for(lambda: not here.pending())
    handed_over = [one.recipients for one in server.handed_over]
    assert len(handed_over) == 2 * times
    assert {state for _, state in here.states()} == {"in_doubt"}
    assert all(row[0] for row in here.rows("SELECT may_have_arrived FROM smtpbackend_outbox_entry"))


def test_a_receiver_may_cancel(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    first, _ = here.put(letter("ann@example.com"), letter("bob@example.com"))
    here.cancelled = lambda due: due.id == first.id
    with here.worker():
        here.wait_for(lambda: not here.pending())
    assert here.states() == [("ann@example.com", "cancelled"), ("bob@example.com", "accepted")]
    assert recipients(server) == ["bob@example.com"]


def test_an_entry_that_cannot_be_read_holds_up_nobody(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    entries = here.put(*[letter() for _ in range(4)])
    here.rows("UPDATE smtpbackend_outbox_entry SET envelope = 'no JSON' WHERE id = %s", entries[0].id)
    here.rows("DELETE FROM smtpbackend_outbox_content WHERE entry_id = %s", entries[1].id)
    here.rows("UPDATE smtpbackend_outbox_recipient SET data = '{}' WHERE entry_id = %s", entries[2].id)
    with here.worker():
        here.wait_for(lambda: not here.pending())
    assert [state for _, state in here.states()] == ["failed", "failed", "failed", "accepted"]
    errors = here.rows("SELECT error FROM smtpbackend_outbox_recipient ORDER BY entry_id")
    assert all("cannot be read" in row[0] for row in errors[:3])
    assert {whose for name, whose in here.told if name == "entry_failed"} == {
        (number, "default") for number in (1, 2, 3)
    }


def test_an_entry_that_makes_workers_die_is_set_aside_and_fails(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    (bad,) = here.put(letter("bad@example.com"))
    for lapses in range(1, 7):
        claimed = here.store.claim("default", [(lane, 9) for lane in range(10)], 9)  # and its worker dies
        here.rows("UPDATE smtpbackend_outbox_due SET next_try = next_try - 61")
        if lapses > 1:
            assert claimed[0].lapses == lapses - 1
    here.put(letter("good@example.com"))
    with here.worker():
        here.wait_for(lambda: not here.pending())
    assert dict(here.states()) == {"bad@example.com": "failed", "good@example.com": "accepted"}
    assert here.states(bad.id) == [("bad@example.com", "failed")]
    assert [whose for name, whose in here.told if name == "entry_failed"] == [(bad.id, "default")]
    assert recipients(server) == ["good@example.com"]


def in_hand(here: Lab) -> int:
    return int(here.rows("SELECT count(*) FROM smtpbackend_outbox_due WHERE leased <> 0")[0][0])


def test_a_suspect_is_claimed_alone_and_arrives(lab: MakeLab, smtp_server: Start) -> None:
    beside: list[int] = []

    def rcpt(line: str) -> str:
        beside.append(in_hand(here))
        return "250 2.1.5 OK"

    server = smtp_server(Play({"RCPT TO:<bad@example.com": rcpt}))
    here = lab(default=at(server))
    here.put(letter("bad@example.com"))
    for _ in range(3):
        here.store.claim("default", [(lane, 9) for lane in range(10)], 9)
        here.rows("UPDATE smtpbackend_outbox_due SET next_try = next_try - 61")
    here.put(*[letter("good@example.com") for _ in range(40)])
    with here.worker():
        wait_until(lambda: len(server.taken) == 41, 20)  # the connection of the test is that of the server now
    assert beside == [1]
    assert here.pending() == 0
    assert len(recipients(server)) == 41
    told = here.rows("SELECT may_have_arrived FROM smtpbackend_outbox_entry ORDER BY id")
    assert [bool(row[0]) for row in told] == [True] + [False] * 40


def test_a_suspect_does_not_wait_for_all_that_a_slow_server_is_owed(
    lab: MakeLab, smtp_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in hand takes it longer than the first clearing lasts."""
    monkeypatch.setattr("smtpbackend.outbox.worker.CLEARING", 0.1)
    monkeypatch.setattr("smtpbackend.outbox.worker.BETWEEN_CLEARINGS", 1)
    server = smtp_server(Play({".": (delay(0.02), "250 2.0.0 taken")}))
    here = lab(default=at(server))
    here.all_options["default"] = Options(window=8, connections=1)
    (its,) = here.put(letter("bad@example.com"))
    here.rows("UPDATE smtpbackend_outbox_due SET lane = 9, lapses = 2")
    here.put(*[letter("good@example.com") for _ in range(300)])
    with here.worker():
        here.wait_for(lambda: here.states(its.id)[0][1] == "accepted")
        assert here.pending() > 100


def test_a_suspect_goes_as_soon_as_what_hung_has_ended(
    lab: MakeLab, smtp_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it is until others are held up for it again."""
    monkeypatch.setattr("smtpbackend.outbox.worker.CLEARING", 0.1)
    monkeypatch.setattr("smtpbackend.outbox.worker.BETWEEN_CLEARINGS", 10_000)
    begun = threading.Event()
    server = smtp_server(Play({"RCPT TO:<slow@": lambda _: begun.set() or (delay(3.0), "250 2.1.5 OK")}))
    here = lab(default=at(server))
    here.put(letter("slow@example.com"))
    with here.worker() as worker:
        assert begun.wait(20)
        (its,) = here.put(letter("bad@example.com"))
        here.rows("UPDATE smtpbackend_outbox_due SET lane = 9, lapses = 2 WHERE entry_id = %s", its.id)
        worker.wake()
        here.wait_for(lambda: not here.pending())
    assert recipients(server) == ["bad@example.com", "slow@example.com"]


def test_a_suspect_does_not_wait_for_the_end_of_what_a_process_stores(
    lab: MakeLab, smtp_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mail comes faster than the server takes it: something is in hand at any time, unless that waits."""
    monkeypatch.setattr("smtpbackend.outbox.worker.CLEARING", 30.0)
    server = smtp_server(Play({".": (delay(0.3), "250 2.0.0 taken")}))
    here = lab(default=at(server))
    (its,) = here.put(letter("bad@example.com"))
    here.rows("UPDATE smtpbackend_outbox_due SET lane = 9, lapses = 2")
    worker = Worker(here)

    def is_settled() -> bool:
        one = letter()
        (stored,) = here.put(one, born_leased=1)
        worker.hand_over([Entry(stored.id, "default", one, 3, clock(), time.time())])
        time.sleep(0.1)
        return here.states(its.id)[0][1] == "accepted"

    is_settled()  # so that there is something in hand when it starts
    worker.start()
    here.wait_for(is_settled)
    here.wait_for(lambda: here.pending() == 0)
    assert worker.stop(20)


def test_suspects_of_one_mailer_hold_up_no_other(lab: MakeLab, smtp_server: Start) -> None:
    """One goes, and then the mail of the others."""
    order: list[str] = []
    server = smtp_server(Play({"RCPT": lambda line: order.append(line) or "250 2.1.5 OK"}))
    here = lab(bad=at(server), good=at(server))
    here.put(*[letter("bad@example.com") for _ in range(6)], alias="bad")
    here.rows("UPDATE smtpbackend_outbox_due SET lane = 9, lapses = 2")
    here.put(*[letter("good@example.com") for _ in range(6)], alias="good")
    with here.worker():
        here.wait_for(lambda: here.pending() == 0)
    assert all("good" in one for one in order[1:7]), order


def test_newer_entries_and_unknown_mailers_are_left_alone(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    (newer,) = here.put(letter("new@example.com"))
    here.rows("UPDATE smtpbackend_outbox_due SET version = 99")
    here.put(letter("other@example.com"), alias="gone")
    here.put(letter("ann@example.com"))
    with here.worker():
        here.wait_for(lambda: here.pending() == 2)
    assert recipients(server) == ["ann@example.com"]
    assert here.states(newer.id) == [("new@example.com", "pending")]


def test_a_pause_holds_and_its_end_releases(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    here.store.pause("", True)
    here.put(letter())
    with here.worker() as worker:
        worker.wake()
        here.wait_for(lambda: worker.is_idle)
        assert server.connections == 0
        here.store.pause("", False)
        worker.wake()
        here.wait_for(lambda: not here.pending())
    assert recipients(server) == ["ann@example.com"]


def test_a_stop_gives_back_what_was_not_begun(lab: MakeLab, smtp_server: Start) -> None:
    """Nothing is stranded: no lease is left, no try and no lapse is counted, and another worker goes on at once."""
    server = smtp_server()
    here = lab(default=at(server))
    here.put(*[letter(f"to{number}@example.com") for number in range(200)])
    with here.worker():
        here.wait_for(lambda: server.taken)
    rows = here.rows("SELECT max(leased), max(tries), max(lapses) FROM smtpbackend_outbox_due")
    assert [tuple(row) for row in rows] in ([(0, 0, 0)], [(None, None, None)])
    assert len(recipients(server)) + here.pending() == 200
    with here.worker():
        here.wait_for(lambda: not here.pending())
    assert len(recipients(server)) == len(set(recipients(server))) == 200


def test_an_entry_of_many_recipients_goes_in_parts(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server(Play({"RCPT TO:<to7@example.com>": ["450 later", "250 now"]}))
    here = lab(default=at(server))
    everybody = [f"to{number}@example.com" for number in range(250)]
    here.put(letter(*everybody))
    with here.worker() as worker:
        here.wait_for(lambda: len(recipients(server)) >= 249)
        here.wait_for(lambda: worker.is_idle)
        here.shift(120)
        worker.wake()
        here.wait_for(lambda: not here.pending())
    assert recipients(server) == sorted(everybody)
    assert max(len(one.recipients) for one in server.taken) <= 100


def test_no_more_than_a_window_is_in_hand(lab: MakeLab, smtp_server: Start) -> None:
    most: list[int] = []
    looking = threading.Lock()

    def content(line: str) -> str:
        with looking:
            most.append(in_hand(here))
        return "250 2.0.0 taken"

    server = smtp_server(Play({".": content}))
    here = lab(default=at(server))
    here.all_options["default"] = Options(window=8, connections=4)
    here.put(*[letter() for _ in range(100)])
    with here.worker():
        wait_until(lambda: len(server.taken) == 100, 20)
    assert max(most) <= 8
    assert here.pending() == 0
    assert len(recipients(server)) == 100


def test_eight_workers_send_each_mail_once(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    here.put(*[letter(f"to{number}@example.com") for number in range(300)])
    workers = [Worker(here, for_all=True) for _ in range(8)]
    for worker in workers:
        worker.start()
    here.wait_for(lambda: not here.pending())
    assert all(worker.stop() for worker in workers)
    assert len(recipients(server)) == len(set(recipients(server))) == 300


def test_a_large_content_is_no_load(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    here.put(letter(text="0123456789abcdef" * 60_000 + "\n"))
    with here.worker():
        here.wait_for(lambda: not here.pending())
    assert len(server.taken) == 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("for_all", [True, False], ids=["run", "process"])
def test_three_hours_without_a_server_cost_few_connects_and_no_try(
    lab: MakeLab, smtp_server: Start, for_all: bool
) -> None:
    """Eight workers; the mail server answers 421. Then it is back: what is high goes first, and all arrives once."""
    greetings = ["421 4.3.2 closed"]
    order: list[str] = []

    def rcpt(line: str) -> str:
        order.append(line.split("<")[1].split(">")[0])
        return "250 2.1.5 OK"

    server = smtp_server(Play({"": lambda _: greetings[0], "RCPT": rcpt}))
    here = lab(default=at(server))
    here.all_options["default"] = Options(window=4)
    here.put(*[letter(f"low{number}@example.com", priority="low", lasts=86400.0) for number in range(100)])
    here.put(*[letter(f"high{number}@example.com", priority="high", lasts=86400.0) for number in range(100)])
    workers = [Worker(here, for_all=for_all) for _ in range(8)]
    for worker in workers:
        worker.start()

    def rests() -> bool:
        row = here.store.mailers(["default"]).get("default")
        return row is not None and row.rest_left > 0

    here.wait_for(rests)
    for _ in range(180):
        here.shift(60)
        for worker in workers:
            worker.wake()
        here.wait_for(rests)
    connects = server.connections
    rows = here.rows("SELECT max(tries), max(lapses), count(*) FROM smtpbackend_outbox_due")
    assert [tuple(row) for row in rows] == [(0, 0, 200)]
    assert down(here.told) == 1
    print(f"{connects} connects in three hours")
    assert connects < 250
    greetings[0] = "220 mx.example.com"
    here.shift(60)
    for worker in workers:
        worker.wake()
    here.wait_for(lambda: not here.pending())
    assert all(worker.stop() for worker in workers)
    assert len(order) == len(set(order)) == 200
    assert not [name for name in order[150:] if name.startswith("high")], "high priority waited behind low"


class Apart:
    """The site of another process: a Mailer of its own."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._mailer = Mailer(**lab.settings["default"])

    def mailer(self, alias: str) -> Mailer:
        return self._mailer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lab, name)


@pytest.mark.parametrize("for_all", [True, False], ids=["run", "process"])
def test_a_server_that_takes_no_more_connections_is_not_down(lab: MakeLab, smtp_server: Start, for_all: bool) -> None:
    """It takes one at a time, which is open. Who gets 421 gives its mail back, and does not ask at each mail."""
    refused: list[float] = []

    def greet(_: str) -> str:
        if server.open_connections == 1:
            return "220 mx.example.com"
        refused.append(clock())
        return "421 4.7.0 too many connections"

    server = smtp_server(Play({"": greet}))
    here = lab(default=at(server))
    here.put(letter())
    with here.worker(for_all=for_all):
        here.wait_for(lambda: not here.pending())
    here.rows("UPDATE smtpbackend_outbox_entry SET finished = finished + 1000")  # "just now", however slow this is
    here.put(*[letter() for _ in range(20)])
    site = Apart(here)
    other = Worker(site, for_all=for_all)  # type: ignore[arg-type]
    other.start()
    here.wait_for(lambda: refused)
    for _ in range(10):
        other.wake()
        here.wait_for(lambda: other.is_idle)
    assert here.pending() == 20
    with here.worker(for_all=for_all):
        here.wait_for(lambda: not here.pending())
    assert all(later - before >= CROWDED for before, later in itertools.pairwise(refused))
    assert not down(here.told)
    assert all(row.down_for is None for row in here.store.mailers().values())
    assert other.stop()
    site.mailer("default").close()


def test_what_cannot_be_recorded_is_kept_and_nothing_more_begins(lab: MakeLab, smtp_server: Start) -> None:
    """A full disk: the outcomes are written when there is room again, and no mail goes twice."""
    server = smtp_server()
    here = lab(default=at(server))
    here.all_options["default"] = Options(window=8)
    here.put(*[letter(f"to{number}@example.com") for number in range(60)])
    table = "smtpbackend_outbox_recipient"
    if here.dialect == "sqlite":
        full = (
            f"CREATE TRIGGER disk BEFORE UPDATE ON {table} BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
        room = "DROP TRIGGER disk"
    else:
        here.rows(
            "CREATE FUNCTION disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'could not extend file'; END $$"
        )
        full = f"CREATE TRIGGER disk BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION disk()"
        room = f"DROP TRIGGER disk ON {table}"
    here.rows(full)
    with here.worker() as worker:
        here.wait_for(lambda: worker._is_away)
        here.wait_for(lambda: len(worker._done) == len(worker._in_hand) - sum(map(len, queues(worker))))
        assert len(server.taken) <= 8
        assert here.pending() == 60
        here.rows(room)
        here.wait_for(lambda: not here.pending())
    assert len(recipients(server)) == len(set(recipients(server))) == 60


def queues(worker: Worker) -> list[Any]:
    return [flow.queue for flow in worker._flows.values()]


@pytest.mark.parametrize("whole", [True, False])
def test_a_pause_holds_while_the_mailer_is_down(lab: MakeLab, smtp_server: Start, whole: bool) -> None:
    """A dump that is taken during an outage sends nothing behind `outbox hold`."""
    server = smtp_server()
    here = lab(default=at(server))
    here.put(letter(), letter())
    here.store.rest("default", lambda last: 5.0, "down")
    here.store.pause("" if whole else "default", True)
    here.shift(6)
    with here.worker() as worker:
        for _ in range(3):
            worker.wake()
            here.wait_for(lambda: worker.is_idle)
        assert server.connections == 0
        here.store.pause("" if whole else "default", False)
        worker.wake()
        here.wait_for(lambda: not here.pending())


def test_one_mail_that_the_server_cannot_take_does_not_stop_the_others(lab: MakeLab, smtp_server: Start) -> None:
    """The server hangs up at its MAIL: that looks as if the server were down, until it happens again."""
    server = smtp_server(Play({"MAIL FROM:<bad@example.com": HANG_UP}))
    here = lab(default=at(server))
    bad = Message(subject="Bad", from_="bad@example.com", to=["poison@example.com"], text="Text")
    here.put(draft(Parcel.of(bad), stamp, time.time(), lasts=86400.0), *[letter(lasts=86400.0) for _ in range(20)])
    with here.worker() as worker:
        for _ in range(12):
            here.wait_for(lambda: worker.is_idle)
            here.shift(6)
            worker.wake()
        here.wait_for(lambda: here.pending() == 1)
    assert here.rows("SELECT max(tries) FROM smtpbackend_outbox_due")[0][0] > 0
    assert len(recipients(server)) == 20


def test_a_hung_message_holds_up_no_other_connection(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server(Play({".": SILENCE}), Play())
    here = lab(default=at(server))
    here.all_options["default"] = Options(connections=2)
    here.put(letter("slow@example.com"))
    with here.worker() as worker:
        here.wait_for(lambda: server.handed_over)
        here.put(letter("ann@example.com"))
        worker.wake()
        here.wait_for(lambda: here.pending() == 1)
        server.cut()
    assert "ann@example.com" in recipients(server)


@pytest.mark.parametrize("name", ["message_sending", "message_sent"])
def test_a_receiver_that_raises_what_is_no_exception_ends_no_thread(
    lab: MakeLab, smtp_server: Start, name: str
) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    here.raising = name
    here.put(*[letter(f"to{number}@example.com") for number in range(20)])
    with here.worker():
        here.wait_for(lambda: not here.pending())
    assert len(set(recipients(server))) == len(recipients(server)) == 20


def test_an_expired_suspect_spins_nothing(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    here.put(letter())
    here.rows("UPDATE smtpbackend_outbox_due SET lane = 9, expires = 1")
    with here.worker() as worker:
        here.wait_for(lambda: worker.is_idle)
        here.wait_for(lambda: not here.pending())
    assert here.states() == [("ann@example.com", "expired")]


def test_a_slow_server_holds_up_no_other_mailers_mail(lab: MakeLab, smtp_server: Start) -> None:
    slow, quick = smtp_server(Play({".": SILENCE})), smtp_server()
    here = lab(default=at(slow), other=at(quick))
    here.put(letter("slow@example.com"))
    with here.worker() as worker:
        here.wait_for(lambda: slow.handed_over)
        here.put(*[letter(f"to{number}@example.com") for number in range(50)], alias="other")
        worker.wake()
        here.wait_for(lambda: len(quick.taken) == 50)
        slow.cut()


def test_nobody_who_stores_waits_for_a_connection_that_is_closed(lab: MakeLab, smtp_server: Start) -> None:
    """The database hangs as the idle worker closes its connection; a request asks for room meanwhile."""
    here = lab(default=at(smtp_server()))
    closing, may_end = threading.Event(), threading.Event()

    open_store = here.open

    def open_slowly() -> Any:
        store = open_store()
        close = store.connection.close

        def close_slowly() -> None:
            closing.set()
            may_end.wait(20)
            close()

        store.connection.close = close_slowly  # type: ignore[method-assign]
        return store

    here.open = open_slowly  # type: ignore[method-assign]
    worker = Worker(here)
    worker.start()
    assert closing.wait(20)
    asked = threading.Thread(target=worker.room, args=("default",))
    asked.start()
    asked.join(5)
    is_stuck = asked.is_alive()
    may_end.set()
    asked.join()
    assert worker.stop(20)
    assert not is_stuck, "a request waited for the database"


def test_what_is_stored_during_a_trial_waits_for_it(lab: MakeLab, smtp_server: Start) -> None:
    """A mailer that was down is tried with one entry, and not with those that come meanwhile."""
    server = smtp_server(Play({"MAIL": SILENCE}))
    here = lab(default=at(server, timeout=1.0))
    here.put(letter("first@example.com"))
    here.store.rest("default", lambda last: 5.0, "down")
    here.shift(6)
    with here.worker(for_all=False) as worker:
        here.wait_for(lambda: server.commands)
        assert worker.room("default") == 0


@pytest.mark.parametrize("of_born", [True, False], ids=["born", "others"])
def test_what_is_handed_over_during_a_claim_takes_no_room_of_it(
    lab: MakeLab, smtp_server: Start, of_born: bool
) -> None:
    """Both together are never more than a window: a kill would repeat more than is promised."""
    server = smtp_server(Play({"MAIL": SILENCE}))
    here = lab(default=at(server))
    here.all_options["default"] = Options(window=8)
    most: list[int] = []
    web = here.open()

    def entries(drafts: list[Draft]) -> list[Entry]:
        stored = web.enqueue(drafts, "default", 5, 0, len(drafts))
        return [Entry(its.id, "default", one, 3, clock(), time.time()) for its, one in zip(stored, drafts, strict=True)]

    open_store = here.open

    def open_watched() -> Any:
        store = open_store()
        name = "claim_born" if of_born else "claim"
        claim = getattr(store, name)

        def claim_slowly(*args: Any, **options: Any) -> Any:
            claimed = claim(*args, **options)
            worker.hand_over(entries([letter() for _ in range(8)]))
            most.append(len(worker._in_hand) + len(claimed))
            return claimed

        setattr(store, name, claim_slowly)
        return store

    first = [] if of_born else [letter() for _ in range(8)]
    here.put(*first)
    large = entries([sized(2 * BLOCK) for _ in range(8)] if of_born else [])
    here.open = open_watched  # type: ignore[method-assign]
    worker = Worker(here)
    worker.hand_over(large)  # those are read anew
    worker.start()
    here.wait_for(lambda: most)
    server.cut()
    worker.stop(20)
    web.connection.close()
    assert max(most) <= 8


# What a mailer that is down, paused or idle leaves


def test_threads_that_called_receivers_tidy_up(lab: MakeLab, smtp_server: Start) -> None:
    """Those of connections too: what a receiver of `message_sending` opened would stay open as long as the process."""
    here = lab(default=at(smtp_server()))
    with here.worker():
        here.put(letter())
        here.wait_for(lambda: not here.pending())
        here.wait_for(lambda: any(name.startswith("smtpbackend-outbox-default") for name in here.idled))


def test_a_pause_stops_a_process_that_is_busy(lab: MakeLab, smtp_server: Start) -> None:
    """Also one that delivers what it stores, while another looks after what is due."""
    server = smtp_server(Play({".": (delay(0.2), "250 2.0.0 OK")}))
    here = lab(default=at(server))
    drafts = [letter(f"to{number}@example.com") for number in range(60)]
    assert here.store.hold_backlog("default", "another")
    with here.worker(for_all=False) as worker:
        room = worker.room("default")
        stored = here.put(*drafts, born_leased=room)
        now = clock()
        worker.hand_over(
            [
                Entry(one.id, "default", its, 3, now, time.time())
                for one, its in zip(stored[:room], drafts, strict=False)
            ]
        )
        here.wait_for(lambda: server.taken)
        here.store.pause("default", True)
        here.wait_for(lambda: not here.rows("SELECT 1 FROM smtpbackend_outbox_due WHERE leased <> 0"))
    assert len(server.taken) < room
    assert len(server.taken) + here.pending() == len(drafts)


def test_a_mailer_with_nothing_but_a_suspect_is_tried_with_it(lab: MakeLab, smtp_server: Start) -> None:
    server = smtp_server()
    here = lab(default=at(server))
    (its,) = here.put(letter())
    here.rows("UPDATE smtpbackend_outbox_due SET lane = 9, lapses = 2")
    here.store.rest("default", lambda _: 5.0, "it was down", its.id)
    with here.worker() as worker:
        here.shift(61)
        worker.wake()
        here.wait_for(lambda: not here.pending())
    assert recipients(server) == ["ann@example.com"]
    assert here.store.mailers()["default"].down_for is None


def test_a_mailer_that_nobody_waits_for_is_down_no_more(lab: MakeLab) -> None:
    """What was due is cancelled: it is not known whether it works, and the next outage is told anew."""
    (port,) = free_ports(1)
    here = lab(default={"servers": [f"smtp://127.0.0.1:{port}?tls=none"], "rest": 0})
    (its,) = here.put(letter())
    with here.worker() as worker:
        here.wait_for(lambda: down(here.told) == 1)
        here.wait_for(lambda: here.store.cancel([its.id])[its.id] == [("ann@example.com", "cancelled")])
        here.shift(61)
        worker.wake()
        here.wait_for(lambda: here.store.mailers()["default"].down_for is None)
        here.put(letter("bob@example.com"))
        worker.wake()
        here.wait_for(lambda: down(here.told) == 2)


def test_a_look_that_fails_charges_nothing(lab: MakeLab, smtp_server: Start) -> None:
    """SQLite is asked for the number of each lease, and may be locked: nothing was begun."""
    here = lab(default=at(smtp_server()))
    if here.dialect != "sqlite":
        return
    open_store, failed = here.open, []

    def open_failing() -> Any:
        store = open_store()
        holds = store.holds

        def fail_once(*args: Any) -> bool:
            if not failed:
                failed.append(args)
                raise RuntimeError("database is locked")
            return holds(*args)

        store.holds = fail_once  # type: ignore[method-assign]
        return store

    here.open = open_failing  # type: ignore[method-assign]
    here.put(letter())
    with here.worker():
        here.wait_for(lambda: not here.pending())
    assert failed
    assert [
        tuple(map(bool, row)) for row in here.rows("SELECT may_have_arrived, erased FROM smtpbackend_outbox_entry")
    ] == [(False, True)]


def test_mail_for_soon_does_not_wait_for_the_next_look(lab: MakeLab, smtp_server: Start) -> None:
    """A process that delivers what it stores looks each 30 s; what is due before that is known."""
    here = lab(default=at(smtp_server()))
    with here.worker(for_all=False) as worker:
        here.put(letter())
        worker.wake()
        here.wait_for(lambda: not here.pending())
        here.put(letter(send_at=datetime.now(UTC) + timedelta(seconds=4)))
        worker.wake()
        here.wait_for(lambda: not here.pending())


def test_mail_of_others_is_left_to_them(
    lab: MakeLab, smtp_server: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of an outbox which `outbox run` alone delivers, in the worker of a process: its mailer is known here."""
    server = smtp_server()
    here = lab(default=at(server), news=at(server))
    monkeypatch.setattr(here, "aliases", lambda: ["default"])
    monkeypatch.setattr(here, "others", lambda: ["news"])
    here.put(letter("bob@example.com"), alias="news")
    here.put(letter("ann@example.com"))
    with here.worker(for_all=False):
        here.wait_for(lambda: server.taken)
        here.wait_for(lambda: here.pending() == 1)
    assert recipients(server) == ["ann@example.com"]
    assert "unknown_mailer" not in caplog.text


def test_a_stop_without_a_database_waits_between_its_tries(lab: MakeLab, smtp_server: Start) -> None:
    here = lab(default=at(smtp_server()))
    open_store = here.open
    tries: list[float] = []

    def refuse() -> Any:
        tries.append(clock())
        raise RuntimeError("the database is away")

    here.open = refuse  # type: ignore[method-assign]
    worker = Worker(here)
    worker.hand_over([Entry(1, "default", sized(2 * BLOCK), 3, clock(), time.time())])
    worker.start()
    here.wait_for(lambda: tries)
    assert not worker.stop(3)
    here.open = open_store  # type: ignore[method-assign]
    assert worker.stop(20)
    assert len(tries) < 10


def test_a_stop_with_nothing_in_hand_does_not_wait_for_the_next_try(lab: MakeLab, smtp_server: Start) -> None:
    """The try that fails is under way as the stop comes; the pause behind it is 4 s."""
    here = lab(default=at(smtp_server()))
    here.put(letter())
    tries = itertools.count(1)
    is_fourth, is_stopping = threading.Event(), threading.Event()

    def refuse() -> Any:
        if next(tries) == 4:
            is_fourth.set()
            assert is_stopping.wait(20)
        raise RuntimeError("the database is away")

    here.open = refuse  # type: ignore[method-assign]
    worker = Worker(here)
    worker.start()
    assert is_fourth.wait(20)
    assert not worker.stop(0)
    is_stopping.set()
    assert worker.stop(2)


def test_the_backlog_is_left_while_the_mailer_rests(lab: MakeLab) -> None:
    """Who finds it well again delivers what is due: the last one who did may look a minute later."""
    (port,) = free_ports(1)
    here = lab(default={"servers": [f"smtp://127.0.0.1:{port}?tls=none"], "rest": 0})
    here.put(letter())
    with here.worker(for_all=False):
        here.wait_for(lambda: down(here.told))
        here.wait_for(lambda: here.store.hold_backlog("default", "another"))
