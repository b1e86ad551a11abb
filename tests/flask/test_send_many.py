"""`Connection.send_many`: a stream of messages, several of them in flight."""

from __future__ import annotations

from email.message import EmailMessage
from typing import Any

import pytest

from smtpbackend import Status
from smtpbackend.errors import InvalidInput, RecipientsRefused
from smtpbackend.testing import EXTENSIONS, Play
from smtpbackend_flask import IncompleteMessage, Message
from smtpbackend_flask.signals import email_dispatched, message_failed, message_sent
from tests.flask.conftest import MakeApp


def messages(count: int) -> list[Message]:
    return [Message(f"nr {number}", [f"u{number}@example.org"], "Hello") for number in range(count)]


class Foreign:
    """Like a message of Flask-Mail, but that no field has its recipients."""

    sender, subject, send_to, date = "app@example.com", "Hi", {"ann@example.com"}, None

    def as_bytes(self) -> bytes:
        return b"Subject: Hi\r\n\r\nHello\r\n"


def test_a_message_whose_recipients_are_nowhere_fails_alone(make_app: MakeApp, smtp_server: Any) -> None:
    server = smtp_server(Play())
    app, mail = make_app(MAIL_SERVER=server.host, MAIL_PORT=server.port)
    given = [*messages(1), Foreign(), *messages(1)]
    with app.app_context(), mail.connect() as connection:
        first, second, third = connection.send_many(given)
        assert (first.ok, third.ok) == (True, True)
        with pytest.raises(IncompleteMessage, match="No recipients have been added"):
            raise second.error or LookupError
        with pytest.raises(IncompleteMessage, match="No recipients have been added"):
            connection.send(Foreign())


def test_they_leave_in_windows(make_app: MakeApp, smtp_server: Any) -> None:
    most = 0

    def answer(_: str) -> str:
        nonlocal most
        most = max(most, server.received.count(b"MAIL FROM") - len(server.handed_over))
        return "250 ok"

    postfix = {"": "220 mx.example.com ESMTP Postfix", ".": answer}  # which takes the probe, and then chunks
    server = smtp_server(Play(postfix, (*EXTENSIONS, "CHUNKING")))
    app, mail = make_app(MAIL_SERVER=server.host, MAIL_PORT=server.port)
    with app.app_context(), mail.connect() as connection:
        receipts = list(connection.send_many(messages(40)))
    assert [str(receipt.outcomes[0].address) for receipt in receipts] == [f"u{n}@example.org" for n in range(40)]
    assert all(receipt.ok for receipt in receipts)
    assert most >= 10
    assert server.waits < 20
    assert sum(line.endswith(" LAST") for line in server.commands) == 39


@pytest.mark.parametrize("suppressed", [False, True])
def test_one_that_cannot_be_sent_has_a_receipt_in_its_place(
    make_app: MakeApp, smtp_server: Any, suppressed: bool
) -> None:
    server = smtp_server(Play({"RCPT TO:<u2@": "550 5.1.1 nobody"}))
    app, mail = make_app(MAIL_SERVER=server.host, MAIL_PORT=server.port, MAIL_SUPPRESS_SEND=suppressed)
    given = messages(4)
    given[1].subject = "two\nlines"
    given[3].recipients = []
    sent: list[Any] = []
    failed: list[Any] = []
    dispatched: list[Any] = []
    with (
        message_sent.connected_to(lambda _, message, **fields: sent.append(message), app),
        message_failed.connected_to(lambda _, message, **fields: failed.append(message), app),
        email_dispatched.connected_to(lambda _, message, **fields: dispatched.append(message), app),
        app.app_context(),
        mail.connect() as connection,
    ):
        receipts = list(connection.send_many(given))
    assert len(receipts) == 4
    assert receipts[0].ok
    for number in (1, 3):
        assert isinstance(receipts[number].error, InvalidInput)
        assert receipts[number].error.receipt is receipts[number]
    if suppressed:
        assert sent == dispatched == [given[0], given[2]]
        return
    assert isinstance(receipts[2].error, RecipientsRefused)
    assert receipts[2].outcomes[0].status is Status.REJECTED
    assert sent == [given[0]]
    assert failed == given[1:]
    assert dispatched == [given[0]]  # nobody was accepted of the others
    assert receipts[1].failed == receipts[1].outcomes != ()


def test_who_stops_taking_receipts_frees_the_connection(make_app: MakeApp, smtp_server: Any) -> None:
    server = smtp_server(Play(extensions=(*EXTENSIONS, "CHUNKING")))
    app, mail = make_app(MAIL_SERVER=server.host, MAIL_PORT=server.port)
    with app.app_context(), mail.connect() as connection:
        stream = connection.send_many(message for message in messages(1000))
        assert next(stream).ok
        stream.close()  # type: ignore[attr-defined]
        stats = mail.mailer.stats()
        assert stats.open == stats.idle == 1
        assert stats.sent == len(server.handed_over) < 1000


def test_the_same_message_may_come_twice(make_app: MakeApp, smtp_server: Any) -> None:
    server = smtp_server(Play(extensions=(*EXTENSIONS, "CHUNKING")))
    app, mail = make_app(MAIL_SERVER=server.host, MAIL_PORT=server.port)
    message = EmailMessage()
    message["From"], message["To"] = "app@example.com", "ann@example.org"
    message.set_content("Hello")
    sent: list[Any] = []
    with (
        message_sent.connected_to(lambda _, message, **fields: sent.append(message), app),
        app.app_context(),
        mail.connect() as connection,
    ):
        receipts = list(connection.send_many([message] * 5))
    assert all(receipt.ok for receipt in receipts)
    assert len(server.handed_over) == 5
    assert sent == [message] * 5
