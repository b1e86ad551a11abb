"""Who a mail of Django goes to: its header names the mailboxes and hosts that the envelope names."""

from __future__ import annotations

import email
import email.policy
from email.header import Header
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpbackend.errors import InvalidInput
from smtpbackend_django import EmailBackend
from smtpbackend_django.addresses import with_our_addresses, with_our_hosts
from smtpbackend_django.message import IS_MODERN as MODERN
from smtpbackend_django.message import content_of, envelope_of
from tests.django.conftest import mail
from tests.servers.aiosmtpd_server import AiosmtpdServer

# Those of which IDNA 2003 makes another host, none, or the same, and those that 2008 has not
HOSTS = ["faß.example", "ΣΑΣ.example", "א1.example", "bücher.example", "i❤.example", "💩.faß.example", "example.org"]


def prepared(message: EmailMessage) -> tuple[Any, Any]:
    """The headers that leave, and the envelope."""
    envelope = envelope_of(message, EmailBackend().prep_address if MODERN else None)
    content = content_of(message, envelope)
    if isinstance(content, email.message.Message):
        content = content.as_bytes()
    octets = content if isinstance(content, bytes) else b"".join(content.chunks())
    return email.message_from_bytes(octets, policy=email.policy.default), envelope


class Own(EmailMultiAlternatives):
    """A subclass is rendered by Django, never by the core."""


@pytest.mark.parametrize("kind", [EmailMessage, Own])
@pytest.mark.parametrize("host", HOSTS)
def test_header_and_envelope_name_the_same_host(host: str, kind: type[EmailMessage]) -> None:
    """In each field of addresses, beside others, with a name and alone."""
    message = kind("s", "x", f"Ann <ann@{host}>", [f"bob@{host}", "c@example.org"], cc=[f'"Lee, Dø" <d@{host}>'])
    message.reply_to = [f"e@{host}"]
    message.extra_headers = {"Sender": f"f@{host}"}
    found, envelope = prepared(message)
    ours = envelope.sender.ascii_domain
    for field, box in (("From", "ann"), ("To", "bob"), ("Cc", "d"), ("Reply-To", "e"), ("Sender", "f")):
        (first, *_) = found[field].addresses
        assert (first.username, first.domain) == (box, ours)
    assert [one.address.addr_spec for one in envelope.recipients] == [f"bob@{ours}", "c@example.org", f"d@{ours}"]
    assert found["Cc"].addresses[0].display_name == "Lee, Dø"
    assert message.from_email == f"Ann <ann@{host}>"  # the caller's message stays as it was


@pytest.mark.parametrize("kind", [EmailMessage, Own])
def test_a_pair_is_name_and_address(kind: type[EmailMessage]) -> None:
    """As Django's own ADMINS were made of them; Django would write their Python into the header."""
    pair: Any = ('Lee, "A"nn', "ann@faß.example")
    message = kind("s", "x", pair, [pair, "bob@example.org"], cc=[["Dø", "d@example.org"]], reply_to=[pair])
    found, envelope = prepared(message)
    for field in ("From", "To", "Reply-To"):
        one = found[field].addresses[0]
        assert (one.display_name, one.addr_spec) == ('Lee, "A"nn', "ann@xn--fa-hia.example")
    assert found["Cc"].addresses[0].display_name == "Dø"
    assert str(envelope.sender) == "ann@xn--fa-hia.example"
    recipients = [str(one.address) for one in envelope.recipients]
    assert recipients == ["ann@xn--fa-hia.example", "bob@example.org", "d@example.org"]


@pytest.mark.parametrize(
    "pair", [("Ann", None), ("Ann", 1), ("a", "b", "c"), ("Ann\n", "a@x.org"), ("Ann", "a@x, b@x")]
)
def test_what_is_no_pair_is_refused_as_django_refuses(pair: Any) -> None:
    """By a ValueError."""
    with pytest.raises(ValueError, match="recipients"):
        prepared(mail(pair))


@pytest.mark.parametrize("text", ["bob＠example.org", "Smith, Bob <bob@example.org>", "ann@x.org, eve@x.org", ""])
def test_what_is_no_address_is_a_value_error(text: str) -> None:
    """As with Django itself, where that looks; never a mailbox of the server."""
    message = mail()
    message.from_email = text
    with pytest.raises(ValueError, match=r".+"):
        prepared(message)


@pytest.mark.parametrize("name", ["Bob\tSmith", "Bob O\x92Neil"])
def test_a_name_with_what_was_pasted_is_sent(name: str, backend: EmailBackend, server: AiosmtpdServer) -> None:
    """Django's own backend sends it, too."""
    assert backend.send_messages([mail(f'"{name}" <bob@example.org>')]) == 1
    assert server.arrived[0].recipients == ("bob@example.org",)


def test_long_local_parts_are_for_the_server_to_judge(backend: EmailBackend, server: AiosmtpdServer) -> None:
    """VERP and reply tokens."""
    token = f"reply+{'k' * 90}@example.org"
    assert backend.send_messages([mail(token)]) == 1
    assert server.arrived[0].recipients == (token,)
    with pytest.raises(InvalidInput, match="command line"):
        prepared(mail("k" * 500 + "@example.org"))


def test_a_header_object_is_the_address_in_it() -> None:
    found, envelope = prepared(mail(Header("Bøb <bob@faß.example>", "utf-8")))
    assert [str(one.address) for one in envelope.recipients] == ["bob@xn--fa-hia.example"]
    assert found["To"].addresses[0].addr_spec == "bob@xn--fa-hia.example"


def test_what_stands_in_quotes_is_a_name() -> None:
    given = '"Ann @ faß.de, or so" <ann@faß.de>, "b@faß.de "@faß.de'
    assert with_our_hosts(given) == '"Ann @ faß.de, or so" <ann@xn--fa-hia.de>, "b@faß.de "@xn--fa-hia.de'


@settings(deadline=None)
@given(st.text(alphabet='ab@ß.<>,;: ()"\\＠é'))
@example('"ann@faß.de" <ann@faß.de>, b@faß.de (faß.de)')
@example("@ß" * 500)
def test_only_hosts_are_rewritten(text: str) -> None:
    """What is not a host of IDNA 2003's making stays, and what was rewritten once is as it should be."""
    written = with_our_hosts(text)
    assert with_our_hosts(written) == written
    assert written.count(",") == text.count(",")
    assert text == written or "xn--" in written


def test_a_message_that_says_nothing_else_is_not_copied() -> None:
    """Nor one of hosts that both know."""
    for to in ("ann@example.org", "ann@bücher.example"):
        message = mail(to)
        assert with_our_addresses(message) is message
