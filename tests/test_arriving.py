"""What is hard to write arrives as what was given: by the core. The other faces: tests/django, tests/flask."""

from __future__ import annotations

import email
import email.message
import enum
import random
from collections.abc import Callable
from email import policy
from email.header import Header
from email.message import EmailMessage
from email.mime.text import MIMEText
from email.utils import collapse_rfc2231_value

import pytest

from smtpbackend.address import Address
from smtpbackend.content import Content
from smtpbackend.errors import InvalidInput
from smtpbackend.message import Attachment, Message
from smtpbackend.mime import render
from tests.arriving import Given, check, given_message, mixed_subjects, nasty_messages, octets_of, read_text
from tests.test_mime import DATE


def written(what: Given) -> bytes:
    author, *to = [Address(*address.split("@"), name) for name, address in what.mailboxes]
    files = [Attachment(content, name, "application/octet-stream") for name, content in what.files]
    message = Message(what.subject, author, to, text=what.text, html=what.html, attachments=files, headers=what.headers)
    return octets_of(render(message, date=DATE, token="token"))


@pytest.mark.parametrize("make", [mixed_subjects, nasty_messages])
def test_a_message_arrives_as_it_was_given(make: type) -> None:
    for what in make():
        check(what, written(what))


@pytest.mark.parametrize("make", [mixed_subjects, nasty_messages])
def test_a_message_of_the_email_package_arrives_as_it_was_given(make: type) -> None:
    """With its own folding every tenth subject has another text, and a long name with commas is several mailboxes."""
    chance = random.Random(5322)
    for what in make():
        content = render(given_message(what, chance), date=DATE, token="token")
        check(what, octets_of(content))
        check(what, octets_of(content.as_7bit()))


def fields(content: Content) -> bytes:
    return octets_of(content).partition(b"\r\n\r\n")[0]


def with_fields(**given: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "a@example.com", "b@example.org"
    for name, value in given.items():
        del message[name]
        message[name.replace("_", "-")] = value
    message.set_content("x\n")
    return message


NAME = "Support of Example Company, Billing Department, write to evil@example.net, Really"


def test_a_group_keeps_its_name_and_its_members() -> None:
    given = f'"{NAME}": "{NAME}" <b@example.org>, c@example.org;, "D, e" <d@example.org>'
    content = render(with_fields(To=given), date=DATE, token="token")
    unfolded = fields(content).replace(b"\r\n ", b" ").decode()
    assert f"To: {given}\r\n" in unfolded + "\r\n"
    nobody = "Ünbekannt, niemand; " * 6 + "!"
    message = email.message_from_bytes(fields(render(with_fields(To=f'"{nobody}":;'), date=DATE, token="token")))
    assert read_text(message, "To").replace(" ", "") == f"{nobody}:;".replace(" ", "")


def test_a_long_file_name_is_no_encoded_word() -> None:
    """The package takes too long over it, so it is written by our rules, which know parameters."""
    message = with_fields()
    message.add_attachment(b"x", "application", "pdf", filename="日本語" * 200 + ".pdf", params={"X-A": "b c"})
    part = email.message_from_bytes(octets_of(render(message, date=DATE, token="token"))).get_payload()[1]  # type: ignore[index]
    assert collapse_rfc2231_value(part.get_filename()) == "日本語" * 200 + ".pdf"  # type: ignore[union-attr, arg-type]
    assert part.get_param("x-a") == "b c"  # type: ignore[union-attr]


def test_fields_that_are_signed_stay_as_the_package_wrote_them() -> None:
    """What was signed is what the package folds."""
    message = with_fields(From=f'"{NAME}" <a@example.com>')
    message["DKIM-Signature"] = "v=1; b=abc"
    assert message["From"].fold(policy=policy.SMTP).encode() in fields(render(message, date=DATE, token="token"))
    del message["DKIM-Signature"]
    assert message["From"].fold(policy=policy.SMTP).encode() not in fields(render(message, date=DATE, token="token"))


@pytest.mark.parametrize("name", ["In-Reply-To", "References", "List-Unsubscribe", "Archived-At"])
def test_an_identifier_is_never_an_encoded_word(name: str) -> None:
    """Of a `Message`, an EmailMessage, and one of old with a Header."""
    old = MIMEText("x")
    old["From"], old["To"], old[name] = "a@example.com", "b@example.org", Header("<ü@example.com>", "utf-8")
    ours = Message("s", "a@example.com", "b@example.org", text="x", headers={name: "<ü@example.com>"})
    for message in (old, ours, with_fields(**{name.replace("-", "_"): "<ü@example.com>"})):
        assert (
            f"{name}: <%C3%BC@example.com>\r\n".encode() in fields(render(message, date=DATE, token="token")) + b"\r\n"
        )
    with pytest.raises(InvalidInput, match=f"{name}: it has 1,501 characters without a blank"):
        render(Message("s", "a@example.com", text="x", headers={name: "<" + "a" * 1500}), date=DATE, token="token")


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4


@pytest.mark.parametrize("cte", ["binary", "8bit"])
@pytest.mark.parametrize(
    ("octets", "kind"),
    [
        (PNG, "image/png"),
        (b"\x1f\x8b\xff\nx", "application/gzip"),
        (b"a\rb\r\n", "application/pdf"),
        ("aü\n".encode("utf-16"), "text/plain; charset=utf-16"),
    ],
)
def test_a_binary_part_is_whole(octets: bytes, kind: str, cte: str) -> None:
    """Also where the server takes 8 bits, also where the part is the whole message, and the given message stays."""
    for message in (whole := with_fields(), with_fields()):
        if message is whole:
            message.set_content(octets, *kind.split("/"), cte=cte)
        else:
            message.add_attachment(octets, *kind.split("/"), cte=cte)
        before = [part.items() for part in message.walk()]
        content = octets_of(render(message, date=DATE, token="token"))
        assert b"\0" not in content
        *_, part = email.message_from_bytes(content).walk()
        assert part.get_payload(decode=True) == octets
        assert part["Content-Transfer-Encoding"] == "base64"
        assert [part.items() for part in message.walk()] == before


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["text/plain", "application/json"])
def test_lines_of_a_text_are_not_encoded(kind: str, line_end: str) -> None:
    """What is given is not altered but for line ends."""
    given = f"Content-Type: {kind}\n\nfirst\nsecond\n".replace("\n", line_end).encode()
    message = email.message_from_bytes(b"From: a@example.com" + line_end.encode() + given)
    assert octets_of(render(message, date=DATE, token="token")).endswith(b"\r\n\r\nfirst\r\nsecond\r\n")


@pytest.mark.parametrize("octets", [b"a\0b", b"a\rb\r\n", PNG])
def test_a_signed_part_that_servers_would_damage_is_refused(octets: bytes) -> None:
    signed = EmailMessage()
    signed["From"], signed["Content-Type"] = "a@example.com", 'multipart/signed; boundary="b"'
    signed.attach(part := EmailMessage())
    part.set_content(octets, "application", "octet-stream", cte="binary")
    with pytest.raises(InvalidInput, match="it is signed; give its content base64 before") as refused:
        render(signed, date=DATE, token="token")
    assert refused.value.field == "message"
    part.set_content(octets, "application", "octet-stream", cte="base64")
    assert octets_of(render(signed, date=DATE, token="token"))


class Word(str, enum.Enum):  # noqa: UP042 -- a StrEnum is written as its value
    """A mixin of old: ``str`` of a member is its name, and so is its hash."""

    SUBJECT = "Reset your password"
    NAME = "Ann, of Example"
    ADDRESS = "ann@example.org"
    FILE = "report.pdf"
    TYPE = "text/html"
    TEXT = "a & b\n"
    HEADER = "X-Word"


def test_the_members_of_an_enumeration_are_their_characters() -> None:
    """Everywhere that a str is taken: they are written as they are checked."""

    def octets(kind: Callable[[Word], str]) -> bytes:
        address = Address("ann", "example.org", kind(Word.NAME))
        message = Message(
            kind(Word.SUBJECT),
            (kind(Word.NAME), kind(Word.ADDRESS)),
            [address, kind(Word.ADDRESS)],
            text=kind(Word.TEXT),
            html=kind(Word.TEXT),
            headers={kind(Word.HEADER): kind(Word.SUBJECT)},
            alternatives=[(kind(Word.TEXT), kind(Word.TYPE))],
        )
        message.attach(kind(Word.TEXT), kind(Word.FILE), kind(Word.TYPE))
        message.attach(b"x", kind(Word.FILE))
        message.attach(kind(Word.TEXT), content_type=kind(Word.TYPE), content_id=kind(Word.FILE))
        return octets_of(render(message, date=DATE, token="token"))

    written = octets(lambda word: word)
    assert written == octets(lambda word: word.value)
    assert b"Word." not in written


@pytest.mark.parametrize("kind", [policy.compat32, policy.SMTP])
def test_a_given_message_with_members_of_an_enumeration(kind: policy.Policy) -> None:
    message: email.message.Message = email.message.Message(policy=kind)  # type: ignore[type-arg]
    message["From"], message["To"], message["Subject"] = Word.ADDRESS, "b@example.org", Word.SUBJECT
    message[Word.HEADER] = Word.NAME
    message.set_payload(Word.TEXT)
    written = octets_of(render(message, date=DATE, token="token"))
    assert b"\r\nSubject: Reset your password\r\nX-Word: Ann, of Example\r\n" in written
    assert b"Word." not in written
    assert written.endswith(b"\r\na & b\r\n")
