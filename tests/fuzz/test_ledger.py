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
PROBE = b"BDAT 1\r\nX" + RSET


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
        (HELLO, OFFER, PROBE + MAIL + BOB, NO + OK * 3, LAST, OK, RSET + MAIL + BOB + LAST),
        (HELLO, OFFER, MAIL + BOB, OK * 2, LAST + RSET, OK * 2, MAIL + BOB, OK * 2, LAST + RSET + MAIL + BOB),
        (HELLO, LOCK_STEP, MAIL, OK, BOB, OK, b"BDAT 3\r\na\r\n", OK, b"BDAT 3 LAST\r\nb\r\n"),
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
        ("PIPELINING", (HELLO, LOCK_STEP, MAIL, OK, BOB, OK, b"BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\n")),
        ("MAIL in a transaction", (HELLO, OFFER, MAIL + BOB, OK * 2, MAIL)),
        ("MAIL without RSET", (HELLO, OFFER, MAIL + BOB, OK * 2, LAST, OK, MAIL)),
        ("outside of a transaction", (HELLO, OFFER, BOB)),
        ("too few", (HELLO, OFFER, MAIL + BOB, OK + NO, DATA)),
        ("content for nobody", (HELLO, OFFER, MAIL + BOB + DATA, OK + NO + GO, TEXT + b".\r\n")),
        ("too few", (HELLO, OFFER, MAIL + BOB, OK + NO, LAST)),
        ("not stuffed", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, b".hello\r\n.\r\n")),
        ("bare CR or LF in content", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, b"a\n.\nb\r\n.\r\n")),
        ("bare CR or LF in content", (HELLO, OFFER, MAIL + BOB, OK * 2, b"BDAT 3 LAST\r\na\rb")),
        ("too long", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, b"x" * 999 + b"\r\n.\r\n")),
        ("8-bit content", (HELLO, OFFER, MAIL + BOB + DATA, OK * 2 + GO, b"\xe9\r\n.\r\n")),
        ("SIZE is not", (HELLO, OFFER, b"MAIL FROM:<> SIZE=9\r\n" + BOB + DATA, OK * 2 + GO, TEXT + b".\r\n")),
        ("proven nothing", (HELLO, OFFER, MAIL + BOB + LAST)),
        ("proven nothing", (HELLO, OFFER, PROBE + MAIL + BOB, NO * 2 + OK * 2, LAST, OK, RSET + MAIL + BOB + LAST)),
        ("proven nothing", (HELLO, OFFER, PROBE + MAIL + BOB, OK * 4, LAST, OK, RSET + MAIL + BOB + LAST)),
        ("a probe with", (HELLO, OFFER, b"BDAT 1\r\nX" + MAIL)),
        ("proven nothing", (HELLO, OFFER, MAIL + BOB, OK * 2, LAST + RSET + MAIL)),
        ("proven nothing", (HELLO, OFFER, MAIL + BOB, OK * 2, LAST + RSET, OK + NO, MAIL + BOB, OK * 2, LAST + RSET)),
        ("after a refused one", (HELLO, OFFER, MAIL + BOB, OK * 2, b"BDAT 3\r\na\r\n", NO, b"BDAT 3 LAST\r\na\r\n")),
        ("RSET amid chunks", (HELLO, OFFER, MAIL + BOB, OK * 2, b"BDAT 3\r\na\r\n" + RSET)),
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
    for dialogue in ((HELLO, OFFER, MAIL + BOB + DATA), (HELLO, OFFER, MAIL + BOB + LAST)):
        play(dialogue, in_flight="always") if dialogue[2].endswith(TEXT) else play(dialogue)
        with pytest.raises(Illegal):
            play(dialogue, policy="all", in_flight="always")
