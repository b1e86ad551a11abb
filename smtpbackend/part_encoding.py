"""Which parts of an ``email.message.Message`` have to be encoded to arrive, and which must not, since they are signed.

What is encoded is a copy: the caller's message stays as it is.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

from smtpbackend.content import MAX_LINE, base64_lines, crlf, encode_octets
from smtpbackend.content_type import media_type, raw
from smtpbackend.errors import InvalidInput
from smtpbackend.header import LINE

if TYPE_CHECKING:
    import email.message

__all__ = [
    "LABEL",
    "begins_signature",
    "damage",
    "encoded_copy",
    "has_header_signature",
    "is_signed",
    "may_be_7bit",
    "needs_encoding",
    "payload_octets",
    "relabelled",
    "seven_bit_copy",
]

# What is signed -----------------------------------------------------------------------------------------------------

_SIGNED = frozenset(
    (
        *("multipart/signed", "multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"),
        *("application/pgp-encrypted", "application/pgp-signature"),
    )
)


def has_header_signature(message: email.message.Message) -> bool:
    """Whether header fields are signed as well (RFC 6376, RFC 8617)."""
    return "dkim-signature" in message or "arc-message-signature" in message


def is_signed(message: email.message.Message) -> bool:
    """Whether a change of the content would break a signature (RFC 1847, RFC 3156, RFC 8551, RFC 6376)."""
    return has_header_signature(message) or any(map(begins_signature, message.walk()))


def begins_signature(part: email.message.Message) -> bool:
    """Whether a signature covers this part with all that is in it."""
    return media_type(part) in _SIGNED or has_header_signature(part)


def may_be_7bit(message: email.message.Message) -> bool:
    """Whether all that is signed is 7-bit already, so that `seven_bit_copy` may encode the rest."""
    if not begins_signature(message):
        payload: Any = message._payload  # type: ignore[attr-defined]
        return all(map(may_be_7bit, payload)) if isinstance(payload, list) else True
    return all(_is_7bit(part) for part in message.walk())


def _is_7bit(part: email.message.Message) -> bool:
    texts = [text for text in (part._payload, part.preamble, part.epilogue) if isinstance(text, (str, bytes))]  # type: ignore[attr-defined]
    texts += [str(value) for _, value in part.raw_items()]
    return all(text.isascii() for text in texts)


# What has to be encoded -----------------------------------------------------------------------------------------------


def payload_octets(payload: Any) -> bytes:
    if payload is None:
        return b""
    if isinstance(payload, str):
        try:
            payload = payload.encode("ascii", "surrogateescape")
        except UnicodeEncodeError as error:
            why = "message: a part has text beyond ASCII and no charset; use set_content, or set_payload with a charset"
            raise InvalidInput(why, field="message") from error
    if not isinstance(payload, bytes):
        raise InvalidInput(f"message: a part holds {type(payload).__name__}, not text", field="message")
    return crlf(payload)


def seven_bit_copy(message: email.message.Message) -> email.message.Message:
    """A copy in which what is not 7-bit, or has lines over 998 octets, is encoded. What is signed stays."""
    if begins_signature(message):
        return message
    twin: Any = copy.copy(message)
    twin._headers = [(name, _seven_bit_value(value)) for name, value in message.raw_items()]
    payload = twin._payload
    for margin in ("preamble", "epilogue"):
        text = getattr(twin, margin)
        if text is not None:
            setattr(twin, margin, text.encode("ascii", "replace").decode("ascii"))
    encoding = None
    if isinstance(payload, list):
        twin._payload = [seven_bit_copy(part) for part in payload]
        if _encoding(message) in ("8bit", "binary"):
            encoding = "7bit"
    else:
        octets = payload_octets(payload)
        if not octets.isascii() or max(map(len, octets.split(b"\r\n"))) > MAX_LINE or damage(message):
            encoding, twin._payload = _encoded_payload(twin)
    if encoding is not None:
        _replace_encoding(twin, encoding)
    return twin  # type: ignore[no-any-return]


def needs_encoding(message: email.message.Message) -> bool:
    """Whether a part of it would not arrive as it is: it is binary, or has NUL."""
    return any(map(damage, message.walk()))


LABEL = "Content-Transfer-Encoding: binary"
_wide = re.compile(
    "utf-?(?:16|32)|ucs-?[24]", re.IGNORECASE
).search  # charsets with NUL, and other octets for line ends


def damage(message: email.message.Message) -> str:
    """What keeps a part from arriving as it is, or "".

    Servers drop or refuse NUL. Each line is sent with CRLF at its end, so octets that are no lines change. The label
    "binary" needs BINARYMIME (RFC 3030 3), which is not used. A text may have the line ends of this system: they are
    lines, and so are those of a part in ASCII.
    """
    payload: Any = message._payload  # type: ignore[attr-defined]
    if isinstance(payload, list):
        return LABEL if _encoding(message) == "binary" else ""
    if isinstance(payload, bytes):
        payload = payload.decode("ascii", "surrogateescape")
    if not isinstance(payload, str):
        return ""
    if "\0" in payload:
        return "NUL"
    encoding = _encoding(message)
    is_binary = encoding == "binary"
    if not (encoding in ("base64", "quoted-printable") or _has_lines(message)):
        ends, returns, feeds = payload.count("\r\n"), payload.count("\r"), payload.count("\n")
        if returns != ends or (feeds != ends and (ends or is_binary)):
            return "line ends that are none of a text"
        if feeds != ends and not payload.isascii():
            return LABEL
    return LABEL if is_binary else ""


def _encoding(message: email.message.Message) -> str:
    return str(raw(message, "content-transfer-encoding") or "").strip().lower()


def _has_lines(message: email.message.Message) -> bool:
    """Whether its line ends may be changed."""
    kind = media_type(message)
    return _is_text(message) if kind.startswith("text/") else kind.startswith(("message/", "multipart/"))


def _is_text(message: email.message.Message) -> bool:
    return media_type(message).startswith("text/") and _wide(str(raw(message, "content-type"))) is None


def encoded_copy(message: email.message.Message) -> email.message.Message:
    twin: Any = copy.copy(message)
    twin._headers = list(twin._headers)
    encoding, twin._payload = _encoded_payload(twin)
    _replace_encoding(twin, encoding)
    return twin  # type: ignore[no-any-return]


def relabelled(message: email.message.Message) -> email.message.Message:
    """A copy of what holds parts, labelled as they are once the binary ones are encoded."""
    twin: Any = copy.copy(message)
    twin._headers = list(twin._headers)
    _replace_encoding(twin, "7bit" if all(damage(part) or _is_7bit(part) for part in message.walk()) else "8bit")
    return twin  # type: ignore[no-any-return]


def _encoded_payload(message: Any) -> tuple[str, str]:
    """A transfer encoding for a part, and its encoded content."""
    payload_octets(message._payload)
    if len(str(raw(message, "content-transfer-encoding") or "")) > LINE:
        _replace_encoding(message, "binary")  # it is no encoding
    decoded: bytes = message.get_payload(decode=True)
    if _is_text(message):
        return encode_octets(crlf(decoded))
    return "base64", base64_lines(decoded).decode("ascii")


def _seven_bit_value(value: Any) -> Any:
    if isinstance(value, str) and not hasattr(value, "fold") and not value.isascii():
        return re.sub(r"\r?\n(?=[ \t])", "", value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    return value


def _replace_encoding(message: Any, encoding: str) -> None:
    """Label a part; one label is left where it had several."""
    name = "Content-Transfer-Encoding"
    places = [number for number, (key, _) in enumerate(message._headers) if key.lower() == name.lower()]
    place = places[0] if places else len(message._headers)
    kept = [header for number, header in enumerate(message._headers) if number not in places]
    message._headers = [*kept[:place], (message._headers[place][0] if places else name, encoding), *kept[place:]]
