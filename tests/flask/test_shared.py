"""What many threads attach, and the message that many threads send: every copy that arrives is the file."""

from __future__ import annotations

import contextlib
import email.message
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smtpbackend
from smtpbackend import InvalidInput
from smtpbackend_flask import Attachment, Mail, Message
from tests.flask.conftest import MakeApp, parsed
from tests.servers.aiosmtpd_server import AiosmtpdServer

MANY = 64
OCTETS = os.urandom(70_000)
StartServer = Callable[..., AiosmtpdServer]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(OCTETS)
    return path


def flask_message(attachment: Any) -> Any:
    return Message("Grüße", ["bob@example.com"], "Guten Tag", attachments=[attachment])


def our_message(attachment: Any) -> Any:
    return smtpbackend.Message("Grüße", to=["bob@example.com"], text="Guten Tag", attachments=[attachment])


def send_by_all(mail: Mail, app: Any, message_of: Callable[[], Any]) -> list[BaseException]:
    failed: list[BaseException] = []

    def send() -> None:
        try:
            with app.app_context():
                mail.send(message_of())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=send) for _ in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return failed


@pytest.mark.slow
@pytest.mark.parametrize("way", ["each its own", "one for all"])
@pytest.mark.parametrize("kind", ["Flask", "file", "BytesIO"])
def test_every_copy_is_the_file(aiosmtpd: StartServer, make_app: MakeApp, path: Path, kind: str, way: str) -> None:
    server = aiosmtpd()
    app, mail = make_app(server, SMTPBACKEND_MAX_CONNECTIONS=8)
    with path.open("rb") as file:
        if kind == "Flask":
            new, attachment = flask_message, Attachment("a.bin", data=OCTETS)
        else:
            source: Any = file if kind == "file" else io.BytesIO(OCTETS)
            new, attachment = our_message, smtpbackend.Attachment(source, "a.bin")  # type: ignore[assignment]
        shared = new(attachment)
        failed = send_by_all(mail, app, lambda: new(attachment) if way == "each its own" else shared)
    assert failed == []
    arrived = [parsed(one) for one in server.arrived]
    assert [one.get_content() for each in arrived for one in each.iter_attachments()] == [OCTETS] * MANY
    if kind == "Flask" and way == "one for all":
        assert len({one["Message-ID"] for one in arrived}) == 1
    print(f"{kind}, {way}: {MANY} copies delivered, each of them the file")


def test_the_default_sender_is_written_once(aiosmtpd: StartServer, make_app: MakeApp) -> None:
    """Into a message of the email package, which may have one From (RFC 5322 3.6)."""
    server = aiosmtpd()
    app, mail = make_app(server, SMTPBACKEND_MAX_CONNECTIONS=8)
    both_are_inside = threading.Barrier(2)

    class Watched(email.message.EmailMessage):
        def __contains__(self, name: object) -> bool:
            found = super().__contains__(name)
            if name == "From" and not found:
                with contextlib.suppress(threading.BrokenBarrierError):
                    both_are_inside.wait(0.5)  # which they never are
            return found

    message = Watched()
    message["To"] = "bob@example.com"
    message.set_content("Good day")
    assert send_by_all(mail, app, lambda: message) == []
    assert [one.get_all("From") for one in map(parsed, server.arrived)] == [["app@example.com"]] * MANY


def test_a_file_is_no_data_and_says_so(path: Path) -> None:
    """As in Flask-Mail, which wants octets."""
    with path.open("rb") as file:
        message = Message("S", ["bob@example.com"], sender="ann@example.org")
        message.attach("a.bin", "application/octet-stream", file)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput, match="data: octets or a str are wanted, not BufferedReader"):
            message.as_bytes()


def test_what_is_added_to_one_message_goes_with_no_other() -> None:
    """Lists of the caller may be those of all its messages."""
    everybody = {
        "recipients": ["admin@example.com"],
        "cc": ["c@example.com"],
        "bcc": ["b@example.com"],
        "attachments": [Attachment("logo.png", data=b"logo")],
        "mail_options": ["RET=HDRS"],
        "rcpt_options": ["NOTIFY=NEVER"],
    }
    first, second = Message("S", **everybody), Message("S", **everybody)  # type: ignore[arg-type]
    first.add_recipient("ann@example.com")
    first.attach("for-ann.pdf", "application/pdf", b"secret")
    for name in ("cc", "bcc", "mail_options", "rcpt_options"):
        getattr(first, name).append("of the first")
    for name, given in everybody.items():
        assert len(given) == 1
        assert getattr(second, name) == given
