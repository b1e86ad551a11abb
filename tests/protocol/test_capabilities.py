"""What is understood of an EHLO reply."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from smtpbackend.outcome import Reply
from smtpbackend.protocol.capabilities import Capabilities, Limits
from smtpbackend.protocol.reply import ReplyReader


def offered(*lines: str, ignore: tuple[str, ...] = ()) -> Capabilities:
    """Of an EHLO reply with these lines behind the server's name."""
    return Capabilities.from_reply(Reply(250, None, ("mx.example.com", *lines)), ignore)


def test_keywords_are_in_upper_case_and_keep_their_parameters() -> None:
    found = offered("pipelining", "Size 1000", "DSN", "LIMITS RCPTMAX=10  MAILMAX=5 ")
    assert dict(found) == {"PIPELINING": "", "SIZE": "1000", "DSN": "", "LIMITS": "RCPTMAX=10  MAILMAX=5"}
    assert "SIZE" in found
    assert "MX.EXAMPLE.COM" not in found
    assert len(found) == 4
    assert repr(offered("DSN")) == "Capabilities({'DSN': ''})"


def test_the_first_line_is_the_server_whatever_it_says() -> None:
    assert not Capabilities.from_reply(Reply(250, None, ("PIPELINING",)))


def test_empty_lines_and_blanks_are_nothing() -> None:
    assert dict(offered("", "  ", " DSN ")) == {"DSN": ""}


def test_keywords_to_ignore_in_any_case() -> None:
    assert dict(offered("PIPELINING", "SIZE 5", ignore=("Pipelining", "NOPE"))) == {"SIZE": "5"}


@pytest.mark.parametrize("cut", [None, 1])
def test_off_the_wire(cut: int | None) -> None:
    octets = b"250-mx.example.com Hello\r\n250-PIPELINING\r\n250-AUTH LOGIN PLAIN\r\n250 SIZE 10\r\n"
    reader = ReplyReader()
    for start in range(0, len(octets), cut or len(octets)):
        reader.feed(octets[start : start + (cut or len(octets))])
        reply = reader.next()
    assert reply is not None
    assert dict(Capabilities.from_reply(reply)) == {"PIPELINING": "", "AUTH": "LOGIN PLAIN", "SIZE": "10"}


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        ("SIZE 1000", 1000),
        ("SIZE", None),
        ("SIZE 0", None),  # RFC 1870 4: no fixed limit
        ("SIZE x", None),
        ("SIZE -5", None),
        ("SIZE ٣", None),
        ("SIZE 10 20", 10),
        ("SIZE 99999999999999999999", 99999999999999999999),
        ("SIZE 999999999999999999999", None),
        ("DSN", None),
    ],
)
def test_the_size_limit(line: str, limit: int | None) -> None:
    assert offered(line).size_limit == limit


@pytest.mark.parametrize(
    ("lines", "mechanisms"),
    [
        (("AUTH PLAIN login",), ("PLAIN", "LOGIN")),
        (("AUTH=PLAIN LOGIN",), ("PLAIN", "LOGIN")),
        (("auth=plain",), ("PLAIN",)),
        (("AUTH PLAIN LOGIN", "AUTH=LOGIN PLAIN CRAM-MD5"), ("PLAIN", "LOGIN", "CRAM-MD5")),
        (("AUTH", "AUTH=LOGIN"), ("LOGIN",)),
        (("AUTH",), ()),
        (("XAUTH=PLAIN",), ()),
        ((), ()),
    ],
)
def test_the_mechanisms(lines: tuple[str, ...], mechanisms: tuple[str, ...]) -> None:
    assert offered(*lines).auth_mechanisms == mechanisms


@pytest.mark.parametrize(
    ("line", "limits"),
    [
        ("LIMITS RCPTMAX=100 MAILMAX=20 RCPTDOMAINMAX=1", Limits(100, 20, 1)),
        ("limits mailmax=5", Limits(mailmax=5)),
        ("LIMITS RCPTMAX=999999", Limits(999_999)),
        ("LIMITS RCPTMAX=1000000 MAILMAX=0 RCPTDOMAINMAX=-1", Limits()),
        ("LIMITS RCPTMAX= MAILMAX RCPTDOMAINMAX=x OTHER=1 COUNT=2", Limits()),
        ("LIMITS RCPTMAX=٣", Limits()),
        ("LIMITS", Limits()),
        ("SIZE 10", Limits()),
    ],
)
def test_limits(line: str, limits: Limits) -> None:
    """RFC 9422 4"""
    assert offered(line).limits == limits


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("FUTURERELEASE 3600 2026-12-31T12:00:00Z", (3600, datetime(2026, 12, 31, 12, tzinfo=UTC))),
        ("FUTURERELEASE 3600 2026-12-31T12:00:00", (3600, datetime(2026, 12, 31, 12, tzinfo=UTC))),
        ("FUTURERELEASE 3600", (3600, None)),
        ("FUTURERELEASE", (None, None)),
        ("FUTURERELEASE soon later", (None, None)),
        ("SIZE 10", (None, None)),
    ],
)
def test_how_long_a_message_may_be_held(line: str, expected: object) -> None:
    """RFC 4865 3"""
    assert offered(line).hold_limits == expected
