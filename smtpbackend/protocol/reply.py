"""Replies off the wire (RFC 5321 4.2): bytes in, `Reply` values out. Everything read is bounded here.

Replies are matched with commands by counting, so what is lenient here is so within a line only. The rule:

- Lines end with LF and nowhere else.
- A line of white space is of no reply: it neither begins one nor ends one.
- Each other line begins with three digits that no fourth follows. Where "-" stands behind them the reply goes on in the
  next line, with the same digits; else this is its last line, whatever stands there (a tab; "250OK").

So one line is never two replies, two lines are one reply only where "-" says so, and all else is no reply: an error,
which ends the connection.
"""

from __future__ import annotations

import codecs
import re
from collections import deque

from smtpbackend.errors import ProtocolViolation
from smtpbackend.outcome import Reply

__all__ = ["MAX_LINE", "MAX_LINES", "MAX_OCTETS", "ReplyReader"]

MAX_LINE = 8192  # RFC 5321 4.5.3.1.5 says 512 with CRLF; servers go beyond it, smtplib's _MAXLINE is the precedent
MAX_LINES = 256  # an EHLO reply has some 30; Postfix's client stops at line_length_limit instead
MAX_OCTETS = 65536  # of one whole reply: 30 lines of the RFC's length fit four times over

_LINE = re.compile(rb"([2-5][0-9][0-9])(?![0-9])([ \t-]?)(.*)", re.DOTALL)
_ENHANCED = re.compile(r" *#?([245])\.([0-9]{1,3})\.([0-9]{1,3})(?: +|$)")  # RFC 2034 4, RFC 3463 2; "#": IronPort


_known: dict[bytes, Reply] = {}
"""Replies of one line, by that line without its LF: most replies of a server were given before."""
MAX_KNOWN = 256
MAX_KNOWN_LINE = 200
MAX_AT_ONCE = 128  # lines that are looked up together: what does not stop talking is not taken apart


class ReplyReader:
    """Fed with what was read, gives the replies that are complete.

    Lines may end in a bare LF: some servers do that, and nothing of ours depends on the difference. Blank lines count
    for the limits of the reply that they stand in or before.
    """

    def __init__(self) -> None:
        self.ready: deque[Reply] = deque()
        """The next ones, where they were understood already."""
        self.has_skipped = False
        """Whether there were blank lines; who reads says since when."""
        self._buffer = b""  # what comes behind them
        self._at = 0  # what is before was understood
        self._code = 0
        self._lines: list[bytes] = []
        self._blank = 0  # lines without anything
        self._octets = 0  # of what is no whole reply yet

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here that is a reply or could become one, not even half a line: blank lines cannot."""
        if self.ready or self._lines:
            return False
        return self._at == len(self._buffer) or self._buffer[self._at :].isspace()

    @property
    def has_unread(self) -> bool:
        """Whether any octet waits here, be it of a blank line: none may ahead of a TLS handshake (RFC 3207 4.2)."""
        return bool(self.ready or self._octets) or self._at < len(self._buffer)

    @property
    def says_goodbye(self) -> bool:
        """Whether what waits begins as a 421 does, which may come unasked (RFC 5321 3.8)."""
        if self.ready:
            return self.ready[0].code == 421
        beginning = self._buffer[self._at :].lstrip()[:3]
        return not self._lines and b"421".startswith(beginning)

    def feed(self, data: bytes) -> None:
        """Take bytes as they came."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0
        if not self._octets:
            self._recognise()

    def clear(self) -> None:
        """Forget everything, as RFC 3207 4.2 asks after STARTTLS."""
        self.__init__()  # type: ignore[misc]

    def next(self) -> Reply | None:
        """The next complete reply, or None. Raises `ProtocolViolation` for what is no reply."""
        if self.ready:
            return self.ready.popleft()
        if self._at == len(self._buffer):
            return None
        reply = self._parse()
        if reply is not None and self._at < len(self._buffer):
            self._recognise()
        return reply

    def _recognise(self) -> None:
        """Take what was said before, up to the first line that was not: all at once, without a look at each."""
        *lines, rest = self._buffer[self._at :].split(b"\n", MAX_AT_ONCE)
        found = [*map(_known.get, lines)]
        known = len(found) if all(found) else next(place for place, reply in enumerate(found) if reply is None)
        if known:
            self.ready.extend(found[:known])  # type: ignore[arg-type]
            self._buffer = b"\n".join((*lines[known:], rest)) if known < len(found) else rest
            self._at = 0

    def _parse(self) -> Reply | None:
        while True:
            at = self._at
            end = self._buffer.find(b"\n", at, at + MAX_LINE)
            if end < 0:
                if len(self._buffer) - at >= MAX_LINE:
                    raise ProtocolViolation(f"a reply line is longer than {MAX_LINE} octets")
                return None
            line = self._buffer[at : end + 1]
            self._at = end + 1
            bare = line.removesuffix(b"\n").removesuffix(b"\r")
            self._octets += len(line)
            match = _LINE.fullmatch(bare)
            if match is not None:
                code, separator, text = match.groups()
                number = int(code)
                # a greeting that was begun is taken back ("220-" and "521"): the last line is the server's word
                if self._lines and number != self._code and not (self._code == 220 and number >= 400):
                    raise ProtocolViolation(f"a reply began with code {self._code} and went on with {number}")
                self._code = number
                self._lines.append(text)
                if separator != b"-":
                    lines, self._lines, self._blank, self._octets = self._lines, [], 0, 0
                    reply = _reply(number, lines)
                    if len(lines) == 1 and len(line) <= MAX_KNOWN_LINE:
                        if len(_known) >= MAX_KNOWN:
                            _known.clear()
                        _known[line[:-1]] = reply
                    return reply
            elif line.isspace():
                self._blank += 1
                self.has_skipped = True
            else:
                raise ProtocolViolation(f"{_shown(bare[:80])!r} is not an SMTP reply")
            if len(self._lines) + self._blank >= MAX_LINES or self._octets > MAX_OCTETS:
                raise ProtocolViolation(f"a reply is longer than {MAX_LINES} lines or {MAX_OCTETS} octets")


def _reply(code: int, lines: list[bytes]) -> Reply:
    texts = [_shown(line) for line in lines]
    enhanced = None
    if code >= 400 or code < 300:
        for number, text in enumerate(texts):
            match = _ENHANCED.match(text)
            if match is None or int(match[1]) != code // 100:
                continue
            enhanced = enhanced or (int(match[1]), int(match[2]), int(match[3]))
            texts[number] = text[match.end() :]
    return Reply(code, enhanced, tuple(texts))


def _shown(line: bytes) -> str:
    """A line as text that is safe to log: a tab is a blank, and there are no other control characters.

    What is not UTF-8 is read as the Windows code page that servers of that kind write, each octet for itself: what is
    UTF-8 beside it stays readable, where a text was cut amid a character.
    """
    text = line.decode("utf-8", "smtpbackend.cp1252")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.replace("\t", " "))


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "backslashreplace"), error.end


codecs.register_error("smtpbackend.cp1252", _as_cp1252)
