"""Carries cases out: one body for both mailers, many cases in one process.

Blocking calls are wrapped in coroutines that never wait, so that the body is written once. Cases that wait for
time-outs run side by side: in threads for the blocking mailer, as tasks for the other.
"""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import sys
import threading
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import pytest

# what is loaded once in a process takes no memory of a delivery
import smtpbackend.aio.pool
import smtpbackend.blocking.pool
import smtpbackend.delivery.dispatch
import smtpbackend.signals  # noqa: F401
from smtpbackend import AsyncMailer, Mailer, Receipt, Status
from smtpbackend.errors import SMTPError
from tests.faults.invariants import broken_rules
from tests.faults.plan import MESSAGES, Case, envelope
from tests.faults.server import Ledger, Pair, Servers

__all__ = ["Report", "measure", "prepare", "run"]

Examination = Callable[[list[Receipt], Ledger, dict[str, int]], Iterable[str]]
SETTLED = 60.0  # seconds for the servers to see that the client has closed: a bound, nobody waits for it


class Report(NamedTuple):
    """What came of a number of cases: how many ended in what, and what is wrong, in words."""

    ends: Counter[str]
    wrong: list[str]


class _Awaited(Protocol):
    """A mailer of either kind, to be awaited."""

    def send(self, message: Any, envelope: Any) -> Awaitable[Receipt]: ...
    def send_many(self, messages: Iterable[Any]) -> AsyncIterator[Receipt]: ...
    def close(self) -> Awaitable[None]: ...


class _Blocking(_Awaited):
    def __init__(self, mailer: Mailer) -> None:
        self._mailer = mailer

    async def send(self, message: Any, envelope: Any) -> Receipt:
        return self._mailer.send(message, envelope)

    async def send_many(self, messages: Iterable[Any]) -> AsyncIterator[Receipt]:
        for receipt in self._mailer.send_many(messages):
            yield receipt

    async def close(self) -> None:
        self._mailer.close()

    @staticmethod
    async def rest() -> None:
        time.sleep(0.0002)


class _Asyncio(_Awaited):
    def __init__(self, mailer: AsyncMailer) -> None:
        self.send = mailer.send  # type: ignore[method-assign]
        self.send_many = mailer.send_many  # type: ignore[method-assign]
        self.close = mailer.close  # type: ignore[method-assign]

    @staticmethod
    async def rest() -> None:
        await asyncio.sleep(0.0002)


def settings(case: Case, ports: dict[str, int], timeout: float) -> dict[str, Any]:
    """What the mailer of a case is made of."""
    scheme = "smtps" if case.tls == "implicit" else "smtp"
    return {
        "servers": [f"{scheme}://127.0.0.1:{ports[name]}?tls={case.tls}" for name in ports][: 1 if case.alone else 2],
        "client_name": "c",
        "timeout": timeout,
        "chunk_in_flight": "probe",
        **({} if case.fault and case.fault.every else {"rest": 0}),
        **dict(case.settings),
    }


async def deliver(mailer: Any, case: Case, ledger: Ledger) -> list[Receipt]:
    """Three messages and one more. What is no `SMTPError` escapes."""
    receipts = []
    if case.way == "send":
        for number in range(MESSAGES):
            receipts.append(await _sent(mailer, number))
    else:
        messages = [(str(number).encode(), envelope(number)) for number in range(MESSAGES)]
        async for receipt in mailer.send_many(messages):
            receipts.append(receipt)
    if case.closing:
        await mailer.close()
    ledger.struck_before = ledger.struck
    receipts.append(await _sent(mailer, MESSAGES))
    return receipts


async def _sent(mailer: Any, number: int) -> Receipt:
    try:
        receipt: Receipt = await mailer.send(str(number).encode(), envelope(number))
    except SMTPError as error:
        return error.receipt or pytest.fail(f"{error!r} has no receipt")
    return receipt


async def carry_out(case: Case, pair: Pair, timeout: float, look: Examination) -> tuple[str, list[str]]:
    """One case: how it ended, and what is wrong."""
    ledger = pair.begin(case)
    kind: Any = Mailer if case.twin == "blocking" else AsyncMailer
    raw = kind(**settings(case, pair.ports, timeout))
    mailer: Any = (_Blocking if case.twin == "blocking" else _Asyncio)(raw)
    try:
        try:
            receipts = await deliver(mailer, case, ledger)
        finally:
            await mailer.close()
    except Exception as error:
        return "escaped", [f"{case}: {type(error).__name__} escaped: {error}"]
    end = time.monotonic() + SETTLED
    while ledger.open and time.monotonic() < end:
        await mailer.rest()
    wrong = [f"{case}: {rule}" for rule in look(receipts, ledger, pair.ports)]
    outcomes = [outcome for receipt in receipts for outcome in receipt.outcomes]
    if any(outcome.status is Status.IN_DOUBT for outcome in outcomes):
        return "in doubt", wrong
    moved = any(outcome.server == f"127.0.0.1:{pair.ports['second']}" for outcome in outcomes)
    return "moved on" if moved else "replayed or untouched", wrong


# Many of them ------------------------------------------------------------------------------------------------------

_servers: Servers | None = None
_pairs: list[Pair] = []
_stack = ExitStack()


def prepare(ca_file: str, server_file: str) -> None:
    """Make ready a process that is for such cases alone."""
    global _servers
    # the only authority there is: loading the system's takes longer than a whole case
    os.environ["SSL_CERT_FILE"] = ca_file
    os.environ["SSL_CERT_DIR"] = os.devnull
    warnings.simplefilter("error")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file)
    context.num_tickets = 1  # two would be twice the octets to cut after
    _servers = _stack.enter_context(Servers(context))


def run(
    cases: list[Case], timeout: float = 20.0, at_once: int = 1, look: Examination | None = None, memory: int = 0
) -> Report:
    """Carry out cases of one twin, ``at_once`` of them side by side.

    ``timeout`` is what the mailer gets, ``look`` finds what is wrong afterwards, and ``memory`` is how many octets more
    than at its start a case may hold at any time.
    """
    unraisable: list[str] = []
    before = sys.unraisablehook
    sys.unraisablehook = lambda what: unraisable.append(f"{what.err_msg or 'not raised'}: {what.exc_value!r}")
    try:
        if memory:
            tracemalloc.start()
        report = _run(cases, timeout, at_once, look or examine, memory)
        gc.collect()
    finally:
        tracemalloc.stop()
        sys.unraisablehook = before
    report.wrong.extend(unraisable)
    return report


def _run(cases: list[Case], timeout: float, at_once: int, look: Examination, memory: int) -> Report:
    assert _servers is not None
    while len(_pairs) < at_once:
        _pairs.append(Pair(_servers))
    report = Report(Counter(), [])
    waiting = iter(cases)

    async def work(place: int) -> None:
        if at_once > 1:  # not all in the same instant: each would wait for the others' turns
            await pause(0.01 * place)
        for case in waiting:
            if memory:
                tracemalloc.reset_peak()
                start, _ = tracemalloc.get_traced_memory()
            end, wrong = await carry_out(case, _pairs[place], timeout, look)
            report.ends[end] += 1
            report.wrong.extend(wrong)
            if memory and (peak := tracemalloc.get_traced_memory()[1] - start) > memory:
                report.wrong.append(f"{case}: it took {peak} octets of memory")

    if cases[0].twin == "asyncio":
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep

        async def everybody() -> None:
            assert _servers is not None
            loop = asyncio.get_running_loop()
            loop.add_reader(_servers.selector.fileno(), _servers.serve)  # type: ignore[attr-defined]
            await asyncio.gather(*(work(place) for place in range(at_once)))
            loop.remove_reader(_servers.selector.fileno())  # type: ignore[attr-defined]

        asyncio.run(everybody())
        return report

    async def pause(seconds: float) -> None:
        time.sleep(seconds)

    waiting = _Shared(waiting)
    threads = [threading.Thread(target=at_end, args=(work(place),)) for place in range(at_once)]
    _servers.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _servers.stop()
    return report


class _Shared:
    """An iterator for several threads."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __iter__(self) -> _Shared:
        return self

    def __next__(self) -> Any:
        with self._lock:
            return next(self._items)


def at_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


class Extent(NamedTuple):
    """How long the dialogue of a case is on its first connection, with QUIT at its end."""

    heard: int
    said: int
    raw_heard: int
    raw_said: int
    replies: int
    points: frozenset[str] = frozenset()


QUIT = Extent(len("QUIT\r\n"), len("221\r\n"), 0, 0, 1)


def measure(case: Case) -> Extent:
    """Carry a case out with nothing going wrong."""
    found: list[Extent] = []

    def look(receipts: list[Receipt], ledger: Ledger, ports: dict[str, int]) -> Iterable[str]:
        yield from broken_rules(receipts, ledger, ports)
        first = ledger.connections["first"][0]
        points = frozenset(first.points)
        found.append(Extent(first.heard, first.said, first.raw_heard, first.raw_said, first.replies, points))

    report = run([replace(case, fault=None, closing=True)], look=look)
    assert not report.wrong, report.wrong
    return found[0]


def examine(receipts: list[Receipt], ledger: Ledger, ports: dict[str, int]) -> Iterable[str]:
    """The rules that hold for every case."""
    if ledger.case.fault is not None and not ledger.struck:
        yield "the fault did not come to pass"
    yield from broken_rules(receipts, ledger, ports)
