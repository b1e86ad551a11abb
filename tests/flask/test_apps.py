"""What `Mail` takes for an app, other extensions beside it, messages and settings of Flask in mailers of the core."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from email import message_from_bytes, policy
from typing import Any

import flask_mail
import pytest
from flask import Flask, current_app
from werkzeug.local import LocalProxy

from smtpbackend import AsyncMailer, Envelope, InvalidInput, Mailer, Receipt, RecipientsRefused
from smtpbackend.testing import Play, ScriptedServer
from smtpbackend_flask import IncompleteMessage, Mail, Message, State, mailer_settings
from tests.flask.conftest import MakeApp

StartServer = Callable[..., ScriptedServer]


@pytest.fixture
def app() -> Flask:
    app = Flask("app")
    app.config.update(MAIL_SERVER="mx.example.com", MAIL_DEFAULT_SENDER="app@example.com", MAIL_SUPPRESS_SEND=True)
    return app


# The app


def test_current_app_is_an_app(app: Flask) -> None:
    """As extensions and tutorials make it inside of a request: Mail(current_app), for each mail anew."""
    with app.app_context():
        mail = Mail(current_app)
        assert mail.app is app
        again = Mail()
        assert again.init_app(current_app) is app.extensions["mail"]
        with again.record_messages() as outbox:
            assert mail.send(Message("Hi", ["ann@example.com"])).ok
            assert Mail(current_app).send(Message("Ho", ["ann@example.com"])).ok
    assert [message.subject for message in outbox] == ["Hi", "Ho"]
    assert mail.send(Message("Hi", ["ann@example.com"], sender="app@example.com")).ok  # and behind the request


def test_mail_for_each_request_keeps_the_connections(smtp_server: StartServer, make_app: MakeApp) -> None:
    server = smtp_server()
    app, _ = make_app(MAIL_SERVER=server.host, MAIL_PORT=server.port)
    for _ in range(3):
        with app.app_context():
            Mail(current_app).send(Message("Hi", ["ann@example.com"]))
    assert (server.connections, len(server.handed_over)) == (1, 3)


def test_any_proxy_of_an_app_will_do(app: Flask) -> None:
    assert Mail(LocalProxy(lambda: app)).app is app  # type: ignore[arg-type]
    assert Mail(LocalProxy(lambda: app)).state is app.extensions["mail"]  # type: ignore[arg-type]


def test_without_an_app_flask_says_so() -> None:
    with pytest.raises(RuntimeError, match="outside of application context"):
        Mail(current_app)


def test_what_is_no_flask_app_is_told_what_to_use() -> None:
    """Quart has another current_app, and contexts that are entered by ``async with``."""

    class Quart:
        config: dict[str, Any] = {}  # noqa: RUF012
        extensions: dict[str, Any] = {}  # noqa: RUF012

    for make in (Mail, Mail().init_app):
        with pytest.raises(TypeError, match=r"Quart.*AsyncMailer\(\*\*smtpbackend_flask\.mailer_settings\(app\.config"):
            make(Quart())  # type: ignore[arg-type]
    assert Quart.extensions == {}


# Its extensions


def test_another_extension_at_our_place_is_told(app: Flask) -> None:
    """Who sends by app.extensions["mail"] has another mailer from now on."""
    flask_mail.Mail(app)
    with pytest.warns(RuntimeWarning, match=r'extensions\["mail"\].*\(flask_mail\._Mail\)'):
        Mail(app)
    assert isinstance(app.extensions["mail"], State)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Mail(app)  # ours, again


# Its messages in mailers of the core

Send = Callable[..., Receipt]


@pytest.fixture(params=["Mailer", "AsyncMailer"])
def send(request: pytest.FixtureRequest, smtp_server: StartServer) -> Send:
    """Send by a mailer of the core: `send(message, envelope)`. `send.server` refuses bob."""
    server = smtp_server(Play({"RCPT TO:<bob@example.com>": "550 5.1.1 No such user"}))

    def blocking(*args: Any) -> Receipt:
        with Mailer(server.url) as mailer:
            return mailer.send(*args)

    async def asynchronous(*args: Any) -> Receipt:
        async with AsyncMailer(server.url) as mailer:
            return await mailer.send(*args)

    def send(*args: Any) -> Receipt:
        return blocking(*args) if request.param == "Mailer" else asyncio.run(asynchronous(*args))

    send.server = server  # type: ignore[attr-defined]
    return send


def test_a_mailer_of_the_core_takes_a_message(send: Any) -> None:
    """As Mail does: Bcc unseen, attachments, and the bad entries rejected."""
    people = ["Ann <ann@example.com>", "bob@example.com", "no address"]
    message = Message("Grüße", people, "Hällo", sender="app@example.com", bcc=["eve@example.com"])
    message.attach("a.txt", "text/plain", "x")
    receipt = send(message)
    assert {str(outcome.address): outcome.status.value for outcome in receipt.outcomes} == {
        "ann@example.com": "accepted",
        "bob@example.com": "rejected",
        "eve@example.com": "accepted",
        "no address": "rejected",
    }
    (taken,) = send.server.handed_over
    found = message_from_bytes(taken.content, policy=policy.default)
    assert (found["Subject"], found["From"]) == ("Grüße", "app@example.com")
    assert b"eve@example.com" not in taken.content
    assert receipt.message_id == message.msgId


def test_with_an_envelope(send: Any) -> None:
    """Which alone says who gets it."""
    message = Message("Hi", ["ann@example.com"], "Hello", sender="app@example.com")
    assert send(message, Envelope("", ["eve@example.com"])).ok
    (taken,) = send.server.handed_over
    assert taken.mail.startswith("MAIL FROM:<>")
    assert taken.recipients == ("RCPT TO:<eve@example.com>",)


def test_errors_are_those_of_mail(send: Any) -> None:
    with pytest.raises(RecipientsRefused):
        send(Message("Hi", ["bob@example.com"], sender="app@example.com"))
    with pytest.raises(IncompleteMessage, match="sender"):
        send(Message("Hi", ["ann@example.com"]))
    with pytest.raises(InvalidInput) as raised:
        send(Message("a\r\nb: c", ["ann@example.com"], sender="app@example.com"))
    assert [str(outcome.address) for outcome in raised.value.receipt.failed] == ["ann@example.com"]
    assert send.server.connections == 1


def test_the_sender_is_the_default_of_the_current_app(send: Any, app: Flask) -> None:
    """Also for a message that was made outside of it."""
    Mail(app)
    message = Message("Hi", ["ann@example.com"])
    with app.app_context():
        assert send(message).ok
    assert "<app@example.com>" in send.server.handed_over[0].mail


def test_a_stream_of_them(smtp_server: StartServer) -> None:
    messages = [Message("Hi", [f"user{number}@example.com"], sender="app@example.com") for number in range(3)]
    with Mailer(smtp_server().url, bounce_address="bounces@example.com") as mailer:
        receipts = list(mailer.send_many(messages))
    assert [receipt.message_id for receipt in receipts] == [message.msgId for message in messages]
    assert {str(receipt.envelope.sender) for receipt in receipts if receipt.envelope} == {"bounces@example.com"}


# Mailers made of its settings


def test_a_mailer_of_the_core_is_made_of_the_settings(smtp_server: StartServer) -> None:
    """MAIL_* and SMTPBACKEND_*, as Mail reads them."""
    server = smtp_server()
    config = {"MAIL_SERVER": server.host, "MAIL_PORT": server.port, "SMTPBACKEND_DEADLINE": 9, "MAIL_MAX_EMAILS": 7}

    async def send() -> Receipt:
        async with AsyncMailer(**mailer_settings(config)) as mailer:
            assert (mailer.configuration.deadline, mailer.configuration.limits.max_messages) == (9, 7)
            return await mailer.send(Message("Hi", ["ann@example.com"], sender="app@example.com"))

    assert asyncio.run(send()).ok
    assert len(server.handed_over) == 1


@pytest.mark.parametrize(
    ("config", "suppress"),
    [
        ({}, False),
        ({"TESTING": True}, True),
        ({"MAIL_SUPPRESS_SEND": True}, True),
        ({"TESTING": True, "MAIL_SUPPRESS_SEND": False}, False),
        ({"TESTING": True, "SMTPBACKEND_SUPPRESS_SEND": "0"}, False),
    ],
)
def test_such_a_mailer_is_as_quiet_as_mail(config: dict[str, Any], suppress: bool) -> None:
    with Mailer(**mailer_settings(config)) as mailer:
        assert mailer.configuration.rules.suppress_send is suppress
