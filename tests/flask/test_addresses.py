"""Who a mail of Flask goes to: mailboxes that were given as such, and their names as Flask-Mail writes them."""

from __future__ import annotations

import email
import email.policy
import re
from email.header import Header, decode_header, make_header
from email.utils import parseaddr
from typing import Any

import flask_mail
import pytest
from flask import Flask
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpbackend import Address
from smtpbackend.content import Content
from smtpbackend.errors import Injection, InvalidInput
from smtpbackend_flask import Mail, Message
from smtpbackend_flask.message import BadHeaderError
from smtpbackend_flask.sanitize import sanitize_address
from smtpbackend_flask.translate import translate

WRITERS: list[dict[str, Any]] = [{}, {"extra_headers": {"X-Tag": "1"}}]
"""The core writes the first, the email package the second."""


class User:
    """A model, whose text looks like a mailbox of the server."""

    def __str__(self) -> str:
        return "user42"

    __repr__ = __str__  # the name of a test has no address in it: it is the same in each process of a run


def message(**options: Any) -> Message:
    usual = {"subject": "Hi", "body": "x", "recipients": ["ann@example.org"], "sender": "a@example.com"}
    return Message(**{**usual, **options})


def written(given_: Message) -> tuple[bytes, Any]:
    """The octets that leave, and the envelope. Raises the error of the first recipient who is none."""
    parcel = translate(given_, None)
    for outcome in parcel.refused:
        raise outcome.error
    content = parcel.content
    return b"".join(content.chunks()) if isinstance(content, Content) else content.as_bytes(), parcel.envelope


def composed(given_: Message) -> tuple[Any, Any]:
    """The headers that leave, and the envelope."""
    octets, envelope = written(given_)
    return email.message_from_bytes(octets, policy=email.policy.default), envelope


@pytest.mark.parametrize("options", WRITERS, ids=["core", "email package"])
@pytest.mark.parametrize("nobody", [None, 42, 1.5, True, User(), "", " "], ids=repr)
@pytest.mark.parametrize("field", ["recipients", "cc", "bcc", "reply_to", "sender"])
def test_nobody_is_mailed_by_the_text_of_an_object(field: str, nobody: Any, options: dict[str, Any]) -> None:
    """A user without an address is not the mailbox "None": alone and in a pair, with the field in the error."""
    pair = ("Ann", nobody)
    several = [[nobody], ["bob@example.org", nobody], [pair]]
    for value in several if field in ("recipients", "cc", "bcc") else [pair]:
        with pytest.raises(InvalidInput) as refused:
            composed(message(**{**options, field: value}))
        assert refused.value.field.partition("[")[0] == field


def test_a_default_sender_without_an_address_is_told() -> None:
    """``MAIL_DEFAULT_SENDER = ("App", os.environ.get("SENDER"))``."""
    app = Flask("app")
    app.config.update(MAIL_DEFAULT_SENDER=("App", None), MAIL_SUPPRESS_SEND=True)
    mail = Mail(app)
    with app.app_context(), pytest.raises(InvalidInput, match="sender"):
        mail.send(Message("Hi", ["ann@example.org"]))


@pytest.mark.parametrize("options", WRITERS, ids=["core", "email package"])
def test_a_pair_alone_is_one_recipient(options: dict[str, Any]) -> None:
    """Where Flask-Mail would mail its name."""
    pair = ("Lee, Bøb", "bob@example.org")
    found, envelope = composed(message(recipients=pair, cc=pair, bcc=("Carl", "carl@example.org"), **options))
    for field in ("To", "Cc"):
        assert [(one.display_name, one.addr_spec) for one in found[field].addresses] == [pair]
    assert [str(one.address) for one in envelope.recipients] == ["bob@example.org", "carl@example.org"]
    _, envelope = composed(message(recipients=("ann@example.org", "bob@example.org"), **options))
    assert [str(one.address) for one in envelope.recipients] == ["ann@example.org", "bob@example.org"]


@pytest.mark.parametrize("options", WRITERS, ids=["core", "email package"])
@pytest.mark.parametrize(
    "text", ["Smith, Bob <bob@example.org>", "ann@bank.example, eve@evil.example", "bob＠example.org"]
)
def test_what_is_not_one_address_is_refused(text: str, options: dict[str, Any]) -> None:
    """It is never split, and never a mailbox of the server."""
    for field in ("recipients", "cc", "bcc"):
        with pytest.raises(InvalidInput) as refused:
            composed(message(**{**options, field: [text]}))
        assert refused.value.field == f"{field}[0]"
    with pytest.raises(InvalidInput):
        composed(message(**{**options, "sender": text}))


@pytest.mark.parametrize("options", WRITERS, ids=["core", "email package"])
@pytest.mark.parametrize("host", ["faß.example", "i❤.example", "bücher.example", "א1.example"])
def test_header_and_envelope_name_the_same_host(host: str, options: dict[str, Any]) -> None:
    given_ = message(recipients=[f"Bøb <bob@{host}>", ("C", f"c@{host}")], sender=f"ann@{host}", **options)
    found, envelope = composed(given_)
    ours = envelope.sender.ascii_domain
    assert found["From"].addresses[0].domain == ours
    assert [one.addr_spec for one in found["To"].addresses] == [f"bob@{ours}", f"c@{ours}"]
    assert [str(one.address) for one in envelope.recipients] == [f"bob@{ours}", f"c@{ours}"]


@pytest.mark.parametrize("options", WRITERS, ids=["core", "email package"])
@pytest.mark.parametrize("name", ["Bob\tSmith", "Bob\x1bSmith", "Bob O\x92Neil", "Bob\x85Smith", "Bob\u2028Smith"])
@pytest.mark.parametrize("is_pair", [True, False])
def test_a_name_with_what_was_pasted_is_sent(name: str, is_pair: bool, options: dict[str, Any]) -> None:
    """A tab and its kind as a blank, what is beyond ASCII encoded."""
    mailbox = (name, "bob@example.org") if is_pair else f'"{name}" <bob@example.org>'
    given_ = message(recipients=[mailbox], reply_to=mailbox, **options)
    assert not given_.has_bad_headers()
    octets, envelope = written(given_)
    assert [str(one.address) for one in envelope.recipients] == ["bob@example.org"]
    for field in ("To", "Reply-To"):
        said, box = parseaddr(str(email.message_from_bytes(octets)[field]))
        decoded = "".join(part.decode(charset) if charset else part for part, charset in decode_header(said))
        wanted = re.sub("[\t\x1b]", " ", name)
        assert decoded in (wanted, re.sub("[\x85\u2028]", " ", wanted))  # the email package makes blanks of these, too
        assert box == "bob@example.org"


@pytest.mark.parametrize("breach", ["\r", "\n", "\0", "\r\nBcc: eve@example.org"])
@pytest.mark.parametrize("field", ["recipients", "cc", "bcc", "reply_to", "sender"])
def test_a_line_end_refuses_the_whole_message(field: str, breach: str) -> None:
    """In a name and in an address: told apart from what is badly written, beside however many good addresses."""
    for mailbox in ((f"A{breach}B", "bob@example.org"), f"bob{breach}@example.org"):
        several = field in ("recipients", "cc", "bcc")
        with pytest.raises(BadHeaderError) as refused:
            composed(message(**{field: ["carl@example.org", mailbox] if several else mailbox}))
        assert isinstance(refused.value, Injection)
        assert refused.value.field == field


@pytest.mark.parametrize("options", WRITERS, ids=["core", "email package"])
def test_a_header_object_is_the_address_in_it(options: dict[str, Any]) -> None:
    value: Any = Header("Bøb <bob@example.org>", "utf-8")
    found, envelope = composed(message(recipients=[value], reply_to=value, **options))
    assert [str(one.address) for one in envelope.recipients] == ["bob@example.org"]
    for field in ("To", "Reply-To"):
        assert [(one.display_name, one.addr_spec) for one in found[field].addresses] == [("Bøb", "bob@example.org")]


COMMENTS = [
    "bob@example.org (Bob Smith)",
    "Bob (the builder) <bob@example.org>",
    "(office) Bob <bob@example.org> (new)",
    "bob@example.org (Bob, Jr.)",
    "bob@example.org (Bøb)",
    "bob@example.org ()",
]


@pytest.mark.parametrize("text", COMMENTS)
def test_a_comment_is_a_name_as_in_flask_mail(text: str) -> None:
    """The old way to write one, in our functions and in what leaves."""
    wanted = tuple(map(str, (make_header(decode_header(one)) for one in parseaddr(flask_mail.sanitize_address(text)))))
    for mailbox in (sanitize_address(text), str(composed(message(recipients=[text]))[0]["To"])):
        assert tuple(str(make_header(decode_header(one))) for one in parseaddr(mailbox)) == wanted


WORDS = st.text("abc (),.<>\"\\'ßé\t", max_size=12)


@settings(deadline=None)
@given(WORDS, WORDS)
@example("Bob", "the (old) builder")
def test_whatever_the_core_reads_has_the_name_that_the_email_package_reads(name: str, comment: str) -> None:
    """Which Flask-Mail asks; blanks aside, and the brackets of comments in comments."""
    text = f"{name} ({comment}) <bob@example.org>"
    try:
        address = Address.parse(text)
    except InvalidInput:
        return
    said, box = parseaddr(text)
    if box != "bob@example.org":
        return  # the package reads less than we do
    assert [c for c in address.display_name if c not in " \t()"] == [c for c in said if c not in " \t()"]
