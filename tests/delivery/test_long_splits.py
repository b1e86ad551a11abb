"""Servers that take one recipient at a time, in each way that there is: as many steps as there are recipients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend import Envelope, Receipt
from smtpbackend.outcome import Status
from smtpbackend.testing import Play
from tests.delivery.played import Played
from tests.growth import calls

CONTENT = b"Subject: Hello\r\n\r\nGood day\r\n"
FEW, MORE = 300, 600


class TakesOne:
    """Answers RCPT: the first of each transaction is taken, all others are too many."""

    def __init__(self) -> None:
        self.is_first = True

    def mail(self, line: str) -> str:
        self.is_first = True
        return "250 ok"

    def rcpt(self, line: str) -> str:
        was_first, self.is_first = self.is_first, False
        return "250 ok" if was_first else "452 4.5.3 too many recipients"


def too_many() -> dict[str, Any]:
    server = TakesOne()
    return {"MAIL": server.mail, "RCPT": server.rcpt}


SERVERS: dict[str, Callable[[], dict[str, Any]]] = {
    "says 452 to all but one": lambda: {"answers": too_many()},
    "says LIMITS RCPTMAX=1": lambda: {"extensions": ("PIPELINING", "LIMITS RCPTMAX=1")},
    "says LIMITS RCPTDOMAINMAX=1": lambda: {"extensions": ("PIPELINING", "LIMITS RCPTDOMAINMAX=1")},
    "refuses all of each split": lambda: {
        "answers": {"RCPT": "550 5.1.1 no"},
        "extensions": ("PIPELINING", "LIMITS RCPTMAX=1"),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_takes_one_at_a_time(server: str) -> None:
    def send(number: int) -> Receipt:
        world = Played({"a": [Play(**SERVERS[server]())]})
        world.max_messages = 10 * MORE
        world.handed_over = lambda *_: []  # type: ignore[assignment,method-assign]  # it counts all that went before
        addresses = [f"info@d{place}.example.com" for place in range(number)]
        [receipt] = world.send((CONTENT, Envelope("ann@example.org", addresses)))
        assert len({outcome.address for outcome in receipt.outcomes}) == number
        status = Status.REJECTED if server.startswith("refuses") else Status.ACCEPTED
        assert {outcome.status for outcome in receipt.outcomes} == {status}
        return receipt

    few, more = (calls(lambda number=number: send(number)) for number in (FEW, MORE))
    print(f"a server that {server}: {few} calls for {FEW} recipients, {more} for {MORE}")
    assert more < 2.4 * few  # the last hundred of a list take less
