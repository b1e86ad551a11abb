"""`Content`: the octets of one message that the session sends, made of pieces in memory and of sources.

Lines end in CRLF, dots are not stuffed, and it can be read as often as needed. Nothing large is held in memory. `given`
makes it of octets, files and iterables; ``mime.py`` of messages.
"""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from smtpbackend.errors import InvalidInput, NotSupported
from smtpbackend.sources import IN_MEMORY, Source, position_of, source_of

__all__ = ["Content", "given"]

CRLF = b"\r\n"
MAX_LINE = 998  # octets without CRLF, RFC 5322 2.1.1
CHUNK = 64 * 1024  # octets a chunk of Content has at most
_BASE64_LINE = 57  # octets that make one line of 76, RFC 2045 6.8
BLOCK = CHUNK // (_BASE64_LINE // 3 * 4 + 2) * _BASE64_LINE  # octets that fill one chunk when encoded

_line_end = re.compile(rb"\r\n?|\n")
_hidden = re.compile(rb"(?:bcc|dcc|resent-bcc|resent-dcc)[ \t]*:", re.IGNORECASE)
_field_start = re.compile(rb"[!-9;-~\x80-\xff]+[ \t]*:").match


class Base64:
    """A source in base64, by whole lines (RFC 2045 6.8)."""

    longest_line = 76
    is_8bit = False
    last = b"\n"

    def __init__(self, source: Source) -> None:
        self._source = source
        lines, rest = divmod(source.size, _BASE64_LINE)
        self.size = lines * 78 + ((rest + 2) // 3 * 4 + 2 if rest else 0)

    def chunks(self) -> Iterator[bytes]:
        for block in self._source.blocks(BLOCK):
            yield base64_lines(block)

    def close(self) -> None:
        self._source.close()


def base64_lines(octets: bytes) -> bytes:
    encoded = binascii.b2a_base64(octets, newline=False)
    if len(encoded) <= 76:
        return encoded + b"\r\n" if encoded else b""
    return b"\r\n".join([encoded[start : start + 76] for start in range(0, len(encoded), 76)]) + b"\r\n"


class _Scanned:
    """Octets that come in chunks. Size, longest line and the like are found in one pass, when first needed."""

    def __init__(self) -> None:
        self._scanned: tuple[int, bool, int, bytes] | None = None

    def chunks(self) -> Iterator[bytes]:
        raise NotImplementedError

    def measure(self) -> tuple[int, bool, int, bytes]:
        """Read all of it, unless that was done."""
        if self._scanned is None:
            size, is_8bit, longest, current, last = 0, False, 0, 0, b""
            for chunk in self.chunks():
                size += len(chunk)
                is_8bit = is_8bit or not chunk.isascii()
                first, *others = chunk.split(b"\n")
                current += len(first)
                for line in others:  # each with its CR, which is taken off below
                    longest, current = max(longest, current), len(line)
                last = chunk[-1:]
            self._scanned = size, is_8bit, max(longest - 1, current), last
        return self._scanned

    @property
    def size(self) -> int:
        return self.measure()[0]

    @property
    def is_8bit(self) -> bool:
        return self.measure()[1]

    @property
    def longest_line(self) -> int:
        return self.measure()[2]

    @property
    def last(self) -> bytes:
        """The last octet."""
        return self.measure()[3]

    def close(self) -> None:
        """Nothing is open."""


class Given(_Scanned):
    """A source with CRLF line ends, and without Bcc and its kind."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def chunks(self) -> Iterator[bytes]:
        return _ended(_without_hidden_fields(_ended(_with_crlf(self._source.blocks(CHUNK // 2)))))

    def head(self) -> bytes:
        """The header section; of a very large one the first part."""
        head = b""
        for chunk in self.chunks():
            head += chunk
            if head.startswith(b"\r\n"):
                return b""
            if (end := head.find(b"\r\n\r\n")) >= 0:
                return head[: end + 2]
            if len(head) > IN_MEMORY:
                break
        return head

    def close(self) -> None:
        self._source.close()


class Lines(_Scanned):
    """The text of a part, with octets as surrogates, in CRLF line ends. Raises `UnicodeEncodeError`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text
        for start in range(0, len(text), CHUNK):
            text[start : start + CHUNK].encode("ascii", "surrogateescape")

    def chunks(self) -> Iterator[bytes]:
        text, step = self._text, CHUNK // 2
        return _with_crlf(text[i : i + step].encode("ascii", "surrogateescape") for i in range(0, len(text), step))


def crlf(octets: bytes) -> bytes:
    """``octets`` with CR, LF and CRLF as CRLF."""
    ends = octets.count(b"\r\n")
    if ends == octets.count(b"\n") and ends == octets.count(b"\r"):
        return octets
    return _line_end.sub(b"\r\n", octets) if b"\r" in octets else octets.replace(b"\n", b"\r\n")


def _with_crlf(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks with CR, LF and CRLF as CRLF."""
    held = b""
    for block in blocks:
        block = held + block
        # A CR at the end may be half a CRLF.
        held = b"\r" if block.endswith(b"\r") else b""
        if out := crlf(block[:-1] if held else block):
            yield out
    if held:
        yield b"\r\n"


def _ended(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks, the last line ended."""
    chunk = b""
    for chunk in chunks:
        yield chunk
    if not chunk.endswith(b"\n"):
        yield b"\r\n"


def _without_hidden_fields(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks of a message without Bcc, Dcc, Resent-Bcc and their continuation lines."""
    chunks = iter(chunks)
    tail, hiding, kept_part_of_line = b"", False, False
    for chunk in chunks:
        lines = (tail + chunk).split(b"\r\n")
        tail = lines.pop()
        out: list[bytes] = []
        for number, line in enumerate(lines):
            if kept_part_of_line:  # the rest of a line over CHUNK octets
                kept_part_of_line = False
            elif _ends_head(line):
                yield b"\r\n".join([*out, *lines[number:], tail])
                yield from chunks
                return
            elif line[:1] not in (b" ", b"\t"):
                hiding = _hidden.match(line) is not None
            if not hiding:
                out.append(line)
        if out:
            yield b"\r\n".join(out) + b"\r\n"
        if len(tail) > CHUNK // 2 and not tail.endswith(b"\r"):
            if not kept_part_of_line:
                if _ends_head(tail):
                    yield tail
                    yield from chunks
                    return
                if tail[:1] not in (b" ", b"\t"):
                    hiding = _hidden.match(tail) is not None
            kept_part_of_line = True
            if not hiding:
                yield tail
            tail = b""


def _ends_head(line: bytes) -> bool:
    """Whether a line is not of the header section: it is empty, or neither a field nor its continuation."""
    return not (line[:1] in (b" ", b"\t") or _field_start(line) or line.startswith(b"From ")) or not line


Piece = bytes | Base64 | Given | Lines


class Content:
    """The octets of one message: lines end in CRLF, dots are not stuffed. Can be read as often as needed.

    ``needs_smtputf8`` means that the header section has UTF-8 (RFC 6531); ``message_id`` is that of the headers.
    """

    def __init__(
        self,
        pieces: list[Piece],
        *,
        message_id: str | None = None,
        needs_smtputf8: bool = False,
        seven_bit: Callable[[], Content | None] | None = None,
        longest_line: int | None = None,
    ) -> None:
        self._pieces = pieces
        self._seven_bit = seven_bit
        self._size: int | None = None
        self._is_8bit: bool | None = None
        self._longest_line = longest_line
        self.message_id = message_id
        self.needs_smtputf8 = needs_smtputf8

    @property
    def size(self) -> int:
        """Octets, line ends included, before dots are stuffed."""
        if self._size is None:
            self._size = sum([len(piece) if isinstance(piece, bytes) else piece.size for piece in self._pieces])
        return self._size

    @property
    def is_8bit(self) -> bool:
        """Whether there are octets beyond ASCII."""
        if self._is_8bit is None:
            self._is_8bit = any(
                not piece.isascii() if isinstance(piece, bytes) else piece.is_8bit for piece in self._pieces
            )
        return self._is_8bit

    @property
    def longest_line(self) -> int:
        """Octets of the longest line, without its CRLF."""
        if self._longest_line is None:
            longest = 0
            for piece in self._pieces:
                if not isinstance(piece, bytes):
                    longest = max(longest, piece.longest_line)
                elif len(piece) > longest:
                    longest = max(longest, *map(len, piece.split(b"\r\n")))
            self._longest_line = longest
        return self._longest_line

    @property
    def whole(self) -> bytes | None:
        """All octets where they are one small piece in memory, else None."""
        piece = self._pieces[0]
        return piece if len(self._pieces) == 1 and isinstance(piece, bytes) and len(piece) <= CHUNK else None

    def chunks(self) -> Iterator[bytes]:
        """The octets, at most 64 KiB at a time; each call begins anew."""
        for piece in self._pieces:
            for octets in (piece,) if isinstance(piece, bytes) else piece.chunks():
                if len(octets) <= CHUNK:
                    yield octets
                else:
                    for start in range(0, len(octets), CHUNK):
                        yield octets[start : start + CHUNK]

    def as_7bit(self) -> Content:
        """The same message without octets beyond ASCII and without lines over 998 octets.

        Only an unsigned ``email.message.Message`` can be encoded anew; raises `NotSupported` for all else, and for
        addresses that need SMTPUTF8.
        """
        if not self.is_8bit and self.longest_line <= MAX_LINE:
            return self
        encoded = self._seven_bit() if self._seven_bit is not None else None
        if encoded is None:
            raise NotSupported(
                "the content has 8-bit octets or lines over 998 octets and must not be altered, because it was given "
                "as octets or is signed; send it to a server that offers 8BITMIME, or encode it before"
            )
        if encoded.is_8bit or encoded.longest_line > MAX_LINE:
            raise NotSupported("the content cannot be sent without 8BITMIME or SMTPUTF8: its headers are not ASCII")
        return encoded

    def or_7bit(self, seven_bit: Callable[[Content], Content | None]) -> Content:
        """The same octets, of which `as_7bit` makes others."""
        return Content(
            self._pieces,
            message_id=self.message_id,
            needs_smtputf8=self.needs_smtputf8,
            seven_bit=lambda: seven_bit(self),
            longest_line=self._longest_line,
        )

    def under(self, fields: bytes, again: Callable[[Content], Content]) -> Content:
        """This content with more header fields in front; ``again`` makes them anew when it is encoded as 7-bit."""
        return Content(
            [fields, *self._pieces],
            message_id=self.message_id,
            needs_smtputf8=self.needs_smtputf8,
            seven_bit=lambda: again(self.as_7bit()),
        )

    def close(self) -> None:
        """Close temporary files."""
        for piece in self._pieces:
            if not isinstance(piece, bytes):
                piece.close()


def given(source: bytes | os.PathLike[str] | IO[bytes] | Iterable[bytes]) -> Content:
    """The content of octets, a path, a binary file or an iterable of bytes: unchanged but for line ends and Bcc.

    A source that can be read only once is spooled to a temporary file. Raises `InvalidInput`.
    """
    if isinstance(source, str) or not (
        isinstance(source, (bytes, bytearray, memoryview, os.PathLike, Iterable)) or hasattr(source, "read")
    ):
        raise InvalidInput(
            f"message: bytes, a path (pathlib.Path), a binary file or an iterable of bytes is content, "
            f"not {type(source).__name__}",
            field="message",
        )
    if isinstance(source, bytes) and len(source) <= IN_MEMORY:
        return _given_octets(source)
    piece = Given(source_of(source, "message", position_of(source, "message")))
    head = piece.head()
    piece.measure()  # now: an error of the source is that of this message alone
    return Content([piece], message_id=_find_message_id(head), needs_smtputf8=has_utf8(head))


def _given_octets(octets: bytes) -> Content:
    """In few steps, since it is done for each message."""
    lines = octets.split(b"\r\n")
    longest: int | None = None
    if len(lines) > 1 and not lines[-1] and octets.count(b"\n") == octets.count(b"\r") == len(lines) - 1:
        longest = max(map(len, lines))
    else:
        octets = crlf(octets)
        if not octets.endswith(b"\r\n"):
            octets += b"\r\n"
    end = octets.find(b"\r\n\r\n")
    lower = octets[: end if end >= 0 else len(octets)].lower()
    if b"bcc" in lower or b"dcc" in lower:
        octets = b"".join(_ended(_without_hidden_fields([octets])))
        longest = None
    head = octets[: octets.find(b"\r\n\r\n") + 2] if not octets.startswith(b"\r\n") else b""
    message_id = _find_message_id(head) if b"message-id" in lower else None
    return Content([octets], message_id=message_id, needs_smtputf8=has_utf8(head), longest_line=longest)


_message_id = re.compile(rb"^message-id[ \t]*:\s*(<[!-~]+>)", re.IGNORECASE | re.MULTILINE).search


def _find_message_id(head: bytes) -> str | None:
    match = _message_id(head)
    return match[1].decode("ascii") if match else None


def has_utf8(head: bytes) -> bool:
    """Whether the header section needs SMTPUTF8: it has UTF-8, and no octets of another charset."""
    if head.isascii():
        return False
    try:
        head.decode()
    except UnicodeDecodeError:
        return False
    return True


def encode_octets(octets: bytes) -> tuple[str, str]:
    """A transfer encoding and the encoded octets: the shorter of quoted-printable and base64."""
    plain = len(octets.translate(None, _TO_QUOTE))
    if (len(octets) - plain) * 6 <= len(octets):  # each costs two octets more, base64 a third more of all
        return "quoted-printable", binascii.b2a_qp(octets, istext=True).decode("ascii")
    return "base64", base64_lines(octets).decode("ascii")


_TO_QUOTE = bytes([*range(9), 11, 12, *range(14, 32), 61, *range(127, 256)])
