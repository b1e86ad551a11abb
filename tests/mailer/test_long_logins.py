"""A login that takes long to compute: no event loop stands still for it, and no deadline is missed."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpbackend.errors import AuthenticationFailed, TimedOut
from smtpbackend.sasl import Credentials, Exchange, Long, Mechanism, Refused, register, unregister
from smtpbackend.testing import Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import PATIENCE, AsyncioTwin, Twin, hello

SLOW = Play(extensions=("AUTH X-SLOW",))
LOGIN = {"username": "ann", "password": "pencil", "auth_mechanisms": ("X-SLOW",)}


@pytest.fixture
def slow() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Make X-SLOW known, a mechanism that does this when it is asked."""

    def make(do: Callable[[], Any]) -> None:
        def exchange(credentials: Credentials) -> Exchange:
            yield None
            yield (yield Long(do))

        register(Mechanism("X-SLOW", exchange, in_clear=False))

    yield make
    unregister("X-SLOW")


def test_the_event_loop_goes_on_meanwhile(scripted: Scripted, slow: Callable[[Callable[[], Any]], None]) -> None:
    twin = AsyncioTwin()
    has_turned = threading.Event()
    loop = twin.runner.get_loop()

    def do() -> bytes:
        loop.call_soon_threadsafe(has_turned.set)
        assert has_turned.wait(PATIENCE), "the loop stands still"
        return b"y"

    slow(do)
    try:
        assert twin(scripted(SLOW).url, **LOGIN).send(hello()).ok
    finally:
        twin.close()


def test_it_is_done_by_both(twin: Twin, scripted: Scripted, slow: Callable[[Callable[[], Any]], None]) -> None:
    slow(lambda: b"y")
    server = scripted(SLOW)
    assert twin(server.url, **LOGIN).send(hello()).ok
    assert server.commands[1:3] == ["AUTH X-SLOW", "eQ=="]


def test_what_it_raises_is_the_mechanisms_own(
    twin: Twin, scripted: Scripted, slow: Callable[[Callable[[], Any]], None]
) -> None:
    def refuse() -> bytes:
        raise Refused("not this server")

    slow(refuse)
    with pytest.raises(AuthenticationFailed, match="X-SLOW: not this server"):
        twin(scripted(SLOW).url, **LOGIN).send(hello())


def test_the_deadline_passes_meanwhile(
    twin: Twin, scripted: Scripted, slow: Callable[[Callable[[], Any]], None]
) -> None:
    is_over = threading.Event()
    deadline = 1.5

    def do() -> bytes:
        if isinstance(twin, AsyncioTwin):
            assert is_over.wait(PATIENCE), "the send waits for it"
        else:
            time.sleep(deadline)
        return b"y"

    slow(do)
    server = scripted(SLOW)
    with pytest.raises(TimedOut, match=r"deadline of 1\.5 s"):
        twin(server.url, deadline=deadline, **LOGIN).send(hello())
    is_over.set()
    assert server.commands[-1] == "AUTH X-SLOW"


def scram(iterations: int) -> Play:
    def challenge(line: str) -> str:
        nonce = base64.b64decode(line.split()[2]).decode().partition("r=")[2]
        first = f"r={nonce}xyz,s={base64.b64encode(b'salt1234salt1234').decode()},i={iterations}"
        return f"334 {base64.b64encode(first.encode()).decode()}"

    return Play({"AUTH SCRAM": challenge}, extensions=("AUTH SCRAM-SHA-256",))


@pytest.mark.parametrize("iterations", [600_001, 9_999_999])
def test_a_server_that_asks_for_too_many_iterations_gets_none(
    twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, iterations: int
) -> None:
    hashed: list[int] = []
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", lambda name, password, salt, count: hashed.append(count))
    with pytest.raises(AuthenticationFailed, match=r"asks for [0-9,]+ iterations; from 4,096 to 600,000 are allowed"):
        twin(scripted(scram(iterations)).url, username="ann", password="pencil").send(hello())
    assert not hashed


def test_scram_is_hashed_beside_the_loop(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = AsyncioTwin()
    threads: list[threading.Thread] = []
    derive = hashlib.pbkdf2_hmac

    def note(*args: Any) -> bytes:
        threads.append(threading.current_thread())
        return derive(*args)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", note)
    try:
        with pytest.raises(AuthenticationFailed):
            twin(scripted(scram(4096)).url, username="ann", password="pencil").send(hello())
    finally:
        twin.close()
    assert threads
    assert threading.main_thread() not in threads
