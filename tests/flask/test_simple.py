"""What the core writes of a Flask message in one pass says the same as what the ``email`` package would write."""

from __future__ import annotations

import email
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import pytest

from smtpbackend.content import Content
from smtpbackend_flask import Attachment, Message
from smtpbackend_flask.compose import compose

SIMPLE: dict[str, dict[str, Any]] = {
    "plain": {},
    "nothing in it": {"body": ""},
    "text beyond ASCII": {"subject": "Grüße, 你好", "body": "Grüße\n\n你好\n"},
    "long lines": {"subject": "word " * 40, "body": "x" * 2000 + "\n" + "y " * 600},
    "line ends": {"body": "one\r\ntwo\rthree\nfour"},
    "dots": {"body": ".\n..\n.x"},
    "HTML": {"html": "<p>Grüße</p>"},
    "names": {
        "recipients": [("Änn", "ann@example.org"), "Bob <bob@example.org>", "zoe@example.org", ("", "x@example.org")]
    },
    "a name that must be quoted": {"sender": ("Doe, Jane", "jane@example.org")},
    "the same one twice": {"recipients": ["ann@example.org", "ann@example.org", ("", "ann@example.org")]},
    "everybody": {"cc": ["cc@example.org"], "bcc": ["hidden@example.org"], "reply_to": ("R", "reply@example.org")},
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
    content, _, _ = compose(given, None)
    assert isinstance(content, Content)
    octets = b"".join(content.chunks())
    assert octets.isascii()
    assert content.message_id == given.msgId
    assert read(octets) == read(given._message().as_bytes())


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
        {"body": None},
    ],
    ids=str,
)
def test_all_else_is_written_by_the_email_package(options: dict[str, Any]) -> None:
    assert not isinstance(compose(message(options), None)[0], Content)


def test_a_subclass_is_asked() -> None:
    with pytest.raises(LookupError, match="asked"):
        compose(Mine("Hello", ["ann@example.org"], "x", sender="app@example.com"), None)


def test_the_date_is_that_of_the_message() -> None:
    content, _, _ = compose(message({}), None)
    found = email.message_from_bytes(b"".join(content.chunks()), policy=SMTP)
    assert found["Date"].datetime == datetime.fromtimestamp(1_800_000_000, UTC)
