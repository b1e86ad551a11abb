"""Logging in by both mailers: tokens that are fetched, kept and renewed, and passwords at real servers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from smtpbackend import Server
from smtpbackend.delivery.credentials import ClientCredentials
from smtpbackend.errors import AuthenticationFailed, ConnectionLost, InvalidSetting
from smtpbackend.testing import CUT, RESET, Play, ScriptedServer
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


def test_a_refused_token_and_a_hang_up_are_followed_by_one_fresh_token(
    twin: Twin, scripted: Scripted, endpoint: TokenEndpoint
) -> None:
    server = scripted(Play({"AUTH": ("535 5.7.8 the token expired", CUT)}, ("AUTH XOAUTH2 OAUTHBEARER",)))
    with pytest.raises(AuthenticationFailed, match="the token expired"):
        twin(at(server, provider(endpoint))).send(hello())
    assert len(set(tokens(server))) == len(tokens(server)) == endpoint.requests == 2


class TestPasswords:
    """What follows a password that was refused, and a mechanism that cannot be used."""

    def send(self, twin: Twin, server: ScriptedServer, **settings: Any) -> Any:
        mailer = twin(Server(server.host, server.port, tls="none", username="ann", password="secret", **settings))
        return mailer.send(hello())

    def tried(self, server: ScriptedServer) -> list[str]:
        """The mechanisms that the server was asked for, over all connections."""
        return [command.split(" ")[1] for command in server.commands if command.startswith("AUTH")]

    @pytest.mark.parametrize("end", [(), (CUT,), (RESET,), ("421 4.7.0 too many errors", CUT)])
    def test_a_refused_password_is_told_as_such_and_tried_once(
        self, twin: Twin, scripted: Scripted, end: tuple[Any, ...]
    ) -> None:
        """However the connection ends: what retries by itself would lock the account out."""
        server = scripted(Play({"AUTH": ("535 5.7.8 bad password", *end)}, ("AUTH PLAIN LOGIN",)))
        with pytest.raises(AuthenticationFailed, match=r"535 5\.7\.8 bad password") as caught:
            self.send(twin, server)
        assert not caught.value.is_transient
        assert not isinstance(caught.value, ConnectionError)
        assert caught.value.smtp_code == 535
        assert self.tried(server) == ["PLAIN"]
        assert server.connections == 1

    @pytest.mark.parametrize("end", [(), (CUT,), ("421 4.7.0 too many errors", CUT)])
    def test_plain_follows_a_challenge_that_was_refused(
        self, twin: Twin, scripted: Scripted, end: tuple[Any, ...]
    ) -> None:
        """The server may not have the password as the challenge needs it; over a new connection if need be."""
        refusal = "535 5.7.8 no secret in database"
        server = scripted(Play({"AUTH CRAM-MD5": (refusal, *end)}, ("AUTH CRAM-MD5 LOGIN PLAIN",)))
        assert self.send(twin, server).ok
        assert self.tried(server)[0] == "CRAM-MD5"
        assert self.tried(server)[-1] == "PLAIN"
        assert server.connections == (2 if end else 1)

    @pytest.mark.parametrize("end", [(), (CUT,)])
    def test_plain_that_is_refused_too_is_the_end(self, twin: Twin, scripted: Scripted, end: tuple[Any, ...]) -> None:
        server = scripted(Play({"AUTH": ("535 5.7.8 bad password", *end)}, ("AUTH CRAM-MD5 LOGIN PLAIN",)))
        with pytest.raises(AuthenticationFailed, match=r"CRAM-MD5: 535 .*PLAIN: 535"):
            self.send(twin, server)
        assert "LOGIN" not in self.tried(server)

    @pytest.mark.parametrize(
        "answer", ["454 4.3.0 not now", "504 5.5.4 what", "534 5.7.9 too weak", "432 4.7.12 change"]
    )
    @pytest.mark.parametrize("end", [(), (CUT,)])
    def test_the_next_mechanism_follows_one_that_cannot_be_used(
        self, twin: Twin, scripted: Scripted, answer: str, end: tuple[Any, ...]
    ) -> None:
        answers = {"AUTH CRAM-MD5": (answer, *end), "AUTH PLAIN": (answer, *end)}
        server = scripted(Play(answers, ("AUTH CRAM-MD5 PLAIN LOGIN",)))
        assert self.send(twin, server).ok
        assert list(dict.fromkeys(self.tried(server))) == ["CRAM-MD5", "PLAIN", "LOGIN"]
        assert server.connections == (3 if end else 1)

    def test_the_next_mechanism_follows_a_hang_up_without_a_word(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play({"AUTH CRAM-MD5": CUT, "AUTH PLAIN": CUT}, ("AUTH CRAM-MD5 PLAIN LOGIN",)))
        assert self.send(twin, server).ok
        assert self.tried(server) == ["CRAM-MD5", "PLAIN", "LOGIN"]
        assert server.connections == 3

    def test_each_mechanism_is_hung_up_on_once(self, twin: Twin, scripted: Scripted) -> None:
        """Then the server has failed, and the next one is tried."""
        server = scripted(Play({"AUTH": CUT}, ("AUTH CRAM-MD5 PLAIN LOGIN",)))
        with pytest.raises(ConnectionLost) as caught:
            self.send(twin, server)
        assert caught.value.is_transient
        assert self.tried(server) == ["CRAM-MD5", "PLAIN", "LOGIN"]
        assert server.connections == 3
        assert self.send(twin, scripted(Play({"AUTH PLAIN": CUT}, ("AUTH PLAIN LOGIN",)))).ok

    def test_a_goodbye_behind_the_login_is_the_reason_for_the_end(self, twin: Twin, scripted: Scripted) -> None:
        """Dovecot, whose relay is down; the server rests, and the next one is tried."""
        said = b"235 2.7.0 Logged in.\r\n421 4.4.0 Failed to connect to relay server\r\n"
        server = scripted(Play({"AUTH": (said, CUT)}, ("AUTH PLAIN",)))
        with pytest.raises(ConnectionLost, match=r"closed the connection: 421 4\.4\.0 Failed to connect to relay"):
            self.send(twin, server)
        told: list[Any] = []
        spare = scripted()
        given = Server(server.host, server.port, tls="none", username="ann", password="secret")
        assert twin(given, spare.url, listeners=[told.append]).send(hello()).server == spare.name
        [failure] = [event for event in told if event.name == "server_failed"]
        assert failure.error.reply.code == 421

    def test_digest_md5_is_not_used_unasked(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play(extensions=("AUTH DIGEST-MD5 LOGIN PLAIN",)))
        assert self.send(twin, server).ok
        assert self.tried(server) == ["PLAIN"]


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
