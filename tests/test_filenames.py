"""Names of files whose octets are not UTF-8, as ``os.listdir`` gives them, arrive as text with every face."""

from __future__ import annotations

import os
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

import smtpbackend_flask
from smtpbackend import Attachment, InvalidInput, Mailer, Message
from smtpbackend.message import readable_filename
from smtpbackend.testing import ScriptedServer

NAMES = {
    b"r\xe9sum\xe9.txt": "résumé.txt",
    b"\x80uro \x81.txt": "€uro \ufffd.txt",  # Windows-1252 has no 81
    "résumé.txt".encode(): "résumé.txt",
    b"a.txt": "a.txt",
}
Send = Callable[[str, str], None]


def core(url: str) -> Send:
    def send(path: str, name: str) -> None:
        attached = [Attachment(Path(path)), Attachment(b"hi", name)]
        with Mailer(url) as mailer:
            mailer.send(Message("s", "ann@example.org", "bob@example.com", text="x", attachments=attached))

    return send


def given_message(url: str) -> Send:
    """Django's, sent by our backend."""
    if not settings.configured:
        settings.configure()
        django.setup()
    from django.core.mail import EmailMessage as DjangoMessage

    from smtpbackend_django import EmailBackend

    host, _, port = url.removeprefix("smtp://").partition("?")[0].partition(":")

    def send(path: str, name: str) -> None:
        backend = EmailBackend(host=host, port=int(port))
        message = DjangoMessage("s", "x", "ann@example.org", ["bob@example.com"])
        message.attach_file(path)
        message.attach(name, "hi", "text/plain")
        assert backend.send_messages([message]) == 1

    return send


def flask(url: str) -> Send:
    app = Flask("app")
    app.config.update(SMTPBACKEND_SERVERS=[url], MAIL_DEFAULT_SENDER="ann@example.org")
    mail = smtpbackend_flask.Mail(app)

    def send(path: str, name: str) -> None:
        message = smtpbackend_flask.Message("s", recipients=["bob@example.com"], body="x")
        for one in (os.path.basename(path), name):
            message.attach(one, "text/plain", "hi")
        with app.app_context():
            mail.send(message)

    return send


@pytest.mark.parametrize("face", [core, given_message, flask])
@pytest.mark.parametrize("octets", NAMES, ids=ascii)
def test_it_arrives(smtp_server: Callable[..., ScriptedServer], tmp_path: Path, face: Any, octets: bytes) -> None:
    server = smtp_server()
    path = os.path.join(os.fsencode(tmp_path), octets)
    with open(path, "wb") as file:
        file.write(b"hi")
    # in a process without a locale all that is no ASCII is a surrogate
    face(server.url)(os.fsdecode(path), octets.decode("ascii", "surrogateescape"))
    arrived = message_from_bytes(server.taken[-1].content, policy=policy.default)
    assert isinstance(arrived, EmailMessage)
    assert [part.get_filename() for part in arrived.iter_attachments()] == [NAMES[octets]] * 2


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_name_of_text_stays(name: str) -> None:
    assert readable_filename(name) == name
    assert readable_filename(name.encode().decode("ascii", "surrogateescape")) == name


@given(st.binary())
def test_all_octets_are_text(octets: bytes) -> None:
    readable_filename(octets.decode("utf-8", "surrogateescape")).encode()


def test_half_a_pair_is_no_octet() -> None:
    """It is of a string that was cut, and of no name of a file."""
    with pytest.raises(InvalidInput, match="half a surrogate pair"):
        Attachment(b"x", "a\ud83d.txt")
