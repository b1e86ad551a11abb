"""A hundred thousand recipients, with servers that limit and refuse them: as many steps as there are recipients.

What is counted are calls of functions in the thread of the mailer. The server is a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend import Envelope, Outcome, Receipt
from smtpbackend.errors import RecipientsRefused
from tests.growth import calls
from tests.mailer.twins import Twin
from tests.servers.sink import Sink

pytestmark = pytest.mark.exhaustive  # nothing in it depends on the Python or the framework

CONTENT = b"From: ann@example.org\r\nSubject: Hello\r\n\r\nGood day\r\n"
FEW, MANY = 2_000, 100_000


def shared(number: int) -> str:
    """One local part and as many domains: whoever fills a list may well do so."""
    return f"info@d{number}.example.org" if number else "nobody@example.org"


def dotted(number: int) -> str:
    return f"{'x.' * 20}{number}@a.b.c.d{number % 100}.example.org"


SERVERS: dict[str, tuple[Callable[[int], str], tuple[str, ...], dict[str, Any], int]] = {
    "takes a thousand at once, and says so by 452": (dotted, (), {"most": 1_000}, 0),
    "takes a thousand of a hundred domains, and refuses one": (
        shared,
        ("LIMITS RCPTMAX=1000 RCPTDOMAINMAX=100",),
        {"refused": "<nobody@"},
        1,
    ),
}


@pytest.mark.parametrize("server", SERVERS)
def test_a_hundred_thousand_recipients(twin: Twin, server: str) -> None:
    address, extensions, options, refused = SERVERS[server]
    counted = {}
    with Sink("PIPELINING", "ENHANCEDSTATUSCODES", "SIZE 0", *extensions, **options) as sink:
        mailer = twin(sink.url)

        def send(number: int) -> Receipt:
            envelope = Envelope("ann@example.org", [address(place) for place in range(number)])
            return mailer.send(CONTENT, envelope)

        for number in (3, FEW, MANY):
            receipts: list[Receipt] = []
            counted[number] = calls(lambda number=number, receipts=receipts: receipts.append(send(number)))
    (receipt,) = receipts
    assert len(receipt.outcomes) == MANY
    assert len(receipt.rejected) == refused
    assert len(receipt.accepted) == MANY - refused
    assert len(receipt.unacceptable()) == refused
    assert len(repr(receipt)) < 10_000
    few, many = counted[FEW] / FEW, counted[MANY] / MANY
    print(f"{twin.name}, a server that {server}: {few:.1f} calls a recipient of {FEW:,}, {many:.1f} of {MANY:,}")
    # whom one transaction does not take is named once more; what grows with the square would be fifty times as much
    assert many < few * 1.5


def test_where_all_are_refused_the_error_names_a_few(twin: Twin) -> None:
    """And has them all, with what was said of each."""
    counted = {}
    with Sink("PIPELINING", "ENHANCEDSTATUSCODES", refused="@") as sink:
        mailer = twin(sink.url)

        def send(number: int) -> None:
            with pytest.raises(RecipientsRefused, match=r"and [0-9,]+ more") as raised:
                mailer.send(CONTENT, Envelope("ann@example.org", [shared(place) for place in range(number)]))
            assert len(str(raised.value)) < 4_096
            assert len(raised.value.recipients) == number
            assert raised.value.receipt is not None
            assert len(raised.value.receipt.rejected) == number

        for number in (100, FEW, 10 * FEW):
            counted[number] = calls(lambda number=number: send(number))
    assert counted[10 * FEW] / 10 < counted[FEW] * 1.1


def test_outcomes_are_in_the_order_of_the_envelope(twin: Twin) -> None:
    """However the list was split."""
    addresses = [dotted(number) for number in range(1_000)]
    with Sink("PIPELINING", "LIMITS RCPTMAX=30 RCPTDOMAINMAX=7") as sink:
        receipt = twin(sink.url).send(CONTENT, Envelope("ann@example.org", addresses))
    assert [str(outcome.address) for outcome in receipt.outcomes] == addresses
    assert all(isinstance(outcome, Outcome) and outcome.attempts == 1 for outcome in receipt.outcomes)
