"""The fixtures for pytest; the only module here that imports it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from smtpbackend.testing.server import ScriptedServer

__all__ = ["smtp_server"]


@pytest.fixture
def smtp_server() -> Iterator[Callable[..., ScriptedServer]]:
    """Start a `ScriptedServer`, which stops with the test: `smtp_server(Play(...), patience=0.02)`."""
    with ExitStack() as servers:

        def start(*plays: Any, **options: Any) -> ScriptedServer:
            return servers.enter_context(ScriptedServer(*plays, **options))

        yield start
