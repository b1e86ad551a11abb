"""The Content-Type of a part of an ``email.message.Message``: its media type, and the boundary between its parts.

An outsider may have chosen these headers. The package parses them in time that grows with the square of their length,
so they are read here, or are bound to be short.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

from smtpbackend.errors import InvalidInput

__all__ = ["bounded", "media_type", "parsed", "raw", "with_boundary"]

MAX_TYPE = 2000  # characters of a Content-Type that is parsed; RFC 2231 3 has pieces of 78
_valid = re.compile(r"[A-Za-z0-9'()+_,./:=? -]{0,69}[A-Za-z0-9'()+_,./:=?-]").fullmatch  # RFC 2046 5.1.1
_delimiters = re.compile(r"(?:^|(?<=[\r\n]))--([^\r\n]{1,80})").findall
_content_type = re.compile(rb"^content-type:[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*", re.IGNORECASE | re.MULTILINE).finditer


def raw(message: Any, name: str) -> Any:
    """The first header of that name (in lower case) as it is stored, or None."""
    return next((value for key, value in message.raw_items() if key.lower() == name), None)


def media_type(message: Any) -> str:
    """The same as ``get_content_type`` of the package: in lower case, without parameters."""
    value = raw(message, "content-type")
    if value is None:
        return str(message.get_default_type())
    found = str(value).partition(";")[0].strip().lower()
    return found if found.count("/") == 1 else "text/plain"  # RFC 2045 5.2


def bounded(message: Any) -> None:
    """Raise `InvalidInput` where the package would take too long to parse the Content-Type."""
    if len(str(raw(message, "content-type") or "")) > MAX_TYPE:
        raise InvalidInput(
            f"Content-Type: it has more than {MAX_TYPE:,} characters, which no multipart needs", field="Content-Type"
        )


def parsed(octets: bytes, field: str) -> Any:
    """The message in these octets, parsed by the package. Raises `InvalidInput` naming ``field``."""
    import email

    if any(match.end() - match.start() > MAX_TYPE for match in _content_type(octets)):
        raise InvalidInput(f"{field}: it has a Content-Type of more than {MAX_TYPE:,} octets", field=field)
    return email.message_from_bytes(octets)


def with_boundary(message: Any, new: str, taken: Callable[[], set[str]], is_signed: bool) -> Any:
    """A multipart with a boundary that can separate its parts: itself, or a copy that has the ``new`` boundary.

    A boundary that RFC 2046 5.1.1 does not allow could end a line, and begin the commands of another mail. One that is
    ``taken`` by a line of the content would cut a part in two. Raises `InvalidInput` for both where it ``is_signed``.
    ``taken`` is called only where it matters.
    """
    bounded(message)
    boundary = message.get_boundary()
    is_valid = bool(boundary) and _valid(boundary) is not None
    if is_valid and boundary not in taken():
        return message
    if boundary and is_signed:
        why = "a line of the content" if is_valid else "not what RFC 2046 5.1.1 allows"
        raise InvalidInput(
            f"Content-Type: the boundary {boundary!r} is {why}, and a signed message must not be altered",
            field="Content-Type",
        )
    message = copy.copy(message)  # set_boundary makes a new list of headers
    message.set_boundary(new)
    return message


def delimiters(message: Any) -> set[str]:
    """What follows "--" at the start of a line in the texts of a message: no boundary may be among these."""
    found = set()
    for text in _texts(message):
        for line in _delimiters(text):
            line = line.rstrip(" \t")
            found |= {line, line.removesuffix("--")}
    return found


def _texts(message: Any) -> Iterator[str]:
    for part in message.walk():
        for text in (part._payload, part.preamble):
            if isinstance(text, bytes):
                yield text.decode("latin-1")
            elif isinstance(text, str):
                yield text
