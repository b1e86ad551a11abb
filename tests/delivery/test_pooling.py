"""`Shelf`: which connection is kept, taken and given up; and what a session is told of its wire."""

from __future__ import annotations

import pytest

from smtpbackend import Server
from smtpbackend.delivery.configuration import Limits
from smtpbackend.delivery.pooling import Connection, Shelf, client_name, new_session
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
    shelf: Shelf[None] = Shelf(Limits())
    first, second = connection(shelf), connection(shelf)
    assert shelf.take() is None
    assert shelf.put(first, 1)
    assert shelf.put(second, 2)
    assert shelf.take() is second
    assert shelf.take() is first
    assert shelf.take() is None


def test_no_more_than_max_connections_are_opened() -> None:
    shelf: Shelf[None] = Shelf(Limits(max_connections=2))
    assert shelf.may_open()
    connection(shelf), connection(shelf)
    assert not shelf.may_open()


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
    assert shelf.expired(60) == []
    assert shelf.expired(61) == [old]
    assert shelf.idle == [young]


def test_and_those_with_something_unread() -> None:
    shelf: Shelf[None] = Shelf(Limits())
    told = connection(shelf)
    told.session._replies.feed(b"421 ")
    shelf.put(told, 0)
    assert shelf.expired(0) == [told]


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
