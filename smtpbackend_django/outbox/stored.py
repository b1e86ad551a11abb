"""A message of the outbox, as signals and Django's tests see it."""

from __future__ import annotations

import email.message
import email.policy
from datetime import datetime
from typing import Any

from django.core.mail import EmailMultiAlternatives

from smtpbackend import Envelope
from smtpbackend.outbox import Due

__all__ = ["StoredMessage"]


class StoredMessage:
    """One entry of the outbox. ``pk`` is its id; `message` gives the message as Django has it."""

    def __init__(self, due: Due) -> None:
        self._due = due

    def __repr__(self) -> str:
        return f"<outbox entry {self.pk}>"

    @property
    def pk(self) -> int:
        """The id of the entry."""
        return self._due.id

    @property
    def alias(self) -> str:
        """The mailer behind the outbox."""
        return self._due.alias

    @property
    def subject(self) -> str:
        """The subject, cut for lists."""
        return self._due.subject

    @property
    def message_id(self) -> str:
        """The Message-ID."""
        return self._due.message_id

    @property
    def created(self) -> datetime:
        """When it was stored."""
        return self._due.created_at

    @property
    def envelope(self) -> Envelope:
        """Who it is from, and those it goes to now."""
        return self._due.envelope

    def as_bytes(self) -> bytes:
        """The octets that are stored."""
        return self._due.as_bytes()

    def message(self) -> EmailMultiAlternatives:
        """A message of Django with what is stored; its ``message()`` is the stored message itself, parsed."""
        parsed: Any = email.message_from_bytes(self.as_bytes(), policy=email.policy.default)
        return _of_django(parsed, self.envelope)


class _Parsed(EmailMultiAlternatives):
    """A message whose octets exist already."""

    parsed: email.message.EmailMessage

    def message(self, *, policy: Any = None) -> Any:
        return self.parsed


def _of_django(parsed: Any, envelope: Envelope) -> EmailMultiAlternatives:
    fields = {name: _addresses(parsed[name]) for name in ("To", "Cc", "Reply-To")}
    shown = {one.rpartition("<")[2].rstrip(">").lower() for one in (*fields["To"], *fields["Cc"])}
    bcc = [str(one.address) for one in envelope.recipients if str(one.address).lower() not in shown]
    text = parsed.get_body(("plain",))
    html = parsed.get_body(("html",))
    body = text if text is not None else html
    skipped = {"from", "to", "cc", "reply-to", "subject", "mime-version", "content-type", "content-transfer-encoding"}
    message = _Parsed(
        subject=str(parsed["Subject"] or "").strip(),  # an encoded word may begin on the second line
        body=_text(body),
        from_email=str(parsed["From"] or ""),
        to=fields["To"],
        cc=fields["Cc"],
        bcc=bcc,
        reply_to=fields["Reply-To"],
        headers={name: str(value) for name, value in parsed.items() if name.lower() not in skipped},
    )
    if text is None and html is not None:
        message.content_subtype = "html"
    elif html is not None:
        message.attach_alternative(_text(html), "text/html")
    for part in parsed.iter_attachments():
        content = part.get_content() if not part.is_multipart() else part.as_bytes()
        if isinstance(content, str):
            content = _with_newlines(content)
        message.attach(part.get_filename(), content, part.get_content_type())
    message.parsed = parsed
    return message


def _addresses(field: Any) -> list[str]:
    return [] if field is None else [str(one) for one in field.addresses]


def _text(part: Any) -> str:
    if part is None:
        return ""
    text = part.get_content()
    return _with_newlines(text).removesuffix("\n") if isinstance(text, str) else ""


def _with_newlines(text: str) -> str:
    """With the line ends that most sites write. In text the wire has CRLF for each, also for those that were CRLF."""
    return text.replace("\r\n", "\n")
