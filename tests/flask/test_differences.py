"""Where Flask-Mail and this package differ: rows of docs/howto/from-flask-mail.md, tried on both.

`theirs` is what Flask-Mail 0.10 does. When a newer one does otherwise, the page is to be mended.
"""

from __future__ import annotations

import smtplib
import ssl
import warnings
from collections.abc import Callable
from email import message_from_bytes
from types import ModuleType
from typing import Any, NamedTuple

import flask_mail
import pytest
from flask import Flask

import smtpbackend_flask
from smtpbackend.testing import Play, ScriptedServer
from tests.servers.tls import Certificates

TLS = Play(extensions=("STARTTLS",))
AUTH = Play(extensions=("AUTH PLAIN",))
UTF8 = Play(extensions=("SMTPUTF8", "8BITMIME"))
BOB_REFUSED = Play({"RCPT TO:<bob@example.com>": "550 5.1.1 No such user"})


class Site(NamedTuple):
    """One of the two libraries, with an app and a server."""

    of: ModuleType
    app: Flask
    mail: Any
    server: ScriptedServer

    def send(self, **fields: Any) -> Any:
        message = self.of.Message(**{"subject": "Hi", "recipients": ["ann@example.com"], "body": "Hello", **fields})
        return self.mail.send(message)

    @property
    def content(self) -> Any:
        return message_from_bytes(self.server.handed_over[0].content)


def sent(**fields: Any) -> Callable[[Site], Any]:
    """What a message made of these comes to: the recipients that the server was told of."""

    def send(site: Site) -> Any:
        site.send(**fields)
        return sorted(to.split("<")[1].split(">")[0] for to in site.server.handed_over[0].recipients)

    return send


def content(read: Callable[[Any], Any], **fields: Any) -> Callable[[Site], Any]:
    """What ``read`` finds in the message that arrives."""

    def send(site: Site) -> Any:
        site.send(**fields)
        return read(site.content)

    return send


def verbs(site: Site) -> Any:
    site.send()
    return [verb for speaker in site.server.speakers for verb in speaker.verbs if verb != "QUIT"]


def connections(site: Site) -> int:
    for _ in range(3):
        site.send()
    return site.server.connections


def when_tested_later(site: Site) -> int:
    site.app.testing = True
    site.send()
    return site.server.connections


def host(site: Site) -> str:
    with site.mail.connect() as connection:
        return type(connection.host).__name__


def copies(site: Site) -> list[str]:
    given = ["ann@example.com"]
    site.of.Message("Hi", given).add_recipient("bob@example.com")
    return given


def state(site: Site) -> bool:
    mail = site.of.Mail()
    mail.init_app(site.app)
    return mail.state is None


def attachment(text: str) -> Callable[[Site], Any]:
    def send(site: Site) -> Any:
        message = site.of.Message("Hi", ["ann@example.com"], "x")
        message.attach("a.txt", "text/plain", text)
        site.mail.send(message)
        part = site.content.get_payload()[1]
        return part.get_content_charset(), part.get_payload(decode=True)

    return send


class Row(NamedTuple):
    """What is done, and what comes of it with Flask-Mail and here: a value, or the class that is raised."""

    do: Callable[[Site], Any]
    theirs: Any
    ours: Any
    config: Any = None
    play: Play = Play()


IN_CLEAR = ["EHLO", "MAIL", "RCPT", "DATA"]
SECURED = ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA"]
ROWS = {
    "MAIL_USE_TLS": Row(verbs, SECURED, ssl.SSLCertVerificationError, {"MAIL_USE_TLS": True}, TLS),
    "neither": Row(verbs, IN_CLEAR, SECURED, {"SMTPBACKEND_CA_FILE": "ca"}, TLS),
    "both": Row(verbs, ssl.SSLError, ValueError, {"MAIL_USE_TLS": True, "MAIL_USE_SSL": True}),
    "false": Row(verbs, smtplib.SMTPNotSupportedError, IN_CLEAR, {"MAIL_USE_TLS": "false"}),
    "half a login": Row(verbs, IN_CLEAR, RuntimeWarning, {"MAIL_USERNAME": "u"}, AUTH),
    "a misspelt name": Row(verbs, IN_CLEAR, RuntimeWarning, {"MAIL_USE_TSL": True}),
    "a value that cannot be": Row(verbs, IN_CLEAR, ValueError, {"MAIL_ASCII_ATTACHMENTS": "perhaps"}),
    "testing later": Row(when_tested_later, 1, 0),
    "connections": Row(connections, 3, 1),
    "some are refused": Row(
        lambda site: type(site.send(recipients=["ann@example.com", "bob@example.com"])).__name__,
        "NoneType",
        "Receipt",
        None,
        BOB_REFUSED,
    ),
    "badly written": Row(
        sent(recipients=["ann@example.com", "bob@@example.com"]), ["", "ann@example.com"], ["ann@example.com"]
    ),
    "None": Row(sent(recipients=["ann@example.com", None]), TypeError, ["ann@example.com"]),
    "a str": Row(sent(recipients="a@b"), ["", "a", "b"], ValueError),
    "connection.host": Row(host, "SMTP", "SharedMailer"),
    "state": Row(state, True, False),
    "rcpt_options": Row(sent(rcpt_options=["X=1"]), ["ann@example.com"], ValueError),
    "a control character": Row(sent(subject="a\x07b"), ["ann@example.com"], ValueError),
    "copies": Row(copies, ["ann@example.com", "bob@example.com"], ["ann@example.com"]),
    "an attachment in Latin-1": Row(attachment("Ä"), (None, b"\xc4"), ("utf-8", "Ä".encode())),
    "an attachment in Greek": Row(attachment("Ω"), (None, b"\\u03a9"), ("utf-8", "Ω".encode())),
    "8 bits": Row(
        content(lambda found: found["Content-Transfer-Encoding"], body="Hällo"), "8bit", "base64", None, UTF8
    ),
    "SMTPUTF8": Row(sent(recipients=["änn@example.com"]), UnicodeEncodeError, ["änn@example.com"], None, UTF8),
    "bcc alone": Row(content(lambda found: found["To"], recipients=[], bcc=["ann@example.com"]), "", None),
    "extra headers": Row(
        content(lambda found: found.get_all("To"), extra_headers={"To": "list@example.com"}),
        ["ann@example.com", "list@example.com"],
        ["list@example.com"],
    ),
    "Message-ID": Row(content(lambda found: "@example.com>" in found["Message-ID"]), False, True),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
@pytest.mark.parametrize(
    "library",
    [
        # its sockets stay open where it raises
        pytest.param(flask_mail, marks=pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")),
        smtpbackend_flask,
    ],
    ids=["theirs", "ours"],
)
def test_a_row(library: ModuleType, row: Row, ca: Certificates) -> None:
    wanted = row.theirs if library is flask_mail else row.ours
    # of an authority that only who has SMTPBACKEND_CA_FILE trusts
    with ScriptedServer(row.play, context=ca.server_context("server")) as server:
        app = Flask("app")
        app.config.update(MAIL_SERVER="localhost", MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="app@example.com")
        app.config.update(row.config or {})
        if "SMTPBACKEND_CA_FILE" in app.config:
            app.config["SMTPBACKEND_CA_FILE"] = str(ca.ca_file)

        def run() -> Any:
            with app.app_context():
                return row.do(Site(library, app, library.Mail(app), server))

        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            if isinstance(wanted, type):
                with pytest.raises(wanted):
                    run()
            else:
                assert run() == wanted


def test_a_message_needs_no_app() -> None:
    with pytest.raises(RuntimeError):
        flask_mail.Message("Hi")
    assert smtpbackend_flask.Message("Hi").subject == "Hi"


def test_ports() -> None:
    app = Flask("app")
    app.config["MAIL_USE_SSL"] = True
    assert flask_mail.Mail(app).port == 25
    del app.extensions["mail"]
    assert smtpbackend_flask.Mail(app).port == 465
