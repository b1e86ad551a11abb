"""What the tests of a run have counted and found, for its end in the terminal, whichever of its processes they ran in.

The hooks are in `tests/conftest.py`: only that one is loaded in the process which gives the others their tests.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

Counts = dict[str, Counter[str]]

cases: Counts = {}
"""Deliveries of `tests/faults`: how they ended, by test."""
conversations: Counts = {}
"""Of `tests/fuzz`: how many, by check."""
matrix: list[str] = []
"""Of `tests/interoperability`, where it was tried."""
warnings: list[str] = []
"""What is no failure, and wants to be looked at."""


def taken() -> dict[str, Any]:
    """All of it, as xdist can carry it."""
    counts = {"cases": cases, "conversations": conversations}
    plain = {name: {key: dict(counter) for key, counter in kind.items()} for name, kind in counts.items()}
    return {**plain, "matrix": list(matrix), "warnings": list(warnings)}


def add(other: dict[str, Any]) -> None:
    """Add what another process has taken."""
    for mine, name in ((cases, "cases"), (conversations, "conversations")):
        for key, counter in other[name].items():
            mine.setdefault(key, Counter()).update(counter)
    matrix.extend(other["matrix"])
    warnings.extend(other["warnings"])


def tell(terminal: Any) -> None:
    """Write it at the end of a run."""
    if cases:
        terminal.section(f"faults: {sum(ends.total() for ends in cases.values()):,} cases")
        for test, ends in sorted(cases.items()):
            shown = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
            terminal.line(f"{ends.total():>7,} {test}: {shown}")
    if conversations:
        terminal.section(f"fuzz: {sum(found.total() for found in conversations.values()):,} conversations")
        for check, found in sorted(conversations.items()):
            terminal.line(f"{found.total():>8,} {check}")
    if matrix:
        terminal.section("interoperability")
        terminal.write_line("\n".join(matrix))
    if warnings:
        terminal.section("to be looked at")
        for line in sorted(warnings):
            terminal.line(line, yellow=True)
