"""Programs under eventlet, gevent, uvloop and uWSGI send."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import sysconfig
import textwrap
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from smtpbackend.testing import Play, ScriptedServer, delay
from tests.mailer.conftest import Scripted
from tests.servers.ports import answers, free_ports, wait_until
from tests.servers.tls import Certificates

ROOT = Path(__file__).parents[2]
UWSGI = Path(sysconfig.get_path("scripts"), "uwsgi")
CONTENT = "x" * 300_000  # more than a socket takes at once


def needs(library: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is not installed on this Python")


def run(folder: Path, source: str, *arguments: object) -> list[str]:
    """Run a program to its end; the lines that it printed."""
    path = folder / "program.py"
    path.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", path, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def started(scripted: Scripted, ca: Certificates, tls: str) -> tuple[ScriptedServer, str]:
    """A server that takes long over the first content of each connection, and its URL with this setting of ``tls``."""
    answers = {".": [(delay(0.5), "250 ok"), "250 ok"]}
    server = scripted(Play(answers, extensions=("PIPELINING", "STARTTLS")), certificate="server")
    return server, f"smtp://localhost:{server.port}?tls={tls}&ca_file={ca.ca_file}&timeout=20"


PATCH = {
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "gevent": "from gevent import monkey; monkey.patch_all()",
}
SEND = """
from smtpbackend import Mailer, Message
{patch}
import sys, threading

ticks = 0

def tick():
    global ticks
    while not over.is_set():
        ticks += 1
        over.wait(0.01)

def send(number):
    receipts.append(mailer.send(Message(f"s {{number}}", "ann@example.org", "bob@example.com", text="{content}")))

receipts, over = [], threading.Event()
with Mailer(sys.argv[1]) as mailer:
    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    ticking = threading.Thread(target=tick)
    for thread in (ticking, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    more = [Message(f"m {{number}}", "ann@example.org", "bob@example.com", text="x") for number in range(10)]
    receipts += mailer.send_many(more, connections=2)
    print(len(receipts), all(receipt.ok for receipt in receipts), ticks > 10)
"""


@pytest.mark.parametrize("tls", ["none", "required"])
@pytest.mark.parametrize("when", ["patched first", "patched later"])
@pytest.mark.parametrize("library", [pytest.param(name, marks=needs(name)) for name in PATCH])
def test_green_threads(scripted: Scripted, ca: Certificates, tmp_path: Path, library: str, when: str, tls: str) -> None:
    """All send at once and hold up no other thread: one goes on while the server takes half a second for a reply."""
    server, url = started(scripted, ca, tls)
    source = SEND.format(patch=PATCH[library], content=CONTENT)
    if when == "patched first":
        source = f"{PATCH[library]}\n{source}"
    assert run(tmp_path, source, url) == ["16 True True"]
    assert len(server.handed_over) == 16
    assert server.connections <= 4


@needs("uvloop")
@pytest.mark.parametrize("tls", ["none", "required"])
def test_uvloop(scripted: Scripted, ca: Certificates, tmp_path: Path, tls: str) -> None:
    source = f"""
        import asyncio, sys, uvloop
        from smtpbackend import AsyncMailer, Message

        def hello(number):
            return Message(f"{{number}}", "ann@example.org", "bob@example.com", text="{CONTENT}")

        async def main():
            assert type(asyncio.get_running_loop()).__module__.startswith("uvloop")
            async with AsyncMailer(sys.argv[1]) as mailer:
                receipts = await asyncio.gather(*(mailer.send(hello(number)) for number in range(6)))
                receipts += [one async for one in mailer.send_many(map(hello, range(10)), connections=2)]
            print(len(receipts), all(receipt.ok for receipt in receipts))

        uvloop.run(main())
    """
    server, url = started(scripted, ca, tls)
    assert run(tmp_path, source, url) == ["16 True"]
    assert len(server.handed_over) == 16


APPLICATION = """
import os
import threading
from smtpbackend import Mailer, Message

mailer = Mailer(os.environ["MAIL"])

def send(who):
    return mailer.send(Message(f"{who} {os.getpid()}", "ann@example.org", "bob@example.com", text="x"))

send("loaded")
threads = threading.active_count()

def application(environ, start_response):
    receipt = send("request")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{receipt.ok} {mailer.stats().sent} {threads}".encode()]
"""


@pytest.mark.skipif(
    not UWSGI.exists() and os.environ.get("SMTPBACKEND_REQUIRE_SERVERS") != "1",
    reason="uWSGI is not installed: pip install --group uwsgi",
)
@pytest.mark.parametrize("tls", ["none", "required"])
def test_uwsgi(scripted: Scripted, ca: Certificates, tmp_path: Path, tls: str) -> None:
    """Its master forks without telling Python: a worker speaks on no connection of its own master all the same.

    Nor has the master a thread at that moment, which could keep a worker from running Python at all.
    """
    server, url = started(scripted, ca, tls)
    (port,) = free_ports(1)
    (tmp_path / "application.py").write_text(APPLICATION)
    log = tmp_path / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [UWSGI, "--http-socket", f"127.0.0.1:{port}", "--master", "--wsgi-file", "application.py", "--die-on-term"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MAIL": url},
            stdout=out,
            stderr=out,
        ) as process,
    ):
        try:
            assert wait_until(lambda: answers("127.0.0.1", port), 60), log.read_text()
            for number in (1, 2):
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as http_connection:
                    http_connection.request("GET", "/")
                    assert http_connection.getresponse().read().decode() == f"True {number} 1", log.read_text()
        finally:
            process.terminate()
            process.wait(60)
    assert server.connections == 2  # of the master, and of its one worker
    assert len(server.handed_over) == 3
