"""Flask-Mail's `Message`, with its constructor and attributes. ``translate.py`` makes content and envelope of it.

Unlike Flask-Mail's, it keeps the order of recipients, needs no app context, encodes what is not ASCII in 7 bits, and
never looks up a host name.
"""

from __future__ import annotations

import email.message
import os
import re
import warnings
from collections.abc import Iterable, KeysView, Mapping
from email.header import Header
from typing import TYPE_CHECKING, Any

from flask import current_app

from smtpbackend import Address, Injection, InvalidInput
from smtpbackend.adapters import check_tuple, is_pair
from smtpbackend_flask.sanitize import force_text, joined, parts_of

if TYPE_CHECKING:
    from smtpbackend import Receipt
    from smtpbackend_flask.extension import Connection
    from smtpbackend_flask.sanitize import Mailbox

    Mailboxes = list[str] | list[tuple[str, str]] | list[Address] | list[Mailbox]

__all__ = ["Attachment", "BadHeaderError", "IncompleteMessage", "Message"]

_control = re.compile("[\x00-\x08\x0a-\x1f\x7f]").search  # the tab is white space
_injection = re.compile("[\r\n\x00]").search


class BadHeaderError(Injection):
    """A header has a line break or another control character, an address CR, LF or NUL; ``field`` names it."""

    def __init__(self, message: str = "a header has a line break or another control character", **context: Any) -> None:
        super().__init__(message, **context)


class IncompleteMessage(InvalidInput, AssertionError):
    """A message has no recipients or no sender; an ``AssertionError``, as Flask-Mail raises."""


class Attachment:
    """A file that goes with a `Message`. ``content_type`` defaults to that of the filename's extension.

    ``disposition`` is "attachment" (default) or "inline"; ``headers`` are further headers of the part.
    """

    def __init__(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: str | bytes | bytearray | memoryview | None = None,
        disposition: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        if data is None:
            raise ValueError("The 'data' argument is required.")
        if content_type is None and filename is not None:
            from mimetypes import guess_type

            content_type = guess_type(filename)[0]
        if content_type is None:
            content_type = "text/plain" if isinstance(data, str) else "application/octet-stream"
        self.filename = filename
        self.content_type = content_type
        self.data = data
        self.disposition = disposition or "attachment"
        self.headers: dict[str, str] = dict(headers or {})


class Message:
    """A message as Flask-Mail has it.

    ``recipients``, ``cc`` and ``bcc`` are lists of addresses: ``"ann@example.org"``, ``"Ann <ann@example.org>"`` or
    ``("Ann", "ann@example.org")``. ``sender`` defaults to ``MAIL_DEFAULT_SENDER`` of the app, when the message is made
    or when it is sent. ``alts`` maps subtypes of text (``html``) to content; ``date`` is in seconds since the epoch.
    ``mail_options`` and ``rcpt_options`` are SMTP parameters ("RET=HDRS", "NOTIFY=FAILURE").
    """

    def __init__(
        self,
        subject: str = "",
        recipients: Mailboxes | None = None,
        body: str | None = None,
        html: str | None = None,
        alts: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        sender: Mailbox | None = None,
        cc: Mailboxes | None = None,
        bcc: Mailboxes | None = None,
        attachments: list[Attachment] | None = None,
        reply_to: Mailbox | None = None,
        date: float | None = None,
        charset: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        mail_options: list[str] | None = None,
        rcpt_options: list[str] | None = None,
    ) -> None:
        for field, given in (("recipients", recipients), ("cc", cc), ("bcc", bcc)):
            if isinstance(given, str):
                raise InvalidInput(f"{field}: a list of addresses is wanted, not {given!r}", field=field)
        sender = sender or app_option("default_sender", None)
        # copies: a recipient added to one message must not get into another
        self.recipients: list[Any] = _listed(recipients, "recipients")
        self.subject = subject
        self.sender = joined(sender, "sender") if isinstance(sender, tuple) else sender
        self.reply_to = reply_to
        self.cc: list[Any] = _listed(cc, "cc")
        self.bcc: list[Any] = _listed(bcc, "bcc")
        self.body = body
        self.alts: dict[str, str] = dict(alts or {})
        if html is not None:
            self.html = html
        self.date = date
        self.charset = charset
        self.extra_headers = extra_headers
        self.mail_options: list[str] = list(mail_options or ())
        self.rcpt_options: list[str] = list(rcpt_options or ())
        self.attachments: list[Attachment] = list(attachments or ())

    @property
    def msgId(self) -> str:
        """The Message-ID, made at the first look with the domain of the sender."""
        found: str | None = self.__dict__.get("_msg_id")
        if found is None:
            domain = parts_of(self.sender)[1].rpartition("@")[2] if self.sender else ""
            made = f"<{os.urandom(16).hex()}@{domain if domain.isascii() and domain else 'localhost'}>"
            found = self.__dict__.setdefault("_msg_id", made)  # of several threads the first makes it
        return found

    @msgId.setter
    def msgId(self, value: str) -> None:
        self.__dict__["_msg_id"] = value

    @property
    def send_to(self) -> KeysView[Mailbox]:
        """All recipients of the message: a set, in the order of recipients, cc and bcc."""
        recipients = [*self.recipients, *self.cc, *self.bcc]
        try:
            return dict.fromkeys(recipients).keys()
        except TypeError:  # headers, and pairs that are lists
            return dict.fromkeys(map(_hashable, recipients)).keys()

    @property
    def html(self) -> str | None:
        """The HTML alternative."""
        return self.alts.get("html")

    @html.setter
    def html(self, value: str | None) -> None:
        if value is None:
            self.alts.pop("html", None)
        else:
            self.alts["html"] = value

    def add_recipient(self, recipient: Mailbox) -> None:
        """Add one recipient."""
        self.recipients.append(recipient)

    def attach(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: str | bytes | bytearray | memoryview | None = None,
        disposition: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Add an `Attachment` made of these arguments."""
        self.attachments.append(Attachment(filename, content_type, data, disposition, headers))

    def has_bad_headers(self) -> bool:
        """Whether a header is bad; a folded subject is not."""
        return bad_header(self) is not None

    def is_bad_headers(self) -> bool:
        """The old name of `has_bad_headers`."""
        warnings.warn("'is_bad_headers' is renamed to 'has_bad_headers'.", DeprecationWarning, stacklevel=2)
        return self.has_bad_headers()

    def send(self, connection: Connection) -> Receipt:
        """Send the message over ``connection``."""
        return connection.send(self)

    def as_string(self) -> str:
        """The message as text, with CRLF line ends."""
        return self._message().as_string()

    def as_bytes(self) -> bytes:
        """The message as octets, with CRLF line ends."""
        return self._message().as_bytes()

    def __str__(self) -> str:
        return self.as_string()

    def __bytes__(self) -> bytes:
        return self.as_bytes()

    def _message(self) -> email.message.Message:
        from smtpbackend_flask.mime import tree_of

        return tree_of(self, app_option("ascii_attachments", False))


_WITH_ADDRESSES = frozenset(("sender", "reply_to", "recipients", "cc", "bcc"))


def _hashable(mailbox: Any) -> Any:
    if isinstance(mailbox, Header):
        return str(mailbox)
    return tuple(mailbox) if isinstance(mailbox, list) else mailbox


def _listed(given: Any, field: str) -> list[Any]:
    if not given:
        return []
    if isinstance(given, tuple):
        if is_pair(given, field):
            return [given]
        check_tuple(given, field)
    return list(given)


def bad_header(message: Any) -> str | None:
    """The first field of a `Message`, or of one like it, that must not be sent as it is."""
    checked: list[tuple[str, Any]] = [("sender", message.sender), ("reply_to", getattr(message, "reply_to", None))]
    for field in ("recipients", "cc", "bcc"):
        checked += [(field, mailbox) for mailbox in getattr(message, field, None) or ()]
    for name, value in (getattr(message, "extra_headers", None) or {}).items():
        checked += [("extra_headers", name), (name, value)]
    for attachment in getattr(message, "attachments", None) or ():
        checked += [("filename", attachment.filename), ("content_type", attachment.content_type)]
        checked.append(("disposition", attachment.disposition))
        headers = attachment.headers or {}
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            checked += [("headers", name), (name, value)]
    try:  # mostly all are clean str, and one search finds that
        if _control("".join([value for _, value in checked if value is not None])) is None:
            checked = []
    except TypeError:
        pass
    for field, value in checked:
        for text in value if isinstance(value, (tuple, list)) else (value,):
            # The core writes control characters in a name as blanks
            unsafe = _injection if field in _WITH_ADDRESSES else _control
            if text is not None and not isinstance(text, Address) and unsafe(force_text(text)):
                return field
    return "subject" if _is_bad_subject(force_text(message.subject or "")) else None


def _is_bad_subject(subject: str) -> bool:
    """Line breaks are allowed where they fold the subject (RFC 5322 2.2.3)."""
    lines = subject.split("\r\n")
    return any(_control(line) for line in lines) or (
        len(lines) > 1 and (any(not line.strip() for line in lines) or any(line[0] not in "\t " for line in lines[1:]))
    )


def app_option(name: str, default: Any) -> Any:
    """An option of the current app, where there is one."""
    if not current_app:
        return default
    extensions = current_app.extensions
    return getattr(extensions.get("smtpbackend") or extensions.get("mail"), name, default)
