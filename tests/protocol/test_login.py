"""Which mechanism follows which, over as many connections as it takes, and what is said of it in the end.

A server is played that answers each mechanism in one way, all of them in all combinations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from smtpbackend.errors import AuthenticationFailed, ConnectionLost, DeliveryError
from smtpbackend.protocol.authentication import Attempt
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.effects import Conversation, Now, Read, Write
from smtpbackend.protocol.sasl import Credentials
from smtpbackend.protocol.session import Session

CHALLENGE, CLEAR = "CRAM-MD5", ("PLAIN", "LOGIN")
ANSWERS = {
    "passes": b"235 2.7.0 welcome\r\n",
    "refuses": b"535 5.7.8 bad password\r\n",
    "refuses and hangs up": b"535 5.7.8 bad password\r\n",
    "refuses and says goodbye": b"535 5.7.8 bad password\r\n421 4.7.0 too many errors\r\n",
    "cannot tell": b"454 4.7.0 the database is down\r\n",
    "does not know it": b"504 5.5.4 unrecognized\r\n",
    "finds it too weak": b"534 5.7.9 too weak\r\n",
    "hangs up": b"",
    "says goodbye": b"421 4.3.2 going down\r\n",
}
JUDGED = ("refuses", "refuses and hangs up", "refuses and says goodbye")


class PlayedServer:
    """Answers each mechanism as ``ways`` has it. ``verdicts``: for which it judged the password, on all connections."""

    def __init__(self, ways: dict[str, str]) -> None:
        self.ways = ways
        self.verdicts: list[str] = []
        self.asked: list[str] = []
        self.connections = 0
        self._begin()

    def _begin(self) -> None:
        self._out: list[bytes] = []
        self._closed = False
        self._left = 0  # answers to challenges that are still to come
        self._mechanism = ""

    def hear(self, line: bytes) -> None:
        if self._closed:
            return
        if line.startswith(b"AUTH "):
            self._mechanism = line.split()[1].decode()
            self.asked.append(self._mechanism)
            self._left = {"CRAM-MD5": 1, "LOGIN": 2}.get(self._mechanism, 0)
        else:
            self._left -= 1
        way = self.ways[self._mechanism]
        if self._left and way not in ("does not know it", "finds it too weak"):
            self._out.append(b"334 YQ==\r\n")
            return
        if way in JUDGED:
            self.verdicts.append(self._mechanism)
        self._closed = way in ("hangs up", "says goodbye", "refuses and hangs up", "refuses and says goodbye")
        self._out.append(ANSWERS[way])

    def talk(self, conversation: Conversation[None]) -> None:
        """Carry a conversation on over a new connection."""
        self.connections += 1
        self._begin()
        answer: Any = None
        try:
            while True:
                step = conversation.send(answer)
                answer = None
                if isinstance(step, Write):
                    self.hear(bytes(step.data))
                elif isinstance(step, Now):
                    answer = 0.0
                else:
                    assert isinstance(step, Read)
                    assert self._out or self._closed
                    answer = self._out.pop(0) if self._out else b""
        except StopIteration:
            return


def log_in(server: PlayedServer, verified: bool = True, mechanisms: list[str] | None = None) -> DeliveryError | None:
    """As a mailer does it: over one connection after the other for as long as the session says that it goes on."""
    attempt = Attempt()
    while True:
        session = Session("mx.example.com:587", "client.example.org")
        session.capabilities = Capabilities({"AUTH": " ".join(server.ways)})
        session.secure = verified
        login = session.login(Credentials("ann", "secret"), mechanisms, True, attempt)
        try:
            server.talk(login)
        except DeliveryError as error:
            assert session.broken
            if not session.login_goes_on:
                return error
        else:
            return None


def every_server() -> Iterator[dict[str, str]]:
    for ways in itertools.product(ANSWERS, repeat=3):
        yield dict(zip((CHALLENGE, *CLEAR), ways, strict=True))


@pytest.mark.parametrize("verified", [True, False])
def test_a_wrong_password_is_one_bad_login(verified: bool) -> None:
    """Two only where the first was a challenge-response, and what is sent in clear then goes to whom we know."""
    for ways in every_server():
        server = PlayedServer(ways)
        log_in(server, verified)
        allowed = [CHALLENGE, *CLEAR][: 2 if verified else 1]
        assert len(server.verdicts) <= len(allowed), ways
        if len(server.verdicts) == 2:
            assert server.verdicts[0] == CHALLENGE, ways
        if not verified and ways[CHALLENGE] != "passes":
            assert server.asked == [CHALLENGE], ways  # who failed it may be after the password


def test_each_mechanism_is_tried_once() -> None:
    """But for one that meets the end behind a refusal, and may not have been heard: it is the first on the next one."""
    for ways in every_server():
        server = PlayedServer(ways)
        log_in(server)
        twice = {mechanism for mechanism in server.asked if server.asked.count(mechanism) > 1}
        assert all(ways[mechanism] in ("hangs up", "says goodbye") for mechanism in twice), ways
        assert server.asked[0] not in twice, ways
        assert len(server.asked) <= 2 + len(set(server.asked)), ways
        assert server.connections <= len(server.asked), ways


def test_the_next_one_follows_where_that_is_no_second_bad_login() -> None:
    """A mechanism that passes is found, unless a password was refused or the server says goodbye before."""
    goes_on = {"cannot tell", "does not know it", "finds it too weak", "hangs up"}
    for ways in every_server():
        error = log_in(PlayedServer(ways))
        before = list(itertools.takewhile(lambda way: way != "passes", ways.values()))
        if len(before) < 3 and set(before) <= goes_on:
            assert error is None, ways
        if ways[CHALLENGE] in JUDGED and ways["PLAIN"] == "passes":
            assert error is None, ways
        if ways["PLAIN"] in JUDGED and ways[CHALLENGE] != "passes":
            assert error is not None, ways


def test_what_is_said_of_the_password_is_told() -> None:
    """A refused password is AuthenticationFailed with that reply, whatever else was said, and not to be tried again."""
    for ways in every_server():
        server = PlayedServer(ways)
        error = log_in(server)
        if error is None:
            continue
        told = [ways[mechanism] for mechanism in server.asked]
        if server.verdicts and "cannot tell" not in told:
            assert isinstance(error, AuthenticationFailed), ways
            assert not isinstance(error, ConnectionError)
            assert not error.is_transient
            assert error.smtp_code == 535
        elif "cannot tell" in told:
            assert isinstance(error, AuthenticationFailed), ways
        elif told[-1] in ("hangs up", "says goodbye") and not server.verdicts:
            assert isinstance(error, ConnectionLost), ways
            assert error.is_transient
        for mechanism, way in zip(server.asked, told, strict=True):
            if isinstance(error, AuthenticationFailed) and way != "says goodbye":
                assert f"{mechanism}: " in str(error), ways


def test_the_order_of_the_setting_is_kept_and_its_first_refusal_counts() -> None:
    server = PlayedServer({"LOGIN": "refuses", "PLAIN": "passes", "CRAM-MD5": "passes"})
    assert isinstance(log_in(server, mechanisms=["LOGIN", "PLAIN", "CRAM-MD5"]), AuthenticationFailed)
    assert server.asked == ["LOGIN"]


def test_digest_md5_is_used_where_it_is_asked_for() -> None:
    """It is historic (RFC 6331); servers that want its security layer answer 500 to MAIL."""
    server = PlayedServer({"DIGEST-MD5": "passes", "PLAIN": "passes"})
    assert log_in(server) is None
    assert server.asked == ["PLAIN"]
    server = PlayedServer({"DIGEST-MD5": "does not know it", "PLAIN": "passes"})
    assert log_in(server, mechanisms=["DIGEST-MD5", "PLAIN"]) is None
    assert server.asked == ["DIGEST-MD5", "PLAIN"]
