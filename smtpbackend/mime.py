"""From a `Message` or an ``email.message.Message`` to `Content`: the exact octets for the wire, in one pass.

A `Message` is written as 7-bit, in lines under 998 octets. Given octets, files and messages of the ``email`` package
are unchanged but for line ends, Bcc and its kind. Dots are stuffed by the session. Time and chance come from outside,
as ``date`` and ``token``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from smtpbackend.address import Address, parse_addresses
from smtpbackend.address_list import sift
from smtpbackend.content import BLOCK, CHUNK, MAX_LINE, Base64, Content, Piece, base64_lines, encode_octets, given
from smtpbackend.content_type import parsed
from smtpbackend.email_message import Flattener, flatten
from smtpbackend.errors import InvalidInput
from smtpbackend.header import LINE, address_field, any_field, date_of, filename_parameter, fold, text_field
from smtpbackend.message import HIDDEN_FIELDS, RECIPIENT_FIELDS, Attachment, Message, check_message_id
from smtpbackend.part_encoding import is_signed, seven_bit_copy
from smtpbackend.sources import source_of
from smtpbackend.text import characters

if TYPE_CHECKING:
    import email.message

__all__ = ["Content", "given", "render", "text_content"]

_TEXT = b"\t\n\r" + bytes(range(0x20, 0x7F))
_token_is_valid = re.compile(r"[A-Za-z0-9._-]{1,48}").fullmatch
_media = re.compile(
    r"\s*([A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+)"
    r"""((?:\s*;\s*[A-Za-z0-9!#$%&'*+^_`{|}~.-]+=(?:[A-Za-z0-9!#$%&'*+^_`{|}~./:-]+|"(?:[^"\\]|\\.)*"))*)"""
    r"\s*(?:;\s*)?"
).fullmatch
_parameter = re.compile(r""";\s*([^=;\s]+)=("(?:[^"\\]|\\.)*"|[^;\s]+)""").findall


def _check_token(token: str) -> str:
    if not isinstance(token, str) or _token_is_valid(token) is None:
        raise InvalidInput(f"token: {token!r} is not 1 to 48 letters, digits, '.', '_' or '-'", field="token")
    return token


# Messages of ours


def render(message: Message | email.message.Message, *, date: datetime, token: str) -> Content:
    """The content of ``message``, Date, Message-ID and MIME-Version added where they are missing.

    ``date`` is the present, ``token`` a string that is unique in the world: the Message-ID is ``<token@domain of
    From>``. The message is not changed. Raises `InvalidInput` with the field that cannot be sent.
    """
    if not isinstance(message, Message):
        if not hasattr(message, "raw_items"):
            raise InvalidInput(
                f"message: a Message or an email.message.Message is wanted, not {type(message).__name__}; octets need "
                "an envelope",
                field="message",
            )
        return flatten(message, date, _check_token(token))
    message.check()
    head, message_id = _head(message, date, _check_token(token))
    return _content(head, _structure(message), token, message_id)


def text_content(
    subject: str,
    authors: list[Address],
    to: list[Address],
    cc: list[Address],
    reply_to: list[Address],
    *,
    text: str,
    html: str | None = None,
    date: datetime,
    message_id: str,
    token: str,
) -> Content:
    """The same as `render` of a `Message` with these arguments, for an adapter that has parsed addresses.

    ``token`` is as in `render`; boundaries are made of it. Raises `InvalidInput`.
    """
    if not authors:
        raise _no_author()
    message_id = check_message_id(message_id)
    head = "".join(_fields(subject, authors, authors[:1] if len(authors) > 1 else [], to, cc, reply_to))
    head += f"Date: {date_of(date)}\r\nMessage-ID: {message_id}\r\n"
    return _content(head, _text(text, html), _check_token(token), message_id)


def _content(head: str, structure: _Leaf | _Multipart, token: str, message_id: str) -> Content:
    writer = _Writer(token)
    writer.write(head)
    structure.write_to(writer)
    return Content(writer.finish(), message_id=message_id, needs_smtputf8=not head.isascii())


def _head(message: Message, date: datetime, token: str) -> tuple[str, str]:
    """The fields of the whole message but for those of MIME, and the message identifier."""
    given = {name.lower() for name, _ in message.headers}
    named = authors = message.authors() if message.from_ else []
    if not authors and "from" in given:
        authors = [
            address
            for name, value in message.headers
            if name.lower() == "from"
            for address in parse_addresses(value, name)
        ]
    if not authors:
        raise _no_author()
    sender: list[Address] = []
    if message.sender:
        sender = [Address.parse(message.sender, "sender")]
    elif len(authors) > 1 and "sender" not in given:
        sender = authors[:1]
    to = _joined(message, "To", "to") if message.to else []
    cc = _joined(message, "Cc", "cc") if message.cc else []
    reply_to = _joined(message, "Reply-To", "reply_to") if message.reply_to else []
    out = _fields(message.subject, named, sender, to, cc, reply_to)
    if "date" not in given:
        out.append(f"Date: {date_of(message.date or date)}\r\n")
    if "message-id" not in given:
        if message.message_id:
            message_id = check_message_id(message.message_id)
        else:
            message_id = f"<{token}@{authors[0].ascii_domain or 'localhost'}>"
        out.append(f"Message-ID: {message_id}\r\n")
    else:
        given_id = next(value for name, value in message.headers if name.lower() == "message-id")
        message_id = characters(given_id).strip(" \t")
    if message.list_unsubscribe:
        out.append(_unsubscribe_fields(message))
    if message.headers:
        out += _custom_fields(message)
    return "".join(out), message_id


def _fields(
    subject: str,
    authors: list[Address],
    sender: list[Address],
    to: list[Address],
    cc: list[Address],
    reply_to: list[Address],
) -> list[str]:
    """Subject, originator and recipient fields, those that are not empty."""
    out = [text_field("Subject", subject, "subject")] if subject else []
    if authors:
        out.append(address_field("From", authors))
    if sender:
        out.append(address_field("Sender", sender))  # RFC 5322 3.6.2: one of several authors
    if to:
        out.append(address_field("To", to))
    if cc:
        out.append(address_field("Cc", cc))
    if reply_to:
        out.append(address_field("Reply-To", reply_to))
    return out


def _unsubscribe_fields(message: Message) -> str:
    from smtpbackend.unsubscribe import has_one_click, uris  # most messages are to no list

    found = uris(message.list_unsubscribe)
    fields = fold("List-Unsubscribe", ", ".join([f"<{uri}>" for uri in found]))
    return fields + ("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" if has_one_click(found) else "")


def _no_author() -> InvalidInput:
    return InvalidInput("from_: a message needs an author (RFC 5322 3.6)", field="from_")


def _joined(message: Message, name: str, attribute: str) -> list[Address]:
    """The addresses of a field that a message has once (RFC 5322 3.6), with those given as headers."""
    addresses = sift(getattr(message, attribute), attribute)[0]
    for other, value in message.headers:
        if other.lower() == name.lower():
            addresses += sift(value, name)[0]
    return addresses


def _custom_fields(message: Message) -> Iterator[str]:
    written = {
        name for name, given in (("to", message.to), ("cc", message.cc), ("reply-to", message.reply_to)) if given
    }
    for number, (name, value) in enumerate(message.headers):
        lower = name.lower()
        if lower in HIDDEN_FIELDS or lower in written:
            continue
        if lower in ("to", "cc", "reply-to"):
            written.add(lower)
            others = [other for key, other in message.headers[number + 1 :] if key.lower() == lower]
            if others:
                yield address_field(name, [one for each in (value, *others) for one in sift(each, name)[0]])
                continue
        if lower in RECIPIENT_FIELDS:
            readable, refused = sift(value, name)
            if refused:
                if readable:
                    yield address_field(name, readable)
                continue
        yield any_field(name, value)


def _text(text: str, html: str | None) -> _Leaf | _Multipart:
    plain = _Leaf("text/plain", text, "text")
    return plain if html is None else _Multipart("alternative", [plain, _Leaf("text/html", html, "html")])


def _structure(message: Message) -> _Leaf | _Multipart:
    """The same tree as that of an ``email.message.EmailMessage``."""
    if message.text is not None and not (message.attachments or message.alternatives):
        return _text(message.text, message.html)
    related = [one for one in message.attachments if one.content_id is not None and message.html is not None]
    forms: list[_Leaf | _Multipart] = []
    if message.text is not None:
        forms.append(_Leaf("text/plain", message.text, "text"))
    if message.html is not None:
        html = _Leaf("text/html", message.html, "html")
        forms.append(_Multipart("related", [html, *map(_leaf_of, related)]) if related else html)
    for content, media_type in message.alternatives:
        forms.append(_Leaf(media_type, content, "alternatives"))
    mixed = [one for one in message.attachments if one.content_id is None] if related else message.attachments
    if not forms and not mixed:
        return _Leaf("text/plain", "", "text")
    if not mixed:
        return forms[0] if len(forms) == 1 else _Multipart("alternative", forms)
    body = forms if len(forms) < 2 else [_Multipart("alternative", forms)]
    return _Multipart("mixed", [*body, *map(_leaf_of, mixed)], has_body=bool(body))


def _leaf_of(attachment: Attachment) -> _Leaf:
    attachment.check()
    leaf = _Leaf(attachment.content_type, attachment.content, "attachments")
    leaf.disposition = "inline" if attachment.inline else "attachment"
    leaf.filename, leaf.content_id = attachment.filename, attachment.content_id
    leaf.attachment = attachment
    return leaf


class _Writer:
    """Collects text and streamed pieces in order."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.boundaries = 0
        self._text: list[str] = []
        self._pieces: list[Piece] = []

    def write(self, text: str) -> None:
        self._text.append(text)

    def add(self, piece: Piece) -> None:
        if self._text:
            self._pieces.append("".join(self._text).encode())
            self._text = []
        self._pieces.append(piece)

    def boundary(self) -> str:
        # "=_" is in neither base64 nor quoted-printable (RFC 2045 6.7).
        self.boundaries += 1
        return f"=_{self.boundaries}.{self.token}"

    def finish(self) -> list[Piece]:
        if self._text:
            self._pieces.append("".join(self._text).encode())
        return self._pieces


class _Multipart:
    """Parts in a multipart, with fields in the order of an EmailMessage that is built by its ``add_`` methods."""

    def __init__(self, subtype: str, parts: list[_Leaf | _Multipart], has_body: bool = True) -> None:
        self.subtype, self.parts = subtype, parts
        self.added = True
        if has_body:
            parts[0].added = False  # EmailMessage moves its body in without MIME-Version

    def write_to(self, writer: _Writer) -> None:
        boundary = writer.boundary()
        if self.added:
            writer.write("MIME-Version: 1.0\r\n")
        writer.write(f'Content-Type: multipart/{self.subtype}; boundary="{boundary}"\r\n')
        for part in self.parts:
            writer.write(f"\r\n--{boundary}\r\n")
            part.write_to(writer)
        writer.write(f"\r\n--{boundary}--\r\n")


class _Leaf:
    """One part that has no parts."""

    def __init__(self, media_type: str, content: Any, field: str) -> None:
        self.media_type, self.content, self.field = characters(media_type), content, field
        self.added = True
        self.disposition: str | None = None
        self.filename: str | None = None
        self.content_id: str | None = None
        self.attachment: Attachment | None = None

    def write_to(self, writer: _Writer) -> None:
        content = self.content
        media_type, parameters = self.media_type, ""
        if media_type not in ("text/plain", "text/html"):
            media_type, parameters = _media_type(media_type, isinstance(content, str), self.field)
        main = media_type.partition("/")[0].lower()
        is_whole = main in ("message", "multipart")
        if isinstance(content, str) and not is_whole:
            encoding, body = _encode_text(content, self.field, writer.token)
            charset = '; charset="utf-8"' if main == "text" else ""
            self._fields(writer, f"{media_type}{parameters}{charset}", encoding)
            writer.write(body)
            return
        if hasattr(content, "raw_items"):
            self._forwarded(writer, content)
            return
        if isinstance(content, str):
            source = source_of(_octets(content, self.field), self.field)
        else:
            source = self.attachment.source() if self.attachment is not None else source_of(content, self.field)
        if media_type.lower() == "message/rfc822":
            octets = b"".join(source.blocks(CHUNK))
            source.close()
            self._forwarded(writer, parsed(octets, self.field))
            return
        if is_whole:
            why = f"{self.field}: {media_type} cannot be an attachment, only message/rfc822 can (RFC 2046 5)"
            raise InvalidInput(why, field=self.field)
        self._fields(writer, f"{media_type}{parameters}", "base64")
        if isinstance(content, bytes) and len(content) <= BLOCK:
            writer.write(base64_lines(content).decode("ascii"))
        else:
            writer.add(Base64(source))

    def _fields(self, writer: _Writer, content_type: str, encoding: str) -> None:
        out = f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: {encoding}\r\n"
        if len(content_type) > LINE - 14:
            out = fold("Content-Type", content_type) + f"Content-Transfer-Encoding: {encoding}\r\n"
        if self.disposition:
            out += f"Content-Disposition: {self.disposition}{filename_parameter(self.filename)}\r\n"
        if self.content_id is not None:
            out += f"Content-ID: <{characters(self.content_id).strip('<>')}>\r\n"
        writer.write(out + ("MIME-Version: 1.0\r\n\r\n" if self.added else "\r\n"))

    def _forwarded(self, writer: _Writer, message: email.message.Message) -> None:
        """RFC 2046 5.2.1: message/rfc822 itself is never encoded, so its content must be."""
        flat = Flattener(writer.token, f"{writer.boundaries}.")
        if not is_signed(message):
            message = seven_bit_copy(message)
        flat.message(message)
        writer.boundaries += flat.boundaries
        pieces = flat.finish()
        is_8bit = any(not piece.isascii() if isinstance(piece, bytes) else piece.is_8bit for piece in pieces)
        self._fields(writer, "message/rfc822", "8bit" if is_8bit else "7bit")
        for piece in pieces:
            writer.add(piece)


def _media_type(given: str, is_text: bool, field: str) -> tuple[str, str]:
    """A media type and its parameters; the charset of a text is left out."""
    match = _media(given)
    if match is None:
        raise InvalidInput(f"{field}: {given!r} is not a media type", field=field)
    parameters = [(name, value) for name, value in _parameter(match[2]) if not (is_text and name.lower() == "charset")]
    return match[1], "".join(f"; {name}={value}" for name, value in parameters)


def _encode_text(text: str, field: str, token: str) -> tuple[str, str]:
    """A transfer encoding and the encoded text: 7bit where that is possible, else the shorter of two encodings."""
    text = characters(text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.endswith("\n"):
        text += "\n"
    if (
        text.isascii()
        and (len(text) < MAX_LINE or max(map(len, text.split("\n"))) < MAX_LINE)
        and not text.encode().translate(None, _TEXT)  # no control characters
        and (token not in text)  # no boundary
    ):
        return "7bit", text.replace("\n", "\r\n")
    return encode_octets(_octets(text.replace("\n", "\r\n"), field))


def _octets(text: str, field: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{field}: it has half a surrogate pair: {error}", field=field) from error
