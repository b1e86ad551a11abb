"""What is stored of a message, and what a worker has in hand of it."""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpbackend import (
    Envelope,
    InvalidInput,
    InvalidSetting,
    Mailer,
    Message,
    NotSupported,
    Outcome,
    Recipient,
    Status,
)
from smtpbackend.adapters import Parcel, stamp
from smtpbackend.outbox import Draft, Due, Options, Priority, draft
from smtpbackend.outbox.entry import BLOCK, MAX_KEY, MAX_SUBJECT, envelope_of, spooled
from smtpbackend.testing import Play, ScriptedServer

NOW = 1_800_000_000.0
Start = Callable[..., ScriptedServer]


def of(message: Any, envelope: Envelope | None = None, **options: Any) -> Draft:
    return draft(Parcel.of(message, envelope), stamp, NOW, **{"lasts": 3600.0, **options})


def plain(text: str = "Text", **options: Any) -> Message:
    return Message(**{"subject": "Hello", "from_": "shop@example.com", "to": ["ann@example.com"], **options}, text=text)


def raw(*fields: str, body: str = "Text\r\n", **options: Any) -> Draft:
    octets = "".join(f"{field}\r\n" for field in ("From: shop@example.com", *fields)).encode() + b"\r\n" + body.encode()
    return of(octets, Envelope("shop@example.com", ["ann@example.com"]), **options)


def octets_of(one: Draft) -> bytes:
    return b"".join(one.blocks())


def due_of(one: Draft) -> Due:
    """What a worker has in hand of it, read back."""
    assert one.envelope is not None
    recipients = [Recipient.from_json(json.loads(json.dumps(r.to_json()))) for r in one.envelope.recipients]
    return Due(
        id=1,
        alias="default",
        lease=1,
        begins_by=0.0,
        expires_at=0.0,
        lane=3,
        lapses=0,
        tries=0,
        priority=1,
        envelope=envelope_of(one.envelope_json, recipients),
        positions=tuple(range(len(recipients))),
        doubts=(0,) * len(recipients),
        octets=octets_of(one),
        size=one.size,
        is_8bit=one.is_8bit,
        message_id=one.message_id,
        subject=one.subject,
        created=NOW,
        send_at=None,
    )


class TestTimes:
    @pytest.mark.parametrize("name", ["send_at", "expires"])
    @pytest.mark.parametrize("value", [datetime(2030, 1, 1), 1.9e9, "2030-01-01", timedelta(1)])
    def test_only_times_with_a_zone(self, name: str, value: Any) -> None:
        with pytest.raises(InvalidInput, match=f"{name} must be a datetime with its time zone"):
            of(plain(), **{name: value})

    @given(st.timezones(), st.datetimes(datetime(2028, 1, 1), datetime(2100, 1, 1)))
    def test_a_time_is_the_same_in_every_zone(self, zone: Any, when: datetime) -> None:
        aware = when.replace(tzinfo=zone)
        one = of(plain(), send_at=aware)
        assert one.send_at == aware.timestamp()
        assert one.expires == aware.timestamp() + 3600

    def test_without_a_time_it_is_now(self) -> None:
        one = of(plain())
        assert (one.send_at, one.expires) == (None, NOW + 3600)

    def test_a_time_that_has_passed_is_now(self) -> None:
        one = of(plain(), send_at=datetime.fromtimestamp(NOW - 86400, UTC))
        assert (one.send_at, one.expires) == (None, NOW + 3600)

    def test_the_end(self) -> None:
        until = datetime.fromtimestamp(NOW + 60, timezone(timedelta(hours=5)))
        assert of(plain(), expires=until).expires == NOW + 60
        for options in ({"expires": datetime.fromtimestamp(NOW, UTC)}, {"expires": until, "send_at": until}):
            with pytest.raises(InvalidInput, match="could never be sent"):
                of(plain(), **options)


class TestKeys:
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=MAX_KEY))
    def test_any_text(self, key: str) -> None:
        one = of(plain(), key=key)
        assert one.key == key
        assert one.digest is not None
        assert len(one.digest) == 64

    @pytest.mark.parametrize("key", ["", "x" * (MAX_KEY + 1), "a\0b", 7, b"key", "\ud800"])
    def test_what_no_database_takes(self, key: Any) -> None:
        with pytest.raises(InvalidInput, match="key must be a string of 1 to 200 characters"):
            of(plain(), key=key)

    def test_without_a_key_there_is_no_digest(self) -> None:
        assert of(plain()).digest is None


def with_image(large: bytes = b"") -> EmailMessage:
    """A message of several parts, in which each rendering has boundaries of its own."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@example.com", "ann@example.com", "Hello"
    message["Date"] = datetime.now(UTC)
    message["Message-ID"] = email.utils.make_msgid()
    message.set_content("Text")
    message.add_alternative("<p>Text</p>", subtype="html")
    if large:
        message.add_attachment(large, maintype="application", subtype="octet-stream", filename="a")
        message.add_attachment("last", filename="b")
    return message


class TestDigests:
    """Whether two messages say the same, whatever makes them different each time."""

    @pytest.mark.parametrize(
        "make",
        [
            plain,
            lambda: plain(html="<p>Text</p>"),
            with_image,
            lambda: with_image(b"\0" * 600_000),
            lambda: raw("Date: " + datetime.now(UTC).isoformat(), "Message-ID: " + email.utils.make_msgid()),
            lambda: raw("Message-ID:\r\n " + email.utils.make_msgid(), "Subject: x"),
        ],
    )
    def test_the_same(self, make: Callable[[], Any]) -> None:
        one, other = (
            made.digest if isinstance(made, Draft) and made.digest else of(made, key="k").digest
            for made in (self._made(make), self._made(make))
        )
        assert one == other

    def _made(self, make: Callable[[], Any]) -> Any:
        made = make()
        if isinstance(made, Draft):
            assert made.envelope is not None
            return of(octets_of(made), made.envelope, key="k")
        return made

    def test_different(self) -> None:
        messages = [
            plain(),
            plain("Other"),
            plain(subject="Other"),
            plain(to=["bob@example.com"]),
            plain(from_="other@example.com"),
            plain(html="<p>Text</p>"),
            plain(headers={"X-Date": "today"}),
            with_image(),
            with_image(b"\0" * 600_000),
            with_image(b"\0" * 599_999 + b"\1"),
        ]
        digests = [of(message, key="k").digest for message in messages]
        assert len(set(digests)) == len(messages)

    def test_a_line_without_end(self) -> None:
        assert raw(body="x" * 3_000_000, key="k").digest == raw(body="x" * 3_000_000, key="k").digest
        assert raw(body="x" * 3_000_000, key="k").digest != raw(body="x" * 2_999_999 + "y", key="k").digest

    def test_a_date_in_the_text_counts(self) -> None:
        assert raw(body="Date: 1\r\n", key="k").digest != raw(body="Date: 2\r\n", key="k").digest


class TestHeads:
    @pytest.mark.parametrize(
        ("field", "priority"),
        [
            ("List-Unsubscribe: <https://example.com>", Priority.LOW),
            ("LIST-UNSUBSCRIBE: <mailto:u@example.com>", Priority.LOW),
            ("Precedence: bulk", Priority.LOW),
            ("precedence:  List", Priority.LOW),
            ("Precedence: first-class", Priority.NORMAL),
            ("Subject: List-Unsubscribe: no", Priority.NORMAL),
            ("X-Precedence: bulk", Priority.NORMAL),
        ],
    )
    def test_bulk_mail_is_low_unless_said(self, field: str, priority: Priority) -> None:
        assert raw(field).priority is priority
        assert raw(field, priority="high").priority is Priority.HIGH

    def test_a_text_is_no_head(self) -> None:
        assert raw(body="Precedence: bulk\r\nSubject: x\r\nMessage-ID: <x>\r\n").priority is Priority.NORMAL
        assert raw(body="\r\nSubject: x\r\nMessage-ID: <x>\r\n").subject == ""
        assert raw(body="\r\nSubject: x\r\nMessage-ID: <x>\r\n").message_id == ""

    @pytest.mark.parametrize("priority", ["urgent", 0, b"high", True, ""])
    def test_no_priority(self, priority: Any) -> None:
        with pytest.raises(InvalidInput, match="priority must be one of high, normal, low"):
            of(plain(), priority=priority)

    @given(st.text(max_size=400))
    def test_subjects(self, text: str) -> None:
        try:
            message = plain(subject=text)
            one = of(message)
        except InvalidInput:
            return
        assert len(one.subject) <= MAX_SUBJECT
        one.subject.encode()
        assert "\0" not in one.subject
        if len(text) < 50 and text.isprintable() and " " not in text and "=?" not in text:
            assert one.subject == text

    @pytest.mark.parametrize(
        ("field", "subject"),
        [
            ("Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
            ("Subject: one\r\n two", "one two"),
            ("SUBJECT:x", "x"),
            ("Subject: =?nonsense?q?x?=", "=?nonsense?q?x?="),
            ("Subject: =?utf-8?b?!!!?=", None),
            ("Subject: " + "x" * 900, "x" * 199 + "…"),
            ("Subject: Grüße", "Grüße"),
        ],
    )
    def test_a_subject_is_what_a_person_reads(self, field: str, subject: str | None) -> None:
        one = raw(field)
        assert subject is None or one.subject == subject

    def test_a_message_id_is_the_one_that_is_sent(self) -> None:
        one = of(plain())
        assert one.message_id.encode() in octets_of(one)
        assert raw("Message-ID: <1@example.com>").message_id == "<1@example.com>"


class TestOctets:
    def test_no_bcc_is_kept(self) -> None:
        message = with_image()
        message["Bcc"] = "secret@example.com"
        for one in (of(message), of(plain(bcc=["secret@example.com"])), raw("Bcc: secret@example.com")):
            assert b"secret" not in octets_of(one)
            assert "secret" not in one.envelope_json
        assert of(message).envelope is not None
        assert "secret@example.com" in [str(one.address) for one in of(message).envelope.recipients]  # type: ignore[union-attr]

    def test_rows(self) -> None:
        for size in (BLOCK - 100, BLOCK, 2 * BLOCK, 2 * BLOCK + 17):
            one = raw(body="x" * 76 + "\r\n" + ("y" * 76 + "\r\n") * (size // 78))
            rows = list(one.blocks())
            assert [len(row) for row in rows[:-1]] == [BLOCK] * (len(rows) - 1)
            assert 0 < len(rows[-1]) <= BLOCK
            assert sum(map(len, rows)) == one.size
            assert list(one.blocks()) == rows, "it can be read again"

    def test_what_cannot_be_rendered_is_told_at_once(self) -> None:
        with pytest.raises(InvalidInput):
            of(plain("\ud800"))

    def test_who_was_refused(self) -> None:
        outcome = Outcome("no address", Status.REJECTED, error=InvalidInput("no @"))
        one = draft(Parcel(None, b"x", (outcome,)), stamp, NOW, lasts=60.0, priority="low", key="k")
        assert (one.envelope, one.content, one.size, one.key, one.priority) == (None, None, 0, "k", Priority.LOW)
        assert list(one.blocks()) == []


ENVELOPES = [
    Envelope("shop@example.com", ["ann@example.com", "bob@example.com"]),
    Envelope("", ["ann@example.com"]),
    Envelope("shop@example.com", [Recipient("ann@example.com", ["SUCCESS", "DELAY"], "o@example.com")], envid="x+1 y"),
    Envelope("shop@example.com", ["ann@example.com"], dsn_return="HDRS", require_tls=True),
    Envelope("shöp@example.com", ["änne@exämple.com"]),
    Envelope("shop@example.com", ["ann@example.com"], hold_for=60),
    Envelope("shop@example.com", ["ann@example.com"], hold_until=datetime(2030, 1, 1, tzinfo=UTC)),
    Envelope("shop@example.com", ["ann@example.com"], extra={"MT-PRIORITY": "3", "X": None}),
]


class TestRoundTrip:
    @pytest.mark.parametrize("envelope", ENVELOPES, ids=str)
    def test_envelopes(self, envelope: Envelope) -> None:
        due = due_of(of(b"Subject: x\r\n\r\nText\r\n", envelope))
        assert due.envelope == envelope
        assert due.parcel().envelope == envelope

    def test_recipients_stand_in_their_own_rows(self) -> None:
        for envelope in ENVELOPES:
            assert "ann" not in of(b"Subject: x\r\n\r\nText\r\n", envelope).envelope_json

    def test_the_message(self) -> None:
        due = due_of(of(with_image()))
        message = due.message()
        assert message["Subject"] == "Hello"
        assert message.get_body(("plain",)).get_content().split() == ["Text"]
        assert message.as_bytes() == due.as_bytes()
        assert due.created_at == datetime.fromtimestamp(NOW, UTC)

    def test_a_worker_sends_what_was_stored(self, smtp_server: Start) -> None:
        """Octet for octet, with Message-ID and Date as they were stored."""
        drafts = [of(plain()), of(plain("Grüße", subject="Grüße", html="<p>ü</p>")), of(with_image())]
        drafts.append(raw("Subject: Grüße", body="Grüße\r\n"))
        server = smtp_server()
        with Mailer(servers=[server.url]) as mailer:
            receipts = [r for _, r in mailer.deliver([due_of(one) for one in drafts], prepare=Due.parcel)]
        assert [r.message_id for r in receipts if r is not None and r.accepted] == [
            one.message_id or None for one in drafts
        ]
        assert [transaction.content for transaction in server.taken] == [octets_of(one) for one in drafts]

    def test_8_bit_octets_are_encoded_anew_where_a_server_does_not_take_them(self, smtp_server: Start) -> None:
        one = raw(
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Transfer-Encoding: 8bit",
            "Message-ID: <1@example.com>",
            body="Grüße\r\n",
        )
        assert one.is_8bit
        server = smtp_server(Play(extensions=("PIPELINING",)))
        with Mailer(servers=[server.url]) as mailer:
            ((_, receipt),) = mailer.deliver([due_of(one)], prepare=Due.parcel)
        assert receipt is not None
        assert receipt.accepted
        content = server.taken[0].content
        assert content.isascii()
        parsed = email.message_from_bytes(content, policy=email.policy.default)
        assert parsed.get_content().split() == ["Grüße"]
        assert parsed["Message-ID"] == "<1@example.com>"

    def test_large_ones_too(self, smtp_server: Start) -> None:
        text = "ü" * 30 + "\r\n"
        fields = ("MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit")
        one = raw(*fields, body=text * 10_000)
        due = due_of(one)
        due.octets = spooled(one.blocks())
        server = smtp_server(Play(extensions=("PIPELINING",)))
        with Mailer(servers=[server.url]) as mailer:
            ((_, receipt),) = mailer.deliver([due], prepare=Due.parcel)
        due.close()
        assert receipt is not None
        assert receipt.accepted
        parsed = email.message_from_bytes(server.taken[0].content, policy=email.policy.default)
        assert parsed.get_content().split() == text.split() * 10_000

    def test_what_is_signed_is_not_altered(self, smtp_server: Start) -> None:
        one = raw("DKIM-Signature: v=1; d=example.com", body="Grüße\r\n")
        server = smtp_server(Play(extensions=("PIPELINING",)))
        with Mailer(servers=[server.url]) as mailer:
            ((_, receipt),) = mailer.deliver([due_of(one)], prepare=Due.parcel)
        assert receipt is not None
        assert isinstance(receipt.error, NotSupported)

    def test_headers_in_utf_8(self, smtp_server: Start) -> None:
        """As they are where a server takes them, else in ASCII."""
        one = raw("Subject: Grüße")
        utf8, plain = smtp_server(), smtp_server(Play(extensions=("8BITMIME",)))
        for server in (utf8, plain):
            with Mailer(servers=[server.url]) as mailer:
                ((_, receipt),) = mailer.deliver([due_of(one)], prepare=Due.parcel)
            assert receipt is not None
            assert receipt.accepted
            message = email.message_from_bytes(server.taken[0].content, policy=email.policy.default)
            assert message["Subject"] == "Grüße"
        assert utf8.taken[0].content == octets_of(one)
        assert "SMTPUTF8" in next(command for command in utf8.commands if command.startswith("MAIL"))
        assert plain.taken[0].content.isascii()


class TestOptions:
    def test_unless_said(self) -> None:
        options = Options()
        assert (options.window, options.connections, options.retry_in_doubt) == (32, 1, 2)
        assert (options.expires, options.keep, options.keep_failed) == (3 * 86400, 30 * 86400, 7 * 86400)

    def test_the_window_is_for_each_connection_unless_said(self) -> None:
        assert Options(connections=4).window == 128
        assert Options(connections=4, window=32).window == 32

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("window", value) for value in (0, -1, 1.5, "8", True)),
            *(("connections", value) for value in (0, 2.0, False)),
            *(("retry_in_doubt", value) for value in (-1, 0.5, "2")),
            *(("expires", value) for value in (0, 0.5, float("nan"), float("inf"), "3 days", True)),
            *(("keep", value) for value in (-1, float("inf"), None)),
            *(("keep_failed", value) for value in (-0.1, float("nan"))),
            *(("worker", value) for value in ("thread", "", None, True)),
            *(("environment", value) for value in (7, None, "x" * 256, "a\0b")),
        ],
    )
    def test_what_cannot_be(self, name: str, value: Any) -> None:
        with pytest.raises(InvalidSetting, match=f"^{name} must be") as raised:
            Options(**{name: value})
        assert raised.value.field == name

    def test_of_settings(self) -> None:
        assert Options.of({"window": 8, "keep": None}) == Options(window=8)
        with pytest.raises(InvalidSetting, match="unknown option 'windw' of the outbox; did you mean 'window'"):
            Options.of({"windw": 8})
        with pytest.raises(InvalidSetting, match=r"unknown option 7 of the outbox$"):
            Options.of({7: 8})  # type: ignore[dict-item]
