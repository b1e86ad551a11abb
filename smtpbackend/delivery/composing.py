"""From what the caller gave to what leaves: who it goes to, and the octets. What cannot be sent ends here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from smtpbackend import mime
from smtpbackend.address import Address
from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.mail import Mail
from smtpbackend.delivery.translated import Parcel
from smtpbackend.envelope import Envelope, Routing
from smtpbackend.errors import CancelSend, InvalidInput, SMTPError
from smtpbackend.events import MessageSending, Telling
from smtpbackend.outcome import Outcome, Status

__all__ = ["compose", "prepare"]


def prepare(
    mail: Mail,
    envelope: Envelope | None,
    rules: Rules,
    stamp: Callable[[], tuple[datetime, str]],
    tell: Telling,
    composed: Callable[[], object] = lambda: None,
) -> None:
    """`compose`, and ask the Listeners, who may cancel it. What cannot be sent is settled then.

    ``composed`` is called when nothing more is read of what the caller gave.
    """
    try:
        try:
            compose(mail, envelope, rules, stamp)
        finally:
            composed()
        if mail.pending and tell.wants("message_sending"):
            tell(MessageSending(mail.message, mail.envelope))
    except CancelSend as cancelled:
        mail.error = cancelled
        mail.settle_all(Status.DEFERRED, cancelled)
    except Exception as error:  # no recipient is to blame
        mail.error = error
        mail.settle_all(Status.FAILED, error)


def compose(mail: Mail, envelope: Envelope | None, rules: Rules, stamp: Callable[[], tuple[datetime, str]]) -> None:
    """Find out who a message goes to, and make what leaves for it: ``envelope`` and ``content`` of ``mail``.

    Its message is a Message, an ``email.message.Message`` or a `Parcel`, with an envelope also octets and what has
    them. Where nobody is left of its recipients there is no envelope. ``stamp`` gives the date and a token for what
    lacks them. Raises `InvalidInput`, and whatever a source raises.
    """
    _address(mail, envelope, rules.bounce_address)
    if len(mail.refused) > 1:  # each once, as those in the envelope are
        mail.refused = tuple({str(outcome.address): outcome for outcome in reversed(mail.refused)}.values())[::-1]
    if rules.only_to is not None:
        mail.keep_to(rules.only_to)
    if mail.refused and rules.recipient_policy == "all":
        mail.send_to_nobody()
    if not mail.pending:
        return
    mail.content = _content_of(mail.message, stamp)
    if rules.redirect_to is not None:
        mail.redirect(rules.redirect_to)
    if rules.dkim:
        from smtpbackend.delivery.dkim import signed

        mail.content = signed(mail.content, rules.dkim, stamp()[0])


def _address(mail: Mail, envelope: Envelope | None, bounce_address: Address | None) -> None:
    """Who it is from and for: as the caller says, else as its headers do."""
    if isinstance(mail.message, Parcel):
        envelope, mail.refused = mail.message.envelope, mail.message.refused
    elif envelope is None:
        envelope = _from_headers(mail, bounce_address)
    elif not isinstance(envelope, Envelope):
        raise InvalidInput(f"envelope must be an Envelope, not {type(envelope).__name__}", field="envelope")
    if envelope is not None:
        mail.envelope = envelope
        mail.is_for(envelope.recipients)


def _from_headers(mail: Mail, bounce_address: Address | None) -> Envelope | None:
    message = mail.message
    if not hasattr(message, "raw_items") and not hasattr(message, "address_fields"):
        raise InvalidInput(
            f"a {type(message).__name__} has no originator and recipients that could be read: give an envelope",
            field="envelope",
        )
    routing = Routing(message)
    recipients, refused = routing.recipients()
    mail.refused = tuple(Outcome(text, Status.REJECTED, error=error) for text, error in refused)
    if refused and not recipients:
        return None
    try:
        return Envelope(bounce_address or routing.originator(), recipients)
    except InvalidInput:
        if recipients:  # the receipt tells of them
            mail.is_for(Envelope(None, recipients).recipients)
        raise


def _content_of(message: Any, stamp: Callable[[], tuple[datetime, str]]) -> mime.Content:
    from email.message import Message as EmailMessage

    from smtpbackend.message import Message

    if isinstance(message, Parcel):
        message = message.content
    if type(message) is mime.Content:
        return message  # an adapter has it ready
    if isinstance(message, Exception):
        raise message
    if not isinstance(message, (Message, EmailMessage)):
        return mime.given(message)  # what the caller's own source raises is the caller's own
    try:
        date, token = stamp()
        return mime.render(message, date=date, token=token)
    except SMTPError:
        raise
    except Exception as error:
        # the email package has its own words for what it cannot render; a file may be missing
        raise InvalidInput(
            f"the message cannot be rendered: {type(error).__name__}: {error}", field="message"
        ) from error
