"""The thread that looks at idle connections, beside forks and at the end of a program."""

from __future__ import annotations

import time
from pathlib import Path

from tests.mailer.conftest import Scripted
from tests.processes.script import run, running
from tests.servers.ports import wait_until

WATCHING = """
def watching():
    return [thread for thread in threading.enumerate() if thread.name == "smtpbackend-idle"]
"""


def test_a_fork_finds_no_such_thread_and_parent_and_child_have_one_of_their_own(
    scripted: Scripted, tmp_path: Path
) -> None:
    """It ends before the fork, else Python 3.12 would warn of it; and each process closes what is idle in it."""
    server = scripted()
    source = (
        WATCHING
        + """
warnings.simplefilter("error")
alone = []
os.register_at_fork(before=lambda: alone.append(threading.active_count() == 1))  # runs behind ours
mailer = Mailer(sys.argv[1], max_idle=0.5)
mailer.send(hello("of the parent"))
assert len(watching()) == 1
child = os.fork()
if not child:
    signal.alarm(25)
    assert not watching()
mailer.send(hello("of both"))
while mailer.stats().open:
    time.sleep(0.01)
if child:
    assert alone == [True]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    )
    assert run(tmp_path, source, server.url) == ""
    server.wait_for_end()
    assert [speaker.verbs[-1] for speaker in server.speakers] == ["QUIT"] * server.connections
    assert server.connections >= 2


def test_what_was_idle_before_a_fork_is_closed_in_time_behind_it(scripted: Scripted, tmp_path: Path) -> None:
    """In the parent, which sends nothing more."""
    server = scripted()
    source = """
        mailer = Mailer(sys.argv[1], max_idle=0.5)
        mailer.send(hello())
        if not os.fork():
            os._exit(0)
        while mailer.stats().open:
            time.sleep(0.01)
        print("closed")
        sys.stdin.readline()
        """
    with running(tmp_path, source, server.url) as script:
        assert script.read() == "closed"
        assert wait_until(lambda: not server.open_connections, 20)
        assert server.speakers[0].verbs[-1] == "QUIT"
        script.write()
        assert script.end() == ""


def test_it_does_not_keep_a_program_from_its_end(scripted: Scripted, tmp_path: Path) -> None:
    """Which says QUIT to what is idle long before its time, and tells nobody of a mailer that was not closed."""
    server = scripted()
    source = """
        warnings.simplefilter("error")
        mailer = Mailer(sys.argv[1], max_idle=3600)
        mailer.send(hello())
        print("sent")
        sys.stdin.readline()
        """
    with running(tmp_path, source, server.url) as script:
        assert script.read() == "sent"
        start = time.monotonic()
        script.write()
        assert script.end() == ""
        assert time.monotonic() - start < 20
    server.wait_for_end()
    assert server.speakers[0].verbs[-1] == "QUIT"


def test_what_is_sent_as_the_program_ends_starts_none(scripted: Scripted, tmp_path: Path) -> None:
    """By a function of `atexit` that runs behind ours: Python 3.12 starts no thread then."""
    server = scripted()
    source = (
        WATCHING
        + """
def last():
    assert mailer.send(hello("the last")).ok
    assert not watching()
    print("sent")

atexit.register(last)
mailer = Mailer(sys.argv[1])  # which registers its own, to be called first
mailer.send(hello())
"""
    )
    with running(tmp_path, source, server.url) as script:
        assert script.read() == "sent"
        assert script.end() == ""
    server.wait_for_end()
    assert len(server.handed_over) == 2
