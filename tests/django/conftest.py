"""Django configured without a site, and what the tests of the backend share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import django
import pytest
from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="only-for-tests",
        USE_TZ=True,
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=["smtpbackend_django", "smtpbackend_django.outbox"],
        DEFAULT_FROM_EMAIL="webmaster@example.com",
    )
    django.setup()

from django.core.mail import EmailMessage
from django.test import override_settings

from smtpbackend_django import EmailBackend, conf, signals
from tests.servers.aiosmtpd_server import AiosmtpdServer

HAS_MAILERS = django.VERSION >= (6, 1)
PATH = "smtpbackend_django.EmailBackend"

Start = Callable[..., AiosmtpdServer]


@pytest.fixture(autouse=True)
def fresh_mailers() -> Iterator[None]:
    """No test finds the connections of another, and none leaves its own."""
    yield
    conf.close_mailers()


@contextmanager
def email_settings(**values: Any) -> Iterator[None]:
    """EMAIL_* settings; Django 6.1 deprecates to set them, which is not what is tested."""

    def quietly(what: Callable[[], Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            what()

    changed = override_settings(**values)
    quietly(changed.enable)
    try:
        yield
    finally:
        quietly(changed.disable)


@pytest.fixture
def server(aiosmtpd: Start) -> AiosmtpdServer:
    """A server without TLS and login that refuses nobody@example.org."""
    return aiosmtpd(refused={"nobody@example.org": "550 5.1.1 No such user", "later@example.org": "450 4.2.1 Later"})


@pytest.fixture
def backend(server: AiosmtpdServer) -> EmailBackend:
    """A backend in EMAIL_* mode, for that server."""
    return EmailBackend(host=server.host, port=server.port)


@pytest.fixture(
    params=["EMAIL", "SMTPBACKEND", pytest.param("MAILERS", marks=pytest.mark.skipif(not HAS_MAILERS, reason="6.1"))]
)
def configured(request: pytest.FixtureRequest) -> Iterator[Callable[..., EmailBackend]]:
    """Make the settings of one of the three modes from Django's option names, and a backend from them."""
    with ExitStack() as stack:

        def configure(**options: Any) -> EmailBackend:
            if request.param == "EMAIL":
                names = {"username": "EMAIL_HOST_USER", "password": "EMAIL_HOST_PASSWORD"}
                given = {names.get(name, f"EMAIL_{name.upper()}"): value for name, value in options.items()}
                stack.enter_context(email_settings(EMAIL_BACKEND=PATH, **given))
                return EmailBackend()
            if request.param == "SMTPBACKEND":
                given = {name.upper(): value for name, value in options.items()}
                stack.enter_context(email_settings(EMAIL_BACKEND=PATH, SMTPBACKEND=given))
                return EmailBackend()
            stack.enter_context(override_settings(MAILERS={"default": {"BACKEND": PATH, "OPTIONS": options}}))
            from django.core.mail import mailers

            made: EmailBackend = mailers.default
            return made

        yield configure


@pytest.fixture
def fired() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The signals that fired, by name, with what they carried."""
    found: list[tuple[str, dict[str, Any]]] = []
    receivers = {}
    for name in signals.SIGNALS:

        def receive(name: str = name, **carried: Any) -> None:
            found.append((name, carried))

        receivers[name] = receive
        signals.SIGNALS[name].connect(receive)
    yield found
    for name, receive in receivers.items():
        signals.SIGNALS[name].disconnect(receive)


def mail(*to: str, **options: Any) -> EmailMessage:
    """A message, to ann@example.org unless said otherwise."""
    return EmailMessage("Subject", "Body", "from@example.com", to or ["ann@example.org"], **options)
