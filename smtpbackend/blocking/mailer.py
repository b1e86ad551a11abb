"""Mailer: hands messages to servers. It performs what ``delivery/dispatch.py`` decides."""

from __future__ import annotations

import operator
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from smtpbackend.delivery.configuration import configure
from smtpbackend.errors import SMTPError
from smtpbackend.hiding import discreet, keep_here

# What sends is loaded with the first Mailer: a program that only imports it does not pay for it (DESIGN 5.6).
if TYPE_CHECKING:
    from smtpbackend.delivery.dispatch import Dispatch
    from smtpbackend.delivery.inside import Delivery
    from smtpbackend.delivery.route import Route
    from smtpbackend.delivery.server import Server
    from smtpbackend.delivery.statistics import Statistics
    from smtpbackend.envelope import Envelope
    from smtpbackend.events import Listener
    from smtpbackend.outcome import Receipt, Reply

__all__ = ["Mailer", "SharedMailer"]


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

        import smtpbackend.delivery.dispatch
        import smtpbackend.delivery.stamp
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
        receipt: Receipt = self._perform(self._dispatch(listeners).run(1), iter([(message, envelope)]))
        if receipt.error is not None:
            raise receipt.error
        return receipt

    def send_many(
        self, messages: Iterable[Any], *, connections: int = 1, listeners: Sequence[Listener] = ()
    ) -> Iterator[Receipt]:
        """Send each of a stream of messages; gives receipts lazily and in order, and never raises for one message.

        Items are as for `send`, or pairs of content and envelope. An exception of the iterable itself is raised after
        the receipts of what was taken from it. With ``connections`` (up to ``max_connections``) as many threads share
        the stream: then Listeners, and the iterable, are called by them.
        """
        if connections == 1:
            source = iter(messages)
            return self._pool.perform(self._dispatch(listeners).run(operator.length_hint(source)), source)
        from smtpbackend.blocking.spread import spread
        from smtpbackend.delivery.spreading import check_connections

        check_connections(connections, self.configuration)
        down: dict[Server, SMTPError] = {}
        most = connections * max(server.window for server in self.configuration.servers)

        def send(share: Any, within: Delivery) -> Iterator[Receipt]:
            run = self._dispatch(listeners, down=down, composed=share.composed).run(operator.length_hint(share))
            return self._pool.perform(run, share, within)

        receipts: Iterator[Receipt] = spread(iter(messages), connections, most, self._pool, send)
        return receipts

    def verify(self, address: str) -> Reply:
        """Ask the first server that answers about a mailbox (VRFY): 250, 251, 252 or 550 (RFC 5321 3.5)."""
        return self._ask(self._dispatch(()).verify(address))

    def expand(self, name: str) -> Reply:
        """Ask for the members of a mailing list (EXPN)."""
        return self._ask(self._dispatch(()).expand(name))

    def help(self, argument: str = "") -> Reply:
        """Ask for help (HELP)."""
        return self._ask(self._dispatch(()).help(argument))

    def connect(self) -> bool:
        """Have a connection ready, logged in; True when it had to be opened. Raises `DeliveryError`."""
        return bool(self._perform(self._dispatch(()).ask(lambda session: session.is_new()), iter(())))

    def check(self) -> list[tuple[str, SMTPError | None]]:
        """Connect and log in to each server; its name, and the error or None."""
        from smtpbackend.delivery.route import Route

        found: list[tuple[str, SMTPError | None]] = []
        for server in self.configuration.servers:
            try:
                self._perform(self._dispatch((), Route([server])).ask(lambda session: session.noop()), iter(()))
            except SMTPError as error:
                found.append((server.name, error))
            else:
                found.append((server.name, None))
        return found

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
        reply: Reply = self._perform(question, iter(()))
        return reply

    def _dispatch(
        self,
        listeners: Sequence[Listener],
        route: Route | None = None,
        down: dict[Server, SMTPError] | None = None,
        composed: Callable[[], object] = lambda: None,
    ) -> Dispatch:
        from smtpbackend.delivery.dispatch import Dispatch
        from smtpbackend.delivery.stamp import stamp
        from smtpbackend.events import Telling, check_listeners
        from smtpbackend.signals import SignalListener

        if listeners != ():
            listeners = check_listeners(listeners)
        return Dispatch(
            route or self._route,
            rules=self.configuration.rules,
            tell=Telling((*listeners, *self._listeners, SignalListener(self))),
            clock=time.monotonic,
            stamp=stamp,
            deadline=self.configuration.deadline,
            moved=self._pool.count_move,
            ended=self._pool.count,
            down=down,
            composed=composed,
        )

    def _perform(self, dispatch: Generator[Any, Any, None], source: Iterator[Any]) -> Any:
        """The one thing that a dispatch gives."""
        (given,) = self._pool.perform(dispatch, source)
        return given


class SharedMailer(Mailer):
    """One that an adapter shares among whoever sends: it closes itself with the last who has it, without a warning."""

    def _forgotten(self) -> None:
        pass
