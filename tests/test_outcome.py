"""Reply, Outcome and Receipt: what became of a message, read in every way."""

from __future__ import annotations

import copy
import pickle

import pytest

from smtpbackend import InvalidInput, Outcome, Receipt, Recipient, RecipientsRefused, Reply, Status
from smtpbackend.errors import ConnectFailed, InDoubt
from smtpbackend.outcome import refusals

ANN, BOB, JOE, ZOE = (Recipient(f"{name}@example.org") for name in ("ann", "bob", "joe", "zoe"))
GONE = ConnectFailed("no connection")
TAKEN = Reply(250, (2, 0, 0), ("queued as 4X2",))
UNKNOWN = Reply(550, (5, 1, 1), ("unknown",))
BUSY = Reply(450, (4, 2, 1), ("busy", "today"))

ACCEPTED = Outcome(ANN, Status.ACCEPTED, TAKEN, "mx:25", None, 1)
REJECTED = Outcome(BOB, Status.REJECTED, UNKNOWN, "mx:25", None, 1)
DEFERRED = Outcome(JOE, Status.DEFERRED, BUSY, "mx:25", None, 2)
IN_DOUBT = Outcome(ZOE, Status.IN_DOUBT, None, "mx:25", InDoubt("no answer"), 1)


def receipt(*outcomes: Outcome, **more: object) -> Receipt:
    return Receipt("<1@example.org>", outcomes, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "positive", "transient", "permanent"),
    [
        (211, True, False, False),
        (250, True, False, False),
        (354, False, False, False),
        (400, False, True, False),
        (499, False, True, False),
        (500, False, False, True),
        (599, False, False, True),
    ],
)
def test_a_code_says_what_a_reply_means(code: int, positive: bool, transient: bool, permanent: bool) -> None:
    """By its first digit (RFC 5321 4.2.1)."""
    reply = Reply(code)
    assert (reply.is_positive, reply.is_transient, reply.is_permanent) == (positive, transient, permanent)


def test_a_reply_as_text() -> None:
    """One line for a log; the texts with their lines apart."""
    assert str(BUSY) == "450 4.2.1 busy today"
    assert BUSY.text == "busy\ntoday"
    assert str(Reply(250)) == "250"
    assert str(Reply(354, None, ("go on",))) == "354 go on"


def test_a_receipt_sorts_its_recipients() -> None:
    """Each is in one of five, in the order of the envelope."""
    both = receipt(DEFERRED, ACCEPTED, REJECTED, IN_DOUBT, ACCEPTED.replace(recipient=ZOE))
    assert both.accepted == (ACCEPTED, ACCEPTED.replace(recipient=ZOE))
    assert (both.rejected, both.deferred, both.in_doubt) == ((REJECTED,), (DEFERRED,), (IN_DOUBT,))


@pytest.mark.parametrize("other", [REJECTED, DEFERRED, IN_DOUBT])
def test_ok_means_everybody(other: Outcome) -> None:
    assert receipt(ACCEPTED, ACCEPTED.replace(recipient=BOB)).ok
    assert not receipt(ACCEPTED, other).ok
    assert not receipt(other).ok
    assert not receipt().ok


def test_raise_for_failure_is_silent_where_everybody_was_accepted() -> None:
    receipt(ACCEPTED).raise_for_failure()


def test_raise_for_failure_raises_the_error_where_nobody_was() -> None:
    failed = receipt(DEFERRED, error=GONE)
    with pytest.raises(ConnectFailed) as raised:
        failed.raise_for_failure()
    assert raised.value is GONE


def test_raise_for_failure_names_those_who_were_not_accepted() -> None:
    """As smtplib's class for refused recipients, with the receipt."""
    partly = receipt(ACCEPTED, REJECTED, DEFERRED, server="mx:25")
    with pytest.raises(RecipientsRefused, match=r"2 of 3 .*bob@example.org \(rejected: mx:25: 550 5.1.1") as raised:
        partly.raise_for_failure()
    assert raised.value.recipients == {
        "bob@example.org": (550, b"5.1.1 unknown"),
        "joe@example.org": (450, b"4.2.1 busy\n4.2.1 today"),
    }
    assert raised.value.receipt is partly
    assert raised.value.server == "mx:25"


@pytest.mark.parametrize(
    ("others", "transient"), [([DEFERRED], True), ([DEFERRED, REJECTED], False), ([DEFERRED, IN_DOUBT], False)]
)
def test_a_partial_failure_is_transient_where_all_that_is_left_may_be_tried_again(
    others: list[Outcome], transient: bool
) -> None:
    with pytest.raises(RecipientsRefused) as raised:
        receipt(ACCEPTED, *others).raise_for_failure()
    assert raised.value.is_transient is transient


def test_unacceptable_recipients_as_triples() -> None:
    """Address, code, text; the code is 0 where no server said anything."""
    mixed = receipt(ACCEPTED, REJECTED, DEFERRED, IN_DOUBT)
    assert mixed.unacceptable() == [
        ("bob@example.org", 550, "unknown"),
        ("joe@example.org", 450, "busy\ntoday"),
        ("zoe@example.org", 0, "no answer"),
    ]
    assert receipt(ACCEPTED).unacceptable() == []
    assert receipt(Outcome(ANN, Status.DEFERRED)).unacceptable() == [("ann@example.org", 0, "")]


def test_refusals_as_the_dictionary_of_smtplib() -> None:
    assert refusals((REJECTED, IN_DOUBT, Outcome(ANN, Status.DEFERRED))) == {
        "bob@example.org": (550, b"5.1.1 unknown"),
        "zoe@example.org": (0, b"no answer"),
        "ann@example.org": (0, b""),
    }


@pytest.mark.parametrize("value", [BUSY, REJECTED, receipt(ACCEPTED, REJECTED, notes=("DSN",))])
def test_values_do_not_change_and_can_be_kept(value: Reply | Outcome | Receipt) -> None:
    """Frozen, equal by what is in them, pickled and copied."""
    with pytest.raises(AttributeError, match="does not change"):
        setattr(value, value._fields[0], None)
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value
    assert hash(copy.copy(value)) == hash(value)


def test_an_error_of_ours_stays_with_its_outcome() -> None:
    """Refused locally: no reply, no server, the error says why."""
    refused = Outcome(ANN, Status.REJECTED, error=InvalidInput("too long", field="subject"))
    assert receipt(refused).unacceptable() == [("ann@example.org", 0, "too long")]
    assert (refused.server, refused.attempts) == (None, 0)


def test_a_status_is_a_word() -> None:
    """For logs, JSON and templates."""
    assert [status.value for status in Status] == ["accepted", "rejected", "deferred", "in_doubt", "failed"]
