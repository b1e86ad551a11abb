"""The worker of each process of uvicorn, which serves a site by ASGI and ends by the signal that it is sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpbackend.testing import Play, ScriptedServer, delay
from tests.outbox.sites import Site
from tests.outbox.tables import Tables
from tests.outbox.test_process import arrived, options, wait_for

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
    """It ends by SIGTERM, and so without what `atexit` has."""
    server = smtp_server(Play({".": (delay(0.1), "250 taken")}))
    site = make_site(server=options(server))
    with site.uvicorn(workers=workers) as web:
        for number in range(5):
            for view in VIEWS:
                assert web.get(f"/{view}?to={view}{number}@example.com").status == 200, site.log
        web.stop()
    assert arrived(server) == sorted(f"{view}{number}@example.com" for number in range(5) for view in VIEWS)
    assert tables.states() == {"accepted": 10}
    assert tables.due() == 0
