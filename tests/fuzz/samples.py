"""Envelopes and contents for conversations, made once. The sender of a message tells which it is."""

from __future__ import annotations

import io
import re

from smtpbackend import mime
from smtpbackend.envelope import Envelope, Recipient
from tests.protocol.script import Failing

MESSAGES = 6
SHAPES: tuple[tuple[str | Recipient, ...], ...] = (
    ("bob@example.com",),
    ("bob@example.com", "carl@example.com"),
    ("bob@example.com", "carl@example.net", "dan@example.org"),
    (Recipient("bob@example.com", ("NEVER",), "rfc822;other+bob@example.com"), "eve@example.com"),
    ("bob@example.com", "józef@example.com"),
    ('"a b"@example.com', "bob@xn--bcher-kva.example", "l" * 64 + "@" + "d" * 60 + ".example"),
    tuple(f"r{number}@example.com" for number in range(270)),
)
ENVELOPES = [[Envelope(f"m{number}@example.org", shape) for shape in SHAPES] for number in range(MESSAGES)]

HEAD = b"From: ann@example.org\r\nSubject: hello\r\n\r\n"
BODIES = (
    b"Good day\r\n",
    b".\r\n..\r\n.QUIT\r\nMAIL FROM:<eve@example.org>\r\n",
    b"no end",
    b"a\n.\nb\r.\rc\r\n.\nQUIT\n\r.\r\r\n",
    "schön\r\n".encode(),
    b"x" * 998 + b"\r\n",
    b"x" * 999 + b"\r\n",
    b"line\r\n" * 3000,
    b".line\r\n" * 45_000,
    b"l" * 70 + b"\r\n" + (b"y" * 510 + b"\r\n") * 3000,
    b"x" * (65536 - len(HEAD) - 1) + b"\r\n.\r\n",
    b"z" * 62 + b"\r\n" + (b"z" * 62 + b"\r\n") * 4096,
)
SMALL = 8  # of the bodies, those from here on are large


def canonical(body: bytes) -> bytes:
    """What has to arrive: CR, LF and CRLF are line ends, and the last line has one."""
    lines = re.split(rb"\r\n|\r|\n", HEAD + body)
    return b"\r\n".join(lines if lines[-1] == b"" else [*lines, b""])


ARRIVES = [canonical(body) for body in BODIES]
GIVEN = [HEAD + body for body in BODIES]
CONTENTS = [mime.given(octets if len(octets) < 10_000 else io.BytesIO(octets)) for octets in GIVEN]
for _content in CONTENTS:  # reads each once, so that no example has to
    assert _content.size
    assert _content.longest_line
    assert _content.is_8bit in (True, False)


def failing() -> mime.Content:
    """A content whose source fails amid it."""
    source = Failing(HEAD + b"line\r\n" * 200)
    content = source.content()
    source.fails_at = 600
    return content
