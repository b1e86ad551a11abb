"""Everything that can go wrong, as one tree.

An error says what happened, on which server, and what to do about it; callers ask ``is_transient`` and never
parse text. Where smtplib raises a class for the same event, be it its own or one of
Python's, ours inherits it, so that existing ``except`` clauses keep working.

    SMTPError
    ├── InvalidInput                 (ValueError)      bad address, header, parameter: nothing was sent
    │   ├── Injection                                  CR, LF or NUL in an address or header
    │   └── InvalidSetting                             unknown key, impossible value
    ├── MissingExtra                 (ImportError)     an optional library is not installed
    ├── CancelSend                                     raised by a receiver of message_sending
    └── DeliveryError                (smtplib.SMTPException)
        ├── ConnectFailed            (ConnectionError, SMTPConnectError)   no connection, or no welcome
        │   ├── ConnectionRefused    (ConnectionRefusedError)   no process listens there
        │   ├── ConnectTimedOut      (TimeoutError)    no address answered
        │   └── HostNotFound         (socket.gaierror) the host has no address
        ├── ConnectionLost           (ConnectionError, SMTPServerDisconnected)
        ├── TimedOut                 (TimeoutError, SMTPServerDisconnected)
        ├── MailerClosed                               close() was called before this message had a connection
        ├── HelloRefused             (SMTPHeloError)   EHLO and HELO refused
        ├── TLSFailed                                  the connection could not be secured
        │   ├── TLSNotOffered        (SMTPNotSupportedError)    STARTTLS is not offered
        │   ├── TLSRefused           (SMTPResponseException)    STARTTLS was refused
        │   └── HandshakeFailed      (ssl.SSLError)
        │       └── CertificateRefused   (ssl.SSLCertVerificationError)
        ├── AuthenticationFailed     (SMTPAuthenticationError)
        │   └── LoginNotOffered      (SMTPNotSupportedError)    AUTH is not offered
        ├── ProtocolViolation                          the server said something that is not SMTP
        ├── NotSupported             (SMTPNotSupportedError)  the message needs what the server does not offer
        ├── CommandRefused           (SMTPResponseException)  VRFY, EXPN, HELP, NOOP, RSET
        ├── SenderRefused            (SMTPSenderRefused)
        ├── RecipientsRefused        (SMTPRecipientsRefused)
        ├── ContentRefused           (SMTPDataError)
        └── InDoubt                                    handed over, no answer: never sent again by us
"""

from __future__ import annotations

import errno
import smtplib
from socket import gaierror
from ssl import SSLCertVerificationError, SSLError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from smtpbackend.outcome import Receipt, Reply

__all__ = [
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
]


MAX_NAMED = 5  # recipients, or servers, that a text names
MAX_TEXT = 4096  # characters of an error's text: replies and input may be far longer


def shortened(text: str, limit: int) -> str:
    """``text`` with at most ``limit`` characters: a longer one is cut behind its middle."""
    if len(text) <= limit:
        return text
    end = limit // 4
    return f"{text[: limit - end - 3]}...{text[-end:]}"


def few(values: Sequence[object]) -> str:
    """The repr of a tuple; a long one is cut, and the rest is counted."""
    if len(values) <= MAX_NAMED:
        return repr(tuple(values))
    return f"({', '.join(map(repr, values[:MAX_NAMED]))}, ... {len(values) - MAX_NAMED:,} more)"


def _rebuild(cls: type[SMTPError], args: tuple[Any, ...]) -> SMTPError:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class SMTPError(Exception):
    """The root of all errors of smtpbackend.

    ``server`` names the server ("smtp.example.com:587") where there is one, ``reply`` is its reply, and ``receipt``
    has the outcome of each recipient when a delivery raised. A text over 4,096 characters is cut in its middle.

    Where several servers failed, class, ``server`` and ``reply`` (``smtp_code``) are those of the last one that
    answered for this message or its recipients, or else of the last one tried. ``others`` has the errors of the other
    servers, in the order in which they failed. The text names up to five servers with their reasons, and counts the
    rest.
    """

    others: tuple[SMTPError, ...] = ()
    _alone: SMTPError | None = None
    """The same error before its text named the others too."""
    _transient = False

    def __init__(
        self, message: str, *, server: str | None = None, reply: Reply | None = None, receipt: Receipt | None = None
    ) -> None:
        # Always one positional argument: OSError would take two for errno and strerror.
        Exception.__init__(self, shortened(message, MAX_TEXT))
        self.server = server
        self.reply = reply
        self.receipt = receipt

    @property
    def is_transient(self) -> bool:
        """Whether the same message may be accepted later, and cannot have been accepted already.

        Of several servers that failed one is enough that may take it later.
        """
        if any(other.is_transient for other in self.others):
            return True
        return self.reply.is_transient if self.reply is not None else self._transient

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        # The __init__s of smtplib do not cooperate, so pickle and copy avoid them. The state is set afterwards, for its
        # receipt has this error.
        return _rebuild, (type(self), self.args), self.__dict__.copy()


class InvalidInput(SMTPError, ValueError):
    """Input that cannot be sent, and was given to no server. ``field`` names it."""

    def __init__(self, message: str, *, field: str = "", **context: Any) -> None:
        super().__init__(message, **context)
        self.field = field


class Injection(InvalidInput):
    """An address or header has CR, LF or NUL, which would add lines to it: it refuses the whole message."""


class InvalidSetting(InvalidInput):
    """A setting is unknown, or has a value that cannot work. ``field`` is its name."""


class MissingExtra(SMTPError, ImportError):
    """An optional library is not installed; the message has the pip command."""

    def __new__(cls, message: str, **context: Any) -> MissingExtra:
        error = super().__new__(cls, message)
        error.msg = shortened(message, MAX_TEXT)  # of ImportError, and not in __dict__
        return error


class CancelSend(SMTPError):
    """Raise it in a receiver of ``message_sending`` to keep a message from being sent."""

    def __init__(self, message: str = "the message was cancelled by a receiver of message_sending", **context: Any):
        super().__init__(message, **context)


class DeliveryError(SMTPError, smtplib.SMTPException):
    """A conversation with a server failed."""

    _transient = True


class _Replied(DeliveryError):
    """``smtp_code`` and ``smtp_error`` are as in smtplib; the code is -1 where there was no reply."""

    smtp_code: int
    smtp_error: Any

    def __init__(self, message: str, *, reply: Reply | None = None, **context: Any) -> None:
        super().__init__(message, reply=reply, **context)
        self.smtp_code, self.smtp_error = (-1, b"") if reply is None else reply.as_smtplib


class ConnectFailed(_Replied, ConnectionError, smtplib.SMTPConnectError):
    """No connection to the server could be opened, or it did not welcome us."""

    @property
    def is_transient(self) -> bool:
        """True: a greeting of 554 refuses this client now, and no message for good."""
        return True


class ConnectionRefused(ConnectFailed, ConnectionRefusedError):
    """No process listens at that host and port."""

    errno = errno.ECONNREFUSED  # what code asks for that catches OSError


class ConnectTimedOut(ConnectFailed, TimeoutError):
    """No address of the server answered in time, or its name was not found in time."""


class HostNotFound(ConnectFailed, gaierror):
    """The host has no address, or it could not be looked up."""


def cannot_connect(cause: OSError) -> type[ConnectFailed]:
    """The class for a connection that could not be opened: the one that is also of the class of its cause."""
    kinds = (ConnectionRefused, ConnectionRefusedError), (ConnectTimedOut, TimeoutError), (HostNotFound, gaierror)
    return next((ours for ours, theirs in kinds if isinstance(cause, theirs)), ConnectFailed)


class ConnectionLost(DeliveryError, ConnectionError, smtplib.SMTPServerDisconnected):
    """The connection broke, or the server closed it, before the conversation was over.

    ``reply`` is the last reply before the end where it is the reason: 421, or a refusal while it was opened.
    """

    @property
    def is_transient(self) -> bool:
        """True: there was no reply about the message."""
        return True


class TimedOut(DeliveryError, TimeoutError, smtplib.SMTPServerDisconnected):
    """The server did not answer within the time-out, or the deadline passed."""


class MailerClosed(DeliveryError):
    """The mailer was closed while this message waited for a connection: it was not sent."""


class HelloRefused(_Replied, smtplib.SMTPHeloError):
    """The server refused EHLO and HELO."""


class TLSFailed(DeliveryError):
    """The connection could not be secured as the ``tls`` setting asks."""

    @property
    def is_transient(self) -> bool:
        """True: there was no reply about the message; another server, or a new certificate, may help."""
        return True


class TLSNotOffered(TLSFailed, smtplib.SMTPNotSupportedError):
    """The server offers no STARTTLS."""


class TLSRefused(_Replied, TLSFailed, smtplib.SMTPResponseException):
    """The server refused STARTTLS."""


class HandshakeFailed(TLSFailed, SSLError):
    """The TLS handshake failed. ``library`` and ``reason`` are those of the ``ssl.SSLError``."""

    def __init__(self, message: str, *, cause: BaseException | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.library: str = getattr(cause, "library", "")
        self.reason: str = getattr(cause, "reason", "")


class CertificateRefused(HandshakeFailed, SSLCertVerificationError):
    """The certificate of the server is not trusted; ``verify_code`` and ``verify_message`` are those of ``ssl``."""

    def __init__(self, message: str, *, cause: BaseException | None = None, **context: Any) -> None:
        super().__init__(message, cause=cause, **context)
        self.verify_code: int = getattr(cause, "verify_code", 0)
        self.verify_message: str = getattr(cause, "verify_message", "")


def handshake_failed(message: str, cause: BaseException | None, server: str) -> TLSFailed:
    """The error of a handshake: also of the class of its cause, where that is one of ``ssl``."""
    if isinstance(cause, SSLCertVerificationError):
        return CertificateRefused(message, cause=cause, server=server)
    if isinstance(cause, SSLError):
        return HandshakeFailed(message, cause=cause, server=server)
    return TLSFailed(message, server=server)


class AuthenticationFailed(_Replied, smtplib.SMTPAuthenticationError):
    """The server refused the login, or offers no mechanism that may be used.

    ``details`` is its decoded answer to a token (RFC 7628 3.2.2: status, scope, openid-configuration), else empty.
    """

    _transient = False

    def __init__(self, message: str, *, details: Mapping[str, Any] | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.details = dict(details or {})


class LoginNotOffered(AuthenticationFailed, smtplib.SMTPNotSupportedError):
    """The server offers no login (AUTH)."""


class ProtocolViolation(DeliveryError):
    """The server sent what is not SMTP, or a reply that belongs to no command."""


class NotSupported(DeliveryError, smtplib.SMTPNotSupportedError):
    """The message needs an extension that the server does not offer."""

    _transient = False


class CommandRefused(_Replied, smtplib.SMTPResponseException):
    """The server refused a command that carries no mail: VRFY, EXPN, HELP, NOOP or RSET."""

    _transient = False


class SenderRefused(_Replied, smtplib.SMTPSenderRefused):
    """The server refused the originator (MAIL)."""

    _transient = False

    def __init__(self, message: str, *, sender: str = "", **context: Any) -> None:
        super().__init__(message, **context)
        self.sender = sender


class RecipientsRefused(DeliveryError, smtplib.SMTPRecipientsRefused):
    """No recipient was accepted. ``recipients`` maps each address to ``(code, text)``, as in smtplib.

    A text has at most 512 octets; the outcomes of the ``receipt`` have all of it.
    """

    _transient = False

    def __init__(
        self,
        message: str,
        *,
        recipients: dict[str, tuple[int, bytes]] | None = None,
        transient: bool = False,
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.recipients = recipients or {}
        self._transient = transient

    @property
    def is_transient(self) -> bool:
        """Whether all of them may be accepted later. What other servers said of themselves does not count."""
        return self._transient


class ContentRefused(_Replied, smtplib.SMTPDataError):
    """The server accepted recipients, but not the content."""

    _transient = False


class InDoubt(DeliveryError):
    """The connection ended after the message was handed over and before the server answered.

    It may have been delivered. Not transient and no ``ConnectionError``, so that no automatic retry sends it twice.
    """

    @property
    def is_transient(self) -> bool:
        """False: it may be delivered twice if it is sent again."""
        return False
