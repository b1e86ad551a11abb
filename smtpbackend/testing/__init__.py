"""For tests: a scripted server that answers as a test wants it to, on a free loopback port.

A `Play` says how it answers, with the words and deeds of `play`; a `Speaker` is one connection of it, octets in and
octets and deeds out, without a socket, so that a list can be its network too; a `ScriptedServer` gives speakers a port.
``pytest_plugins = ["smtpbackend.testing"]`` in a conftest.py gives the fixture `smtp_server`, and is the only thing
here that needs pytest. Nothing of the package imports this, and this imports nothing of the package, so that it can
test other clients too.

PYTEST_DONT_REWRITE: nothing here is a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smtpbackend.testing.play import (
    CUT,
    DEAF,
    EXTENSIONS,
    HANG_UP,
    RESET,
    SILENCE,
    TLS,
    Answer,
    Deed,
    Fault,
    Play,
    delay,
    drip,
    flood,
    when_heard,
)
from smtpbackend.testing.server import ScriptedServer
from smtpbackend.testing.speaker import Speaker, Transaction

if TYPE_CHECKING:
    from smtpbackend.testing.fixtures import smtp_server

__all__ = [
    "CUT",
    "DEAF",
    "EXTENSIONS",
    "HANG_UP",
    "RESET",
    "SILENCE",
    "TLS",
    "Answer",
    "Deed",
    "Fault",
    "Play",
    "ScriptedServer",
    "Speaker",
    "Transaction",
    "delay",
    "drip",
    "flood",
    "smtp_server",
    "when_heard",
]


def __getattr__(name: str) -> Any:
    """Import pytest only when its fixture is asked for."""
    if name == "smtp_server":
        from smtpbackend.testing.fixtures import smtp_server

        return smtp_server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """With `smtp_server`, which pytest looks for here."""
    return sorted({*globals(), *__all__})
