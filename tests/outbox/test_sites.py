"""The sites do what other tests rely on, here with the backend that sends at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpbackend.testing import ScriptedServer
from tests.outbox.sites import EMAIL_BACKEND, HAS_MAILERS, OUTBOX_BACKEND, Site, mail_settings, sqlite
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.ports import wait_until
from tests.servers.postgresql import state

pytestmark = pytest.mark.slow

COUNT = "from site_app.models import Order; print('orders', Order.objects.count())"


@pytest.fixture
def server(aiosmtpd: Callable[..., AiosmtpdServer]) -> AiosmtpdServer:
    return aiosmtpd()


@pytest.fixture
def site(make_site: Callable[..., Site], server: AiosmtpdServer) -> Site:
    return make_site(
        server={"host": server.host, "port": server.port}, backend=EMAIL_BACKEND, apps=("smtpbackend_django",)
    )


def orders(site: Site) -> int:
    said = site.manage("shell", "--command", COUNT)
    assert said.returncode == 0, said.stderr
    return int(said.stdout.split()[-1])


def test_the_views(site: Site, server: AiosmtpdServer) -> None:
    """Each does its part under gunicorn; what fails after its mail is rolled back."""
    with site.gunicorn() as web:
        master, *workers = web.pids()
        assert web.get("/ping").json["pid"] in web.pids()
        assert master not in workers
        assert web.get("/reset?to=ann@example.org").status == 200
        assert web.get("/order?to=bob@example.org&number=7").status == 200
        assert web.get("/order?to=joe@example.org&fail=1").status == 500
        assert web.get("/write").status == 200
    assert [mail.recipients for mail in server.arrived] == [
        ("ann@example.org",),
        ("bob@example.org",),
        ("joe@example.org",),
    ]
    assert b"://127.0.0.1:" in server.arrived[0].content
    assert b"Subject: Order 7" in server.arrived[1].content
    assert "RuntimeError: order 1 fails after its mail" in site.log
    assert orders(site) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 1, "threads": 4, "worker_class": "gthread"},
        {"workers": 1, "worker_class": "gevent"},
        {"workers": 3, "preload": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_gunicorn_with_each_kind_of_worker(make_site: Callable[..., Site], options: dict[str, Any]) -> None:
    with ScriptedServer() as server:
        site = make_site(
            server={"host": server.host, "port": server.port}, backend=EMAIL_BACKEND, apps=("smtpbackend_django",)
        )
        with site.gunicorn("--max-requests", "1000", **options) as web:
            assert web.get("/order?to=ann@example.org").status == 200
            assert wait_until(lambda: len(web.pids()) == 1 + options["workers"], 60)
            assert web.stop() == 0
    assert orders(site) == 1


@pytest.mark.parametrize("arguments", [(), ("--noreload",)], ids=["reload", "noreload"])
def test_runserver(site: Site, server: AiosmtpdServer, arguments: tuple[str, ...]) -> None:
    with site.runserver(*arguments) as web:
        pid = web.get("/ping").json["pid"]
        first, *others = web.pids()
        assert pid == (first if arguments else others[-1])
        assert web.get("/order?to=ann@example.org").status == 200
    assert state(pid) is None
    assert len(server.arrived) == 1


def test_no_program_is_left(tmp_path: Path) -> None:
    """Neither when the test fails, nor of a server whose first process was killed."""
    pids: list[int] = []

    def serve_and_fail() -> None:
        with Site(
            tmp_path / "site",
            sqlite(tmp_path / "db"),
            server={"host": "127.0.0.1", "port": 1},
            backend=EMAIL_BACKEND,
            apps=("smtpbackend_django",),
        ) as site:
            pids.append(site.start_manage("shell", "--command", "import time; time.sleep(600)").pid)
            with site.gunicorn() as killed, site.gunicorn("--preload") as web:
                assert wait_until(lambda: len(killed.pids()) == len(web.pids()) == 3, 60)
                pids.extend(killed.pids() + web.pids())
                killed.kill()
                os.kill(web.process.pid, signal.SIGKILL)
                raise RuntimeError("the test fails")

    with pytest.raises(RuntimeError, match="the test fails"):
        serve_and_fail()
    assert len(pids) == 7
    assert wait_until(lambda: not any(map(state, pids)), 10)


def test_a_server_that_cannot_start_says_why(site: Site) -> None:
    (site.folder / "wsgi.py").write_text("import no_such_module\n")
    with pytest.raises(AssertionError, match="no_such_module"), site.gunicorn(preload=True):
        pass


def test_manage(site: Site) -> None:
    """It is given variables, and what fails tells it; a started one writes to the log."""
    said = site.manage("shell", "--command", "import os; print(os.environ['COLOUR'])", COLOUR="blue")
    assert (said.returncode, said.stdout.split()[-1]) == (0, "blue")
    assert site.manage("no_such_command").returncode == 1
    assert site.manage("check").returncode == 0
    assert site.manage("makemigrations", "--check", "--dry-run").returncode == 0
    started = site.start_manage("shell", "--command", "import os; print(os.environ['COLOUR'])", COLOUR="green")
    assert started.wait(60) == 0
    assert "green" in site.log


ASK_ASGI = """
import asyncio
from asgiref.testing import ApplicationCommunicator
from asgi import application

async def ask():
    scope = {"type": "http", "method": "GET", "path": "/ping", "headers": [(b"host", b"testserver")]}
    asked = ApplicationCommunicator(application, scope)
    await asked.send_input({"type": "http.request"})
    print((await asked.receive_output(60))["status"])
    await asked.receive_output(60)

asyncio.run(ask())
"""


def test_asgi(site: Site) -> None:
    said = site.manage("shell", "--command", ASK_ASGI)
    assert said.stdout.split()[-1:] == ["200"], said.stderr


def test_the_settings_of_an_outbox() -> None:
    """Where this Django has them: options of a mailer, or a part of the site's."""
    server = {"host": "127.0.0.1", "port": 2525}
    if HAS_MAILERS:
        assert mail_settings(OUTBOX_BACKEND, server, {"keep": 60}) == {
            "MAILERS": {
                "default": {"BACKEND": OUTBOX_BACKEND, "OPTIONS": {"using": "smtp", "keep": 60}},
                "smtp": {"BACKEND": EMAIL_BACKEND, "OPTIONS": server},
            }
        }
    else:
        assert mail_settings(OUTBOX_BACKEND, server, {"keep": 60}) == {
            "EMAIL_BACKEND": OUTBOX_BACKEND,
            "SMTPBACKEND": {"HOST": "127.0.0.1", "PORT": 2525, "OUTBOX": {"KEEP": 60}},
        }
