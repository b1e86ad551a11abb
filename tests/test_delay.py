"""The delay proxy of the benchmarks: nothing is lost or reordered, and turns are counted exactly."""

from __future__ import annotations

import smtplib
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from benchmarks.lab.delay import DelayProxy
from benchmarks.lab.stamps import MARK, StampingProxy
from smtpbackend.testing import ScriptedServer

ROUND_TRIP = 0.02


@pytest.fixture
def ends() -> Iterator[tuple[DelayProxy, socket.socket, socket.socket]]:
    """A proxy, and the ends of a connection through it: the client's and the server's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        DelayProxy("127.0.0.1", listening.getsockname()[1], ROUND_TRIP) as proxy,
        socket.create_connection((proxy.host, proxy.port)) as client,
    ):
        server, _ = listening.accept()
        with server:
            for sock in (client, server):
                sock.settimeout(10)
            yield proxy, client, server


def heard(sock: socket.socket, octets: int) -> bytes:
    data = b""
    while len(data) < octets:
        piece = sock.recv(octets - len(data))
        assert piece
        data += piece
    return data


def test_a_turn_is_a_change_from_client_to_server(ends: tuple[DelayProxy, socket.socket, socket.socket]) -> None:
    """However many pieces each of them speaks in."""
    proxy, client, server = ends
    server.sendall(b"220 hello\r\n")
    assert heard(client, 11) == b"220 hello\r\n"
    assert proxy.turns == 0
    for number in range(1, 4):
        for piece in (b"one\r\n", b"two\r\n", b"three\r\n"):
            client.sendall(piece)
        assert heard(server, 17) == b"one\r\ntwo\r\nthree\r\n"
        for piece in (b"250 1\r\n", b"250 2\r\n"):
            server.sendall(piece)
        assert heard(client, 14) == b"250 1\r\n250 2\r\n"
        assert (proxy.turns, proxy.rounds) == (number, number)
    client.sendall(b"four\r\n")
    assert heard(server, 6) == b"four\r\n"
    assert proxy.turns == 3  # it has not been answered
    proxy.forget()
    assert (proxy.turns, proxy.rounds) == (0, 0)


def test_it_takes_a_round_trip_and_keeps_the_order(ends: tuple[DelayProxy, socket.socket, socket.socket]) -> None:
    _, client, server = ends
    said = b"".join(b"%d\r\n" % number for number in range(50_000))
    start = time.monotonic()
    client.sendall(said)
    assert heard(server, len(said)) == said
    assert time.monotonic() - start >= ROUND_TRIP / 2
    server.sendall(said)
    assert heard(client, len(said)) == said
    assert time.monotonic() - start >= ROUND_TRIP


def test_the_end_of_each_direction_arrives(ends: tuple[DelayProxy, socket.socket, socket.socket]) -> None:
    _, client, server = ends
    client.sendall(b"QUIT\r\n")
    client.shutdown(socket.SHUT_WR)
    assert heard(server, 6) == b"QUIT\r\n"
    assert server.recv(10) == b""
    server.sendall(b"221 bye\r\n")
    server.shutdown(socket.SHUT_WR)
    assert heard(client, 9) == b"221 bye\r\n"
    assert client.recv(10) == b""


@pytest.mark.parametrize(("recipients", "turns"), [(1, 4), (3, 6)])
def test_turns_of_a_client_that_is_known(
    recipients: int, turns: int, smtp_server: Callable[..., ScriptedServer]
) -> None:
    """smtplib: MAIL, each RCPT, DATA, the content."""
    server = smtp_server()
    with DelayProxy("127.0.0.1", server.port, ROUND_TRIP) as proxy:
        with smtplib.SMTP("127.0.0.1", proxy.port) as smtp:
            smtp.sendmail("ann@example.org", [f"r{n}@example.com" for n in range(recipients)], b"Subject: x\r\n\r\nx")
        assert (proxy.turns_after_ehlo, proxy.rounds) == (turns, turns)
        assert [flight[:4].lower() for flight in proxy.flights[:2]] == [b"ehlo", b"mail"]
        assert proxy.turns == turns + 2


@pytest.mark.parametrize("is_set_up", [False, True])
def test_the_server_hears_of_a_connection_when_it_is_set_up(is_set_up: bool) -> None:
    """After a round trip, which TCP takes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        with DelayProxy("127.0.0.1", listening.getsockname()[1], 0.2, is_set_up=is_set_up) as proxy:
            start = time.monotonic()
            with socket.create_connection((proxy.host, proxy.port)):
                server, _ = listening.accept()
                taken = time.monotonic() - start
                server.close()
    assert taken >= 0.2 or not is_set_up


def test_a_stamping_proxy_notes_when_each_mail_passes() -> None:
    """Also where its mark comes in two pieces."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        StampingProxy("127.0.0.1", listening.getsockname()[1], 0.0) as proxy,
        socket.create_connection((proxy.host, proxy.port)) as client,
    ):
        server, _ = listening.accept()
        with server:
            server.settimeout(10)
            start = time.monotonic()
            for number in range(3):
                mail = f"From: ann@example.com\r\nSubject: {MARK.format(number)}is it\r\n\r\n".encode()
                for piece in (mail[:30], mail[30:38], mail[38:]):
                    client.sendall(piece)
                    assert heard(server, len(piece)) == piece
                    assert (number in proxy.stamps) == (piece == mail[38:])
            assert start < proxy.stamps[0] < proxy.stamps[1] < proxy.stamps[2] < time.monotonic()
