"""What many threads attach, and the message that many threads send: every copy that arrives is the file."""

from __future__ import annotations

import contextlib
import email.message
import os
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives

from smtpbackend_django import EmailBackend
from tests.servers.aiosmtpd_server import AiosmtpdServer

# of Django 6, for parts as older code makes them
pytestmark = pytest.mark.filterwarnings("ignore:MIMEBase attachments are deprecated")

MANY = 64
OCTETS = os.urandom(70_000)


class OfASite(EmailMultiAlternatives):
    """Not written by the core, but by Django."""


def _multipart() -> MIMEMultipart:
    part = MIMEMultipart("mixed")
    part.attach(MIMEImage(OCTETS, "png"))
    part.attach(MIMEText("behind it"))
    return part


Put = Callable[[EmailMessage], None]
ATTACH: dict[str, Callable[[Path], Put]] = {
    "octets": lambda path: lambda message: message.attach("a.bin", OCTETS, "application/octet-stream"),
    "path": lambda path: lambda message: message.attach_file(str(path)),
    "part": lambda path: partial(EmailMessage.attach, filename=MIMEImage(OCTETS, "png")),
    "multipart": lambda path: partial(EmailMessage.attach, filename=_multipart()),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(OCTETS)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attach", "way", "kind"),
    [
        ("octets", "one for all", EmailMessage),
        ("octets", "each its own", OfASite),
        ("path", "each its own", EmailMessage),
        ("part", "each its own", EmailMessage),
        ("multipart", "one for all", OfASite),
    ],
)
def test_every_copy_is_the_file(server: AiosmtpdServer, path: Path, attach: str, way: str, kind: Any) -> None:
    put = ATTACH[attach](path)

    def new() -> EmailMessage:
        message: EmailMessage = kind("Grüße", "Guten Tag", "ann@example.org", ["bob@example.org"])
        put(message)
        return message

    shared = new()
    failed: list[BaseException] = []

    def send() -> None:
        try:
            backend = EmailBackend(host=server.host, port=server.port, max_connections=8)
            assert backend.send_messages([new() if way == "each its own" else shared]) == 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=send) for _ in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    copies = [octets for arrived in server.arrived for octets in _binary(message_from_bytes(arrived.content))]
    assert copies == [OCTETS] * MANY
    print(f"{attach}, {way}: {MANY} copies delivered, each of them the file")


def _binary(message: email.message.Message) -> Iterator[Any]:
    """What is attached: an image, or octets."""
    assert not message.defects
    for part in message.walk():
        assert not part.defects
        if part.get_content_maintype() in ("image", "application"):
            yield part.get_payload(decode=True)


def test_a_part_is_given_its_boundary_by_one_thread(server: AiosmtpdServer) -> None:
    """The ``email`` package writes it into the part: of two threads the second would change it under the first."""
    both_are_inside = threading.Barrier(2)

    class Part(MIMEMultipart):
        def set_boundary(self, boundary: str) -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                both_are_inside.wait(0.5)  # which they never are
            super().set_boundary(boundary)
            with contextlib.suppress(threading.BrokenBarrierError):
                both_are_inside.wait(0.5)

    part = Part("mixed")
    part.attach(MIMEText("one"))
    part.attach(MIMEText("two"))

    def send() -> None:
        message = EmailMessage("S", "B", "ann@example.org", ["bob@example.org"])
        message.attach(part)
        EmailBackend(host=server.host, port=server.port).send_messages([message])

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for arrived in server.arrived:
        parts = [each for each in message_from_bytes(arrived.content).walk() if not each.is_multipart()]
        found = [str(each.get_payload()).strip() for each in parts]
        assert found == ["B", "one", "two"]
    assert len(server.arrived) == 2
