"""Servers by SRV records (RFC 6186, RFC 8314): both mailers ask a real name server on loopback."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dns.asyncresolver
import dns.rcode
import dns.resolver
import pytest

from smtpbackend import Server
from smtpbackend.delivery.server import from_url
from smtpbackend.delivery.srv import Found, Record, order
from smtpbackend.errors import ConnectFailed, TLSFailed
from smtpbackend.testing import Play, ScriptedServer
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.nameserver import Nameserver
from tests.servers.ports import free_ports
from tests.servers.tls import Certificates

DOMAIN = "localhost"  # whose servers, and whose certificate, there are here
IMPLICIT, STARTTLS = f"_submissions._tcp.{DOMAIN}.", f"_submission._tcp.{DOMAIN}."


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nameserver]:
    """A name server, which dnspython asks by default."""
    with Nameserver() as server:
        for module in (dns.resolver, dns.asyncresolver):
            resolver: Any = getattr(module, "Resolver")(configure=False)  # noqa: B009 - of either module
            resolver.nameservers, resolver.port = ["127.0.0.1"], server.port
            monkeypatch.setattr(module, "default_resolver", resolver)
        yield server


@pytest.fixture
def implicit(scripted: Scripted) -> Callable[..., ScriptedServer]:
    """Start a server that begins with TLS."""
    return lambda answers={}: scripted(Play(answers, implicit_tls=True), certificate="server")


@pytest.fixture
def mailer(twin: Twin, ca: Certificates, names: Nameserver) -> Callable[..., Any]:
    def start(url: str = f"smtp+srv://{DOMAIN}", **settings: Any) -> Any:
        return twin(url, ca_file=str(ca.ca_file), **settings)

    return start


def test_tls_from_the_first_byte_is_preferred(
    names: Nameserver, mailer: Callable[..., Any], implicit: Callable[..., ScriptedServer], scripted: Scripted
) -> None:
    """RFC 8314 5.1, whatever the priorities of the two services."""
    secure, upgraded = implicit(), scripted(Play(extensions=("STARTTLS",)), certificate="server")
    names.records = {STARTTLS: [f"0 9 {upgraded.port} localhost."], IMPLICIT: [f"9 0 {secure.port} localhost."]}
    receipt = mailer().send(hello())
    assert receipt.server == f"localhost:{secure.port}"
    assert upgraded.connections == 0
    assert names.asked == [IMPLICIT, STARTTLS]


@pytest.mark.parametrize("other", [None, [], ["0 0 0 ."]], ids=["no such name", "no record", "not available"])
def test_starttls_is_required_where_there_is_nothing_better(
    names: Nameserver, mailer: Callable[..., Any], scripted: Scripted, other: list[str] | None
) -> None:
    upgraded = scripted(Play(extensions=("STARTTLS",)), certificate="server")
    names.records = {STARTTLS: [f"0 0 {upgraded.port} localhost."]}
    if other is not None:
        names.records[IMPLICIT] = other
    mailer().send(hello())
    assert "STARTTLS" in upgraded.commands
    in_clear = scripted(Play(extensions=()))
    names.records = {STARTTLS: [f"0 0 {in_clear.port} localhost."]}
    with pytest.raises(TLSFailed, match="offers no STARTTLS"):
        mailer().send(hello())


def test_the_next_target_is_tried_in_the_order_of_priority(
    names: Nameserver, mailer: Callable[..., Any], implicit: Callable[..., ScriptedServer]
) -> None:
    full, good, last = implicit({"MAIL": "451 4.3.0 later"}), implicit(), implicit()
    [nobody] = free_ports(1)
    ports = {30: last.port, 0: nobody, 20: good.port, 10: full.port}
    names.records = {IMPLICIT: [f"{priority} 1 {port} localhost." for priority, port in ports.items()]}
    receipt = mailer().send(hello())
    assert receipt.server == f"localhost:{good.port}"
    assert full.connections == 1
    assert last.connections == 0


def test_a_tls_setting_chooses_the_service(names: Nameserver, mailer: Callable[..., Any], scripted: Scripted) -> None:
    upgraded = scripted(Play(extensions=("STARTTLS",)), certificate="server")
    names.records = {STARTTLS: [f"0 9 {upgraded.port} localhost."], IMPLICIT: ["9 0 1 localhost."]}
    mailer(tls="required").send(hello())
    assert names.asked == [STARTTLS]


def test_answers_are_remembered_for_as_long_as_they_hold(
    names: Nameserver, mailer: Callable[..., Any], implicit: Callable[..., ScriptedServer]
) -> None:
    server = implicit()
    names.records = {IMPLICIT: [f"0 0 {server.port} localhost."]}
    names.ttl = 3
    asked = mailer()
    asked.send(hello())
    asked.send(hello())
    assert len(names.asked) == 2
    assert server.connections == 1
    time.sleep(3.1)
    asked.send(hello())
    assert len(names.asked) == 4
    assert server.connections == 1


def test_one_look_up_for_a_stream(
    names: Nameserver, mailer: Callable[..., Any], implicit: Callable[..., ScriptedServer]
) -> None:
    """And one server, as the weights fell, though nothing may be remembered."""
    servers = [implicit(), implicit()]
    names.records = {IMPLICIT: [f"0 1 {server.port} localhost." for server in servers]}
    names.ttl = 0
    receipts = mailer().send_many([hello() for _ in range(10)])
    assert len({receipt.server for receipt in receipts}) == 1
    assert len(names.asked) == 2


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({}, "has no SRV records for submission"),
        ({IMPLICIT: ["0 0 0 ."], STARTTLS: ["0 0 0 ."]}, "says by its SRV records that it has no server"),
    ],
)
def test_a_domain_without_servers(
    names: Nameserver, mailer: Callable[..., Any], records: dict[str, list[str]], words: str
) -> None:
    names.records = records
    with pytest.raises(ConnectFailed, match=f"{words}.*smtps://smtp.example.com") as caught:
        mailer().send(hello())
    assert caught.value.server == "smtp+srv://localhost"
    assert caught.value.is_transient


def test_a_name_server_that_fails(names: Nameserver, mailer: Callable[..., Any]) -> None:
    """Not taken for a domain without TLS from the first byte."""
    names.rcode = dns.rcode.SERVFAIL
    with pytest.raises(ConnectFailed, match=r"look-up of _submissions\._tcp\.localhost\. failed"):
        mailer(timeout={"connect": 0.5}).send(hello())


def test_a_name_server_that_is_silent_costs_the_time_of_a_connection(
    names: Nameserver, mailer: Callable[..., Any]
) -> None:
    names.silent = True
    begin = time.monotonic()
    with pytest.raises(ConnectFailed, match="failed"):
        mailer(timeout={"connect": 0.3}).send(hello())
    assert time.monotonic() - begin < 4


def test_a_deadline_that_ended_the_look_up_is_named(names: Nameserver, mailer: Callable[..., Any]) -> None:
    names.silent = True
    with pytest.raises(ConnectFailed, match=r"look-up of .* failed: the deadline of 0\.3 s passed, see deadline"):
        mailer(deadline=0.3).verify("ann@example.com")


def test_another_server_is_tried_where_the_domain_has_none(names: Nameserver, twin: Twin, scripted: Scripted) -> None:
    server = scripted()
    assert twin("smtp+srv://localhost", server.url).send(hello()).server == server.name


def test_questions_and_checks_find_their_server(
    names: Nameserver, mailer: Callable[..., Any], implicit: Callable[..., ScriptedServer]
) -> None:
    server = implicit()
    names.records = {IMPLICIT: ["0 0 1 localhost.", f"1 0 {server.port} localhost."]}
    asked = mailer()
    assert asked.verify("bob@example.com").code == 252
    assert [(one.server.rpartition(":")[2], one.ok) for one in asked.check()] == [
        ("1", False),
        (str(server.port), True),
    ]
    names.records = {}
    [none] = mailer().check()
    assert none.server == "smtp+srv://localhost"
    assert isinstance(none.error, ConnectFailed)


def test_a_target_outside_the_domain_has_the_certificate_of_the_domain(
    names: Nameserver, mailer: Callable[..., Any], implicit: Callable[..., ScriptedServer]
) -> None:
    """RFC 6186 6: else who forges the DNS would only need a certificate of his own."""
    server = implicit()
    names.records = {
        "_submissions._tcp.example.org.": [f"0 0 {server.port} localhost."],
        "_submissions._tcp.xn--bcher-kva.example.": [f"0 0 {server.port} localhost."],
    }
    for domain in ("example.org", "bücher.example"):
        with pytest.raises(TLSFailed, match="not trusted"):
            mailer(f"smtp+srv://ann:secret@{domain}").send(hello())
    assert b"AUTH" not in server.received


@pytest.mark.parametrize(
    ("domain", "target", "identity"),
    [
        ("example.com", "example.com", None),
        ("example.com", "Mail.EXAMPLE.com", None),
        ("example.com", "evilexample.com", "example.com"),
        ("example.com", "smtp.example.net", "example.com"),
        ("bücher.example", "mail.xn--bcher-kva.example", None),
    ],
)
def test_which_name_the_certificate_must_hold(domain: str, target: str, identity: str | None) -> None:
    found = Found(from_url(f"smtp+srv://ann:x@{domain}"), (("implicit", (Record(0, 0, 465, target),)),), 60.0)
    [server] = found.servers(lambda: 0.0)
    assert server == Server(target, 465, "implicit", username="ann", password="x", identity=identity)


def test_equal_priorities_are_shared_by_weight() -> None:
    """RFC 2782: in proportion, and who has no weight has a very small chance."""
    records = [Record(5, 60, 1, "a"), Record(5, 20, 1, "b"), Record(5, 20, 1, "c"), Record(5, 0, 1, "d")]
    first = Counter(order(records, partial(float, step / 1010))[0].target for step in range(1010))
    assert first == {"d": 10, "a": 600, "b": 200, "c": 200}
    for chance in (0.0, 0.5, 0.999999):
        assert sorted(order([*records, Record(1, 0, 1, "e")], lambda: chance)[1:]) == sorted(records)  # noqa: B023


def test_without_dnspython_the_pip_command_is_said() -> None:
    program = (
        "import sys; sys.modules['dns'] = None\n"
        "from smtpbackend import Mailer\n"
        "try: Mailer('smtp+srv://example.com')\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == 'MissingExtra smtp+srv:// needs dnspython: pip install "smtpbackend[srv]"\n'
