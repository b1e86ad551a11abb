"""Mailer: hands messages to servers. It performs what ``delivery/dispatch.py`` decides."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

from smtpbackend.base_mailer import BaseMailer
from smtpbackend.errors import SMTPError
from smtpbackend.hiding import keep_here

if TYPE_CHECKING:
    from smtpbackend.blocking.pool import Pool
    from smtpbackend.delivery.caller import Caller
    from smtpbackend.delivery.diagnosis import Check
    from smtpbackend.delivery.parcel import Parcel
    from smtpbackend.delivery.server import Server
    from smtpbackend.delivery.statistics import Statistics
    from smtpbackend.envelope import Envelope
    from smtpbackend.events import Listener
    from smtpbackend.message import Sendable
    from smtpbackend.outcome import Receipt, Reply
    from smtpbackend.streams import Stream

__all__ = ["Mailer", "SharedMailer", "checks"]


class Mailer(BaseMailer):
    """Sends mail through one or several servers, on connections that it keeps.

    A server is a URL (``"smtps://smtp.example.com"``), a host name, a mapping of its settings or a
    `Server`; with several, the next is tried where one fails. Keywords are the settings of
    ``docs/reference/settings.md``; a server's setting given here is the default of all servers. ``listeners`` take
    every event. Safe for threads and forks. Close it, or use it in a with statement: one that is forgotten with open
    connections closes them and warns (``ResourceWarning``). Raises `InvalidSetting`.

    >>> with Mailer("smtp://localhost:1025") as mailer:          # doctest: +SKIP
    ...     receipt = mailer.send(Message(subject="Hi", from_="a@example.com", to="b@example.com", text="Hello"))
    """

    _twin = "smtpbackend.blocking"
    _modules = ("smtpbackend.blocking.pool", "smtpbackend.blocking.spread")

    def _set_up(self, with_files: Sequence[Server]) -> None:
        from smtpbackend.blocking.pool import Pool

        self._pool = Pool(self.configuration.limits)
        for server in with_files:
            self._pool.context(server)

    def _here(self) -> Pool:
        return self._pool

    def _spread(self, *args: Any) -> Iterator[Any]:
        from smtpbackend.blocking.spread import spread

        return spread(*args)

    def __enter__(self) -> Self:
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
        """It was forgotten, and it has open connections."""
        why = f"unclosed {self!r}: call its close(), or use it in a with statement"
        warnings.warn(why, ResourceWarning, stacklevel=3, source=self)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        keep_here("a Mailer")

    def send(
        self, message: Sendable, envelope: Envelope | None = None, *, listeners: Sequence[Listener] = ()
    ) -> Receipt:
        """Send one message; returns when every recipient is settled.

        ``message`` is a `Message` or an ``email.message.Message``; with an envelope also bytes, a path, a binary file
        or an iterable of bytes; what can be read only once is for one message. Returns the receipt when at least one
        recipient was accepted; else raises `InvalidInput`, `CancelSend` or a `DeliveryError`, which carries it as
        ``receipt``.
        """
        from smtpbackend.delivery.caller import Caller

        caller = Caller(iter([(message, envelope)]))
        receipt: Receipt = self._perform(self._dispatch(self._lifecycle(listeners), caller).run(1), caller)
        if receipt.error is not None:
            raise receipt.error
        return receipt

    def send_many(
        self,
        messages: Iterable[Sendable | tuple[Sendable, Envelope]],
        *,
        connections: int = 1,
        listeners: Sequence[Listener] = (),
    ) -> Stream[Receipt]:
        """Send each of a stream of messages; gives receipts lazily and in order, and never raises for one message.

        Items are as for `send`, or pairs of content and envelope. An exception of the iterable itself is raised after
        the receipts of what was taken from it. With ``connections`` (up to ``max_connections``) that many threads share
        the stream. They or your thread ask the iterable, one at a time. Your thread tells Listeners of
        `MessageSending`, the other threads tell them of all other events.
        """
        from smtpbackend.delivery.caller import Caller
        from smtpbackend.streams import Stream

        given = self._stream(Caller(iter(messages)), connections, listeners, pairs=False, in_order=True)
        return Stream(given)

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
        the item is deferred. ``pace(server, n)`` is asked before ``n`` messages begin on the server of that name (each
        asks for itself: ``n`` is 1), and answers how many seconds to wait. If it raises, or its answer is no number of
        seconds, the item is deferred. With several connections both are called by other threads; for ``items`` and
        listeners see `send_many`.

        ``suppress`` (default: the setting ``suppress_send``) does everything but the conversation: all recipients that
        are left count as accepted.

        ``items`` may give `smtpbackend.adapters.LATER` where there is no item now. What is under way goes on meanwhile,
        and ``items`` is asked again when you come back from another pair. Where nothing is under way, it ends the
        stream.
        """
        from smtpbackend.delivery.caller import Caller
        from smtpbackend.streams import Stream

        caller = Caller(iter(items), prepare, holds, pace)
        return Stream(self._stream(caller, connections, listeners, suppress, pairs=True, in_order=in_order))

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

    def check(self, send_to: str | None = None) -> list[Check]:
        """Find out what becomes of mail at each server: a `Check` for each, with its steps and how long they took.

        A connection of its own is made ready for mail, as for every mail, and is closed then. With ``send_to`` a short
        message is sent over it to that address, from ``bounce_address`` or the same address. What fails is told in the
        `Check`, and not raised. No Listener and no receiver is told.
        """
        return list(checks(self, send_to))

    def _each(self, server: Server) -> list[Server]:
        """The servers that SRV records name, or the server itself; also where they cannot be found."""
        if server.srv:
            with contextlib.suppress(SMTPError):
                return self._pool.find(server, None)
        return [server]

    def _check(self, server: Server, send_to: str | None) -> Check:
        from smtpbackend.blocking.dial import unconnectable
        from smtpbackend.delivery.diagnosis import Watch, check_of, message_to

        watch = Watch(server, self._here().clock, self.configuration.rules.recipient_policy, self._route.experience)
        error: Exception | None = None
        receipt: Receipt | None = None
        with self._beside(server.replace(watch=watch.note)) as mailer:
            try:
                mailer._perform(mailer._dispatch().ask(watch.look))
                if send_to is not None:
                    receipt = mailer.send(message_to(send_to, self.bounce_address))
            except SMTPError as failed:
                error, receipt = failed, failed.receipt
        if others := watch.others():
            watch.dead = unconnectable(server, others)
        return check_of(server, watch, error, time.time(), receipt)

    def stats(self) -> Statistics:
        """How many connections are open and idle, and what was done with them."""
        from smtpbackend.after_fork import notice_fork

        notice_fork()
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

    def _perform(self, dispatch: Generator[Any, Any, None], caller: Caller | None = None) -> Any:
        """The one thing that a dispatch gives."""
        from smtpbackend.delivery.caller import Caller

        (given,) = self._pool.perform(dispatch, caller or Caller(iter(())))
        return given


class SharedMailer(Mailer):
    """One that an adapter shares among all that send: it closes itself with the last reference, without a warning."""

    def _forgotten(self) -> None:
        pass


def checks(mailer: Mailer, send_to: str | None) -> Iterator[Check]:
    """What `Mailer.check` gives, each as soon as it is known."""
    for server in mailer.configuration.servers:
        for target in mailer._each(server):
            yield mailer._check(target, send_to)
