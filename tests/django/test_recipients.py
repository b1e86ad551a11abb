"""Who gets the mail of a Django site: the bounce address, and the guards of a staging site."""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes
from typing import Any

import pytest

from smtpbackend import Status
from smtpbackend.errors import RecipientsRefused
from smtpbackend_django import EmailBackend
from tests.django.conftest import email_settings, mail
from tests.servers.aiosmtpd_server import AiosmtpdServer

Configured = Callable[..., EmailBackend]


@pytest.fixture(params=["keyword", "SMTPBACKEND"])
def backend_with(request: pytest.FixtureRequest, server: AiosmtpdServer) -> Any:
    """A backend of the server with one more setting, as an option (`MAILERS`, `OPTIONS`) and in `SMTPBACKEND`."""

    def make(name: str, value: Any) -> Any:
        if request.param == "keyword":
            return EmailBackend(host=server.host, port=server.port, **{name: value})
        with email_settings(SMTPBACKEND={"HOST": server.host, "PORT": server.port, name.upper(): value}):
            return EmailBackend()

    return make


def test_a_bounce_address(backend_with: Any, server: AiosmtpdServer) -> None:
    """MAIL FROM is apart from `from_email`, which is still checked as Django does."""
    backend = backend_with("bounce_address", "bounces@example.net")
    assert backend.send_messages([mail(), mail()]) == 2
    assert {arrived.sender for arrived in server.arrived} == {"bounces@example.net"}
    assert {message_from_bytes(arrived.content)["From"] for arrived in server.arrived} == {"from@example.com"}
    message = mail()
    message.from_email = "nobody at all"
    with pytest.raises(ValueError, match=r"nobody at all|Invalid"):
        backend.send_messages([message])


def test_only_to(backend_with: Any, server: AiosmtpdServer, fired: list[tuple[str, dict[str, Any]]]) -> None:
    """The others are rejected, and the signal says so; who is alone and left out is an error."""
    backend = backend_with("only_to", ["example.org"])
    message = mail("ann@example.org", "bob@example.com")
    assert backend.send_messages([message]) == 1
    (arrived,) = server.arrived
    assert arrived.recipients == ("ann@example.org",)
    (rejected,) = message.smtp_receipt.rejected
    assert str(rejected.address) == "bob@example.com"
    assert [carried["outcome"] for name, carried in fired if name == "recipient_rejected"] == [rejected]
    alone = mail("bob@example.com")
    with pytest.raises(RecipientsRefused, match=r"ONLY_TO|only_to"):
        backend.send_messages([alone])
    assert ("message_failed", alone) in [(name, carried.get("message")) for name, carried in fired]


def test_redirect_to(backend_with: Any, server: AiosmtpdServer) -> None:
    """One address gets all; the receipt is of the intended ones, Bcc too."""
    message = mail("ann@example.org", bcc=["zoe@example.org"])
    assert backend_with("redirect_to", "team@example.net").send_messages([message]) == 1
    (arrived,) = server.arrived
    assert arrived.recipients == ("team@example.net",)
    assert message_from_bytes(arrived.content)["X-Original-To"] == "ann@example.org, zoe@example.org"
    assert [str(outcome.address) for outcome in message.smtp_receipt.accepted] == ["ann@example.org", "zoe@example.org"]


def test_what_is_wrong_with_a_message_rejects_nobody(
    backend: EmailBackend, server: AiosmtpdServer, fired: list[tuple[str, dict[str, Any]]]
) -> None:
    """Each recipient failed, by what Django raises; the signal says so, and the other messages are sent."""
    broken, other = mail("ann@example.org", "zoe@example.org"), mail()
    broken.subject = "two\nlines"
    with pytest.raises(ValueError, match=r"newline|linefeed") as raised:  # what Django raises
        backend.send_messages([broken, other])
    receipt = broken.smtp_receipt
    assert [outcome.status for outcome in receipt.outcomes] == [Status.FAILED] * 2
    assert receipt.error is raised.value
    assert ("message_failed", broken) in [(name, carried.get("message")) for name, carried in fired]
    assert other.smtp_receipt.ok


@pytest.mark.parametrize("bad", ["bob@@example.org", "bob smith@example.org"])
def test_a_badly_written_address_raises_as_in_django(backend: EmailBackend, server: AiosmtpdServer, bad: str) -> None:
    """Django's own tests ask for ValueError; the other messages are sent."""
    other = mail()
    with pytest.raises(ValueError, match=r"Invalid|not an address|recipients"):
        backend.send_messages([mail("ann@example.org", bad), other])
    assert [arrived.recipients for arrived in server.arrived] == [("ann@example.org",)]
    assert other.smtp_receipt.ok
