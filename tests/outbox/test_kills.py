"""kill -9, again and again: every message arrives, and at most a window of them twice.

Half of the killed processes are ``outbox run``, half web processes with their own worker. A process is killed at the
n-th reply it was given, n random; before the first write of a message; and between the last reply and its record.

No mail is in hand at five kills: what that becomes is `failed`, and the subject of test_worker.py.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend.testing import ScriptedServer
from tests.outbox.sites import Site
from tests.outbox.tables import Executioner, Tables, enqueue
from tests.servers.ports import wait_until

MakeSite = Callable[..., Site]

WAYS = ("reply", "recording", "sending", "reply", "reply")
LAPSE = 61.0


class Started:
    """A program that is started later, and killed with all that it has started."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        kill_tree(self.process.pid)


def kill_tree(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


AtKill = tuple[str, set[str]]
"""How a process was killed, and who was named to the server by it without an outcome that is recorded."""


def judge(server: ScriptedServer, wanted: set[str], at_kills: list[AtKill], window: int, tables: Tables) -> None:
    counts = Counter(one.split("<")[1].rstrip(">") for taken in server.taken for one in taken.recipients)
    twice = {address for address, count in counts.items() if count > 1}
    extra = sum(counts.values()) - len(counts)
    print(
        f"window {window}: {len(wanted)} mails, {len(at_kills)} kills, {extra} repeated; unrecorded at each kill",
        end=" ",
    )
    print([len(unrecorded) for _, unrecorded in at_kills])
    assert wanted <= counts.keys(), f"lost: {sorted(wanted - counts.keys())}"
    assert all(unrecorded or way == "sending" for way, unrecorded in at_kills), "nothing was in flight at a kill"
    assert max(len(unrecorded) for _, unrecorded in at_kills) <= window
    assert twice <= set().union(*(unrecorded for _, unrecorded in at_kills))
    others = tables.rows(
        "SELECT address, state, error FROM smtpbackend_outbox_recipient WHERE state <> 'accepted' LIMIT 5"
    )
    assert not others, others


def strike(
    way: str, executioner: Executioner, tables: Tables, kill: Callable[[], None], go: Callable[[], Any], most: int
) -> None:
    """Let a process go, and kill it in this way."""
    if way == "reply":
        executioner.arm(random.randint(1, most), kill)
        go()
        assert executioner.has_killed.wait(60)
        return
    if way == "recording":
        lock = contextlib.ExitStack()
        is_over = threading.Event()

        def hold() -> None:  # what the reply to this content says cannot be recorded any more
            lock.enter_context(tables.locked())
            threading.Timer(0.05, end).start()

        def end() -> None:
            kill()
            lock.close()
            is_over.set()

        executioner.arm(random.randint(1, most // 3), hold, at_content=True)
        go()
        assert is_over.wait(60)


KILLS = [pytest.param(6, id="6"), pytest.param(50, id="50", marks=pytest.mark.exhaustive)]


@pytest.mark.slow
@pytest.mark.parametrize("window", [8, 32])
@pytest.mark.parametrize("kills", KILLS)
def test_outbox_run(make_site: MakeSite, tables: Tables, window: int, kills: int) -> None:
    kills //= 2  # half of them at each window
    executioner = Executioner(tables.has_one_that_may_die_no_more)
    with ScriptedServer(executioner.play()) as server:
        site = make_site(
            server={"host": server.host, "port": server.port, "tls": "none"},
            outbox={"worker": "none", "window": window},
        )
        count = 60 * kills
        enqueue(site, count)
        at_kills: list[AtKill] = []
        for way in itertools.islice(itertools.cycle(WAYS), kills):
            executioner.seen.clear()
            program = Started()
            more = {"KILL_AT_SENDING": str(random.randint(1, 10))} if way == "sending" else {}

            def go(program: Started = program, more: dict[str, str] = more) -> None:
                program.process = site.start_manage("outbox", "run", **more)

            if way == "sending":
                go()
            else:
                strike(way, executioner, tables, program.kill, go, 60)
            assert program.process.wait(60) == -signal.SIGKILL, site.log
            server.wait_for_end()  # it reads on what was sent before
            at_kills.append((way, set(executioner.seen) & tables.pending()))
            tables.let_leases_lapse()
        last = site.start_manage("outbox", "run")
        assert wait_until(lambda: not tables.pending(), 60), site.log
        last.terminate()
        assert last.wait(25) == 0, site.log
        judge(server, {f"to{n}@example.com" for n in range(count)}, at_kills, window, tables)


@pytest.mark.slow
@pytest.mark.parametrize("window", [8, 32])
@pytest.mark.parametrize("kills", KILLS)
def test_web_processes(make_site: MakeSite, tables: Tables, window: int, kills: int) -> None:
    """Requests come while the process is killed: each that was answered has its mail, and none that was not."""
    kills //= 2
    executioner = Executioner(tables.has_one_that_may_die_no_more)
    with ScriptedServer(executioner.play()) as server:
        site = make_site(server={"host": server.host, "port": server.port, "tls": "none"}, outbox={"window": window})
        numbers = itertools.count()
        at_kills: list[AtKill] = []
        answered: set[str] = set()
        for way in itertools.islice(itertools.cycle(WAYS), kills):
            executioner.seen.clear()
            more = {"KILL_AT_SENDING": str(random.randint(1, 10))} if way == "sending" else {}
            with site.gunicorn(workers=1, threads=4, worker_class="gthread", **more) as web:
                is_over = threading.Event()

                def visit(web: Any = web, is_over: threading.Event = is_over) -> None:
                    while not is_over.is_set():
                        address = f"to{next(numbers)}@example.com"
                        try:
                            if web.get(f"/order?to={address}", timeout=10).status == 200:
                                answered.add(address)
                        except OSError:
                            return
                        except Exception:  # half an answer
                            return

                visitors = [threading.Thread(target=visit) for _ in range(4)]

                def go(visitors: list[threading.Thread] = visitors) -> None:
                    for visitor in visitors:
                        visitor.start()

                if way == "sending":
                    go()
                    web.process.wait(60)
                else:
                    strike(way, executioner, tables, lambda: kill_tree(web.process.pid), go, 60)
                is_over.set()
                for visitor in visitors:
                    visitor.join()
            server.wait_for_end()  # it reads on what was sent before
            at_kills.append((way, set(executioner.seen) & tables.pending()))
            tables.let_leases_lapse()
        with site.gunicorn(workers=1) as web:
            assert web.get("/ping").status == 200
            assert wait_until(lambda: not tables.pending(), 60), site.log
            assert web.stop() == 0
        stored = {row[0] for row in tables.rows("SELECT address FROM smtpbackend_outbox_recipient")}
        assert answered <= stored
        orders = tables.rows("SELECT count(*) FROM site_app_order")[0][0]
        assert orders == len(stored), "an order without its mail, or a mail without its order"
        judge(server, stored, at_kills, window, tables)
