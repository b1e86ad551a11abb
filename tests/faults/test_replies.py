"""Whatever a server says at any point of the dialogue, the outcome is the one that ``replies.py`` has in its table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.conftest import Crew, Measure
from tests.faults.outcomes import examine, expected, kind_of
from tests.faults.plan import Case, Odd
from tests.faults.replies import EXPECTED_OF_ALL, FLOODS, GOOD, NEXT, SAID, Spoken, points_of
from tests.faults.test_cuts import DIALOGUES, dialogues, twins, ways

pytestmark = pytest.mark.exhaustive

LOGIN = (("username", "u"), ("password", "p"), ("auth_mechanisms", "LOGIN"))
KINDS_OF_ALL = {*EXPECTED_OF_ALL, "unknown", "order"}
MEMORY = 2_000_000  # octets that nothing a server says may cost


def spoken(case: Case, point: str, what: dict[str, Spoken], **how: Any) -> Iterator[Case]:
    """The case, with each of these said in place of the good reply and behind it."""
    for said in what.values():
        odd = Odd(point, said.at(point), times=said.times, **how)
        for extra in (False, True):
            if not extra and said.kind == "nothing":
                continue
            if extra and case.has_window and odd.message > 0 and said.kind not in ("nothing", "421"):
                continue  # whose it is only counting could tell (RFC 2920 3.1), and others are in flight
            yield replace(case, fault=replace(odd, extra=extra), closing=point == "QUIT")


def opening(case: Case, what: dict[str, Spoken]) -> Iterator[Case]:
    """All that can be said before mail is spoken of."""
    for point in points_of(opening=True):
        at = case
        if point in ("STARTTLS", "EHLO again"):
            at = replace(case, tls="required")
        elif point.startswith("AUTH"):
            at = replace(case, extensions=(*case.extensions, "AUTH LOGIN"), settings=LOGIN)
        yield from spoken(at, point, what)


def messages_at(case: Case, point: str) -> tuple[int, ...]:
    """The messages whose dialogue comes to this point on the first connection."""
    numbers = (0, 1, 2) if case.flies else (0, 1)
    if point in ("probe", "RSET of the probe"):
        return (case.probed,)
    if point == "RSET":
        return (1, 2)  # the first is the proof of the window, see DESIGN 5.2
    if point == "BDAT LAST":
        return tuple(number for number in numbers if case.is_chunked(number))
    if point in ("DATA", "END"):
        return tuple(number for number in numbers if not case.is_chunked(number))
    return numbers


def speaking_of_mail(case: Case, points: frozenset[str], what: dict[str, Spoken]) -> Iterator[Case]:
    """All that can be said where mail is spoken of: of the first message on a connection, and of those behind it."""
    for point in points & set(points_of(opening=False)):
        if point == "QUIT":
            yield from spoken(case, point, what, message=2)
            continue
        for message in messages_at(case, point):
            yield from spoken(case, point, what, message=message)
    yield from spoken(case, "RSET", what, message=1, unclean=True)


@twins
@ways
def test_any_reply_while_a_connection_is_opened(carry_out: Crew, twin: Any, way: Any) -> None:
    """The connection is given up, or good for mail; another server takes what this one is not given."""
    cases = [
        case
        for extensions in ((), ("PIPELINING", "CHUNKING", "SIZE"))
        for case in opening(Case(twin, extensions, way=way), SAID)
    ]
    carry_out(cases, look=examine)


@twins
@ways
@dialogues
def test_any_reply_to_mail(carry_out: Crew, measure: Measure, twin: Any, way: Any, extensions: tuple[str, ...]) -> None:
    """A recipient is accepted, refused, sent to elsewhere or in doubt, as the reply to each command says."""
    case = Case(twin, extensions, way=way)
    points = measure(case).points
    assert points >= {"MAIL", "RCPT 1", "RCPT 2"}
    assert points >= {"DATA", "END"}
    assert points.isdisjoint({"BDAT LAST", "probe", "RSET of the probe"}) is not case.flies
    carry_out(list(speaking_of_mail(case, points, SAID)), look=examine)


REFUSALS = {name: SAID[name] for name in ("450", "452 4.5.3", "500", "502", "503", "550", "552", "554")}


@twins
@ways
@dialogues
def test_any_refusal_and_the_end(
    carry_out: Crew, measure: Measure, twin: Any, way: Any, extensions: tuple[str, ...]
) -> None:
    """What was refused stays so; nobody else pays, and behind a refused RSET nobody is in doubt."""
    case = Case(twin, extensions, way=way)
    points = measure(case).points - {"QUIT"}
    cases = [
        replace(each, fault=replace(each.fault, closes=True))
        for each in speaking_of_mail(case, points, REFUSALS)
        if isinstance(each.fault, Odd) and not each.fault.extra
    ]
    carry_out(cases, look=examine)


@twins
@ways
@dialogues
def test_a_goodbye_of_the_only_server_at_any_reply(
    carry_out: Crew, measure: Measure, twin: Any, way: Any, extensions: tuple[str, ...]
) -> None:
    """It may come in place of any reply or behind it, also in a window: everybody is accepted over the next connection.

    But a new connection that greets its first MAIL so is that of a server that is down.
    """
    case = Case(twin, extensions, way=way)
    points = measure(case).points - {"QUIT"}
    cases = [
        replace(each, alone=True)
        for each in speaking_of_mail(case, points, {"421": SAID["421"]})
        if isinstance(each.fault, Odd) and expected(each) != NEXT
    ]
    carry_out(cases, look=examine)


@twins
@ways
def test_any_reply_where_refused_chunks_are_run(carry_out: Crew, measure: Measure, twin: Any, way: Any) -> None:
    """The content goes by DATA, whatever is said to the probe; see the rule of `broken_rules`."""
    case = Case(twin, DIALOGUES["BDAT-grouped"], way=way, runs_chunks=True)
    points = measure(case).points
    assert "XRSET" in points
    assert "BDAT LAST" not in points
    cases = [
        each for each in speaking_of_mail(case, points, SAID) if each.fault.point != "probe" or not each.fault.extra
    ]  # type: ignore[union-attr]
    carry_out(cases, look=examine)


@twins
def test_any_reply_of_the_only_server(carry_out: Crew, measure: Measure, twin: Any) -> None:
    """What cannot go elsewhere is deferred, and the error is of the class that is there for it."""
    cases = list(opening(Case(twin, alone=True), SAID))
    for extensions in DIALOGUES.values():
        case = Case(twin, extensions, alone=True)
        cases += speaking_of_mail(case, measure(replace(case, alone=False)).points, SAID)
    # one reply too many in a group is taken for the next one's: its class says nothing
    carry_out([case for case in cases if not (case.fault.extra and "PIPELINING" in case.extensions)], look=examine)


@twins
@dialogues
def test_any_reply_to_a_recipient_where_all_or_nobody_gets_the_mail(
    carry_out: Crew, twin: Any, extensions: tuple[str, ...]
) -> None:
    """Under "all" a refused recipient is everybody's."""
    case = Case(twin, extensions, settings=(("recipient_policy", "all"),))
    carry_out(
        [
            each
            for way in ("send", "send_many")
            for message in (0, 1)
            for each in spoken(replace(case, way=way), "RCPT 1", SAID, message=message)  # type: ignore[arg-type]
            if isinstance(each.fault, Odd) and not each.fault.extra and kind_of(each.fault) in KINDS_OF_ALL
        ],
        look=examine,
    )


@twins
@ways
@dialogues
def test_a_flood_costs_no_memory(
    carry_out: Crew, measure: Measure, twin: Any, way: Any, extensions: tuple[str, ...]
) -> None:
    """What does not end is not kept: the outcome is that of any other words that are no reply."""
    case = Case(twin, extensions, way=way)
    cases = list(speaking_of_mail(case, measure(case).points, FLOODS))
    if extensions == ("PIPELINING",):
        cases += opening(case, FLOODS)
    # a flood behind the last reply of all may come before the next message is in flight, or after
    cases = [c for c in cases if not (c.flies and c.fault.extra and c.fault.point in ("END", "BDAT LAST"))]  # type: ignore[union-attr]
    carry_out(cases, look=examine, memory=MEMORY)


def test_every_point_of_the_dialogue_has_its_row(measure: Measure) -> None:
    """The points are those that the servers come to, and no other."""
    login = Case("blocking", ("PIPELINING", "AUTH LOGIN"), "required", settings=LOGIN)
    found = measure(login).points | measure(Case("blocking", DIALOGUES["BDAT-grouped"], way="send_many")).points
    assert found | {"HELO"} == set(GOOD)
