"""What a transaction means for each of its recipients: replies in, decisions out (DESIGN 4.1 to 4.4)."""

from __future__ import annotations

from typing import NamedTuple

from smtpbackend.delivery.configuration import Rules
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
from smtpbackend.known_replies import explained, remedies
from smtpbackend.outcome import Reply, Status, named
from smtpbackend.protocol.authentication import asks_for_tls, needs_tls
from smtpbackend.protocol.transaction import Transaction
from smtpbackend.spelling import Spelling

__all__ = ["Judgement", "judge"]


_Settled = tuple[Recipient, Status, Reply | None, SMTPError | None]
_Pending = tuple[Recipient, Reply | None, SMTPError | None]


class Judgement(NamedTuple):
    """What a transaction means for each of its recipients.

    ``settled``: (recipient, status, reply, error). ``pending``: (recipient, reply, error), to go on elsewhere; those in
    ``again`` on the same connection; with ``renew`` all on a new one to the same server. ``error`` says why none was
    accepted.
    """

    settled: list[_Settled]
    pending: list[_Pending]
    again: tuple[Recipient, ...] = ()
    renew: bool = False
    error: SMTPError | None = None


def judge(
    transaction: Transaction,
    rules: Rules,
    server: str,
    by_data: bool = False,
    without_tls: TLSFailed | None = None,
    spelled: Spelling | None = None,
) -> Judgement:
    """Read a settled transaction by the rules of DESIGN 4.2 to 4.4.

    ``by_data``: the server refused a chunk, and may take the same content by DATA. ``without_tls``: why the connection
    is in clear, where TLS was tried. A refusal for want of TLS says nothing of the message. ``spelled`` is the spelling
    of the server, where it is not that of the rules.
    """
    t, spelled = transaction, spelled or rules.spelling
    if t.is_unread:
        return Judgement([], [(recipient, None, t.error) for recipient in t.recipients])
    if t.is_confused:  # none of the replies can be trusted, and the server has the content
        doubt = in_doubt(t.error or ProtocolViolation("the replies cannot be told apart"), server)
        return Judgement([(recipient, Status.IN_DOUBT, None, doubt) for recipient in t.recipients], [])
    if t.mail is not None and not t.mail.is_positive:
        return _judge_sender(t, t.mail, server, without_tls, spelled)
    for_good = any(reply is not None and reply.is_permanent for reply in t.rcpt)
    if rules.recipient_policy == "all" and not t.everybody_accepted and (t.error is None or for_good):
        return _judge_all(t, server, spelled)
    return _judge_any(t, server, by_data, spelled)


def _judge_sender(
    t: Transaction, mail: Reply, server: str, without_tls: TLSFailed | None, spelled: Spelling
) -> Judgement:
    """MAIL was refused with the reply ``mail``."""
    sender = t.envelope.sender.addr_spec if t.envelope.sender else ""
    error: DeliveryError = SenderRefused(
        f"{server} refused mail from <{sender}>: {explained(mail, 'mail', spelled)}",
        sender=sender,
        server=server,
        reply=mail,
    )
    wants_tls = without_tls is not None and asks_for_tls(mail)
    if without_tls is not None and wants_tls:
        error = needs_tls(without_tls, f"answers MAIL with {mail}", mail)
    judgement = Judgement([], [], error=error, renew=mail.is_transient and says_full(mail))
    for recipient, reply in zip(t.recipients, t.rcpt, strict=True):
        if t.final is not None and t.final.is_positive and reply is not None and reply.is_positive:
            # content was in flight, and the server took it although it had refused the sender
            judgement.settled.append((recipient, Status.IN_DOUBT, t.final, in_doubt(t.error or error, server)))
        elif mail.is_permanent and not wants_tls:
            judgement.settled.append((recipient, Status.REJECTED, mail, error))
        else:
            judgement.pending.append((recipient, mail, error))
    return judgement


def _judge_any(t: Transaction, server: str, by_data: bool, spelled: Spelling) -> Judgement:
    """Each recipient by its own replies."""
    settled: list[_Settled] = []
    pending: list[_Pending] = []
    again = []
    lost, lost_status = _lost(t, server)
    finals = [t.final_for(place) for place, reply in enumerate(t.rcpt) if reply is not None and reply.is_positive]
    sent = t.error is None and any(final is not None and final.is_positive for final in finals)
    hopeless = not (sent or by_data) and any(final is not None and final.is_permanent for final in finals)
    behind = False  # a recipient that was accepted
    refused: ContentRefused | None = None  # one error for all recipients that the same reply is for
    for place, (recipient, reply) in enumerate(zip(t.recipients, t.rcpt, strict=True)):
        final = t.final_for(place)
        if reply is not None and is_full(reply, behind) and not (hopeless and reply.is_permanent):
            pending.append((recipient, reply, None))
            again.append(recipient)
            continue
        behind = behind or (reply is not None and reply.is_positive)
        if reply is not None and reply.is_permanent:
            settled.append((recipient, Status.REJECTED, reply, None))
        elif reply is not None and not reply.is_positive:
            pending.append((recipient, reply, None))
        elif lost is not None and (t.finals is None or final is None):
            if lost_status is None:
                pending.append((recipient, final or (lost.reply if t.was_closed else None), lost))
            else:
                settled.append((recipient, lost_status, final, lost))
        elif final is None:  # no recipient was accepted
            pending.append((recipient, None, None))
        elif final.is_positive:
            settled.append((recipient, Status.ACCEPTED, final, None))
        elif by_data:
            again.append(recipient)
        else:
            if refused is None or refused.reply is not final or t.finals is not None:
                whose = "" if t.finals is None else f" for {recipient.address}"
                why = explained(final, "data", spelled)
                refused = ContentRefused(f"{server} refused the content{whose}: {why}", server=server, reply=final)
            if final.is_permanent:
                settled.append((recipient, Status.REJECTED, final, refused))
            else:
                pending.append((recipient, final, refused))
    # too many recipients: they follow in a transaction of their own, but only behind one that settled a recipient
    return Judgement(settled, pending, tuple(again) if sent or by_data else (), error=refused)


def _lost(t: Transaction, server: str) -> tuple[SMTPError | None, Status | None]:
    """How the conversation ended early: why, and the status of recipients that it left without a last reply.

    None for the status: they are pending.
    """
    if isinstance(t.error, InvalidInput):  # ours alone: no other server could be given it
        return t.error, Status.FAILED
    if t.error is not None and t.handed_over and (t.finals is not None or not t.was_closed):
        return in_doubt(t.error, server), Status.IN_DOUBT
    return t.error, None


def _judge_all(t: Transaction, server: str, spelled: Spelling) -> Judgement:
    """Under "all", and a recipient was refused: none gets the mail from this server."""
    replies = list(zip(t.recipients, t.rcpt, strict=True))
    refused = [(recipient, reply) for recipient, reply in replies if reply and not reply.is_positive]
    # 452 without X.5.3 may be about a full mailbox, and counts as any 4xx here: only X.5.3 asks for a split
    final = {recipient for recipient, reply in refused if reply.is_permanent or says_full(reply)}
    if not final:
        answers = dict(refused)
        return Judgement([], [(recipient, answers.get(recipient), None) for recipient in t.recipients])
    error = RecipientsRefused(
        f"{server} refused {named([(recipient.address, reply) for recipient, reply in refused])}"
        f"{remedies([(reply, spelled) for _, reply in refused], 'rcpt')}; with {spelled('recipient_policy', 'all')} "
        "no recipient was sent the message",
        recipients={str(recipient.address): reply.as_smtplib for recipient, reply in refused},
        server=server,
    )
    settled: list[_Settled] = [
        (one, Status.REJECTED, reply, None) if one in final else (one, Status.DEFERRED, None, error)
        for one, reply in replies
    ]
    return Judgement(settled, [], error=error)


def says_full(reply: Reply) -> bool:
    """X.5.3 (RFC 3463 3.6): too many recipients, or to MAIL too many messages for this connection."""
    return reply.code >= 400 and reply.enhanced is not None and reply.enhanced[1:] == (5, 3)


def is_full(reply: Reply, behind: bool) -> bool:
    """Whether this refusal of a recipient is of one too many, and says nothing of the recipient.

    That is 452, or 552 from old servers, which is to be read as 452 (RFC 5321 4.5.3.1.10). Both may also mean a full
    mailbox. So without X.5.3 they count only ``behind`` an accepted recipient and without an enhanced status code; with
    X.5.3 a 5yz counts only behind an accepted recipient.
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
