"""`Value`: the base of what is frozen, and equal, hashed and shown by its fields.

It is declared and typed as a frozen dataclass. ``dataclass`` writes the methods of each class as source and compiles it
whenever a process starts, and loads ``inspect`` for it: here all classes share the methods below.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, NoReturn, Self, dataclass_transform

from smtpbackend.text import nearest

__all__ = ["Value"]


@dataclass_transform(frozen_default=True)
class Value:
    """Each annotated name of a subclass is a field, behind those of its base; what is assigned to it is the default.

    ``__post_init__`` may check the fields. What is made for each recipient has an ``__init__`` of its own, which takes
    less time. ``_fields`` and ``_field_defaults`` are as a NamedTuple has them.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _field_defaults: ClassVar[dict[str, Any]] = {}

    _values: ClassVar[Callable[[Any], Any]]
    """Gives the values of all fields at once."""

    def __init_subclass__(cls) -> None:
        own = cls.__annotations__
        cls._fields = cls.__match_args__ = (*cls._fields, *own)  # type: ignore[attr-defined, misc]
        cls._field_defaults = cls._field_defaults | {name: vars(cls)[name] for name in own if name in vars(cls)}
        cls._values = attrgetter(*cls._fields) if cls._fields else lambda value: ()

    def __init__(self, *values: Any, **named: Any) -> None:
        fields, put = self._fields, self.__dict__  # past `__setattr__`, which refuses
        put.update(self._field_defaults)
        put.update(zip(fields, values, strict=False))
        put.update(named)
        if len(put) != len(fields) or len(values) > len(fields) or named:
            self._check_names(len(values), named)
        self.__post_init__()

    def _check_names(self, given: int, named: dict[str, Any]) -> None:
        fields, name = self._fields, type(self).__name__
        if given > len(fields):
            raise TypeError(f"{name} has {len(fields)} fields, and was given {given} values")
        for field in named:
            if field not in fields:
                near = nearest(field, fields)
                raise TypeError(f"{name} has no field {field!r}" + (f"; did you mean {near!r}?" if near else ""))
            if field in fields[:given]:
                raise TypeError(f"{name} was given two values for {field!r}")
        if missing := [field for field in fields if field not in self.__dict__]:
            raise TypeError(f"{name} needs {', '.join(map(repr, missing))}")

    def __post_init__(self) -> None:
        """Check the fields, or complete them in ``__dict__``."""

    def replace(self, **changes: Any) -> Self:
        """Another one with these fields changed; it is made and checked as any other."""
        return type(self)(**{name: getattr(self, name) for name in self._fields} | changes)

    __replace__ = replace  # what `copy.replace` of Python 3.13 calls

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        values = type(self)._values
        return bool(values(self) == values(other))

    def __hash__(self) -> int:
        return hash(type(self)._values(self))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__qualname__}({fields})"

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} does not change; replace({name}=...) makes another one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a {type(self).__name__} does not change")
