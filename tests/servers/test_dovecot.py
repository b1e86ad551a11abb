"""Dovecot does what the other tests rely on, shown with the standard library's smtplib."""

from __future__ import annotations

import json
import smtplib
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.servers.dovecot import Dovecot, mint_token
from tests.servers.logins import log_in, oauthbearer, xoauth2
from tests.servers.postfix import Postfix
from tests.servers.tls import Certificates

SENDER = "ann@example.org"
CONTENT = (
    b"Received: from before\r\nFrom: ann@example.org\r\nTo: bob@example.com\r\nBcc: secret@example.com\r\n"
    b"Subject: Hello\r\n\r\n.dot\r\nFrom here\r\n\xc3\xa4\r\n"
)
BEARER = ("OAUTHBEARER", "XOAUTH2")
PASSWORD_OR_TOKEN = [name for name in Dovecot.mechanisms if name != "EXTERNAL"]


@contextmanager
def connect(dovecot: Dovecot, mode: str, certificate: bool = False) -> Iterator[smtplib.SMTP]:
    """Connect to the port of that TLS mode ("plain": STARTTLS left out) and say EHLO, inside TLS if there is one."""
    name, context = "client.example.com", dovecot.certificates.client_context()
    if certificate:
        context.load_cert_chain(dovecot.certificates.client)
    if mode == "tls":
        client: smtplib.SMTP = smtplib.SMTP_SSL(dovecot.host, dovecot.tls_port, name, timeout=20, context=context)
    else:
        client = smtplib.SMTP(dovecot.host, dovecot.starttls_port, name, timeout=20)
    with client:
        client.ehlo()
        if mode == "starttls":
            client.starttls(context=context)
            client.ehlo()
        yield client


@contextmanager
def connect_lmtp(dovecot: Dovecot, way: str) -> Iterator[smtplib.SMTP]:
    client = smtplib.LMTP(str(dovecot.lmtp_socket) if way == "unix" else dovecot.host, dovecot.lmtp_port, "c.example")
    with client:
        client.ehlo()
        yield client


class TestSubmission:
    @pytest.mark.parametrize(("mode", "protocol"), [("starttls", "ESMTPSA"), ("tls", "ESMTPSA"), ("plain", "ESMTPA")])
    def test_every_port_delivers_what_was_sent(
        self, dovecot: Dovecot, postfix: Postfix, mode: str, protocol: str
    ) -> None:
        with connect(dovecot, mode) as client:
            assert client.has_extn("starttls") == (mode == "plain")
            assert client.esmtp_features["auth"].split() == list(dovecot.mechanisms)
            assert client.docmd("MAIL", f"FROM:<{SENDER}>")[0] == 530
            client.login(dovecot.user, dovecot.password)
            client.ehlo()
            for name in ("pipelining", "chunking", "8bitmime", "dsn", "size", "enhancedstatuscodes"):
                assert client.has_extn(name)
            client.sendmail(SENDER, ["bob@example.com"], CONTENT, ["BODY=8BITMIME"])
        [mail] = dovecot.mail(wait_for=1)
        assert mail.content == CONTENT
        assert (mail.return_path, mail.delivered_to) == (SENDER, "bob@example.com")
        assert f"with {protocol} " in mail.received
        assert len(postfix.mail()) == 1

    @pytest.mark.parametrize("mechanism", PASSWORD_OR_TOKEN)
    @pytest.mark.parametrize("mode", ["starttls", "tls", "plain"])
    def test_every_mechanism_logs_in(self, dovecot: Dovecot, mode: str, mechanism: str) -> None:
        secret = dovecot.token() if mechanism in BEARER else dovecot.password
        with connect(dovecot, mode) as client:
            assert log_in(client, mechanism, dovecot.user, secret)[0] == 235
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        assert len(dovecot.mail(wait_for=1)) == 1

    @pytest.mark.parametrize("mechanism", PASSWORD_OR_TOKEN)
    def test_every_mechanism_refuses_a_wrong_secret(self, dovecot: Dovecot, mechanism: str) -> None:
        secret = dovecot.token() if mechanism in BEARER else dovecot.password
        with connect(dovecot, "tls") as client, pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            log_in(client, mechanism, dovecot.user, secret + "x")
        assert refused.value.smtp_code == 535

    @pytest.mark.parametrize("mode", ["starttls", "tls"])
    def test_a_client_certificate_logs_in(self, dovecot: Dovecot, mode: str) -> None:
        with connect(dovecot, mode, certificate=True) as client:
            assert log_in(client, "EXTERNAL", "", "")[0] == 235
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        assert "method=EXTERNAL" in dovecot.log
        assert len(dovecot.mail(wait_for=1)) == 1
        with connect(dovecot, mode) as client, pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            log_in(client, "EXTERNAL", "", "")
        assert refused.value.smtp_code == 535

    @pytest.mark.parametrize("mechanism", BEARER)
    @pytest.mark.parametrize("kind", ["expired", "of another key", "of another user"])
    def test_a_bad_token_is_refused_with_json(self, dovecot: Dovecot, kind: str, mechanism: str) -> None:
        token = {
            "expired": dovecot.token(lifetime=-60),
            "of another key": mint_token(dovecot.user, b"another"),
            "of another user": mint_token("joe@lab", dovecot.token_key),
        }[kind]
        initial = oauthbearer(dovecot.user, token) if mechanism == "OAUTHBEARER" else xoauth2(dovecot.user, token)
        with connect(dovecot, "tls") as client:
            code, challenge = client.docmd("AUTH", f"{mechanism} {b64encode(initial.encode()).decode()}")
            assert code == 334
            said = {"OAUTHBEARER": "invalid_token", "XOAUTH2": "401"}
            assert json.loads(b64decode(challenge))["status"] == said[mechanism]
            # RFC 7628 3.2.3: the dummy response
            assert client.docmd("AQ==")[0] == 535

    def test_the_replies_to_recipients_are_those_of_postfix(self, dovecot: Dovecot) -> None:
        recipients = ["bob@example.com", "rejected@example.com", "later@example.com", "joe@example.org"]
        with connect(dovecot, "tls") as client:
            client.login(dovecot.user, dovecot.password)
            refused = client.sendmail("", recipients, CONTENT)
        assert {address: code for address, (code, _) in refused.items()} == {
            "rejected@example.com": 550,
            "later@example.com": 450,
        }
        assert refused["rejected@example.com"][1].startswith(b"5.1.1")
        assert {mail.delivered_to for mail in dovecot.mail(wait_for=2)} == {"bob@example.com", "joe@example.org"}


@pytest.mark.parametrize("way", ["tcp", "unix"])
class TestLMTP:
    def test_delivers_what_was_sent(self, dovecot: Dovecot, way: str) -> None:
        with connect_lmtp(dovecot, way) as client:
            for name in ("pipelining", "chunking", "8bitmime", "enhancedstatuscodes", "starttls"):
                assert client.has_extn(name)
            client.sendmail(SENDER, ["Bob+tag@example.com"], CONTENT, ["BODY=8BITMIME"])
        [mail] = dovecot.lmtp_mail(wait_for=1)
        assert mail.content == CONTENT
        assert (mail.return_path, mail.delivered_to) == (SENDER, "Bob+tag@example.com")
        assert "with LMTP " in mail.received
        dovecot.clear()
        assert dovecot.lmtp_mail() == []

    def test_each_recipient_has_a_reply_of_its_own_after_the_content(self, dovecot: Dovecot, way: str) -> None:
        expected = {"bob": 250, "rejected": 550, "later": 451, "full": 250, "broken": 250, "joe": 250}
        with connect_lmtp(dovecot, way) as client:
            client.mail("")
            assert {name: client.rcpt(f"{name}@example.com")[0] for name in expected} == expected
            assert client.docmd("DATA")[0] == 354
            client.send(CONTENT.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            replies = [client.getreply() for _ in range(4)]
        assert [code for code, _ in replies] == [250, 552, 451, 250]
        assert [text.split()[0] for _, text in replies] == [b"2.0.0", b"5.2.2", b"4.2.0", b"2.0.0"]
        arrived = dovecot.lmtp_mail(wait_for=2)
        assert [(mail.delivered_to, mail.return_path) for mail in arrived] == [
            ("bob@example.com", ""),
            ("joe@example.com", ""),
        ]
        assert {mail.content for mail in arrived} == {CONTENT}


def test_lmtp_under_starttls(dovecot: Dovecot, ca: Certificates) -> None:
    with connect_lmtp(dovecot, "tcp") as client:
        client.starttls(context=ca.client_context())
        client.sendmail(SENDER, ["bob@example.com"], CONTENT)
    [mail] = dovecot.lmtp_mail(wait_for=1)
    assert "with LMTPS " in mail.received


def test_a_second_instance_has_its_own_settings_and_mailboxes(dovecot: Dovecot, ca: Certificates) -> None:
    settings = {"login_greeting": "second"}
    with Dovecot(ca, dovecot.relay, password="other", size_limit=1_000_000, settings=settings) as second:
        with socket.create_connection((second.host, second.starttls_port), 20) as client:
            assert client.recv(1000) == b"220 lab.example.com second\r\n"
        with connect(second, "tls") as client:
            assert client.esmtp_features["size"] == "1000000"
            client.login(second.user, "other")
        with connect_lmtp(second, "unix") as client:
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        assert len(second.lmtp_mail(wait_for=1)) == 1
        with pytest.raises(TimeoutError, match=r"1 of 2 mails.*\n(.*\n)*.*saved mail to INBOX"):
            second.lmtp_mail(wait_for=2, timeout=0.1)
        folder = second._folder
    assert not folder.exists()
    assert dovecot.lmtp_mail() == []
