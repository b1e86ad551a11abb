"""What is told of a delivery: the error that ``send`` raises, the events of recipients, the queue id."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from smtpbackend.envelope import Envelope
from smtpbackend.errors import (
    MAX_NAMED,
    MAX_TEXT,
    AuthenticationFailed,
    CancelSend,
    ConnectionLost,
    ContentRefused,
    DeliveryError,
    InvalidInput,
    MailerClosed,
    NotSupported,
    RecipientsRefused,
    SenderRefused,
    SMTPError,
    TLSFailed,
    shortened,
)
from smtpbackend.events import Event, RecipientDeferred, RecipientRejected
from smtpbackend.known_replies import remedies
from smtpbackend.outcome import Outcome, Receipt, Reply, Status, named, refusals, said_of
from smtpbackend.spelling import KEYWORDS, Spelling

__all__ = ["failure", "of_all_servers", "queue_id", "recipient_events"]


def failure(
    receipt: Receipt, last: Exception | None, spellings: Mapping[str, Spelling] = MappingProxyType({})
) -> Exception | None:
    """What ``send`` raises for a receipt; None where a recipient was accepted.

    ``spellings``: how it writes the settings of a server, by the name of the server.
    """
    outcomes = receipt.outcomes
    if receipt.ok or receipt.accepted:
        return None
    if receipt.in_doubt:
        return own(receipt.in_doubt[0].error or last)
    if isinstance(last, (InvalidInput, CancelSend, ContentRefused, SenderRefused, NotSupported)):
        return own(last)
    if isinstance(last, TLSFailed) and any(last.reply is not None and last.reply is one.reply for one in outcomes):
        return own(last)  # MAIL was refused for want of TLS
    # a reply that ended the connection stands beside its error
    refused = any(outcome.reply is not None and not isinstance(outcome.error, ConnectionLost) for outcome in outcomes)
    if (refused or (last is None and outcomes and not receipt.deferred)) and not isinstance(last, AuthenticationFailed):
        if isinstance(last, RecipientsRefused):
            return own(last)
        error = RecipientsRefused(
            _refusal(outcomes, spellings),
            recipients=refusals(outcomes),
            transient=all(outcome.status is Status.DEFERRED for outcome in outcomes),
            server=next((outcome.server for outcome in reversed(outcomes) if outcome.server), None),
        )
        if not isinstance(last, DeliveryError):
            return error
        # servers that gave no recipient an answer are named beside those that did
        answered = {outcome.server for outcome in outcomes if outcome.reply}
        return of_all_servers(error, [one for one in _each(last) if one.server not in answered and one.server])
    return own(last)


def _refusal(outcomes: Sequence[Outcome], spellings: Mapping[str, Spelling]) -> str:
    """Who refused which recipient, and why; and what to do about it, each remedy once."""
    servers = {o.server if o.reply else None for o in outcomes}
    one, *others = outcomes
    if one.error is not None and all(o.error is one.error for o in others):
        if one.reply is None or getattr(one.error, "reply", None) is one.reply:
            return str(one.error)
        what = f"{one.error} ({one.server}: {one.reply})"
    elif len(servers) == 1 and None not in servers:
        what = f"{servers.pop()} refused {named([(o.address, o.reply) for o in outcomes])}"
    else:
        what = f"no recipient was accepted: {named([(o.address, said_of(o)) for o in outcomes])}"
    replies = [(o.reply, spellings.get(o.server or "", KEYWORDS)) for o in outcomes]
    return f"{what}{remedies(replies, 'rcpt')}"


def of_all_servers(last: SMTPError, failed: Iterable[SMTPError]) -> SMTPError:
    """The error of a delivery that no server is left for: ``last``, with a text that names the others too.

    ``failed`` are the errors of the servers in the order in which they failed; ``last`` may be among them.
    """
    last = last._alone or last
    if isinstance(last, MailerClosed):  # it is of no server
        return last
    each = {id(one): one for given in failed for one in _each(given)}
    others = tuple(one for one in each.values() if one is not last and not isinstance(one, MailerClosed))
    if not others:
        return last
    error = own(last)
    assert isinstance(error, SMTPError)
    error.others, error._alone = others, last
    total = len(others) + 1
    named = [*others[: MAX_NAMED - 1], last]
    room = (MAX_TEXT - 100) // len(named) - 10
    texts = [f"({number}) {shortened(_with_server(one), room)}" for number, one in enumerate(named, 1)]
    if total > len(named):
        texts[-1:] = [f"... {total - len(named):,} more, see others ...", f"({total:,}) {texts[-1].split(' ', 1)[1]}"]
    error.args = (shortened(f"{total:,} servers failed: {' '.join(texts)}", MAX_TEXT),)
    return error


def _each(error: SMTPError) -> tuple[SMTPError, ...]:
    """The errors of the servers that one error names."""
    return (*error.others, error._alone or error)


def _with_server(error: SMTPError) -> str:
    text = str(error)
    return text if error.server is None or error.server in text else f"{error.server}: {text}"


def own(error: Exception | None) -> Exception:
    """A copy, for one receipt alone: an error may stand for many messages. What is not ours stays what it is."""
    if error is None:
        return DeliveryError("the message was not sent")
    if not isinstance(error, SMTPError):
        return error
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


def recipient_events(message: Any, envelope: Envelope | None, receipt: Receipt, notes: Any = None) -> Iterator[Event]:
    """The events of the recipients that were not accepted; none where a Listener cancelled the message."""
    if isinstance(receipt.error, CancelSend):
        return
    for outcome in receipt.rejected:
        yield RecipientRejected(message, envelope, notes, outcome)
    for outcome in receipt.deferred:
        yield RecipientDeferred(message, envelope, notes, outcome)


# "queued as X" Postfix, "id=X" Exim, "[InternalId=X" Exchange, "X Message accepted" Sendmail and OpenSMTPD
_QUEUE_ID = re.compile(
    r"(?:queued as|\b(?:Internal)?id=) *<?([A-Za-z0-9._-]{5,})|^([A-Za-z0-9._-]{5,}) Message accepted", re.I | re.M
)


def queue_id(reply: Reply | None) -> str | None:
    """The server's own name for the message, where its reply has one in a known form (Postfix, Exim, others)."""
    match = _QUEUE_ID.search(reply.text) if reply is not None else None
    return (match[1] or match[2]) if match else None
