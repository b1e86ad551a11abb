"""How many conversations there are, and how they are chosen; the number in the terminal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

FACTOR = int(os.environ.get("SMTPBACKEND_FUZZ", "1"))
"""How many times more than in `make test`; from 2 on they are other ones in every run."""

_counted: Counter[str] = Counter()

Fuzz = Callable[..., None]


@pytest.fixture(scope="session")
def fuzz() -> Fuzz:
    """Try so many examples of a check: a function of what the strategies give."""

    def fuzz(examples: int, check: Callable[..., None], **strategies: Any) -> None:
        name = check.__qualname__.partition(".")[0]
        before = _counted[name]

        def example(**values: Any) -> None:
            _counted[name] += 1
            check(**values)

        settings(
            max_examples=examples * FACTOR,
            deadline=None,
            derandomize=FACTOR == 1,  # a test that fails by chance is none
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(example))()
        assert _counted[name] - before >= examples * FACTOR

    return fuzz


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _counted:
        return
    terminalreporter.section(f"fuzz: {_counted.total():,} conversations")
    for check, count in _counted.items():
        terminalreporter.line(f"{count:>8,} {check}")
