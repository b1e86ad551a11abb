"""The worker of each process of uvicorn, which serves a site by ASGI and ends by the signal that it is sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpbackend.testing import Play, ScriptedServer
from tests.outbox.sites import Site
from tests.outbox.tables import Tables
from tests.outbox.test_process import arrived, options, wait_for
from tests.servers.ports import wait_until

MakeSite = Callable[..., Site]
Start = Callable[..., ScriptedServer]

pytestmark = pytest.mark.slow

VIEWS = ("order", "aorder")


@pytest.mark.parametrize("workers", [1, 2])
def test_each_mail_arrives_once_by_the_process_that_stored_it(
    make_site: MakeSite, smtp_server: Start, workers: int
) -> None:
    server = smtp_server()
    site = make_site(server=options(server))
    with site.uvicorn(workers=workers) as web:
        for number in range(10):
            for view in VIEWS:
                assert web.get(f"/{view}?to={view}{number}@example.com").status == 200, site.log
                assert web.get(f"/{view}?to=nobody{number}@example.com&fail=1").status == 500
        wait_for(server, 20, site)
        web.stop()
    assert arrived(server) == sorted(f"{view}{number}@example.com" for number in range(10) for view in VIEWS)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_in_hand_at_its_end_is_delivered_and_recorded(
    make_site: MakeSite, smtp_server: Start, tables: Tables, workers: int
) -> None:
    """It ends by SIGTERM, and so without what `atexit` has. What it sent past the outbox before is ended after it."""
    sites: list[Site] = []

    def content(line: str) -> str:
        assert wait_until(lambda: "Shutting down" in sites[0].log, 60), sites[0].log
        return "250 2.0.0 taken"

    server, other = smtp_server(Play({".": content})), smtp_server()
    site = make_site(server=options(server))
    sites.append(site)
    with site.uvicorn(workers=workers) as web:
        for number in range(5):
            assert web.get(f"/direct?to=direct{number}@example.com&port={other.port}").status == 200, site.log
            for view in VIEWS:
                assert web.get(f"/{view}?to={view}{number}@example.com").status == 200, site.log
        web.stop()
    assert arrived(server) == sorted(f"{view}{number}@example.com" for number in range(5) for view in VIEWS)
    assert tables.states() == {"accepted": 10}
    assert tables.due() == 0
    for one in (server, other):
        one.wait_for_end()
        assert {speaker.verbs[-1] for speaker in one.speakers} == {"QUIT"}
