"""`Message` and `Attachment`, as an author writes them; ``mime.py`` makes octets of them.

Arguments are checked at once, changes made later when the message is rendered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias

from smtpbackend.address import (
    Address,
    check_mixed,
    check_tuple,
    is_pair,
    parse_addresses,
    reject_injection,
)
from smtpbackend.address_list import entries, sift
from smtpbackend.errors import MAX_NAMED, InvalidInput, shortened
from smtpbackend.text import characters

if TYPE_CHECKING:
    import email.message
    from datetime import datetime

    from smtpbackend.address import Addresses, Mailbox
    from smtpbackend.sources import Source

    class SupportsAsBytes(Protocol):
        """A message of a framework that writes itself: Flask's."""

        def as_bytes(self) -> bytes: ...

    class SupportsMessage(Protocol):
        """A message of a framework that makes one of the ``email`` package: Django's."""

        def message(self) -> email.message.Message[Any, Any]: ...

    Octets = bytes | bytearray | memoryview | os.PathLike[str] | IO[bytes] | Iterable[bytes]
    # octets only with an envelope, which they have not
    Sendable: TypeAlias = "Message | email.message.Message[Any, Any] | SupportsAsBytes | SupportsMessage | Octets"
    AttachmentContent = str | bytes | os.PathLike[str] | IO[bytes] | email.message.Message

__all__ = ["Attachment", "Message"]

# Fields that hold addresses (RFC 5322 3.6.2, 3.6.3, 3.6.6, and those other standards add).
ADDRESS_FIELDS = frozenset(
    (
        *("from", "sender", "reply-to", "to", "cc", "bcc", "dcc"),
        *("resent-from", "resent-sender", "resent-reply-to", "resent-to", "resent-cc", "resent-bcc"),
        *("disposition-notification-to", "errors-to", "return-receipt-to", "mail-followup-to", "mail-reply-to"),
    )
)
RECIPIENT_FIELDS = frozenset(("to", "cc", "bcc", "dcc", "resent-to", "resent-cc", "resent-bcc", "resent-dcc"))
# Fields with hidden recipients: in no rendered message.
HIDDEN_FIELDS = frozenset(("bcc", "dcc", "resent-bcc", "resent-dcc"))

_ROUTING = ("from", "sender", "to", "cc", "bcc", "dcc")
_WRITTEN_BY_MIME = frozenset(("content-type", "content-transfer-encoding", "content-disposition", "mime-version"))
# RFC 5322 3.6: fields that a message has once. To, Cc and Reply-To are joined where they come twice.
_AT_MOST_ONCE = frozenset(
    (
        *("from", "sender", "subject", "date", "message-id", "in-reply-to", "references"),
        *("list-unsubscribe", "list-unsubscribe-post"),  # RFC 2369 3, RFC 8058 3.1
    )
)

_header_name = re.compile(r"[!-9;-~]+").fullmatch  # ftext, RFC 5322 3.6.8
_control = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search  # the tab is white space
_media_type = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+").match  # RFC 6838 4.2
_content_id = re.compile(r"[!-;=?-~]{1,900}").fullmatch
_message_id = re.compile(r"<?([!-;=?-~]{1,900})>?").fullmatch


def check_text(value: Any, field: str) -> str:
    """``value`` as a plain str if it is a str without control characters, else `InvalidInput` naming ``field``."""
    if not isinstance(value, str):
        raise InvalidInput(f"{field}: a str is wanted, not {value!r}", field=field)
    text = characters(value)
    if _control(text) is not None:
        reject_injection(text, field)
        raise InvalidInput(f"{field}: {text!r} has a control character", field=field)
    if not text.isascii():
        check_encodable(text, field)
    return text


def check_encodable(value: str, field: str) -> None:
    """Raise `InvalidInput` where ``value`` has half a surrogate pair, which has no octets."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{field}: {value!r} has half a surrogate pair", field=field) from error


def readable_filename(name: str) -> str:
    """A file name with text in the place of the octets that ``os.fsdecode`` could not read, and gives as surrogates.

    They are of UTF-8 where no locale is set, else of an old file system: read as Windows-1252, which holds Latin-1.
    """
    if name.isascii():
        return name
    return _undecoded(lambda match: _decoded(match[0].encode("utf-8", "surrogateescape")), name)


_undecoded = re.compile("[\udc80-\udcff]+").sub


def _decoded(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("windows-1252", "replace")


def check_name(name: Any) -> str:
    """``name`` if it can name a header (RFC 5322 3.6.8)."""
    if not isinstance(name, str) or _header_name(name) is None or len(name) > 200:
        raise InvalidInput(f"headers: {name!r} is not the name of a header", field="headers")
    return characters(name)


def check_message_id(value: Any, field: str = "message_id") -> str:
    """``value`` in angle brackets (RFC 5322 3.6.4)."""
    match = _message_id(check_text(value, field).strip(" "))
    if match is None:
        raise InvalidInput(f"{field}: {value!r} is not a message identifier", field=field)
    return f"<{match[1]}>"


class Attachment:
    """A file that goes with a message.

    ``content`` is bytes, a str (sent as text), a path (``pathlib.Path``), a binary file, or an
    ``email.message.Message`` (forwarded as message/rfc822). A str without a type that is the path of a file is
    refused. A path is read when the message is sent, and a file from its present position; both can be sent again, by
    many threads, but must not change before. A source that can be read only once is kept by the first Attachment that
    reads it, for all messages with this Attachment. ``filename`` defaults to the name of the file, whose octets count
    as Windows-1252 (Latin-1) where they are not UTF-8; ``content_type`` to that of the filename's extension. With a
    ``content_id`` it belongs to the HTML text, which shows it as ``cid:...``; ``inline`` means that it is shown and not
    offered for download (default: when it has a ``content_id``). Raises `InvalidInput`.
    """

    def __init__(
        self,
        content: AttachmentContent,
        filename: str | None = None,
        content_type: str | None = None,
        *,
        inline: bool | None = None,
        content_id: str | None = None,
    ) -> None:
        if isinstance(content, str) and content_type is None:
            _reject_path(content)
        self.content: Any = content
        self.filename = _filename_of(content) if filename is None else filename
        self.content_id = content_id
        self.inline = content_id is not None if inline is None else inline
        self.content_type = _type_of(content, self.filename) if content_type is None else content_type
        self._stands: tuple[Any, int | None] = (content, _start_of(content))
        self._kept: Source | None = None  # a copy of a source that can be read only once
        self.check()

    def check(self) -> None:
        """Raise `InvalidInput` if it cannot be rendered."""
        if self.filename is not None:
            if isinstance(self.filename, str):
                self.filename = readable_filename(self.filename)
            check_text(self.filename, "filename")
        check_text(self.content_type, "content_type")
        if _media_type(self.content_type) is None:
            raise InvalidInput(f"content_type: {self.content_type!r} is not a media type", field="content_type")
        if self.content_id is not None and _content_id(check_text(self.content_id, "content_id").strip("<>")) is None:
            raise InvalidInput(f"content_id: {self.content_id!r} is not a content identifier", field="content_id")

    def source(self) -> Source:
        """Its octets for one message. A source that can be read only once is kept for later messages."""
        from smtpbackend.sources import Spool, alone_with, source_of

        content, start = self._stands
        if type(content) is bytes and content is self.content:
            return source_of(content, "attachments")
        with alone_with(self):  # several threads may send it for the first time
            content, start = self._stands
            if content is not self.content:
                self._stands = content, start = self.content, _start_of(self.content)
                self._kept = None
            source = source_of(self._kept or content, "attachments", start)
            if start is None and isinstance(source, Spool):
                self._kept = source
                source = source_of(source, "attachments")
        return source

    def __repr__(self) -> str:
        return f"Attachment(filename={self.filename!r}, content_type={self.content_type!r})"


def _reject_path(text: str) -> None:
    """Raise `InvalidInput` where a text is the path of a file: which of the two is meant cannot be known."""
    if len(text) <= _MAX_PATH and "\n" not in text and os.path.isfile(text):
        raise InvalidInput(
            f"attachments: {text!r} may be a text, or the path of the file that is there: give "
            f"pathlib.Path({text!r}) to send the file, or content_type='text/plain' to send these words",
            field="attachments",
        )


_MAX_PATH = 4096  # PATH_MAX of Linux


def _filename_of(content: Any) -> str | None:
    if isinstance(content, os.PathLike):
        return os.path.basename(str(os.fspath(content)))
    name = None if isinstance(content, str) else getattr(content, "name", None)  # a member of an enumeration has one
    return os.path.basename(name) if isinstance(name, str) else None


def _type_of(content: Any, filename: str | None) -> str:
    if hasattr(content, "get_content_type"):
        return "message/rfc822"
    if filename is not None:
        import mimetypes

        media_type, encoding = mimetypes.guess_type(filename)
        if encoding is not None:
            return {"gzip": "application/gzip"}.get(encoding, "application/octet-stream")
        if media_type is not None:
            return media_type
    return "text/plain" if isinstance(content, str) else "application/octet-stream"


def _start_of(content: Any) -> int | None:
    """The position of a file that can be read again; None for everything else."""
    if isinstance(content, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(content, "get_content_type"):
        return None
    if not hasattr(content, "read"):
        raise InvalidInput(
            f"attachments: {content!r} is no content; bytes, str, a path, a binary file or a message is",
            field="attachments",
        )
    from smtpbackend.sources import position_of  # most messages have no file

    return position_of(content, "attachments")


class Message:
    """A message as its author writes it.

    Addresses are str (``Ann <ann@example.org>``), pairs (``("Ann", "ann@example.org")``) or `Address`, alone or in a
    list; one str may be several, separated by commas, an element of a list never is. ``text`` and ``html`` are the same
    content twice; ``alternatives`` are further forms of it as ``(content, media type)`` pairs.
    ``attachments`` are `Attachment` objects or paths. ``headers`` is a mapping or an iterable of ``(name, value)``
    pairs; repeated names stay, in order. ``date`` (a datetime) and ``message_id`` are made when the message is sent, if
    not given. ``list_unsubscribe`` is how a reader leaves the list: a URL, a ``mailto:`` URI or both in a list (RFC
    2369); an ``https:`` URL does it when it is sent a POST, without a question (RFC 8058). Threads may send one message
    at the same time, but not while it is changed. Raises `InvalidInput` naming the argument.

    >>> Message("Reset", "App <no-reply@example.com>", ["ann@example.org"], text="...")
    """

    def __init__(
        self,
        subject: str = "",
        from_: Addresses | None = None,
        to: Addresses = (),
        cc: Addresses = (),
        bcc: Addresses = (),
        *,
        reply_to: Addresses = (),
        sender: Mailbox | None = None,
        text: str | None = None,
        html: str | None = None,
        alternatives: Iterable[tuple[str | bytes, str]] | None = (),
        attachments: Iterable[Attachment | os.PathLike[str]] | None = (),
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = (),
        date: datetime | None = None,
        message_id: str | None = None,
        list_unsubscribe: str | Iterable[str] | None = (),
    ) -> None:
        self.subject = subject
        self.from_ = from_
        self.to = _listed(to, "to")
        self.cc = _listed(cc, "cc")
        self.bcc = _listed(bcc, "bcc")
        self.reply_to = _listed(reply_to, "reply_to")
        self.sender = sender
        self.text = text
        self.html = html
        self.alternatives = _pairs(alternatives, "alternatives")
        self.attachments = [_attachment(one) for one in _several(attachments, "attachments")]
        self.headers = _pairs(headers.items() if isinstance(headers, Mapping) else headers, "headers")
        self.date = date
        self.message_id = message_id
        is_one = isinstance(list_unsubscribe, str)
        self.list_unsubscribe = [list_unsubscribe] if is_one else [*_several(list_unsubscribe, "list_unsubscribe")]
        self.check()

    def attach(
        self,
        content: AttachmentContent,
        filename: str | None = None,
        content_type: str | None = None,
        *,
        inline: bool | None = None,
        content_id: str | None = None,
    ) -> None:
        """Add an `Attachment` made of these arguments."""
        self.attachments.append(Attachment(content, filename, content_type, inline=inline, content_id=content_id))

    def check(self) -> None:
        """Raise `InvalidInput` for what no message can have: control characters, unusable addresses and headers."""
        check_text(self.subject, "subject")
        if self.from_:
            self.authors()
        if self.reply_to:
            parse_addresses(self.reply_to, "reply_to")
        for field in ("to", "cc", "bcc"):  # each of these is a recipient of its own, and the receipt tells of it
            if given := getattr(self, field):
                sift(given, field)
        if self.sender is not None:
            Address.parse(self.sender, "sender")
        if self.message_id is not None:
            check_message_id(self.message_id)
        if self.list_unsubscribe:
            from smtpbackend.unsubscribe import uris  # most messages are to no list

            uris(self.list_unsubscribe)
        for field in ("text", "html"):
            given = getattr(self, field)
            if given is not None and not isinstance(given, str):
                raise InvalidInput(f"{field}: a str is wanted, not {type(given).__name__}", field=field)
        if self.headers:
            self._check_headers()
        for content, media_type in self.alternatives:
            if not isinstance(content, (str, bytes)) or _media_type(check_text(media_type, "alternatives")) is None:
                raise InvalidInput(f"alternatives: {media_type!r} is not a media type", field="alternatives")

    def _check_headers(self) -> None:
        seen = {name for name in ("subject", "from", "sender", "date", "message-id") if self._has(name)}
        if self.list_unsubscribe:
            seen |= {"list-unsubscribe", "list-unsubscribe-post"}
        for name, value in self.headers:
            lower = check_name(name).lower()
            if lower in _WRITTEN_BY_MIME:
                raise InvalidInput(f"headers: {name} follows from the content and cannot be given", field=name)
            if lower in seen and lower in _AT_MOST_ONCE:
                raise InvalidInput(f"headers: {name} is given twice", field=name)  # RFC 5322 3.6
            seen.add(lower)
            check_text(value, name)
            if lower in RECIPIENT_FIELDS:
                sift(value, name)
            elif lower in ADDRESS_FIELDS:
                parse_addresses(value, name)
            elif lower == "message-id":
                check_message_id(value, name)

    def _has(self, name: str) -> bool:
        return bool(getattr(self, {"from": "from_", "message-id": "message_id"}.get(name, name)))

    def authors(self) -> list[Address]:
        """The addresses of ``from_``, where a tuple of two str is always a pair."""
        given: Any = self.from_
        if isinstance(given, str):
            return parse_addresses(given, "from_")
        if _is_author(given):
            return [Address.parse(given, "from_")]
        found = parse_addresses(given, "from_")
        if len(found) > 1:
            check_mixed(found, "from_", given)
        return found

    def address_fields(self) -> Iterator[tuple[str, str, Any]]:
        """The fields of originator and recipients, in order: header, our name of it, and its value as given."""
        if self.from_:
            yield "From", "from_", [self.from_] if _is_author(self.from_) else self.from_
        if self.sender:
            yield "sender", "sender", [self.sender]
        for field in ("to", "cc", "bcc"):
            if value := getattr(self, field):
                yield field, field, value
        for name, given in self.headers:
            if name.lower().removeprefix("resent-") in _ROUTING or name.lower() == "received":
                yield name, name, given

    def __repr__(self) -> str:
        to = ", ".join(map(str, self.to[:MAX_NAMED]))
        if len(self.to) > MAX_NAMED:
            to += f" and {len(self.to) - MAX_NAMED:,} more"
        subject, author, to = (shortened(repr(text), 512) for text in (self.subject, str(self.from_ or ""), to))
        return f"Message(subject={subject}, from_={author}, to={to})"


def _is_author(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and all(isinstance(one, str) for one in given)


def _listed(given: Any, field: str) -> list[Mailbox]:
    if type(given) is list or given == ():
        return list(given)
    if isinstance(given, str):  # split now, for an element of a list is never split
        is_one = given.strip() and "," not in given and ":" not in given
        return [given] if is_one else [*entries(given, field)]
    if isinstance(given, Iterable) and not isinstance(given, (bytes, bytearray)) and not is_pair(given, field):
        if isinstance(given, tuple):
            check_tuple(given, field)
        return list(given)
    return [given]


def _several(given: Any, field: str) -> Iterable[Any]:
    """The elements of what is a list or the like; None has none."""
    if type(given) is tuple or type(given) is list:
        return given
    if given is None:
        return ()
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        return given
    raise InvalidInput(f"{field}: a list is wanted, not {type(given).__name__}", field=field)


def _pairs(given: Any, field: str) -> list[tuple[Any, str]]:
    pairs = [tuple(pair) if isinstance(pair, (tuple, list)) else () for pair in _several(given, field)]
    if any(len(pair) != 2 for pair in pairs):
        raise InvalidInput(f"{field}: pairs are wanted, not {given!r}", field=field)
    return pairs


def _attachment(given: Any) -> Attachment:
    if isinstance(given, Attachment):
        return given
    if isinstance(given, os.PathLike):
        return Attachment(given)
    raise InvalidInput(
        f"attachments: {given!r} is neither an Attachment nor a path; a path is given as pathlib.Path, all else as "
        "Attachment(...)",
        field="attachments",
    )
