"""What is told of a receipt: the error, the events, the queue id; and the stamp of a message."""

from __future__ import annotations

import pytest

from smtpbackend import Envelope, Outcome, Receipt, Recipient, Reply, Status
from smtpbackend.delivery.date_and_id import stamp
from smtpbackend.delivery.receipts import failure, queue_id
from smtpbackend.errors import AuthenticationFailed, ConnectFailed, DeliveryError, InDoubt, RecipientsRefused
from smtpbackend.events import MessageEnded
from tests.telling import names_of

ENVELOPE = Envelope("ann@example.org", ["bob@example.com"])


def receipt(*outcomes: tuple[Status, Reply | None]) -> Receipt:
    return Receipt(
        None,
        tuple(Outcome(Recipient(f"u{n}@example.com"), status, reply) for n, (status, reply) in enumerate(outcomes)),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ok: queued as 4XYZ1234", "4XYZ1234"),
        ("OK id=1rAbCd-000123-Xy", "1rAbCd-000123-Xy"),
        ("38AC1234 Message accepted for delivery", "38AC1234"),
        ("<x@y> [InternalId=123456, Hostname=mx] Queued mail for delivery", "123456"),
        ("Great success", None),
        ("queued as <ABC.12-3>", "ABC.12-3"),
        ("", None),
    ],
)
def test_the_queue_id_in_a_reply(text: str, expected: str | None) -> None:
    assert queue_id(Reply(250, None, (text,))) == expected


def test_no_reply_no_queue_id() -> None:
    assert queue_id(None) is None


def test_somebody_accepted_is_no_failure() -> None:
    assert failure(receipt((Status.ACCEPTED, Reply(250)), (Status.REJECTED, Reply(550))), None) is None


def test_an_error_is_one_receipts_own() -> None:
    last = ConnectFailed("no way")
    last.__cause__ = OSError("because")
    error = failure(receipt((Status.DEFERRED, None)), last)
    assert error is not last
    assert isinstance(error, ConnectFailed)
    assert error.args == last.args
    assert error.__cause__ is last.__cause__


def test_what_was_said_of_recipients_is_more_than_a_lost_connection() -> None:
    error = failure(receipt((Status.DEFERRED, Reply(450)), (Status.REJECTED, Reply(550))), ConnectFailed("no way"))
    assert isinstance(error, RecipientsRefused)
    assert not error.is_transient
    error = failure(receipt((Status.DEFERRED, Reply(450))), None)
    assert error is not None
    assert error.is_transient


def test_but_a_refused_login_is_what_can_be_mended() -> None:
    assert isinstance(failure(receipt((Status.DEFERRED, Reply(450))), AuthenticationFailed("no")), AuthenticationFailed)


def test_without_any_word_there_is_still_an_error() -> None:
    assert type(failure(receipt((Status.DEFERRED, None)), None)) is DeliveryError


def test_doubt_comes_first() -> None:
    doubtful = Outcome(Recipient("u@example.com"), Status.IN_DOUBT, error=InDoubt("who knows"))
    assert isinstance(failure(Receipt(None, (doubtful,)), ConnectFailed("no")), InDoubt)
    told = names_of(MessageEnded(None, ENVELOPE, None, Receipt(None, (doubtful,), error=doubtful.error)))
    assert told == ["message_in_doubt"]


def test_a_message_may_be_sent_to_some_and_in_doubt_for_others() -> None:
    ended = MessageEnded(None, ENVELOPE, None, receipt((Status.ACCEPTED, Reply(250)), (Status.IN_DOUBT, None)))
    assert names_of(ended) == ["message_in_doubt", "message_sent"]


def test_a_stamp_has_a_zone_and_never_comes_again() -> None:
    (date, token), (_, other) = stamp(), stamp()
    assert date.utcoffset() is not None
    assert token != other
    assert token.isalnum()
