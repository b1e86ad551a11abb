"""LMTP (RFC 2033): LHLO, and one reply to the content for each recipient that was accepted."""

from __future__ import annotations

import pytest

from smtpbackend.errors import ConnectionLost, HelloRefused, ProtocolViolation
from smtpbackend.protocol.session import Session
from tests.protocol.script import Script, deliver, ehlo_reply, opened, transaction

GREEN = b"250 2.1.0 ok\r\n"
GO = b"354 go on\r\n"
THREE = ("ann@example.com", "bob@example.com", "joe@example.com")


def lmtp(*extensions: str) -> Session:
    return opened(*extensions, lmtp=True)


def texts(replies: list[object] | None) -> list[str | None]:
    return [None if reply is None else str(reply)[:3] for reply in replies or []]


def test_lhlo_is_said_and_again_after_starttls() -> None:
    session = Session("mx.example.com:24", "client.example.org", lmtp=True)
    script = Script(b"220 hi\r\n", ehlo_reply("STARTTLS"), b"220 go on\r\n", ehlo_reply("PIPELINING"))
    script.run(session.open("required"))
    assert script.sent == [b"LHLO client.example.org\r\n", b"STARTTLS\r\n", b"LHLO client.example.org\r\n"]
    assert "PIPELINING" in session.capabilities


def test_a_server_that_speaks_smtp_is_not_asked_for_helo() -> None:
    session = Session("mx.example.com:24", "client.example.org", lmtp=True)
    script = Script(b"220 hi\r\n", b"500 5.5.1 unknown command\r\n")
    with pytest.raises(HelloRefused, match=r"refused LHLO with 500.*URL that begins with smtp"):
        script.run(session.open("none"))
    assert script.sent == [b"LHLO client.example.org\r\n"]


@pytest.mark.parametrize("pipelining", [True, False])
def test_each_accepted_recipient_has_a_reply(pipelining: bool) -> None:
    """RFC 2033 4.2: the replies come in the order of the RCPTs that were accepted."""
    session = lmtp("PIPELINING") if pipelining else lmtp()
    t = transaction(*THREE)
    answers = [GREEN, GREEN, b"550 no\r\n", GREEN, GO, b"250 a\r\n", b"452 joe is full\r\n"]
    script = deliver(session, [t], *answers)
    assert texts(t.finals) == ["250", None, "452"]
    assert (t.final, t.error, session.broken) == (None, None, False)
    assert not script.answers


def test_the_example_of_the_rfc() -> None:
    """RFC 2033 4.2, with the third recipient over quota."""
    t = transaction("pat@bar.com", "jones@bar.com", "green@bar.com", sender="chris@bar.com")
    answers = (
        b"250 OK\r\n250 OK\r\n550 No such user here\r\n250 OK\r\n354 Start mail input; end with <CRLF>.<CRLF>\r\n",
        b"250 OK\r\n452 <green@bar.com> is temporarily over quota\r\n",
    )
    deliver(lmtp("PIPELINING", "SIZE"), [t], *answers)
    assert texts(t.rcpt) == ["250", "550", "250"]
    assert texts(t.finals) == ["250", None, "452"]


@pytest.mark.parametrize("octet_by_octet", [True, False])
def test_in_a_window_the_next_transaction_is_answered_after_all_finals(octet_by_octet: bool) -> None:
    session = lmtp("PIPELINING")
    session.history.overlaps = True
    first, second = transaction(*THREE), transaction(*THREE[:2])
    said = GREEN * 4 + GO + b"250 1a\r\n550 1b\r\n250 1c\r\n" + GREEN * 4 + GO + b"450 2a\r\n250 2b\r\n"
    begin = GREEN * 4 + GO
    third = said.index(begin, 20)
    pieces = [said[: len(begin)], said[len(begin) : third + len(begin)], said[third + len(begin) :]]
    if octet_by_octet:
        pieces = [bytes([octet]) for octet in said]
    script = deliver(session, [first, second], *pieces, window=2)
    assert texts(first.finals) == ["250", "550", "250"]
    assert texts(second.finals) == ["450", "250"]
    assert script.settled == [first, second]


def test_what_the_first_finals_said_stays_when_the_connection_is_cut() -> None:
    session = lmtp("PIPELINING")
    t, behind = transaction(*THREE), transaction()
    deliver(session, [t, behind], GREEN * 4 + GO, b"250 a\r\n", b"", window=2)
    assert texts(t.finals) == ["250", None, None]
    assert t.handed_over
    assert isinstance(t.error, ConnectionLost)
    assert not behind.handed_over
    assert session.broken


def test_421_among_the_finals_is_the_reply_of_that_recipient() -> None:
    session = lmtp("PIPELINING")
    t = transaction(*THREE)
    deliver(session, [t], GREEN * 4 + GO, b"250 a\r\n421 4.3.2 going down\r\n")
    assert texts(t.finals) == ["250", "421", None]
    assert t.was_closed
    assert session.broken


def test_421_before_the_content_is_nobodys_reply() -> None:
    t = transaction(*THREE)
    deliver(lmtp(), [t], GREEN, b"421 going down\r\n")
    assert (t.finals, t.was_closed, t.handed_over) == (None, True, False)


def test_data_refused_is_for_everybody() -> None:
    t = transaction(*THREE)
    deliver(lmtp(), [t], GREEN * 1, GREEN, GREEN, GREEN, b"451 not now\r\n")
    assert t.finals is None
    assert [t.final_for(place) for place in range(3)] == [t.final] * 3


def test_data_for_nobody_is_refused_by_the_server() -> None:
    """RFC 2033 4.2: 503 where no RCPT was accepted."""
    session = lmtp("PIPELINING")
    t = transaction(*THREE)
    deliver(session, [t], GREEN + b"550 no\r\n" * 3 + b"503 5.5.1 no recipients\r\n")
    assert (t.final, t.error, session.broken) == (None, None, False)


def test_a_server_that_wants_content_for_nobody_is_left() -> None:
    """How many replies would follow the empty content?"""
    session = lmtp("PIPELINING")
    t = transaction(*THREE)
    deliver(session, [t], GREEN + b"550 no\r\n" * 3 + GO)
    assert isinstance(t.error, ProtocolViolation)
    assert session.broken
    assert not t.handed_over


def test_a_final_too_many_breaks_the_connection_before_the_next_transaction() -> None:
    session = lmtp()
    t, behind = transaction(), transaction()
    script = deliver(session, [t, behind], GREEN, GREEN, GO, b"250 a\r\n250 b\r\n")
    assert script.settled == [t]
    assert texts(t.finals) == ["250"]
    assert session.broken


def test_a_write_that_fails_in_mid_content_is_answered_for_everybody() -> None:
    session = lmtp()
    t = transaction(*THREE[:2], content=b"x: y\r\n\r\n" + b"0123456789\r\n" * 10000)
    script = deliver(
        session, [t], GREEN, GREEN, GREEN, GO, b"552 5.3.4 too big\r\n", fails={4: BrokenPipeError("gone")}
    )
    assert script.sent[3] == b"DATA\r\n"
    assert [str(t.final_for(place))[:3] for place in range(2)] == ["552", "552"]
    assert not t.handed_over
