"""Simple messages as the ``email`` package would write them, octet for octet, without making its objects.

For messages that a framework renders by that package: what is sent stays what the framework would send, at a fraction
of the time. The package has two manners, the modern (``EmailMessage`` under ``policy.SMTP``) and the classic
(``MIMEText`` and its kind under ``compat32``). A field that is not plain is written by the package itself; where a
whole message is not simple, `NotSimple` says so. Boundaries have the package's form, and nobody can guess them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from smtpbackend.content import (
    BLOCK,
    MAX_LINE,
    Base64,
    Content,
    Piece,
    base64_lines,
    crlf,
)
from smtpbackend.header import (
    ADDR_SPEC,
    LINE,
    MAILBOX,
    MAX_FOLDED,
    filename_parameter,
    in_time,
    is_costly,
    mailboxes,
    short_ascii,
)
from smtpbackend.sources import source_of

__all__ = ["Manner", "NotSimple", "Part", "plain_addr_spec"]

_plain_mailbox = re.compile(MAILBOX).fullmatch
_message_id = re.compile(f"<{ADDR_SPEC}>").fullmatch
_media_type = re.compile(r"([a-z]+)/([a-z0-9](?:[a-z0-9.+-]{0,40}[a-z0-9])?)").fullmatch
_filename = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_. -]*[A-Za-z0-9_-])?").fullmatch
_control = re.compile(r"[\x00-\x1f\x7f]").search
_surrogate = re.compile("[\ud800-\udfff]").search
_MAX_KEPT = 500  # characters of a field that is kept, so that it need not be folded again

Part = tuple[str | None, str | bytes, str]
"""The name of a file or None, the content, and its media type."""


def plain_addr_spec(text: str) -> str | None:
    """The addr-spec of a mailbox that no two parsers disagree about; None for all others, which may be valid too."""
    if _plain_mailbox(text) is None or "=?" in text:  # an encoded word (RFC 2047) is made of atoms
        return None
    return text[text.rfind("<") + 1 : -1] if text.endswith(">") else text


class NotSimple(Exception):
    """Only the ``email`` package itself can write this as it would."""


def _kept(
    fold: Callable[[str, str], str],
    is_long: Callable[[str], bool] = lambda value: False,
    write: Callable[[str, str], str] = in_time,
) -> Callable[[str, str], str]:
    """The fields that were folded last are kept: those of a thousand messages are often the same.

    What the package would take too long for (``is_long``), ``write`` writes.
    """
    kept = functools.lru_cache(maxsize=256)(fold)

    def fold_once(name: str, value: str) -> str:
        if _control(value) is not None or _surrogate(value) is not None:
            raise NotSimple
        how = kept if len(value) <= _MAX_KEPT else write if is_long(value) else fold
        try:
            field = how(name, value)
        except (AttributeError, IndexError, LookupError, TypeError, ValueError) as error:  # of the package's folder
            raise NotSimple from error
        if len(field) > MAX_LINE and max(map(len, field.split("\r\n"))) > MAX_LINE:
            raise NotSimple
        return field

    return fold_once


def _modern_field(name: str, value: str) -> str:
    from email.policy import SMTP

    header: Any = SMTP.header_store_parse(name, value)[1]
    if any(not address.addr_spec.isascii() for address in getattr(header, "addresses", ())):
        raise NotSimple
    return str(header.fold(policy=SMTP))


def _classic_field(name: str, value: str) -> str:
    from email.policy import compat32

    return compat32.clone(linesep="\r\n").fold_binary(name, value).decode("ascii")


def _modern_filename(name: str, filename: str) -> str:
    from email.message import MIMEPart
    from email.policy import SMTP

    part = MIMEPart(policy=SMTP)
    part[name] = "attachment"
    part.set_param("filename", filename, header=name, replace=True)
    return str(part[name].fold(policy=SMTP))


def _classic_filename(name: str, filename: str) -> str:
    from email.message import Message

    part = Message()
    part.add_header(name, "attachment", filename=filename if filename.isascii() else ("utf-8", "", filename))
    return _classic_field(name, part[name])


def _long_filename(name: str, filename: str) -> str:
    return f"{name}: attachment{filename_parameter(filename)}\r\n"


def _modern_text(text: str) -> tuple[str, bytes]:
    octets = text.encode()
    lines = octets.splitlines()
    if max(map(len, lines), default=0) <= LINE:
        return "7bit" if octets.isascii() else "8bit", b"\r\n".join(lines) + b"\r\n"
    from binascii import b2a_base64
    from email.quoprimime import body_encode

    # The package looks at ten lines, and takes what is shorter for these
    first = b"\r\n".join(lines[:10]) + b"\r\n"
    quoted = body_encode(first.decode("latin-1"), LINE)
    if len(quoted) > len(b2a_base64(first)):
        return "base64", base64_lines(b"\r\n".join(lines) + b"\r\n")
    if len(lines) > 10:
        quoted = body_encode((b"\n".join(lines) + b"\n").decode("latin-1"), LINE)
    return "quoted-printable", crlf(quoted.encode("ascii"))


def _classic_text(text: str) -> tuple[str, bytes]:
    octets = text.encode()
    if len(octets) > MAX_LINE and max(map(len, octets.splitlines())) > MAX_LINE:
        if all(len(line.encode()) <= MAX_LINE for line in text.splitlines()):
            raise NotSimple  # it has line ends that are none in mail
        from email.quoprimime import body_encode

        return "quoted-printable", crlf(body_encode(octets.decode("latin-1")).encode("ascii"))
    return "7bit" if octets.isascii() else "8bit", crlf(octets)


class Manner:
    """One of the two manners in which the ``email`` package writes.

    With ``spell`` it is the classic one: that takes the name and the value of a field and returns the value as it is
    to be folded, encoded words and all.
    """

    def __init__(self, spell: Callable[[str, str], str] | None = None) -> None:
        self._is_modern = spell is None
        self._encode_text = _modern_text if spell is None else _classic_text
        if spell is None:
            self._folded_filename = _kept(_modern_filename, is_costly, _long_filename)
            self._folded = _kept(_modern_field, lambda value: is_costly(value, is_structured=False))
            self._folded_list = _kept(_modern_field, is_costly)
        else:
            self._folded_filename = _kept(_classic_filename)
            self._folded = _kept(lambda name, value: _classic_field(name, spell(name, value)))
            self._folded_list = _kept(lambda name, value: _classic_field(name, spell(name, value)), is_costly)

    def field(self, name: str, value: str) -> str:
        """A field of text."""
        if len(name) + len(value) <= LINE - 2 and short_ascii(value) is not None and "=?" not in value:
            return f"{name}: {value}\r\n"
        return self._folded(name, value)

    def special_field(self, name: str, value: str) -> str:
        """A field of addresses, a date or a message identifier, which the modern manner parses."""
        if not self._is_modern and len(value) <= MAX_FOLDED:
            return self.field(name, value)
        if len(name) + len(value) <= LINE - 2 and "=?" not in value:
            is_plain = _message_id if name.lower() == "message-id" else mailboxes
            if is_plain(value) is not None:
                return f"{name}: {value}\r\n"
        return self._folded_list(name, value)

    def compose(
        self,
        fields: Iterable[str],
        text: tuple[str, str] | None,
        alternatives: Sequence[Part],
        attachments: Sequence[Part],
        *,
        message_id: str | None,
        number: Callable[[], int],
    ) -> Content:
        """The content of a message with these fields, as its ``add_`` methods or the ``MIME`` classes make it.

        ``text`` is a body with its media type, and None where there is none beside other parts. Raises `NotSimple`.
        """
        try:
            if text is not None and not alternatives and not attachments:
                head, body = self._text(*text, _MIME_VERSION)
                pieces: list[Piece] = [f"{head}{''.join(fields)}\r\n".encode("ascii") + body]
            else:
                pieces = self._tree(fields, text, alternatives, attachments, number())
        except UnicodeEncodeError as error:
            raise NotSimple from error
        last = pieces[-1]
        if isinstance(last, bytes) and not last.endswith(b"\n"):
            pieces[-1] = last + b"\r\n"
        return Content(pieces, message_id=message_id, seven_bit=lambda: _seven_bit(pieces, message_id))

    def _tree(
        self,
        fields: Iterable[str],
        text: tuple[str, str] | None,
        alternatives: Sequence[Part],
        attachments: Sequence[Part],
        number: int,
    ) -> list[Piece]:
        out = _Joined()
        version = _MIME_VERSION if text is not None or not self._is_modern else ""
        outer, inner = f"==============={number:019}==", f"==============={(number + 1) % 10**19:019}=="
        if attachments:
            out.write(self._multipart("mixed; ", outer, version))
            out.write("".join(fields))
            if alternatives:
                out.write(f"\r\n--{outer}\r\n")
                out.write(self._multipart("alternative;\r\n ", inner, "" if self._is_modern else version))
        else:
            out.write(self._multipart("alternative;\r\n ", inner, version))
            out.write("".join(fields))
        boundary = inner if alternatives else outer
        if text is not None:
            out.write(f"\r\n--{boundary}\r\n")
            head, body = self._text(*text, "" if self._is_modern else _MIME_VERSION)
            out.write(f"{head}\r\n")
            out.add(body)
        for part in alternatives:
            out.write(f"\r\n--{inner}\r\n")
            self._part(out, part, "")
        if alternatives:
            out.write(f"\r\n--{inner}--\r\n")
        for part in attachments:
            out.write(f"\r\n--{outer}\r\n")
            self._part(out, part, self._disposition(part[0]))
        if attachments:
            out.write(f"\r\n--{outer}--\r\n")
        return out.pieces()

    def _multipart(self, subtype: str, boundary: str, version: str) -> str:
        content_type = f'Content-Type: multipart/{subtype}boundary="{boundary}"\r\n'
        return version + content_type if self._is_modern else content_type + version

    def _disposition(self, filename: str | None) -> str:
        if filename is None:
            return "Content-Disposition: attachment\r\n" if self._is_modern else ""
        if len(filename) <= 30 and _filename(filename) is not None:
            return f'Content-Disposition: attachment; filename="{filename}"\r\n'
        return self._folded_filename("Content-Disposition", filename)

    def _text(self, text: str, media_type: str, version: str) -> tuple[str, bytes]:
        encoding, body = self._encode_text(text)
        content_type = f'Content-Type: {media_type}; charset="utf-8"\r\n'
        transfer = f"Content-Transfer-Encoding: {encoding}\r\n"
        if self._is_modern:
            return content_type + transfer + version, body
        return content_type + version + transfer, body

    def _part(self, out: _Joined, part: Part, disposition: str) -> None:
        filename, content, media_type = part
        found = _media_type(media_type)
        if found is None or found[1] in ("message", "multipart"):
            raise NotSimple
        if isinstance(content, str):
            head, body = self._text(content, media_type, "" if self._is_modern else _MIME_VERSION)
        else:
            body = b""
            content_type = f"Content-Type: {media_type}\r\n"
            transfer = "Content-Transfer-Encoding: base64\r\n"
            head = content_type + transfer if self._is_modern else content_type + _MIME_VERSION + transfer
        if self._is_modern:
            head += disposition + _MIME_VERSION if filename is not None else _MIME_VERSION + disposition
        else:
            head += disposition
        out.write(f"{head}\r\n")
        if isinstance(content, str):
            out.add(body)
        elif len(content) <= BLOCK:
            out.add(base64_lines(content))
        else:
            out.add(Base64(source_of(content, "attachments")))


_MIME_VERSION = "MIME-Version: 1.0\r\n"


class _Joined:
    """Pieces in order; what lies in memory and is next to each other becomes one."""

    def __init__(self) -> None:
        self._small: list[bytes] = []
        self._pieces: list[Piece] = []

    def write(self, text: str) -> None:
        self._small.append(text.encode("ascii"))

    def add(self, piece: Piece) -> None:
        if isinstance(piece, bytes):
            self._small.append(piece)
        else:
            self._pieces += [b"".join(self._small), piece]
            self._small = []

    def pieces(self) -> list[Piece]:
        self._pieces.append(b"".join(self._small))
        return self._pieces


def _seven_bit(pieces: list[Piece], message_id: str | None) -> Content:
    """The same message, what is not 7-bit encoded anew."""
    from smtpbackend.flatten import Flattener, seven_bit_copy
    from smtpbackend.parts import parsed

    flat = Flattener("")
    whole = b"".join(Content(pieces).chunks())
    flat.message(seven_bit_copy(parsed(whole, "message")), is_root=True)
    return Content(flat.finish(), message_id=message_id)
