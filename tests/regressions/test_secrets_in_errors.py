"""Places where a password once came to light."""

from __future__ import annotations

import base64
import logging
import traceback

import pytest

from smtpbackend import Mailer
from smtpbackend.errors import AuthenticationFailed, InvalidSetting, ProtocolViolation
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello

SECRET = "sEcret-0"
ENCODED = base64.b64encode(b"\0ann\0" + SECRET.encode()).decode()


def test_a_url_without_its_scheme_does_not_show_its_password() -> None:
    """It is taken for a host name, and refused."""
    with pytest.raises(InvalidSetting) as caught:
        Mailer(f"ann:{SECRET}@smtp.example.com")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_echo_of_the_login_that_is_no_reply_is_not_quoted(twin: Twin, scripted: Scripted) -> None:
    """A terminal server echoes what it is told."""
    server = scripted({"AUTH": f"AUTH PLAIN {ENCODED}"})
    server.plays = (server.plays[0].__class__(server.plays[0].answers, ("AUTH PLAIN",)),)
    with pytest.raises(ProtocolViolation) as caught:
        twin(server.url, username="ann", password=SECRET).send(hello())
    error: BaseException | None = caught.value
    while error is not None:
        assert ENCODED not in str(error)
        error = error.__cause__ or error.__context__


def test_an_echo_as_a_challenge_stays_out_of_the_transcript(
    twin: Twin, scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """A challenge is decoded as it came, and shown without secrets."""
    caplog.set_level(logging.DEBUG, "smtpbackend.wire")
    server = scripted({"AUTH": f"334 {ENCODED}"})
    server.plays = (server.plays[0].__class__(server.plays[0].answers, ("AUTH PLAIN",)),)
    with pytest.raises((AuthenticationFailed, ProtocolViolation)) as caught:
        twin(server.url, username="ann", password=SECRET).send(hello())
    assert "AUTH PLAIN ***" in caplog.text
    assert ENCODED not in caplog.text + str(caught.value)
