"""What is said of each message beside what the servers have of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from smtpbackend import Receipt, Status
from smtpbackend.errors import SMTPError

# How many times a message may be there, by what is said of it (DESIGN 4.3)
_TIMES = {Status.ACCEPTED: {1}, Status.IN_DOUBT: {0, 1}, Status.DEFERRED: {0}, Status.REJECTED: {0}}


def status(said: Receipt | BaseException) -> Status:
    """What a receipt, or an error that carries one, says of a message to one recipient; any other error is raised."""
    receipt = said.receipt if isinstance(said, SMTPError) else said
    if not isinstance(receipt, Receipt):
        raise AssertionError(f"{said!r} has no receipt") from (said if isinstance(said, BaseException) else None)
    (outcome,) = receipt.outcomes
    return outcome.status


def subject_of(content: bytes) -> str:
    """The subject of a message as it left: what tells these from each other."""
    found = re.search(rb"(?m)^Subject: (.*)\r$", content)
    assert found is not None
    return found[1].decode()


def disagreements(said: Mapping[str, Status], there: Mapping[str, Collection[Any]]) -> list[str]:
    """Every message of which the servers have more or less copies than was said, and those that nobody sent.

    ``there`` has the copies of each message, whatever tells them from each other.
    """
    found = [f"{name}: there, and nothing was said of it" for name in there if name not in said]
    for name, what in said.items():
        copies = there.get(name, ())
        if len(copies) not in _TIMES[what]:
            found.append(f"{name}: {what.name}, and there {len(copies)} times {list(copies)}")
    return found


def counted(said: Mapping[str, Status]) -> str:
    """How many there are of each, for an assertion to tell."""
    return ", ".join(f"{number} {status.name}" for status, number in Counter(said.values()).items())
