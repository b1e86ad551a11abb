"""SMTP over a unix socket, and from a source address."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from smtpbackend.delivery.server import from_url
from smtpbackend.errors import ConnectFailed, TLSFailed
from smtpbackend.testing import Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no unix sockets here")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "mail sock")


def url_of(path: str, query: str = "") -> str:
    return f"smtp+unix://{path.replace(' ', '%20')}{query}"


def test_mail_leaves_over_a_unix_socket(twin: Twin, scripted: Scripted, path: str) -> None:
    server = scripted(Play(), path=path)
    mailer = twin(url_of(path))
    receipts = mailer.send_many([hello(), hello()])
    assert [receipt.server for receipt in receipts] == [f"unix:{path}"] * 2
    assert server.connections == 1
    assert len(server.handed_over) == 2


def test_its_peer_is_near(twin: Twin, scripted: Scripted, path: str) -> None:
    """DESIGN 4.6, 4.7: opportunistic by default, goes on in clear, and a password may pass."""
    server = scripted(Play(extensions=("AUTH PLAIN",)), path=path)
    twin(url_of(path), username="ann", password="secret").send(hello())
    assert "AUTH PLAIN AGFubgBzZWNyZXQ=" in server.commands
    assert from_url(url_of(path)).tls == "opportunistic"


def test_tls_is_verified_by_the_host_that_is_given_beside_it(
    twin: Twin, scripted: Scripted, path: str, ca: Certificates
) -> None:
    scripted(Play(extensions=("STARTTLS",)), path=path, certificate="server")
    for host, fails in (("localhost", False), ("mx.example.com", True)):
        mailer = twin(url_of(path, f"?tls=required&host={host}"), ca_file=str(ca.ca_file))
        if fails:
            with pytest.raises(TLSFailed, match="not trusted"):
                mailer.send(hello())
        else:
            mailer.send(hello())


def test_nobody_listens_there(twin: Twin, path: str) -> None:
    with pytest.raises(ConnectFailed, match=r"cannot connect to unix:.*No such file.*may write to the socket"):
        twin(url_of(path)).send(hello())


def test_a_backlog_that_is_full_is_waited_for(twin: Twin, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says "not now" at once, where it would let a connect that waits wait."""
    full: list[socket.socket] = []
    make = socket.socket
    refused: list[int] = []

    class Noted(make):  # type: ignore[valid-type, misc]
        """Once it was told "not now", what fills the backlog goes away."""

        def connect(self, address: Any) -> None:
            try:
                super().connect(address)
            except OSError as error:
                refused.append(error.errno or 0)
                for caller in full:
                    caller.close()
                    listening.accept()[0].close()
                full.clear()
                raise

    with make(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        while not refused:
            full.append(make(socket.AF_UNIX))
            full[-1].setblocking(False)
            if code := full[-1].connect_ex(path):
                refused.append(code)
        full.pop().close()
        monkeypatch.setattr(socket, "socket", Noted)

        def greet() -> None:
            with listening.accept()[0] as caller:
                caller.sendall(b"554 5.3.2 not today\r\n")
                caller.recv(100)

        refused.clear()
        mailer = twin(url_of(path))
        thread = threading.Thread(target=lambda: wait_until(lambda: bool(refused) and not full, 20) and greet())
        thread.start()
        with pytest.raises(ConnectFailed, match="not today"):
            mailer.send(hello())
        thread.join()
        assert refused == [errno.EAGAIN]


def test_a_path_that_is_too_long(twin: Twin) -> None:
    with pytest.raises(ConnectFailed, match="path too long"):
        twin(f"smtp+unix:///tmp/{'x' * 200}").send(hello())


def test_a_server_that_closes_is_left(twin: Twin, scripted: Scripted, path: str) -> None:
    server = scripted(Play(), path=path)
    mailer = twin(url_of(path))
    mailer.send(hello())
    server.cut()
    mailer.send(hello())
    assert server.connections == 2


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="only Linux has all of 127.0.0.0/8")
def test_a_source_address_is_bound(twin: Twin, scripted: Scripted) -> None:
    server = scripted()
    twin(server.url, source_address="127.0.0.5").send(hello())
    assert server.peers == ["127.0.0.5"]


def test_a_source_address_that_is_not_ours_is_said(twin: Twin, scripted: Scripted) -> None:
    server = scripted()
    with pytest.raises(ConnectFailed, match="assign requested address"):
        twin(server.url, source_address="192.0.2.1").send(hello())
    with pytest.raises(ConnectFailed, match="cannot connect"):
        twin(server.url, source_address="::1").send(hello())
    assert server.connections == 0
