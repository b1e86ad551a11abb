"""Whatever could break out of its field is refused before a connection is opened, and nothing is sent."""

from __future__ import annotations

import contextlib
import email.message
import email.policy
from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend import Address, Attachment, Envelope, Message, Recipient, Server
from smtpbackend.errors import InvalidInput, RecipientsRefused
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello

TO = "bob@example.com"
CONTENT = b"Subject: x\r\n\r\nhi\r\n"
EVIL = ["\r", "\n", "\0", "\r\nRCPT TO:<eve@example.com>\r\n", "\x01", "\x1b", "\x7f", "\x85"]
ENCODED = ("subject", "value", "file name")
NAMES = ("display name", "display name in from_")
"""Where a control character that adds no line is a blank: it was pasted."""
"""Text that leaves as an encoded word: what is above ASCII breaks out of nothing, and mended mojibake has C1 in it."""

ADDRESSES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "sender of an envelope": ("sender", lambda bad: Envelope(f"a{bad}nn@example.org", [TO])),
    "domain of the sender": ("sender", lambda bad: Envelope(f"ann@exa{bad}mple.org", [TO])),
    "quoted local part": ("sender", lambda bad: Envelope(f'"a{bad}nn"@example.org', [TO])),
    "recipient of an envelope": ("recipients", lambda bad: Envelope(SENDER, [f"b{bad}ob@example.com"])),
    "one string of recipients": ("recipients", lambda bad: Envelope(SENDER, f"{TO}, b{bad}ob@example.com")),
    "Recipient": ("recipients", lambda bad: Recipient(f"b{bad}ob@example.com")),
    "Address": ("address", lambda bad: Address(f"b{bad}ob", "example.com")),
    "domain of an Address": ("address", lambda bad: Address("bob", f"exa{bad}mple.com")),
    "display name": ("address", lambda bad: Address("bob", "example.com", f"B{bad}ob")),
    "address literal": ("address", lambda bad: Address("bob", f"[192.0.2{bad}.1]")),
    "from_": ("from_", lambda bad: hello(from_=f"a{bad}nn@example.org")),
    "display name in from_": ("from_", lambda bad: hello(from_=f'"A{bad}nn" <ann@example.org>')),
    "to": ("to", lambda bad: hello(to=[f"b{bad}ob@example.com"])),
    "cc": ("cc", lambda bad: hello(cc=[f"b{bad}ob@example.com"])),
    "bcc": ("bcc", lambda bad: hello(bcc=[f"b{bad}ob@example.com"])),
    "reply_to": ("reply_to", lambda bad: hello(reply_to=[f"b{bad}ob@example.com"])),
    "sender of a message": ("sender", lambda bad: hello(sender=f"b{bad}ob@example.com")),
}
HEADERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "subject": ("subject", lambda bad: hello(subject=f"Hel{bad}lo")),
    "name": ("", lambda bad: hello(headers=[(f"X-{bad}Name", "value")])),
    "value": ("X-Name", lambda bad: hello(headers={"X-Name": f"val{bad}ue"})),
    "message_id": ("message_id", lambda bad: hello(message_id=f"<a{bad}b@example.org>")),
    "file name": ("filename", lambda bad: hello(attachments=[Attachment(b"x", f"na{bad}me.txt")])),
    "content type": ("", lambda bad: hello(attachments=[Attachment(b"x", "n", f"text/pl{bad}ain")])),
    "Content-ID": ("content_id", lambda bad: hello(attachments=[Attachment(b"x", "n", content_id=f"a{bad}@b")])),
    "alternative's type": ("", lambda bad: hello(alternatives=[("x", f"text/x{bad}y")])),
}
PARAMETERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "envid": ("envid", lambda bad: Envelope(SENDER, [TO], envid=f"a{bad}b")),
    "orcpt": ("orcpt", lambda bad: Envelope(SENDER, [Recipient(TO, orcpt=f"a{bad}b@example.com")])),
    "notify": ("notify", lambda bad: Envelope(SENDER, [Recipient(TO, notify=f"SUCC{bad}ESS")])),
    "dsn_return": ("dsn_return", lambda bad: Envelope(SENDER, [TO], dsn_return=f"FU{bad}LL")),
    "keyword": ("extra", lambda bad: Envelope(SENDER, [TO], extra={f"MT-{bad}PRIORITY": "3"})),
    "value of a parameter": ("extra", lambda bad: Envelope(SENDER, [TO], extra={"MT-PRIORITY": f"3{bad}"})),
}


def adds_lines(bad: str) -> bool:
    return not set(bad).isdisjoint("\r\n\0")


def attempt(twin: Twin, url: str, make: Callable[[str], Any], bad: str) -> None:
    """Make what is bad, and send it if it could be made."""
    mailer = twin(url)
    made = make(bad)
    if isinstance(made, Message):
        mailer.send(made)
    elif isinstance(made, Envelope):
        mailer.send(CONTENT, made)
    else:
        mailer.send(CONTENT, Envelope(SENDER, [made]))


@pytest.mark.parametrize(
    ("field", "make", "bad"),
    [
        pytest.param(field, make, bad, id=f"{what}-{bad!a}")
        for what, (field, make) in {**ADDRESSES, **HEADERS, **PARAMETERS}.items()
        for bad in EVIL
        if (bad.isascii() or what not in ENCODED) and (what not in NAMES or adds_lines(bad))
    ],
)
def test_is_refused_by_its_field_and_nothing_is_sent(
    twin: Twin, scripted: Scripted, field: str, make: Callable[[str], Any], bad: str
) -> None:
    server = scripted()
    if field in ("to", "cc", "bcc") and not adds_lines(bad):  # nobody's slip of the pen, but one recipient's alone
        with contextlib.suppress(RecipientsRefused):  # there may be others
            attempt(twin, server.url, make, bad)
        assert bad.encode() not in server.received
        return
    with pytest.raises(InvalidInput) as caught:
        attempt(twin, server.url, make, bad)
    assert isinstance(caught.value, ValueError)
    assert not isinstance(caught.value, OSError)
    assert caught.value.field
    if field:
        assert caught.value.field == field
    assert server.connections == 0


@pytest.mark.parametrize("bad", EVIL, ids=ascii)
def test_the_ehlo_name(twin: Twin, bad: str) -> None:
    with pytest.raises(InvalidInput, match="client_name") as caught:
        twin("smtp://localhost", client_name=f"app{bad}.example.org")
    assert caught.value.field == "client_name"
    with pytest.raises(InvalidInput):
        Server("localhost", client_name=f"[127.0.0.1{bad}]")


@pytest.mark.parametrize("bad", EVIL, ids=ascii)
def test_the_host(twin: Twin, bad: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        twin({"host": f"local{bad}host"})
    assert caught.value.field == "host"


@pytest.mark.parametrize("name", ["From", "To", "Cc", "Bcc", "Sender", "Subject", "X-Name"])
@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32], ids=["default", "compat32"])
@pytest.mark.parametrize("bad", ["\r\nRCPT TO:<eve@example.com>\r\n", "\n.\n", "\0", "\x1b"], ids=ascii)
def test_a_header_of_an_email_message(
    twin: Twin, scripted: Scripted, name: str, policy: email.policy.Policy, bad: str
) -> None:
    """However it came to stand there; a header that the email package refuses itself is as good."""
    server = scripted()
    message = email.message.Message(policy=policy)
    for key, value in {"From": SENDER, "To": TO, "Subject": "Hello"}.items():
        if key != name:
            message[key] = value
    value = f"b{bad}ob@example.com"
    try:
        message[name] = value
    except ValueError:
        message._headers.append((name, value))  # type: ignore[attr-defined]
    try:
        twin(server.url).send(message)
    except (InvalidInput, RecipientsRefused):
        assert server.connections == 0
    else:  # to the others
        assert not adds_lines(bad)
        assert name in ("Cc", "Bcc")
        assert [mail.recipients for mail in server.taken] == [(f"RCPT TO:<{TO}>",)]
        assert bad.encode() not in server.received


def test_no_recipients(twin: Twin, scripted: Scripted) -> None:
    server = scripted()
    for message in (hello(to=[]), Message(subject="x", from_=SENDER, text="x")):
        with pytest.raises(InvalidInput, match="recipient") as caught:
            twin(server.url).send(message)
        assert caught.value.field == "recipients"
    assert server.connections == 0


def test_content_cannot_end_early(twin: Twin, scripted: Scripted) -> None:
    """Whatever the line ends around a dot: one message leaves, and all of it is its content (no smuggling)."""
    server = scripted()
    content = b"Subject: x\r\n\r\none\r\n.\r\nMAIL FROM:<eve@example.com>\r\n\n.\nRCPT\r.\r\r\n.\n\r\n.\r\rDATA\n.\r\n"
    assert twin(server.url).send(content, Envelope(SENDER, [TO])).ok
    [arrived] = server.handed_over
    assert arrived.content == content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    assert server.speakers[0].verbs == ["EHLO", "MAIL", "RCPT", "DATA"]
