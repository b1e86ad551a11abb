"""In which order what was delivered is given to the caller: as it becomes known, or as the messages came."""

from __future__ import annotations

from collections import deque
from typing import Any

__all__ = ["AsKnown", "InOrder"]


class AsKnown:
    """Gives what was added first."""

    def __init__(self) -> None:
        self._known: deque[Any] = deque()

    def add(self, number: int, value: Any) -> None:
        """Keep a value until it is taken."""
        self._known.append(value)

    def take(self) -> Any:
        """The value to give now; None: there is none yet."""
        return self._known.popleft() if self._known else None


class InOrder:
    """Gives values in the order of their numbers, which count from 1."""

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}
        self._next = 1

    def add(self, number: int, value: Any) -> None:
        """Keep a value until it is its turn."""
        self._known[number] = value

    def take(self) -> Any:
        """The value to give now; None: that of the next number is not known yet."""
        value = self._known.pop(self._next, None)
        if value is not None:
            self._next += 1
        return value
