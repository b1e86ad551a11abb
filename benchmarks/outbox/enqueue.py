"""What does it cost a request to store a mail? 500 messages, one a transaction and in lists of 100.

The messages are made before: what is measured is what `send` takes. Ours renders the octets that leave, django-mailer
pickles the message, django-post-office writes its parts into columns. Other processes send, as with each of the three.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.lab import queues
from benchmarks.lab.environments import queues as environment
from benchmarks.lab.samples import Figures, amount, client, interleaved, middle, ratio, within

MESSAGES = amount(500)
LIST = 100
BEFORE = 5  # mails that the process has stored


def _prepared(side: str, database: Mapping[str, Any], count: int) -> list[Any]:
    """Messages for a process that has stored mail before."""
    queues.site(side, database)
    for number in range(BEFORE):
        _store(queues.letter(number))
    queues.empty(side)
    return [queues.letter(number) for number in range(count)]


def _store(message: Any) -> None:
    from django.db import transaction

    with transaction.atomic():
        message.send()


def one_each(count: int, side: str, database: Mapping[str, Any]) -> Callable[[], int]:
    """One a transaction."""
    messages = _prepared(side, database, count)

    def work() -> int:
        for message in messages:
            _store(message)
        return queues.queued(side)

    return work


def lists(count: int, side: str, database: Mapping[str, Any]) -> Callable[[], int]:
    """Lists of 100, each in a transaction."""
    messages = _prepared(side, database, count)

    from django.core import mail
    from django.db import transaction

    def work() -> int:
        for start in range(0, count, LIST):
            with transaction.atomic():
                mail.get_connection().send_messages(messages[start : start + LIST])
        return queues.queued(side)

    return work


def statements(side: str, database: Mapping[str, Any]) -> dict[str, float]:
    """Those of one message, and of a list, within the transaction of the caller."""
    from django.core import mail
    from django.db import transaction

    messages = _prepared(side, database, 1 + LIST)
    with transaction.atomic(), queues.statements() as single:
        messages[0].send()
    with transaction.atomic(), queues.statements() as several:
        mail.get_connection().send_messages(messages[1:])
    return {"one": len(single), "list": len(several)}


WAYS = {"one": one_each, "list": lists}


def measure() -> Figures:
    figures: Figures = {}
    python = environment()
    with queues.databases(*queues.SIDES) as databases:
        for kind, of_side in databases.items():
            for side, database in of_side.items():
                counted = within(python, __name__, "statements", side=side, database=database)
                figures |= {f"{kind}_{way}_{side}_statements": counted[way] for way in WAYS}
            for name, way in WAYS.items():
                takers = {
                    side: client(way, python=python, count=MESSAGES, side=side, database=database)
                    for side, database in of_side.items()
                }
                samples = interleaved(takers)
                start = f"{kind}_{name}"
                figures[f"{start}_of_django_mailer"] = ratio(samples["django_mailer"], samples["ours"])
                figures[f"{start}_post_office_ratio"] = ratio(samples["ours"], samples["post_office"])
                for side, found in samples.items():
                    figures[f"{start}_{side}_us"] = middle(found) / MESSAGES * 1e6
    return figures


def profile() -> list[list[object]]:
    """Django 5.2, mail stored in the outbox on PostgreSQL, one a transaction"""
    from benchmarks.lab.samples import profiled

    with queues.databases("ours") as databases:
        database = databases["postgresql"]["ours"]
        return profiled(one_each, python=environment(), count=MESSAGES, side="ours", database=database)
