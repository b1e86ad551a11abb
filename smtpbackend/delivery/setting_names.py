"""Names of settings: one that is not known is an error, with the name that may have been meant."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from smtpbackend.errors import InvalidSetting

__all__ = ["check_keys", "nearest"]


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that may have been meant by another one."""
    import difflib

    return next(iter(difflib.get_close_matches(name.lower(), known, 1, 0.5)), None)


def check_keys(given: Iterable[str], known: Collection[str], what: str = "setting") -> None:
    """Raise `InvalidSetting` for the first key that is not known, with the nearest one that is."""
    for key in given:
        if key not in known:
            if not (isinstance(key, str) and key.isidentifier()):  # such as a URL in the place of its settings
                raise InvalidSetting(f"unknown {what}: a key that is no name, and is not repeated", field="")
            near = nearest(key, known)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise InvalidSetting(f"unknown {what} {key!r}; {hint}", field=key)
