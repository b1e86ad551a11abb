"""`judge`: what the replies of one transaction mean for each recipient."""

from __future__ import annotations

import pytest

from smtpbackend import Envelope, Reply, Status
from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.judgement import judge
from smtpbackend.errors import ConnectionLost, ContentRefused, InDoubt, InvalidInput, RecipientsRefused, SenderRefused
from smtpbackend.mime import given
from smtpbackend.protocol.reply import ReplyReader
from smtpbackend.protocol.transaction import Transaction

OK, LATER, NO, FULL = Reply(250), Reply(450, (4, 2, 0)), Reply(550, (5, 1, 1)), Reply(452, (4, 5, 3))
LIMIT = Reply(552, (5, 5, 3))
LOST = ConnectionLost("lost")


def settled(*rcpt: Reply | None, mail: Reply | None = OK, final: Reply | None = None) -> Transaction:
    """A transaction with these replies."""
    envelope = Envelope("ann@example.org", [f"u{number}@example.com" for number in range(len(rcpt))])
    transaction = Transaction(envelope, envelope.recipients, given(b"x"))
    transaction.mail, transaction.rcpt[:], transaction.final = mail, rcpt, final
    return transaction


def what(transaction: Transaction, policy: str = "any") -> list[str]:
    """What becomes of each recipient, in their order: a status, "wait" or "again"."""
    judgement = judge(transaction, Rules(policy), "mx.example.com:25")
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
        ((OK, LIMIT, LIMIT), OK, ["accepted", "again", "again"]),
        ((OK, LIMIT), LATER, ["wait", "wait"]),  # to be read as 452 (RFC 5321 4.5.3.1.10)
        ((OK, LIMIT), NO, ["rejected", "rejected"]),  # neither would be taken later
        ((LIMIT, LIMIT), None, ["rejected", "rejected"]),
        ((NO, LIMIT), None, ["rejected", "rejected"]),
        ((LIMIT, OK, LIMIT), OK, ["rejected", "accepted", "again"]),
        ((Reply(250, (2, 5, 3)), NO), OK, ["accepted", "rejected"]),
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


REFUSALS = [
    # octets behind RCPT; what becomes of it in the first place (or behind one refused), and behind one accepted
    ("452 4.5.3 too many", "again", "again"),
    ("452 #4.5.3 too many", "again", "again"),
    ("451 4.5.3 too many", "again", "again"),
    ("451 #4.5.3 too many", "again", "again"),
    ("450 4.5.3 too many", "again", "again"),
    ("452 too many", "wait", "again"),
    ("452too many", "wait", "again"),
    ("452", "wait", "again"),
    ("552 5.5.3 too many", "rejected", "again"),
    ("552 #5.5.3 too many", "rejected", "again"),
    ("550 5.5.3 RESOLVER.ADR.RecipLimit; too many", "rejected", "again"),
    ("552 too many", "rejected", "again"),
    ("552 4.5.3 too many", "rejected", "again"),  # another class: no status (RFC 2034 4)
    # a full mailbox or a full server
    ("452 4.2.2 mailbox full", "wait", "wait"),
    ("452 #4.2.2 mailbox full", "wait", "wait"),
    ("452 4.3.1 insufficient storage", "wait", "wait"),
    ("552 5.2.2 mailbox full", "rejected", "rejected"),
    ("552 #5.2.2 mailbox full", "rejected", "rejected"),
    # any other code without the status
    ("450 too many", "wait", "wait"),
    ("451 too many", "wait", "wait"),
    ("451 4.7.1 too many", "wait", "wait"),
    ("550 too many", "rejected", "rejected"),
    ("554 too many", "rejected", "rejected"),
]


def replied(octets: str) -> Reply:
    reader = ReplyReader()
    reader.feed(f"{octets}\r\n".encode())
    reply = reader.next()
    assert reply is not None
    return reply


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(("octets", "first", "behind"), REFUSALS)
class TestTooManyRecipients:
    """A limit says nothing of a recipient, a full mailbox says nothing of the others."""

    def test_under_any(self, octets: str, first: str, behind: str, lmtp: bool) -> None:
        for rcpt, place, expected in (
            ((replied(octets), OK), 0, first),
            ((NO, replied(octets), OK), 1, first),
            ((LATER, replied(octets), OK), 1, first),
            ((OK, replied(octets)), 1, behind),
            ((OK, NO, replied(octets)), 2, behind),
            ((NO, OK, LATER, replied(octets)), 3, behind),
        ):
            transaction = settled(*rcpt, final=None if lmtp else OK)
            if lmtp:
                transaction.finals = [OK if reply is OK else None for reply in rcpt]
            assert what(transaction)[place] == expected

    def test_nobody_follows_where_nobody_was_accepted(self, octets: str, first: str, behind: str, lmtp: bool) -> None:
        """Each transaction settles somebody, so there are no more of them than recipients."""
        for rcpt, final in (((replied(octets),) * 2, None), ((NO, replied(octets)), None), ((OK, replied(octets)), NO)):
            transaction = settled(*rcpt, final=None if lmtp else final)
            if lmtp and final is not None:
                transaction.finals = [final, None]
            found = what(transaction)
            assert "again" not in found
            assert found[-1] == ("rejected" if octets.startswith("5") else "wait")

    @pytest.mark.parametrize("handed_over", [False, True])
    def test_nor_where_the_connection_was_lost(
        self, octets: str, first: str, behind: str, lmtp: bool, handed_over: bool
    ) -> None:
        transaction = settled(OK, replied(octets))
        transaction.error, transaction.handed_over = LOST, handed_over
        transaction.finals = [None, None] if lmtp else None
        expected = "rejected" if behind == "rejected" else "wait"
        assert what(transaction) == ["in_doubt" if handed_over else "wait", expected]


@pytest.mark.parametrize("octets", [octets for octets, _, _ in REFUSALS])
def test_too_many_recipients_under_all(octets: str) -> None:
    """A split that is asked for is a refusal of the whole (DESIGN 4.2), a mailbox that may be full is a 4xx."""
    for rcpt in ((OK, replied(octets)), (replied(octets), OK)):
        found = what(settled(*rcpt), "all")
        if octets.startswith("5") or "4.5.3" in octets:
            assert found == ["deferred" if reply is OK else "rejected" for reply in rcpt]
        else:
            assert found == ["wait", "wait"]


@pytest.mark.parametrize(
    ("octets", "renew"),
    [("452 4.5.3 x", True), ("452 #4.5.3 x", True), ("451 4.5.3 x", True), ("452 x", False), ("552 5.5.3 x", False)],
)
def test_too_many_messages_for_this_connection(octets: str, renew: bool) -> None:
    assert judge(settled(OK, mail=replied(octets)), Rules("any"), "mx.example.com:25").renew is renew


@pytest.mark.parametrize("policy", ["any", "all"])
@pytest.mark.parametrize(("mail", "expected"), [(NO, "rejected"), (LATER, "wait"), (FULL, "wait")])
def test_a_refused_sender(policy: str, mail: Reply, expected: str) -> None:
    transaction = settled(Reply(503), Reply(503), mail=mail)
    assert what(transaction, policy) == [expected] * 2
    judgement = judge(transaction, Rules(policy), "mx.example.com:25")
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
    [(_, status, reply, error)] = judge(transaction, Rules("any"), "mx.example.com:25").settled
    assert status is Status.IN_DOUBT
    assert reply is None
    assert isinstance(error, InDoubt)
    assert error.__cause__ is LOST


def test_what_only_we_could_not_send_fails() -> None:
    transaction = settled(None, None, mail=None)
    transaction.error = InvalidInput("a line too long")
    assert what(transaction) == ["failed", "failed"]


def test_why_nobody_was_accepted() -> None:
    assert isinstance(judge(settled(OK, final=NO), Rules("any"), "mx").error, ContentRefused)
    error = judge(settled(OK, NO), Rules("all"), "mx").error
    assert isinstance(error, RecipientsRefused)
    assert error.recipients == {"u1@example.com": (550, b"5.1.1")}
    assert judge(settled(OK, final=OK), Rules("any"), "mx").error is None
