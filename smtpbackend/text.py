"""What a text is, whatever made it; and which known name a wrong one may have meant."""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["characters", "nearest"]

characters = str.__str__
"""The characters of a str as a plain str. A subclass may tell something else: ``Markup`` escapes what is added to it,
and the ``__str__`` of an enumeration gives the name of its member."""


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that may have been meant by another one."""
    import difflib

    return next(iter(difflib.get_close_matches(name.lower(), known, 1, 0.5)), None)
