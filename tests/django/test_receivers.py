"""Receivers that log by mail, send mail or have a bug, under Django's own logging: the site goes on."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.mail import EmailMessage, mail_admins, send_mail
from django.dispatch import Signal
from django.test import override_settings
from django.utils.log import DEFAULT_LOGGING, AdminEmailHandler

from smtpbackend import CancelSend, DeliveryError
from smtpbackend_django import signals
from tests.django.conftest import HAS_MAILERS, PATH, email_settings, mail
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.ports import free_ports

ADMINS = ["admin@example.org"] if django.VERSION >= (6, 0) else [("Admin", "admin@example.org")]


@contextmanager
def site(host: str, port: int) -> Iterator[None]:
    """Settings of a site with administrators, whose mail goes there."""
    with ExitStack() as stack:
        if HAS_MAILERS:
            options = {"host": host, "port": port}
            stack.enter_context(override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": options}}))
        else:
            stack.enter_context(email_settings(EMAIL_BACKEND=PATH, EMAIL_HOST=host, EMAIL_PORT=port))
        stack.enter_context(override_settings(ADMINS=ADMINS))
        yield


@pytest.fixture
def up(server: AiosmtpdServer) -> Iterator[AiosmtpdServer]:
    """A site whose server works."""
    with site(server.host, server.port):
        yield server


@pytest.fixture
def down() -> Iterator[None]:
    """A site whose server is not there."""
    with site("127.0.0.1", free_ports(1)[0]):
        yield


class Counting(AdminEmailHandler):
    """Django's handler; what it mailed."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.setLevel(level)
        self.mailed: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.mailed.append(record.getMessage().split()[0])
        assert len(self.mailed) < 500, "it goes round"
        super().emit(record)


@pytest.fixture
def mailing() -> Iterator[Callable[..., Counting]]:
    """Mail what is logged: `mailing()` the errors of every logger, `mailing("django", level)` others."""
    with ExitStack() as stack:

        def attach(logger: str = "", level: int = logging.ERROR) -> Counting:
            handler = Counting(level)
            logging.getLogger(logger).addHandler(handler)
            stack.callback(logging.getLogger(logger).removeHandler, handler)
            return handler

        yield attach


@pytest.fixture
def connect() -> Iterator[Callable[..., None]]:
    """Connect receivers for the length of a test, by the names of signals."""
    with ExitStack() as stack:

        def connect(receiver: Any, *names: str) -> None:
            for name in names:
                signals.SIGNALS[name].connect(receiver)
                stack.callback(signals.SIGNALS[name].disconnect, receiver)

        yield connect


def fails() -> None:
    """A mail that cannot be sent."""
    with pytest.raises(DeliveryError):
        send_mail("Subject", "Body", "from@example.com", ["ann@example.org"])


def test_a_receiver_that_logs_an_error_while_the_server_is_down(
    down: None, connect: Any, mailing: Callable[..., Counting]
) -> None:
    """The root logger mails errors by the same server. One call for the failure, and `send_mail` returns."""
    calls: list[str] = []

    def log_server_failed(server: str, **_: Any) -> None:
        calls.append(server)
        logging.getLogger("site").error("%s failed", server)

    handler = mailing()
    connect(log_server_failed, "server_failed")
    fails()
    assert len(calls) == 1
    # Django 6.1 raises where its handler cannot send, out of the receiver's own call of the logger
    assert handler.mailed[1:] == (["smtpbackend.receiver_failed"] if HAS_MAILERS else [])
    fails()
    assert len(calls) == 2
    assert len(handler.mailed) <= 3


def test_every_signal_logs_an_error_while_the_server_is_down(
    down: None, connect: Any, mailing: Callable[..., Counting]
) -> None:
    """A receiver for each: mails about mails about mail, and an end of it."""
    handler = mailing()
    for name in signals.SIGNALS:
        connect(functools.partial(lambda name, **_: logging.getLogger("site").error(name), name), name)
    fails()
    assert len(handler.mailed) < 50


@pytest.mark.parametrize("level", [logging.ERROR, logging.WARNING])
def test_a_receiver_with_a_bug_under_djangos_default_logging(
    up: AiosmtpdServer, connect: Any, mailing: Callable[..., Counting], caplog: pytest.LogCaptureFixture, level: int
) -> None:
    """Logger "django" mails errors: nothing is mailed, and one line is logged, not one a mail."""
    assert DEFAULT_LOGGING["loggers"]["django"]["handlers"] == ["console", "mail_admins"]
    handler = mailing("django", level)
    calls: list[Any] = []

    def broken(receipt: Any, **_: Any) -> None:
        calls.append(receipt)
        receipt.recipients  # noqa: B018 - that is the bug

    connect(broken, "message_sent")
    for _ in range(5):
        assert send_mail("Subject", "Body", "from@example.com", ["ann@example.org"]) == 1
    assert handler.mailed == []
    assert len(calls) == len(up.arrived) == 5
    assert [(record.name, record.levelname) for record in caplog.records] == [("smtpbackend.receivers", "ERROR")]


def test_a_receiver_with_a_bug_where_all_errors_are_mailed(
    up: AiosmtpdServer, connect: Any, mailing: Callable[..., Counting]
) -> None:
    """The administrators get one mail, and the receiver is not told of that."""
    handler = mailing()
    calls: list[Any] = []

    def broken(**fields: Any) -> None:
        calls.append(fields)
        raise ZeroDivisionError

    connect(broken, "message_sent")
    for _ in range(3):
        send_mail("Subject", "Body", "from@example.com", ["ann@example.org"])
    assert handler.mailed == ["smtpbackend.receiver_failed"]
    assert len(calls) == 3
    assert len(up.arrived) == 4


def test_what_is_told_of_receivers_can_be_kept_from_the_administrators(
    up: AiosmtpdServer, connect: Any, mailing: Callable[..., Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name of the logger, also where a handler mails warnings."""
    monkeypatch.setattr(logging.getLogger("smtpbackend.receivers"), "propagate", False)
    handler = mailing(level=logging.WARNING)

    def broken(**_: Any) -> None:
        mail_admins("Subject", "Body")
        raise ZeroDivisionError

    connect(broken, "message_sent")
    send_mail("Subject", "Body", "from@example.com", ["ann@example.org"])
    assert handler.mailed == []
    assert len(up.arrived) == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_receiver_that_sends_mail_is_not_told_of_it(up: AiosmtpdServer, connect: Any, is_async: bool) -> None:
    """The others are; asynchronous ones send in a thread or in a task of their own."""
    calls: list[str] = []
    others: list[str] = []

    def send(message: EmailMessage, **_: Any) -> None:
        calls.append(message.subject)
        assert len(calls) < 100
        mail_admins("about it", "Body")

    async def asend(message: EmailMessage, **fields: Any) -> None:
        await asyncio.gather(asyncio.to_thread(send, message), asyncio.create_task(asyncio.to_thread(send, message)))

    connect(asend if is_async else send, "message_sent")
    other = lambda message, **_: others.append(message.subject)  # noqa: E731
    connect(other, "message_sent")
    send_mail("Subject", "Body", "from@example.com", ["ann@example.org"])
    assert calls == ["Subject"] * (1 + is_async)
    about = settings.EMAIL_SUBJECT_PREFIX + "about it"
    assert sorted(others) == sorted(["Subject", *([about] * (1 + is_async))])


def test_asynchronous_receivers_do_not_keep_each_other_from_being_called(up: AiosmtpdServer, connect: Any) -> None:
    """They run at once, and take turns; one that fails or cancels keeps nobody from being told."""
    calls: list[str] = []

    async def fail(**_: Any) -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def cancel(**_: Any) -> None:
        await asyncio.sleep(0)
        raise CancelSend("not today")

    async def hear(message: EmailMessage, **_: Any) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        calls.append(message.subject)

    for receiver in (fail, cancel, hear):
        connect(receiver, "message_sending")
    message = mail()
    assert message.send() == 0
    assert isinstance(message.smtp_receipt.error, CancelSend)
    assert calls == ["Subject"]
    assert up.arrived == []


def test_asynchronous_receivers_where_an_event_loop_runs_already(
    up: AiosmtpdServer, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Django cannot call them there; the mail is sent, and it is told once, not once a mail."""

    async def hear(**_: Any) -> None: ...

    async def view() -> None:
        for _ in range(3):
            assert mail().send() == 1

    connect(hear, "message_sent")
    asyncio.run(view())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert len(up.arrived) == 3


def test_a_message_is_cancelled_also_where_others_cannot_be_asked(up: AiosmtpdServer, connect: Any) -> None:
    """An event loop runs: the asynchronous receiver has no say, the other one has."""

    async def hear(**_: Any) -> None: ...

    def cancel(**_: Any) -> None:
        raise CancelSend

    async def view() -> None:
        assert mail().send() == 0

    connect(hear, "message_sending")
    connect(cancel, "message_sending")
    asyncio.run(view())
    assert up.arrived == []


def test_receivers_that_are_wrapped_anew_for_each_signal(
    up: AiosmtpdServer, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentry's integration does that, at this method of Signal: a receiver stays the same one."""
    live = Signal._live_receivers

    def wrap(receiver: Any) -> Any:
        return functools.wraps(receiver)(lambda *args, **fields: receiver(*args, **fields))

    def wrapped(self: Signal, sender: Any) -> Any:
        receivers, awaited = live(self, sender)
        return list(map(wrap, receivers)), awaited

    monkeypatch.setattr(Signal, "_live_receivers", wrapped)
    calls: list[Any] = []

    def send(message: EmailMessage, **_: Any) -> None:
        calls.append(message)
        assert len(calls) < 100
        mail_admins("about it", "Body")

    connect(send, "message_sent")
    send_mail("Subject", "Body", "from@example.com", ["ann@example.org"])
    assert len(calls) == 1
