"""What `deliver` and `send_many` return. It is loaded when the first one is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from smtpbackend.base_mailer import BaseStream

__all__ = ["Stream"]

T = TypeVar("T")


class Stream(BaseStream, Generic[T]):
    """What becomes of the messages of a `deliver` or `send_many`, while they are sent: an iterator.

    Nothing is sent before it is iterated: one that never is warns (``RuntimeWarning``). `close` ends it: what is in
    flight is waited for, and nothing more begins.
    """

    def __iter__(self) -> Iterator[T]:
        return self._begin()  # type: ignore[no-any-return]

    def __next__(self) -> T:
        return next(self._begin())  # type: ignore[no-any-return]

    def close(self) -> None:
        """Wait for what is in flight, and begin nothing more."""
        self._begin().close()
