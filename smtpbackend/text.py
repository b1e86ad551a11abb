"""What a text is, whatever made it, and when; and which known name a wrong one may have meant."""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection, Iterable
from typing import Any

__all__ = ["characters", "nearest", "text_now", "with_texts_now"]

characters = str.__str__
"""The characters of a str as a plain str. A subclass may tell something else: ``Markup`` escapes what is added to it,
and the ``__str__`` of an enumeration gives the name of its member."""


def text_now(value: Any) -> Any:
    """What a lazy text, such as a translation, says now; so in a list, tuple or dict. All else is given back itself."""
    if isinstance(value, (str, bytes, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        found = list(map(text_now, value))
        return value if all(map(operator.is_, found, value)) else tuple(found) if isinstance(value, tuple) else found
    if isinstance(value, dict):
        named = {text_now(name): text_now(one) for name, one in value.items()}
        return (
            value if all(map(operator.is_, named.values(), value.values())) and named.keys() == value.keys() else named
        )
    method = getattr(value, "casefold", None)
    if method is None:
        return value
    text = getattr(method, "__self__", None)  # where a method is looked up in the text, that was made for it
    return characters(text if isinstance(text, str) else str(value))


def with_texts_now(message: Any, names: Iterable[str]) -> Any:
    """The message; or a copy in which no text in these attributes is lazy: it might be another one with each look."""
    changed: dict[str, Any] = {}
    for name in names:
        given = getattr(message, name, None)
        if (text := text_now(given)) is not given:
            changed[name] = text
    if changed:
        message = copy.copy(message)
        for name, text in changed.items():
            setattr(message, name, text)
    return message


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that may have been meant by another one."""
    import difflib

    return next(iter(difflib.get_close_matches(name.lower(), known, 1, 0.5)), None)
