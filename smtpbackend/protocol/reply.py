"""Replies off the wire (RFC 5321 4.2): bytes in, `Reply` values out. Everything read is bounded here."""

from __future__ import annotations

import re
from collections import deque

from smtpbackend.errors import ProtocolViolation
from smtpbackend.outcome import Reply

__all__ = ["MAX_LINE", "MAX_LINES", "MAX_OCTETS", "ReplyReader"]

MAX_LINE = 8192  # RFC 5321 4.5.3.1.5 says 512 with CRLF; servers go beyond it, smtplib's _MAXLINE is the precedent
MAX_LINES = 256  # an EHLO reply has some 30; Postfix's client stops at line_length_limit instead
MAX_OCTETS = 65536  # of one whole reply: 30 lines of the RFC's length fit four times over

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?: +|$)")  # RFC 2034 4, RFC 3463 2


_known: dict[bytes, Reply] = {}
"""Replies of one line, by that line without its LF: most replies of a server were given before."""
MAX_KNOWN = 256
MAX_KNOWN_LINE = 200
MAX_AT_ONCE = 128  # lines that are looked up together: what does not stop talking is not taken apart


class ReplyReader:
    """Fed with what was read, gives the replies that are complete.

    Lines may end in a bare LF: some servers do that, and nothing of ours depends on the difference.
    """

    def __init__(self) -> None:
        self.ready: deque[Reply] = deque()
        """The next ones, where they were understood already."""
        self._buffer = b""  # what comes behind them
        self._at = 0  # what is before was understood
        self._code = 0
        self._lines: list[bytes] = []
        self._octets = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits here, not even half a line."""
        return not self.ready and self._at == len(self._buffer) and not self._lines

    @property
    def says_goodbye(self) -> bool:
        """Whether what waits begins as a 421 does, which may come unasked (RFC 5321 3.8)."""
        if self.ready:
            return self.ready[0].code == 421
        beginning = self._buffer[self._at : self._at + 3]
        return not self._lines and b"421".startswith(beginning)

    def feed(self, data: bytes) -> None:
        """Take bytes as they came."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0
        if not self._lines:
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
            match = _LINE.fullmatch(bare)
            if match is None:
                raise ProtocolViolation(f"{_shown(bare[:80])!r} is not an SMTP reply")
            code, separator, text = match.groups()
            number = int(code)
            # a greeting that was begun is taken back ("220-" and "521"): the last line is the server's word
            if self._lines and number != self._code and not (self._code == 220 and number >= 400):
                raise ProtocolViolation(f"a reply began with code {self._code} and went on with {number}")
            self._code = number
            self._lines.append(text or b"")
            self._octets += len(line)
            if separator != b"-":
                lines, self._lines, self._octets = self._lines, [], 0
                reply = _reply(number, lines)
                if len(lines) == 1 and len(line) <= MAX_KNOWN_LINE:
                    if len(_known) >= MAX_KNOWN:
                        _known.clear()
                    _known[line[:-1]] = reply
                return reply
            if len(self._lines) >= MAX_LINES or self._octets > MAX_OCTETS:
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
    """A line as text that is safe to log: no control characters, nothing undecodable."""
    text = line.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
