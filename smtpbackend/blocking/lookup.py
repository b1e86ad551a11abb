"""The DNS for one blocking mailer: the SRV records of a domain, by dnspython's default resolver."""

from __future__ import annotations

import time

from smtpbackend.delivery.server import Server
from smtpbackend.delivery.srv import Found, look_up
from smtpbackend.protocol.timeouts import DeadlinePassed, earliest, time_is_up

__all__ = ["find"]


def find(server: Server, deadline: float | None) -> Found:
    """Ask for the records of a server that is a domain, within the time of a connection. Raises `ConnectFailed`."""
    from dns import resolver

    end = earliest(time.monotonic() + server.timeout.connect, deadline)
    conversation = look_up(server)
    try:
        name = next(conversation)
        while True:
            try:
                left = max(end - time.monotonic(), 0.001)
                answer = resolver.resolve(name, "SRV", lifetime=left, search=False)
            except Exception as error:
                late = time_is_up(time.monotonic(), deadline)
                name = conversation.throw(late if isinstance(late, DeadlinePassed) else error)
            else:
                name = conversation.send(answer)
    except StopIteration as stop:
        found: Found = stop.value
        return found
