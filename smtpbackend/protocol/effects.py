"""What a conversation asks of the world, one floor down and one floor up. Nothing here does anything.

Three effects are the network, one is the time and one is work that takes long; a wire performs them and sends the
answer back in. Two more belong to `Session.deliver` alone, which takes a stream of transactions: it asks the floor
above for the next one, and tells it of each that is settled. A wire does not know these and hands them on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from smtpbackend.protocol.transaction import Transaction

__all__ = [
    "ENOUGH",
    "LATER",
    "NOW",
    "OF_THE_WIRE",
    "Channel",
    "Conversation",
    "Ended",
    "Next",
    "Now",
    "Read",
    "Settled",
    "StartTLS",
    "Work",
    "Write",
]

T = TypeVar("T")

Conversation = Generator[Any, Any, T]
"""Yields effects, is sent their answers (or thrown the OSError they ended in), returns a T."""


class Write(NamedTuple):
    """Send all of ``data``. ``timeout`` is in seconds, for each piece of progress."""

    data: bytes | bytearray
    timeout: float


class Read(NamedTuple):
    """Wait for bytes; answered with some, or with b"" at the end of the stream.

    ``timeout`` is in seconds. The clock starts when a Read is first yielded and runs on while the conversation
    yields that same Read again, so that a server which drips bytes still times out. With ``goes_on`` it is that of the
    StartTLS just before, whose time is not up yet.
    """

    timeout: float
    goes_on: bool = False


class StartTLS(NamedTuple):
    """Secure the connection, verifying the server; answered with its `Channel`.

    A byte unread at this moment is an error (RFC 3207 4.2).
    """

    timeout: float


class Now(NamedTuple):
    """Tell me the time: answered in seconds of a monotonic clock."""


class Work(NamedTuple):
    """Do this, which takes so long that an event loop must not stand still for it; answered with what it returns.

    ``timeout`` is in seconds. What it finds wrong it returns as well: it raises nothing.
    """

    do: Callable[[], Any]
    timeout: float


class Channel(NamedTuple):
    """What a login can be bound to (RFC 5056): the server's certificate (DER), and what TLS itself has to offer.

    ``unique`` is tls-unique (RFC 5929 3), empty from TLS 1.3 on; ``exporter`` is tls-exporter (RFC 9266), empty where
    Python's ssl does not have it.
    """

    certificate: bytes
    unique: bytes = b""
    exporter: bytes = b""

    @classmethod
    def of(cls, secured: Any) -> Channel:
        """Of an ``SSLSocket`` or ``SSLObject`` after its handshake."""
        return cls(
            secured.getpeercert(True) or b"",
            _binding(secured, "tls-unique") if secured.version() in ("TLSv1", "TLSv1.1", "TLSv1.2") else b"",
            _binding(secured, "tls-exporter"),
        )


def _binding(secured: Any, kind: str) -> bytes:
    try:
        return secured.get_channel_binding(kind) or b""
    except ValueError:  # a kind that this ssl does not know
        return b""


class Next(NamedTuple):
    """Give me the next `Transaction`, or None when there are no more.

    With ``unsent`` something already composed waits to be sent: a floor that would have to wait for its source
    answers `LATER` instead, and is asked again when everything has left.
    """

    unsent: bool


class Settled(NamedTuple):
    """Everything that this connection will ever say about this transaction has been said.

    After the `Transaction.is_last` it is answered with `ENOUGH` where no other is to come after all.
    """

    transaction: Transaction


class Ended(NamedTuple):
    """What a wire answers when a conversation returned: no effect, but the end of them."""

    value: Any


OF_THE_WIRE: Final = (Write, Read, Now)
NOW: Final = Now()
LATER: Final = object()
ENOUGH: Final = object()
