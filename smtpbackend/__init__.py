"""Hands mail to SMTP servers, and says what became of each recipient.

    from smtpbackend import Mailer, Message

    mailer = Mailer("smtps://smtp.example.com", username="user", password="secret")
    receipt = mailer.send(Message(subject="Reset", from_="no-reply@example.com", to="ann@example.org", text="..."))

The public names are loaded on first use, so that a program pays only for what it uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smtpbackend.address import Address as Address
    from smtpbackend.aio.mailer import AsyncMailer as AsyncMailer
    from smtpbackend.blocking.mailer import Mailer as Mailer
    from smtpbackend.delivery.server import Server as Server
    from smtpbackend.envelope import Envelope as Envelope
    from smtpbackend.envelope import Recipient as Recipient
    from smtpbackend.errors import AuthenticationFailed as AuthenticationFailed
    from smtpbackend.errors import CancelSend as CancelSend
    from smtpbackend.errors import ContentRefused as ContentRefused
    from smtpbackend.errors import DeliveryError as DeliveryError
    from smtpbackend.errors import InDoubt as InDoubt
    from smtpbackend.errors import InvalidInput as InvalidInput
    from smtpbackend.errors import RecipientsRefused as RecipientsRefused
    from smtpbackend.errors import SenderRefused as SenderRefused
    from smtpbackend.errors import SMTPError as SMTPError
    from smtpbackend.hiding import Secret as Secret
    from smtpbackend.message import Attachment as Attachment
    from smtpbackend.message import Message as Message
    from smtpbackend.outcome import Outcome as Outcome
    from smtpbackend.outcome import Receipt as Receipt
    from smtpbackend.outcome import Reply as Reply
    from smtpbackend.outcome import Status as Status

__version__ = "0.1.0"

_HOMES = {
    "smtpbackend.address": ("Address",),
    "smtpbackend.aio.mailer": ("AsyncMailer",),
    "smtpbackend.blocking.mailer": ("Mailer",),
    "smtpbackend.delivery.server": ("Server",),
    "smtpbackend.envelope": ("Envelope", "Recipient"),
    "smtpbackend.errors": (
        "AuthenticationFailed",
        "CancelSend",
        "ContentRefused",
        "DeliveryError",
        "InDoubt",
        "InvalidInput",
        "RecipientsRefused",
        "SMTPError",
        "SenderRefused",
    ),
    "smtpbackend.hiding": ("Secret",),
    "smtpbackend.message": ("Attachment", "Message"),
    "smtpbackend.outcome": ("Outcome", "Receipt", "Reply", "Status"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'smtpbackend' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
