"""Access tokens for threads."""

from __future__ import annotations

import time

from smtpbackend.delivery.credentials import PATIENCE, Provider, checked, raised
from smtpbackend.delivery.server import Server
from smtpbackend.errors import SMTPError
from smtpbackend.fetching import fetched

__all__ = ["token"]


def token(server: Server, refused: str | None, deadline: float | None) -> str:
    """A token for a server, not ``refused``. ``deadline`` is in seconds of ``time.monotonic``. Raises `SMTPError`."""
    try:
        if not isinstance(server.token, Provider):  # it is no local here: a partial shows its arguments
            return checked(server.token(), server.name, server.spelling("token"))
        patience = PATIENCE if deadline is None else min(PATIENCE, deadline - time.monotonic())
        return fetched(server.token, server, refused, patience)
    except SMTPError as error:
        error.server = error.server or server.name
        raise
    except Exception as error:
        raise raised(error, server.name) from error
