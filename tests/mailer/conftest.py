"""Both mailers, and scripted servers for them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from smtpbackend.testing import Play, ScriptedServer
from tests.mailer.twins import AsyncioTwin, BlockingTwin, Twin
from tests.servers.tls import Certificates, Kind

Scripted = Callable[..., ScriptedServer]
Names = dict[str, list[tuple[str, int]]]


@pytest.fixture
def scripted(ca: Certificates, smtp_server: Scripted) -> Scripted:
    """Start a scripted server, which stops with the test: `scripted(Play(...), certificate="server")`."""

    def start(*plays: Play | dict[str, Any], certificate: Kind | None = None, **options: Any) -> ScriptedServer:
        return smtp_server(*plays, context=ca.server_context(certificate) if certificate else None, **options)

    return start


@pytest.fixture(params=[BlockingTwin, AsyncioTwin], ids=["blocking", "asyncio"])
def twin(request: pytest.FixtureRequest, scripted: Scripted) -> Iterator[Twin]:
    """Each of the mailers: `twin("smtp://...", ...)` makes one."""
    twin = request.param()
    yield twin
    twin.close()


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port of 127.0.0.1 that neither accepts nor refuses: its backlog is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        callers = []
        while True:
            caller = socket.socket()
            callers.append(caller)
            caller.settimeout(0.2)
            try:
                caller.connect(("127.0.0.1", port))
            except TimeoutError:
                break
            assert len(callers) < 20
        yield port
        for caller in callers:
            caller.close()


@pytest.fixture
def unreachable() -> Iterator[int]:
    """A port of 127.0.0.1 that neither accepts nor refuses."""
    with full_backlog() as port:
        yield port


@pytest.fixture
def several_unreachable() -> Iterator[list[int]]:
    """Three of them."""
    with ExitStack() as ports:
        yield [ports.enter_context(full_backlog()) for _ in range(3)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """What a host name is resolved to; others as ever."""
    known: Names = {}
    ask = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host not in known:
            return ask(host, port, *args, **options)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, its_port))
            for address, its_port in known[host]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known
