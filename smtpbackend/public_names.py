"""Public names that a module offers and other modules define. Each is loaded when it is first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["on_first_use"]


def on_first_use(
    module: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for a module: ``homes`` has the names that it offers, by their module.

    A name may be ``"begin as begin_receiver"``, as in an import.
    """
    home = {
        name.rpartition(" as ")[2]: (place, name.partition(" as ")[0])
        for place, names in homes.items()
        for name in names
    }

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, its_name = home[name]
        value = getattr(importlib.import_module(place), its_name)
        setattr(sys.modules[module], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[module]), *home})
