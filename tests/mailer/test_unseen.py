"""No secret is shown, wherever something fails: every way to log in, each thing that can go wrong, both mailers.

What is looked at is all that an error tracker may print: see `tests.canaries`.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import functools
import logging
import pickle
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from smtpbackend import Server, sasl
from smtpbackend.delivery.credentials import ClientCredentials, Provider, RefreshToken, google, microsoft365_app
from smtpbackend.delivery.server import from_url
from smtpbackend.errors import ConnectFailed, InvalidSetting, SMTPError
from smtpbackend.testing import CUT, RESET, SILENCE, Play
from tests.canaries import assert_unseen, everything_about
from tests.dkim_keys import pem
from tests.mailer.conftest import Scripted
from tests.mailer.twins import BlockingTwin, Twin, hello
from tests.servers.oauth2 import TokenEndpoint
from tests.servers.ports import free_ports
from tests.servers.proxy import Proxy
from tests.servers.tls import Certificates

PASSWORD = "Pw-zX8kQ/v2#Lm?9t@Rb%Yw"
TOKEN = "Tk-9fJq3vXw7LhN5dRz2Cs6Gm"
KEY_PASSWORD = "Kp-4rTz8WnQ6xJb1VyHs"
CLIENT_SECRET = "Cs-6mPw2ZkX9vDq4LtNf"
REFRESH_TOKEN = "Rt-3hGy7BcW5sKx8QzVn"
PROXY_PASSWORD = "Pp-8vNz5TqK2jXw6RmLd"
EVERY = (PASSWORD, TOKEN, KEY_PASSWORD, CLIENT_SECRET, REFRESH_TOKEN, PROXY_PASSWORD)

HOWS: dict[str, Any] = {
    "refused": "535 5.7.8 authentication failed",
    "echo": "535 5.7.8 {} and {} are wrong",
    "echo in base64": lambda heard: f"535 5.7.8 I do not like {heard}",
    "a part": lambda heard: f"535 5.7.8 I do not like {heard[: len(heard) * 2 // 3]}",
    "cut": CUT,
    "reset": RESET,
    "silent": SILENCE,
    "closing": "421 4.3.2 closing",
    "nonsense": lambda heard: f"{heard}\r\n".encode(),
    "more": "334 bW9yZQ==",
    "garbage": lambda heard: f"334 {heard}",
    "json": lambda secret: (
        "334 "
        + base64.b64encode(
            f'{{"status":"401","why":["{secret}"],"x":"\\u00{ord(secret[0]):02x}{secret[1:]}"}}'.encode()
        ).decode()
    ),
}
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "DIGEST-MD5", "XOAUTH2", "OAUTHBEARER")


class Told:
    """Takes each event, and with it all that hangs on its error."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: Any) -> None:
        self.texts.append(repr(event))
        if event.name == "server_failed":
            self.texts += everything_about(event.error)

    def about(self, what: Callable[[], Any]) -> None:
        """What comes of this, be it an error."""
        try:
            self.texts.append(repr(what()))
        except Exception as error:
            self.texts += everything_about(error)


def everything_of(records: list[logging.LogRecord]) -> Iterator[str]:
    for record in records:
        yield record.getMessage()
        yield from (f"{name}={value!r}" for name, value in vars(record).items())
        if record.exc_info:
            yield from everything_about(record.exc_info[1])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_login_that_fails_shows_none(
    twin: Twin, scripted: Scripted, caplog: pytest.LogCaptureFixture, mechanism: str, how: str
) -> None:
    with_token = mechanism in ("XOAUTH2", "OAUTHBEARER")
    secret = TOKEN if with_token else PASSWORD
    answer = HOWS["json"](secret) if how == "json" else HOWS[how]
    answer = answer.format(secret, secret) if how == "echo" else answer
    server = scripted(Play({"AUTH": answer}, (f"AUTH {mechanism}", "PIPELINING")))
    told = Told()
    mailer = twin(
        Server(
            server.host,
            server.port,
            tls="none",
            username="ann",
            password=None if with_token else PASSWORD,
            token=TOKEN if with_token else None,
            auth_mechanisms=(mechanism,),
            timeout={"reply": 0.1 if how == "silent" else 5},  # type: ignore[arg-type]
        ),
        listeners=[told],
    )
    with caplog.at_level(logging.DEBUG):
        told.about(mailer.connect)
        told.about(lambda: mailer.send(hello()))
        if how == "cut":
            told.about(mailer.check)
    assert server.connections
    assert_unseen((secret,), [*told.texts, *everything_of(caplog.records)])


@pytest.mark.parametrize("where", ["", "EHLO", "MAIL", "RCPT", "DATA", ".", "QUIT", "VRFY"])
@pytest.mark.parametrize("code", [250, 451, 550])
def test_a_secret_that_the_server_repeats_after_the_login_is_masked(
    twin: Twin, scripted: Scripted, caplog: pytest.LogCaptureFixture, where: str, code: int
) -> None:
    """In the reply to any command, and in the greeting of the next connection."""
    encoded = base64.b64encode(f"\0ann\0{PASSWORD}".encode()).decode()
    echo = f"{code}-2.0.0 {PASSWORD}\n{code}-{encoded}\n{code} {PASSWORD.lower()} {encoded[4:]}"
    if where == "" and code == 250:
        echo = echo.replace("250", "220")
    server = scripted(Play({"AUTH": "235 ok", where: echo}, ("AUTH PLAIN", "PIPELINING")))
    told = Told()
    mailer = twin(
        Server(server.host, server.port, tls="none", username="ann", password=PASSWORD, timeout={"reply": 2}),  # type: ignore[arg-type]
        listeners=[told],
    )
    with caplog.at_level(logging.DEBUG):
        told.about(lambda: mailer.send(hello("bob@example.com", "eve@example.com")))
        told.about(lambda: mailer.send_many([hello(), hello()]))
        told.about(lambda: mailer.verify("bob"))
        mailer.close()
    assert "***" in caplog.text
    assert_unseen((PASSWORD,), [*told.texts, *everything_of(caplog.records)])


def test_what_a_server_offers_is_understood_whatever_the_password_is(twin: Twin, scripted: Scripted) -> None:
    """Only what is shown is masked: EHLO and challenges are read as they were said."""
    server = scripted(Play({}, ("AUTH LOGIN PLAIN", "PIPELINING", "SIZE 1000")))
    assert twin(Server(server.host, server.port, tls="none", username="ann", password="PIPELINING")).send(hello()).ok
    assert twin(Server(server.host, server.port, tls="none", username="ann", password="auth login plain")).connect()


@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5", "XOAUTH2"])
def test_a_user_name_that_is_the_secret_is_hidden_too(twin: Twin, scripted: Scripted, mechanism: str) -> None:
    """Some providers have one API token for both."""
    server = scripted(Play({"AUTH": "535 5.7.8 no"}, (f"AUTH {mechanism}",)))
    told = Told()
    key = "token" if mechanism == "XOAUTH2" else "password"
    at = Server(server.host, server.port, tls="none", username=TOKEN, **{key: TOKEN})  # type: ignore[arg-type]
    mailer = twin(at, listeners=[told])
    told.about(mailer.connect)
    told.about(lambda: mailer.send(hello()))
    sent = next(command for command in server.commands if command.startswith("AUTH"))
    assert mechanism == "CRAM-MD5" or TOKEN in base64.b64decode(sent.split()[2]).decode()
    assert_unseen((TOKEN,), [*told.texts, repr(at), repr(mailer.raw.configuration)])


class Broken(Exception):
    """Whatever may be raised in the middle: the time limit of a task queue, a bug."""


def test_an_error_that_is_none_of_ours_shows_none_either(twin: Twin, scripted: Scripted) -> None:
    """A mechanism of one's own that raises in the middle of a login."""

    def broken(credentials: sasl.Credentials) -> sasl.Exchange:
        secret = credentials.password.encode()
        yield secret
        raise Broken(len(secret))

    server = scripted(Play({"AUTH": "334 "}, ("AUTH X-BROKEN",)))
    sasl.register(sasl.Mechanism("X-BROKEN", broken, in_clear=True))
    try:
        mailer = twin(Server(server.host, server.port, tls="none", username="ann", password=PASSWORD))
        with pytest.raises(Broken) as caught:
            mailer.connect()
    finally:
        sasl.unregister("X-BROKEN")
    assert_unseen((PASSWORD,), everything_about(caught.value))


def test_a_cancelled_login_shows_none(scripted: Scripted) -> None:
    from smtpbackend import AsyncMailer

    server = scripted(Play({"AUTH": SILENCE}, ("AUTH PLAIN",)))

    async def cancel() -> BaseException:
        mailer = AsyncMailer(Server(server.host, server.port, tls="none", username="ann", password=PASSWORD))
        task = asyncio.create_task(mailer.connect())
        while not any(command.startswith("AUTH") for command in server.commands):
            await asyncio.sleep(0.005)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError as error:
            return error
        raise AssertionError("it was not cancelled")

    assert_unseen((PASSWORD,), everything_about(asyncio.run(cancel())))


# Tokens ----------------------------------------------------------------------------------------------------------


class Source(Provider):
    def fetch(self, timeout: float = 0) -> Any:
        secret = CLIENT_SECRET
        raise KeyError(len(secret))


def called_with(secret: str) -> str:
    raise KeyError(len(secret))


def source_that_returns(value: Any) -> Any:
    return lambda: value


@pytest.mark.parametrize(
    "token",
    [
        source_that_returns(TOKEN + "\n"),
        source_that_returns([TOKEN]),
        source_that_returns(TOKEN),
        source_that_returns(TOKEN.encode()),
        functools.partial(called_with, TOKEN),
        Source(),
    ],
    ids=["line end", "list", "refused", "bytes", "partial", "raises"],
)
def test_a_token_that_cannot_be_had_or_is_refused(twin: Twin, scripted: Scripted, token: Any) -> None:
    server = scripted(Play({"AUTH": f"535 5.7.8 {TOKEN}"}, ("AUTH XOAUTH2",)))
    told = Told()
    mailer = twin(Server(server.host, server.port, tls="none", username="ann", token=token), listeners=[told])
    told.about(mailer.connect)
    told.about(lambda: mailer.send(hello()))
    assert_unseen((TOKEN,) if not isinstance(token, Source) else (CLIENT_SECRET,), told.texts)


@pytest.mark.parametrize("kind", ["refused", "nobody", "no json"])
@pytest.mark.parametrize("grant", ["client", "refresh"])
def test_an_endpoint_that_gives_no_token(twin: Twin, scripted: Scripted, kind: str, grant: str) -> None:
    server = scripted(Play({}, ("AUTH XOAUTH2",)))
    told = Told()
    with TokenEndpoint() as endpoint:
        url = {"refused": endpoint.url, "nobody": f"http://127.0.0.1:{free_ports(1)[0]}/token"}.get(
            kind, f"http://127.0.0.1:{server.port}/token"
        )
        source: Provider = (
            ClientCredentials(url, "app", CLIENT_SECRET)
            if grant == "client"
            else RefreshToken(url, "app", CLIENT_SECRET, REFRESH_TOKEN)
        )
        mailer = twin(Server(server.host, server.port, tls="none", username="ann", token=source), listeners=[told])
        told.about(mailer.connect)
        told.about(lambda: mailer.send(hello()))
        told.about(lambda: source.fetch(1))
    assert len(told.texts) > 20
    assert_unseen((CLIENT_SECRET, REFRESH_TOKEN), told.texts)


# The way there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["url", "mapping"])
@pytest.mark.parametrize("scheme", ["socks5h", "http"])
@pytest.mark.parametrize("fault", ["refused", "silent"])
def test_a_proxy_that_lets_nobody_through(twin: Twin, scripted: Scripted, scheme: str, fault: str, form: str) -> None:
    server = scripted()
    told = Told()
    with Proxy(users={"ann": "other"}, silent=fault == "silent") as proxy:
        url = f"{scheme}://{proxy.name}"
        given: Any = {"url": url, "username": "ann", "password": PROXY_PASSWORD}
        if form == "url":
            given = url.replace("://", f"://ann:{PROXY_PASSWORD}@")
        mailer = twin(server.url, proxy=given, timeout={"connect": 0.2}, listeners=[told])
        with pytest.raises(ConnectFailed, match="cannot connect to"):
            mailer.connect()
        told.about(mailer.connect)
        told.about(lambda: mailer.send(hello()))
    assert_unseen((PROXY_PASSWORD,), told.texts)


def test_the_key_of_a_client_and_its_password(twin: Twin, ca: Certificates, tmp_path: Any) -> None:
    key = rsa.generate_private_key(65537, 2048)
    locked = tmp_path / "key.pem"
    encryption = serialization.BestAvailableEncryption(b"another")
    form = serialization.PrivateFormat.PKCS8
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    told = Told()
    for settings in (
        {"client_key": str(locked), "client_key_password": KEY_PASSWORD},
        {"client_key": locked.read_text()},
        {"client_key": pem(key), "client_key_password": KEY_PASSWORD * 100},
    ):
        told.about(lambda settings=settings: twin("smtp://mx.example.com", client_cert=str(ca.server), **settings))
    secret = "".join(locked.read_text().splitlines()[2:4])
    assert len(told.texts) > 10
    assert_unseen((KEY_PASSWORD, secret, pem(key).splitlines()[3]), told.texts)


def test_the_key_of_a_signer(twin: Twin, scripted: Scripted) -> None:
    """A key that is none, whatever form it has, is not repeated; nor is a good one where signing fails."""
    key = pem(rsa.generate_private_key(65537, 2048))
    body = "".join(key.splitlines()[1:-1])
    told = Told()
    for wrong in (
        "9d61b19deffd5a60ba844af492ec2cc4" + TOKEN,
        body[:500],
        key.replace("\n", " ", 3).replace("PRIVATE", "PUBLIC"),
        key[:400],
        [key],
        key.encode()[:400],
    ):
        told.about(lambda wrong=wrong: twin("smtp://mx", dkim={"domain": "example.com", "selector": "s", "key": wrong}))
    mailer = twin(scripted().url, dkim={"domain": "example.com", "selector": "s", "key": key})
    told.about(lambda: mailer.send(iter([b"no: from\r\n"]), None))
    assert len(told.texts) > 30
    assert_unseen((TOKEN, body[100:160], body[500:560]), told.texts)


# Settings --------------------------------------------------------------------------------------------------------

WRONG_URLS = (
    "smtp://user:{}@mx.example.com:587",
    "smtp://user:{}#@mx.example.com",
    "smtp://user:12/{}@mx.example.com",
    "smtp://user:12?{}@mx.example.com",
    "smtp://user:12?tls={}@mx.example.com",
    "smtp://user:12#{}@mx.example.com",
    "smtp://user:x@{}/1@mx.example.com",
    "smtp://user:x@{}#1@mx.example.com",
    "smtp://user:{}\t@mx.example.com",
    "smtp://user:{}[@mx.example.com",
    "smtp://user:{}℀@mx.example.com",
    "smtp://user:{}@mx.example.com:99999",
    "smtp://user:{}@mx.example.com?nonsense=1",
    "smtp://user:{}@mx.example.com?tls=perhaps",
    "smtp://user:{}%ff@mx.example.com",
    "smtp://user:{}",
    "lmtp+unix://user:{}@/run/mail.sock",
    "smtp+unix://user:{}/@/run/mail.sock",
    "smtp+srv://user:{}@example.com:25",
    "smtp+srv://user:{}@",
    "smtps://user:{}@mx.example.com?tls=none",
    "http://user:{}@mx.example.com",
    "user:{}@mx.example.com",
    "user:{}",
)
PLAIN = "Zq7xKw9vPm3tBd5s"


@pytest.mark.parametrize("secret", [PASSWORD, PLAIN, "Zq7xKw9v.Pm3tBd5s"])
@pytest.mark.parametrize("url", WRONG_URLS)
def test_a_url_that_cannot_be_read_is_not_repeated(twin: Twin, url: str, secret: str) -> None:
    """Not in part either, where a character that had to be quoted cut the password in two."""
    told = Told()
    for make in (
        lambda: twin(url.format(secret)),
        lambda: twin(host=url.format(secret)),
        lambda: twin({"url": url.format(secret), "port": 0}),
        lambda: twin({url.format(secret): 587}),
        lambda: from_url(url.format(secret)),
        lambda: twin("smtp://mx", proxy=url.format(secret).replace("smtp", "socks5h")),
        lambda: twin("smtp://mx", proxy={"url": url.format(secret).replace("smtp", "http"), "password": "p"}),
    ):
        told.about(make)
    assert_unseen((secret, *secret.split("/"), *secret.split("#")), told.texts)


@pytest.mark.parametrize(
    "settings",
    [
        {"username": "ann", "password": PASSWORD.encode()},
        {"username": "ann", "password": PASSWORD + "\0"},
        {"username": "ann", "password": [PASSWORD]},
        {"username": "ann", "password": PASSWORD, "port": 0},
        {"username": "ann", "password": PASSWORD, "passwort": PASSWORD},
        {"username": "ann", "token": f"os.{PLAIN}"},
        {"username": "ann", "token": f"os.path.{PLAIN}.{PLAIN}"},
        {"username": "ann", "token": f"{TOKEN} {TOKEN}"},
        {"username": "ann", "token": TOKEN.encode()},
        {"token": TOKEN},
        {"client_key_password": KEY_PASSWORD.encode()},
        {"proxy": {"url": "socks5h://proxy", "user": "ann", "password": PROXY_PASSWORD}},
        {"proxy": {"url": "socks4://proxy", "username": "ann", "password": PROXY_PASSWORD}},
        {"proxy": {"url": "socks5://a:b@proxy", "username": "ann", "password": PROXY_PASSWORD}},
        {"proxy": {"url": "socks5://proxy", "username": "ann", "password": PROXY_PASSWORD.encode()}},
        {"proxy": {"url": "socks5://proxy", "password": PROXY_PASSWORD}},
    ],
)
def test_a_setting_that_cannot_work_is_told_without_secrets(twin: Twin, settings: dict[str, Any]) -> None:
    told = Told()
    told.about(lambda: twin(host="mx.example.com", **settings))
    told.about(lambda: twin({"host": "mx.example.com", **settings}))
    told.about(lambda: twin.kind.from_settings({"host": "mx.example.com", **settings}))
    told.about(lambda: Server("mx.example.com", **settings))
    assert_unseen((*EVERY, PLAIN), told.texts)


def test_a_provider_that_cannot_be_made_shows_no_secret() -> None:
    told = Told()
    told.about(lambda: ClientCredentials("http://mx.example.com/", "app", CLIENT_SECRET))
    told.about(lambda: RefreshToken(f"https://u:{CLIENT_SECRET}@mx/", "app", CLIENT_SECRET, REFRESH_TOKEN))
    told.about(lambda: microsoft365_app(f"{CLIENT_SECRET}~", "app", CLIENT_SECRET))
    told.about(lambda: google("app", CLIENT_SECRET, REFRESH_TOKEN, nonsense=1))
    assert len(told.texts) > 20
    assert_unseen((CLIENT_SECRET, REFRESH_TOKEN), told.texts)


# Copies ----------------------------------------------------------------------------------------------------------


def test_a_mailer_is_not_pickled(twin: Twin, scripted: Scripted) -> None:
    """With a password or without, used or not: one error says what to do."""
    for mailer in (twin(scripted().url), twin("smtp://mx", username="ann", password=PASSWORD)):
        if mailer.raw.configuration.servers[0].password is None:
            mailer.send(hello())
        for how in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(
                TypeError, match=r"Mailer cannot be pickled: .* make the Mailer in the one that uses it"
            ):
                how(mailer.raw)


@pytest.mark.parametrize(
    "settings",
    [
        {"username": "ann", "password": PASSWORD},
        {"username": "ann", "token": TOKEN},
        {"username": "ann", "token": Source()},
        {"proxy": f"http://ann:{PROXY_PASSWORD}@proxy"},
        {"dkim": {"domain": "example.com", "selector": "s", "key": base64.b64encode(bytes(32)).decode()}},
    ],
    ids=["password", "token", "provider", "proxy", "dkim"],
)
def test_nothing_that_holds_a_secret_is_pickled(settings: dict[str, Any]) -> None:
    """What holds it is copied, and the copy is equal."""
    configuration = BlockingTwin.kind("smtp://mx", **settings).configuration
    with pytest.raises(TypeError, match="cannot be pickled: connections and secrets stay"):
        pickle.dumps(configuration)
    assert copy.deepcopy(configuration) == configuration
    server = configuration.servers[0]
    if "dkim" not in settings:
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(server)
    if server.login is not None and not isinstance(server.token, Source):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(server.login)


def test_what_holds_none_is_pickled_as_ever() -> None:
    configuration = BlockingTwin.kind("smtp://mx").configuration
    assert pickle.loads(pickle.dumps(configuration)) == configuration
    assert isinstance(pickle.loads(pickle.dumps(InvalidSetting("no", field="host"))), SMTPError)
    assert ssl.CERT_REQUIRED is copy.copy(ssl.CERT_REQUIRED)
