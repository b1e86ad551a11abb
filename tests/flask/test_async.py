"""Async views: `asend`, which is `send` over an AsyncMailer, and what becomes of connections when a loop ends."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from asgiref.wsgi import WsgiToAsgi
from flask import Flask

import smtpbackend_flask
from smtpbackend import CancelSend, Envelope, RecipientsRefused, TimedOut
from smtpbackend.testing import SILENCE, Play, ScriptedServer
from smtpbackend_flask import BadHeaderError, IncompleteMessage, Mail, Message, email_dispatched
from tests.flask.conftest import MakeApp
from tests.servers.ports import wait_until

StartServer = Callable[..., ScriptedServer]
PATIENCE = 20.0  # seconds for what takes milliseconds


def config_of(server: ScriptedServer) -> dict[str, Any]:
    return {"MAIL_SERVER": server.host, "MAIL_PORT": server.port}


def with_view(app: Flask, mail: Mail, **fields: Any) -> None:
    """Give an app an async view that sends one message."""

    @app.get("/")
    async def index() -> dict[str, str]:
        receipt = await mail.asend(Message(**{"subject": "Hi", "recipients": ["ann@example.com"], **fields}))
        return {str(outcome.address): outcome.status.value for outcome in receipt.outcomes}


def test_an_async_view_sends(smtp_server: StartServer, make_app: MakeApp) -> None:
    """From MAIL_DEFAULT_SENDER, Bcc unseen, and it hears what became of each recipient."""
    server = smtp_server(Play({"RCPT TO:<bob@example.com>": "550 5.1.1 No such user"}))
    app, mail = make_app(**config_of(server))
    with_view(app, mail, cc=["bob@example.com"], bcc=["eve@example.com"], body="Hello")
    assert app.test_client().get("/").json == {
        "ann@example.com": "accepted",
        "bob@example.com": "rejected",
        "eve@example.com": "accepted",
    }
    (taken,) = server.handed_over
    assert taken.mail == "MAIL FROM:<app@example.com>" or taken.mail.startswith("MAIL FROM:<app@example.com> ")
    assert b"eve@example.com" not in taken.content


FIRST = """
import asyncio, sys
from flask import Flask
from smtpbackend_flask import Mail, Message

app = Flask("site")
app.config.update(MAIL_SERVER="127.0.0.1", MAIL_PORT=int(sys.argv[1]), MAIL_DEFAULT_SENDER="app@example.com")
mail = Mail()
state = mail.init_app(app)
if sys.argv[2] == "asend":
    state.async_mailer
before = set(sys.modules)
message = Message("Hi", recipients=["ann@example.com"], body="Hello", html="<p>Hello")
with app.app_context():
    assert (asyncio.run(mail.asend(message)) if sys.argv[2] == "asend" else mail.send(message)).ok
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("way", ["send", "asend"])
def test_the_first_mail_loads_no_module_where_its_mailer_is_there(smtp_server: StartServer, way: str) -> None:
    """That of `send` is, when the app is initialised; that of `asend` when it is first asked for."""
    command = [sys.executable, "-c", FIRST, str(smtp_server().port), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_signals_are_those_of_send(smtp_server: StartServer, make_app: MakeApp) -> None:
    """The same ones in the same order, with the same fields, the app being the sender."""
    app, mail = make_app(**config_of(smtp_server()))
    heard: list[Any] = []

    def hear(name: str) -> Callable[..., None]:
        def receiver(sender: Any, **fields: Any) -> None:
            heard.append((name, sender, sorted(fields), fields["message"].subject))

        return receiver

    receivers = {name: hear(name) for name in smtpbackend_flask.signals}
    for name, receiver in receivers.items():
        smtpbackend_flask.signals[name].connect(receiver, sender=app)
    with app.app_context():
        mail.send(Message("Hi", ["ann@example.com"], "Hello"))
        told_of_send, heard[:] = list(heard), []
        asyncio.run(mail.asend(Message("Hi", ["ann@example.com"], "Hello")))
    assert heard == told_of_send
    assert {name for name, *_ in heard} == {"message_sending", "message_sent", "email-dispatched"}
    assert all(sender is app for _, sender, _, _ in heard)


@pytest.mark.parametrize("config", [{"MAIL_SUPPRESS_SEND": True}, {"TESTING": True}])
def test_nothing_leaves_while_sending_is_suppressed(
    smtp_server: StartServer, make_app: MakeApp, config: dict[str, Any]
) -> None:
    """And `record_messages` has the messages."""
    server = smtp_server()
    app, mail = make_app(**config_of(server), **config)
    with_view(app, mail)
    with mail.record_messages() as outbox:
        assert app.test_client().get("/").json == {"ann@example.com": "accepted"}
    assert [message.subject for message in outbox] == ["Hi"]
    assert server.connections == 0


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"recipients": []}, IncompleteMessage),
        ({"subject": "a\r\nBcc: x@example.com"}, BadHeaderError),
        ({"recipients": ["bob@example.com"]}, RecipientsRefused),
        ({"subject": "cancelled"}, CancelSend),
    ],
)
def test_it_raises_what_send_raises(
    smtp_server: StartServer, make_app: MakeApp, fields: dict[str, Any], kind: type[Exception]
) -> None:
    server = smtp_server(Play({"RCPT": "550 5.1.1 No such user"}))
    app, mail = make_app(**config_of(server))

    @smtpbackend_flask.message_sending.connect_via(app)
    def cancel(sender: Any, message: Any, **_: Any) -> None:
        if message.subject == "cancelled":
            raise CancelSend

    message = Message(**{"subject": "Hi", "recipients": ["ann@example.com"], **fields})
    dispatched: list[Any] = []
    with app.app_context(), email_dispatched.connected_to(lambda *_, **fields: dispatched.append(fields), app):
        with pytest.raises(kind) as blocking:
            mail.send(message)
        with pytest.raises(kind) as raised:
            asyncio.run(mail.asend(message))
    assert str(raised.value) == str(blocking.value)
    assert getattr(raised.value, "receipt", None) is not None or kind is IncompleteMessage
    assert dispatched == []


def test_with_an_envelope(smtp_server: StartServer, make_app: MakeApp) -> None:
    server = smtp_server()
    app, mail = make_app(**config_of(server))
    with app.app_context():
        receipt = asyncio.run(mail.asend(b"Subject: x\r\n\r\nHello\r\n", Envelope("", ["eve@example.com"])))
    assert receipt.ok
    assert server.handed_over[0].mail.startswith("MAIL FROM:<>")


# A loop for each request


def test_each_request_closes_its_connection(smtp_server: StartServer, make_app: MakeApp) -> None:
    """Flask runs each async view in a loop of its own: QUIT is said before that ends, whichever thread it was in."""
    server = smtp_server()
    app, mail = make_app(**config_of(server))
    with_view(app, mail)
    answers: list[int] = []

    def ask() -> None:
        answers.extend(app.test_client().get("/").status_code for _ in range(3))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 12
    assert wait_until(lambda: server.open_connections == 0, PATIENCE)
    assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"] * 12


def test_a_loop_that_ended_is_not_kept(smtp_server: StartServer, make_app: MakeApp) -> None:
    """But for the last one, which goes when the next one sends."""
    app, mail = make_app(**config_of(smtp_server()))
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    @app.get("/")
    async def index() -> str:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await mail.asend(Message("Hi", ["ann@example.com"]))
        return ""

    for _ in range(6):
        assert app.test_client().get("/").status_code == 200
    gc.collect()
    assert [loop() is None for loop in loops[:-1]] == [True] * 5


def test_a_view_that_gives_up_leaves_no_connection(smtp_server: StartServer, make_app: MakeApp) -> None:
    """Its time-out breaks the conversation off: that connection is closed, and is none that another would get."""
    server = smtp_server(Play({"MAIL": SILENCE}))
    app, mail = make_app(**config_of(server))

    @app.get("/")
    async def index() -> str:
        async with asyncio.timeout(0.2):
            await mail.asend(Message("Hi", ["ann@example.com"]))
        return ""

    app.testing = False
    assert app.test_client().get("/").status_code == 500
    assert wait_until(lambda: server.open_connections == 0, PATIENCE)


def test_a_time_out_is_told_as_send_tells_it(smtp_server: StartServer, make_app: MakeApp) -> None:
    app, mail = make_app(**config_of(smtp_server(Play({"MAIL": SILENCE}))), MAIL_TIMEOUT=0.2)
    with app.app_context(), pytest.raises(TimedOut):
        asyncio.run(mail.asend(Message("Hi", ["ann@example.com"])))


async def test_under_asgi_the_connection_is_kept(smtp_server: StartServer, make_app: MakeApp) -> None:
    """There the views run in the loop of the server."""
    server = smtp_server()
    app, mail = make_app(**config_of(server))
    with_view(app, mail)
    asgi = WsgiToAsgi(app)
    for _ in range(3):
        request = {"type": "http", "http_version": "1.1", "method": "GET", "path": "/", "query_string": b""}
        asked = ApplicationCommunicator(asgi, {**request, "headers": [], "server": ("localhost", 80)})
        await asked.send_input({"type": "http.request", "body": b""})
        assert (await asked.receive_output(PATIENCE))["status"] == 200
        await asked.wait(PATIENCE)
    assert (server.connections, len(server.handed_over)) == (1, 3)
    await app.extensions["mail"].async_mailer.close()


async def test_an_app_that_goes_says_quit_and_no_warning(smtp_server: StartServer) -> None:
    """Nobody has its mailer to close it, as with the one of `send`."""
    server = smtp_server()
    app = Flask("app")
    app.config.update(config_of(server), MAIL_DEFAULT_SENDER="app@example.com")
    mail = Mail(app)
    await mail.asend(Message("Hi", ["ann@example.com"], sender="app@example.com"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del app, mail
        gc.collect()
        await asyncio.to_thread(server.wait_for_end)
    assert server.speakers[0].verbs[-1] == "QUIT"
