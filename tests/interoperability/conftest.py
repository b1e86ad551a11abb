"""Keeps all of the matrix in one process, and has it told at the end of the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tally
from tests.interoperability import matrix

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The page is compared with what all of these found."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("interoperability"))


def pytest_sessionfinish() -> None:
    if matrix.FOUND:
        tally.matrix.append(matrix.matrix())
