"""How fast does stored mail leave? 500 messages, Postfix behind 20 ms.

By the command that each package has for it, in a new process. Ours with four connections and with one, with the default
window of 32 mails for each, and with 32 for all four; django-post-office with 5 threads. django-mailer sends one after
the other: it is given a fifth of them, and measured once, for its time is all waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.lab import queues
from benchmarks.lab.delay import DelayProxy
from benchmarks.lab.environments import queues as environment
from benchmarks.lab.samples import ROUNDS, Figures, amount, client, interleaved, middle, within
from benchmarks.lab.servers import postfix

MESSAGES = amount(500)
COUNTED = amount(100)
ROUND_TRIP = 0.02
CONNECTIONS = (4, 1)
NARROW = 32
SLOW = 5  # times less mail for django-mailer
PEERS = ("post_office", "django_mailer")


def _stored(side: str, database: Mapping[str, Any], port: int, count: int, outbox: Mapping[str, Any]) -> None:
    queues.site(database, port, side, **outbox)
    queues.empty()
    for number in range(count):
        queues.letter(number).send()


def command(
    count: int, side: str, database: Mapping[str, Any], port: int, outbox: Mapping[str, Any]
) -> Callable[[], int]:
    """All that is stored."""
    _stored(side, database, port, count, outbox)

    def work() -> int:
        queues.drain(side)
        return queues.sent(side)

    return work


def statements(side: str, database: Mapping[str, Any], port: int, outbox: Mapping[str, Any]) -> float:
    """Those of one message of many."""
    _stored(side, database, port, COUNTED, outbox)
    with queues.statements() as asked:
        queues.drain(side)
    assert queues.sent(side) == COUNTED
    return len(asked) / COUNTED


def _count(name: str) -> int:
    return max(MESSAGES // SLOW, 1) if name == "django_mailer" else MESSAGES


def measure() -> Figures:
    figures: Figures = {}
    python = environment()
    with (
        queues.databases() as databases,
        postfix(in_memory=True) as port,
        DelayProxy("127.0.0.1", port, ROUND_TRIP, is_set_up=True) as proxy,
    ):
        for kind, database in databases.items():
            ways: dict[str, dict[str, Any]] = {
                f"ours_{number}": {"side": "ours", "outbox": {"connections": number}} for number in CONNECTIONS
            }
            ways["ours_4_narrow"] = {"side": "ours", "outbox": {"connections": 4, "window": NARROW}}
            ways |= {side: {"side": side, "outbox": {}} for side in PEERS}
            for name, way in ways.items():
                way["database"] = database
                counted = within(python, __name__, "statements", port=port, **way)
                figures[f"{kind}_{name}_statements"] = counted
            takers = {
                name: client(command, python=python, count=_count(name), port=proxy.port, **way)
                for name, way in ways.items()
            }
            slow = {"django_mailer": takers.pop("django_mailer")}
            samples = interleaved(takers, rounds=min(3, ROUNDS)) | interleaved(slow, rounds=1)
            rates = {name: _count(name) / middle(found) for name, found in samples.items()}
            for name, rate in rates.items():
                figures[f"{kind}_{name}_rate"] = rate
                if name not in PEERS:
                    number = name.removeprefix("ours_")
                    figures |= {f"{kind}_{number}_{side}_ratio": rate / rates[side] for side in PEERS}
    return figures
