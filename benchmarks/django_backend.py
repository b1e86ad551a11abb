"""What does a Django site gain? 1,000 plain-text messages to smtp-sink beside Django's own backend, on two Djangos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.lab import bare, sites
from benchmarks.lab.environments import django
from benchmarks.lab.mail import SENDER, SUBJECT, TEXT, recipients
from benchmarks.lab.samples import Figures, NotMeasured, amount, client, interleaved, middle, profiled, ratio
from benchmarks.lab.servers import smtp_sink

MESSAGES = amount(1000)
DJANGOS = ("6.1", "5.2")
BACKENDS = {"ours": "smtpbackend_django.EmailBackend", "django": "django.core.mail.backends.smtp.EmailBackend"}


def prepared(port: int, count: int, backend: str) -> tuple[Any, list[Any]]:
    """Django with that backend as its own, in a process that has sent mail before, and messages."""
    sites.django_site(backend, host="127.0.0.1", port=port)
    import django
    from django.core import mail

    chosen = mail.mailers.default if django.VERSION >= (6, 1) else mail.get_connection()
    first, *messages = [mail.EmailMessage(SUBJECT, TEXT, SENDER, recipients(1)) for _ in range(count + 1)]
    first.send()
    return chosen, messages


def batch(port: int, count: int, backend: str) -> Callable[[], int]:
    """One list."""
    chosen, messages = prepared(port, count, backend)
    return lambda: chosen.send_messages(messages)


def single(port: int, count: int, backend: str) -> Callable[[], int]:
    """One by one, as requests do."""
    _, messages = prepared(port, count, backend)
    return lambda: sum(message.send() for message in messages)


WAYS = {"batch": batch, "single": single}
LIMITS = {"batch": bare.in_flight, "single": bare.one_by_one}


def measure() -> Figures:
    figures: Figures = {}
    with smtp_sink() as port:
        for version in DJANGOS:
            try:
                python = django(version)
            except NotMeasured as reason:
                figures |= {f"{way}_{version}_{what}": str(reason) for way in WAYS for what in ("ratio", "cpu")}
                continue
            for manner, way in WAYS.items():
                takers = {
                    name: client(way, python=python, port=port, count=MESSAGES, backend=backend)
                    for name, backend in BACKENDS.items()
                }
                takers["bare"] = client(LIMITS[manner], python=python, port=port, count=MESSAGES)
                samples = interleaved(takers)
                start = f"{manner}_{version}"
                figures[f"{start}_ratio"] = ratio(samples["ours"], samples["django"])
                figures[f"{start}_bare_ratio"] = ratio(samples["bare"], samples["django"])
                figures[f"{start}_cpu"] = ratio(samples["ours"], samples["django"], "cpu")
                for name, found in samples.items():
                    figures[f"{start}_{name}_us"] = middle(found) / MESSAGES * 1e6
    return figures


def profile() -> list[list[object]]:
    """Django 6.1, `message.send()` one by one"""
    with smtp_sink() as port:
        python = django("6.1")
        return profiled(single, python=python, port=port, count=MESSAGES, backend=BACKENDS["ours"])
