"""The signals, and the Listener that sends them.

The sender is the class of the backend; ``alias`` is the backend's in ``MAILERS``, or None. Connect without ``sender``
to hear every backend.

=======================  ==================================================  ===========================================
signal                   keyword arguments                                   when
=======================  ==================================================  ===========================================
``message_sending``      ``message, envelope, alias``                        before; a receiver may raise `CancelSend`
``message_sent``         ``message, envelope, receipt, alias``               at least one recipient was accepted
``recipient_rejected``   ``message, envelope, outcome, alias``               one recipient was refused for good
``recipient_deferred``   ``message, envelope, outcome, alias``               one recipient was not handed over
``message_failed``       ``message, envelope, receipt, error, alias``        nobody was accepted, nobody is in doubt
``message_in_doubt``     ``message, envelope, receipt, error, alias``        handed over, and the answer did not come
``server_failed``        ``server, phase, error, next, alias``               a server could not be used; who is next
=======================  ==================================================  ===========================================

``message`` is Django's EmailMessage. A receiver that raises is logged by Django (``django.dispatch``) and breaks
nothing; `CancelSend` from ``message_sending`` keeps the message from being sent: it is not counted, and nothing is
raised.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from django.dispatch import Signal

from smtpbackend.errors import CancelSend
from smtpbackend.events import MessageSending

__all__ = [
    "SIGNALS",
    "CancelSend",
    "message_failed",
    "message_in_doubt",
    "message_sending",
    "message_sent",
    "recipient_deferred",
    "recipient_rejected",
    "server_failed",
]


class _MessageSending(Signal):
    """To cancel is no failure: Django need not log it as one."""

    def _log_robust_failure(self, receiver: Any, err: Exception) -> None:
        if not isinstance(err, CancelSend):
            super()._log_robust_failure(receiver, err)


message_sending = _MessageSending()
message_sent = Signal()
recipient_rejected = Signal()
recipient_deferred = Signal()
message_failed = Signal()
message_in_doubt = Signal()
server_failed = Signal()

SIGNALS: dict[str, Signal] = {
    "message_sending": message_sending,
    "message_sent": message_sent,
    "recipient_rejected": recipient_rejected,
    "recipient_deferred": recipient_deferred,
    "message_failed": message_failed,
    "message_in_doubt": message_in_doubt,
    "server_failed": server_failed,
}


class Signalling:
    """A Listener for one call of `send_messages`: the parcels that it hands over have Django's message in ``notes``."""

    def __init__(self, sender: type, alias: str | None) -> None:
        self.sender = sender
        self.alias = alias

    def wants(self, name: str) -> bool:
        """Whether the signal of that name has receivers."""
        signal = SIGNALS.get(name)
        return signal is not None and bool(signal.receivers)

    def __call__(self, event: Any) -> None:
        signal = SIGNALS.get(event.name)
        if signal is None or not signal.has_listeners(self.sender):
            return
        values = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        if "message" in values:
            values["message"] = event.message.notes
        answers = signal.send_robust(self.sender, **values, alias=self.alias)
        if isinstance(event, MessageSending):
            for _, answer in answers:
                if isinstance(answer, CancelSend):
                    raise answer
