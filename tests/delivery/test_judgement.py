"""`judge`: what the replies of one transaction mean for each recipient."""

from __future__ import annotations

import pytest

from smtpbackend import Envelope, Reply, Status
from smtpbackend.delivery.judgement import judge
from smtpbackend.errors import ConnectionLost, ContentRefused, InDoubt, InvalidInput, RecipientsRefused, SenderRefused
from smtpbackend.mime import given
from smtpbackend.protocol.transaction import Transaction

OK, LATER, NO, FULL = Reply(250), Reply(450, (4, 2, 0)), Reply(550, (5, 1, 1)), Reply(452, (4, 5, 3))
LOST = ConnectionLost("lost")


def settled(*rcpt: Reply | None, mail: Reply | None = OK, final: Reply | None = None) -> Transaction:
    """A transaction with these replies."""
    envelope = Envelope("ann@example.org", [f"u{number}@example.com" for number in range(len(rcpt))])
    transaction = Transaction(envelope, envelope.recipients, given(b"x"))
    transaction.mail, transaction.rcpt[:], transaction.final = mail, rcpt, final
    return transaction


def what(transaction: Transaction, policy: str = "any") -> list[str]:
    """What becomes of each recipient, in their order: a status, "wait" or "again"."""
    judgement = judge(transaction, policy, "mx.example.com:25")
    told = {recipient: status.value for recipient, status, _, _ in judgement.settled}
    told |= {recipient: "again" if recipient in judgement.again else "wait" for recipient, _, _ in judgement.pending}
    assert len(told) == len(judgement.settled) + len(judgement.pending)
    return [told[recipient] for recipient in transaction.recipients]


@pytest.mark.parametrize(
    ("rcpt", "final", "expected"),
    [
        ((OK, NO, LATER), OK, ["accepted", "rejected", "wait"]),
        ((OK, FULL, FULL), OK, ["accepted", "again", "again"]),
        ((OK, FULL, LATER), OK, ["accepted", "again", "wait"]),
        ((FULL, FULL), None, ["wait", "wait"]),
        ((OK, FULL), LATER, ["wait", "wait"]),
        ((OK, FULL), NO, ["rejected", "wait"]),
        ((OK, NO), NO, ["rejected", "rejected"]),
        ((OK, LATER), LATER, ["wait", "wait"]),
        ((NO, NO), None, ["rejected", "rejected"]),
        ((LATER, NO), None, ["wait", "rejected"]),
    ],
)
def test_under_any(rcpt: tuple[Reply, ...], final: Reply | None, expected: list[str]) -> None:
    assert what(settled(*rcpt, final=final)) == expected


@pytest.mark.parametrize(
    ("rcpt", "final", "expected"),
    [
        ((OK, OK), OK, ["accepted", "accepted"]),
        ((OK, OK), NO, ["rejected", "rejected"]),
        ((OK, OK), LATER, ["wait", "wait"]),
        ((OK, LATER), None, ["wait", "wait"]),
        ((OK, NO), None, ["deferred", "rejected"]),
        ((OK, FULL), None, ["deferred", "rejected"]),
        ((NO, LATER), None, ["rejected", "deferred"]),
    ],
)
def test_under_all(rcpt: tuple[Reply, ...], final: Reply | None, expected: list[str]) -> None:
    assert what(settled(*rcpt, final=final), "all") == expected


@pytest.mark.parametrize("policy", ["any", "all"])
@pytest.mark.parametrize(("mail", "expected"), [(NO, "rejected"), (LATER, "wait"), (FULL, "wait")])
def test_a_refused_sender(policy: str, mail: Reply, expected: str) -> None:
    transaction = settled(Reply(503), Reply(503), mail=mail)
    assert what(transaction, policy) == [expected] * 2
    judgement = judge(transaction, policy, "mx.example.com:25")
    assert isinstance(judgement.error, SenderRefused)
    assert judgement.error.sender == "ann@example.org"
    assert judgement.renew is (mail is FULL)


@pytest.mark.parametrize(
    ("handed_over", "was_closed", "expected"),
    [
        (False, False, ["wait", "rejected", "wait", "wait"]),
        (True, False, ["in_doubt", "rejected", "wait", "in_doubt"]),
        (True, True, ["wait", "rejected", "wait", "wait"]),
    ],
)
def test_a_conversation_that_ended(handed_over: bool, was_closed: bool, expected: list[str]) -> None:
    transaction = settled(OK, NO, LATER, None)
    transaction.error, transaction.handed_over, transaction.was_closed = LOST, handed_over, was_closed
    assert what(transaction) == expected


def test_in_doubt_has_its_cause() -> None:
    transaction = settled(OK)
    transaction.error, transaction.handed_over = LOST, True
    [(_, status, reply, error)] = judge(transaction, "any", "mx.example.com:25").settled
    assert status is Status.IN_DOUBT
    assert reply is None
    assert isinstance(error, InDoubt)
    assert error.__cause__ is LOST


def test_what_only_we_could_not_send_is_rejected() -> None:
    transaction = settled(None, None, mail=None)
    transaction.error = InvalidInput("a line too long")
    assert what(transaction) == ["rejected", "rejected"]


def test_why_nobody_was_accepted() -> None:
    assert isinstance(judge(settled(OK, final=NO), "any", "mx").error, ContentRefused)
    error = judge(settled(OK, NO), "all", "mx").error
    assert isinstance(error, RecipientsRefused)
    assert error.recipients == {"u1@example.com": (550, b"")}
    assert judge(settled(OK, final=OK), "any", "mx").error is None
