"""Free ports and patience."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return different ports of `host` on which nobody listens now."""
    sockets = [socket.create_server((host, 0)) for _ in range(count)]
    try:
        return [listening.getsockname()[1] for listening in sockets]
    finally:
        for listening in sockets:
            listening.close()


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
