"""`Spread`: which stream takes the next message, and what the caller's own thread does, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend.delivery.asks import END
from smtpbackend.delivery.dispatch import SLOW
from smtpbackend.delivery.mail import Mail
from smtpbackend.delivery.spreading import Spread, Step, Turn
from smtpbackend.protocol.effects import LATER

QUICK, LATE = 0.0, 2 * SLOW


def spread(items: Any = ("a", "b", "c", "d"), streams: int = 2, most: int = 8, in_order: bool = False) -> Spread:
    return Spread(iter(items), streams, most, pairs=True, in_order=in_order)


def taken(state: Spread, item: Any, took: float = QUICK) -> Mail:
    """The source has answered with this item, and there is a mail of it."""
    state.answered(item)
    turn, given = state.turn()
    assert (turn, given) == (Turn.BEGIN, item)
    mail = Mail(state.taken, item)
    state.begun(mail, took)
    return mail


def unknown(*items: str) -> Any:
    """A source that does not say how many items it has: it may make one wait."""
    yield from items


def test_a_turn_names_the_item_that_is_to_be_begun() -> None:
    """And not whatever stands there later: another thread may have ended the stream by then."""
    state = spread(unknown("a"))
    assert state.step(busy=False) is Step.TAKE
    state.answered("a")
    turn, item = state.turn()
    state.end()
    assert (turn, item) == (Turn.BEGIN, "a")


def test_the_first_stream_that_asks_gets_the_mail() -> None:
    state = spread(unknown("a", "b"))
    assert state.step(busy=False) is Step.TAKE
    assert state.step(busy=False) is Step.WAIT
    assert state.step(busy=True) is Step.LATER, "the source may take long, and it has replies to read"
    mail = taken(state, "a")
    assert state.step(busy=True) is mail


def test_the_source_is_not_asked_before_there_is_a_mail_of_its_last_item() -> None:
    state = spread(unknown("a", "b"))
    assert state.step(busy=False) is Step.TAKE
    state.answered("a")
    assert state.step(busy=False) is Step.WAIT
    state.turn()
    assert state.step(busy=False) is Step.WAIT
    state.begun(Mail(1, "a"), QUICK)
    assert isinstance(state.step(busy=False), Mail)
    assert state.step(busy=False) is Step.TAKE


def test_a_list_is_asked_by_the_callers_own_thread_a_message_a_stream_ahead() -> None:
    state = spread()
    for item in ("a", "b"):
        assert state.turn() == (Turn.TAKE, END)
        taken(state, item)
    assert state.turn() == (Turn.WAIT, END)


def test_where_to_begin_is_quick_the_streams_have_work_before_something_is_given() -> None:
    state = spread()
    assert state.turn()[0] is Turn.TAKE
    mail = taken(state, "a")
    assert state.step(busy=False) is mail
    state.known(mail.number, ("a", "receipt"))
    assert state.turn()[0] is Turn.TAKE
    taken(state, "b")
    assert state.turn() == (Turn.GIVE, ("a", "receipt"))


def test_where_it_takes_long_what_is_known_goes_first() -> None:
    state = spread()
    assert state.turn()[0] is Turn.TAKE
    mail = taken(state, "a", LATE)
    state.known(mail.number, ("a", "receipt"))
    assert state.turn() == (Turn.GIVE, ("a", "receipt"))
    assert state.turn()[0] is Turn.TAKE


def test_while_the_caller_is_away_a_busy_stream_looks_after_its_replies() -> None:
    state = spread(unknown("a", "b"))
    assert state.step(busy=False) is Step.TAKE
    taken(state, "a")
    assert isinstance(state.step(busy=False), Mail)
    assert state.step(busy=True) is Step.TAKE
    state.known(1, ("a", "receipt"))
    state.turn()
    state.answered("b")
    assert state.step(busy=True) is Step.LATER
    assert state.step(busy=False) is Step.WAIT


@pytest.mark.parametrize(("in_order", "given"), [(False, ["b", "a"]), (True, ["a", "b"])])
def test_what_is_known_is_given_at_once_or_in_order(in_order: bool, given: list[str]) -> None:
    state = spread(unknown(), in_order=in_order)
    state.known(2, ("b", None))
    state.known(1, ("a", None))
    assert [state.turn()[1][0] for _ in range(2)] == given


def test_no_more_than_most_are_under_way_or_known_and_not_given() -> None:
    state = spread(unknown(*"abcdef"), streams=1, most=2)
    for item in "ab":
        assert state.step(busy=False) is Step.TAKE
        taken(state, item)
        assert isinstance(state.step(busy=False), Mail)
    assert state.step(busy=False) is Step.WAIT
    state.known(1, ("a", None))
    assert state.step(busy=False) is Step.WAIT, "it is known, and not given"
    assert state.turn()[0] is Turn.GIVE
    assert state.step(busy=False) is Step.TAKE


def test_at_the_end_of_the_source_what_was_begun_is_still_sent() -> None:
    state = spread(unknown("a"))
    assert state.step(busy=False) is Step.TAKE
    mail = taken(state, "a")
    state.answered(END, failed := LookupError("gone"))
    assert state.step(busy=False) is mail
    assert state.step(busy=False) is Step.END
    assert state.failed is failed


def test_what_no_stream_has_is_handed_back_when_the_stream_is_left() -> None:
    state = spread(unknown("a", "b"))
    assert state.step(busy=False) is Step.TAKE
    mail = taken(state, "a")
    assert state.step(busy=False) is mail
    assert state.step(busy=False) is Step.TAKE
    other = taken(state, "b")
    assert state.abandon() == [other]
    assert state.is_over
    assert state.step(busy=True) is Step.END


def test_later_is_the_end_where_nothing_is_under_way() -> None:
    state = spread(unknown())
    assert state.step(busy=False) is Step.TAKE
    state.answered(LATER)
    assert state.step(busy=False) is Step.END


def test_a_source_that_said_later_is_asked_when_the_caller_comes_back_from_another_pair() -> None:
    """By the caller's own thread: a source that says LATER does not wait."""
    state = spread(unknown("a"))
    assert state.step(busy=False) is Step.TAKE
    mail = taken(state, "a")
    assert state.step(busy=False) is mail
    assert state.step(busy=False) is Step.TAKE
    state.answered(LATER)
    assert state.step(busy=False) is Step.WAIT
    assert state.step(busy=True) is Step.LATER
    assert state.turn()[0] is Turn.WAIT
    state.known(mail.number, ("a", "receipt"))
    assert state.turn()[0] is Turn.GIVE
    assert state.step(busy=False) is Step.WAIT, "the caller has not come back"
    assert state.turn()[0] is Turn.TAKE
    state.answered(LATER)
    assert state.turn()[0] is Turn.WAIT
    assert state.step(busy=False) is Step.END


def test_a_pair_that_the_caller_has_is_under_way() -> None:
    """What it does with the pair may give the source another item."""
    state = spread(unknown("a", "b"))
    assert state.step(busy=False) is Step.TAKE
    mail = taken(state, "a")
    assert state.step(busy=False) is mail
    state.known(mail.number, ("a", "receipt"))
    assert state.turn()[0] is Turn.GIVE
    assert state.step(busy=False) is Step.TAKE
    state.answered(LATER)
    assert state.step(busy=False) is Step.WAIT
    assert state.turn()[0] is Turn.TAKE
    taken(state, "b")
    assert isinstance(state.step(busy=False), Mail)
    assert state.step(busy=False) is Step.TAKE
