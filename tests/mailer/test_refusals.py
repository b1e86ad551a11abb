"""What a send tells of a refusal: what the server said, which server, and what to do about it, each once."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend.errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionLost,
    ContentRefused,
    HelloRefused,
    NotSupported,
    RecipientsRefused,
    SenderRefused,
    SMTPError,
)
from smtpbackend.testing import CUT, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello

LOGIN = {"username": "ann", "password": "secret"}
SMALL = ("PIPELINING", "8BITMIME", "SIZE 100")

TOLD: list[tuple[Play, dict[str, Any], Any, type[SMTPError], str]] = [
    (
        Play({"": "554 no mail here"}), {}, hello(), ConnectFailed,
        "SERVER refused the connection: 554 no mail here; it takes no mail from this machine: check host and port in "
        "the URL",
    ),
    (
        Play({"AUTH": "535-5.7.8 Username and Password not accepted.\n535 5.7.8 /?p=BadCredentials"}, ("AUTH PLAIN",)),
        LOGIN, hello(), AuthenticationFailed,
        "SERVER refused the login of 'ann' (PLAIN: 535 5.7.8 Username and Password not accepted. /?p=BadCredentials); "
        "it wants an app password, made in the security settings of the account: set password to one, or log in with "
        "OAuth (token)",
    ),
    (
        Play({"AUTH": "535 5.7.8 no"}, ("AUTH PLAIN",)), LOGIN, hello(), AuthenticationFailed,
        "SERVER refused the login of 'ann' (PLAIN: 535 5.7.8 no); check username and password",
    ),
    (
        Play({"MAIL": "530 5.7.0 Authentication required"}), {}, hello(), SenderRefused,
        "SERVER refused mail from <ann@example.org>: 530 5.7.0 Authentication required; it wants a login first: set "
        "username and password",
    ),
    (
        Play({"MAIL": "530 5.7.0 Must issue a STARTTLS command first"}), {}, hello(), SenderRefused,
        "SERVER refused mail from <ann@example.org>: 530 5.7.0 Must issue a STARTTLS command first; it wants TLS "
        "first: set smtp:// with tls=required in the URL",
    ),
    (
        Play({"MAIL": "421 4.3.2 closing"}), {}, hello(), ConnectionLost,
        "SERVER closed the connection: 421 4.3.2 closing; send again later",
    ),
    (
        Play({"AUTH": ("535 5.7.3 Authentication unsuccessful", CUT)}, ("AUTH PLAIN",)), LOGIN, hello(),
        AuthenticationFailed,
        "SERVER refused the login of 'ann' (PLAIN: 535 5.7.3 Authentication unsuccessful); check username and "
        "password; where they are right, Microsoft 365 takes no password for this mailbox: log in with OAuth (token), "
        "or have its administrator allow SMTP AUTH",
    ),
    (
        Play({"EHLO": ("550 5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org", CUT)}), {}, hello(),
        HelloRefused,
        "SERVER refused EHLO with 550 5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org; the IP address of "
        "this machine is on a list of senders of spam: have it taken off, or set host in the URL to a server that you "
        "log in to",
    ),
    (
        Play({"RCPT": "550 5.1.1 who?"}), {}, hello(), RecipientsRefused,
        "SERVER refused bob@example.com (550 5.1.1 who?); there is no such mailbox: check the address",
    ),
    (
        Play({"RCPT": "550 5.9.9 no"}), {}, hello(), RecipientsRefused,
        "SERVER refused bob@example.com (550 5.9.9 no)",
    ),
    (
        Play({"RCPT": "450 4.2.0 Greylisted"}), {}, hello("bob@example.com", "carl@example.com"), RecipientsRefused,
        "SERVER refused bob@example.com (450 4.2.0 Greylisted), carl@example.com (450 4.2.0 Greylisted); it delays "
        "senders that it does not know yet, and nothing is wrong: send again in some minutes",
    ),
    (
        Play({"RCPT": "554 5.7.1 Relay access denied"}), {"recipient_policy": "all"}, hello(), RecipientsRefused,
        "SERVER refused bob@example.com (554 5.7.1 Relay access denied); it relays mail only for those it knows: set "
        "username and password, or host in the URL to the server of your provider; with recipient_policy='all' no "
        "recipient was sent the message",
    ),
    (
        Play({".": "550 5.7.60 SMTP; Client does not have permissions to send as this sender"}), {}, hello(),
        ContentRefused,
        "SERVER refused the content: 550 5.7.60 SMTP; Client does not have permissions to send as this sender; the "
        "login may not send as this sender: use its own address as From, and as the sender of the envelope "
        "(bounce_address), or give it the right to send as the other",
    ),
    (
        Play({"MAIL": "552 5.3.4 Message size exceeds fixed limit"}), {}, hello(), SenderRefused,
        "SERVER refused mail from <ann@example.org>: 552 5.3.4 Message size exceeds fixed limit; send less: smaller "
        "attachments, or links to them",
    ),
    (
        Play(extensions=SMALL), {}, hello(text="x" * 1200), NotSupported,
        "the content has OCTETS octets, and SERVER takes at most 100 (SIZE); send less: smaller attachments, or links "
        "to them",
    ),
    (
        Play(extensions=("8BITMIME",)), {}, hello("josé@example.com"), NotSupported,
        "josé@example.com has a local part outside ASCII, and SERVER offers no SMTPUTF8; use an address in ASCII, or a "
        "server that offers it",
    ),
    (
        Play(), {"only_to": ["example.net"]}, hello(), RecipientsRefused,
        "bob@example.com is not in only_to, so that nothing was sent there",
    ),
    (
        Play({"RCPT": "550 5.1.1 who?"}), {"redirect_to": "dev@example.net"}, hello(), RecipientsRefused,
        "dev@example.net, to which redirect_to sends all mail, was refused (SERVER: 550 5.1.1 who?); there is no such "
        "mailbox: check the address",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("play", "settings", "message", "kind", "text"), TOLD, ids=[row[4][:60] for row in TOLD])
def test_one_server(
    twin: Twin,
    scripted: Scripted,
    play: Play,
    settings: dict[str, Any],
    message: Any,
    kind: type[SMTPError],
    text: str,
) -> None:
    server = scripted(play)
    with pytest.raises(kind) as caught:
        twin(server.url, **settings).send(message)
    octets = str(caught.value).partition(" has ")[2].partition(" octets")[0]
    assert str(caught.value) == text.replace("SERVER", server.name).replace("OCTETS", octets)


def test_of_several_servers_each_recipient_names_its_own(twin: Twin, scripted: Scripted) -> None:
    first = scripted(Play({"RCPT TO:<bob": "550 5.1.1 who?", "RCPT": "450 4.2.0 Greylisted"}))
    second = scripted(Play({"RCPT": "552 5.2.2 full"}))
    with pytest.raises(RecipientsRefused) as caught:
        twin(first.url, second.url).send(hello("bob@example.com", "carl@example.com"))
    assert str(caught.value) == (
        f"no recipient was accepted: bob@example.com ({first.name}: 550 5.1.1 who?), "
        f"carl@example.com ({second.name}: 552 5.2.2 full); there is no such mailbox: check the address; the mailbox "
        "is full: send again when its owner has made room"
    )


def test_each_server_has_its_own_spelling(twin: Twin, scripted: Scripted) -> None:
    server = scripted(Play({"RCPT": "554 5.7.1 Relay access denied"}))
    with pytest.raises(RecipientsRefused, match=r'or servers\["host"\] to the server of your provider$'):
        twin({"host": "127.0.0.1", "port": server.port}).send(hello())
