"""Access tokens: the providers, how long one is kept, what the setting means. The token endpoint is Authlib's."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from smtpbackend import Server
from smtpbackend.delivery.credentials import (
    ClientCredentials,
    Grant,
    Provider,
    RefreshToken,
    google,
    microsoft365,
    microsoft365_app,
    resolve,
    wants_fresh,
)
from smtpbackend.errors import AuthenticationFailed, InvalidSetting
from smtpbackend.outcome import Reply
from tests.servers.oauth2 import CLIENT_SECRET, REFRESH_TOKEN, TokenEndpoint


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    with TokenEndpoint() as running:
        yield running


def a_token() -> str:
    return "from-a-callable"


def client(endpoint: TokenEndpoint, **options: Any) -> ClientCredentials:
    return ClientCredentials(endpoint.url, "app", CLIENT_SECRET, "mail", **options)


def user(endpoint: TokenEndpoint, **options: Any) -> RefreshToken:
    return RefreshToken(endpoint.url, "app", CLIENT_SECRET, REFRESH_TOKEN, "mail", **options)


def test_each_grant_gives_a_token(endpoint: TokenEndpoint) -> None:
    for provider in (client(endpoint), user(endpoint), client(endpoint, auth_method="client_secret_basic")):
        grant = provider.fetch()
        assert grant.token in endpoint.valid
        assert grant.lifetime == endpoint.lifetime
        assert grant.token not in repr(grant)


def test_a_new_refresh_token_takes_the_place_of_the_old(endpoint: TokenEndpoint) -> None:
    told: list[str] = []
    endpoint.rotates = True
    provider = user(endpoint, on_rotation=told.append)
    provider.fetch()
    assert told == [endpoint.refresh_token]
    assert told != [REFRESH_TOKEN]
    assert provider.fetch().token in endpoint.valid


@pytest.mark.parametrize("grant", ["client", "user"])
def test_a_refusal_names_the_error_and_no_secret(endpoint: TokenEndpoint, grant: str) -> None:
    if grant == "client":
        provider: Provider = ClientCredentials(endpoint.url, "app", "wrong-secret")
    else:
        provider = RefreshToken(endpoint.url, "app", CLIENT_SECRET, "wrong-secret")
    with pytest.raises(AuthenticationFailed, match=f"invalid_{'client' if grant == 'client' else 'grant'}") as caught:
        provider.fetch()
    assert not caught.value.is_transient
    for secret in ("wrong-secret", CLIENT_SECRET):
        assert secret not in f"{caught.value!r}{caught.value.__dict__}{provider!r}{pickle.dumps(caught.value)!r}"
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_an_endpoint_that_cannot_be_reached_may_be_reached_later(endpoint: TokenEndpoint) -> None:
    endpoint.__exit__()
    with pytest.raises(AuthenticationFailed, match=r"gave no token \(ConnectionError\)") as caught:
        client(endpoint).fetch(1)
    assert caught.value.is_transient
    assert caught.value.__context__ is None


def test_a_token_is_kept_until_shortly_before_its_end() -> None:
    provider = Provider(margin=60)
    assert provider.current(0) is None
    assert provider.keep(Grant("one", 3600), now=1000) == "one"
    assert provider.current(1000) == provider.current(4539) == "one"
    assert provider.current(4540) is None
    assert provider.current(1000, refused="one") is None
    assert provider.current(1000, refused="older") == "one"
    provider.keep(Grant("two", 30), now=1000)
    assert provider.current(1014) == "two"
    assert provider.current(1015) is None
    provider.keep(Grant("three"), now=1000)
    assert provider.current(1000) is None


def test_the_presets_name_the_endpoints() -> None:
    assert google("app", "s", "r").token_url == "https://oauth2.googleapis.com/token"
    assert google("app", "s", "r").scope == "https://mail.google.com/"
    for provider in (microsoft365("example.com", "app", None, "r"), microsoft365_app("example.com", "app", "s")):
        assert provider.token_url == "https://login.microsoftonline.com/example.com/oauth2/v2.0/token"
    assert microsoft365_app("common", "app", "s").scope == "https://outlook.office365.com/.default"
    with pytest.raises(InvalidSetting, match="tenant"):
        microsoft365_app("../x", "app", "s")


def test_secrets_are_not_sent_in_clear() -> None:
    with pytest.raises(InvalidSetting, match="https://"):
        ClientCredentials("http://login.example.com/token", "app", "s")


@pytest.mark.parametrize("token", ["eyJhbGciOi.eyJzdWIi.SflKxwRJ", "ya29.a0AfB_by", "opaque", "a+b/c=="])
def test_a_token_is_a_token(token: str) -> None:
    assert resolve(token) == token


def test_a_dotted_path_is_what_it_names() -> None:
    provider = Provider()
    assert resolve("smtpbackend.delivery.credentials.Provider") is Provider
    assert resolve(a_token) is a_token
    assert resolve(provider) is provider
    with pytest.raises(InvalidSetting, match=r"something in 'smtpbackend', and what follows"):
        resolve("smtpbackend.nothing.token")


@pytest.mark.parametrize("value", ["", "two words", "line\r\n", "\x01", "ü", 5, b"bytes"])
def test_what_is_no_token_is_refused_and_not_repeated(value: Any) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Server("mx.example.com", username="ann", token=value)
    assert caught.value.field == "token"
    assert not value or repr(value) not in str(caught.value)


def test_a_server_with_a_token() -> None:
    server = Server("mx.example.com", username="ann", token="opaque")
    assert server.login is not None
    assert server.login.token == "opaque"
    assert "opaque" not in repr(server) + repr(server.login)
    assert (server.tls, server.port) == ("required", 587)
    with pytest.raises(InvalidSetting, match="username is not"):
        Server("mx.example.com", token="opaque")


def test_a_server_with_neither_name_nor_secret() -> None:
    login = Server("mx.example.com", auth_mechanisms=("EXTERNAL",)).login
    assert login is not None
    assert not login.username
    assert Server("mx.example.com", auth_mechanisms=("PLAIN",)).login is None


@pytest.mark.parametrize(
    ("code", "details", "wanted"),
    [
        (535, {}, True),
        (535, {"status": "invalid_token"}, True),
        (535, {"status": "401"}, True),
        (535, {"status": "insufficient_scope"}, False),
        (454, {"status": "invalid_token"}, False),
    ],
)
def test_when_a_fresh_token_may_help(code: int, details: dict[str, Any], wanted: bool) -> None:
    assert wants_fresh(AuthenticationFailed("no", reply=Reply(code, None, ("no",)), details=details)) is wanted
    assert not wants_fresh(AuthenticationFailed("nothing was said"))


def test_without_authlib_the_pip_command_is_told() -> None:
    program = """
import sys
sys.modules["authlib"] = None
from smtpbackend.delivery.credentials import google
from smtpbackend.errors import MissingExtra
try:
    google("app", "secret", "refresh").fetch()
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert 'pip install "smtpbackend[oauth2]"' in done.stdout
