"""Replies (RFC 5321 4.2): bytes in, `Reply` values out. Everything that is read is bounded here.

Replies are matched with commands by counting, so the parser is lenient within a line only:

- Lines end with LF and nowhere else.
- A blank line belongs to no reply.
- Every other line begins with exactly three digits. If "-" follows, the reply goes on in the next line with the same
  digits; anything else there (a tab; "250OK") makes it the last line.
- Anything else is an error, which ends the connection.
"""

from __future__ import annotations

import codecs
import re
from collections import deque

from smtpbackend.errors import ProtocolViolation
from smtpbackend.outcome import Reply

__all__ = ["MAX_LINE", "MAX_LINES", "MAX_OCTETS", "ReplyReader"]

MAX_LINE = 8192  # RFC 5321 4.5.3.1.5 says 512 with CRLF; servers exceed it, and smtplib's _MAXLINE is 8192
MAX_LINES = 256  # an EHLO reply has some 30
MAX_OCTETS = 65536  # of one whole reply: four times 30 lines of 512 octets

_LINE = re.compile(rb"([2-5][0-9][0-9])(?![0-9])([ \t-]?)(.*)", re.DOTALL)
_ENHANCED = re.compile(r" *#?([245])\.([0-9]{1,3})\.([0-9]{1,3})(?: +|$)")  # RFC 2034 4, RFC 3463 2; "#": IronPort


_known: dict[bytes, Reply] = {}
"""Replies of one line, by that line without its LF: a server repeats most of its replies."""
MAX_KNOWN = 256
MAX_KNOWN_LINE = 200
MAX_AT_ONCE = 128  # lines that are looked up together: a flood is not split into lines


class ReplyReader:
    """Takes what was read and gives the replies that are complete.

    Lines may end in a bare LF, as those of some servers do. Blank lines count for the limits of the next reply.
    """

    def __init__(self) -> None:
        self.ready: deque[Reply] = deque()
        """The next replies, as far as they were recognised."""
        self.has_skipped = False
        """Whether there were blank lines since it was last set to False."""
        self._buffer = b""  # what follows them
        self._at = 0  # what stands before was parsed
        self._code = 0
        self._lines: list[bytes] = []
        self._blank = 0  # lines
        self._octets = 0  # of an incomplete reply

    @property
    def is_empty(self) -> bool:
        """Whether it holds no part of a reply, not even half a line."""
        if self.ready or self._lines:
            return False
        return self._at == len(self._buffer) or self._buffer[self._at :].isspace()

    @property
    def has_unread(self) -> bool:
        """Whether it holds any octet, also of a blank line: before a TLS handshake none may be there (RFC 3207 4.2)."""
        return bool(self.ready or self._octets) or self._at < len(self._buffer)

    @property
    def says_goodbye(self) -> bool:
        """Whether what it holds can be the beginning of 421, which may come unasked (RFC 5321 3.8)."""
        if self.ready:
            return self.ready[0].code == 421
        beginning = self._buffer[self._at :].lstrip()[:3]
        return not self._lines and b"421".startswith(beginning)

    def feed(self, data: bytes) -> None:
        """Take bytes in any pieces."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0
        if not self._octets:
            self._recognise()

    def clear(self) -> None:
        """Forget everything, as RFC 3207 4.2 asks after STARTTLS."""
        self.__init__()  # type: ignore[misc]

    def next(self) -> Reply | None:
        """The next complete reply, or None. Raises `ProtocolViolation` for anything else."""
        if self.ready:
            return self.ready.popleft()
        if self._at == len(self._buffer):
            return None
        reply = self._parse()
        if reply is not None and self._at < len(self._buffer):
            self._recognise()
        return reply

    def _recognise(self) -> None:
        """Take the lines that are known replies, up to the first that is not, in one pass."""
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
                # a greeting may turn into a refusal ("220-", then "521"): the last line counts
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

    Octets that are not UTF-8 are read one by one as Windows-1252, which Windows servers send; UTF-8 beside them stays
    readable, for example where the text was cut inside a character.
    """
    text = line.decode("utf-8", "smtpbackend.cp1252")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.replace("\t", " "))


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "backslashreplace"), error.end


codecs.register_error("smtpbackend.cp1252", _as_cp1252)
