"""The signals. ``signalling.py`` has the Listener that sends them.

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

from django.dispatch import Signal

from smtpbackend import CancelSend

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
