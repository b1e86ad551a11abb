"""What happens during a delivery, as frozen records.

A Listener is a callable that takes one event. Signals, logs and traces are Listeners, which ``receivers.py`` calls; a
delivery knows none of them. An event's ``name`` is the name of its signal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from smtpbackend.envelope import Envelope
from smtpbackend.errors import SMTPError
from smtpbackend.outcome import Outcome, Receipt
from smtpbackend.receivers import call

__all__ = [
    "Event",
    "Listener",
    "MessageFailed",
    "MessageInDoubt",
    "MessageSending",
    "MessageSent",
    "RecipientDeferred",
    "RecipientRejected",
    "ServerFailed",
    "Telling",
]


@dataclass(frozen=True)
class Event:
    """What every event about a message carries: ``message`` is what the caller gave to ``send``."""

    name: ClassVar[str]
    message: Any
    envelope: Envelope | None


@dataclass(frozen=True)
class MessageSending(Event):
    """Before anything is sent. A Listener may raise `CancelSend`."""

    name = "message_sending"


@dataclass(frozen=True)
class MessageSent(Event):
    """At least one recipient was accepted."""

    name = "message_sent"
    receipt: Receipt


@dataclass(frozen=True)
class MessageFailed(Event):
    """Nobody was accepted, and nobody is in doubt."""

    name = "message_failed"
    receipt: Receipt
    error: Exception


@dataclass(frozen=True)
class MessageInDoubt(Event):
    """At least one recipient is in doubt."""

    name = "message_in_doubt"
    receipt: Receipt
    error: Exception


@dataclass(frozen=True)
class RecipientRejected(Event):
    """One recipient was refused for good."""

    name = "recipient_rejected"
    outcome: Outcome


@dataclass(frozen=True)
class RecipientDeferred(Event):
    """One recipient was not handed over, and may be tried again by the caller."""

    name = "recipient_deferred"
    outcome: Outcome


@dataclass(frozen=True)
class ServerFailed:
    """A server could not be used. ``phase``: connect, greeting, hello, tls, auth, mail, rcpt, data, or idle.

    ``next`` names the server that is tried now; None: there is no other, and what is not handed over is deferred.
    """

    name: ClassVar[str] = "server_failed"
    server: str
    phase: str
    error: SMTPError
    next: str | None = None


Listener = Callable[[Any], object]


class Telling:
    """Tells all of some listeners, as `call` does. Only `CancelSend` before a message passes.

    A Listener may have a method ``wants(name)``, which says whether it takes events of that name at all.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners
        choosy = [getattr(listener, "wants", None) for listener in listeners]
        self._choosy = [wants for wants in choosy if wants is not None] if None not in choosy else None

    def wants(self, name: str) -> bool:
        """Whether somebody takes events of that name: else none needs to be made."""
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
