"""What the conversations have found, each as the shortest script that shows it."""

from __future__ import annotations

from smtpbackend.envelope import Envelope
from smtpbackend.errors import ProtocolViolation
from smtpbackend.protocol.transaction_steps import MAX_CHUNK
from smtpbackend.testing import Play
from tests.delivery.played import Played
from tests.protocol.script import CONTENT, LATER, Script, deliver, opened, proven, transaction

OK = b"250 2.0.0 ok\r\n"
LARGE = b"Subject: x\r\n\r\n" + b"line\r\n" * (MAX_CHUNK // 6)


def test_without_pipelining_there_is_no_chunk() -> None:
    """Chunks left four at a time, whatever was offered (RFC 2920 3.1, RFC 3030 2)."""
    one = transaction(content=LARGE)
    script = deliver(opened("CHUNKING", "SIZE"), [one], OK, OK, b"354 go\r\n", OK, probe_from=1)
    assert b"BDAT" not in b"".join(script.sent)
    assert one.is_accepted


def test_no_chunk_follows_another() -> None:
    """One more left behind a refusal that waited in the buffer behind other replies (RFC 3030 2)."""
    session, one = proven("PIPELINING", "CHUNKING", "SIZE"), transaction(content=LARGE)
    script = deliver(session, [one], OK * 2 + b"354 go\r\n", b"451 4.3.0 later\r\n")
    assert b"BDAT" not in b"".join(script.sent)
    assert one.final is not None
    assert one.final.code == 451
    assert not session.broken


def test_a_reply_too_many_is_not_taken_for_that_to_what_is_sent_after_it() -> None:
    """With replies still in the buffer the window was filled up, and the one too many went to the newcomer."""
    session, one, two, three = proven("PIPELINING", "CHUNKING", "SIZE"), *(transaction() for _ in range(3))
    script = Script(
        OK * 3 + OK * 4 + OK,
        OK,
        OK * 2,
        b"554 5.7.1 spam\r\n",
        transactions=[one, two, LATER, LATER, three, LATER, None],
    )
    script.run(session.deliver("any", 8))
    assert one.is_accepted
    assert not three.is_accepted
    assert isinstance(three.error, ProtocolViolation)
    assert not three.handed_over
    assert session.broken
    assert script.sent[0].count(CONTENT) == 2
    assert len(script.sent) == 1


def test_two_messages_in_flight_that_need_another_transaction_each() -> None:
    """The second took the place of the first, which got no receipt, nor did any behind it."""
    played = Played(
        {"one": [Play({"RSET": ["451 4.3.0 later", "250 2.0.0 ok"]}, ("PIPELINING", "LIMITS RCPTMAX=1"))]}, window=2
    )
    envelope = Envelope("ann@example.org", ["bob@example.com", "carl@example.com"])
    receipts = played.send((CONTENT, envelope), (CONTENT, envelope))
    assert [receipt.ok for receipt in receipts] == [True, True]
    assert played.handed_over("one") == [("bob",), ("bob",), ("carl",), ("carl",)]
