"""The signals of a delivery."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from smtpbackend import CancelSend, Envelope, InDoubt
from smtpbackend_django import EmailBackend, signals
from tests.django.conftest import HAS_MAILERS, PATH, mail
from tests.servers.aiosmtpd_server import AiosmtpdServer

Fired = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def receivers() -> Iterator[Any]:
    """Connect receivers for the length of a test: `receivers(signal, function)`."""
    connected: list[tuple[Any, Any, Any]] = []

    def connect(signal: Any, receiver: Any, sender: Any = None) -> None:
        signal.connect(receiver, sender=sender)
        connected.append((signal, receiver, sender))

    yield connect
    for signal, receiver, sender in connected:
        signal.disconnect(receiver, sender=sender)


def test_names_are_those_of_the_core() -> None:
    """Same names everywhere."""
    import smtpbackend.signals

    assert set(signals.SIGNALS) == set(smtpbackend.signals.namespace)


def test_sent(backend: EmailBackend, fired: Fired) -> None:
    message = mail()
    backend.send_messages([message])
    assert [name for name, _ in fired] == ["message_sending", "message_sent"]
    sent = fired[1][1]
    assert sent["sender"] is EmailBackend
    assert sent["message"] is message
    assert isinstance(sent["envelope"], Envelope)
    assert sent["receipt"] is message.smtp_receipt
    assert sent["alias"] is None
    assert sent["signal"] is signals.message_sent
    assert set(fired[0][1]) == {"sender", "signal", "message", "envelope", "alias"}


def test_each_refused_recipient(backend: EmailBackend, fired: Fired) -> None:
    message = mail("ann@example.org", "nobody@example.org", "later@example.org")
    backend.send_messages([message])
    assert sorted(name for name, _ in fired) == [
        "message_sending",
        "message_sent",
        "recipient_deferred",
        "recipient_rejected",
    ]
    told = dict(fired)
    assert str(told["recipient_rejected"]["outcome"].address) == "nobody@example.org"
    assert told["recipient_rejected"]["outcome"].reply.code == 550
    assert str(told["recipient_deferred"]["outcome"].address) == "later@example.org"
    assert told["recipient_rejected"]["message"] is message


def test_failed(backend: EmailBackend, fired: Fired) -> None:
    """The signals fire before the error is raised."""
    message = mail("nobody@example.org")
    with pytest.raises(OSError, match="nobody"):
        backend.send_messages([message])
    assert [name for name, _ in fired] == ["message_sending", "recipient_rejected", "message_failed"]
    failed = fired[-1][1]
    assert failed["message"] is message
    assert failed["receipt"] is message.smtp_receipt
    assert failed["error"] is message.smtp_receipt.error


def test_server_failed(fired: Fired) -> None:
    backend = EmailBackend(host="127.0.0.1", port=1, fail_silently=True)
    backend.send_messages([mail()])
    told = dict(fired)
    assert set(told["server_failed"]) == {"sender", "signal", "server", "phase", "error", "next", "alias"}
    assert told["server_failed"]["server"] == "127.0.0.1:1"
    assert told["server_failed"]["phase"] == "connect"
    assert told["message_failed"]["receipt"].deferred


@pytest.fixture
def vanishing_port() -> Iterator[int]:
    """A server that takes every content and is gone before it answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, connection.makefile("rwb") as file:
                        file.write(b"220 here\r\n")
                        file.flush()
                        for line in file:
                            if line == b".\r\n":
                                break
                            if line[:4] in (b"EHLO", b"MAIL", b"RCPT", b"DATA", b"RSET", b"QUIT"):
                                file.write(b"354 go on\r\n" if line[:4] == b"DATA" else b"250 fine\r\n")
                                file.flush()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(30)


def test_in_doubt(vanishing_port: int, fired: Fired) -> None:
    """Handed over and not answered: raised once, never sent again, and not counted."""
    message = mail()
    with pytest.raises(InDoubt):
        EmailBackend(host="127.0.0.1", port=vanishing_port).send_messages([message])
    assert [name for name, _ in fired] == ["message_sending", "server_failed", "message_in_doubt"]
    assert message.smtp_receipt.in_doubt
    assert dict(fired)["message_in_doubt"]["receipt"] is message.smtp_receipt
    assert EmailBackend(host="127.0.0.1", port=vanishing_port, fail_silently=True).send_messages([message]) == 0


def test_each_message_of_a_batch_is_told_as_itself(backend: EmailBackend, fired: Fired) -> None:
    batch = [mail(f"user{number}@example.org") for number in range(4)]
    backend.send_messages(batch)
    assert [told["message"] for name, told in fired if name == "message_sent"] == batch


def test_a_receiver_may_cancel(
    backend: EmailBackend, server: AiosmtpdServer, receivers: Any, fired: Fired, caplog: pytest.LogCaptureFixture
) -> None:
    """The site asked for it: nothing is raised, and nothing logged as an error."""

    def cancel(message: Any, **_: Any) -> None:
        if message.to == ["stop@example.org"]:
            raise CancelSend("on the list of those who left")

    receivers(signals.message_sending, cancel)
    stopped = mail("stop@example.org")
    assert backend.send_messages([stopped, mail()]) == 1
    assert [one.recipients for one in server.arrived] == [("ann@example.org",)]
    assert isinstance(stopped.smtp_receipt.error, CancelSend)
    assert stopped.smtp_receipt.deferred
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "message_failed" not in dict(fired)


@pytest.mark.parametrize("name", ["message_sending", "message_sent", "recipient_rejected"])
def test_a_receiver_that_raises_is_logged_and_breaks_nothing(
    name: str, backend: EmailBackend, receivers: Any, fired: Fired, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: Any) -> None:
        raise ZeroDivisionError("in a receiver")

    receivers(signals.SIGNALS[name], broken)
    assert backend.send_messages([mail("ann@example.org", "nobody@example.org")]) == 1
    assert "in a receiver" in caplog.text
    assert name in dict(fired)


def test_cancel_send_counts_only_before_the_message(
    backend: EmailBackend, receivers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def late(**_: Any) -> None:
        raise CancelSend

    receivers(signals.message_sent, late)
    assert backend.send_messages([mail()]) == 1


def test_sender_is_the_class(backend: EmailBackend, server: AiosmtpdServer, receivers: Any) -> None:
    class Sub(EmailBackend):
        pass

    heard: list[Any] = []

    def hear(sender: Any, **_: Any) -> None:
        heard.append(sender)

    receivers(signals.message_sent, hear, sender=Sub)
    backend.send_messages([mail()])
    assert heard == []
    Sub(host=server.host, port=server.port).send_messages([mail()])
    assert heard == [Sub]
    assert server.connections == 1  # one Mailer for both: what it tells goes to who called


def test_async_receiver(backend: EmailBackend, receivers: Any) -> None:
    heard = []

    async def hear(receipt: Any, **_: Any) -> None:
        heard.append(receipt)

    receivers(signals.message_sent, hear)
    backend.send_messages([mail()])
    assert len(heard) == 1


@pytest.mark.skipif(not HAS_MAILERS, reason="Django 6.1 has MAILERS")
def test_alias(server: AiosmtpdServer, fired: Fired) -> None:
    from django.core.mail import send_mail

    options = {"host": server.host, "port": server.port}
    with override_settings(MAILERS={"news": {"BACKEND": PATH, "OPTIONS": options}}):
        send_mail("S", "B", None, ["ann@example.org"], using="news")
    assert {told["alias"] for _, told in fired} == {"news"}


@pytest.mark.parametrize("number", [1, 3], ids=["single", "batch"])
def test_a_receiver_that_sends_waits_for_nobody(server: AiosmtpdServer, receivers: Any, number: int) -> None:
    """All threads have one connection between them, and each receiver tells the administrators."""
    sent: list[int] = []
    failed: list[BaseException] = []

    def backend() -> EmailBackend:
        return EmailBackend(host=server.host, port=server.port, max_connections=1)

    def tell(**_: Any) -> None:
        try:
            sent.append(backend().send_messages([mail("admin@example.org")]))
        except BaseException as error:
            failed.append(error)

    def send() -> None:
        for _ in range(5):
            messages = [mail("ann@example.org", "nobody@example.org") for _ in range(number)]
            sent.append(backend().send_messages(messages))

    receivers(signals.recipient_rejected, tell)
    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert sorted(sent) == sorted([1] * 20 * number + [number] * 20)
    assert len(server.arrived) == 40 * number
