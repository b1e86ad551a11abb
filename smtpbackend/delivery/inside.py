"""What is sent from inside a delivery that has a connection: it must not wait for that one to come back.

Inside is whatever runs in the context (``contextvars``) in which the delivery goes on: the same thread; the same task,
and the tasks that are made there. The twins enter and leave, `lender` decides.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

__all__ = ["Delivery", "enter", "here", "is_here", "lender"]

Deliveries = tuple["Delivery", ...]


class Delivery:
    """A delivery on its way. ``pool`` is the pool whose connection it has; None: it has none any more.

    ``task`` is the task that runs it, None in a thread. When that task has ended, nothing is inside any more, even if
    others run in the same context (as under an ``asyncio.Runner``). ``lent``: how many connections beyond the limit
    were given to sends from inside.
    """

    __slots__ = ("lent", "pool", "task")

    def __init__(self, pool: object, task: Any = None) -> None:
        self.pool: object | None = pool
        self.task = task
        self.lent = 0

    def leave(self) -> None:
        """It has no connection any more: no context is inside of it."""
        self.pool = self.task = None
        deliveries = _here.get()
        if deliveries and deliveries[-1] is self:  # elsewhere it is forgotten when another one is entered
            _here.set(deliveries[:-1])


_here: ContextVar[Deliveries] = ContextVar("smtpbackend_deliveries", default=())


def here() -> Deliveries:
    """The deliveries that this context is inside of, the innermost last."""
    return _here.get()


def is_here(delivery: Delivery, task: Any = None) -> bool:
    """Whether it runs in this context and this task: a generator may be continued where it was not begun."""
    return delivery.task is task and delivery in _here.get()


def enter(delivery: Delivery) -> Delivery:
    """This context is inside from now on."""
    deliveries = _here.get()
    if deliveries:
        deliveries = tuple([other for other in deliveries if other.pool is not None])
    _here.set((*deliveries, delivery))
    return delivery


def lender(pool: object, own: Delivery | None) -> Delivery | None:
    """The delivery on whose account this context may have one more connection of ``pool``, without waiting.

    However many tasks ask for one, they have one at a time. ``own`` is the stream over several connections that asks
    for one itself: it is not inside of itself, and its shares do not wait for each other.
    """
    for delivery in reversed(_here.get()):
        is_under_way = delivery.pool is pool and (delivery.task is None or not delivery.task.done())
        if is_under_way and delivery is not own and (own is not None or not delivery.lent):
            return delivery
    return None
