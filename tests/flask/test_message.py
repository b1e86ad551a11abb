"""Flask-Mail's Message: the same surface, the same mail, and where it differs on purpose."""

from __future__ import annotations

import email
import inspect
import re
import socket
from collections.abc import Callable, Iterator
from email.header import decode_header, make_header
from email.utils import getaddresses
from typing import Any

import flask_mail
import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

import smtpbackend_flask
from smtpbackend import Address, Envelope, InvalidInput
from smtpbackend_flask import (
    Attachment,
    BadHeaderError,
    FlaskMailUnicodeDecodeError,
    IncompleteMessage,
    Mail,
    Message,
    force_text,
    sanitize_address,
    sanitize_addresses,
    sanitize_subject,
)
from smtpbackend_flask.message import bad_header
from smtpbackend_flask.translate import left_out, translate
from tests.made_text import Lazy

DATE = 1700000000.0


@pytest.fixture
def app() -> Iterator[Flask]:
    app = Flask(__name__)
    app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="app@example.com")
    Mail(app)
    with app.app_context():
        yield app


# The surface


def test_every_public_name_of_flask_mail_is_here() -> None:
    """What can be imported from flask_mail can be imported from here."""
    theirs = {
        name
        for name, value in vars(flask_mail).items()
        if not name.startswith("_")
        and (getattr(value, "__module__", None) == "flask_mail" or name in ("signals", "email_dispatched"))
    }
    assert len(theirs) >= 12
    assert theirs <= set(dir(smtpbackend_flask))


@pytest.mark.parametrize("name", ["Message", "Attachment", "Mail", "Connection"])
def test_members_and_signatures_are_flask_mails(name: str) -> None:
    """The same members, whose parameters begin with the same names and defaults."""
    ours, theirs = getattr(smtpbackend_flask, name), getattr(flask_mail, name)
    for member, value in inspect.getmembers(theirs):
        if member.startswith("_") and member not in ("__init__", "__str__", "__bytes__", "_message", "__enter__"):
            continue
        assert hasattr(ours, member), member
        if inspect.isfunction(value):
            wanted = [(p.name, p.default) for p in inspect.signature(value).parameters.values()]
            found = [(p.name, p.default) for p in inspect.signature(getattr(ours, member)).parameters.values()]
            assert found[: len(wanted)] == wanted, member
    instance_attributes = set(re.findall(r"self\.(\w+)\b[^=\n(]* = ", inspect.getsource(theirs)))
    made = {
        "Message": lambda: ours("s"),
        "Attachment": lambda: ours(data=b""),
        "Mail": ours,
        "Connection": lambda: ours(Mail().init_mail({})),
    }[name]()
    assert {attribute for attribute in instance_attributes if not hasattr(made, attribute)} == set()


@pytest.mark.parametrize("name", ["force_text", "sanitize_subject", "sanitize_address", "sanitize_addresses"])
def test_functions_have_flask_mails_signatures(name: str) -> None:
    """The same parameters and defaults."""
    ours = inspect.signature(getattr(smtpbackend_flask, name)).parameters.values()
    theirs = inspect.signature(getattr(flask_mail, name)).parameters.values()
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


def test_a_message_needs_no_app() -> None:
    """Outside an app context it has no sender yet."""
    message = Message("Hi", ["ann@example.com"])
    assert message.sender is None
    assert message.recipients == ["ann@example.com"]
    assert (message.body, message.html, message.alts, message.attachments) == (None, None, {}, [])
    assert (message.cc, message.bcc, message.mail_options, message.rcpt_options) == ([], [], [], [])
    assert "From:" not in message.as_string()


def test_the_default_sender_is_the_apps(app: Flask) -> None:
    """Where there is a context it is known at once; a pair becomes one string."""
    assert Message("Hi").sender == "app@example.com"
    app.extensions["mail"].default_sender = ("App", "other@example.com")
    assert Message("Hi").sender == "App <other@example.com>"
    assert Message("Hi", sender=("tester", "t@example.com")).sender == "tester <t@example.com>"
    assert Message("Hi", sender=("Doe, John", "t@example.com")).sender == '"Doe, John" <t@example.com>'


def test_recipients_keep_their_order() -> None:
    """send_to is a set, as Flask-Mail's, but one with an order."""
    message = Message("Hi", ["z@example.com", "a@example.com"], cc=["m@example.com", "z@example.com"], bcc=["b@e.com"])
    message.add_recipient("c@example.com")
    assert list(message.send_to) == ["z@example.com", "a@example.com", "c@example.com", "m@example.com", "b@e.com"]
    assert message.send_to == {"z@example.com", "a@example.com", "c@example.com", "m@example.com", "b@e.com"}
    assert "To: z@example.com, a@example.com, c@example.com" in message.as_string()


def test_html_is_one_of_the_alternatives() -> None:
    """A property over alts, which may be a dict or pairs."""
    message = Message("Hi", html="<p>", alts=[("amp", "x")])
    assert message.alts == {"amp": "x", "html": "<p>"}
    message.html = None
    assert message.alts == {"amp": "x"}
    assert Message("Hi", alts={"html": "<b>"}).html == "<b>"


def test_attach() -> None:
    """The content type follows from the name, else from the data; data must be there."""
    message = Message("Hi")
    message.attach("photo.png", data=b"\x89")
    message.attach(data="text")
    message.attach(data=b"octets", disposition="inline", headers={"Content-ID": "<x>"})
    assert [one.content_type for one in message.attachments] == ["image/png", "text/plain", "application/octet-stream"]
    assert [one.disposition for one in message.attachments] == ["attachment", "attachment", "inline"]
    assert message.attachments[2].headers == {"Content-ID": "<x>"}
    with pytest.raises(ValueError, match="'data' argument"):
        message.attach("photo.png")


def test_a_str_is_no_list_of_recipients() -> None:
    """Flask-Mail would write to each character."""
    with pytest.raises(InvalidInput) as raised:
        Message("Hi", "ann@example.com")  # type: ignore[arg-type]
    assert raised.value.field == "recipients"


def test_the_message_id_is_made_once_without_looking_up_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the domain of the sender, and may be set."""

    def lookup(*args: Any) -> str:
        raise AssertionError("a host name was looked up")

    monkeypatch.setattr(socket, "getfqdn", lookup)
    message = Message("Hi", ["ann@example.com"], sender="Äpp <app@bücher.example>")
    assert re.fullmatch(r"<\S+@xn--bcher-kva\.example>", message.msgId)
    assert f"Message-ID: {message.msgId}" in message.as_string()
    message.msgId = "<1@example.com>"
    assert "Message-ID: <1@example.com>" in message.as_string()
    assert Message("Hi").msgId.endswith("@localhost>")


# The mail


def tree(message: email.message.Message) -> Any:
    """What a reader of a message sees: types, parameters, decoded texts and octets; not the transfer encodings."""
    parameters = sorted((name.lower(), value) for name, value in message.get_params([])[1:] if name != "boundary")
    shape: list[Any] = [message.get_content_type(), message.get_content_disposition(), message.get_filename()]
    if message.is_multipart():
        return [*shape, [tree(part) for part in message.get_payload()]]  # type: ignore[arg-type]
    octets = message.get_payload(decode=True)
    assert isinstance(octets, bytes)
    if message.get_content_maintype() == "text" and message.get_content_disposition() is None:
        octets = octets.replace(b"\r\n", b"\n").rstrip(b"\n")
    return [*shape, parameters, octets]


def headers(message: email.message.Message) -> list[tuple[str, Any]]:
    """Names and decoded values in order; address lists as sets of pairs, because Flask-Mail has no order there."""
    found: list[tuple[str, Any]] = []
    for name, value in message.items():
        if name.lower() in ("content-type", "content-transfer-encoding", "message-id", "content-disposition"):
            continue
        decoded = re.sub(r"\r?\n", "", str(make_header(decode_header(str(value)))))
        found.append(
            (name, frozenset(getaddresses([decoded])) if name in ("From", "To", "Cc", "Reply-To") else decoded)
        )
    return found


def corpus() -> Iterator[dict[str, Any]]:
    """Arguments of messages that Flask-Mail can send."""
    to = ["ann@example.com"]
    yield {"body": "Hello"}
    yield {"subject": "Sübject " * 12, "body": "Grüße\nfrom ☃\n" * 5}
    yield {"subject": "long ascii subject" + " and more" * 20, "body": ""}
    yield {"body": None}
    yield {"html": "<p>ü</p>"}
    yield {"body": "text", "html": "<p>text</p>"}
    yield {"body": "text", "html": "<p>", "alts": {"calendar": "BEGIN:VCALENDAR"}}
    yield {"body": "x", "recipients": ["Ann <ann@example.com>", ("Bøb", "bob@example.com"), ("", "c@example.com")]}
    yield {"body": "x", "recipients": [f"someone{number}@example.com" for number in range(40)]}
    yield {"body": "x", "recipients": ["ann@bücher.example"]}
    yield {"body": "x", "cc": ["Čc <cc@example.com>"], "bcc": ["bcc@example.com"], "reply_to": "R <r@example.com>"}
    yield {"body": "x", "sender": ("Ünïcode Näme " * 4, "sender@example.com")}
    yield {"body": "x", "sender": "Plain Name <sender@example.com>"}
    yield {"body": "x", "extra_headers": {"X-One": "1", "List-Unsubscribe": "<mailto:u@example.com>"}}
    yield {"body": "x", "charset": "us-ascii"}
    yield {"body": "ünïcode", "charset": "iso-8859-1", "subject": "ü"}
    yield {"body": "内容", "subject": "表題", "charset": "shift_jis", "sender": ("送信者", "s@example.com")}
    yield {"body": ".\n..\nFrom here\n" + "y" * 990}
    yield {"subject": Lazy("lazy ü"), "body": "x"}
    for attachment in (
        Attachment("a.txt", "text/plain", b"octets"),
        Attachment("ünï.pdf", None, b"%PDF\x00\xff"),
        Attachment('quoted "name".txt', "text/plain", b"x"),
        Attachment(None, "application/json", "{}"),
        Attachment("i.png", "image/png", b"\x89", "inline", {"Content-ID": "<i>", "X-A": "b"}),
        Attachment("a.csv", "text/csv; charset=utf-8", "ascii;text"),
    ):
        yield {"body": "see attached", "attachments": [attachment]}
        yield {"body": "see attached", "html": "<p>see", "attachments": [attachment, attachment]}
    for number, arguments in enumerate([{"recipients": to * number} for number in (1, 2)]):
        yield {"body": str(number), **arguments}


@pytest.mark.parametrize("arguments", list(corpus()), ids=lambda arguments: "-".join(arguments))
def test_the_mail_is_flask_mails(app: Flask, arguments: dict[str, Any]) -> None:
    """The same headers in the same order, tree, parameters, texts and octets; ours in 7 bits and short lines."""
    arguments = {"subject": "Subject", "recipients": ["ann@example.com"], "date": DATE, **arguments}
    octets = Message(**arguments).as_bytes()
    ours = email.message_from_bytes(octets)
    theirs = email.message_from_bytes(flask_mail.Message(**arguments).as_bytes())
    assert headers(ours) == headers(theirs)
    assert tree(ours) == tree(theirs)
    assert octets.isascii()
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    assert b"\n" not in octets.replace(b"\r\n", b"")


words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=60)


@given(subject=words, body=st.text(st.characters(exclude_categories=["Cs"]), max_size=300), name=words)
def test_any_text_arrives(subject: str, body: str, name: str) -> None:
    """What a reader decodes is what the author wrote."""
    message = Message(subject, [(name, "ann@example.com")], body, sender="a@example.com")
    assert not message.has_bad_headers()
    found = email.message_from_bytes(message.as_bytes())
    decoded = re.sub(r"\r?\n", "", str(make_header(decode_header(found["Subject"] or ""))))
    assert decoded.split() == subject.split()
    text = found.get_payload(decode=True)
    assert isinstance(text, bytes)
    wanted = re.sub(r"\r\n?", "\n", body).rstrip("\n")
    assert re.sub(r"\r\n?", "\n", text.decode()).rstrip("\n") == wanted
    ((_, addr_spec),) = getaddresses([found["To"]])
    assert addr_spec == "ann@example.com"


def test_text_that_flask_mail_loses() -> None:
    """A str as attachment is UTF-8 and says so; an e-mail as attachment is not in base64 (RFC 2046 5.2.1)."""
    message = Message("Hi", ["ann@example.com"], "x", sender="a@example.com")
    message.attach("a.csv", "text/csv", "Ä;ß")
    message.attach("m.eml", "message/rfc822", b"Subject: inner\n\nbody\n")
    message.attach(content_type="image/png", data=bytearray(b"\x89"), disposition="inline")
    parts: Any = email.message_from_bytes(message.as_bytes()).get_payload()
    _, text, forwarded, image = parts
    assert (text.get_payload(decode=True), text.get_content_charset()) == ("Ä;ß".encode(), "utf-8")
    assert forwarded.get_payload(0)["Subject"] == "inner"
    assert forwarded["Content-Transfer-Encoding"] is None
    assert image["Content-Disposition"] == "inline"


def test_names_of_attachments_can_be_forced_to_ascii(app: Flask) -> None:
    """MAIL_ASCII_ATTACHMENTS, as Flask-Mail does it."""
    app.extensions["mail"].ascii_attachments = True
    message = Message("Hi", ["ann@example.com"], "x")
    message.attach("ünicödeß ←.→ ✓.txt", "text/plain", b"x")
    assert 'Content-Disposition: attachment; filename="unicode . .txt"' in message.as_string()


def test_a_charset_that_lacks_a_character_gives_way_to_utf8() -> None:
    """As Flask-Mail does for headers; its bodies raise."""
    message = Message("☃", ["ann@example.com"], "☃", charset="iso-8859-1", sender="a@example.com")
    found = email.message_from_bytes(message.as_bytes())
    assert found.get_content_charset() == "utf-8"
    assert found["Subject"] == "=?utf-8?b?4piD?="
    assert Message("x", [], "☃", charset="no-such-charset").as_bytes()


def test_a_header_given_as_extra_replaces_the_one_that_was_made() -> None:
    """A message has one Message-ID and one From (RFC 5322 3.6)."""
    extra = {"message-id": "<mine@example.com>", "X-Twice": "1"}
    found = email.message_from_string(
        Message("Hi", ["a@example.com"], sender="a@e.com", extra_headers=extra).as_string()
    )
    assert found.get_all("Message-ID") == ["<mine@example.com>"]


def test_long_names_and_addresses_are_folded() -> None:
    """Lines of address headers stay short, and nothing is lost."""
    people: list[Any] = [
        (f"A Person With Ä Lông Name Indeed {n}" * 2, f"{'long' * 12}{n}@example.com") for n in range(9)
    ]
    people += [("A Plain Name " * 3 + "Indeed", f"{'long' * 12}{n}@example.com") for n in range(2)]
    octets = Message("Hi", people, sender="a@example.com").as_bytes()
    assert max(map(len, octets.split(b"\r\n"))) <= 78
    found = email.message_from_bytes(octets)
    assert [addr for _, addr in getaddresses([found["To"]])] == [addr for _, addr in people]
    decoded = [str(make_header(decode_header(name))) for name, _ in getaddresses([found["To"]])]
    assert decoded == [name for name, _ in people]


def test_a_message_to_nobody_in_the_open_has_no_to() -> None:
    """Bcc alone: an empty field would be no field (RFC 5322 3.6.3)."""
    message = Message("Hi", bcc=["ann@example.com"], sender="a@example.com")
    found = email.message_from_bytes(message.as_bytes())
    assert (found["To"], found["Bcc"]) == (None, None)
    assert [str(recipient.address) for recipient in envelope_of(message).recipients] == ["ann@example.com"]


def test_texts() -> None:
    """str() and bytes() are as_string() and as_bytes(); both have CRLF line ends."""
    message = Message("Hi", ["ann@example.com"], "a\nb", date=DATE, sender="a@example.com")
    assert str(message) == message.as_string()
    assert bytes(message) == message.as_bytes() == message.as_string().encode()


@pytest.mark.parametrize(
    ("attachment", "field"),
    [
        (Attachment("x", "nonsense", b""), "content_type"),
        (Attachment("x", "text/plain", ["a"]), "data"),  # type: ignore[arg-type]
    ],
)
def test_an_attachment_that_cannot_be_sent(attachment: Attachment, field: str) -> None:
    """The error names what is wrong."""
    with pytest.raises(InvalidInput) as raised:
        Message("Hi", ["a@example.com"], attachments=[attachment]).as_bytes()
    assert raised.value.field == field


def test_half_a_surrogate_pair_cannot_be_sent() -> None:
    """It stands for no octets."""
    with pytest.raises(InvalidInput):
        Message("Hi", ["a@example.com"], "\ud800").as_bytes()


# Bad headers


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"subject": "a\r\nBcc: evil@example.com"}, "subject"),
        ({"subject": "testing\r\n"}, "subject"),
        ({"subject": "testing\r\n testing\r\n "}, "subject"),
        ({"subject": "testing\r\n testing\r\n\t"}, "subject"),
        ({"subject": "testing\r\n testing\r\n\n"}, "subject"),
        ({"subject": "a\nb"}, "subject"),
        ({"subject": "a\x00b"}, "subject"),
        ({"sender": "a@example.com\r\n"}, "sender"),
        ({"sender": ("A\n", "a@example.com")}, "sender"),
        ({"reply_to": "a@example.com\r"}, "reply_to"),
        ({"recipients": ["ann@example.com", "to\r\n@example.com"]}, "recipients"),
        ({"recipients": [("Ann\nX: y", "ann@example.com")]}, "recipients"),
        ({"cc": ["a@example.com\n"]}, "cc"),
        ({"bcc": ["a@example.com\x00"]}, "bcc"),
        ({"extra_headers": {"X-A": "a\r\nBcc: evil@example.com"}}, "X-A"),
        ({"extra_headers": {"X-A\r\nBcc": "evil@example.com"}}, "extra_headers"),
        ({"attachments": [Attachment("a\r\n.txt", "text/plain", b"")]}, "filename"),
        ({"attachments": [Attachment("a.txt", "text/plain\r\nX: y", b"")]}, "content_type"),
        ({"attachments": [Attachment("a.txt", "text/plain", b"", "inline\r\n")]}, "disposition"),
        ({"attachments": [Attachment("a.txt", "text/plain", b"", headers={"X": "\n"})]}, "X"),
    ],
)
def test_line_breaks_in_headers_are_refused(change: dict[str, Any], field: str) -> None:
    """BadHeaderError is a ValueError that names the field; has_bad_headers says it beforehand."""
    message = Message(**{"subject": "Hi", "recipients": ["ann@example.com"], "sender": "app@example.com", **change})
    assert message.has_bad_headers()
    with pytest.raises(BadHeaderError) as raised:
        translate(message, None)
    assert raised.value.field == field
    assert isinstance(raised.value, ValueError)


def test_a_folded_subject_is_no_bad_header() -> None:
    """It stays as it is."""
    subject = "testing\r\n testing\r\n testing \r\n \ttesting"
    message = Message(subject, ["ann@example.com"], sender="app@example.com")
    assert not message.has_bad_headers()
    assert subject in message.as_string()
    folded = Message("tästing\r\n testing", ["ann@example.com"], sender="app@example.com")
    assert str(make_header(decode_header(email.message_from_bytes(folded.as_bytes())["Subject"]))) == "tästing testing"


def test_the_old_name_of_has_bad_headers() -> None:
    """It works, and warns."""
    with pytest.warns(DeprecationWarning, match="has_bad_headers"):
        assert not Message("Hi", sender="a@example.com").is_bad_headers()


def test_bad_header_error_can_be_raised_without_arguments() -> None:
    """As Flask-Mail raises it."""
    assert "line break" in str(BadHeaderError())


def test_as_string_takes_line_breaks_out_of_addresses() -> None:
    """To look at a message never injects a header."""
    message = Message("Hi", ["to\r\n@example.com"], sender="from\r\n@example.com", reply_to="evil@example.com\r")
    text = message.as_string()
    assert "From: from@example.com" in text
    assert "To: to@example.com" in text
    assert "Reply-To: evil@example.com" in text


# The functions


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("ann@example.com", "ann@example.com"),
        ("Ann <ann@example.com>", "Ann <ann@example.com>"),
        (("Ann", "ann@example.com"), "Ann <ann@example.com>"),
        (("Doe, Ann", "ann@example.com"), '"Doe, Ann" <ann@example.com>'),
        ('"Doe, \\"A\\"" <ann@example.com>', '"Doe, \\"A\\"" <ann@example.com>'),
        ("ÄÜÖ → ✓ <from@example.com>>", "=?utf-8?b?w4TDnMOWIOKGkiDinJM=?= <from@example.com>"),
        ("ann@bücher.example", "ann@xn--bcher-kva.example"),
        ("ann@straße.example", "ann@xn--strae-oqa.example"),  # IDNA 2008; Flask-Mail's 2003 writes to strasse
        ("no address", "no address"),
        ("änn@example.com", "änn@example.com"),  # Flask-Mail raises UnicodeEncodeError
        (Address("ann", "example.com", "Ann"), "Ann <ann@example.com>"),
        ((None, "ann@example.com"), "ann@example.com"),
        (Lazy("ann@example.com"), "ann@example.com"),
    ],
)
def test_sanitize_address(given: Any, wanted: str) -> None:
    """Ready for a header."""
    assert sanitize_address(given) == wanted
    assert sanitize_addresses([given, given]) == [wanted, wanted]


def test_sanitize_subject() -> None:
    """ASCII stays; a charset that lacks a character gives way to UTF-8."""
    assert sanitize_subject("Hi") == flask_mail.sanitize_subject("Hi") == "Hi"
    assert sanitize_subject("sübject") == flask_mail.sanitize_subject("sübject") == "=?utf-8?q?s=C3=BCbject?="
    assert sanitize_subject("☃", "iso-8859-1") == flask_mail.sanitize_subject("☃", "iso-8859-1")


def test_force_text() -> None:
    """Octets are decoded; what cannot be says what was given, and pickles nothing else."""
    assert force_text("a") == force_text(b"a") == force_text(Lazy("a")) == "a"
    with pytest.raises(FlaskMailUnicodeDecodeError) as raised:
        force_text(b"\xff")
    assert raised.value.obj == b"\xff"
    assert str(raised.value).endswith("You passed in b'\\xff' (<class 'bytes'>)")


# The envelope


def envelope_of(message: Any, **options: Any) -> Envelope:
    envelope = translate(message, None, **options).envelope
    assert envelope is not None
    return envelope


def test_the_envelope_follows_the_message() -> None:
    """Sender and recipients in order, duplicates once, names left out."""
    to: list[Any] = ["Ann <ann@example.com>", ("Bob", "bob@example.com"), "ann@EXAMPLE.com"]
    message = Message(
        "Hi",
        to,
        cc=["cc@example.com"],
        bcc=[Address("b", "example.com")],
        sender="App <app@example.com>",
    )
    envelope = envelope_of(message)
    assert str(envelope.sender) == "app@example.com"
    assert [str(recipient.address) for recipient in envelope.recipients] == [
        "ann@example.com",
        "bob@example.com",
        "cc@example.com",
        "b@example.com",
    ]
    assert str(envelope_of(message, envelope_from=("B", "bounce@example.com")).sender) == "bounce@example.com"
    assert envelope_of(message, envelope_from="").sender is None


def test_smtp_parameters_are_translated() -> None:
    """What the Mailer decides itself is noted; DSN parameters and others get their place."""
    message = Message(
        "Hi",
        ["ann@example.com"],
        sender="a@example.com",
        mail_options=[
            "SIZE=1000",
            "body=8BITMIME",
            "SMTPUTF8",
            "RET=HDRS",
            "ENVID=a+2Bb",
            "REQUIRETLS",
            "HOLDFOR=60",
            "MT-PRIORITY=3",
            "XFLAG",
        ],
        rcpt_options=["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;ann+2B1@example.com"],
    )
    parcel, notes = translate(message, None), left_out(message)
    envelope = parcel.envelope
    assert envelope is not None
    assert (envelope.dsn_return, envelope.envid, envelope.require_tls, envelope.hold_for) == ("HDRS", "a+b", True, 60)
    assert envelope.extra == {"MT-PRIORITY": "3", "XFLAG": None}
    assert envelope.recipients[0].notify == ("SUCCESS", "FAILURE")
    assert envelope.recipients[0].orcpt == "ann+1@example.com"
    assert [note.split(" is ")[0] for note in notes] == [
        "mail_options: SIZE=1000",
        "mail_options: body=8BITMIME",
        "mail_options: SMTPUTF8",
    ]
    message.mail_options = ["HOLDUNTIL=2030-01-01T00:00:00Z"]
    assert envelope_of(message).hold_until.year == 2030  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "options",
    [
        {"mail_options": ["RET=SOME"]},
        {"mail_options": ["X Y=1"]},
        {"mail_options": ["X=a b"]},
        {"mail_options": ["HOLDFOR=soon"]},
        {"mail_options": ["HOLDUNTIL=tomorrow"]},
        {"mail_options": ["SIZE=1\r\nRCPT TO:<x@example.com>", "X=\r\n"]},
        {"rcpt_options": ["NOTIFY=NEVER,FAILURE"]},
        {"rcpt_options": ["XRCPT=1"]},
    ],
)
def test_smtp_parameters_that_cannot_be(options: dict[str, Any]) -> None:
    """Refused before anything is sent."""
    with pytest.raises(InvalidInput):
        translate(Message("Hi", ["ann@example.com"], sender="a@example.com", **options), None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"recipients": ["ann@example.com, bob@example.com"]}, "recipients[0]"),
        ({"recipients": ["Doe, John <john@example.com>"]}, "recipients[0]"),
        ({"recipients": ["carl@example.com", None]}, "recipients[1]"),
        ({"cc": ["no address"]}, "cc[0]"),
        ({"bcc": [""]}, "bcc[0]"),
    ],
)
def test_addresses_that_cannot_be(change: dict[str, Any], field: str) -> None:
    """One address for each entry; the outcome's error names the argument and the place."""
    message = Message(**{"subject": "Hi", "recipients": ["ann@example.com"], "sender": "app@example.com", **change})
    parcel = translate(message, None)
    ((argument, given),) = change.items()
    (refused,) = parcel.refused
    assert refused.error.field == field
    assert refused.address == (given[-1] if given[-1] is not None else "None")
    assert getattr(message, argument) == given  # the message is left as it is


def test_a_sender_that_cannot_be() -> None:
    """The whole message is refused."""
    with pytest.raises(InvalidInput) as raised:
        translate(Message("Hi", ["ann@example.com"], sender="a@b@c"), None)
    assert raised.value.field == "sender"


def test_what_is_missing_is_an_assertion_error() -> None:
    """As with Flask-Mail, which asserts; here also under -O, and it is an InvalidInput."""
    with pytest.raises(IncompleteMessage, match="No recipients") as no_recipients:
        translate(Message("Hi", sender="a@example.com"), None)
    assert isinstance(no_recipients.value, AssertionError)
    assert isinstance(no_recipients.value, InvalidInput)
    with pytest.raises(AssertionError, match="does not specify a sender"):
        translate(Message("Hi", ["ann@example.com"]), None)


@pytest.mark.parametrize("make", [Message, flask_mail.Message])
def test_a_bad_header_of_either_message_is_found(app: Flask, make: Callable[..., Any]) -> None:
    """Flask-Mail itself does not look at cc, bcc and extra headers."""
    assert bad_header(make("Hi", ["a@example.com"], extra_headers={"X": "a\nb"})) == "X"
    assert bad_header(make("Hi", ["a@example.com"], attachments=[flask_mail.Attachment("\n", None, b"")])) == "filename"
