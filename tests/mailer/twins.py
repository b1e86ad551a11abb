"""One way to drive both mailers, so that each behaviour is tested once: the calls of `Mailer`, performed at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from smtpbackend import AsyncMailer, Envelope, Mailer, Message, Receipt, Reply
from smtpbackend.aio.mailer import pool_of
from smtpbackend.errors import SMTPError
from tests.servers.ports import wait_until

SENDER = "ann@example.org"
PATIENCE = 20.0  # seconds for what takes milliseconds; only a failing test waits so long


def hello(*to: str, **fields: Any) -> Message:
    """A small message; without ``to`` it is for bob@example.com."""
    return Message(
        **{"subject": "Hello", "from_": SENDER, "to": to or ("bob@example.com",), "text": "Good day\n", **fields}
    )


class Driven(Protocol):
    """A mailer of either kind. ``raw`` is the mailer itself."""

    raw: Any

    def send(self, message: Any, envelope: Envelope | None = None, **options: Any) -> Receipt: ...
    def stream(self, messages: Iterable[Any], **options: Any) -> Any: ...
    def deliver(self, items: Iterable[Any], **options: Any) -> Any: ...
    def send_at_once(self, messages: list[Any]) -> list[Receipt | BaseException]: ...
    def begin(self, messages: list[Any]) -> Begun: ...
    def ask(self, method: str, *args: Any) -> Any: ...
    def on_pool(self, method: str, *args: Any) -> Any: ...
    def pool(self) -> Any: ...

    def send_many(self, messages: Iterable[Any], **options: Any) -> list[Receipt]:
        return list(self.stream(messages, **options))

    def verify(self, address: str) -> Reply:
        return self.ask("verify", address)

    def connect(self) -> bool:
        return self.ask("connect")

    def check(self, send_to: str | None = None) -> Any:
        return self.ask("check", send_to)

    def close(self) -> None:
        self.ask("close")


def send_all(mailer: Driven, messages: list[Any], one_by_one: bool) -> list[Receipt]:
    """The receipts of a list, or of each in a send of its own, be it by an error."""
    if not one_by_one:
        return mailer.send_many(messages)
    receipts = []
    for message in messages:
        try:
            receipts.append(mailer.send(message))
        except SMTPError as error:
            receipts += [error.receipt] if error.receipt else []
    return receipts


class Begun(Protocol):
    """Sends that go on meanwhile. ``results`` has those that have ended, in that order."""

    results: list[Receipt | BaseException]

    def wait_until(self, condition: Callable[[], object]) -> bool:
        """Let them go on until it is so, or for a long time; whether it is so."""
        ...

    def wait(self) -> bool:
        """Let them go on until all have ended; whether they have."""
        ...


class _BegunThreads(Begun):
    def __init__(self, mailer: Mailer, messages: list[Any]) -> None:
        self.results = []
        self._threads = [threading.Thread(target=self._send, args=(mailer, message)) for message in messages]
        for thread in self._threads:
            thread.start()

    def _send(self, mailer: Mailer, message: Any) -> None:
        try:
            self.results.append(mailer.send(message))
        except BaseException as error:
            self.results.append(error)

    def wait_until(self, condition: Callable[[], object]) -> bool:
        return wait_until(lambda: bool(condition()), PATIENCE)

    def wait(self) -> bool:
        end = time.monotonic() + PATIENCE
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)


class _BegunTasks(Begun):
    def __init__(self, mailer: AsyncMailer, messages: list[Any], run: Callable[[Any], Any]) -> None:
        self.results = []
        self.run = run

        async def start() -> list[asyncio.Task[None]]:
            return [asyncio.create_task(self._send(mailer, message)) for message in messages]

        self._tasks = run(start())

    async def _send(self, mailer: AsyncMailer, message: Any) -> None:
        try:
            self.results.append(await mailer.send(message))
        except BaseException as error:
            self.results.append(error)

    def wait_until(self, condition: Callable[[], object]) -> bool:
        async def until() -> bool:
            end = time.monotonic() + PATIENCE
            while not condition():
                if time.monotonic() > end:
                    return False
                await asyncio.sleep(0.005)
            return True

        return self.run(until())

    def wait(self) -> bool:
        async def wait() -> bool:
            _, left = await asyncio.wait(self._tasks, timeout=PATIENCE)
            return not left

        return self.run(wait())


def _pair(item: Any) -> tuple[Any, Envelope | None]:
    """An item of a stream as the arguments of ``send``."""
    return item if isinstance(item, tuple) else (item, None)


class _Blocking(Driven):
    def __init__(self, mailer: Mailer) -> None:
        self.raw = mailer

    def send(self, message: Any, envelope: Envelope | None = None, **options: Any) -> Receipt:
        return self.raw.send(message, envelope, **options)

    def stream(self, messages: Iterable[Any], **options: Any) -> Any:
        return self.raw.send_many(messages, **options)

    def deliver(self, items: Iterable[Any], **options: Any) -> Any:
        return self.raw.deliver(items, **options)

    def send_at_once(self, messages: list[Any]) -> list[Receipt | BaseException]:
        results: list[Any] = [None] * len(messages)

        def send(place: int) -> None:
            try:
                results[place] = self.raw.send(*_pair(messages[place]))
            except BaseException as error:
                results[place] = error

        threads = [threading.Thread(target=send, args=(place,)) for place in range(len(messages))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return results

    def begin(self, messages: list[Any]) -> Begun:
        return _BegunThreads(self.raw, messages)

    def ask(self, method: str, *args: Any) -> Any:
        return getattr(self.raw, method)(*args)

    def on_pool(self, method: str, *args: Any) -> Any:
        return getattr(self.raw._pool, method)(*args)

    def pool(self) -> Any:
        return self.raw._pool


class _Stream:
    """An async generator as an iterator."""

    def __init__(self, run: Callable[[Any], Any], generator: Any) -> None:
        self.run = run
        self._generator = generator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self.run(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> Any:
        return await anext(self._generator)

    def close(self) -> None:
        self.run(self._generator.aclose())


class _Asyncio(Driven):
    def __init__(self, mailer: AsyncMailer, run: Callable[[Any], Any]) -> None:
        self.raw = mailer
        self.run = run

    def send(self, message: Any, envelope: Envelope | None = None, **options: Any) -> Receipt:
        return self.run(self.raw.send(message, envelope, **options))

    def stream(self, messages: Iterable[Any], **options: Any) -> Any:
        async def start() -> Any:
            return self.raw.send_many(messages, **options)

        return _Stream(self.run, self.run(start()))

    def deliver(self, items: Iterable[Any], **options: Any) -> Any:
        async def start() -> Any:
            return self.raw.deliver(items, **options)

        return _Stream(self.run, self.run(start()))

    def send_at_once(self, messages: list[Any]) -> list[Receipt | BaseException]:
        async def gather() -> Any:
            return await asyncio.gather(*(self.raw.send(*_pair(item)) for item in messages), return_exceptions=True)

        return self.run(gather())

    def begin(self, messages: list[Any]) -> Begun:
        return _BegunTasks(self.raw, messages, self.run)

    def ask(self, method: str, *args: Any) -> Any:
        return self.run(getattr(self.raw, method)(*args))

    def on_pool(self, method: str, *args: Any) -> Any:
        async def call() -> Any:
            return await getattr(pool_of(self.raw), method)(*args)

        return self.run(call())

    def pool(self) -> Any:
        async def pool() -> Any:
            return pool_of(self.raw)

        return self.run(pool())


class BlockingTwin:
    """Makes mailers for one test, and closes them."""

    name = "blocking"
    kind = Mailer

    def __init__(self) -> None:
        self._mailers: list[Driven] = []

    def __call__(self, *servers: Any, **settings: Any) -> Driven:
        """A mailer with its arguments."""
        self._mailers.append(driven := _Blocking(Mailer(*servers, **settings)))
        return driven

    def close(self) -> None:
        """Close the mailers."""
        for mailer in self._mailers:
            mailer.close()


class AsyncioTwin:
    """Makes async mailers for one test, and runs them in one loop."""

    name = "asyncio"
    kind = AsyncMailer

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._mailers: list[Driven] = []

    def __call__(self, *servers: Any, **settings: Any) -> Driven:
        """A mailer with its arguments."""
        self._mailers.append(driven := _Asyncio(AsyncMailer(*servers, **settings), self.runner.run))
        return driven

    def close(self) -> None:
        """Close the mailers, and the loop."""
        for mailer in self._mailers:
            mailer.close()
        self.runner.run(asyncio.sleep(0))  # transports close in the turn after
        self.runner.close()


Twin = BlockingTwin | AsyncioTwin
