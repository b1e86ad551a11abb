"""Messages as Django sites send them: each must arrive as Django's own backend would send it.

A case is a function without arguments, so that each backend gets a message of its own.
"""

from __future__ import annotations

import email
import email.message
import email.policy
from collections.abc import Callable
from email.mime.application import MIMEApplication
from email.mime.base import MIMEBase
from email.mime.image import MIMEImage
from email.mime.text import MIMEText
from typing import Any

import django
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.utils.functional import lazystr

MODERN = django.VERSION >= (6, 0)
BCC_HEADER_IS_AN_ERROR = django.VERSION >= (6, 1)

CASES: dict[str, Callable[[], EmailMessage]] = {}

Case = Callable[[], EmailMessage]


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def make(
    subject: Any = "Subject",
    body: Any = "Body\n",
    from_email: Any = "from@example.com",
    to: Any = ("to@example.org",),
    *,
    kind: type[EmailMessage] = EmailMessage,
    **options: Any,
) -> EmailMessage:
    return kind(subject, body, from_email, to, **options)


def add(name: str, *args: Any, **options: Any) -> None:
    CASES[name] = lambda: make(*args, **options)


# Bodies

add("plain")
add("empty body", body="")
add("no final line end", body="Body")
add("crlf body", body="one\r\ntwo\r\n")
add("bare cr body", body="one\rtwo\r\r\nthree\n")
add("trailing spaces", body="one  \ntwo\t\n  three\n")
add("leading dots", body=".one\n..two\n.\n...\nend\n")
add("from line", body="From here on\n>From there\nFrom\n")
add("many empty lines", body="\n\n\none\n\n\n\n")
add("tabs and form feed", body="one\ttwo\x0cthree\n")
add("latin", body="Grüße aus Köln, à bientôt\n")
add("greek", body="Καλημέρα κόσμε\n")
add("emoji", body="Rocket 🚀 and flag 🇩🇪\n")
add("right to left", body="שלום עולם مرحبا\n")
add("line of 997", body="x" * 997 + "\n")
add("line of 998", body="x" * 998 + "\n")
add("line of 999", body="x" * 999 + "\n")
add("line of 5000", body="word " * 1000 + "\n")
add("long utf-8 line", body="ü" * 600 + "\n")
add("equals signs", body="a=b\n=3D\nlast=\n")
add("non-breaking space", body="1\u00a0000\u2028next\u2029end\n")
add("lazy body", body=lazystr("translated, vielleicht für später\n"))
add("large", body="The quick brown fox jumps over the lazy dog.\n" * 5000)


@case
def html_only() -> EmailMessage:
    message = make(body="<p>Grüße</p>\n")
    message.content_subtype = "html"
    return message


@case
def latin_1_charset() -> EmailMessage:
    message = make("Grüße", "Grüße\n")
    message.encoding = "iso-8859-1"
    return message


@case
def us_ascii_charset() -> EmailMessage:
    message = make()
    message.encoding = "us-ascii"
    return message


# Headers

add("empty subject", subject="")
add("long subject", subject="word " * 60 + "end")
add("long subject without a space", subject="x" * 300)
add("utf-8 subject", subject="Überraschung für Ärzte")
add("long utf-8 subject", subject="Überraschung für Ärzte " * 12)
add("japanese subject", subject="こんにちは世界、これは長い件名です。" * 4)
add("subject like an encoded word", subject="=?utf-8?q?no?=")
add("lazy subject", subject=lazystr("Übersetzt"))
add("subject with colons", subject="Re: Fwd: [list] a: b")
add("display name", from_email="Ann Author <ann@example.com>", to=["Bob Reader <bob@example.org>"])
add("quoted display name", from_email='"Author, Ann" <ann@example.com>', to=['"Reader, Bob" <bob@example.org>'])
add("utf-8 display name", from_email="Änn Author <ann@example.com>", to=["Bøb Reader <bob@example.org>"])
add("long display name", from_email="A very long display name " * 5 + "<ann@example.com>")
add("quoted local part", to=['"bob reader"@example.org'])
add("plus and subdomain", to=["bob+tag@mail.example.org"])
add("idn", from_email="ann@bücher.example", to=["bob@münchen.example"])
add("idn with a name", to=["Bøb <bob@münchen.example>"])
add("encoded idn", to=["bob@xn--mnchen-3ya.example"])
add("no domain", from_email="webmaster", to=["root"])
add("address literal", to=["bob@[127.0.0.1]"])
add("many recipients", to=[f"user{number}@example.org" for number in range(60)])
add("cc and bcc", cc=["cc1@example.org", "cc2@example.org"], bcc=["hidden@example.org"])
add("bcc alone", to=[], bcc=["hidden@example.org"])
add("reply to", reply_to=["reply@example.com", "Ännother <other@example.com>"])
add("custom headers", headers={"X-One": "1", "List-Unsubscribe": "<https://example.com/u>", "X-Two": "zwei ü"})
add("long custom header", headers={"X-Long": "token " * 60})
add("long references", headers={"References": " ".join(f"<{number}.{'x' * 40}@example.com>" for number in range(8))})
add("date and message-id", headers={"Date": "Mon, 23 Nov 2026 01:02:03 +0100", "Message-ID": "<given@example.com>"})
add("lower case headers", headers={"date": "Mon, 23 Nov 2026 01:02:03 +0100", "message-id": "<given@example.com>"})
add("visible from", from_email="bounce@example.com", headers={"From": "Visible <visible@example.com>"})
add("visible to", headers={"To": "undisclosed-recipients:;"})
add("two authors", headers={"From": "ann@example.com, bob@example.com", "Sender": "ann@example.com"})
add("two authors without a sender", headers={"From": "ann@example.com, bob@example.com"})
add("two authors and a latin body", body="Grüße\n", headers={"From": "ann@example.com, bob@example.com"})
add("sender", headers={"Sender": "secretary@example.com"})
add("auto-submitted", headers={"Auto-Submitted": "auto-generated", "Precedence": "bulk"})
add("lazy header and address", to=[lazystr("lazy@example.org")], headers={"X-Lazy": lazystr("später")})
if not BCC_HEADER_IS_AN_ERROR:
    add("bcc header", headers={"Bcc": "hidden@example.org", "X-After": "1"})

# Attachments

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20


@case
def attachment() -> EmailMessage:
    message = make()
    message.attach("data.bin", bytes(range(256)), "application/octet-stream")
    return message


@case
def attachment_without_body() -> EmailMessage:
    message = make(body="")
    message.attach("data.pdf", b"%PDF-1.7\n" * 100, "application/pdf")
    return message


@case
def attachments_of_many_kinds() -> EmailMessage:
    message = make(body="Grüße\n")
    message.attach("notes.txt", "Notizen: äöü\n")
    message.attach("data.csv", b"a,b\r\n1,2\r\n", "text/csv")
    message.attach("image.png", PNG, "image/png")
    message.attach("noext", b"\x00\x01")
    return message


@case
def attachment_with_utf_8_name() -> EmailMessage:
    message = make()
    message.attach("Rechnung für März – 2026.pdf", b"%PDF", "application/pdf")
    return message


@case
def attachment_with_long_name() -> EmailMessage:
    message = make()
    message.attach("long name " * 15 + ".pdf", b"%PDF", "application/pdf")
    return message


@case
def attachment_with_quotes_in_name() -> EmailMessage:
    message = make()
    message.attach('a "quoted" name.txt', "text\n", "text/plain")
    return message


@case
def attachment_without_name() -> EmailMessage:
    message = make()
    message.attach(None, "text\n", "text/plain")
    return message


@case
def attachment_that_is_no_utf_8() -> EmailMessage:
    message = make()
    message.attach("latin1.txt", "äöü".encode("latin-1"))
    return message


@case
def attached_text_with_long_lines() -> EmailMessage:
    message = make()
    message.attach("long.txt", "y" * 3000 + "\n.dot\n", "text/plain")
    return message


@case
def mime_attachment() -> EmailMessage:
    if MODERN:
        part = email.message.MIMEPart()
        part.set_content(PNG, "image", "png", disposition="inline", cid="<logo>")
        return make(attachments=[part])
    image = MIMEImage(PNG, "png")
    image.add_header("Content-ID", "<logo>")
    return make(attachments=[image])


@case
def attached_message() -> EmailMessage:
    message = make()
    message.attach("forwarded.eml", make("Inner", "Inner body ü\n"), "message/rfc822")
    return message


@case
def attached_message_as_bytes() -> EmailMessage:
    message = make()
    message.attach("forwarded.eml", b"Subject: Inner\nFrom: a@example.com\n\nFrom inside\n.\n", "message/rfc822")
    return message


@case
def calendar() -> EmailMessage:
    message = EmailMultiAlternatives("Invitation", "Come!\n", "from@example.com", ["to@example.org"])
    message.attach_alternative("BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n", "text/calendar")
    return message


# Alternatives


def alternatives(text: str, html: str, **options: Any) -> EmailMultiAlternatives:
    message = EmailMultiAlternatives("Subject", text, "from@example.com", ["to@example.org"], **options)
    message.attach_alternative(html, "text/html")
    return message


@case
def text_and_html() -> EmailMessage:
    return alternatives("Hello\n", "<p>Hello</p>\n")


@case
def text_and_html_in_utf_8() -> EmailMessage:
    return alternatives("Grüße\n", "<p>Grüße 🚀</p>\n")


@case
def html_in_one_long_line() -> EmailMessage:
    return alternatives("Hello\n", "<p>" + "ü lorem ipsum " * 300 + "</p>")


@case
def html_alternative_without_text() -> EmailMessage:
    return alternatives("", "<p>Hello</p>\n")


@case
def text_html_and_attachment() -> EmailMessage:
    message = alternatives("Grüße\n", "<p>Grüße</p>\n", cc=["cc@example.org"], reply_to=["r@example.com"])
    message.attach("image.png", PNG, "image/png")
    message.attach("notes.txt", "Notizen\n")
    return message


@case
def three_alternatives() -> EmailMessage:
    message = alternatives("Text\n", "<p>HTML</p>\n")
    message.attach_alternative("{}", "application/json")
    return message


# Subclasses


def rendering(change: Callable[[Any], Any]) -> type[EmailMessage]:
    """A subclass whose ``message()`` changes what Django makes, or returns something else."""

    class Changed(EmailMultiAlternatives):
        if MODERN:

            def message(self, *, policy: Any = email.policy.default) -> Any:
                return change(super().message(policy=policy))

        else:

            def message(self) -> Any:
                return change(super().message())

    return Changed


def _add_header(rendered: Any) -> Any:
    rendered["X-Added"] = "by a subclass"
    return rendered


def _drop_date(rendered: Any) -> Any:
    del rendered["Date"], rendered["Message-ID"]
    return rendered


class _OldBytes:
    """Django 5.2 asks for a linesep, which the email package's own messages do not know."""

    def as_bytes(self, unixfrom: bool = False, policy: Any = None, linesep: str = "\n") -> bytes:
        octets: bytes = super().as_bytes(unixfrom, policy)  # type: ignore[misc]
        return octets.replace(b"\r\n", b"\n").replace(b"\n", linesep.encode())


class _Multipart(_OldBytes, MIMEBase):
    pass


class _Parsed(_OldBytes, email.message.Message):
    pass


class _Text(_OldBytes, MIMEText):
    pass


def _encrypted(rendered: Any) -> Any:
    outer = (MIMEBase if MODERN else _Multipart)("multipart", "encrypted", protocol="application/pgp-encrypted")
    for name in ("Subject", "From", "To", "Date", "Message-ID"):
        outer[name] = str(rendered[name])
    outer.attach(MIMEApplication("Version: 1\n", "pgp-encrypted", lambda part: None))
    outer.attach(MIMEApplication("-----BEGIN PGP MESSAGE-----\nabc\n-----END PGP MESSAGE-----\n", "octet-stream"))
    return outer


def _signed(rendered: Any) -> Any:
    return email.message_from_bytes(
        b"Subject: Signed\r\nFrom: from@example.com\r\nDate: Mon, 23 Nov 2026 01:02:03 +0100\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/signed; protocol="application/pgp-signature"; boundary="b"\r\n\r\n'
        b"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        b"Gr\xc3\xbc\xc3\x9fe  \r\n\r\n"
        b"--b\r\nContent-Type: application/pgp-signature\r\n\r\n-----BEGIN PGP SIGNATURE-----\r\n--b--\r\n",
        email.message.Message if MODERN else _Parsed,
    )


class _Sealed(email.message.Message):
    """What it writes is its own matter."""

    def as_bytes(self, unixfrom: bool = False, policy: Any = None, linesep: str = "\n") -> bytes:
        return "Subject: Sealed\r\nMIME-Version: 1.0\r\nX-Sealed: ja, für immer\r\n\r\nSealed: ü\r\n.\r\n".encode()


add("subclass adds a header", kind=rendering(_add_header))
add("subclass adds a header, latin", "Ü", "Grüße\n", kind=rendering(_add_header))
add("subclass drops the date", kind=rendering(_drop_date))
add("subclass drops the date, latin", "Ü", "Grüße\n", kind=rendering(_drop_date))
add("subclass encrypts", "Ü", "Grüße\n", kind=rendering(_encrypted))
add("subclass signs", kind=rendering(_signed))
add("subclass writes its own octets", kind=rendering(lambda rendered: _Sealed()))
add(
    "subclass makes a text of its own",
    kind=rendering(lambda rendered: (MIMEText if MODERN else _Text)("Eigen: ü\n", "plain", "utf-8")),
)
