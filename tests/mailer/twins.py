"""One way to drive both mailers, so that each behaviour is tested once: the calls of `Mailer`, performed at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from smtpbackend import AsyncMailer, Envelope, Mailer, Message, Receipt, Reply

SENDER = "ann@example.org"


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
    def send_at_once(self, messages: list[Any]) -> list[Receipt | BaseException]: ...
    def ask(self, method: str, *args: Any) -> Any: ...
    def on_pool(self, method: str, *args: Any) -> Any: ...

    def send_many(self, messages: Iterable[Any], **options: Any) -> list[Receipt]:
        return list(self.stream(messages, **options))

    def verify(self, address: str) -> Reply:
        return self.ask("verify", address)

    def connect(self) -> bool:
        return self.ask("connect")

    def check(self) -> Any:
        return self.ask("check")

    def close(self) -> None:
        self.ask("close")


class _Blocking(Driven):
    def __init__(self, mailer: Mailer) -> None:
        self.raw = mailer

    def send(self, message: Any, envelope: Envelope | None = None, **options: Any) -> Receipt:
        return self.raw.send(message, envelope, **options)

    def stream(self, messages: Iterable[Any], **options: Any) -> Any:
        return self.raw.send_many(messages, **options)

    def send_at_once(self, messages: list[Any]) -> list[Receipt | BaseException]:
        results: list[Any] = [None] * len(messages)

        def send(place: int) -> None:
            try:
                results[place] = self.raw.send(messages[place])
            except BaseException as error:
                results[place] = error

        threads = [threading.Thread(target=send, args=(place,)) for place in range(len(messages))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return results

    def ask(self, method: str, *args: Any) -> Any:
        return getattr(self.raw, method)(*args)

    def on_pool(self, method: str, *args: Any) -> Any:
        return getattr(self.raw._pool, method)(*args)


class _Stream:
    """An async generator as an iterator."""

    def __init__(self, run: Callable[[Any], Any], generator: Any) -> None:
        self._run = run
        self._generator = generator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return self._run(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> Any:
        return await anext(self._generator)

    def close(self) -> None:
        self._run(self._generator.aclose())


class _Asyncio(Driven):
    def __init__(self, mailer: AsyncMailer, run: Callable[[Any], Any]) -> None:
        self.raw = mailer
        self._run = run

    def send(self, message: Any, envelope: Envelope | None = None, **options: Any) -> Receipt:
        return self._run(self.raw.send(message, envelope, **options))

    def stream(self, messages: Iterable[Any], **options: Any) -> Any:
        async def start() -> Any:
            return self.raw.send_many(messages, **options)

        return _Stream(self._run, self._run(start()))

    def send_at_once(self, messages: list[Any]) -> list[Receipt | BaseException]:
        async def gather() -> Any:
            return await asyncio.gather(*(self.raw.send(message) for message in messages), return_exceptions=True)

        return self._run(gather())

    def ask(self, method: str, *args: Any) -> Any:
        return self._run(getattr(self.raw, method)(*args))

    def on_pool(self, method: str, *args: Any) -> Any:
        async def call() -> Any:
            return await getattr(self.raw._pool(), method)(*args)

        return self._run(call())


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
