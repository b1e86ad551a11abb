"""From a message of Django to its envelope, and to the content that Django's own backend would send."""

from __future__ import annotations

import email.message
import email.policy
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from operator import attrgetter
from types import MethodType
from typing import Any

import django
from django.conf import settings
from django.core.mail import message as mail
from django.core.mail.backends import smtp
from django.utils.encoding import force_str
from django.utils.functional import Promise

from smtpbackend import Address, Envelope, InvalidInput
from smtpbackend.adapters import (
    ADDRESS_FIELDS,
    HIDDEN_FIELDS,
    IDENTIFIERS,
    MAX_FOLDED,
    MAX_LINE,
    Content,
    LegacyWriter,
    ModernWriter,
    NotSimple,
    Parcel,
    Part,
    alone_with,
    characters,
    check_name,
    date_of,
    identifier_text,
    is_signed,
    media_type,
    needs_encoding,
    plain_addr_spec,
    readable_filename,
    refolded,
    with_texts_now,
)
from smtpbackend_django.addresses import mailbox, with_our_addresses, with_our_hosts
from smtpbackend_django.monkeypatches import RENDERING, is_untouched, prepares_as_django

__all__ = ["content_of", "djangos_prep_address", "envelope_of", "parcel_of", "parcel_with", "with_addresses_now"]

IS_MODERN = django.VERSION >= (6, 0)  # message() makes an email.message.EmailMessage, and takes a policy

# Envelope


def envelope_of(
    message: Any, prep_address: Callable[..., str] | None, bounce_address: Address | None = None
) -> Envelope:
    """The envelope from ``from_email`` and ``recipients()``, not from headers. Raises ValueError.

    A ``bounce_address`` takes the place of the sender. Django decides what is an address: by ``prep_address`` of the
    backend, before 6.0 by ``sanitize_address``. The core encodes domains, by IDNA 2008, and local parts that need
    SMTPUTF8, which Django would spoil.
    """
    is_djangos = prepares_as_django(prep_address)

    def address(given: Any, field: str) -> Address:
        if isinstance(given, (tuple, list)):
            given = mailbox(given, field)
        if isinstance(given, Promise):
            given = str(given)
        if isinstance(given, str):
            given = characters(given)
            if is_djangos and (plain := plain_addr_spec(given)) is not None:
                return Address.parse(plain, field)  # Django would not change it
            if len(given) > MAX_FOLDED:
                return Address.parse(given, field)  # the email package would take too long over it
        try:
            if prep_address is not None:
                return Address.parse(prep_address(given, force_ascii=False), field)
            return _sanitized(given, message.encoding or settings.DEFAULT_CHARSET, field)
        except (IndexError, TypeError):  # of the email package, for "<>", and for "to@" on some releases of Python
            raise InvalidInput(f"{field}: {force_str(given)!r} is not an address", field=field) from None

    sender = address(message.from_email, "from_email")
    return Envelope(bounce_address or sender, [address(one, "recipients") for one in message.recipients()])


def _sanitized(given: Any, charset: str, field: str) -> Address:
    text = force_str(given)
    if text.isascii():
        mail.sanitize_address(given, charset)
    return Address.parse(text, field)


# Parcel

djangos_prep_address: Any = MethodType(smtp.EmailBackend.prep_address, smtp.EmailBackend) if IS_MODERN else None
"""What no backend of ours overrides; None where Django has none."""


def parcel_of(message: Any, envelope: Envelope | None = None, bounce_address: Address | None = None) -> Parcel:
    """The parcel of a message that no backend sends: what a `Mailer` or an `AsyncMailer` itself is given."""
    message = with_addresses_now(message)
    if envelope is None:
        envelope = envelope_of(message, djangos_prep_address, bounce_address)
    return parcel_with(message, envelope)


def with_addresses_now(message: Any) -> Any:
    """The message, or a copy without lazy addresses: envelope and headers have the same ones."""
    try:  # quickly, for few have any
        sender, to, cc, bcc, reply_to = _addresses(message)
        if _NEVER_LAZY.issuperset(map(type, (sender, *to, *cc, *bcc, *reply_to))):
            return message
    except (AttributeError, TypeError):
        pass  # not as Django makes it
    return with_texts_now(message, _ADDRESSES)


_ADDRESSES = ("from_email", "to", "cc", "bcc", "reply_to")
_addresses = attrgetter(*_ADDRESSES)
_NEVER_LAZY = frozenset((str, type(None)))


def parcel_with(message: Any, envelope: Envelope, untouched: bool | None = None) -> Parcel:
    """The parcel of a message whose envelope is known; see `content_of`."""
    try:
        return Parcel(envelope, content_of(message, envelope, untouched))
    except Exception as error:  # every recipient fails by that
        return Parcel(envelope, error)


# Content


def content_of(
    message: Any, envelope: Envelope, untouched: bool | None = None
) -> Content | bytes | email.message.Message:
    """What Django's own backend would send, octet for octet, where that arrives as what the message says.

    Header fields in which a reader would find something else are folded by the core (``refolding.py``), and parts with
    NUL or "binary" ones are encoded.

    The core writes a simple message of Django's own classes, where no function that renders it was replaced
    (``untouched``, where that was asked before). For all others ``message()`` is called as Django calls it, and what it
    returns is rendered by its own ``as_bytes``: into octets, or it is returned itself where they may have to be encoded
    anew.
    """
    if not envelope.needs_smtputf8 and _is_djangos(message) and (is_untouched() if untouched is None else untouched):
        try:
            return _simple_content(message)
        except NotSimple:
            pass
    return _djangos_content(message, envelope)


def _is_djangos(message: Any) -> bool:
    """Whether a message is of Django's own classes, and overrides none of their functions that render."""
    return type(message) in (mail.EmailMessage, mail.EmailMultiAlternatives) and RENDERING.isdisjoint(message.__dict__)


_LISTS = (("To", "to"), ("Cc", "cc"), ("Reply-To", "reply_to"))
_PARSED = frozenset(("date", "message-id", "sender"))
_WRITTEN = frozenset(("subject", "from", "to", "cc", "reply-to", "mime-version")) | HIDDEN_FIELDS
_name_is_plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,50}").fullmatch
_subtype_is_plain = re.compile(r"[a-z]{1,20}").fullmatch


def _spell(name: str, value: str) -> str:
    """Before 6.0 Django itself makes encoded words. A simple message has charset UTF-8."""
    if name.lower() in ADDRESS_FIELDS and with_our_hosts(value) != value:
        raise NotSimple
    if name.lower() in IDENTIFIERS:
        value = identifier_text(value)
    return str(mail.forbid_multi_line_headers(name, value, "utf-8")[1])


_writer = ModernWriter() if IS_MODERN else LegacyWriter(_spell)


def _simple_content(message: Any) -> Content:
    """The message as this Django would render it. Raises `NotSimple`."""
    charset = message.encoding or settings.DEFAULT_CHARSET
    subtype = message.content_subtype
    if charset != "utf-8" or not isinstance(charset, str) or _subtype_is_plain(subtype) is None:
        raise NotSimple
    given = {_str(name): value for name, value in message.extra_headers.items()}
    fields = [
        _writer.field("Subject", _str(message.subject)),
        _writer.special_field("From", _str(given.get("From", message.from_email))),
    ]
    for name, attribute in _LISTS:
        if name in given:
            fields.append(_writer.special_field(name, _str(given[name])))
        elif values := getattr(message, attribute):
            fields.append(_writer.special_field(name, _joined(values)))
    names = [name.lower() for name in message.extra_headers]
    message_id = None
    if "date" not in names:
        fields.append(f"Date: {_date()}\r\n")
    if "message-id" not in names:
        message_id = mail.make_msgid(domain=mail.DNS_NAME)
        fields.append(_writer.special_field("Message-ID", message_id))
    if given:
        if len(set(names)) < len(names):
            raise NotSimple
        for name, value in given.items():
            lower = name.lower()
            if lower == "message-id":
                message_id = _str(value).strip(" \t")
            if lower in _PARSED:
                fields.append(_writer.special_field(name, _str(value)))
            elif lower not in _WRITTEN:
                if _name_is_plain(name) is None or lower.startswith(("content-", "resent-", "orig-")):
                    raise NotSimple
                fields.append(_writer.field(name, _str(value)))
            elif name not in ("From", "To", "Cc", "Reply-To"):
                raise NotSimple
    body = message.body
    alternatives = [_part((None, *_alternative(one))) for one in getattr(message, "alternatives", ())]
    attachments = [_part(one) for one in message.attachments]
    if alternatives or attachments:
        _check_subtypes(message)
    text = (_str(body), f"text/{subtype}") if body or not (alternatives or attachments) else None
    return _writer.render(fields, text, alternatives, attachments, message_id=message_id, number=_number)


def _str(value: Any) -> str:
    """A text, also one that a template rendered (``SafeString``) or that is translated now."""
    if type(value) is str:
        return value
    if isinstance(value, Promise):
        value = str(value)
    if not isinstance(value, str) or hasattr(value, "fold"):  # a header of the email package folds itself
        raise NotSimple
    return characters(value)


def _joined(values: Any) -> str:
    try:
        return ", ".join(values)
    except TypeError:  # lazy strings, or no strings
        return ", ".join([_str(value) for value in values])


def _date() -> str:
    if IS_MODERN:
        zone = mail.get_current_timezone() if settings.EMAIL_USE_LOCALTIME else mail.timezone.utc
        return date_of(mail.datetime.now(zone))
    return mail.formatdate(localtime=settings.EMAIL_USE_LOCALTIME)  # type: ignore[no-any-return]


def _number() -> int:
    """19 digits for a boundary, as the email package has them."""
    return int.from_bytes(os.urandom(8), "big") % 10**19


def _alternative(given: Any) -> tuple[Any, ...]:
    if type(given) is not mail.EmailAlternative:
        raise NotSimple  # Django asks for its attributes
    return given  # type: ignore[no-any-return]


def _part(given: Any) -> Part:
    if not isinstance(given, tuple) or len(given) != 3:
        raise NotSimple  # a part of the email package
    filename, content, media_type = given
    media_type, filename = _str(media_type), None if filename is None else _str(filename)
    if filename == "":
        raise NotSimple
    if type(content) is not bytes or media_type.startswith("text/"):
        content = _str(content)
        if not media_type.startswith("text/"):
            if not content.isascii():
                raise NotSimple
            content = content.encode("ascii")
    return filename and readable_filename(filename), content, media_type


def _check_subtypes(message: Any) -> None:
    if IS_MODERN:
        if hasattr(message, "mixed_subtype") or hasattr(message, "alternative_subtype"):
            raise NotSimple
    elif message.mixed_subtype != "mixed" or getattr(message, "alternative_subtype", "alternative") != "alternative":
        raise NotSimple


def _djangos_content(message: Any, envelope: Envelope) -> bytes | email.message.Message:
    message = with_our_addresses(message)
    if IS_MODERN:
        policy = email.policy.SMTPUTF8 if envelope.needs_smtputf8 else email.policy.SMTP
        rendered = message.message(policy=policy)
        with _alone_with_parts(message):
            octets = rendered.as_bytes()
    else:
        rendered = message.message()
        if envelope.needs_smtputf8:
            _write_utf8_addresses(rendered, message)
        with _alone_with_parts(message):
            octets = rendered.as_bytes(linesep="\r\n")
    if isinstance(rendered, email.message.Message):
        _check_headers(rendered)
    if not isinstance(octets, bytes):
        raise InvalidInput(f"message: as_bytes() gave {type(octets).__name__}, not bytes", field="message")
    if isinstance(rendered, email.message.Message):
        if needs_encoding(rendered) and _writes_as_package(rendered):
            return rendered
        octets = refolded(rendered, octets)
    return octets if _is_portable(octets) or not _may_be_encoded_anew(rendered) else rendered


def _alone_with_parts(message: Any) -> ExitStack:
    """While the message is rendered, no other thread may write a boundary into an attached part without one.

    The ``email`` package writes it into the part after the body, and before the header that names it.
    """
    alone = ExitStack()
    parts = [one for one in getattr(message, "attachments", None) or () if isinstance(one, email.message.Message)]
    for part in sorted(parts, key=id):  # in one order, so that no two threads wait for each other
        if any(one.get_content_maintype() == "multipart" and not one.get_boundary() for one in part.walk()):
            alone.enter_context(alone_with(part))
    return alone


# A control character, or a line end that begins no continuation line.
_unsafe_value = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|\n(?![ \t])").search


def _check_headers(part: email.message.Message) -> None:
    """Raise ValueError for a value that could begin another header: Django checks few. Not in forwarded mail."""
    for name, value in part.raw_items():
        check_name(name)
        if _unsafe_value(str(value)):
            raise InvalidInput(f"{name}: {str(value)!r} has a control character", field=name)
    if media_type(part).startswith("multipart/") and part.is_multipart():
        for inner in part.get_payload():
            _check_headers(inner)  # type: ignore[arg-type]


def _is_portable(octets: bytes) -> bool:
    """Whether every server accepts it: 7-bit, in lines of legal length."""
    return octets.isascii() and max(map(len, octets.split(b"\n"))) <= MAX_LINE + 1


def _may_be_encoded_anew(rendered: Any) -> bool:
    """Whether the core writes the same octets, and may write 7-bit ones for a server without 8BITMIME."""
    if not _writes_as_package(rendered) or is_signed(rendered):
        return False
    complete = all(name in rendered for name in ("Date", "Message-ID", "MIME-Version"))
    return complete and ("Sender" in rendered or "," not in str(rendered["From"]))


def _writes_as_package(rendered: Any) -> bool:
    return any(type(rendered).as_bytes is kind.as_bytes for kind in _RENDERERS)


_RENDERERS: tuple[Any, ...] = (email.message.Message, email.message.MIMEPart)
if not IS_MODERN:
    _RENDERERS += (mail.MIMEMixin,)


def _write_utf8_addresses(rendered: Any, message: Any) -> None:
    """Write addresses with UTF-8 local parts unencoded (RFC 6532): Django 5.2 makes encoded words of them."""
    written = {"From": [message.from_email], "To": message.to, "Cc": message.cc, "Reply-To": message.reply_to}
    for name, values in written.items():
        if "?=@" in str(rendered.get(name, "")):
            value = force_str(message.extra_headers.get(name, ", ".join(map(str, values))))
            # an email.message.Message holds octets as surrogates; message() has checked for line ends
            rendered.replace_header(name, value.encode().decode("ascii", "surrogateescape"))
