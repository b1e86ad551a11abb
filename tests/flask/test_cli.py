"""``flask mail check``."""

from __future__ import annotations

import json
from collections.abc import Callable

from flask import Flask

from smtpbackend.testing import Play, ScriptedServer
from smtpbackend_flask import Mail


def app_for(server: ScriptedServer, **config: object) -> Flask:
    app = Flask("checked")
    app.config.update(MAIL_SERVER="127.0.0.1", MAIL_PORT=server.port, **config)
    Mail(app)
    return app


def test_all_is_well(smtp_server: Callable[..., ScriptedServer]) -> None:
    server = smtp_server(Play(extensions=("PIPELINING",)))
    runner = app_for(server).test_cli_runner()
    done = runner.invoke(args=["mail", "check", "--send-to", "bob@example.org"])
    assert done.exit_code == 0, done.output
    assert "✓ message" in done.output
    assert len(server.taken) == 1
    assert json.loads(runner.invoke(args=["mail", "check", "--json"]).output)[0]["ok"] is True


def test_what_fails_names_the_keys_of_the_app(smtp_server: Callable[..., ScriptedServer]) -> None:
    server = smtp_server(Play({"AUTH": "535 5.7.8 no"}, extensions=("AUTH PLAIN",)))
    app = app_for(server, MAIL_USERNAME="ann", MAIL_PASSWORD="hunter2")
    done = app.test_cli_runner().invoke(args=["mail", "check"])
    assert done.exit_code == 1
    assert "check MAIL_USERNAME and MAIL_PASSWORD" in " ".join(done.output.split())
    assert "hunter2" not in done.output


def test_commands_of_the_site_stay(smtp_server: Callable[..., ScriptedServer]) -> None:
    app = Flask("own")
    app.cli.command("mail")(lambda: print("mine"))
    Mail(app)
    assert app.test_cli_runner().invoke(args=["mail"]).output == "mine\n"
