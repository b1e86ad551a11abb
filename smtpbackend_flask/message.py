"""Flask-Mail's `Message`, with its constructor, attributes and MIME tree; what becomes of it is in ``translate.py``.

Unlike Flask-Mail's, it keeps the order of recipients, needs no app context, encodes what is not ASCII in 7 bits, and
never looks up a host name.
"""

from __future__ import annotations

import email.message
import os
import re
import unicodedata
import warnings
from collections.abc import Iterable, KeysView, Mapping
from email import policy
from email.charset import Charset
from email.encoders import encode_base64
from email.header import Header
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from flask import current_app

from smtpbackend.address import Address, check_tuple, is_pair
from smtpbackend.content import MAX_LINE, encode_octets
from smtpbackend.content_type import parsed
from smtpbackend.errors import Injection, InvalidInput
from smtpbackend.header import LINE, filename_parameter, text_field

if TYPE_CHECKING:
    from smtpbackend.outcome import Receipt
    from smtpbackend_flask.extension import Connection

    Mailbox = str | tuple[str, str] | Address
    """Somebody: an address, with a display name or without, or a pair of both."""
    Mailboxes = list[str] | list[tuple[str, str]] | list[Address] | list[Mailbox]

__all__ = [
    "Attachment",
    "BadHeaderError",
    "FlaskMailUnicodeDecodeError",
    "IncompleteMessage",
    "Message",
    "force_text",
    "sanitize_address",
    "sanitize_addresses",
    "sanitize_subject",
]

_control = re.compile("[\x00-\x08\x0a-\x1f\x7f]").search  # the tab is white space
_injection = re.compile("[\r\n\x00]").search
_unsafe_in_text = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]").search  # ESC: ISO-2022-JP
_line_end = re.compile(r"\r\n|\r|\n")
_specials = re.compile(r'[][\\()<>@,:;"]').search  # RFC 5322 3.2.3, the dot aside (4.1)
_media_type = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+\s*(?:;.*)?", re.ASCII).fullmatch

# Fields a message has at most once (RFC 5322 3.6): given as extra header, they replace what was made.
_ONCE = frozenset(
    ("date", "from", "sender", "reply-to", "to", "cc", "message-id", "in-reply-to", "references", "subject")
)


class BadHeaderError(Injection):
    """A header has a line break or another control character, an address CR, LF or NUL; ``field`` names it."""

    def __init__(self, message: str = "a header has a line break or another control character", **context: Any) -> None:
        super().__init__(message, **context)


class IncompleteMessage(InvalidInput, AssertionError):
    """A message has no recipients or no sender; an ``AssertionError``, as Flask-Mail raises."""


class FlaskMailUnicodeDecodeError(UnicodeDecodeError):
    """Octets that are not in the encoding they were taken for; ``obj`` is what was given."""

    def __init__(self, obj: Any, *args: Any) -> None:
        self.obj = obj
        super().__init__(*args)

    def __str__(self) -> str:
        return f"{super().__str__()}. You passed in {self.obj!r} ({type(self.obj)})"


# Flask-Mail's functions


def force_text(s: Any, encoding: str = "utf-8", errors: str = "strict") -> str:
    """``s`` as str: octets decoded, lazy strings resolved. Raises `FlaskMailUnicodeDecodeError`."""
    if isinstance(s, str):
        return s
    try:
        return str(s, encoding, errors) if isinstance(s, (bytes, bytearray)) else str(s)
    except UnicodeDecodeError as error:
        raise FlaskMailUnicodeDecodeError(s, *error.args) from error


def sanitize_subject(subject: str, encoding: str = "utf-8") -> str:
    """``subject`` as encoded words (RFC 2047) if it is not ASCII."""
    return subject if subject.isascii() else _encoded(subject, encoding)


def sanitize_address(addr: Mailbox, encoding: str = "utf-8") -> str:
    """``addr`` as it stands in a header: the name in encoded words, the domain as A-labels, line breaks taken out."""
    name, addr_spec = _parts(addr)
    if not name:
        return addr_spec
    if not name.isascii():
        name = _encoded(name, encoding, header_name="Reply-To")  # the longest: the first line fits behind any
    elif _specials(name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{name} <{addr_spec}>"


def sanitize_addresses(addresses: Iterable[Mailbox], encoding: str = "utf-8") -> list[str]:
    """`sanitize_address` of each."""
    return [sanitize_address(address, encoding) for address in addresses]


def _parts(mailbox: Any) -> tuple[str, str]:
    """Display name and addr-spec; what cannot be sent is told where the envelope is made."""
    name = ""
    if isinstance(mailbox, (tuple, list)) and len(mailbox) == 2:
        name, mailbox = _line_end.sub("", force_text(mailbox[0] or "")), mailbox[1]
    if not isinstance(mailbox, Address):
        mailbox = address_text(mailbox)
        if not mailbox.isprintable():
            mailbox = _line_end.sub("", mailbox)
    try:
        address = Address.parse((name, mailbox))
    except InvalidInput:
        found_name, addr_spec = _angle_address(mailbox) or ("", mailbox.strip())
        return name or found_name, addr_spec
    return address.display_name, address.addr_spec


def _angle_address(text: str) -> tuple[str, str] | None:
    """Name and address of ``name <address>``, whatever they are; None where there is no such thing."""
    name, bracket, rest = text.partition("<")
    addr_spec = rest.strip().rstrip(">")
    if not bracket or ">" in name or "<" in addr_spec or ">" in addr_spec:
        return None
    return name.strip().strip('"'), addr_spec


def _encoded(text: str, encoding: str, **options: Any) -> str:
    try:
        return Header(text, encoding, **options).encode()
    except (UnicodeEncodeError, LookupError):
        return Header(text, "utf-8", **options).encode()


def address_text(mailbox: Any, field: str = "address") -> str:
    """An address as str: octets decoded, lazy strings and headers resolved. Raises `InvalidInput` for all else.

    The text of a model, a number or None may look like a mailbox of the server.
    """
    if isinstance(mailbox, (str, bytes, bytearray, Header)) or hasattr(mailbox, "casefold"):
        return force_text(mailbox)
    raise InvalidInput(
        f"{field}: an address is a str, an Address or a pair of name and address, not {mailbox!r}", field=field
    )


def joined(pair: Any, field: str) -> str:
    """A pair of name and address as one str that can be parsed again."""
    if len(pair) != 2:
        raise InvalidInput(f"{field}: {pair!r} is no pair of name and address", field=field)
    name, addr = pair
    if isinstance(addr, Address):
        addr = addr.addr_spec
    name, addr = force_text(name or ""), address_text(addr, field)
    if "<" in addr or "," in addr:  # else one of a pair would be two
        addr = Address.parse(addr, field).addr_spec
    if _specials(name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{name} <{addr}>" if name else addr


# Messages


class Attachment:
    """A file that goes with a `Message`. ``content_type`` defaults to what the filename's ending says.

    ``disposition`` is "attachment" (default) or "inline"; ``headers`` are further headers of the part.
    """

    def __init__(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: str | bytes | bytearray | memoryview | None = None,
        disposition: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        if data is None:
            raise ValueError("The 'data' argument is required.")
        if content_type is None and filename is not None:
            from mimetypes import guess_type

            content_type = guess_type(filename)[0]
        if content_type is None:
            content_type = "text/plain" if isinstance(data, str) else "application/octet-stream"
        self.filename = filename
        self.content_type = content_type
        self.data = data
        self.disposition = disposition or "attachment"
        self.headers: dict[str, str] = dict(headers or {})


class Message:
    """A message as Flask-Mail has it.

    ``recipients``, ``cc`` and ``bcc`` are lists of addresses: ``"ann@example.org"``, ``"Ann <ann@example.org>"`` or
    ``("Ann", "ann@example.org")``. ``sender`` defaults to ``MAIL_DEFAULT_SENDER`` of the app, when the message is made
    or when it is sent. ``alts`` maps subtypes of text (``html``) to content; ``date`` is in seconds since the epoch.
    ``mail_options`` and ``rcpt_options`` are SMTP parameters ("RET=HDRS", "NOTIFY=FAILURE").
    """

    def __init__(
        self,
        subject: str = "",
        recipients: Mailboxes | None = None,
        body: str | None = None,
        html: str | None = None,
        alts: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        sender: Mailbox | None = None,
        cc: Mailboxes | None = None,
        bcc: Mailboxes | None = None,
        attachments: list[Attachment] | None = None,
        reply_to: Mailbox | None = None,
        date: float | None = None,
        charset: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
        mail_options: list[str] | None = None,
        rcpt_options: list[str] | None = None,
    ) -> None:
        for field, given in (("recipients", recipients), ("cc", cc), ("bcc", bcc)):
            if isinstance(given, str):
                raise InvalidInput(f"{field}: a list of addresses is wanted, not {given!r}", field=field)
        sender = sender or _default_sender()
        # lists of its own: what is added to one message goes with no other
        self.recipients: list[Any] = _listed(recipients, "recipients")
        self.subject = subject
        self.sender = joined(sender, "sender") if isinstance(sender, tuple) else sender
        self.reply_to = reply_to
        self.cc: list[Any] = _listed(cc, "cc")
        self.bcc: list[Any] = _listed(bcc, "bcc")
        self.body = body
        self.alts: dict[str, str] = dict(alts or {})
        if html is not None:
            self.html = html
        self.date = date
        self.charset = charset
        self.extra_headers = extra_headers
        self.mail_options: list[str] = list(mail_options or ())
        self.rcpt_options: list[str] = list(rcpt_options or ())
        self.attachments: list[Attachment] = list(attachments or ())

    @property
    def msgId(self) -> str:
        """The Message-ID, made at the first look with the domain of the sender."""
        found: str | None = self.__dict__.get("_msg_id")
        if found is None:
            domain = _parts(self.sender)[1].rpartition("@")[2] if self.sender else ""
            made = f"<{os.urandom(16).hex()}@{domain if domain.isascii() and domain else 'localhost'}>"
            found = self.__dict__.setdefault("_msg_id", made)  # of several threads the first makes it
        return found

    @msgId.setter
    def msgId(self, value: str) -> None:
        self.__dict__["_msg_id"] = value

    @property
    def send_to(self) -> KeysView[Mailbox]:
        """Everybody who gets the message: a set, in the order of recipients, cc and bcc."""
        everybody = [*self.recipients, *self.cc, *self.bcc]
        try:
            return dict.fromkeys(everybody).keys()
        except TypeError:  # headers, and pairs that are lists
            return dict.fromkeys(map(_hashable, everybody)).keys()

    @property
    def html(self) -> str | None:
        """The HTML alternative."""
        return self.alts.get("html")

    @html.setter
    def html(self, value: str | None) -> None:
        if value is None:
            self.alts.pop("html", None)
        else:
            self.alts["html"] = value

    def add_recipient(self, recipient: Mailbox) -> None:
        """Add one recipient."""
        self.recipients.append(recipient)

    def attach(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: str | bytes | bytearray | memoryview | None = None,
        disposition: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Add an `Attachment` made of these arguments."""
        self.attachments.append(Attachment(filename, content_type, data, disposition, headers))

    def has_bad_headers(self) -> bool:
        """Whether there is a `BadHeaderError` to be raised; a folded subject is none."""
        return bad_header(self) is not None

    def is_bad_headers(self) -> bool:
        """The old name of `has_bad_headers`."""
        warnings.warn("'is_bad_headers' is renamed to 'has_bad_headers'.", DeprecationWarning, stacklevel=2)
        return self.has_bad_headers()

    def send(self, connection: Connection) -> Receipt:
        """Send the message over ``connection``."""
        return connection.send(self)

    def as_string(self) -> str:
        """The message as text, with CRLF line ends."""
        return self._message().as_string()

    def as_bytes(self) -> bytes:
        """The message as octets, with CRLF line ends."""
        return self._message().as_bytes()

    def __str__(self) -> str:
        return self.as_string()

    def __bytes__(self) -> bytes:
        return self.as_bytes()

    # The MIME tree -----------------------------------------------------------------------------------------------

    def _message(self) -> email.message.Message:
        encoding = self.charset or "utf-8"
        message: email.message.Message = self._text(self.body, "plain")
        if self.alts:
            alternative = MIMEMultipart("alternative", None, [message])
            for subtype, content in self.alts.items():
                alternative.attach(self._text(content, subtype))
            message = MIMEMultipart("mixed", None, [alternative])
        elif self.attachments:
            message = MIMEMultipart("mixed", None, [message])
        self._write_headers(message, encoding)
        ascii_names = _app_option("ascii_attachments", False)
        for attachment in self.attachments:
            message.attach(_part(attachment, ascii_names))
        is_ascii = all(str(value).isascii() for name, value in message.raw_items() if name in _ADDRESSES)
        message.policy = policy.SMTP if is_ascii else policy.SMTPUTF8
        return message

    def _text(self, content: Any, subtype: str) -> MIMENonMultipart:
        """A part of text, in ``charset`` if that has every character, else in UTF-8."""
        text = "" if content is None else force_text(content)
        charset = Charset(self.charset or "utf-8")
        name = str(charset.output_charset)
        try:
            octets = text.encode(charset.output_codec or name)
        except (UnicodeEncodeError, LookupError):
            name = "utf-8"
            try:
                octets = text.encode()
            except UnicodeEncodeError as error:
                raise InvalidInput(
                    f"{subtype}: half a surrogate pair cannot be sent: {error}", field=subtype
                ) from error
        part = MIMENonMultipart("text", subtype, charset=name)
        encoding = "7bit"
        longest = max((len(line) for line in octets.splitlines()), default=0)
        if octets.isascii() and longest <= MAX_LINE and not _unsafe_in_text(octets.decode("ascii")):
            payload = octets.decode("ascii")
        else:
            encoding, payload = encode_octets(re.sub(rb"\r\n?|\n", b"\r\n", octets))
        part["Content-Transfer-Encoding"] = encoding
        part.set_payload(payload)
        return part

    def _write_headers(self, message: email.message.Message, encoding: str) -> None:
        if self.subject:
            message["Subject"] = _subject(force_text(self.subject), encoding)
        if self.sender:
            message["From"] = _address_list("From", [self.sender], encoding)
        if self.recipients:  # Flask-Mail writes an empty field, which RFC 5322 3.6.3 has not
            message["To"] = _address_list("To", self.recipients, encoding)
        message["Date"] = formatdate(self.date, localtime=True)
        message["Message-ID"] = self.msgId
        if self.cc:
            message["Cc"] = _address_list("Cc", self.cc, encoding)
        if self.reply_to:
            message["Reply-To"] = _address_list("Reply-To", [self.reply_to], encoding)
        for name, value in (self.extra_headers or {}).items():
            if name.lower() in _ONCE:
                del message[name]
            message[name] = force_text(value)


_ADDRESSES = frozenset(("From", "To", "Cc", "Reply-To"))


def _subject(subject: str, encoding: str) -> str:
    """A subject in short lines; one that is folded already stays as it is."""
    if not subject.isascii():
        return _encoded(re.sub(r"\r?\n(?=[ \t])", "", subject), encoding, header_name="Subject")
    if _line_end.search(subject):
        return subject
    return text_field("Subject", subject, "subject").removeprefix("Subject: ").removesuffix("\r\n")


def _address_list(field: str, mailboxes: Iterable[Mailbox], encoding: str) -> str:
    """Addresses without duplicates, in order, in lines of at most 78 octets where they can be broken."""
    written, line = "", len(field) + 2
    for number, address in enumerate(dict.fromkeys(sanitize_addresses(mailboxes, encoding))):
        first, *others = address.split("\n")
        if number:
            fits = line + 2 + len(first) < LINE
            written, line = (written + ", ", line + 2) if fits else (written + ",\n ", 1)
        if not others and line + len(first) >= LINE and " <" in first:
            name, _, addr_spec = first.rpartition(" <")
            first, others = name, [f" <{addr_spec}"]
        elif others and len(others[-1]) >= LINE - 1 and " <" in others[-1]:
            name, _, addr_spec = others[-1].rpartition(" <")
            others[-1:] = [name, f" <{addr_spec}"]
        written += "\n".join([first, *others])
        line = len(others[-1]) if others else line + len(first)
    # UTF-8 in an address is no business of the email package's: who flattens the message folds the field.
    return written if written.isascii() else written.replace("\n", "")


def _part(attachment: Any, ascii_names: bool) -> email.message.Message:
    """An attachment as a MIME part; base64, as Flask-Mail sends all of them."""
    if _media_type(attachment.content_type) is None:
        raise InvalidInput(f"content_type: {attachment.content_type!r} is not a media type", field="content_type")
    main, _, subtype = attachment.content_type.partition("/")
    data, is_text = attachment.data, isinstance(attachment.data, str)
    if is_text:
        data = data.encode()
    elif not isinstance(data, bytes):
        if not isinstance(data, (bytearray, memoryview)):
            raise InvalidInput(f"data: octets or a str are wanted, not {type(data).__name__}", field="data")
        data = bytes(data)
    if is_text and main.lower() == "text" and not data.isascii() and "charset=" not in subtype.lower():
        part = MIMEBase(main, subtype, charset="utf-8")
    else:
        part = MIMEBase(main, subtype)
    if main.lower() == "message" and subtype.lower() == "rfc822":  # base64 is forbidden there, RFC 2046 5.2.1
        part.attach(parsed(data, "attachments"))
    else:
        part.set_payload(data)
        encode_base64(part)
    filename = attachment.filename
    if filename is not None and ascii_names:
        ascii_only = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode("ascii")
        filename = " ".join(ascii_only.split())
    if filename is not None or attachment.disposition != "attachment":
        part["Content-Disposition"] = attachment.disposition + filename_parameter(filename)
    headers = attachment.headers
    for name, value in headers.items() if isinstance(headers, Mapping) else headers or ():
        part[name] = value
    return part


_WITH_ADDRESSES = frozenset(("sender", "reply_to", "recipients", "cc", "bcc"))


def _hashable(mailbox: Any) -> Any:
    if isinstance(mailbox, Header):
        return str(mailbox)
    return tuple(mailbox) if isinstance(mailbox, list) else mailbox


def _listed(given: Any, field: str) -> list[Any]:
    if not given:
        return []
    if isinstance(given, tuple):
        if is_pair(given, field):
            return [given]
        check_tuple(given, field)
    return list(given)


def bad_header(message: Any) -> str | None:
    """The first field of a `Message`, or of one like it, that must not be sent as it is."""
    checked: list[tuple[str, Any]] = [("sender", message.sender), ("reply_to", getattr(message, "reply_to", None))]
    for field in ("recipients", "cc", "bcc"):
        checked += [(field, mailbox) for mailbox in getattr(message, field, None) or ()]
    for name, value in (getattr(message, "extra_headers", None) or {}).items():
        checked += [("extra_headers", name), (name, value)]
    for attachment in getattr(message, "attachments", None) or ():
        checked += [("filename", attachment.filename), ("content_type", attachment.content_type)]
        checked.append(("disposition", attachment.disposition))
        headers = attachment.headers or {}
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            checked += [("headers", name), (name, value)]
    try:  # the most of them are clean str, and joined they take one look
        if _control("".join([value for _, value in checked if value is not None])) is None:
            checked = []
    except TypeError:
        pass
    for field, value in checked:
        for text in value if isinstance(value, (tuple, list)) else (value,):
            # The core writes the tabs of a name, and their kind, as blanks
            unsafe = _injection if field in _WITH_ADDRESSES else _control
            if text is not None and not isinstance(text, Address) and unsafe(force_text(text)):
                return field
    return "subject" if _is_bad_subject(force_text(message.subject or "")) else None


def _is_bad_subject(subject: str) -> bool:
    """Line breaks are allowed where they fold the subject (RFC 5322 2.2.3)."""
    lines = subject.split("\r\n")
    return any(_control(line) for line in lines) or (
        len(lines) > 1 and (any(not line.strip() for line in lines) or any(line[0] not in "\t " for line in lines[1:]))
    )


# The app, where there is one


def _app_option(name: str, default: Any) -> Any:
    if not current_app:
        return default
    extensions = current_app.extensions
    return getattr(extensions.get("smtpbackend") or extensions.get("mail"), name, default)


def _default_sender() -> Any:
    return _app_option("default_sender", None)
