"""Access tokens for tasks: one of each loop fetches, in a thread, and the others wait for it."""

from __future__ import annotations

import asyncio
import inspect
import time
import weakref
from typing import Any

from smtpbackend.delivery.credentials import PATIENCE, Provider, checked, raised, too_late
from smtpbackend.delivery.server import Server
from smtpbackend.errors import SMTPError
from smtpbackend.fetching import fetched

__all__ = ["token"]

# a lock belongs to its loop
_locks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakKeyDictionary[Provider, asyncio.Lock]] = (
    weakref.WeakKeyDictionary()
)


async def token(server: Server, refused: str | None, deadline: float | None) -> str:
    """A token for a server, not ``refused``. ``deadline`` is in seconds of the loop's clock. Raises `SMTPError`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(deadline):
            if not isinstance(server.token, Provider):
                return checked(await _called(server), server.name, server.spelling("token"))
            source = server.token
            patience = PATIENCE if deadline is None else min(PATIENCE, max(deadline - loop.time(), 0.001))
            async with _locks.setdefault(loop, weakref.WeakKeyDictionary()).setdefault(source, asyncio.Lock()):
                kept = source.current(time.monotonic(), refused)
                if kept is None:
                    kept = await asyncio.to_thread(fetched, source, server, refused, patience)
                return kept
    except SMTPError as error:
        error.server = error.server or server.name
        raise
    except Exception as error:
        if isinstance(error, TimeoutError) and deadline is not None and loop.time() >= deadline:
            raise too_late(server) from None
        raise raised(error, server.name) from error


async def _called(server: Server) -> Any:
    """What a callable gives, which may be asynchronous. It is not a local here: a partial shows its arguments."""
    is_async = inspect.iscoroutinefunction(server.token) or inspect.iscoroutinefunction(
        getattr(server.token, "__call__", None)  # noqa: B004 - not whether there is one, but which
    )
    found = server.token() if is_async else await asyncio.to_thread(lambda: server.token())
    return await found if inspect.isawaitable(found) else found
