"""The downgrade table of docs/topics/tls.md is true, cell by cell, for both mailers; and no secret leaves in any."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from smtpbackend import Server
from smtpbackend.errors import AuthenticationFailed, DeliveryError, InvalidSetting, ProtocolViolation, TLSFailed
from smtpbackend.testing import CUT, Play, ScriptedServer, when_heard
from tests.mailer.conftest import Scripted
from tests.mailer.test_tls import PASSWORD, SECRETS
from tests.mailer.twins import Twin, hello
from tests.servers.tls import Certificates, Kind

PAGE = Path(__file__).parents[2] / "docs" / "topics" / "tls.md"
LOGINS = {"Without a login:": False, "With a login:": True}
AUTH = "AUTH PLAIN LOGIN"
OFFER = ("PIPELINING", "STARTTLS", AUTH)
POLICIES: dict[str, dict[str, Any]] = {
    "`none`": {"tls": "none"},
    "`opportunistic`": {"tls": "opportunistic"},
    "`opportunistic`, `insecure`": {"tls": "opportunistic", "on_tls_failure": "insecure"},
    "`opportunistic`, `secure`": {"tls": "opportunistic", "on_tls_failure": "secure"},
    "`required`": {"tls": "required"},
    "`implicit`": {"tls": "implicit"},
}


class Trouble(NamedTuple):
    """What a server does under STARTTLS, and one that listens for implicit TLS; its certificate, and our pins."""

    play: Play
    implicit: Play = Play(extensions=(AUTH,), implicit_tls=True)
    certificate: Kind = "server"
    pins: tuple[str, ...] = ()
    asks: bool = False  # for the client's certificate


GOOD = Play(extensions=OFFER)
IN_CLEAR = Play({"": when_heard(b"220 mx.example.com ESMTP\r\n")}, extensions=(AUTH,))
TROUBLES = {
    "none at all": Trouble(GOOD),
    "STARTTLS missing": Trouble(Play(extensions=("PIPELINING", AUTH)), IN_CLEAR),
    "STARTTLS refused": Trouble(Play({"STARTTLS": "454 4.7.0 TLS not available"}, extensions=OFFER), IN_CLEAR),
    # as a well-known firewall does it
    "STARTTLS stripped from EHLO": Trouble(Play(extensions=("PIPELINING", "XXXXXXXA", AUTH)), IN_CLEAR),
    "handshake cut": Trouble(Play({"STARTTLS": ("220 go ahead", CUT)}, extensions=OFFER), Play({"": CUT})),
    "wrong host": Trouble(GOOD, certificate="other_host"),
    "expired": Trouble(GOOD, certificate="expired"),
    "self-signed": Trouble(GOOD, certificate="self_signed"),
    "pinned otherwise": Trouble(GOOD, pins=("00" * 32,)),
    "client certificate wanted": Trouble(GOOD, asks=True),
    "octets injected after 220": Trouble(
        Play({"STARTTLS": b"220 go ahead\r\n250-injected\r\n250 AUTH PLAIN\r\n"}, extensions=OFFER), IN_CLEAR
    ),
}


def is_handshake(received: bytes) -> bool:
    """Whether that is nothing but TLS records of a handshake that came to nothing (RFC 8446 5.1)."""
    while received:
        kind, length = received[0], int.from_bytes(received[3:5], "big")
        if kind not in (21, 22) or len(received) < 5 + length:  # alert, handshake
            return False
        received = received[5 + length :]
    return True


def cells() -> dict[tuple[bool, str, str], str]:
    """What the page says: (with a login, trouble, policy) and the outcome."""
    section = PAGE.read_text(encoding="utf-8").split("## The downgrade table\n")[1].split("\n## ")[0]
    found = {}
    for title, login in LOGINS.items():
        heading, _, *rows = section.split(f"\n{title}\n\n")[1].split("\n\n")[0].splitlines()
        policies = [cell.strip() for cell in heading.strip("|").split("|")][1:]
        for row in rows:
            trouble, *outcomes = (cell.strip() for cell in row.strip("|").split("|"))
            found |= {(login, trouble, policy): said for policy, said in zip(policies, outcomes, strict=True)}
    return found


CELLS = cells()


def test_the_table_is_whole() -> None:
    """Each trouble, under each policy, with and without a login."""
    assert set(CELLS) == {
        (login, trouble, policy) for login in (False, True) for trouble in TROUBLES for policy in POLICIES
    }


def outcome(twin: Twin, server: ScriptedServer, settings: dict[str, Any]) -> str:
    try:
        receipt = twin(Server(server.host, server.port, **settings)).send(hello())
    except (DeliveryError, InvalidSetting) as error:
        kinds = (TLSFailed, AuthenticationFailed, ProtocolViolation, InvalidSetting)
        return next(kind.__name__ for kind in kinds if isinstance(error, kind))
    assert receipt.ok
    [speaker] = [speaker for speaker in server.speakers if speaker.taken]
    return "TLS" if speaker.secured else "clear"


@pytest.mark.parametrize(("login", "trouble", "policy"), CELLS)
def test_a_cell(
    twin: Twin,
    scripted: Scripted,
    ca: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    login: bool,
    trouble: str,
    policy: str,
) -> None:
    """What the page says happens, and no secret leaves but in the TLS of a server that was verified."""
    from smtpbackend.delivery import hostnames

    # Loopback seems to be far away. Only what an address means is changed, nothing that decides.
    monkeypatch.setattr(hostnames, "is_loopback", lambda host: False)
    what = TROUBLES[trouble]
    settings = {"ca_file": str(ca.ca_file), "pinned_sha256": what.pins, **POLICIES[policy]}
    if login:
        settings |= {"username": "ann", "password": PASSWORD}
    play = what.implicit if settings["tls"] == "implicit" else what.play
    server = scripted(play, certificate=what.certificate)
    if what.asks:
        server.ask_for_certificate(str(ca.ca_file))
    wanted = CELLS[login, trouble, policy]
    assert outcome(twin, server, settings) == wanted
    for speaker in server.speakers:
        if wanted == "TLS" and speaker.secured:
            assert (SECRETS[2] in speaker.received) is login
            continue
        assert not [secret for secret in SECRETS if secret in speaker.received]
        assert "AUTH" not in speaker.verbs
    if wanted not in ("TLS", "clear"):
        assert server.handed_over == []
        for speaker in server.speakers:
            # to who does not speak TLS a handshake is noise, with line ends where its random octets have them
            assert set(speaker.verbs) <= {"EHLO", "STARTTLS"} or is_handshake(speaker.received)
