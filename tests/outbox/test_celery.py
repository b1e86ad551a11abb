"""The worker of a process of Celery: in the one that was started, and in its children."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from smtpbackend.testing import Play, ScriptedServer
from tests.outbox.sites import Site
from tests.outbox.tables import Tables
from tests.outbox.test_process import arrived, options, run
from tests.servers.ports import wait_until

MakeSite = Callable[..., Site]
Start = Callable[..., ScriptedServer]

pytestmark = pytest.mark.slow

POOLS = {
    "prefork": ("--pool=prefork", "--concurrency=2"),
    "one-task-a-child": ("--pool=prefork", "--concurrency=2", "--max-tasks-per-child=1"),
    "threads": ("--pool=threads", "--concurrency=2"),
    "solo": ("--pool=solo",),
}


def work(site: Site, tables: Tables, enqueue: str, pool: tuple[str, ...], entries: int) -> None:
    """Have a worker of Celery run tasks, and end it as soon as all their mail is stored."""
    run(site, "import tasks\n" + enqueue)
    worker = site.start_celery(*pool)
    assert wait_until(lambda: len(tables.rows("SELECT id FROM smtpbackend_outbox_entry")) == entries, 60), site.log
    assert wait_until(lambda: not list((site.folder / "queue").glob("*.celery.msg")), 60), site.log
    worker.terminate()
    assert worker.wait(60) == 0, site.log


@pytest.fixture
def at_the_end(smtp_server: Start) -> tuple[ScriptedServer, list[Site]]:
    """A server that takes no content before a process of the site has begun to end."""
    sites: list[Site] = []

    def content(line: str) -> str:
        assert wait_until(lambda: "THE END" in sites[0].log, 60), sites[0].log
        time.sleep(0.3)  # a child of Celery sleeps for a second as it ends, in which no mail may be through
        return "250 2.0.0 taken"

    return smtp_server(Play({".": content})), sites


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_what_a_process_has_in_hand_leaves_as_it_ends(
    make_site: MakeSite, at_the_end: tuple[ScriptedServer, list[Site]], tables: Tables, pool: tuple[str, ...]
) -> None:
    """In a warm shutdown, or after its tasks."""
    server, sites = at_the_end
    site = make_site(server=options(server))
    sites.append(site)
    tasks = """
for number in range(4):
    tasks.mail.delay(f"mail{number}@example.com")
    tasks.order.delay(f"order{number}@example.com", False)
    tasks.order.delay(f"nobody{number}@example.com", True)
"""
    work(site, tables, tasks, pool, 8)
    assert arrived(server) == sorted(f"{kind}{number}@example.com" for number in range(4) for kind in ("mail", "order"))
    assert tables.states() == {"accepted": 8}
    assert tables.due() == 0


def test_so_does_that_of_a_child_which_has_a_connection_to_end_too(
    make_site: MakeSite, at_the_end: tuple[ScriptedServer, list[Site]], smtp_server: Start, tables: Tables
) -> None:
    """It has sent a mail past the outbox before."""
    (server, sites), other = at_the_end, smtp_server()
    site = make_site(server=options(server))
    sites.append(site)
    tasks = f"""
tasks.direct.delay("direct@example.com", {other.port})
for number in range(8):
    tasks.mail.delay(f"mail{{number}}@example.com")
"""
    work(site, tables, tasks, ("--pool=prefork", "--concurrency=1"), 8)
    assert arrived(server) == [f"mail{number}@example.com" for number in range(8)]
    assert tables.states() == {"accepted": 8}
    assert arrived(other) == ["direct@example.com"]
    for one in (server, other):
        one.wait_for_end()
        assert [speaker.verbs[-1] for speaker in one.speakers] == ["QUIT"]
