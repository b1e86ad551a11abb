"""Which addresses of a host are tried, in which order and when: overlapping, as in RFC 8305.

Decisions only: `reach` and `each` yield what the two ``dial.py`` perform. Each address has ``timeout["connect"]`` from
when it is tried. The next one does not wait that long, so ``n`` silent addresses take ``connect`` and ``n - 1`` times
`DELAY`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from smtpbackend.delivery.server import Server, shown, unreachable
from smtpbackend.protocol.timeouts import earliest, time_is_up

__all__ = ["Begin", "Info", "Use", "Wait", "each", "forget", "reach"]

DELAY = 0.25  # seconds: the Connection Attempt Delay that RFC 8305 5 recommends
LASTING = 600.0  # seconds that an address is preferred: ten minutes, RFC 6555 4.1
MAX_HOSTS = 256  # hosts with a good address that is remembered: far more than a site has servers

Info = tuple[Any, ...]
"""An address as ``getaddrinfo`` gives it: family, kind, protocol, canonical name, address."""


class Begin(NamedTuple):
    """Begin to connect to this address; answered with the error of an attempt that failed at once, or None."""

    info: Info


class Wait(NamedTuple):
    """Wait until an attempt has connected or failed, or until this time.

    Answered with the attempts that have ended, each with its error; None: it has connected.
    """

    until: float


class Use(NamedTuple):
    """Make this connected address ready, which ends the search; answered with the error where that fails."""

    info: Info
    until: float


remembered: dict[tuple[str, int], tuple[Info, float]] = {}
"""For each next hop the address that was connected to, and until when it is tried first; shared by all threads."""


def reach(
    server: Server, found: Sequence[Info], clock: Callable[[], float], deadline: float | None
) -> Generator[Begin | Wait | Use, Any, None]:
    """Try the addresses until one is ready. ``deadline`` is in seconds of the clock. Raises `ConnectFailed`."""
    patience, watch = server.timeout.connect, server.watch
    if watch is not None:
        watch("found", found)
    next_at = over = clock()
    waiting = _in_order(server, found, next_at)
    causes: dict[Info, OSError] = {}  # why it cannot be used, of each that was begun
    under_way: list[Info] = []
    while waiting or under_way:
        now = clock()
        is_late = deadline is not None and now >= deadline
        ended: dict[Info, OSError | None]
        if waiting and now >= next_at and not is_late:
            info = waiting.pop(0)
            if info not in causes:
                over = earliest(now + patience, deadline)
            next_at = now + min(DELAY, patience)
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
                if watch is not None:
                    watch("connected", info)
                error = yield Use(info, earliest(clock() + patience, deadline))
            under_way.remove(info)
            causes[info] = error
            if watch is not None:
                watch("tried", info, error)
            next_at = clock()  # a failure needs no delay
    forget(server)
    causes.update((info, TimeoutError("not tried in time")) for info in waiting if info not in causes)
    reasons = [(shown(info[4]), error) for info, error in causes.items()]
    raise unreachable(server, reasons, time_is_up(clock(), deadline)) from reasons[-1][1]


def each(
    infos: Sequence[Info], patience: float, clock: Callable[[], float]
) -> Generator[Begin | Wait, Any, dict[Info, OSError]]:
    """Connect to all of these at once. Returns those that do not connect, each with the reason."""
    over = clock() + patience
    causes: dict[Info, OSError] = {}
    under_way: list[Info] = []
    for info in infos:
        error = yield Begin(info)
        if error is None:
            under_way.append(info)
        else:
            causes[info] = error
    while under_way and clock() < over:
        ended: dict[Info, OSError | None] = yield Wait(over)
        for info, error in ended.items():
            under_way.remove(info)
            if error is not None:
                causes[info] = error
    causes.update((info, TimeoutError("no answer in time")) for info in under_way)
    return causes


def _in_order(server: Server, found: Sequence[Info], now: float) -> list[Info]:
    """The system's order (RFC 6724), with the families in turn (RFC 8305 4); the address that worked comes first."""
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
    """Have it tried first for a while. That time is not prolonged, so that the system's order is tried again."""
    if len(found) < 2:
        return
    good, until = remembered.get(server.next_hop, (None, 0.0))
    if good == info and now < until:
        return
    if len(remembered) >= MAX_HOSTS:
        remembered.clear()
    remembered[server.next_hop] = info, now + LASTING


def forget(server: Server) -> None:
    """Forget the good address of this server: it does not connect any more, or its server failed."""
    if remembered:
        remembered.pop(server.next_hop, None)
