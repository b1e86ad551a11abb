"""Which server comes next. A failed server rests, which only reorders: the last one left is always tried."""

from __future__ import annotations

from collections.abc import Sequence

from smtpbackend.delivery.experience import Experience
from smtpbackend.delivery.server import Server

__all__ = ["Route"]


class Route:
    """The servers of a mailer, which of them rest, and what was learnt of them.

    Shared by threads: each method reads or replaces single entries, so that none needs a lock.
    """

    def __init__(self, servers: Sequence[Server], strategy: str = "failover", rest: float = 30.0) -> None:
        self.servers = tuple(servers)
        self.strategy = strategy
        self.rest = rest
        self._resting: dict[Server, float] = {}
        self.experience = Experience()
        self._first = 0

    def order(self, now: float) -> list[Server]:
        """All servers, in the order to try them for one message. ``now`` is in seconds, of any monotonic clock.

        A server whose rest is over is tried by one message; for the others it rests on until that has gone well.
        """
        servers = list(self.servers)
        if self.strategy == "round_robin" and len(servers) > 1:
            first = self._first % len(servers)
            self._first = first + 1
            servers = servers[first:] + servers[:first]
        if self._resting and len(servers) > 1:
            resting = {server for server in servers if self.is_resting(server, now)}
            servers.sort(key=resting.__contains__)  # stable
            if servers[0] in self._resting and servers[0] not in resting:
                self._resting[servers[0]] = now + self.rest  # half open
        return servers

    def is_resting(self, server: Server, now: float) -> bool:
        """Whether a server failed lately, or is on trial."""
        return self._resting.get(server, 0.0) > now

    def begin_rest(self, server: Server, now: float) -> None:
        """Let a server rest."""
        self._resting[server] = now + self.rest

    def end_rest(self, server: Server) -> None:
        """End a server's rest."""
        if self._resting:
            self._resting.pop(server, None)
