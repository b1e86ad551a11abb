"""The worker of each process: under the servers, commands and forks that sites have."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpbackend.testing import SILENCE, Play, ScriptedServer
from tests.outbox.sites import Site, sqlite
from tests.outbox.tables import Tables
from tests.servers.ports import free_ports, wait_until

MakeSite = Callable[..., Site]
Start = Callable[..., ScriptedServer]

pytestmark = pytest.mark.slow
UWSGI = Path(sysconfig.get_path("scripts"), "uwsgi")


def options(server: ScriptedServer) -> dict[str, Any]:
    return {"host": server.host, "port": server.port, "tls": "none"}


def arrived(server: ScriptedServer) -> list[str]:
    return sorted(one.split("<")[1].rstrip(">") for taken in server.taken for one in taken.recipients)


def wait_for(server: ScriptedServer, count: int, site: Site) -> None:
    assert wait_until(lambda: len(arrived(server)) >= count, 40), f"{arrived(server)}\n{site.log}"


def run(site: Site, program: str, timeout: float = 60.0, **variables: str) -> str:
    """Run a program within the site to its end, as a command that mails once is one; what it printed."""
    path = site.folder / "program.py"
    path.write_text("import django\ndjango.setup()\n" + textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=site.folder,
        env=site.environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "how",
    [
        {"worker_class": "sync"},
        {"worker_class": "gthread", "threads": 4},
        {"worker_class": "sync", "preload": True},
        {"worker_class": "gevent"},
    ],
    ids=["sync", "gthread", "preload", "gevent"],
)
def test_a_reset_is_answered_before_the_server_has_said_anything(
    make_site: MakeSite, smtp_server: Start, how: dict[str, Any]
) -> None:
    silent = smtp_server(Play({"": SILENCE}))
    site = make_site(server={**options(silent), "timeout": 2})
    with site.gunicorn(**how) as web:
        assert web.get("/reset?to=ann@example.com").status == 200, site.log
        assert wait_until(lambda: silent.connections > 0, 40), site.log
    assert silent.taken == []


@pytest.mark.parametrize(
    "how",
    [{"worker_class": "gthread", "threads": 4}, {"worker_class": "sync", "preload": True}, {"worker_class": "gevent"}],
    ids=["gthread", "preload", "gevent"],
)
def test_each_mail_arrives_once_by_the_process_that_stored_it(
    make_site: MakeSite, smtp_server: Start, how: dict[str, Any]
) -> None:
    server = smtp_server()
    site = make_site(server=options(server))
    with site.gunicorn(**how) as web:
        for number in range(20):
            assert web.get(f"/order?to=to{number}@example.com").status == 200, site.log
            assert web.get(f"/order?to=nobody{number}@example.com&fail=1").status == 500
        wait_for(server, 20, site)
        assert web.stop() == 0
    assert arrived(server) == sorted(f"to{number}@example.com" for number in range(20))


def test_runserver_reloads_and_delivers(make_site: MakeSite, smtp_server: Start) -> None:
    server = smtp_server()
    site = make_site(server=options(server))
    with site.runserver() as web:
        assert web.get("/order?to=ann@example.com").status == 200, site.log
        wait_for(server, 1, site)
    assert arrived(server) == ["ann@example.com"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_command_that_mails_once_ends_with_its_mail_delivered(
    make_site: MakeSite, smtp_server: Start, host: str
) -> None:
    server = smtp_server()
    site = make_site(server={**options(server), "host": host})
    done = site.manage("sendtestemail", "ann@example.com")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert arrived(server) == ["ann@example.com"]


def test_a_command_whose_server_is_silent_ends_within_seconds_and_loses_nothing(
    make_site: MakeSite, smtp_server: Start
) -> None:
    silent = smtp_server(Play({"": SILENCE}))
    site = make_site(server={**options(silent), "timeout": 60})
    said = run(
        site,
        """
        from django.core.mail import send_mail
        from smtpbackend_django.outbox.models import Due
        send_mail("Hello", "Text", None, ["ann@example.com"])
        """,
    )
    assert "Traceback" not in said
    assert run(site, "from smtpbackend_django.outbox.models import Due\nprint(Due.objects.count())") == "1\n"


def test_a_fork_gives_leases_back_and_both_processes_deliver(make_site: MakeSite, smtp_server: Start) -> None:
    server = smtp_server()
    site = make_site(server=options(server))
    run(
        site,
        """
        import os
        from django.core.mail import send_mail
        from django.db import connection
        from smtpbackend_django.outbox import process
        for number in range(5):
            send_mail("Hello", "Text", None, [f"before{number}@example.com"])
        connection.close()
        child = os.fork()
        assert not process._workers
        send_mail("Hello", "Text", None, ["child@example.com" if child == 0 else "parent@example.com"])
        if child:
            assert os.waitpid(child, 0)[1] == 0
        """,
    )
    wanted = sorted(
        [*(f"before{number}@example.com" for number in range(5)), "child@example.com", "parent@example.com"]
    )
    if arrived(server) != wanted:  # what was given back and not claimed since is there for the next process
        run(site, "from smtpbackend_django.outbox import deliver_now\ndeliver_now()")
    assert arrived(server) == wanted


BY_WHOM = pytest.mark.parametrize("by", ["worker", "run"])
"""Delivery by the process that stores the mail, or by `outbox run` alone."""


def outbox(by: str) -> dict[str, Any]:
    return {"worker": "none"} if by == "run" else {}


@BY_WHOM
def test_commit_or_nothing(make_site: MakeSite, tables: Tables, smtp_server: Start, by: str) -> None:
    """Savepoints, exceptions, autocommit, and two calls in one transaction."""
    server = smtp_server()
    site = make_site(server=options(server), outbox=outbox(by))
    run(
        site,
        """
        from django.core.mail import send_mail, get_connection, EmailMessage
        from django.db import transaction

        def mail(to): send_mail("Hello", "Text", None, [f"{to}@example.com"])

        mail("autocommit")
        with transaction.atomic():
            mail("outer")
            try:
                with transaction.atomic():
                    mail("not-savepoint")
                    raise KeyError
            except KeyError:
                pass
            with transaction.atomic():
                mail("savepoint")
        try:
            with transaction.atomic():
                mail("not-outer")
                raise KeyError
        except KeyError:
            pass
        messages = [EmailMessage("Hello", "Text", None, [to]) for to in ("not-a@example.com", "no address")]
        try:
            from django.core import mail as django_mail
            backend = django_mail.mailers["default"] if hasattr(django_mail, "mailers") else get_connection()
            backend.send_messages(messages)
        except ValueError:
            pass
        else:
            raise AssertionError("the bad address was taken")
        """,
    )
    if by == "run":
        assert server.connections == 0
        site.start_manage("outbox", "run")
        assert wait_until(lambda: tables.due() == 0, 40), site.log
    assert arrived(server) == ["autocommit@example.com", "outer@example.com", "savepoint@example.com"]
    assert tables.states() == {"accepted": 3}


def test_a_transaction_leases_no_more_than_there_is_room_for(make_site: MakeSite, smtp_server: Start) -> None:
    """However many calls store its mail: the rest goes by its lane, and is not kept in memory."""
    server = smtp_server()
    site = make_site(server=options(server), outbox={"window": 8})
    said = run(
        site,
        """
        from django.core.mail import send_mail
        from django.db import transaction
        from smtpbackend_django.outbox.models import Due
        with transaction.atomic():
            for number in range(20):
                send_mail("Hello", "Text", None, [f"to{number}@example.com"])
            print(Due.objects.filter(leased=2).count())
        """,
    )
    assert said == "8\n"


def test_mail_that_takes_no_room_leaves_it_to_the_rest_of_its_transaction(
    make_site: MakeSite, smtp_server: Start
) -> None:
    server = smtp_server()
    site = make_site(server=options(server), outbox={"window": 8})
    said = run(
        site,
        """
        from datetime import timedelta
        from django.core.mail import EmailMessage, send_mail
        from django.db import transaction
        from django.utils import timezone
        from smtpbackend_django import outbox
        from smtpbackend_django.outbox.models import Due
        with transaction.atomic():
            for number in range(10):
                message = EmailMessage("Hello", "Text", None, [f"to{number}@example.com"])
                outbox.send(message, send_at=timezone.now() + timedelta(days=1))
            send_mail("Hello", "Text", None, ["now@example.com"])
            print(Due.objects.filter(leased=2).count())
        """,
    )
    assert said == "1\n"


@BY_WHOM
def test_who_is_killed_before_the_commit_has_sent_nothing(
    make_site: MakeSite, tables: Tables, smtp_server: Start, by: str
) -> None:
    """Its order and its mail are gone together, and the mail of others goes on."""
    server = smtp_server()
    site = make_site(server=options(server), outbox=outbox(by))
    if by == "run":
        site.start_manage("outbox", "run")
    order = """
        from django.core.mail import send_mail
        from django.db import transaction
        from site_app.models import Order
        with transaction.atomic():
            Order.objects.create(number="{name}")
            send_mail("Hello", "Text", None, ["{name}@example.com"])
    """
    asleep = """
            import pathlib, signal
            pathlib.Path("asleep").touch()
            signal.pause()
    """
    program = textwrap.dedent(order.format(name="killed") + asleep)
    client = site.start_manage("shell", "-c", program)
    assert wait_until((site.folder / "asleep").exists, 60), site.log
    client.kill()
    assert client.wait() == -signal.SIGKILL
    run(site, order.format(name="other"))
    wait_for(server, 1, site)
    assert wait_until(lambda: tables.due() == 0, 40), site.log
    assert arrived(server) == ["other@example.com"]
    assert [tuple(row) for row in tables.rows("SELECT number FROM site_app_order")] == [("other",)]
    rows = tables.rows("SELECT address, state FROM smtpbackend_outbox_recipient")
    assert [tuple(row) for row in rows] == [("other@example.com", "accepted")]


def test_with_worker_none_nothing_is_delivered_here(make_site: MakeSite, smtp_server: Start) -> None:
    server = smtp_server()
    site = make_site(server=options(server), outbox={"worker": "none"})
    said = run(
        site,
        """
        import threading
        from django.core.mail import send_mail
        send_mail("Hello", "Text", None, ["ann@example.com"])
        print([thread.name for thread in threading.enumerate()])
        """,
    )
    assert said == "['MainThread']\n"
    assert server.connections == 0
    assert run(site, "from smtpbackend_django.outbox import deliver_now\nprint(deliver_now())") == "1\n"
    assert arrived(server) == ["ann@example.com"]


def test_import_and_setup_start_no_thread_and_ask_nothing(make_site: MakeSite, smtp_server: Start) -> None:
    server = smtp_server()
    site = make_site(server=options(server))
    said = run(
        site,
        """
        import threading
        import smtpbackend_django.outbox.backend
        from django.core.mail import get_connection
        print([thread.name for thread in threading.enumerate()])
        """,
    )
    assert said == "['MainThread']\n"


def test_a_worker_keeps_its_connection_for_a_thousand_messages(make_site: MakeSite, smtp_server: Start) -> None:
    """A new one proves its window anew. The setting counts where it is given."""
    server = smtp_server()
    program = """
        from django.core.mail import EmailMessage
        from smtpbackend_django.outbox import deliver_now
        from smtpbackend_django.outbox.backend import OutboxBackend
        from django.core import mail
        backend = mail.mailers["default"] if hasattr(mail, "mailers") else OutboxBackend()
        backend.send_messages([EmailMessage("Hi", "Text", None, [f"to{n}@example.com"]) for n in range(150)])
        print(deliver_now())
        """
    site = make_site(server=options(server), outbox={"worker": "none"})
    assert run(site, program) == "150\n"
    assert server.connections == 1
    few = make_site(server={**options(server), "max_messages": 50}, outbox={"worker": "none"})
    assert run(few, program) == "150\n"
    assert server.connections == 1 + 3


def test_each_query_names_its_database(
    make_site: MakeSite, smtp_server: Start, database: dict[str, Any], tmp_path: Path
) -> None:
    """A router sends what reads to a replica, which has no tables of the outbox."""
    server = smtp_server()
    databases = {"default": database, "replica": sqlite(tmp_path / "replica.sqlite3")}
    site = make_site(server=options(server), DATABASES=databases, DATABASE_ROUTERS=["site_app.routers.Replica"])
    said = run(
        site,
        """
        from django.core.mail import send_mail
        from django.db import transaction
        with transaction.atomic():
            send_mail("Hello", "Text", None, ["ann@example.com"])
        """,
    )
    assert said == ""
    assert arrived(server) == ["ann@example.com"]
    done = site.manage("outbox", "stats")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    not UWSGI.exists() and os.environ.get("SMTPBACKEND_REQUIRE_SERVERS") != "1",
    reason="uWSGI is not installed: pip install --group uwsgi",
)
@pytest.mark.parametrize("threads", [True, False], ids=["threads", "without"])
def test_uwsgi(make_site: MakeSite, smtp_server: Start, threads: bool) -> None:
    """With threads its worker delivers. Without them nothing is leased, and `outbox run` delivers at once."""
    server = smtp_server()
    site = make_site(server=options(server))
    (port,) = free_ports(1)
    more = ["--enable-threads"] if threads else []
    command = [str(UWSGI), "--http-socket", f"127.0.0.1:{port}", "--master", "--die-on-term", "--module", "wsgi", *more]
    with site.serve(*command, port=port) as web:
        assert web.get("/order?to=ann@example.com").status == 200, site.log
        if threads:
            wait_for(server, 1, site)
        web.stop()
    if not threads:
        assert arrived(server) == []
        assert site.manage("outbox", "run", "--once").returncode == 0
    assert arrived(server) == ["ann@example.com"]


def test_atomic_requests_roll_mail_back_with_the_request(
    make_site: MakeSite, smtp_server: Start, database: dict[str, Any]
) -> None:
    server = smtp_server()
    site = make_site(server=options(server), DATABASES={"default": {**database, "ATOMIC_REQUESTS": True}})
    with site.gunicorn(workers=1) as web:
        assert web.get("/order?to=nobody@example.com&fail=1").status == 500
        assert web.get("/order?to=ann@example.com").status == 200, site.log
        wait_for(server, 1, site)
        assert web.stop() == 0
    assert arrived(server) == ["ann@example.com"]


def test_two_transactions_at_once_of_which_the_lower_id_commits_later(
    make_site: MakeSite, smtp_server: Start, database: dict[str, Any]
) -> None:
    if database["ENGINE"].endswith("sqlite3"):
        return  # one writer at a time
    server = smtp_server()
    site = make_site(server=options(server))
    run(
        site,
        """
        import threading
        from django.core.mail import send_mail
        from django.db import connection, transaction
        stored, done = threading.Event(), threading.Event()
        def first():
            with transaction.atomic():
                send_mail("Hello", "Text", None, ["first@example.com"])
                stored.set()
                done.wait()
            connection.close()
        thread = threading.Thread(target=first)
        thread.start()
        stored.wait()
        send_mail("Hello", "Text", None, ["second@example.com"])
        done.set()
        thread.join()
        """,
    )
    assert arrived(server) == ["first@example.com", "second@example.com"]
