"""Many who send at once through one mailer, threads or tasks, and what became of each message."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

from smtpbackend import AsyncMailer, Mailer, Message
from smtpbackend.errors import SMTPError

Said = dict[str, Any]
"""By subject: the receipt, or the error that ``send`` raised."""
Work = Sequence[Message | Sequence[Message]]
Works = Sequence[Work]

PATIENCE = 500.0  # seconds for all of it


def in_threads(mailer: Mailer, works: Works, said: Said) -> None:
    """Each work by a thread of its own: a message by ``send``, several by ``send_many``."""

    def work(items: Work) -> None:
        for item in items:
            if isinstance(item, Message):
                try:
                    said[item.subject] = mailer.send(item)
                except SMTPError as error:
                    said[item.subject] = error
            else:
                for message, receipt in zip(item, mailer.send_many(item), strict=True):
                    said[message.subject] = receipt

    _all_through(work, works)


def in_tasks(mailer: AsyncMailer, works: Works, said: Said) -> None:
    """The same by tasks of one event loop."""

    async def work(items: Work) -> None:
        for item in items:
            if isinstance(item, Message):
                try:
                    said[item.subject] = await mailer.send(item)
                except SMTPError as error:
                    said[item.subject] = error
            else:
                messages = iter(item)
                async for receipt in mailer.send_many(item):
                    said[next(messages).subject] = receipt

    async def run() -> None:
        async with asyncio.timeout(PATIENCE), mailer, asyncio.TaskGroup() as group:
            for items in works:
                group.create_task(work(items))
        await asyncio.sleep(0)  # transports close in the turn after

    asyncio.run(run())


def _all_through(work: Callable[[Any], None], works: Works) -> None:
    """Each work in a thread; raises what one of them raised."""
    errors: list[BaseException] = []

    def run(items: Any) -> None:
        try:
            work(items)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(items,), daemon=True) for items in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
