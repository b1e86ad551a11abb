"""What is hard to write arrives as what was given to Django, whichever of its releases renders it."""

from __future__ import annotations

import email.message
import enum
from email.mime.base import MIMEBase
from typing import Any

import pytest
from django.core.mail import EmailMultiAlternatives

from smtpbackend_django import EmailBackend
from smtpbackend_django.message import IS_MODERN, content_of, envelope_of
from tests.arriving import Given, check, mixed_subjects, nasty_messages, octets_of, quoted


def written(message: EmailMultiAlternatives) -> bytes:
    prepare = getattr(EmailBackend(), "prep_address", None)
    return octets_of(content_of(message, envelope_of(message, prepare)))


def message_of(what: Given) -> EmailMultiAlternatives:
    author, *to = map(quoted, what.mailboxes)
    message = EmailMultiAlternatives(what.subject, what.text, author, to, headers=what.headers)
    if what.html is not None:
        message.attach_alternative(what.html, "text/html")
    for name, content in what.files:
        message.attach(name, content, "application/octet-stream")
    return message


class Own(EmailMultiAlternatives):
    """A class of a site, which Django itself renders."""


@pytest.mark.parametrize("kind", [EmailMultiAlternatives, Own])
@pytest.mark.parametrize("make", [mixed_subjects, nasty_messages])
def test_a_message_arrives_as_it_was_given(make: type, kind: type) -> None:
    for what in make():
        message = message_of(what)
        message.__class__ = kind
        check(what, written(message))


def with_part(payload: str, encoding: str, signed: bool) -> EmailMultiAlternatives:
    """A message with a part that the site has made itself."""
    kind: Any = email.message.MIMEPart if IS_MODERN else lambda: MIMEBase("multipart", "mixed")
    outer, inner = kind(), kind()
    for part, media_type in ((outer, f"multipart/{'signed' if signed else 'mixed'}"), (inner, "application/pdf")):
        del part["Content-Type"]
        part["Content-Type"] = media_type
    outer.set_payload([])
    outer.attach(inner)
    inner.set_payload(payload)
    inner["Content-Transfer-Encoding"] = encoding
    message = EmailMultiAlternatives("s", "x", "a@example.com", ["b@example.org"])
    message.attach(outer)
    return message


@pytest.mark.parametrize(("payload", "encoding"), [("a\0b", "7bit"), ("a\rb\n\udc89", "8bit"), ("a\nb\n", "binary")])
def test_a_part_that_servers_would_damage_is_encoded(payload: str, encoding: str) -> None:
    content = written(with_part(payload, encoding, signed=False))
    *_, part = email.message_from_bytes(content).walk()
    assert part["Content-Transfer-Encoding"] == "base64"
    assert part.get_payload(decode=True) == payload.encode("ascii", "surrogateescape")
    with pytest.raises(ValueError, match="it is signed; give its content base64 before"):
        written(with_part(payload, encoding, signed=True))


class Word(str, enum.Enum):  # noqa: UP042 -- Django's TextChoices are written as their values
    SUBJECT = "Reset your password"
    AUTHOR = '"Ann, of Example" <ann@example.org>'
    TO = "bob@example.org"
    TEXT = "a & b\n"


@pytest.mark.parametrize("kind", [EmailMultiAlternatives, Own])
def test_the_members_of_an_enumeration_are_their_characters(kind: type) -> None:
    """Django 5.2 writes their names into headers, beside an envelope with their characters."""

    def octets(word: Any) -> bytes:
        headers = {"X-Word": word(Word.SUBJECT), "Date": "Mon, 23 Nov 2026 01:02:03 +0100", "Message-ID": "<a@b>"}
        to = [word(Word.TO)]
        message = kind(word(Word.SUBJECT), word(Word.TEXT), word(Word.AUTHOR), to, cc=to, reply_to=to, headers=headers)
        return written(message)

    found = octets(lambda word: word)
    assert found == octets(lambda word: word.value)
    assert b"Word." not in found
