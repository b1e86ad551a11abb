"""Plays a dispatch from scripts: leases, talks, pulls and releases are performed on lists. No socket, no clock."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from datetime import UTC, datetime
from typing import Any

from smtpbackend import Receipt, Server
from smtpbackend.delivery.asks import (
    END,
    GONE,
    NOT_ASKED,
    Give,
    Holds,
    Lease,
    Pace,
    Prepare,
    Pull,
    Release,
    Reserve,
    Sleep,
    Talk,
)
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.dispatch import Dispatch
from smtpbackend.delivery.lifecycle import Lifecycle
from smtpbackend.delivery.pooling import Bucket, Connection
from smtpbackend.delivery.route import Route
from smtpbackend.errors import ConnectFailed, SMTPError, TimedOut
from smtpbackend.events import Telling
from smtpbackend.protocol.effects import Ended, Now, Read, StartTLS, Work, Write
from smtpbackend.protocol.session import Session
from smtpbackend.testing import CUT, RESET, SILENCE, TLS, Play, Speaker
from tests.telling import names_of

REFUSED = "refused"
"""Instead of a Play: nobody listens there."""
BUSY = "busy"
"""Instead of a Play: the pool has no connection to spare."""


class ListWire:
    """A wire that ends in a `Speaker`. Every read takes one of the octet strings that it has said."""

    def __init__(self, speaker: Speaker, world: Played) -> None:
        self.speaker = speaker
        self.world = world
        self.incoming: list[Any] = speaker.greet()
        self.closed = False

    def talk(self, conversation: Generator[Any, Any, Any], value: Any, deadline: float | None = None) -> Any:
        """Perform network effects until something else is yielded or the conversation returns."""
        try:
            step = conversation.send(value)
            while True:
                try:
                    answer = None
                    if type(step) is Write:
                        heard = len(self.speaker.commands)
                        self.incoming += self.speaker.hear(bytes(step.data))
                        for line in self.speaker.commands[heard:]:
                            self.world.now += self.world.slow.get(line, 0.0)
                    elif type(step) is Read:
                        answer = self._read(step, deadline)
                    elif type(step) is StartTLS:
                        assert self.incoming.pop(0) == TLS
                        self.speaker.secured = True
                    elif type(step) is Now:
                        answer = self.world.now
                    elif type(step) is Work:
                        answer = step.do()
                    else:
                        return step
                except OSError as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(answer)
        except StopIteration as stop:
            return Ended(stop.value)
        except BaseException:
            self.closed = True
            raise

    def _read(self, read: Read, deadline: float | None) -> bytes:
        said = self.incoming.pop(0) if self.incoming else SILENCE
        if said == SILENCE:
            self.world.now = min(self.world.now + read.timeout, deadline or float("inf"))
            raise TimeoutError
        if said == CUT:
            self.incoming.insert(0, CUT)
            return b""
        if said == RESET:
            raise ConnectionResetError(104, "reset")
        assert isinstance(said, bytes), said
        return said


class Played:
    """A world in which a `Dispatch` runs: servers by host name, each with a Play for every connection to it."""

    def __init__(self, servers: dict[str, list[Any]], **options: Any) -> None:
        self.now = 1000.0
        keys = {key: options.pop(key) for key in ("window", "chunk_in_flight", "rate") if key in options}
        keys.setdefault("chunk_in_flight", "probe")
        self.servers = {Server(host, tls="none", **{"window": 1, **keys}): plays for host, plays in servers.items()}
        self.route = Route(list(self.servers), options.pop("strategy", "failover"), options.pop("rest", 30.0))
        self.options = options
        self.caller = Caller(None, *(options.pop(key, None) for key in ("prepare", "holds", "pace")))
        self.asked: list[tuple[Any, ...]] = []
        """What the caller was asked, in order, as ("prepare", item) or ("pace", server, number)."""
        self.speakers: dict[str, list[Speaker]] = {host: [] for host in servers}
        self.leases: list[tuple[str, bool]] = []
        """Host and ``fresh`` of each lease."""
        self.deadlines: list[float | None] = []
        self.idle: list[Connection[ListWire]] = []
        self.out: list[Connection[ListWire]] = []
        self.pulled = 0
        self.events: list[Any] = []
        self.max_messages = 100
        self.buckets: dict[Server, Bucket] = {}
        self.paused = 0.0
        self.ours = 0
        """Other connections of this process to each server."""
        self.turns: list[float] = []
        """Seconds after which each of the first leases is given up, because no connection became free."""
        self.slow: dict[str, float] = {}
        """Seconds that a server takes for a flight with this command in it."""

    def dispatch(self) -> Dispatch:
        """One for these servers."""
        lifecycle = Lifecycle(
            Rules(self.options.get("policy", "any")),
            Telling([self.events.append, *self.options.get("listeners", ())]),
            lambda: self.now,
            lambda: (datetime(2026, 9, 1, 12, tzinfo=UTC), "token"),
            self.options.get("deadline"),
            suppress=self.options.get("suppress", False),
        )
        return Dispatch(
            self.route,
            lifecycle,
            moved=self.options.get("moved", lambda: None),
            caller=self.caller,
            pairs=self.options.get("pairs", False),
            in_order=self.options.get("in_order", not self.options.get("pairs", False)),
        )

    def send(self, *items: Any) -> list[Receipt]:
        """Send these, and give all receipts."""
        return list(self.stream(items, self.options.get("count", len(items))))

    def ask(self, question: Callable[[Session], Any]) -> Any:
        """Put a question."""
        (answer,) = self.perform(self.dispatch().ask(question), ())
        return answer

    def stream(self, items: Iterable[Any], count: int = 0) -> Generator[Receipt, None, None]:
        """Send these one by one as receipts are taken; ``count``: how many the source says that it has."""
        return self.perform(self.dispatch().run(count), items)

    def perform(self, dispatch: Generator[Any, Any, None], items: Iterable[Any]) -> Generator[Any, None, None]:
        """Perform the effects of a dispatch."""
        source = iter(items)
        gone = False
        try:
            effect = next(dispatch)
            while True:
                answer = None
                try:
                    match effect:
                        case Pull():
                            if effect.unsent and self.options.get("hesitant"):
                                effect = dispatch.send(NOT_ASKED)
                                continue
                            answer = END if gone else next(source, END)
                            self.pulled += answer is not END
                        case Prepare(item):
                            self.asked.append(("prepare", item))
                            try:
                                answer = self.caller.prepare(item)
                            except Exception as error:
                                answer = error
                            except BaseException:
                                answer = END
                        case Holds(item):
                            self.asked.append(("holds", item))
                            answer = self.caller.holds(item)
                        case Reserve(server, number):
                            self.asked.append(("pace", server, number))
                            answer = self.caller.pace(server, number)
                        case Sleep(until):
                            self.paused += until - self.now
                            self.now = until
                        case Give(_, given):
                            if not gone:
                                try:
                                    yield given
                                except GeneratorExit:
                                    gone = True
                            answer = GONE if gone else None
                        case Pace(server):
                            assert server.rate is not None
                            answer = self.buckets.setdefault(server, Bucket(server.rate, self.now)).take(self.now)
                        case Lease(server, fresh, deadline):
                            answer = self._lease(server, fresh)
                            self.deadlines.append(deadline)
                        case Talk(connection, conversation, value):
                            answer = connection.wire.talk(conversation, value, connection.deadline)
                        case Release(connection, crowded):
                            self.out.remove(connection)
                            session = connection.session
                            if not session.broken and not connection.is_used_up and not crowded:
                                connection.idle_since = self.now
                                self.idle.append(connection)
                            ours = [*self.out, *self.idle]
                            is_open = self.ours or any(other.server == connection.server for other in ours)
                            answer = crowded and bool(is_open)
                        case _:
                            raise AssertionError(f"{effect!r} is no effect")
                except SMTPError as error:
                    effect = dispatch.throw(error)
                else:
                    effect = dispatch.send(answer)
        except StopIteration:
            assert not self.out, "a connection was not given back"

    def _lease(self, server: Server, fresh: bool) -> Connection[ListWire]:
        self.leases.append((server.host, fresh))
        if self.turns:
            self.now += self.turns.pop(0)
            raise TimedOut(f"all connections to {server} stayed in use", server=server.name)
        if not fresh:
            for connection in self.idle:
                if connection.server == server:
                    self.idle.remove(connection)
                    self.out.append(connection)
                    connection.reused = connection.has_worked = True
                    connection.heard = connection.idle_since
                    return connection
        plays = self.servers[server]
        play = plays[min(len(self.speakers[server.host]), len(plays) - 1)]
        if play is BUSY:
            raise TimedOut(f"all connections to {server} stayed in use", server=server.name)
        if play is REFUSED:
            raise ConnectFailed(f"cannot connect to {server.name}", server=server.name)
        speaker = Speaker(play if isinstance(play, Play) else Play(play), lambda: len(self.handed_over(server.host)))
        self.speakers[server.host].append(speaker)
        session = Session(server.name, "client.example.org", timeouts=server.timeout, local_peer=True)
        connection = Connection(server, ListWire(speaker, self), session, self.max_messages)
        self.out.append(connection)
        return connection

    def handed_over(self, host: str, refused: bool = True) -> list[tuple[str, ...]]:
        """The recipients of each content that a server got, local parts only; or of those that it did not refuse."""
        return [
            tuple(line.partition("<")[2].partition("@")[0] for line in transaction.recipients)
            for speaker in self.speakers[host]
            for transaction in (speaker.handed_over if refused else speaker.taken)
        ]

    def names(self) -> list[str]:
        """The events' names, with the server and phase of a failure; for the end of a message those of its signals."""
        return [name for event in self.events for name in _names(event)]


def _names(event: Any) -> list[str]:
    if event.name == "server_failed":
        return [f"server_failed {event.server.split(':')[0]} {event.phase}"]
    return names_of(event)


__all__ = ["BUSY", "CUT", "REFUSED", "SILENCE", "Play", "Played"]
