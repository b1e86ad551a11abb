"""Exim does what the other tests rely on, shown with the standard library's smtplib."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.servers.exim import Exim
from tests.servers.logins import log_in
from tests.servers.tls import Certificates

SENDER = "ann@example.org"
CONTENT = (
    b"Return-Path: <not@our.own>\r\nReceived: from before\r\nFrom: ann@example.org\r\nTo: bob@example.com\r\n"
    b"Bcc: secret@example.com\r\nSubject: Hello\r\n\r\n.dot\r\nFrom here\r\n\xc3\xa4\r\n"
)


@contextmanager
def connect(exim: Exim, mode: str) -> Iterator[smtplib.SMTP]:
    """Connect to the port of that TLS mode and say EHLO, inside TLS if there is one."""
    name, context = "client.example.com", exim.certificates.client_context()
    port = getattr(exim, f"{mode}_port")
    if mode == "tls":
        client: smtplib.SMTP = smtplib.SMTP_SSL(exim.host, port, name, timeout=20, context=context)
    else:
        client = smtplib.SMTP(exim.host, port, name, timeout=20)
    with client:
        client.ehlo()
        if mode == "starttls":
            assert not client.has_extn("auth")
            client.starttls(context=context)
            client.ehlo()
        yield client


@pytest.mark.parametrize(("mode", "protocol"), [("starttls", "esmtpsa"), ("tls", "esmtpsa"), ("plain", "esmtpa")])
def test_every_port_delivers_what_was_sent(exim: Exim, mode: str, protocol: str) -> None:
    with connect(exim, mode) as client:
        assert not client.has_extn("starttls")
        assert client.esmtp_features["auth"].split() == list(exim.mechanisms)
        for name in ("pipelining", "chunking", "smtputf8", "8bitmime", "dsn", "size"):
            assert client.has_extn(name)
        client.login(exim.user, exim.password)
        client.sendmail(SENDER, ["bob@example.com"], CONTENT, ["BODY=8BITMIME"])
    [mail] = exim.mail(wait_for=1)
    assert mail.content == CONTENT
    assert (mail.return_path, mail.delivered_to) == (SENDER, "bob@example.com")
    assert f"with {protocol} " in mail.received


@pytest.mark.parametrize("mechanism", Exim.mechanisms)
@pytest.mark.parametrize("mode", ["starttls", "tls", "plain"])
def test_every_mechanism_logs_in_and_refuses_a_wrong_password(exim: Exim, mode: str, mechanism: str) -> None:
    with connect(exim, mode) as client:
        assert log_in(client, mechanism, exim.user, exim.password)[0] == 235
    with connect(exim, mode) as client, pytest.raises(smtplib.SMTPAuthenticationError) as refused:
        log_in(client, mechanism, exim.user, "wrong")
    assert refused.value.smtp_code == 535


def test_refused_recipients_and_a_copy_for_each_other(exim: Exim) -> None:
    recipients = [
        "bob@example.com",
        "rejected@example.com",
        "later@example.com",
        "joe@example.org",
        "bob@elsewhere.net",
    ]
    with connect(exim, "plain") as client:
        refused = client.sendmail("", recipients, CONTENT)
    assert refused == {
        "rejected@example.com": (550, b"5.1.1 User unknown"),
        "later@example.com": (451, b"4.2.0 Mailbox busy"),
    }
    arrived = exim.mail(wait_for=2)
    assert {mail.delivered_to for mail in arrived} == {"bob@example.com", "joe@example.org"}
    assert {mail.return_path for mail in arrived} == {""}


@pytest.mark.parametrize("recipient", ["bob@xn--exmple-cua.com", "bob@exämple.com", "jürgen@example.com"])
def test_every_kind_of_address_arrives(exim: Exim, recipient: str) -> None:
    with connect(exim, "plain") as client:
        client.command_encoding = "utf-8"
        client.sendmail(SENDER, [recipient], CONTENT, ["SMTPUTF8"])
    [mail] = exim.mail(wait_for=1)
    assert mail.delivered_to == recipient


def test_many_messages_of_one_connection_are_delivered_at_once(exim: Exim) -> None:
    with connect(exim, "plain") as client:
        for _ in range(30):
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
    assert len(exim.mail(wait_for=30)) == 30
    exim.clear()
    assert exim.mail() == []


def test_a_second_instance_has_its_own_settings_and_mailbox(exim: Exim, ca: Certificates) -> None:
    with Exim(ca, size_limit=10_000, settings={"smtp_banner": "second.example.com ESMTP"}) as second:
        with smtplib.SMTP(timeout=20) as client:
            assert client.connect(second.host, second.plain_port) == (220, b"second.example.com ESMTP")
            client.ehlo()
            assert client.esmtp_features["size"] == "10000"
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        assert len(second.mail(wait_for=1)) == 1
        with pytest.raises(TimeoutError, match=r"1 of 2 mails.*\n(.*\n)*.*Completed"):
            second.mail(wait_for=2, timeout=0.1)
        folder = second._folder
    assert not folder.exists()
    assert exim.mail() == []


def test_a_mistake_in_the_settings_is_told(ca: Certificates, exim: Exim) -> None:
    with pytest.raises(RuntimeError, match="unknwon"), Exim(ca, settings={"unknwon": "yes"}):
        pass
