"""What a transaction knows before anything is sent: what a server cannot be given, and what it does not offer."""

from __future__ import annotations

import pytest

from smtpbackend import mime
from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.errors import NotSupported
from smtpbackend.outcome import Reply
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.transaction import LONGEST_LINE, notes, objection, xtext
from tests.protocol.script import transaction

SERVER = "mx.example.com:25"
OK, NO = Reply(250), Reply(550)


def offered(*keywords: str) -> Capabilities:
    return Capabilities(dict(keyword.partition(" ")[::2] for keyword in keywords))


def objected(
    content: bytes, *keywords: str, sender: str = "ann@example.org", recipient: str = "bob@example.com"
) -> NotSupported | None:
    return objection(Envelope(sender, [recipient]), mime.given(content), offered(*keywords), SERVER)


class TestObjection:
    def test_plain_mail_needs_nothing(self) -> None:
        assert objected(b"Subject: x\r\n\r\nhello\r\n") is None

    @pytest.mark.parametrize(("sender", "recipient"), [("ånn@example.org", "b@example.com"), ("", "bjørn@example.com")])
    def test_an_address_outside_ascii_needs_smtputf8(self, sender: str, recipient: str) -> None:
        error = objected(b"x\r\n", sender=sender, recipient=recipient)
        assert error is not None
        assert SERVER in str(error)
        assert "SMTPUTF8" in str(error)
        assert error.server == SERVER
        assert not error.is_transient
        assert objected(b"x\r\n", "SMTPUTF8", sender=sender, recipient=recipient) is None

    def test_a_domain_outside_ascii_needs_nothing(self) -> None:
        assert objected(b"x\r\n", recipient="bob@münchen.example") is None

    def test_a_header_outside_ascii_needs_smtputf8(self) -> None:
        content = "Subject: Grüße\r\n\r\nhello\r\n".encode()
        assert "SMTPUTF8" in str(objected(content, "8BITMIME"))
        assert objected(content, "8BITMIME", "SMTPUTF8") is None

    def test_8_bit_content_needs_8bitmime(self) -> None:
        content = "Subject: x\r\n\r\nGrüße\r\n".encode()
        assert "8BITMIME" in str(objected(content))
        assert objected(content, "8BITMIME") is None

    def test_a_line_over_the_limit_goes_nowhere(self) -> None:
        head = b"Subject: x\r\n\r\n"
        assert objected(head + b"x" * LONGEST_LINE + b"\r\n") is None
        assert str(LONGEST_LINE + 1) in str(objected(head + b"x" * (LONGEST_LINE + 1) + b"\r\n"))

    @pytest.mark.parametrize(
        ("size", "fits"), [("SIZE 100", True), ("SIZE 99", False), ("SIZE 0", True), ("SIZE", True)]
    )
    def test_content_over_the_size_limit_is_not_sent(self, size: str, fits: bool) -> None:
        content = b"Subject: x\r\n\r\n" + b"x" * 84 + b"\r\n"
        assert len(content) == 100
        error = objected(content, size)
        assert (error is None) is fits
        if error is not None:
            assert "at most 99" in str(error)


class TestNotes:
    def test_what_was_asked_for_and_is_not_offered(self) -> None:
        envelope = Envelope("", [Recipient("b@example.com", notify=("NEVER",))], extra={"mt-priority": "3", "X": None})
        assert notes(envelope, offered("X")) == (
            "DSN was asked for and is not offered",
            "mt-priority was asked for and is not offered",
        )
        assert notes(envelope, offered("X", "DSN", "MT-PRIORITY")) == ()
        assert notes(Envelope("", ["b@example.com"]), offered()) == ()

    @pytest.mark.parametrize("asked", [{"dsn_return": "FULL"}, {"envid": "7"}])
    def test_status_notifications_that_are_not_offered(self, asked: dict[str, str]) -> None:
        assert len(notes(Envelope("", ["b@example.com"], **asked), offered())) == 1  # type: ignore[arg-type]


class TestAnswers:
    def test_nobody_has_answered(self) -> None:
        one = transaction("b@example.com", "c@example.com")
        assert not one.has_recipients
        assert not one.everybody_accepted

    @pytest.mark.parametrize(
        ("mail", "rcpt", "somebody", "everybody"),
        [
            (OK, [OK, OK], True, True),
            (OK, [OK, NO], True, False),
            (OK, [OK, None], True, False),
            (OK, [NO, NO], False, False),
            (NO, [OK, OK], False, False),
            (None, [OK, OK], False, False),
        ],
    )
    def test_who_was_accepted(
        self, mail: Reply | None, rcpt: list[Reply | None], somebody: bool, everybody: bool
    ) -> None:
        one = transaction("b@example.com", "c@example.com")
        one.mail, one.rcpt = mail, rcpt
        assert one.has_recipients is somebody
        assert one.everybody_accepted is everybody


def test_xtext() -> None:
    """RFC 3461 4."""
    assert xtext("a+b=c d~!") == "a+2Bb+3Dc+20d~!"
