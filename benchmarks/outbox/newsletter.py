"""Who waits behind a newsletter? 100,000 messages by one `send_messages`, then single mails while they leave.

``outbox run`` delivers, with one connection to Postfix behind 20 ms. A single mail is stored a second after the last
one was on the wire; its time is from the commit until its content is on the wire, the longest of five.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.lab import queues
from benchmarks.lab.environments import queues as environment
from benchmarks.lab.samples import Figures, amount, client, within
from benchmarks.lab.servers import postfix
from benchmarks.lab.stamps import MARK, StampingProxy

MESSAGES = amount(100_000)
ROUND_TRIP = 0.02
SINGLE = 5
LONGEST = 60.0


def enqueue(count: int, database: Mapping[str, Any]) -> Callable[[], int]:
    """One list, made as it is asked for."""
    queues.site(database)
    from django.core import mail
    from django.core.mail import EmailMultiAlternatives

    queues.letter(0).send()
    queues.empty()
    made = queues.letter(0)

    def letters() -> Iterator[Any]:
        for number in range(count):
            message = EmailMultiAlternatives(
                f"Order {number} has left", made.body, None, [f"r{number}@example.net"], alternatives=made.alternatives
            )
            yield message

    def work() -> int:
        return int(mail.get_connection().send_messages(letters()))

    return work


def single(database: Mapping[str, Any], number: int, priority: str) -> float:
    """Store one mail in a process of its own, and return when it was committed."""
    queues.site(database)
    from smtpbackend_django import outbox

    outbox.send(queues.letter(number, MARK.format(number)), priority=priority)
    return time.monotonic()


def measure() -> Figures:
    figures: Figures = {}
    python = environment()
    number = 0
    with (
        queues.databases() as databases,
        postfix(in_memory=True) as port,
        StampingProxy("127.0.0.1", port, ROUND_TRIP, is_set_up=True) as proxy,
    ):
        for kind, database in databases.items():
            taken = client(enqueue, python=python, count=MESSAGES, database=database)()
            figures[f"{kind}_enqueue_us"] = taken.seconds / MESSAGES * 1e6
            figures[f"{kind}_memory"] = taken.memory
            with queues.running("run", database=database, port=proxy.port):
                time.sleep(3.0)
                for priority in ("normal", "high"):
                    waits = []
                    for _ in range(SINGLE):
                        number += 1
                        committed = within(
                            python, __name__, "single", database=database, number=number, priority=priority
                        )
                        while number not in proxy.stamps and time.monotonic() < committed + LONGEST:
                            time.sleep(0.01)
                        if number not in proxy.stamps:
                            raise RuntimeError(f"a mail of {priority} priority waited {LONGEST} s")
                        waits.append(proxy.stamps[number] - committed)
                        time.sleep(1.0)
                    figures[f"{kind}_{priority}_s"] = max(waits)
    return figures
