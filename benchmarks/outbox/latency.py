"""How long after the commit is the content of a mail at the server? The connection is warm, and nothing delays it.

From the first hook that is called after the commit, on a clock that all processes share, until the content was read
before Postfix. One mail at a time, at random moments; sent by the worker of the process that stores it, and by
``outbox run``.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks.lab import queues
from benchmarks.lab.environments import queues as environment
from benchmarks.lab.samples import Figures, amount, within
from benchmarks.lab.servers import postfix
from benchmarks.lab.stamps import MARK, StampingProxy

MAILS = amount(300)
BEFORE = 5  # mails that open the connection
BETWEEN = (0.02, 0.06)  # seconds between two mails
LONGEST = 30.0  # seconds until all of them are at the server
WAYS = {"process": "process", "run": "none"}


def commits(database: Mapping[str, Any], port: int, worker: str, count: int, first: int) -> dict[int, float]:
    """Store mail, and return when each was committed."""
    queues.site(database, port, worker=worker)
    from django.db import transaction

    chance = random.Random(1)
    times: dict[int, float] = {}

    def note(number: int) -> None:
        times[number] = time.monotonic()

    for number in range(first, first + count):
        message = queues.letter(number, MARK.format(number))
        with transaction.atomic():
            transaction.on_commit(lambda number=number: note(number))
            message.send()
        time.sleep(chance.uniform(*BETWEEN))
    return times


def measure() -> Figures:
    figures: Figures = {}
    first = 0
    with (
        queues.databases() as databases,
        postfix(in_memory=True) as port,
        StampingProxy("127.0.0.1", port, 0.0) as proxy,
    ):
        for kind, database in databases.items():
            for way, worker in WAYS.items():
                given: dict[str, Any] = {"database": database, "port": proxy.port, "worker": worker}
                with ExitStack() as stack:
                    if worker == "none":
                        stack.enter_context(queues.running("run", **given))
                        time.sleep(3.0)
                    times = within(environment(), __name__, "commits", count=BEFORE + MAILS, first=first, **given)
                    until = time.monotonic() + LONGEST
                    while not proxy.stamps.keys() >= {int(number) for number in times}:
                        if time.monotonic() > until:
                            raise RuntimeError(f"{len(proxy.stamps) - first} of {len(times)} mails arrived")
                        time.sleep(0.05)
                waits = [proxy.stamps[int(number)] - committed for number, committed in times.items()][BEFORE:]
                figures[f"{kind}_{way}_median_ms"] = statistics.median(waits) * 1000
                figures[f"{kind}_{way}_99th_ms"] = sorted(waits)[-1 - len(waits) // 100] * 1000
                first += BEFORE + MAILS
    return figures
