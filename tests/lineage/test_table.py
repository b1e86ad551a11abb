"""README.md beside this file is true: every behaviour has its tests, and every test its behaviour."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECTIONS = {"tcllib": 15, "smtplib": 12, "LuaSocket": 8, "Comet": 4}
"""The systems, and how many rows each has at least."""


def rows(system: str) -> list[str]:
    """The last cell of each row of a section: its tests."""
    text = (HERE / "README.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = [part for part in section if part.startswith(f"{system}\n")]
    lines = [line for line in found.splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ")[-1] for line in lines[2:]]


@pytest.mark.parametrize("system", SECTIONS)
def test_every_row_has_its_tests_and_every_test_its_row(system: str) -> None:
    """Either tests or "due later", never both."""
    cells = rows(system)
    assert len(cells) >= SECTIONS[system]
    named = [name for cell in cells for name in re.findall(r"`(test_\w+)`", cell)]
    assert all(cell == "due later" or re.fullmatch(r"`test_\w+`(, `test_\w+`)*", cell) for cell in cells)
    tree = ast.parse((HERE / f"test_{system.lower()}.py").read_text(encoding="utf-8"))
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert sorted(named) == sorted(defined)
