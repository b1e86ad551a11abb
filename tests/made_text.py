"""Texts as templates, translations and enumerations make them: subclasses of str, and what becomes a str later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _wrong(*_: Any) -> Any:
    return Made("wrong")


def _kept(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, as ``Markup`` has it: what comes of it is such a str again."""
    return lambda *given: made(method(*given))


class Made(str):
    """It is written as its characters. Whatever ``Markup`` or an enumeration changes says something else."""

    __str__ = __repr__ = __format__ = __add__ = __radd__ = __mod__ = replace = join = format = _wrong
    __getitem__, strip, lstrip, rstrip = map(_kept, (str.__getitem__, str.strip, str.lstrip, str.rstrip))
    lower, upper, removeprefix = map(_kept, (str.lower, str.upper, str.removeprefix))
    split, splitlines, partition, rpartition = map(_kept, (str.split, str.splitlines, str.partition, str.rpartition))


class Lazy:
    """A string that is made when it is looked at, as translations are."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __getattr__(self, name: str) -> Any:  # as flask_babel's
        return getattr(str(self), name)


class Counted(Lazy):
    """One that says something else with each look, and counts them."""

    looks = 0

    def __str__(self) -> str:
        self.looks += 1
        return f"{self.looks}.{self._text}"


def made(value: Any) -> Any:
    """``value`` with each str in it as such a subclass."""
    if isinstance(value, str):
        return Made(value)
    if isinstance(value, dict):
        return {made(name): made(one) for name, one in value.items()}
    return type(value)(map(made, value)) if isinstance(value, (list, tuple)) else value
