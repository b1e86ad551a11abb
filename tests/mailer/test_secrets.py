"""No secret leaks: not into a log, a transcript, a repr or an error."""

from __future__ import annotations

import base64
import copy
import logging
import pickle
import traceback
from typing import Any

import pytest

from smtpbackend import Server
from smtpbackend.delivery.connecting import open_session
from smtpbackend.delivery.pooling import Connection, new_session
from smtpbackend.delivery.transcript import transcript
from smtpbackend.errors import AuthenticationFailed, InvalidSetting, SMTPError
from smtpbackend.testing import CUT, SILENCE, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.tls import Certificates

PASSWORD = "tr0ub4dor&3-geheim"
CRAM = "<1896.697170952@mx.example.com>"


def forms() -> list[str]:
    """The password as it might be written somewhere."""
    import hmac

    digest = hmac.new(PASSWORD.encode(), CRAM.encode(), "md5").hexdigest()
    encoded = [PASSWORD, f"\0ann\0{PASSWORD}", f"ann {digest}"]
    return [
        PASSWORD,
        PASSWORD.replace("&", "%26"),
        digest,
        PASSWORD.encode().hex(),
        *(base64.b64encode(text.encode()).decode().rstrip("=") for text in encoded),
    ]


def assert_hidden(*texts: object) -> None:
    for text in texts:
        for form in forms():
            assert form not in str(text)


def everything_about(error: BaseException | None, seen: set[int] | None = None) -> list[str]:
    """An error with all that hangs on it: causes, contexts, receipt, arguments, as text, repr, pickle and traceback."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return []
    seen.add(id(error))
    texts = [str(error), repr(error), repr(error.args), "".join(traceback.format_exception(error))]
    texts += [f"{name}={value!r}" for name, value in vars(error).items()]
    if isinstance(error, SMTPError):
        texts.append(repr(pickle.loads(pickle.dumps(copy.copy(error))).__dict__))
        texts.append(pickle.dumps(error, protocol=0).decode("latin-1"))
        if error.receipt is not None:
            for outcome in error.receipt.outcomes:
                texts += everything_about(outcome.error, seen)
            texts += everything_about(error.receipt.error, seen)
    return texts + everything_about(error.__cause__, seen) + everything_about(error.__context__, seen)


def said(password: str) -> dict[str, Any]:
    """Ways in which a login can go; some servers repeat what they were told."""
    return {
        "accepted": "235 2.7.0 welcome",
        "refused": "535 5.7.8 Error: authentication failed",
        "later": "454 4.7.0 Temporary authentication failure",
        "echo": f"535 5.7.8 {password} is not the password",
        "echo base64": lambda heard: f"535 5.7.8 I do not like {heard}",
        "cut": CUT,
        "silent": SILENCE,
        "closing": "421 4.3.2 closing",
        "nonsense": b"what?\r\n",
        "echo nonsense": lambda heard: f"{heard}\r\n".encode(),
        "echo in two lines": lambda heard: f"535-5.7.8 {heard}\n435 {password}",
        "more": "334 bW9yZQ==",
    }


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("how", said(""))
def test_a_login_leaves_no_secret_anywhere(
    twin: Twin, scripted: Scripted, caplog: pytest.LogCaptureFixture, mechanism: str, how: str
) -> None:
    server = scripted(Play({"AUTH": said(PASSWORD)[how]}, (f"AUTH {mechanism}", "PIPELINING")))
    told: list[Any] = []
    mailer = twin(
        Server(server.host, server.port, tls="none", username="ann", password=PASSWORD, timeout={"reply": 2.0}),
        listeners=[told.append],
    )
    with caplog.at_level(logging.DEBUG):
        try:
            told.append(mailer.send(hello()))
        except SMTPError as error:
            told += everything_about(error)
        else:
            assert how == "accepted"
    mechanism_line = f"> AUTH {mechanism}"
    wire = [record.getMessage() for record in caplog.records if record.name == "smtpbackend.wire"]
    assert any(mechanism_line in line for line in wire)
    assert any(line.endswith("***") for line in wire)
    assert_hidden(*told, *(repr(event) for event in told))
    assert_hidden(caplog.text, *(vars(record) for record in caplog.records), mailer.raw, mailer.raw.configuration)


def test_the_transcript_tells_the_dialogue(
    twin: Twin, scripted: Scripted, ca: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted(Play(extensions=("STARTTLS", "AUTH LOGIN")), certificate="server")
    mailer = twin(
        Server("127.0.0.1", server.port, tls="required", ca_file=str(ca.ca_file), username="ann", password=PASSWORD)
    )
    with caplog.at_level(logging.DEBUG, "smtpbackend.wire"):
        mailer.send(hello(text="the content is nobody's business\n"))
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.startswith(server.name + " ") for line in lines)
    short = [line.removeprefix(server.name + " ") for line in lines]
    size = len(server.handed_over[0].content)
    assert [line for line in short if line.startswith(">")] == [
        f"> {server.commands[0]}",
        "> STARTTLS",
        f"> {server.commands[0]}",
        "> AUTH LOGIN",
        "> ***",
        "> ***",
        "> MAIL FROM:<ann@example.org>",
        "> RCPT TO:<bob@example.com>",
        "> DATA",
        f"> <{size} octets>",
        "> .",
    ]
    assert short[0] == "< 220 mx.example.com ESMTP ready"
    assert "business" not in caplog.text
    assert {vars(record)["server"] for record in caplog.records} == {server.name}


def test_nobody_listens_and_nothing_is_written(
    twin: Twin, scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted()
    with caplog.at_level(logging.INFO, "smtpbackend.wire"):
        twin(server.url).send(hello())
    assert caplog.records == []


def test_reprs_hide_it(twin: Twin) -> None:
    url = f"smtp://ann:{PASSWORD.replace('&', '%26')}@smtp.example.com"
    mailer = twin(url).raw
    [server] = mailer.configuration.servers
    assert server.password == PASSWORD
    assert_hidden(mailer, repr(mailer), server, repr(server), server.name, repr(server.login), mailer.configuration)
    assert_hidden(vars(mailer), getattr(mailer, "_route", None), repr(getattr(mailer, "_pool", None)))
    session = new_session(server, "app.example.org", "192.0.2.1", "192.0.2.2", transcript(server))
    connection = Connection(server, None, session)
    assert_hidden(repr(session), session, repr(connection), repr(open_session(connection)), vars(connection))


@pytest.mark.parametrize(
    "settings",
    [
        {"servers": f"smtp://ann:{PASSWORD}@smtp.example.com:port"},
        {"servers": f"http://ann:{PASSWORD}@smtp.example.com"},
        {"servers": f"smtp://ann:{PASSWORD}@smtp.example.com/path"},
        {"servers": f"smtp://ann:{PASSWORD}/x@smtp.example.com"},
        {"servers": f"smtp://ann:{PASSWORD}#x@smtp.example.com"},
        {"servers": f"smtp://ann:{PASSWORD}?x@smtp.example.com"},
        {"servers": f"smtp://ann:{PASSWORD}[@smtp.example.com"},
        {"servers": f"smtp://ann:{PASSWORD}@smtp.example.com?nonsense"},
        {"servers": f"smtp://ann:{PASSWORD}@smtp.example.com?tls=perhaps"},
        {"servers": f"ann:{PASSWORD}@smtp.example.com"},
        {"servers": [{"host": "smtp.example.com", "username": "ann", "password": PASSWORD, "port": 0}]},
        {"host": "smtp.example.com", "username": "ann", "password": PASSWORD.encode()},
        {"host": "smtp.example.com", "username": "ann", "password": PASSWORD + "\0"},
        {"host": "smtp.example.com", "username": "ann", "password": [PASSWORD]},
        {"host": "smtp.example.com", "username": "ann", "password": PASSWORD, "tls": "perhaps"},
        {"host": "smtp.example.com", "username": "ann", "password": PASSWORD, "ca_file": "/nonexistent.pem"},
    ],
)
def test_a_bad_setting_is_told_without_it(twin: Twin, settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting) as caught:
        twin(**settings)
    assert_hidden(str(caught.value), repr(caught.value), *map(repr, (caught.value.__cause__, caught.value.args)))


def test_the_error_of_a_refused_login_names_the_user(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play({"AUTH": "535 5.7.8 bad credentials"}, ("AUTH PLAIN CRAM-MD5",)))
    with pytest.raises(AuthenticationFailed, match=r"'ann'.*CRAM-MD5: 535.*PLAIN: 535.*check username and password"):
        twin(server.url, username="ann", password=PASSWORD).send(hello())
