"""Cancel what an AsyncMailer does at every point where it waits, and look at what that leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from types import FrameType
from typing import Any, Self

from smtpbackend import AsyncMailer
from smtpbackend.aio.mailer import pool_of
from smtpbackend.aio.wire import Wire
from smtpbackend.testing import ScriptedServer
from tests.mailer.leftovers import Leftovers, taken
from tests.mailer.twins import PATIENCE, hello


class When(enum.Enum):
    """Where in a suspension the cancellation comes."""

    WAITING = "waiting"  # before that which is waited for has come
    WOKEN = "woken"  # when it has come, and the task has not yet gone on
    INSISTING = "insisting"  # as WAITING, and again at every suspension after it: while it cleans up


class Stepped:
    """Awaits a coroutine, counts its suspensions, and cancels its task at the nth (from 1), as ``Task.cancel`` does.

    A conversation goes on without its task: each of its waits for the network counts as a suspension too.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int = 0, when: When = When.WAITING) -> None:
        self.reached = 0
        self.where = ""
        self._coroutine = coroutine
        self._at = at
        self._when = when

    @property
    def was_cancelled(self) -> bool:
        """Whether there were so many suspensions."""
        return 0 < self._at <= self.reached

    def __await__(self) -> Generator[Any, None, Any]:
        self._task: Any = asyncio.current_task()
        sys.setprofile(self._watch)
        try:
            return (yield from self._steps(self._task))
        finally:
            sys.setprofile(None)

    def _watch(self, frame: FrameType, event: str, value: Any) -> None:
        """Called at each call and return of a function, in this thread."""
        if frame.f_code is not Wire.go_on.__code__:
            return
        if self._when is When.WOKEN:
            counts = event == "call" and frame.f_back is not None and frame.f_back.f_code is Wire.wake.__code__
        else:
            counts = event == "return" and value is False
        if counts:
            self.reached += 1
            if self.reached == self._at:
                self.where = f"{type(frame.f_locals['self']._step).__name__} of the wire"
                self._task.cancel()

    def _steps(self, task: Any) -> Generator[Any, None, Any]:
        error: BaseException | None = None
        while True:
            try:
                waited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            self.reached += 1
            if self.reached == self._at:
                self.where = _where(self._coroutine)
            if self.reached == self._at or (self._when is When.INSISTING and self.was_cancelled):
                if self._when is When.WOKEN and waited is not None:
                    waited.add_done_callback(lambda _: task.cancel())  # before the task's own, which wakes it
                else:
                    task.cancel()
            try:
                yield waited
            except BaseException as thrown:
                error = thrown


def _where(awaitable: Any) -> str:
    """The functions of the package that a coroutine is suspended in, the innermost with its line."""
    found: list[str] = []
    line = 0
    while awaitable is not None:
        kind = next((kind for kind in ("cr", "ag", "gi") if hasattr(awaitable, f"{kind}_frame")), None)
        if kind is None:  # what `async for` awaits hides its generator
            awaitable = next((inner for inner in gc.get_referents(awaitable) if hasattr(inner, "ag_frame")), None)
            continue
        frame = getattr(awaitable, f"{kind}_frame")
        if frame is not None and "/smtpbackend/" in frame.f_code.co_filename:
            found.append(frame.f_code.co_qualname)
            line = frame.f_lineno
        awaitable = getattr(awaitable, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return f"{' > '.join(found[-3:])}, line {line}"


class LoopLeftovers(Leftovers):
    """What is left behind in a running loop: tasks and sockets that nobody waits for or closes."""

    def __enter__(self) -> Self:
        self._loop: Any = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.found.append(str(context)))
        return super().__enter__()

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        self._loop.set_exception_handler(None)

    async def check_loop(self, mailer: AsyncMailer, servers: Iterable[ScriptedServer], where: str) -> None:
        """Nothing but idle connections is left, and they are as many here, in the loop, and at the servers."""
        await eventually(lambda: not others(), f"{where}: tasks are left", lambda: list(map(repr, others())))
        for _ in range(3):
            await asyncio.sleep(0)  # a transport closes in the turn after
        pool = pool_of(mailer)
        idle = self.check(pool, servers, where)
        registered = len(self._loop._selector.get_map()) - 1  # one is the loop's own
        assert registered == idle, f"{where}: {registered} sockets in the loop, {idle} idle connections"


def others() -> set[asyncio.Task[Any]]:
    """The tasks of this loop but for the one that asks."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def eventually(
    condition: Callable[[], object], what: str = "", found: Callable[[], object] = lambda: None
) -> None:
    """Wait until it is so, in this loop."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: {found()}"
        await asyncio.sleep(0.001)


async def at_every_point(
    mailer: AsyncMailer,
    servers: Iterable[ScriptedServer],
    act: Callable[[str], Coroutine[Any, Any, Any]],
    when: When,
    *,
    before: Callable[[], Coroutine[Any, Any, Any]] | None = None,
    after: Callable[[], Coroutine[Any, Any, Any]] | None = None,
) -> list[str]:
    """Run ``act`` again and again, cancelled at its first suspension, its second, ..., until it has no more.

    ``act`` is called with the subject of what it sends. After each time nothing may be left, none of its mail may have
    been handed over twice, and the mailer sends the next message, over a connection that is at its beginning. Returns
    where it was cancelled.
    """
    servers = list(servers)
    points: list[str] = []
    with LoopLeftovers() as leftovers:
        while True:
            subject = f"<{len(points) + 1}>"
            if before is not None:
                await before()
            stepped = Stepped(act(subject), len(points) + 1, when)
            task = asyncio.ensure_future(_run(stepped))
            done, _ = await asyncio.wait([task], timeout=PATIENCE)
            where = f"{subject} {stepped.where}"
            assert done, f"{where}: it does not end"
            if stepped.was_cancelled:
                assert task.cancelled(), f"{where}: ended with {task.exception() or task.result()!r}"
            else:
                task.result()
            del task, done
            if after is not None:
                await after()
            await leftovers.check_loop(mailer, servers, where)
            await _send_next(mailer, servers, f"after {subject}")
            for name, count in taken(servers).items():
                assert count == 1, f"{where}: {count} servers have {name}, or one has it so often"
            await mailer.close()
            await leftovers.check_loop(mailer, servers, f"{where}, closed")
            if not stepped.was_cancelled:
                return points
            points.append(stepped.where)
            assert len(points) < 500, "it does not come to its end"


async def _run(awaitable: Any) -> Any:
    return await awaitable


async def _send_next(mailer: AsyncMailer, servers: list[ScriptedServer], subject: str) -> None:
    async with asyncio.timeout(PATIENCE):
        receipt = await mailer.send(hello(subject=subject))
    assert receipt.ok
    [server] = [server for server in servers if server.name == receipt.server]
    assert receipt.queue_id == f"{len(server.handed_over):05}ABC"  # the reply to this message, and to no other


@contextlib.asynccontextmanager
async def leaving_nothing(mailer: AsyncMailer, *servers: ScriptedServer) -> AsyncIterator[LoopLeftovers]:
    """At the end of the block only idle connections are left, and after a `close` not even these."""
    with LoopLeftovers() as leftovers:
        yield leftovers
        await leftovers.check_loop(mailer, servers, "at the end")
        await mailer.close()
        await leftovers.check_loop(mailer, servers, "closed")
