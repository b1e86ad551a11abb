"""smtplib: what its users call, ask and catch."""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from smtpbackend import Envelope, Message, Server
from smtpbackend.testing import CUT, Play, ScriptedServer
from tests.lineage.conftest import MakeMailer, Scripted, Start, parsed, url
from tests.protocol.script import Script, ehlo_reply, opened
from tests.servers.ports import free_ports
from tests.servers.tls import Certificates, Kind

ANN, BOB, JOE = "ann@example.org", "bob@example.com", "joe@example.net"


def note(**fields: object) -> Message:
    return Message(**{"subject": "Note", "from_": ANN, "to": [BOB], "text": "Hello", **fields})  # type: ignore[arg-type]


def test_the_envelope_is_independent_of_the_headers(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """sendmail(from_addr, to_addrs, msg): the octets are those given."""
    server = aiosmtpd()
    content = b"From: somebody@example.com\r\nTo: everybody@example.com\r\n\r\nHello\r\n"
    new_mailer(url(server)).send(content, Envelope(ANN, [BOB, JOE]))
    [mail] = server.arrived
    assert (mail.sender, mail.recipients, mail.content) == (ANN, (BOB, JOE), content)


def test_the_dialogue_can_be_followed_and_shows_no_secret(
    new_mailer: MakeMailer, aiosmtpd: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """set_debuglevel(1): here DEBUG on logger smtpbackend.wire."""
    server = aiosmtpd(users={"ann": "s3cret"}, auth_in_clear=True)
    with caplog.at_level(logging.DEBUG, "smtpbackend.wire"):
        new_mailer(url(server), username="ann", password="s3cret").send(note(text="very private"))
    said = "\n".join(record.getMessage() for record in caplog.records)
    for part in ("EHLO ", "AUTH PLAIN ***", f"MAIL FROM:<{ANN}>", f"RCPT TO:<{BOB}>", "DATA", " octets>", "250"):
        assert part in said
    for secret in ("s3cret", "AGFubgBzM2NyZXQ=", "very private"):  # \0ann\0s3cret
        assert secret not in said


def test_what_is_offered_can_be_asked_after_ehlo() -> None:
    """ehlo(), has_extn(), esmtp_features: here a mapping, keywords in upper case."""
    session = opened("SIZE 1000", "8bitmime", "AUTH PLAIN LOGIN")
    assert "8BITMIME" in session.capabilities
    assert "SMTPUTF8" not in session.capabilities
    assert session.capabilities["SIZE"] == "1000"
    assert session.capabilities.auth_mechanisms == ("PLAIN", "LOGIN")


def test_ehlo_is_said_again_after_starttls() -> None:
    """starttls(): and what was learnt before is forgotten."""
    session = opened()
    script = Script(
        *(b"220 welcome\r\n", ehlo_reply("STARTTLS", "VRFY")),
        *(b"220 go on\r\n", ehlo_reply("SIZE 1000")),
    )
    script.run(session.open("required"))
    assert script.sent == [b"EHLO client.example.org\r\n", b"STARTTLS\r\n", b"EHLO client.example.org\r\n"]
    assert list(session.capabilities) == ["SIZE"]
    assert session.secure


def test_login(new_mailer: MakeMailer, aiosmtpd: Start, ca: Certificates) -> None:
    """login(user, password)"""
    server = aiosmtpd(tls="implicit", users={"ann": "secret"}, auth_required=True)
    mailer = new_mailer(f"smtps://ann:secret@{server.host}:{server.port}", ca_file=str(ca.ca_file))
    mailer.send(note())
    assert server.arrived[0].login == "ann"


def test_refusals_come_for_each_recipient(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """sendmail returns {address: (code, text)} where somebody was accepted, and raises where nobody was."""
    server = aiosmtpd(refused={BOB: "550 5.1.1 unknown", JOE: "450 4.2.1 later"})
    mailer = new_mailer(url(server))
    assert {address: code for address, code, _ in mailer.send(note(to=[ANN, BOB])).unacceptable()} == {BOB: 550}
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        mailer.send(note(to=[BOB, JOE]))
    assert refused.value.recipients == {BOB: (550, b"5.1.1 unknown"), JOE: (450, b"4.2.1 later")}


@pytest.mark.parametrize(
    "answer",
    [
        "250 2.1.5 Bob Smith <bob@example.com>",
        "251 User not local; will forward to <bob@example.net>",
        "252 2.1.5 Cannot VRFY user, but will accept message",
        "550 5.1.1 No such user here",
    ],
)
def test_answers_to_vrfy_are_told_apart(new_mailer: MakeMailer, scripted: Scripted, answer: str) -> None:
    """vrfy(address): a reply, never an error."""
    server = scripted({"VRFY bob": answer})
    reply = new_mailer(server.url).verify("bob")
    assert str(reply) == answer
    assert reply.is_positive == answer.startswith("2")


def test_noop_and_rset() -> None:
    """noop(), rset(): on a Session; a Mailer needs neither."""
    session = opened()
    script = Script(b"250 2.0.0 OK\r\n", b"250 2.0.0 Flushed\r\n")
    assert script.run(session.noop()).code == 250
    script.run(session.reset())
    assert script.sent == [b"NOOP\r\n", b"RSET\r\n"]


def test_help_and_expn(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """help(), expn(list): the reply, its lines kept apart."""
    server = scripted({"HELP": "214-Commands:\n214 HELO EHLO", "EXPN staff": f"250-{ANN}\n250 {BOB}"})
    mailer = new_mailer(server.url)
    assert mailer.ask("help").lines == ("Commands:", "HELO EHLO")
    assert mailer.ask("expand", "staff").lines == (ANN, BOB)
    assert mailer.ask("expand", "nobody").code == 500


def test_the_size_is_announced(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """MAIL FROM:<...> SIZE=n, where SIZE is offered: the octets as they are counted on the wire."""
    server = aiosmtpd()
    content = b"Subject: x\r\n\r\n.one\r\n..two\r\n"
    new_mailer(url(server)).send(content, Envelope(ANN, [BOB]))
    assert f"SIZE={len(content)}" in server.arrived[0].mail_options
    assert server.arrived[0].content == content


def test_lmtp_settles_each_recipient_by_its_own_reply(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """LMTP(host, port): LHLO; and where smtplib reads one reply to the content, here everybody's is read."""
    server = scripted({".": ("250 2.0.0 saved", "550 5.2.1 closed"), "EHLO": "500 no", "HELO": "500 no"})
    receipt = new_mailer(f"lmtp://{server.name}?tls=none").send(note(to=[BOB, JOE]))
    assert [outcome.address.addr_spec for outcome in receipt.accepted] == [BOB]
    assert [outcome.address.addr_spec for outcome in receipt.rejected] == [JOE]
    assert server.commands[0].startswith("LHLO ")


def test_lmtp_over_a_unix_socket(new_mailer: MakeMailer, tmp_path: Path) -> None:
    """LMTP("/run/lmtp.sock")"""
    with ScriptedServer(Play(extensions=()), path=str(tmp_path / "lmtp.sock"), scheme="lmtp") as server:
        new_mailer(server.url).send(note())
        assert server.commands[0].startswith("LHLO ")
        assert len(server.handed_over) == 1


NOT_OFFERED = {"EHLO": "250-mx.example.com\n250 8BITMIME"}


@pytest.mark.parametrize(
    ("answers", "caught"),
    [
        ({"": "554 5.7.1 go away"}, smtplib.SMTPConnectError),
        ({"": CUT}, smtplib.SMTPServerDisconnected),
        ({"EHLO": "550 no", "HELO": "550 no"}, smtplib.SMTPHeloError),
        ({"EHLO": "250-mx.example.com\n250 AUTH PLAIN", "AUTH": "535 no"}, smtplib.SMTPAuthenticationError),
        ({"MAIL": "550 5.7.1 not you"}, smtplib.SMTPSenderRefused),
        ({"RCPT": "550 5.1.1 unknown"}, smtplib.SMTPRecipientsRefused),
        ({"DATA": "554 5.5.1 no"}, smtplib.SMTPDataError),
        ({".": "554 5.7.1 spam"}, smtplib.SMTPDataError),
        ({"MAIL": CUT}, smtplib.SMTPServerDisconnected),
    ],
)
def test_the_same_except_clauses_catch(
    new_mailer: MakeMailer, scripted: Scripted, answers: dict[str, Any], caught: type[smtplib.SMTPException]
) -> None:
    server = scripted(answers)
    login = {"username": "ann", "password": "secret"} if "AUTH" in answers else {}
    with pytest.raises(caught) as raised:
        new_mailer(server.url, **login).send(note())
    assert isinstance(raised.value, smtplib.SMTPException)
    reply = next((value for name, value in answers.items() if name != "EHLO"), None)
    if isinstance(raised.value, smtplib.SMTPResponseException) and isinstance(reply, str):
        assert raised.value.smtp_code == int(reply[:3])
        assert isinstance(raised.value.smtp_error, bytes)


OFFERS_TLS = {"EHLO": "250-mx.example.com\n250 STARTTLS"}
LOGIN = {"EHLO": "250-mx.example.com\n250 AUTH PLAIN"}


class Site(NamedTuple):
    """A server, and what a client is told of it; of ``to`` "jürgen" needs SMTPUTF8."""

    answers: Mapping[str, Any] = MappingProxyType({})
    tls: str = "none"
    certificate: Kind = "server"
    implicit_tls: bool = False
    login: bool = False
    to: tuple[str, ...] = (BOB,)
    host: str = "localhost"


SITES = {
    "greeting": Site({"": "554-5.7.1 go\n554 5.7.1 away"}),
    "helo": Site({"EHLO": "550 5.5.1 no", "HELO": "550 5.5.1 no"}),
    "login": Site({**LOGIN, "AUTH": "535 5.7.8 wrong"}, login=True),
    "no login": Site(login=True),
    "sender": Site({"MAIL": "550 5.1.7 not you"}),
    "recipients": Site({"RCPT": ["550-5.1.1 no such\n550 5.1.1 mailbox", "450 4.2.1 later"]}, to=(BOB, JOE)),
    "no enhanced status": Site({"RCPT": "550 unknown"}),
    "data": Site({"DATA": "554 5.5.1 no"}),
    "content": Site({".": "554 5.7.1 spam"}),
    "cut": Site({"MAIL": CUT}),
    "SMTPUTF8": Site(to=("jürgen@example.com",)),
    "no STARTTLS": Site(tls="required"),
    "STARTTLS refused": Site({**OFFERS_TLS, "STARTTLS": "454 4.7.0 not now"}, tls="required"),
    "other host": Site(OFFERS_TLS, "required", "other_host"),
    "expired": Site(tls="implicit", certificate="expired", implicit_tls=True),
    "no TLS at all": Site(tls="implicit"),
    "nobody listens": Site(host="closed"),
    "no such host": Site(host="nothing.invalid"),
}


def raised_by_smtplib(site: Site, host: str, port: int, context: ssl.SSLContext) -> OSError:
    """What smtplib raises for a site."""
    try:
        if site.tls == "implicit":
            client: smtplib.SMTP = smtplib.SMTP_SSL(host, port, timeout=20, context=context)
        else:
            client = smtplib.SMTP(host, port, timeout=20)
        with client:
            client.ehlo_or_helo_if_needed()
            if site.tls == "required":
                client.starttls(context=context)
            if site.login:
                client.login("ann", "secret")
            options = [] if all(map(str.isascii, site.to)) else ["SMTPUTF8"]
            client.sendmail(ANN, site.to, b"Subject: x\r\n\r\nHello\r\n", options)
    except OSError as error:
        return error
    raise AssertionError("smtplib raised nothing")


@pytest.mark.parametrize("site", SITES.values(), ids=list(SITES))
def test_what_smtplib_raises_is_caught_with_what_it_carries(
    new_mailer: MakeMailer, ca: Certificates, site: Site
) -> None:
    """smtplib and a mailer meet the same server: ours is also of the class of its error, and says the same."""
    play = Play(site.answers, extensions=(), implicit_tls=site.implicit_tls)
    with ScriptedServer(play, context=ca.server_context(site.certificate)) as server:
        host, port = (site.host, server.port) if site.host != "closed" else ("localhost", free_ports(1)[0])
        theirs = raised_by_smtplib(site, host, port, ssl.create_default_context(cafile=ca.ca_file))
        login = {"username": "ann", "password": "secret"} if site.login else {}
        mailer = new_mailer(Server(host, port, tls=site.tls, ca_file=str(ca.ca_file), **login))
        with pytest.raises(type(theirs)) as raised:
            mailer.send(note(to=list(site.to)))
    assert isinstance(raised.value, smtplib.SMTPException)
    if isinstance(theirs, ConnectionRefusedError):
        assert raised.value.errno == theirs.errno
    for name in ("smtp_code", "smtp_error", "sender", "recipients", "verify_code", "verify_message"):
        if hasattr(theirs, name):
            assert getattr(raised.value, name) == getattr(theirs, name)


def test_bcc_of_an_email_message_is_not_sent(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """send_message(msg)"""
    from email.message import EmailMessage

    server = aiosmtpd()
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"], message["Subject"] = ANN, BOB, JOE, "Grüße"
    message.set_content("Hello")
    new_mailer(url(server)).send(message)
    [mail] = server.arrived
    assert mail.recipients == (BOB, JOE)
    assert parsed(mail.content)["Bcc"] is None
    assert message["Bcc"] == JOE
