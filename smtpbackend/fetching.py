"""One fetch of a token at a time for each provider, in whichever thread or event loop it is wanted.

Several at once would all use the same refresh token. An endpoint that replaces refresh tokens takes that for theft
(RFC 9700 4.14.2), and the next login fails.
"""

from __future__ import annotations

import threading
import time
import weakref

from smtpbackend.after_fork import at_fork
from smtpbackend.delivery.credentials import Provider, checked, too_late
from smtpbackend.delivery.server import Server

__all__ = ["fetched"]

_locks: weakref.WeakKeyDictionary[Provider, threading.Lock] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def fetched(source: Provider, server: Server, refused: str | None, patience: float) -> str:
    """A token for a server, not ``refused``: the one that is kept, or a fresh one. Blocks for ``patience`` seconds.

    Raises `SMTPError`, and whatever the provider raises.
    """
    with _guard:
        lock = _locks.setdefault(source, threading.Lock())
    if patience <= 0 or not lock.acquire(timeout=patience):
        raise too_late(server)
    try:
        kept = source.current(time.monotonic(), refused)
        return kept or checked(
            source.keep(source.fetch(patience), time.monotonic()), server.name, server.spelling("token")
        )
    finally:
        lock.release()


def _after_fork() -> None:
    """A lock that another thread of the parent held would be held for ever."""
    global _guard
    _locks.clear()
    _guard = threading.Lock()


at_fork(in_child=_after_fork)
