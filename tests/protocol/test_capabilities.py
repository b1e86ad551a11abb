"""What is understood of an EHLO reply."""

from __future__ import annotations

import pytest

from smtpbackend.outcome import Reply
from smtpbackend.protocol.capabilities import Capabilities
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
