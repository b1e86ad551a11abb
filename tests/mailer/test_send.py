"""`send`: what may be given, what leaves, and what is said of each recipient."""

from __future__ import annotations

import email
import email.message
import email.policy
import io
import logging
import pathlib
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest

from smtpbackend import Attachment, Envelope, Recipient, Status
from smtpbackend.errors import CancelSend, ContentRefused, InvalidInput, NotSupported, RecipientsRefused, SenderRefused
from smtpbackend.events import MessageSending
from smtpbackend.testing import Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello
from tests.telling import names

CONTENT = b"From: ann@example.org\r\nTo: bob@example.com\r\nSubject: raw\r\n\r\n.dot\r\nGood day\r\n"
ENVELOPE = Envelope("", ["bob@example.com"])


class TestWhatMayBeGiven:
    def test_a_message_is_sent_to_everybody_in_its_headers(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        receipt = twin(server.url).send(hello("bob@example.com", cc=["carl@example.com"], bcc=["dora@example.com"]))
        assert receipt.ok
        assert [str(outcome.address) for outcome in receipt.accepted] == [
            "bob@example.com",
            "carl@example.com",
            "dora@example.com",
        ]
        [arrived] = server.handed_over
        assert arrived.mail.startswith("MAIL FROM:<ann@example.org>")
        assert arrived.recipients == (
            "RCPT TO:<bob@example.com>",
            "RCPT TO:<carl@example.com>",
            "RCPT TO:<dora@example.com>",
        )
        assert b"dora" not in arrived.content
        assert receipt.message_id is not None
        assert receipt.message_id.encode() in arrived.content
        assert receipt.server == server.name
        assert receipt.queue_id == "00001ABC"
        assert receipt.reply is not None
        assert receipt.reply.code == 250
        assert receipt.error is None

    def test_an_email_message_is_sent(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        message = email.message.EmailMessage()
        message["From"], message["To"], message["Bcc"] = SENDER, "bob@example.com", "carl@example.com"
        message.set_content("Good day\n")
        assert twin(server.url).send(message).ok
        [arrived] = server.handed_over
        assert len(arrived.recipients) == 2
        assert b"carl" not in arrived.content
        assert email.message_from_bytes(arrived.content, policy=email.policy.default).get_content() == "Good day\r\n"

    @pytest.mark.parametrize("how", ["bytes", "bytearray", "path", "file", "one-shot file", "iterable", "generator"])
    def test_octets_are_sent_as_they_are(
        self, twin: Twin, scripted: Scripted, tmp_path: pathlib.Path, how: str
    ) -> None:
        path = tmp_path / "mail.eml"
        path.write_bytes(CONTENT)

        class Pipe(io.RawIOBase):
            def __init__(self) -> None:
                self._left = CONTENT

            def read(self, size: int = -1) -> bytes:
                taken, self._left = self._left[:7], self._left[7:]
                return taken

        given: dict[str, Any] = {
            "bytes": CONTENT,
            "bytearray": bytearray(CONTENT),
            "path": path,
            "file": io.BytesIO(CONTENT),
            "one-shot file": Pipe(),
            "iterable": [CONTENT[:10], CONTENT[10:]],
            "generator": (CONTENT[place : place + 1] for place in range(len(CONTENT))),
        }
        server = scripted()
        assert twin(server.url).send(given[how], ENVELOPE).ok
        [arrived] = server.handed_over
        assert arrived.content == CONTENT
        assert arrived.mail.startswith("MAIL FROM:<>")

    def test_a_one_shot_source_is_replayed_on_the_next_server(self, twin: Twin, scripted: Scripted) -> None:
        bad, good = scripted({".": "451 4.3.0 later"}), scripted()
        assert twin(bad.url, good.url).send((chunk for chunk in [CONTENT[:9], CONTENT[9:]]), ENVELOPE).ok
        assert bad.handed_over[0].content == good.handed_over[0].content == CONTENT

    def test_line_ends_become_crlf_and_the_last_line_has_one(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        twin(server.url).send(b"A: 1\n\nb\rc\r\n\n.", ENVELOPE)
        assert server.handed_over[0].content == b"A: 1\r\n\r\nb\r\nc\r\n\r\n.\r\n"

    def test_an_envelope_rules_over_the_headers(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        envelope = Envelope(
            "bounce@example.org", [Recipient("eve@example.com", notify=["SUCCESS", "FAILURE"])], envid="7+7"
        )
        assert twin(server.url).send(hello(), envelope).ok
        [arrived] = server.handed_over
        assert arrived.mail.startswith("MAIL FROM:<bounce@example.org>")
        assert arrived.mail.endswith(" ENVID=7+2B7")
        assert arrived.recipients == ("RCPT TO:<eve@example.com> NOTIFY=SUCCESS,FAILURE",)

    def test_what_was_asked_for_and_is_not_offered_stands_in_the_notes(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play(extensions=("PIPELINING",)))
        envelope = Envelope(SENDER, [Recipient("bob@example.com", notify="NEVER")], extra={"MT-PRIORITY": "3"})
        receipt = twin(server.url).send(hello(), envelope)
        assert receipt.ok
        assert [note.split(" ")[0] for note in receipt.notes] == ["DSN", "MT-PRIORITY"]

    def test_a_large_content_arrives_whole(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        blob = bytes(range(256)) * 4096
        message = hello(attachments=[Attachment(blob, "blob.bin")])
        assert twin(server.url).send(message).ok
        parsed = email.message_from_bytes(server.handed_over[0].content, policy=email.policy.default)
        [part] = parsed.iter_attachments()
        assert part.get_content() == blob

    @pytest.mark.parametrize(
        ("message", "envelope", "field"),
        [
            (b"Subject: hi\r\n\r\n", None, "envelope"),
            (object(), None, "envelope"),
            (object(), ENVELOPE, ""),
            (["text, not octets"], ENVELOPE, ""),
            (pathlib.Path("/nonexistent/mail.eml"), ENVELOPE, ""),
            (hello(), "bob@example.com", "envelope"),
        ],
        ids=["no envelope", "nothing known", "nothing known with envelope", "text", "no file", "no Envelope"],
    )
    def test_what_is_no_message_is_invalid_input(
        self, twin: Twin, scripted: Scripted, message: Any, envelope: Any, field: str
    ) -> None:
        server = scripted()
        with pytest.raises(InvalidInput) as caught:
            twin(server.url).send(message, envelope)
        assert caught.value.field == field or not field
        assert caught.value.receipt is not None
        assert server.connections == 0

    @pytest.mark.parametrize("how", ["file", "iterable"])
    def test_a_source_that_fails_before_anything_was_sent(self, twin: Twin, scripted: Scripted, how: str) -> None:
        class Broken(io.RawIOBase):
            def read(self, size: int = -1) -> bytes:
                raise OSError("the disk is gone")

        server = scripted()
        given = Broken() if how == "file" else (1 / number for number in range(3))
        with pytest.raises((InvalidInput, ZeroDivisionError), match=r"the disk is gone|division by zero"):
            twin(server.url).send(given, ENVELOPE)
        assert server.connections == 0

    def test_a_file_that_fails_while_it_is_read_keeps_the_mail_from_being_sent(
        self, twin: Twin, scripted: Scripted, tmp_path: pathlib.Path
    ) -> None:
        path = tmp_path / "big"
        path.write_bytes(b"x" * 200_000)
        server = scripted({"MAIL": [("250 ok")]})
        message = hello(attachments=[Attachment(path)])

        def shorten(event: Any) -> None:
            if isinstance(event, MessageSending):
                path.write_bytes(b"")

        mailer = twin(server.url)
        with pytest.raises(InvalidInput) as caught:
            mailer.send(message, listeners=[shorten])
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.FAILED]
        server.wait_for_end()
        assert server.handed_over == []


class TestRecipients:
    PLAY: ClassVar = {"RCPT TO:<bob@": "550 5.1.1 no such user here"}

    def test_one_bad_recipient_does_not_sink_the_others(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(self.PLAY)
        receipt = twin(server.url).send(hello("ada@example.com", "bob@example.com", "carl@example.com"))
        assert [outcome.status for outcome in receipt.outcomes] == [Status.ACCEPTED, Status.REJECTED, Status.ACCEPTED]
        [rejected] = receipt.rejected
        assert rejected.reply is not None
        assert (rejected.reply.code, rejected.reply.enhanced, rejected.reply.text) == (
            550,
            (5, 1, 1),
            "no such user here",
        )
        assert rejected.server == server.name
        assert rejected.attempts == 1
        assert not receipt.ok
        assert receipt.unacceptable() == [("bob@example.com", 550, "no such user here")]
        with pytest.raises(RecipientsRefused, match=r"bob@example\.com"):
            receipt.raise_for_failure()
        assert len(server.handed_over[0].recipients) == 2

    def test_everybody_refused_raises_with_the_receipt(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"RCPT": "550 5.1.1 nobody"})
        with pytest.raises(RecipientsRefused) as caught:
            twin(server.url).send(hello("bob@example.com", "carl@example.com"))
        error = caught.value
        assert error.recipients == {
            "bob@example.com": (550, b"5.1.1 nobody"),
            "carl@example.com": (550, b"5.1.1 nobody"),
        }
        assert not error.is_transient
        assert len(error.receipt.rejected) == 2
        assert error.receipt.error is error
        assert server.handed_over == []

    def test_all_sends_nothing_unless_everybody_is_accepted(self, twin: Twin, scripted: Scripted) -> None:
        server, never = scripted(self.PLAY), scripted()
        mailer = twin(server.url, never.url, recipient_policy="all")
        with pytest.raises(RecipientsRefused, match="with recipient_policy='all' no recipient") as caught:
            mailer.send(hello("ada@example.com", "bob@example.com"))
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.DEFERRED, Status.REJECTED]
        assert server.handed_over == []
        assert "DATA" not in server.commands
        assert never.connections == 0
        assert mailer.send(hello("ada@example.com", "carl@example.com")).ok
        assert server.connections == 1

    def test_all_moves_the_whole_message_on_for_one_answered_4xx(self, twin: Twin, scripted: Scripted) -> None:
        busy, good = scripted({"RCPT TO:<bob@": "450 4.2.0 busy"}), scripted()
        receipt = twin(busy.url, good.url, recipient_policy="all").send(hello("ada@example.com", "bob@example.com"))
        assert receipt.ok
        assert busy.handed_over == []
        assert len(good.handed_over[0].recipients) == 2

    def test_all_refuses_a_message_that_would_need_a_split(self, twin: Twin, scripted: Scripted) -> None:
        server, never = scripted({"RCPT": ["250 ok", "452 4.5.3 too many recipients"]}), scripted()
        with pytest.raises(RecipientsRefused):
            twin(server.url, never.url, recipient_policy="all").send(hello("ada@example.com", "bob@example.com"))
        assert server.handed_over == never.handed_over == []

    def test_a_refused_sender_is_final(self, twin: Twin, scripted: Scripted) -> None:
        server, never = scripted({"MAIL": "550 5.7.1 not you"}), scripted()
        with pytest.raises(SenderRefused) as caught:
            twin(server.url, never.url).send(hello())
        assert (caught.value.sender, caught.value.smtp_code) == (SENDER, 550)
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.REJECTED]
        assert never.connections == 0

    @pytest.mark.parametrize("command", [".", "DATA"])
    def test_refused_content_is_final(self, twin: Twin, scripted: Scripted, command: str) -> None:
        server, never = scripted({command: "554 5.6.0 spam"}), scripted()
        with pytest.raises(ContentRefused) as caught:
            twin(server.url, never.url).send(hello())
        assert (caught.value.smtp_code, caught.value.smtp_error) == (554, b"5.6.0 spam")
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.REJECTED]
        assert never.connections == 0

    @pytest.mark.parametrize("pipelining", [True, False])
    def test_hundreds_of_recipients_are_matched_with_their_replies(
        self, twin: Twin, scripted: Scripted, pipelining: bool
    ) -> None:
        count = 600 if pipelining else 60
        server = scripted(Play({"RCPT TO:<u7": "550 5.1.1 seven"}, extensions=("PIPELINING",) if pipelining else ()))
        receipt = twin(server.url).send(hello(), Envelope(SENDER, [f"u{n}@example.com" for n in range(count)]))
        for outcome in receipt.outcomes:
            wanted = Status.REJECTED if str(outcome.address).startswith("u7") else Status.ACCEPTED
            assert outcome.status is wanted


class TestExtensions:
    def test_smtputf8_is_used_where_it_is_offered(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        assert twin(server.url).send(hello("jürgen@example.com")).ok
        assert server.handed_over[0].recipients == ("RCPT TO:<jürgen@example.com>",)
        assert server.handed_over[0].mail.endswith(" SMTPUTF8")

    def test_what_an_envelope_asks_for_is_told_where_it_is_offered(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play(extensions=("FUTURERELEASE 1000 x", "MT-PRIORITY", "DSN")))
        mailer = twin(server.url)
        until = datetime(2026, 9, 1, 14, tzinfo=timezone(timedelta(hours=2)))
        mailer.send(hello(), Envelope(SENDER, ["bob@example.com"], hold_for=60, extra={"mt-priority": "3"}))
        mailer.send(hello(), Envelope(SENDER, ["bob@example.com"], hold_until=until, dsn_return="hdrs"))
        assert [transaction.mail.partition("> ")[2] for transaction in server.handed_over] == [
            "HOLDFOR=60 mt-priority=3",
            "RET=HDRS HOLDUNTIL=2026-09-01T12:00:00Z",
        ]

    def test_who_needs_smtputf8_goes_to_the_server_that_has_it(self, twin: Twin, scripted: Scripted) -> None:
        old, new = scripted(Play(extensions=("PIPELINING", "8BITMIME"))), scripted()
        assert twin(old.url, new.url).send(hello("jürgen@example.com")).ok
        assert "MAIL" not in old.speakers[0].verbs

    def test_without_smtputf8_anywhere_the_message_is_refused_here(self, twin: Twin, scripted: Scripted) -> None:
        servers = [scripted(Play(extensions=("8BITMIME",))) for _ in range(2)]
        with pytest.raises(NotSupported, match="SMTPUTF8") as caught:
            twin(*(server.url for server in servers)).send(hello("jürgen@example.com"))
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.FAILED]

    def test_without_8bitmime_an_email_message_is_encoded_anew(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play(extensions=()))
        message = email.message_from_bytes(
            b"From: ann@example.org\nTo: bob@example.com\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
            b"Content-Transfer-Encoding: 8bit\n\nGr\xc3\xbc\xc3\x9fe\n",
            policy=email.policy.default,
        )
        assert twin(server.url).send(message).ok
        arrived = server.handed_over[0].content
        assert arrived.isascii()
        assert email.message_from_bytes(arrived, policy=email.policy.default).get_content() == "Grüße\r\n"

    def test_without_8bitmime_octets_are_refused_here(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play(extensions=()))
        with pytest.raises(NotSupported, match="8BITMIME"):
            twin(server.url).send(b"Subject: x\r\n\r\n\xff\r\n", ENVELOPE)
        assert "MAIL" not in server.speakers[0].verbs

    def test_content_over_the_limit_is_not_sent(self, twin: Twin, scripted: Scripted) -> None:
        small, large = scripted(Play(extensions=("SIZE 100",))), scripted()
        assert twin(small.url, large.url).send(hello(text="long " * 100)).ok
        assert "MAIL" not in small.speakers[0].verbs

    def test_an_extension_that_the_server_wrongly_offers_is_ignored(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        assert twin(server.url, ignore_extensions="pipelining size").send(hello()).ok
        assert server.handed_over[0].mail == "MAIL FROM:<ann@example.org>"

    def test_a_server_that_knows_only_helo_gets_the_mail(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"EHLO": "502 5.5.1 what"})
        assert twin(server.url).send(hello()).ok
        assert server.speakers[0].verbs[:3] == ["EHLO", "HELO", "MAIL"]


class TestEvents:
    def test_events_are_told_in_order_to_the_listeners_of_the_call_and_of_the_mailer(
        self, twin: Twin, scripted: Scripted
    ) -> None:
        server = scripted({"RCPT TO:<bob@": "550 no", "RCPT TO:<carl@": "450 later"})
        told: list[tuple[str, Any]] = []
        mailer = twin(server.url, listeners=[lambda event: told.append(("mailer", event))])
        message = hello("ada@example.com", "bob@example.com", "carl@example.com")
        receipt = mailer.send(message, listeners=[lambda event: told.append(("call", event))])
        for whose in ("mailer", "call"):
            events = [event for owner, event in told if owner == whose]
            assert names(events) == [
                "message_sending",
                "recipient_rejected",
                "recipient_deferred",
                "message_sent",
            ]
            assert all(event.message is message for event in events)
            assert [str(recipient.address) for recipient in events[0].envelope.recipients] == [
                "ada@example.com",
                "bob@example.com",
                "carl@example.com",
            ]
            assert events[1].outcome is receipt.outcomes[1]
            assert events[3].receipt is receipt

    def test_a_failed_message_and_a_failed_server_are_told(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"": "554 5.3.2 no mail today"})
        events: list[Any] = []
        with pytest.raises(ConnectionError) as caught:
            twin(server.url, listeners=[events.append]).send(hello())
        assert names(events) == [
            "message_sending",
            "server_failed",
            "recipient_deferred",
            "message_failed",
        ]
        assert (events[1].server, events[1].phase) == (server.name, "greeting")
        assert events[3].receipt.error is caught.value

    def test_a_listener_may_cancel_a_message(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        events: list[Any] = []

        def veto(event: Any) -> None:
            events.append(event)
            if isinstance(event, MessageSending):
                raise CancelSend("not on a Sunday")

        with pytest.raises(CancelSend, match="Sunday") as caught:
            twin(server.url, listeners=[veto]).send(hello())
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.DEFERRED]
        assert names(events) == ["message_sending", "message_ended"]
        assert server.connections == 0

    def test_a_listener_that_raises_is_logged_and_breaks_nothing(
        self, twin: Twin, scripted: Scripted, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = scripted({"RCPT TO:<carl@": "550 no"})

        def broken(event: Any) -> None:
            raise CancelSend if event.name == "message_ended" else ZeroDivisionError

        with caplog.at_level(logging.ERROR, "smtpbackend"):
            receipt = twin(server.url, listeners=[broken]).send(hello("bob@example.com", "carl@example.com"))
        assert len(receipt.accepted) == 1
        assert [record.__dict__["why"] for record in caplog.records] == [
            "builtins.ZeroDivisionError",
            "smtpbackend.errors.CancelSend",
        ]

    def test_the_signals_of_a_mailer_have_it_as_their_sender(self, twin: Twin, scripted: Scripted) -> None:
        from smtpbackend.signals import message_sent

        server = scripted()
        mailer, other = twin(server.url), twin(server.url)
        heard: list[Any] = []
        with message_sent.connected_to(lambda sender, **fields: heard.append((sender, fields)), mailer.raw):
            receipt = mailer.send(hello())
            other.send(hello())
        [(sender, fields)] = heard
        assert sender is mailer.raw
        assert fields["receipt"] is receipt
