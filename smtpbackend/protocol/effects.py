"""What a conversation asks of the world, one floor down and one floor up. Nothing here does anything.

Three effects are the network; a wire performs them and sends the answer back in. Two more belong to
`Session.deliver` alone, which takes a stream of transactions: it asks the floor above for the next one, and tells
it of each that is settled. A wire does not know these and hands them on.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    from smtpbackend.protocol.transaction import Transaction

__all__ = ["LATER", "Conversation", "Ended", "Next", "Read", "Settled", "StartTLS", "Write"]

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
    yields that same Read again, so that a server which drips bytes still times out.
    """

    timeout: float


class StartTLS(NamedTuple):
    """Secure the connection, verifying the server. A byte unread at this moment is an error (RFC 3207 4.2)."""

    timeout: float


class Next(NamedTuple):
    """Give me the next `Transaction`, or None when there are no more.

    With ``unsent`` something already composed waits to be sent: a floor that would have to wait for its source
    answers `LATER` instead, and is asked again when everything has left.
    """

    unsent: bool


class Settled(NamedTuple):
    """Everything that this connection will ever say about this transaction has been said."""

    transaction: Transaction


class Ended(NamedTuple):
    """What a wire answers when a conversation returned: no effect, but the end of them."""

    value: Any


LATER: Final = object()
