"""A stream of messages that an adapter translates one by one, as the Mailer takes them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Translated"]


class Translated:
    """An iterator of what ``translate`` makes of each item; where that is None, there is nothing to send.

    It says how many are left as its source does: what does not say that may make a Mailer wait for the next item, and
    everything is sent before it is asked (DESIGN 5.2).
    """

    def __init__(self, source: Iterable[Any], translate: Callable[[Any], Any]) -> None:
        self._source = iter(source)
        self._translate = translate

    def __iter__(self) -> Translated:
        return self

    def __next__(self) -> Any:
        while True:
            item = self._translate(next(self._source))
            if item is not None:
                return item

    def __length_hint__(self) -> int:
        left = operator.length_hint(self._source, -1)
        return left if left >= 0 else NotImplemented
