"""Blinker signals: a Listener tells them what happens during a delivery.

Every Mailer sends them with itself as the sender; ``smtpbackend_flask`` has signals of the same names, whose sender is
the app. A receiver gets the fields of the event as keyword arguments: ``message`` and ``envelope``, and ``receipt``,
``outcome`` or ``error``; ``server_failed`` has ``server``, ``phase``, ``error`` and ``next``, the server that is tried
now, or None. What a receiver raises is logged and breaks nothing, and a receiver is not called from inside of itself:
see ``receivers.py``. Only a receiver of ``message_sending`` may say `CancelSend`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blinker import NamedSignal, Namespace

from smtpbackend.receivers import call

__all__ = [
    "SignalListener",
    "emit",
    "message_failed",
    "message_in_doubt",
    "message_sending",
    "message_sent",
    "namespace",
    "recipient_deferred",
    "recipient_rejected",
    "server_failed",
]

namespace = Namespace()

message_sending: NamedSignal = namespace.signal(
    "message_sending", "Before anything is sent: message, envelope. A receiver may raise CancelSend."
)
message_sent: NamedSignal = namespace.signal(
    "message_sent", "At least one recipient was accepted: message, envelope, receipt."
)
recipient_rejected: NamedSignal = namespace.signal(
    "recipient_rejected", "One recipient was refused for good: message, envelope, outcome."
)
recipient_deferred: NamedSignal = namespace.signal(
    "recipient_deferred", "One recipient was not handed over and may be tried again: message, envelope, outcome."
)
message_failed: NamedSignal = namespace.signal(
    "message_failed", "Nobody was accepted, and nobody is in doubt: message, envelope, receipt, error."
)
message_in_doubt: NamedSignal = namespace.signal(
    "message_in_doubt", "At least one recipient is in doubt: message, envelope, receipt, error."
)
server_failed: NamedSignal = namespace.signal(
    "server_failed", "A server could not be used: server, phase, error, next."
)


class SignalListener:
    """A Listener that sends each event as the signal of that name in ``namespace``, from ``sender``.

    ``message_of`` finds for an event what stands in its signal for what the Mailer was given: an adapter names the
    message that it translated.
    """

    is_reentrant = True  # and each receiver is not

    def __init__(
        self, sender: Any, namespace: Namespace = namespace, *, message_of: Callable[[Any], Any] | None = None
    ) -> None:
        self.sender = sender
        self.namespace = namespace
        self.message_of = message_of

    def wants(self, name: str) -> bool:
        """Whether the signal of that name has receivers."""
        signal = self.namespace.get(name)
        return signal is not None and bool(signal.receivers)

    def __call__(self, event: Any) -> None:
        signal = self.namespace.get(event.name)
        if signal is None or not signal.receivers:
            return
        fields = dict(vars(event))
        if self.message_of is not None and "message" in fields:
            fields["message"] = self.message_of(event)
        emit(signal, self.sender, **fields)


def emit(signal: NamedSignal, sender: Any, **fields: Any) -> None:
    """Send ``signal``; no receiver keeps another from being called, but by `CancelSend` before a message."""
    if signal.is_muted:
        return
    for receiver in signal.receivers_for(sender):
        call(receiver, signal.name, sender, **fields)
