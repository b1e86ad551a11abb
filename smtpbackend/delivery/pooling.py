"""Which connection is reused, which is closed, and who waits. The mailers' pools act on it, under their lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from smtpbackend.delivery.configuration import Limits
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.tls import is_local
from smtpbackend.protocol.session import Session

__all__ = ["Connection", "Shelf"]

W = TypeVar("W")


class Connection(Generic[W]):
    """A wire and the session on it.

    ``reused`` tells that the lease at hand is not its first; ``deadline`` (seconds of the clock) bounds whatever is
    said on it now.
    """

    def __init__(self, server: Server, wire: W, session: Session, max_messages: int = 100, generation: int = 0) -> None:
        self.server = server
        self.generation = generation
        self.wire = wire
        self.session = session
        self.max_messages = max_messages
        self.reused = False
        self.idle_since = 0.0
        self.deadline: float | None = None

    @property
    def is_used_up(self) -> bool:
        """Whether it has carried as many messages as we, or the server (RFC 9422 4.1), let it carry."""
        offered = self.session.capabilities.limits.mailmax if "LIMITS" in self.session.capabilities else None
        return self.session.transactions >= min(self.max_messages, offered or self.max_messages)


class Shelf(Generic[W]):
    """The connections to one server: those idle, and how many there are."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.idle: list[Connection[W]] = []
        self.open = 0
        self.generation = 0  # what was opened before the last `empty` is not kept

    def take(self) -> Connection[W] | None:
        """The connection that was idle for the shortest time: it is the likeliest to live."""
        return self.idle.pop() if self.idle else None

    def may_open(self) -> bool:
        """Whether one more may be opened. Whoever is told so counts it in ``open``."""
        return self.open < self.limits.max_connections

    def put(self, connection: Connection[W], now: float) -> bool:
        """Keep a connection for its next use; False when it must be closed instead."""
        session = connection.session
        is_old = connection.generation != self.generation
        is_full = connection.is_used_up or session.transactions >= self.limits.max_messages
        if is_old or session.broken or is_full:
            return False
        connection.idle_since = now
        self.idle.append(connection)
        return True

    def empty(self) -> list[Connection[W]]:
        """All that are idle, taken out to be closed; those in use are not kept when they come back."""
        gone, self.idle = self.idle, []
        self.open -= len(gone)
        self.generation += 1
        return gone

    def is_fit(self, connection: Connection[W], now: float) -> bool:
        """Whether an idle connection may still be used, as far as can be known without looking at its socket."""
        return now - connection.idle_since <= self.limits.max_idle and connection.session.is_quiet

    def expired(self, now: float) -> list[Connection[W]]:
        """Those idle for too long, taken out to be closed."""
        fit = [connection for connection in self.idle if self.is_fit(connection, now)]
        gone = [connection for connection in self.idle if connection not in fit]
        self.idle = fit
        return gone


def new_session(
    server: Server, hostname: str, local: str | None, peer: str | None, transcript: Callable[[str, str], Any] | None
) -> Session:
    """A session for a wire just connected; ``local`` and ``peer`` are its addresses, None on a unix socket."""
    return Session(
        server.name,
        server.client_name or client_name(hostname, local),
        timeouts=server.timeout,
        ignore=server.ignore_extensions,
        lmtp=server.protocol == "lmtp",
        local_peer=server.proxy is None and is_local(peer),  # behind a proxy nobody is near
        transcript=transcript,
    )


def client_name(hostname: str, local: str | None) -> str:
    """The host name if fully qualified, else the address as a literal (RFC 5321 4.1.4); never a look-up."""
    labels = hostname.rstrip(".").split(".")
    if len(labels) > 1 and all(
        label.replace("-", "").replace("_", "").isalnum() and label.isascii() for label in labels
    ):
        return ".".join(labels)
    if local is None:
        return "localhost"
    return f"[IPv6:{local.partition('%')[0]}]" if ":" in local else f"[{local}]"
