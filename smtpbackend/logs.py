"""How an event is logged: its name and fields, in the message for people and in ``extra`` for programs.

A handler may raise, such as one that sends mail: that harms no delivery.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

__all__ = ["log"]

LONGEST = 500  # characters of a field in the message; a server's words may be long


def log(logger: str, level: int, event: str, error: Exception | None = None, /, **fields: Any) -> None:
    """Log ``event`` with its ``fields``, and with the traceback of ``error``."""
    with contextlib.suppress(Exception):
        template = " ".join([event, *(f"{name}=%s" for name in fields)])
        shown = map(_shown, fields.values())
        logging.getLogger(logger).log(level, template, *shown, exc_info=error, extra=fields)


def _shown(value: Any) -> str:
    """A value as one word of one line."""
    text = str(value)[:LONGEST]
    return text if text.isprintable() and text and " " not in text else repr(text)
