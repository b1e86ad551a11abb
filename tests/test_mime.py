"""From messages to octets: what is authored, what is given, and what never leaves."""

from __future__ import annotations

import base64
import email
import io
import os
import pathlib
import re
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email import policy
from email.generator import BytesGenerator
from email.header import Header
from email.message import EmailMessage
from email.message import Message as StdMessage
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any, cast

import pytest
from hypothesis import example
from hypothesis import given as given_any
from hypothesis import strategies as st

from smtpbackend.address import parse_addresses
from smtpbackend.content import CHUNK, Given
from smtpbackend.errors import InvalidInput, NotSupported
from smtpbackend.message import Attachment, Message
from smtpbackend.mime import Content, given, render, text_content
from smtpbackend.sources import source_of
from tests.made_text import made

DATE = datetime(2026, 3, 1, 12, 0, 5, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))
POLICIES = [policy.compat32, policy.default, policy.SMTP]
KINDS = ["compat32", "default", "SMTP"]


def octets_of(content: Content) -> bytes:
    """All chunks, twice the same, with everything Content says about them checked."""
    chunks = list(content.chunks())
    octets = b"".join(chunks)
    assert octets == b"".join(content.chunks())
    assert content.size == len(octets)
    assert content.is_8bit == (not octets.isascii())
    assert content.longest_line == max(map(len, octets.split(b"\r\n")))
    assert all(0 < len(chunk) <= CHUNK for chunk in chunks)
    assert octets.endswith(b"\r\n")
    assert octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n")
    return octets


def rendered(message: Message | StdMessage, token: str = "token") -> bytes:
    """The octets of a message."""
    return octets_of(render(message, date=DATE, token=token))


def parsed(message: Message | StdMessage) -> EmailMessage:
    """What a reader makes of them."""
    return cast(EmailMessage, email.message_from_bytes(rendered(message), policy=policy.default))


def body_of(octets: bytes) -> bytes:
    """What stands behind the headers."""
    return octets.partition(b"\r\n\r\n")[2]


# Authored


def test_a_plain_message_to_the_octet() -> None:
    """The common case, byte for byte."""
    message = Message("Reset", "App <app@example.com>", ["ann@example.org", "bob@example.org"], text="Hello\n.dot\n")
    assert rendered(message) == (
        b"Subject: Reset\r\nFrom: App <app@example.com>\r\nTo: ann@example.org, bob@example.org\r\n"
        b"Date: Sun, 01 Mar 2026 12:00:05 -0330\r\nMessage-ID: <token@example.com>\r\n"
        b'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: 7bit\r\nMIME-Version: 1.0\r\n'
        b"\r\nHello\r\n.dot\r\n"
    )
    assert render(message, date=DATE, token="token").message_id == "<token@example.com>"


WRITTEN: dict[str, dict[str, Any]] = {
    "ASCII": {"subject": "Reset <b>", "text": "a & b\n.\r\nc\n", "html": "<p>a &amp; b</p>"},
    "not ASCII": {"subject": "Zur\u00fccksetzen & mehr " * 6, "text": "\u00fc" * 500, "html": "<p>\u00fc & o</p>\n"},
    "long": {"subject": "word " * 40, "text": "x" * 1200, "html": "<p>" + "x" * 1200},
    "names": {
        "from_": '"Author, \u00c4nn" <ann@example.com>',
        "to": ["Bob <bob@example.org>", ("Eve & Co, Ltd.", "eve@example.org"), "joe@b\u00fccher.example"],
        "cc": 'Car "The" Men <c@example.org>, d@example.org',
        "reply_to": [("A <B>", "a@example.org")],
        "sender": "Sender <s@example.com>",
    },
    "headers": {
        "headers": {"X-A": "a & b", "X-B": "\u00fc", "Resent-To": "A & B <r@example.org>", "References": "<a@b>"}
    },
    "identifiers": {"message_id": "one@example.com", "headers": [("X-One", "word " * 40)]},
    "identifier as header": {"headers": {"Message-ID": "<one@example.com>"}},
    "alternatives": {"text": "", "alternatives": [("BEGIN:VCALENDAR", "text/calendar; method=REQUEST")]},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_str_subclass_is_taken_by_its_characters(name: str) -> None:
    """What a template rendered or a translation found is written as the same str is, whatever its methods say."""
    given = {"from_": "a@example.com", "to": ["b@example.org"], **WRITTEN[name]}
    found = render(Message(**made(given)), date=DATE, token="token")
    right = render(Message(**given), date=DATE, token="token")
    assert octets_of(found) == octets_of(right)
    assert type(found.message_id) is type(right.message_id) is str
    assert found.message_id == right.message_id


@pytest.mark.parametrize(
    "attachment",
    [
        ("a & b\n", "page.html", "text/html"),
        ("\u00fc\n", "\u00fcber & mehr.txt", "text/plain"),
        ("{}", "a" * 70 + ".json", "application/json"),
    ],
)
def test_an_attachment_of_a_str_subclass_is_taken_by_its_characters(attachment: tuple[str, str, str]) -> None:
    """Its content, name, type and identifier."""
    octets = []
    for convert in (made, lambda value: value):
        message = Message("s", "a@example.com", html="<p>h</p>")
        message.attach(*convert(attachment))
        message.attach(*convert(attachment), content_id=convert("<one@example.com>"))
        octets.append(rendered(message))
    assert octets[0] == octets[1]


def test_what_the_author_says_of_date_and_identifier_stays() -> None:
    """As arguments or as headers."""
    message = Message("s", "a@x.org", text="", date=datetime(2020, 2, 3, 4, 5, 6), message_id="own@x.org")
    content = render(message, date=DATE, token="t")
    assert content.message_id == "<own@x.org>"
    assert b"Date: Mon, 03 Feb 2020 04:05:06 -0000\r\nMessage-ID: <own@x.org>\r\n" in octets_of(content)
    headers = {"date": "Mon, 03 Feb 2020 04:05:06 +0200", "message-id": "<own@x.org>"}
    octets = rendered(Message("s", "a@x.org", text="", headers=headers))
    assert octets.lower().count(b"date: ") == octets.lower().count(b"message-id: ") == 1
    assert render(Message("s", "a@x.org", headers=headers), date=DATE, token="t").message_id == "<own@x.org>"


@pytest.mark.parametrize(
    ("domain", "right"), [("bücher.example", "xn--bcher-kva.example"), ("[127.0.0.1]", "[127.0.0.1]")]
)
def test_the_identifier_has_the_domain_of_the_author(domain: str, right: str) -> None:
    """In its ASCII form; local mailboxes are on localhost."""
    assert f"Message-ID: <token@{right}>".encode() in rendered(Message("s", f"a@{domain}"))
    assert b"Message-ID: <token@localhost>" in rendered(Message("s", "root"))


def test_headers_repeat_and_keep_their_order() -> None:
    """Any case, repeated names, Resent- fields; those that follow from the content come last."""
    fields = [
        ("X-B", "1"),
        ("x-a", "2"),
        ("X-B", "3"),
        ("Resent-From", "r@x.org"),
        ("Resent-To", "q@x.org"),
        ("X-a", ""),
    ]
    message = parsed(Message("s", "a@x.org", "b@x.org", text="", headers=fields))
    names = [*("Subject", "From", "To", "Date", "Message-ID"), *(name for name, _ in fields)]
    assert message.keys() == [*names, "Content-Type", "Content-Transfer-Encoding", "MIME-Version"]
    assert message.get_all("x-b") == ["1", "3"]


def test_address_headers_that_come_twice_become_one() -> None:
    """RFC 5322 3.6: To, Cc and Reply-To stand once, whoever gave them."""
    fields = [("TO", "b@x.org"), ("Cc", "c@x.org"), ("cc", "d@x.org, Ü <e@x.org>"), ("X", "y")]
    message = parsed(Message("s", "a@x.org", "a@x.org", text="", headers=fields))
    assert message.get_all("to") == ["a@x.org, b@x.org"]
    assert message.get_all("cc") == ["c@x.org, d@x.org, Ü <e@x.org>"]
    assert parsed(Message("s", "a@x.org", reply_to="r@x.org", headers={"Reply-To": "q@x.org"}))["Reply-To"] == (
        "r@x.org, q@x.org"
    )


def test_hidden_recipients_are_hidden() -> None:
    """Bcc, Dcc and Resent-Bcc never stand in what is rendered."""
    headers = [("Bcc", "b@hidden.org"), ("dcc", "c@hidden.org"), ("RESENT-BCC", "d@hidden.org"), ("X-A", "b")]
    octets = rendered(Message("s", "a@x.org", "b@x.org", bcc="a@hidden.org", text="", headers=headers))
    assert b"hidden" not in octets
    assert b"cc:" not in octets.lower()


def test_sender_stands_beside_several_authors_only() -> None:
    """RFC 5322 3.6.2."""
    assert parsed(Message("s", "Ann <a@x.org>, b@x.org"))["Sender"] == "Ann <a@x.org>"
    assert parsed(Message("s", "a@x.org, b@x.org", sender="c@x.org")).get_all("Sender") == ["c@x.org"]
    assert parsed(Message("s", "a@x.org, b@x.org", headers={"Sender": "c@x.org"})).get_all("Sender") == ["c@x.org"]
    assert parsed(Message("s", "a@x.org"))["Sender"] is None
    assert parsed(Message(headers={"From": "a@x.org, b@x.org"}))["Sender"] == "a@x.org"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Ann Lee", "Ann Lee <a@x.org>"),
        ("Lee, Ann", '"Lee, Ann" <a@x.org>'),
        ('Ann "A" Lee\\', r'"Ann \"A\" Lee\\" <a@x.org>'),
        ("Ann  Lee", '"Ann  Lee" <a@x.org>'),
        ("Jörg", "=?utf-8?b?SsO2cmc=?= <a@x.org>"),
        ("Jörg aus der Stadt", "=?utf-8?q?J=C3=B6rg_aus_der_Stadt?= <a@x.org>"),
        ("日本", "=?utf-8?b?5pel5pys?= <a@x.org>"),
        ("=?utf-8?q?J=C3=B6rg?=", "=?utf-8?q?J=C3=B6rg?= <a@x.org>"),
    ],
)
def test_display_names(name: str, written: str) -> None:
    """As they are, quoted, or in encoded words; what is encoded already stays."""
    from smtpbackend.address import Address

    assert f"From: {written}\r\n".encode() in rendered(Message("s", Address("a", "x.org", name)))


def test_long_address_lists_fold_behind_commas() -> None:
    """Every mailbox on a line that holds it; a name longer than a line folds between words."""
    to = [f"Someone {number} <someone{number}@example.org>" for number in range(30)]
    octets = rendered(Message("s", "a@x.org", [*to, '"' + "very long name, " * 20 + '" <b@x.org>']))
    assert max(map(len, octets.split(b"\r\n"))) <= 78
    found = email.message_from_bytes(octets, policy=policy.default)["To"].addresses
    assert [one.addr_spec for one in found][-2:] == ["someone29@example.org", "b@x.org"]
    assert found[30].display_name.split() == ("very long name, " * 20).split()
    for word in ("x" * 300, "x" * 2000):
        octets = rendered(Message("s", f"{word} <c@x.org>"))
        assert max(map(len, octets.split(b"\r\n"))) < 998
        found = email.message_from_bytes(octets, policy=policy.default)["From"].addresses
        assert found[0].display_name.replace(" ", "") == word
    first = rendered(Message("s", '"' + "long name, " * 20 + '" <b@x.org>'))
    assert max(map(len, first.split(b"\r\n"))) <= 78


@pytest.mark.parametrize(
    "value", ["word " * 300, "x" * 2000, "ü" * 2000, "a  b   c " * 100, "=?" * 600, "é x" * 300, "\tb"]
)
def test_long_headers_fold_and_lose_nothing(value: str) -> None:
    """Between words where there are words, else in encoded words."""
    value = value.strip()
    octets = rendered(Message(value, "a@x.org", headers={"X-A-Rather-Long-Name-For-A-Header": value}))
    assert max(map(len, octets.split(b"\r\n"))) < 998
    message = email.message_from_bytes(octets, policy=policy.default)
    assert message["Subject"] == message["X-A-Rather-Long-Name-For-A-Header"] == value


def test_a_header_of_white_space_is_an_empty_header() -> None:
    """No line of white space alone, which some readers take for the end of the headers."""
    assert b"\r\nX-A: \r\n" in rendered(Message("s", "a@x.org", headers={"X-A": " \t" * 100}))


def test_utf8_local_parts_make_smtputf8_necessary() -> None:
    """The address stays as it is, the names do not (RFC 6532)."""
    content = render(Message("ü", "Jörg <jörg@bücher.example>", "b@x.org", text="ü"), date=DATE, token="t")
    octets = octets_of(content)
    assert content.needs_smtputf8
    assert "From: =?utf-8?b?SsO2cmc=?= <jörg@xn--bcher-kva.example>\r\n".encode() in octets
    assert body_of(octets).isascii()
    assert not render(Message("ü", "Jörg <a@bücher.example>"), date=DATE, token="t").needs_smtputf8
    with pytest.raises(NotSupported):
        content.as_7bit()
    assert render(Message("s", "a@x.org", headers={"Resent-To": "ü@x.org"}), date=DATE, token="t").needs_smtputf8


@pytest.mark.parametrize(
    ("text", "encoding", "body"),
    [
        ("", "7bit", b"\r\n"),
        ("a\rb\r\nc\nd", "7bit", b"a\r\nb\r\nc\r\nd\r\n"),
        ("From me\n.\n..\n", "7bit", b"From me\r\n.\r\n..\r\n"),
        ("x" * 997, "7bit", b"x" * 997 + b"\r\n"),
        ("x" * 80 + "\n" + "y" * 998, "quoted-printable", None),
        ("Grüße und viel mehr Text, der nicht kodiert wird\n", "quoted-printable", None),
        ("日本語\n", "base64", None),
        ("a\0b and a bit more\n", "quoted-printable", None),
        ("a\x0cb\x1b and a bit more\n", "quoted-printable", None),
        ("--=_1.token--\n", "quoted-printable", None),
        (" \t \n trailing \n", "7bit", None),
        ("é trailing space and a long line \n" * 3 + "x" * 2000, "quoted-printable", None),
    ],
)
def test_text_is_7bit_or_encoded(text: str, encoding: str, body: bytes | None) -> None:
    """Bare CR and LF are line ends, long lines are encoded, leading dots stay."""
    for octets in (rendered(Message("s", "a@x.org", text=text)), rendered(Message("s", "a@x.org", html=text))):
        assert octets.isascii()
        message = email.message_from_bytes(octets, policy=policy.default)
        assert message["Content-Transfer-Encoding"] == encoding
        assert body is None or body_of(octets) == body
        found = cast(bytes, message.get_payload(decode=True)).decode()
        assert found.replace("\r\n", "\n").rstrip("\n") == re.sub(r"\r\n?", "\n", text).rstrip("\n")


def test_half_a_surrogate_pair_is_refused() -> None:
    """It has no octets."""
    with pytest.raises(InvalidInput) as raised:
        rendered(Message("s", "a@x.org", html="\ud800"))
    assert raised.value.field == "html"
    with pytest.raises(InvalidInput) as raised:
        rendered(Message("s", "a@x.org", attachments=[Attachment(b"", "\ud800")]))
    assert raised.value.field == "filename"


def types(message: Any) -> Any:
    """The tree of media types."""
    if message.is_multipart():
        return [message.get_content_type(), *(types(part) for part in message.get_payload())]
    return message.get_content_type()


def test_the_tree_follows_from_what_is_there() -> None:
    """The same trees as EmailMessage makes."""
    image = Attachment(b"png", "a.png", content_id="a")
    pdf = Attachment(b"pdf", "a.pdf")

    def tree(**content: Any) -> Any:
        return types(parsed(Message("s", "a@x.org", **content)))

    assert tree() == tree(text="a") == "text/plain"
    assert tree(html="a") == "text/html"
    both = ["multipart/alternative", "text/plain", "text/html"]
    assert tree(text="a", html="b") == both
    assert tree(text="a", alternatives=[("BEGIN", "text/calendar; method=REQUEST"), (b"{}", "application/json")]) == [
        *("multipart/alternative", "text/plain", "text/calendar", "application/json")
    ]
    assert tree(alternatives=[("x", "text/markdown")]) == "text/markdown"
    assert tree(attachments=[pdf]) == ["multipart/mixed", "application/pdf"]
    assert tree(text="a", attachments=[pdf, image]) == ["multipart/mixed", "text/plain", "application/pdf", "image/png"]
    assert tree(text="a", html="b", attachments=[pdf]) == ["multipart/mixed", both, "application/pdf"]
    related = ["multipart/related", "text/html", "image/png"]
    assert tree(html="b", attachments=[image]) == related
    assert tree(text="a", html="b", attachments=[image, pdf]) == [
        *("multipart/mixed", ["multipart/alternative", "text/plain", related], "application/pdf")
    ]


def test_parameters_of_a_media_type_are_kept() -> None:
    """The charset of text is ours, all else the author's."""
    calendar = Attachment("BEGIN:VCALENDAR", "i.ics", 'text/calendar; method="REQUEST"; charset=latin-1; x=y')
    (part,) = parsed(Message("s", "a@x.org", text="", attachments=[calendar])).iter_attachments()
    assert dict(part["Content-Type"].params) == {"method": "REQUEST", "x": "y", "charset": "utf-8"}
    octets = Attachment(
        b"\xe9", "a.txt", "text/plain; charset=latin-1; " + "; ".join(f"p{n}={'v' * 20}" for n in range(9))
    )
    (part,) = parsed(Message("s", "a@x.org", text="", attachments=[octets])).iter_attachments()
    assert part.get_content() == "é"
    for wrong in ("text/plain; charset", "text/plain; a=b\u00e9", "text/plain x", "multipart/mixed", "message/partial"):
        with pytest.raises(InvalidInput) as raised:
            rendered(Message("s", "a@x.org", attachments=[Attachment(b"", content_type=wrong)]))
        assert raised.value.field == "attachments"


def test_a_vcard_goes_with_a_message() -> None:
    """The Comet walk-through: a text, a vCard, a line with a single dot."""
    card = "BEGIN:VCARD\nVERSION:4.0\nFN:Jörg\nEND:VCARD\n"
    message = parsed(
        Message("s", "a@x.org", text="a\n.\nb\n", attachments=[Attachment(card, "joerg.vcf", "text/vcard")])
    )
    assert message.get_body().get_content() == "a\r\n.\r\nb\r\n"  # type: ignore[union-attr]
    (part,) = message.iter_attachments()
    assert part.get_content_type() == "text/vcard"
    assert part.get_filename() == "joerg.vcf"
    assert part.get_content().replace("\r\n", "\n") == card


@pytest.mark.parametrize(
    "filename", ["a.txt", "ä.txt", 'a"b\\c', "日本語" * 40 + ".txt", "x" * 300, "a  b", "a;b=c", "=?x?="]
)
def test_filenames_come_back(filename: str) -> None:
    """Quoted, or by RFC 2231 with continuations."""
    octets = rendered(Message("s", "a@x.org", attachments=[Attachment(b"", filename, "a/b")]))
    assert max(map(len, octets.split(b"\r\n"))) <= 78
    (part,) = cast(EmailMessage, email.message_from_bytes(octets, policy=policy.default)).iter_attachments()
    assert part.get_filename() == filename


def test_inline_images_are_found_by_their_identifier() -> None:
    """With or without angle brackets; inline unless said otherwise."""
    images = [Attachment(b"1", content_id="<a@b>"), Attachment(b"2", "b.png", content_id="b", inline=False)]
    images.append(Attachment(b"3", "c.png", inline=True))
    message = parsed(Message("s", "a@x.org", html="", attachments=images))
    parts = [part for part in message.walk() if part.get_content_disposition()]
    assert [part["Content-ID"] for part in parts] == ["<a@b>", "<b>", None]
    assert [part.get_content_disposition() for part in parts] == ["inline", "attachment", "inline"]


def test_forwarded_messages_are_7bit() -> None:
    """RFC 2046 5.2.1: message/rfc822 is not encoded, so what is in it is."""
    inner = EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content("Grüße", cte="8bit")
    flat = inner.as_bytes(policy=policy.SMTP)
    for content in (
        Attachment(inner),
        Attachment(flat, content_type="message/rfc822"),
        Attachment(io.BytesIO(flat), "a.eml"),
    ):
        message = parsed(Message("s", "a@x.org", text="a", attachments=[content]))
        (part,) = message.iter_attachments()
        assert part.get_content_type() == "message/rfc822"
        assert part["Content-Transfer-Encoding"] == "7bit"
        assert part.get_content()["Subject"] == "inner"
        assert part.get_content().get_content() == "Grüße\r\n"
    assert inner["Content-Transfer-Encoding"] == "8bit"  # the caller's object is as it was
    signed = MIMEMultipart("signed")
    signed.attach(email.message_from_bytes(b"Content-Type: text/plain; charset=utf-8\n\n\xc3\xbc\n"))
    content = render(Message("s", "a@x.org", text="a", attachments=[Attachment(signed)]), date=DATE, token="t")
    assert b"\r\nContent-Transfer-Encoding: 8bit\r\n" in octets_of(content)
    assert content.is_8bit


def test_a_forwarded_message_as_text_is_forwarded_as_its_octets() -> None:
    """RFC 2046 5.2.1: message/rfc822 itself is never encoded. It is parsed, and its content is encoded."""
    text = "Subject: inner\r\nFrom: c@x.org\r\n\r\n" + "日本語のメール\r\n" * 3
    written = []
    for content in (text, text.encode()):
        message = Message("s", "a@x.org", text="x")
        message.attach(content, "x.eml")
        written.append(rendered(message))
    assert written[0] == written[1]
    assert b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n" in written[0]


@pytest.mark.parametrize("media_type", ["multipart/mixed", "message/partial", "Message/Delivery-Status"])
@pytest.mark.parametrize("content", ["x", "grüße", b"x"])
def test_what_has_parts_cannot_be_an_attachment(content: str | bytes, media_type: str) -> None:
    message = Message("s", "a@x.org", text="x")
    message.attach(content, content_type=media_type)
    alternative = Message("s", "a@x.org", text="x", alternatives=[(content, media_type)])
    for one in (message, alternative):
        with pytest.raises(InvalidInput, match="cannot be an attachment, only message/rfc822 can"):
            rendered(one)


def test_attachments_from_paths_and_files_are_replayed(tmp_path: pathlib.Path) -> None:
    """As often as asked for, by two readers at once, and in a second rendering."""
    data = os.urandom(300_000)
    path = tmp_path / "data.bin"
    path.write_bytes(data)
    with path.open("rb") as seekable, path.open("rb", buffering=0) as raw:
        seekable.seek(7)
        one_shot = io.BufferedReader(cast(io.RawIOBase, _Pipe(data)))
        message = Message(
            *("s", "a@x.org"),
            attachments=[
                path,
                *(Attachment(one, "data.bin") for one in (seekable, raw, one_shot, bytearray(data), data)),
            ],
        )
        wanted = [data, data[7:], data, data, data, data]
        for _ in "12":
            content = render(message, date=DATE, token="t")
            message_ = cast(EmailMessage, email.message_from_bytes(octets_of(content), policy=policy.default))
            assert [part.get_content() for part in message_.iter_attachments()] == wanted
            first, second = content.chunks(), content.chunks()
            assert all(one == other for one, other in zip(first, second, strict=True))
            content.close()


class _Pipe(io.RawIOBase):
    """A raw file that cannot be read again, and gives less than it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._rest.read(min(len(buffer), 1000))
        buffer[: len(block)] = block
        return len(block)


def test_what_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    """A missing file is the caller's error, never one of the network."""
    with pytest.raises(InvalidInput, match="cannot be read") as raised:
        rendered(Message("s", "a@x.org", attachments=[tmp_path / "missing"]))
    assert raised.value.field == "attachments"
    with pytest.raises(InvalidInput, match="binary"):
        rendered(Message("s", "a@x.org", attachments=[Attachment(io.StringIO("x"), "x")]))  # type: ignore[arg-type]
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 100)
    content = render(Message("s", "a@x.org", attachments=[path]), date=DATE, token="t")
    path.write_bytes(b"x" * 10)
    with pytest.raises(InvalidInput, match="shorter"):
        list(content.chunks())
    path.unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        list(content.chunks())


def test_a_named_pipe_is_read_once(tmp_path: pathlib.Path) -> None:
    """What is no regular file has no size before it was read."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"From: a@x.org\n\nbody",))
    writer.start()
    content = given(path)
    writer.join()
    assert octets_of(content) == b"From: a@x.org\r\n\r\nbody\r\n"
    content.close()


@pytest.mark.slow
def test_a_hundred_megabytes_are_never_in_memory(tmp_path: pathlib.Path) -> None:
    """An attachment from a path is read, encoded and given in chunks."""
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    tracemalloc.start()
    try:
        content = render(Message("s", "a@x.org", text="a", attachments=[path]), date=DATE, token="t")
        size = sum(map(len, content.chunks()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == content.size > 136_000_000
    assert content.longest_line <= 78
    assert peak < 8_000_000


@pytest.mark.parametrize("token", ["", "a b", "a\r\nb", "a>", "x" * 49, 1])
def test_a_token_that_breaks_headers_is_refused(token: Any) -> None:
    """It stands in Message-ID and in boundaries."""
    with pytest.raises(InvalidInput) as raised:
        render(Message("s", "a@x.org"), date=DATE, token=token)
    assert raised.value.field == "token"


def test_what_is_no_message_is_refused() -> None:
    """Octets and envelopes go elsewhere."""
    for wrong in (b"From: a@x.org\r\n\r\n", "text", None):
        with pytest.raises(InvalidInput) as raised:
            render(wrong, date=DATE, token="t")  # type: ignore[arg-type]
        assert raised.value.field == "message"
    with pytest.raises(InvalidInput, match="date"):
        render(Message("s", "a@x.org", date="today"), date=DATE, token="t")  # type: ignore[arg-type]


# Given as email.message.Message


def snapshot(message: StdMessage) -> Any:
    """Everything a message holds."""
    payload = message._payload  # type: ignore[attr-defined]
    parts = [snapshot(part) for part in payload] if isinstance(payload, list) else payload
    return [list(message.raw_items()), parts, message.preamble, message.epilogue, message.policy]


@pytest.mark.parametrize("kind", POLICIES, ids=KINDS)
def test_a_message_of_the_email_package_is_completed_and_not_changed(kind: Any) -> None:
    """Date, Message-ID and MIME-Version are added, hidden recipients left out; the caller's object stays."""
    hidden = b"Bcc: b@hidden.org,\n c@hidden.org\ndcc: d@hidden.org\nResent-Bcc: e@hidden.org\n"
    source = b"From: Ann <a@x.org>\n" + hidden + b"X: y\n\nbody"
    message = email.message_from_bytes(source, policy=kind)
    before = snapshot(message)
    content = render(message, date=DATE, token="token")
    assert octets_of(content) == (
        b"From: Ann <a@x.org>\r\nX: y\r\nMIME-Version: 1.0\r\nDate: Sun, 01 Mar 2026 12:00:05 -0330\r\n"
        b"Message-ID: <token@x.org>\r\n\r\nbody\r\n"
    )
    assert content.message_id == "<token@x.org>"
    assert snapshot(message) == before
    complete = email.message_from_bytes(octets_of(content), policy=kind)
    again = render(complete, date=DATE, token="other")
    assert octets_of(again) == octets_of(content)
    assert again.message_id == "<token@x.org>"


def test_several_authors_given_get_a_sender() -> None:
    """RFC 5322 3.6.2, also for what was given; nothing is added where From cannot be read."""
    for kind in POLICIES:
        message: Any = email.message_from_bytes(b"From: a@x.org, Ann <b@x.org>\n\n", policy=kind)
        assert b"\r\nSender: a@x.org\r\n" in rendered(message)
        message = email.message_from_bytes(b'From: "a, b" <b@x.org>\n\n', policy=kind)
        assert b"Sender" not in rendered(message)
    broken = email.message_from_bytes(b"From: a, b c d\n\n")
    assert b"Message-ID: <token@localhost>" in rendered(broken)
    assert b"Message-ID: <token@localhost>" in rendered(email.message_from_bytes(b"To: a\n\n"))


SIGNED = [
    b"Content-Type: multipart/mixed;\r\n boundary=inner\r\nX-Long: "
    + b"word " * 60
    + b"\r\nX-Odd:\r\n folded at once\r\n"
    b"X-Tab: a\r\n\tb  c \r\n\r\npreamble\r\n--inner\r\n\r\nFrom here  \r\n>From there\r\n.\r\n\r\n--inner\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
    b"--inner--" + end
    for end in (b"", b"\r\n", b"\r\n\r\n", b"\r\nepilogue\r\n")
]
SIGNED += [
    b"\r\nno header at all\r\n",
    b"Content-Type: text/plain\r\n\r\n",
    b"Content-Type: text/plain\r\n\r\nno end of line",
    b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nBcc: stays@x.org\r\n\r\n-----BEGIN PGP\r\n \r\n\r\n",
    b"Content-Type: multipart/mixed; boundary=x\r\n\r\nno boundary\r\n",
    b"Content-Type: message/delivery-status\r\n\r\nA: b\r\n\r\nC: d\r\n\r\nE: f\r\n",
    b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\nU3ViamVjdDogYQo=\r\n",
]


@pytest.mark.parametrize("kind", POLICIES, ids=KINDS)
@pytest.mark.parametrize("part", SIGNED)
def test_signed_structures_leave_byte_for_byte(part: bytes, kind: Any) -> None:
    """A message parsed from octets has the same body octets: nothing refolded, quoted, added or re-encoded."""
    body = b"--outer\r\n" + part + b"\r\n--outer\r\nContent-Type: application/pgp-signature\r\n\r\nsig\r\n--outer--\r\n"
    head = b"From: a@x.org\r\nDate: x\r\nMIME-Version: 1.0\r\nMessage-ID: <a@b>\r\n"
    head += b'Content-Type: multipart/signed; boundary="outer"\r\n'
    for source in (head + b"\r\n" + body, (head + b"\r\n" + body).replace(b"\r\n", b"\n")):
        message = email.message_from_bytes(source, policy=kind)
        content = render(message, date=DATE, token="t")
        assert octets_of(content) == head + b"\r\n" + body
        if content.is_8bit:
            with pytest.raises(NotSupported, match="signed"):
                content.as_7bit()


def test_multiparts_keep_preamble_and_epilogue_recursively() -> None:
    """LuaSocket's example: a preamble, parts and an epilogue, and a multipart within."""
    inner = MIMEMultipart("alternative", _subparts=[MIMEText("a"), MIMEText("<b>", "html")])
    inner.preamble, inner.epilogue = "inner preamble", "inner epilogue"
    outer = MIMEMultipart(_subparts=[MIMEText("first"), inner, MIMEApplication(b"octets")])
    outer["From"] = "a@x.org"
    outer.preamble, outer.epilogue = "This is a preamble\n", "This is an epilogue"
    before = snapshot(outer)
    message = parsed(outer)
    assert snapshot(outer) == before
    assert (message.preamble, message.epilogue) == ("This is a preamble\r\n", "This is an epilogue\r\n")
    assert types(message) == [
        *(
            "multipart/mixed",
            "text/plain",
            ["multipart/alternative", "text/plain", "text/html"],
            "application/octet-stream",
        )
    ]
    nested = message.get_payload(1)
    assert (nested.preamble, nested.epilogue) == ("inner preamble", "inner epilogue")  # type: ignore[union-attr]


def std_messages() -> Iterator[StdMessage]:
    """Messages built in the ways people build them."""
    modern = EmailMessage()
    modern["Subject"] = "Grüße " * 30
    modern["From"] = '"Jörg, der Große" <a@x.org>'
    modern["To"] = ", ".join(f"Person {number} <p{number}@example.org>" for number in range(20))
    modern.set_content("Grüße\nFrom here\n")
    modern.add_alternative("<p>Grüße", subtype="html")
    modern.add_attachment(b"\0\1" * 500, "application", "pdf", filename="naïve façade.pdf")
    attached = EmailMessage()
    attached["Subject"] = "attached"
    attached.set_content("text")
    modern.add_attachment(attached)
    yield modern
    old = MIMEMultipart()
    old["Subject"] = Header("Grüße " * 30, "utf-8")
    old["From"] = "a@x.org"
    old["X-Folded"] = "a\n\tb"
    old.attach(MIMEText("Grüße", _charset="utf-8"))
    old.attach(MIMEText("Grüße " * 500, _charset="latin-1"))
    application = MIMEApplication(b"x" * 200_000)
    application.add_header("Content-Disposition", "attachment", filename=("utf-8", "", "ä.bin"))
    old.attach(application)
    yield old
    empty = StdMessage()
    empty["From"] = "a@x.org"
    yield empty
    unparsed = StdMessage()
    unparsed["From"] = "a@x.org"
    unparsed["Content-Type"] = "multipart/mixed"
    yield unparsed


@pytest.mark.parametrize("message", list(std_messages()), ids=["modern", "old", "empty", "no parts"])
def test_messages_of_the_email_package_read_the_same(message: StdMessage) -> None:
    """As if its own generator had written them."""
    before = snapshot(message)
    ours = email.message_from_bytes(rendered(message), policy=policy.default)
    assert snapshot(message) == before
    buffer = io.BytesIO()
    generator_policy = policy.SMTP if isinstance(message, EmailMessage) else policy.compat32.clone(linesep="\r\n")
    BytesGenerator(buffer, mangle_from_=False, policy=generator_policy).flatten(message)
    theirs = email.message_from_bytes(buffer.getvalue(), policy=policy.default)

    def known(part: Any) -> Any:
        added = {"date", "message-id", "mime-version"}
        fields = [
            (name, re.sub(r"\s*boundary=\S+|\s", "", str(value)))
            for name, value in part.items()
            if name.lower() not in added
        ]
        if part.is_multipart():
            return [fields, [known(one) for one in part.get_payload()]]
        return [fields, (part.get_payload(decode=True) or b"").replace(b"\r\n", b"\n").rstrip(b"\n")]

    assert known(ours) == known(theirs)


def test_addresses_the_email_package_writes_wrongly() -> None:
    """UTF-8 local parts and IDNA domains: never as encoded words (RFC 2047 5)."""
    message = EmailMessage()
    message["From"] = "Jörg <jörg@bücher.example>"
    message["To"] = "ann@bücher.example"
    content = render(message, date=DATE, token="t")
    assert content.needs_smtputf8
    assert "From: =?utf-8?b?SsO2cmc=?= <jörg@xn--bcher-kva.example>\r\nTo: ann@xn--bcher-kva.example\r\n".encode() in (
        octets_of(content)
    )
    old = StdMessage()
    old["From"] = "Jörg <a@x.org>"
    old["Subject"] = "Grüße"
    assert rendered(old).startswith(b"From: =?utf-8?b?SsO2cmc=?= <a@x.org>\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\r\n")


def test_raw_utf8_headers_stay_and_need_smtputf8() -> None:
    """What was parsed is given as it is; what is not UTF-8 is no matter of SMTPUTF8."""
    for kind in POLICIES:
        message: Any = email.message_from_bytes("From: a@x.org\nSubject: Grüße\n\n".encode(), policy=kind)
        content = render(message, date=DATE, token="t")
        assert "Subject: Grüße\r\n".encode() in octets_of(content)
        assert content.needs_smtputf8
        encoded = content.as_7bit()
        assert not encoded.needs_smtputf8
        assert email.message_from_bytes(octets_of(encoded), policy=policy.default)["Subject"] == "Grüße"
        message = email.message_from_bytes("From: a@x.org\nSubject: Grüße\n\n".encode("latin-1"), policy=kind)
        assert not render(message, date=DATE, token="t").needs_smtputf8
        assert octets_of(render(message, date=DATE, token="t").as_7bit()).isascii()


@pytest.mark.parametrize("bad", ["a\nb", "a\r\nb", "a\rb", "a\r\n\r\nb", "a\0b", "a\x7fb", "a\x1bb", "a\n"])
def test_injected_headers_are_refused(bad: str) -> None:
    """In a value of a message of the old kind, which the email package does not check; and in a part."""
    message = StdMessage()
    message["From"] = "a@x.org"
    message["X-A"] = bad
    with pytest.raises(InvalidInput) as raised:
        rendered(message)
    assert raised.value.field == "X-A"
    outer = MIMEMultipart(_subparts=[message])
    with pytest.raises(InvalidInput):
        rendered(outer)
    message = StdMessage()
    message["X-A"] = Header(bad + "b")
    with pytest.raises(InvalidInput):
        rendered(message)
    message = StdMessage()
    message[f"X{bad}"] = "a"
    with pytest.raises(InvalidInput) as raised:
        rendered(message)
    assert raised.value.field == "headers"


def test_what_the_folder_of_the_email_package_cannot_fold_is_folded_here() -> None:
    """Its encoded words do not fit into short lines; a Header of the old kind may hold a whole other header."""
    message = EmailMessage(policy=policy.default.clone(max_line_length=10))
    message["Subject"] = "Grüße"
    message["From"] = "a@x.org"
    assert parsed(message)["Subject"] == "Grüße"
    old = StdMessage()
    old["X-A"] = Header("a\nX-B: c")
    with pytest.raises(InvalidInput) as raised:
        rendered(old)
    assert raised.value.field == "X-A"


def test_folded_values_are_legal() -> None:
    """A line end before white space is folding; only lines over 998 octets are folded anew."""
    message = StdMessage()
    message["From"] = "a@x.org"
    message["X-A"] = "a\n b\r\n\tc"
    message["X-B"] = "word " * 100
    message["X-C"] = "word " * 500
    message["To"] = ", ".join(["Ann <ann@example.org>"] * 100)
    octets = rendered(message)
    assert b"\r\nX-A: a\r\n b\r\n\tc\r\nX-B: " + b"word " * 100 + b"\r\nX-C: word word" in octets
    assert max(map(len, octets.split(b"\r\n"))) <= 510
    again = email.message_from_bytes(octets, policy=policy.default)
    assert again["X-C"].split() == ["word"] * 500
    assert len(again["To"].addresses) == 100


def test_a_message_that_cannot_be_octets_is_refused() -> None:
    """Text without a charset, and payloads that are no text."""
    for payload in ("ü", "ü" * 100_000, 1):
        message = StdMessage()
        message["From"] = "a@x.org"
        message._payload = payload  # type: ignore[attr-defined]
        with pytest.raises(InvalidInput):
            rendered(message)
    message._payload = b"octets"  # type: ignore[attr-defined]
    assert rendered(message).endswith(b"\r\n\r\noctets\r\n")


# What was given as 8-bit, made 7-bit


@pytest.mark.parametrize("kind", POLICIES, ids=KINDS)
def test_an_unsigned_message_can_be_made_7bit(kind: Any) -> None:
    """Every part keeps its decoded octets; the caller's object stays as it was."""
    source = (
        "From: a@x.org\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n"
        "Content-Transfer-Encoding: 8bit\n\n"
        "préamble\n--b\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße\n.\n\n"
        '--b\nContent-Type: application/json\n\n{"a": "日本"}\n'
        f"--b\nContent-Type: text/html\n\n{'x' * 2000}\n"
        f"--b\nContent-Type: text/html\nContent-Transfer-Encoding: base64\n\n{'eHh4' * 500}\n"
        "--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nSubject: Grüße\n\nGrüße\n"
        '--b\nContent-Type: text/plain\nContent-Disposition: attachment; filename="ä.txt"\n\nplain\n--b--\n'
    ).encode()
    message = email.message_from_bytes(source, policy=kind)
    before = snapshot(message)
    content = render(message, date=DATE, token="t")
    assert content.is_8bit
    assert content.longest_line == 2000
    octets = octets_of(content.as_7bit())
    assert octets.isascii()
    assert content.as_7bit().longest_line < 998
    assert snapshot(message) == before
    first = cast(EmailMessage, email.message_from_bytes(source, policy=policy.default))
    second = cast(EmailMessage, email.message_from_bytes(octets, policy=policy.default))
    for one, other in zip(first.walk(), second.walk(), strict=True):
        assert one.get_content_type() == other.get_content_type()
        if not one.is_multipart():
            decoded = [cast(bytes, part.get_payload(decode=True)).replace(b"\r\n", b"\n") for part in (one, other)]
            assert decoded[0] == decoded[1]
    assert second.get_payload(5).get_filename() == "ä.txt"  # type: ignore[union-attr]
    assert second.get_payload(4).get_content()["Subject"] == "Grüße"  # type: ignore[union-attr]


def test_what_is_7bit_stays_itself() -> None:
    """No copy where none is needed."""
    content = render(Message("s", "a@x.org", text="ü"), date=DATE, token="t")
    assert content.as_7bit() is content


@pytest.mark.parametrize(
    "marker", [b"DKIM-Signature: v=1", b"Content-Type: application/pkcs7-mime", b"X-A: " + b"x" * 1200]
)
def test_what_is_signed_or_octets_cannot_be_encoded(marker: bytes) -> None:
    """8-bit or over-long content that was signed, and octets of any kind."""
    source = marker + b"\r\n\r\n\xc3\xbc\r\n"
    with pytest.raises(NotSupported):
        given(source).as_7bit()
    if not marker.startswith(b"X"):
        with pytest.raises(NotSupported):
            render(email.message_from_bytes(source), date=DATE, token="t").as_7bit()


def test_an_address_that_is_utf8_cannot_be_7bit() -> None:
    """A local part has no other form."""
    message = email.message_from_bytes("From: jörg@x.org\n\nü".encode())
    with pytest.raises(NotSupported, match="not ASCII"):
        render(message, date=DATE, token="t").as_7bit()


# Given as octets


@pytest.mark.parametrize(
    ("source", "octets"),
    [
        (b"", b"\r\n"),
        (b"A: b\r\n\r\nc\r\n", b"A: b\r\n\r\nc\r\n"),
        (b"A: b\n\nc\rd\r\n\r\r\ne", b"A: b\r\n\r\nc\r\nd\r\n\r\n\r\ne\r\n"),
        (b"A: b\n\n.\n..\nFrom \r", b"A: b\r\n\r\n.\r\n..\r\nFrom \r\n"),
        (b"Bcc: a\n b\nA: b\nDCC : c\n\td\n\nBcc: stays\n", b"A: b\r\n\r\nBcc: stays\r\n"),
        (b"A: b\nRESENT-BCC:c", b"A: b\r\n"),
        (b"Bcc: c", b"\r\n"),
        (b"A: b\nno field\nBcc: body\n", b"A: b\r\nno field\r\nBcc: body\r\n"),
        (b"\nBcc: body\n", b"\r\nBcc: body\r\n"),
        (b"From a@b Mon\nBcc: c\nA: b\n\n", b"From a@b Mon\r\nA: b\r\n\r\n"),
        (b"X-Bcc: a\nBcc-X: b\n\n", b"X-Bcc: a\r\nBcc-X: b\r\n\r\n"),
        (b"A: \xff\n\n\xff\0\n", b"A: \xff\r\n\r\n\xff\0\r\n"),
    ],
)
def test_given_octets_change_in_line_ends_and_hidden_recipients_only(source: bytes, octets: bytes) -> None:
    """Whole, by single bytes, from a file, from a generator."""
    single = [source[i : i + 1] for i in range(len(source))]
    for form in (source, bytearray(source), memoryview(source), single, iter(single), io.BytesIO(source), (source,)):
        if source or not isinstance(form, Iterator):  # from one that gives nothing somebody may have taken it
            assert octets_of(given(form)) == octets or (not octets and not source)


@given_any(
    st.lists(st.sampled_from([b"Bcc", b"A", b":", b" ", b"\r", b"\n", b"\t", b"x", b"\xc3\xbc", b"From "])).map(
        b"".join
    )
)
@example(b"A:\r\r\nBcc:")
@example(b"\r")
def test_any_octets_become_the_same_content_however_they_come(source: bytes) -> None:
    """In memory and as a stream, in any pieces."""
    content = given(source)
    octets = octets_of(content)
    streamed = Given(source_of([source[i : i + 1] for i in range(len(source))], "message"))
    assert b"".join(streamed.chunks()) == octets
    assert (streamed.size, streamed.is_8bit, streamed.longest_line) == (
        content.size,
        content.is_8bit,
        content.longest_line,
    )
    assert octets_of(given(octets)) == octets
    head = octets.partition(b"\r\n\r\n")[0]
    assert not re.search(rb"(?im)\A(?:[a-z]+:.*\r\n([ \t].*\r\n)*)*bcc:", head)


def test_given_content_knows_its_headers(tmp_path: pathlib.Path) -> None:
    """Message-ID, and UTF-8 that only a server with SMTPUTF8 may get."""
    path = tmp_path / "a.eml"
    source = "From: ä@x.org\nMessage-Id:\n <a@b>\n\nbody".encode()
    path.write_bytes(source)
    for content in (given(source), given(path), given([source])):
        assert content.message_id == "<a@b>"
        assert content.needs_smtputf8
    for other in (b"From: \xe4@x.org\n\n", b"A: b\n\nMessage-ID: <a@b>\n\xc3\xbc", b"\nMessage-ID: <a@b>\n"):
        for content in (given(other), given([other])):
            assert not content.needs_smtputf8
            assert content.message_id is None


@pytest.mark.slow
def test_large_octets_are_streamed(tmp_path: pathlib.Path) -> None:
    """A file is scanned and sent in chunks, whatever its lines are; so is the header section."""
    line = b"x" * 70 + b"\n"
    head = b"A: " + b"y" * 200_000 + b"\nBcc: " + b"z" * 200_000 + b"\nB: c\n" + b"D: e\n" * 20_000
    source = head + b"\n" + line * 50_000 + b"\r" * 1000
    wanted = re.sub(rb"\r\n|\r|\n", b"\r\n", re.sub(rb"Bcc: z*\n", b"", source))
    path = tmp_path / "large.eml"
    path.write_bytes(source)
    tracemalloc.start()
    try:
        content = given(path)
        size = content.size
        total = sum(map(len, content.chunks()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == total == len(wanted)
    assert peak < 4_000_000
    for form in (path, source, [source[i : i + 9999] for i in range(0, len(source), 9999)]):
        assert octets_of(given(form)) == wanted
    assert octets_of(given(b"no field " * 10_000)) == b"no field " * 10_000 + b"\r\n"
    assert octets_of(given([b"no field " * 10_000])) == b"no field " * 10_000 + b"\r\n"
    assert given([b"A: b\n" * 300_000]).message_id is None


def test_a_file_is_given_from_where_it_stands() -> None:
    """What was read before is not content."""
    file = io.BytesIO(b"junk\nFrom: a@x.org\n\n")
    file.readline()
    content = given(file)
    assert octets_of(content) == b"From: a@x.org\r\n\r\n"
    content.close()
    assert not file.closed


@pytest.mark.parametrize("source", ["From: a@x.org", None, 1, ["text"], io.StringIO("text"), EmailMessage])
def test_what_is_no_octets_is_refused(source: Any) -> None:
    """A str may be a path or a text: say which."""
    with pytest.raises(InvalidInput) as raised:
        given(source)
    assert raised.value.field == "message"


def test_a_source_that_raises_is_raised() -> None:
    """Before anything was sent; its temporary file is closed."""

    def source() -> Iterator[bytes]:
        yield b"From: a@x.org\r\n"
        raise RuntimeError("the template broke")

    with pytest.raises(RuntimeError, match="broke"):
        given(source())


def test_base64_comes_in_whole_lines() -> None:
    """Blocks of 57 octets make lines of 76, also across chunks."""
    data = os.urandom(200_001)
    content = render(Message("s", "a@x.org", attachments=[Attachment(io.BytesIO(data), "a.bin")]), date=DATE, token="t")
    body = octets_of(content).split(b"\r\n\r\n")[2]
    lines = body.split(b"\r\n")
    assert {len(line) for line in lines[:-2]} == {76}
    assert base64.b64decode(body) == data


# What an adapter has parsed


def composed(**changed: Any) -> Content:
    wanted: dict[str, Any] = {
        "subject": "Hello",
        "authors": "ann@example.org",
        "to": "bob@example.com",
        "cc": "",
        "reply_to": "",
        **{"text": "Good day\n", "html": None, "date": DATE, "message_id": "<1@example.org>", "token": "token"},
        **changed,
    }
    lists = {name: parse_addresses(wanted.pop(name)) for name in ("authors", "to", "cc", "reply_to")}
    return text_content(**lists, **wanted)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"subject": ""},
        {"subject": "Grüße, " * 30, "text": "Grüße"},
        {"html": "<p>Good day</p>"},
        {"text": "", "html": ""},
        {"authors": "Ann <ann@example.org>, bob@example.com"},
        {"to": "", "cc": "a@example.org, Bób <b@example.org>", "reply_to": "r@example.org"},
        {"to": "ü@example.org"},
    ],
    ids=str,
)
def test_an_adapter_gets_what_a_message_would_be_rendered_to(changed: dict[str, Any]) -> None:
    """Octet for octet, a Sender beside several authors included."""
    given_as = {
        "subject": "Hello",
        "authors": "ann@example.org",
        "to": "bob@example.com",
        "text": "Good day\n",
        **changed,
    }
    message = Message(**{{"authors": "from_"}.get(name, name): value for name, value in given_as.items()})
    message.message_id = "<1@example.org>"
    wanted, found = render(message, date=DATE, token="token"), composed(**changed)
    assert octets_of(found) == octets_of(wanted)
    assert (found.message_id, found.needs_smtputf8) == (wanted.message_id, wanted.needs_smtputf8)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"authors": ""}, "from_"),
        ({"message_id": "two words"}, "message_id"),
        ({"token": 'a"\r\nX: y'}, "token"),
        ({"subject": "two\r\nX: lines"}, "subject"),
        ({"text": "half a pair: \ud800"}, "text"),
        ({"date": "today"}, "date"),
    ],
    ids=str,
)
def test_what_an_adapter_cannot_send_is_named(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        composed(**changed)
    assert refused.value.field == field
