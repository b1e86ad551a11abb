"""What mime makes of a message is what the standard library's ``email`` makes of it; only transfer encodings differ.

The standard library loses white space between encoded words, and addresses behind them, when it folds: where that
matters it does not fold here, and the author's own words are asked for as well.
"""

from __future__ import annotations

import email
import io
import re
from datetime import UTC, datetime
from email import policy
from email.header import decode_header, make_header
from email.headerregistry import Address as StdAddress
from email.message import EmailMessage, MIMEPart
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpbackend.address import Address
from smtpbackend.message import Attachment, Message
from smtpbackend.mime import render

UNFOLDED = policy.SMTP.clone(max_line_length=0)  # where it folds, Python 3.11.7 and 3.12.1 lose addresses
DATE = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

# Everything that text may hold: no half of a surrogate pair.
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
long_lines = st.builds(lambda a, n, b: a + "x" * n + b, any_text, st.integers(900, 1100), any_text)
body_text = any_text | long_lines | st.sampled_from(["", "\n", ".\n..\n", "From me\n", "a\rb\r\nc\n\rd", "trailing \n"])

# Header text: what `str.isprintable` takes, and nothing that is an encoded word already. A filter of what it does not
# take would cost more time than the tests.
printable = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
words = st.lists(printable | st.builds("{} {}".format, printable, printable), min_size=1, max_size=12)
header_text = words.flatmap(lambda some: st.sampled_from([" ", " ", "  "]).map(lambda space: space.join(some))).filter(
    lambda text: "=?" not in text
)
header_names = st.from_regex(r"X-[A-Za-z0-9]{1,20}", fullmatch=True)
local_parts = st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,10}(\.[a-z0-9]{1,8}){0,2}", fullmatch=True)
domains = st.from_regex(r"[a-z0-9]{1,10}(\.[a-z]{2,6}){0,2}", fullmatch=True)
names = st.just("") | header_text
addresses = st.builds(Address, local_parts, domains, names)
filenames = header_text | st.sampled_from(
    ['a"b.txt', "a\\b.txt", "x" * 300 + ".txt", "naïve façade.pdf", "日本語" * 30]
)
media_types = st.sampled_from(["application/pdf", "image/png", "text/csv", "application/octet-stream", "text/x-vcard"])


class Parts:
    """One content, as arguments of ours and as a message of the standard library."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    def ours(self) -> bytes:
        message = Message(
            self.subject,
            self.author,
            self.to,
            cc=self.cc,
            reply_to=self.reply_to,
            text=self.text,
            html=self.html,
            attachments=[Attachment(*one) for one in self.attachments]
            + [Attachment(octets, name, kind, content_id=cid) for octets, name, kind, cid in self.images],
            headers=self.headers,
        )
        content = render(message, date=DATE, token="token")
        octets = b"".join(content.chunks())
        assert content.size == len(octets)
        assert not content.is_8bit
        assert content.longest_line == max(map(len, octets.split(b"\r\n"))) < 998
        return octets

    def theirs(self) -> EmailMessage:
        message = EmailMessage(policy=policy.SMTP)
        if self.subject:
            message["Subject"] = self.subject
        for name, mailboxes in (("From", [self.author]), ("To", self.to), ("Cc", self.cc), ("Reply-To", self.reply_to)):
            if mailboxes:
                message[name] = [StdAddress(one.display_name, one.local_part, one.domain) for one in mailboxes]
        for name, value in self.headers:
            message[name] = value
        if self.text is not None:
            message.set_content(self.text, cte="base64")
        if self.html is not None:
            if self.text is None:
                message.set_content(self.html, subtype="html", cte="base64")
            else:
                message.add_alternative(self.html, subtype="html", cte="base64")
            html = cast(MIMEPart, message.get_body(("html",)))
            for octets, name, kind, cid in self.images:
                main, _, sub = kind.partition("/")
                html.add_related(octets, main, sub, disposition="inline", filename=name, cid=f"<{cid}>")
        if self.text is None and self.html is None and self.attachments:
            message["MIME-Version"] = "1.0"  # add_attachment alone forgets it
        for octets, name, kind in self.attachments:
            main, _, sub = kind.partition("/")
            message.add_attachment(octets, main, sub, disposition="attachment", filename=name)
        if self.text is None and self.html is None and not self.attachments:
            message.set_content("")
        return message


contents = st.builds(
    Parts,
    subject=st.just("") | header_text,
    author=addresses,
    to=st.lists(addresses, max_size=5),
    cc=st.lists(addresses, max_size=3),
    reply_to=st.lists(addresses, max_size=2),
    text=st.none() | body_text,
    html=st.none() | body_text,
    attachments=st.lists(st.tuples(st.binary(max_size=300), filenames, media_types), max_size=3),
    images=st.just([]),
    headers=st.lists(st.tuples(header_names, header_text), max_size=4),
)
with_images = st.builds(
    lambda parts, html, images: Parts(**{**parts.__dict__, "html": html, "images": images}),
    contents,
    body_text,
    st.lists(st.tuples(st.binary(max_size=99), filenames, media_types, local_parts), min_size=1, max_size=2),
)


def shape(message: Any) -> list[Any]:
    """What two messages have in common that differ only in transfer encodings, Date and Message-ID."""
    ignored = {"date", "message-id", "content-transfer-encoding"}
    headers = []
    for name, value in message.items():
        if name.lower() in ignored:
            continue
        if hasattr(value, "addresses"):
            headers.append((name, [(one.display_name, one.username, one.domain) for one in value.addresses]))
        elif hasattr(value, "params"):
            params = {key: text for key, text in value.params.items() if key != "boundary"}
            headers.append((name, (str(value).partition(";")[0], params)))
        else:
            headers.append((name, str(value)))
    if message.is_multipart():
        return [headers, [shape(part) for part in message.get_payload()]]
    octets = message.get_payload(decode=True)
    if message.get_content_maintype() == "text" and message.get_content_disposition() is None:
        octets = re.sub(rb"\r\n", b"\n", octets)
    return [headers, octets]


def parse(octets: bytes) -> EmailMessage:
    return cast(EmailMessage, email.message_from_bytes(octets, policy=policy.default))


def without_words(shaped: Any) -> Any:
    """The same without white space in headers, which the standard library may lose."""
    if isinstance(shaped, str):
        return "".join(shaped.split())
    if isinstance(shaped, (list, tuple)):
        return [without_words(one) for one in shaped]
    if isinstance(shaped, dict):
        return {key: without_words(value) for key, value in shaped.items()}
    return shaped


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(contents | with_images)
def test_same_headers_tree_parameters_and_octets_as_the_email_package(parts: Parts) -> None:
    """Headers in the same order with the same values, the same tree, parameters and decoded octets."""
    ours = parse(parts.ours())
    theirs = parse(parts.theirs().as_bytes(policy=UNFOLDED))
    assert without_words(shape(ours)) == without_words(shape(theirs))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(contents)
def test_header_text_comes_back_as_the_author_wrote_it(parts: Parts) -> None:
    """Nothing of a subject, a name, a filename or a header of one's own is lost, white space included."""
    message = parse(parts.ours())
    assert (message["Subject"] or "") == parts.subject
    assert [(name, value) for name, value in message.items() if name.startswith("X-")] == parts.headers
    for field, wanted in (("From", [parts.author]), ("To", parts.to), ("Cc", parts.cc), ("Reply-To", parts.reply_to)):
        found = message[field].addresses if field in message else ()
        assert [(one.username, one.domain) for one in found] == [(one.local_part, one.domain) for one in wanted]
        for std, ours in zip(found, wanted, strict=True):
            # Its parser makes one space of several in a phrase, and puts one between encoded words.
            between = " " if ours.display_name.isascii() else ""
            assert between.join(std.display_name.split()) == between.join(ours.display_name.split())
    if not parts.author.display_name.isascii():
        decoded = decode_header(email.message_from_bytes(parts.ours())["From"])
        assert str(make_header(decoded)) == f"{parts.author.display_name} <{parts.author}>"
    attached = [part.get_filename() for part in message.walk() if part.get_content_disposition() == "attachment"]
    assert attached == [name for _, name, _ in parts.attachments]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(contents | with_images)
def test_a_given_message_reads_as_if_its_own_generator_had_written_it(parts: Parts) -> None:
    """An EmailMessage, and the same parsed with the policy of old, keep everything, folded names included."""
    message = parts.theirs()
    written = message.as_bytes(policy=UNFOLDED)
    wanted = without_words(shape(parse(written)))
    for given_message in (message, email.message_from_bytes(written)):
        octets = b"".join(render(given_message, date=DATE, token="token").chunks())
        assert without_words(shape(parse(octets))) == wanted


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=100), st.integers(0, 200_000))
def test_a_streamed_attachment_has_the_octets_of_one_in_memory(pattern: bytes, size: int) -> None:
    """Bytes and a file with the same bytes give the same content."""
    octets = (pattern * (size // len(pattern) + 1))[:size]
    in_memory = Message(from_="a@example.org", attachments=[Attachment(octets, "x.bin")])
    in_a_file = Message(from_="a@example.org", attachments=[Attachment(io.BytesIO(octets), "x.bin")])
    first, second = (render(one, date=DATE, token="t") for one in (in_memory, in_a_file))
    assert b"".join(first.chunks()) == b"".join(second.chunks()) == b"".join(second.chunks())
    assert first.size == second.size
