"""Listeners and receivers that send mail, log by mail or have a bug: they harm no delivery, and nothing goes round."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpbackend import CancelSend, DeliveryError, signals
from smtpbackend.testing import CUT, Play, ScriptedServer
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.ports import free_ports


class Sends:
    """Sends mail by a mailer of either kind, from where nobody can wait; ``number`` says how often."""

    def __init__(self, mailer: Any, twin: Twin) -> None:
        self.mailer = mailer
        self.is_blocking = twin.name == "blocking"
        self.number = 0
        self.tasks: list[asyncio.Task[Any]] = []

    def __call__(self, *_: Any, **fields: Any) -> None:
        self.number += 1
        assert self.number < 500, "there is no end of it"
        with contextlib.suppress(DeliveryError):
            if self.is_blocking:
                self.mailer.raw.send(hello("admin@example.com"))
            else:
                self.tasks.append(asyncio.create_task(self.mailer.raw.send(hello("admin@example.com"))))

    def wait(self) -> None:
        """Until all that is sent has ended, and what that led to."""
        while self.tasks:
            with contextlib.suppress(DeliveryError):
                self.mailer.run(asyncio.wait_for(self.tasks.pop(), 20))


@contextlib.contextmanager
def mailing(send: Callable[..., None], logger: str = "", level: int = logging.ERROR) -> Iterator[None]:
    """A handler that sends what is logged as mail, as Django's AdminEmailHandler and SMTPHandler do."""

    class Mailing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            send()

    handler = Mailing(level)
    logging.getLogger(logger).addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger(logger).removeHandler(handler)


@pytest.fixture
def down() -> str:
    """A server that is not there."""
    return f"smtp://127.0.0.1:{free_ports(1)[0]}"


def taken(server: ScriptedServer) -> int:
    """How many messages it took."""
    return sum(len(speaker.taken) for speaker in server.speakers)


NAMES = ["server_failed", "recipient_deferred", "message_ended"]


@pytest.mark.parametrize("how", ["Listener", "signals"])
def test_a_receiver_that_logs_an_error_by_mail_while_the_server_is_down(how: str, twin: Twin, down: str) -> None:
    """One mail for each event that it hears; nothing of that mail."""
    heard: list[str] = []
    error = logging.getLogger("site").error

    def listen(event: Any) -> None:
        if event.name in NAMES:
            heard.append(event.name)
            error("%s", event)

    def receive(sender: Any, **fields: Any) -> None:
        heard.append("server_failed")
        error("%s", fields)

    mailer = twin(down, listeners=[listen] if how == "Listener" else [])
    sends = Sends(mailer, twin)
    with mailing(sends), contextlib.ExitStack() as connected:
        if how == "signals":
            connected.enter_context(signals.server_failed.connected_to(receive, mailer.raw))
        with pytest.raises(DeliveryError):
            mailer.send(hello())
        sends.wait()
    assert heard == (NAMES if how == "Listener" else NAMES[:1])
    assert sends.number == len(heard)


def test_many_receivers_that_send_mail_while_the_server_is_down(twin: Twin, down: str) -> None:
    """Each is called for each event, and for those of the mail of each other: no more."""
    mailer = twin(down)
    sends = Sends(mailer, twin)
    receivers = [lambda sender, **_: sends() for _ in range(4)]
    with contextlib.ExitStack() as connected:
        for receiver in receivers:
            connected.enter_context(signals.message_failed.connected_to(receiver, mailer.raw))
        with pytest.raises(DeliveryError):
            mailer.send(hello())
        sends.wait()
    assert sends.number == 4 * 4


def test_a_stream_on_several_connections_is_inside_of_the_receiver_that_sends_it(twin: Twin, down: str) -> None:
    """Its threads and tasks are the receiver's."""
    heard: list[Any] = []
    tasks: list[asyncio.Task[None]] = []

    async def take(stream: Any) -> None:
        async for receipt in stream:
            assert not receipt.ok

    def listen(event: Any) -> None:
        heard.append(event)
        assert len(heard) < 100
        if event.name == "message_ended":
            stream = mailer.raw.send_many([hello()] * 8, connections=4)
            if twin.name == "blocking":
                assert not any(receipt.ok for receipt in stream)
            else:
                tasks.append(asyncio.create_task(take(stream)))

    mailer = twin(down, listeners=[listen])
    with pytest.raises(DeliveryError):
        mailer.send(hello())
    for task in tasks:
        mailer.run(asyncio.wait_for(task, 20))
    assert [event.name for event in heard] == ["message_sending", *NAMES]


def test_a_receiver_with_a_bug_costs_one_line(twin: Twin, scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    """And one mail, where errors are mailed; not one for each mail."""
    server = scripted(*[Play()] * 2)
    mailer = twin(server.url)
    sends = Sends(mailer, twin)
    called: list[Any] = []

    def broken(sender: Any, receipt: Any, **_: Any) -> None:
        called.append(receipt)
        receipt.recipients  # noqa: B018 - that is the bug

    with mailing(sends), signals.message_sent.connected_to(broken, mailer.raw):
        for _ in range(5):
            assert mailer.send(hello()).ok
        sends.wait()
    assert (len(called), sends.number) == (5, 1)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"], "the second: it was not called"
    assert taken(server) == 6


def test_a_receiver_that_asks_about_its_own_mail_cancels_no_other(twin: Twin, scripted: Scripted) -> None:
    """What a receiver of message_sending sends is not shown to it; what others send is, while it cancels."""
    server = scripted(*[Play()] * 2)
    mailer = twin(server.url)
    sends = Sends(mailer, twin)

    def cancel(sender: Any, **_: Any) -> None:
        sends()
        raise CancelSend

    with signals.message_sending.connected_to(cancel, mailer.raw):
        for _ in range(3):
            with pytest.raises(CancelSend):
                mailer.send(hello())
        sends.wait()
    assert sends.number == taken(server) == 3


def test_our_own_warnings_may_be_mailed(twin: Twin, down: str) -> None:
    """A handler at WARNING sends by the same mailer, whose first server is down: once a minute is all."""
    other = f"smtp://127.0.0.1:{free_ports(1)[0]}"
    mailer = twin(down, other)
    sends = Sends(mailer, twin)
    with mailing(sends, "smtpbackend", logging.WARNING):
        for _ in range(3):
            with pytest.raises(DeliveryError):
                mailer.send(hello())
        sends.wait()
    assert sends.number <= 2, "each server at most"


def test_failing_over_is_told_in_the_log(
    twin: Twin, scripted: Scripted, down: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At WARNING, by default, once for many messages; without secrets."""
    good = scripted()
    mailer = twin(down.replace("//", "//ann:s3cret@"), good.url, allow_cleartext_auth=True)
    for _ in range(5):
        assert mailer.send(hello()).ok
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("smtpbackend", "WARNING")
    assert f"next={good.name}" in record.getMessage()
    assert "s3cret" not in record.getMessage()


def test_mail_in_doubt_is_told_in_the_log(twin: Twin, scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    server = scripted(*[Play({".": CUT})] * 3)
    mailer = twin(server.url)
    for _ in range(3):
        with pytest.raises(DeliveryError):
            mailer.send(hello())
    (record,) = caplog.records
    assert record.getMessage().startswith(f"smtpbackend.in_doubt server={server.name} message_id=")
