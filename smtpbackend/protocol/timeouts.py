"""How long a conversation waits, by default and at most, and when a wait is over."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Timeouts", "earliest"]


class Timeouts(NamedTuple):
    """Seconds. RFC 5321 4.5.3.2 asks for minutes; a web request cannot wait for them, so these are shorter."""

    connect: float = 10.0
    reply: float = 60.0
    content: float = 60.0  # for each piece of progress
    final: float = 300.0  # RFC 5321 4.5.3.2.6 says 10 minutes
    reused: float = 10.0  # for the first reply on a connection from the pool (DESIGN 4.5)


def earliest(time_out: float, deadline: float | None) -> float:
    """When a wait is over: at its time-out, or at the deadline of everything."""
    return time_out if deadline is None else min(time_out, deadline)
