"""How many conversations there are, and how they are chosen."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests import tally

FACTOR = int(os.environ.get("SMTPBACKEND_FUZZ", "1"))
"""How many times more than in `make test-exhaustive`; from 2 on they are other ones in every run."""

Fuzz = Callable[..., None]


@pytest.fixture(scope="session")
def fuzz() -> Fuzz:
    """Try so many examples of a check: a function of what the strategies give."""

    def fuzz(examples: int, check: Callable[..., None], **strategies: Any) -> None:
        name = check.__qualname__.partition(".")[0]
        counted = tally.conversations.setdefault(name, Counter())
        before = counted.total()

        def example(**values: Any) -> None:
            counted["tried"] += 1
            check(**values)

        settings(
            max_examples=examples * FACTOR,
            deadline=None,
            derandomize=FACTOR == 1,  # a test that fails by chance is none
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(example))()
        assert counted.total() - before >= examples * FACTOR

    return fuzz
