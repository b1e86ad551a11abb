"""Processes that carry cases out, and count them."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from tests import tally
from tests.faults import deliveries
from tests.faults.plan import Case
from tests.servers.tls import Certificates

Crew = Callable[..., Counter[str]]
Measure = Callable[[Case], deliveries.Extent]

# Where several processes run the tests, each has one for them
PROCESSES = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2


@pytest.fixture(scope="session")
def _processes(ca: Certificates) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(
        PROCESSES,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=deliveries.prepare,
        initargs=(str(ca.ca_file), str(ca.server)),
    ) as processes:
        yield processes


@pytest.fixture
def measure(_processes: ProcessPoolExecutor) -> Measure:
    """How long the dialogue of a case is."""
    return lambda case: _processes.submit(deliveries.measure, case).result()


@pytest.fixture
def carry_out(request: pytest.FixtureRequest, _processes: ProcessPoolExecutor) -> Crew:
    """Carry cases out, count them, and fail with what is wrong."""

    def carry_out(cases: list[Case], **options: Any) -> Counter[str]:
        parts = [part for part in (cases[place::PROCESSES] for place in range(PROCESSES)) if part]
        waiting = [_processes.submit(deliveries.run, part, **options) for part in parts]
        ends: Counter[str] = Counter()
        wrong = []
        for report in (future.result() for future in waiting):
            ends += report.ends
            wrong += report.wrong
        tally.cases.setdefault(request.function.__name__, Counter()).update(ends)
        assert ends.total() == len(cases)
        assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong)
        return ends

    return carry_out
