"""The signals of a Flask app: ours, and Flask-Mail's ``email_dispatched``. The sender is always the app.

Ours have the names of those in ``smtpbackend.signals`` and carry the same, but ``message`` is what the app gave to
``Mail.send``. ``email_dispatched`` is the object of Flask-Mail itself where that is installed, so that receivers
connected there go on being called.
"""

from __future__ import annotations

from blinker import NamedSignal, Namespace

from smtpbackend.signals import namespace

__all__ = [
    "email_dispatched",
    "message_failed",
    "message_in_doubt",
    "message_sending",
    "message_sent",
    "recipient_deferred",
    "recipient_rejected",
    "server_failed",
    "signals",
]

signals = Namespace()


def _named(name: str) -> NamedSignal:
    return signals.signal(name, namespace[name].__doc__)


message_sending = _named("message_sending")
message_sent = _named("message_sent")
recipient_rejected = _named("recipient_rejected")
recipient_deferred = _named("recipient_deferred")
message_failed = _named("message_failed")
message_in_doubt = _named("message_in_doubt")
server_failed = _named("server_failed")

try:
    from flask_mail import email_dispatched
except ImportError:
    email_dispatched = signals.signal(
        "email-dispatched", "At least one recipient was accepted, or sending is suppressed: message."
    )
else:
    signals["email-dispatched"] = email_dispatched
