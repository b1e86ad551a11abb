"""Which addresses of a host are tried, in which order and when: overlapping, as RFC 8305 has it.

Decisions only: `reach` yields what the two ``dial.py`` perform. Each address has ``timeout["connect"]`` from when it is
tried, as every client gives it that much; and since the next one does not wait for the end of that, ``n`` silent ones
cost little more than one: ``connect`` and ``n - 1`` times `DELAY`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from smtpbackend.delivery.server import Server, shown, unreachable
from smtpbackend.protocol.timeouts import earliest, time_is_up

__all__ = ["Begin", "Use", "Wait", "forget", "reach"]

DELAY = 0.25  # seconds: the Connection Attempt Delay that RFC 8305 5 recommends
LASTING = 600.0  # seconds that an address is preferred for: RFC 6555 4.1 forgets what it learnt after ten minutes
MAX_HOSTS = 256  # whose good address is remembered: far more than a site has servers

Info = tuple[Any, ...]
"""What ``getaddrinfo`` says of an address: family, kind, protocol, canonical name, address."""


class Begin(NamedTuple):
    """Begin to connect to this address; answered with the error that this ended in at once, or None."""

    info: Info


class Wait(NamedTuple):
    """Wait until one of those that were begun is connected or has failed, at most until then.

    Answered with those: None, or the error, for each.
    """

    until: float


class Use(NamedTuple):
    """This one is connected: make it ready, and all is done. Where that fails, by ``until`` too, answer its error."""

    info: Info
    until: float


remembered: dict[tuple[str, int], tuple[Info, float]] = {}
"""For each next hop the address that was connected to, and until when it is tried first; shared by all threads."""


def reach(
    server: Server, found: Sequence[Info], clock: Callable[[], float], deadline: float | None
) -> Generator[Begin | Wait | Use, Any, None]:
    """Try the addresses until one is ready. ``deadline`` is in seconds of the clock. Raises `ConnectFailed`."""
    patience = server.timeout.connect
    next_at = over = clock()
    waiting = _in_order(server, found, next_at)
    causes: dict[Info, OSError] = {}  # of each that was begun: why it is of no use
    under_way: list[Info] = []
    while waiting or under_way:
        now = clock()
        is_late = deadline is not None and now >= deadline
        ended: dict[Info, OSError | None]
        if waiting and now >= next_at and not is_late:
            info = waiting.pop(0)
            if info not in causes:
                over = earliest(now + patience, deadline)
            next_at = now + min(DELAY, patience)  # who gives an address less than that goes on sooner
            under_way.append(info)
            error = yield Begin(info)
            causes[info] = error or TimeoutError("no answer in time")
            if isinstance(error, BlockingIOError) and now < over:  # a unix socket's backlog is full: ask it again
                under_way.remove(info)
                waiting.append(info)
                continue
            ended = {} if error is None else {info: error}
        else:
            ended = yield Wait(earliest(next_at, deadline) if waiting else over)
            if not ended and (is_late or (not waiting and clock() >= over)):
                break
        for info in [info for info in under_way if info in ended]:
            error = ended[info]
            if error is None:
                _remember(server, found, info, clock())
                error = yield Use(info, earliest(clock() + patience, deadline))
            under_way.remove(info)
            causes[info] = error
            next_at = clock()  # what failed is not waited for
    forget(server)
    causes.update((info, TimeoutError("not tried in time")) for info in waiting if info not in causes)
    reasons = [(shown(info[4]), error) for info, error in causes.items()]
    raise unreachable(server, reasons, time_is_up(clock(), deadline)) from reasons[-1][1]


def _in_order(server: Server, found: Sequence[Info], now: float) -> list[Info]:
    """As the system sorted them (RFC 6724), but families take turns (RFC 8305 4) and the one that worked is first."""
    first = [info for info in found if info[0] == found[0][0]]
    second = [info for info in found if info[0] != found[0][0]]
    pairs = chain.from_iterable(zip_longest(first, second))
    order = list(dict.fromkeys(info for info in pairs if info is not None))
    if len(order) > 1:
        good, until = remembered.get(server.next_hop, (None, 0.0))
        if good in order and now < until <= now + LASTING:
            order.remove(good)
            order.insert(0, good)
    return order


def _remember(server: Server, found: Sequence[Info], info: Info, now: float) -> None:
    """Have it tried first for a while. That is not prolonged, so that the system's own order is tried again."""
    if len(found) < 2:
        return
    good, until = remembered.get(server.next_hop, (None, 0.0))
    if good == info and now < until:
        return
    if len(remembered) >= MAX_HOSTS:
        remembered.clear()
    remembered[server.next_hop] = info, now + LASTING


def forget(server: Server) -> None:
    """Try no address of this server first: the one that worked does not any more, or what answers there is unwell."""
    if remembered:
        remembered.pop(server.next_hop, None)
