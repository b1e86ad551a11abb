"""Against a real Postfix: what is sent leaves as it should, and what arrives is what was sent (DESIGN 5.4)."""

from __future__ import annotations

import email
import email.message
import email.policy
import logging
from email.message import EmailMessage
from typing import Any

import pytest

from smtpbackend import Attachment, Envelope, Message, Recipient, Server, Status
from smtpbackend.delivery.tls import Context
from smtpbackend.errors import AuthenticationFailed, DeliveryError, NotSupported, RecipientsRefused, TLSFailed
from tests.mailer.twins import Twin, hello
from tests.servers.postfix import Postfix
from tests.servers.tls import Certificates


def at(postfix: Postfix, **settings: Any) -> Server:
    """That Postfix, over TLS and with a login, unless it is said otherwise."""
    given = {
        "host": postfix.host,
        "port": postfix.tls_port if settings.get("tls") == "implicit" else postfix.starttls_port,
        "tls": "required",
        "ca_file": str(postfix.ca_file),
        "username": postfix.user,
        "password": postfix.password,
        "timeout": 20,
        **settings,
    }
    return Server(**given)


def parsed(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def same_message(arrived: bytes, sent: EmailMessage) -> bool:
    """The same headers in the same order, the same tree, the same parameters and decoded octets."""
    found = parsed(arrived)
    own = {"date", "message-id", "content-transfer-encoding"}

    def fields(part: email.message.Message) -> list[tuple[str, str]]:
        return [(name, " ".join(str(value).split())) for name, value in part.items() if name.lower() not in own]

    theirs, ours = list(found.walk()), list(sent.walk())
    assert len(theirs) == len(ours)
    for one, other in zip(theirs, ours, strict=True):
        assert one.get_content_type() == other.get_content_type()
        if not one.is_multipart():
            assert fields(one) == [pair for pair in fields(other) if pair[0].lower() != "bcc"]
            mine = other.get_payload(decode=True)
            text = one.get_content_maintype() == "text"
            theirs_octets = one.get_payload(decode=True)
            if text:
                theirs_octets, mine = (octets.replace(b"\r\n", b"\n") for octets in (theirs_octets, mine))
            assert theirs_octets == mine
    return True


class TestSecurely:
    @pytest.mark.parametrize("tls", ["required", "implicit"])
    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
    def test_a_login_over_tls(self, twin: Twin, postfix: Postfix, tls: str, mechanism: str) -> None:
        receipt = twin(at(postfix, tls=tls, auth_mechanisms=mechanism)).send(hello())
        assert receipt.ok
        [mail] = postfix.mail(wait_for=1)
        assert "ESMTPSA" in mail.received
        assert receipt.queue_id is not None
        assert receipt.queue_id in mail.received
        assert mail.return_path == "ann@example.org"
        assert mail.delivered_to == "bob@example.com"

    def test_a_refused_login(self, twin: Twin, postfix: Postfix) -> None:
        with pytest.raises(AuthenticationFailed, match="check username and password"):
            twin(at(postfix, password="wrong")).send(hello())
        assert postfix.mail() == []

    def test_without_our_authority_it_is_not_trusted(self, twin: Twin, postfix: Postfix) -> None:
        with pytest.raises(TLSFailed, match="ca_file"):
            twin(at(postfix, ca_file=None)).send(hello())
        assert postfix.mail() == []

    def test_a_client_certificate_arrives(self, twin: Twin, postfix: Postfix, ca: Certificates) -> None:
        server = at(postfix, client_cert=str(ca.client_cert), client_key=str(ca.client_key))
        assert twin(server).send(hello()).ok
        [mail] = postfix.mail(wait_for=1)
        assert "user@lab" in mail.received

    @pytest.mark.parametrize("tls", ["required", "implicit"])
    def test_tls_sessions_are_resumed(
        self, twin: Twin, postfix: Postfix, monkeypatch: pytest.MonkeyPatch, tls: str
    ) -> None:
        """With the tickets that Postfix gives."""
        resumed: list[bool | None] = []
        real = Context.keep_session

        def note(context: Context, connection: Any) -> None:
            resumed.append(connection.session_reused)
            real(context, connection)

        monkeypatch.setattr(Context, "keep_session", note)
        mailer = twin(at(postfix, tls=tls))
        for _ in range(2):
            mailer.connect()
            mailer.close()
        assert resumed == [False, True]

    def test_the_wrong_port_for_implicit_tls(self, twin: Twin, postfix: Postfix) -> None:
        with pytest.raises(DeliveryError, match="speaks in clear, and tls"):
            twin(at(postfix, tls="implicit", port=postfix.plain_port)).send(hello())


class TestRecipients:
    @pytest.mark.parametrize("port", ["starttls_port", "basic_port"])
    def test_three_recipients_one_refused(self, twin: Twin, postfix: Postfix, port: str) -> None:
        server = at(postfix, port=getattr(postfix, port))
        receipt = twin(server).send(hello("ada@example.com", "rejected@example.com", "carl@example.org"))
        assert [outcome.status for outcome in receipt.outcomes] == [Status.ACCEPTED, Status.REJECTED, Status.ACCEPTED]
        [rejected] = receipt.rejected
        assert rejected.reply is not None
        assert (rejected.reply.code, rejected.reply.enhanced) == (550, (5, 1, 1))
        assert {mail.delivered_to for mail in postfix.mail(wait_for=2)} == {"ada@example.com", "carl@example.org"}

    def test_all_sends_to_nobody(self, twin: Twin, postfix: Postfix) -> None:
        mailer = twin(at(postfix), recipient_policy="all")
        with pytest.raises(RecipientsRefused):
            mailer.send(hello("ada@example.com", "rejected@example.com"))
        assert mailer.send(hello("ada@example.com")).ok
        assert len(postfix.mail(wait_for=1)) == 1

    def test_who_is_busy_is_deferred(self, twin: Twin, postfix: Postfix) -> None:
        receipt = twin(at(postfix)).send(hello("ada@example.com", "later@example.com"))
        [deferred] = receipt.deferred
        assert deferred.reply is not None
        assert deferred.reply.code == 450

    def test_everybody_refused_and_the_connection_lives(self, twin: Twin, postfix: Postfix) -> None:
        mailer = twin(at(postfix))
        with pytest.raises(RecipientsRefused):
            mailer.send(hello("rejected@example.com"))
        assert mailer.send(hello()).ok
        assert mailer.connect() is False

    def test_the_null_reverse_path_and_dsn(self, twin: Twin, postfix: Postfix) -> None:
        envelope = Envelope(
            "", [Recipient("bob@example.com", notify="NEVER", orcpt="bob@example.net")], envid="a+b", dsn_return="HDRS"
        )
        assert twin(at(postfix)).send(hello(), envelope).notes == ()
        [mail] = postfix.mail(wait_for=1)
        assert mail.return_path == ""


class TestContent:
    def test_smtputf8(self, twin: Twin, postfix: Postfix) -> None:
        receipt = twin(at(postfix)).send(hello("jürgen@exämple.com", "plain@example.com", subject="Grüße"))
        assert receipt.ok
        mails = postfix.mail(wait_for=2)
        assert {mail.delivered_to for mail in mails} == {"jürgen@xn--exmple-cua.com", "plain@example.com"}
        assert "UTF8SMTPSA" in mails[0].received
        assert all(parsed(mail.content)["Subject"] == "Grüße" for mail in mails)

    def test_an_international_domain_needs_no_smtputf8(self, twin: Twin, postfix: Postfix) -> None:
        assert twin(at(postfix, port=postfix.basic_port)).send(hello("bob@exämple.com")).ok
        [mail] = postfix.mail(wait_for=1)
        assert mail.delivered_to == "bob@xn--exmple-cua.com"

    def test_a_server_without_smtputf8_is_given_none(self, twin: Twin, postfix: Postfix) -> None:
        with pytest.raises(NotSupported):
            twin(at(postfix, port=postfix.basic_port)).send(hello("jürgen@example.com"))

    @pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
    def test_octets_arrive_as_they_are(self, twin: Twin, postfix: Postfix, ends: bytes) -> None:
        lines = [
            b"From: ann@example.org",
            b"To: bob@example.com",
            b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=",
            b"MIME-Version: 1.0",
            b"Content-Type: text/plain; charset=utf-8",
            b"Content-Transfer-Encoding: 8bit",
            b"",
            "Grüße".encode(),
            b".",
            b"..two",
            b"From the start",
            b"trailing blank ",
            b"\xff\xfe\x80",
            b"x" * 990,
            b"",
        ]
        receipt = twin(at(postfix)).send(ends.join(lines), Envelope("ann@example.org", ["bob@example.com"]))
        assert receipt.ok
        [mail] = postfix.mail(wait_for=1)
        # Postfix itself adds what is missing: nothing of what was given is changed
        found = mail.content.split(b"\r\n")
        added = [line for line in found if line.startswith((b"Date:", b"Message-Id:"))]
        assert [line for line in found if line not in added] == lines

    def test_an_attachment_of_1_mb(self, twin: Twin, postfix: Postfix, tmp_path: Any) -> None:
        blob = bytes(number * number % 251 for number in range(1 << 20))
        path = tmp_path / "räport.bin"
        path.write_bytes(blob)
        message = hello(
            text="See the attachment.\n", attachments=[Attachment(path), Attachment(blob[:999], "small.bin")]
        )
        assert twin(at(postfix)).send(message).ok
        [mail] = postfix.mail(wait_for=1)
        found = parsed(mail.content)
        first, second = found.iter_attachments()
        assert first.get_content() == blob
        assert first.get_filename() == "räport.bin"
        assert second.get_content() == blob[:999]
        body = found.get_body()
        assert body is not None
        assert body.get_content() == "See the attachment.\r\n"

    def test_what_the_email_package_made_arrives_with_the_same_tree(self, twin: Twin, postfix: Postfix) -> None:
        message = EmailMessage()
        message["Subject"] = "Grüße aus dem Büro, " * 8
        message["From"] = "Änn Exämple <ann@example.org>"
        message["To"] = "Bob <bob@example.com>, carl@example.org"
        message["Bcc"] = "dora@example.com"
        message["X-Twice"] = "one"
        message["X-Twice"] = "two"
        message.set_content("Grüße\n.\n..\n" + "lang " * 300 + "\n")
        message.add_alternative("<p>Grüße</p>\n<p>€ 5</p>\n", subtype="html")
        message.get_payload()[1].add_related(b"\x89PNG\r\n\x1a\n", "image", "png", cid="<logo@example.org>")
        message.add_attachment("csv;ä\n1;2\n", subtype="csv", filename="täble.csv")
        message.add_attachment(bytes(range(256)) * 9, "application", "octet-stream", filename="a b.bin")
        assert twin(at(postfix)).send(message).ok
        mails = postfix.mail(wait_for=3)
        assert {mail.delivered_to for mail in mails} == {"bob@example.com", "carl@example.org", "dora@example.com"}
        for mail in mails:
            assert same_message(mail.content, message)
            assert b"dora" not in mail.content
            found = parsed(mail.content)
            wanted = [(name, value) for name, value in message.items() if name.lower() != "bcc"]
            named = [(name, value) for name, value in found.items() if name not in ("Date", "Message-ID")]
            assert [name for name, _ in named] == [name for name, _ in wanted]
            for (name, value), (_, expected) in zip(named, wanted, strict=True):
                if name.lower() != "content-type":
                    assert " ".join(str(value).split()) == " ".join(str(expected).split())

    def test_our_own_message_arrives_with_everything_in_it(self, twin: Twin, postfix: Postfix) -> None:
        message = Message(
            subject="Grüße",
            from_="Änn <ann@example.org>",
            to=["Bob <bob@example.com>"],
            cc=["carl@example.com"],
            reply_to=["answers@example.org"],
            text="Text: Grüße\n",
            html="<p>HTML: Grüße</p>\n",
            attachments=[Attachment(b"\x00\xff" * 100, "ä.bin"), Attachment("text", "note.txt")],
            headers=[("X-Twice", "one"), ("X-Twice", "zwölf")],
        )
        receipt = twin(at(postfix)).send(message)
        assert receipt.ok
        for mail in postfix.mail(wait_for=2):
            found = parsed(mail.content)
            assert found["Subject"] == "Grüße"
            assert found["From"].addresses[0].display_name == "Änn"
            assert found["Cc"] == "carl@example.com"
            assert found["Reply-To"] == "answers@example.org"
            assert found.get_all("X-Twice") == ["one", "zwölf"]
            assert found["Message-ID"] == receipt.message_id
            text, html = found.get_body(("plain",)), found.get_body(("html",))
            assert text is not None
            assert html is not None
            assert text.get_content().replace("\r\n", "\n") == "Text: Grüße\n"
            assert html.get_content().replace("\r\n", "\n") == "<p>HTML: Grüße</p>\n"
            assert [part.get_filename() for part in found.iter_attachments()] == ["ä.bin", "note.txt"]
            assert next(iter(found.iter_attachments())).get_content() == b"\x00\xff" * 100


class TestMany:
    def test_each_arrives_once_and_in_its_place(self, twin: Twin, postfix: Postfix) -> None:
        def messages() -> Any:
            for number in range(40):
                to = "rejected@example.com" if number % 10 == 3 else f"u{number}@example.com"
                yield hello(to, subject=f"number {number}", text=f"I am {number}\n")

        mailer = twin(at(postfix))
        receipts = mailer.send_many(messages())
        assert [receipt.ok for receipt in receipts] == [number % 10 != 3 for number in range(40)]
        mails = postfix.mail(wait_for=36)
        assert len(mails) == 36
        for mail in mails:
            found = parsed(mail.content)
            number = found["Subject"].split(" ")[1]
            assert mail.delivered_to == f"u{number}@example.com"
            assert found.get_content().strip() == f"I am {number}"
        assert mailer.connect() is False

    def test_verify(self, twin: Twin, postfix: Postfix) -> None:
        assert twin(at(postfix)).verify("bob@example.com").code == 252
        assert [(one.server, one.ok) for one in twin(at(postfix)).check()] == [(at(postfix).name, True)]

    def test_no_secret_in_the_transcript(self, twin: Twin, postfix: Postfix, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5"):
                twin(at(postfix, auth_mechanisms=mechanism)).connect()
        assert "***" in caplog.text
        assert postfix.password not in caplog.text
