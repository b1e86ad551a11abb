"""What leaves is what Django's own backend would have sent."""

from __future__ import annotations

import email
import email.policy
import random
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.mail import EmailMessage, EmailMultiAlternatives
from django.core.mail.backends import smtp
from django.utils.functional import lazy
from hypothesis import given, reject
from hypothesis import strategies as st

from smtpbackend import mime
from smtpbackend.envelope import Envelope
from smtpbackend_django import EmailBackend, conf
from smtpbackend_django.message import IS_MODERN as MODERN
from smtpbackend_django.message import content_of, envelope_of
from tests.django.conftest import Start, mail
from tests.django.corpus import CASES
from tests.dkim_keys import UNSUBSCRIBE, DkimKeys, signs_how_to_leave
from tests.servers.aiosmtpd_server import AiosmtpdServer, Arrived
from tests.servers.tls import Certificates


@pytest.fixture(scope="module")
def shared_server(ca: Certificates) -> Iterator[AiosmtpdServer]:
    with AiosmtpdServer(ca) as server:
        yield server
        conf.close_mailers()


def arrived(server: AiosmtpdServer, backend: Any, message: EmailMessage) -> Arrived:
    server.clear()
    assert backend.send_messages([message]) == 1
    (one,) = server.arrived
    return one


def described(part: Any) -> Any:
    """Headers in order, the tree, parameters and decoded octets (DESIGN 5.4)."""
    boundary = part.get_boundary()
    headers = []
    for name, value in part.raw_items():
        text = re.sub(r"\r?\n[ \t]", " ", value).strip()
        if name.lower() in {"date", "message-id"}:
            text = ""
        elif name.lower() == "content-type" and boundary:
            text = str(sorted(key_value for key_value in part.get_params() if key_value[0] != "boundary"))
        elif name.lower() == "content-transfer-encoding":
            continue
        headers.append((name, re.sub(r"\s+", " ", text)))
    if part.is_multipart():
        return headers, part.get_content_type(), [described(one) for one in part.get_payload()]
    return headers, part.get_content_type(), part.get_payload(decode=True).replace(b"\r\n", b"\n").rstrip(b"\n")


def parsed(content: bytes) -> Any:
    return email.message_from_bytes(content, policy=email.policy.compat32)


def without_hidden(content: bytes) -> bytes:
    return re.sub(rb"^Bcc:.*\r\n(?:[ \t].*\r\n)*", b"", content, flags=re.MULTILINE)


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_arrives_as_with_djangos_own_backend(name: str, shared_server: AiosmtpdServer) -> None:
    """Same reverse-path, same recipients, same headers in the same order, same tree, same decoded octets."""
    address = {"host": shared_server.host, "port": shared_server.port}
    theirs = arrived(shared_server, smtp.EmailBackend(**address, alias=None), CASES[name]())
    ours = arrived(shared_server, EmailBackend(**address), CASES[name]())

    assert ours.sender == theirs.sender
    assert ours.recipients == theirs.recipients
    assert described(parsed(ours.content)) == described(parsed(without_hidden(theirs.content)))


def djangos_octets(message: EmailMessage) -> bytes:
    """What Django's backend hands to smtplib."""
    random.seed(7)  # the boundaries of the email package
    octets: bytes
    if MODERN:
        octets = message.message(policy=email.policy.SMTP).as_bytes()
    else:
        octets = message.message().as_bytes(linesep="\r\n")
    return octets


def octets_of(content: bytes | mime.Content) -> bytes:
    return b"".join((mime.given(content) if isinstance(content, bytes) else content).chunks())


def alike(octets: bytes) -> bytes:
    """The octets, the boundaries numbered."""
    found = dict.fromkeys(re.findall(rb"={15}\d{19}==", octets))
    for number, boundary in enumerate(found):
        octets = octets.replace(boundary, b"boundary %d" % number)
    return octets


@pytest.mark.parametrize("name", CASES)
def test_the_octets_are_djangos(name: str) -> None:
    """Not only the meaning: with date and Message-ID given, what is handed over is octet for octet the same.

    8-bit content that is not signed is the exception: it may have to be encoded anew, and goes as a tree.
    """

    def dated() -> EmailMessage:
        message = CASES[name]()
        if "date" not in {key.lower() for key in message.extra_headers}:
            date = {"Date": "Mon, 23 Nov 2026 01:02:03 +0100", "Message-ID": "<given@example.com>"}
            message.extra_headers = {**message.extra_headers, **date}
        if name == "attached_message":
            message.attachments[0].content.extra_headers = dict(message.extra_headers)
        return message

    theirs = djangos_octets(dated())
    random.seed(7)
    ours = content_of(dated(), Envelope("from@example.com", "to@example.org"))
    if isinstance(ours, (bytes, mime.Content)):
        assert alike(octets_of(ours)) == alike(octets_of(theirs))
    else:
        assert not theirs.isascii()


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=200)


@given(subject=TEXT, lines=st.lists(TEXT, max_size=6), html=TEXT, filename=TEXT.filter(str.strip), content=st.binary())
def test_any_text_is_as_django_has_it(subject: str, lines: list[str], html: str, filename: str, content: bytes) -> None:
    """Through the core too, as it leaves."""

    def made() -> EmailMessage:
        body = "\n".join(lines)
        message = EmailMultiAlternatives(subject, body, "from@example.com", ["to@example.org"])
        message.extra_headers = {"X-Head": subject}
        message.attach_alternative(html, "text/html")
        message.attach(filename, content, "application/octet-stream")
        return message

    try:
        theirs = djangos_octets(made())
    except Exception:  # there are names that the email package cannot write
        reject()
    random.seed(7)
    ours = content_of(made(), Envelope("from@example.com", "to@example.org"))
    if isinstance(ours, mime.Content):
        leaving = ours
    elif isinstance(ours, bytes):
        leaving = mime.given(ours)
    else:
        leaving = mime.render(ours, date=datetime(2026, 1, 1, tzinfo=UTC), token="token")
    assert described(parsed(b"".join(leaving.chunks()))) == described(parsed(theirs))


NOT_TO_BE_ENCODED_ANEW = {
    "subclass signs": "signed",
    "subclass writes its own octets": "not ours to read",
    "subclass drops the date, latin": "the core would add Date",
    # 8-bit only after flask_mail was imported, which changes how the email package encodes UTF-8 everywhere
    "subclass makes a text of its own": "the core would add From, Date and others",
}


@pytest.mark.parametrize("name", CASES)
def test_arrives_without_8bitmime(name: str, shared_server: AiosmtpdServer) -> None:
    """What Django would send as 8-bit all the same is encoded anew, unless it must not be altered."""
    backend = EmailBackend(host=shared_server.host, port=shared_server.port, ignore_extensions=["8BITMIME", "SMTPUTF8"])
    expected = without_hidden(djangos_octets(CASES[name]()))
    if name in NOT_TO_BE_ENCODED_ANEW and not expected.isascii():
        with pytest.raises(OSError, match=r"8BITMIME|SMTPUTF8"):
            backend.send_messages([CASES[name]()])
        return
    found = arrived(shared_server, backend, CASES[name]())
    assert found.content.isascii()
    assert described(parsed(found.content)) == described(parsed(expected))


# The envelope


def test_from_email_is_the_reverse_path_and_the_from_header_is_seen(
    backend: EmailBackend, server: AiosmtpdServer
) -> None:
    backend.send_messages([mail(headers={"From": "Visible <visible@example.com>"})])
    (one,) = server.arrived
    assert one.sender == "from@example.com"
    assert parsed(one.content)["From"] == "Visible <visible@example.com>"


def test_to_header_does_not_change_who_gets_it(backend: EmailBackend, server: AiosmtpdServer) -> None:
    backend.send_messages([mail("real@example.org", headers={"To": "shown@example.org"})])
    (one,) = server.arrived
    assert one.recipients == ("real@example.org",)
    assert parsed(one.content)["To"] == "shown@example.org"


@pytest.mark.parametrize("name", ["Bcc", "bcc", "Resent-Bcc", "Dcc"])
def test_no_header_that_hides_people_leaves(name: str, backend: EmailBackend, server: AiosmtpdServer) -> None:
    """Django before 6.1 writes them into the message; 6.1 refuses Bcc with a ValueError, and so do we then."""
    message = mail(headers={name: "hidden@example.org", "X-After": "1"})
    message.body = "Grüße"
    try:
        backend.send_messages([message])
    except ValueError:
        assert server.arrived == []
        return
    (one,) = server.arrived
    assert b"hidden" not in one.content
    assert b"X-After: 1" in one.content
    assert one.recipients == ("ann@example.org",)


def test_duplicates_are_named_once(backend: EmailBackend, server: AiosmtpdServer) -> None:
    backend.send_messages([mail("ann@example.org", "Ann <ann@EXAMPLE.org>", cc=["ann@example.org"])])
    assert server.arrived[0].recipients == ("ann@example.org",)


def test_domains_are_encoded_by_idna_2008(backend: EmailBackend, server: AiosmtpdServer) -> None:
    """IDNA 2003, which Django uses, makes of faß.example the domain of somebody else."""
    backend.send_messages([mail("ann@faß.example")])
    assert server.arrived[0].recipients == ("ann@xn--fa-hia.example",)


@pytest.mark.parametrize("field", ["from_email", "to", "bcc"])
def test_utf_8_local_part_goes_to_a_server_with_smtputf8(
    field: str, backend: EmailBackend, server: AiosmtpdServer
) -> None:
    """Django makes an encoded word of it or refuses it; it can be sent."""
    message = mail()
    setattr(message, field, "Jörg <jörg@bücher.example>" if field == "from_email" else ["jörg@bücher.example"])
    assert backend.send_messages([message]) == 1
    (one,) = server.arrived
    assert "jörg@xn--bcher-kva.example" in {one.sender, *one.recipients}
    assert "SMTPUTF8" in one.mail_options
    assert b"?=@" not in one.content
    if field != "bcc":
        assert "jörg@".encode() in one.content


def test_utf_8_local_part_fails_where_no_server_has_smtputf8(aiosmtpd: Start) -> None:
    server = aiosmtpd(smtputf8=False)
    with pytest.raises(OSError, match="SMTPUTF8"):
        EmailBackend(host=server.host, port=server.port).send_messages([mail("jörg@example.org")])
    assert server.arrived == []


def test_a_hook_of_a_subclass_prepares_addresses(server: AiosmtpdServer) -> None:
    """``prep_address`` of Django 6 is the place where a subclass changes them."""
    if not MODERN:
        pytest.skip("Django 5.2 has no prep_address")

    class Lower(EmailBackend):
        def prep_address(self, address: Any, force_ascii: bool = True) -> str:
            prepared: str = super().prep_address(address, force_ascii)
            return prepared.lower()

    Lower(host=server.host, port=server.port).send_messages([mail("ANN@Example.ORG")])
    assert server.arrived[0].recipients == ("ann@example.org",)


# Bad input

BAD = [
    "to@",
    "@example.org",
    "a b@example.org",
    "a@b@example.org",
    "a@example.org, b@example.org",
    "a@exa mple.org",
    "<>",
]
CONTROL = ["\r", "\n", "\r\n", "\0", "\x0b", "\x7f"]


@pytest.mark.parametrize("field", ["from_email", "to", "cc", "bcc"])
@pytest.mark.parametrize(
    "address", [*BAD, *(f"a{control}b@example.org" for control in CONTROL), "a@example.org\nBcc: x@y"]
)
@pytest.mark.parametrize("fail_silently", [False, True])
def test_bad_address_is_a_value_error(field: str, address: str, fail_silently: bool, server: AiosmtpdServer) -> None:
    """Also where failures are silenced, and nothing is sent, nor is a connection opened."""
    backend = EmailBackend(host=server.host, port=server.port, fail_silently=fail_silently)
    message = mail()
    setattr(message, field, address if field == "from_email" else [address])
    with pytest.raises(ValueError):  # noqa: PT011 -- the words are Django's or ours
        backend.send_messages([message])
    assert server.arrived == []
    assert server.connections == 0


@pytest.mark.parametrize("where", ["subject", "header value", "header name", "reply_to", "from header"])
@pytest.mark.parametrize("control", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("fail_silently", [False, True])
def test_line_end_in_a_header_is_a_value_error(
    where: str, control: str, fail_silently: bool, server: AiosmtpdServer
) -> None:
    backend = EmailBackend(host=server.host, port=server.port, fail_silently=fail_silently)
    evil = f"evil{control}X-Injected: yes"
    message = mail()
    if where == "subject":
        message.subject = evil
    elif where == "reply_to":
        message.reply_to = [f"a@example.org{control}X-Injected: yes"]
    else:
        name, value = {
            "header value": ("X-Head", evil),
            "header name": (f"X-Head{control}X-Injected", "yes"),
            "from header": ("From", f"a@example.org{control}X-Injected: yes"),
        }[where]
        message.extra_headers = {name: value}
    with pytest.raises(ValueError):  # noqa: PT011
        backend.send_messages([message])
    assert server.arrived == []


@pytest.mark.parametrize("control", ["\0", "\x0b", "\x7f", "\x1b"])
def test_control_character_in_a_header_is_no_mail(control: str, backend: EmailBackend, server: AiosmtpdServer) -> None:
    """Django sends some of them; a header of ours never has one, raw."""
    try:
        backend.send_messages([mail(headers={"X-Head": f"a{control}b"})])
    except ValueError:
        assert server.arrived == []
    else:
        head = server.arrived[0].content.partition(b"\r\n\r\n")[0]
        assert control.encode() not in head


def test_as_bytes_that_gives_text_is_named() -> None:
    class Wrong:
        def as_bytes(self, linesep: str = "\n") -> str:
            return "text"

    message = mail()
    message.message = lambda **_: Wrong()
    with pytest.raises(ValueError, match="not bytes"):
        content_of(message, envelope_of(message, smtp.EmailBackend(alias=None).prep_address if MODERN else None))


def test_how_to_leave_a_list_is_signed(server: AiosmtpdServer, tmp_path: Path) -> None:
    """By DKIM, by default: the fields are headers of the message (RFC 8058 4)."""
    keys = DkimKeys(tmp_path)
    backend = EmailBackend(host=server.host, port=server.port, dkim=keys.setting("rsa"))
    message = mail(headers=UNSUBSCRIBE)
    message.from_email = "news@example.org"
    assert signs_how_to_leave(arrived(server, backend, message).content, keys)


@pytest.mark.parametrize("options", [{}, {"attachments": [("a.txt", "x", "text/plain")]}, {"headers": {"X": "\u00e9"}}])
@pytest.mark.parametrize("kind", [EmailMessage, type("Own", (EmailMessage,), {})])
def test_a_lazy_address_is_looked_at_once(server: AiosmtpdServer, kind: type[EmailMessage], options: Any) -> None:
    """Envelope and header have the same address, and the message keeps what it was given."""
    looks: Counter[str] = Counter()

    def text(name: str) -> str:
        looks[name] += 1
        return f"{name}{looks[name]}@example.org"

    names = ["from", "to", "cc", "bcc", "reply", "pair"]
    sender, to, cc, bcc, reply, pair = [lazy(text, str)(name) for name in names]
    recipients = [to, ("Eve", pair)]
    message = kind("Hi", "Hello", sender, recipients, bcc=[bcc], cc=[cc], reply_to=[reply], **options)
    looks.clear()  # of Django's own as it is made
    assert EmailBackend(host=server.host, port=server.port).send_messages([message]) == 1
    assert looks == dict.fromkeys(names, 1)
    (arrived,) = server.arrived
    assert arrived.sender == "from1@example.org"
    assert arrived.recipients == tuple(f"{name}1@example.org" for name in ("to", "pair", "cc", "bcc"))
    found = email.message_from_bytes(arrived.content, policy=email.policy.default)
    assert [one.addr_spec for one in found["To"].addresses] == ["to1@example.org", "pair1@example.org"]
    assert (found["From"], found["Cc"]) == ("from1@example.org", "cc1@example.org")
    assert message.to is not None
    assert message.to[0] is to
    assert message.smtp_receipt.ok
