"""What events are told as: for the end of a message the names of its signals, which say how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from smtpbackend.events import signals_of

__all__ = ["names", "names_of"]


def names_of(event: Any) -> list[str]:
    """The names of the signals that tell an event; of one that is told by none its own."""
    return [name for name, _ in signals_of(event)] or [event.name]


def names(events: Iterable[Any]) -> list[str]:
    """Those of several events."""
    return [name for event in events for name in names_of(event)]
