"""Both mailers, and scripted servers for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from smtpbackend.testing import Play, ScriptedServer
from tests.mailer.twins import AsyncioTwin, BlockingTwin, Twin
from tests.servers.tls import Certificates, Kind

Scripted = Callable[..., ScriptedServer]


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
