"""The texts of errors, read from where they are raised: what docs/troubleshooting.md is made of."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from smtpbackend import errors

__all__ = ["Text", "texts"]

CLASSES = {name for name in errors.__all__ if name not in ("CancelSend",)}
# Functions that make an error of a text, and its class where it is not an argument
MAKERS = {"fatal": "", "_wrong": "InvalidSetting", "wrong": "InvalidSetting", "failed": "AuthenticationFailed",
          "kind": "ConnectFailed", "handshake_failed": "TLSFailed"}  # fmt: skip
LONG = 18  # letters that a text has to have beside what is filled in, for somebody to find it by


class Text(NamedTuple):
    """One text, with "…" for what is filled in; its class; and the module that raises it."""

    text: str
    kind: str
    module: str


def texts(package: Path) -> Iterator[Text]:
    """Every text that is raised in a package."""
    for path in sorted(package.rglob("*.py")):
        if "testing" in path.parts:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        named = _named(tree)
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield from _of_call(node, named, module)


def _named(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """What is assigned to each name, for texts that are put into a variable first."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return found


def _of_call(call: ast.Call, named: dict[str, list[ast.expr]], module: str) -> Iterator[Text]:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    arguments = list(call.args)
    kind = name
    if name in MAKERS:
        kind = "InvalidInput" if module == "smtpbackend.address_syntax" else MAKERS[name]
        if name == "fatal" and arguments:
            kind = getattr(arguments.pop(0), "id", "")
    elif name == "SettingsError":
        kind = "InvalidSetting"
    elif name not in CLASSES:
        return
    if not arguments:
        return
    given = arguments[0]
    for one in named.get(given.id, []) if isinstance(given, ast.Name) else [given]:
        text = _written(one)
        if len(re.sub("[^A-Za-z]", "", text)) >= LONG:
            yield Text(text, kind, module)


def _written(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return re.sub("…+", "…", "".join(map(_written, node.values)))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _written(node.left) + _written(node.right)
    if isinstance(node, ast.IfExp):
        return _written(node.body)
    if isinstance(node, ast.FormattedValue):
        return _setting(node.value)
    return "…"


def _setting(node: ast.expr) -> str:
    """What a spelling writes, by the name of the setting; "…" for all else."""
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        words = [one.value for one in node.args if isinstance(one, ast.Constant)]
        if name in ("spelled", "spelling", "_spelling") and words:
            return f"`{words[0]}`" if len(words) == 1 else f"`{words[0]}={words[1]!r}`"
        if name == "together" and words:
            return " and ".join(f"`{word}`" for word in words)
    return "…"
