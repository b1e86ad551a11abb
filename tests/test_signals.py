"""Core signals: who sends them, what they carry, and what a receiver can and cannot do to a delivery."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend import CancelSend, Envelope, Mailer, Message, Outcome, RecipientsRefused, Status, signals
from smtpbackend.events import MessageEnded, MessageSending, ServerFailed
from smtpbackend.outcome import Receipt
from smtpbackend.signals import SignalListener, emit
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.ports import free_ports

NAMES = {
    "message_sending",
    "message_sent",
    "recipient_rejected",
    "recipient_deferred",
    "message_failed",
    "message_in_doubt",
    "server_failed",
}
ENVELOPE = Envelope("a@example.com", ["b@example.com"])


class Heard:
    """Connects to every signal of the core and writes down what came."""

    def __init__(self, sender: Any = None) -> None:
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self._receivers = []
        for name in NAMES:
            receiver = self._receiver(name)
            self._receivers.append(receiver)
            if sender is None:
                signals.namespace[name].connect(receiver)
            else:
                signals.namespace[name].connect(receiver, sender=sender)

    def _receiver(self, name: str) -> Callable[..., None]:
        def receive(sender: Any, **fields: Any) -> None:
            self.calls.append((name, sender, fields))

        return receive

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]


def message() -> Message:
    return Message("Hi", "app@example.com", ["ann@example.com", "bob@example.com"], text="Hello")


def test_there_is_a_signal_for_every_event() -> None:
    """Names of signals are the names of events, in one namespace."""
    assert set(signals.namespace) == NAMES
    assert all(getattr(signals, name) is signals.namespace[name] for name in NAMES)


def test_a_listener_sends_the_fields_of_an_event() -> None:
    """The sender is whoever the listener was made for; the fields are keyword arguments."""
    sender, receipt = object(), Receipt("<1@example.com>", (Outcome(ENVELOPE.recipients[0], Status.ACCEPTED),))
    heard = Heard(sender)
    listen = SignalListener(sender)
    listen(MessageSending("m", ENVELOPE, None))
    listen(MessageEnded("m", ENVELOPE, "of the adapter", receipt))
    error = CancelSend()
    listen(ServerFailed("smtp.example.com:25", "connect", error, "backup.example.com:25"))
    failed = {"server": "smtp.example.com:25", "phase": "connect", "error": error, "next": "backup.example.com:25"}
    assert heard.calls == [
        ("message_sending", sender, {"message": "m", "envelope": ENVELOPE}),
        ("message_sent", sender, {"message": "m", "envelope": ENVELOPE, "receipt": receipt}),
        ("server_failed", sender, failed),
    ]


def test_a_receiver_that_raises_is_logged_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody else loses a signal by it."""
    sender = object()
    called = []

    def first(sender: Any, **fields: Any) -> None:
        called.append("first")
        raise RuntimeError("broken receiver")

    def second(sender: Any, **fields: Any) -> None:
        called.append("second")
        raise CancelSend("too late")

    signals.message_sent.connect(first, sender=sender)
    signals.message_sent.connect(second, sender=sender)
    with caplog.at_level(logging.ERROR, "smtpbackend"):
        emit(signals.message_sent, sender, message="m")
    assert sorted(called) == ["first", "second"]
    assert [record.message.split()[0] for record in caplog.records] == ["smtpbackend.receiver_failed"] * 2
    assert {record.name for record in caplog.records} == {"smtpbackend.receivers"}
    assert all(record.event == "message_sent" for record in caplog.records)  # type: ignore[attr-defined]


def test_only_before_a_message_a_receiver_can_cancel() -> None:
    """CancelSend passes from message_sending."""
    sender = object()

    def cancel(sender: Any, **fields: Any) -> None:
        raise CancelSend("not today")

    signals.message_sending.connect(cancel, sender=sender)
    with pytest.raises(CancelSend, match="not today"):
        emit(signals.message_sending, sender, message="m")


def test_a_coroutine_function_is_no_receiver(caplog: pytest.LogCaptureFixture) -> None:
    """It is told in the log; nothing is left un-awaited."""
    sender = object()

    async def receive(sender: Any, **fields: Any) -> None: ...

    signals.message_sent.connect(receive, sender=sender)
    emit(signals.message_sent, sender, message="m")
    assert "coroutine function" in caplog.text


def test_a_muted_signal_is_silent() -> None:
    """blinker's own way to keep receivers quiet works."""
    sender = object()
    heard = Heard(sender)
    with signals.message_sent.muted():
        emit(signals.message_sent, sender, message="m")
    assert heard.calls == []


def test_a_mailer_is_the_sender_of_its_signals(aiosmtpd: Callable[..., AiosmtpdServer]) -> None:
    """One recipient refused: sending, rejected, sent, in this order, and nothing of another Mailer."""
    server = aiosmtpd(refused={"bob@example.com": "550 5.1.1 No such user"})
    sent = message()
    with Mailer(host=server.host, port=server.port) as mailer, Mailer(host=server.host, port=server.port) as other:
        heard = Heard(mailer)
        receipt = mailer.send(sent)
        other.send(sent)
    assert heard.names == ["message_sending", "recipient_rejected", "message_sent"]
    assert all(sender is mailer and fields["message"] is sent for _, sender, fields in heard.calls)
    assert heard.calls[1][2]["outcome"] == receipt.rejected[0]
    assert heard.calls[2][2]["receipt"] is receipt


def test_failures_are_told(aiosmtpd: Callable[..., AiosmtpdServer]) -> None:
    """A server that is not there: server_failed, then the message's failure; its error carries the receipt."""
    refusing = aiosmtpd(refused=dict.fromkeys(("ann@example.com", "bob@example.com"), "550 5.1.1 No"))
    (unused_port,) = free_ports(1)
    with Mailer({"host": "127.0.0.1", "port": unused_port}, {"host": refusing.host, "port": refusing.port}) as mailer:
        heard = Heard(mailer)
        with pytest.raises(RecipientsRefused):
            mailer.send(message())
    assert heard.names == [
        "message_sending",
        "server_failed",
        "recipient_rejected",
        "recipient_rejected",
        "message_failed",
    ]
    assert heard.calls[1][2]["phase"] == "connect"
    assert heard.calls[-1][2]["receipt"].rejected[0].status is Status.REJECTED
    assert isinstance(heard.calls[-1][2]["error"], RecipientsRefused)


def test_a_receiver_cancels_a_delivery(aiosmtpd: Callable[..., AiosmtpdServer]) -> None:
    """Nothing is sent, and everybody is deferred."""
    server = aiosmtpd()

    def cancel(sender: Any, **fields: Any) -> None:
        raise CancelSend

    with Mailer(host=server.host, port=server.port) as mailer:
        signals.message_sending.connect(cancel, sender=mailer)
        with pytest.raises(CancelSend) as raised:
            mailer.send(message())
    assert raised.value.receipt is not None
    assert [outcome.status for outcome in raised.value.receipt.outcomes] == [Status.DEFERRED] * 2
    assert server.connections == 0


def test_a_broken_receiver_breaks_no_delivery(aiosmtpd: Callable[..., AiosmtpdServer]) -> None:
    """The message arrives once, whatever its receivers do."""
    server = aiosmtpd()

    def fail(sender: Any, **fields: Any) -> None:
        raise RuntimeError("broken receiver")

    with Mailer(host=server.host, port=server.port) as mailer:
        for signal in signals.namespace.values():
            signal.connect(fail, sender=mailer)
        assert mailer.send(message()).ok
    assert len(server.arrived) == 1
