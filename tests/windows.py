"""Takes away what Python has not on Windows, before anything of ours is imported: `pytest -p tests.windows`.

Of the system's calls and constants those that this package knows how to use, and of an event loop what asyncio's own
has not there (https://docs.python.org/3/library/asyncio-platforms.html#windows). `mypy --platform win32` tells of
others.
"""

from __future__ import annotations

import asyncio
import asyncio.selector_events
import asyncio.unix_events
import functools

# These look for what is taken away when they are loaded
import logging  # noqa: F401
import multiprocessing.util  # noqa: F401
import os
import random  # noqa: F401
import select
import selectors  # noqa: F401
import socket
import subprocess  # noqa: F401
import tempfile  # noqa: F401

TAKEN: dict[object, tuple[str, ...]] = {
    select: ("poll", "epoll", "POLLIN", "POLLOUT", "POLLERR", "POLLHUP", "POLLNVAL", "POLLPRI"),
    socket: ("MSG_DONTWAIT", "AF_UNIX", "TCP_QUICKACK"),
    os: ("register_at_fork", "fork", "pread", "get_blocking", "set_blocking"),
    asyncio.selector_events.BaseSelectorEventLoop: ("add_reader", "add_writer"),
    asyncio.unix_events.SelectorEventLoop: ("add_signal_handler", "create_unix_connection", "create_unix_server"),
}

socket.socketpair = functools.partial(socket.socketpair, socket.AF_UNIX)  # type: ignore[assignment] # of asyncio
for owner, names in TAKEN.items():
    for name in names:
        delattr(owner, name)
