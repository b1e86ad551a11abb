"""Mail, State and Connection: apps, sending, suppression, recording, and what becomes of each recipient."""

from __future__ import annotations

import copy
import email
import gc
import logging
import threading
from collections.abc import Callable
from email.message import EmailMessage
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any

import flask_mail
import pytest
from flask import Flask, current_app
from flask.logging import default_handler

import smtpbackend
from smtpbackend import CancelSend, Envelope, InvalidInput, RecipientsRefused, Status
from smtpbackend.errors import ConnectFailed
from smtpbackend_flask import BadHeaderError, Connection, Mail, Message, State, email_dispatched, message_sending
from tests.dkim_keys import UNSUBSCRIBE, DkimKeys, signs_how_to_leave
from tests.flask.conftest import MakeApp, parsed
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.ports import free_ports

StartServer = Callable[..., AiosmtpdServer]

REFUSED = {"bob@example.com": "550 5.1.1 No such user"}


# Sending


def test_a_message_arrives(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Everybody gets it, in order, Bcc unseen; the receipt says who."""
    server = aiosmtpd()
    app, mail = make_app(server)
    with app.app_context():
        message = Message(
            "Grüße", ["Ann <ann@example.com>", "bob@example.com"], "Hällo", "<p>Hällo", bcc=["secret@example.com"]
        )
        message.attach("ä.txt", "text/plain", "Ä")
        receipt = mail.send(message)
    assert receipt.ok
    assert [str(outcome.address) for outcome in receipt.accepted] == [
        "ann@example.com",
        "bob@example.com",
        "secret@example.com",
    ]
    (arrived,) = server.arrived
    assert arrived.sender == "app@example.com"
    assert arrived.recipients == ("ann@example.com", "bob@example.com", "secret@example.com")
    found = parsed(arrived)
    assert (found["Subject"], found["From"]) == ("Grüße", "app@example.com")
    assert found["To"] == "Ann <ann@example.com>, bob@example.com"
    assert b"secret@example.com" not in arrived.content
    assert found["Message-ID"] == receipt.message_id == message.msgId
    assert message.date is not None
    body = found.get_body(("plain",))
    assert body is not None
    assert body.get_content().strip() == "Hällo"
    assert [part.get_filename() for part in found.iter_attachments()] == ["ä.txt"]


def test_a_refused_recipient_is_in_the_receipt(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """The others get the mail, and nothing is raised."""
    server = aiosmtpd(refused=REFUSED)
    app, mail = make_app(server)
    with app.app_context():
        receipt = mail.send_message("Hi", ["ann@example.com", "bob@example.com", "cid@example.com"], "Hello")
    assert not receipt.ok
    assert [outcome.status for outcome in receipt.outcomes] == [Status.ACCEPTED, Status.REJECTED, Status.ACCEPTED]
    assert receipt.unacceptable() == [("bob@example.com", 550, "No such user")]
    assert server.arrived[0].recipients == ("ann@example.com", "cid@example.com")


def test_when_nobody_is_accepted_it_raises(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """The error carries the receipt, and email_dispatched stays silent."""
    server = aiosmtpd(refused=REFUSED)
    app, mail = make_app(server)
    with app.app_context(), mail.record_messages() as outbox, pytest.raises(RecipientsRefused) as raised:
        mail.send_message("Hi", ["bob@example.com"], "Hello")
    assert raised.value.receipt is not None
    assert raised.value.receipt.rejected[0].reply is not None
    assert outbox == []
    assert server.arrived == []


def test_a_server_that_is_not_there(make_app: MakeApp) -> None:
    """One readable error that names the server."""
    (port,) = free_ports(1)
    app, mail = make_app(MAIL_PORT=port)
    with app.app_context(), pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}"):
        mail.send_message("Hi", ["ann@example.com"], "Hello")


def test_several_servers_that_are_not_there(make_app: MakeApp) -> None:
    """The error names each."""
    ports = free_ports(2)
    app, mail = make_app(SMTPBACKEND_SERVERS=[f"smtp://127.0.0.1:{port}" for port in ports])
    with app.app_context(), pytest.raises(ConnectFailed, match=".*".join(f"127.0.0.1:{port}" for port in ports)):
        mail.send_message("Hi", ["ann@example.com"], "Hello")


def test_a_login_over_tls(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """MAIL_USE_TLS verifies the certificate, which Flask-Mail does not."""
    server = aiosmtpd(tls="required", users={"ann": "secret"}, auth_required=True)
    login = {"MAIL_USE_TLS": True, "MAIL_USERNAME": "ann", "MAIL_PASSWORD": "secret"}
    app, mail = make_app(server, **login, SMTPBACKEND_CA_FILE=str(server.ca_file))
    with app.app_context():
        assert mail.send_message("Hi", ["ann@example.com"], "Hello").ok
    assert (server.arrived[0].login, server.arrived[0].tls) == ("ann", True)
    untrusting, mail = make_app(server, **login)
    with untrusting.app_context(), pytest.raises(smtpbackend.DeliveryError, match="certificate") as raised:
        mail.send_message("Hi", ["ann@example.com"], "Hello")
    assert "secret" not in str(raised.value)


def test_implicit_tls(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """MAIL_USE_SSL."""
    server = aiosmtpd(tls="implicit")
    app, mail = make_app(server, MAIL_USE_SSL=True, SMTPBACKEND_CA_FILE=str(server.ca_file))
    with app.app_context():
        assert mail.send_message("Hi", ["ann@example.com"], "Hello").ok


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"subject": "a\r\nBcc: x@example.com"}, BadHeaderError),
        ({"recipients": ["a\r\n@example.com"]}, BadHeaderError),
        ({"recipients": []}, AssertionError),
        ({"recipients": ["a@b@c"]}, RecipientsRefused),
        ({"extra_headers": {"X": "\x00"}}, BadHeaderError),
        ({"extra_headers": {"X Y": "a"}}, InvalidInput),
        ({"mail_options": ["X=\n"]}, InvalidInput),
        ({"attachments": [flask_mail.Attachment("a", "nonsense", b"")]}, InvalidInput),
    ],
)
def test_bad_input_never_reaches_the_server(
    aiosmtpd: StartServer, make_app: MakeApp, change: dict[str, Any], error: type[Exception]
) -> None:
    """It raises before a connection is opened; suppressed sending raises the same."""
    server = aiosmtpd()
    app, mail = make_app(server)
    with app.app_context():
        for suppress in (False, True):
            mail.state.suppress = suppress  # type: ignore[union-attr]
            with pytest.raises(error):
                mail.send(Message(**{"subject": "Hi", "recipients": ["ann@example.com"], **change}))
    assert server.connections == 0


def test_without_a_sender(make_app: MakeApp) -> None:
    """An AssertionError, as with Flask-Mail."""
    app, mail = make_app(MAIL_DEFAULT_SENDER=None)
    with app.app_context(), pytest.raises(AssertionError, match="MAIL_DEFAULT_SENDER"):
        mail.send_message("Hi", ["ann@example.com"], "Hello")


# Other kinds of messages


def test_a_message_of_flask_mail(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """What Flask-Mail rendered is sent, to the recipients in their order."""
    server = aiosmtpd(refused=REFUSED)
    app, mail = make_app(server)
    with app.app_context():
        message = flask_mail.Message(
            "Grüße", ["cid@example.com", "ann@example.com"], "Hällo", "<p>ü", bcc=["bob@example.com"]
        )
        message.attach("a.txt", "text/plain", b"octets")
        with mail.record_messages() as outbox:
            receipt = mail.send(message)
        theirs = email.message_from_bytes(message.as_bytes())
    assert outbox == [message]
    assert [str(one.address) for one in receipt.outcomes] == ["cid@example.com", "ann@example.com", "bob@example.com"]
    assert receipt.message_id == message.msgId
    (arrived,) = server.arrived
    found = email.message_from_bytes(arrived.content)
    assert found["Subject"] == theirs["Subject"]
    assert [part.get_payload(decode=True) for part in found.walk()] == [
        part.get_payload(decode=True) for part in theirs.walk()
    ]
    with app.app_context(), pytest.raises(BadHeaderError):
        mail.send(flask_mail.Message("Hi", ["ann@example.com"], extra_headers={"X": "a\nBcc: b@example.com"}))


def test_a_message_of_flask_mail_outside_a_context(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """It looks for its app when it is rendered, and finds the one of the Mail."""
    server = aiosmtpd()
    app, _ = make_app(server)
    mail = Mail(app)
    assert mail.send(flask_mail.Message("Hi", ["ann@example.com"], "Hello", sender="a@example.com")).ok
    other, _ = make_app()
    with other.app_context():
        assert app.extensions["mail"].send(flask_mail.Message("Hi", ["ann@example.com"], sender="a@example.com")).ok
    assert len(server.arrived) == 2


def test_eight_bits_of_flask_mail_to_a_server_of_seven(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """It is encoded anew, and reads the same."""
    server = aiosmtpd()
    app, mail = make_app(server, SMTPBACKEND_IGNORE_EXTENSIONS=["8BITMIME", "SMTPUTF8"])
    with app.app_context():
        mail.send(flask_mail.Message("Hi", ["ann@example.com"], "Hällo"))
    assert server.arrived[0].content.isascii()
    assert parsed(server.arrived[0]).get_content().strip() == "Hällo"


def test_a_local_part_beyond_ascii(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Goes with SMTPUTF8, where Flask-Mail raises UnicodeEncodeError."""
    server = aiosmtpd()
    app, mail = make_app(server)
    with app.app_context():
        assert mail.send_message("Hi", [("Änn", "änn@bücher.example")], "Hello").ok
    assert server.arrived[0].recipients == ("änn@xn--bcher-kva.example",)
    assert "SMTPUTF8" in server.arrived[0].mail_options
    assert "<änn@xn--bcher-kva.example>".encode() in server.arrived[0].content


def test_a_message_of_smtpbackend(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """The default sender is filled in, from a pair too."""
    server = aiosmtpd()
    app, mail = make_app(server, MAIL_DEFAULT_SENDER=("Doe, John", "app@example.com"))
    with app.app_context():
        assert mail.send(smtpbackend.Message("Hi", to=["ann@example.com"], text="Hello")).ok
        assert mail.send(smtpbackend.Message("Hi", "me@example.com", ["ann@example.com"], text="Hello")).ok
        app.extensions["mail"].default_sender = None
        with pytest.raises(InvalidInput, match="From"):
            mail.send(smtpbackend.Message("Hi", to=["ann@example.com"], text="Hello"))
    assert [parsed(arrived)["From"] for arrived in server.arrived] == [
        '"Doe, John" <app@example.com>',
        "me@example.com",
    ]


@pytest.mark.parametrize("make", [EmailMessage, lambda: MIMEText("Hello")])
def test_a_message_of_the_email_package(aiosmtpd: StartServer, make_app: MakeApp, make: Callable[[], Any]) -> None:
    """Recipients from its headers; Bcc is never sent; the default sender is filled in."""
    server = aiosmtpd()
    app, mail = make_app(server, MAIL_DEFAULT_SENDER=("Äpp", "app@example.com"))
    message = make()
    message["Subject"], message["To"], message["Bcc"] = "Hi", "ann@example.com", "bob@example.com"
    with app.app_context(), mail.connect() as connection:
        assert connection.send(message, envelope_from="bounce@example.com").ok
    (arrived,) = server.arrived
    assert (arrived.sender, arrived.recipients) == ("bounce@example.com", ("ann@example.com", "bob@example.com"))
    assert parsed(arrived)["From"] == "Äpp <app@example.com>"
    assert b"bob@example.com" not in arrived.content


def test_octets_with_an_envelope(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Whatever Mailer.send takes; an envelope also overrides that of a Message."""
    server = aiosmtpd()
    app, mail = make_app(server)
    envelope = Envelope("bounce@example.com", ["list@example.com"])
    with app.app_context():
        assert mail.send(b"Subject: raw\n\nHello\n", envelope).ok
        assert mail.send(Message("Hi", ["ann@example.com"], "Hello"), envelope).ok
        with mail.connect() as connection:
            assert connection.send(Message("Hi", ["ann@example.com"]), envelope_from="").ok
    assert [(arrived.sender, arrived.recipients) for arrived in server.arrived] == [
        ("bounce@example.com", ("list@example.com",)),
        ("bounce@example.com", ("list@example.com",)),
        ("<>", ("ann@example.com",)),  # as aiosmtpd has the null reverse-path
    ]
    assert server.arrived[0].content == b"Subject: raw\r\n\r\nHello\r\n"


def test_smtp_parameters_that_we_decide_are_noted(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """They are left out; the receipt says so."""
    server = aiosmtpd()
    app, mail = make_app(server)
    with app.app_context():
        receipt = mail.send(Message("Hi", ["ann@example.com"], "Hello", mail_options=["SIZE=1", "BODY=8BITMIME"]))
    assert receipt.ok
    assert [note.split(" is left out")[0] for note in receipt.notes] == [
        "mail_options: SIZE=1",
        "mail_options: BODY=8BITMIME",
    ]
    assert "SIZE=1" not in server.arrived[0].mail_options


# Connections


def test_connections_are_kept(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Messages of one app share one connection, which close() ends and the next message renews."""
    server = aiosmtpd()
    app, mail = make_app(server)
    with app.app_context():
        for _ in range(3):
            mail.send_message("Hi", ["ann@example.com"], "Hello")
        with mail.connect() as connection:
            assert Message("Hi", ["ann@example.com"], "Hello").send(connection).ok
            assert connection.num_emails == 1
        assert server.connections == 1
        app.extensions["smtpbackend"].close()
        mail.send_message("Hi", ["ann@example.com"], "Hello")
    assert server.connections == 2
    assert len(server.arrived) == 5


def test_max_emails(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """MAIL_MAX_EMAILS messages over one connection, then a new one; num_emails counts as Flask-Mail's."""
    server = aiosmtpd()
    app, mail = make_app(server, MAIL_MAX_EMAILS=2)
    counted = []
    with app.app_context(), mail.connect() as connection:
        for _ in range(5):
            connection.send_message("Hi", ["ann@example.com"], "Hello")
            counted.append(connection.num_emails)
    assert counted == [1, 0, 1, 0, 1]
    assert server.connections == 3


def test_a_connection_can_be_opened_ahead(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """configure_host connects and logs in; the first message finds the connection."""
    server = aiosmtpd()
    app, mail = make_app(server)
    with app.app_context(), Connection(app.extensions["mail"]) as connection:
        assert connection.host is connection.configure_host() is app.extensions["mail"].mailer
        connection.send_message("Hi", ["ann@example.com"], "Hello")
        assert server.connections == 1
        assert Connection(mail).mail is app.extensions["mail"]
    assert connection.host is None
    (port,) = free_ports(1)
    away, mail = make_app(MAIL_PORT=port)
    with away.app_context(), mail.connect() as connection, pytest.raises(ConnectFailed):
        connection.configure_host()


def test_threads_share_one_mailer(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """It is made once, whoever comes first."""
    server = aiosmtpd()
    app, mail = make_app(server)
    mailers = []

    def send() -> None:
        with app.app_context():
            assert mail.send_message("Hi", ["ann@example.com"], "Hello").ok
            mailers.append(app.extensions["mail"].mailer)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.arrived) == 8
    assert len(set(map(id, mailers))) == 1


# Apps


def test_several_apps_share_one_mail(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Each has its server, its sender, its Mailer and its suppression."""
    first, second = aiosmtpd(), aiosmtpd()
    mail = Mail()
    one, _ = make_app(first, mail, MAIL_DEFAULT_SENDER="one@example.com")
    two, _ = make_app(second, mail, MAIL_DEFAULT_SENDER="two@example.com")
    quiet, _ = make_app(first, mail, TESTING=True)
    for app in (one, two, quiet, one):
        with app.app_context():
            mail.send_message("Hi", ["ann@example.com"], "Hello")
    assert [arrived.sender for arrived in first.arrived] == ["one@example.com", "one@example.com"]
    assert [arrived.sender for arrived in second.arrived] == ["two@example.com"]
    assert one.extensions["mail"].mailer is not two.extensions["mail"].mailer
    with one.app_context(), two.app_context():
        assert mail.state is two.extensions["smtpbackend"]
        assert mail.port == second.port


def test_the_current_app_comes_before_the_one_it_was_made_with(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Outside a context, and where the current app has no mail, the constructor's app sends."""
    server, other_server = aiosmtpd(), aiosmtpd()
    app = Flask("first")
    app.config.update(MAIL_SERVER=server.host, MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="first@example.com")
    mail = Mail(app)
    assert mail.app is app
    other, _ = make_app(other_server, mail, MAIL_DEFAULT_SENDER="second@example.com")
    assert mail.send(Message("Hi", ["ann@example.com"], "Hello")).ok
    assert mail.send_message("Hi", ["ann@example.com"], "Hello").ok
    with Flask("without mail").app_context():
        assert mail.send_message("Hi", ["ann@example.com"], "Hello").ok
    with other.app_context():
        assert mail.send_message("Hi", ["ann@example.com"], "Hello").ok
    assert [arrived.sender for arrived in server.arrived] == ["first@example.com"] * 3
    assert [arrived.sender for arrived in other_server.arrived] == ["second@example.com"]
    app.extensions["mail"].close()


def test_without_an_app() -> None:
    """Flask's own error outside a context, ours where the app was not initialised; attributes are None."""
    mail = Mail()
    assert (mail.app, mail.state, mail.server, mail.suppress) == (None, None, None, None)
    with pytest.raises(RuntimeError, match="application context"):
        mail.send_message("Hi", ["ann@example.com"])
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match="'bare' was not configured for mail"):
        mail.connect()


def test_the_state_of_an_app(make_app: MakeApp) -> None:
    """One object under both names, with all that callers of Flask-Mail use; Mail has its attributes."""
    app, mail = make_app(MAIL_SERVER="smtp.example.com", MAIL_USE_TLS=True)
    state = app.extensions["mail"]
    assert isinstance(state, State)
    assert app.extensions["smtpbackend"] is state
    assert repr(state) == "<mail of app0 through smtp.example.com:25>"
    with app.app_context():
        for name in (
            *("server", "username", "password", "port", "use_tls", "use_ssl", "default_sender", "debug"),
            *("max_emails", "suppress", "ascii_attachments", "send", "send_message", "connect", "record_messages"),
        ):
            assert hasattr(state, name)
            assert hasattr(mail, name)
        assert mail.server == "smtp.example.com"
        with pytest.raises(AttributeError):
            mail.sever  # noqa: B018
    with pytest.raises(AttributeError, match="sever"):
        mail.sever  # noqa: B018
    assert copy.copy(mail).app is None


def test_a_state_without_an_app(aiosmtpd: StartServer) -> None:
    """init_mail makes one of settings alone; it sends for whichever app is current."""
    server = aiosmtpd()
    state = Mail().init_mail({"MAIL_SERVER": server.host, "MAIL_PORT": server.port}, testing=False)
    app = Flask("current")
    with app.app_context(), state.record_messages() as outbox:
        assert state.send_message("Hi", ["ann@example.com"], "Hello", sender="a@example.com").ok
        assert state.app is app
    assert len(outbox) == 1
    state.close()
    assert Mail().init_mail({}, testing=True).suppress
    assert repr(state).startswith("<mail through 127.0.0.1:")


def test_initialising_again_keeps_the_connections(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Flask-AppBuilder makes a Mail for every message; other settings make another Mailer."""
    server, moved = aiosmtpd(), aiosmtpd()
    app, _ = make_app(server)
    for _ in range(3):
        assert Mail(app).send_message("Hi", ["ann@example.com"], "Hello").ok
    assert server.connections == 1
    app.extensions["mail"].close()
    app.config["MAIL_PORT"] = moved.port
    assert Mail(app).send_message("Hi", ["ann@example.com"], "Hello").ok
    assert len(moved.arrived) == 1


def test_an_app_that_goes_takes_its_connections_with_it(smtp_server: Any) -> None:
    """One for each test of a site, mostly: nobody closes its mail, and nobody is told so."""
    server = smtp_server({})
    app = Flask("site")
    app.config.update(MAIL_SERVER="127.0.0.1", MAIL_PORT=server.port)
    mail = Mail(app)
    with app.app_context():
        mail.send(Message("Hi", ["ann@example.com"], "Hello", sender="bob@example.com"))
    del app, mail
    gc.collect()
    server.wait_for_end()
    assert server.speakers[0].verbs[-1] == "QUIT"


def test_close_says_quit_for_all_apps_and_needs_none(make_app: MakeApp, smtp_server: Any) -> None:
    """At the end of a job whose process ends by `os._exit`, behind its app context."""
    server = smtp_server({})
    mail = Mail()
    for _ in range(2):
        app, _ = make_app(None, mail, MAIL_SERVER="127.0.0.1", MAIL_PORT=server.port)
        with app.app_context():
            mail.send(Message("Hi", ["ann@example.com"], "Hello"))
    mail.close()
    server.wait_for_end()
    assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"] * 2
    with app.app_context():
        assert mail.send(Message("Hi", ["ann@example.com"], "Hello")).ok


def test_flask_mail_beside_it(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """A library that makes its own flask_mail.Mail takes extensions["mail"], and ours goes on."""
    server = aiosmtpd()
    app, mail = make_app(server)
    flask_mail.Mail(app)
    with app.app_context():
        assert mail.send_message("Hi", ["ann@example.com"], "Hello").ok
    assert not isinstance(app.extensions["mail"], State)


def test_extensions_that_only_know_the_state(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Flask-Security takes extensions["mail"] and sends a flask_mail.Message with it."""
    server = aiosmtpd()
    app, _ = make_app(server)
    with app.app_context():
        message = flask_mail.Message("Welcome", sender=("App", "app@example.com"), recipients=["ann@example.com"])
        message.body, message.html = "text", "<p>html"
        current_app.extensions["mail"].send(message)
    assert parsed(server.arrived[0])["From"] == "App <app@example.com>"


# Testing


def test_nothing_leaves_an_app_under_test(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Everybody counts as accepted; a note says that it is pretended."""
    server = aiosmtpd()
    app, mail = make_app(server, TESTING=True)
    with app.app_context(), mail.record_messages() as outbox:
        message = Message("Hi", ["ann@example.com"], "Hello", cc=["bob@example.com"])
        receipt = mail.send(message)
        with mail.connect() as connection:
            assert connection.host is None
    assert outbox == [message]
    assert message.date is not None
    assert receipt.ok
    assert [str(outcome.address) for outcome in receipt.outcomes] == ["ann@example.com", "bob@example.com"]
    assert receipt.message_id == message.msgId
    assert receipt.notes == ("sending is suppressed: nothing was sent",)
    assert server.connections == 0


def test_testing_may_begin_after_init_app(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Flask-Mail would send then. Once an app was testing, it stays suppressed, as with Flask-Mail."""
    server = aiosmtpd()
    app, mail = make_app(server)
    app.testing = True
    with app.app_context():
        mail.send_message("Hi", ["ann@example.com"], "Hello")
    app, mail = make_app(server, TESTING=True)
    app.testing = False
    with app.app_context():
        mail.send_message("Hi", ["ann@example.com"], "Hello")
    assert server.arrived == []


def test_suppression_can_be_set(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """MAIL_SUPPRESS_SEND rules over testing; the state's attribute over both."""
    server = aiosmtpd()
    app, mail = make_app(server, TESTING=True, MAIL_SUPPRESS_SEND=False)
    with app.app_context():
        mail.send_message("Hi", ["ann@example.com"], "Hello")
        app.extensions["mail"].suppress = True
        assert mail.suppress
        mail.send_message("Hi", ["ann@example.com"], "Hello")
    assert len(server.arrived) == 1
    app, mail = make_app(server, MAIL_SUPPRESS_SEND=True)
    with app.app_context():
        mail.send_message("Hi", ["ann@example.com"], "Hello")
    assert len(server.arrived) == 1


def test_a_suppressed_message_can_be_cancelled(make_app: MakeApp) -> None:
    """Receivers can be tested: everybody is deferred, and nothing is recorded."""
    app, mail = make_app(TESTING=True)

    def cancel(sender: Flask, **fields: Any) -> None:
        raise CancelSend("no")

    message_sending.connect(cancel, sender=app)
    with app.app_context(), mail.record_messages() as outbox, pytest.raises(CancelSend) as raised:
        mail.send_message("Hi", ["ann@example.com"], "Hello")
    assert outbox == []
    assert raised.value.receipt is not None
    assert [outcome.status for outcome in raised.value.receipt.outcomes] == [Status.DEFERRED]


def test_record_messages(make_app: MakeApp) -> None:
    """Mail records its apps, a state its own, in or out of a context; afterwards nobody."""
    mail = Mail()
    one, _ = make_app(None, mail, TESTING=True)
    two, _ = make_app(None, mail, TESTING=True)
    stranger, other_mail = make_app(TESTING=True)
    with mail.record_messages() as outbox, two.extensions["mail"].record_messages() as of_two:
        for app, sender in ((one, mail), (two, mail), (stranger, other_mail)):
            with app.app_context():
                sender.send_message(app.name, ["ann@example.com"])
        assert [message.subject for message in outbox] == ["app0", "app1"]
        assert [message.subject for message in of_two] == ["app1"]
    with one.app_context():
        mail.send_message("later", ["ann@example.com"])
    assert len(outbox) == 2


def test_email_dispatched_is_flask_mails_own(make_app: MakeApp) -> None:
    """Receivers connected there are called, with the app as sender; one that raises breaks nothing."""
    assert email_dispatched is flask_mail.email_dispatched
    app, mail = make_app(TESTING=True)
    called: list[tuple[Any, Any]] = []

    def receive(sender: Any, message: Any) -> None:
        called.append((sender, message))
        raise RuntimeError("broken receiver")

    flask_mail.email_dispatched.connect(receive, sender=app)
    message = Message("Hi", ["ann@example.com"])
    with app.app_context():
        assert mail.send(message).ok
    assert called == [(app, message)]


def test_mail_debug_shows_the_dialogue(
    aiosmtpd: StartServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """On logger smtpbackend.wire, without a secret."""
    logger = logging.getLogger("smtpbackend.wire")
    server = aiosmtpd(tls="starttls", users={"ann": "secret"})
    try:
        app, mail = make_app(
            server,
            MAIL_DEBUG=True,
            MAIL_USE_TLS=True,
            MAIL_USERNAME="ann",
            MAIL_PASSWORD="secret",
            SMTPBACKEND_CA_FILE=str(server.ca_file),
        )
        assert logger.level == logging.DEBUG
        with app.app_context():
            mail.send_message("Hi", ["ann@example.com"], "Hello")
        assert "RCPT TO:<ann@example.com>" in caplog.text
        assert "secret" not in caplog.text
        logger.propagate = False  # nobody shows it: then Flask's own handler does
        make_app(MAIL_DEBUG=1)
        assert logger.handlers == [default_handler]
    finally:
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(default_handler)


def test_how_to_leave_a_list_is_signed(aiosmtpd: StartServer, make_app: MakeApp, tmp_path: Path) -> None:
    """By DKIM, by default: the fields are extra headers of the message (RFC 8058 4)."""
    keys = DkimKeys(tmp_path)
    server = aiosmtpd()
    app, mail = make_app(server, SMTPBACKEND_DKIM=keys.setting("rsa"))
    with app.app_context():
        mail.send(Message("News", ["ann@example.org"], "x", sender="news@example.org", extra_headers=UNSUBSCRIBE))
    assert signs_how_to_leave(server.arrived[0].content, keys)
