"""A proxy that notes when the content of each mail passes on its way to the server."""

from __future__ import annotations

import re
import time
from typing import Any

from benchmarks.lab.delay import DelayProxy

MARK = "mark{:06d} "
"""What the subject of a mail begins with."""
_MARKS = re.compile(rb"\r\nSubject: mark(\d{6}) ")
_LONGEST = 24  # octets of what is looked for


class StampingProxy(DelayProxy):
    """A `DelayProxy` with the time on ``time.monotonic`` at which the mark of each mail was read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stamps: dict[int, float] = {}
        self._ends: dict[int, bytes] = {}

    def _note(self, line: Any, data: bytes, is_client: bool) -> int:
        if is_client:
            now = time.monotonic()
            read = self._ends.get(id(line), b"") + data  # a mark may come in two
            for number in _MARKS.findall(read):
                self.stamps.setdefault(int(number), now)
            self._ends[id(line)] = read[-_LONGEST:]
        return super()._note(line, data, is_client)
