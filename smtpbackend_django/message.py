"""A message of Django as the core takes it: an envelope, and the content that Django's own backend would send."""

from __future__ import annotations

import email.message
import email.policy
import re
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings
from django.utils.encoding import force_str

from smtpbackend.address import Address
from smtpbackend.envelope import Envelope
from smtpbackend.errors import InvalidInput
from smtpbackend.flatten import is_signed
from smtpbackend.message import check_name

__all__ = ["content_of", "envelope_of"]

MODERN = django.VERSION >= (6, 0)  # message() makes an email.message.EmailMessage, and takes a policy
MAX_LINE = 998  # octets without CRLF, RFC 5322 2.1.1

# Envelope


def envelope_of(message: Any, prep_address: Callable[..., str] | None) -> Envelope:
    """Who a message is from and for: ``from_email`` and ``recipients()``, not its headers. Raises ValueError.

    What is an address says Django: ``prep_address`` of the backend, or before 6.0 ``sanitize_address``. What Django
    would make invalid is ours to write: domains by IDNA 2008, where 2003 names another host or none, and local parts
    that need SMTPUTF8.
    """

    def address(given: Any, field: str) -> Address:
        try:
            if prep_address is not None:
                return Address.parse(prep_address(given, force_ascii=False), field)
            return _sanitized(given, message.encoding or settings.DEFAULT_CHARSET, field)
        except (
            IndexError,
            TypeError,
        ):  # of the email package, for "to@" on some patch releases of Python, and for "<>"
            raise InvalidInput(f"{field}: {force_str(given)!r} is not an address", field=field) from None

    return Envelope(
        address(message.from_email, "from_email"), [address(one, "recipients") for one in message.recipients()]
    )


def _sanitized(given: Any, charset: str, field: str) -> Address:
    from django.core.mail.message import sanitize_address

    text = given[1] if isinstance(given, tuple) else force_str(given)
    if text.isascii():
        sanitize_address(given, charset)
    return Address.parse(text, field)


# Content


def content_of(message: Any, envelope: Envelope) -> bytes | email.message.Message:
    """What Django's own backend would send: octets, or where they may have to be encoded anew, the message they are of.

    ``message()`` is asked as Django asks it, and what a subclass returns is rendered by its own ``as_bytes``.
    """
    if MODERN:
        policy = email.policy.SMTPUTF8 if envelope.needs_smtputf8 else email.policy.SMTP
        rendered = message.message(policy=policy)
        octets = rendered.as_bytes()
    else:
        rendered = message.message()
        if envelope.needs_smtputf8:
            _write_utf8_addresses(rendered, message)
        octets = rendered.as_bytes(linesep="\r\n")
    if isinstance(rendered, email.message.Message):
        _check_headers(rendered)
    if not isinstance(octets, bytes):
        raise InvalidInput(f"message: as_bytes() gave {type(octets).__name__}, not bytes", field="message")
    return octets if _is_portable(octets) or not _may_be_encoded_anew(rendered) else rendered


# A control character, or a line end that begins no continuation line.
_unsafe_value = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|\n(?![ \t])").search


def _check_headers(part: email.message.Message) -> None:
    """Raise ValueError for what could begin another header; Django looks at few of them. Forwarded mail is as it is."""
    for name, value in part.raw_items():
        check_name(name)
        if _unsafe_value(str(value)):
            raise InvalidInput(f"{name}: {str(value)!r} has a control character", field=name)
    if part.get_content_maintype() == "multipart" and part.is_multipart():
        for inner in part.get_payload():
            _check_headers(inner)  # type: ignore[arg-type]


def _is_portable(octets: bytes) -> bool:
    """Whether every server takes it: 7-bit, in lines of legal length."""
    return octets.isascii() and max(map(len, octets.split(b"\n"))) <= MAX_LINE + 1


def _may_be_encoded_anew(rendered: Any) -> bool:
    """Whether the core makes the same octets of it, and may make 7-bit ones for a server without 8BITMIME."""
    if type(rendered).as_bytes not in _stock() or is_signed(rendered):
        return False  # not a line of it may be written otherwise
    complete = all(name in rendered for name in ("Date", "Message-ID", "MIME-Version"))
    return complete and ("Sender" in rendered or "," not in str(rendered["From"]))


def _stock() -> tuple[Any, ...]:
    known: tuple[Any, ...] = (email.message.Message.as_bytes, email.message.MIMEPart.as_bytes)
    if not MODERN:
        from django.core.mail.message import MIMEMixin

        known += (MIMEMixin.as_bytes,)
    return known


def _write_utf8_addresses(rendered: Any, message: Any) -> None:
    """Addresses with UTF-8 local parts as they are (RFC 6532), where Django 5.2 makes encoded words of them."""
    written = {"From": [message.from_email], "To": message.to, "Cc": message.cc, "Reply-To": message.reply_to}
    for name, values in written.items():
        if "?=@" in str(rendered.get(name, "")):
            value = force_str(message.extra_headers.get(name, ", ".join(map(str, values))))
            # surrogates are how an email.message.Message holds octets; message() found no line end in it
            rendered.replace_header(name, value.encode().decode("ascii", "surrogateescape"))
