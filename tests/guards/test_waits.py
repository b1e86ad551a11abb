"""Waits, counted between two real programs. Those of scripted servers are in `tests/mailer/test_ahead.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from smtpbackend.testing import EXTENSIONS, Play
from tests.conftest import missing_server
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.postfix import Postfix
from tests.servers.smtp_sink import SmtpSink
from tests.servers.tls import Certificates
from tests.servers.turns import Turns

THREE = ("ada@example.com", "bob@example.com", "carl@example.com")
HUNDRED = [hello(*THREE, subject=f"nr {number}") for number in range(100)]
EHLO = 1


@pytest.fixture(scope="module")
def smtp_sink() -> Iterator[SmtpSink]:
    if reason := SmtpSink.missing():
        missing_server(reason)
    with SmtpSink() as server:
        yield server


def turns_of_a_hundred(twin: Twin, port: int, quiet: float) -> int:
    """Turns behind EHLO for a hundred messages of three recipients over one connection."""
    with Turns(port, quiet) as relay:
        mailer = twin(relay.url)
        assert all(receipt.ok for receipt in mailer.send_many(HUNDRED))
        turns = relay.turns - EHLO
        mailer.close()
    return turns


def test_a_hundred_messages_to_postfix(twin: Twin, postfix: Postfix) -> None:
    """Probe and envelope, content and RSET, then a window at a time."""
    turns = turns_of_a_hundred(twin, postfix.plain_port, 0.15)
    print(f"{turns} turns")
    assert turns <= 12


@pytest.mark.exhaustive
def test_a_hundred_messages_to_smtp_sink(twin: Twin, smtp_sink: SmtpSink) -> None:
    """Without CHUNKING: the end of one content, and the group of the next message behind it."""
    turns = turns_of_a_hundred(twin, smtp_sink.port, 0.02)
    print(f"{turns} turns")
    assert turns <= 105


@pytest.mark.parametrize("extensions", [EXTENSIONS, (*EXTENSIONS, "CHUNKING")], ids=["DATA", "BDAT"])
def test_a_server_that_says_the_replies_of_a_group_one_by_one(
    twin: Twin, scripted: Scripted, extensions: tuple[str, ...]
) -> None:
    """Haraka: each leaves when the one before is acknowledged, and no more often do we wait for it."""
    waits = []
    for nagle in (False, True):
        server = scripted(Play(extensions=extensions, nagle=nagle), patience=0.05)
        mailer = twin(server.url, chunk_in_flight="probe")
        assert mailer.send(hello()).ok
        assert mailer.send(hello()).ok
        before = server.waits
        assert mailer.send(hello(*THREE)).ok
        waits.append(server.waits - before)
    assert waits == ([1, 1] if "CHUNKING" in extensions else [2, 2])


class Provider(NamedTuple):
    """What a server says of itself, and how often we wait for it.

    ``cold`` is a first message to three recipients, with the greeting, STARTTLS and the login; ``second`` and ``third``
    are single ones on the connection that was kept, ``ten`` is a list on it, and ``cold_ten`` one on a new connection.
    """

    greeting: str
    first_line: str
    extensions: tuple[str, ...]
    login: str
    cold: int
    second: int
    third: int
    ten: int
    cold_ten: int


PROVIDERS = {
    # greeting, EHLO, STARTTLS, TLS, EHLO, AUTH: 6; envelope and DATA, content: 2. The second has the probe in its
    # flight, the third goes as a chunk. A list: the first alone with RSET behind it, then a window of 9.
    "Postfix": Provider(
        "220 mail.example.com ESMTP Postfix",
        "mail.example.com",
        (
            *("PIPELINING", "SIZE 10240000", "VRFY", "ETRN", "AUTH PLAIN LOGIN", "ENHANCEDSTATUSCODES", "8BITMIME"),
            *("DSN", "SMTPUTF8", "CHUNKING"),
        ),
        "PLAIN",
        *(8, 2, 1, 2, 9),
    ),
    # how it answers a BDAT out of order is not known: no probe, so envelope and DATA, then content. In a list the
    # envelope of the next message leaves with the content of the one before.
    "Gmail": Provider(
        "220 smtp.gmail.com ESMTP 5b1f17b1804b1-4 - gsmtp",
        "smtp.gmail.com at your service, [192.0.2.1]",
        (
            *("SIZE 35882577", "8BITMIME", "AUTH LOGIN PLAIN XOAUTH2 PLAIN-CLIENTTOKEN OAUTHBEARER XOAUTH"),
            *("ENHANCEDSTATUSCODES", "PIPELINING", "CHUNKING", "SMTPUTF8"),
        ),
        "PLAIN",
        *(8, 2, 2, 12, 18),
    ),
    # punishes errors: no probe. It has no PLAIN: LOGIN takes two waits more
    "Microsoft 365": Provider(
        "220 AM0PR01CA0001.outlook.office365.com Microsoft ESMTP MAIL Service ready at Tue, 1 Sep 2026 12:00:00 +0000",
        "AM0PR01CA0001.outlook.office365.com Hello [192.0.2.1]",
        (
            *("SIZE 157286400", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES", "AUTH LOGIN XOAUTH2", "8BITMIME"),
            *("BINARYMIME", "CHUNKING", "SMTPUTF8"),
        ),
        "LOGIN",
        *(10, 2, 2, 12, 20),
    ),
    # neither PIPELINING nor CHUNKING: MAIL, three RCPT, DATA, content, each waited for
    "Amazon SES": Provider(
        "220 email-smtp.amazonaws.com ESMTP SimpleEmailService-d-ABCDEFGHI example",
        "email-smtp.amazonaws.com",
        ("8BITMIME", "SIZE 10485760", "AUTH PLAIN LOGIN", "Ok"),
        "PLAIN",
        *(12, 6, 6, 60, 66),
    ),
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_the_waits_for_a_provider(twin: Twin, scripted: Scripted, ca: Certificates, name: str) -> None:
    """As it greets and answers EHLO: TLS required, a login, messages to three recipients."""
    provider = PROVIDERS[name]
    after = [provider.first_line, *provider.extensions]
    before = [line for line in after if not line.startswith(("AUTH", "Ok"))] + ["STARTTLS"]
    hellos = ["\n".join(f"250{' ' if line is each[-1] else '-'}{line}" for line in each) for each in (before, after)]
    play = Play({"": provider.greeting, "EHLO": hellos})
    server = scripted(play, certificate="server", patience=0.05)
    url = f"smtp://127.0.0.1:{server.port}?tls=required"
    settings = {"username": "ann", "password": "secret", "ca_file": str(ca.ca_file)}
    mailer = twin(url, **settings)
    ten = [hello(*THREE, subject=f"nr {number}") for number in range(10)]
    waits = []
    for messages in ([ten[0]], [ten[0]], [ten[0]], ten):
        begun = server.waits
        receipts = [mailer.send(messages[0])] if len(messages) == 1 else mailer.send_many(messages)
        assert all(receipt.ok for receipt in receipts)
        waits.append(server.waits - begun)
    assert server.connections == 1
    begun = server.waits
    assert all(receipt.ok for receipt in twin(url, **settings).send_many(ten))
    waits.append(server.waits - begun)
    assert server.connections == 2
    print(name, waits)
    assert f"AUTH {provider.login}" in " ".join(server.commands)
    assert waits == list(provider[4:])
    assert all(speaker.commands.count("BDAT 1") == (name == "Postfix") for speaker in server.speakers)
