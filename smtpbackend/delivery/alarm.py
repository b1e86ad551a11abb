"""What is logged without being asked for: at WARNING, on logger ``smtpbackend``.

``smtpbackend.failed_over``: a server could not be used, and the next one is tried. ``smtpbackend.in_doubt``: a message
was handed over and not answered. Each is logged at most once a minute for each server, over all mailers of a process: a
server that is down does not flood the log. ``smtpbackend.in_clear``: mail goes in clear to a server whose TLS failed;
``smtpbackend.no_login``: a user name is set without a password, so there is no login. Both are logged once for each
server and process. No record has a secret, or a recipient that the server did not name itself.
"""

from __future__ import annotations

from logging import WARNING
from typing import Any

from smtpbackend.errors import SMTPError
from smtpbackend.events import ServerFailed
from smtpbackend.logs import log
from smtpbackend.outcome import Receipt

__all__ = ["in_clear", "in_doubt", "is_due", "no_login", "server_failed"]

A_MINUTE = 60.0  # seconds
MOST = 1000  # servers that are remembered

last_logged: dict[tuple[str, str | None], list[float]] = {}  # when each event was logged, for each server


def server_failed(event: ServerFailed, now: float) -> None:
    """Log that the next server is tried. ``now`` is in seconds, of any monotonic clock."""
    if event.next is not None:
        fields = {"phase": event.phase, "next": event.next, "error": str(event.error)}
        log_at_times("smtpbackend.failed_over", event.server, now, fields)


def in_doubt(receipt: Receipt, now: float) -> None:
    """Log that a message was handed over, and that no answer came."""
    doubtful = receipt.in_doubt
    fields = {"message_id": receipt.message_id, "recipients": len(doubtful), "error": str(doubtful[0].error)}
    log_at_times("smtpbackend.in_doubt", doubtful[0].server, now, fields)


def in_clear(server: str, why: SMTPError) -> None:
    """Log that mail goes to ``server`` in clear though it offers TLS, and ``why``."""
    log_once("smtpbackend.in_clear", server, {"error": str(why)})


def no_login(server: str, lacking: str) -> None:
    """Log that there is no login on ``server``, because the setting ``lacking`` is not set."""
    log_once("smtpbackend.no_login", server, {"lacking": lacking})


told: dict[tuple[str, str], object] = {}  # what was logged of each server


def log_once(name: str, server: str, fields: dict[str, Any]) -> None:
    if len(told) >= MOST:
        told.clear()
    this = object()
    if told.setdefault((name, server), this) is this:  # of several threads only the first logs
        log("smtpbackend", WARNING, name, server=server, **fields)


def log_at_times(name: str, server: str | None, now: float, fields: dict[str, Any]) -> None:
    if len(last_logged) >= MOST:
        last_logged.clear()
    if is_due(last_logged.setdefault((name, server), [float("-inf")]), now):
        log("smtpbackend", WARNING, name, server=server, **fields)


def is_due(last: list[float], now: float) -> bool:
    """Whether a minute has passed since the one time in ``last``; then ``now`` replaces it.

    The thread that takes the time out decides; another one finds none, and logs nothing. A time in the future comes
    from another clock.
    """
    try:
        before = last.pop()
    except IndexError:
        return False
    due = not 0.0 <= now - before < A_MINUTE
    last.append(now if due else before)
    return due
