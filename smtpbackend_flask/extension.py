"""The extension: `Mail`, what it keeps for each app, and Flask-Mail's `Connection`.

Everything that belongs to an app is in its `State`, at ``app.extensions["smtpbackend"]`` and, where Flask-Mail has it,
at ``app.extensions["mail"]``. One `Mail` may serve several apps. How mail is made and sent is in ``smtpbackend``.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from flask import Flask, current_app
from flask.logging import default_handler, has_level_handler
from werkzeug.local import LocalProxy

from smtpbackend.adapters import SignalListener, at_fork, discreet, emit
from smtpbackend_flask.config import Config, read_config, warn
from smtpbackend_flask.message import IncompleteMessage, Message
from smtpbackend_flask.signals import email_dispatched, signals

# What mails need is loaded as the Mailer is made, see `_Mailers`
if TYPE_CHECKING:
    from smtpbackend import AsyncMailer, Envelope, Mailer, Receipt
    from smtpbackend.adapters import Parcel
    from smtpbackend_flask.sanitize import Mailbox

__all__ = ["Connection", "Mail", "State"]


class _Sending:
    """What `Mail` and `State` both offer; ``connect`` is theirs."""

    def connect(self) -> Connection:
        raise NotImplementedError

    def send(self, message: Any, envelope: Envelope | None = None) -> Receipt:
        """Send one message; the receipt says what became of each recipient.

        ``message`` is a `Message`, a ``flask_mail.Message``, a ``smtpbackend.Message`` or any
        ``email.message.Message``; with an ``Envelope`` also bytes, a path, a binary file or an iterable of bytes. While
        sending is suppressed (``MAIL_SUPPRESS_SEND``, or the app is testing) everything is done but the sending.
        Raises `BadHeaderError` and other `InvalidInput`, ``AssertionError`` without recipients or sender, `CancelSend`,
        and a `DeliveryError` when nobody was accepted; errors carry ``.receipt``.
        """
        with self.connect() as connection:
            return connection.send(message, envelope=envelope)

    async def asend(self, message: Any, envelope: Envelope | None = None) -> Receipt:
        """Send one message from an async view: as `send` does, over an `AsyncMailer` of the same settings.

        Its connections are kept for the running event loop and closed with it. Flask runs each async view in a loop of
        its own, except under an ASGI server.
        """
        return await self.connect().mail.adeliver(message, envelope)

    def send_message(self, *args: Any, **kwargs: Any) -> Receipt:
        """Send a `Message` made of these arguments."""
        with self.connect() as connection:
            return connection.send_message(*args, **kwargs)


class _Mailers:
    """The two mailers of one app, each made on first use.

    Connections are closed with the app and when the process ends; those of the `AsyncMailer` also with their loop.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._mailer: Mailer | None = None
        self._async_mailer: AsyncMailer | None = None

    def mailer(self) -> Mailer:
        if self._mailer is None:
            with _making:
                if self._mailer is None:
                    from smtpbackend.adapters import SharedMailer

                    self._mailer = SharedMailer.from_settings(self._settings)
        return self._mailer

    def async_mailer(self) -> AsyncMailer:
        if self._async_mailer is None:
            with _making:
                if self._async_mailer is None:
                    from smtpbackend.adapters import SharedAsyncMailer

                    self._async_mailer = SharedAsyncMailer.from_settings(self._settings)
        return self._async_mailer

    def close(self) -> None:
        if self._mailer is not None:
            self._mailer.close()


_making = threading.Lock()  # of mailers, of whichever app


def _renew_lock() -> None:
    global _making
    _making = threading.Lock()


at_fork(in_child=_renew_lock)


class State(_Sending):
    """The mail of one app: its settings, under Flask-Mail's names, and its Mailer.

    ``default_sender``, ``suppress``, ``ascii_attachments`` and ``max_emails`` may be changed; what describes the server
    is read once.
    """

    def __init__(self, config: Config, app: Flask | None = None, testing: bool = False) -> None:
        self.config = config
        self.server = config.server
        self.port = config.port
        self.username = config.username
        self.password = config.password
        self.use_tls = config.use_tls
        self.use_ssl = config.use_ssl
        self.default_sender = config.default_sender
        self.debug = config.debug
        self.max_emails = config.max_emails
        self.ascii_attachments = config.ascii_attachments
        self._app = app
        self._testing = testing
        self._suppress = config.suppress
        self._mailers = _Mailers({**config.mailer, "spelling": config.spelling})

    def __repr__(self) -> str:
        name = f" of {self._app.name}" if self._app is not None else ""
        return f"<mail{name} through {self.server}:{self.port}>"

    @property
    def app(self) -> Flask:
        """The app, which is the sender of all signals."""
        return self._app if self._app is not None else _current_app()

    @property
    def suppress(self) -> bool:
        """Whether messages are not really sent: as set, else whether the app is testing or was at `init_app`."""
        if self._suppress is not None:
            return self._suppress
        return self._testing or (self._app is not None and self._app.testing)

    @suppress.setter
    def suppress(self, value: bool) -> None:
        self._suppress = bool(value)

    @property
    def mailer(self) -> Mailer:
        """The Mailer of this app; it opens connections when it sends."""
        return self._mailers.mailer()

    @property
    def async_mailer(self) -> AsyncMailer:
        """The AsyncMailer of this app, which `asend` uses. When it is made, all modules that it needs are loaded."""
        return self._mailers.async_mailer()

    def share_mailers(self, other: State) -> None:
        """Take over the mailers of ``other``, which has the same settings."""
        self._mailers = other._mailers

    def make_ready(self) -> None:
        """Make the Mailer, which loads all modules that mail needs, so that no request waits for that."""
        self._mailers.mailer()

    def close(self) -> None:
        """Close the connections of the Mailer; the next message opens new ones."""
        self._mailers.close()

    def connect(self) -> Connection:
        """A `Connection`, to be used as a context manager."""
        return Connection(self)

    @contextmanager
    def record_messages(self) -> Iterator[list[Any]]:
        """Collect the messages that this app sends meanwhile, suppressed ones included."""
        with _recording(lambda app: app is self.app) as outbox:
            yield outbox

    def deliver(self, message: Any, envelope_from: Mailbox | None = None, envelope: Envelope | None = None) -> Receipt:
        """Send ``message`` now, and tell the signals of the app."""

        def prepare(message: Any) -> Parcel:
            return self._prepare(message, envelope_from, envelope)

        [receipt] = self._deliver([message], prepare)
        if receipt.error is not None:
            raise receipt.error
        return receipt

    async def adeliver(self, message: Any, envelope: Envelope | None = None) -> Receipt:
        """Send ``message`` now, in the running event loop, and tell the signals of the app."""
        app = self.app

        def prepare(message: Any) -> Parcel:
            return self._prepare(message, None, envelope)

        stream = self.async_mailer.deliver(
            [message],
            prepare=prepare,
            listeners=[SignalListener(app, signals)],
            suppress=self.suppress,
            in_order=True,
        )
        [(_, ended)] = [pair async for pair in stream]
        receipt = _told(app, message, cast("Receipt", ended))
        if receipt.error is not None:
            raise receipt.error
        return receipt

    def deliver_many(self, messages: Iterable[Any]) -> Iterator[Receipt]:
        """Send each of a stream of messages; gives the receipts in order, and raises for none of them."""
        return self._deliver(messages, self._prepare)

    def _deliver(self, messages: Iterable[Any], prepare: Callable[[Any], Parcel]) -> Iterator[Receipt]:
        app = self.app
        listeners = [SignalListener(app, signals)]
        stream = self.mailer.deliver(
            messages, prepare=prepare, listeners=listeners, suppress=self.suppress, in_order=True
        )
        return _receipts(app, stream)

    def _prepare(self, message: Any, envelope_from: Mailbox | None = None, envelope: Envelope | None = None) -> Parcel:
        from smtpbackend_flask.translate import parcel_of

        with self._context():  # a flask_mail.Message looks up the app when it is rendered
            parcel = parcel_of(message, self.default_sender, envelope_from, envelope, self.config.bounce_address)
        if parcel.envelope is None and not parcel.refused:  # else it would have no receipt
            raise IncompleteMessage("No recipients have been added", field="recipients")
        return parcel

    def _context(self) -> AbstractContextManager[Any]:
        if self._app is None or (current_app and _current_app() is self._app):
            return nullcontext()
        return self._app.app_context()


def _receipts(app: Flask, pairs: Any) -> Iterator[Receipt]:
    with closing(pairs):
        for message, receipt in pairs:
            yield _told(app, message, receipt)


def _told(app: Flask, message: Any, receipt: Receipt) -> Receipt:
    """The receipt of a message that ended, after Flask-Mail's signal."""
    if receipt.accepted:
        emit(email_dispatched, app, message=message)
    from smtpbackend_flask.translate import left_out

    notes = left_out(message)
    return receipt.replace(notes=(*receipt.notes, *notes)) if notes else receipt


class Connection:
    """Sends several messages; ``mail`` is what stands at ``app.extensions["mail"]``.

    It holds no connection of its own: messages go out on those that the app's Mailer keeps.
    """

    def __init__(self, mail: State | Mail) -> None:
        self.mail: State = mail if isinstance(mail, State) else mail.connect().mail
        self.host: Mailer | None = None
        self.num_emails = 0

    def __enter__(self) -> Self:
        self.host = None if self.mail.suppress else self.mail.mailer
        self.num_emails = 0
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.host = None

    def configure_host(self) -> Mailer:
        """Have a connection ready, logged in. Returns the Mailer that keeps it. Raises `DeliveryError`."""
        self.mail.mailer.connect()
        return self.mail.mailer

    def send(self, message: Any, envelope_from: Mailbox | None = None, *, envelope: Envelope | None = None) -> Receipt:
        """Send one message, as `Mail.send` does; ``envelope_from`` takes the sender's place in MAIL FROM."""
        receipt = self.mail.deliver(message, envelope_from, envelope)
        self.num_emails += 1
        if self.num_emails == self.mail.max_emails:  # the Mailer has opened a new connection by then
            self.num_emails = 0
        return receipt

    def send_many(self, messages: Iterable[Any]) -> Iterator[Receipt]:
        """Send each of a stream of messages, several of them in flight at a time.

        Gives the receipts lazily and in order. Unlike `send` it raises for no message: see ``receipt.error``.
        """
        return self.mail.deliver_many(messages)

    def send_message(self, *args: Any, **kwargs: Any) -> Receipt:
        """Send a `Message` made of these arguments."""
        with self.mail._context():
            message = Message(*args, **kwargs)
        return self.send(message)


class Mail(_Sending):
    """Sends mail from Flask apps: ``Mail(app)``, or ``init_app`` for each of several.

    It works for the current app, and outside an app context for the one it was made with. Attributes of Flask-Mail's
    state (``server``, ``suppress``, ``default_sender``, ...) are those of that app's `State`.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self.app = None if app is None else _flask_app(app)
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        if self.app is not None:
            self.init_app(self.app)

    def init_app(self, app: Flask) -> State:
        """Read the settings of ``app`` and put its `State` into ``app.extensions``. Raises `InvalidSetting`.

        ``app`` may be ``current_app``. May be called again: with the same settings the Mailer and its connections are
        kept. Warns where ``app.extensions["mail"]`` is another extension's.
        """
        app = _flask_app(app)
        state = State(read_config(app.config, app.debug), app, app.testing)
        before = app.extensions.get("smtpbackend")
        if isinstance(before, State) and before.config[:2] == state.config[:2]:  # the settings and their keys
            state.share_mailers(before)
        theirs = app.extensions.get("mail")
        if theirs is not None and not isinstance(theirs, State):
            kind = type(theirs)
            why = (
                f'app.extensions["mail"] was that of another extension ({kind.__module__}.{kind.__qualname__}) and is '
                "smtpbackend's from now on, for whoever sends by it: initialise one of the two alone"
            )
            warn(why)
        app.extensions["smtpbackend"] = app.extensions["mail"] = state
        self._apps.add(app)
        if state.config.wants_transcript:
            _show_transcript()
        state.make_ready()
        if "mail" not in app.cli.commands:  # the site may have commands of that name
            from smtpbackend_flask.cli import commands

            app.cli.add_command(commands)
        return state

    @discreet
    def init_mail(self, config: Mapping[str, Any], debug: bool | int = False, testing: bool = False) -> State:
        """A `State` made of settings alone, for whichever app is current when it sends."""
        return State(read_config(config, debug), None, testing)

    @property
    def state(self) -> State | None:
        """The `State` of the current app, else of the one this object was made with; None if there is neither."""
        for app in (_current_app() if current_app else None, self.app):
            if app is not None and isinstance(state := app.extensions.get("smtpbackend"), State):
                return state
        return None

    def close(self) -> None:
        """Say QUIT on the connections of all its apps; the next message opens new ones.

        Only a process that ends by ``os._exit`` needs this, such as a job of RQ. Otherwise it happens at the end.
        """
        for app in list(self._apps):
            if isinstance(state := app.extensions.get("smtpbackend"), State):
                state.close()

    def connect(self) -> Connection:
        """A `Connection` for the current app, to be used as a context manager."""
        state = self.state
        if state is None:
            # Without an app, Flask's own error, which says what to do.
            raise RuntimeError(f"{_current_app().name!r} was not configured for mail: call init_app with it")
        return Connection(state)

    @contextmanager
    def record_messages(self) -> Iterator[list[Any]]:
        """Collect the messages that apps of this `Mail` send meanwhile, suppressed ones included."""
        with _recording(lambda app: app in self._apps) as outbox:
            yield outbox

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "app":  # looked for before __init__, by copy and pickle
            raise AttributeError(name)
        if (state := self.state) is not None:
            return getattr(state, name)
        if name in Config._fields:
            return None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _flask_app(app: Any) -> Flask:
    """The app itself, where it is ``current_app``. Raises ``TypeError`` for what is no Flask app, such as Quart's."""
    app = app._get_current_object() if isinstance(app, LocalProxy) else app
    if not isinstance(app, Flask):
        kind = type(app)
        raise TypeError(
            f"a flask.Flask is wanted, not a {kind.__module__}.{kind.__qualname__}: with Quart, say, send by "
            "smtpbackend.AsyncMailer(**smtpbackend_flask.mailer_settings(app.config)), which takes a Message too"
        )
    return app


def _current_app() -> Flask:
    return cast(Any, current_app)._get_current_object()  # type: ignore[no-any-return]


@contextmanager
def _recording(wanted: Any) -> Iterator[list[Any]]:
    outbox: list[Any] = []

    def record(app: Flask, message: Any, **_: Any) -> None:
        if wanted(app):
            outbox.append(message)

    with email_dispatched.connected_to(record):
        yield outbox


def _show_transcript() -> None:
    """``MAIL_DEBUG``: the dialogue with the server, on the handler Flask shows the app's own log with."""
    logger = logging.getLogger("smtpbackend.wire")
    logger.setLevel(logging.DEBUG)
    if not has_level_handler(logger):
        logger.addHandler(default_handler)
