"""Where Flask-Mailman and this package differ: the rows of docs/howto/from-flask-mailman.md, tried on both.

`theirs` is what Flask-Mailman 1.1 does. When a newer one does otherwise, the page is to be mended.
"""

from __future__ import annotations

import contextlib
import io
import re
import smtplib
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import flask_mailman
import pytest
from flask import Flask

import smtpbackend_flask
from smtpbackend import DeliveryError, Envelope
from smtpbackend.testing import Play, delay
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
    verbs,
    when_tested_later,
)
from tests.servers.tls import Certificates

ANN, BOB = "ann@example.com", "bob@example.com"
NAMES = {"recipients": "to", "sender": "from_email", "extra_headers": "headers"}
OLD_CONTEXT = pytest.mark.filterwarnings("ignore:ssl.*:DeprecationWarning")


class Theirs(Site):
    """A site with Flask-Mailman."""

    def message(self, **fields: Any) -> Any:
        fields = {"subject": "Hi", "recipients": [ANN], "body": "Hello", **fields}
        return flask_mailman.EmailMultiAlternatives(**{NAMES.get(name, name): fields[name] for name in fields})

    def send(self, **fields: Any) -> Any:
        return self.message(**fields).send()


@pytest.fixture(autouse=True)
def _another_machine() -> Iterator[None]:
    """Flask-Mailman keeps what it looked up."""
    yield
    vars(flask_mailman.DNS_NAME).pop("_fqdn", None)


def arrives(send: Do) -> Do:
    """What arrives of what ``send`` sends: the envelope and the fields and parts that both write."""

    def do(site: Site) -> Any:
        send(site)
        [transaction] = site.server.taken
        found = site.content
        parts = [
            (part.get_content_type(), part.get_filename(), (part.get_payload(decode=True) or b"").strip())
            for part in found.walk()
            if not part.is_multipart()
        ]
        named = {name: found[name] for name in ("Subject", "From", "To", "Cc", "Reply-To", "X-Tag")}
        paths = [transaction.mail, *transaction.recipients]
        return [re.findall("<.*>", path)[0] for path in paths], named, parts

    return do


def arrived(recipients: tuple[str, ...] = (ANN,), parts: Any = (), **fields: str) -> Any:
    """What `arrives` finds of a plain message."""
    named = dict.fromkeys(("Cc", "Reply-To", "X-Tag")) | {"Subject": "Hi", "From": "app@example.com", "To": ANN}
    text = ("text/plain", None, b"Hello")
    return [f"<{one}>" for one in ("app@example.com", *recipients)], named | fields, [text, *parts]


def same(theirs: Do, ours: Do, **wanted: Any) -> Row:
    """Two ways to send the same."""
    found = arrived(**wanted)
    return Row(arrives(theirs), found, found, None, Play(), arrives(ours))


def with_html(site: Site) -> Any:
    message = site.message()
    message.attach_alternative("<p>Hello", "text/html")
    message.attach_alternative("BEGIN:VCALENDAR", "text/calendar")
    return message.send()


def with_alts(site: Site) -> Any:
    message = site.message(html="<p>Hello")
    message.alts["calendar"] = "BEGIN:VCALENDAR"
    return site.mail.send(message)


def attached(*args: Any, **named: Any) -> Do:
    def send(site: Site) -> Any:
        message = site.message()
        message.attach(*args, **named)
        return site.mail.send(message) if site.of is smtpbackend_flask else message.send()

    return send


def attached_file(content: bytes, name: str) -> Do:
    def send(site: Site) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            message = site.message()
            if site.of is smtpbackend_flask:
                message.attach(name, data=path.read_bytes())
                return site.mail.send(message)
            message.attach_file(path)
            return message.send()

    return send


def last_part(site: Site) -> bytes:
    part: bytes = site.content.get_payload()[-1].get_payload(decode=True)
    return part


def returned(site: Site) -> Any:
    found = site.send()
    return found if isinstance(found, int) else type(found).__name__


def silently(site: Site) -> int:
    sent: int = site.message().send(fail_silently=True)
    return sent


def caught(site: Site) -> bool:
    with pytest.raises(DeliveryError) as found:
        site.send()
    assert found.value.receipt is not None
    return bool(found.value.receipt.ok)


def theirs_of_three(site: Site) -> Any:
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        site.mail.send_mass_mail([("Hi", "Hello", None, [to]) for to in (ANN, BOB, "eve@example.com")])
    return len(site.server.taken)


def ours_of_three(site: Site) -> Any:
    messages = [site.message(recipients=[to]) for to in (ANN, BOB, "eve@example.com")]
    receipts = [receipt.ok for receipt in site.mail.connect().send_many(messages)]
    assert receipts == [True, False, True]
    return len(site.server.taken)


def in_one_connection(site: Site) -> int:
    with site.mail.get_connection() as connection:
        for _ in range(3):
            flask_mailman.EmailMessage("Hi", "Hello", None, [ANN], connection=connection).send()
    return site.server.connections


def their_outbox(site: Site) -> tuple[int, int]:
    site.send()
    return len(site.mail.outbox), site.server.connections


def our_outbox(site: Site) -> tuple[int, int]:
    with site.mail.record_messages() as outbox:
        site.send()
    return len(outbox), site.server.connections


def printed(site: Site) -> tuple[bool, int]:
    """Whether a receiver of the signal could print the message, and connections."""
    seen = []

    def show(app: Flask, message: Any) -> None:
        seen.append(message.as_string())

    with smtpbackend_flask.email_dispatched.connected_to(show):
        site.send()
    return "\r\n\r\nHello" in seen[0], site.server.connections


def printed_by_theirs(site: Site) -> tuple[bool, int]:
    stream = io.StringIO()
    connection = site.mail.get_connection(stream=stream)
    connection.send_messages([site.message()])
    return "\n\nHello" in stream.getvalue(), site.server.connections


def to_files(site: Site) -> tuple[int, int]:
    """Files that were written, and connections."""
    with tempfile.TemporaryDirectory() as folder:
        site.app.config.update(MAIL_BACKEND="file", MAIL_FILE_PATH=folder)
        site.mail = site.of.Mail(site.app)
        site.send()
        return len(list(Path(folder).iterdir())), site.server.connections


def reverse_path(site: Site) -> str:
    site.send(sender="änn@example.com")
    return site.server.taken[0].mail.split("<")[1].split(">")[0]


def of_theirs(site: Site) -> Any:
    """Ours, with a message of Flask-Mailman that exists already."""
    flask_mailman.Mail(site.app)
    theirs = flask_mailman.EmailMessage("Hi", "Hello", None, [ANN], [BOB])
    return site.mail.send(theirs.message(), Envelope(theirs.from_email, theirs.recipients()))


def extension(name: str) -> Do:
    return lambda site: type(site.app.extensions[name]).__module__.partition(".")[0]


def their_timeout(site: Site) -> Any:
    with site.mail.get_connection() as connection:
        return connection.connection.sock.gettimeout()


def our_timeouts(site: Site) -> bool:
    [server] = site.mail.mailer.configuration.servers
    return all(seconds > 0 for seconds in server.timeout)


def trusted(do: Do) -> Do:
    """Where the system trusts the authority."""

    def send(site: Site) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", site.app.config["SMTPBACKEND_CA_FILE"])
            return do(site)

    return send


def asked(site: Site) -> tuple[int, bool]:
    """What arrives where the server asks for the client's certificate, and whether it missed one."""
    site.server.ask_for_certificate(site.app.config["SMTPBACKEND_CA_FILE"])
    with contextlib.suppress(OSError):
        site.send()
    if not site.server.taken:
        site.server.wait_for_end()  # it notes why behind what the client is told
    return len(site.server.taken), any("did not return a certificate" in str(why) for why in site.server.handshakes)


def sender(site: Site) -> Any:
    site.send()
    return site.content["From"]


def refused_by_name(site: Site) -> Any:
    receipt = site.send(recipients=[ANN, BOB])
    return receipt if isinstance(receipt, int) else [str(outcome.address) for outcome in receipt.rejected]


def offset(site: Site) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "IST-5:30")
        time.tzset()
        try:
            site.send()
        finally:
            patch.undo()
            time.tzset()
    return str(site.content["Date"].split()[-1])


def options(site: Site) -> Any:
    site.send()
    return [word for word in site.server.taken[0].mail.split() if word.startswith("RET=")]


def our_options(site: Site) -> Any:
    site.send(mail_options=["RET=HDRS"])
    return [word for word in site.server.taken[0].mail.split() if word.startswith("RET=")]


def charset(**fields: Any) -> Do:
    return content(lambda found: found.get_content_charset(), body="Hällo", **fields)


def misspelt(site: Site) -> Any:
    site.send(recipients=["ann@example.com", "bob@@example.com"])
    return len(site.server.taken)


IMPLICIT = Play(implicit_tls=True)
CA = {"SMTPBACKEND_CA_FILE": "@ca_file"}
THEIR_CERTIFICATE = {"MAIL_SSL_CERTFILE": "@client_cert", "MAIL_SSL_KEYFILE": "@client_key"}
CERTIFICATES = {
    **THEIR_CERTIFICATE,
    "SMTPBACKEND_CLIENT_CERT": "@client_cert",
    "SMTPBACKEND_CLIENT_KEY": "@client_key",
}
ROWS = {
    # Calls
    "EmailMessage": same(
        lambda site: flask_mailman.EmailMessage("Hi", "Hello", "app@example.com", [ANN]).send(),
        lambda site: site.mail.send(
            smtpbackend_flask.Message("Hi", recipients=[ANN], body="Hello", sender="app@example.com")
        ),
    ),
    "cc, bcc, headers": same(
        lambda site: site.send(cc=[BOB], bcc=["eve@example.com"], headers={"X-Tag": "a"}),
        lambda site: site.send(cc=[BOB], bcc=["eve@example.com"], extra_headers={"X-Tag": "a"}),
        recipients=(ANN, BOB, "eve@example.com"),
        **{"Cc": BOB, "X-Tag": "a"},
    ),
    "reply_to": same(
        lambda site: site.send(reply_to=[ANN, BOB]),
        lambda site: site.send(reply_to=f"{ANN}, {BOB}"),
        **{"Reply-To": f"{ANN}, {BOB}"},
    ),
    "attach_alternative": same(
        with_html, with_alts, parts=[("text/html", None, b"<p>Hello"), ("text/calendar", None, b"BEGIN:VCALENDAR")]
    ),
    "attach": same(
        attached("a.csv", "a,b", "text/csv"),
        attached("a.csv", "text/csv", "a,b"),
        parts=[("text/csv", "a.csv", b"a,b")],
    ),
    "attach_file": same(
        attached_file(b"%PDF-1.7", "a.pdf"),
        attached_file(b"%PDF-1.7", "a.pdf"),
        parts=[("application/pdf", "a.pdf", b"%PDF-1.7")],
    ),
    "attach_file of a text": Row(
        lambda site: attached_file(b"a\nb\n", "a.txt")(site) and last_part(site), b"a\r\nb\r\n", b"a\nb\n"
    ),
    "send": Row(returned, 1, "Receipt"),
    "fail_silently": Row(silently, 0, False, None, ALL_REFUSED, caught),
    "no recipients": Row(lambda site: site.send(recipients=[]), 0, smtpbackend_flask.IncompleteMessage),
    "no sender": Row(sender, "None", smtpbackend_flask.IncompleteMessage, {"MAIL_DEFAULT_SENDER": None}),
    "send_mail": same(
        lambda site: site.mail.send_mail("Hi", "Hello", None, [ANN], html_message="<p>Hello"),
        lambda site: site.mail.send_message("Hi", recipients=[ANN], body="Hello", sender=None, html="<p>Hello"),
        parts=[("text/html", None, b"<p>Hello")],
    ),
    "send_mass_mail": Row(theirs_of_three, 1, 2, None, BOB_REFUSED, ours_of_three),
    "get_connection": Row(in_one_connection, 1, 1, instead=in_one_connect),
    "outbox": Row(their_outbox, (1, 0), (1, 0), {"TESTING": True}, instead=our_outbox),
    "console": Row(
        printed_by_theirs,
        (True, 0),
        (True, 0),
        {"MAIL_BACKEND": "console", "MAIL_SUPPRESS_SEND": True},
        Play(),
        printed,
    ),
    "a message of theirs": same(lambda site: site.send(bcc=[BOB]), of_theirs, recipients=(ANN, BOB)),
    "app.extensions": Row(extension("mailman"), "flask_mailman", "smtpbackend_flask", instead=extension("mail")),
    # Settings
    "MAIL_USE_TLS": Row(verbs, SECURED, ssl.SSLCertVerificationError, {"MAIL_USE_TLS": True}, TLS),
    "MAIL_USE_SSL": Row(
        verbs, ssl.SSLCertVerificationError, ssl.SSLCertVerificationError, {"MAIL_USE_SSL": True}, IMPLICIT
    ),
    "MAIL_USE_SSL, trusted": Row(trusted(verbs), IN_CLEAR, IN_CLEAR, {"MAIL_USE_SSL": True, **CA}, IMPLICIT),
    "MAIL_SSL_CERTFILE, MAIL_USE_SSL": Row(
        trusted(verbs), ssl.SSLCertVerificationError, IN_CLEAR, {"MAIL_USE_SSL": True, **CA, **CERTIFICATES}, IMPLICIT
    ),
    "MAIL_SSL_CERTFILE, MAIL_USE_TLS": Row(
        asked, (0, True), (1, False), {"MAIL_USE_TLS": True, **CA, **CERTIFICATES}, TLS
    ),
    "MAIL_SSL_CERTFILE alone": Row(asked, (0, True), (0, True), {"MAIL_USE_TLS": True, **CA, **THEIR_CERTIFICATE}, TLS),
    "neither": Row(verbs, IN_CLEAR, SECURED, {"SMTPBACKEND_CA_FILE": "@ca_file"}, TLS),
    "both": Row(verbs, ValueError, ValueError, {"MAIL_USE_TLS": True, "MAIL_USE_SSL": True}),
    "a flag": Row(verbs, smtplib.SMTPNotSupportedError, IN_CLEAR, {"MAIL_USE_TLS": "False"}),
    "MAIL_TIMEOUT": Row(
        verbs,
        smtplib.SMTPServerDisconnected,
        smtplib.SMTPServerDisconnected,
        {"MAIL_TIMEOUT": 0.3},
        Play({"MAIL": (delay(2), "250 ok")}),
    ),
    "no MAIL_TIMEOUT": Row(their_timeout, None, True, instead=our_timeouts),
    "MAIL_SEND_OPTIONS": Row(options, ["RET=HDRS"], [], {"MAIL_SEND_OPTIONS": ["RET=HDRS"]}),
    "mail_options": Row(options, ["RET=HDRS"], ["RET=HDRS"], {"MAIL_SEND_OPTIONS": ["RET=HDRS"]}, Play(), our_options),
    "MAIL_DEFAULT_CHARSET": Row(charset(), "iso-8859-1", "utf-8", {"MAIL_DEFAULT_CHARSET": "iso-8859-1"}),
    "charset": Row(
        charset(),
        "iso-8859-1",
        "iso-8859-1",
        {"MAIL_DEFAULT_CHARSET": "iso-8859-1"},
        Play(),
        charset(charset="iso-8859-1"),
    ),
    "MAIL_BACKEND": Row(connections, 0, 1, {"MAIL_BACKEND": "dummy"}),
    "MAIL_FILE_PATH": Row(to_files, (1, 0), (0, 1)),
    "no MAIL_USE_LOCALTIME": Row(offset, "-0000", "+0530"),
    "MAIL_USE_LOCALTIME": Row(offset, "+0530", "+0530", {"MAIL_USE_LOCALTIME": True}),
    "testing later": Row(when_tested_later, 1, 0),
    # What a server meets
    "some are refused": Row(refused_by_name, 1, [BOB], None, BOB_REFUSED),
    "badly written": Row(misspelt, ValueError, 1),
    "RCPT TO outside ASCII": Row(
        sent(recipients=["änn@example.com"]), ["=?utf-8?q?=C3=A4nn?=@example.com"], ["änn@example.com"], None, UTF8
    ),
    "MAIL FROM outside ASCII": Row(reverse_path, "=?utf-8?q?=C3=A4nn?=@example.com", "änn@example.com", None, UTF8),
    "connections": Row(connections, 3, 1),
    "threads": Row(from_threads, 3, 1),
    "Message-ID": Row(message_id, "machine.example.org", "example.com"),
    "EHLO": Row(greeted, ("machine.example.org", True), ("[127.0.0.1]", False)),
    "errors": Row(sent(), smtplib.SMTPRecipientsRefused, smtplib.SMTPRecipientsRefused, None, ALL_REFUSED),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
@pytest.mark.parametrize(
    "library",
    [pytest.param(flask_mailman, marks=(THEIRS_LEAK, OLD_CONTEXT)), smtpbackend_flask],
    ids=["theirs", "ours"],
)
def test_a_row(library: ModuleType, row: Row, ca: Certificates) -> None:
    row.check(library, ca, Theirs)


def test_ports() -> None:
    app = Flask("app")
    app.config["MAIL_USE_SSL"] = True
    with app.app_context():
        assert flask_mailman.Mail(app).get_connection().port == 25
    assert smtpbackend_flask.Mail(app).port == 465
