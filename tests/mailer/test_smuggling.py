"""Against real servers: nothing in a message can end it early, so one message stays one message (SMTP smuggling).

Where a client and a server disagree about what ends the content, the rest of it is read as commands. What may stand
there was published by SEC Consult (CVE-2023-51764 to 51766) and is in the tools smtpsmug and SMTP-Smuggling-Tools.
"""

from __future__ import annotations

import email
import email.message
import email.policy
import io
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from smtpbackend import Attachment, Envelope, Message
from smtpbackend.errors import InvalidInput, SMTPError
from smtpbackend.protocol.transaction_steps import MAX_CHUNK
from smtpbackend.testing import CUT, EXTENSIONS, HANG_UP, SILENCE, Fault, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin
from tests.servers.exim import Exim
from tests.servers.mailbox import ArrivedMail
from tests.servers.postfix import Postfix

TO = "bob@example.com"
ENVELOPE = Envelope(SENDER, [TO])

ENDS = (
    "\r\n.\r\n",  # the real one
    "\n.\n",
    "\n.\r",
    "\r.\n",
    "\r.\r",
    "\n.\r\n",
    "\r.\r\n",
    "\r\n.\n",
    "\r\n.\r",
    "\n\n.\n",
    "\n\n.\r\n",
    "\n\r.\r\n",
    "\n\r\n.\r\n",
    "\r\r.\r\r",
    "\r\r\n.\r\n",
    "\r\n.\r\r\n",  # Postfix made one line end of CR CR LF
    "\r\r\n.\r\r\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\n\0.\n",
    "\r\n..\r\n",
    "\n..\n",
    "\r\n.",
    "\r\n. \r\n",
    "\r\n\t.\r\n",
    "\r\n.\x0b\r\n",
)
COMMANDS = (
    "MAIL FROM:<eve@example.org>",
    "RCPT TO:<eve@example.com>",
    "DATA",
    "From: eve@example.org",
    "Subject: smuggled",
    "",
    "You were had.",
    ".",
    "QUIT",
)
SMUGGLED = "\r\n".join(COMMANDS) + "\r\n"
EVERY_COMMAND = (
    "RSET",
    "BDAT 9 LAST",
    "Subject: smuggled",
    *COMMANDS,
    "NOOP",
    "VRFY eve",
    "EHLO eve.example.org",
    "STARTTLS",
    "AUTH PLAIN AGV2ZQBldmU=",
    "BDAT 0 LAST",
    "HELP",
    "QUIT",
)
EACH = [f"Good day{end}{SMUGGLED}and so on\r\n" for end in ENDS]
BODIES = [
    "".join(EACH),
    "".join(ENDS),
    *(f"{end}{SMUGGLED}" for end in ("\n.\n", "\r.\r", ".\r\n")),
    *(f"Good day{end}" for end in ("\n.\n", "\r.\r", "\r\n.\r\n", "\r\n.")),
    SMUGGLED,
    SMUGGLED.replace("\r\n", "\n"),
    SMUGGLED.replace("\r\n", "\r"),
    "\r\n".join(EVERY_COMMAND) + "\r\n",
    "\n".join(EVERY_COMMAND) + "\n",
    ".\r\n" * 9,
    "RSET\r\n" * 99,
    # where a content is sent in pieces, what counts stands on both sides of their borders
    *(f"{'x' * 62}\r\n" * 1023 + "y" * length + f"\r\n.\r\n{SMUGGLED}" for length in (59, 60, 61, 62, 63)),
]


def text_of(octets: bytes | str) -> bytes:
    """Octets with every line end as CRLF, the last line ended."""
    octets = octets.encode() if isinstance(octets, str) else octets
    return re.sub(rb"\r\n|\r|\n", b"\r\n", octets).removesuffix(b"\r\n") + b"\r\n"


def header(number: int) -> dict[str, str]:
    """Nothing that a server would have to add."""
    return {
        "From": SENDER,
        "To": TO,
        "Subject": f"number {number}",
        "Date": "Tue, 01 Sep 2026 12:00:00 +0000",
        "Message-ID": f"<{number}@example.org>",
    }


def octets_of(number: int, body: str) -> bytes:
    return "".join(f"{name}: {value}\n" for name, value in header(number).items()).encode() + b"\n" + body.encode()


# What arrived in the place of a body: each takes the parsed message, and the octets as they lie in the mailbox


def payload(found: EmailMessage, content: bytes) -> bytes:
    return text_of(found.get_payload(decode=True))


def html(found: EmailMessage, content: bytes) -> bytes:
    body = found.get_body(("html",))
    assert body is not None
    return text_of(body.get_payload(decode=True))


def attached(found: EmailMessage, content: bytes) -> bytes:
    [part] = found.iter_attachments()
    octets = part.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return octets if part.get_content_type() == "application/octet-stream" else text_of(octets)


def raw(found: EmailMessage, content: bytes) -> bytes:
    return text_of(content.partition(b"\r\n\r\n")[2])


# What is sent: each takes a number, a body and a folder


def message(number: int, **fields: Any) -> Message:
    return Message(subject=f"number {number}", from_=SENDER, to=[TO], message_id=f"<{number}@example.org>", **fields)


def email_message(number: int, body: str) -> EmailMessage:
    made = EmailMessage()
    for name, value in header(number).items():
        made[name] = value
    made.set_content(body)
    return made


def email_message_with_attachment(number: int, body: str, attachment: Any, **options: Any) -> EmailMessage:
    made = email_message(number, body)
    made.add_attachment(attachment, filename="evil", **options)
    return made


def old_message(number: int, body: str) -> email.message.Message:
    made = email.message.Message()
    for name, value in header(number).items():
        made[name] = value
    made.set_payload(body)
    return made


def file_of(folder: Path, number: int, body: str) -> Path:
    path = folder / str(number)
    path.write_bytes(octets_of(number, body))
    return path


Make = Callable[[int, str, Path], Any]
Arrived = Callable[[EmailMessage, bytes], bytes]

ENTRIES: dict[str, tuple[Make, Arrived]] = {
    "text": (lambda n, body, folder: message(n, text=body), payload),
    "html": (lambda n, body, folder: message(n, text="Good day", html=body), html),
    "alternative": (
        lambda n, body, folder: message(n, text="Good day", alternatives=[(body, "text/x-evil")]),
        lambda found, content: text_of(list(found.iter_parts())[1].get_payload(decode=True)),
    ),
    "attached bytes": (
        lambda n, body, folder: message(n, text=body, attachments=[Attachment(body.encode(), "evil")]),
        attached,
    ),
    "attached str": (
        lambda n, body, folder: message(n, text=body, attachments=[Attachment(body, "evil", "text/x-evil")]),
        attached,
    ),
    "EmailMessage": (lambda n, body, folder: email_message(n, body), payload),
    "EmailMessage, attached bytes": (
        lambda n, body, folder: email_message_with_attachment(
            n, body, body.encode(), maintype="application", subtype="octet-stream"
        ),
        attached,
    ),
    "EmailMessage, attached str": (
        lambda n, body, folder: email_message_with_attachment(n, body, body, subtype="x-evil"),
        attached,
    ),
    "email.message.Message": (lambda n, body, folder: old_message(n, body), payload),
    "parsed": (lambda n, body, folder: email.message_from_bytes(octets_of(n, body)), payload),
    "bytes": (lambda n, body, folder: (octets_of(n, body), ENVELOPE), raw),
    "path": (lambda n, body, folder: (file_of(folder, n, body), ENVELOPE), raw),
    "binary file": (lambda n, body, folder: (io.BytesIO(octets_of(n, body)), ENVELOPE), raw),
    "iterable by single octets": (
        lambda n, body, folder: (iter([bytes([octet]) for octet in octets_of(n, body)]), ENVELOPE),
        raw,
    ),
}


@pytest.fixture(params=["postfix", "exim"])
def server(request: pytest.FixtureRequest) -> Postfix | Exim:
    """Each of the servers, with an empty mailbox."""
    running: Postfix | Exim = request.getfixturevalue(request.param)
    return running


@pytest.fixture(params=["BDAT", "DATA"])
def command(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """How the content travels, and it does: by BDAT behind `LEADER`, which has the probe in its flight."""
    caplog.set_level(logging.DEBUG, "smtpbackend.wire")
    yield request.param
    talked = [record.getMessage() for record in caplog.get_records("call")]
    mails = sum(" > MAIL " in line for line in talked)
    chunks = sum(" > BDAT " in line and line.endswith(" LAST") for line in talked)
    by_data = sum(line.endswith(" > DATA") for line in talked)
    assert sum(line.endswith(" > BDAT 1") for line in talked) == (request.param == "BDAT")
    assert mails > 1
    assert (chunks, by_data) == ((mails - 1, 1) if request.param == "BDAT" else (0, mails))


def at(server: Postfix | Exim, command: str) -> dict[str, Any]:
    mode = "auto" if command == "BDAT" else "never"
    port = server.plain_port
    return {"host": server.host, "port": port, "tls": "none", "chunk_in_flight": mode, "timeout": 20}


LEADER = 1_000_000


def led(command: str, messages: list[Any]) -> list[Any]:
    """One more ahead of them, where they are to go by BDAT: in a list the first has the probe, and goes by DATA."""
    return [(octets_of(LEADER, "Good day\n"), ENVELOPE)] * (command == "BDAT") + messages


def numbered(mails: list[ArrivedMail]) -> dict[int, bytes]:
    """What arrived by the numbers in the subjects: each once, and nothing else."""
    found = {}
    for mail in mails:
        assert mail.return_path == SENDER
        assert mail.delivered_to == TO
        head = mail.content.partition(b"\r\n\r\n")[0]
        [number] = re.findall(rb"(?m)^Subject: number (\d+)\r?$", head)
        found[int(number)] = mail.content
    assert len(found) == len(mails)
    return found


@pytest.mark.parametrize(
    ("entry", "bodies"),
    [(entry, BODIES) for entry in ENTRIES] + [(entry, EACH) for entry in ("text", "bytes")],
    ids=[*ENTRIES, "each alone in a text", "each alone in bytes"],
)
def test_a_body_arrives_as_one_message_with_the_same_text(
    twin: Twin, server: Postfix | Exim, command: str, entry: str, bodies: list[str], tmp_path: Path
) -> None:
    """All of them over one connection: what ended one early would be an answer too many for the next."""
    make, arrived = ENTRIES[entry]
    mailer = twin(at(server, command), max_messages=1000)
    mails = led(command, [make(number, body, tmp_path) for number, body in enumerate(bodies)])
    receipts = mailer.send_many(mails)
    assert [receipt.ok for receipt in receipts] == [True] * len(mails)
    assert mailer.connect() is False
    found = numbered(server.mail(wait_for=len(mails)))
    assert (found.pop(LEADER, None) is not None) is (command == "BDAT")
    assert sorted(found) == list(range(len(bodies)))
    for number, body in enumerate(bodies):
        parsed = email.message_from_bytes(found[number], policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        wanted = body.encode() if "attached bytes" in entry else text_of(body)
        assert arrived(parsed, found[number]) == wanted, ascii(body[:200])


def test_given_octets_arrive_whole_wherever_the_end_stands(twin: Twin, server: Postfix | Exim, command: str) -> None:
    """At the very start, in the header section and behind it: of what is given as octets all is content."""
    evil = [end + SMUGGLED for end in ENDS]
    contents = [
        *(b"X-Evil: good day" + one.encode() + octets_of(0, "Good day\n") for one in evil),
        *(octets_of(0, "Good day\n").replace(b"number", b"number" + one.encode(), 1) for one in evil),
        *(one.encode() + octets_of(0, "Good day\n") for one in evil),
        # but not with a blank first: Postfix takes that for the rest of its own Received field
        *(one.lstrip("\r\n\t").encode() for one in evil),
    ]
    mailer = twin(at(server, command), max_messages=1000)
    to_send = led(command, [(content, ENVELOPE) for content in contents])
    receipts = mailer.send_many(to_send)
    assert [receipt.ok for receipt in receipts] == [True] * len(to_send)
    mails = server.mail(wait_for=len(to_send))
    assert len(mails) == len(to_send)
    assert {mail.delivered_to for mail in mails} == {TO}

    def lines(octets: bytes) -> tuple[bytes, ...]:
        """Without what servers add: the empty line that ends a header section, and fields that are not there."""
        added = (b"date:", b"message-id:", b"from:")
        return tuple(line for line in octets.split(b"\r\n") if line and not line.lower().startswith(added))

    assert sorted(lines(mail.content) for mail in mails) == sorted(lines(text_of(each[0])) for each in to_send)


FIELDS: dict[str, Callable[[str], Any]] = {
    "subject": lambda bad: Message(subject=bad, from_=SENDER, to=[TO], text="x"),
    "header": lambda bad: message(1, text="x", headers={"X-Evil": bad}),
    "name of a header": lambda bad: message(1, text="x", headers={f"X-Evil{bad}": "x"}),
    "file name": lambda bad: message(1, text="x", attachments=[Attachment(b"x", bad)]),
    "content type": lambda bad: message(1, text="x", attachments=[Attachment(b"x", "x", f"text/{bad}")]),
    "display name": lambda bad: Message(subject="x", from_=f"Ann {bad} <{SENDER}>", to=[TO], text="x"),
    "local part": lambda bad: Message(subject="x", from_=SENDER, to=[f'"bob{bad}"@example.com'], text="x"),
    "EmailMessage": lambda bad: with_header(EmailMessage(), bad),
    "email.message.Message": lambda bad: with_header(email.message.Message(), bad),
}


def with_header(made: email.message.Message, value: str) -> email.message.Message:
    """The field as the email package would not have set it itself."""
    for name, good in header(1).items():
        made[name] = good
    made._headers.append(("X-Evil", value))  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_a_header_is_refused_before_anything_is_sent(twin: Twin, scripted: Scripted, field: str, end: str) -> None:
    """What an author writes has no line ends in its fields."""
    server = scripted()
    with pytest.raises(InvalidInput):
        twin(server.url).send(FIELDS[field](f"good day{end}{SMUGGLED}"))
    assert server.connections == 0


# Servers that refuse chunks, in any way and at any place: DESIGN 5.1

OURS = re.compile(
    r"EHLO \[127\.0\.0\.1\]|MAIL FROM:<ann@example\.org>( SIZE=\d+)?|RCPT TO:<bob@example\.com>|DATA"
    r"|BDAT \d+ LAST|BDAT 1|X?RSET|QUIT"
)
"""What may stand where commands are read. The X is that of the probe, read as a command by who does not discard it."""
HOSTILE = "".join(
    f"{line}\r\n"
    for line in (
        "RSET eve",
        "MAIL FROM:<eve@example.org>",
        "RCPT TO:<eve@example.com>",
        "BDAT 5 LAST eve",
        "DATA eve",
        ".",
        "QUIT eve",
    )
).encode()
SIZES = (1, MAX_CHUNK // len(HOSTILE), MAX_CHUNK // len(HOSTILE) + 1)
"""How often a content has that: little, and right below and above what may leave as one chunk."""
REFUSALS: dict[str, Any] = {
    **{f"{code}": f"{code} 5.5.1 what" for code in (421, 450, 451, 452, 500, 501, 502, 503, 504, 530, 550, 552, 554)},
    "250": "250 2.0.0 taken",
    "354": "354 go on",
    "502 and a hang-up": ("502 5.5.1 what", CUT),
    "554 and its last word": ("554 5.7.0 too many errors", HANG_UP, SILENCE),
    "a cut": CUT,
    "silence": SILENCE,
    "no reply": b"BDAT? what is that\r\n",
    "two replies": ("503 5.5.1 order", "503 5.5.1 order"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("discards", [True, False], ids=["discards", "runs"])
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("refused", ["", "RCPT", "MAIL", "RSET", "DATA", "."])
def test_no_octet_of_a_content_is_a_command_to_who_refuses_chunks(
    twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, refused: str, refusal: Any, discards: bool
) -> None:
    """Be it the probe, a later chunk or all of them, with and without another refusal beside it."""
    monkeypatch.setattr("smtpbackend.protocol.transaction_steps.PROBE_PATIENCE", 0.2)
    monkeypatch.setattr("smtpbackend.protocol.transaction_steps.OVERLAP_PATIENCE", 0.2)
    good = "503 5.5.1 MAIL first"
    seen = 0
    for answers in ([refusal], [refusal, good], [good, refusal], [good, "250 ok", refusal, "250 ok"]):
        others = {refused: ["250 ok" if refused != "DATA" else "354 go", "550 5.7.1 no"]} if refused else {}
        play = Play(
            {"BDAT": answers, **others},
            (*EXTENSIONS, "CHUNKING"),
            faults=[] if discards else [Fault.READS_REFUSED_CHUNKS],
        )
        server = scripted(play)
        mailer = twin(server.url, chunk_in_flight="probe", timeout={"final": 0.5, "reply": 0.5})
        mails = [(b"Subject: x\r\n\r\n" + HOSTILE * times, ENVELOPE) for times in (*SIZES, *SIZES[:2])]
        assert len(mailer.send_many(mails)) == len(mails)
        with suppress(SMTPError):  # it may be refused, or in doubt
            mailer.send(*mails[0])
        assert [line for line in server.commands if not OURS.fullmatch(line)] == []
        assert [mail for mail in server.handed_over if "eve" in f"{mail.mail}{mail.recipients}"] == []
        seen += sum(speaker.verbs.count("BDAT") for speaker in server.speakers)
        mailer.close()
    assert seen >= 4
