"""The dialogue with a server, for debugging, at DEBUG on logger ``smtpbackend.wire``; and for a check of a server.

Secrets never come here: a session shows them as ``***``, and content as its number of octets.
"""

from __future__ import annotations

from smtpbackend.delivery.server import Server
from smtpbackend.protocol.line import Transcript

__all__ = ["transcript"]


def transcript(server: Server) -> Transcript | None:
    """The function that a session calls with each line of its dialogue; None: it is not wanted."""
    import logging

    logger, watch = logging.getLogger("smtpbackend.wire"), server.watch
    if watch is not None:
        return lambda direction, line: watch("line", direction, line)
    if not logger.isEnabledFor(logging.DEBUG):
        return None

    def write(direction: str, line: str) -> None:
        logger.debug("%s %s %s", server.name, direction, line, extra={"server": server.name})

    return write
