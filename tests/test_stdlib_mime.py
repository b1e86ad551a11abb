"""The writers write what the ``email`` package writes; with any text, in ``tests/django/test_rendering.py``."""

from __future__ import annotations

import email.message
import email.policy
import re
import tracemalloc
from email.charset import Charset
from email.generator import BytesGenerator
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from io import BytesIO

import pytest

from smtpbackend.content import CHUNK, Content
from smtpbackend.stdlib_mime import LegacyWriter, ModernWriter, NotSimple, Part

MODERN = ModernWriter()
LEGACY = LegacyWriter(lambda name, value: value)
PDF: Part = ("report.pdf", b"%PDF\n" * 30, "application/pdf")
HTML: Part = (None, "<p>Hello</p>\n", "text/html")


def rendered(
    writer: ModernWriter | LegacyWriter,
    text: str | None,
    alternatives: list[Part],
    attachments: list[Part],
    subject: str = "Hello",
) -> Content:
    body = None if text is None else (text, "text/plain")
    fields = [writer.field("Subject", subject)]
    return writer.render(fields, body, alternatives, attachments, message_id="<a@b>", number=lambda: 7)


def octets(content: Content) -> bytes:
    return b"".join(content.chunks())


def numbered(content: bytes) -> bytes:
    """The content, its boundaries numbered."""
    for number, boundary in enumerate(dict.fromkeys(re.findall(rb"={15}\d{19}==", content))):
        content = content.replace(boundary, b"boundary %d" % number)
    return content


def flattened(message: email.message.Message) -> bytes:
    out = BytesIO()
    BytesGenerator(out, mangle_from_=False).flatten(message, linesep="\r\n")
    return out.getvalue()


def modern(text: str | None, alternatives: list[Part], attachments: list[Part], subject: str = "Hello") -> bytes:
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    if text is not None:
        message.set_content(text)
    if alternatives:
        message.make_alternative()
    for _, content, media_type in alternatives:
        message.add_alternative(content, subtype=media_type.partition("/")[2])
    if attachments:
        message.make_mixed()
    for filename, content, media_type in attachments:
        main, _, subtype = media_type.partition("/")
        message.add_attachment(content, maintype=main, subtype=subtype, filename=filename)
    message["Subject"] = subject
    return message.as_bytes()


TREES: list[tuple[str | None, list[Part], list[Part]]] = [
    ("Hello\n", [], []),
    ("Hello\n", [HTML], []),
    ("Hello\n", [], [PDF, PDF]),
    ("Hello\n", [HTML, HTML], [PDF]),
    (None, [HTML], []),
    (None, [HTML], [PDF]),
    (None, [], [PDF]),
    ("x" * 79, [(None, "ü" * 60, "text/html")], [("Ü" * 60, b"", "image/png")]),
    ("Grüße\n", [], [(None, b"1", "image/png")]),
    ("last line without an end", [], []),
]


@pytest.mark.parametrize(("text", "alternatives", "attachments"), TREES)
def test_the_modern_writer(text: str | None, alternatives: list[Part], attachments: list[Part]) -> None:
    expected = modern(text, alternatives, attachments)
    assert numbered(octets(rendered(MODERN, text, alternatives, attachments))) == numbered(expected)


@pytest.mark.parametrize("subject", ["", " x", "x  y", "x" * 69, "x" * 70, "word " * 40, "Grüße", "=?utf-8?q?no?="])
def test_fields(subject: str) -> None:
    assert octets(rendered(MODERN, "Hello\n", [], [], subject)) == modern("Hello\n", [], [], subject)
    expected = email.policy.compat32.clone(linesep="\r\n").fold("Subject", subject) if subject.isascii() else ""
    if expected:
        assert LEGACY.field("Subject", subject) == expected


def test_the_legacy_writer() -> None:
    charset = Charset("utf-8")
    charset.body_encoding = None  # type: ignore[assignment]  # else it would be base64
    text, html = MIMEText("Hello\n", "plain", charset), MIMEText("<p>Hello</p>\n", "html", charset)  # type: ignore[arg-type]
    inner = MIMEMultipart("alternative", None, [text, html])
    pdf = MIMEApplication(bytes(PDF[1]), "pdf")
    pdf.add_header("Content-Disposition", "attachment", filename="report.pdf")
    message = MIMEMultipart("mixed", None, [inner, pdf])
    message["Subject"] = "Hello"
    assert numbered(octets(rendered(LEGACY, "Hello\n", [HTML], [PDF]))) == numbered(flattened(message))


@pytest.mark.parametrize("writer", [MODERN, LEGACY], ids=["modern", "legacy"])
@pytest.mark.parametrize(
    "part",
    [
        ("a.eml", b"Subject: x\n\ny", "message/rfc822"),
        ("a", b"--b--", "multipart/mixed"),
        ("a", b"b", "Image/PNG"),
        ("a", b"b", "image/png; x=y"),
        ("a", b"b", "image"),
        ("a\nb", b"b", "image/png"),
        ("a\x00b", b"b", "image/png"),
        ("a", "\ud800", "text/plain"),
    ],
)
def test_what_is_not_simple_is_left_to_the_package(writer: ModernWriter | LegacyWriter, part: Part) -> None:
    with pytest.raises(NotSimple):
        rendered(writer, "Hello\n", [], [part])


@pytest.mark.parametrize("writer", [MODERN, LEGACY], ids=["modern", "legacy"])
@pytest.mark.parametrize("value", ["a\nb", "a\r\nb", "a\x00b", "a\x7fb", "a\tb", "\ud800"])
def test_a_field_that_could_begin_another_is_not_written(writer: ModernWriter | LegacyWriter, value: str) -> None:
    for write in (writer.field, writer.special_field):
        with pytest.raises(NotSimple):
            write("X-Head", value)


def test_what_is_known_of_the_content() -> None:
    content = rendered(LEGACY, "Grüße\nund mehr", [HTML], [PDF])
    assert content.message_id == "<a@b>"
    assert content.size == len(octets(content))
    assert content.is_8bit
    assert content.longest_line == max(map(len, octets(content).split(b"\r\n")))
    assert octets(content).endswith(b"\r\n")
    seven = content.as_7bit()
    assert octets(seven).isascii()
    parsed = email.message_from_bytes(octets(seven))
    assert [part.get_content_type() for part in parsed.walk()] == [
        *("multipart/mixed", "multipart/alternative", "text/plain", "text/html", "application/pdf"),
    ]
    assert parsed["Subject"] == "Hello"


def test_boundaries_do_not_begin_one_another() -> None:
    found = octets(MODERN.render([], ("a", "text/plain"), [HTML], [PDF], message_id=None, number=lambda: 10**19 - 1))
    first, second = dict.fromkeys(re.findall(rb'boundary="(.*?)"', found))
    assert len(first) == len(second) == 36


@pytest.mark.parametrize("writer", [MODERN, LEGACY], ids=["modern", "legacy"])
def test_a_large_attachment_is_not_copied(writer: ModernWriter | LegacyWriter) -> None:
    """It is encoded a block at a time while it is sent, as often as it is sent."""
    large = bytes(range(256)) * (4 * 4096)
    tracemalloc.start()
    try:
        content = rendered(writer, "Hello\n", [], [("large", large, "application/octet-stream")])
        assert content.size > len(large)
        assert not content.is_8bit
        for _ in range(2):
            assert sum(map(len, content.chunks())) == content.size
        assert tracemalloc.get_traced_memory()[1] < 8 * CHUNK
    finally:
        tracemalloc.stop()
