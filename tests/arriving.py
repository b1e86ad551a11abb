"""Seeded messages that are hard to write, and a strict reader: what a face wrote must be read as what was given.

The reader takes an encoded word only where RFC 2047 has one: between blanks, and never in an identifier or a URL.
"""

from __future__ import annotations

import email
import random
import re
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage, Message
from email.utils import collapse_rfc2231_value, getaddresses
from typing import Any

from smtpbackend.content import Content
from smtpbackend.mime import given, render
from tests.test_mime import DATE

SUBJECTS, NASTY = 400, 300
_PLAIN = [
    *("Re:", "[ABC-1234]", "order", "reply", "with", "plain", "ascii", "words", "and", "some", "more", "of", "them"),
    *("until", "the", "line", "is", "full"),
]
_BEYOND = [
    "Genève",
    "für",
    "Größe",
    "d’abonnement à",
    "actualités",
    "日本語のメール",
    "🎉",
    "İstanbul",
    "e\u0301t",
    "a\xa0b",
]
_SIGNS = ["a,b", '"quoted"', "(in brackets)", "back\\slash", "semi;colon:", "x@y.example", "<a>", "it's", "100 %", "?="]
_LONG = ["w" * 90, "ü" * 60, "word-" * 30]
IDENTIFIERS = ("In-Reply-To", "References", "List-Unsubscribe", "List-Archive")


@dataclass
class Given:
    """What is given to a face."""

    subject: str
    names: list[str] = field(default_factory=lambda: ["", ""])
    headers: dict[str, str] = field(default_factory=dict)
    text: str = "x\n"
    html: str | None = None
    files: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def mailboxes(self) -> list[tuple[str, str]]:
        """The author, and the recipients."""
        return [(name, f"box{number}@example.org") for number, name in enumerate(self.names)]


def quoted(mailbox: tuple[str, str]) -> str:
    """A mailbox as one str, its name in quotes."""
    name = re.sub(r'(["\\])', r"\\\1", mailbox[0])
    return f'"{name}" <{mailbox[1]}>' if name else mailbox[1]


def mixed_subjects() -> list[Given]:
    """Subjects of ASCII words and others, long enough to be folded."""
    chance = random.Random(2047)
    made = []
    for _ in range(SUBJECTS):
        words = [chance.choice(_BEYOND if chance.random() < 0.2 else _PLAIN) for _ in range(chance.randint(10, 40))]
        made.append(Given(" ".join(words)))
    return made


def nasty_messages() -> list[Given]:
    """Names with signs, long identifiers, texts with NUL and long lines, binary files."""
    return [_nasty(random.Random(seed)) for seed in range(NASTY)]


def _nasty(chance: random.Random) -> Given:
    def words(least: int, most: int) -> str:
        kinds = chance.choice([(_PLAIN,), (_PLAIN, _SIGNS), (_PLAIN, _BEYOND), (_PLAIN, _SIGNS, _BEYOND, _LONG)])
        return " ".join(chance.choice(chance.choice(kinds)) for _ in range(chance.randint(least, most)))

    def identifier() -> str:
        return f"<{chance.choice('Aa') * chance.randint(1, 120)}.{chance.randrange(10**9)}@mail.example.com>"

    lines = ["", ".", "..", "From me", "\tx ", "x" * 1200, "ü" * 700, "a\0b", "=41", "--", *_BEYOND, *_SIGNS]
    made = Given(words(1, 30), [words(1, 12) for _ in range(chance.randint(2, 5))])
    https, mailto = f"https://example.com/u/{'t' * chance.randint(1, 300)}?a=b", f"mailto:{'u' * 60}@example.com"
    made.headers = {
        "In-Reply-To": identifier(),
        "References": " ".join(identifier() for _ in range(chance.randint(1, 8))),
        "List-Unsubscribe": f"<{https}>, <{mailto}>",
        "List-Archive": f"<https://example.com/{chance.choice(['a', 'übersicht/日本'])}>",
        "X-Campaign": words(1, 20),
    }
    made.text = "\n".join(chance.choices(lines, k=chance.randint(1, 12))) + "\n"
    made.html = f"<p>{words(1, 40)}</p>\n" if chance.random() < 0.5 else None
    for _ in range(chance.randrange(3)):
        made.files.append((f"{words(1, 8)}.bin", chance.randbytes(chance.randint(0, 300))))
    return made


def given_message(what: Given, chance: random.Random) -> EmailMessage:
    """The same as an ``EmailMessage``, its files in any transfer encoding."""
    message = EmailMessage(policy=chance.choice([policy.default, policy.SMTP]))
    message["Subject"] = what.subject
    message["From"], *to = map(quoted, what.mailboxes)
    message["To"] = ", ".join(to)
    for name, value in what.headers.items():
        message[name] = value
    message.set_content(what.text)
    if what.html is not None:
        message.add_alternative(what.html, subtype="html")
    for name, octets in what.files:
        cte = chance.choice(["base64", "binary", "8bit"])
        message.add_attachment(octets, "application", "octet-stream", filename=name, cte=cte)
    return message


def octets_of(content: Any) -> bytes:
    """What leaves for what a face made: bytes, `Content` or a message of the ``email`` package."""
    if isinstance(content, bytes):
        content = given(content)
    elif not isinstance(content, Content):
        content = render(content, date=DATE, token="token")
    return b"".join(content.chunks())


def check(what: Given, octets: bytes) -> None:
    """Raise `AssertionError` where ``octets`` are not read as ``what`` was given."""
    assert b"\0" not in octets
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", octets)
    message = email.message_from_bytes(octets)
    assert read_text(message, "Subject") == what.subject
    found = [one for name in ("From", "To") for one in read_mailboxes(message, name)]
    assert found == what.mailboxes
    for name, value in what.headers.items():
        if name in IDENTIFIERS:
            raw = _unfolded(message, name)
            assert raw.isascii()
            assert "=?" not in raw
            assert raw == value or (not value.isascii() and "%C3%BCbersicht" in raw)
        else:
            assert read_text(message, name) == value
    assert _lines(_part(message, "text/plain")) == _lines(what.text)
    if what.html is not None:
        assert _lines(_part(message, "text/html")) == _lines(what.html)
    files = [part for part in message.walk() if part.get_content_type() == "application/octet-stream"]
    found_names = [_one_line(collapse_rfc2231_value(part.get_filename() or "")) for part in files]
    assert found_names == [name for name, _ in what.files]
    assert [part.get_payload(decode=True) for part in files] == [content for _, content in what.files]


def _unfolded(message: Message, name: str) -> str:
    """The field as it stands on the wire, in one line."""
    (value,) = message.get_all(name)  # type: ignore[misc]
    return _one_line(str(value)).strip(" \t")


def _one_line(value: str) -> str:
    return re.sub(r"\r?\n(?=[ \t])", "", value)


def read_text(message: Message, name: str) -> str:
    """An unstructured field as a strict reader shows it."""
    return strictly_decoded(_unfolded(message, name))


def read_mailboxes(message: Message, name: str) -> list[tuple[str, str]]:
    """The mailboxes of an address field, with their names."""
    return [(strictly_decoded(one), address) for one, address in getaddresses([_unfolded(message, name)])]


def strictly_decoded(text: str) -> str:
    """RFC 2047 6.2: only what stands between blanks is an encoded word, and blanks between two of them are none."""
    word = re.compile(r"=\?utf-8\?([bq])\?([^? ]*)\?=")
    out, gap, was_word = "", "", False
    for token in re.split(r"([ \t]+)", text):
        if not token.strip(" \t"):
            gap = token
            continue
        match = word.fullmatch(token)
        if match is None:
            out += gap + token
        else:
            from base64 import b64decode
            from quopri import decodestring

            octets = b64decode(match[2]) if match[1] == "b" else decodestring(match[2].encode(), header=True)
            out += ("" if was_word else gap) + octets.decode()
        gap, was_word = "", match is not None
    return out


def _part(message: Message, kind: str) -> str:
    part = next(one for one in message.walk() if one.get_content_type() == kind)
    octets: Any = part.get_payload(decode=True)
    return str(octets.decode("utf-8"))


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").rstrip("\n").split("\n")
