"""No secret of an app's configuration is shown where something fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from smtpbackend.errors import AuthenticationFailed
from smtpbackend.testing import CUT, SILENCE, Play, ScriptedServer
from smtpbackend_flask import Mail, Message
from tests.canaries import assert_unseen, everything_about

PASSWORD = "Pw-zX8kQv2Lm9tRbYw"


def told(action: Callable[[], Any]) -> list[str]:
    """All that hangs on the error that it raises."""
    try:
        action()
    except Exception as error:
        return [*everything_about(error)]
    raise AssertionError("nothing failed")


@pytest.mark.parametrize("answer", [SILENCE, CUT, f"535 5.7.8 {PASSWORD}"], ids=["silence", "cut", "echo"])
def test_a_login_that_failed(smtp_server: Callable[..., ScriptedServer], answer: Any) -> None:
    server = smtp_server(Play({"AUTH": answer}, ("AUTH PLAIN LOGIN",)))
    app = Flask("app")
    app.config.update(MAIL_SERVER=server.host, MAIL_PORT=server.port, MAIL_TIMEOUT=0.3)
    app.config.update(MAIL_USERNAME="ann", MAIL_PASSWORD=PASSWORD, MAIL_DEFAULT_SENDER="app@example.com")
    mail = Mail(app)
    with app.app_context():
        texts = told(lambda: mail.send(Message("Hi", recipients=["ann@example.org"], body="Hello")))
        texts += told(lambda: mail.connect().configure_host())
        (receipt,) = mail.connect().send_many([Message("Hi", recipients=["ann@example.org"], body="Hello")])
    assert_unseen((PASSWORD,), [*texts, repr(receipt), *everything_about(receipt.error)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"SMTPBACKEND_TIMEOUT": "soon"},
        {"SMTPBACKEND_PASSWROD": PASSWORD},
        {"SMTPBACKEND_SERVERS": f"smtp://ann:{PASSWORD}#@mx.example.com"},
        {"SMTPBACKEND_PROXY": f"gopher://ann:{PASSWORD}@mx.example.com"},
        {"SMTPBACKEND_CA_FILE": "/nowhere.pem"},
        {"MAIL_USE_TLS": True, "MAIL_USE_SSL": True},
        {"MAIL_DEBUG": "perhaps"},
    ],
)
def test_a_setting_that_cannot_work(wrong: dict[str, Any]) -> None:
    app = Flask("app")
    app.config.update(MAIL_SERVER="mx.example.com", MAIL_USERNAME="ann", MAIL_PASSWORD=PASSWORD, **wrong)
    texts = told(lambda: Mail(app)) + told(lambda: Mail().init_app(app))
    texts += told(lambda: Mail().init_mail({**app.config}))
    assert_unseen((PASSWORD,), texts)


def test_a_token_needs_no_password_beside_it(smtp_server: Callable[..., ScriptedServer]) -> None:
    server = smtp_server(Play({"AUTH": "535 5.7.8 no"}, ("AUTH XOAUTH2",)))
    app = Flask("app")
    app.config.update(MAIL_SERVER=server.host, MAIL_PORT=server.port, MAIL_USERNAME="ann", SMTPBACKEND_TOKEN=PASSWORD)
    mail = Mail(app)
    with app.app_context(), pytest.raises(AuthenticationFailed, match="XOAUTH2: 535"):
        mail.connect().configure_host()
