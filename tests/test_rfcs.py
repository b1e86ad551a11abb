"""docs/supported-rfcs.md: every standard has its row, and every test that a row names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "supported-rfcs.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| [")]
TESTS = sorted(set(re.findall(r"`(tests/[^`]+)`", PAGE)))

STANDARDS = {
    *(5321, 5322, 6409, 8314, 3207, 2920, 3030, 6152, 1870, 2034, 3463, 5248, 3461, 6531, 6532, 4954, 4616, 2195),
    *(2831, 5802, 7677, 9266, 7628, 4422, 4752, 2852, 4865, 6710, 8689, 9422, 2033, 6186, 6376, 8463, 2369, 8058),
}


def test_every_standard_has_one_row() -> None:
    found = [int(number) for row in ROWS for number in re.findall(r"\[(\d{4})\]\(", row[0])]
    assert len(found) == len(set(found))
    assert set(found) >= STANDARDS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][1:5])
def test_a_row_has_a_test_or_the_words_not_yet(row: list[str]) -> None:
    _, done, not_done, shown_by = row
    is_missing = not_done == "not yet"
    assert bool(done) != is_missing
    assert bool(re.fullmatch(r"`tests/[^`]+`( `tests/[^`]+`)*", shown_by)) != is_missing


@pytest.mark.parametrize("name", TESTS)
def test_a_named_test_exists(name: str) -> None:
    """A file, a class in it, or a test."""
    path, *inside = name.split("::")
    body: list[ast.stmt] = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for one in inside:
        found = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == one]
        assert found, f"{path} has no {one}"
        body = found[0].body
