"""What only shows where rooms meet: DKIM with malformed content, SRV with deadlines, tokens beside other logins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from smtpbackend import Envelope, Mailer, Server
from smtpbackend.delivery.asks import Find, Give, Lease, Pull
from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.credentials import Provider
from smtpbackend.delivery.date_and_id import stamp
from smtpbackend.delivery.dispatch import Dispatch
from smtpbackend.delivery.lifecycle import Lifecycle
from smtpbackend.delivery.proxy import Proxy
from smtpbackend.delivery.route import Route
from smtpbackend.delivery.server import from_url
from smtpbackend.errors import AuthenticationFailed, ConnectFailed, InvalidInput, InvalidSetting
from smtpbackend.events import Telling
from tests.mailer.twins import AsyncioTwin, BlockingTwin

TO_ANN = Envelope("from@example.com", "ann@example.org")


@pytest.fixture(params=[BlockingTwin, AsyncioTwin], ids=["blocking", "asyncio"])
def twin(request: pytest.FixtureRequest) -> Any:
    twin = request.param()
    yield twin
    twin.close()


@pytest.mark.parametrize(
    "content", [b"From: a@example.com\r\nbroken line\r\n\r\nbody", b" blank first\r\nFrom: a@example.com\r\n\r\n"]
)
def test_content_that_cannot_be_signed_is_one_receipt(twin: Any, aiosmtpd: Any, tmp_path: Path, content: bytes) -> None:
    """dkimpy's own errors ended the whole batch."""
    key = tmp_path / "key.pem"
    pem = generate_private_key(65537, 1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key.write_bytes(pem)
    server = aiosmtpd()
    signing = {"domain": "example.com", "selector": "s", "key": str(key)}
    mailer = twin(f"smtp://{server.host}:{server.port}", dkim=signing)
    good = b"From: a@example.com\r\nTo: b@example.com\r\n\r\nbody\r\n"
    first, second = mailer.send_many([(content, TO_ANN), (good, TO_ANN)])
    assert isinstance(first.error, InvalidInput)
    assert second.ok


def test_a_key_without_pem_is_not_shown() -> None:
    """It was taken for a path."""
    key = "MC4CAQAw" + "B" * 56
    with pytest.raises(InvalidSetting) as caught:
        Mailer("smtp://localhost", dkim={"domain": "example.com", "selector": "s", "key": key})
    assert key not in str(caught.value)


class Broken(Provider):
    def fetch(self, timeout: float) -> Any:
        raise KeyError("access_token")


def test_a_provider_that_raises_is_the_servers_error(twin: Any, aiosmtpd: Any) -> None:
    """In the blocking twin it ended the whole batch."""
    server = aiosmtpd(tls="implicit")
    mailer = twin(Server(server.host, server.port, tls="none", username="ann", token=Broken()))
    (receipt,) = mailer.send_many([(b"Subject: x\r\n\r\n", TO_ANN)])
    assert isinstance(receipt.error, AuthenticationFailed)


def test_an_impossible_domain_is_the_servers_error(twin: Any) -> None:
    (receipt,) = twin("smtp+srv://a_\u00fc.de").send_many([(b"Subject: x\r\n\r\n", TO_ANN)])
    assert isinstance(receipt.error, ConnectFailed)


def test_a_proxy_shows_no_password() -> None:
    assert "secret" not in repr(Proxy("socks5h", "proxy.example.com", 1080, "user", "secret"))


@dataclass
class Unhashable:
    def __call__(self, *_: Any) -> str:
        return "secure"


@pytest.mark.parametrize("name", ["token", "on_tls_failure"])
def test_an_unhashable_callable_is_told_by_its_setting(name: str) -> None:
    with pytest.raises(InvalidSetting, match=name):
        Server("localhost", username="ann", password="x", **{name: Unhashable()})


def test_a_late_message_says_nothing_against_an_srv_domain() -> None:
    """Its look-up had no time, failed, and took the domain out of the run for the messages behind it."""
    first, domain = Server("a.example.com"), from_url("smtp+srv://example.com")
    now = [0.0]
    dispatch = Dispatch(
        Route([first, domain]), Lifecycle(Rules(), Telling(()), lambda: now[0], stamp, deadline=5.0)
    ).run()
    assert isinstance(next(dispatch), Pull)
    assert isinstance(dispatch.send((b"Subject: 1\r\n\r\n", TO_ANN)), Lease)
    now[0] = 5.0
    given = dispatch.throw(ConnectFailed("no answer in time"))
    assert isinstance(given, Give)
    assert given.value.deferred
    assert isinstance(next(dispatch), Pull)
    asked = dispatch.send((b"Subject: 2\r\n\r\n", TO_ANN))
    assert isinstance(asked, Find)
    assert asked.server == domain
    dispatch.close()
