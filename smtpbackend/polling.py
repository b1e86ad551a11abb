"""Waiting for sockets as ``select.poll`` does, also without it: Windows has none, and eventlet takes it away."""

from __future__ import annotations

import errno
import select
import sys
import time
from typing import Any

__all__ = ["MAX_POLL", "READABLE", "WRITABLE", "check_number", "new_poll"]

READABLE: int = getattr(select, "POLLIN", 1)
WRITABLE: int = getattr(select, "POLLOUT", 4)
MAX_POLL = 1e6  # seconds: poll takes no more milliseconds than an int holds


def new_poll() -> Any:
    """A ``select.poll``, or what has its methods. Which is known only now: a program may be patched after its start."""
    poll = getattr(select, "poll", None)
    return _Select() if poll is None else poll()


def check_number(sock: Any) -> None:
    """Raise OSError for a socket that cannot be waited for: ``select`` takes no descriptor of 1,024 or more."""
    poll = new_poll()
    if isinstance(poll, _Select):
        poll.register(sock, READABLE)
        poll.poll(0)


class _Select:
    """The methods of a ``select.poll`` that we use. An error of a socket shows as what is waited for."""

    def __init__(self) -> None:
        self._wanted: dict[int, int] = {}

    def register(self, sock: Any, wanted: int) -> None:
        """Wait for this socket too; one that is there already now waits for this."""
        self._wanted[sock if isinstance(sock, int) else sock.fileno()] = wanted

    def unregister(self, sock: Any) -> None:
        """Wait for it no more."""
        del self._wanted[sock.fileno()]

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        """The numbers of those that are ready, each with what it is ready for."""
        reading = [number for number, wanted in self._wanted.items() if wanted & READABLE]
        writing = [number for number, wanted in self._wanted.items() if wanted & WRITABLE]
        if not self._wanted:  # Windows does not wait for no socket
            time.sleep(milliseconds / 1000)
            return []
        # Windows counts an attempt to connect that failed among the exceptional, as `selectors` does
        failing = writing if sys.platform == "win32" else []
        try:
            readable, writable, failed = select.select(reading, writing, failing, milliseconds / 1000)
        except ValueError as error:
            if -1 in self._wanted:
                raise  # it is closed
            # a number of 1,024 or more, which select cannot take
            raise OSError(errno.EMFILE, f"too many open files to wait by select ({error})") from error
        ready = dict.fromkeys(readable, READABLE)
        for number in {*writable, *failed}:
            ready[number] = ready.get(number, 0) | WRITABLE
        return list(ready.items())
