"""The servers that every test may ask for. Nothing here knows Django or Flask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.postfix import Postfix
from tests.servers.tls import Certificates


def missing_server(reason: str) -> None:
    """Skip the test, or fail it where every server must be there."""
    if os.environ.get("SMTPBACKEND_REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority made for this run, and what it signed."""
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def running_postfix(ca: Certificates) -> Iterator[Postfix]:
    """One Postfix for the run."""
    if reason := Postfix.missing():
        missing_server(reason)
    with Postfix(ca) as server:
        yield server


@pytest.fixture
def postfix(running_postfix: Postfix) -> Postfix:
    """The Postfix of this run, with an empty mailbox."""
    running_postfix.clear()
    return running_postfix


@pytest.fixture
def aiosmtpd(ca: Certificates) -> Iterator[Callable[..., AiosmtpdServer]]:
    """Start an aiosmtpd, which stops with the test: `aiosmtpd(tls="starttls", users={"ann": "secret"})`."""
    with ExitStack() as servers:

        def start(**options: Any) -> AiosmtpdServer:
            return servers.enter_context(AiosmtpdServer(ca, **options))

        yield start


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "running_postfix" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.servers)
