"""Servers behind a proxy: SOCKS5, SOCKS4, SOCKS4a and HTTP CONNECT, by both mailers, through a real one."""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from smtpbackend import Server
from smtpbackend.errors import AuthenticationFailed, ConnectFailed, InvalidSetting, TLSFailed
from smtpbackend.testing import Play
from tests.mailer.conftest import Names, Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.ports import free_ports
from tests.servers.proxy import Proxy
from tests.servers.tls import Certificates

SCHEMES = ("socks5", "socks5h", "socks4", "socks4a", "http")


@pytest.fixture
def proxied() -> Iterator[Callable[..., Proxy]]:
    """Start a proxy, which stops with the test."""
    with ExitStack() as proxies:
        yield lambda **options: proxies.enter_context(Proxy(**options))


@pytest.mark.parametrize("in_one_piece", [True, False], ids=["with greeting", "octet by octet"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_mail_passes(
    twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy], scheme: str, in_one_piece: bool
) -> None:
    """Also where the server's greeting comes in one piece with the proxy's answer."""
    server, proxy = scripted(), proxied(in_one_piece=in_one_piece)
    mailer = twin(server.url, proxy=f"{scheme}://{proxy.name}")
    for receipt in mailer.send_many([hello(), hello()]):
        assert receipt.accepted
    assert len(server.handed_over) == 2
    assert proxy.asked == [(scheme.removesuffix("h"), "127.0.0.1", server.port)] or scheme == "socks4a"
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
def test_the_proxy_looks_names_up(twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy], scheme: str) -> None:
    """No look-up of our own: nobody else knows this name."""
    server = scripted()
    proxy = proxied(names={"inside.invalid": "127.0.0.1", "xn--bcher-kva.invalid": "127.0.0.1"})
    for host, named in (("inside.invalid", "inside.invalid"), ("bücher.invalid", "xn--bcher-kva.invalid")):
        twin(host=host, port=server.port, tls="none", proxy=f"{scheme}://{proxy.name}").send(hello())
        assert proxy.asked[-1] == (scheme.removesuffix("h"), named, server.port)


@pytest.mark.parametrize("scheme", ["socks5", "socks4"])
def test_names_are_looked_up_here(twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy], scheme: str) -> None:
    server, proxy = scripted(), proxied()
    twin(host="localhost", port=server.port, tls="none", proxy=f"{scheme}://{proxy.name}").send(hello())
    assert proxy.asked == [(scheme, "127.0.0.1", server.port)]


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
def test_credentials(twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy], scheme: str) -> None:
    server, proxy = scripted(), proxied(users={"ann@b": "s3/:cret"})
    twin(server.url, proxy=f"{scheme}://ann%40b:s3%2F%3Acret@{proxy.name}").send(hello())
    assert len(server.handed_over) == 1


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_credentials_are_never_shown(
    twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy], scheme: str
) -> None:
    """The proxy for HTTP even says them back."""
    server, proxy = scripted(), proxied(users={"ann": "other"})
    mailer = twin(server.url, proxy=f"{scheme}://ann:s3cret@{proxy.name}")
    with pytest.raises(ConnectFailed, match="cannot connect to") as caught:
        mailer.send(hello())
    said = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    said += repr(mailer.raw) + repr(mailer.raw.configuration)
    assert "s3cret" not in said
    assert f"proxy {scheme}://{proxy.name}: " in str(caught.value)
    assert "proxy and its credentials" in str(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_refusal_says_who_refused(twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy], scheme: str) -> None:
    proxy = proxied(refuses=True)
    with pytest.raises(ConnectFailed, match=rf"cannot connect to .*proxy {scheme}://{proxy.name}: \w+"):
        twin(scripted().url, proxy=f"{scheme}://{proxy.name}").send(hello())


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_a_proxy_that_is_silent_costs_the_time_of_a_connection(
    twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy], scheme: str
) -> None:
    proxy = proxied(silent=True)
    with pytest.raises(ConnectFailed, match="no answer in time"):
        twin(scripted().url, proxy=f"{scheme}://{proxy.name}", timeout={"connect": 0.3}).send(hello())


def test_a_proxy_that_is_not_there(twin: Twin, scripted: Scripted) -> None:
    server = scripted()
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1: Connection refused"):
        twin(server.url, proxy="socks5://127.0.0.1:1").send(hello())
    assert server.connections == 0


@pytest.mark.parametrize("first", ["refuses", "is not there", "is silent"])
def test_the_next_address_of_a_proxy_is_tried(
    twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy], names: Names, unreachable: int, first: str
) -> None:
    """A proxy that is connected to and leads nowhere counts against its address too."""
    server, proxy = scripted(), proxied()
    ports = {"refuses": proxied(refuses=True).port, "is not there": free_ports(1)[0], "is silent": unreachable}
    names["proxy.example.com"] = [("127.0.0.1", ports[first]), ("127.0.0.1", proxy.port)]
    assert twin(server.url, proxy="socks5://proxy.example.com:1080").send(hello()).ok
    assert len(proxy.asked) == 1


def test_a_server_behind_a_proxy_is_never_near(twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy]) -> None:
    """However loopback both addresses look: no password in clear, and TLS is required by default (DESIGN 4.6, 4.7)."""
    server, proxy = scripted(Play(extensions=("AUTH PLAIN",))), proxied()
    way = f"socks5h://{proxy.name}"
    with pytest.raises(AuthenticationFailed, match="in clear"):
        twin(server.url, username="ann", password="secret", proxy=way).send(hello())
    assert not [command for command in server.commands if command.startswith("AUTH")]
    with pytest.raises(TLSFailed, match="offers no STARTTLS"):
        twin(host="localhost", port=server.port, proxy=way).send(hello())
    assert (Server().tls, Server(proxy=way).tls) == ("opportunistic", "required")


def test_tls_goes_to_the_server(
    twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy], ca: Certificates
) -> None:
    server, proxy = (
        scripted(Play(implicit_tls=True), certificate="server"),
        proxied(names={"other.invalid": "127.0.0.1"}),
    )
    mailer = twin(f"smtps://localhost:{server.port}", ca_file=str(ca.ca_file), proxy=f"http://{proxy.name}")
    mailer.send(hello())
    assert proxy.asked == [("http", "localhost", server.port)]
    with pytest.raises(TLSFailed, match="not trusted"):
        twin(f"smtps://other.invalid:{server.port}", ca_file=str(ca.ca_file), proxy=f"http://{proxy.name}").send(
            hello()
        )


def test_the_source_address_is_for_the_way_to_the_proxy(
    twin: Twin, scripted: Scripted, proxied: Callable[..., Proxy]
) -> None:
    proxy = proxied()
    twin(scripted().url, proxy=f"socks5://{proxy.name}", source_address="127.0.0.7").send(hello())
    assert proxy.peers == ["127.0.0.7"]


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("ann:s3cret@localhost:1080", "must be the URL of a proxy"),
        ("https://ann:s3cret@localhost:1080", "with one of socks5://"),
        ("socks5://ann:s3cret@", "must be the URL"),
        ("socks5://ann:s3cret@localhost:no", "must be the URL"),
        ("socks5://ann:s3cret@localhost/path", "must be the URL"),
        ("socks4a://ann:s3cret@localhost", "SOCKS4 knows none"),
        ("socks5://:s3cret@localhost", "no user name"),
        ("http://a%3Ann:s3cret@localhost", "http cannot carry"),
        ("http://ann:s3cret%0A@localhost", "http cannot carry"),
        ("http://ann:s3cret%E2%82%AC@localhost", "http cannot carry"),
        (f"socks5://{'a' * 256}:s3cret@localhost", "socks5 cannot carry"),
        (1080, "must be the URL"),
    ],
)
def test_what_is_no_proxy_is_said_without_its_password(proxy: Any, words: str) -> None:
    with pytest.raises(InvalidSetting, match=words) as caught:
        Server("mx.example.com", proxy=proxy)
    assert caught.value.field == "proxy"
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_unix_socket_has_no_proxy(twin: Twin) -> None:
    with pytest.raises(InvalidSetting, match="no proxy leads to"):
        twin("smtp+unix:///run/mail.sock", proxy="socks5://localhost")


def test_without_python_socks_the_pip_command_is_said() -> None:
    program = (
        "import sys; sys.modules['python_socks'] = None\n"
        "from smtpbackend import Mailer\n"
        "try: Mailer('smtp://mx.example.com', proxy='socks5://localhost')\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == 'MissingExtra proxy needs python-socks: pip install "smtpbackend[socks]"\n'
