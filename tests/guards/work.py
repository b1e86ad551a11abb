"""What the guards measure, each in a process of its own, where nothing else runs that could be counted.

``python tests/guards/work.py TASK URL ...`` prints what it found as JSON. It does not need pytest, and of the extras
only the one that it measures.
"""

from __future__ import annotations

import asyncio
import email
import gc
import json
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from urllib.parse import urlsplit

from benchmarks.lab import sites
from smtpbackend import AsyncMailer, Envelope, Mailer, Message

COUNTED = (
    str(Path(__file__).parents[2] / "smtpbackend"),  # and smtpbackend_django, smtpbackend_flask
    str(Path(email.__file__).parent),  # what is left to that package costs most of all
)
TEXT = "Good day\n" * 20
CONTENT = b"From: ann@example.org\r\nTo: bob@example.com\r\nSubject: Hello\r\n\r\n" + b"Good day, good day\r\n" * 20
ENVELOPE = Envelope("ann@example.org", ["ada@example.com", "bob@example.com", "carl@example.com"])
READY = CONTENT, ENVELOPE
DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROUNDS = 6
"""At most; two that agree are enough. What comes in between, be it a slow server, can only add to a count."""


def calls(url: str, kind: str) -> None:
    """Warm messages one by one; ``getppid``, which nobody else calls, stands between them."""
    times = 12

    async def send() -> None:
        async with AsyncMailer(url) as mailer:
            for _ in range(3):
                await mailer.send(*READY)
            for _ in range(times):
                os.getppid()
                await mailer.send(*READY)
            os.getppid()

    if kind == "asyncio":
        return asyncio.run(send())
    with Mailer(url) as mailer:
        for _ in range(3):
            mailer.send(*READY)
        for _ in range(times):
            os.getppid()
            mailer.send(*READY)
        os.getppid()
    return None


# Instructions -------------------------------------------------------------------------------------------------------


def instructions_of(work: Callable[[], object]) -> int:
    """How many bytecode instructions of this package and of the ``email`` package it takes."""
    count = 0
    if sys.version_info >= (3, 12):
        watch, event = sys.monitoring, sys.monitoring.events.INSTRUCTION

        def note(code: CodeType, _: int) -> object:
            nonlocal count
            if not code.co_filename.startswith(COUNTED):
                return watch.DISABLE
            count += 1
            return None

        watch.use_tool_id(watch.PROFILER_ID, "guards")
        watch.register_callback(watch.PROFILER_ID, event, note)
        watch.set_events(watch.PROFILER_ID, event)
        try:
            work()
        finally:
            watch.set_events(watch.PROFILER_ID, 0)
            watch.free_tool_id(watch.PROFILER_ID)
        return count

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if event == "opcode":
            count += 1
        elif event == "call":
            if not frame.f_code.co_filename.startswith(COUNTED):
                return None
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def send_many(url: str, number: int) -> Callable[[], object]:
    def work() -> None:
        with Mailer(url) as mailer:
            assert all(receipt.ok for receipt in mailer.send_many([READY] * number))

    return work


def send(url: str, number: int) -> Callable[[], object]:
    def work() -> None:
        with Mailer(url) as mailer:
            for _ in range(number):
                assert mailer.send(*READY).ok

    return work


def render(url: str, number: int) -> Callable[[], object]:
    from smtpbackend.mime import render

    def work() -> None:
        for place in range(number):
            message = Message(
                subject="Your order",
                from_="The shop <shop@example.com>",
                to=["Ann <ann@example.org>"],
                text=TEXT,
                html="<p>Good day</p>\n" * 20 if url == "html" else None,
            )
            for chunk in render(message, date=DATE, token=f"t{place % 10}").chunks():
                assert chunk

    return work


def flask(url: str, number: int) -> Callable[[], object]:
    import smtpbackend_flask
    from smtpbackend_flask import Message

    app, mail = sites.flask_app(smtpbackend_flask, MAIL_SERVER="127.0.0.1", MAIL_PORT=urlsplit(url).port)

    def work() -> None:
        messages = [Message("Your order", ["ann@example.org"], TEXT, sender="shop@example.com") for _ in range(number)]
        with app.app_context(), mail.connect() as connection:
            assert all(receipt.ok for receipt in connection.send_many(messages))

    return work


def flask_notification(url: str, number: int) -> Callable[[], object]:
    import smtpbackend_flask

    app, mail = sites.flask_app(smtpbackend_flask, MAIL_SERVER="127.0.0.1", MAIL_PORT=urlsplit(url).port)

    def work() -> None:
        with app.app_context():
            for place in range(number):
                assert mail.send(sites.flask_notification(smtpbackend_flask, place)).ok

    return work


def set_up(url: str) -> None:
    from django.conf import settings

    if not settings.configured:
        sites.django_site("smtpbackend_django.EmailBackend", host="127.0.0.1", port=urlsplit(url).port)


def django(url: str, number: int, one_by_one: bool = False) -> Callable[[], object]:
    set_up(url)
    from django import VERSION
    from django.core import mail

    def work() -> None:
        messages = [mail.EmailMessage("Your order", TEXT, "shop@example.com", ["ann@example.org"])] * number
        if one_by_one:
            assert sum(message.send() for message in messages) == number
        elif VERSION >= (6, 1):
            assert mail.mailers.default.send_messages(messages) == number
        else:
            assert mail.get_connection().send_messages(messages) == number

    return work


def django_one_by_one(url: str, number: int) -> Callable[[], object]:
    return django(url, number, one_by_one=True)


def django_reset(url: str, number: int) -> Callable[[], object]:
    set_up(url)

    def work() -> None:
        for place in range(number):
            sites.reset_password(place)

    return work


def django_notification(url: str, number: int) -> Callable[[], object]:
    set_up(url)

    def work() -> None:
        assert sum(sites.notification(place).send() for place in range(number)) == number

    return work


WORK = {
    "send_many": send_many,
    "send": send,
    "render": render,
    "flask": flask,
    "flask_notification": flask_notification,
    "django": django,
    "django_one_by_one": django_one_by_one,
    "django_reset": django_reset,
    "django_notification": django_notification,
}


def instructions(url: str, what: str, number: str) -> int:
    """The count for so many messages."""
    make = WORK[what]
    make(url, 3)()  # what is loaded and remembered with the first is not counted
    work = make(url, int(number))
    found: list[int] = []
    while len(found) < ROUNDS:
        count = instructions_of(work)
        if count in found:
            return count
        found.append(count)
    return min(found)


# Memory -------------------------------------------------------------------------------------------------------------


def memory(url: str, kind: str, number: str) -> list[int]:
    """Octets above the start that a stream takes at most, and that it leaves, where nobody keeps a receipt."""

    def source(count: int) -> Iterator[Any]:
        for place in range(count):
            yield CONTENT + b"%d\r\n" % place, Envelope("ann@example.org", [f"bob{place}@example.com"])

    async def stream(mailer: AsyncMailer, count: int) -> None:
        async for receipt in mailer.send_many(source(count)):
            assert receipt.ok

    def measured(work: Callable[[int], object]) -> list[int]:
        work(100)
        gc.collect()
        tracemalloc.start()
        work(int(number))
        gc.collect()
        left, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return [most, left]

    if kind == "asyncio":
        with asyncio.Runner() as runner:
            mailer = AsyncMailer(url)
            found = measured(lambda count: runner.run(stream(mailer, count)))
            runner.run(mailer.close())
        return found
    with Mailer(url) as blocking:
        return measured(lambda count: [None for receipt in blocking.send_many(source(count)) if not receipt.ok])


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    print(json.dumps({"calls": calls, "instructions": instructions, "memory": memory}[task](*arguments)))
