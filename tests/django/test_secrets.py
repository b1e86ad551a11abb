"""Django's error pages and error mails: they print all settings, and the locals of every frame."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.core import mail as django_mail
from django.core.checks import run_checks
from django.test import RequestFactory, override_settings
from django.views.debug import ExceptionReporter, technical_500_response

from smtpbackend import Secret
from smtpbackend.errors import AuthenticationFailed, DeliveryError, TimedOut
from smtpbackend.hiding import bares_password
from smtpbackend.testing import CUT, SILENCE, Play, ScriptedServer
from smtpbackend_django import EmailBackend
from tests.canaries import assert_unseen, everything_about
from tests.django.conftest import HAS_MAILERS, PATH, email_settings, mail

PASSWORD = "Pw-zX8kQv2Lm9tRbYw"
OTHER = "Ow-6mPw2ZkX9vDq4LtNf"
PROXY = "Pp-8vNz5TqK2jXw6RmLd"
KEY = "Kp-4rTz8WnQ6xJb1VyHs"
EVERY = (PASSWORD, OTHER, PROXY, KEY)

FORMS: dict[str, dict[str, Any]] = {
    "for one server": {"host": "mx.example.com", "username": "ann", "password": PASSWORD, "client_key_password": KEY},
    "for several": {
        "servers": [
            {"url": "smtps://mx.example.com", "username": "ann", "password": PASSWORD},
            {"host": "backup.example.com", "username": "bob", "password": OTHER},
        ],
        "proxy": {"url": "socks5h://proxy.example.com", "username": "eve", "password": PROXY},
    },
    "hidden": {
        "servers": [Secret(f"smtps://ann:{PASSWORD}@mx.example.com"), Secret(f"smtp://bob:{OTHER}@b.example.com")],
        "proxy": Secret(f"http://eve:{PROXY}@proxy.example.com"),
    },
    "of tokens": {"host": "mx.example.com", "username": "ann", "token": PASSWORD},
}


def site(options: dict[str, Any]) -> Any:
    """The settings of a site with these options, as its Django has them."""
    if HAS_MAILERS:
        return override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": options}})
    return email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND={key.upper(): value for key, value in options.items()})


def the_backend() -> EmailBackend:
    """A backend of the settings as they are now."""
    made: EmailBackend = django_mail.mailers.default if hasattr(settings, "MAILERS") else EmailBackend()
    return made


def pages() -> Iterator[str]:
    """What Django shows and mails of the exception that is being handled."""
    info: Any = sys.exc_info()
    with override_settings(ROOT_URLCONF=()):
        for is_email in (False, True):
            reporter = ExceptionReporter(RequestFactory().get("/"), *info, is_email=is_email)
            yield reporter.get_traceback_text()
            yield reporter.get_traceback_html()
        yield technical_500_response(RequestFactory().get("/"), *info).content.decode()


def failed(action: Callable[[], Any], *kinds: type[BaseException]) -> list[str]:
    """The pages of what it raises, and all else that the error holds."""
    try:
        action()
    except kinds as error:
        return [*pages(), *everything_about(error)]
    raise AssertionError("nothing failed")


def w004() -> list[Any]:
    return [message for message in run_checks(tags=["mail"]) if message.id == "smtpbackend.W004"]


@pytest.mark.parametrize("form", FORMS)
def test_no_page_shows_the_secrets_of_settings_in_a_documented_form(form: str) -> None:
    with site(FORMS[form]):
        assert w004() == []
        shown = failed(lambda: 1 / 0, ZeroDivisionError)
    assert any("mx.example.com" in page for page in shown) or form == "hidden"
    assert_unseen(EVERY, shown)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("servers", [f"smtps://ann:{PASSWORD}@mx.example.com"]),
        ("servers", f"smtps://ann:{PASSWORD}@mx.example.com"),
        ("servers", ["mx.example.com", {"url": f"smtp://ann:{PASSWORD}@mx.example.com"}]),
        ("servers", [f"smtp://mx.example.com?username=ann&password={PASSWORD}"]),
        ("proxy", f"socks5h://ann:{PASSWORD}@proxy.example.com"),
    ],
)
def test_the_check_warns_of_a_url_that_shows_its_password(key: str, value: Any) -> None:
    with site({"servers": ["mx.example.com"], key: value}):
        (message,) = w004()
    name, shown = ("MAILERS['default']", key) if HAS_MAILERS else ("SMTPBACKEND", key.upper())
    assert message.msg.startswith(f"{name} has a password in a URL of {shown!r}")
    assert "smtpbackend.Secret(url)" in message.hint
    assert_unseen((PASSWORD,), [message.msg, message.hint, repr(message)])


@pytest.mark.parametrize(
    ("mechanism", "answer"),
    [("PLAIN", SILENCE), ("LOGIN", CUT), ("CRAM-MD5", f"535 5.7.8 {PASSWORD}")],
    ids=["silence", "cut", "echo"],
)
def test_no_page_shows_the_password_of_a_login_that_failed(
    smtp_server: Callable[..., ScriptedServer], mechanism: str, answer: Any
) -> None:
    server = smtp_server(Play({"AUTH": answer}, (f"AUTH {mechanism}",)))
    options = {"host": server.host, "port": server.port, "username": "ann", "password": PASSWORD, "timeout": 0.3}
    kinds = (TimedOut, DeliveryError)
    with site({**options, "tls": "none"}):
        shown = failed(lambda: the_backend().open(), *kinds)
        shown += failed(lambda: the_backend().send_messages([mail()]), *kinds)
        shown += failed(lambda: mail().send(), *kinds)
    assert_unseen((PASSWORD,), shown)


@pytest.mark.skipif(HAS_MAILERS, reason="there Django's own frame has the options")
@pytest.mark.parametrize(
    "wrong",
    [
        {"TIMEOUT": "soon"},
        {"USERNME": "x"},
        {"SERVERS": [f"smtp://ann:{PASSWORD}#@mx.example.com"]},
        {"SERVERS": [f"smtp://ann:{PASSWORD}@mx.example.com/x"]},
        {"HOST": f"smtp://ann:{PASSWORD}@mx.example.com"},
        {"PROXY": f"gopher://ann:{PASSWORD}@mx.example.com"},
        {"CA_FILE": "/nowhere.pem"},
        {"USE_TLS": True, "USE_SSL": True},
        {"CLIENT_CERT": "/nowhere.pem", "CLIENT_KEY_PASSWORD": KEY},
    ],
)
def test_no_page_shows_the_secrets_beside_a_setting_that_cannot_work(wrong: dict[str, Any]) -> None:
    host = {} if "SERVERS" in wrong else {"HOST": "mx.example.com"}
    with email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND={**host, "USERNAME": "ann", "PASSWORD": PASSWORD, **wrong}):
        texts = failed(lambda: the_backend().open(), Exception)
        texts += [repr(message) for message in run_checks(tags=["mail"])]
    if bares_password(wrong):  # what the settings show is for the check to tell: here it is about the error
        texts = [text for text in texts if "SMTPBACKEND" not in text]
    assert len(texts) > 8
    assert_unseen((PASSWORD, KEY), texts)


@pytest.mark.parametrize("password", [{}, {"password": KEY}])
@pytest.mark.parametrize("mode", ["EMAIL", "SMTPBACKEND", "MAILERS"])
def test_a_token_needs_no_password_and_comes_before_one(
    smtp_server: Callable[..., ScriptedServer], mode: str, password: dict[str, str]
) -> None:
    """EMAIL_HOST_USER with TOKEN in SMTPBACKEND, both in SMTPBACKEND, or both in OPTIONS."""
    server = smtp_server(Play({"AUTH": "535 5.7.8 no"}, ("AUTH CRAM-MD5 PLAIN XOAUTH2",)))
    if mode == "MAILERS" and not HAS_MAILERS:
        pytest.skip("Django 6.1 has MAILERS")
    login = {"host": server.host, "port": server.port, "username": "ann@example.com", "token": PASSWORD, **password}
    modes: Any = {
        "EMAIL": lambda: email_settings(
            EMAIL_BACKEND=PATH,
            EMAIL_HOST=server.host,
            EMAIL_PORT=server.port,
            EMAIL_HOST_USER="ann@example.com",
            EMAIL_HOST_PASSWORD=password.get("password", ""),
            SMTPBACKEND={"TOKEN": PASSWORD},
        ),
        "SMTPBACKEND": lambda: email_settings(
            EMAIL_BACKEND=PATH, SMTPBACKEND={key.upper(): value for key, value in login.items()}
        ),
        "MAILERS": lambda: override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": login}}),
    }
    with modes[mode](), pytest.raises(AuthenticationFailed, match="XOAUTH2: 535"):
        the_backend().send_messages([mail()])
    assert [command[:12] for command in server.commands if command.startswith("AUTH")] == ["AUTH XOAUTH2"]
