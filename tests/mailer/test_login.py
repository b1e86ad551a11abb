"""Logging in by both mailers: tokens that are fetched, kept and renewed, and passwords at real servers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from smtpbackend import Server
from smtpbackend.delivery.credentials import ClientCredentials
from smtpbackend.errors import AuthenticationFailed, InvalidSetting
from smtpbackend.testing import Play, ScriptedServer
from tests.mailer.conftest import Scripted
from tests.mailer.test_secrets import everything_about
from tests.mailer.twins import AsyncioTwin, Twin, hello
from tests.servers.oauth2 import CLIENT_SECRET, TokenEndpoint
from tests.servers.postfix import Postfix
from tests.servers.tls import Certificates

WRONG = "a-secret-that-is-wrong"


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    with TokenEndpoint() as running:
        yield running


def provider(endpoint: TokenEndpoint, secret: str = CLIENT_SECRET) -> ClientCredentials:
    return ClientCredentials(endpoint.url, "app", secret, "mail")


def token_of(command: str) -> str:
    """The token in an AUTH command."""
    return base64.b64decode(command.split(" ")[2]).decode().partition("Bearer ")[2].rstrip("\x01")


def play(valid: list[str], mechanism: str = "XOAUTH2") -> Play:
    """A server that takes the tokens in ``valid``."""

    def judge(command: str) -> str:
        if not command.startswith("AUTH"):
            return "250 never asked"
        if token_of(command) in valid:
            return "235 2.7.0 welcome"
        return "535 5.7.8 the token expired"

    return Play({"AUTH": judge}, (f"AUTH {mechanism}", "PIPELINING"))


def at(server: ScriptedServer, token: Any, **settings: Any) -> Server:
    return Server(server.host, server.port, tls="none", username="ann", token=token, **settings)


def tokens(server: ScriptedServer) -> list[str]:
    """Those that the server was shown."""
    return [token_of(command) for command in server.commands if command.startswith("AUTH")]


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_a_token_is_fetched_once_and_kept(
    twin: Twin, scripted: Scripted, endpoint: TokenEndpoint, mechanism: str
) -> None:
    server = scripted(play(endpoint.valid, mechanism))
    mailer = twin(at(server, provider(endpoint)), max_messages=1)
    assert all(receipt.ok for receipt in mailer.send_many([hello(), hello(), hello()]))
    assert len(tokens(server)) == 3
    assert set(tokens(server)) == set(endpoint.valid)
    assert endpoint.requests == 1


def test_many_at_once_fetch_it_once(twin: Twin, scripted: Scripted, endpoint: TokenEndpoint) -> None:
    server = scripted(play(endpoint.valid))
    mailer = twin(at(server, provider(endpoint)), max_connections=8)
    receipts = mailer.send_at_once([hello() for _ in range(8)])
    assert all(getattr(receipt, "ok", False) for receipt in receipts), receipts
    assert endpoint.requests == 1


def test_one_fresh_token_when_the_server_says_that_it_expired(
    twin: Twin, scripted: Scripted, endpoint: TokenEndpoint
) -> None:
    server = scripted(play(endpoint.valid))
    source = provider(endpoint)
    source.keep(source.fetch(), 1e12)  # valid for long, as far as we know
    old = endpoint.valid.pop()
    mailer = twin(at(server, source))
    assert mailer.send(hello()).ok
    assert tokens(server) == [old, *endpoint.valid]
    assert endpoint.requests == 2


def test_it_is_tried_once(twin: Twin, scripted: Scripted, endpoint: TokenEndpoint) -> None:
    server = scripted(play([]))
    with pytest.raises(AuthenticationFailed, match="the token expired"):
        twin(at(server, provider(endpoint))).send(hello())
    assert len(tokens(server)) == endpoint.requests == 2


def test_a_callable_that_has_no_other_token_is_not_tried_again(twin: Twin, scripted: Scripted) -> None:
    server = scripted(play([]))
    with pytest.raises(AuthenticationFailed, match="check username and token"):
        twin(at(server, lambda: "stale")).send(hello())
    assert tokens(server) == ["stale"]


def test_a_callable_is_asked_for_each_login(twin: Twin, scripted: Scripted) -> None:
    given = iter(["one", "two", "three"])
    server = scripted(play(["one", "three"]))
    mailer = twin(at(server, lambda: next(given)), max_messages=1)
    assert all(receipt.ok for receipt in mailer.send_many([hello(), hello()]))
    assert tokens(server) == ["one", "two", "three"]


def test_a_token_alone_is_not_renewed(twin: Twin, scripted: Scripted) -> None:
    server = scripted(play(["good"]))
    assert twin(at(server, "good")).send(hello()).ok
    with pytest.raises(AuthenticationFailed):
        twin(at(server, "bad")).send(hello())
    assert tokens(server) == ["good", "bad"]


def test_an_async_callable_is_for_the_async_mailer(twin: Twin, scripted: Scripted) -> None:
    async def source() -> str:
        return "good"

    server = scripted(play(["good"]))
    mailer = twin(at(server, source))
    if isinstance(twin, AsyncioTwin):
        assert mailer.send(hello()).ok
    else:
        with pytest.raises(Exception, match="only an AsyncMailer can await it") as caught:
            mailer.send(hello())
        assert isinstance(caught.value, InvalidSetting)


def test_a_callable_that_raises_is_a_failed_login(twin: Twin, scripted: Scripted) -> None:
    def source() -> str:
        raise LookupError("no such vault")

    server = scripted(play([]))
    spare = scripted()
    told: list[Any] = []
    mailer = twin(at(server, source), spare.url, listeners=[told.append])
    assert mailer.send(hello()).server == spare.name
    [failure] = [event for event in told if event.name == "server_failed"]
    assert failure.phase == "auth"
    assert isinstance(failure.error, AuthenticationFailed)
    assert "LookupError" in str(failure.error)
    assert server.commands == []


def test_a_refused_grant_is_a_failed_login_without_secrets(
    twin: Twin, scripted: Scripted, endpoint: TokenEndpoint
) -> None:
    server = scripted(play([]))
    with pytest.raises(AuthenticationFailed, match="invalid_client") as caught:
        twin(at(server, provider(endpoint, WRONG))).send(hello())
    assert caught.value.server == server.name
    assert not [text for text in everything_about(caught.value) if WRONG in text]


def test_the_json_of_the_refusal_is_in_the_error(twin: Twin, scripted: Scripted) -> None:
    said = json.dumps({"status": "insufficient_scope", "scope": "mail.send"})
    challenge = "334 " + base64.b64encode(said.encode()).decode()
    answers: dict[str, Any] = {"AUTH": challenge, "AQ==": "535 5.7.8 no"}
    server = scripted(Play(answers, ("AUTH OAUTHBEARER",)))
    with pytest.raises(AuthenticationFailed, match="insufficient_scope") as caught:
        twin(at(server, lambda: "narrow")).send(hello())
    assert caught.value.details == {"status": "insufficient_scope", "scope": "mail.send"}
    assert [command.split(" ")[0] for command in server.commands] == ["EHLO", "AUTH", "AQ=="]


@pytest.fixture(scope="module")
def strong_postfix(ca: Certificates) -> Iterator[Postfix]:
    if reason := Postfix.missing():
        pytest.skip(reason)
    with Postfix(ca, mechanisms="SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1 DIGEST-MD5 CRAM-MD5 PLAIN LOGIN") as server:
        yield server


@pytest.mark.servers
@pytest.mark.parametrize("tls", ["required", "none"])
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1", "DIGEST-MD5", None])
def test_postfix_takes_the_login_and_proves_itself(
    twin: Twin, strong_postfix: Postfix, mechanism: str | None, tls: str
) -> None:
    def server(password: str) -> Server:
        return Server(
            strong_postfix.host,
            strong_postfix.starttls_port if tls == "required" else strong_postfix.plain_port,
            tls=tls,
            ca_file=str(strong_postfix.ca_file),
            username=strong_postfix.user,
            password=password,
            auth_mechanisms=(mechanism,) if mechanism else None,
        )

    assert twin(server(strong_postfix.password)).send(hello()).ok
    if mechanism:
        with pytest.raises(AuthenticationFailed, match=mechanism):
            twin(server("wrong")).send(hello())
