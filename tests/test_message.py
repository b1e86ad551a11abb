"""What an author writes is checked when it is written."""

from __future__ import annotations

import io
import pathlib
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any

import pytest

from smtpbackend.address import Address
from smtpbackend.errors import InvalidInput
from smtpbackend.message import Attachment, Message
from smtpbackend.mime import render

CONTROL = [*map(chr, [*range(9), *range(10, 32), 127])]


@pytest.mark.parametrize("character", CONTROL)
@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("subject", {"subject": "a{}b"}),
        ("from_", {"from_": "a{}b@x.org"}),
        ("reply_to", {"reply_to": ["a@x.org{}b"]}),
        ("sender", {"sender": "a@x{}.org"}),
        ("message_id", {"message_id": "a{}b@x.org"}),
        ("headers", {"headers": {"X-{}A": "b"}}),
        ("X-A", {"headers": [("X-A", "b{}c")]}),
        ("Resent-To", {"headers": [("Resent-To", "a@x.org{}")]}),
        ("alternatives", {"alternatives": [("x", "text/{}calendar")]}),
    ],
)
def test_control_characters_are_refused_and_the_field_is_named(
    field: str, given: dict[str, Any], character: str
) -> None:
    """CR, LF, NUL and all others, at birth and when they come later."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{}", character)
        if isinstance(value, dict):
            return {fill(key): fill(one) for key, one in value.items()}
        return [tuple(map(fill, one)) if isinstance(one, tuple) else fill(one) for one in value]

    ((argument, value),) = given.items()
    with pytest.raises(InvalidInput) as raised:
        Message(**{argument: fill(value)})
    assert raised.value.field == field
    message = Message("s", "a@x.org")
    setattr(message, argument, list(fill(value).items()) if isinstance(value, dict) else fill(value))
    with pytest.raises(InvalidInput) as raised:
        render(message, date=datetime(2026, 1, 1, tzinfo=UTC), token="t")
    assert raised.value.field == field


@pytest.mark.parametrize("character", ["\r", "\n", "\0"])
@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_what_adds_lines_to_a_recipient_is_refused(field: str, character: str) -> None:
    """At birth and when it comes later; what else is no address is one recipient's outcome, not the message's."""
    for given in (["a@x.org", f"a@x{character}.org"], f"a@x.org{character}"):
        with pytest.raises(InvalidInput):
            Message("s", "a@x.org", **{field: given})  # type: ignore[arg-type]
        message = Message("s", "a@x.org")
        setattr(message, field, given)
        with pytest.raises(InvalidInput):
            render(message, date=datetime(2026, 1, 1, tzinfo=UTC), token="t")


@pytest.mark.parametrize("field", ["to", "cc"])
@pytest.mark.parametrize("bad", [1, None, b"a@x.org", "a b c", "a@x\x01.org", "", ("Ann", "a@@x.org")])
def test_what_is_no_address_stands_in_no_field(field: str, bad: Any) -> None:
    """The receipt tells of it; the others are written."""
    message = Message("s", "a@x.org", **{field: ["b@x.org", bad, "c@x.org"]})  # type: ignore[arg-type]
    content = b"".join(render(message, date=datetime(2026, 1, 1, tzinfo=UTC), token="t").chunks())
    assert f"\r\n{field.title()}: b@x.org, c@x.org\r\n".encode() in content


@pytest.mark.parametrize("character", CONTROL)
@pytest.mark.parametrize("field", ["filename", "content_type", "content_id"])
def test_attachments_refuse_control_characters(field: str, character: str) -> None:
    """A filename must not begin a header."""
    with pytest.raises(InvalidInput) as raised:
        Attachment(b"", **{"content_type": "a/b", field: f"a/{character}b"})  # type: ignore[arg-type]
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("subject", {"subject": 1}),
        ("subject", {"subject": "\ud800"}),
        ("text", {"text": b"bytes"}),
        ("html", {"html": 1}),
        ("sender", {"sender": "a@x.org, b@x.org"}),
        ("message_id", {"message_id": "a b"}),
        ("message_id", {"message_id": ""}),
        ("headers", {"headers": {"X A": "b"}}),
        ("headers", {"headers": {"": "b"}}),
        ("headers", {"headers": {"X:": "b"}}),
        ("headers", {"headers": {"Ü": "b"}}),
        ("headers", {"headers": {"X" * 201: "b"}}),
        ("X-A", {"headers": {"X-A": 1}}),
        ("Reply-To", {"headers": {"Reply-To": "a b c"}}),
        ("Message-ID", {"headers": {"Message-ID": "a b"}}),
        ("Content-Type", {"headers": {"Content-Type": "text/html"}}),
        ("mime-version", {"headers": {"mime-version": "1.0"}}),
        ("Subject", {"subject": "a", "headers": {"Subject": "b"}}),
        ("From", {"from_": "a@x.org", "headers": {"From": "b@x.org"}}),
        ("Date", {"date": datetime(2026, 1, 1), "headers": {"Date": "x"}}),
        ("message-id", {"message_id": "<a@b>", "headers": {"message-id": "<c@d>"}}),
        ("References", {"headers": [("References", "<a@b>"), ("References", "<c@d>")]}),
        ("alternatives", {"alternatives": [("x", "calendar")]}),
        ("alternatives", {"alternatives": [(1, "text/calendar")]}),
        ("alternatives", {"alternatives": ["xy"]}),
        ("headers", {"headers": ["X-A: b"]}),
        ("headers", {"headers": [("X-A", "b", "c")]}),
        ("attachments", {"attachments": ["report.pdf"]}),
        ("attachments", {"attachments": [b"octets"]}),
    ],
)
def test_what_cannot_be_sent_is_named(field: str, given: dict[str, Any]) -> None:
    """At birth, by the name of the argument or of the header."""
    with pytest.raises(InvalidInput) as raised:
        Message(**given)
    assert raised.value.field == field


def test_a_message_needs_an_author() -> None:
    """RFC 5322 3.6: From is there."""
    with pytest.raises(InvalidInput) as raised:
        render(Message(to="a@x.org"), date=datetime(2026, 1, 1, tzinfo=UTC), token="t")
    assert raised.value.field == "from_"


def test_arguments_stay_as_they_were_given() -> None:
    """Lists are copied, strings kept; a mapping and pairs are both headers."""
    to = ["a@x.org", Address("b", "x.org")]
    message = Message("s", "c@x.org", to, cc="d@x.org", headers={"X-A": "1"})
    to.clear()
    assert message.to == ["a@x.org", Address("b", "x.org")]
    assert message.cc == ["d@x.org"]
    assert message.headers == [("X-A", "1")]
    assert message.bcc == []
    assert repr(message) == "Message(subject='s', from_='c@x.org', to='a@x.org, b@x.org')"
    assert Message(to=Address("b", "x.org")).to == [Address("b", "x.org")]


def test_attachments_know_their_name_and_type(tmp_path: pathlib.Path) -> None:
    """From the path or the file; what is not known is octets."""
    path = tmp_path / "report.pdf"
    path.write_bytes(b"%PDF")
    cases: list[tuple[Any, str | None, str]] = [
        (path, "report.pdf", "application/pdf"),
        (b"octets", None, "application/octet-stream"),
        ("text", None, "text/plain"),
        (io.BytesIO(b"x"), None, "application/octet-stream"),
        (EmailMessage(), None, "message/rfc822"),
    ]
    for content, filename, content_type in cases:
        attachment = Attachment(content)
        assert (attachment.filename, attachment.content_type, attachment.inline) == (filename, content_type, False)
    with path.open("rb") as file:
        assert Attachment(file).filename == "report.pdf"
    assert Attachment(b"", "a.tar.gz").content_type == "application/gzip"
    assert Attachment(b"", "a.csv.bz2").content_type == "application/octet-stream"
    assert Attachment(b"", "a.unknown").content_type == "application/octet-stream"
    assert Attachment("x", "a.unknown").content_type == "text/plain"
    assert Attachment(b"", "a.png", content_id="a").inline
    assert not Attachment(b"", "a.png", content_id="a", inline=False).inline
    assert repr(Attachment(b"", "a.png")) == "Attachment(filename='a.png', content_type='image/png')"


@pytest.mark.parametrize("field", ["alternatives", "attachments", "headers", "list_unsubscribe"])
def test_a_list_that_is_none_is_empty_and_another_thing_is_named(field: str) -> None:
    settings: Any = {field: None}
    assert list(getattr(Message("s", "a@x.org", **settings), field)) == []
    for wrong in (5, object(), b"x"):
        settings = {field: wrong}
        with pytest.raises(InvalidInput, match=f"^{field}: a list is wanted, not {type(wrong).__name__}") as raised:
            Message("s", "a@x.org", **settings)
        assert raised.value.field == field


def test_a_text_that_is_the_path_of_a_file_is_asked_about(tmp_path: pathlib.Path) -> None:
    """Its own words would be sent in the place of the file. Both ways out are named, and both work."""
    path = tmp_path / "report.pdf"
    path.write_bytes(b"%PDF")
    message = Message("s", "a@x.org")
    with pytest.raises(InvalidInput, match="may be a text, or the path of the file") as raised:
        message.attach(str(path))
    assert raised.value.field == "attachments"
    assert f"pathlib.Path({str(path)!r})" in str(raised.value)
    assert "content_type='text/plain'" in str(raised.value)
    with pytest.raises(InvalidInput, match="may be a text, or the path of the file"):
        message.attach(str(path), "report.pdf")
    assert not message.attachments
    message.attach(path)
    message.attach(str(path), content_type="text/plain")
    message.attach(str(tmp_path / "no such file"))
    message.attach(str(tmp_path))
    message.attach("x\0" + "y" * 10_000)
    assert [one.content_type for one in message.attachments] == ["application/pdf", *["text/plain"] * 4]
    with pytest.raises(InvalidInput, match=r"given as pathlib\.Path"):
        Message("s", "a@x.org", attachments=[str(path)])  # type: ignore[list-item]


@pytest.mark.parametrize("content", [1, None, [b"x"]])
def test_what_is_no_content_is_refused(content: Any) -> None:
    """Neither octets, text, a path, a file nor a message."""
    with pytest.raises(InvalidInput) as raised:
        Attachment(content)
    assert raised.value.field == "attachments"


@pytest.mark.parametrize("content_id", ["", "a b", "a<b", "é", "<>"])
def test_what_is_no_content_id_is_refused(content_id: str) -> None:
    """RFC 2045 7."""
    with pytest.raises(InvalidInput) as raised:
        Attachment(b"", content_id=content_id)
    assert raised.value.field == "content_id"


def test_a_content_type_is_checked() -> None:
    """A type and a subtype."""
    with pytest.raises(InvalidInput) as raised:
        Attachment(b"", content_type="pdf")
    assert raised.value.field == "content_type"


def test_attach_adds_an_attachment() -> None:
    """The same arguments as Attachment; a content that is replaced is read from where it stands."""
    message = Message("s", "a@x.org")
    message.attach(io.BytesIO(b"first"), "a.txt", content_id="a")
    (attachment,) = message.attachments
    assert (attachment.filename, attachment.content_id, attachment.inline) == ("a.txt", "a", True)
    attachment.content = io.BytesIO(b"second")
    attachment.content.read(3)
    assert b"".join(attachment.source().blocks(100)) == b"ond"
