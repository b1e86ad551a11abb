"""Mail that goes in clear because the TLS that was offered failed: each receipt says so, and the log does once."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from smtpbackend import Server
from smtpbackend.delivery import alarm
from smtpbackend.errors import TLSFailed
from smtpbackend.testing import Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.tls import Certificates, Kind

OFFER = ("PIPELINING", "STARTTLS")
NOTE = "sent in clear, for TLS was offered and failed: "


@pytest.fixture(autouse=True)
def nobody_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports come again."""
    monkeypatch.setattr(alarm, "told", {})


def warnings(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("play", "certificate", "why"),
    [
        (Play({}, OFFER), "other_host", "is not trusted"),
        (Play({}, OFFER), "self_signed", "is not trusted"),
        (Play({"STARTTLS": "454 4.7.0 not now"}, OFFER), None, "refused STARTTLS with 454 4.7.0 not now"),
    ],
)
def test_each_receipt_says_so_and_the_log_once(
    twin: Twin,
    scripted: Scripted,
    ca: Certificates,
    caplog: pytest.LogCaptureFixture,
    play: Play,
    certificate: Kind | None,
    why: str,
) -> None:
    """On the connection at hand and on those that follow, of this mailer and of another one of the process."""
    server = scripted(play, certificate=certificate)
    for _ in range(2):
        mailer = twin(Server(server.host, server.port, tls="opportunistic"), max_messages=2)
        receipts = [*mailer.send_many([hello() for _ in range(5)]), mailer.send(hello())]
        assert all(receipt.ok for receipt in receipts)
        for receipt in receipts:
            (note,) = receipt.notes
            assert note.startswith(NOTE + ("" if certificate is None else "the certificate of "))
            assert server.name in note
            assert why in note
    (record,) = warnings(caplog)
    assert record.name == "smtpbackend"
    assert record.server == server.name
    assert record.getMessage().startswith(f"smtpbackend.in_clear server={server.name} ")
    assert why in record.getMessage()


@pytest.mark.parametrize("policy", ["none", "opportunistic"])
def test_where_no_tls_is_offered_or_wanted_nothing_is_said(
    twin: Twin, scripted: Scripted, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    server = scripted(Play({}, OFFER if policy == "none" else ("PIPELINING",)))
    assert twin(Server(server.host, server.port, tls=policy)).send(hello()).notes == ()
    assert warnings(caplog) == []


def test_where_tls_is_had_nothing_is_said(
    twin: Twin, scripted: Scripted, ca: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted(Play({}, OFFER), certificate="server")
    assert twin(Server(server.host, server.port, tls="opportunistic", ca_file=str(ca.ca_file))).send(hello()).ok
    assert warnings(caplog) == []


def test_the_note_is_of_the_server_that_took_the_mail(twin: Twin, scripted: Scripted, ca: Certificates) -> None:
    """The first one, where it would have gone in clear, refuses it; the next has TLS."""
    first = scripted(Play({"MAIL": "451 4.3.0 later"}, OFFER), certificate="self_signed")
    second = scripted(Play({}, OFFER), certificate="server")
    servers = [
        Server(first.host, first.port, tls="opportunistic"),
        Server(second.host, second.port, tls="opportunistic", ca_file=str(ca.ca_file)),
    ]
    receipt = twin(*servers).send(hello())
    assert receipt.server == second.name
    assert receipt.notes == ()


def test_what_is_remembered_of_servers_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    for port in range(2 * alarm.MOST):
        alarm.in_clear(f"mx.example.com:{port}", TLSFailed("no"))
    assert len(alarm.told) <= alarm.MOST
    assert len(warnings(caplog)) == 2 * alarm.MOST


def test_a_log_that_cannot_be_written_loses_no_mail(twin: Twin, scripted: Scripted) -> None:
    """A handler may raise: the disk is full, or it sends mail itself."""

    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("No space left on device")

    handler = Full()
    logging.getLogger("smtpbackend").addHandler(handler)
    try:
        assert twin(scripted(Play({"STARTTLS": "454 4.7.0 not now"}, OFFER)).url, tls="opportunistic").send(hello()).ok
    finally:
        logging.getLogger("smtpbackend").removeHandler(handler)
