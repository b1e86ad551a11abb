"""What a transaction means for each of its recipients: replies in, decisions out (DESIGN 4.1 to 4.4)."""

from __future__ import annotations

from typing import NamedTuple

from smtpbackend.envelope import Recipient
from smtpbackend.errors import (
    ContentRefused,
    DeliveryError,
    InDoubt,
    InvalidInput,
    ProtocolViolation,
    RecipientsRefused,
    SenderRefused,
    SMTPError,
    TLSFailed,
)
from smtpbackend.outcome import Reply, Status, named
from smtpbackend.protocol.authentication import asks_for_tls, needs_tls
from smtpbackend.protocol.transaction import Transaction

__all__ = ["Judgement", "judge"]


class Judgement(NamedTuple):
    """What a transaction means for each of its recipients.

    ``settled``: (recipient, status, reply, error). ``pending``: (recipient, reply, error), to go on elsewhere; those in
    ``again`` on the same connection; with ``renew`` all on a new one to the same server. ``error`` says why nobody was
    accepted.
    """

    settled: list[tuple[Recipient, Status, Reply | None, SMTPError | None]]
    pending: list[tuple[Recipient, Reply | None, SMTPError | None]]
    again: tuple[Recipient, ...] = ()
    renew: bool = False
    error: SMTPError | None = None


def judge(
    transaction: Transaction,
    policy: str,
    server: str,
    by_data: bool = False,
    without_tls: TLSFailed | None = None,
) -> Judgement:
    """Read a settled transaction by the rules of DESIGN 4.2 to 4.4.

    ``by_data``: the server refused a chunk, and may take the same content by DATA. ``without_tls``: why it went in
    clear, where TLS was tried. Who refuses it for that says nothing of the message.
    """
    t = transaction
    judgement = Judgement([], [])
    settle, wait = judgement.settled.append, judgement.pending.append

    if t.is_unread:
        judgement.pending.extend((recipient, None, t.error) for recipient in t.recipients)
        return judgement

    if t.is_confused:  # none of the replies can be trusted, and the server has the content
        doubt = in_doubt(t.error or ProtocolViolation("the replies cannot be told apart"), server)
        for recipient in t.recipients:
            settle((recipient, Status.IN_DOUBT, None, doubt))
        return judgement

    if t.mail is not None and not t.mail.is_positive:
        sender = t.envelope.sender.addr_spec if t.envelope.sender else ""
        not_from: DeliveryError = SenderRefused(
            f"{server} refused the sender <{sender}>: {t.mail}", sender=sender, server=server, reply=t.mail
        )
        wants_tls = without_tls is not None and asks_for_tls(t.mail)
        if without_tls is not None and wants_tls:
            not_from = needs_tls(without_tls, f"answers MAIL with {t.mail}", t.mail)
        for recipient, reply in zip(t.recipients, t.rcpt, strict=True):
            if t.final is not None and t.final.is_positive and reply is not None and reply.is_positive:
                # content was in flight, and the server took it although it had refused the sender
                settle((recipient, Status.IN_DOUBT, t.final, in_doubt(t.error or not_from, server)))
            elif t.mail.is_permanent and not wants_tls:
                settle((recipient, Status.REJECTED, t.mail, not_from))
            else:
                wait((recipient, t.mail, not_from))
        return judgement._replace(error=not_from, renew=t.mail.is_transient and says_full(t.mail))

    for_good = any(reply is not None and reply.is_permanent for reply in t.rcpt)
    if policy == "all" and not t.everybody_accepted and (t.error is None or for_good):
        return _judge_all(t, judgement, server)

    # How the conversation ended, for those whom the server accepted and has told nothing else.
    error, ended = t.error, None
    if isinstance(error, InvalidInput):  # ours alone: no other server could be given it
        ended = Status.FAILED
    elif error is not None and t.handed_over and (t.finals is not None or not t.was_closed):
        ended = Status.IN_DOUBT
        error = in_doubt(error, server)

    finals = [t.final_for(place) for place, reply in enumerate(t.rcpt) if reply is not None and reply.is_positive]
    sent = t.error is None and any(final is not None and final.is_positive for final in finals)
    hopeless = not (sent or by_data) and any(final is not None and final.is_permanent for final in finals)

    again = []
    behind = False  # a recipient that was accepted
    refused: ContentRefused | None = None  # one for all whom the same reply is for
    for place, (recipient, reply) in enumerate(zip(t.recipients, t.rcpt, strict=True)):
        final = t.final_for(place)
        if reply is not None and is_full(reply, behind) and not (hopeless and reply.is_permanent):
            wait((recipient, reply, None))
            again.append(recipient)
            continue
        behind = behind or (reply is not None and reply.is_positive)
        if reply is not None and reply.is_permanent:
            settle((recipient, Status.REJECTED, reply, None))
        elif reply is not None and not reply.is_positive:
            wait((recipient, reply, None))
        elif t.error is not None and (t.finals is None or final is None):
            if ended is None:
                wait((recipient, final or (error.reply if t.was_closed and error else None), error))
            else:
                settle((recipient, ended, final, error))
        elif final is None:  # nobody was accepted
            wait((recipient, None, None))
        elif final.is_positive:
            settle((recipient, Status.ACCEPTED, final, None))
        elif by_data:
            again.append(recipient)
        else:
            if refused is None or refused.reply is not final or t.finals is not None:
                whose = "" if t.finals is None else f" for {recipient.address}"
                refused = ContentRefused(f"{server} refused the content{whose}: {final}", server=server, reply=final)
            if final.is_permanent:
                settle((recipient, Status.REJECTED, final, refused))
            else:
                wait((recipient, final, refused))
    # Too many recipients: they follow in a transaction of their own, but only behind one that settled somebody.
    return judgement._replace(again=tuple(again) if sent or by_data else (), error=refused)


def _judge_all(t: Transaction, judgement: Judgement, server: str) -> Judgement:
    """Under "all", and not everybody was accepted: nobody gets the mail from this server."""
    refused = [
        (recipient, reply)
        for recipient, reply in zip(t.recipients, t.rcpt, strict=True)
        if reply and not reply.is_positive
    ]
    # what may be a full mailbox is a 4xx as any other here: only who says "too many recipients" asks for a split
    final = {recipient for recipient, reply in refused if reply.is_permanent or says_full(reply)}
    if not final:
        replies = dict(refused)
        judgement.pending.extend((recipient, replies.get(recipient), None) for recipient in t.recipients)
        return judgement
    error = RecipientsRefused(
        f"{server} refused {named([(recipient.address, reply) for recipient, reply in refused])}; recipient_policy is "
        "'all', so nobody was sent the message",
        recipients={str(recipient.address): reply.as_smtplib for recipient, reply in refused},
        server=server,
    )
    for recipient, reply in zip(t.recipients, t.rcpt, strict=True):
        if recipient in final:
            judgement.settled.append((recipient, Status.REJECTED, reply, None))
        else:
            judgement.settled.append((recipient, Status.DEFERRED, None, error))
    return judgement._replace(error=error)


def says_full(reply: Reply) -> bool:
    """X.5.3 (RFC 3463 3.6): too many recipients, or to MAIL too many messages for this connection."""
    return reply.code >= 400 and reply.enhanced is not None and reply.enhanced[1:] == (5, 3)


def is_full(reply: Reply, behind: bool) -> bool:
    """Whether this refusal of a recipient is of one too many, and says nothing of the recipient.

    452, or 552 from old servers, which is to be read as 452 (RFC 5321 4.5.3.1.10). Both are also of a full mailbox: so
    without X.5.3, or for good, they count only ``behind`` a recipient that was accepted, and never with another status.
    """
    if says_full(reply):
        return behind or reply.is_transient
    return behind and reply.code in (452, 552) and reply.enhanced is None


def in_doubt(cause: SMTPError, server: str) -> InDoubt:
    """The error of a message that was handed over without an answer."""
    error = InDoubt(
        f"{server} was handed the message and did not answer ({cause}); "
        "it may have been delivered, and is not sent again",
        server=server,
    )
    error.__cause__ = cause
    return error
