"""Hands mail to SMTP servers, and says what became of each recipient.

    from smtpbackend import Mailer, Message

    mailer = Mailer("smtps://smtp.example.com", username="user", password="secret")
    receipt = mailer.send(Message(subject="Reset", from_="no-reply@example.com", to="ann@example.org", text="..."))

The public names are loaded on first use, so that a program pays only for what it uses. Public are these, and what
stands in ``smtpbackend.adapters``, ``oauth2``, ``sasl``, ``signals`` and ``testing``; all else may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpbackend.public_names import on_first_use

if TYPE_CHECKING:
    from smtpbackend.address import Address as Address
    from smtpbackend.aio.mailer import AsyncMailer as AsyncMailer
    from smtpbackend.blocking.mailer import Mailer as Mailer
    from smtpbackend.delivery.diagnosis import Check as Check
    from smtpbackend.delivery.server import Server as Server
    from smtpbackend.delivery.statistics import Statistics as Statistics
    from smtpbackend.envelope import Envelope as Envelope
    from smtpbackend.envelope import Recipient as Recipient
    from smtpbackend.errors import AuthenticationFailed as AuthenticationFailed
    from smtpbackend.errors import CancelSend as CancelSend
    from smtpbackend.errors import CertificateRefused as CertificateRefused
    from smtpbackend.errors import CommandRefused as CommandRefused
    from smtpbackend.errors import ConnectFailed as ConnectFailed
    from smtpbackend.errors import ConnectionLost as ConnectionLost
    from smtpbackend.errors import ConnectionRefused as ConnectionRefused
    from smtpbackend.errors import ConnectTimedOut as ConnectTimedOut
    from smtpbackend.errors import ContentRefused as ContentRefused
    from smtpbackend.errors import DeliveryError as DeliveryError
    from smtpbackend.errors import HandshakeFailed as HandshakeFailed
    from smtpbackend.errors import HelloRefused as HelloRefused
    from smtpbackend.errors import HostNotFound as HostNotFound
    from smtpbackend.errors import InDoubt as InDoubt
    from smtpbackend.errors import Injection as Injection
    from smtpbackend.errors import InvalidInput as InvalidInput
    from smtpbackend.errors import InvalidSetting as InvalidSetting
    from smtpbackend.errors import LoginNotOffered as LoginNotOffered
    from smtpbackend.errors import MailerClosed as MailerClosed
    from smtpbackend.errors import MissingExtra as MissingExtra
    from smtpbackend.errors import NotSupported as NotSupported
    from smtpbackend.errors import ProtocolViolation as ProtocolViolation
    from smtpbackend.errors import RecipientsRefused as RecipientsRefused
    from smtpbackend.errors import SenderRefused as SenderRefused
    from smtpbackend.errors import SMTPError as SMTPError
    from smtpbackend.errors import TimedOut as TimedOut
    from smtpbackend.errors import TLSFailed as TLSFailed
    from smtpbackend.errors import TLSNotOffered as TLSNotOffered
    from smtpbackend.errors import TLSRefused as TLSRefused
    from smtpbackend.events import Event as Event
    from smtpbackend.events import Listener as Listener
    from smtpbackend.events import MessageEnded as MessageEnded
    from smtpbackend.events import MessageSending as MessageSending
    from smtpbackend.events import RecipientDeferred as RecipientDeferred
    from smtpbackend.events import RecipientRejected as RecipientRejected
    from smtpbackend.events import ServerFailed as ServerFailed
    from smtpbackend.hiding import Secret as Secret
    from smtpbackend.message import Attachment as Attachment
    from smtpbackend.message import Message as Message
    from smtpbackend.outcome import Outcome as Outcome
    from smtpbackend.outcome import Receipt as Receipt
    from smtpbackend.outcome import Reply as Reply
    from smtpbackend.outcome import Status as Status
    from smtpbackend.protocol.timeouts import Timeouts as Timeouts

__version__ = "0.1.0"

_HOMES = {
    "smtpbackend.address": ("Address",),
    "smtpbackend.aio.mailer": ("AsyncMailer",),
    "smtpbackend.blocking.mailer": ("Mailer",),
    "smtpbackend.delivery.diagnosis": ("Check",),
    "smtpbackend.delivery.server": ("Server",),
    "smtpbackend.delivery.statistics": ("Statistics",),
    "smtpbackend.envelope": (
        "Envelope",
        "Recipient",
    ),
    "smtpbackend.errors": (
        "AuthenticationFailed",
        "CancelSend",
        "CertificateRefused",
        "CommandRefused",
        "ConnectFailed",
        "ConnectTimedOut",
        "ConnectionLost",
        "ConnectionRefused",
        "ContentRefused",
        "DeliveryError",
        "HandshakeFailed",
        "HelloRefused",
        "HostNotFound",
        "InDoubt",
        "Injection",
        "InvalidInput",
        "InvalidSetting",
        "LoginNotOffered",
        "MailerClosed",
        "MissingExtra",
        "NotSupported",
        "ProtocolViolation",
        "RecipientsRefused",
        "SMTPError",
        "SenderRefused",
        "TLSFailed",
        "TLSNotOffered",
        "TLSRefused",
        "TimedOut",
    ),
    "smtpbackend.events": (
        "Event",
        "Listener",
        "MessageEnded",
        "MessageSending",
        "RecipientDeferred",
        "RecipientRejected",
        "ServerFailed",
    ),
    "smtpbackend.hiding": ("Secret",),
    "smtpbackend.message": (
        "Attachment",
        "Message",
    ),
    "smtpbackend.outcome": (
        "Outcome",
        "Receipt",
        "Reply",
        "Status",
    ),
    "smtpbackend.protocol.timeouts": ("Timeouts",),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)
__getattr__, __dir__ = on_first_use(__name__, _HOMES)
