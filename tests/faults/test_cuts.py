"""Three messages through two servers: the connection is cut after every octet, and every reply stays away once.

What holds then stands in ``invariants.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import pytest

from tests.faults.conftest import Crew, Measure
from tests.faults.deliveries import QUIT, Extent
from tests.faults.plan import Case, Cut, Silence

pytestmark = pytest.mark.exhaustive

Security = Literal["none", "required"]
Way = Literal["send", "send_many"]

SECURITY: tuple[Security, ...] = ("none", "required")
WAYS: tuple[Way, ...] = ("send", "send_many")
DIALOGUES: dict[str, tuple[str, ...]] = {
    "DATA": (),
    "DATA-grouped": ("PIPELINING",),
    "DATA-unproven": ("CHUNKING", "SIZE"),
    "BDAT-grouped": ("PIPELINING", "CHUNKING", "SIZE"),
}

twins = pytest.mark.parametrize("twin", ["blocking", "asyncio"])
ways = pytest.mark.parametrize("way", WAYS)
security = pytest.mark.parametrize("tls", SECURITY)
dialogues = pytest.mark.parametrize("extensions", DIALOGUES.values(), ids=DIALOGUES)


def cuts(case: Case, extent: Extent, **how: Any) -> Iterator[Case]:
    """The case, cut after each octet; those of QUIT are said when the mailer is closed."""
    for of, octets, quit_ in (("heard", extent.heard, QUIT.heard), ("said", extent.said, QUIT.said)):
        for at in range(octets + 1):
            yield replace(case, fault=Cut(of, at, **how), closing=at > octets - quit_)


@twins
@ways
@security
@dialogues
def test_a_cut_after_any_octet(
    carry_out: Crew, measure: Measure, twin: Any, way: Any, tls: Any, extensions: tuple[str, ...]
) -> None:
    """Nobody is missing, invented, sent to twice or needlessly in doubt; and the mailer goes on."""
    case = Case(twin, extensions, tls, way)
    carry_out(list(cuts(case, measure(case))))


@twins
@dialogues
def test_a_cut_by_rst(carry_out: Crew, measure: Measure, twin: Any, extensions: tuple[str, ...]) -> None:
    """The same where the connection ends in both directions at once, and writes fail."""
    for way in ways_that_differ(extensions):
        case = Case(twin, extensions, way=way)
        carry_out(list(cuts(case, measure(case), by="rst")))


@twins
@dialogues
def test_a_cut_of_every_connection(carry_out: Crew, measure: Measure, twin: Any, extensions: tuple[str, ...]) -> None:
    """The same where no connection to the first server gets any further."""
    for way in ways_that_differ(extensions):
        case = Case(twin, extensions, way=way)
        carry_out(list(cuts(case, measure(case), every=True)))


def ways_that_differ(extensions: tuple[str, ...]) -> tuple[Way, ...]:
    """One by one and as a stream the same is said, where nothing leaves before it is asked for."""
    return ("send", "send_many") if "PIPELINING" in extensions else ("send",)


@twins
def test_a_cut_after_any_octet_of_tls(carry_out: Crew, measure: Measure, twin: Any) -> None:
    """The same where the cut falls into the handshake or a record: TLS has no say in what became of a message."""
    case = Case(twin, ("PIPELINING",), "implicit")
    extent = measure(case)
    points: tuple[tuple[Literal["heard", "said"], int], ...] = (("heard", extent.raw_heard), ("said", extent.raw_said))
    carry_out(
        [
            replace(case, fault=Cut(of, at, raw=True), closing=True)
            # signatures differ in length by a few octets
            for of, octets in points
            for at in range(octets - 10)
        ]
    )


TIME_OUT = 2.0  # seconds that a reply may take: many times what any takes that comes


@twins
def test_silence_in_place_of_any_reply(carry_out: Crew, measure: Measure, twin: Any) -> None:
    """The same where a reply does not come, and a time-out ends the wait for it."""
    cases: list[Case] = []
    for extensions, tls, way, every in product(DIALOGUES.values(), SECURITY, WAYS, (False, True)):
        case = Case(twin, extensions, tls, way)
        replies = measure(case).replies
        cases += (replace(case, fault=Silence(reply, every), closing=reply == replies - 1) for reply in range(replies))
    carry_out(cases, timeout=TIME_OUT, at_once=100)
