"""`lender`: who sends from inside a delivery, and may have a connection without waiting."""

from __future__ import annotations

import contextvars
from typing import Any

from smtpbackend.delivery.inside import Delivery, enter, here, is_here, lender

POOL, OTHER = object(), object()


def alone(check: Any) -> None:
    """Run a check in an empty context."""
    contextvars.Context().run(check)


def test_nobody_is_inside_at_first() -> None:
    def check() -> None:
        assert lender(POOL, None) is None

    alone(check)


def test_who_sends_from_inside_is_lent_one_of_the_same_pool() -> None:
    def check() -> None:
        delivery = enter(Delivery(POOL))
        assert lender(POOL, None) is delivery
        assert lender(OTHER, None) is None
        assert lender(POOL, delivery) is None, "a stream is not inside of itself"

    alone(check)


def test_nobody_is_inside_any_more_when_it_has_left() -> None:
    def check() -> None:
        delivery = enter(Delivery(POOL))
        delivery.leave()
        assert lender(POOL, None) is None
        assert here() == ()

    alone(check)


def test_it_may_leave_in_another_context() -> None:
    """As a generator that is collected by another thread; what stays behind is forgotten with the next."""

    def check() -> None:
        first = enter(Delivery(POOL))
        contextvars.Context().run(first.leave)
        assert lender(POOL, None) is None
        second = enter(Delivery(POOL))
        assert here() == (second,)

    alone(check)


def test_what_is_lent_is_one_at_a_time() -> None:
    """Inside of the one that was lent is another delivery, which lends the next."""

    def check() -> None:
        outer = enter(Delivery(POOL))
        outer.lent = 1
        assert lender(POOL, None) is None
        assert lender(POOL, Delivery(POOL)) is outer, "the shares of a stream would wait for each other"
        inner = enter(Delivery(POOL))
        assert lender(POOL, None) is inner

    alone(check)


def test_another_context_is_not_inside_unless_it_was_made_there() -> None:
    def check() -> None:
        delivery = enter(Delivery(POOL))
        assert not contextvars.Context().run(is_here, delivery)
        assert contextvars.copy_context().run(is_here, delivery)

    alone(check)


class Task:
    """As far as it matters."""

    def __init__(self) -> None:
        self.has_ended = False

    def done(self) -> bool:
        return self.has_ended


def test_nobody_is_inside_of_what_a_task_left_that_has_ended() -> None:
    """Another one in the same context is not the one that goes on with it."""

    def check() -> None:
        task, other = Task(), Task()
        delivery = enter(Delivery(POOL, task))
        assert is_here(delivery, task)
        assert not is_here(delivery, other)
        assert lender(POOL, None) is delivery
        task.has_ended = True
        assert lender(POOL, None) is None

    alone(check)


def test_a_worker_of_a_stream_is_inside_of_what_the_stream_is_inside_of() -> None:
    def check() -> None:
        outer = enter(Delivery(POOL))
        stream = Delivery(POOL)

        def work() -> None:
            enter(stream)
            assert lender(POOL, stream) is outer
            assert lender(POOL, None) is stream

        contextvars.copy_context().run(work)

    alone(check)
