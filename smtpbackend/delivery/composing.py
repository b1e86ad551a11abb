"""From a parcel to what leaves: its recipients, and the octets. What cannot be sent ends here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from smtpbackend import mime
from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.mail import Mail
from smtpbackend.delivery.parcel import Parcel
from smtpbackend.errors import InvalidInput, SMTPError
from smtpbackend.outcome import Outcome

__all__ = ["compose", "content_of"]


def compose(
    mail: Mail, given: Parcel | Exception, rules: Rules, stamp: Callable[[], tuple[datetime, str]]
) -> Exception | None:
    """Make what leaves for a message: ``envelope`` and ``content`` of ``mail``. Returns why it cannot be sent, or None.

    ``given`` is its parcel, or the error in place of one. ``stamp`` gives the date and a token for what lacks them.
    """
    if isinstance(given, Exception):
        return given
    try:
        _make_ready(mail, given, rules, stamp)
    except Exception as error:
        return error
    return None


def _make_ready(mail: Mail, parcel: Parcel, rules: Rules, stamp: Callable[[], tuple[datetime, str]]) -> None:
    if not isinstance(parcel, Parcel):
        raise InvalidInput(f"prepare must return a Parcel or None, not {type(parcel).__name__}", field="prepare")
    mail.parcel_notes = parcel.notes
    if parcel.refused:
        mail.refused = _outcomes(parcel.refused)
    if parcel.envelope is not None:
        if parcel.envelope.sender is not None or not isinstance(parcel.content, Exception):  # else it may not be known
            mail.envelope = parcel.envelope
        mail.is_for(parcel.envelope.recipients)
    if len(mail.refused) > 1:  # each once, as those in the envelope are
        mail.refused = tuple({str(outcome.address): outcome for outcome in reversed(mail.refused)}.values())[::-1]
    if rules.only_to is not None:
        mail.keep_to(rules.only_to)
    if mail.refused and rules.recipient_policy == "all":
        mail.send_to_nobody(rules.spelling)
    if not mail.pending:
        return
    mail.content = content_of(parcel.content, stamp)
    if rules.redirect_to is not None:
        mail.redirect(rules.redirect_to, rules.spelling("redirect_to"))
    if rules.dkim:
        from smtpbackend.delivery.dkim import signed

        mail.content = signed(mail.content, rules.dkim, stamp()[0])


def _outcomes(refused: Any) -> tuple[Outcome, ...]:
    outcomes = tuple(refused) if isinstance(refused, list | tuple) else (refused,)
    if not all(isinstance(outcome, Outcome) for outcome in outcomes):
        raise InvalidInput(f"Parcel.refused must be Outcomes, not {type(refused).__name__}", field="refused")
    return outcomes


def content_of(given: Any, stamp: Callable[[], tuple[datetime, str]]) -> mime.Content:
    if type(given) is mime.Content:
        return given  # an adapter has it ready
    if isinstance(given, Exception):
        raise given
    from email.message import Message as EmailMessage

    from smtpbackend.message import Message

    if not isinstance(given, (Message, EmailMessage)):
        return mime.given(given)  # what the caller's own source raises is the caller's own
    try:
        date, token = stamp()
        return mime.render(given, date=date, token=token)
    except SMTPError:
        raise
    except Exception as error:
        # the email package has its own words for what it cannot render; a file may be missing
        raise InvalidInput(
            f"the message cannot be rendered: {type(error).__name__}: {error}", field="message"
        ) from error
