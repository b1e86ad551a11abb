"""Mail for Flask apps, in the place of Flask-Mail: ``from smtpbackend_flask import Mail, Message``.

    mail = Mail()
    mail.init_app(app)                  # SMTPBACKEND_* in app.config, else Flask-Mail's MAIL_*
    receipt = mail.send(Message("Reset", recipients=["ann@example.org"], body="..."))
    receipt.accepted, receipt.rejected  # what became of each recipient

It has every name of the module ``flask_mail``.
"""

from __future__ import annotations

from smtpbackend.adapters import register_messages
from smtpbackend_flask.config import mailer_settings
from smtpbackend_flask.extension import Connection, Mail, State
from smtpbackend_flask.message import Attachment, BadHeaderError, IncompleteMessage, Message
from smtpbackend_flask.sanitize import (
    FlaskMailUnicodeDecodeError,
    force_text,
    sanitize_address,
    sanitize_addresses,
    sanitize_subject,
)
from smtpbackend_flask.signals import (
    email_dispatched,
    message_failed,
    message_in_doubt,
    message_sending,
    message_sent,
    recipient_deferred,
    recipient_rejected,
    server_failed,
    signals,
)

__all__ = [
    "Attachment",
    "BadHeaderError",
    "Connection",
    "FlaskMailUnicodeDecodeError",
    "IncompleteMessage",
    "Mail",
    "Message",
    "State",
    "email_dispatched",
    "force_text",
    "mailer_settings",
    "message_failed",
    "message_in_doubt",
    "message_sending",
    "message_sent",
    "recipient_deferred",
    "recipient_rejected",
    "sanitize_address",
    "sanitize_addresses",
    "sanitize_subject",
    "server_failed",
    "signals",
]

register_messages(Message, "smtpbackend_flask.translate", "parcel_for_any")
