"""The messages of one `send_messages` are in flight together, where the server has shown that it takes that."""

from __future__ import annotations

from typing import Any

from smtpbackend.testing import EXTENSIONS, Play
from smtpbackend_django import EmailBackend
from tests.django.conftest import mail


def ahead(smtp_server: Any, messages: Any) -> tuple[int, Any]:
    """How many messages were begun at most that had no reply, and the server."""
    most = 0

    def answer(_: str) -> str:
        nonlocal most
        most = max(most, server.received.count(b"MAIL FROM") - len(server.handed_over))
        return "250 ok"

    postfix = {"": "220 mx.example.com ESMTP Postfix", ".": answer}  # which takes the probe, and then chunks
    server = smtp_server(Play(postfix, (*EXTENSIONS, "CHUNKING")))
    assert EmailBackend(host=server.host, port=server.port).send_messages(messages) == 40
    assert sum(line.endswith(" LAST") for line in server.commands) == 39
    return most, server


def test_a_list_leaves_in_windows(smtp_server: Any) -> None:
    messages = [mail(f"u{number}@example.org") for number in range(40)]
    most, server = ahead(smtp_server, messages)
    assert most >= 10
    assert server.waits < 20
    assert [str(message.smtp_receipt.outcomes[0].address) for message in messages] == [
        f"u{number}@example.org" for number in range(40)
    ]


def test_what_has_nobody_to_go_to_or_cannot_be_sent_stands_in_no_ones_way(smtp_server: Any) -> None:
    """It is passed over, and the others stay together."""
    messages = [mail(f"u{number}@example.org") for number in range(40)]
    nobody = mail()
    nobody.to = []
    most, server = ahead(smtp_server, [*messages[:20], nobody, *messages[20:]])
    assert most >= 10
    assert len(server.handed_over) == 40
    assert not hasattr(nobody, "smtp_receipt")
