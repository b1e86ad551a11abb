"""`check`: what is found out about a server, step by step, on the way that mail takes."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from smtpbackend import Check, Server
from smtpbackend.testing import CUT, SILENCE, Play
from tests.mailer.conftest import Names, Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.ports import free_ports
from tests.servers.proxy import Proxy
from tests.servers.tls import Certificates
from tests.servers.turns import Turns

EHLO = 1  # turns of a new connection
EXTENSIONS = ("PIPELINING", "SIZE 1000", "8BITMIME", "AUTH PLAIN LOGIN", "STARTTLS")


def names_of(check: Check) -> list[str]:
    return [step.name if step.ok else f"{step.name}!" for step in check.steps]


def details(check: Check) -> dict[str, str]:
    return {step.name: step.detail for step in check.steps}


def test_each_step_with_what_was_found(twin: Twin, scripted: Scripted, ca: Certificates) -> None:
    server = scripted(Play(extensions=EXTENSIONS), certificate="server")
    [found] = twin(
        Server("localhost", server.port, tls="required", ca_file=str(ca.ca_file), username="ann", password="secret")
    ).check()
    assert found.ok
    assert names_of(found) == ["look-up", "connect", "greeting", "EHLO", "TLS", "EHLO", "login"]
    assert "127.0.0.1" in found.addresses
    assert details(found)["login"] == "ann by PLAIN"
    assert found.greeting == "mx.example.com ESMTP ready"
    assert found.extensions["SIZE"] == "1000"
    assert found.mechanisms == ("PLAIN", "LOGIN")
    assert found.security is not None
    assert found.security.protocol == "TLSv1.3"
    assert found.security.names
    assert "localhost" in found.security.names
    assert found.security.days is not None
    assert found.security.days > 0
    assert "issued by" in found.security.chain[0]
    assert f"{found.security.days} days left" in details(found)["TLS"]
    assert all(step.seconds >= 0 for step in found.steps)
    assert "secret" not in repr(found)
    told = json.loads(json.dumps(found.to_json()))
    assert told["ok"] is True
    assert [step["name"] for step in told["steps"]] == names_of(found)


def test_it_says_what_a_mail_says_and_quit(twin: Twin, scripted: Scripted) -> None:
    """It is the conversation of mail; and the connection is its own."""
    server = scripted(Play(extensions=("PIPELINING", "AUTH PLAIN")))
    mailer = twin(f"smtp://ann:secret@127.0.0.1:{server.port}")
    mailer.send(hello())
    mailer.check()
    mail, check = server.speakers
    opening = mail.commands[: mail.verbs.index("MAIL")]
    assert len(opening) == 2
    assert check.commands == [*opening, "QUIT"]


def test_a_message_is_sent_where_it_is_wanted(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play(extensions=("PIPELINING",)), {"RCPT": "550 5.1.1 no such user"})
    mailer = twin(server.url, bounce_address="bounces@example.com")
    [found] = mailer.check(send_to="bob@example.org")
    assert found.ok
    assert found.receipt is not None
    assert found.receipt.ok
    assert names_of(found)[-1] == "message"
    assert "queued" in details(found)["message"]
    assert b"RCPT TO:<bob@example.org>" in server.received
    assert b"MAIL FROM:<bounces@example.com>" in server.received
    [refused] = mailer.check(send_to="bob@example.org")
    assert not refused.ok
    assert names_of(refused)[-1] == "message!"
    assert "550 5.1.1 no such user" in details(refused)["message"]
    assert refused.receipt is not None
    assert refused.receipt.rejected


@pytest.mark.parametrize(
    ("play", "settings", "steps"),
    [
        ({"": "554 no"}, {}, ["look-up", "connect", "greeting!"]),
        ({"": SILENCE}, {"timeout": 0.1}, ["look-up", "connect", "greeting!"]),
        ({"EHLO": "502 no", "HELO": "502 no"}, {}, ["look-up", "connect", "greeting", "EHLO!"]),
        ({"AUTH": "535 5.7.8 no"}, {"username": "ann", "password": "x"},
         ["look-up", "connect", "greeting", "EHLO", "login!"]),
        ({}, {"tls": "required"}, ["look-up", "connect", "greeting", "EHLO", "TLS!"]),
        ({}, {"tls": "implicit"}, ["look-up", "connect", "TLS!"]),
    ],
)  # fmt: skip
def test_the_step_that_fails_is_the_last(
    twin: Twin, scripted: Scripted, play: Any, settings: dict[str, Any], steps: list[str]
) -> None:
    server = scripted(Play(play, extensions=("AUTH PLAIN",)))
    [found] = twin(Server("127.0.0.1", server.port, **{"tls": "none", **settings})).check()
    assert names_of(found) == steps
    assert not found.ok
    assert found.steps[-1].detail == str(found.error)


def test_a_server_that_cannot_be_reached(twin: Twin) -> None:
    [port] = free_ports(1)
    closed, nowhere = twin(f"smtp://127.0.0.1:{port}", "smtp://nowhere.invalid?tls=none").check()
    assert names_of(closed) == ["look-up", "connect!"]
    assert names_of(nowhere) == ["look-up!"]
    assert "firewall" not in str(nowhere.error)


def test_every_address_is_told(twin: Twin, scripted: Scripted, names: Names) -> None:
    server = scripted()
    [closed] = free_ports(1)
    names["mx.example.com"] = [("127.0.0.2", closed), ("127.0.0.1", server.port)]
    [found] = twin({"host": "mx.example.com", "tls": "none"}).check()
    assert found.addresses == ("127.0.0.2", "127.0.0.1")
    assert details(found)["connect"] == "127.0.0.2: Connection refused; 127.0.0.1"
    assert found.unreachable == {"127.0.0.2": "Connection refused"}


@pytest.mark.parametrize(
    ("extensions", "settings", "waits"),
    [
        ((), {}, ["4 replies a message, and 1 for each further recipient: the server does not offer PIPELINING"]),
        (("PIPELINING",), {}, ["2 replies a message: MAIL, RCPT and DATA leave together"]),
        (("PIPELINING", "CHUNKING", "SIZE"), {"chunk_in_flight": "probe"}, ["2 replies", "1 reply a message"]),
        (("PIPELINING", "CHUNKING", "SIZE"), {}, ["2 replies", "never 1: the server is not known"]),
        (("PIPELINING", "CHUNKING", "SIZE"), {"chunk_in_flight": "never"}, ["2 replies", "never 1: chunk_in_flight="]),
    ],
)
def test_how_long_a_message_will_wait(
    twin: Twin, scripted: Scripted, extensions: tuple[str, ...], settings: dict[str, Any], waits: list[str]
) -> None:
    server = scripted(Play(extensions=extensions))
    [found] = twin(Server("127.0.0.1", server.port, **settings)).check()
    assert len(found.waits) == len(waits)
    for told, begin in zip(found.waits, waits, strict=True):
        assert told.startswith(begin)


def test_nobody_else_is_told(twin: Twin, scripted: Scripted) -> None:
    """A site that is checked does not mail its administrators that a server failed."""
    told: list[object] = []
    server = scripted({"": "554 no"})
    assert not twin(server.url, listeners=[told.append]).check()[0].ok
    assert told == []


def test_a_step_that_failed_is_told_where_another_connection_follows(twin: Twin, scripted: Scripted) -> None:
    """In clear after a handshake that failed."""
    server = scripted(
        Play({"STARTTLS": ("220 go on", CUT)}, extensions=("STARTTLS",)), Play(extensions=("PIPELINING",))
    )
    [found] = twin(f"smtp://127.0.0.1:{server.port}").check()
    opening = ["look-up", "connect", "greeting", "EHLO"]
    assert names_of(found) == [*opening, "TLS!", *opening]
    assert found.ok
    assert "handshake" in found.steps[4].detail
    assert found.security is None
    assert found.waits


def test_a_login_that_goes_on_by_another_connection(twin: Twin, scripted: Scripted) -> None:
    offered = ("AUTH CRAM-MD5 PLAIN",)
    server = scripted(Play({"AUTH": CUT}, extensions=offered), Play(extensions=offered))
    [found] = twin(f"smtp://ann:secret@127.0.0.1:{server.port}").check()
    opening = ["look-up", "connect", "greeting", "EHLO"]
    assert names_of(found) == [*opening, "login!", *opening, "login"]
    assert found.steps[-1].detail == "ann by PLAIN"


def test_what_was_found_is_told_where_a_later_step_fails(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play({"AUTH": "535 5.7.8 no"}, extensions=("SIZE 1000", "AUTH PLAIN")))
    [found] = twin(f"smtp://ann:secret@127.0.0.1:{server.port}").check()
    assert not found.ok
    assert found.greeting == "mx.example.com ESMTP ready"
    assert found.extensions == {"SIZE": "1000", "AUTH": "PLAIN"}
    assert found.mechanisms == ("PLAIN",)
    assert details(found)["EHLO"] == "SIZE 1000, AUTH PLAIN"
    assert found.waits == ()


def test_what_was_offered_before_tls_is_told_apart(twin: Twin, scripted: Scripted, ca: Certificates) -> None:
    server = scripted(Play(extensions=("STARTTLS", "SIZE 1000")), certificate="server")
    [found] = twin(Server("localhost", server.port, tls="required", ca_file=str(ca.ca_file))).check()
    assert [step.detail for step in found.steps if step.name == "EHLO"] == ["STARTTLS, SIZE 1000", "SIZE 1000"]


def test_ehlo_refused_in_tls(twin: Twin, scripted: Scripted, ca: Certificates) -> None:
    answers = iter(("250-mx\n250 STARTTLS", "550 no", "550 no"))
    server = scripted(Play({"EHLO": lambda line: next(answers), "HELO": "550 no"}), certificate="server")
    [found] = twin(Server("localhost", server.port, tls="required", ca_file=str(ca.ca_file))).check()
    assert names_of(found) == ["look-up", "connect", "greeting", "EHLO", "TLS", "EHLO!"]


def test_starttls_refused_where_mail_goes_on_in_clear(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play({"STARTTLS": "454 4.7.0 not now"}, extensions=("STARTTLS",)))
    [found] = twin(f"smtp://127.0.0.1:{server.port}").check()
    assert names_of(found) == ["look-up", "connect", "greeting", "EHLO", "TLS!"]
    assert details(found)["TLS"] == "454 4.7.0 not now; mail goes in clear"
    assert found.ok


@pytest.mark.parametrize(
    ("scheme", "extensions", "settings"),
    [
        ("smtp", (), {}),
        ("smtp", ("PIPELINING",), {}),
        ("smtp", ("PIPELINING",), {"recipient_policy": "all"}),
        ("smtp", ("PIPELINING", "CHUNKING", "SIZE"), {"chunk_in_flight": "probe"}),
        ("smtp", ("PIPELINING", "CHUNKING", "SIZE"), {"chunk_in_flight": "probe", "recipient_policy": "all"}),
        ("smtp", ("CHUNKING", "SIZE"), {"chunk_in_flight": "probe"}),
        ("lmtp", (), {}),
        ("lmtp", ("PIPELINING", "CHUNKING", "SIZE"), {"chunk_in_flight": "probe"}),
    ],
)
def test_a_message_waits_as_often_as_was_told(
    twin: Twin, scripted: Scripted, scheme: str, extensions: tuple[str, ...], settings: dict[str, Any]
) -> None:
    """The first message of a connection, and a later one, which may profit from what the connection has proved."""
    server = scripted(Play(extensions=extensions))
    counted = []
    with Turns(server.port, 0.05) as relay:
        mailer = twin(relay.url.replace("smtp", scheme), **settings)
        [found] = mailer.check()
        for _ in range(3):
            before = relay.turns + (0 if counted else EHLO)
            mailer.send(hello())
            counted.append(relay.turns - before)
        mailer.close()
    told = [int(wait.split()[0]) for wait in found.waits]
    assert [counted[0], counted[2]] == [told[0], told[-1]]


def test_what_was_learnt_of_a_server_is_told(twin: Twin, scripted: Scripted) -> None:
    """A server that does not read all commands of a group is given one at a time."""
    good = Play(extensions=("PIPELINING",))
    server = scripted(good, Play({"RCPT": "503 MAIL first"}, extensions=("PIPELINING",)), good)
    mailer = twin(server.url)
    assert mailer.check()[0].waits[0].startswith("2 replies")
    mailer.send(hello())
    [wait] = mailer.check()[0].waits
    assert wait.startswith("4 replies")
    assert "did not read all commands of a group" in wait


@pytest.mark.parametrize("pinned", [False, True], ids=["verified", "pinned"])
def test_the_certificate_is_described(twin: Twin, scripted: Scripted, ca: Certificates, pinned: bool) -> None:
    """Also one that is trusted by its pin alone, and so was not verified."""
    certificate = x509.load_pem_x509_certificates(ca.server.read_bytes())[0]
    trust: dict[str, Any] = {"ca_file": str(ca.ca_file)}
    if pinned:
        trust = {"pinned_sha256": certificate.fingerprint(hashes.SHA256()).hex()}
    server = scripted(Play(extensions=("STARTTLS",)), certificate="server")
    [found] = twin(Server("localhost", server.port, tls="required", **trust)).check()
    assert found.ok
    security = found.security
    assert security is not None
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    assert security.chain[0].endswith(f", valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d}")
    assert security.names == ("localhost", "127.0.0.1", "::1")
    assert security.days is not None
    assert abs(security.days - (end - datetime.now(UTC)).days) <= 1


def test_a_dead_address_beside_a_good_one(twin: Twin, scripted: Scripted, names: Names, unreachable: int) -> None:
    """Mail takes the good one, and never tells: check connects to the others too, and says nothing to them."""
    server = scripted()
    [closed] = free_ports(1)
    names["mx.example.com"] = [
        ("127.0.0.1", server.port),
        ("127.0.0.2", closed),
        ("127.0.0.1", unreachable),
        ("127.0.0.1", server.port),
    ]
    mailer = twin({"host": "mx.example.com", "tls": "none"}, timeout=0.5)
    for _ in range(2):  # the good one is remembered, and tried first
        [found] = mailer.check()
        assert found.ok
        assert found.unreachable == {"127.0.0.2": "Connection refused", "127.0.0.1": "no answer in time"}
        connect = details(found)["connect"]
        assert connect == "127.0.0.1; 127.0.0.2: Connection refused; 127.0.0.1: no answer in time"
        assert found.to_json()["unreachable"] == found.unreachable
        mailer.send(hello())


def test_every_address_is_good(twin: Twin, scripted: Scripted, names: Names) -> None:
    server = scripted()
    names["mx.example.com"] = [("127.0.0.1", server.port)]
    names["two.example.com"] = [("127.0.0.1", server.port), ("127.0.0.1", scripted().port)]
    for host in names:
        assert twin({"host": host, "tls": "none"}).check()[0].unreachable == {}


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no unix sockets here")
@pytest.mark.parametrize("scheme", ["smtp", "lmtp"])
def test_a_unix_socket_is_not_looked_up(twin: Twin, scripted: Scripted, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "socket"
    url = f"{scheme}+unix://{path}"
    [missing] = twin(url).check()
    assert names_of(missing) == ["connect!"]
    scripted(Play(extensions=("PIPELINING",)), path=str(path))
    [found] = twin(url).check(send_to="bob@example.org")
    assert names_of(found) == ["connect", "greeting", "EHLO", "message"]
    assert details(found)["connect"] == str(path)
    assert found.addresses == ()


def test_lmtp(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play(extensions=("PIPELINING", "CHUNKING", "SIZE")), {"LHLO": "500 what"})
    mailer = twin(f"lmtp://127.0.0.1:{server.port}?tls=none&chunk_in_flight=probe")
    [found] = mailer.check()
    assert names_of(found) == ["look-up", "connect", "greeting", "EHLO"]
    assert len(found.waits) == 1
    [refused] = mailer.check()
    assert names_of(refused)[-1] == "EHLO!"
    assert "refused LHLO" in refused.steps[-1].detail


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_a_proxy(twin: Twin, scripted: Scripted, scheme: str) -> None:
    server = scripted()
    nowhere, nothing = free_ports(2)
    with Proxy() as proxy:
        through = f"{scheme}://{proxy.name}"
        found, refused = twin(server.url, f"smtp://127.0.0.1:{nowhere}?tls=none", proxy=through).check()
    assert names_of(found) == ["look-up", "connect", "greeting", "EHLO"]
    assert details(found)["look-up"] == "127.0.0.1 (of the proxy)"
    assert names_of(refused) == ["look-up", "connect!"]
    [down] = twin(server.url, proxy=f"{scheme}://127.0.0.1:{nothing}").check()
    assert names_of(down) == ["look-up", "connect!"]
    assert "proxy" in down.steps[-1].detail


def test_other_addresses_are_not_waited_for_where_the_server_is_not_well(
    twin: Twin, scripted: Scripted, names: Names
) -> None:
    """A server that accepts and says nothing is told within its own time-outs."""
    silent, other = scripted({"": SILENCE}), scripted()
    names["mx.example.com"] = [("127.0.0.1", silent.port), ("127.0.0.2", other.port)]
    [found] = twin({"host": "mx.example.com", "tls": "none"}, timeout={"greeting": 0.1}).check()
    assert names_of(found)[-1] == "greeting!"
    assert other.connections == 0
    assert found.unreachable == {}


def test_what_a_server_says_cannot_steer_a_terminal(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play({"": "220 \x1b[2Jmx\x07"}, extensions=("X\x1b[2J", "SIZE \x9b31m")))
    [found] = twin(server.url).check()
    assert found.ok
    told = [found.greeting, *found.extensions, *found.extensions.values(), *(step.detail for step in found.steps)]
    assert all(text.isprintable() for text in told)
