"""``manage.py smtpcheck``."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from smtpbackend.testing import Play, ScriptedServer
from tests.django.conftest import email_settings
from tests.django.test_checks import mailers_only

PATH = "smtpbackend_django.EmailBackend"


def checked(*aliases: str, **options: Any) -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("smtpcheck", *aliases, stdout=out, no_color=True, **options)
    except SystemExit as ended:
        return int(str(ended.code)), out.getvalue()
    return 0, out.getvalue()


@pytest.fixture
def server(smtp_server: Callable[..., ScriptedServer]) -> ScriptedServer:
    return smtp_server(Play(extensions=("PIPELINING", "AUTH PLAIN")))


def test_the_server_of_email_settings(server: ScriptedServer) -> None:
    with email_settings(EMAIL_BACKEND=PATH, EMAIL_HOST="127.0.0.1", EMAIL_PORT=server.port):
        code, out = checked(send_to="bob@example.org")
    assert code == 0
    assert out.splitlines()[0] == f"EMAIL_BACKEND: {server.name}"
    assert "✓ message" in out
    assert len(server.taken) == 1


def test_what_fails_names_djangos_settings(smtp_server: Callable[..., ScriptedServer]) -> None:
    server = smtp_server(Play({"AUTH": "535 5.7.8 no"}, extensions=("AUTH PLAIN",)))
    credentials = {"EMAIL_HOST_USER": "ann", "EMAIL_HOST_PASSWORD": "hunter2"}
    with email_settings(EMAIL_BACKEND=PATH, EMAIL_HOST="127.0.0.1", EMAIL_PORT=server.port, **credentials):
        code, out = checked()
    assert code == 1
    assert "✗ login" in out
    assert "check EMAIL_HOST_USER and EMAIL_HOST_PASSWORD" in " ".join(out.split())
    assert "hunter2" not in out


def test_json(server: ScriptedServer) -> None:
    with email_settings(EMAIL_BACKEND=PATH, EMAIL_HOST="127.0.0.1", EMAIL_PORT=server.port):
        code, out = checked(json=True)
    assert code == 0
    assert json.loads(out)[0]["server"] == server.name


def test_settings_that_cannot_work_and_another_backend_are_told() -> None:
    with (
        email_settings(EMAIL_BACKEND=PATH, EMAIL_USE_TLS=True, EMAIL_USE_SSL=True),
        pytest.raises(CommandError) as told,
    ):
        checked()
    assert told.value.returncode == 2
    other = "django.core.mail.backends.dummy.EmailBackend"
    with email_settings(EMAIL_BACKEND=other), pytest.raises(CommandError, match="not of smtpbackend_django"):
        checked()


@mailers_only
def test_each_mailer_or_those_that_are_named(server: ScriptedServer) -> None:
    mailers = {
        "default": {"BACKEND": PATH, "OPTIONS": {"host": "127.0.0.1", "port": server.port}},
        "other": {"BACKEND": "django.core.mail.backends.dummy.EmailBackend"},
        "news": {"BACKEND": PATH, "OPTIONS": {"host": "127.0.0.1", "port": 1}},
    }
    with override_settings(MAILERS=mailers):
        code, out = checked()
        assert code == 1
        told = " ".join(out.split())
        assert [line for line in out.splitlines() if not line.startswith(" ")] == [
            f"MAILERS['default']: {server.name}",
            "MAILERS['news']: 127.0.0.1:1",
        ]
        code, out = checked(json=True)
        assert [(one["mailer"], one["ok"]) for one in json.loads(out)] == [
            ("MAILERS['default']", True),
            ("MAILERS['news']", False),
        ]
        assert 'MAILERS["news"]["OPTIONS"]["port"]' in told
        assert checked("default")[0] == 0
        with pytest.raises(CommandError, match=r"other.*not of smtpbackend_django"):
            checked("other")
        with pytest.raises(CommandError, match="nowhere"):
            checked("nowhere")
