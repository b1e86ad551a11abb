"""Time-outs and the deadline: how long a conversation waits."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Deadline", "DeadlinePassed", "Timeouts", "earliest", "time_is_up"]


class Timeouts(NamedTuple):
    """Seconds. RFC 5321 4.5.3.2 asks for minutes; a web request cannot wait for them, so these are shorter."""

    connect: float = 10.0  # for the look-up, and for each address from its own start
    # With the handshake of implicit TLS. RFC 5321 4.5.3.2.1 says 5 minutes, but a port of implicit TLS never greets a
    # client in clear, and gunicorn kills a worker that is silent for 30 s, before it can log anything.
    greeting: float = 20.0
    reply: float = 60.0
    content: float = 60.0  # for each piece of progress
    final: float = 300.0  # RFC 5321 4.5.3.2.6 says 10 minutes
    reused: float = 10.0  # for the first reply on a connection from the pool (DESIGN 4.5)


class Deadline(float):
    """When a whole send must end, on the clock of its mailer; ``seconds`` is the value of ``setting``."""

    seconds: float
    setting: str

    @classmethod
    def after(cls, seconds: float, now: float, setting: str = "deadline") -> Deadline:
        """The deadline so many seconds from now."""
        deadline = cls(now + seconds)
        deadline.seconds, deadline.setting = seconds, setting
        return deadline


class DeadlinePassed(TimeoutError):
    """A wait ended by the deadline, and not by its own time-out."""


def earliest(time_out: float, deadline: float | None) -> float:
    """When a wait ends: at its time-out or at the deadline."""
    return time_out if deadline is None else min(time_out, deadline)


def time_is_up(until: float, deadline: float | None) -> TimeoutError:
    """The error of a wait that ended at ``until``; if that was the deadline, it says so."""
    if not isinstance(deadline, Deadline) or until < deadline:
        return TimeoutError("timed out")
    return DeadlinePassed(f"the deadline of {deadline.seconds:g} s passed, see {deadline.setting}")
