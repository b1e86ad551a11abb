"""How a reader leaves a list: the two fields that Gmail and Yahoo ask of those who send in bulk."""

from __future__ import annotations

import email
import re
from datetime import UTC, datetime
from email import policy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpbackend.errors import Injection, InvalidInput
from smtpbackend.message import Message
from smtpbackend.mime import render
from smtpbackend.unsubscribe import MAX_URI, uris
from tests.made_text import Made

DATE = datetime(2026, 1, 1, tzinfo=UTC)
HTTPS = "https://example.com/u/3f9a?list=news&who=ann%40example.org"
MAILTO = "mailto:leave@example.com?subject=unsubscribe%20news"


def fields(list_unsubscribe: Any, **more: Any) -> list[bytes]:
    """Both fields as they are written, unfolded."""
    message = Message("News", "news@example.com", "ann@example.org", list_unsubscribe=list_unsubscribe, **more)
    octets = b"".join(render(message, date=DATE, token="t").chunks())
    head = octets.partition(b"\r\n\r\n")[0].replace(b"\r\n ", b" ").split(b"\r\n")
    return [line for line in head if line.lower().startswith(b"list-unsubscribe")]


ONE_CLICK = b"List-Unsubscribe-Post: List-Unsubscribe=One-Click"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([HTTPS, MAILTO], [f"List-Unsubscribe: <{HTTPS}>, <{MAILTO}>".encode(), ONE_CLICK]),
        ((MAILTO, HTTPS), [f"List-Unsubscribe: <{MAILTO}>, <{HTTPS}>".encode(), ONE_CLICK]),
        (HTTPS, [f"List-Unsubscribe: <{HTTPS}>".encode(), ONE_CLICK]),
        ("HTTPS://example.com", [b"List-Unsubscribe: <HTTPS://example.com>", ONE_CLICK]),
        (Made(HTTPS), [f"List-Unsubscribe: <{HTTPS}>".encode(), ONE_CLICK]),
        (MAILTO, [f"List-Unsubscribe: <{MAILTO}>".encode()]),
        ("http://example.com/u", [b"List-Unsubscribe: <http://example.com/u>"]),
        ((), []),
    ],
)
def test_what_is_written(given: Any, wanted: list[bytes]) -> None:
    """In the order in which it is preferred (RFC 2369 2); a POST is offered over TLS alone (RFC 8058 3.1)."""
    assert fields(given) == wanted


@pytest.mark.parametrize(
    "given",
    [
        "",
        "leave@example.com",
        f"<{HTTPS}>",
        f"<{HTTPS}>, <{MAILTO}>",
        "//example.com/u",
        "https:///u",
        "https://exam ple.com/u",
        "https://example.com/ü",
        "https://bücher.example/u",
        "https://example.com/100%",
        "https://example.com/%zz",
        'https://example.com/"',
        "https://example.com/a\\b",
        "https://example.com:port/",
        "javascript:alert(1)",
        "ftp://example.com/u",
        "mailto:",
        "mailto:?subject=x",
        "mailto:nobody at example.com",
        "mailto:@example.com",
        "mailto:%20",
        "mailto:postmaster",
        "mailto:a@example.com#b?subject=x",
        "https://example.com/" + "x" * MAX_URI,
        [HTTPS, HTTPS + "2"],
        [HTTPS, None],
        [b"https://example.com/u"],
    ],
)
def test_what_is_no_way_to_leave(given: Any) -> None:
    """It is told when the message is made, and again where it was changed later."""
    with pytest.raises(InvalidInput) as raised:
        fields(given)
    assert raised.value.field == "list_unsubscribe"
    message = Message("News", "news@example.com", "ann@example.org")
    message.list_unsubscribe = given if isinstance(given, list) else [given]
    with pytest.raises(InvalidInput):
        render(message, date=DATE, token="t")


@pytest.mark.parametrize(
    "given",
    [
        "https://example.com/u\r\nBcc: eve@example.net",
        "https://example.com/u\n x",
        "https://example.com/\0",
        "mailto:leave@example.com\r\n",
        "mailto:leave@example.com%0D%0ABcc:eve@example.net",
        "mailto:leave@example.com?subject=x%0d%0aBcc:%20eve@example.net",
        "mailto:leave@example.com?x=1&subject=x%0a",
    ],
)
def test_nobody_adds_a_line(given: str) -> None:
    """Neither to this message nor to the one that the reader's program makes of it (RFC 6068 7)."""
    with pytest.raises(Injection):
        fields(given)


def test_the_body_of_a_mail_may_have_lines() -> None:
    """RFC 6068 5."""
    assert len(fields("mailto:leave@example.com?subject=x&body=one%0D%0Atwo")) == 1


@pytest.mark.parametrize("name", ["List-Unsubscribe", "list-unsubscribe-post"])
def test_a_field_stands_there_once(name: str) -> None:
    """RFC 2369 3."""
    with pytest.raises(InvalidInput, match="twice"):
        fields(HTTPS, headers={name: "x"})
    with pytest.raises(InvalidInput, match="twice"):
        fields((), headers=[(name, "x"), (name, "y")])
    assert len(fields((), headers={name: "x"})) == 1


PATH = r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]{0,200}(?:%[0-9A-F]{2}){0,20}){0,3}"
URI = st.from_regex(rf"https://[a-z]{{1,20}}\.example{PATH}", fullmatch=True)


@given(URI, st.booleans())
def test_it_is_read_as_it_was_given(uri: str, is_first: bool) -> None:
    """However long: it is folded between URIs alone, and no part of it becomes an encoded word."""
    given = [uri, MAILTO] if is_first else [MAILTO, uri]
    assert uris(given) == given
    message = Message("News", "news@example.com", "ann@example.org", list_unsubscribe=given)
    octets = b"".join(render(message, date=DATE, token="t").chunks())
    assert max(map(len, octets.split(b"\r\n"))) <= 998
    field = re.search(rb"^List-Unsubscribe: (.*?)\r\n(?! )", octets, re.MULTILINE | re.DOTALL)
    assert field is not None
    assert re.findall(rb"<([^<>\s]*)>(?:,\r\n|, |\Z)?", field[1]) == [one.encode() for one in given]
    assert re.sub(rb"<[^<>\s]*>", b"", field[1]) in (b",\r\n ", b", ")
    assert b"=?" not in field[1] or "=?" in uri
    read = email.message_from_bytes(octets, policy=policy.compat32)
    assert read["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
