"""Tests name nothing that is private: what deserves a test has a name without an underscore.

So far as the syntax tells it: imports, what is taken from a module or a class of ours, calls of what is a function or a
class of ours by whatever they are reached, and names in the strings of `monkeypatch`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("smtpbackend", "smtpbackend_django", "smtpbackend_flask")
PATCHES = ("setattr", "delattr", "getattr", "hasattr")


NAMED_TUPLE = ("_asdict", "_field_defaults", "_fields", "_make", "_replace")  # public, as its documentation says


def is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__")) and name not in NAMED_TUPLE


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def defined(tree: ast.AST) -> set[str]:
    """The private functions, methods and classes of a module."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds) and is_private(node.name)}


def modules_of_ours(tree: ast.AST) -> set[str]:
    """The names by which a test has modules, and whatever else it imports from our packages."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and is_ours(node.module):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names if is_ours(alias.name))
    return names


def named(source: str, functions: set[str]) -> Iterator[tuple[int, str]]:
    """What is private and named in a test; ``functions`` are those of ours."""
    tree = ast.parse(source)
    modules, own = modules_of_ours(tree), defined(tree)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and is_ours(node.module):
            for name in (*node.module.split("."), *(alias.name for alias in node.names)):
                if is_private(name):
                    yield node.lineno, f"from {node.module} import {name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if is_ours(alias.name) and any(map(is_private, alias.name.split("."))):
                    yield node.lineno, f"import {alias.name}"
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            root: ast.AST = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            name = root.id if isinstance(root, ast.Name) else ""
            is_own = name in ("self", "cls") and root is node.value
            if name in modules or (id(node) in called and node.attr in functions - own and not is_own):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in PATCHES:
            for argument in node.args[:2]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    words = argument.value.split(".")
                    is_path = len(words) > 1 and is_ours(words[0])
                    subject = node.args[0]
                    while isinstance(subject, ast.Attribute):
                        subject = subject.value
                    is_on_ours = isinstance(subject, ast.Name) and subject.id in modules
                    if any(map(is_private, words)) and (is_path or is_on_ours or words[-1] in functions - own):
                        yield node.lineno, f"{ast.unparse(node.func)}({argument.value!r})"


FUNCTIONS = {
    name
    for package in OURS
    for path in (ROOT / package).rglob("*.py")
    for name in defined(ast.parse(path.read_text(encoding="utf-8")))
}


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_private_is_named(path: Path) -> None:
    found = [f"{line}: {what}" for line, what in named(path.read_text(encoding="utf-8"), FUNCTIONS)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from smtpbackend.mime import _fold",
        "from smtpbackend._mime import fold",
        "import smtpbackend._mime",
        "from smtpbackend import mime\nmime._fold('x')",
        "import smtpbackend.mime\nsmtpbackend.mime._cache.clear()",
        "from smtpbackend import Mailer\nMailer('x')._begin()",
        "mailer._begin()",
        "monkeypatch.setattr('smtpbackend.mime._fold', None)",
        "from smtpbackend import mime\nmonkeypatch.setattr(mime, '_cache', {})",
        "monkeypatch.setattr(mailer, '_begin', None)",
    ],
)
def test_what_is_private_is_found(source: str) -> None:
    assert list(named(source, {"_begin"}))


@pytest.mark.parametrize(
    "source",
    [
        "from smtpbackend.mime import fold",
        "from smtpbackend import mime\nmime.__name__",
        "self._begin()",
        "mailer._pool.lease()",
        "os._exit(0)",
        "import smtplib\nsmtplib._AuthObject",
        "def _begin(): ...\nthing._begin()",
        "monkeypatch.setattr(smtplib, '_fold', None)",
    ],
)
def test_all_else_is_not(source: str) -> None:
    assert not list(named(source, {"_begin"}))
