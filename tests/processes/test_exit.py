"""The end of a program: connections are closed with QUIT, and nobody waits long for it."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from smtpbackend.testing import CUT, SILENCE
from tests.mailer.conftest import Scripted
from tests.processes.script import run, running
from tests.servers.ports import wait_until

SEND = {
    "blocking": """
        mailer = Mailer(sys.argv[1])
        mailer.send(hello())
        """,
    "asyncio": """
        mailer = AsyncMailer(sys.argv[1])

        async def main():
            await mailer.send(hello())

        asyncio.run(main())
        """,
}

TEN_AT_ONCE = """
    mailers = [Mailer(url, timeout=20, max_connections=10) for url in sys.argv[1:]]
    everybody = threading.Barrier(10 * len(mailers))

    def send(mailer):
        def messages():
            yield hello()
            everybody.wait()  # so that each has a connection of its own
        for receipt in mailer.send_many(messages()):
            assert receipt.ok

    threads = [threading.Thread(target=send, args=(mailer,)) for mailer in mailers for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("sent")
    """


@pytest.mark.parametrize("kind", SEND)
def test_a_script_that_ends_says_quit(scripted: Scripted, tmp_path: Path, kind: str) -> None:
    """Nobody has closed the mailer."""
    server = scripted()
    assert run(tmp_path, SEND[kind], server.url) == ""
    server.wait_for_end()
    assert server.speakers[0].verbs[-2:] == ["DATA", "QUIT"]


@pytest.mark.parametrize("kind", SEND)
def test_a_mail_at_the_end_reaches_a_server_that_is_named(scripted: Scripted, tmp_path: Path, kind: str) -> None:
    """Its name is looked up in a thread, and from Python 3.12 on none can be started any more."""
    server = scripted()
    make, send = textwrap.dedent(SEND[kind]).strip().split("\n", 1)
    source = f"{make}\ndef at_end():\n{textwrap.indent(send, '    ')}\nimport atexit\natexit.register(at_end)"
    assert run(tmp_path, source, server.url.replace("127.0.0.1", "localhost")) == ""
    assert len(server.taken) == 1


@pytest.mark.parametrize(("ending", "code"), [("raise SystemExit(3)", 3), ("1 / 0", 1)])
def test_a_script_that_fails_says_quit(scripted: Scripted, tmp_path: Path, ending: str, code: int) -> None:
    server = scripted()
    run(tmp_path, f"mailer = Mailer(sys.argv[1])\nmailer.send(hello())\n{ending}", server.url, code=code)
    server.wait_for_end()
    assert server.speakers[0].verbs[-1] == "QUIT"


def test_a_mailer_that_is_forgotten_says_quit(scripted: Scripted, tmp_path: Path) -> None:
    """Also one that nobody can reach any more, and before the end of the program."""
    server = scripted()
    source = "Mailer(sys.argv[1]).send(hello())\ngc.collect()\nprint('forgotten')\nsys.stdin.readline()"
    with running(tmp_path, source, server.url) as script:
        assert script.read() == "forgotten"
        server.wait_for_end()
        assert server.speakers[0].verbs[-1] == "QUIT"
        script.write()
        assert script.end() == ""


@pytest.mark.parametrize("closing", ["", "for mailer in mailers: mailer.close()"], ids=["exit", "close"])
def test_servers_that_do_not_answer_quit_are_not_waited_for_one_by_one(
    scripted: Scripted, tmp_path: Path, closing: str
) -> None:
    """Ten connections to each of two servers: about one second for each mailer, and not for each connection."""
    servers = [scripted({"QUIT": SILENCE}) for _ in range(2)]
    source = f"{TEN_AT_ONCE}\n    {closing}\n"
    with running(tmp_path, source, *(server.url for server in servers)) as script:
        assert script.read() == "sent"
        start = time.monotonic()
        assert script.end() == ""
        assert time.monotonic() - start < 10
    for server in servers:
        server.wait_for_end()
        assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"] * 10


@pytest.mark.parametrize("answer", [CUT, "421 4.3.2 not now", b"\xff\xfe\n", ("221 bye", b"and more\r\n")])
@pytest.mark.parametrize("kind", SEND)
def test_whatever_is_said_to_quit_is_not_told(scripted: Scripted, tmp_path: Path, kind: str, answer: object) -> None:
    server = scripted({"QUIT": answer})
    assert run(tmp_path, SEND[kind], server.url) == ""
    server.wait_for_end()


def test_a_server_that_is_gone_at_the_end_is_not_told(scripted: Scripted, tmp_path: Path) -> None:
    server = scripted()
    source = SEND["blocking"] + "\n        print('sent')\n        sys.stdin.readline()\n"
    with running(tmp_path, source, server.url) as script:
        assert script.read() == "sent"
        server.cut()
        script.write()
        assert script.end() == ""


def test_a_delivery_that_hangs_in_a_daemon_thread_does_not_keep_the_program(scripted: Scripted, tmp_path: Path) -> None:
    """The thread ends with the program, in the middle of its wait; the idle connection still gets its QUIT."""
    server = scripted({}, {".": SILENCE})
    source = """
        mailer = Mailer(sys.argv[1])
        stream = mailer.send_many([hello(), hello()])
        next(stream)                                        # holds the first connection
        threading.Thread(target=mailer.send, args=(hello(),), daemon=True).start()
        sys.stdin.readline()
        for receipt in stream:
            assert receipt.ok
        """
    with running(tmp_path, source, server.url) as script:
        while len(server.handed_over) < 2:
            time.sleep(0.01)
        script.write()
        assert script.end() == ""
    server.wait_for_end()
    assert server.speakers[0].verbs[-1] == "QUIT"
    assert "QUIT" not in server.speakers[1].verbs


CHILDREN = """
mailer = Mailer(sys.argv[1], timeout=20)

def work(number):
    mailer.send(hello(f"{os.getpid()} {number}"))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    work(0)
    child = context.Process(target=work, args=(1,))
    child.start()
    child.join()
    with context.Pool(2) as pool:
        pool.map(work, range(20))
        pool.close()
        pool.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_says_quit(scripted: Scripted, tmp_path: Path, method: str) -> None:
    """It ends by `os._exit`, without what `atexit` has; in a process and in a pool."""
    server = scripted()
    assert run(tmp_path, CHILDREN, server.url, method) == ""
    server.wait_for_end()
    assert server.connections >= 3
    assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"] * server.connections
    assert len(server.handed_over) == 22


def test_a_child_that_is_not_answered_ends_all_the_same(scripted: Scripted, tmp_path: Path) -> None:
    server = scripted({"QUIT": SILENCE})
    source = CHILDREN.replace("work(0)", "begun = time.monotonic()").partition("    with context")[0]
    assert run(tmp_path, source + "    assert time.monotonic() - begun < 10\n", server.url, "fork") == ""
    server.wait_for_end()
    assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"]


def test_a_child_of_billiard_says_quit(scripted: Scripted, tmp_path: Path) -> None:
    """The processes of Celery's fork of multiprocessing."""
    pytest.importorskip("billiard")
    server = scripted()
    source = CHILDREN.replace("multiprocessing.get_context", "billiard.get_context").partition("    with context")[0]
    assert run(tmp_path, "import billiard\n" + source, server.url, "fork") == ""
    server.wait_for_end()
    assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"] * 2


def test_a_child_of_a_celery_worker_says_quit(scripted: Scripted, tmp_path: Path) -> None:
    """It ends by `os._exit` without the finalizers, but with a signal: here after two tasks, and with the worker."""
    pytest.importorskip("celery")
    server = scripted()
    source = """
        from celery import Celery
        from pathlib import Path
        url, folder = sys.argv[1:3]
        app = Celery("script", broker="filesystem://")
        folders = ("data_folder_in", "data_folder_out", "control_folder")
        app.conf.broker_transport_options = dict.fromkeys(folders, folder)
        app.conf.worker_max_tasks_per_child = 2
        mailer = Mailer(url, timeout=20)

        @app.task(name="work")
        def work(number):
            mailer.send(hello(str(number)))

        for number in range(3):
            work.delay(number)
        app.worker_main(["worker", "--concurrency=1", "--loglevel=critical", "--without-mingle", "--without-gossip"])
        """
    (tmp_path / "queue").mkdir()
    with running(tmp_path, source, server.url, tmp_path / "queue") as script:
        assert wait_until(lambda: len(server.handed_over) == 3, 30)
        os.kill(script.pid, signal.SIGTERM)
        script.end()
    server.wait_for_end()
    assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"] * 2


def test_a_server_of_uvicorn_says_quit(scripted: Scripted, tmp_path: Path) -> None:
    """After its shutdown it sends itself the signal that it was sent, with what that does by default."""
    pytest.importorskip("uvicorn")
    server = scripted()
    source = """
        import uvicorn
        mailer = Mailer(sys.argv[1], timeout=20)

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                mailer.send(hello())
                await send({"type": "lifespan.startup.complete"})
                await receive()
                mailer.send(hello("Still at work"))
                await send({"type": "lifespan.shutdown.complete"})

        uvicorn.run(app, port=0, lifespan="on", log_level="critical")
        """
    with running(tmp_path, source, server.url) as script:
        assert wait_until(lambda: len(server.handed_over) == 1, 60)
        os.kill(script.pid, signal.SIGTERM)
        assert script.end(-signal.SIGTERM) == ""
    server.wait_for_end()
    assert len(server.handed_over) == 2
    assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"]


def test_what_raises_as_a_child_ends_keeps_no_other_from_its_end(scripted: Scripted, tmp_path: Path) -> None:
    """That of an adapter comes before the connections, whichever was told first."""
    server = scripted()
    source = """
        import multiprocessing
        from smtpbackend.adapters import at_end_of_process

        mailer = Mailer(sys.argv[1], timeout=20)

        def fail():
            mailer.send(hello("Before the connections"))
            raise RuntimeError("fails as the child ends")

        def work():
            mailer.send(hello())
            at_end_of_process(fail)

        if __name__ == "__main__":
            child = multiprocessing.get_context("fork").Process(target=work)
            child.start()
            child.join()
        """
    with running(tmp_path, source, server.url) as script:
        assert "fails as the child ends" in script.end()
    server.wait_for_end()
    assert len(server.handed_over) == 2
    assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"]
