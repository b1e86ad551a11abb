"""What each worker may ask of a server when its mail waited for the end of an outage: `rate`, `max_connections`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend.testing import Play, ScriptedServer
from tests.outbox.sites import Site
from tests.outbox.tables import Tables, enqueue
from tests.outbox.test_interruptions import arrived, options
from tests.servers.ports import wait_until

MakeSite = Callable[..., Site]

pytestmark = pytest.mark.slow

WORKERS = 2


class Outage:
    """A server that answers 421 until its `end`, and notes when each MAIL came."""

    def __init__(self) -> None:
        self.greeting = "421 4.3.2 closed"
        self.ended = 0.0
        self.times: list[float] = []
        self.server = ScriptedServer(Play({"": lambda _: self.greeting, "MAIL": self._mail}))

    def _mail(self, line: str) -> str:
        self.times.append(time.monotonic())
        return "250 2.1.0 OK"

    def end(self) -> None:
        self.greeting = "220 mx.example.com"
        self.ended = time.monotonic()


def run_after_outage(make_site: MakeSite, tables: Tables, count: int, outbox: dict[str, Any], **server: Any) -> Outage:
    """Have workers find a server that is down and then back, with so many mails."""
    outage = Outage()
    with outage.server:
        site = make_site(server={**options(outage.server), "rest": 0, **server}, outbox={"worker": "none", **outbox})
        enqueue(site, count)
        workers = [site.start_manage("outbox", "run") for _ in range(WORKERS)]
        assert wait_until(lambda: site.log.count("mailer_down") > 0, 60), site.log
        assert wait_until(lambda: not tables.rows("SELECT 1 FROM smtpbackend_outbox_due WHERE leased <> 0"), 60)
        outage.end()
        assert wait_until(lambda: not tables.pending(), 120), site.log
        for worker in workers:
            worker.terminate()
            assert worker.wait(25) == 0, site.log
        assert site.log.count("mailer_down") == 1, site.log
    assert arrived(outage.server) == Counter(f"to{n}@example.com" for n in range(count))
    return outage


def test_each_worker_keeps_to_the_rate(make_site: MakeSite, tables: Tables) -> None:
    """So many mails as its bucket held, and then so many a second: a slow machine makes it less."""
    rate, count = 5, 40
    outage = run_after_outage(make_site, tables, count, {}, rate=rate)
    assert len(outage.times) == count
    for number, came in enumerate(sorted(outage.times), 1):
        assert number <= WORKERS * (rate + rate * (came - outage.ended)) + 0.01


def test_each_worker_keeps_to_its_connections(make_site: MakeSite, tables: Tables) -> None:
    outage = run_after_outage(make_site, tables, 200, {"connections": 3}, max_connections=2)
    used = [speaker for speaker in outage.server.speakers if "MAIL" in speaker.verbs]
    assert 0 < len(used) <= WORKERS * 2
