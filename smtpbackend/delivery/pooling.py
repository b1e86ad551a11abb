"""Which connection is reused, which is closed, and which call waits. The mailers' pools act on it, under their lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from smtpbackend.delivery.configuration import PoolLimits
from smtpbackend.delivery.hostnames import is_local
from smtpbackend.delivery.inside import Delivery
from smtpbackend.delivery.server import Server
from smtpbackend.errors import MailerClosed, TimedOut
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.timeouts import Timeouts, earliest

__all__ = ["GOODBYE", "LOOK", "Bucket", "Connection", "Shelf", "next_look", "turn_ends"]

W = TypeVar("W")

CROWDED = 60.0  # seconds after a server said "too many", in which no more are open than it left us
NEVER = float("-inf")
GOODBYE = 1.0  # seconds for QUIT and the replies to it, however many connections are closed together
# Seconds between two looks at what is idle. No thread waits on the sockets themselves: each reply on one that is in use
# again would wake it, and a socket that is closed while it is polled stays open (Linux)
LOOK = 1.0


class Connection(Generic[W]):
    """A wire and the session on it.

    ``reused`` tells that the lease at hand is not its first, ``has_worked`` that it carried a message, or did before
    this lease, and ``has_failed`` that its server was blamed for its end. ``deadline`` (seconds of the clock) bounds
    whatever is said on it now; ``heard`` is when the server last answered, 0 until it is ready for mail, and ``reads``
    how often by then. ``lender`` is the delivery from inside of which it was leased beyond the limit: it is closed when
    it comes back.
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
        self.lender: Delivery | None = None

    @property
    def is_used_up(self) -> bool:
        """Whether it has carried as many messages, or refusals, as we or the server (RFC 9422 4.1) let it carry."""
        history, capabilities = self.session.history, self.session.capabilities
        if history.transactions >= self.max_messages or history.is_spent:
            return True
        offered = capabilities.limits.mailmax if "LIMITS" in capabilities else None
        return offered is not None and 0 < offered <= history.transactions


class Shelf(Generic[W]):
    """The connections to one server: those idle, those in use, how many there are, and what waits for one.

    ``waiting`` has what the calls wait on, in the order in which they came: only the first may be served.
    ``open`` counts those that are being opened too, and those ``beyond`` the limit.
    """

    def __init__(self, limits: PoolLimits, generation: int = 0) -> None:
        self.limits = limits
        self.idle: list[Connection[W]] = []  # the one idle for the longest time first
        self.used: WeakSet[Connection[W]] = WeakSet()  # one that an interrupt made us lose is not kept here
        self.waiting: deque[Any] = deque()
        self.open = 0
        self.beyond = 0
        self.generation = generation  # what began before the last `empty` is not kept, and gets no connection any more
        self._most = limits.max_connections
        self._crowded_until = 0.0
        self._given_back = NEVER  # when one last came back that had worked or could be used again
        self._failed = NEVER  # when one was last lost that had not worked

    def serve(self, fresh: bool, now: float) -> tuple[Connection[W] | None, list[Connection[W]], bool]:
        """What the first in line may have: a connection; those to say goodbye to; whether a new one, which is counted.

        With ``fresh`` an idle one is no good, and has to make room where there is no other.
        """
        gone = self.retire(now)
        if fresh and not gone and not self.may_open(now) and self.idle:
            gone = [self.idle.pop(0)]
            self.open -= 1
        if not fresh and self.idle:
            # the one idle for the shortest time is the most likely to be alive
            connection = self.idle.pop()
            connection.reused = connection.has_worked = True
            connection.heard = connection.idle_since
            self.used.add(connection)
            return connection, gone, False
        if self.may_open(now):
            self.open += 1
            return None, gone, True
        return None, gone, False

    def check(self, server: Server, generation: int) -> None:
        """Raise `MailerClosed` for a delivery that began before the last `empty`."""
        if generation != self.generation:
            raise MailerClosed(
                f"the mailer was closed before this delivery had a connection to {server.name}; "
                "wait for what is being sent before you close it",
                server=server.name,
            )

    def lend(self, lender: Delivery) -> None:
        """Count a connection that is opened beyond the limit, for a call inside of ``lender``."""
        self.open += 1
        self.beyond += 1
        lender.lent += 1

    def may_open(self, now: float) -> bool:
        """Whether one more may be opened."""
        if now < self._crowded_until:
            return self.open < self._most
        return self.open - self.beyond < self.limits.max_connections

    def turn_ends(self, server: Server, begun: float, deadline: float | None) -> float:
        """When a call that waits since ``begun`` gives up, as far as is known now."""
        is_ready = any(connection.heard for connection in self.used)
        return turn_ends(begun, self._given_back, NEVER if is_ready else self._failed, server.timeout, deadline)

    def no_turn(self, server: Server, begun: float, now: float, deadline: float | None) -> TimedOut:
        """The error of a call that waited so long."""
        spelled = server.spelling
        if deadline is not None and now >= deadline:
            why = (
                f"the deadline passed while this delivery waited for its turn: all {self.open} connections to "
                f"{server.name} were in use; raise {spelled('max_connections')}, or {spelled('deadline')}"
            )
        elif now - max(begun, self._given_back) < server.timeout.final:
            why = (
                f"no connection to {server.name} could be made ready for {server.timeout.connect:g} s "
                f"({spelled('timeout')}: connect), and this delivery had no turn among {spelled('max_connections')} "
                f"({self.limits.max_connections}); server_failed, and the errors of those that tried, tell why"
            )
        else:
            why = (
                f"none of the {self.open} connections to {server.name} was given back for {server.timeout.final:g} s "
                f"({spelled('timeout')}: final); raise {spelled('max_connections')}, and see that every send_many is "
                "read to its end or closed"
            )
        return TimedOut(why, server=server.name)

    def take_back(self, connection: Connection[W], now: float, crowded: bool = False) -> tuple[bool, bool]:
        """Whether a connection that was leased is kept, else it must be closed; and whether others are open.

        One that still has to say QUIT stays in ``used`` and is counted until it is closed, since its server counts it
        until then, too. Then `count_out` is called.

        ``crowded``: the server said on it that it has too many. If it is beyond the limit, the answer is that no others
        are open, since its sender must not wait for them.
        """
        if connection.has_worked or not (crowded or connection.session.broken):
            self._given_back = now
        elif not crowded:
            self._failed = now
        kept = not crowded and connection.lender is None and self.put(connection, now)
        if kept:
            self.used.discard(connection)
        elif crowded or connection.session.broken:
            self.count_out(connection, connection.lender)
        else:
            return False, self.open > 1
        if not crowded:
            return kept, self.open > 0
        return kept, connection.lender is None and self.crowd(now)

    def count_out(
        self, connection: Connection[W] | None, lender: Delivery | None = None, failed: float | None = None
    ) -> None:
        """Count one fewer as open. None: it was to be opened, and was not; ``failed`` is the time if that failed."""
        self.open -= 1
        if connection is not None:
            self.used.discard(connection)
        if lender is not None:
            self.beyond -= 1
            lender.lent -= 1
        if failed is not None:
            self._failed = failed

    def crowd(self, now: float) -> bool:
        """The server has too many, and closed one: have no more open than are left. Whether any are."""
        if self.open:
            self._most = min(self.open, self._most) if now < self._crowded_until else self.open
            self._crowded_until = now + CROWDED
        return self.open > 0

    def put(self, connection: Connection[W], now: float) -> bool:
        """Keep a connection for its next use; False when it must be closed instead."""
        session = connection.session
        is_old = connection.generation != self.generation
        is_full = connection.is_used_up or session.history.transactions >= self.limits.max_messages
        if is_old or session.broken or is_full:
            return False
        connection.idle_since = now
        self.idle.append(connection)
        return True

    def empty(self) -> list[Connection[W]]:
        """All that are idle, taken out to be closed; those in use are not kept when they come back."""
        self.generation += 1
        return self.take_idle()

    def take_idle(self) -> list[Connection[W]]:
        """All that are idle, taken out to be closed."""
        gone, self.idle = self.idle, []
        self.open -= len(gone)
        return gone

    def retire(self, now: float, ended: Collection[Connection[W]] = ()) -> list[Connection[W]]:
        """Those idle for ``max_idle``, and those that their servers have ``ended``, taken out to be closed."""
        for connection in ended:
            connection.session.end("the server closed it")  # QUIT would not arrive
        gone = [connection for connection in self.idle if not self._is_fit(connection, now)]
        if gone:
            self.idle = [connection for connection in self.idle if self._is_fit(connection, now)]
            self.open -= len(gone)
        return gone

    def _is_fit(self, connection: Connection[W], now: float) -> bool:
        """Whether an idle connection may still be used, as far as can be known without looking at its socket."""
        session = connection.session
        return (
            now < connection.idle_since + self.limits.max_idle and session.line.replies.is_empty and not session.broken
        )


def next_look(shelves: Iterable[Shelf[Any]], now: float) -> float | None:
    """When to look for what `Shelf.retire` takes out; None where no connection is left.

    Connections in use will become idle, so that looking goes on and need not be started anew for each message.
    """
    shelves = [shelf for shelf in shelves if shelf.idle or shelf.used]
    due = [shelf.idle[0].idle_since + shelf.limits.max_idle for shelf in shelves if shelf.idle]
    return min([now + LOOK, *due]) if shelves else None


def turn_ends(begun: float, given_back: float, failed: float, timeouts: Timeouts, deadline: float | None) -> float:
    """When a wait for a turn is over: a turn is not a connect, and a call waits while turns advance.

    The time of a final reply is counted anew from each connection that is given back (RFC 5321 4.5.3.2.6: no mail takes
    longer). If since then a connection could not be made ready, the server seems dead, and a call waits no
    longer than a connect takes.
    """
    since = max(begun, given_back)
    return earliest(since + (timeouts.connect if failed > since else timeouts.final), deadline)


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
        if self._tokens > 0.999_999:  # after the seconds that were told there must be one, however times are rounded
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
        local_peer=server.proxy is None and is_local(peer),  # behind a proxy the server is never local
        transcript=transcript,
        spelling=server.spelling,
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
