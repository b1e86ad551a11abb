"""Has the matrix told at the end of the run."""

from __future__ import annotations

from tests import tally
from tests.interoperability import matrix


def pytest_sessionfinish() -> None:
    if matrix.FOUND:
        tally.matrix.append(matrix.matrix())
