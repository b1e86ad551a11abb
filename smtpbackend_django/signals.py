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
``message_failed``       ``message, envelope, receipt, error, alias``        no recipient was accepted or is in doubt
``message_in_doubt``     ``message, envelope, receipt, error, alias``        handed over, and the answer did not come
``server_failed``        ``server, phase, error, next, alias``               a server failed; ``next`` is tried
=======================  ==================================================  ===========================================

``message`` is Django's EmailMessage. `CancelSend` from ``message_sending`` keeps the message from being sent: it is not
counted, and nothing is raised. What else a receiver raises breaks nothing, and is logged once by logger
``smtpbackend.receivers``; a receiver is not called from inside of itself, as for a mail that the handler of its log
sends. ``docs/topics/signals.md`` tells more.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import async_to_sync
from django.dispatch import Signal

from smtpbackend import CancelSend
from smtpbackend.adapters import ENDINGS, begin_receiver, call_receiver, signals_of

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


message_sending = Signal()
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
    """A Listener for one call of `send_messages`.

    It calls the receivers itself: `Signal.send_robust` would call one inside of itself, and log an error once a mail.
    """

    is_reentrant = True  # and each receiver is not

    def __init__(self, sender: type, alias: str | None) -> None:
        self.sender = sender
        self.alias = alias

    def wants(self, name: str) -> bool:
        """Whether a signal that tells an event of that name has receivers."""
        return any(
            one in SIGNALS and SIGNALS[one].receivers for one in (ENDINGS if name == "message_ended" else (name,))
        )

    def __call__(self, event: Any) -> None:
        if self.wants(event.name):
            for name, fields in signals_of(event):
                self._send(name, fields)

    def _send(self, name: str, fields: dict[str, Any]) -> None:
        signal = SIGNALS[name]
        receivers, awaited = signal._live_receivers(self.sender)
        if not receivers and not awaited:
            return
        fields |= {"signal": signal, "sender": self.sender, "alias": self.alias}
        cancelled: list[CancelSend] = []
        for receiver in receivers:
            try:
                call_receiver(receiver, name, **fields)
            except CancelSend as error:
                cancelled.append(error)
        try:
            if awaited:  # which raises where an event loop runs
                answers = async_to_sync(_await_all)(awaited, name, fields)
                cancelled += [answer for answer in answers if isinstance(answer, CancelSend)]
        finally:
            if cancelled:
                raise cancelled[0]


async def _await_all(receivers: list[Any], event: str, fields: dict[str, Any]) -> list[Any]:
    """Call receivers that are asynchronous, all at once, each in a context of its own; what they raised, or None."""

    async def hear(receiver: Any) -> None:
        if (begun := begin_receiver(receiver, event)) is not None:
            with begun:
                await receiver(**fields)

    return await asyncio.gather(*map(hear, receivers), return_exceptions=True)
