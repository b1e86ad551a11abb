"""Comet: the walk through one SMTP conversation, step by step."""

from __future__ import annotations

from smtpbackend import Attachment, Envelope, Message
from tests.lineage.conftest import MakeMailer, Scripted, Start, parsed, url

SENDER, ONE, TWO, THREE = "smith@example.org", "jones@example.com", "green@example.com", "brown@example.com"


def test_the_walk(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """CONNECT, EHLO or HELO, MAIL FROM, several RCPT TO, DATA, the content, a dot, QUIT."""
    server = scripted()
    mailer = new_mailer(server.url, client_name="client.example.org")
    mailer.send(b"Subject: hi\r\n\r\nBlah blah blah...\r\n", Envelope(SENDER, [ONE, TWO, THREE]))
    mailer.close()
    assert server.commands == [
        "EHLO client.example.org",
        f"MAIL FROM:<{SENDER}>",
        f"RCPT TO:<{ONE}>",
        f"RCPT TO:<{TWO}>",
        f"RCPT TO:<{THREE}>",
        "DATA",
        "QUIT",
    ]
    assert server.handed_over[0].content == b"Subject: hi\r\n\r\nBlah blah blah...\r\n"


def test_a_server_that_knows_only_helo(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """EHLO refused with 5xx: HELO, and no extension is assumed: no parameters, one command at a time, 7-bit."""
    server = scripted({"EHLO": "502 5.5.1 not implemented"})
    message = Message("Grüße", SENDER, [ONE, TWO], text="Zürich")
    assert new_mailer(server.url, client_name="client.example.org").send(message).ok
    assert server.commands[:2] == ["EHLO client.example.org", "HELO client.example.org"]
    assert server.commands[2:] == [f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{ONE}>", f"RCPT TO:<{TWO}>", "DATA"]
    [mail] = server.handed_over
    assert mail.content.isascii()
    assert parsed(mail.content).get_content().strip() == "Zürich"


def test_headers_text_and_a_vcard(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """An attachment is what was given, under its name and type."""
    server = aiosmtpd()
    card = b"BEGIN:VCARD\r\nVERSION:4.0\r\nFN:Alice Smith\r\nEND:VCARD\r\n"
    message = Message(
        "My card",
        f"Alice Smith <{SENDER}>",
        ONE,
        headers={"X-Priority": "1"},
        text="It is attached.",
        attachments=[Attachment(card, "alice.vcf", "text/vcard")],
    )
    new_mailer(url(server)).send(message)
    arrived = parsed(server.arrived[0].content)
    assert (arrived["Subject"], arrived["X-Priority"]) == ("My card", "1")
    assert arrived["From"].addresses[0].display_name == "Alice Smith"
    text, attached = arrived.iter_parts()
    assert text.get_content().strip() == "It is attached."  # type: ignore[attr-defined]
    assert (attached.get_content_type(), attached.get_filename()) == ("text/vcard", "alice.vcf")
    assert attached.get_payload(decode=True) == card


def test_a_line_with_a_single_dot(new_mailer: MakeMailer, scripted: Scripted, aiosmtpd: Start) -> None:
    """It is doubled on the wire, and the reader sees it as it was."""
    stuffing, server = scripted(), aiosmtpd()
    text = ".first\nbefore\n.\nafter\n..two\n"
    for address in (stuffing.url, url(server)):
        new_mailer(address).send(Message("dots", SENDER, ONE, text=text))
    assert b"\r\n..first\r\nbefore\r\n..\r\nafter\r\n...two\r\n" in stuffing.received
    assert parsed(server.arrived[0].content).get_content().replace("\r\n", "\n") == text
