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
    "NOT_ASKED",
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
    """Give me the next item of the source, or `END`. With ``unsent``, answer `NOT_ASKED` rather than wait for it.

    A source that has no item now answers `LATER` itself. ``busy``: messages of this delivery have no receipt yet. Where
    several deliveries share a source, the answer is a `Mail` that was begun.
    """

    unsent: bool
    busy: bool


class Prepare(NamedTuple):
    """Ask the caller for the parcel of this item: answered with it, None, or the Exception that was raised.

    `END`: it raised something that is no Exception (such as KeyboardInterrupt), and no other message is begun.
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
    """Give me a connection to this server: an idle one unless ``fresh``, else a new one, on which nothing was said."""

    server: Server
    fresh: bool
    deadline: float | None


class Token(NamedTuple):
    """Give me an access token for this server, other than the one that it ``refused``."""

    server: Server
    refused: str | None
    deadline: float | None


class Pace(NamedTuple):
    """Ask whether the ``rate`` of this server allows a message now: answered 0, or the seconds until it does."""

    server: Server


class Talk(NamedTuple):
    """Carry this conversation on with ``value``: answered with `Next`, `Settled` or `Ended`."""

    connection: Connection[Any]
    conversation: Generator[Any, Any, Any]
    value: Any


class Release(NamedTuple):
    """Take this connection back; a broken one is closed.

    ``crowded``: the server said, in reply to any command, that it has too many connections (`is_crowd`). This one is
    closed, and for a minute no more are open than are left. Answered True where another of ours is open: the message
    waits for its turn with another `Lease`, and that is no failure. Answered False where there is none to wait for, or
    where this one was beyond the limit, so that its sender must not wait: then the reply counts as any other.
    """

    connection: Connection[Any]
    crowded: bool = False


class Give(NamedTuple):
    """Give the caller what became of the item of this number. Answered `GONE` where the stream was left."""

    number: int
    value: Any


END: Final = object()
GONE: Final = object()
NOT_ASKED: Final = object()
