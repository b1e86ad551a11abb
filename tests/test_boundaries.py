"""What stands between the parts of a message: never what a server could take for the end of the mail, or for a part."""

from __future__ import annotations

import email
from datetime import UTC, datetime
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from smtpbackend import Attachment, Message
from smtpbackend.errors import InvalidInput
from smtpbackend.mime import render

DATE = datetime(2026, 1, 2, tzinfo=UTC)
SMUGGLED = "a\n.\nMAIL FROM:<ceo@bank.example>\nRCPT TO:<victim@example.org>\nDATA\nSubject: smuggled\n\n"


def octets_of(message: Any) -> bytes:
    return b"".join(render(message, date=DATE, token="unique").chunks())


def mixed(boundary: str | None, *texts: str, subtype: str = "mixed") -> MIMEMultipart:
    message = MIMEMultipart(subtype, boundary)
    message["From"], message["To"] = "a@example.com", "b@example.org"
    for text in texts:
        message.attach(MIMEText(text))
    return message


def texts_in(octets: bytes) -> list[str]:
    return [part.get_payload().strip() for part in email.message_from_bytes(octets).walk() if not part.is_multipart()]


def has_bare_ends(octets: bytes) -> bool:
    return b"\n" in octets.replace(b"\r\n", b"") or b"\r" in octets.replace(b"\r\n", b"")


def test_a_boundary_in_the_form_of_rfc_2231_smuggles_nothing() -> None:
    message = mixed(None, "x", "y")
    message.set_param("boundary", SMUGGLED, charset="us-ascii")
    octets = octets_of(message)
    assert not has_bare_ends(octets)
    assert b"\r\n.\r\n" not in octets
    assert texts_in(octets) == ["x", "y"]


@examples(st.text(min_size=1, max_size=100))
def test_whatever_a_boundary_is_the_parts_arrive(boundary: str) -> None:
    message = mixed(None, "x", "y")
    message.set_param("boundary", boundary, charset="utf-8")
    octets = octets_of(message)
    assert not has_bare_ends(octets)
    assert texts_in(octets) == ["x", "y"]


@pytest.mark.parametrize("boundary", ["b", "=_1.x", "a b'()+_,-./:=?9", "x" * 70])
def test_one_that_rfc_2046_allows_stays(boundary: str) -> None:
    assert b"\r\n--" + boundary.encode() + b"\r\n" in octets_of(mixed(boundary, "x"))


@pytest.mark.parametrize("line", ["--b", "--b--", "--b  ", "--b-- \t"])
def test_one_that_is_a_line_of_the_content_is_changed(line: str) -> None:
    """RFC 2046 5.1: boundary delimiters must not appear within the encapsulated material."""
    octets = octets_of(mixed("b", f"x\n{line}\ny", "z"))
    assert texts_in(octets) == [f"x\r\n{line}\r\ny".rstrip(), "z"]


def test_a_line_that_only_begins_like_it_is_none() -> None:
    assert b"\r\n--b\r\n" in octets_of(mixed("b", "x\n--bc\n-- b\ny"))


@pytest.mark.parametrize("boundary", ["b", "x" * 71, "ä", "a@b"])
def test_of_a_signed_message_nothing_is_changed(boundary: str) -> None:
    message = mixed(None, "x\n--b\ny", subtype="signed")
    message.set_param("boundary", boundary)
    with pytest.raises(InvalidInput, match="a signed message must not be altered") as raised:
        octets_of(message)
    assert raised.value.field == "Content-Type"


def test_the_callers_message_stays_as_it_is() -> None:
    message = mixed("b", "x\n--b\ny")
    octets_of(message)
    assert message.get_boundary() == "b"


def test_parts_in_parts_are_looked_at() -> None:
    inner = mixed("inner", "x\n--outer\ny")
    outer = mixed("outer")
    outer.attach(inner)
    assert texts_in(octets_of(outer)) == ["x\r\n--outer\r\ny"]


def test_a_forwarded_mail_is_looked_at() -> None:
    forwarded = b"Content-Type: multipart/mixed; boundary*=us-ascii''a%0A.%0A\n\n--a\n\nx\n--a--\n"
    octets = octets_of(
        Message("x", "a@example.com", "b@example.org", attachments=[Attachment(forwarded, "f", "message/rfc822")])
    )
    assert not has_bare_ends(octets)


def test_a_content_type_without_end_is_refused() -> None:
    """The email package would take it apart in time that grows with the square of its length."""
    message = EmailMessage()
    message["From"], message["To"] = "a@example.com", "b@example.org"
    message.set_raw("Content-Type", 'multipart/mixed; a="' + ";" * 2_000)  # type: ignore[attr-defined]
    message.set_payload([])
    with pytest.raises(InvalidInput, match="more than 2,000 characters"):
        octets_of(message)
    forwarded = b'Content-Type: multipart/mixed;\r\n a="' + b";" * 2_000 + b"\r\n\r\nx\r\n"
    with pytest.raises(InvalidInput, match="attachments: it has a Content-Type of more than 2,000 octets"):
        octets_of(
            Message("x", "a@example.com", "b@example.org", attachments=[Attachment(forwarded, "f", "message/rfc822")])
        )
