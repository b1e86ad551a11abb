"""Reaching a server: addresses, time-outs and the deadline. Asserted is how it ended, never how long it took."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

import pytest

from smtpbackend import Server, Status
from smtpbackend.errors import (
    ConnectFailed,
    ConnectionLost,
    DeliveryError,
    HelloRefused,
    ProtocolViolation,
    RecipientsRefused,
    TimedOut,
    TLSFailed,
)
from smtpbackend.forking import sockets
from smtpbackend.testing import CUT, DEAF, RESET, SILENCE, Play, flood, when_heard
from tests.mailer.conftest import Names, Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.ports import free_ports
from tests.servers.tls import Certificates

SHORT = 0.15  # seconds
LIMITLESS = ("PIPELINING", "8BITMIME")  # no SIZE


def connected_to() -> list[int]:
    """The ports that sockets of the mailers are connected to; those that are connecting still have -1."""
    found = []
    for sock in list(sockets):
        if sock.fileno() >= 0:
            try:
                found.append(sock.getpeername()[1])
            except OSError:
                found.append(-1)
    return found


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Host and port of each connection that was begun."""
    begun: list[tuple[str, int]] = []
    make = socket.socket

    class Noted(make):  # type: ignore[valid-type, misc]
        def connect(self, address: Any) -> None:
            begun.append(address[:2])
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Noted)
    return begun


class TestAddresses:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
    def test_a_server_is_reached_by_name_or_address(self, twin: Twin, scripted: Scripted, host: str) -> None:
        server = scripted(host="::1" if host == "::1" else "127.0.0.1")
        assert twin({"host": host, "port": server.port}).send(hello()).ok

    def test_ehlo_has_the_address_literal_of_our_side_or_a_full_name(self, twin: Twin, scripted: Scripted) -> None:
        server, six, named = scripted(), scripted(host="::1"), scripted()
        for one in (server, six):
            twin(one.url).connect()
        twin(named.url, client_name="app.example.org").connect()
        full = "." in socket.gethostname()
        assert server.commands[0] == f"EHLO {socket.gethostname()}" if full else "EHLO [127.0.0.1]"
        assert six.commands[0] == f"EHLO {socket.gethostname()}" if full else "EHLO [IPv6:::1]"
        assert named.commands[0] == "EHLO app.example.org"

    def test_each_address_of_a_name_is_tried(self, twin: Twin, scripted: Scripted, names: Names) -> None:
        server = scripted()
        [closed] = free_ports(1)
        names["mx.example.com"] = [("::1", closed), ("127.0.0.1", closed), ("127.0.0.1", server.port)]
        assert twin({"host": "mx.example.com", "tls": "none"}).send(hello()).ok

    def test_a_silent_address_does_not_use_up_the_time_of_the_others(
        self, twin: Twin, scripted: Scripted, names: Names, unreachable: int
    ) -> None:
        server = scripted()
        names["mx.example.com"] = [("127.0.0.1", unreachable), ("127.0.0.1", server.port)]
        assert twin({"host": "mx.example.com", "tls": "none", "timeout": {"connect": 0.6}}).send(hello()).ok

    def test_the_next_is_tried_while_one_is_silent_and_nothing_is_left_of_that(
        self, twin: Twin, scripted: Scripted, names: Names, unreachable: int, dialled: list[Any]
    ) -> None:
        """It is closed as soon as another has won, and not when its own time is up."""
        server = scripted()
        names["mx.example.com"] = [("127.0.0.1", unreachable), ("127.0.0.1", server.port)]
        assert twin({"host": "mx.example.com", "tls": "none", "timeout": {"connect": 10_000}}).send(hello()).ok
        assert dialled == [("127.0.0.1", unreachable), ("127.0.0.1", server.port)]
        assert connected_to() == [server.port]

    def test_the_one_that_worked_is_tried_first_next_time(
        self, twin: Twin, scripted: Scripted, names: Names, unreachable: int, dialled: list[Any]
    ) -> None:
        server = scripted()
        names["mx.example.com"] = [("127.0.0.1", unreachable), ("127.0.0.1", server.port)]
        for _ in range(3):
            mailer = twin({"host": "mx.example.com", "tls": "none"})
            assert mailer.send(hello()).ok
            mailer.close()
        assert dialled == [("127.0.0.1", unreachable), *[("127.0.0.1", server.port)] * 3]

    def test_one_where_nobody_is_well_is_not(
        self, twin: Twin, scripted: Scripted, names: Names, dialled: list[Any]
    ) -> None:
        """One of a farm accepts connections and turns everybody away: its siblings are tried as the DNS has them."""
        ill, well = scripted({"": "421 4.3.2 not now"}), scripted()
        names["mx.example.com"] = [("127.0.0.1", ill.port), ("127.0.0.1", well.port)]
        mailer = twin({"host": "mx.example.com", "tls": "none"})
        with pytest.raises(ConnectFailed):
            mailer.send(hello())
        names["mx.example.com"].reverse()
        assert mailer.send(hello()).ok
        assert dialled == [("127.0.0.1", ill.port), ("127.0.0.1", well.port)]

    def test_many_that_refuse_cost_nothing(
        self, twin: Twin, scripted: Scripted, names: Names, dialled: list[Any]
    ) -> None:
        """No wait for a time-out: with the shortest the last of them is reached."""
        server = scripted()
        ports = free_ports(15)
        names["mx.example.com"] = [*[("127.0.0.1", port) for port in ports], ("127.0.0.1", server.port)]
        assert twin({"host": "mx.example.com", "tls": "none"}).send(hello()).ok
        assert [port for _, port in dialled] == [*ports, server.port]
        assert connected_to() == [server.port]

    def test_the_source_address_is_for_its_own_family(
        self, twin: Twin, scripted: Scripted, names: Names, dialled: list[Any]
    ) -> None:
        server = scripted()
        names["mx.example.com"] = [("::1", server.port), ("127.0.0.1", server.port)]
        assert twin({"host": "mx.example.com", "tls": "none", "source_address": "127.0.0.7"}).send(hello()).ok
        assert [host for host, _ in dialled] == ["127.0.0.1"]
        assert connected_to() == [server.port]

    def test_every_address_stands_in_the_error(self, twin: Twin, names: Names, unreachable: int) -> None:
        [closed] = free_ports(1)
        names["mx.example.com"] = [("::1", closed), ("127.0.0.1", unreachable)]
        with pytest.raises(ConnectFailed) as caught:
            twin({"host": "mx.example.com", "tls": "none", "timeout": {"connect": SHORT}}).send(hello())
        text = str(caught.value)
        assert "mx.example.com:25" in text
        assert "::1: Connection refused" in text
        assert "127.0.0.1: no answer in time" in text
        assert "deadline" not in text
        assert connected_to() == []

    def test_a_deadline_that_ended_it_is_named(self, twin: Twin, names: Names, unreachable: int) -> None:
        names["mx.example.com"] = [("127.0.0.1", unreachable), ("127.0.0.2", unreachable)]
        with pytest.raises(DeliveryError) as caught:
            twin({"host": "mx.example.com", "tls": "none"}, deadline=SHORT).send(hello())
        assert "127.0.0.2: not tried in time" in str(caught.value)
        assert f"the deadline of {SHORT} s passed" in str(caught.value)
        assert connected_to() == []

    def test_an_address_of_a_kind_that_the_kernel_does_not_have_is_passed_over(
        self,
        twin: Twin,
        scripted: Scripted,
        names: Names,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        server = scripted()
        names["mx.example.com"] = [("::1", server.port), ("127.0.0.1", server.port)]
        make = socket.socket

        class NoIPv6(make):  # type: ignore[valid-type, misc]
            def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
                if family == socket.AF_INET6:
                    raise OSError(97, "Address family not supported by protocol")
                super().__init__(family, *args, **options)

        monkeypatch.setattr(socket, "socket", NoIPv6)
        assert twin({"host": "mx.example.com", "tls": "none"}).send(hello()).ok

    def test_a_host_name_outside_ascii_is_looked_up_as_a_labels(
        self, twin: Twin, scripted: Scripted, names: Names
    ) -> None:
        server = scripted()
        names["xn--bcher-kva.example"] = [("127.0.0.1", server.port)]
        assert twin({"host": "bücher.example", "tls": "none"}).send(hello()).ok

    @pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 70 + ".example"])
    def test_a_name_that_means_nothing_is_a_failed_connection(self, twin: Twin, host: str) -> None:
        with pytest.raises(ConnectFailed, match=r"; check servers\[.host.\], and that this machine") as caught:
            twin({"host": host, "port": 25, "tls": "none"}).send(hello())
        assert isinstance(caught.value, ConnectionError)
        assert caught.value.is_transient
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.DEFERRED]


class TestBadServers:
    """Whatever a server says: an error of ours, and no connection left open."""

    @pytest.mark.parametrize(
        ("answers", "kind"),
        [
            ({"": "554 5.3.2 no"}, ConnectFailed),
            ({"": "421 4.3.2 not now"}, ConnectFailed),
            ({"": CUT}, ConnectionLost),
            ({"EHLO": RESET}, ConnectionLost),
            ({"": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, ProtocolViolation),
            ({"": b"SSH-2.0-x\r\n"}, ProtocolViolation),
            ({"": flood(b"220-welcome\r\n")}, ProtocolViolation),
            ({"": flood(b"220 " + b"x" * 1000)}, ProtocolViolation),
            ({"": "220 welcome\n250 more"}, ProtocolViolation),
            ({"EHLO": CUT}, ConnectionLost),
            ({"EHLO": "421 4.3.2 not now"}, HelloRefused),
            ({"EHLO": "550 no", "HELO": "550 no"}, HelloRefused),
            ({"EHLO": b"250 \xff\x00\r\n999 what\r\n"}, ProtocolViolation),
            ({"MAIL": CUT}, ConnectionLost),
            ({"MAIL": RESET}, ConnectionLost),
            ({"MAIL": b"\0\r\n"}, ProtocolViolation),
            ({"DATA": "250 fine"}, ProtocolViolation),
            ({"RCPT": "421 4.3.2 closing", "DATA": CUT}, ConnectionLost),
        ],
    )
    def test_is_one_error(self, twin: Twin, scripted: Scripted, answers: dict[str, Any], kind: type[Exception]) -> None:
        server = scripted(answers)
        with pytest.raises(kind) as caught:
            twin(server.url, timeout=5).send(hello())
        assert server.name in str(caught.value)
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.DEFERRED]
        server.wait_for_end()

    @pytest.mark.parametrize(
        "then", [(flood(b"250 ok\r\n" * 1000),), (when_heard(b"250 ok\r\n" * 300_000), DEAF)], ids=["at once", "later"]
    )
    def test_a_flood_while_content_is_written_ends_the_connection(
        self, twin: Twin, scripted: Scripted, then: Any
    ) -> None:
        server = scripted(Play({"DATA": ("354 go", *then)}, LIMITLESS))
        message = hello(text="x" * 20_000_000)
        with pytest.raises((DeliveryError, RecipientsRefused)) as caught:
            twin(server.url, timeout=5).send(message)
        assert caught.value.receipt.accepted == ()


class TestPortAndTLSMixedUp:
    """The commonest slips, told with the setting to change."""

    @pytest.mark.parametrize(
        "said",
        [
            b"220 clear\r\n",
            b"220-mx.example.com ESMTP\r\n220 and more\r\n",
            b"554 5.7.1 no\r\n",
            b"* OK IMAP4rev1\r\n",
            b"SSH-2.0-x\r\n",
        ],
    )
    def test_a_server_that_speaks_in_clear_where_tls_was_to_begin(
        self, twin: Twin, scripted: Scripted, said: bytes
    ) -> None:
        server = scripted({"": said})
        # the greeting is there before the handshake or comes into it
        with pytest.raises(TLSFailed, match=r"and tls='implicit' does not: set tls='required'") as caught:
            twin(Server("127.0.0.1", server.port, tls="implicit")).send(hello())
        assert "speaks in clear" in str(caught.value)
        server.wait_for_end()

    @pytest.mark.parametrize("at_once", [True, False])
    @pytest.mark.parametrize("said", [b"220 clear\r\n", b"554 5.7.1 no\r\n"])
    def test_whether_it_speaks_first_or_answers_the_handshake(self, twin: Twin, said: bytes, at_once: bool) -> None:
        with SpeaksInClear(said, at_once) as port, pytest.raises(TLSFailed, match=r"speaks in clear.*tls='required'"):
            twin(Server("127.0.0.1", port, tls="implicit")).send(hello())

    @pytest.mark.parametrize("tls", ["none", "opportunistic", "required"])
    def test_a_port_of_implicit_tls_that_is_spoken_to_in_clear(self, twin: Twin, scripted: Scripted, tls: str) -> None:
        """It waits for our handshake, and we for its greeting: that has a time-out of its own."""
        server = scripted(Play(implicit_tls=True), certificate="server")
        mailer = twin(Server("127.0.0.1", server.port, tls=tls, timeout={"greeting": SHORT}))  # type: ignore[arg-type]
        with pytest.raises(TimedOut, match=rf"greeting, at most {SHORT} s.*tls='implicit'.*587"):
            mailer.send(hello())

    def test_the_handshake_of_implicit_tls_and_the_greeting_share_one_time_out(
        self, twin: Twin, ca: Certificates
    ) -> None:
        """Each comes within it, both do not: on a slow machine even less."""
        with LateTLS(ca, 0.5) as port:
            server = {"host": "localhost", "port": port, "tls": "implicit", "ca_file": str(ca.ca_file)}
            with pytest.raises((TimedOut, TLSFailed), match="localhost") as caught:
                twin({**server, "timeout": {"greeting": 0.8}}).send(hello())
            assert "closed" not in str(caught.value)
            with pytest.raises(ConnectFailed, match="not today"):
                twin({**server, "timeout": {"greeting": 20}}).send(hello())


class TestDeadline:
    @pytest.mark.parametrize("where", ["", "EHLO", "MAIL", "DATA", "."])
    def test_an_error_that_it_caused_names_it(self, twin: Twin, scripted: Scripted, where: str) -> None:
        server = scripted({where: SILENCE})
        with pytest.raises(DeliveryError, match=r"the deadline of 0\.3 s passed") as caught:
            twin(server.url, deadline=0.3).send(hello())
        assert "at most" not in str(caught.value)

    def test_in_a_handshake(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        with SpeaksInClear(b"", False) as port:
            for tls in ("implicit", "none"):
                with pytest.raises(DeliveryError, match=r"the deadline of 0\.3 s passed, see deadline"):
                    twin({"host": "127.0.0.1", "port": port, "tls": tls}, deadline=0.3).send(hello())

    def test_in_a_look_up(self, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
        go = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: go.wait(20) and [])
        with pytest.raises(
            DeliveryError, match=r"look-up of mx\.example\.com took too long.*deadline of 0\.2 s passed"
        ):
            twin("smtp://mx.example.com", deadline=0.2).send(hello())
        go.set()

    def test_in_content_that_is_not_read(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play({"DATA": ("354 go", DEAF)}, LIMITLESS))
        with pytest.raises(DeliveryError, match=r"the deadline of 0\.5 s passed"):
            twin(server.url, deadline=0.5).send(hello(text="x" * 20_000_000))

    def test_one_that_was_not_reached_is_not_named(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"EHLO": SILENCE})
        with pytest.raises(TimedOut, match=r"\(hello, at most 0\.15 s\); see timeout") as caught:
            twin(server.url, deadline=60, timeout={"reply": SHORT, "greeting": 20}).send(hello())
        assert "deadline" not in str(caught.value)


class SpeaksInClear:
    """A server that says this at once, or to the first that it hears; nothing more, and keeps the connection open."""

    def __init__(self, said: bytes, at_once: bool) -> None:
        self._said = said
        self._at_once = at_once

    def __enter__(self) -> int:
        self._listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        return int(self._listening.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                with self._listening.accept()[0] as caller:
                    self._talk(caller)

    def _talk(self, caller: socket.socket) -> None:
        with suppress(OSError):
            if not self._at_once:
                caller.recv(9999)
            caller.sendall(self._said)
            while caller.recv(9999):
                pass


class LateTLS(SpeaksInClear):
    """One that takes its time for the handshake, and as long again for its greeting, which is no welcome."""

    def __init__(self, ca: Certificates, seconds: float) -> None:
        super().__init__(b"554 5.3.2 not today\r\n", False)
        self._context = ca.server_context("server")
        self._seconds = seconds

    def _talk(self, caller: socket.socket) -> None:
        pause = threading.Event()
        pause.wait(self._seconds)
        with suppress(OSError), self._context.wrap_socket(caller, server_side=True) as secured:
            pause.wait(self._seconds)
            secured.sendall(self._said)
            secured.recv(9999)
