"""Whatever a server says at any point of the dialogue, the outcome is the one that ``replies.py`` has in its table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.conftest import Crew, Measure
from tests.faults.outcomes import examine, kind_of
from tests.faults.plan import Case, Odd
from tests.faults.replies import EXPECTED_OF_ALL, FLOODS, GOOD, SAID, Spoken, points_of
from tests.faults.test_cuts import dialogues, twins, ways

pytestmark = pytest.mark.exhaustive

LOGIN = (("username", "u"), ("password", "p"), ("auth_mechanisms", "LOGIN"))
MEMORY = 2_000_000  # octets that nothing a server says may cost


def spoken(case: Case, point: str, what: dict[str, Spoken], **how: Any) -> Iterator[Case]:
    """The case, with each of these said in place of the good reply and behind it."""
    for said in what.values():
        odd = Odd(point, said.at(point), times=said.times, **how)
        for extra in (False, True):
            if not extra and said.kind == "nothing":
                continue
            if extra and case.has_window and odd.message > 0 and said.kind != "nothing":
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


def speaking_of_mail(case: Case, points: frozenset[str], what: dict[str, Spoken]) -> Iterator[Case]:
    """All that can be said where mail is spoken of: of the first message on a connection, and of the second."""
    for point in points & set(points_of(opening=False)):
        if point == "QUIT":
            yield from spoken(case, point, what, message=2)
            continue
        for message in (1,) if point == "RSET" else (0, 1):
            yield from spoken(case, point, what, message=message)
    yield from spoken(case, "RSET", what, message=1, unclean=True)


@twins
@ways
def test_any_reply_while_a_connection_is_opened(carry_out: Crew, twin: Any, way: Any) -> None:
    """The connection is given up, or good for mail; another server takes what this one is not given."""
    cases = [
        case
        for extensions in ((), ("PIPELINING", "CHUNKING"))
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
    assert points >= {"DATA", "END"} or points >= {"BDAT LAST"}
    carry_out(list(speaking_of_mail(case, points, SAID)), look=examine)


@twins
def test_any_reply_of_the_only_server(carry_out: Crew, measure: Measure, twin: Any) -> None:
    """What cannot go elsewhere is deferred, and the error is of the class that is there for it."""
    cases = list(opening(Case(twin, alone=True), SAID))
    for extensions in ((), ("PIPELINING",), ("CHUNKING",), ("PIPELINING", "CHUNKING")):
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
            if isinstance(each.fault, Odd) and not each.fault.extra and kind_of(each.fault) in EXPECTED_OF_ALL
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
    cases = [c for c in cases if not (c.flies and c.fault.extra and c.fault.point == "BDAT LAST")]  # type: ignore[union-attr]
    carry_out(cases, look=examine, memory=MEMORY)


def test_every_point_of_the_dialogue_has_its_row(measure: Measure) -> None:
    """The points are those that the servers come to, and no other."""
    login = Case("blocking", ("PIPELINING", "AUTH LOGIN"), "required", settings=LOGIN)
    found = measure(login).points | measure(Case("blocking", ("CHUNKING",))).points
    assert found | {"HELO", "BDAT LAST"} == set(GOOD)
