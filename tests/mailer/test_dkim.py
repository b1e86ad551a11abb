"""DKIM by both mailers: what arrives verifies, after a real server has had it."""

from __future__ import annotations

import logging
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from smtpbackend import Attachment, Envelope
from smtpbackend.errors import InvalidInput, InvalidSetting
from smtpbackend.testing import Play
from tests.dkim_keys import UNSUBSCRIBE, DkimKeys, signs_how_to_leave, verifies
from tests.mailer.conftest import Scripted
from tests.mailer.test_postfix import at
from tests.mailer.twins import SENDER, Twin, hello
from tests.servers.postfix import Postfix

TO = "bob@example.com"
LEAVE = ["https://example.org/leave/3f9a", "mailto:leave@example.org"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> DkimKeys:
    return DkimKeys(tmp_path_factory.mktemp("dkim"))


def messages(folder: Path) -> list[Any]:
    """One of each kind that can be sent, with an envelope where it needs one."""
    blob = bytes(range(256)) * 800
    (folder / "blob.bin").write_bytes(blob)
    octets = (
        b"From: ann@example.org\r\nDate: x\r\nMessage-ID: <a@b>\r\nSubject: x\r\n\r\n.dot\r\n..\r\n  two  \r\n\r\n\r\n"
    )
    (folder / "mail.eml").write_bytes(octets)
    envelope = Envelope(SENDER, [TO])
    eight_bit = EmailMessage()
    eight_bit["From"], eight_bit["To"], eight_bit["Bcc"] = "Änn <ann@example.org>", TO, "bcc@example.com"
    eight_bit.set_content("Grüße\n", cte="8bit")
    return [
        hello(
            text="Grüße\n.\n..\n", html="<p>x</p>", attachments=[Attachment(folder / "blob.bin")], bcc=["c@example.com"]
        ),
        (eight_bit, envelope),
        (octets, envelope),
        (folder / "mail.eml", envelope),
        (iter([octets[:50], octets[50:]]), envelope),
    ]


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
@pytest.mark.parametrize("port", ["starttls_port", "basic_port"])
def test_what_arrives_verifies(
    twin: Twin, postfix: Postfix, keys: DkimKeys, tmp_path: Path, kind: str, port: str
) -> None:
    """Also where 8-bit content is encoded anew, because the server offers no 8BITMIME."""
    mailer = twin(at(postfix, port=getattr(postfix, port)), dkim=keys.setting(kind))
    receipts = mailer.send_many(messages(tmp_path))
    assert [receipt.ok for receipt in receipts] == [True] * 5
    mails = postfix.mail(wait_for=6)
    assert len(mails) == 6
    for mail in mails:
        assert mail.content.startswith(b"DKIM-Signature: ")
        assert verifies(mail.content, keys)
        assert b"bcc@example.com" not in mail.content


def test_both_kinds_at_once(twin: Twin, postfix: Postfix, keys: DkimKeys) -> None:
    assert twin(at(postfix), dkim=[keys.setting("ed25519"), keys.setting("rsa")]).send(hello()).ok
    [mail] = postfix.mail(wait_for=1)
    assert verifies(mail.content, keys, 0)
    assert verifies(mail.content, keys, 1)


def given_message() -> EmailMessage:
    """One of the email package with both fields."""
    message = EmailMessage()
    for name, value in {"From": SENDER, "To": TO, **UNSUBSCRIBE}.items():
        message[name] = value
    message.set_content("News")
    return message


@pytest.mark.parametrize(
    "message",
    [hello(list_unsubscribe=LEAVE), hello(headers=UNSUBSCRIBE), given_message()],
    ids=["list_unsubscribe", "headers", "EmailMessage"],
)
def test_how_to_leave_a_list_is_signed(twin: Twin, scripted: Scripted, keys: DkimKeys, message: Any) -> None:
    """RFC 8058 4: by default, whoever wrote the fields."""
    server = scripted()
    twin(server.url, dkim=keys.setting("rsa")).send(message)
    [transaction] = server.handed_over
    assert signs_how_to_leave(transaction.content, keys)


def test_the_signature_counts_in_size(twin: Twin, scripted: Scripted, keys: DkimKeys) -> None:
    server = scripted(Play(extensions=("SIZE 100000",)))
    twin(server.url, dkim=keys.setting("rsa")).send(hello())
    [transaction] = server.handed_over
    assert f"SIZE={len(transaction.content)}" in transaction.mail


def test_content_without_an_author_is_refused_before_anything_is_connected(
    twin: Twin, scripted: Scripted, keys: DkimKeys
) -> None:
    server = scripted()
    with pytest.raises(InvalidInput, match="no From field"):
        twin(server.url, dkim=keys.setting("rsa")).send(b"Subject: x\r\n\r\nx\r\n", Envelope(SENDER, [TO]))
    assert server.connections == 0


def test_a_wrong_path_is_found_when_the_mailer_is_made(twin: Twin, keys: DkimKeys) -> None:
    with pytest.raises(InvalidSetting, match=r"dkim key '/none/key\.pem' cannot be read") as raised:
        twin("localhost", dkim={**keys.setting("rsa"), "key": "/none/key.pem"})
    assert raised.value.field == "dkim"


def test_the_key_is_in_no_repr_and_no_log(
    twin: Twin, scripted: Scripted, keys: DkimKeys, caplog: pytest.LogCaptureFixture
) -> None:
    server = scripted()
    with caplog.at_level(logging.DEBUG):
        mailer = twin(server.url, dkim=keys.setting("rsa", as_path=False))
        mailer.send(hello())
    told = caplog.text + repr(mailer.raw) + repr(mailer.raw.configuration)
    assert not any(line in told for line in keys.text("rsa").split("\n")[:-1])
