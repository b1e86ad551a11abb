"""The address of a token endpoint: it gets the client's secret, so whoever reads it must read the same host."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpbackend.delivery.credentials import ClientCredentials
from smtpbackend.errors import InvalidSetting


def is_taken(url: str) -> bool:
    try:
        provider = ClientCredentials(url, "app", "secret")
    except InvalidSetting as error:
        return error.field != "token"
    assert provider.token_url == url
    return True


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example.com/token",
        "https://login.example.com",
        "https://login.example.com:8443/a/b@c?d=e&f",
        "https://login_1.xn--bcher-kva.example./token",
        "https://192.0.2.1/token",
        "https://[2001:db8::1]:8443/token",
        "http://localhost/token",
        "http://localhost:5000/token",
        "http://127.0.0.1:80/",
        "http://127.8.0.1/token",
        "http://[::1]:5000/token",
    ],
)
def test_these_are_taken(url: str) -> None:
    assert is_taken(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com/token",
        "http://192.0.2.1/token",
        "http://127.0.0.1:80@evil.example/token",
        "http://localhost:x@evil.example/token",
        "http://localhost@evil.example/",
        "https://user:password@login.example.com/token",
        "https://@login.example.com/token",
        "https://evil.example\\@login.example.com/token",
        "http://localhost\\.evil.example/",
        "http:\\\\localhost\\token",
        "https://login.example.com\\token",
        "https://login.example.com/to\\ken",
        "https://login.exa\nmple.com/token",
        "https://login.example.com/token\n",
        "\thttps://login.example.com/token",
        "https://login.example.com/to ken",
        "https://login.example.com/token#here",
        "https:login.example.com/token",
        "https:///login.example.com/token",
        "https:/login.example.com/token",
        "https://",
        "https://.example.com/",
        "https://a..example.com/",
        "https://bücher.example/token",
        "https://ｌogin.example.com/token",
        "http://localhost\N{FULLWIDTH COMMERCIAL AT}evil.example/",
        "http://localhost。evil.example/",
        "http://127.0.0.1\N{FULLWIDTH SOLIDUS}.evil.example/",
        "https://ex%61mple.com/token",
        "http://127.1/token",
        "http://127.0.0.999/token",
        "http://127.0.0.01/token",
        "http://2130706433/token",
        "http://0x7f.1/token",
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example/",
        "http://[::1].evil.example/",
        "http://[::1%25lo]/token",
        "https://[::g]/token",
        "https://login.example.com:/token",
        "https://login.example.com:port/token",
        "ftp://login.example.com/token",
        "file:///etc/passwd",
        "",
    ],
)
def test_these_are_refused(url: str) -> None:
    assert not is_taken(url)


def read_by_a_browser(url: str) -> tuple[str, str]:
    """Scheme and host as the URL standard of the WHATWG has them, in short (4.4, 3.5)."""
    url = re.sub(r"[\t\n\r]", "", url.strip("".join(map(chr, range(33)))))
    scheme, _, rest = url.partition(":")
    rest = rest.replace("\\", "/").lstrip("/")
    authority = re.split(r"[/?#]", rest)[0]
    host = unicodedata.normalize("NFKC", unquote(authority.rpartition("@")[2])).replace("。", ".")
    return scheme.lower(), re.sub(r":\d*$", "", host).strip("[]").lower()


PIECES = st.sampled_from(
    [
        *(
            "http",
            "https",
            "://",
            ":",
            "/",
            "\\",
            "@",
            "#",
            "?",
            ".",
            "%40",
            "80",
            "x",
            "\t",
            "\n",
            " ",
            "\x00",
            "\xad",
        ),
        *("localhost", "127.0.0.1", "[::1]", "evil.example", "＠", "／", "。", "ｌ", "℀"),
    ]
)


@given(st.lists(PIECES, max_size=9).map("".join), st.sampled_from(["http://localhost", "https://a.example", ""]))
@example("\\@evil.example/", "http://localhost")
def test_what_is_taken_is_read_the_same_by_a_browser_and_by_python(tail: str, head: str) -> None:
    url = head + tail
    if not is_taken(url):
        return
    parts = urlsplit(url)
    assert (parts.scheme, parts.hostname) == read_by_a_browser(url)
    if parts.scheme == "http":
        assert parts.hostname in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", parts.hostname or "")
