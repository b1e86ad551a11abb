"""What an adapter gives to a mailer: parcels, and a stream of messages that become parcels one by one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from smtpbackend.envelope import Envelope
from smtpbackend.outcome import Outcome

__all__ = ["Parcel", "Translated"]


class Parcel(NamedTuple):
    """A message as an adapter has it ready.

    ``envelope`` is None where nobody is left; ``content`` is as for ``Mailer.send``, or the exception that kept it from
    being made, by which everybody fails; ``refused`` are recipients who are none, with the text as it was given;
    ``notes`` is whatever the adapter wants back.
    """

    envelope: Envelope | None
    content: Any
    refused: tuple[Outcome, ...] = ()
    notes: Any = None


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
