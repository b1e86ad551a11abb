"""A Flask message says the same whether the core or the ``email`` package writes it, or is refused alike by both."""

from __future__ import annotations

import copy
import email
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import pytest
from flask import Flask
from markupsafe import Markup

from smtpbackend.content import Content
from smtpbackend.errors import InvalidInput
from smtpbackend_flask import Attachment, BadHeaderError, Mail, Message
from smtpbackend_flask.signals import message_failed, recipient_rejected
from smtpbackend_flask.translate import translate
from tests.arriving import octets_of
from tests.made_text import Counted, Lazy, Made

SIMPLE: dict[str, dict[str, Any]] = {
    "plain": {},
    "nothing in it": {"body": ""},
    "text beyond ASCII": {"subject": "Grüße, 你好", "body": "Grüße\n\n你好\n"},
    "long lines": {"subject": "word " * 40, "body": "x" * 2000 + "\n" + "y " * 600},
    "line ends": {"body": "one\r\ntwo\rthree\nfour"},
    "dots": {"body": ".\n..\n.x"},
    "HTML": {"html": "<p>Grüße & mehr</p>"},
    "HTML alone": {"body": None, "html": "<p>Good day</p>"},
    "no body": {"body": None},
    "names": {
        "recipients": [("Änn", "ann@example.org"), "Bob <bob@example.org>", "zoe@example.org", ("", "x@example.org")]
    },
    "a name that must be quoted": {"sender": ("Doe, Jane", "jane@example.org")},
    "the same one twice": {"recipients": ["ann@example.org", "ann@example.org", ("", "ann@example.org")]},
    "everybody": {"cc": ["cc@example.org"], "bcc": ["hidden@example.org"], "reply_to": ("R", "reply@example.org")},
    "one in a set": {"recipients": {"ann@example.org"}, "cc": ("cc@example.org",)},
    "a domain beyond ASCII": {"recipients": ["ann@bücher.example"]},
}


def message(options: dict[str, Any]) -> Message:
    given = {"subject": "Hello", "recipients": ["ann@example.org"], "body": "Good day\n", "sender": "app@example.com"}
    made = Message(**{**given, **options})
    made.date = 1_800_000_000.0
    return made


def read(octets: bytes) -> dict[str, Any]:
    """What a reader sees."""
    found = email.message_from_bytes(octets, policy=SMTP)
    assert isinstance(found, EmailMessage)
    names = ("Subject", "From", "To", "Cc", "Bcc", "Reply-To", "Date", "Message-ID")
    seen: dict[str, Any] = {name: str(found[name]).strip() for name in names}
    for kind in ("plain", "html"):
        part = found.get_body((kind,))
        seen[kind] = part.get_content().replace("\r\n", "\n").rstrip("\n") if part is not None else None
    return seen


@pytest.mark.parametrize("options", SIMPLE.values(), ids=SIMPLE)
def test_it_says_the_same(options: dict[str, Any]) -> None:
    given = message(options)
    content = translate(given, None).content
    assert isinstance(content, Content)
    octets = b"".join(content.chunks())
    assert octets.isascii()
    assert content.message_id == given.msgId
    assert read(octets) == read(given.as_bytes())


MAKERS: dict[str, Callable[[str], Any]] = {
    "template": Markup,
    "translation": Lazy,
    "translated template": lambda text: Lazy(Markup(text)),
    "octets": str.encode,
    "subclass": Made,
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("options", SIMPLE.values(), ids=SIMPLE)
def test_a_text_is_written_by_the_core_whatever_made_it(options: dict[str, Any], maker: str) -> None:
    """What Jinja renders and translations find is written as the same str is: apps send little else."""

    def texts(given: Any) -> Any:
        if isinstance(given, (list, tuple, set)):
            return type(given)(map(texts, given))
        return MAKERS[maker](given) if isinstance(given, str) else given

    fields = ("subject", "body", "html", "sender", "recipients", "cc", "bcc", "reply_to")
    plain = message(options)
    plain.msgId = "<one@example.org>"
    changed = copy.copy(plain)
    changed.alts = dict(plain.alts)
    for name in fields:
        setattr(changed, name, texts(getattr(plain, name)))
    found, right = translate(changed, None), translate(plain, None)
    assert isinstance(found.content, Content)
    assert isinstance(right.content, Content)
    assert found.envelope == right.envelope
    written, wanted = (unmarked(b"".join(content.chunks())) for content in (found.content, right.content))
    assert written == wanted


def unmarked(octets: bytes) -> bytes:
    """Without what is random in boundaries."""
    return re.sub(rb"=_(\d+)\.[0-9a-f]{32}", rb"\1", octets)


class Mine(Message):
    def _message(self) -> Any:
        raise LookupError("asked")


@pytest.mark.parametrize(
    "options",
    [
        {"charset": "latin-1"},
        {"extra_headers": {"X-Tag": "1"}},
        {"attachments": [Attachment("a.txt", "text/plain", "x")]},
        {"alts": {"calendar": "BEGIN:VCALENDAR"}},
        {"subject": "one\r\n two"},
    ],
    ids=" ".join,
)
def test_all_else_is_written_by_the_email_package(options: dict[str, Any]) -> None:
    assert not isinstance(translate(message(options), None).content, Content)


def test_a_subclass_is_asked() -> None:
    with pytest.raises(LookupError, match="asked"):
        translate(Mine("Hello", ["ann@example.org"], "x", sender="app@example.com"), None)


def test_the_date_is_that_of_the_message() -> None:
    content = translate(message({}), None).content
    found = email.message_from_bytes(b"".join(content.chunks()), policy=SMTP)
    assert found["Date"].datetime == datetime.fromtimestamp(1_800_000_000, UTC)


OTHER = {"extra_headers": {"X-Tag": "1"}}
"""With these the email package writes a message."""


@pytest.mark.parametrize("options", [{}, OTHER], ids=["core", "email package"])
class TestWhoeverWritesIt:
    @pytest.mark.parametrize("sender", [" ", "friends:;", "(Ann)", ","])
    def test_a_message_has_an_author(self, options: dict[str, Any], sender: str) -> None:
        """Even where the envelope has a sender of its own."""
        app = Flask("app")
        app.config["MAIL_SUPPRESS_SEND"] = True
        mail = Mail(app)
        with app.app_context(), mail.connect() as connection, pytest.raises(InvalidInput) as refused:
            connection.send(message({"sender": sender, **options}), envelope_from="bounces@example.com")
        assert refused.value.receipt is not None

    @pytest.mark.parametrize("date", ["1800000000", b"1", float("nan"), 1e300, [1]], ids=str)
    def test_a_date_is_a_number_of_seconds(self, options: dict[str, Any], date: Any) -> None:
        given = message(options)
        given.date = date
        with pytest.raises(InvalidInput, match="seconds") as refused:
            translate(given, None)
        assert refused.value.field == "date"

    def test_a_lazy_string_is_an_address(self, options: dict[str, Any]) -> None:
        lazy = Lazy("lazy@example.org")
        given = message({"recipients": [lazy], "sender": lazy, "cc": [b"cc@example.org"], **options})
        parcel = translate(given, None)
        content, envelope = parcel.content, parcel.envelope
        octets = b"".join(content.chunks()) if isinstance(content, Content) else content.as_bytes()
        found = read(octets)
        assert (found["From"], found["To"], found["Cc"]) == ("lazy@example.org", "lazy@example.org", "cc@example.org")
        assert [str(one.address) for one in envelope.recipients] == ["lazy@example.org", "cc@example.org"]


def test_one_of_several_authors_is_named_as_the_sender() -> None:
    """RFC 5322 3.6.2."""
    content = translate(message({"sender": "ann@example.com, bob@example.com"}), None, "bounces@example.com").content
    found = email.message_from_bytes(b"".join(content.chunks()), policy=SMTP)
    assert (found["From"], found["Sender"]) == ("ann@example.com, bob@example.com", "ann@example.com")


@pytest.mark.parametrize("field", ["body", "html"])
def test_what_cannot_be_encoded_is_told_of_each_recipient(field: str) -> None:
    """By the Mailer: with outcomes, and the signals of a message that failed."""
    app = Flask("app")
    app.config["MAIL_SERVER"] = "127.0.0.1"
    mail = Mail(app)
    told: list[str] = []
    with (
        app.app_context(),
        recipient_rejected.connected_to(lambda sender, **fields: told.append("rejected")),
        message_failed.connected_to(lambda sender, **fields: told.append("failed")),
        pytest.raises(InvalidInput) as refused,
    ):
        mail.send(message({field: "half a pair: \ud800"}))
    assert told == ["failed"]  # nobody is to blame
    assert [str(one.address) for one in refused.value.receipt.failed] == ["ann@example.org"]


def test_input_that_is_refused_at_once_has_a_receipt_too() -> None:
    app = Flask("app")
    app.config["MAIL_SUPPRESS_SEND"] = True
    mail = Mail(app)
    with app.app_context(), pytest.raises(BadHeaderError) as refused:
        mail.send(message({"subject": "two\nlines"}))
    assert refused.value.receipt.error is refused.value


def test_the_date_is_in_the_zone_of_this_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the same second was written before the zone was changed."""
    written = []
    try:
        for zone in ("UTC0", "JST-9"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            content = translate(message({}), None).content
            written.append(email.message_from_bytes(b"".join(content.chunks()))["Date"])
    finally:
        monkeypatch.undo()
        time.tzset()
    assert written == ["Fri, 15 Jan 2027 08:00:00 +0000", "Fri, 15 Jan 2027 17:00:00 +0900"]


@pytest.mark.parametrize("options", [{}, {"extra_headers": {"X-Kind": "b"}}, {"charset": "latin-1"}])
@pytest.mark.parametrize("kind", [Message, type("Own", (Message,), {})])
def test_a_lazy_text_is_looked_at_once(kind: type[Message], options: dict[str, Any]) -> None:
    """Envelope and header have the same address, and the message keeps what it was given."""
    texts = {name: Counted(f"{name}@example.org") for name in ("sender", "to", "cc", "bcc", "reply_to", "pair")}
    texts |= {"subject": Counted("Hi"), "body": Counted("Hello")}
    given = kind(
        texts["subject"],
        [texts["to"], ("Eve", texts["pair"])],  # type: ignore[list-item]
        texts["body"],
        sender=texts["sender"],
        cc=[texts["cc"]],
        bcc=[texts["bcc"]],
        reply_to=texts["reply_to"],
        **options,
    )
    parcel = translate(given, None)
    octets = octets_of(parcel.content)
    assert {name: text.looks for name, text in texts.items()} == dict.fromkeys(texts, 1)
    found = email.message_from_bytes(octets, policy=SMTP)
    assert parcel.envelope is not None
    addresses = [str(one.address) for one in parcel.envelope.recipients]
    assert addresses == [f"1.{name}@example.org" for name in ("to", "pair", "cc", "bcc")]
    assert found["To"] == "1.to@example.org, Eve <1.pair@example.org>"
    assert (found["From"], found["Cc"], found["Subject"]) == ("1.sender@example.org", "1.cc@example.org", "1.Hi")
    assert given.subject is texts["subject"]
    assert (given.msgId, given.date is None) == (found["Message-ID"], False)
