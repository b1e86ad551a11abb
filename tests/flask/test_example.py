"""docs/examples/flask_app, through its test client and a real server."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask

from tests.flask.conftest import parsed
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.ports import free_ports

PATH = Path(__file__).parents[2] / "docs" / "examples" / "flask_app" / "app.py"
NOTE = {"subject": "Deployed", "text": "1 < 2 is live."}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_flask_app", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # Flask looks for its templates beside it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(aiosmtpd: Callable[..., AiosmtpdServer]) -> AiosmtpdServer:
    return aiosmtpd(refused={"bob@example.com": "550 5.1.1 No such user"})


@pytest.fixture
def app(example: ModuleType, server: AiosmtpdServer) -> Iterator[Flask]:
    app: Flask = example.create_app({"MAIL_SERVER": server.host, "MAIL_PORT": server.port})
    yield app
    app.extensions["mail"].close()


def post(app: Flask, **note: Any) -> Any:
    return app.test_client().post("/notify", json={**NOTE, **note})


def test_the_answer_tells_what_became_of_each_recipient(app: Flask, server: AiosmtpdServer) -> None:
    """One refused, the others got it: text and HTML."""
    answer = post(app, recipients=["Ann <ann@example.com>", "bob@example.com"])
    assert answer.status_code == 200
    assert {address: one["status"] for address, one in answer.json["recipients"].items()} == {
        "ann@example.com": "accepted",
        "bob@example.com": "rejected",
    }
    assert answer.json["recipients"]["bob@example.com"]["said"] == "550 5.1.1 No such user"
    found = parsed(server.arrived[0])
    assert (found["From"], found["Subject"]) == ("Notifier <notifier@example.com>", "Deployed")
    assert found["Message-ID"] == answer.json["message_id"]
    plain, html = found.get_body(("plain",)), found.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert plain.get_content().startswith("1 < 2 is live.")
    assert "1 &lt; 2 is live." in html.get_content()


def test_nobody_accepted(app: Flask) -> None:
    """502, and still an answer for each recipient."""
    answer = post(app, recipients=["bob@example.com"])
    assert answer.status_code == 502
    assert answer.json["recipients"]["bob@example.com"]["status"] == "rejected"


def test_bad_requests(app: Flask, server: AiosmtpdServer) -> None:
    """400 names what is wrong, and nobody is written to."""
    assert post(app, recipients=["ann@example.com\r\n"]).json["field"] == "recipients"
    assert post(app, recipients=[]).status_code == 400
    assert post(app, recipients=["ann@example.com"], subject="a\nb").json["field"] == "subject"
    assert post(app).json == {"error": "'recipients' is missing"}
    assert server.connections == 0


def test_no_server(example: ModuleType) -> None:
    """503: try again later."""
    (port,) = free_ports(1)
    app = example.create_app({"MAIL_PORT": port})
    answer = post(app, recipients=["ann@example.com"])
    assert answer.status_code == 503
    assert answer.json["recipients"]["ann@example.com"]["status"] == "deferred"


def test_settings_from_the_environment(
    example: ModuleType, server: AiosmtpdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLASK_MAIL_* and FLASK_SMTPBACKEND_*."""
    monkeypatch.setenv("FLASK_SMTPBACKEND_SERVERS", f'["smtp://{server.host}:{server.port}"]')
    monkeypatch.setenv("FLASK_MAIL_DEFAULT_SENDER", "env@example.com")
    app = example.create_app()
    assert post(app, recipients=["ann@example.com"]).status_code == 200
    assert server.arrived[0].sender == "env@example.com"
    app.extensions["mail"].close()
