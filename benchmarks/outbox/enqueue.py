"""What does it cost a request to store a mail? One a transaction and in lists of 100, in turn with the others.

The messages are made before: what is measured is what a transaction takes that stores them. Ours renders the octets
that leave, django-mailer pickles the message, django-post-office writes its parts into columns. One process stores
with all three, one after the other; other processes would send.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.lab import queues
from benchmarks.lab.environments import queues as environment
from benchmarks.lab.samples import Figures, amount, within

MESSAGES = amount(500)
LIST = 100
LISTS = amount(50)
BEFORE = 10  # transactions of the process before


def turns(database: Mapping[str, Any]) -> dict[str, float]:
    """Of each side and way the median time in seconds, and the statements within the transaction of the caller."""
    queues.site(database)
    from django.db import transaction

    queues.empty()
    found: dict[str, float] = {}
    for way, rounds, length in (("one", MESSAGES, 1), ("list", LISTS, LIST)):
        taken: dict[str, list[float]] = {side: [] for side in queues.BACKENDS}
        for number in range(BEFORE + rounds):
            for side in random.sample(list(queues.BACKENDS), len(queues.BACKENDS)):
                messages = [queues.letter(place) for place in range(length)]
                start = time.perf_counter()
                store(side, messages)
                if number >= BEFORE:
                    taken[side].append(time.perf_counter() - start)
        for side, times in taken.items():
            assert queues.queued(side) == (BEFORE + rounds) * length, side
            with transaction.atomic(), queues.statements() as asked:
                send(side, [queues.letter(place) for place in range(length)])
            found[f"{way}_{side}"] = statistics.median(times) / length
            found[f"{way}_{side}_statements"] = len(asked)
        for side in queues.BACKENDS:
            pairs = zip(taken["ours"], taken[side], strict=True)
            found[f"{way}_{side}_ratio"] = statistics.median(their / our for our, their in pairs)
        queues.empty()
    return found


def store(side: str, messages: list[Any]) -> None:
    """In a transaction."""
    from django.db import transaction

    with transaction.atomic():
        send(side, messages)


def send(side: str, messages: list[Any]) -> None:
    from django.core import mail

    mail.get_connection(queues.BACKENDS[side]).send_messages(messages)


def measure() -> Figures:
    figures: Figures = {}
    with queues.databases() as databases:
        for kind, database in databases.items():
            found = within(environment(), __name__, "turns", database=database)
            for way in ("one", "list"):
                start = f"{kind}_{way}"
                figures[f"{start}_of_django_mailer"] = 1 / found[f"{way}_django_mailer_ratio"]
                figures[f"{start}_post_office_ratio"] = found[f"{way}_post_office_ratio"]
                for side in queues.BACKENDS:
                    figures[f"{start}_{side}_us"] = found[f"{way}_{side}"] * 1e6
                    figures[f"{start}_{side}_statements"] = found[f"{way}_{side}_statements"]
    return figures
