"""Messages with a signed part: it stays as it is, and what stands beside it is encoded where it must be."""

from __future__ import annotations

import email
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage, Message
from typing import Any

import pytest

from smtpbackend import InvalidInput, NotSupported
from smtpbackend.adapters import refolded
from smtpbackend.mime import render

DATE = datetime(2026, 1, 2, tzinfo=UTC)
SIGNED = (
    b'Content-Type: multipart/signed; boundary="s"; protocol="application/pgp-signature"; micalg="pgp-sha256"\r\n\r\n'
    b"--s\r\nContent-Type: text/plain\r\n\r\nsigned text\r\n"
    b"--s\r\nContent-Type: application/pgp-signature\r\n\r\n-----BEGIN PGP SIGNATURE-----\r\n\r\n--s--\r\n"
)


def beside(*parts: bytes, head: bytes = b"") -> Message:
    """A message whose parts are a signed one and these."""
    return email.message_from_bytes(
        b'From: a@example.com\r\nTo: b@example.com\r\nContent-Type: multipart/mixed; boundary="m"\r\n' + head + b"\r\n"
        + b"".join(b"--m\r\n" + part + b"\r\n" for part in (SIGNED, *parts)) + b"--m--\r\n"
    )  # fmt: skip


def sent(message: Any) -> bytes:
    return b"".join(render(message, date=DATE, token="token").chunks())


BINARY = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\na\0b\rc"


@pytest.mark.parametrize("octets", [b"a\0b", b"a\0b\rc", b"\xff\xfe\0\n"])
def test_what_stands_beside_it_is_encoded(octets: bytes) -> None:
    part = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n" + octets
    leaving = sent(beside(part, head=b"Content-Transfer-Encoding: binary\r\n"))
    assert SIGNED in leaving
    assert b"\0" not in leaving
    read = email.message_from_bytes(leaving)
    assert read.get_payload()[1].get_payload(decode=True) == octets  # type: ignore[index, union-attr]
    assert read["Content-Transfer-Encoding"] == "7bit"


def test_what_stands_in_it_is_refused() -> None:
    message = email.message_from_bytes(bytes(beside()).replace(b"signed text", b"signed \0 text"))
    with pytest.raises(InvalidInput, match="has NUL, and cannot be encoded, since it is signed"):
        sent(message)


def test_nul_around_the_parts_is_left_out() -> None:
    octets = beside().as_bytes(policy=policy.SMTP).replace(b"\r\n\r\n--m", b"\r\n\r\nFor old\0 readers\r\n--m", 1)
    leaving = sent(email.message_from_bytes(octets + b"The end\0\r\n"))
    assert b"\r\n\r\nFor old readers\r\n--m\r\n" in leaving
    assert leaving.endswith(b"--m--\r\nThe end\r\n")


def test_only_one_label_is_left() -> None:
    part = BINARY.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", 1)
    leaving = sent(beside(part))
    assert leaving.count(b"Content-Transfer-Encoding: base64") == 1
    assert b"8bit" not in leaving


def test_without_8bitmime_the_rest_is_encoded() -> None:
    part = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nétage".encode()
    content = render(beside(part), date=DATE, token="token")
    assert content.is_8bit
    octets = b"".join(content.as_7bit().chunks())
    assert octets.isascii()
    assert SIGNED in octets
    assert email.message_from_bytes(octets).get_payload()[1].get_payload(decode=True).decode() == "étage"  # type: ignore[index, union-attr]


def test_what_is_signed_in_8_bits_needs_8bitmime() -> None:
    message = email.message_from_bytes(bytes(beside()).replace(b"signed text", "signed téxt".encode()))
    content = render(message, date=DATE, token="token")
    with pytest.raises(NotSupported, match="must not be altered"):
        content.as_7bit()


def test_a_text_that_looks_like_a_field_is_not_rewritten() -> None:
    """Each header section is written anew, and nothing else."""
    message = EmailMessage(policy=policy.SMTP)
    message["From"], message["To"] = "a@example.com", "b@example.com"
    message["References"] = " ".join(f"<{'x' * 60}.{number}@mx.example.com>" for number in range(4))
    field = bytes(message).partition(b"References:")[2].partition(b"\r\n\r\n")[0]
    text = ("References:" + field.decode()).replace("\r\n", "\n") + "\nis what it wrote\n"
    message.set_content(text)
    written = message.as_bytes()
    assert b"=?" in written.partition(b"\r\n\r\n")[0]
    told = refolded(message, written)
    head, _, body = told.partition(b"\r\n\r\n")
    assert b"=?" not in head
    assert body == written.partition(b"\r\n\r\n")[2]
