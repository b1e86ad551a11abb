"""The DNS for one event loop: the SRV records of a domain, by dnspython's default resolver."""

from __future__ import annotations

import asyncio

from smtpbackend.delivery.server import Server
from smtpbackend.delivery.srv import Found, look_up
from smtpbackend.protocol.timeouts import DeadlinePassed, earliest, time_is_up

__all__ = ["find"]


async def find(server: Server, deadline: float | None) -> Found:
    """Ask for the records of a server that is a domain, within the time of a connection. Raises `ConnectFailed`."""
    from dns import asyncresolver

    now = asyncio.get_running_loop().time
    end = earliest(now() + server.timeout.connect, deadline)
    conversation = look_up(server)
    task = asyncio.current_task()
    cancelled = task.cancelling() if task else 0
    try:
        name = next(conversation)
        while True:
            failed: Exception | None = None
            try:
                left = max(end - now(), 0.001)
                answer = await asyncresolver.resolve(name, "SRV", lifetime=left, search=False)
            except Exception as error:
                late = time_is_up(now(), deadline)
                failed = late if isinstance(late, DeadlinePassed) else error
            if task and task.cancelling() > cancelled:
                # dnspython waits by wait_for, which up to Python 3.11 loses a cancellation that comes with the answer
                raise asyncio.CancelledError
            name = conversation.send(answer) if failed is None else conversation.throw(failed)
    except StopIteration as stop:
        found: Found = stop.value
        return found
