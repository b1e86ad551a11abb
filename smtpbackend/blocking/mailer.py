"""Mailer: hands messages to servers. It performs what ``delivery/dispatch.py`` decides."""

from __future__ import annotations

import operator
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from smtpbackend.delivery.configuration import configure
from smtpbackend.delivery.parcel import Caller
from smtpbackend.errors import SMTPError
from smtpbackend.hiding import discreet, keep_here

# What sends is loaded with the first Mailer: a program that only imports it does not pay for it (DESIGN 5.6).
if TYPE_CHECKING:
    from smtpbackend.address import Address
    from smtpbackend.delivery.dispatch import Dispatch
    from smtpbackend.delivery.inside import Delivery
    from smtpbackend.delivery.lifecycle import Lifecycle
    from smtpbackend.delivery.parcel import Parcel
    from smtpbackend.delivery.route import Route
    from smtpbackend.delivery.server import Server
    from smtpbackend.delivery.statistics import Statistics
    from smtpbackend.envelope import Envelope
    from smtpbackend.events import Listener
    from smtpbackend.outcome import Receipt, Reply

__all__ = ["Mailer", "SharedMailer", "Stream"]

T = TypeVar("T")


class Mailer:
    """Sends mail through one or several servers, on connections that it keeps.

    A server is a URL (``"smtps://smtp.example.com"``), a host name, a mapping of its settings or a
    `Server`; with several, the next is tried where one fails. Keywords are the settings of
    ``docs/reference/settings.md``; a server's setting given here is the default of all servers. ``listeners`` take
    every event. Safe for threads and forks. Close it, or use it in a with statement: one that is forgotten with open
    connections closes them and warns (``ResourceWarning``). Raises `InvalidSetting`.

    >>> with Mailer("smtp://localhost:1025") as mailer:          # doctest: +SKIP
    ...     receipt = mailer.send(Message(subject="Hi", from_="a@example.com", to="b@example.com", text="Hello"))
    """

    @discreet
    def __init__(self, *servers: Any, listeners: Sequence[Listener] = (), **settings: Any) -> None:
        # Whatever a first delivery needs is loaded now: who is forked while a thread loads it can never load it.
        import encodings.idna  # noqa: F401

        import smtpbackend.delivery.date_and_id
        import smtpbackend.delivery.dispatch
        import smtpbackend.delivery.lifecycle
        import smtpbackend.signals  # noqa: F401
        from smtpbackend.blocking.pool import Pool
        from smtpbackend.delivery.route import Route
        from smtpbackend.events import check_listeners

        self._listeners = check_listeners(listeners)
        if servers:
            settings["servers"] = list(servers)
        self.configuration = configure(settings)
        config = self.configuration
        self._route = Route(config.servers, config.strategy, config.rest)
        self._pool = Pool(config.limits)
        for server in config.servers:
            if server.ca_file or server.client_cert:
                self._pool.context(server)  # a wrong path is found now, not at the first mail

    @classmethod
    @discreet
    def from_settings(cls, settings: Mapping[str, Any], listeners: Sequence[Listener] = ()) -> Mailer:
        """A Mailer from the neutral keys, as an adapter has them. Raises `InvalidSetting`."""
        return cls(listeners=listeners, **settings)

    def __enter__(self) -> Mailer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        pool = vars(self).get("_pool")  # none where the settings were wrong
        if pool is None or not pool.has_idle() or sys.is_finalizing():
            return
        try:
            self._forgotten()
        finally:
            pool.close()

    def _forgotten(self) -> None:
        """Nobody has it any more, and it has open connections."""
        why = f"unclosed {self!r}: call its close(), or use it in a with statement"
        warnings.warn(why, ResourceWarning, stacklevel=3, source=self)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        keep_here("a Mailer")

    def __repr__(self) -> str:
        return f"<Mailer {', '.join(server.name for server in self.configuration.servers)}>"

    def send(self, message: Any, envelope: Envelope | None = None, *, listeners: Sequence[Listener] = ()) -> Receipt:
        """Send one message; returns when every recipient is settled.

        ``message`` is a `Message` or an ``email.message.Message``; with an envelope also bytes, a path, a binary file
        or an iterable of bytes; what can be read only once is for one message. Returns the receipt when at least one
        recipient was accepted; else raises `InvalidInput`, `CancelSend` or a `DeliveryError`, which carries it as
        ``receipt``.
        """
        caller = Caller(iter([(message, envelope)]))
        receipt: Receipt = self._perform(self._dispatch(self._lifecycle(listeners), caller).run(1), caller)
        if receipt.error is not None:
            raise receipt.error
        return receipt

    def send_many(
        self, messages: Iterable[Any], *, connections: int = 1, listeners: Sequence[Listener] = ()
    ) -> Stream[Receipt]:
        """Send each of a stream of messages; gives receipts lazily and in order, and never raises for one message.

        Items are as for `send`, or pairs of content and envelope. An exception of the iterable itself is raised after
        the receipts of what was taken from it. With ``connections`` (up to ``max_connections``) as many threads share
        the stream: then Listeners, and the iterable, are called by them, and `message_sending` by yours.
        """
        return self._stream(Caller(iter(messages)), connections, listeners, pairs=False, in_order=True)

    def deliver(
        self,
        items: Iterable[Any],
        *,
        prepare: Callable[[Any], Parcel | None] | None = None,
        connections: int = 1,
        listeners: Sequence[Listener] = (),
        holds: Callable[[Any], bool] | None = None,
        pace: Callable[[str, int], float] | None = None,
        suppress: bool | None = None,
        in_order: bool = False,
    ) -> Stream[tuple[Any, Receipt | None]]:
        """Send what ``prepare`` makes of each item; gives item and receipt together as soon as they are known.

        It is lazy, and never raises for one item. With ``in_order`` a pair waits until those before it are given.

        ``prepare(item)`` returns a `smtpbackend.adapters.Parcel`, or None where there is nothing to send: then the
        receipt is None. It is called for one item at a time, in the thread that iterates, over several ``connections``
        too. What it raises is the ``error`` of the item's receipt; what is no Exception ends the stream, after the
        receipts in flight. Without ``prepare`` the items are as for `send_many`.

        ``holds(item)`` is asked before each transaction of an item is written; where it answers False, what is left of
        the item is deferred. ``pace(server, n)`` is asked before ``n`` messages begin on the server of that name, and
        answers how many seconds to wait. With several connections both are called by other threads, and so are
        listeners.

        ``suppress`` (default: the setting ``suppress_send``) does everything but the conversation: all recipients that
        are left count as accepted.
        """
        caller = Caller(iter(items), prepare, holds, pace)
        return self._stream(caller, connections, listeners, suppress, pairs=True, in_order=in_order)

    def _stream(
        self,
        caller: Caller,
        connections: int,
        listeners: Sequence[Listener],
        suppress: bool | None = None,
        *,
        pairs: bool,
        in_order: bool,
    ) -> Stream[Any]:
        lifecycle = self._lifecycle(listeners, suppress)
        if connections == 1:
            dispatch = self._dispatch(lifecycle, caller, pairs=pairs, in_order=in_order)
            return Stream(self._pool.perform(dispatch.run(operator.length_hint(caller.source)), caller))
        from smtpbackend.blocking.spread import spread
        from smtpbackend.delivery.spreading import Spread, check_connections

        check_connections(connections, self.configuration)
        down: dict[Server, SMTPError] = {}
        most = connections * max(server.window for server in self.configuration.servers)
        state = Spread(caller.source, connections, most, pairs, in_order)

        def perform(share: Caller, within: Delivery) -> Iterator[Any]:
            dispatch = self._dispatch(lifecycle, share, pairs=True, down=down)
            return self._pool.perform(dispatch.run(operator.length_hint(share.source)), share, within)

        return Stream(spread(caller, state, self._pool, lifecycle, perform))

    def verify(self, address: str) -> Reply:
        """Ask the first server that answers about a mailbox (VRFY): 250, 251, 252 or 550 (RFC 5321 3.5)."""
        return self._ask(self._dispatch().verify(address))

    def expand(self, name: str) -> Reply:
        """Ask for the members of a mailing list (EXPN)."""
        return self._ask(self._dispatch().expand(name))

    def help(self, argument: str = "") -> Reply:
        """Ask for help (HELP)."""
        return self._ask(self._dispatch().help(argument))

    def connect(self) -> bool:
        """Have a connection ready, logged in; True when it had to be opened. Raises `DeliveryError`."""
        return bool(self._perform(self._dispatch().ask(lambda session: session.is_new())))

    def check(self) -> list[tuple[str, SMTPError | None]]:
        """Connect and log in to each server; its name, and the error or None."""
        from smtpbackend.delivery.route import Route

        found: list[tuple[str, SMTPError | None]] = []
        for server in self.configuration.servers:
            try:
                self._perform(self._dispatch(route=Route([server])).ask(lambda session: session.noop()))
            except SMTPError as error:
                found.append((server.name, error))
            else:
                found.append((server.name, None))
        return found

    @property
    def bounce_address(self) -> Address | None:
        """The setting of that name: the sender that an envelope made from a message has, or None."""
        return self.configuration.rules.bounce_address

    def stats(self) -> Statistics:
        """How many connections are open and idle, and what was done with them."""
        return self._pool.statistics()

    def close(self) -> None:
        """Close the connections; those in use are closed when they come back.

        A message that waits for a connection gets none any more, and fails with `MailerClosed`. The Mailer may be used
        again, and opens new ones then.
        """
        self._pool.close()

    def _ask(self, question: Generator[Any, Any, None]) -> Reply:
        reply: Reply = self._perform(question)
        return reply

    def _lifecycle(self, listeners: Sequence[Listener] = (), suppress: bool | None = None) -> Lifecycle:
        from smtpbackend.delivery.date_and_id import stamp
        from smtpbackend.delivery.lifecycle import Lifecycle
        from smtpbackend.events import Telling, check_listeners
        from smtpbackend.signals import SignalListener

        if listeners != ():
            listeners = check_listeners(listeners)
        rules = self.configuration.rules
        return Lifecycle(
            rules,
            tell=Telling((*listeners, *self._listeners, SignalListener(self))),
            clock=time.monotonic,
            stamp=stamp,
            deadline=self.configuration.deadline,
            ended=self._pool.count,
            suppress=rules.suppress_send if suppress is None else suppress,
        )

    def _dispatch(
        self,
        lifecycle: Lifecycle | None = None,
        caller: Caller | None = None,
        *,
        pairs: bool = False,
        in_order: bool = False,
        route: Route | None = None,
        down: dict[Server, SMTPError] | None = None,
    ) -> Dispatch:
        from smtpbackend.delivery.dispatch import Dispatch

        return Dispatch(
            route or self._route,
            lifecycle or self._lifecycle(),
            moved=self._pool.count_move,
            down=down,
            caller=caller,
            pairs=pairs,
            in_order=in_order,
        )

    def _perform(self, dispatch: Generator[Any, Any, None], caller: Caller | None = None) -> Any:
        """The one thing that a dispatch gives."""
        (given,) = self._pool.perform(dispatch, caller or Caller(iter(())))
        return given


class Stream(Generic[T]):
    """What becomes of the messages of a `deliver` or `send_many`, while they are sent: an iterator.

    Nothing is sent before it is iterated: one that never is warns (``RuntimeWarning``). `close` ends it: what is in
    flight is waited for, and nothing more begins.
    """

    def __init__(self, given: Iterator[T]) -> None:
        self._given: Any = given
        self._is_begun = False

    def __iter__(self) -> Iterator[T]:
        self._is_begun = True
        return self._given  # type: ignore[no-any-return]

    def __next__(self) -> T:
        self._is_begun = True
        return next(self._given)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Wait for what is in flight, and begin nothing more."""
        self._is_begun = True
        self._given.close()

    def __del__(self) -> None:
        if not self._is_begun:
            why = "a stream of messages was never iterated, so that nothing of it was sent: iterate over it"
            warnings.warn(why, RuntimeWarning, stacklevel=2, source=self)


class SharedMailer(Mailer):
    """One that an adapter shares among whoever sends: it closes itself with the last who has it, without a warning."""

    def _forgotten(self) -> None:
        pass
