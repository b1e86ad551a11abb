"""Events, and the Listeners that are told of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend import CancelSend, Envelope, Mailer, Message, Receipt, SMTPError, events
from smtpbackend.events import Event, MessageEnded, MessageSending, ServerFailed, Telling
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.ports import free_ports
from tests.telling import names_of

ANN, BOB = "ann@example.org", "bob@example.com"
ENVELOPE = Envelope(ANN, [BOB])
SENDING = MessageSending("message", ENVELOPE, None)
SENT = MessageEnded("message", ENVELOPE, None, Receipt(None, ()))


def note(*to: str) -> Message:
    return Message("Note", ANN, to, text="Hello")


def test_one_that_cannot_say_what_it_wants_is_told_of_everything() -> None:
    class Broken:
        def wants(self, name: str) -> bool:
            raise LookupError(name)

        def __call__(self, event: Any) -> None:
            raise AssertionError

    assert Telling([Broken()]).wants("message_ended")


def test_every_event_has_a_name() -> None:
    """It is that of its signal, but for the end of a message, which has three."""
    kinds = [one for one in vars(events).values() if isinstance(one, type) and one.__module__ == events.__name__]
    assert {kind.name for kind in kinds if kind not in (Event, Telling)} == {  # type: ignore[attr-defined]
        *("message_sending", "message_ended"),
        *("recipient_rejected", "recipient_deferred", "server_failed"),
    }


def test_events_do_not_change() -> None:
    with pytest.raises(AttributeError, match="does not change"):
        SENDING.message = "another"  # type: ignore[misc]


def test_listeners_are_told_in_order() -> None:
    told: list[tuple[int, Any]] = []
    tell = Telling([lambda event: told.append((1, event)), lambda event: told.append((2, event))])
    tell(SENDING)
    tell(SENT)
    assert told == [(1, SENDING), (2, SENDING), (1, SENT), (2, SENT)]
    Telling(())(SENT)


def test_a_listener_that_raises_is_logged_and_the_next_is_told(caplog: pytest.LogCaptureFixture) -> None:
    told = []

    def broken(event: Any) -> None:
        raise RuntimeError("oops")

    with caplog.at_level(logging.ERROR, "smtpbackend"):
        Telling([broken, told.append])(SENT)
    assert told == [SENT]
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "smtpbackend.receiver_failed receiver=tests.test_events.test_a_listener_that_"
    )
    assert (record.name, record.__dict__["event"]) == ("smtpbackend.receivers", "message_ended")
    assert record.exc_info is not None


def test_only_before_a_message_a_listener_can_cancel(caplog: pytest.LogCaptureFixture) -> None:
    """Afterwards it is an error like any other."""

    def cancel(event: Any) -> None:
        raise CancelSend("not today")

    with pytest.raises(CancelSend, match="not today"):
        Telling([cancel])(SENDING)
    Telling([cancel])(SENT)
    assert [record.__dict__["why"] for record in caplog.records] == ["smtpbackend.errors.CancelSend"]


def test_what_is_no_exception_passes() -> None:
    """Ctrl-C in a listener ends the program, not the listener alone."""

    def interrupted(event: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Telling([interrupted])(SENT)


def test_a_delivery_tells_both_kinds_of_listeners(aiosmtpd: Callable[..., AiosmtpdServer]) -> None:
    """Those of the call first, then those of the Mailer; and only what concerns them."""
    server = aiosmtpd(refused={BOB: "550 5.1.1 unknown", "later@example.com": "450 4.2.1 later"})
    told: list[tuple[str, str]] = []
    with Mailer(
        f"smtp://{server.host}:{server.port}", listeners=[lambda event: told.append(("mailer", event.name))]
    ) as mailer:
        receipt = mailer.send(
            note(ANN, BOB, "later@example.com"), listeners=[lambda event: told.append(("call", event.name))]
        )
        mailer.send(note(ANN))
    names = ["message_sending", "recipient_rejected", "recipient_deferred", "message_ended"]
    assert told[:8] == [(who, name) for name in names for who in ("call", "mailer")]
    assert told[8:] == [("mailer", "message_sending"), ("mailer", "message_ended")]
    assert len(receipt.outcomes) == 3


def test_an_event_carries_what_the_caller_gave(aiosmtpd: Callable[..., AiosmtpdServer]) -> None:
    """The message itself, the envelope, and the receipt that `send` returns."""
    server = aiosmtpd()
    told: list[Any] = []
    message = note(BOB)
    with Mailer(f"smtp://{server.host}:{server.port}", listeners=[told.append]) as mailer:
        receipt = mailer.send(message)
    sending, sent = told
    assert (sending.message, sending.envelope) == (message, Envelope(ANN, BOB))
    assert (sent.message, sent.envelope) == (message, Envelope(ANN, BOB))
    assert sent.receipt is receipt


def test_a_failed_server_is_told_with_its_phase() -> None:
    (port,) = free_ports(1)
    told: list[Any] = []
    with Mailer(f"smtp://127.0.0.1:{port}", listeners=[told.append]) as mailer, pytest.raises(SMTPError) as raised:
        mailer.send(note(BOB))
    assert [event.name for event in told] == [
        *("message_sending", "server_failed", "recipient_deferred", "message_ended")
    ]
    failed = told[1]
    assert isinstance(failed, ServerFailed)
    assert (failed.server, failed.phase) == (f"127.0.0.1:{port}", "connect")
    assert told[3].receipt.error is raised.value
    assert told[3].receipt is raised.value.receipt


def test_a_listener_cancels_one_message_of_many(aiosmtpd: Callable[..., AiosmtpdServer]) -> None:
    """The others go out; the receipt says why this one did not, and no signal but the first tells of it."""
    server = aiosmtpd()
    told = []

    def choose(event: Any) -> None:
        told.extend(names_of(event))
        if isinstance(event, MessageSending) and event.message.subject == "no":
            raise CancelSend("not this one")

    messages = [Message(subject, ANN, BOB, text="x") for subject in ("yes", "no", "yes")]
    with Mailer(f"smtp://{server.host}:{server.port}", listeners=[choose]) as mailer:
        receipts = list(mailer.send_many(messages))
    assert [receipt.ok for receipt in receipts] == [True, False, True]
    assert isinstance(receipts[1].error, CancelSend)
    assert len(receipts[1].deferred) == 1
    assert len(server.arrived) == 2
    ended = ["message_sent", "message_ended", "message_sent"]
    assert told == [name for end in ended for name in ("message_sending", end)]
