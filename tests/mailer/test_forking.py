"""Nothing that is done `unforked` is cut in two by a fork; and what OpenSSL does for us is."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from smtpbackend import forking
from smtpbackend.forking import unforked
from smtpbackend.testing import Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no process forks here"),
    # Python 3.12 on: that is what is tested
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]


def fork() -> int:
    """Fork a child that enters `unforked`; how that ended."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        with unforked:
            os._exit(0)
    finally:
        os._exit(1)


@contextmanager
def inside() -> Iterator[threading.Event]:
    """A thread that is inside until the event is set."""
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with unforked, unforked:
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(20)
    try:
        yield leave
    finally:
        leave.set()
        thread.join()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "PATIENCE", 20.0)


def test_a_fork_waits_for_who_is_inside() -> None:
    done: list[str] = []
    with inside() as leave:
        forking_thread = threading.Thread(target=lambda: done.append(f"forked {fork()}"))
        forking_thread.start()
        assert wait_until(lambda: unforked.forking is not None, 20)
        done.append("left")
        leave.set()
        forking_thread.join()
    assert done == ["left", "forked 0"]


def test_who_comes_later_waits_for_the_fork() -> None:
    with inside() as leave:
        forking_thread = threading.Thread(target=fork)
        forking_thread.start()
        assert wait_until(lambda: unforked.forking is not None, 20)
        order: list[str] = []

        def enter() -> None:
            with unforked:
                order.append("entered")

        other = threading.Thread(target=enter)
        other.start()
        order.append("left")
        leave.set()
        for thread in (forking_thread, other):
            thread.join()
        assert order == ["left", "entered"]


def test_who_forks_inside_waits_for_the_others_only() -> None:
    with unforked:
        assert fork() == 0
    assert not unforked.inside


def test_the_child_leaves_what_it_was_forked_in() -> None:
    unforked.__enter__()
    if child := os.fork():
        unforked.__exit__()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return
    try:
        unforked.__exit__()
        os._exit(1 if unforked.inside else 0)
    finally:
        os._exit(2)


def test_what_is_collected_during_a_fork_may_be_closed() -> None:
    """And whoever is called before a fork may close a mailer: the thread that forks does not wait for itself."""
    entered: list[bool] = []

    def close() -> None:
        with unforked:
            entered.append(unforked.forking == threading.get_ident())

    unforked.before_fork()
    try:
        close()
    finally:
        unforked.after_fork()
    assert entered == [True]
    assert not unforked.inside


def test_two_forks_at_once() -> None:
    codes: list[int] = []
    with inside() as leave:
        threads = [threading.Thread(target=lambda: codes.append(fork())) for _ in range(5)]
        for thread in threads:
            thread.start()
        assert wait_until(lambda: unforked.forking is not None, 20)
        leave.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 5


def test_nobody_makes_a_fork_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor a second one, where an interrupt kept a thread from leaving."""
    monkeypatch.setattr(forking, "PATIENCE", 0.01)
    with inside():
        assert fork() == 0
        monkeypatch.setattr(forking, "PATIENCE", 20.0)
        assert not unforked.inside
        assert fork() == 0
    assert not unforked.inside


@pytest.mark.parametrize("tls", ["required", "implicit"])
def test_openssl_is_not_cut_in_two(twin: Twin, scripted: Scripted, ca: Certificates, tls: str) -> None:
    """It holds locks in handshakes, and where tickets are read: the child of a fork would wait for them for ever."""
    extensions = ("PIPELINING",) if tls == "implicit" else ("PIPELINING", "STARTTLS")
    server = scripted(Play(extensions=extensions, implicit_tls=tls == "implicit"), certificate="server")
    mailer = twin(f"smtp://127.0.0.1:{server.port}", tls=tls, ca_file=str(ca.ca_file))
    seen: dict[str, bool] = {}

    def watch(frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call" and type(getattr(what, "__self__", None)).__name__ == "_SSLSocket":
            name = what.__name__
            seen[name] = seen.get(name, True) and threading.get_ident() in unforked.inside

    sys.setprofile(watch)
    try:
        assert mailer.send(hello()).ok
        assert mailer.send(hello()).ok
    finally:
        sys.setprofile(None)
    assert seen["do_handshake"]
    assert seen["read"]
