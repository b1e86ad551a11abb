"""`Route`: which server comes next."""

from __future__ import annotations

from smtpbackend import Server
from smtpbackend.delivery.route import Route

A, B, C = (Server(f"{name}.example") for name in "abc")


def test_failover_keeps_the_order() -> None:
    route = Route([A, B, C])
    assert route.order(0) == route.order(1) == [A, B, C]


def test_a_failed_server_rests_behind_the_others_and_comes_back() -> None:
    route = Route([A, B, C], rest=30)
    route.begin_rest(A, 100)
    assert route.order(100) == [B, C, A]
    assert route.order(129.9) == [B, C, A]
    assert route.order(130) == [A, B, C]


def test_all_that_rest_keep_their_order_among_themselves() -> None:
    route = Route([A, B, C])
    for server in (C, A, B):
        route.begin_rest(server, 0)
    assert route.order(1) == [A, B, C]


def test_success_ends_the_rest() -> None:
    route = Route([A, B])
    route.begin_rest(A, 0)
    route.end_rest(A)
    route.end_rest(B)
    assert route.order(1) == [A, B]


def test_round_robin_takes_turns_and_passes_over_those_that_rest() -> None:
    route = Route([A, B, C], "round_robin")
    assert [route.order(0)[0] for _ in range(6)] == [A, B, C, A, B, C]
    assert route.order(0) == [A, B, C]
    route.begin_rest(B, 0)
    assert route.order(1) == [C, A, B]
    assert route.order(1) == [C, A, B]
    assert route.order(1) == [A, C, B]


def test_one_server_is_always_tried() -> None:
    route = Route([A], "round_robin")
    route.begin_rest(A, 0)
    assert route.order(1) == [A]


def test_one_message_tries_a_server_whose_rest_is_over() -> None:
    """For all others it rests on, until that one has said how it went."""
    first, second = Server("a"), Server("b")
    route = Route([first, second], rest=30)
    route.begin_rest(first, 0)
    assert route.order(29) == [second, first]
    assert route.order(31) == [first, second]
    assert route.order(32) == [second, first]
    route.end_rest(first)
    assert route.order(33) == [first, second]
    assert route.order(34) == [first, second]


def test_a_trial_that_fails_or_is_never_heard_of_means_another_rest() -> None:
    first, second = Server("a"), Server("b")
    route = Route([first, second], rest=30)
    route.begin_rest(first, 0)
    assert route.order(31) == [first, second]
    assert route.order(60) == [second, first]
    assert route.order(62) == [first, second]
    route.begin_rest(first, 63)
    assert route.order(92) == [second, first]
    assert route.order(94) == [first, second]
