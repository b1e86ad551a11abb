"""The error, the outcome and the events of a message say what its last server said, and blame who is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpbackend import Envelope, Server
from smtpbackend.delivery.asks import Give, Lease, Pull
from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.date_and_id import stamp
from smtpbackend.delivery.dispatch import Dispatch
from smtpbackend.delivery.lifecycle import Lifecycle
from smtpbackend.delivery.route import Route
from smtpbackend.errors import (
    ConnectFailed,
    ConnectionRefused,
    ContentRefused,
    HelloRefused,
    InvalidInput,
    RecipientsRefused,
    SenderRefused,
    TimedOut,
)
from smtpbackend.events import Telling
from smtpbackend.testing import CUT, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello


def test_a_refusal_for_good_after_a_4xx_elsewhere_is_not_transient(twin: Twin, scripted: Scripted) -> None:
    """One server defers the content, the next knows no such recipient: nobody should try again."""
    servers = scripted({".": "451 4.3.0 later"}), scripted({"RCPT": "550 5.1.1 nobody"})
    with pytest.raises(RecipientsRefused) as caught:
        twin(*(server.url for server in servers)).send(hello())
    assert not caught.value.is_transient


def test_a_reply_stands_beside_the_server_that_gave_it(twin: Twin, scripted: Scripted) -> None:
    """The second server could not be used: it said nothing about the recipient."""
    first, second = scripted({"RCPT": "450 4.2.1 later"}), scripted({"": "554 5.7.1 go away"})
    with pytest.raises(RecipientsRefused) as caught:
        twin(first.url, second.url).send(hello())
    (outcome,) = caught.value.receipt.outcomes  # type: ignore[union-attr]
    assert (outcome.reply.code, outcome.server) == (450, first.name)  # type: ignore[union-attr]


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING")])
@pytest.mark.parametrize("code", [550, 451])
def test_a_refusal_ahead_of_a_hang_up_is_the_reason(
    twin: Twin, scripted: Scripted, extensions: tuple[str, ...], code: int
) -> None:
    """The error is about the sender, the recipient or the content that was refused, and not about the connection."""
    for command, kind in (("MAIL", SenderRefused), ("RCPT", RecipientsRefused), (".", ContentRefused)):
        server = scripted(Play({command: (f"{code} 5.7.1 no", CUT)}, extensions))
        with pytest.raises(kind, match=str(code)) as caught:
            twin(server.url).send(hello())
        assert caught.value.is_transient is (code == 451)


def test_a_greeting_that_ends_in_a_refusal_says_why(twin: Twin, scripted: Scripted) -> None:
    """Block lists are told so: 220- ahead of 521."""
    welcome = b"220-some.example.com ESMTP\r\n521 5.7.1 blocked using bl.example.org\r\n"
    with pytest.raises(ConnectFailed, match=r"521 .*blocked using bl\.example\.org"):
        twin(scripted(Play({"": (welcome, CUT)})).url).send(hello())


def test_a_refused_ehlo_ahead_of_a_hang_up_is_the_reason(twin: Twin, scripted: Scripted) -> None:
    """HELO is not answered any more."""
    with pytest.raises(HelloRefused, match=r"550 5\.7\.1 go away"):
        twin(scripted(Play({"EHLO": ("550 5.7.1 go away", CUT)})).url).send(hello())


def test_the_messages_after_a_server_failed_carry_its_error(twin: Twin) -> None:
    """They are not tried; what they say is why."""
    receipts = twin("smtp://127.0.0.1:1").send_many([hello(), hello()])
    assert [type(receipt.error) for receipt in receipts] == [ConnectionRefused, ConnectionRefused]


def test_a_source_that_fails_does_not_blame_the_server(
    twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The connection is given up, and the server neither rests nor is reported."""
    from smtpbackend.content import Content

    path = tmp_path / "content"
    path.write_bytes(b"Subject: x\r\n\r\n" + b"x\r\n" * 1000)

    def chunks(self: Content) -> Iterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        raise OSError("the disk is gone")

    told: list[Any] = []
    mailer = twin(scripted({}).url, listeners=[told.append])
    mailer.send(hello())
    monkeypatch.setattr(Content, "chunks", chunks)
    with pytest.raises(InvalidInput, match="the disk is gone"):
        mailer.send(path, Envelope("ann@example.org", ["bob@example.com"]))
    assert "server_failed" not in [event.name for event in told]
    assert not mailer.raw._route._resting


def test_a_server_that_had_only_what_time_was_left_is_tried_for_the_next_message() -> None:
    """The first server takes most of the deadline and fails; the second is not there in the second that is left."""
    now = 0.0
    first, second = Server("first.example.com"), Server("second.example.com")
    dispatch = Dispatch(Route([first, second]), Lifecycle(Rules(), Telling(()), lambda: now, stamp, deadline=10)).run()
    assert isinstance(next(dispatch), Pull)
    assert dispatch.send(hello()).server is first
    now = 9
    assert dispatch.throw(ConnectFailed("refused", server=first.name)).server is second
    now = 11
    given = dispatch.throw(ConnectFailed("no answer in time", server=second.name))
    assert isinstance(given, Give)
    assert isinstance(dispatch.send(None), Pull)
    lease = dispatch.send(hello())
    assert isinstance(lease, Lease)
    assert lease.server is second


def test_connections_that_are_all_in_use_do_not_rest_the_server(twin: Twin, scripted: Scripted) -> None:
    """It is our own limit: the next message goes there as before."""
    told: list[Any] = []
    mailer = twin(scripted({}).url, max_connections=1, timeout=0.5, listeners=[told.append])
    in_use = mailer.on_pool("lease", mailer.raw.configuration.servers[0], False, None)
    with pytest.raises(TimedOut, match="max_connections"):
        mailer.send(hello())
    assert "server_failed" not in [event.name for event in told]
    assert not mailer.raw._route._resting
    in_use.session.end("of a test")
    mailer.on_pool("release", in_use)
    assert mailer.send(hello()).ok
