"""The effects that a conversation yields.

A wire performs five of them and sends in the answer: three are the network, one is the time, one is work that takes
long. `Next` and `Settled` are yielded by `Session.deliver` alone: the wire hands them to the delivery, which gives the
next transaction and takes those that are settled.
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
    yields that same Read again, so that a server which sends byte after byte still times out. With ``goes_on`` the
    clock of the StartTLS just before runs on.
    """

    timeout: float
    goes_on: bool = False


class StartTLS(NamedTuple):
    """Secure the connection, verifying the server; answered with its `Channel`.

    An unread byte at this moment is an error (RFC 3207 4.2).
    """

    timeout: float


class Now(NamedTuple):
    """The time: answered in seconds of a monotonic clock."""


class Work(NamedTuple):
    """Call ``do`` where no event loop waits for it; answered with what it returns. It raises nothing.

    ``timeout`` is in seconds.
    """

    do: Callable[[], Any]
    timeout: float


class Channel(NamedTuple):
    """What a login can be bound to (RFC 5056): the server's certificate (DER), and two values of TLS.

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
    except ValueError:  # this ssl does not have it
        return b""


class Next(NamedTuple):
    """The next transaction: answered with a `Transaction`, or None when there are no more.

    With ``unsent`` something is composed and not sent yet: a delivery that has to wait for its source answers `LATER`,
    and is asked again when everything has left.
    """

    unsent: bool


class Settled(NamedTuple):
    """A transaction has all the replies that it will get on this connection.

    After one with `Transaction.is_last` it is answered with `ENOUGH` where no other comes after all.
    """

    transaction: Transaction


class Ended(NamedTuple):
    """No effect: what a wire returns when a conversation has returned ``value``."""

    value: Any


OF_THE_WIRE: Final = (Write, Read, Now)
NOW: Final = Now()
LATER: Final = object()
"""Not now: ask again. Public in `smtpbackend.adapters`, for the sources of `Mailer.deliver`."""
ENOUGH: Final = object()
