"""The example site under gunicorn and under load, while its mail server is restarted."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import pytest

from smtpbackend import Status
from tests.processes.conftest import Two
from tests.processes.ledger import counted, disagreements
from tests.processes.sockets import children, held, towards
from tests.servers.ports import answers, free_ports, wait_until

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "examples" / "django_site"
HOST = "127.0.0.1"
FORM = "/accounts/password_reset/"

CLIENTS = 8
EACH = 50
RESTARTS = ("stop", "kill", "stop")
MAX_REQUESTS = 80  # of one worker, see site/gunicorn_conf.py
DOWN = 30  # answers that are given before the server is back


class Site:
    """The site as gunicorn serves it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, record: Path, log: Path) -> None:
        self.master = process.pid
        self.port = port
        self._process = process
        self._record = record
        self._log = log

    @property
    def log(self) -> str:
        """What gunicorn and the site have logged."""
        return self._log.read_text()

    @property
    def record(self) -> list[list[str]]:
        """What became of each mail: recipient, status, queue id and the process that sent it."""
        return [line.split() for line in self._record.read_text().splitlines()]

    def stop(self) -> int:
        """Let it come to its end; its exit code."""
        self._process.terminate()
        return self._process.wait(120)


@pytest.fixture
def site(mortal_postfixes: Two, tmp_path: Path) -> Iterator[Site]:
    """The example site, with a user for each request, at one of the mail servers."""
    postfix, _ = mortal_postfixes
    users = [
        {
            "model": "auth.user",
            "fields": {"username": f"user{number}", "email": f"user{number}@example.com", "password": "usable"},
        }
        for number in range(CLIENTS * EACH)
    ]
    (tmp_path / "users.json").write_text(json.dumps(users))
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.processes.site.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(SITE)]),
        "DATABASE": str(tmp_path / "db.sqlite3"),
        "RECORD": str(tmp_path / "record"),
        "SMTP_HOST": postfix.host,
        "SMTP_PORT": str(postfix.plain_port),
    }
    for command in (["migrate", "--verbosity=0"], ["loaddata", "--verbosity=0", tmp_path / "users.json"]):
        subprocess.run([sys.executable, "manage.py", *command], cwd=SITE, env=environment, check=True)
    (port,) = free_ports(1)
    log = tmp_path / "gunicorn.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "--config", ROOT / "tests/processes/site/gunicorn_conf.py"),
                *("--bind", f"{HOST}:{port}", "django.core.wsgi:get_wsgi_application()"),
            ],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        site = Site(process, port, tmp_path / "record", log)
        try:
            assert wait_until(lambda: process.poll() is not None or answers(HOST, port), 120), site.log
            assert process.poll() is None, site.log
            yield site
        finally:
            process.terminate()


class Answer(NamedTuple):
    status: int
    headers: Message
    body: bytes


def ask(port: int, method: str, body: str | None = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    with closing(http.client.HTTPConnection(HOST, port, timeout=120)) as connection:
        connection.request(method, FORM, body, {"Connection": "close", **headers})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())


def reset_passwords(port: int, users: range, answered: dict[str, int]) -> None:
    """Ask for a new password for each user, as a browser that has the form does."""
    form = ask(port, "GET")
    cookie = re.search(r"csrftoken=\w+", form.headers["Set-Cookie"])
    token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', form.body)
    assert cookie is not None
    assert token is not None
    for number in users:
        address = f"user{number}@example.com"
        body = urlencode({"email": address, "csrfmiddlewaretoken": token[1].decode()})
        sent = {"Cookie": cookie[0], "Content-Type": "application/x-www-form-urlencoded"}
        answered[address] = ask(port, "POST", body, **sent).status


def at_the_server(pid: int, port: int) -> set[str]:
    """The connections to the mail server that a process holds."""
    return held(pid) & towards(port)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_under_load_while_its_mail_server_is_restarted(site: Site, mortal_postfixes: Two) -> None:
    """Every request is answered; every mail is there exactly once, or said to be not sent, or in doubt."""
    postfix, _ = mortal_postfixes
    assert at_the_server(site.master, postfix.plain_port), "the master's connection is not open"
    for worker in children(site.master):
        # one is born with a copy of everything, and closes it before it does anything else
        is_without = wait_until(lambda worker=worker: not at_the_server(worker, postfix.plain_port), 10)
        assert is_without, "a worker was born with a connection, and keeps it"

    answered: dict[str, int] = {}
    cut_before = postfix.cut_connections
    clients = [
        threading.Thread(target=reset_passwords, args=(site.port, range(n * EACH, (n + 1) * EACH), answered))
        for n in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    for number, how in enumerate(RESTARTS, 1):
        first = number * CLIENTS * EACH // (len(RESTARTS) + 1)
        assert wait_until(lambda first=first: len(answered) >= first, 60)
        getattr(postfix, how)()
        assert wait_until(lambda first=first: len(answered) >= first + DOWN, 60)
        postfix.start()
    for client in clients:
        client.join(200)
        assert not client.is_alive(), "a request is not answered"
    assert site.stop() == 0, site.log

    assert Counter(answered.values()) == {302: CLIENTS * EACH}, site.log
    said = {address: Status[status] for address, status, _, _ in site.record}
    told = counted(said)
    assert len(site.record) == len(said) == CLIENTS * EACH + 1, told
    there: defaultdict[str, set[str]] = defaultdict(set)  # a copy has a queue id
    for mail in postfix.mail():
        there[mail.delivered_to].add(mail.queue_id)
    assert disagreements(said, there) == [], told
    for address, status, queue_id, _ in site.record:
        assert status != "ACCEPTED" or there[address] == {queue_id}

    in_doubt = [address for address, status in said.items() if status is Status.IN_DOUBT]
    assert len(in_doubt) <= postfix.cut_connections - cut_before, told
    senders = {int(pid) for *_, pid in site.record}
    assert site.master in senders
    assert len(senders) > CLIENTS * EACH // MAX_REQUESTS, "no worker was born under load"
