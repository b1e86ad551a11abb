"""Waits, counted between two real programs. Those of scripted servers are in `tests/mailer/test_ahead.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from smtpbackend.testing import EXTENSIONS, Play
from tests.conftest import missing_server
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.postfix import Postfix
from tests.servers.smtp_sink import SmtpSink
from tests.servers.turns import Turns

THREE = ("ada@example.com", "bob@example.com", "carl@example.com")
HUNDRED = [hello(*THREE, subject=f"nr {number}") for number in range(100)]
EHLO = 1


@pytest.fixture(scope="module")
def smtp_sink() -> Iterator[SmtpSink]:
    if reason := SmtpSink.missing():
        missing_server(reason)
    with SmtpSink() as server:
        yield server


def turns_of_a_hundred(twin: Twin, port: int, quiet: float) -> int:
    """Turns behind EHLO for a hundred messages of three recipients over one connection."""
    with Turns(port, quiet) as relay:
        mailer = twin(relay.url)
        assert all(receipt.ok for receipt in mailer.send_many(HUNDRED))
        turns = relay.turns - EHLO
        mailer.close()
    return turns


def test_a_hundred_messages_to_postfix(twin: Twin, postfix: Postfix) -> None:
    """Probe and envelope, content and RSET, then a window at a time."""
    turns = turns_of_a_hundred(twin, postfix.plain_port, 0.15)
    print(f"{turns} turns")
    assert turns <= 12


def test_a_hundred_messages_to_smtp_sink(twin: Twin, smtp_sink: SmtpSink) -> None:
    """Without CHUNKING: the end of one content, and the group of the next message behind it."""
    turns = turns_of_a_hundred(twin, smtp_sink.port, 0.02)
    print(f"{turns} turns")
    assert turns <= 105


@pytest.mark.parametrize("extensions", [EXTENSIONS, (*EXTENSIONS, "CHUNKING")], ids=["DATA", "BDAT"])
def test_a_server_that_says_the_replies_of_a_group_one_by_one(
    twin: Twin, scripted: Scripted, extensions: tuple[str, ...]
) -> None:
    """Haraka: each leaves when the one before is acknowledged, and no more often do we wait for it."""
    waits = []
    for nagle in (False, True):
        server = scripted(Play(extensions=extensions, nagle=nagle), patience=0.05)
        mailer = twin(server.url)
        assert mailer.send(hello()).ok
        before = server.waits
        assert mailer.send(hello(*THREE)).ok
        waits.append(server.waits - before)
    assert waits == ([1, 1] if "CHUNKING" in extensions else [2, 2])
