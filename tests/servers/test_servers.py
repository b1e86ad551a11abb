"""Each server of this folder does what the other tests rely on, shown with the standard library's smtplib."""

from __future__ import annotations

import gc
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from email.message import EmailMessage

import pytest

from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.logins import log_in
from tests.servers.postfix import EVERY_MECHANISM, Postfix
from tests.servers.tls import Certificates, Kind

SENDER = "ann@example.org"
CONTENT = (
    b"From: ann@example.org\r\nTo: bob@example.com\r\nBcc: secret@example.com\r\n"
    b"Subject: Hello\r\n\r\n.dot\r\nFrom here\r\n\xc3\xa4\r\n"
)
Start = Callable[..., AiosmtpdServer]


def connect(postfix: Postfix, port: int) -> smtplib.SMTP:
    return smtplib.SMTP(postfix.host, port, local_hostname="client.example.com", timeout=20)


class TestPostfix:
    def test_starttls_and_login_deliver_what_was_sent(self, postfix: Postfix, ca: Certificates) -> None:
        with connect(postfix, postfix.starttls_port) as client:
            client.ehlo()
            assert not client.has_extn("auth")
            client.starttls(context=ca.client_context())
            client.ehlo()
            assert set(client.esmtp_features["auth"].split()) == {"PLAIN", "LOGIN", "CRAM-MD5"}
            for name in ("pipelining", "chunking", "smtputf8", "8bitmime", "dsn", "enhancedstatuscodes"):
                assert client.has_extn(name)
            client.login(postfix.user, postfix.password)
            client.sendmail(SENDER, ["bob@example.com"], CONTENT, ["BODY=8BITMIME"])
        [mail] = postfix.mail(wait_for=1)
        assert mail.content == CONTENT
        assert mail.return_path == SENDER
        assert mail.delivered_to == "bob@example.com"
        assert "with ESMTPSA" in mail.received

    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
    def test_every_mechanism_logs_in_and_refuses_a_wrong_password(self, postfix: Postfix, mechanism: str) -> None:
        with connect(postfix, postfix.plain_port) as client:
            client.ehlo()
            assert log_in(client, mechanism, postfix.user, postfix.password)[0] == 235
        with connect(postfix, postfix.plain_port) as client:
            client.ehlo()
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                log_in(client, mechanism, postfix.user, "wrong")
        assert refused.value.smtp_code == 535

    @pytest.mark.parametrize("mechanism", EVERY_MECHANISM.split())
    def test_the_postfix_with_every_mechanism_takes_each(
        self, sasl_postfix: Postfix, ca: Certificates, mechanism: str
    ) -> None:
        for secret in (sasl_postfix.password, "wrong"):
            with connect(sasl_postfix, sasl_postfix.starttls_port) as client:
                client.starttls(context=ca.client_context())
                client.ehlo()
                assert set(client.esmtp_features["auth"].split()) == set(EVERY_MECHANISM.split())
                if secret == "wrong":
                    with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                        log_in(client, mechanism, sasl_postfix.user, secret)
                    assert refused.value.smtp_code == 535
                else:
                    assert log_in(client, mechanism, sasl_postfix.user, secret)[0] == 235
                    client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        assert len(sasl_postfix.mail(wait_for=1)) == 1

    def test_a_unix_socket(self, postfix: Postfix, ca: Certificates) -> None:
        # smtplib itself speaks only LMTP over one
        with smtplib.SMTP(local_hostname="client.example.com") as client:
            client.sock = socket.socket(socket.AF_UNIX)
            client.sock.settimeout(20)
            client.sock.connect(str(postfix.socket))
            assert client.getreply()[0] == 220
            client._host = "localhost"  # type: ignore[attr-defined]
            client.starttls(context=ca.client_context())
            client.login(postfix.user, postfix.password)
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        [mail] = postfix.mail(wait_for=1)
        assert "with ESMTPSA" in mail.received

    def test_implicit_tls(self, postfix: Postfix, ca: Certificates) -> None:
        context = ca.client_context()
        context.load_cert_chain(ca.client_cert, ca.client_key)
        with smtplib.SMTP_SSL("localhost", postfix.tls_port, "c.example.com", timeout=20, context=context) as client:
            client.login(postfix.user, postfix.password)
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        [mail] = postfix.mail(wait_for=1)
        assert 'Client CN "user@lab"' in mail.received

    def test_the_port_without_tls_offers_none(self, postfix: Postfix) -> None:
        with connect(postfix, postfix.plain_port) as client:
            client.ehlo()
            assert not client.has_extn("starttls")
            client.sendmail("", ["bob@example.com"], CONTENT)
        [mail] = postfix.mail(wait_for=1)
        assert mail.return_path == ""

    def test_the_basic_port_offers_few_extensions(self, postfix: Postfix) -> None:
        with connect(postfix, postfix.basic_port) as client:
            client.ehlo()
            for name in ("pipelining", "chunking", "smtputf8", "8bitmime", "dsn"):
                assert not client.has_extn(name)
            assert client.has_extn("starttls")
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        assert len(postfix.mail(wait_for=1)) == 1

    def test_refused_recipients_and_a_copy_for_each_other(self, postfix: Postfix) -> None:
        recipients = ["bob@example.com", "rejected@example.com", "later@example.com", "joe@example.org"]
        with connect(postfix, postfix.plain_port) as client:
            refused = client.sendmail(SENDER, recipients, CONTENT)
        assert {address: code for address, (code, _) in refused.items()} == {
            "rejected@example.com": 550,
            "later@example.com": 450,
        }
        assert refused["rejected@example.com"][1].startswith(b"5.1.1")
        assert {mail.delivered_to for mail in postfix.mail(wait_for=2)} == {"bob@example.com", "joe@example.org"}

    @pytest.mark.parametrize(
        "recipient", ["bob@xn--exmple-cua.com", "bob@exämple.com", "jürgen@example.com", '"two words"@example.com']
    )
    def test_every_kind_of_address_arrives(self, postfix: Postfix, recipient: str) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = SENDER, "bob@example.com", "Grüße"
        message.set_content("Hello")
        with connect(postfix, postfix.plain_port) as client:
            client.send_message(message, SENDER, [recipient], ["SMTPUTF8"])
        [mail] = postfix.mail(wait_for=1)
        assert mail.delivered_to == recipient.replace('"', "") or mail.delivered_to == recipient

    def test_clear_empties_the_mailbox(self, postfix: Postfix) -> None:
        with connect(postfix, postfix.plain_port) as client:
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        postfix.clear()
        assert postfix.mail() == []

    def test_a_mail_that_does_not_come_shows_the_log(self, postfix: Postfix) -> None:
        with pytest.raises(TimeoutError, match="0 of 1 mails"):
            postfix.mail(wait_for=1, timeout=0.1)

    def test_a_second_instance_has_its_own_settings_and_mailbox(self, postfix: Postfix, ca: Certificates) -> None:
        with Postfix(ca, size_limit=10_000, settings={"smtpd_banner": "second.example.com"}) as second:
            with connect(second, second.plain_port) as client:
                assert client.ehlo()[0] == 250
                assert client.esmtp_features["size"] == "10000"
                with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                    client.sendmail(SENDER, ["bob@example.com"], CONTENT + b"x" * 20_000)
                assert refused.value.smtp_code == 552
                client.sendmail(SENDER, ["bob@example.com"], CONTENT)
            assert len(second.mail(wait_for=1)) == 1
            folder = second._folder
        assert not folder.exists()
        assert postfix.mail() == []


class TestAiosmtpd:
    def test_records_what_arrives(self, aiosmtpd: Start) -> None:
        server = aiosmtpd(refused={"rejected@example.com": "550 5.1.1 User unknown"})
        with smtplib.SMTP(server.host, server.port, "client.example.com", timeout=20) as client:
            refused = client.sendmail(SENDER, ["bob@example.com", "rejected@example.com"], CONTENT)
        assert refused["rejected@example.com"][0] == 550
        [mail] = server.arrived
        assert (mail.sender, mail.recipients, mail.content) == (SENDER, ("bob@example.com",), CONTENT)
        assert (mail.client_name, mail.login, mail.tls) == ("client.example.com", None, False)
        assert server.connections == 1

    @pytest.mark.parametrize("tls", ["starttls", "required", "implicit"])
    def test_login_under_tls(self, aiosmtpd: Start, ca: Certificates, tls: str) -> None:
        server = aiosmtpd(tls=tls, users={"ann": "secret"}, auth_required=True)
        if tls == "implicit":
            client: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, context=ca.client_context(), timeout=20)
        else:
            client = smtplib.SMTP(server.host, server.port, timeout=20)
        with client:
            if tls != "implicit":
                client.starttls(context=ca.client_context())
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.login("ann", "wrong")
            client.login("ann", "secret")
            client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        [mail] = server.arrived
        assert (mail.login, mail.tls) == ("ann", True)
        assert server.connections == 1

    def test_refused_content_and_login_in_clear(self, aiosmtpd: Start) -> None:
        server = aiosmtpd(users={"ann": "secret"}, auth_in_clear=True, refused_content="554 5.6.0 No")
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            client.login("ann", "secret")
            with pytest.raises(smtplib.SMTPDataError):
                client.sendmail(SENDER, ["bob@example.com"], CONTENT)
        assert server.arrived == []

    def test_connections_can_be_cut_and_ipv6_works(self, aiosmtpd: Start) -> None:
        server = aiosmtpd(host="::1")
        client = smtplib.SMTP(server.host, server.port, timeout=20)
        server.drop_connections()
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
            client.noop()
        client.close()

    def test_a_stop_closes_whom_it_has_just_accepted(self, ca: Certificates) -> None:
        def arrive() -> None:
            client.connect((server.host, server.port))
            connected.set()
            time.sleep(0.01)  # until the server is told to stop, too

        for _ in range(5):
            connected = threading.Event()
            with socket.socket() as client, AiosmtpdServer(ca) as server:
                smtplib.SMTP(server.host, server.port, timeout=20).close()  # it serves
                server._loop.call_soon_threadsafe(arrive)
                assert connected.wait(20)
        gc.collect()  # a socket that was left open is a ResourceWarning

    @pytest.mark.parametrize(
        ("kind", "why"),
        [
            ("other_host", "IP address mismatch"),
            ("expired", "certificate has expired"),
            ("self_signed", "self.signed certificate"),
        ],
    )
    def test_every_bad_certificate_is_bad_in_its_own_way(
        self, aiosmtpd: Start, ca: Certificates, kind: Kind, why: str
    ) -> None:
        server = aiosmtpd(tls="starttls", certificate=kind)
        with smtplib.SMTP(server.host, server.port, timeout=20) as client:
            with pytest.raises(ssl.SSLCertVerificationError, match=why):
                client.starttls(context=ca.client_context())
            client.close()
