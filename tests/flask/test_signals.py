"""The signals of an app: who sends them, and what they carry."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import blinker
import flask_mail
import pytest
from flask import Flask

import smtpbackend_flask
from smtpbackend import CancelSend, DeliveryError, RecipientsRefused, Status, signals
from smtpbackend_flask import Mail, Message
from tests.flask.conftest import MakeApp
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.ports import free_ports

StartServer = Callable[..., AiosmtpdServer]


@pytest.fixture
def heard() -> list[tuple[str, Any, dict[str, Any]]]:
    """What every signal of Flask apps said, and receivers that live as long as the test."""
    return Heard()


class Heard(list[tuple[str, Any, dict[str, Any]]]):
    """Name, sender and arguments of each signal."""

    def __init__(self) -> None:
        super().__init__()
        self._receivers = []
        for name, signal in smtpbackend_flask.signals.items():
            receiver = self._receiver(name)
            self._receivers.append(receiver)
            signal.connect(receiver)

    def _receiver(self, name: str) -> Callable[..., None]:
        def receive(sender: Any, **fields: Any) -> None:
            self.append((name, sender, fields))

        return receive


def test_one_namespace_has_them_all() -> None:
    """``signals`` is a blinker Namespace, as in flask_mail; the signals of the core are others."""
    assert isinstance(smtpbackend_flask.signals, blinker.Namespace)
    assert set(smtpbackend_flask.signals) == {*signals.namespace, "email-dispatched"}
    for name, signal in signals.namespace.items():
        assert getattr(smtpbackend_flask, name) is smtpbackend_flask.signals[name]
        assert getattr(smtpbackend_flask, name) is not signal
        assert getattr(smtpbackend_flask, name).__doc__ == signal.__doc__


def test_the_sender_is_the_app(aiosmtpd: StartServer, make_app: MakeApp, heard: Heard) -> None:
    """Two apps, one Mail, one server: each signal names its app and the message that was given."""
    server = aiosmtpd(refused={"bob@example.com": "550 5.1.1 No such user", "cid@example.com": "450 4.2.1 Busy"})
    mail = Mail()
    one, _ = make_app(server, mail)
    two, _ = make_app(server, mail)
    to = ["ann@example.com", "bob@example.com", "cid@example.com"]
    for app in (one, two):
        heard.clear()
        with app.app_context():
            message = Message("Hi", to, "Hello")
            receipt = mail.send(message)
        assert [name for name, _, _ in heard] == [
            "message_sending",
            "recipient_rejected",
            "recipient_deferred",
            "message_sent",
            "email-dispatched",
        ]
        assert all(sender is app and fields["message"] is message for _, sender, fields in heard)
        assert heard[1][2]["outcome"].status is Status.REJECTED
        assert heard[2][2]["outcome"].status is Status.DEFERRED
        assert heard[3][2]["receipt"] is receipt
        assert set(heard[0][2]) == {"message", "envelope"}


def test_failures(make_app: MakeApp, aiosmtpd: StartServer, heard: Heard) -> None:
    """server_failed has no message; message_failed has the receipt and the error that is raised."""
    server = aiosmtpd(refused={"bob@example.com": "550 5.1.1 No such user"})
    (port,) = free_ports(1)
    app, mail = make_app(SMTPBACKEND_SERVERS=[f"smtp://127.0.0.1:{port}", f"smtp://{server.host}:{server.port}"])
    with app.app_context(), pytest.raises(RecipientsRefused) as raised:
        mail.send(flask_mail.Message("Hi", ["bob@example.com"], "Hello"))
    assert [name for name, _, _ in heard] == [
        "message_sending",
        "server_failed",
        "recipient_rejected",
        "message_failed",
    ]
    assert heard[1][2]["server"] == f"127.0.0.1:{port}"
    assert (heard[1][1], heard[1][2]["phase"]) == (app, "connect")
    assert heard[3][2]["receipt"] is raised.value.receipt


def test_a_receiver_cancels(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Nothing is sent."""
    server = aiosmtpd()
    app, mail = make_app(server)

    def cancel(sender: Flask, message: Any, **_: Any) -> None:
        raise CancelSend(f"not {message.subject}")

    smtpbackend_flask.message_sending.connect(cancel, sender=app)
    with app.app_context(), pytest.raises(CancelSend, match="not Hi"):
        mail.send_message("Hi", ["ann@example.com"], "Hello")
    assert server.connections == 0


def test_a_broken_receiver_breaks_no_delivery(
    aiosmtpd: StartServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, once for each receiver and kind of error."""
    server = aiosmtpd()
    app, mail = make_app(server)
    called: list[Flask] = []

    def fail(sender: Flask, **_: Any) -> None:
        called.append(sender)
        raise RuntimeError("broken receiver")

    for signal in smtpbackend_flask.signals.values():
        signal.connect(fail, sender=app)
    with app.app_context():
        assert mail.send_message("Hi", ["ann@example.com"], "Hello").ok
    assert len(server.arrived) == 1
    assert called == [app] * 3
    assert [record.event for record in caplog.records] == ["message_sending"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_suppressed", [False, True], ids=["down", "suppressed"])
def test_a_receiver_is_not_called_from_inside_of_itself(make_app: MakeApp, is_suppressed: bool) -> None:
    """Each of two logs an error, which a handler mails by the same app, whose server is down: there is an end."""
    app, mail = make_app(MAIL_PORT=free_ports(1)[0], TESTING=is_suppressed)
    calls: list[str] = []

    class Mailing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert len(calls) < 100
            mail.send_message("Error", ["admin@example.com"], record.getMessage())

    def one(sender: Flask, message: Any, **_: Any) -> None:
        calls.append(f"one {message.subject}")
        app.logger.error("%s", message)

    def other(sender: Flask, message: Any, **_: Any) -> None:
        calls.append(f"other {message.subject}")
        app.logger.error("%s", message)

    app.logger.addHandler(handler := Mailing(logging.ERROR))
    name = "email-dispatched" if is_suppressed else "message_failed"
    signal = smtpbackend_flask.signals[name]
    try:
        with (
            signal.connected_to(one, app),
            signal.connected_to(other, app),
            app.app_context(),
            nullcontext() if is_suppressed else pytest.raises(DeliveryError),
        ):
            mail.send_message("Hi", ["ann@example.com"], "Hello")
    finally:
        app.logger.removeHandler(handler)
    assert sorted(calls) == ["one Error", "one Hi", "other Error", "other Hi"]


def test_suppressed_messages_are_told_as_accepted(make_app: MakeApp, heard: Heard) -> None:
    """What is connected to the signals can be tested."""
    app, mail = make_app(TESTING=True)
    with app.app_context():
        receipt = mail.send_message("Hi", ["ann@example.com"], "Hello")
    assert [name for name, _, _ in heard] == ["message_sending", "message_sent", "email-dispatched"]
    assert heard[1][2]["receipt"] is receipt
    assert all(sender is app for _, sender, _ in heard)


def test_without_flask_mail() -> None:
    """The extension needs only Flask; email_dispatched is then our own, under Flask-Mail's name."""
    program = """
import sys
import threading
sys.modules["flask_mail"] = None  # as if it were not installed
from flask import Flask
from smtpbackend_flask import Mail, Message, email_dispatched, signals
assert signals["email-dispatched"] is email_dispatched and email_dispatched.name == "email-dispatched"
app = Flask("app")
app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="app@example.com")
mail = Mail(app)
with mail.record_messages() as outbox:
    assert mail.send(Message("Hi", ["ann@example.com"], "Hällo", "<p>")).ok
assert len(outbox) == 1
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=300)


@pytest.mark.parametrize("number", [1, 3], ids=["single", "batch"])
def test_a_receiver_that_sends_waits_for_nobody(aiosmtpd: StartServer, make_app: MakeApp, number: int) -> None:
    """All threads have one connection between them, and each receiver tells the administrators."""
    server = aiosmtpd(refused={"bob@example.com": "550 5.1.1 No such user"})
    app, mail = make_app(server, SMTPBACKEND_MAX_CONNECTIONS=1)
    sent: list[bool] = []

    def tell(sender: Flask, **_: Any) -> None:
        sent.append(mail.send(Message("Refused", ["admin@example.com"], "Hello")).ok)

    def send() -> None:
        with app.app_context():
            for _ in range(5):
                with mail.connect() as connection:
                    messages = [Message("Hi", ["ann@example.com", "bob@example.com"], "Hello") for _ in range(number)]
                    sent.extend(bool(receipt.accepted) for receipt in connection.send_many(messages))

    threads = [threading.Thread(target=send) for _ in range(4)]
    with smtpbackend_flask.signals["recipient_rejected"].connected_to(tell):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sent == [True] * 40 * number
    assert len(server.arrived) == 40 * number
