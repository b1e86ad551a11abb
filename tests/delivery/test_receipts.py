"""What is told of a receipt: the error, the events, the queue id; and the stamp of a message."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from smtpbackend import Envelope, Outcome, Receipt, Recipient, Reply, Status
from smtpbackend.delivery.date_and_id import stamp
from smtpbackend.delivery.receipts import failure, of_all_servers, queue_id
from smtpbackend.errors import (
    MAX_NAMED,
    MAX_TEXT,
    AuthenticationFailed,
    ConnectFailed,
    DeliveryError,
    InDoubt,
    MailerClosed,
    NotSupported,
    RecipientsRefused,
    SMTPError,
)
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


def failures(number: int, text: str = "is down") -> list[SMTPError]:
    """Errors of as many servers."""
    return [ConnectFailed(f"s{n} {text}", server=f"s{n}") for n in range(1, number + 1)]


def test_an_error_of_several_servers_names_each_with_its_reason() -> None:
    reply = Reply(535, (5, 7, 8), ("no",))
    first, last = (
        ConnectFailed("a:25 is down", server="a:25"),
        AuthenticationFailed("refused", server="b:25", reply=reply),
    )
    error = of_all_servers(last, [first, last])
    assert str(error) == "2 servers failed: (1) a:25 is down (2) b:25: refused"
    assert (type(error), error.server, error.reply) == (AuthenticationFailed, "b:25", reply)
    assert error.smtp_code == 535
    assert error.others == (first,)
    assert str(last) == "refused", "it may stand for other messages too"


def test_an_error_of_one_server_is_that_of_the_server() -> None:
    [last] = failures(1)
    assert of_all_servers(last, [last]) is last


def test_that_a_mailer_was_closed_is_of_no_server() -> None:
    closed = MailerClosed("closed", server="a:25")
    assert of_all_servers(closed, [*failures(2), closed]) is closed
    [last] = failures(1)
    assert of_all_servers(last, [closed, last]) is last


@pytest.mark.parametrize("text", ["is down", "says " + "x" * 4000])
@pytest.mark.parametrize("number", [2, 5, 6, 2000])
def test_its_length_is_bounded(number: int, text: str) -> None:
    """The last server, whose error it is, is always named, and what is left out is counted."""
    every = failures(number, text)
    error = of_all_servers(every[-1], every)
    assert len(str(error)) <= MAX_TEXT
    assert str(error).startswith(f"{number:,} servers failed: (1) s1 ")
    assert f"({number:,}) s{number} " in str(error)
    left_out = re.search(r"\.\.\. ([\d,]+) more, see others \.\.\.", str(error))
    assert (left_out and left_out[1]) == (f"{number - MAX_NAMED:,}" if number > MAX_NAMED else None)
    assert len(error.others) == number - 1


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (ConnectFailed("down"), AuthenticationFailed("no", reply=Reply(535)), True),
        (AuthenticationFailed("no", reply=Reply(535)), ConnectFailed("down"), True),
        (AuthenticationFailed("no", reply=Reply(535)), AuthenticationFailed("no", reply=Reply(535)), False),
        (NotSupported("no SMTPUTF8"), AuthenticationFailed("no", reply=Reply(535)), False),
        (ConnectFailed("down"), NotSupported("no SMTPUTF8"), True),
        (ConnectFailed("down"), RecipientsRefused("one for good, one for now"), False),
    ],
)
def test_it_is_transient_where_one_of_them_may_take_it_later(first: SMTPError, last: SMTPError, expected: bool) -> None:
    error = of_all_servers(last, [first, last])
    assert error.is_transient is expected
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(copied), copied.is_transient) == (str(error), expected)
