"""What does a web process ask the database that has nothing to send? For a minute, with the worker in the process.

The process has served a request and sent a mail before. Each look is a connection that is opened and closed again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmarks.lab import queues
from benchmarks.lab.environments import queues as environment
from benchmarks.lab.samples import QUICK, Figures, within
from benchmarks.lab.servers import postfix

SECONDS = 5 if QUICK else 60
SETTLED = 5.0  # seconds after the mail


def looks(database: Mapping[str, Any], port: int) -> dict[str, int]:
    """Connections that are opened, and statements."""
    queues.site(database, port, worker="process")
    from django.core.signals import request_started
    from django.db.backends.base.base import BaseDatabaseWrapper

    request_started.send(sender=None)
    queues.letter(0).send()
    time.sleep(SETTLED)
    assert queues.sent("ours") == 1
    opened = []
    connect = BaseDatabaseWrapper.connect

    def noted(wrapper: Any) -> None:
        opened.append(wrapper)
        connect(wrapper)

    BaseDatabaseWrapper.connect = noted
    with queues.statements() as asked:
        time.sleep(SECONDS)
    return {"connections": len(opened), "statements": len(asked)}


def measure() -> Figures:
    figures: Figures = {}
    with queues.databases() as databases, postfix() as port:
        for kind, database in databases.items():
            found = within(environment(), __name__, "looks", database=database, port=port)
            figures |= {f"{kind}_{name}": count for name, count in found.items()}
    return figures
