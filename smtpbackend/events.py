"""What happens during a delivery, as frozen records.

A Listener is a callable that takes one event. Signals, logs and traces are Listeners, which ``receivers.py`` calls; a
delivery knows none of them. An event's ``name`` is the name of its signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from smtpbackend.envelope import Envelope
from smtpbackend.errors import CancelSend, InDoubt, InvalidSetting, SMTPError
from smtpbackend.outcome import Outcome, Receipt
from smtpbackend.receivers import call
from smtpbackend.values import Value

__all__ = [
    "ENDINGS",
    "Event",
    "Listener",
    "MessageEnded",
    "MessageSending",
    "RecipientDeferred",
    "RecipientRejected",
    "ServerFailed",
    "Telling",
    "check_listeners",
    "signals_of",
]


class Event(Value):
    """What every event about a message carries.

    ``message`` is what the caller gave: to ``send``, or as an item to ``deliver``. ``notes`` is what `prepare` put into
    its `Parcel`.
    """

    name = ""
    message: Any
    envelope: Envelope | None
    notes: Any


class MessageSending(Event):
    """The first event of a message, before anything is sent. A Listener may raise `CancelSend`.

    There is no envelope where no recipient is left, or where ``prepare`` raised.
    """

    name = "message_sending"


class MessageEnded(Event):
    """The last event of a message, exactly one: the receipt says what became of it."""

    name = "message_ended"
    receipt: Receipt


class RecipientRejected(Event):
    """One recipient was refused for good."""

    name = "recipient_rejected"
    outcome: Outcome


class RecipientDeferred(Event):
    """One recipient was not handed over, and may be tried again by the caller."""

    name = "recipient_deferred"
    outcome: Outcome


class ServerFailed(Value):
    """A server could not be used. ``phase``: connect, greeting, hello, tls, auth, mail, rcpt, data, or idle.

    ``next`` names the server that is tried now; None: there is no other, and what is not handed over is deferred.
    """

    name = "server_failed"
    server: str
    phase: str
    error: SMTPError
    next: str | None = None


ENDINGS = ("message_sent", "message_in_doubt", "message_failed")  # the signals that tell a MessageEnded


def signals_of(event: Any) -> list[tuple[str, dict[str, Any]]]:
    """The signals that tell an event: the name and the keyword arguments of each.

    A `MessageEnded` is told as ``message_in_doubt``, ``message_sent`` or both, else as ``message_failed``. Where a
    receiver cancelled the message no signal tells it.
    """
    told = {one: getattr(event, one) for one in event._fields if one != "notes"}
    if type(event) is not MessageEnded:
        return [(event.name, told)]
    receipt = event.receipt
    signals: list[tuple[str, dict[str, Any]]] = []
    if doubtful := receipt.in_doubt:
        error = doubtful[0].error or InDoubt("the message was handed over, and no answer came")
        signals.append(("message_in_doubt", {**told, "error": error}))
    if receipt.accepted:
        signals.append(("message_sent", told))
    elif not doubtful and receipt.error is not None and not isinstance(receipt.error, CancelSend):
        signals.append(("message_failed", {**told, "error": receipt.error}))
    return signals


Listener = Callable[[Any], object]


def check_listeners(given: Any) -> tuple[Listener, ...]:
    """The Listeners of a list, or of another iterable. Raises `InvalidSetting`."""
    if callable(given) or isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidSetting(
            f"listeners must be a list of callables, not {_called(given)}; one Listener stands in a list too: "
            "listeners=[one]",
            field="listeners",
        )
    listeners = tuple(given)
    if not listeners:
        return ()
    import inspect  # which takes longer to load than all events

    for listener in listeners:
        if not callable(listener):
            raise InvalidSetting(
                f"listeners holds {_called(listener)}, which cannot be called; a Listener is a callable that takes one "
                "event",
                field="listeners",
            )
        if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(getattr(listener, "__call__", None)):  # noqa: B004
            raise InvalidSetting(
                f"listeners holds {_called(listener)}, a coroutine function, which is not awaited; give a function, "
                "which may make a task of it",
                field="listeners",
            )
    return listeners


def _called(value: Any) -> str:
    """How an error calls what was given, without showing what is in it."""
    return getattr(value, "__qualname__", "") or f"a {type(value).__name__}"


class Telling:
    """Tells all of some listeners, as `call` does. Only `CancelSend` before a message passes.

    A Listener may have a method ``wants(name)``, which says whether it takes events of that name at all.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners
        choosy = [getattr(listener, "wants", None) for listener in listeners]
        self._choosy = [wants for wants in choosy if wants is not None] if None not in choosy else None

    def wants(self, name: str) -> bool:
        """Whether a Listener takes events of that name: else none needs to be made."""
        if self._choosy is None:
            return True
        for wants in self._choosy:
            try:
                if wants(name):
                    return True
            except Exception:  # it is called with the event, and what is wrong with it is logged there
                return True
        return False

    def __call__(self, event: Any) -> None:
        for listener in self._listeners:
            call(listener, event.name, event)
