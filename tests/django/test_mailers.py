"""The mailers of the core with Django's messages and settings, as an async view uses them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from email import message_from_bytes
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.test import override_settings

from smtpbackend import AsyncMailer, Envelope, InvalidInput, InvalidSetting, Mailer, RecipientsRefused
from smtpbackend_django import EmailBackend, conf, mailer_settings
from tests.django.conftest import HAS_MAILERS, PATH, Start, email_settings, mail
from tests.servers.aiosmtpd_server import AiosmtpdServer

Send = Callable[..., Any]


def send_blocking(settings: dict[str, Any], *given: Any) -> Any:
    with Mailer(**settings) as mailer:
        return mailer.send(*given)


def send_async(settings: dict[str, Any], *given: Any) -> Any:
    async def send() -> Any:
        async with AsyncMailer(**settings) as mailer:
            return await mailer.send(*given)

    return asyncio.run(send())


@pytest.fixture(params=[send_blocking, send_async])
def send(request: pytest.FixtureRequest) -> Send:
    """Send by a mailer of the core with these settings."""
    given: Send = request.param
    return given


@contextlib.contextmanager
def site(mode: str, server: AiosmtpdServer, **options: Any) -> Iterator[None]:
    """A site whose default mailer is ours, for that server."""
    options = {"host": server.host, "port": server.port, **options}
    names = {"username": "EMAIL_HOST_USER", "password": "EMAIL_HOST_PASSWORD"}
    if mode == "MAILERS":
        with override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": options}}):
            yield
    elif mode == "EMAIL":
        ours = {"ca_file"} & options.keys()
        given: dict[str, Any] = {
            names.get(name, f"EMAIL_{name.upper()}"): options[name] for name in options if name not in ours
        }
        with email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND={name.upper(): options[name] for name in ours}, **given):
            yield
    else:
        with email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND={name.upper(): options[name] for name in options}):
            yield


MODES = ["EMAIL", "SMTPBACKEND", pytest.param("MAILERS", marks=pytest.mark.skipif(not HAS_MAILERS, reason="6.1"))]


@pytest.mark.parametrize("mode", MODES)
def test_a_mailer_has_the_settings_of_the_site(aiosmtpd: Start, send: Send, mode: str) -> None:
    """Django's names as well: the flag of TLS and the login."""
    server = aiosmtpd(tls="required", users={"ann": "secret"}, auth_required=True)
    login = {"use_tls": True, "username": "ann", "password": "secret", "fail_silently": True}
    if mode == "EMAIL":
        del login["fail_silently"]
    with site(mode, server, **login, ca_file=str(server.ca_file)):
        receipt = send(mailer_settings(), mail(bcc=["bob@example.org"]))
    assert [str(outcome.address) for outcome in receipt.accepted] == ["ann@example.org", "bob@example.org"]
    assert (server.arrived[0].login, server.arrived[0].tls) == ("ann", True)


@pytest.mark.parametrize("kind", [EmailMessage, EmailMultiAlternatives])
def test_what_leaves_is_what_the_backend_sends(server: AiosmtpdServer, send: Send, kind: Any) -> None:
    """To those in Bcc too, whom no header names."""
    message = kind(
        "Grüße",
        "Guten Tag",
        "Zoë <zoe@example.com>",
        ["ann@example.org"],
        cc=["carl@example.org"],
        bcc=["Bob <bob@example.org>"],
        headers={"Message-ID": "<1@example.com>", "Date": "x"},
    )
    message.attach("a.bin", b"\x00\xff", "application/octet-stream")
    assert send({"host": server.host, "port": server.port}, message).ok
    EmailBackend(host=server.host, port=server.port).send_messages([message])
    ours, theirs = server.arrived
    assert ours.recipients == theirs.recipients == ("ann@example.org", "carl@example.org", "bob@example.org")
    assert ours.sender == theirs.sender == "zoe@example.com"
    assert b"bob@" not in ours.content
    ours, theirs = (message_from_bytes(arrived.content) for arrived in (ours, theirs))
    assert [name for name in ours.items() if "boundary" not in name[1]] == [
        name for name in theirs.items() if "boundary" not in name[1]
    ]
    assert [part.get_payload(decode=True) for part in ours.walk()] == [
        part.get_payload(decode=True) for part in theirs.walk()
    ]


def test_several_and_one_that_is_refused(server: AiosmtpdServer) -> None:
    with Mailer(host=server.host, port=server.port) as mailer:
        receipts = list(mailer.send_many([mail(), mail("nobody@example.org"), mail("a@example.org\nb@example.org")]))
    assert [receipt.ok for receipt in receipts] == [True, False, False]
    assert isinstance(receipts[1].error, RecipientsRefused)
    assert isinstance(receipts[2].error, ValueError)
    assert len(server.arrived) == 1


def test_an_envelope_beside_it_counts(server: AiosmtpdServer, send: Send) -> None:
    envelope = Envelope("bounces@example.com", ["carl@example.org"])
    assert send({"host": server.host, "port": server.port}, mail(), envelope).ok
    assert (server.arrived[0].sender, server.arrived[0].recipients) == ("bounces@example.com", ("carl@example.org",))


def test_the_bounce_address_counts(server: AiosmtpdServer, send: Send) -> None:
    assert send({"host": server.host, "port": server.port, "bounce_address": "bounces@example.com"}, mail()).ok
    assert server.arrived[0].sender == "bounces@example.com"


def test_without_recipients_nothing_is_sent(send: Send) -> None:
    """A mailer of the core says so; Django's `send` returns 0."""
    with pytest.raises(InvalidInput, match="recipient"):
        send({"host": "localhost", "port": 1}, EmailMessage("S", "B", "ann@example.org", []))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"use_tls": True}, "tls='required'"),
        ({"use_ssl": True}, "tls='implicit'"),
        ({"ssl_certfile": "x"}, "client_cert"),
        ({"ssl_keyfile": "x"}, "client_key"),
        ({"fail_silently": True}, "DeliveryError"),
    ],
)
def test_options_of_django_say_what_to_write_instead(option: dict[str, Any], words: str) -> None:
    for kind in (Mailer, AsyncMailer):
        with pytest.raises(InvalidSetting, match=r"smtpbackend_django\.mailer_settings") as caught:
            kind(host="localhost", **option)
        assert words in str(caught.value)


def test_a_site_with_another_backend_has_no_such_settings() -> None:
    """As in Django's tests: no mail leaves that nobody expects."""
    other = "django.core.mail.backends.locmem.EmailBackend"
    with email_settings(EMAIL_BACKEND=other), pytest.raises(conf.SettingsError, match="locmem"):
        mailer_settings()


@pytest.mark.skipif(HAS_MAILERS, reason="Django 6.1 has MAILERS")
def test_there_is_one_mailer_without_mailers() -> None:
    with email_settings(EMAIL_BACKEND=PATH), pytest.raises(conf.SettingsError, match="'news'"):
        mailer_settings("news")


def test_a_message_without_the_adapter_says_what_to_import() -> None:
    """The core knows no framework: the adapter has the mailers take its messages."""
    code = """
from django.conf import settings
settings.configure()
from django.core.mail import EmailMultiAlternatives
from smtpbackend import InvalidInput, Mailer
class OfASite(EmailMultiAlternatives):
    pass
mailer = Mailer("smtp://localhost:1")
for kind in (OfASite, object):
    try:
        mailer.send(kind())
    except InvalidInput as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    of_django, other = done.stdout.splitlines()
    assert "import smtpbackend_django first" in of_django
    assert "import" not in other
