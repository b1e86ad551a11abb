"""Prints the matrix at the end of the run."""

from __future__ import annotations

from typing import Any

from tests.interoperability import matrix


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if matrix.FOUND:
        terminalreporter.section("interoperability")
        terminalreporter.write_line(matrix.matrix())
