"""Who holds which end of a connection, as the kernel sees it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def towards(port: int) -> set[str]:
    """The inodes of the clients' ends of all connections to a port, those not yet made too."""
    found = set()
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in Path("/proc/net", name).read_text().splitlines()[1:]:
                words = line.split()
                if int(words[2].rpartition(":")[2], 16) == port and words[9] != "0":
                    found.add(words[9])
    return found


def held(pid: int) -> set[str]:
    """The inodes of all sockets that a process has open."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    while True:
        found, tasks = [], os.listdir(f"/proc/{pid}/task")
        # a thread that ended before it was looked at left its children to another one: look again
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in tasks:
                found += [int(child) for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
            return found
