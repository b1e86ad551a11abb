"""Where Flask-Mail and this package differ: the rows of docs/howto/from-flask-mail.md, tried on both.

`theirs` is what Flask-Mail 0.10 does. When a newer one does otherwise, the page is to be mended.
"""

from __future__ import annotations

import base64
import io
import logging
import smtplib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from email.message import EmailMessage
from types import ModuleType
from typing import Any

import flask_mail
import pytest
from flask import Flask
from flask.logging import default_handler

import smtpbackend
import smtpbackend_flask
from smtpbackend import Envelope, InDoubt, RecipientsRefused
from smtpbackend.testing import CUT, Play, ScriptedServer, delay
from tests.flask.differences import (
    ALL_REFUSED,
    BOB_REFUSED,
    IN_CLEAR,
    SECURED,
    THEIRS_LEAK,
    TLS,
    UTF8,
    Do,
    Row,
    Site,
    connections,
    content,
    from_threads,
    greeted,
    in_one_connect,
    message_id,
    sent,
    started,
    verbs,
    when_tested_later,
)
from tests.servers.tls import Certificates

AUTH = Play(extensions=("AUTH PLAIN",))
CRAM_MD5 = Play(extensions=("AUTH CRAM-MD5",))
LOGIN = Play(extensions=("AUTH LOGIN",))
ENVELOPE = Envelope("app@example.com", ["ann@example.com"])
DIGITS = {"MAIL_USERNAME": "u", "MAIL_PASSWORD": 12345}
USER = {"MAIL_USERNAME": "u", "MAIL_PASSWORD": "Pw-zX8kQv2"}


def logged_in(site: Site) -> bool:
    site.send()
    return site.server.speakers[0].verbs[1] == "AUTH"


def returned(site: Site) -> str:
    return type(site.send(recipients=["ann@example.com", "bob@example.com"])).__name__


def place(site: Site) -> Any:
    """Where an entry that is badly written stands, as the receipt says."""
    receipt = site.send(recipients=["ann@example.com", "bob@@example.com"])
    return [outcome.error.field for outcome in receipt.rejected]


def host(site: Site) -> str:
    with site.mail.connect() as connection:
        return type(connection.host).__name__


def configured(site: Site) -> str:
    host = site.mail.connect().configure_host()
    if isinstance(host, smtplib.SMTP):
        host.quit()
    return type(host).__name__


def copies(site: Site) -> list[str]:
    given = ["ann@example.com"]
    site.of.Message("Hi", given).add_recipient("bob@example.com")
    return given


def state(site: Site) -> bool:
    mail = site.of.Mail()
    mail.init_app(site.app)
    return mail.state is None


def attachment(text: str) -> Do:
    def send(site: Site) -> Any:
        message = site.of.Message("Hi", ["ann@example.com"], "x")
        message.attach("a.txt", "text/plain", text)
        site.mail.send(message)
        part = site.content.get_payload()[1]
        return part.get_content_charset(), part.get_payload(decode=True)

    return send


def debugged(site: Site) -> list[bool]:
    """Whether the dialogue can be read somewhere, whether the password can, and what a message says."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    wire = logging.getLogger("smtpbackend.wire")
    wire.addHandler(handler)
    try:
        with redirect_stderr(said):
            site.send()
    finally:
        wire.removeHandler(handler)
    password = base64.b64encode(b"\0u\0" + USER["MAIL_PASSWORD"].encode()).decode()
    return [word in said.getvalue().lower() for word in ("from:<app@example.com>", password.lower(), "hello")]


def at_once(wanted: int) -> Do:
    """How many connections eight threads have, where none gets an answer to MAIL until there are ``wanted``."""

    def send(site: Site) -> int:
        there = threading.Event()

        def answer(command: str) -> str:
            if site.server.connections >= wanted:
                there.set()
            there.wait(60)
            return "250 ok"

        site.server.plays = (Play({"MAIL": answer}),)

        def run() -> None:
            with site.app.app_context():
                site.send()

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(site.server.taken) == 8
        return site.server.connections

    return send


def other_message(make: Callable[[Site], tuple[Any, ...]]) -> Do:
    """How often that arrives which ``make`` makes the arguments of."""

    def send(site: Site) -> int:
        site.mail.send(*make(site))
        return len(site.server.taken)

    return send


def email_message(site: Site) -> tuple[Any]:
    message = EmailMessage()
    message["To"] = "ann@example.com"
    return (message,)


def signals(site: Site) -> int:
    """How many recipients a signal tells of as rejected."""
    told: list[Any] = []

    def hear(app: Flask, **found: Any) -> None:
        told.append(found)

    with site.of.recipient_rejected.connected_to(hear):
        site.send(recipients=["ann@example.com", "bob@example.com"])
    return len(told)


def args(site: Site) -> Any:
    """Of the error of a refused sender, all that smtplib has, and what ``args`` are."""
    with pytest.raises(smtplib.SMTPSenderRefused) as caught:
        site.send()
    error = caught.value
    assert (error.smtp_code, error.smtp_error, error.sender) == (550, b"5.7.1 Not you", "app@example.com")
    return [type(arg) for arg in error.args]


def refused(site: Site) -> Any:
    """Of the error of refused recipients, what smtplib has, and whether it has what ours have."""
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        site.send()
    assert caught.value.recipients == {"ann@example.com": (550, b"5.1.1 No such user")}
    return [hasattr(caught.value, name) for name in ("receipt", "server", "reply", "is_transient")]


def cut_off(site: Site) -> tuple[bool, bool]:
    """Whether the error is that of a connection that ended, and ours of what may be delivered."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        site.send()
    return isinstance(caught.value, smtplib.SMTPServerDisconnected), isinstance(caught.value, InDoubt)


def bad_header(site: Site) -> bool:
    with pytest.raises(site.of.BadHeaderError) as caught:
        site.send(subject="a\nb")
    return isinstance(caught.value, ValueError)


def send_to(site: Site) -> bool:
    """Whether it is in order; of 20 addresses a set without order is so once in 10 to the power of 18."""
    named = [f"u{number}@example.com" for number in range(20)]
    return list(site.message(recipients=named[:10], cc=named[10:15], bcc=named[15:]).send_to) == named


ROWS = {
    # Settings
    "MAIL_USE_TLS": Row(verbs, SECURED, ssl.SSLCertVerificationError, {"MAIL_USE_TLS": True}, TLS),
    "MAIL_USE_SSL": Row(verbs, IN_CLEAR, ssl.SSLCertVerificationError, {"MAIL_USE_SSL": True}, Play(implicit_tls=True)),
    "neither": Row(verbs, IN_CLEAR, SECURED, {"SMTPBACKEND_CA_FILE": "@ca_file"}, TLS),
    "both": Row(
        verbs,
        smtplib.SMTPNotSupportedError,
        ValueError,
        {"MAIL_USE_TLS": True, "MAIL_USE_SSL": True},
        Play(implicit_tls=True),
    ),
    "false": Row(verbs, smtplib.SMTPNotSupportedError, IN_CLEAR, {"MAIL_USE_TLS": "false"}),
    "0": Row(verbs, smtplib.SMTPNotSupportedError, IN_CLEAR, {"MAIL_USE_TLS": "0"}),
    "no": Row(verbs, smtplib.SMTPNotSupportedError, IN_CLEAR, {"MAIL_USE_TLS": "no"}),
    "an empty flag": Row(verbs, IN_CLEAR, IN_CLEAR, {"MAIL_USE_TLS": ""}),
    "digits, by LOGIN": Row(logged_in, AttributeError, True, DIGITS, LOGIN),
    "digits, by CRAM-MD5": Row(logged_in, AttributeError, True, DIGITS, CRAM_MD5),
    "digits, by PLAIN": Row(logged_in, True, True, DIGITS, AUTH),
    "digits in MAIL_USERNAME": Row(logged_in, AttributeError, True, {**USER, "MAIL_USERNAME": 12345}, LOGIN),
    "a name alone": Row(verbs, IN_CLEAR, RuntimeWarning, {"MAIL_USERNAME": "u"}, AUTH),
    "a password alone": Row(verbs, IN_CLEAR, RuntimeWarning, {"MAIL_PASSWORD": "p"}, AUTH),
    "MAIL_USE_TSL": Row(verbs, IN_CLEAR, RuntimeWarning, {"MAIL_USE_TSL": True}),
    "MAIL_HOST": Row(verbs, IN_CLEAR, RuntimeWarning, {"MAIL_SERVER": None, "MAIL_HOST": "localhost"}),
    "a value that cannot be": Row(verbs, IN_CLEAR, ValueError, {"MAIL_ASCII_ATTACHMENTS": "perhaps"}),
    "a port that cannot be": Row(verbs, OSError, ValueError, {"MAIL_PORT": "smtp-port"}),
    "both, at start": Row(started, None, ValueError, {"MAIL_USE_TLS": True, "MAIL_USE_SSL": True}),
    "a port that cannot be, at start": Row(started, None, ValueError, {"MAIL_PORT": "smtp-port"}),
    "a password alone, at start": Row(started, None, RuntimeWarning, {"MAIL_PASSWORD": "p"}),
    "a misspelt name, at start": Row(started, None, RuntimeWarning, {"MAIL_USE_TSL": True}),
    "MAIL_TIMEOUT": Row(
        verbs, IN_CLEAR, TimeoutError, {"MAIL_TIMEOUT": 0.3}, Play({"MAIL": (delay(2), "250 2.1.0 ok")})
    ),
    "MAIL_DEBUG": Row(debugged, [True] * 3, [True, False, False], {"MAIL_DEBUG": True, **USER}, AUTH),
    "app.debug": Row(debugged, [True] * 3, [False] * 3, {"DEBUG": True, **USER}, AUTH),
    "testing later": Row(when_tested_later, 1, 0),
    "MAIL_MAX_EMAILS, one by one": Row(connections, 3, 2, {"MAIL_MAX_EMAILS": 2}),
    "MAIL_MAX_EMAILS, in one connect()": Row(in_one_connect, 2, 2, {"MAIL_MAX_EMAILS": 2}),
    # Sending
    "some are refused": Row(returned, "NoneType", "Receipt", None, BOB_REFUSED),
    "some are refused, by signals": Row(signals, AttributeError, 1, None, BOB_REFUSED),
    "badly written": Row(
        sent(recipients=["ann@example.com", "bob@@example.com"]), ["", "ann@example.com"], ["ann@example.com"]
    ),
    "badly written, its place": Row(place, AttributeError, ["recipients[1]"]),
    "None": Row(sent(recipients=["ann@example.com", None]), TypeError, ["ann@example.com"]),
    "a str": Row(sent(recipients="a@b"), ["", "a", "b"], ValueError),
    "connections": Row(connections, 3, 1),
    "connection.host": Row(host, "SMTP", "SharedMailer"),
    "configure_host": Row(configured, "SMTP", "SharedMailer"),
    "threads share": Row(from_threads, 3, 1),
    "threads": Row(at_once(8), 8, 4, instead=at_once(4)),
    "rcpt_options": Row(sent(rcpt_options=["X=1"]), ["ann@example.com"], ValueError),
    "asend": Row(lambda site: callable(site.mail.asend), False, True),
    "a message of the email package": Row(other_message(email_message), AttributeError, 1),
    "a message of the core": Row(
        other_message(lambda site: (smtpbackend.Message(to="ann@example.com", text="Hello"),)), AttributeError, 1
    ),
    "a message of Flask-Mail": Row(
        other_message(lambda site: (flask_mail.Message("Hi", ["ann@example.com"], "Hello"),)), 1, 1
    ),
    "octets": Row(other_message(lambda site: (b"Subject: Hi\r\n\r\nHello", ENVELOPE)), TypeError, 1),
    "a file": Row(other_message(lambda site: (io.BytesIO(b"Subject: Hi\r\n\r\nHello"), ENVELOPE)), TypeError, 1),
    "state": Row(state, True, False),
    # Errors
    "nothing listens": Row(sent(), ConnectionRefusedError, ConnectionRefusedError, {"MAIL_PORT": 1}),
    "args": Row(args, [int, bytes, str], [str], None, Play({"MAIL": "550 5.7.1 Not you"})),
    "what an error has": Row(refused, [False] * 4, [True] * 4, None, ALL_REFUSED),
    "all badly written": Row(sent(recipients=["bob@@example.com"]), [""], RecipientsRefused),
    "all badly written, and the server looks": Row(
        sent(recipients=["bob@@example.com"]),
        smtplib.SMTPRecipientsRefused,
        smtplib.SMTPRecipientsRefused,
        None,
        Play({"RCPT TO:<>": "501 5.1.3 no address"}),
    ),
    "BadHeaderError": Row(bad_header, False, True),
    "a control character": Row(sent(subject="a\x07b"), ["ann@example.com"], ValueError),
    "no recipients": Row(sent(recipients=[]), AssertionError, smtpbackend_flask.IncompleteMessage),
    "no sender": Row(sent(), AssertionError, smtpbackend_flask.IncompleteMessage, {"MAIL_DEFAULT_SENDER": None}),
    "IncompleteMessage": Row(sent(recipients=[]), AssertionError, AssertionError),
    "in doubt": Row(cut_off, (True, False), (False, True), None, Play({".": CUT})),
    # Messages
    "copies": Row(copies, ["ann@example.com", "bob@example.com"], ["ann@example.com"]),
    "send_to": Row(send_to, False, True),
    "an attachment in Latin-1": Row(attachment("Ä"), (None, b"\xc4"), ("utf-8", "Ä".encode())),
    "an attachment in Greek": Row(attachment("Ω"), (None, b"\\u03a9"), ("utf-8", "Ω".encode())),
    "8 bits": Row(
        content(lambda found: found["Content-Transfer-Encoding"], body="Hällo"), "8bit", "base64", None, UTF8
    ),
    "7 bits, mostly ASCII": Row(
        content(lambda found: found["Content-Transfer-Encoding"], body="Hello " * 20 + "ä"),
        "8bit",
        "quoted-printable",
        None,
        UTF8,
    ),
    "SMTPUTF8": Row(sent(recipients=["änn@example.com"]), UnicodeEncodeError, ["änn@example.com"], None, UTF8),
    "bcc alone": Row(content(lambda found: found["To"], recipients=[], bcc=["ann@example.com"]), "", None),
    "To in extra_headers": Row(
        content(lambda found: found.get_all("To"), extra_headers={"To": "list@example.com"}),
        ["ann@example.com", "list@example.com"],
        ["list@example.com"],
    ),
    "Subject in extra_headers": Row(
        content(lambda found: found.get_all("Subject"), extra_headers={"Subject": "Ho"}), ["Hi", "Ho"], ["Ho"]
    ),
    "Message-ID": Row(message_id, "machine.example.org", "example.com"),
    "EHLO": Row(greeted, ("machine.example.org", True), ("[127.0.0.1]", False)),
}


@pytest.fixture(autouse=True)
def _quiet_again() -> Iterator[None]:
    """MAIL_DEBUG is of the process."""
    yield
    logger = logging.getLogger("smtpbackend.wire")
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(default_handler)


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
@pytest.mark.parametrize(
    "library",
    [pytest.param(flask_mail, marks=THEIRS_LEAK), smtpbackend_flask],
    ids=["theirs", "ours"],
)
def test_a_row(library: ModuleType, row: Row, ca: Certificates) -> None:
    row.check(library, ca)


def test_a_message_needs_no_app() -> None:
    with pytest.raises(RuntimeError):
        flask_mail.Message("Hi")
    assert smtpbackend_flask.Message("Hi").subject == "Hi"


def test_its_sender_is_of_the_app_that_sends_it() -> None:
    message = smtpbackend_flask.Message("Hi", ["ann@example.com"], "Hello")
    with ScriptedServer() as server:
        app = Flask("app")
        app.config.update(MAIL_SERVER="localhost", MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="app@example.com")
        smtpbackend_flask.Mail(app).send(message)
    assert server.taken[0].mail.startswith("MAIL FROM:<app@example.com>")


def test_ports() -> None:
    app = Flask("app")
    app.config["MAIL_USE_SSL"] = True
    assert flask_mail.Mail(app).port == 25
    del app.extensions["mail"]
    assert smtpbackend_flask.Mail(app).port == 465
