"""Mail of one stream that needs another attempt, and which goes next."""

from __future__ import annotations

import heapq

from smtpbackend.delivery.mail import Mail

__all__ = ["Waiting"]


class Waiting:
    """In the order of the stream. Mails that had a connection end at one of their commands come last."""

    def __init__(self) -> None:
        self._heap: list[tuple[bool, int, Mail]] = []

    def __bool__(self) -> bool:
        return bool(self._heap)

    def put(self, mail: Mail) -> None:
        """Have it wait."""
        heapq.heappush(self._heap, (mail.goes_behind, mail.number, mail))

    def take(self) -> Mail:
        """The mail that goes next."""
        return heapq.heappop(self._heap)[-1]

    def take_newest(self) -> Mail:
        """The last one that no connection ended at; else the one that goes next.

        If connections ended one after the other, it shows whether the fault is the server's or the first mails'.
        """
        entry = max((entry for entry in self._heap if not entry[0]), default=None)
        if entry is None:
            return self.take()
        self._heap.remove(entry)
        heapq.heapify(self._heap)
        return entry[-1]
