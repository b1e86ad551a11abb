"""Which connection is reused, which is closed, and who waits. The mailers' pools act on it, under their lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from smtpbackend.delivery.configuration import Limits
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.tls import is_local
from smtpbackend.protocol.delivering import EACH, RATION
from smtpbackend.protocol.session import Session

__all__ = ["GOODBYE", "Bucket", "Connection", "Shelf"]

W = TypeVar("W")

CROWDED = 30.0  # seconds in which no more connections are opened than a server, which said "too many", had taken
GOODBYE = 1.0  # seconds for QUIT and the replies to it, however many connections are closed together


class Connection(Generic[W]):
    """A wire and the session on it.

    ``reused`` tells that the lease at hand is not its first, ``has_worked`` that it carried a message, or did before
    this lease, and ``has_failed`` that its server was blamed for its end. ``deadline`` (seconds of the clock) bounds
    whatever is said on it now; ``heard`` is when the server last answered, and ``reads`` how often by then.
    """

    def __init__(self, server: Server, wire: W, session: Session, max_messages: int = 100, generation: int = 0) -> None:
        self.server = server
        self.generation = generation
        self.wire = wire
        self.session = session
        self.max_messages = max_messages
        self.reused = self.has_worked = self.has_failed = False
        self.epoch = 0
        self.heard = 0.0
        self.idle_since = 0.0
        self.reads = 0
        self.deadline: float | None = None

    @property
    def is_used_up(self) -> bool:
        """Whether it has carried as many messages, or refusals, as we or the server (RFC 9422 4.1) let it carry."""
        session = self.session
        if session.transactions >= self.max_messages or session.refusals > RATION - (EACH if session.pipelines else 1):
            return True
        offered = session.capabilities.limits.mailmax if "LIMITS" in session.capabilities else None
        return offered is not None and 0 < offered <= session.transactions


class Shelf(Generic[W]):
    """The connections to one server: those idle, how many there are, and who waits for one.

    ``waiting`` has what a pool makes somebody wait on, in the order in which they came: only the first may be served.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.idle: list[Connection[W]] = []
        self.waiting: deque[Any] = deque()
        self.open = 0
        self.generation = 0  # what was opened before the last `empty` is not kept
        self._most = limits.max_connections
        self._crowded_until = 0.0

    def serve(self, fresh: bool, now: float) -> tuple[Connection[W] | None, list[Connection[W]], bool]:
        """What whoever is first may have: a connection; those to say goodbye to; whether a new one, which is counted.

        With ``fresh`` an idle one is no good, and has to make room where there is no other.
        """
        gone = self._expired(now)
        if fresh and not gone and not self.may_open(now) and self.idle:
            gone = [self.idle.pop(0)]
        self.open -= len(gone)
        if not fresh and self.idle:
            # the one that was idle for the shortest time is the likeliest to live
            connection = self.idle.pop()
            connection.reused = connection.has_worked = True
            connection.heard = connection.idle_since
            return connection, gone, False
        if self.may_open(now):
            self.open += 1
            return None, gone, True
        return None, gone, False

    def crowd(self, now: float) -> bool:
        """The server has too many connections: open no more than there are. Whether there are any."""
        if self.open:
            self._most, self._crowded_until = self.open, now + CROWDED
        return self.open > 0

    def may_open(self, now: float) -> bool:
        """Whether one more may be opened."""
        return self.open < (self._most if now < self._crowded_until else self.limits.max_connections)

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

    def _expired(self, now: float) -> list[Connection[W]]:
        """Those idle for too long, taken out to be closed."""
        gone = [connection for connection in self.idle if not self.is_fit(connection, now)]
        if gone:
            self.idle = [connection for connection in self.idle if connection not in gone]
        return gone


class Bucket:
    """The messages that the ``rate`` of a server (messages a second) allows: a token bucket of one second's worth."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = self._most = max(rate, 1.0)
        self._filled = now

    def take(self, now: float) -> float:
        """Take one, and 0; or the seconds until there is one."""
        self._tokens = min(self._most, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens > 0.999_999:  # who waited as long as it was told must find one, however times are rounded
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self.rate


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
