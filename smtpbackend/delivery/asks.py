"""What a dispatch asks of the mailer that performs it. Nothing here does anything.

Times and deadlines are in seconds of the dispatch's clock; a deadline may be None.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, NamedTuple

from smtpbackend.delivery.pooling import Connection
from smtpbackend.delivery.server import Server

__all__ = [
    "END",
    "GONE",
    "Effects",
    "Find",
    "Give",
    "Holds",
    "Lease",
    "Pace",
    "Prepare",
    "Pull",
    "Release",
    "Reserve",
    "Sleep",
    "Talk",
    "Token",
]

Effects = Generator[Any, Any, Any]


class Pull(NamedTuple):
    """Give me the next item of the source, or `END`. With ``unsent``, answer `LATER` rather than wait for it.

    ``busy``: messages of this delivery have no receipt yet. Where several deliveries share a source, the answer is a
    `Mail` that was begun.
    """

    unsent: bool
    busy: bool


class Prepare(NamedTuple):
    """Ask the caller for the parcel of this item: answered with it, None, or the Exception that was raised.

    `END`: what was raised is no Exception, and no other message is begun.
    """

    item: Any


class Holds(NamedTuple):
    """Ask the caller whether this item may still be sent: answered True, False, or the Exception that was raised."""

    item: Any


class Reserve(NamedTuple):
    """Ask the caller when so many messages may begin on the server of this name: answered with seconds from now."""

    server: str
    number: int


class Sleep(NamedTuple):
    """Wait until this time. Answered `GONE` where the stream was left."""

    until: float


class Find(NamedTuple):
    """Give me the servers that the SRV records of this one name, in the order to try them."""

    server: Server
    deadline: float | None


class Lease(NamedTuple):
    """Give me a connection to this server: an idle one (``fresh`` forbids that), else a new one, not yet spoken on."""

    server: Server
    fresh: bool
    deadline: float | None


class Token(NamedTuple):
    """Give me an access token for this server, other than the one that it ``refused``."""

    server: Server
    refused: str | None
    deadline: float | None


class Pace(NamedTuple):
    """Take one message of what the ``rate`` of this server allows: answered 0, or how many seconds it is too early."""

    server: Server


class Talk(NamedTuple):
    """Carry this conversation on with ``value``: answered with `Next`, `Settled` or `Ended`."""

    connection: Connection[Any]
    conversation: Generator[Any, Any, Any]
    value: Any


class Release(NamedTuple):
    """Take this connection back; a broken one is closed.

    ``crowded``: the server answered on it, at whatever place, that it has too many (`is_crowd`). It is closed, and for
    a minute no more are opened than are left. Answered True where another of ours is open: the message that was
    answered waits for its turn, by another `Lease`, and nothing is at fault. False: there is none to wait for, or this
    one was beyond the limit and its sender must not wait; then it is a reply like any other.
    """

    connection: Connection[Any]
    crowded: bool = False


class Give(NamedTuple):
    """What becomes of the item of this number, for the caller. Answered `GONE` where the stream was left."""

    number: int
    value: Any


END: Final = object()
GONE: Final = object()
