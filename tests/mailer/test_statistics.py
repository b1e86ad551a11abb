"""`AsyncMailer.stats` counts what all event loops did, those that have ended too."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress

import pytest

from smtpbackend import AsyncMailer
from smtpbackend.delivery.statistics import Statistics
from smtpbackend.errors import SMTPError
from smtpbackend.testing import Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import hello


async def send(mailer: AsyncMailer, *to: str) -> None:
    with suppress(SMTPError):
        await mailer.send(hello(*to))


def test_one_loop_after_the_other(scripted: Scripted) -> None:
    down = scripted(Play({"": "421 not now"}))
    server = scripted(Play({"RCPT TO:<nobody@": "550 5.1.1 no such user"}))
    mailer = AsyncMailer(down.url, server.url, rest=0)
    for number in range(1, 4):
        asyncio.run(send(mailer, "bob@example.com", "nobody@example.com"))
        assert mailer.stats() == Statistics(sent=number, refused=number, failed_over=number)


def test_a_loop_that_was_closed_by_hand(scripted: Scripted) -> None:
    """Its connections are not open any more."""
    mailer = AsyncMailer(scripted().url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(send(mailer))
    assert mailer.stats() == Statistics(open=1, idle=1, sent=1)
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert mailer.stats() == Statistics(sent=1)


def test_loops_of_several_threads(scripted: Scripted) -> None:
    """Each thread drops what the others leave behind, once."""
    mailer = AsyncMailer(scripted().url)
    threads = [threading.Thread(target=lambda: [asyncio.run(send(mailer)) for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mailer.stats() == Statistics(sent=20)


def test_it_keeps_no_loop_that_has_ended(scripted: Scripted) -> None:
    mailer = AsyncMailer(scripted().url)
    for _ in range(3):
        asyncio.run(send(mailer))
    mailer.stats()
    assert not mailer._pools


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process forks here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_has_its_own_counts(scripted: Scripted) -> None:
    """Also where the loop of its parent has not ended."""
    mailer = AsyncMailer(scripted().url)
    asyncio.run(send(mailer))
    with asyncio.Runner() as runner:
        runner.run(send(mailer))
        child = os.fork()
        if child == 0:  # pragma: no cover - in the child
            os._exit(10 + mailer.stats().sent)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
    assert mailer.stats().sent == 2
