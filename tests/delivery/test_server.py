"""`Server` and `from_url`: valid from birth, with the defaults that its fields imply."""

from __future__ import annotations

import copy
import errno
import pickle
from typing import Any

import pytest

from smtpbackend import Server
from smtpbackend.delivery.server import from_url, half_login, unreachable
from smtpbackend.errors import ConnectFailed, InvalidInput, InvalidSetting
from smtpbackend.protocol.sasl import Credentials
from smtpbackend.protocol.timeouts import Timeouts


@pytest.mark.parametrize(
    ("fields", "port", "tls"),
    [
        ({}, 25, "opportunistic"),
        ({"host": "127.0.0.1"}, 25, "opportunistic"),
        ({"host": "::1"}, 25, "opportunistic"),
        ({"host": "[::1]"}, 25, "opportunistic"),
        ({"host": "::ffff:127.0.0.1"}, 25, "opportunistic"),
        ({"host": "mx.example.com"}, 587, "required"),
        ({"host": "mx.example.com", "tls": "none"}, 25, "none"),
        ({"host": "mx.example.com", "tls": "opportunistic"}, 25, "opportunistic"),
        ({"host": "mx.example.com", "tls": "implicit"}, 465, "implicit"),
        ({"host": "mx.example.com", "port": 465}, 465, "implicit"),
        ({"host": "mx.example.com", "port": 25}, 25, "required"),
        ({"tls": "none", "username": "ann", "password": "secret"}, 587, "none"),
        ({"tls": "required"}, 587, "required"),
    ],
)
def test_port_and_tls_follow_from_the_rest(fields: dict[str, Any], port: int, tls: str) -> None:
    server = Server(**fields)
    assert (server.port, server.tls) == (port, tls)


def test_its_name_and_its_login() -> None:
    server = Server("mx.example.com", 2525, username="ann", password="secret")
    assert str(server) == server.name == "mx.example.com:2525"
    assert Server("::1", 25).name == "[::1]:25"
    assert server.login == Credentials("ann", "secret", host="mx.example.com", port=2525)
    assert Server("mx.example.com").login is None
    assert Server(username="", password="").login is None
    assert "secret" not in repr(server)
    assert "secret" not in repr(server.login)


def test_it_is_a_value() -> None:
    server = Server("mx.example.com", username="ann", password="secret", timeout=3, auth_mechanisms="plain")  # type: ignore[arg-type]
    assert server == copy.copy(server) == copy.deepcopy(server)
    nobody = Server("mx.example.com")
    assert nobody == pickle.loads(pickle.dumps(nobody))
    assert len({server, Server("mx.example.com")}) == 2
    assert server.timeout == Timeouts(3.0, 3.0, 3.0, 3.0, 3.0, 3.0)
    assert server.auth_mechanisms == ("PLAIN",)
    with pytest.raises(AttributeError):
        server.port = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"host": ""}, "host"),
        ({"host": " "}, "host"),
        ({"host": "mx example.com"}, "host"),
        ({"host": "mx/example"}, "host"),
        ({"host": "ann@mx.example.com"}, "host"),
        ({"host": "a\nb"}, "host"),
        ({"host": "mx.example.com:25"}, "host"),
        ({"host": "127.0.0.1:25"}, "host"),
        ({"username": "ann"}, "password"),
        ({"username": "a\0nn", "password": "x"}, "username"),
        ({"username": "ann", "password": "x\0"}, "password"),
        ({"username": "ann", "password": "\ud800"}, "password"),
        ({"client_key": "key.pem"}, "client_cert"),
        ({"client_name": "a b"}, "client_name"),
        ({"client_name": "a\r\nMAIL FROM:<>"}, "client_name"),
        ({"port": 0}, "port"),
    ],
)
def test_what_cannot_be_is_never_born(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Server(**fields)
    assert caught.value.field == field


class TestFromUrl:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("smtp://mx.example.com", Server("mx.example.com")),
            ("smtp://mx.example.com/", Server("mx.example.com")),
            ("smtp://", Server()),
            ("smtp://:2525", Server(port=2525)),
            ("smtp://mx.example.com:26", Server("mx.example.com", 26)),
            ("smtps://mx.example.com", Server("mx.example.com", 465, tls="implicit")),
            ("smtps://mx.example.com:587", Server("mx.example.com", 587, tls="implicit")),
            ("smtps://mx.example.com?tls=implicit", Server("mx.example.com", 465)),
            ("smtp://[::1]:25", Server("::1", 25)),
            ("SMTP://mx.example.com", Server("mx.example.com")),
            ("smtp://ann:secret@mx.example.com", Server("mx.example.com", username="ann", password="secret")),
            ("smtp://ann@mx.example.com?password=x", Server("mx.example.com", username="ann", password="x")),
            ("smtp://ann:@mx.example.com", Server("mx.example.com", username="ann", password="")),
            (
                "smtp://a%40b:p%2F%3A%3F%23%26%25%40@mx.example.com",
                Server("mx.example.com", username="a@b", password="p/:?#&%@"),
            ),
            ("smtp://b%C3%BCcher.example?tls=none", Server("bücher.example", tls="none")),
            (
                "smtp://mx.example.com?tls=none&timeout=5&auth_mechanisms=plain,login&allow_cleartext_auth=yes",
                Server(
                    "mx.example.com",
                    tls="none",
                    timeout=5,  # type: ignore[arg-type]
                    auth_mechanisms="plain,login",  # type: ignore[arg-type]
                    allow_cleartext_auth=True,
                ),
            ),
        ],
    )
    def test_a_url_is_a_server(self, url: str, expected: Server) -> None:
        assert from_url(url) == expected

    def test_defaults_fill_what_it_leaves_open(self) -> None:
        server = from_url("smtp://mx.example.com?tls=none", {"tls": "required", "username": "ann", "password": "x"})
        assert (server.tls, server.username, server.port) == ("none", "ann", 587)
        assert from_url("smtps://mx.example.com", {"tls": "none"}).tls == "implicit"

    @pytest.mark.parametrize(
        ("url", "field", "words"),
        [
            ("http://mx.example.com", "servers", "does not begin with one of smtp://, smtps://"),
            ("mx.example.com:25", "servers", "does not begin"),
            ("lmtp://mx.example.com", "port", "LMTP has no default port.*lmtp://mx.example.com:24"),
            ("lmtp://mx.example.com:25", "port", "not spoken on port 25"),
            ("smtp+unix://run/mail.sock", "servers", "three slashes"),
            ("smtp+srv://example.com:587", "servers", "a domain without a port"),
            ("smtp+srv://", "servers", "a domain without a port"),
            ("smtp+srv://example.com?tls=none", "tls", "have TLS always"),
            ("smtp+srv://example.com?proxy=socks5h://localhost", "proxy", "past the proxy"),
            ("smtp+unix://", "servers", "no path of a unix socket"),
            ("smtps+unix:///run/mail.sock", "servers", "does not begin"),
            ("smtp://mx.example.com?source_address=eth0", "source_address", "an IP address of this machine"),
            ("smtp://mx.example.com:smtp", "servers", "check its port"),
            ("smtp://mx.example.com:99999", "servers", "check its port"),
            ("smtp://[::1", "servers", "brackets"),
            ("smtp://mx.example.com?nonsense", "servers", "query"),
            ("smtp://mx.example.com/inbox", "servers", "percent-encode"),
            ("smtp://mx.example.com#x", "servers", "percent-encode"),
            ("smtp://mx.example.com?hsot=x", "hsot", "did you mean 'host'"),
            ("smtp://mx.example.com?rest=1", "rest", "unknown setting"),
            ("smtps://mx.example.com?tls=required", "servers", "smtps://, which means implicit TLS"),
            ("smtp://ann@mx.example.com", "password", "password is not"),
            ("smtp://:secret@mx.example.com", "username", "username is not"),
            ("smtp://mx.example.com?password=secret", "username", "username is not"),
            ("smtp://mx.example.com:0", "port", "from 1"),
            ("smtp://ann:a?b@mx.example.com", "servers", "percent-encode"),
            ("smtp://ann?b=c@mx.example.com", "servers", "ahead of '@'"),
            ("smtp://ann:a/b@mx.example.com", "servers", r"not encoded; percent-encode '/', .*\('/' is %2F\)"),
            ("smtp://ann:a#b@mx.example.com", "servers", r"not encoded; percent-encode .*'#'"),
            ("smtp://ann:a[b@mx.example.com", "servers", r"percent-encode .*'\[' and '\]'"),
            ("smtp://ann:a b@mx.example.com", "servers", "with a blank, which is written %20"),
        ],
    )
    def test_what_is_none_says_why(self, url: str, field: str, words: str) -> None:
        with pytest.raises(InvalidSetting, match=words) as caught:
            from_url(url)
        assert caught.value.field == field


def test_unreachable_names_every_address() -> None:
    causes = [
        ("192.0.2.1", ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")),
        ("192.0.2.2", TimeoutError()),
        ("192.0.2.3", OSError(errno.ENETUNREACH, "Connect call failed ('192.0.2.3', 25)")),
        ("", OSError("no words")),
        ("", OSError()),
    ]
    error = unreachable(Server("mx.example.com"), causes)
    assert isinstance(error, ConnectFailed)
    assert error.server == "mx.example.com:587"
    assert str(error) == (
        "cannot connect to mx.example.com:587 (192.0.2.1: Connection refused; 192.0.2.2: no answer in time; "
        "192.0.2.3: Network is unreachable; no words; OSError); check host and port, and that no firewall is in the way"
    )


@pytest.mark.parametrize(
    ("login", "lacking"),
    [
        ({}, None),
        ({"username": ""}, None),
        ({"username": "ann"}, "password"),
        ({"username": "ann", "password": "secret"}, None),
        ({"username": "ann", "password": ""}, None),  # a password may be empty
        ({"password": "secret"}, "username"),
        ({"username": "", "password": "secret"}, "username"),
        ({"token": "ya29"}, "username"),
        ({"username": "ann", "token": "ya29"}, None),
        ({"username": "ann", "auth_mechanisms": "external"}, None),
        ({"username": "ann", "auth_mechanisms": ["PLAIN", "EXTERNAL"]}, None),
        ({"username": "ann", "auth_mechanisms": ("PLAIN",)}, "password"),
        ({"auth_mechanisms": "EXTERNAL"}, None),
        ({"password": "secret", "auth_mechanisms": "EXTERNAL"}, "username"),
    ],
)
def test_half_a_login_is_told_by_one_rule(login: dict[str, Any], lacking: str | None) -> None:
    """The same for a Server and for adapters."""
    arguments = {"mechanisms" if name == "auth_mechanisms" else name: value for name, value in login.items()}
    assert half_login(**{"username": None, "password": None, **arguments}) == lacking
    if lacking is None:
        Server("mx.example.com", **login)
        return
    with pytest.raises(InvalidSetting, match=rf"is set for mx\.example\.com, {lacking} is not") as raised:
        Server("mx.example.com", **login)
    assert raised.value.field == lacking


def test_a_mechanism_that_is_not_known_is_no_login() -> None:
    with pytest.raises(InvalidSetting, match="auth_mechanisms has 'EXTRENAL'"):
        half_login("ann", None, None, "EXTRENAL")
