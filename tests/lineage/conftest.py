"""Both mailers, and servers of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from smtpbackend.testing import Play, ScriptedServer
from tests.mailer.twins import AsyncioTwin, BlockingTwin, Driven
from tests.servers.aiosmtpd_server import AiosmtpdServer

MakeMailer = Callable[..., Driven]
Scripted = Callable[..., ScriptedServer]
Start = Callable[..., AiosmtpdServer]


@pytest.fixture(params=[BlockingTwin, AsyncioTwin], ids=["blocking", "asyncio"])
def new_mailer(request: pytest.FixtureRequest) -> Iterator[MakeMailer]:
    """Make a mailer of either kind: `new_mailer(url, recipient_policy="all")`. Closed after the test."""
    twin = request.param()
    yield twin
    twin.close()


@pytest.fixture
def scripted(smtp_server: Scripted) -> Scripted:
    """Start a server without extensions that answers as the test says: `scripted({"MAIL": "550 no"})`."""
    return lambda answers={}: smtp_server(Play(answers, extensions=()))


def parsed(content: bytes) -> EmailMessage:
    """What arrived, as the email package reads it."""
    return message_from_bytes(content, policy=policy.default)


def url(server: AiosmtpdServer) -> str:
    """The URL of a server without TLS."""
    return f"smtp://{server.host}:{server.port}"
