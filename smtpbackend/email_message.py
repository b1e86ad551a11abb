"""From an ``email.message.Message`` to octets, without a change to the caller's object.

Missing headers are added, and Bcc and its kind are left out. All else keeps its octets but for line ends. Only
``Content.as_7bit`` makes a copy that is encoded anew.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from smtpbackend.address import Address, addresses_in_field
from smtpbackend.address_list import sift_field
from smtpbackend.content import CHUNK, MAX_LINE, Content, Lines, Piece, crlf, has_utf8
from smtpbackend.content_type import delimiters, media_type, parsed, with_boundary
from smtpbackend.errors import InvalidInput
from smtpbackend.header import (
    IDENTIFIERS,
    LINE,
    address_field,
    any_field,
    date_of,
    in_time,
    is_costly,
    short_ascii,
    text_field,
)
from smtpbackend.message import ADDRESS_FIELDS, HIDDEN_FIELDS, RECIPIENT_FIELDS, check_name, check_text
from smtpbackend.part_encoding import (
    LABEL,
    begins_signature,
    damage,
    encoded_copy,
    has_header_signature,
    may_be_7bit,
    payload_octets,
    relabelled,
    seven_bit_copy,
)
from smtpbackend.refolding import arrives, rewritten
from smtpbackend.text import characters

if TYPE_CHECKING:
    import email.message


def flatten(message: email.message.Message, date: datetime, token: str) -> Content:
    flat = Flattener(token)
    head, message_id = flat.head(message, date)
    flat.body()

    def seven_bit() -> Content | None:
        return flatten(seven_bit_copy(message), date, token) if may_be_7bit(message) else None

    return Content(flat.finish(), message_id=message_id, needs_smtputf8=has_utf8(head), seven_bit=seven_bit)


def encoded_anew(content: Content) -> Content | None:
    """The message of a content without octets beyond ASCII; None where a signature forbids it. All is in memory."""
    message = parsed(b"".join(content.chunks()), "message")
    if not may_be_7bit(message):
        return None
    flat = Flattener("")
    flat.message(seven_bit_copy(message), is_root=True)
    return Content(flat.finish(), message_id=content.message_id)


class Flattener:
    """Writes a message of the ``email`` package as ``email.generator.BytesGenerator`` does, but changes nothing in it.

    The generator folds headers anew, marks lines that begin with "From ", writes an empty line after a nested
    multipart, and sets boundaries in the caller's message. Each of these would break a signature, or that message.
    """

    def __init__(self, token: str, prefix: str = "") -> None:
        self.boundaries = 0
        self._token, self._prefix = token, prefix
        self._out: list[Piece] = []
        self._root: Any = None
        self._delimiters: set[str] | None = None
        self._is_signed = False  # what is written now
        self._policy: Any = None

    def finish(self) -> list[Piece]:
        """All that was written, with small pieces joined and the last line ended."""
        pieces: list[Piece] = []
        small: list[bytes] = []
        for piece in self._out:
            if isinstance(piece, bytes) and len(piece) < CHUNK:
                small.append(piece)
            else:
                pieces += [b"".join(small), piece]
                small = []
        pieces.append(b"".join(small))
        pieces = [piece for piece in pieces if piece]
        if not (pieces[-1] if isinstance(pieces[-1], bytes) else pieces[-1].last).endswith(b"\n"):
            pieces.append(b"\r\n")
        return pieces

    def head(self, message: email.message.Message, date: datetime) -> tuple[bytes, str | None]:
        """Write the header section, missing fields added, and return its octets and the Message-ID."""
        self._root = message
        self._is_signed = begins_signature(message)
        self._root = message = self._encoded(self._with_boundary(message))
        self._policy = _folding_policy(message)
        found: dict[str, Any] = {}
        for name, value in message.raw_items():
            lower = check_name(name).lower()
            if lower not in HIDDEN_FIELDS:
                found.setdefault(lower, value)
                self.field(name, value, may_fold=True)
        if "sender" not in found and "from" in found and "," in str(found["from"]):
            authors = _addresses_in("From", found["from"])
            if len(authors) > 1:
                self._out.append(address_field("Sender", authors[:1]).encode())
        if "mime-version" not in found:
            self._out.append(b"MIME-Version: 1.0\r\n")
        if "date" not in found:
            self._out.append(f"Date: {date_of(date)}\r\n".encode("ascii"))
        if "message-id" in found:
            message_id = "".join(str(found["message-id"]).split()) or None
        else:
            authors = _addresses_in("From", found["from"]) if "from" in found else []
            message_id = f"<{self._token}@{(authors[0].ascii_domain if authors else '') or 'localhost'}>"
            self._out.append(f"Message-ID: {message_id}\r\n".encode("ascii"))
        head = b"".join([piece for piece in self._out if isinstance(piece, bytes)])
        self._out = [head, b"\r\n"]
        return head, message_id

    def body(self) -> None:
        """Write the body behind `head`."""
        self._body(self._root, is_root=True)

    def message(self, message: email.message.Message, is_root: bool = False) -> None:
        """Write a message or a part unchanged."""
        self._root = self._root or message
        outside = self._is_signed
        self._is_signed = outside or begins_signature(message)
        message = self._encoded(self._with_boundary(message))
        if self._policy is None:
            self._policy = _folding_policy(message)
        for name, value in message.raw_items():
            self.field(name, value)
        # Where the parser found no empty line between headers and body, none is written.
        if not _has_defect(message, "MissingHeaderBodySeparatorDefect"):
            self._out.append(b"\r\n")
        self._body(message, is_root)
        self._is_signed = outside

    def _with_boundary(self, message: email.message.Message) -> email.message.Message:
        if not media_type(message).startswith("multipart/"):
            return message
        new = f"=_{self._prefix}{self.boundaries + 1}.{self._token}"
        bound: email.message.Message = with_boundary(message, new, self._taken, self._is_signed)
        self.boundaries += bound is not message
        return bound

    def _encoded(self, message: email.message.Message) -> email.message.Message:
        """The part, or a copy of one that would not arrive as it is."""
        if not (why := damage(message)):
            return message
        kind = media_type(message)
        if self._is_signed:
            if why == LABEL:  # its octets arrive, whatever they are called
                return message
            cannot = "is signed"
        elif not kind.startswith(("message/", "multipart/")):
            return encoded_copy(message)
        elif why == LABEL:
            return relabelled(message)
        else:
            cannot = "is of a type that is never encoded (RFC 2046 5)"
        raise InvalidInput(
            f"message: a part of type {kind} has {why}, and cannot be encoded, since it {cannot}; give its content "
            "base64 before",
            field="message",
        )

    def _taken(self) -> set[str]:
        if self._delimiters is None:
            self._delimiters = delimiters(self._root)
        return self._delimiters

    def field(self, name: str, value: Any, may_fold: bool = False) -> None:
        """Write one field. It is folded anew only where a line of it is too long, and ``may_fold`` allows it."""
        name = check_name(name)
        if type(value) is not str and isinstance(value, str) and not hasattr(value, "fold"):
            value = characters(value)
        if (
            isinstance(value, str)
            and short_ascii(value) is not None
            and len(name) + len(value) <= LINE - 2
            and not (hasattr(value, "fold") and "=?" in value)
        ):
            self._out.append(f"{name}: {value}\r\n".encode("ascii"))
            return
        octets = self._folded(name, value, may_fold)
        if may_fold and len(octets) > MAX_LINE and max(map(len, octets.split(b"\r\n"))) > MAX_LINE:
            unfolded = octets.partition(b":")[2].replace(b"\r\n", b"").decode("utf-8", "replace")
            octets = any_field(name, unfolded.strip(" \t")).encode()
        self._out.append(octets)

    def _folded(self, name: str, value: Any, is_head: bool) -> bytes:
        try:
            return self._written(name, value, is_head)
        except InvalidInput:
            if name.lower() not in RECIPIENT_FIELDS:
                raise
            readable, refused = sift_field(name, value)
            if not refused:
                raise
            return address_field(name, readable).encode() if readable else b""  # the receipt has the others

    def _written(self, name: str, value: Any, is_head: bool) -> bytes:
        is_structured = hasattr(value, "addresses") or hasattr(value, "params")
        if hasattr(value, "fold") and is_costly(str(value), is_structured):
            return (rewritten(name, value) if hasattr(value, "params") else in_time(name, str(value))).encode()
        if hasattr(value, "fold"):
            text = self._header_object(name, value, is_head)
        elif isinstance(value, str):
            if not value.isascii() and not _has_surrogate(value):
                return _encoded_field(name, value).encode()
            # The parser removes one space, unless the line ends there.
            text = f"{name}:{value}\r\n" if value.startswith(("\r", "\n")) else f"{name}: {value}\r\n"
        else:  # email.header.Header
            from email.errors import MessageError

            try:
                text = f"{name}: {value.encode(linesep=_CRLF)}\r\n"
            except MessageError as error:
                raise InvalidInput(f"{name}: {error}", field=name) from error
            if "=?" in text and name.lower() in ADDRESS_FIELDS:
                text = _readable(name, value, text)
            elif "=?" in text and name.lower() in IDENTIFIERS:
                text = text_field(name, str(value))
        octets = crlf(text.encode("utf-8", "surrogateescape"))
        if _unsafe_value(octets[:-2]):
            raise InvalidInput(f"{name}: {str(value)!r} has a control character", field=name)
        return octets

    def _header_object(self, name: str, value: Any, is_head: bool) -> str:
        """A header of ``email.headerregistry``."""
        if any(not address.addr_spec.isascii() for address in getattr(value, "addresses", ())):
            return rewritten(name, value)  # the package would write encoded words where RFC 2047 5 forbids them
        from email.errors import MessageError

        try:
            field = str(value.fold(policy=self._policy))
        except (MessageError, IndexError, AttributeError, ValueError, TypeError):  # known defects of the package
            return rewritten(name, value)
        # A signature was made over what the package writes
        is_signed = has_header_signature(self._root) if is_head else self._is_signed
        return field if is_signed or arrives(name, value, field) else rewritten(name, value)

    def _body(self, message: email.message.Message, is_root: bool = False) -> None:
        payload: Any = message._payload  # type: ignore[attr-defined]  # get_payload() decodes 8-bit text
        kind = media_type(message)
        main = kind.partition("/")[0]
        if main == "multipart" and isinstance(payload, list):
            self._multipart(message, payload, is_root)
        elif main == "multipart" and payload is None:
            self._multipart(message, [], is_root)
        elif kind == "message/delivery-status" and isinstance(payload, list):
            for number, block in enumerate(payload):
                self._out.append(b"\r\n" if number else b"")
                for name, value in block.raw_items():
                    self.field(name, value)
        elif isinstance(payload, list) and payload:
            self.message(payload[0], is_root)
        else:
            if main == "multipart" and not is_root and _has_defect(message, "StartBoundaryNotFoundDefect"):
                payload = re.sub(r"\r?\n\Z", "", payload)  # it is that of the next delimiter
            self._out.append(_payload_piece(payload))

    def _multipart(self, message: email.message.Message, parts: list[Any], is_root: bool) -> None:
        boundary = message.get_boundary() or ""
        out = self._out
        if message.preamble is not None:
            out.append(self._margin(message.preamble) + b"\r\n")
        delimiter = b"--" + boundary.encode("ascii", "surrogateescape")
        out.append(delimiter + b"\r\n")
        for number, part in enumerate(parts):
            if number:
                out.append(b"\r\n" + delimiter + b"\r\n")
            self.message(part)
        out.append(b"\r\n" + delimiter + b"--")
        # None: not even a line end followed. The root gets one in any case.
        if message.epilogue is not None:
            out.append(b"\r\n" + self._margin(message.epilogue))
        elif is_root:
            out.append(b"\r\n")

    def _margin(self, text: Any) -> bytes:
        """What stands before the first part, or behind the last. Readers do not show it, and NUL in it is left out."""
        octets = payload_octets(text)
        if b"\0" in octets and self._is_signed:
            raise InvalidInput(
                "message: a signed part has NUL before its first part or behind its last", field="message"
            )
        return octets.replace(b"\0", b"")


_CRLF = "\r\n"


def _folding_policy(message: email.message.Message) -> Any:
    from email import policy

    own = message.policy
    if isinstance(own, policy.EmailPolicy):
        return own.clone(linesep="\r\n", cte_type="8bit", max_line_length=own.max_line_length or LINE)
    return policy.SMTP


def _has_defect(message: email.message.Message, name: str) -> bool:
    """Whether the parser found this defect (a class of ``email.errors``)."""
    return any(type(defect).__name__ == name for defect in message.defects)


def _has_surrogate(text: str) -> bool:
    return re.search("[\ud800-\udfff]", text) is not None


# A line end that begins no continuation line, or another control character.
_unsafe_value = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r\n(?![ \t])").search


def _encoded_field(name: str, value: str) -> str:
    """A field whose value is Unicode text, as an ``email.message.Message`` of the old kind may have it."""
    if name.lower() in ADDRESS_FIELDS:
        return any_field(name, value)
    if name.lower() in ("content-type", "content-disposition") and not is_costly(value):
        from email import policy

        check_text(value, name)
        return str(policy.SMTP.header_factory(name, value).fold(policy=policy.SMTP))
    return text_field(name, value)


def _addresses_in(name: str, value: Any) -> list[Address]:
    try:
        return addresses_in_field(name, value)
    except InvalidInput:
        return []  # it is sent as it is, and no field is derived from it


def _readable(name: str, value: Any, text: str) -> str:
    """The field ``text``, or one without encoded words where ``text`` has whole addresses in them."""
    found = _addresses_in(name, value)
    written = {one.key for one in _addresses_in(name, text.partition(": ")[2].removesuffix(_CRLF))}
    return text if not found or {one.key for one in found} == written else address_field(name, found)


def _payload_piece(payload: Any) -> Piece:
    """A payload with CRLF line ends; a large one is converted while it is sent."""
    if isinstance(payload, str) and len(payload) > CHUNK:
        try:
            return Lines(payload)
        except UnicodeEncodeError:
            pass
    return payload_octets(payload)
