"""LuaSocket: `smtp.send{from, rcpt, source, user, password, server, port, domain}` and `smtp.message`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from email.message import EmailMessage

import pytest

from smtpbackend import Envelope, Mailer, Message
from tests.lineage.conftest import MakeMailer, Scripted, Start, parsed, url
from tests.servers.tls import Certificates

FULANO, BELTRANO, SICRANO = "fulano@example.com", "beltrano@example.com", "sicrano@example.com"
BODY = b"Subject: hi\r\n\r\nHello\r\n"


@pytest.mark.parametrize(
    "rcpt", [f"<{BELTRANO}>", [f"<{BELTRANO}>"], f"<{BELTRANO}>, <{SICRANO}>", [f"<{BELTRANO}>", f"<{SICRANO}>"]]
)
def test_rcpt_is_a_string_or_a_table(new_mailer: MakeMailer, aiosmtpd: Start, rcpt: str | Sequence[str]) -> None:
    """from, rcpt: in angle brackets or not."""
    server = aiosmtpd()
    new_mailer(url(server)).send(BODY, Envelope(f"<{FULANO}>", rcpt))
    [mail] = server.arrived
    assert mail.sender == FULANO
    assert mail.recipients == ((BELTRANO, SICRANO) if SICRANO in str(rcpt) else (BELTRANO,))


def test_body_and_headers_make_a_message(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """smtp.message{headers, body}: headers in any case, and they route in any case where no envelope is given."""
    server = aiosmtpd()
    headers = {"tO": f"Beltrano <{BELTRANO}>", "cC": SICRANO, "x-mailer": "mine", "SUBJECT": "Grüße"}
    new_mailer(url(server)).send(Message(from_=FULANO, headers=headers, text="Hello"))
    [mail] = server.arrived
    assert mail.recipients == (BELTRANO, SICRANO)
    arrived = parsed(mail.content)
    assert (arrived["X-Mailer"], arrived["Subject"]) == ("mine", "Grüße")
    assert arrived.get_content().strip() == "Hello"


def test_server_port_and_domain(new_mailer: MakeMailer, scripted: Scripted) -> None:
    """server, port, domain"""
    server = scripted()
    new_mailer(host=server.host, port=server.port, client_name="domain.example.com").send(
        BODY, Envelope(FULANO, BELTRANO)
    )
    assert server.commands[0] == "EHLO domain.example.com"
    assert [mail.content for mail in server.handed_over] == [BODY]


def test_the_default_server_is_port_25_of_this_machine() -> None:
    """smtp.SERVER, smtp.PORT"""
    (server,) = Mailer().configuration.servers
    assert (server.host, server.port) == ("localhost", 25)


def test_user_and_password(new_mailer: MakeMailer, aiosmtpd: Start, ca: Certificates) -> None:
    """user, password: under TLS here."""
    server = aiosmtpd(tls="starttls", users={FULANO: "secret"}, auth_required=True)
    mailer = new_mailer(host=server.host, port=server.port, username=FULANO, password="secret", ca_file=str(ca.ca_file))
    mailer.send(BODY, Envelope(FULANO, BELTRANO))
    assert (server.arrived[0].login, server.arrived[0].tls) == (FULANO, True)


def test_only_the_recipient_list_decides_who_gets_a_copy(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """rcpt: headers never route when an envelope is given."""
    server = aiosmtpd()
    message = Message("hi", FULANO, to=BELTRANO, cc=SICRANO, bcc="hidden@example.com", text="Hello")
    new_mailer(url(server)).send(message, Envelope(FULANO, ["else@example.com"]))
    [mail] = server.arrived
    assert mail.recipients == ("else@example.com",)
    assert (parsed(mail.content)["To"], parsed(mail.content)["Cc"]) == (BELTRANO, SICRANO)


def test_a_bcc_header_never_leaves(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """Not as an argument, not as a header in any case, not in an email.message.Message, not beside an envelope."""
    server = aiosmtpd()
    mailer = new_mailer(url(server))
    given = EmailMessage()
    given["From"], given["To"], given["bCC"] = FULANO, BELTRANO, SICRANO
    given.set_content("Hello")
    for message in (
        Message("hi", FULANO, BELTRANO, bcc=SICRANO, text="Hello"),
        Message("hi", FULANO, BELTRANO, headers={"bCC": SICRANO}, text="Hello"),
        given,
    ):
        mailer.send(message)
        mailer.send(message, Envelope(FULANO, BELTRANO))
    assert [mail.recipients for mail in server.arrived] == [(BELTRANO, SICRANO), (BELTRANO,)] * 3
    for mail in server.arrived:
        assert b"\nbcc" not in b"\n" + mail.content.lower()
        assert SICRANO.encode() not in mail.content


def test_content_comes_from_a_source_chunk_by_chunk(
    new_mailer: MakeMailer, aiosmtpd: Start, scripted: Scripted
) -> None:
    """source: a function that is called until it gives nil; it is called once through, whatever becomes of a server."""
    busy, server = scripted({"MAIL": "451 4.3.0 later"}), aiosmtpd()
    chunks = [b"Subject: hi\r\n", b"\r\nHel", b"lo\r", b"\n.\r\n", b"x" * 500 + b"\n", None]

    def source() -> bytes | None:
        return chunks.pop(0)

    new_mailer(busy.url, url(server)).send(iter(source, None), Envelope(FULANO, BELTRANO))
    assert chunks == []
    assert server.arrived[0].content == b"Subject: hi\r\n\r\nHello\r\n.\r\n" + b"x" * 500 + b"\r\n"


def test_a_source_that_fails_sends_nothing(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """source: nil and an error message; here it raises."""
    server = aiosmtpd()

    def source() -> Iterator[bytes]:
        yield BODY
        raise RuntimeError("the source broke")

    mailer = new_mailer(url(server))
    with pytest.raises(RuntimeError, match="the source broke"):
        mailer.send(source(), Envelope(FULANO, BELTRANO))
    mailer.send(BODY, Envelope(FULANO, SICRANO))
    assert [mail.recipients for mail in server.arrived] == [(SICRANO,)]


def test_multipart_has_preamble_parts_and_epilogue_recursively(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """{preamble, {headers, body}, ..., epilogue}, where a body is again such a table."""
    server = aiosmtpd()
    inner = EmailMessage()
    inner.set_content("plain")
    inner.add_alternative("<p>html</p>", subtype="html")
    inner.preamble, inner.epilogue = "inner preamble\n", "inner epilogue\n"
    outer = EmailMessage()
    outer["From"], outer["To"], outer["Subject"] = FULANO, BELTRANO, "nested"
    outer.make_mixed()
    outer.attach(inner)
    outer.add_attachment(b"\0\1\2", maintype="image", subtype="png", filename="image.png")
    outer.preamble, outer.epilogue = "outer preamble\n", "outer epilogue\n"
    new_mailer(url(server)).send(outer)
    arrived = parsed(server.arrived[0].content)
    assert [part.get_content_type() for part in arrived.walk()] == [
        *("multipart/mixed", "multipart/alternative", "text/plain", "text/html", "image/png")
    ]
    first, image = arrived.iter_parts()
    for part, name in ((arrived, "outer"), (first, "inner")):
        assert (part.preamble or "").split() == [name, "preamble"]
        assert (part.epilogue or "").split() == [name, "epilogue"]
    assert image.get_content() == b"\0\1\2"  # type: ignore[attr-defined]


def test_text_html_and_attachments_make_the_tree_that_a_reader_expects(new_mailer: MakeMailer, aiosmtpd: Start) -> None:
    """What the tables of smtp.message were written for needs no tables here."""
    server = aiosmtpd()
    message = Message("tree", FULANO, BELTRANO, text="plain", html="<img src='cid:logo'>")
    message.attach(b"\0logo", "logo.png", content_id="logo")
    message.attach(b"%PDF", "offer.pdf")
    new_mailer(url(server)).send(message)
    assert [part.get_content_type() for part in parsed(server.arrived[0].content).walk()] == [
        *("multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html"),
        *("image/png", "application/pdf"),
    ]
