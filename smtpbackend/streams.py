"""What `deliver` and `send_many` of the two mailers return. It is loaded with the first mailer (DESIGN 5.6)."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["AsyncStream", "Stream"]

T = TypeVar("T")


class _Begun:
    """What both have: it warns where nothing was ever taken."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self._is_begun = False

    def _begin(self) -> Any:
        self._is_begun = True
        return self._given

    def __del__(self) -> None:
        if not self._is_begun:
            why = "a stream of messages was never iterated, so that nothing of it was sent: iterate over it"
            warnings.warn(why, RuntimeWarning, stacklevel=2, source=self)


class Stream(_Begun, Generic[T]):
    """What becomes of the messages, while they are sent: an iterator.

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


class AsyncStream(_Begun, Generic[T]):
    """What becomes of the messages, while they are sent: an asynchronous iterator. See `Stream`."""

    def __aiter__(self) -> AsyncIterator[T]:
        return self._begin()  # type: ignore[no-any-return]

    async def __anext__(self) -> T:
        return await anext(self._begin())

    async def aclose(self) -> None:
        """Wait for what is in flight, and begin nothing more."""
        await self._begin().aclose()
