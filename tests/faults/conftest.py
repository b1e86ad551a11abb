"""Two processes that carry cases out, and the number of cases in the terminal."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from tests.faults import deliveries
from tests.faults.plan import Case
from tests.servers.tls import Certificates

Crew = Callable[..., Counter[str]]
Measure = Callable[[Case], deliveries.Extent]

_counted: dict[str, Counter[str]] = {}


@pytest.fixture(scope="session")
def _processes(ca: Certificates) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(
        2,
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
        parts = [part for part in (cases[0::2], cases[1::2]) if part]
        waiting = [_processes.submit(deliveries.run, part, **options) for part in parts]
        ends: Counter[str] = Counter()
        wrong = []
        for report in (future.result() for future in waiting):
            ends += report.ends
            wrong += report.wrong
        _counted.setdefault(request.function.__name__, Counter()).update(ends)
        assert ends.total() == len(cases)
        assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong)
        return ends

    return carry_out


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _counted:
        return
    total = sum(ends.total() for ends in _counted.values())
    terminalreporter.section(f"faults: {total:,} cases")
    for test, ends in _counted.items():
        shown = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
        terminalreporter.line(f"{ends.total():>7,} {test}: {shown}")
