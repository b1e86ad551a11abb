"""Servers that are programs: started in the foreground as our children, and ended with all of theirs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from tests.servers.ports import answers, wait_until

# The user nobody and the group nogroup
NOBODY = 65534
# A run that was killed leaves no server behind for longer than this (seconds)
LONGEST_RUN = 7200


def start(
    command: Iterable[str | Path],
    host: str,
    ports: Iterable[int],
    log: Callable[[], str],
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that stays in the foreground, and return when it listens on all of `ports`.

    `user` is whom it runs as, in the group of that name, if not as ours.
    Raises RuntimeError with what it said and logged.
    """
    command = [str(word) for word in command]
    listening = list(ports)
    running = subprocess.Popen(
        ["timeout", str(LONGEST_RUN), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        user=user,
        group=user,
        extra_groups=[] if user else None,
        start_new_session=True,
    )

    def up() -> bool:
        return running.poll() is not None or all(answers(host, port) for port in listening)

    if not wait_until(up, 20) or running.poll() is not None:
        _end_group(running)
        _, said = running.communicate()
        raise RuntimeError(f"{command[0]} did not start: {said.decode(errors='replace')}\n{log()}")
    assert running.stderr is not None
    running.stderr.close()
    return running


def stop(running: subprocess.Popen[bytes]) -> None:
    """Ask a server to end, and make what is left of it end."""
    running.terminate()
    with suppress(subprocess.TimeoutExpired):
        running.wait(10)
    _end_group(running)
    running.wait()


def _end_group(running: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
