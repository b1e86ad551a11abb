"""Who gets the mail of a Flask app: badly written addresses, and the settings that say who may."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from typing import Any

import flask_mail
import pytest

from smtpbackend import InvalidInput, RecipientsRefused, Status
from smtpbackend_flask import BadHeaderError, Message, message_failed, recipient_rejected
from tests.flask.conftest import MakeApp, parsed
from tests.servers.aiosmtpd_server import AiosmtpdServer

StartServer = Callable[..., AiosmtpdServer]
BAD = ["bob@example.org.", "bob@@example.org", "bob smith@example.org", "bob@example..org", "", None, 5]


def many(mail: Any, *messages: Any) -> list[Any]:
    with mail.connect() as connection:
        return list(connection.send_many(messages))


def one(mail: Any, message: Any) -> Any:
    return mail.send(message)


def first_of_many(mail: Any, message: Any) -> Any:
    return many(mail, message)[0]


@pytest.mark.parametrize("kind", [Message, flask_mail.Message])
@pytest.mark.parametrize("send", [one, first_of_many])
@pytest.mark.parametrize("suppress", [False, True])
@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_one_that_is_badly_written_does_not_sink_the_others(
    aiosmtpd: StartServer, make_app: MakeApp, kind: Any, send: Any, suppress: bool, bad: Any
) -> None:
    """It is rejected with its field and place, told by the signal, and named in no header; the others get the mail."""
    if kind is flask_mail.Message and not isinstance(bad, str):
        return  # Flask-Mail's own writing of the header fails on it
    server = aiosmtpd()
    app, mail = make_app(server, MAIL_SUPPRESS_SEND=suppress)
    told: list[tuple[Any, Any]] = []

    def hear(sender: Any, message: Any, outcome: Any, **fields: Any) -> None:
        told.append((message, outcome))

    with app.app_context(), recipient_rejected.connected_to(hear):
        message = kind("Hi", ["ann@example.com", bad, "zoe@example.com"], "x", bcc=["bcc@example.com"])
        receipt = send(mail, message)
    assert [str(outcome.address) for outcome in receipt.accepted] == [
        "ann@example.com",
        "zoe@example.com",
        "bcc@example.com",
    ]
    (rejected,) = receipt.rejected
    assert rejected.address == (bad if isinstance(bad, str) else repr(bad))
    assert rejected.error.field == "recipients[1]"
    assert rejected.no_such_mailbox
    assert told == [(message, rejected)]
    assert message.recipients == ["ann@example.com", bad, "zoe@example.com"]
    if not suppress:
        (arrived,) = server.arrived
        assert arrived.recipients == ("ann@example.com", "zoe@example.com", "bcc@example.com")
        assert set(parsed(arrived)["To"].split(", ")) == {"ann@example.com", "zoe@example.com"}
        assert parsed(arrived)["Message-ID"] == message.msgId


@pytest.mark.parametrize("suppress", [False, True])
def test_nobody_is_left(aiosmtpd: StartServer, make_app: MakeApp, suppress: bool) -> None:
    """`except smtplib.SMTPException` catches it, as it did with Flask-Mail."""
    server = aiosmtpd()
    app, mail = make_app(server, MAIL_SUPPRESS_SEND=suppress)
    told: list[str] = []
    with (
        app.app_context(),
        message_failed.connected_to(lambda sender, **fields: told.append("failed")),
        pytest.raises(smtplib.SMTPException) as raised,
    ):
        mail.send(Message("Hi", ["bob@@example.org"], "x"))
    assert isinstance(raised.value, RecipientsRefused)
    assert told == ["failed"]
    assert server.connections == 0


BROKEN: dict[str, Any] = {
    "an attachment": lambda message: message.attach("a", "text/plain", 7),
    "a sender": lambda message: setattr(message, "sender", "@"),
    "a subject": lambda message: setattr(message, "subject", "two\nlines"),
    "a date": lambda message: setattr(message, "date", "today"),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("suppress", [False, True])
def test_what_is_wrong_with_a_message_rejects_nobody(
    aiosmtpd: StartServer, make_app: MakeApp, broken: str, suppress: bool
) -> None:
    """Everybody failed, once, and the signal of a message that failed says so; suppressed sending tells the same."""
    server = aiosmtpd()
    app, mail = make_app(server, MAIL_SUPPRESS_SEND=suppress)
    told: list[Any] = []

    def hear(sender: Any, message: Any, receipt: Any, **fields: Any) -> None:
        told.append((message, receipt))

    with app.app_context(), message_failed.connected_to(hear):
        message = Message("Hi", ["ann@example.com", "@"], "x", bcc=["zoe@example.com"])
        BROKEN[broken](message)
        with pytest.raises(InvalidInput) as raised:
            mail.send(message)
        (receipt,) = many(mail, message)
    for one in (raised.value.receipt, receipt):
        fates = {str(outcome.address): outcome.status for outcome in one.outcomes}
        assert fates == {"ann@example.com": Status.FAILED, "zoe@example.com": Status.FAILED, "@": Status.REJECTED}
        assert type(one.error) is type(raised.value)
    assert [given for given, _ in told] == [message, message]
    assert server.connections == 0


@pytest.mark.parametrize("evil", ["bob@example.org\r\nBcc: eve@x.org", "bob\n@example.org", "b\0ob@example.org"])
def test_an_injection_refuses_the_whole_message(aiosmtpd: StartServer, make_app: MakeApp, evil: str) -> None:
    """As Flask-Mail refuses it."""
    server = aiosmtpd()
    app, mail = make_app(server)
    for field in ("recipients", "cc", "bcc"):
        with app.app_context(), pytest.raises(BadHeaderError):
            mail.send(
                Message(**{"subject": "Hi", "recipients": ["ann@example.com"], "body": "x", field: ["a@b.c", evil]})
            )
    assert server.connections == 0


@pytest.mark.parametrize("field", ["reply_to", "sender"])
@pytest.mark.parametrize(
    "pair", [("Bob", "b@x.org> , <eve@evil.example"), ("Bob", "b@x.org, eve@evil.example"), (1, 2, 3)]
)
def test_a_pair_has_one_address(make_app: MakeApp, field: str, pair: Any) -> None:
    """In whatever field."""
    app, mail = make_app(MAIL_SUPPRESS_SEND=True)
    with app.app_context(), pytest.raises(InvalidInput):
        mail.send(Message("Hi", ["ann@example.com"], "x", **{field: pair}))


@pytest.mark.parametrize("given", [("Ann", "ann@example.com", "bob@example.com"), ("bob@example.com", "Ann")])
@pytest.mark.parametrize("field", ["recipients", "cc", "bcc"])
def test_no_name_in_a_tuple_becomes_a_mailbox(given: Any, field: str) -> None:
    with pytest.raises(InvalidInput, match="give a list"):
        Message("Hi", **{field: given})


@pytest.mark.parametrize("kind", [Message, flask_mail.Message])
@pytest.mark.parametrize("field", ["recipients", "cc", "bcc"])
@pytest.mark.parametrize("given", [("Ann", "ann@example.com"), ("ann@example.com", "Ann", "bob@example.com")])
def test_nor_does_one_in_a_tuple_that_is_set_later(
    aiosmtpd: StartServer, make_app: MakeApp, kind: Any, field: str, given: Any
) -> None:
    """``message.recipients = (user.name, user.email)``: it is rejected, in no header, and the others get the mail."""
    server = aiosmtpd()
    app, mail = make_app(server)
    with app.app_context():
        message = kind("Hi", ["zoe@example.com"], "x")
        setattr(message, field, given)
        receipt = mail.send(message)
    assert [outcome.address for outcome in receipt.rejected] == ["Ann"]
    assert receipt.rejected[0].error.field == f"{field}[{given.index('Ann')}]"
    (arrived,) = server.arrived
    assert {one for one in arrived.recipients if one != "zoe@example.com"} == {one for one in given if "@" in one}
    assert b"Ann" not in arrived.content


@pytest.mark.parametrize("kind", [Message, flask_mail.Message])
def test_a_bounce_address(aiosmtpd: StartServer, make_app: MakeApp, kind: Any) -> None:
    """`SMTPBACKEND_BOUNCE_ADDRESS` is in MAIL FROM; `envelope_from` of one message goes first."""
    server = aiosmtpd()
    app, mail = make_app(server, SMTPBACKEND_BOUNCE_ADDRESS="bounces@example.net")
    with app.app_context():
        mail.send(kind("Hi", ["ann@example.com"], "x"))
        many(mail, kind("Hi", ["ann@example.com"], "x"))
        with mail.connect() as connection:
            connection.send(kind("Hi", ["ann@example.com"], "x"), envelope_from="own@example.net")
    assert [arrived.sender for arrived in server.arrived] == ["bounces@example.net"] * 2 + ["own@example.net"]
    assert {parsed(arrived)["From"] for arrived in server.arrived} == {"app@example.com"}


@pytest.mark.parametrize("suppress", [False, True])
def test_a_staging_site(aiosmtpd: StartServer, make_app: MakeApp, suppress: bool) -> None:
    """`only_to` leaves the others out, also where sending is suppressed; `redirect_to` sends all to one."""
    server = aiosmtpd()
    app, mail = make_app(server, SMTPBACKEND_ONLY_TO=["example.com"], MAIL_SUPPRESS_SEND=suppress)
    with app.app_context():
        receipt = mail.send(Message("Hi", ["ann@example.com", "bob@example.org"], "x"))
    assert [outcome.status for outcome in receipt.outcomes] == [Status.ACCEPTED, Status.REJECTED]
    other, other_mail = make_app(server, SMTPBACKEND_REDIRECT_TO="team@example.net", MAIL_SUPPRESS_SEND=suppress)
    with other.app_context():
        receipt = other_mail.send(Message("Hi", ["ann@example.com"], "x", bcc=["bob@example.org"]))
    assert [str(outcome.address) for outcome in receipt.accepted] == ["ann@example.com", "bob@example.org"]
    if not suppress:
        assert [arrived.recipients for arrived in server.arrived] == [("ann@example.com",), ("team@example.net",)]
        assert parsed(server.arrived[1])["X-Original-To"] == "ann@example.com, bob@example.org"
