"""Access tokens for threads: one fetches, the others wait for it."""

from __future__ import annotations

import os
import threading
import time
import weakref

from smtpbackend.delivery.credentials import PATIENCE, Provider, checked, failed, raised
from smtpbackend.delivery.server import Server
from smtpbackend.errors import SMTPError

__all__ = ["token"]

_locks: weakref.WeakKeyDictionary[Provider, threading.Lock] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def token(server: Server, refused: str | None, deadline: float | None) -> str:
    """A token for a server, not ``refused``. ``deadline`` is in seconds of ``time.monotonic``. Raises `SMTPError`."""
    if not isinstance(server.token, Provider):
        try:
            return checked(server.token(), server.name)
        except SMTPError:
            raise
        except Exception as error:
            raise raised(error, server.name) from error
    source = server.token
    with _guard:
        lock = _locks.setdefault(source, threading.Lock())
    patience = PATIENCE if deadline is None else min(PATIENCE, deadline - time.monotonic())
    if patience <= 0 or not lock.acquire(timeout=patience):
        raise failed(f"the token for {server.name} did not come in time; see deadline", True, server.name)
    try:
        kept = source.current(time.monotonic(), refused)
        return kept or checked(source.keep(source.fetch(patience), time.monotonic()), server.name)
    except SMTPError as error:
        error.server = error.server or server.name
        raise
    except Exception as error:
        raise raised(error, server.name) from error
    finally:
        lock.release()


def _after_fork() -> None:
    """A lock that another thread of the parent held would be held for ever."""
    global _guard
    _locks.clear()
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
