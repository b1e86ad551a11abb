"""The functions that the caller of `Mailer.deliver` gave. Light: it is loaded with the mailers (DESIGN 5.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Caller"]


class Caller(NamedTuple):
    """What the caller of `Mailer.deliver` gave: an iterator of items, and functions to ask about each.

    ``prepare`` None: the items are what `Mailer.send_many` takes.
    """

    source: Any
    prepare: Callable[[Any], Any] | None = None
    holds: Callable[[Any], Any] | None = None
    pace: Callable[[str, int], Any] | None = None
    sleep: Callable[[float], Any] | None = None
    """Waits until a time; true: nobody takes what becomes of the messages any more."""

    def parcel(self, item: Any) -> Any:
        """What ``prepare`` says, or what is to be awaited for that."""
        assert self.prepare is not None
        return self.prepare(item)

    def is_held(self, item: Any) -> Any:
        """What ``holds`` says, or what is to be awaited for that."""
        assert self.holds is not None
        return self.holds(item)

    def wait(self, server: str, number: int) -> Any:
        """What ``pace`` says, or what is to be awaited for that."""
        assert self.pace is not None
        return self.pace(server, number)
