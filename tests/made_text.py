"""A str as templates, translations and enumerations make them: a subclass with methods of its own."""

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


def made(value: Any) -> Any:
    """``value`` with each str in it as such a subclass."""
    if isinstance(value, str):
        return Made(value)
    if isinstance(value, dict):
        return {made(name): made(one) for name, one in value.items()}
    return type(value)(map(made, value)) if isinstance(value, (list, tuple)) else value
