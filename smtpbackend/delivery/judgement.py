"""What a transaction means for each of its recipients: replies in, decisions out (DESIGN 4.1 to 4.4)."""

from __future__ import annotations

from typing import NamedTuple

from smtpbackend.envelope import Recipient
from smtpbackend.errors import ContentRefused, InDoubt, InvalidInput, RecipientsRefused, SenderRefused, SMTPError
from smtpbackend.outcome import Reply, Status
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


def judge(transaction: Transaction, policy: str, server: str) -> Judgement:
    """Read a settled transaction by the rules of DESIGN 4.2 to 4.4."""
    t = transaction
    judgement = Judgement([], [])
    settle, wait = judgement.settled.append, judgement.pending.append

    if t.mail is not None and not t.mail.is_positive:
        sender = t.envelope.sender.addr_spec if t.envelope.sender else ""
        refused = SenderRefused(
            f"{server} refused the sender <{sender}>: {t.mail}", sender=sender, server=server, reply=t.mail
        )
        for recipient in t.recipients:
            if t.mail.is_permanent:
                settle((recipient, Status.REJECTED, t.mail, refused))
            else:
                wait((recipient, t.mail, refused))
        return judgement._replace(error=refused, renew=is_full(t.mail))

    for_good = any(reply is not None and reply.is_permanent for reply in t.rcpt)
    if policy == "all" and not t.everybody_accepted and (t.error is None or for_good):
        return _judge_all(t, judgement, server)

    # The last word on those whom the server accepted: the reply to the content, or how the conversation ended.
    final, error = t.final, t.error
    if isinstance(error, InvalidInput):  # ours alone: no other server could be given it
        settle_rest: Status | None = Status.REJECTED
    elif error is not None:
        settle_rest = Status.IN_DOUBT if t.handed_over and not t.was_closed else None
        if settle_rest:
            error = in_doubt(error, server)
    elif final is not None and final.is_positive:
        settle_rest = Status.ACCEPTED
    elif final is not None:
        settle_rest = Status.REJECTED if final.is_permanent else None
        error = ContentRefused(f"{server} refused the content: {final}", server=server, reply=final)
        judgement = judgement._replace(error=error)
    else:
        settle_rest = None  # nobody was accepted

    again = []
    for recipient, reply in zip(t.recipients, t.rcpt, strict=True):
        if reply is not None and reply.is_permanent:
            settle((recipient, Status.REJECTED, reply, None))
        elif reply is not None and not reply.is_positive:
            wait((recipient, reply, None))
            if is_full(reply):
                again.append(recipient)
        elif settle_rest is None:
            wait((recipient, final, error))
        else:
            settle((recipient, settle_rest, final, error))
    if settle_rest is not Status.ACCEPTED:
        again.clear()
    # "Too many recipients" (RFC 5321 4.5.3.1.10): they follow in a transaction of their own.
    return judgement._replace(again=tuple(again))


def _judge_all(t: Transaction, judgement: Judgement, server: str) -> Judgement:
    """Under "all", and not everybody was accepted: nobody gets the mail from this server."""
    refused = [
        (recipient, reply)
        for recipient, reply in zip(t.recipients, t.rcpt, strict=True)
        if reply and not reply.is_positive
    ]
    final = [recipient for recipient, reply in refused if reply.is_permanent or is_full(reply)]
    if not final:
        replies = dict(refused)
        judgement.pending.extend((recipient, replies.get(recipient), None) for recipient in t.recipients)
        return judgement
    names = ", ".join(f"{recipient.address} ({reply})" for recipient, reply in refused)
    error = RecipientsRefused(
        f"{server} refused {names}; recipient_policy is 'all', so nobody was sent the message",
        recipients={str(r.address): (reply.code, reply.text.encode()) for r, reply in refused},
        server=server,
    )
    for recipient, reply in zip(t.recipients, t.rcpt, strict=True):
        if recipient in final:
            judgement.settled.append((recipient, Status.REJECTED, reply, None))
        else:
            judgement.settled.append((recipient, Status.DEFERRED, None, error))
    return judgement._replace(error=error)


def is_full(reply: Reply) -> bool:
    """452 4.5.3: too many recipients, or too many messages for this connection."""
    return reply.code == 452 and reply.enhanced == (4, 5, 3)


def in_doubt(cause: SMTPError, server: str) -> InDoubt:
    """The error of a message that was handed over without an answer."""
    error = InDoubt(
        f"{server} was handed the message and did not answer ({cause}); "
        "it may have been delivered, and is not sent again",
        server=server,
    )
    error.__cause__ = cause
    return error
