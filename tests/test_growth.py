"""Whatever an outsider can fill grows in time with its length, and not with the square of it.

One entry for each field and each parser, given each hostile shape of `tests.growth`; and a look at every regular
expression of the three packages. Those of Django's and Flask's faces are in their own folders.
"""

from __future__ import annotations

import base64
import contextlib
import email
import email.policy
from collections.abc import Callable
from datetime import UTC, datetime
from email.header import Header
from email.message import EmailMessage
from email.message import Message as OldMessage
from functools import partial
from typing import Any

import pytest

from smtpbackend import Address, Attachment, Envelope, Message, Recipient
from smtpbackend.address import parse_addresses
from smtpbackend.address_list import sift
from smtpbackend.delivery import proxy
from smtpbackend.delivery.connecting import is_crowd
from smtpbackend.delivery.dkim import signed, signers
from smtpbackend.delivery.receipts import queue_id
from smtpbackend.delivery.server import from_url
from smtpbackend.delivery.srv import Record, order
from smtpbackend.errors import SMTPError
from smtpbackend.hiding import Mask
from smtpbackend.known_replies import known
from smtpbackend.mime import given, render
from smtpbackend.outcome import Reply
from smtpbackend.protocol import sasl
from smtpbackend.protocol.authentication import asks_for_tls
from smtpbackend.protocol.bearer import oauthbearer, xoauth2
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.digest import digest_md5
from smtpbackend.protocol.mechanisms import choose, cram_md5
from smtpbackend.protocol.reply import ReplyReader
from smtpbackend.protocol.sasl import Credentials
from smtpbackend.protocol.scram import scram
from tests.growth import LARGE, SHAPES, SMALL, Work, calls, check

pytestmark = pytest.mark.exhaustive  # nothing in it depends on the Python or the framework

DATE = datetime(2026, 1, 2, tzinfo=UTC)
REFUSALS = (SMTPError, ValueError, sasl.Refused)
KEY = base64.b64encode(bytes(range(32))).decode()  # Ed25519
LOGIN = Credentials("ann", "pencil", "token", "mx.example.com", 587)
TOKEN = "".join(chr(33 + place * 7 % 90) for place in range(2_500))


def rendered(message: Any) -> None:
    """Write it, and what of it is sent to a server without 8BITMIME."""
    content = render(message, date=DATE, token="t")
    b"".join(content.chunks())
    try:
        b"".join(content.as_7bit().chunks())
    except SMTPError:
        assert content.is_8bit or content.longest_line > 998


def message(**fields: Any) -> None:
    rendered(Message(**{"subject": "x", "from_": "a@example.com", "to": "b@example.org", "text": "x", **fields}))


def answer(exchange: sasl.Exchange, *challenges: str) -> None:
    next(exchange)
    for challenge in challenges:
        step = exchange.send(challenge.encode())
        while isinstance(step, sasl.Long):
            step = exchange.send(step.do())


def from_headers(name: str, policy: Any) -> Callable[[str], Work]:
    """Of a message that somebody else wrote, as the parser of the package leaves it."""

    def make(text: str) -> Work:
        given: Any = (OldMessage if policy is email.policy.compat32 else EmailMessage)(policy=policy)
        for field, value in (("From", "a@example.com"), ("To", "b@example.org"), (name, text), ("X-A", "b")):
            given.set_raw(field, value)  # as the parser does, which takes its own time
        given.set_payload("x")

        def work() -> None:
            with contextlib.suppress(SMTPError):
                Envelope.from_headers(given)
            rendered(given)

        return work

    return make


def assigned(name: str, made: Callable[[str], Any], kind: Any) -> Callable[[str], Work]:
    """Of a message that a program wrote."""

    def make(text: str) -> Work:
        given = kind()
        given["From"], given["To"] = "a@example.com", "b@example.org"
        try:
            given[name] = made(text)
        except (ValueError, IndexError, AttributeError, RecursionError):  # of the email package
            return lambda: None
        return lambda: rendered(given)

    return make


def capabilities(text: str) -> None:
    lines = [f"{keyword} {text}" for keyword in ("SIZE", "LIMITS", "AUTH", "FUTURERELEASE")]
    found = Capabilities.from_reply(Reply(250, None, ("mx", *lines, f"AUTH={text}", text, *text[:20_000])))
    assert (found.limits, found.hold_limits, found.size_limit, repr(found)) is not None
    choose(found.auth_mechanisms, None, True)


def replies(text: str, step: int) -> None:
    """Off the wire, in pieces."""
    reader, octets = (
        ReplyReader(),
        b"".join(b"250-%s\r\n" % text[at : at + 400].encode() for at in range(0, len(text), 400)),
    )
    for start in range(0, len(octets), step):
        reader.feed(octets[start : start + step])
        while reader.next():
            pass


def shown(text: str) -> None:
    reply = Reply(550, None, (text, text))
    for error in (SMTPError(text, reply=reply), sasl.Refused(text)):
        assert len(f"{reply}{reply!r}{error}") < 70_000 or isinstance(error, sasl.Refused)


def dkim(text: str) -> None:
    signer = signers("dkim", {"domain": "example.com", "selector": "s", "key": KEY})
    octets = f"From: a@example.com\r\nSubject: {text}\r\n\r\n{text}\r\n".encode()
    b"".join(signed(given(octets), signer, DATE).chunks())


FIELDS: dict[str, Callable[[str], Work]] = {
    "a subject": lambda text: lambda: message(subject=text),
    "a display name": lambda text: lambda: message(to=[Address("b", "example.org", text)]),
    "a recipient": lambda text: lambda: message(to=[text]),
    "an author": lambda text: lambda: message(from_=text),
    "a Reply-To": lambda text: lambda: message(reply_to=[text], sender=text),
    "a header": lambda text: lambda: message(headers=[("X-A", text), ("Errors-To", "a@b.example")]),
    "a header of addresses": lambda text: lambda: message(headers=[("Errors-To", text)]),
    "the name of a header": lambda text: lambda: message(headers=[(text, "x")]),
    "a file name": lambda text: lambda: message(attachments=[Attachment(b"x", text)]),
    "a media type": lambda text: lambda: message(attachments=[Attachment(b"x", "f", text)]),
    "a Content-ID": lambda text: lambda: message(html="x", attachments=[Attachment(b"x", "f", content_id=text)]),
    "a Message-ID": lambda text: lambda: message(message_id=text),
    "a text": lambda text: lambda: message(text=text, html=text, alternatives=[(text, "text/x")]),
    "a forwarded mail": lambda text: (
        lambda: message(attachments=[Attachment(f"Content-Type: {text}\n\n{text}".encode(), "f", "message/rfc822")])
    ),
    "a forwarded mail, its boundary": lambda text: (
        lambda: message(
            attachments=[Attachment(f"Content-Type: a/b; boundary={text}\n\n{text}".encode(), "f", "message/rfc822")]
        )
    ),
    "an address list": lambda text: lambda: parse_addresses(text),
    "an address list, entry by entry": lambda text: lambda: sift(text, "to"),
    "recipients as one text": lambda text: lambda: message(to=f"{text},@"),
    "a reply that may hold a token": lambda text: lambda: Mask(TOKEN)(text),
    "a reply that holds some of a token": lambda text: lambda: Mask(TOKEN)(f"{text}{TOKEN[5:500]}{text}"),
    "a local part": lambda text: lambda: Address(text, "b.example"),
    "a domain": lambda text: lambda: Address("a", text),
    "the recipients of an envelope": lambda text: lambda: Envelope("", text),
    "the sender of an envelope": lambda text: lambda: Envelope(text, "a@b.example"),
    "an original recipient": lambda text: lambda: Recipient("a@b.example", text, text),
    "an envelope identifier": lambda text: lambda: Envelope("", "a@b.example", envid=text, extra={text: text}),
    "octets": lambda text: lambda: b"".join(given(text.encode()).chunks()),
    "octets with a header": lambda text: lambda: b"".join(given(b"Bcc: " + text.encode() + b"\n\nx").chunks()),
    "a signed mail": lambda text: lambda: dkim(text),
    "a URL of a server": lambda text: lambda: from_url(f"smtp://{text}"),
    "a password in a URL": lambda text: lambda: from_url(f"smtp://u:{text}@mx.example.com"),
    "the query of a URL": lambda text: lambda: from_url(f"smtp://mx.example.com?{text}"),
    "a URL of a proxy": lambda text: lambda: proxy.parse("proxy", f"socks5://u:{text}@mx.example.com"),
    "the answer of a proxy": lambda text: lambda: proxy.failed(proxy.parse("proxy", "http://u:p@h"), OSError(text)),
    "EHLO": lambda text: lambda: capabilities(text),
    "replies": lambda text: lambda: replies(text, 4096),
    "replies in small pieces": lambda text: lambda: replies(text, 7),
    "an acceptance": lambda text: lambda: queue_id(Reply(250, None, (text, f"queued as {text}", f"id={text}"))),
    "a refusal": lambda text: lambda: is_crowd(Reply(450, None, (text, f"too many {text}", f"max {text}"))),
    "a refusal that may be known": lambda text: lambda: known(Reply(550, None, (text,) * 10), "rcpt"),
    "a refusal to log in": lambda text: lambda: asks_for_tls(Reply(530, None, (text,))),
    "errors": lambda text: lambda: shown(text),
    "CRAM-MD5": lambda text: lambda: answer(cram_md5(LOGIN), text),
    "DIGEST-MD5": lambda text: lambda: answer(digest_md5(LOGIN), text),
    "DIGEST-MD5, its realm": lambda text: (
        lambda: answer(digest_md5(LOGIN), f'nonce="x",algorithm=md5-sess,realm={text}')
    ),
    "OAUTHBEARER": lambda text: lambda: answer(oauthbearer(LOGIN), text),
    "XOAUTH2": lambda text: lambda: answer(xoauth2(LOGIN), text),
    "SCRAM": lambda text: lambda: answer(scram("SCRAM-SHA-256", LOGIN, "n"), text),
    "SCRAM, its nonce": lambda text: lambda: answer(scram("SCRAM-SHA-1", LOGIN, "n"), f"r=n{text},s=YQ==,i=4096", text),
}
for policy in ("compat32", "SMTP"):
    for name in ("Subject", "To", "Content-Type", "Content-Transfer-Encoding", "Message-ID"):
        FIELDS[f"{name} of a mail parsed by {policy}"] = from_headers(name, getattr(email.policy, policy))
FIELDS["Subject of an EmailMessage"] = assigned("Subject", str, EmailMessage)
FIELDS["Reply-To of an old Message"] = assigned("Reply-To", str, OldMessage)
FIELDS["a Header object"] = assigned("Subject", lambda text: Header(text, "utf-8"), OldMessage)


@pytest.mark.parametrize("field", FIELDS)
def test_what_an_outsider_can_fill_takes_time_in_proportion(field: str) -> None:
    counted = {shape: check(FIELDS[field], shape, REFUSALS) for shape in SHAPES}
    most = max(counted, key=lambda shape: counted[shape])
    print(f"{field}: {len(counted)} shapes, at most {counted[most]} calls for {LARGE} characters ({most})")


@pytest.mark.parametrize("name", ["To", "Reply-To", "Received", "Resent-To", "X-A"])
def test_many_headers_take_time_in_proportion(name: str) -> None:
    few, more = (calls(partial(message, headers=[(name, "a@b.example")] * size)) for size in (SMALL, LARGE))
    assert more <= 2.2 * few


@pytest.mark.parametrize("content_id", ["a@b", None])
def test_many_parts_take_time_in_proportion(content_id: str | None) -> None:
    parts = [Attachment(b"x", "f", content_id=content_id) for _ in range(1_000)]
    few, more = (calls(partial(message, html="x", attachments=parts[:size])) for size in (500, 1_000))
    assert more <= 2.2 * few


def test_an_answer_of_the_dns_is_bounded() -> None:
    records = [Record(0, 1, 25, f"mx{number}.example") for number in range(LARGE)]
    assert len(order(records, lambda: 0.5)) == 32
    assert calls(lambda: order(records, lambda: 0.5)) < 3 * LARGE
