"""The MIME tree of a message, as Flask-Mail makes it."""

from __future__ import annotations

import email.message
import re
import unicodedata
from collections.abc import Iterable, Mapping
from email import policy
from email.charset import Charset
from email.encoders import encode_base64
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from smtpbackend import InvalidInput
from smtpbackend.adapters import LINE, MAX_LINE, encode_octets, filename_parameter, parsed_message, text_field
from smtpbackend_flask.sanitize import encoded, force_text, sanitize_addresses

if TYPE_CHECKING:
    from smtpbackend_flask.message import Message
    from smtpbackend_flask.sanitize import Mailbox

__all__ = ["part_text", "tree_of"]

_unsafe_in_text = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]").search  # ESC: ISO-2022-JP
_media_type = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+\s*(?:;.*)?", re.ASCII).fullmatch

# Fields a message has at most once (RFC 5322 3.6): given as extra header, they replace what was made.
_ONCE = frozenset(
    ("date", "from", "sender", "reply-to", "to", "cc", "message-id", "in-reply-to", "references", "subject")
)


def tree_of(given: Message, ascii_names: bool) -> email.message.Message:
    """The tree of a message; ``ascii_names`` writes names of files in ASCII alone."""
    encoding = given.charset or "utf-8"
    message: email.message.Message = _text(given.body, "plain", encoding)
    if given.alts:
        alternative = MIMEMultipart("alternative", None, [message])
        for subtype, content in given.alts.items():
            alternative.attach(_text(content, subtype, encoding))
        message = MIMEMultipart("mixed", None, [alternative])
    elif given.attachments:
        message = MIMEMultipart("mixed", None, [message])
    _write_headers(message, given, encoding)
    for attachment in given.attachments:
        message.attach(_part(attachment, ascii_names))
    is_ascii = all(str(value).isascii() for name, value in message.raw_items() if name in _ADDRESSES)
    message.policy = policy.SMTP if is_ascii else policy.SMTPUTF8
    return message


def part_text(content: Any) -> str:
    """The content of a part: octets decoded, lazy strings resolved, nothing for None."""
    return "" if content is None else force_text(content)


def _text(content: Any, subtype: str, charset_name: str) -> MIMENonMultipart:
    """A part of text, in ``charset`` if that has every character, else in UTF-8."""
    text = part_text(content)
    charset = Charset(charset_name)
    name = str(charset.output_charset)
    try:
        octets = text.encode(charset.output_codec or name)
    except (UnicodeEncodeError, LookupError):
        name = "utf-8"
        try:
            octets = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"{subtype}: half a surrogate pair cannot be sent: {error}", field=subtype) from error
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


def _write_headers(message: email.message.Message, given: Message, encoding: str) -> None:
    if given.subject:
        message["Subject"] = _subject(force_text(given.subject), encoding)
    if given.sender:
        message["From"] = _address_list("From", [given.sender], encoding)
    if given.recipients:  # Flask-Mail writes an empty field, which RFC 5322 3.6.3 has not
        message["To"] = _address_list("To", given.recipients, encoding)
    message["Date"] = formatdate(given.date, localtime=True)
    message["Message-ID"] = given.msgId
    if given.cc:
        message["Cc"] = _address_list("Cc", given.cc, encoding)
    if given.reply_to:
        message["Reply-To"] = _address_list("Reply-To", [given.reply_to], encoding)
    for name, value in (given.extra_headers or {}).items():
        if name.lower() in _ONCE:
            del message[name]
        message[name] = force_text(value)


_ADDRESSES = frozenset(("From", "To", "Cc", "Reply-To"))


def _subject(subject: str, encoding: str) -> str:
    """A subject in short lines; one that is folded already stays as it is."""
    if not subject.isascii():
        return encoded(re.sub(r"\r?\n(?=[ \t])", "", subject), encoding, header_name="Subject")
    if "\n" in subject or "\r" in subject:
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
    # Fields with UTF-8 in an address are folded when the message is written.
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
        part.attach(parsed_message(data, "attachments"))
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
