"""Secrets that nobody may see, and everything that an error shows to whoever looks closely.

A debug page, a mail to the admins or an error tracker prints the locals of every frame by their repr, and goes into
lists and mappings; some walk ``__context__`` too. So does `everything_about`.
"""

from __future__ import annotations

import base64
import copy
import pickle
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from smtpbackend.errors import SMTPError

TESTS = str(Path(__file__).parent)
PART = 8
"""Characters of a secret that are too many to be shown."""


def forms(secret: str) -> set[str]:
    """How a secret may be written: as it is, quoted, escaped, in hex, and in base64 with anything around it."""
    octets = secret.encode()
    found = {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1], octets.hex()}
    for before in range(3):
        encoded = base64.b64encode(b"?" * before + octets + b"?" * (-(before + len(octets)) % 3)).decode()
        first = (8 * before + 5) // 6
        found.add(encoded[first : (8 * (before + len(octets))) // 6])
    return found


def parts(secret: str) -> set[str]:
    """Each part of each form that is too long to be shown; all of it where it is short."""
    found = set()
    for form in forms(secret):
        found |= {form[at : at + PART] for at in range(max(len(form) - PART + 1, 1))}
    return found


def assert_unseen(secrets: Iterable[str], texts: Iterable[str]) -> None:
    """None of the secrets stands in any of the texts, nor a part of one."""
    wanted = set().union(*map(parts, secrets))
    for text in texts:
        for part in wanted:
            if part in text:
                at = text.index(part)
                raise AssertionError(f"{part!r} is shown in {text[max(at - 200, 0) : at + 200]!r}")


def everything_about(error: BaseException | None, seen: set[int] | None = None) -> Iterator[str]:
    """An error with all that hangs on it: text, arguments, attributes, receipt, traceback, locals, cause and context.

    The frames of a test are left out: what a caller keeps is his own.
    """
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield from (str(error), repr(error), repr(error.args), "".join(traceback.format_exception(error)))
    yield from (f"{name}={value!r}" for name, value in vars(error).items())
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if not frame.f_code.co_filename.startswith(TESTS):
            for name, value in list(frame.f_locals.items()):
                yield from (f"{frame.f_code.co_qualname} has {name} = {text}" for text in shown(value))
        trace = trace.tb_next
    if isinstance(error, SMTPError):
        yield pickle.dumps(copy.copy(error), protocol=0).decode("latin-1")
        if error.receipt is not None:
            yield repr(error.receipt)
            for outcome in error.receipt.outcomes:
                yield from everything_about(outcome.error, seen)
            yield from everything_about(error.receipt.error, seen)
    yield from everything_about(error.__cause__, seen)
    yield from everything_about(error.__context__, seen)


def shown(value: Any, depth: int = 4) -> Iterator[str]:
    """A local variable as it is printed: its repr, and that of what is in it."""
    yield repr(value)
    if depth and isinstance(value, Mapping):
        for item in (*value, *value.values()):
            yield from shown(item, depth - 1)
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from shown(item, depth - 1)
