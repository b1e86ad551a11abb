"""The ledger notices what must not be sent: each row is a dialogue that goes wrong in its last write."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fuzz.ledger import Illegal, Ledger

HELLO = b"EHLO client\r\n"
OFFER = b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-SIZE\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"
LOCK_STEP = b"250-mx\r\n250 CHUNKING\r\n"
MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.com>\r\n"
DATA = b"DATA\r\n"
RSET = b"RSET\r\n"
OK = b"250 ok\r\n"
NO = b"550 no\r\n"
GO = b"354 go\r\n"
TEXT = b"Subject: x\r\n\r\nhello\r\n"
LAST = b"BDAT %d LAST\r\n" % len(TEXT) + TEXT
SIZED = b"MAIL FROM:<ann@example.org> SIZE=%d\r\n" % len(TEXT)
PROBE = b"BDAT 1\r\nX" + RSET
# a message by DATA, with the probe in its flight and the proof of the window behind it; then chunks may fly
OUT_OF_ORDER = b"503 order\r\n"
LED = (HELLO, OFFER, PROBE + SIZED + BOB + DATA, OUT_OF_ORDER + OK * 3 + GO, TEXT + b".\r\n" + RSET, OK * 2)


def led(proof: bytes, *rest: bytes) -> tuple[bytes, ...]:
    """Behind these replies to the probe."""
    return (*LED[:3], proof + OK * 2 + GO, *LED[4:], *rest)


def play(dialogue: tuple[bytes, ...], **options: Any) -> None:
    """Writes and replies in turn, after the greeting."""
    ledger = Ledger(**options)
    ledger.said(b"220 mx\r\n")
    for number, octets in enumerate(dialogue):
        if number % 2:
            ledger.said(octets)
        else:
            ledger.heard(octets)


@pytest.mark.parametrize(
    "dialogue",
    [
        (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, TEXT + b".\r\n" + RSET),
        (HELLO, OFFER, MAIL + BOB + DATA, OK + NO + GO, b".\r\n"),
        (HELLO, OFFER, PROBE + SIZED + BOB, NO + OK * 3, LAST, OK, SIZED + BOB + LAST),
        (*LED, SIZED + BOB + LAST + (RSET + SIZED + BOB + LAST) * 8),
        (*LED, SIZED + BOB, OK + NO, RSET + SIZED + BOB + LAST, OK * 4, SIZED + BOB + LAST),
        (HELLO, OFFER, MAIL + BOB, OK * 2, DATA, GO, TEXT + b".\r\n", OK, MAIL + BOB),
        (HELLO, OFFER, MAIL + BOB + DATA, OK + NO * 2, RSET + MAIL + BOB),
        (HELLO, LOCK_STEP, MAIL, NO, MAIL, OK, BOB, OK, DATA, OK, TEXT + b".\r\n", OK, MAIL),
        (HELLO, OFFER, b"AUTH PLAIN\r\n", b"334 \r\n", b"AGEAYg==\r\n", b"235 ok\r\n", b"QUIT\r\n"),
    ],
)
def test_what_is_right_passes(dialogue: tuple[bytes, ...]) -> None:
    """Else it would prove nothing that ours does."""
    play(dialogue)


@pytest.mark.parametrize(
    ("why", "dialogue"),
    [
        ("a bare CR", (HELLO, OFFER, b"MAIL FROM:<a\rb@example.org>\r\n")),
        ("a bare CR or LF in a command", (HELLO, OFFER, b"MAIL FROM:<ann@example.org>\n")),
        ("ends amid a command", (HELLO, OFFER, MAIL + b"RCPT")),
        ("a line of", (HELLO, OFFER, b"MAIL FROM:<" + b"a" * 520 + b">\r\n")),
        ("a line of", (HELLO, OFFER, b"EHLO " + b"a" * 520 + b"\r\n")),
        ("8-bit", (HELLO, OFFER, "MAIL FROM:<é@example.org>\r\n".encode())),
        ("not offered", (HELLO, OFFER, b"MAIL FROM:<ann@example.org> BODY=8BITMIME\r\n")),
        ("no command", (HELLO, OFFER, b"MAILER\r\n")),
        ("behind EHLO", (HELLO + MAIL,)),
        ("behind DATA", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2, RSET)),
        ("which is not answered", (HELLO, OFFER, MAIL + BOB + DATA + TEXT)),
        ("behind QUIT", (HELLO, OFFER, b"QUIT\r\n", b"221 bye\r\n", RSET)),
        ("in a group", (HELLO, OFFER, MAIL + b"NOOP\r\n")),
        ("PIPELINING", (HELLO, LOCK_STEP, MAIL + BOB)),
        ("proven nothing", (HELLO, LOCK_STEP, MAIL, OK, BOB, OK, b"BDAT 3 LAST\r\na\r\n")),
        ("MAIL without RSET", (HELLO, OFFER, MAIL + BOB, OK * 2, MAIL)),
        ("MAIL without RSET", (HELLO, OFFER, MAIL + BOB + DATA, OK + NO * 2, MAIL)),
        ("MAIL without RSET", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, TEXT + b".\r\n", NO, MAIL)),
        ("MAIL without RSET", (HELLO, LOCK_STEP, MAIL, OK, BOB, NO, MAIL)),
        ("nothing to clear", (HELLO, LOCK_STEP, MAIL, NO, RSET)),
        ("messages are in flight", (*LED, SIZED + BOB + LAST + (RSET + SIZED + BOB + LAST) * 10)),
        ("outside of a transaction", (HELLO, OFFER, BOB)),
        ("too few", (HELLO, OFFER, MAIL + BOB, OK + NO, DATA)),
        ("content for nobody", (HELLO, OFFER, MAIL + BOB + DATA, OK + NO + GO, TEXT + b".\r\n")),
        ("too few", (*LED, SIZED + BOB, OK + NO, LAST)),
        ("not stuffed", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, b".hello\r\n.\r\n")),
        ("bare CR or LF in content", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, b"a\n.\nb\r\n.\r\n")),
        ("bare CR or LF in content", (*LED, b"MAIL FROM:<> SIZE=3\r\n" + BOB + b"BDAT 3 LAST\r\na\rb")),
        ("too long", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, b"x" * 999 + b"\r\n.\r\n")),
        ("8-bit content", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, b"\xe9\r\n.\r\n")),
        ("SIZE is not", (HELLO, OFFER, b"MAIL FROM:<> SIZE=9\r\n" + BOB + DATA, OK * 2 + GO, TEXT + b".\r\n")),
        ("proven nothing", (HELLO, OFFER, SIZED + BOB + LAST)),
        ("proven nothing", (HELLO, OFFER, SIZED + BOB, OK * 2, LAST)),
        ("proven nothing", led(NO * 2, SIZED + BOB + LAST)),
        ("proven nothing", led(OK * 2, SIZED + BOB + LAST)),
        ("proven nothing", led(OUT_OF_ORDER + b"252 well\r\n", SIZED + BOB + LAST)),
        *(
            ("proven nothing", led(b"%d what\r\n" % code + OK, SIZED + BOB, OK * 2, LAST))
            for code in (500, 502, 504, 451, 420, 354)
        ),
        ("one of several", (*LED, SIZED + BOB + b"BDAT 9\r\n" + TEXT[:9])),
        ("octets, or one of", (*LED, b"MAIL FROM:<> SIZE=262145\r\n" + BOB + b"BDAT 262145 LAST\r\n" + TEXT)),
        ("undeclared size", (*LED, MAIL + BOB + LAST)),
        ("undeclared size", (*LED, b"MAIL FROM:<> SIZE=9\r\n" + BOB + LAST)),
        ("a probe with", (HELLO, OFFER, b"BDAT 1\r\nX" + MAIL)),
        ("a probe", (*LED, PROBE)),
        ("a probe", (HELLO, LOCK_STEP, b"BDAT 1\r\nX" + RSET)),
        ("a probe", (HELLO, OFFER, MAIL + PROBE)),
        ("a probe", (HELLO, OFFER, MAIL + BOB, OK + NO, PROBE)),
        ("proven nothing", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, TEXT + b".\r\n" + RSET + MAIL)),
        (
            "proven nothing",
            (*LED[:5], OK + NO, SIZED + BOB, OK * 2, LAST + RSET),
        ),
        ("unanswered", (HELLO, OFFER, MAIL + b"".join(b"RCPT TO:<r%d@x.org>\r\n" % n for n in range(256)))),
        ("spoke unasked", (HELLO, OFFER + OK, MAIL)),
        ("does not speak SMTP", (HELLO, b"hello\r\n", MAIL)),
        ("said goodbye", (HELLO, b"421 bye\r\n", b"QUIT\r\n")),
        ("at its end", (HELLO, b"", MAIL)),
        ("in clear", (HELLO, OFFER, b"STARTTLS\r\n", b"220 go\r\n", MAIL)),
        ("a secret in clear", (HELLO, OFFER, b"AUTH PLAIN AGEAYg==\r\n")),
        ("not base64", (HELLO, OFFER, b"AUTH PLAIN AGEA*g==\r\n")),
        ("is not offered", (HELLO, OFFER, b"AUTH LOGIN\r\n")),
    ],
)
def test_what_is_wrong_does_not(why: str, dialogue: tuple[bytes, ...]) -> None:
    """It says why."""
    play(dialogue[:-1])
    with pytest.raises(Illegal, match=why):
        play(dialogue, in_clear=why != "a secret in clear")


def test_under_all_nothing_is_in_flight() -> None:
    """DESIGN 4.2: neither DATA nor content before everybody is accepted."""
    by_data = (HELLO, OFFER, MAIL + BOB + DATA)
    in_flight = (HELLO, OFFER, PROBE + SIZED + BOB, NO + OK * 3, LAST, OK, SIZED + BOB + LAST)
    for dialogue in (by_data, in_flight):
        play(dialogue)
        play(dialogue[:-1], policy="all")
        with pytest.raises(Illegal):
            play(dialogue, policy="all")


def test_a_probe_is_sent_only_from_its_message_on_and_to_who_may_be_asked() -> None:
    """DESIGN 5.1: not with a message that may be the only one; and never, where the settings say so."""
    first = (HELLO, OFFER, PROBE)
    second = (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, TEXT + b".\r\n", OK, PROBE + MAIL)
    play(first, probe_from=1)
    play(second, probe_from=2)
    for dialogue, probe_from in ((first, 2), (first, None), (second, None)):
        with pytest.raises(Illegal, match="not asked for"):
            play(dialogue, probe_from=probe_from)


def test_what_the_books_say_of_a_probe_and_of_an_end() -> None:
    """Whether it was the last that this server gets, and what was not read."""
    for proof, failed in ((OUT_OF_ORDER + OK, False), (NO * 2, True), (b"502 what\r\n" + OK, True)):
        now = [0.0]
        for seconds in (0.0, 5.0):
            ledger = Ledger(clock=lambda now=now: now[0])  # type: ignore[misc]
            ledger.said(b"220 mx\r\n")
            ledger.heard(HELLO)
            ledger.said(OFFER)
            ledger.heard(PROBE)
            now[0] += seconds
            ledger.said(proof)
            assert ledger.probe_failed is (failed or seconds > 1)
    for last_word, unread in ((OK, False), (NO, True), (b"421 bye\r\n", True)):
        ledger = Ledger()
        ledger.said(b"220 mx\r\n")
        ledger.heard(HELLO)
        ledger.said(OFFER)
        ledger.heard(PROBE + MAIL)
        ledger.said(OUT_OF_ORDER + last_word)
        ledger.said(b"")
        assert ledger.ended_by_word is unread
