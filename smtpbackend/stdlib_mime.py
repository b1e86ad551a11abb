"""Simple messages as the ``email`` package of the standard library would write them, octet for octet, and faster.

For frameworks that render by that package: what is sent stays what the framework would send, but for fields that would
be read as something else (``refolding.py``), and none of the package's objects is made. The package has two APIs, and
each has its writer here: `ModernWriter` and `LegacyWriter`. A field that is not plain is written by the package itself.
`NotSimple` is raised for a message that only the package can write. Boundaries have the package's form, and cannot be
guessed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from smtpbackend.content import BLOCK, MAX_LINE, Base64, Content, Piece, base64_lines, crlf
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
from smtpbackend.refolding import arrives, rewritten
from smtpbackend.sources import source_of

__all__ = ["LegacyWriter", "ModernWriter", "NotSimple", "Part", "plain_addr_spec"]

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
    """The addr-spec of a mailbox that every parser reads alike; None for all others, which may be valid too."""
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
    """``fold`` with a cache: the fields of a thousand messages are often the same.

    ``is_long`` tells for which values the package would take too long; ``write`` writes these.
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


_MIME_VERSION = "MIME-Version: 1.0\r\n"


class _Writer:
    """What the two writers share. They differ in how fields are folded and text is encoded, and in the order of fields.

    ``fold``, ``fold_list`` and ``fold_filename`` make a whole field of its name and value: of text, of what has a
    grammar (addresses, dates, identifiers), and a Content-Disposition with the name of a file.
    """

    def __init__(
        self,
        fold: Callable[[str, str], str],
        fold_list: Callable[[str, str], str],
        fold_filename: Callable[[str, str], str],
    ) -> None:
        self._fold, self._fold_list, self._fold_filename = fold, fold_list, fold_filename

    def field(self, name: str, value: str) -> str:
        """A field of text."""
        if len(name) + len(value) <= LINE - 2 and short_ascii(value) is not None and "=?" not in value:
            return f"{name}: {value}\r\n"
        return self._fold(name, value)

    def special_field(self, name: str, value: str) -> str:
        """A field of addresses, a date or a message identifier."""
        if len(name) + len(value) <= LINE - 2 and "=?" not in value:
            is_plain = _message_id if name.lower() == "message-id" else mailboxes
            if is_plain(value) is not None:
                return f"{name}: {value}\r\n"
        return self._fold_list(name, value)

    def render(
        self,
        fields: Iterable[str],
        text: tuple[str, str] | None,
        alternatives: Sequence[Part],
        attachments: Sequence[Part],
        *,
        message_id: str | None,
        number: Callable[[], int],
    ) -> Content:
        """The content of a message with these fields.

        ``text`` is a body with its media type, and None where there is none beside other parts. ``number`` gives 19
        digits, of which boundaries are made. Raises `NotSimple`.
        """
        try:
            if text is not None and not alternatives and not attachments:
                encoding, body = self._encoded(text[0])
                head = self._head(f'{text[1]}; charset="utf-8"', encoding)
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
        outer, inner = f"==============={number:019}==", f"==============={(number + 1) % 10**19:019}=="
        if attachments:
            out.write(self._multipart("mixed; ", outer, text is not None))
            out.write("".join(fields))
            if alternatives:
                out.write(f"\r\n--{outer}\r\n")
                out.write(self._multipart("alternative;\r\n ", inner, False))
        else:
            out.write(self._multipart("alternative;\r\n ", inner, text is not None))
            out.write("".join(fields))
        if text is not None:
            out.write(f"\r\n--{inner if alternatives else outer}\r\n")
            encoding, body = self._encoded(text[0])
            out.write(self._body_head(f'{text[1]}; charset="utf-8"', encoding) + "\r\n")
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

    def _part(self, out: _Joined, part: Part, disposition: str) -> None:
        filename, content, media_type = part
        found = _media_type(media_type)
        if found is None or found[1] in ("message", "multipart"):
            raise NotSimple
        encoding, body, charset = "base64", b"", ""
        if isinstance(content, str):
            encoding, body = self._encoded(content)
            charset = '; charset="utf-8"'
        out.write(self._head(media_type + charset, encoding, disposition, filename) + "\r\n")
        if isinstance(content, str):
            out.add(body)
        elif len(content) <= BLOCK:
            out.add(base64_lines(content))
        else:
            out.add(Base64(source_of(content, "attachments")))

    def _encoded(self, text: str) -> tuple[str, bytes]:
        if "\0" in text:
            raise NotSimple  # the package writes it as it is, and servers lose it
        return self._encode(text)

    def _disposition(self, filename: str | None) -> str:
        if filename is None:
            return self._no_filename
        if len(filename) <= 30 and _filename(filename) is not None:
            return f'Content-Disposition: attachment; filename="{filename}"\r\n'
        return self._fold_filename("Content-Disposition", filename)

    _no_filename: str
    """The Content-Disposition of an attachment without a name."""
    _encode: Callable[[str], tuple[str, bytes]]
    """Gives the transfer encoding of a text, and its octets."""

    def _multipart(self, subtype: str, boundary: str, was_text: bool) -> str:
        """The fields of a multipart; ``was_text``: the message had a text before it had parts."""
        raise NotImplementedError

    def _head(self, content_type: str, encoding: str, disposition: str = "", filename: str | None = None) -> str:
        """The fields of a message or part without parts."""
        raise NotImplementedError

    def _body_head(self, content_type: str, encoding: str) -> str:
        """The fields of the text where it is a part beside others."""
        raise NotImplementedError


# EmailMessage


def _modern_field(name: str, value: str) -> str:
    from email.policy import SMTP

    header: Any = SMTP.header_store_parse(name, value)[1]
    if any(not address.addr_spec.isascii() for address in getattr(header, "addresses", ())):
        raise NotSimple
    field = str(header.fold(policy=SMTP))
    return field if arrives(name, header, field) else rewritten(name, header)


def _modern_filename(name: str, filename: str) -> str:
    from email.message import MIMEPart
    from email.policy import SMTP

    part = MIMEPart(policy=SMTP)
    part[name] = "attachment"
    part.set_param("filename", filename, header=name, replace=True)
    return str(part[name].fold(policy=SMTP))


def _long_filename(name: str, filename: str) -> str:
    return f"{name}: attachment{filename_parameter(filename)}\r\n"


def _modern_text(text: str) -> tuple[str, bytes]:
    octets = text.encode()
    lines = octets.splitlines()
    if max(map(len, lines), default=0) <= LINE:
        return "7bit" if octets.isascii() else "8bit", b"\r\n".join(lines) + b"\r\n"
    from binascii import b2a_base64
    from email.quoprimime import body_encode

    # The package looks at ten lines, and takes the encoding that is shorter for these
    first = b"\r\n".join(lines[:10]) + b"\r\n"
    quoted = body_encode(first.decode("latin-1"), LINE)
    if len(quoted) > len(b2a_base64(first)):
        return "base64", base64_lines(b"\r\n".join(lines) + b"\r\n")
    if len(lines) > 10:
        quoted = body_encode((b"\n".join(lines) + b"\n").decode("latin-1"), LINE)
    return "quoted-printable", crlf(quoted.encode("ascii"))


class ModernWriter(_Writer):
    """Writes as an ``EmailMessage`` under ``policy.SMTP`` that is built by its ``add_`` methods."""

    _encode = staticmethod(_modern_text)
    _no_filename = "Content-Disposition: attachment\r\n"

    def __init__(self) -> None:
        super().__init__(
            _kept(_modern_field, lambda value: is_costly(value, is_structured=False)),
            _kept(_modern_field, is_costly),
            _kept(_modern_filename, is_costly, _long_filename),
        )

    def _multipart(self, subtype: str, boundary: str, was_text: bool) -> str:
        version = _MIME_VERSION if was_text else ""
        return f'{version}Content-Type: multipart/{subtype}boundary="{boundary}"\r\n'

    def _head(self, content_type: str, encoding: str, disposition: str = "", filename: str | None = None) -> str:
        rest = _MIME_VERSION + disposition if filename is None else disposition + _MIME_VERSION
        return self._body_head(content_type, encoding) + rest

    def _body_head(self, content_type: str, encoding: str) -> str:
        return f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n"


# MIMEText


def _legacy_field(name: str, value: str) -> str:
    from email.policy import compat32

    return compat32.clone(linesep="\r\n").fold_binary(name, value).decode("ascii")


def _legacy_filename(name: str, filename: str) -> str:
    from email.message import Message

    part = Message()
    part.add_header(name, "attachment", filename=filename if filename.isascii() else ("utf-8", "", filename))
    return _legacy_field(name, part[name])


def _legacy_text(text: str) -> tuple[str, bytes]:
    octets = text.encode()
    if len(octets) > MAX_LINE and max(map(len, octets.splitlines())) > MAX_LINE:
        if all(len(line.encode()) <= MAX_LINE for line in text.splitlines()):
            raise NotSimple  # it has line ends of Python that mail has not
        from email.quoprimime import body_encode

        return "quoted-printable", crlf(body_encode(octets.decode("latin-1")).encode("ascii"))
    return "7bit" if octets.isascii() else "8bit", crlf(octets)


class LegacyWriter(_Writer):
    """Writes as ``MIMEText`` and its kind under ``compat32``.

    ``spell`` takes the name and the value of a field, and returns the value as it is to be folded, with its encoded
    words.
    """

    _encode = staticmethod(_legacy_text)
    _no_filename = ""

    def __init__(self, spell: Callable[[str, str], str]) -> None:
        def fold(name: str, value: str) -> str:
            return _legacy_field(name, spell(name, value))

        super().__init__(_kept(fold), _kept(fold, is_costly), _kept(_legacy_filename))

    def special_field(self, name: str, value: str) -> str:
        """A field of addresses, a date or a message identifier: as text, unless it is long."""
        return self.field(name, value) if len(value) <= MAX_FOLDED else super().special_field(name, value)

    def _multipart(self, subtype: str, boundary: str, was_text: bool) -> str:
        return f'Content-Type: multipart/{subtype}boundary="{boundary}"\r\n{_MIME_VERSION}'

    def _head(self, content_type: str, encoding: str, disposition: str = "", filename: str | None = None) -> str:
        return f"Content-Type: {content_type}\r\n{_MIME_VERSION}Content-Transfer-Encoding: {encoding}\r\n{disposition}"

    def _body_head(self, content_type: str, encoding: str) -> str:
        return self._head(content_type, encoding)


class _Joined:
    """Pieces in order; neighbours that lie in memory become one."""

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


def _seven_bit(pieces: list[Piece], message_id: str | None) -> Content | None:
    from smtpbackend.email_message import encoded_anew

    return encoded_anew(Content(pieces, message_id=message_id))
