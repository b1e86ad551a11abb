"""Free ports and patience."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_given: set[int] = set()
# Which process of a run this is, and how many there are: each has ports of its own
_PLACE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_chance = random.SystemRandom()  # not the one that Hypothesis seeds


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return different ports of `host` on which nobody listens now, and that are given to nobody else in this run.

    The kernel gives them to no client and no server that takes what port there is, so that they stay free while nobody
    is there. A client that tries again and again to reach a port may else be given that very port, and reach itself.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found: list[int] = []
    while len(found) < count:
        port = _chance.randrange(10000 // _PROCESSES, first // _PROCESSES) * _PROCESSES + _PLACE
        with socket.socket() as listening, suppress(OSError):
            listening.bind((host, port))
            if port not in _given:
                _given.add(port)
                found.append(port)
    return found


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until `condition` is true, at most `timeout` seconds; return whether it became true."""
    end = time.monotonic() + timeout
    pause = 0.005
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    return True


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
