"""Flask apps whose mail goes to a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast

import pytest
from flask import Flask

from smtpbackend_flask import Mail, State
from tests.servers.aiosmtpd_server import AiosmtpdServer, Arrived

MakeApp = Callable[..., tuple[Flask, Mail]]


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Make an app and its Mail: `make_app(server, MAIL_DEFAULT_SENDER="app@example.com")`. Closed after the test."""
    made: list[Flask] = []

    def make(server: AiosmtpdServer | None = None, mail: Mail | None = None, **config: Any) -> tuple[Flask, Mail]:
        app = Flask(f"app{len(made)}")
        if server is not None:
            app.config.update(MAIL_SERVER=server.host, MAIL_PORT=server.port)
        app.config.update(MAIL_DEFAULT_SENDER="app@example.com")
        app.config.update(config)
        mail = mail or Mail()
        mail.init_app(app)
        made.append(app)
        return app, mail

    yield make
    for app in made:
        cast(State, app.extensions["smtpbackend"]).close()


def parsed(arrived: Arrived) -> EmailMessage:
    """What arrived, as the email package reads it."""
    return message_from_bytes(arrived.content, policy=policy.default)
