"""The functions that the caller of `Mailer.deliver` gave. Light: it is loaded with the mailers (DESIGN 5.6)."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Caller"]


class Caller(NamedTuple):
    """What the caller of `Mailer.deliver` gave: an iterator of items, and functions to ask about each.

    ``prepare`` None: the items are what `Mailer.send_many` takes.
    """

    source: Any
    prepare: Any = None
    """``prepare(item)`` makes a `Parcel`."""
    holds: Any = None
    """``holds(item)`` says whether an item may still be sent."""
    pace: Any = None
    """``pace(server, n)`` says how many seconds ``n`` messages wait before they begin on the server of that name."""
    sleep: Any = None
    """``sleep(until)`` waits until a time; true: the stream was left meanwhile."""
