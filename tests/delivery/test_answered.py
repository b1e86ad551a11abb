"""`Receipt.answered`: whether any server answered MAIL, played from scripts."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend import Message
from smtpbackend.errors import CancelSend
from smtpbackend.events import MessageSending
from smtpbackend.testing import EXTENSIONS
from tests.delivery.played import CUT, REFUSED, SILENCE, Play, Played

NO, BUSY, BYE = "550 5.1.1 no", "450 4.2.0 later", "421 4.3.0 bye"


def mail(*to: str) -> Message:
    return Message("Hello", "ann@example.org", [f"{name}@example.com" for name in to or ("bob",)], text="Hi\n")


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"MAIL": "250-good\n250 day"},
        {"MAIL": NO},
        {"MAIL": BUSY},
        {"MAIL": BYE},
        {"RCPT": NO},
        {"RCPT": BUSY},
        {"RCPT": BYE},
        {"RCPT": CUT},
        {"RCPT TO:<bob": NO},
        {"RCPT TO:<bob": BUSY},
        {"DATA": BUSY},
        {".": NO},
        {".": CUT},
        {".": SILENCE},
    ],
    ids=str,
)
@pytest.mark.parametrize("extensions", [EXTENSIONS, ()])
def test_any_answer_to_mail_counts(answers: Any, extensions: tuple[str, ...]) -> None:
    [receipt] = Played({"a": [Play(answers, extensions)]}).send(mail("bob", "carl"))
    assert receipt.answered


@pytest.mark.parametrize(
    "play",
    [
        REFUSED,
        {"": BYE},
        {"": "554 5.3.2 go away"},
        {"": CUT},
        {"": SILENCE},
        {"EHLO": NO, "HELO": NO},
        {"EHLO": BYE},
        {"MAIL": CUT},
        {"MAIL": SILENCE},
    ],
    ids=str,
)
def test_without_one_it_does_not(play: Any) -> None:
    [receipt] = Played({"a": [play]}).send(mail())
    assert not receipt.ok
    assert not receipt.answered


def test_a_reply_before_mail_is_none_to_it() -> None:
    """The connection ends by 421 to RSET, between two messages; nobody answers the second one after that."""
    world = Played({"a": [{"RSET": BYE, "RCPT TO:<bob": NO}, REFUSED]})
    refused, second = world.send(mail("bob"), mail("carl"))
    assert refused.answered
    assert second.deferred
    assert not second.answered


def test_what_another_server_said_stays() -> None:
    """The first one answers MAIL, and the next cannot be reached; or the other way round."""
    for servers in ({"a": [{"MAIL": BUSY}], "b": [REFUSED]}, {"a": [REFUSED], "b": [{"MAIL": BUSY}]}):
        [receipt] = Played(servers).send(mail())
        assert receipt.deferred
        assert receipt.answered


def test_one_that_goes_again_unread_was_answered_before() -> None:
    """421 came behind the reply to MAIL, unasked: nothing of the message counts, but the server did answer."""
    world = Played({"a": [Play({"MAIL": "250 ok\r\n421 bye"}, ()), REFUSED]})
    [receipt] = world.send(mail())
    assert receipt.deferred
    assert receipt.answered


def test_replies_that_cannot_be_told_apart_are_answers() -> None:
    """A server that does not read all of a group says 503 to a command that was in order."""
    world = Played({"a": [{"RCPT": "503 5.5.1 out of order"}, REFUSED]})
    [receipt] = world.send(mail())
    assert receipt.deferred
    assert receipt.answered


def test_what_is_refused_here_was_never_asked() -> None:
    def cancel(event: Any) -> None:
        if isinstance(event, MessageSending):
            raise CancelSend

    for world in (Played({"a": [{}]}, listeners=[cancel]), Played({"a": [{}]}, suppress=True)):
        [receipt] = world.send(mail())
        assert not receipt.answered
    [receipt] = Played({"a": [{}]}).send(Message("Hello", "ann@example.org", "no address", text=""))
    assert not receipt.answered


def test_a_deadline_that_passed_before_is_no_answer() -> None:
    world = Played({"a": [{"MAIL": SILENCE}]}, deadline=5)
    [receipt] = world.send(mail())
    assert receipt.deferred
    assert not receipt.answered


@pytest.mark.parametrize("window", [1, 10])
def test_it_is_of_each_message_alone(window: int) -> None:
    """The connection dies at the third MAIL; over a window those behind it were sent and not answered."""
    answers = {"MAIL": ["250 ok", "250 ok", CUT]}
    world = Played({"a": [answers, REFUSED]}, window=window)
    receipts = world.send(*[mail(f"u{n}") for n in range(6)])
    assert [receipt.answered for receipt in receipts] == [True, True, False, False, False, False]
