"""What does a large attachment cost? 25 MB as bytes beside Django's own backend; 100 MB from a path in the core."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.django_backend import BACKENDS, prepared
from benchmarks.lab.environments import django
from benchmarks.lab.mail import SENDER, SUBJECT, TEXT, recipients
from benchmarks.lab.samples import QUICK, Figures, NotMeasured, client, interleaved, middle, ratio
from benchmarks.lab.servers import smtp_sink

MB = 1024 * 1024
AS_BYTES = (1 if QUICK else 25) * MB
AS_FILE = (5 if QUICK else 100) * MB


def as_bytes(port: int, count: int, backend: str, size: int) -> Callable[[], int]:
    chosen, messages = prepared(port, count, backend)
    for message in messages:
        message.attach("data.bin", os.urandom(size), "application/octet-stream")
    return lambda: chosen.send_messages(messages)


def from_path(port: int, count: int, path: str) -> Callable[[], int]:
    from smtpbackend import Attachment, Mailer, Message

    mailer = Mailer(f"smtp://127.0.0.1:{port}?tls=none")
    mailer.send(Message(subject=SUBJECT, from_=SENDER, to=recipients(1), text=TEXT))  # all that is needed is loaded
    attachment = Attachment(Path(path))

    def work() -> int:
        message = Message(subject=SUBJECT, from_=SENDER, to=recipients(1), text=TEXT, attachments=[attachment])
        return sum(mailer.send(message).ok for _ in range(count))

    return work


def python_with_django() -> Path:
    """That of the newest Django that there is a Python for."""
    try:
        return django("6.1")
    except NotMeasured:
        return django("5.2")


def measure() -> Figures:
    figures: Figures = {}
    with smtp_sink() as port, tempfile.NamedTemporaryFile(suffix=".bin") as file:
        for _ in range(AS_FILE // MB):
            file.write(os.urandom(MB))
        file.flush()
        samples = interleaved({"core": client(from_path, port=port, count=1, path=file.name)})
        figures["path_memory"] = middle(samples["core"], "memory")
        figures["path_seconds"] = middle(samples["core"])
        python = python_with_django()
        samples = interleaved(
            {
                name: client(as_bytes, python=python, port=port, count=1, backend=backend, size=AS_BYTES)
                for name, backend in BACKENDS.items()
            }
        )
    for what in ("memory", "cpu", "seconds"):
        figures[f"django_{what}_ratio"] = ratio(samples["ours"], samples["django"], what)
        for name, found in samples.items():
            figures[f"{name}_{what}"] = middle(found, what)
    return figures
