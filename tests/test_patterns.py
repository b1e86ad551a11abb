"""No regular expression of ours goes over a run of characters again and again, whoever wrote the text."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patterns import ambiguity

pytestmark = pytest.mark.exhaustive  # nothing in it depends on the Python or the framework

ROOT = Path(__file__).parents[1]
METHODS = {"match", "fullmatch", "search", "findall", "finditer", "sub", "split"}


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("smtpbackend", "smtpbackend_django", "smtpbackend_flask"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "testing" not in parts:  # what is for tests is given nothing by outsiders
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def patterns(name: str, path: Path) -> Iterator[tuple[int, Any, int, str]]:
    """Line, expression, flags, and how it is used, of each in a module."""
    source = path.read_text()
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.")):
            continue
        how = ast.unparse(node.func).removeprefix("re.")
        if how not in METHODS | {"compile"}:
            continue
        space = vars(importlib.import_module(name))
        pattern, *others = (
            eval(ast.unparse(value), dict(space)) if number == 0 or how == "compile" else 0
            for number, value in enumerate(node.args)
        )
        flags = int(others[0]) if how == "compile" and others else 0
        uses = [how]
        if how == "compile":
            parent = parents[node]
            if isinstance(parent, ast.Attribute):
                uses = [parent.attr]
            else:
                assert isinstance(parent, ast.Assign), f"{path}:{node.lineno}: who uses it?"
                uses = re.findall(rf"\b{ast.unparse(parent.targets[0])}\.(\w+)\b", source)
        for use in sorted(set(uses) & METHODS):
            yield node.lineno, pattern, flags, use


FOUND = [
    (f"{path.relative_to(ROOT)}:{line} {how}", pattern, flags, how)
    for name, path in modules()
    for line, pattern, flags, how in patterns(name, path)
]


@pytest.mark.parametrize(("pattern", "flags", "how"), [found[1:] for found in FOUND], ids=[found[0] for found in FOUND])
def test_an_expression_reads_each_text_in_few_ways(pattern: Any, flags: int, how: str) -> None:
    assert ambiguity(pattern, flags, how) is None


def test_all_of_them_are_looked_at() -> None:
    print(f"{len(FOUND)} uses of regular expressions")
    assert len(FOUND) > 60


@pytest.mark.parametrize(
    ("pattern", "how"),
    [
        (r"\s*\s*x", "fullmatch"),
        (r"a/b\s*;?\s*", "fullmatch"),
        (r"[ \t]*[^ \t]+", "findall"),
        (r"(?:a|b)*[ab]*c", "match"),
        (r"(a+)+c", "match"),
        (r"(?:ab|a|b)*c", "match"),
        (r"\s*([^<>]*?)\s*<", "match"),
        (r" *x", "search"),
    ],
)
def test_those_that_do_not_are_seen(pattern: str, how: str) -> None:
    assert ambiguity(pattern, 0, how) is not None


@pytest.mark.parametrize(
    ("pattern", "how"),
    [
        (r"\s*x\s*", "fullmatch"),
        (r"[ \t]+[^ \t]*|[^ \t]+", "findall"),
        (r"[ \t]+", "sub"),
        (r"a*b*c*", "match"),
        (r"[a-z]*[a-z]", "fullmatch"),
    ],
)
def test_those_that_do_are_let_pass(pattern: str, how: str) -> None:
    assert ambiguity(pattern, 0, how) is None
