"""What is hard to write arrives as what was given to Flask's face."""

from __future__ import annotations

import email
import enum
from typing import Any

import pytest

from smtpbackend_flask import Attachment, Message
from smtpbackend_flask.translate import translate
from tests.arriving import Given, check, mixed_subjects, nasty_messages, octets_of


def message_of(what: Given) -> Message:
    author, *to = what.mailboxes
    message = Message(what.subject, list(to), what.text, what.html, sender=author, extra_headers=what.headers)
    for name, content in what.files:
        message.attachments.append(Attachment(name, "application/octet-stream", content))
    return message


@pytest.mark.parametrize("make", [mixed_subjects, nasty_messages])
def test_a_message_arrives_as_it_was_given(make: type) -> None:
    for what in make():
        check(what, octets_of(translate(message_of(what), None).content))


class Word(str, enum.Enum):  # noqa: UP042 -- a StrEnum is written as its value
    SUBJECT = "Reset your password"
    NAME = "Ann, of Example"
    ADDRESS = "ann@example.org"
    TEXT = "a & b\n"
    FILE = "report.txt"
    TYPE = "text/plain"


@pytest.mark.parametrize("options", [{}, {"charset": "latin-1"}, {"extra_headers": {"X-Word": Word.SUBJECT}}])
@pytest.mark.parametrize("has_file", [False, True])
def test_the_members_of_an_enumeration_are_their_characters(options: dict[str, Any], has_file: bool) -> None:
    message = Message(
        Word.SUBJECT, [(Word.NAME, Word.ADDRESS), Word.ADDRESS], Word.TEXT, sender=Word.ADDRESS, **options
    )
    message.html = Word.TEXT
    if has_file:
        message.attach(Word.FILE, Word.TYPE, Word.TEXT)
    octets = octets_of(translate(message, None).content)
    assert b"Word." not in octets
    read = email.message_from_bytes(octets)
    assert (read["Subject"], read["From"]) == ("Reset your password", "ann@example.org")
    assert '"Ann, of Example" <ann@example.org>' in read["To"]
    assert read["X-Word"] in (None, "Reset your password")
    assert all(part.get_payload(decode=True) in (b"a & b\r\n", b"a & b\n", None) for part in read.walk())
    assert [part.get_filename() for part in read.walk() if part.get_filename()] == ["report.txt"] * has_file
