"""Memory does not grow with a stream: messages come from a generator, and nobody keeps the receipts."""

from __future__ import annotations

import pytest

from tests.guards.figures import ASKED, OFFERS
from tests.guards.worker import run
from tests.servers.sink import Sink

FEW, MANY = 500, 5_000
MORE = 2_000_000
"""Octets, of which a receipt kept for each message would take more than twice as many."""


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("way", OFFERS)
def test_many_messages_take_no_more_than_few(way: str, kind: str) -> None:
    with Sink(*OFFERS[way]) as sink:
        (few, few_left), (many, many_left) = (run("memory", sink.url + ASKED, kind, number) for number in (FEW, MANY))
    print(f"{few} octets for {FEW} messages, {many} for {MANY}; {few_left} and {many_left} are left")
    assert many - few < MORE
    assert many_left - few_left < MORE / 10
