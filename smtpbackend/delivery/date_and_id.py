"""The clock and the randomness for Date and Message-ID; what makes messages takes them as arguments."""

from __future__ import annotations

import os
from datetime import datetime

__all__ = ["stamp"]


def stamp() -> tuple[datetime, str]:
    """Now, in local time with its offset (RFC 5322 3.3), and the unique part of a Message-ID (3.6.4)."""
    return datetime.now().astimezone(), os.urandom(16).hex()
