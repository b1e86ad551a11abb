"""What an interrupted mailer must not leave behind: open sockets, wrong counts, warnings, mail sent twice."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, Self

from smtpbackend.testing import ScriptedServer
from tests.mailer.twins import PATIENCE
from tests.servers.ports import wait_until


class Leftovers:
    """Watches a block; ``found`` has what was reported from where nobody could catch it, ResourceWarnings among it."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __enter__(self) -> Self:
        self._unraisable = sys.unraisablehook
        gc.collect()
        gc.freeze()  # what is there already need not be looked through at every point
        sys.unraisablehook = self._note
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._unraisable
        gc.unfreeze()

    def _note(self, thrown: Any) -> None:
        self.found.append(f"{thrown.err_msg} {thrown.object!r}: {thrown.exc_value!r}")

    def check(self, pool: Any, servers: Iterable[ScriptedServer], where: str) -> int:
        """Nothing but idle connections is left, and they are as many in the pool as at the servers. Gives how many."""
        gc.collect()
        counts = {server.name: (shelf.open, len(shelf.idle)) for server, shelf in pool._shelves.items()}
        assert all(opened == idle for opened, idle in counts.values()), f"{where}: open and idle are {counts}"
        assert not any(shelf.waiting for shelf in pool._shelves.values()), f"{where}: somebody still waits"
        for server in servers:
            _, here = counts.get(server.name, (0, 0))
            there = wait_until(lambda server=server, here=here: server.open_connections == here, PATIENCE)  # type: ignore[misc]
            assert there, f"{where}: {server.open_connections} connections at {server.name}, and {here} here"
        assert not self.found, f"{where}: {self.found}"
        return sum(idle for _, idle in counts.values())


def taken(servers: Iterable[ScriptedServer]) -> Counter[str]:
    """How often each subject may have arrived, at whatever server."""
    return Counter(
        transaction.content.split(b"Subject: ", 1)[1].split(b"\r\n", 1)[0].decode()
        for server in servers
        for speaker in server.speakers
        for transaction in speaker.taken
    )
