"""From a message that a Flask app sends to its content and `Envelope`."""

from __future__ import annotations

import copy
import email.message
import functools
import math
import os
import re
import time
from collections.abc import Iterable
from datetime import datetime
from email import policy
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import smtpbackend
from smtpbackend import Address, Envelope, Injection, InvalidInput, Outcome, Recipient, Status
from smtpbackend.adapters import (
    Content,
    Parcel,
    alone_with,
    has_names,
    is_word,
    no_mailbox,
    parse_addresses,
    parsed_message,
    text_content,
    with_texts_now,
)
from smtpbackend_flask.message import BadHeaderError, IncompleteMessage, Message, app_option, bad_header
from smtpbackend_flask.mime import part_text
from smtpbackend_flask.sanitize import address_text, force_text, joined, sanitize_address

if TYPE_CHECKING:
    from smtpbackend_flask.sanitize import Mailbox

__all__ = ["left_out", "parcel_for_any", "parcel_of", "translate"]


def parcel_of(
    message: Any,
    default_sender: Any,
    envelope_from: Mailbox | None = None,
    envelope: Envelope | None = None,
    bounce_address: Address | None = None,
) -> Parcel:
    """The parcel of a message as `translate` makes it, or of the error that kept it from being made: see `failing`."""
    try:
        return translate(message, default_sender, envelope_from, envelope, bounce_address)
    except Exception as error:
        return failing(message, envelope, error)


def parcel_for_any(message: Message, envelope: Envelope | None, bounce_address: Address | None) -> Parcel:
    """The parcel of a message that is given to a mailer of the core. The app is the current one, where there is one."""
    sender = app_option("default_sender", None)
    return parcel_of(message, sender, envelope=envelope, bounce_address=bounce_address)


def translate(
    message: Any,
    default_sender: Any,
    envelope_from: Mailbox | None = None,
    envelope: Envelope | None = None,
    bounce_address: Address | None = None,
) -> Parcel:
    """The parcel of a message.

    Takes a `Message` or one like it, or what ``smtpbackend.Mailer.send`` takes. Where it names no sender,
    ``default_sender`` is written into it.
    """
    if hasattr(message, "send_to") and hasattr(message, "as_bytes"):
        originator = bounce_address if envelope_from is None else envelope_from
        return _translate_flask_mail(message, default_sender, originator, envelope)
    if default_sender:
        _write_sender(message, default_sender)
    if envelope_from is not None:
        given = envelope or Envelope.from_headers(message)
        envelope = given.replace(sender=_reverse_path(envelope_from))
    return Parcel.of(message, envelope, bounce_address)


def _write_sender(message: Any, sender: Any) -> None:
    if isinstance(sender, tuple):
        sender = joined(sender, "sender")
    if isinstance(message, smtpbackend.Message):
        names = {name.lower() for name, _ in message.headers}
        if not message.from_ and not names & {"from", "resent-from"}:
            message.from_ = sender
    elif isinstance(message, email.message.Message):
        with alone_with(message):  # else two threads write two fields
            if "From" not in message:
                message["From"] = sender if message.policy is not policy.compat32 else sanitize_address(sender)


def failing(message: Any, envelope: Envelope | None, error: Exception) -> Parcel:
    """The parcel of what cannot be written: every recipient fails by ``error``, which is raised where none is known."""
    refused: _Refused = {}
    if envelope is None:
        try:
            named, refused = _sifted(message)
            envelope = Envelope(None, list(chain(*named.values())))
        except Exception:
            raise error from None
    return Parcel(envelope, error, tuple(refused.values()))


def _translate_flask_mail(
    message: Any, default_sender: Any, envelope_from: Mailbox | None, envelope: Envelope | None
) -> Parcel:
    given, message = message, _with_texts_now(message)
    if not message.sender and default_sender:
        sender = joined(default_sender, "sender") if isinstance(default_sender, tuple) else default_sender
        given.sender = message.sender = sender
    if given is not message and isinstance(given, Message):
        given.msgId = message.msgId
    if not message.send_to and envelope is None:
        raise IncompleteMessage("No recipients have been added", field="recipients")
    if not message.sender:
        raise IncompleteMessage(
            "The message does not specify a sender and a default sender has not been configured: "
            "set MAIL_DEFAULT_SENDER",
            field="sender",
        )
    if bad := bad_header(message):
        raise BadHeaderError(f"{bad} has a line break or another control character", field=bad)
    if getattr(message, "date", None) is None:
        given.date = message.date = time.time()
    date = _moment_of(message.date)
    authors = _authors(message) if isinstance(message, Message) else []
    named, refused = _sifted(message)
    if envelope is not None:
        refused = {}
    else:
        envelope = _envelope(message, list(chain(*named.values())), authors, envelope_from)
        if refused:
            message = _without(message, refused)
    content: Any = None
    if envelope is not None:
        if isinstance(message, Message):
            content = _simple(message, date, authors, named) or _tree(message)
        else:  # parsed, so that it can be encoded anew for a server that takes 7 bits only
            content = parsed_message(message.as_bytes(), "message")
    return Parcel(envelope, content, tuple(refused.values()))


def _with_texts_now(message: Any) -> Any:
    """The message, or a copy without lazy texts: envelope and headers have the same ones."""
    try:  # quickly, for few have any
        subject, body, sender, reply_to, recipients, cc, bcc, headers = _texts(message)
        texts = (subject, body, sender, reply_to, *recipients, *cc, *bcc)
        if not headers and _NEVER_LAZY.issuperset(map(type, texts)):
            return message
    except (AttributeError, TypeError):
        pass  # it is like a `Message`, or was changed
    return with_texts_now(message, _TEXTS)


_TEXTS = ("subject", "body", "sender", "reply_to", "recipients", "cc", "bcc", "extra_headers")
_texts = attrgetter(*_TEXTS)
_NEVER_LAZY = frozenset((str, Markup, Address, type(None)))


def _tree(message: Message) -> email.message.Message:
    if message.reply_to:
        parse_addresses(_plain(message.reply_to, "reply_to"), "reply_to")
    return message._message()  # as Flask-Mail calls it: a subclass may have its own


def _simple(
    message: Message, date: datetime, authors: list[Address], named: _Named
) -> Content | smtpbackend.Message | None:
    """What the core writes of it in one pass; None for what only the ``email`` package writes.

    One that cannot be written becomes a message of the core, which fails for each recipient when it is sent.
    """
    if (
        type(message) is not Message
        or (message.charset or message.extra_headers or message.attachments)
        or not message.alts.keys() <= {"html"}
    ):
        return None
    subject, text = force_text(message.subject or ""), part_text(message.body)
    html = part_text(message.html) if message.alts else None
    if "\r" in subject or "\n" in subject:
        return None
    to, cc = [list(dict.fromkeys(named[field])) if field in named else [] for field in ("recipients", "cc")]
    reply_to = _plain(message.reply_to, "reply_to") if message.reply_to else []
    message_id = message.msgId
    try:
        return text_content(
            subject,
            authors,
            to,
            cc,
            parse_addresses(reply_to) if reply_to else [],
            text=text,
            html=html,
            date=date,
            message_id=message_id,
            token=os.urandom(16).hex(),
        )
    except InvalidInput:
        return smtpbackend.Message(
            subject, authors, to, cc, reply_to=reply_to, text=text, html=html, date=date, message_id=message_id
        )


def _moment_of(date: Any) -> datetime:
    try:
        return _local(math.floor(date), time.timezone, time.tzname)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        why = f"date: {date!r} is no number of seconds since 1970: {error}"
        raise InvalidInput(why, field="date") from error


@functools.lru_cache(maxsize=16)  # of a thousand messages most are of the same second; and time.tzset() is heard
def _local(seconds: int, *zone: Any) -> datetime:
    return datetime.fromtimestamp(seconds).astimezone()


def _plain(mailbox: Any, field: str) -> Any:
    """A mailbox as the core takes it."""
    if isinstance(mailbox, str):
        return mailbox
    if isinstance(mailbox, (tuple, list)) and len(mailbox) == 2:
        return joined(mailbox, field)
    return mailbox if isinstance(mailbox, Address) else address_text(mailbox, field)


_FIELDS = ("recipients", "cc", "bcc")
_Named = dict[str, list[Address]]
"""Recipients by field."""
_Refused = dict[tuple[str, int], Outcome]
"""The outcomes of bad entries, by field and place."""


def _authors(message: Any) -> list[Address]:
    authors = parse_addresses(_plain(message.sender, "sender"), "sender")
    if not authors:
        raise IncompleteMessage(f"sender: {message.sender!r} is no address", field="sender")
    return authors


def _sifted(message: Any) -> tuple[_Named, _Refused]:
    """The recipients, and the bad entries: a badly written one does not cost the others."""
    named: _Named = {}
    refused: _Refused = {}
    for field in _FIELDS:
        if not (mailboxes := getattr(message, field, None)):
            continue
        found = named[field] = []
        is_mixed = isinstance(mailboxes, tuple) and has_names(mailboxes)
        for place, mailbox in enumerate(mailboxes):
            try:
                if is_mixed and isinstance(mailbox, str) and is_word(mailbox):
                    raise no_mailbox(mailbox, field)
                found.append(_address(mailbox, field))
            except Injection:
                raise
            except InvalidInput as error:
                where = f"{field}[{place}]"
                why = InvalidInput(where + str(error).removeprefix(field), field=where)
                text = mailbox if isinstance(mailbox, str) else repr(mailbox)
                refused[field, place] = Outcome(text, Status.REJECTED, error=why)
    return named, refused


def _without(message: Any, refused: _Refused) -> Any:
    """A copy without the bad entries."""
    _ = message.msgId  # made now, so that both have the same
    message = copy.copy(message)
    for field in _FIELDS:
        mailboxes = enumerate(getattr(message, field, None) or ())
        setattr(message, field, [mailbox for place, mailbox in mailboxes if (field, place) not in refused])
    return message


def _envelope(
    message: Any, addresses: list[Address], authors: list[Address], envelope_from: Mailbox | None
) -> Envelope | None:
    """The envelope that Flask-Mail would have given to ``smtplib.SMTP.sendmail``; None where nobody is left."""
    given = getattr(message, "mail_options", None)
    options = _mail_options(given) if given else {}
    given = getattr(message, "rcpt_options", None)
    rcpt = _rcpt_options(given) if given else {}
    recipients = [Recipient(address, **rcpt) for address in addresses]
    sender: Address | None
    if envelope_from is not None:
        sender = _reverse_path(envelope_from)
    else:
        sender = authors[0] if len(authors) == 1 else _address(message.sender, "sender")
    return Envelope(sender, recipients, **options) if recipients else None


def _address(mailbox: Any, field: str) -> Address:
    """The address of one entry: a str, a pair with the name, or an `Address`."""
    return Address.parse(mailbox if isinstance(mailbox, str) else _plain(mailbox, field), field)


def _reverse_path(mailbox: Mailbox) -> Address | None:
    """None for "", the null reverse-path (RFC 5321 4.5.5)."""
    return None if mailbox in ("", "<>") else _address(mailbox, "envelope_from")


_DECIDED = frozenset(("SIZE", "BODY", "SMTPUTF8"))


def left_out(message: Any) -> tuple[str, ...]:
    """Notes on the ``mail_options`` that are not sent as given, because they follow from the message."""
    return tuple(
        f"mail_options: {option} is left out, {name} follows from the message"
        for option in getattr(message, "mail_options", None) or ()
        if (name := option.partition("=")[0].upper()) in _DECIDED
    )


def _mail_options(given: Iterable[str]) -> dict[str, Any]:
    """Parameters of MAIL as arguments of `Envelope`, without those that follow from the message."""
    options: dict[str, Any] = {}
    extra: dict[str, str | None] = {}
    for option in given:
        keyword, has_value, value = option.partition("=")
        match keyword.upper():
            case name if name in _DECIDED:
                pass
            case "RET":
                options["dsn_return"] = value
            case "ENVID":
                options["envid"] = _from_xtext(value)
            case "REQUIRETLS":
                options["require_tls"] = True
            case "HOLDFOR":
                options["hold_for"] = int(value) if value.isdecimal() else value
            case "HOLDUNTIL":
                options["hold_until"] = _moment(value)
            case _:
                extra[keyword] = value if has_value else None
    return {**options, "extra": extra}


def _rcpt_options(given: Iterable[str]) -> dict[str, Any]:
    """Parameters of RCPT as arguments of `Recipient` (RFC 3461 4.1, 4.2)."""
    options: dict[str, Any] = {}
    for option in given:
        keyword, _, value = option.partition("=")
        if keyword.upper() == "NOTIFY":
            options["notify"] = value
        elif keyword.upper() == "ORCPT":
            options["orcpt"] = _from_xtext(value)
        else:
            raise InvalidInput(f"rcpt_options: {option!r} is not known; NOTIFY and ORCPT are", field="rcpt_options")
    return options


def _from_xtext(value: str) -> str:
    """Decode xtext (RFC 3461 4)."""
    return re.sub(r"\+([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), value)


def _moment(value: str) -> Any:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return value  # Envelope refuses it
