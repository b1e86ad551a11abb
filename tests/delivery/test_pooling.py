"""`Shelf`: which connection is kept, taken and given up; and what a session is told of its wire."""

from __future__ import annotations

import pytest

from smtpbackend import Server
from smtpbackend.delivery.configuration import Limits
from smtpbackend.delivery.pooling import CROWDED, Bucket, Connection, Shelf, client_name, new_session
from smtpbackend.protocol.session import Session

SERVER = Server("mx.example.com", client_name="app.example.org")


def connection(shelf: Shelf[None] | None = None, transactions: int = 0) -> Connection[None]:
    """One that was counted in ``shelf``."""
    session = new_session(SERVER, "host.example.org", "192.0.2.1", "192.0.2.2", None)
    session.transactions = transactions
    if shelf is not None:
        shelf.open += 1
    return Connection(SERVER, None, session)


def test_the_one_idle_for_the_shortest_time_is_taken() -> None:
    shelf: Shelf[None] = Shelf(Limits(max_connections=2))
    first, second = connection(shelf), connection(shelf)
    assert shelf.serve(False, 2) == (None, [], False)
    assert shelf.put(first, 1)
    assert shelf.put(second, 2)
    assert shelf.serve(False, 2) == (second, [], False)
    assert (second.reused, second.heard) == (True, 2)
    assert shelf.serve(False, 2) == (first, [], False)
    assert shelf.serve(False, 2) == (None, [], False)


def test_no_more_than_max_connections_are_opened() -> None:
    shelf: Shelf[None] = Shelf(Limits(max_connections=2))
    assert [shelf.serve(False, 0) for _ in range(3)] == [(None, [], True), (None, [], True), (None, [], False)]
    assert shelf.open == 2


def test_an_idle_one_makes_room_for_a_fresh_one() -> None:
    shelf: Shelf[None] = Shelf(Limits(max_connections=2))
    idle, used = connection(shelf), connection(shelf)
    shelf.put(idle, 0)
    assert shelf.serve(True, 0) == (None, [idle], True)
    assert shelf.serve(True, 0) == (None, [], False)
    assert shelf.open == 2
    assert not used.reused


def test_a_server_that_has_too_many_gets_no_more_for_a_while() -> None:
    """DESIGN 4.4: "too many connections" waits for one of ours."""
    shelf: Shelf[None] = Shelf(Limits(max_connections=4))
    connection(shelf), connection(shelf)
    assert shelf.crowd(100)
    assert shelf.serve(False, 101) == (None, [], False)
    assert shelf.serve(False, 100 + CROWDED) == (None, [], True)


def test_without_any_of_ours_there_is_nothing_to_wait_for() -> None:
    shelf: Shelf[None] = Shelf(Limits())
    assert not shelf.crowd(100)
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
    shelf: Shelf[None] = Shelf(Limits(max_messages=3))
    broken = connection(shelf)
    broken.session.broken = True
    assert not shelf.put(broken, 0)
    assert not shelf.put(connection(shelf, 3), 0)
    assert shelf.put(connection(shelf, 2), 0)


def test_those_idle_for_too_long_are_given_up() -> None:
    shelf: Shelf[None] = Shelf(Limits(max_idle=60))
    old, young = connection(shelf), connection(shelf)
    shelf.put(old, 0)
    shelf.put(young, 30)
    assert shelf.serve(False, 61) == (young, [old], False)
    assert shelf.open == 1


def test_and_those_with_something_unread() -> None:
    shelf: Shelf[None] = Shelf(Limits())
    told = connection(shelf)
    told.session._replies.feed(b"421 ")
    shelf.put(told, 0)
    assert shelf.serve(False, 0) == (None, [told], True)


def test_emptying_takes_the_idle_and_disowns_those_in_use() -> None:
    shelf: Shelf[None] = Shelf(Limits())
    idle, used = connection(shelf), connection(shelf)
    shelf.put(idle, 0)
    assert shelf.empty() == [idle]
    assert shelf.open == 1
    assert not shelf.put(used, 0)


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
    assert session.timeouts.reply == 5
    assert session.server == "mx.example.com:587"
