"""The ten messages of the matrix, and what of each has to arrive: written down here, not taken from our renderer."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.message import Message as ParsedMessage
from typing import Any

from smtpbackend import Attachment, Envelope, Message

SENDER = "ann@example.org"
DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
BOB = ("bob@example.com",)

# A leaf of a tree: media type, filename, Content-ID, and its decoded text or octets; a node: media type and its parts
Tree = tuple[Any, ...]


@dataclass(frozen=True)
class Sample:
    """A message, and what has to be in each copy of it.

    ``make`` returns what `send_many` is given, ``to`` are those who get it, ``refused`` those whom the server refuses
    with 550 5.1.1. ``fields`` are the header fields in their order but for Content-*; ``octets``, if not None, is the
    whole of it. ``needs`` is the extension without which it must not be sent.
    """

    name: str
    make: Callable[[], Any]
    fields: tuple[tuple[str, str], ...]
    tree: Tree
    to: tuple[str, ...] = BOB
    refused: tuple[str, ...] = ()
    octets: bytes | None = None
    needs: str | None = None

    @property
    def message_id(self) -> str:
        return dict(self.fields)["Message-ID"]


def ours(
    identifier: str, subject: str, sender: str = SENDER, to: str = "bob@example.com"
) -> tuple[tuple[str, str], ...]:
    """The fields that `Message` has, in the order in which it writes them."""
    return (
        ("Subject", subject),
        ("From", sender),
        ("To", to),
        ("Date", "Fri, 02 Jan 2026 03:04:05 +0000"),
        ("Message-ID", identifier),
        ("MIME-Version", "1.0"),
    )


def written(identifier: str, subject: str, **arguments: Any) -> Callable[[], Message]:
    given = {"from_": SENDER, "to": list(BOB), "date": DATE, "message_id": identifier, **arguments}
    return lambda: Message(subject, **given)


def text(content: str, subtype: str = "plain") -> Tree:
    return (f"text/{subtype}", None, None, content)


BLOB = bytes(number * number % 251 for number in range(1 << 20))
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
LONG = ".\n..\n.dot\nFrom here\n" + "long " * 600 + "\n" + "." * 1200 + "\n trailing blanks  \n\tä" + "ö" * 700 + "\n"

EIGHT_BIT = b"\r\n".join(
    [
        b"From: ann@example.org",
        b"To: bob@example.com",
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=",
        b"X-Twice:  two blanks",
        b"X-Twice: folded",
        b"\tin two",
        b"Date: Fri, 02 Jan 2026 03:04:05 +0000",
        b"Message-ID: IDENTIFIER",
        b"MIME-Version: 1.0",
        b"Content-Type: text/plain; charset=utf-8",
        b"Content-Transfer-Encoding: 8bit",
        b"",
        "Grüße".encode(),
        b".",
        b"..two",
        b"From the start",
        b"trailing blank ",
        "€".encode() * 300 + b"x" * 98,
        b"",
        b"",
    ]
)

SIGNED = b"\r\n".join(
    [
        b"From: ann@example.org",
        b"To: bob@example.com",
        b"Subject: signed",
        b"Date: Fri, 02 Jan 2026 03:04:05 +0000",
        b"Message-ID: IDENTIFIER",
        b"MIME-Version: 1.0",
        b'Content-Type: multipart/signed; micalg="pgp-sha256";',
        b' protocol="application/pgp-signature"; boundary="signed"',
        b"",
        b"--signed",
        b"Content-Type: text/plain;",
        b"  charset=us-ascii",
        b"",
        b"Each octet of this part is signed. ",
        b".",
        b"--signed",
        b'Content-Type: application/pgp-signature; name="signature.asc"',
        b"",
        b"-----BEGIN PGP SIGNATURE-----",
        b"",
        b"iQ==",
        b"-----END PGP SIGNATURE-----",
        b"--signed--",
        b"",
    ]
)


def samples(tag: str) -> tuple[Sample, ...]:
    """The ten, with identifiers that hold ``tag``."""
    identifiers = [f"<sample-{number}.{tag}@example.org>" for number in range(11)]
    eight_bit = EIGHT_BIT.replace(b"IDENTIFIER", identifiers[8].encode())
    signed = SIGNED.replace(b"IDENTIFIER", identifiers[9].encode())
    return (
        Sample(
            "plain ASCII",
            written(identifiers[1], "Hello", text="Good day\n"),
            ours(identifiers[1], "Hello"),
            text("Good day\n"),
        ),
        Sample(
            "text and HTML, not ASCII",
            written(identifiers[2], "Grüße", text="Grüße, 你好, €\n", html="<p>Grüße, 你好</p>\n"),
            ours(identifiers[2], "Grüße"),
            ("multipart/alternative", text("Grüße, 你好, €\n"), text("<p>Grüße, 你好</p>\n", "html")),
        ),
        Sample(
            "attachment of 1 MB",
            written(identifiers[3], "Report", text="See below\n", attachments=[Attachment(BLOB, "räport 1.bin")]),
            ours(identifiers[3], "Report"),
            ("multipart/mixed", text("See below\n"), ("application/octet-stream", "räport 1.bin", None, BLOB)),
        ),
        Sample(
            "inline image",
            written(
                identifiers[4],
                "Logo",
                text="A logo\n",
                html='<img src="cid:logo@example.org">\n',
                attachments=[Attachment(PICTURE, "logo.png", content_id="logo@example.org")],
            ),
            ours(identifiers[4], "Logo"),
            (
                "multipart/alternative",
                text("A logo\n"),
                (
                    "multipart/related",
                    text('<img src="cid:logo@example.org">\n', "html"),
                    ("image/png", "logo.png", "<logo@example.org>", PICTURE),
                ),
            ),
        ),
        Sample(
            "long lines and leading dots",
            written(identifiers[5], "Dots", text=LONG),
            ours(identifiers[5], "Dots"),
            text(LONG),
        ),
        Sample(
            "UTF-8 subject and names, several recipients",
            written(
                identifiers[6],
                "Grüße aus dem Büro, " * 6 + "你好",
                from_="Änn Exämple <ann@example.org>",
                to=["Jürgen <bob@example.com>", "李 <carl@example.org>"],
                bcc=["dora@example.com"],
                text="Hello\n",
            ),
            ours(
                identifiers[6],
                "Grüße aus dem Büro, " * 6 + "你好",
                "Änn Exämple <ann@example.org>",
                "Jürgen <bob@example.com>, 李 <carl@example.org>",
            ),
            text("Hello\n"),
            to=("bob@example.com", "carl@example.org", "dora@example.com"),
        ),
        Sample(
            "one of two recipients refused",
            written(identifiers[7], "Refused", to=["rejected@example.com", "bob@example.com"], text="Hello\n"),
            ours(identifiers[7], "Refused", to="rejected@example.com, bob@example.com"),
            text("Hello\n"),
            refused=("rejected@example.com",),
        ),
        Sample(
            "octets with an 8-bit body",
            lambda: (eight_bit, Envelope(SENDER, BOB)),
            (
                ("From", SENDER),
                ("To", "bob@example.com"),
                ("Subject", "Grüße"),
                ("X-Twice", "two blanks"),
                ("X-Twice", "folded in two"),
                *ours(identifiers[8], "")[-3:],
            ),
            text("Grüße\n.\n..two\nFrom the start\ntrailing blank \n" + "€" * 300 + "x" * 98 + "\n\n"),
            octets=eight_bit,
        ),
        Sample(
            "multipart/signed of the email package",
            lambda: email.message_from_bytes(signed.replace(b"\r\n", b"\n")),
            (("From", SENDER), ("To", "bob@example.com"), ("Subject", "signed"), *ours(identifiers[9], "")[-3:]),
            (
                "multipart/signed",
                text("Each octet of this part is signed. \n."),
                (
                    "application/pgp-signature",
                    "signature.asc",
                    None,
                    b"-----BEGIN PGP SIGNATURE-----\r\n\r\niQ==\r\n-----END PGP SIGNATURE-----",
                ),
            ),
            octets=signed,
        ),
        Sample(
            "SMTPUTF8 address",
            written(identifiers[10], "Hello", to=["jürgen@example.com"], text="Hello\n"),
            ours(identifiers[10], "Hello", to="jürgen@example.com"),
            text("Hello\n"),
            to=("jürgen@example.com",),
            needs="SMTPUTF8",
        ),
    )


NAMES = tuple(sample.name for sample in samples(""))


def parsed(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def fields_of(message: EmailMessage) -> tuple[tuple[str, str], ...]:
    """Each field but Content-*, unfolded and decoded (RFC 2047, or UTF-8 as RFC 6532 has it), in its order."""

    def decoded(value: str) -> str:
        raw = value.encode("ascii", "surrogateescape").decode()
        return " ".join(str(make_header(decode_header(raw.replace("\r", "").replace("\n", "")))).split())

    return tuple(
        (name, decoded(value))
        for name, value in message.raw_items()  # as they stand there
        if not name.lower().startswith("content-")
    )


def tree_of(part: ParsedMessage) -> Tree:
    """The tree of a message, text with LF line ends."""
    if part.is_multipart():
        return (part.get_content_type(), *map(tree_of, part.get_payload()))  # type: ignore[arg-type]
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    content: bytes | str = octets
    if part.get_content_maintype() == "text":
        content = octets.decode(part.get_content_charset("us-ascii")).replace("\r\n", "\n")
    return (part.get_content_type(), part.get_filename(), part["Content-ID"], content)
