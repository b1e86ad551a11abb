"""`Shelf`: which connection is kept, taken and given up; and what a session is told of its wire."""

from __future__ import annotations

import pytest

from smtpbackend import Server
from smtpbackend.delivery.configuration import PoolLimits
from smtpbackend.delivery.inside import Delivery
from smtpbackend.delivery.pooling import (
    CROWDED,
    LOOK,
    NEVER,
    Bucket,
    Connection,
    Shelf,
    client_name,
    new_session,
    next_look,
    turn_ends,
)
from smtpbackend.errors import MailerClosed
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.timeouts import Timeouts

SERVER = Server("mx.example.com", client_name="app.example.org")


def connection(shelf: Shelf[None] | None = None, transactions: int = 0) -> Connection[None]:
    """One that was counted in ``shelf``."""
    session = new_session(SERVER, "host.example.org", "192.0.2.1", "192.0.2.2", None)
    session.history.transactions = transactions
    if shelf is not None:
        shelf.open += 1
    made: Connection[None] = Connection(SERVER, None, session)
    if shelf is not None:
        shelf.used.add(made)
    return made


def test_the_one_idle_for_the_shortest_time_is_taken() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits(max_connections=2))
    first, second = connection(shelf), connection(shelf)
    assert shelf.serve(False, 2) == (None, [], False)
    assert shelf.put(first, 1)
    assert shelf.put(second, 2)
    assert shelf.serve(False, 2) == (second, [], False)
    assert (second.reused, second.heard) == (True, 2)
    assert shelf.serve(False, 2) == (first, [], False)
    assert shelf.serve(False, 2) == (None, [], False)


def test_no_more_than_max_connections_are_opened() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits(max_connections=2))
    assert [shelf.serve(False, 0) for _ in range(3)] == [(None, [], True), (None, [], True), (None, [], False)]
    assert shelf.open == 2


def test_an_idle_one_makes_room_for_a_fresh_one() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits(max_connections=2))
    idle, used = connection(shelf), connection(shelf)
    shelf.put(idle, 0)
    assert shelf.serve(True, 0) == (None, [idle], True)
    assert shelf.serve(True, 0) == (None, [], False)
    assert shelf.open == 2
    assert not used.reused


TIMEOUTS = Timeouts(connect=10, final=300)


@pytest.mark.parametrize(
    ("given_back", "failed", "deadline", "end"),
    [
        (NEVER, NEVER, None, 400),  # nothing came back yet: from the beginning of the wait
        (50, NEVER, None, 400),  # before it
        (250, NEVER, None, 550),
        (5000, NEVER, None, 5300),  # as long as turns advance
        (250, NEVER, 130, 130),
        (250, NEVER, 9000, 550),
        (NEVER, 150, None, 110),  # nobody stands in line for a dead server
        (NEVER, 90, None, 400),  # it was before our time
        (160, 150, None, 460),  # it lives again
        (160, 170, None, 170),
    ],
)
def test_a_wait_for_a_turn_ends(given_back: float, failed: float, deadline: float | None, end: float) -> None:
    """A turn is not a connect: who waits goes on while turns advance."""
    assert turn_ends(100, given_back, failed, TIMEOUTS, deadline) == end


class TestTurns:
    def test_a_connection_that_comes_back_moves_the_end_on(self) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=2))
        kept, broken = connection(shelf), connection(shelf)
        assert shelf.turn_ends(SERVER, 100, None) == 400
        assert shelf.take_back(kept, 150) == (True, True)
        assert shelf.turn_ends(SERVER, 100, None) == 450
        broken.session.end("of a test")
        broken.has_worked = True  # it carried a message, and then the server ended it
        assert shelf.take_back(broken, 160) == (False, True)
        assert shelf.turn_ends(SERVER, 100, None) == 460
        assert (shelf.open, list(shelf.used)) == (1, [])

    def test_one_that_could_not_be_opened_does_not(self) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=2))
        shelf.serve(False, 100)
        shelf.count_out(None, failed=105)
        assert shelf.open == 0
        assert shelf.turn_ends(SERVER, 100, None) == 110

    def test_nor_one_that_was_never_ready(self) -> None:
        """No greeting, a refused login: the next in line would wait as long for nothing."""
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=2))
        silent = connection(shelf)
        silent.session.end("of a test")
        shelf.take_back(silent, 105)
        assert shelf.turn_ends(SERVER, 100, None) == 110

    def test_nor_one_on_which_the_server_fell_silent(self) -> None:
        """Each in its turn would put its message in doubt."""
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=2))
        silent, other = connection(shelf), connection(shelf)
        silent.heard = other.heard = 101
        silent.session.end("of a test")
        shelf.take_back(silent, 390)
        assert shelf.turn_ends(SERVER, 100, None) == 400

    def test_but_a_server_that_works_for_somebody_is_not_dead(self) -> None:
        """Its mails take long, and it refuses one connection more."""
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=2))
        works, refused = connection(shelf), connection(shelf)
        works.heard = 1
        refused.session.end("of a test")
        shelf.take_back(refused, 105)
        assert shelf.turn_ends(SERVER, 100, None) == 400

    @pytest.mark.parametrize(
        ("now", "deadline", "words"),
        [
            (130, 130, ["the deadline passed", "all 1 connections to mx.example.com:587 were in use", "deadline"]),
            (110, None, ["no connection to mx.example.com:587 could be made ready for 10 s"]),
            (400, None, ["none of the 1 connections to mx.example.com:587 was given back for 300 s", "send_many"]),
        ],
    )
    def test_the_error_says_what_happened_and_what_to_set(
        self, now: float, deadline: float | None, words: list[str]
    ) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits())
        connection(shelf)
        error = shelf.no_turn(SERVER, 100, now, deadline)
        assert error.server == SERVER.name
        assert error.is_transient
        for part in ("max_connections", *words):
            assert part in str(error)


class TestBeyondTheLimit:
    """Who sends from inside of a delivery is lent a connection."""

    def test_it_is_counted_as_open_and_takes_nobody_s_place(self) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=1))
        shelf.lend(Delivery(shelf))
        assert shelf.open == 1
        assert shelf.serve(False, 100) == (None, [], True)
        assert shelf.serve(False, 100) == (None, [], False)
        assert shelf.open == 2

    def test_it_is_closed_when_it_comes_back(self) -> None:
        """With QUIT; while that is not answered it is there, and no other is lent."""
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=1))
        lent = connection()
        lent.lender = delivery = Delivery(shelf)
        shelf.lend(delivery)
        shelf.used.add(lent)
        assert delivery.lent == 1
        assert shelf.take_back(lent, 100) == (False, False)
        assert (shelf.open, shelf.beyond, delivery.lent, list(shelf.used)) == (1, 1, 1, [lent])
        shelf.count_out(lent, delivery)
        assert delivery.lent == 0
        assert (shelf.open, shelf.beyond, shelf.idle) == (0, 0, [])

    def test_it_is_counted_out_where_it_could_not_be_opened(self) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=1))
        delivery = Delivery(shelf)
        shelf.lend(delivery)
        shelf.count_out(None, delivery, 100)
        assert (shelf.open, shelf.beyond, delivery.lent) == (0, 0, 0)

    def test_a_server_that_has_too_many_for_it_has_failed(self) -> None:
        """Its sender must not wait: the one in use may be its own."""
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=1))
        connection(shelf)
        lent = connection()
        lent.lender = Delivery(shelf)
        shelf.lend(lent.lender)
        assert shelf.take_back(lent, 100, crowded=True) == (False, False)
        assert shelf.open == 1


class TestCrowd:
    """DESIGN 4.4: "too many connections" waits for one of ours."""

    def test_there_is_one_fewer_for_a_minute(self) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=4))
        *_, last = [connection(shelf) for _ in range(3)]
        assert shelf.take_back(last, 100, crowded=True) == (False, True)
        assert shelf.serve(False, 101) == (None, [], False)
        assert CROWDED == 60
        assert shelf.serve(False, 100 + CROWDED) == (None, [], True)

    def test_each_that_is_told_so_is_one_fewer(self) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=8))
        connections = [connection(shelf) for _ in range(8)]
        for refused in connections[3:]:
            assert shelf.take_back(refused, 100, crowded=True) == (False, True)
            assert not shelf.may_open(101)
        assert shelf.open == 3

    def test_one_is_always_allowed(self) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=4))
        first, second = connection(shelf), connection(shelf)
        assert shelf.take_back(second, 100, crowded=True) == (False, True)
        assert shelf.take_back(first, 100, crowded=True) == (False, False)
        assert shelf.serve(False, 101) == (None, [], True)

    def test_it_is_closed_in_whatever_state_it_is(self) -> None:
        """A server that answers MAIL so may go on listening on it."""
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=4))
        _, told = connection(shelf), connection(shelf)
        assert not told.session.broken
        assert shelf.take_back(told, 100, crowded=True) == (False, True)
        assert shelf.idle == []

    def test_it_says_nothing_against_the_turns_of_others(self) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits(max_connections=4))
        _, told = connection(shelf), connection(shelf)
        shelf.take_back(told, 105, crowded=True)
        assert shelf.turn_ends(SERVER, 100, None) == 400

    def test_without_any_of_ours_there_is_nothing_to_wait_for(self) -> None:
        shelf: Shelf[None] = Shelf(PoolLimits())
        assert shelf.take_back(connection(shelf), 100, crowded=True) == (False, False)
        assert shelf.serve(False, 101) == (None, [], True)


@pytest.mark.parametrize(("rate", "at_once"), [(0.5, 1), (1, 1), (10, 10)])
def test_a_bucket_gives_a_second_s_worth_at_once_and_then_its_rate(rate: float, at_once: int) -> None:
    bucket = Bucket(rate, 0)
    assert [bucket.take(0) for _ in range(at_once)] == [0] * at_once
    assert bucket.take(0) == pytest.approx(1 / rate)
    assert bucket.take(0.4 / rate) == pytest.approx(0.6 / rate)
    assert bucket.take(1 / rate) == 0
    taken = sum(not bucket.take(now / 1000) for now in range(2000, 102_000))
    assert taken == pytest.approx(rate * 100 + at_once, abs=2)


def test_a_broken_or_a_used_up_one_is_not_kept() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits(max_messages=3))
    broken = connection(shelf)
    broken.session.end("of a test")
    assert not shelf.put(broken, 0)
    assert not shelf.put(connection(shelf, 3), 0)
    assert shelf.put(connection(shelf, 2), 0)


def test_those_idle_for_too_long_are_given_up() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits(max_idle=60))
    old, young = connection(shelf), connection(shelf)
    shelf.put(old, 0)
    shelf.put(young, 30)
    assert shelf.serve(False, 61) == (young, [old], False)
    assert shelf.open == 1


def test_they_are_due_at_that_moment_and_not_before() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits(max_idle=60))
    old, young = connection(shelf), connection(shelf)
    shelf.put(old, 0)
    shelf.put(young, 30)
    assert shelf.retire(59.9) == []
    assert shelf.retire(60) == [old]
    assert not old.session.broken  # it is said goodbye to
    assert shelf.retire(60) == []
    assert (shelf.open, shelf.idle) == (1, [young])


def test_one_that_its_server_has_ended_is_given_up_at_once() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits(max_idle=60))
    well, ended = connection(shelf), connection(shelf)
    shelf.put(well, 0)
    shelf.put(ended, 0)
    assert shelf.retire(1, [ended]) == [ended]
    assert ended.session.broken  # nobody is there to say QUIT to
    assert (shelf.open, shelf.idle) == (1, [well])


@pytest.mark.parametrize(
    ("idle", "max_idle", "now", "expected"),
    [
        ([], 60, 100, None),  # nothing is left, and nobody need look
        ([100], 60, 100, 100 + LOOK),  # its server may have ended it by then
        ([100], 60, 159.5, 160),
        ([100, 158], 60, 159.5, 160),
        ([100], 0.25, 100, 100.25),
    ],
)
def test_when_to_look_at_what_is_idle(idle: list[float], max_idle: float, now: float, expected: float | None) -> None:
    shelves: list[Shelf[None]] = [Shelf(PoolLimits(max_idle=max_idle)) for _ in range(2)]
    for since in idle:
        shelves[1].put(connection(shelves[1]), since)
    assert next_look(shelves, now) == expected
    if expected is not None and expected < now + LOOK:
        assert shelves[1].retire(expected), "it is due when one looks again"


def test_while_all_are_in_use_one_looks_again_all_the_same() -> None:
    """Else whoever looks would be called anew for each message."""
    shelf: Shelf[None] = Shelf(PoolLimits())
    used = connection(shelf)
    assert next_look([shelf], 100) == 100 + LOOK
    shelf.count_out(used)
    assert next_look([shelf], 100) is None


def test_and_those_with_something_unread() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits())
    told = connection(shelf)
    told.session.line.replies.feed(b"421 ")
    shelf.put(told, 0)
    assert shelf.serve(False, 0) == (None, [told], True)


def test_emptying_takes_the_idle_and_disowns_those_in_use() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits())
    idle, used = connection(shelf), connection(shelf)
    shelf.put(idle, 0)
    assert shelf.empty() == [idle]
    assert shelf.open == 1
    assert not shelf.put(used, 0)


def test_what_began_before_gets_no_connection_any_more() -> None:
    shelf: Shelf[None] = Shelf(PoolLimits(), generation=3)
    shelf.check(SERVER, 3)
    shelf.empty()
    with pytest.raises(
        MailerClosed, match=r"closed before this delivery had a connection to mx\.example\.com:587"
    ) as caught:
        shelf.check(SERVER, 3)
    assert caught.value.is_transient
    shelf.check(SERVER, 4)


@pytest.mark.parametrize(
    ("hostname", "local", "expected"),
    [
        ("app.example.org", "192.0.2.1", "app.example.org"),
        ("app.example.org.", "192.0.2.1", "app.example.org"),
        ("my_host.example-1.org", "192.0.2.1", "my_host.example-1.org"),
        ("app", "192.0.2.1", "[192.0.2.1]"),
        ("", "192.0.2.1", "[192.0.2.1]"),
        ("büro.example.org", "192.0.2.1", "[192.0.2.1]"),
        ("a b.example.org", "192.0.2.1", "[192.0.2.1]"),
        ("a..example.org", "192.0.2.1", "[192.0.2.1]"),
        ("app", "2001:db8::1", "[IPv6:2001:db8::1]"),
        ("app", "fe80::1%eth0", "[IPv6:fe80::1]"),
        ("app", None, "localhost"),
    ],
)
def test_the_name_behind_ehlo(hostname: str, local: str | None, expected: str) -> None:
    assert client_name(hostname, local) == expected
    Session("mx.example.com:25", expected)  # it can stand there


@pytest.mark.parametrize(
    ("peer", "local_peer"), [("192.0.2.2", False), ("127.0.0.1", True), ("::1", True), (None, True)]
)
def test_a_session_knows_what_its_wire_and_server_say(peer: str | None, local_peer: bool) -> None:
    server = Server("mx.example.com", timeout=5, ignore_extensions="size")  # type: ignore[arg-type]
    session = new_session(server, "app.example.org", "192.0.2.1", peer, None)
    assert session.local_peer is local_peer
    assert session.client_name == "app.example.org"
    assert session.line.timeouts.reply == 5
    assert session.server == "mx.example.com:587"
