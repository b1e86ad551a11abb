"""Replies that take longer than a read waits by itself, come in parts, or never come."""

from __future__ import annotations

import socket

import pytest

from smtpbackend.errors import InDoubt, TimedOut
from smtpbackend.testing import EXTENSIONS, SILENCE, Play, delay
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello

IN_RECV = 0.02


@pytest.fixture(params=["recv waits", "recv does not wait"], autouse=True)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is on Linux, and as it is where a socket takes no SO_RCVTIMEO of ours."""
    monkeypatch.setattr("smtpbackend.blocking.wire.IN_RECV", IN_RECV)
    if request.param == "recv does not wait":
        monkeypatch.setattr(socket, "SO_RCVTIMEO", 9999)


@pytest.mark.parametrize("extensions", [(), EXTENSIONS, (*EXTENSIONS, "CHUNKING")], ids=["lock step", "DATA", "BDAT"])
def test_late(twin: Twin, scripted: Scripted, extensions: tuple[str, ...]) -> None:
    late = (delay(IN_RECV * 3), b"250 2.0.0 ", delay(IN_RECV * 3), b"ok\r\n")
    server = scripted(Play({"MAIL": late, ".": late}, extensions))
    mailer = twin(server.url, chunk_in_flight="probe")
    assert mailer.send(hello()).ok
    assert all(receipt.ok for receipt in mailer.send_many([hello()] * 2))
    assert len(server.taken) == 3
    assert server.connections == 1


@pytest.mark.parametrize("path", ["tcp", *(["unix"] if hasattr(socket, "AF_UNIX") else [])])
def test_in_octets(twin: Twin, scripted: Scripted, tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    """Acknowledging each costs nothing that is missed where nothing is acknowledged."""
    options = {"path": str(tmp_path_factory.mktemp("s") / "s")} if path == "unix" else {}
    server = scripted(Play(split=True), **options)
    assert all(receipt.ok for receipt in twin(server.url, chunk_in_flight="probe").send_many([hello()] * 3))


def test_never(twin: Twin, scripted: Scripted) -> None:
    """The time-out is that of the reply, whatever a read waits by itself."""
    silent = scripted(Play({"MAIL": SILENCE}))
    with pytest.raises(TimedOut):
        twin(silent.url, timeout=IN_RECV * 5).send(hello())
    silent = scripted(Play({".": SILENCE}))
    with pytest.raises(InDoubt):
        twin(silent.url, timeout=IN_RECV * 10).send(hello())
