"""Blinker signals: a Listener tells them what happens during a delivery.

Every Mailer sends them with itself as the sender; ``smtpbackend_flask`` has signals of the same names, whose sender is
the app. A receiver gets the fields of the event as keyword arguments: ``message`` and ``envelope``, and ``receipt``,
``outcome`` or ``error``; ``server_failed`` has ``server``, ``phase``, ``error`` and ``next``, the server that is tried
now, or None. What a receiver raises is logged and breaks nothing, and a receiver is not called from inside of itself:
see ``receivers.py``. Only a receiver of ``message_sending`` may say `CancelSend`.
"""

from __future__ import annotations

from typing import Any

from blinker import NamedSignal, Namespace

from smtpbackend.events import ENDINGS, signals_of
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
    """A Listener that sends each event as the signals of ``namespace`` that tell it, from ``sender``."""

    is_reentrant = True  # and each receiver is not

    def __init__(self, sender: Any, namespace: Namespace = namespace) -> None:
        self.sender = sender
        self.namespace = namespace

    def wants(self, name: str) -> bool:
        """Whether a signal that tells an event of that name has receivers."""
        signals = self.namespace
        for one in ENDINGS if name == "message_ended" else (name,):
            if one in signals and signals[one].receivers:
                return True
        return False

    def __call__(self, event: Any) -> None:
        if self.wants(event.name):
            for name, fields in signals_of(event):
                signal = self.namespace.get(name)
                if signal is not None and signal.receivers:
                    emit(signal, self.sender, **fields)


def emit(signal: NamedSignal, sender: Any, **fields: Any) -> None:
    """Send ``signal``; no receiver keeps another from being called, but by `CancelSend` before a message."""
    if signal.is_muted:
        return
    for receiver in signal.receivers_for(sender):
        call(receiver, signal.name, sender, **fields)
