"""The one write gate: every command line is built here, from validated tokens.

C0, DEL, non-ASCII without SMTPUTF8, and lines over the limit are refused, whatever the callers have checked. Content
passes through `stuffed`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from smtpbackend.address import Address, reject_injection
from smtpbackend.envelope import Recipient
from smtpbackend.errors import InvalidInput
from smtpbackend.text import characters

__all__ = [
    "DATA",
    "END",
    "NOOP",
    "QUED",
    "QUIT",
    "RSET",
    "STARTTLS",
    "auth",
    "bdat",
    "ehlo",
    "expn",
    "helo",
    "help_",
    "lhlo",
    "mail",
    "rcpt",
]

MAX_LINE = 512  # RFC 5321 4.5.3.1.4, with CRLF
MAX_MAIL = MAX_LINE + 26 + 17 + 10 + 500  # RFC 1870 3, RFC 6152 2, RFC 6531 3.1, RFC 3461 4
MAX_RCPT = MAX_LINE + 500  # RFC 3461 4
MAX_AUTH = 12288  # RFC 4954 4

DATA = b"DATA\r\n"
END = b".\r\n"
NOOP = b"NOOP\r\n"
QUED = b"QUED\r\n"  # of XQUE, which has no RFC
QUIT = b"QUIT\r\n"
RSET = b"RSET\r\n"
STARTTLS = b"STARTTLS\r\n"

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f]")
# RFC 5321 4.1.2; "_" is in use as well
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?|\[[A-Za-z0-9.:-]+\]")
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")  # esmtp-keyword, RFC 5321 4.1.2
_VALUE = re.compile(r"[\x21-\x3c\x3e-\x7e]+")  # esmtp-value


def _line(text: str, field: str, limit: int = MAX_LINE, utf8: bool = False) -> bytes:
    """``text`` as one command line. Raises `InvalidInput` that names ``field``."""
    if text.isascii() and text.isprintable() and len(text) + 2 <= limit:  # no control character is printable
        return text.encode("ascii") + b"\r\n"
    if _FORBIDDEN.search(text):
        reject_injection(text, field)
        raise InvalidInput(f"{field} has a control character: {text!r}", field=field)
    if not utf8 and not text.isascii():
        raise InvalidInput(f"{field} has a character outside ASCII: {text!r}; it needs SMTPUTF8", field=field)
    try:
        line = text.encode("utf-8") + b"\r\n"
    except UnicodeEncodeError as error:  # UTF-8 has no surrogates
        raise InvalidInput(f"{field} has half a surrogate pair: {text!r}", field=field) from error
    if len(line) > limit:
        raise InvalidInput(f"{field} makes a line of {len(line)} octets; the limit is {limit}", field=field)
    return line


def check_client_name(name: str, setting: str = "client_name") -> str:
    """``name`` if it can stand behind EHLO: a domain or an address literal. Raises `InvalidInput`."""
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise InvalidInput(f"{setting} {name!r} is neither a domain nor an address literal", field="client_name")
    return name


def ehlo(name: str) -> bytes:
    """RFC 5321 4.1.1.1."""
    return _line(f"EHLO {check_client_name(name)}", "client_name")


def lhlo(name: str) -> bytes:
    """RFC 2033 4.1."""
    return _line(f"LHLO {check_client_name(name)}", "client_name")


def helo(name: str) -> bytes:
    """RFC 5321 4.1.1.1, for servers that do not know EHLO."""
    return _line(f"HELO {check_client_name(name)}", "client_name")


def parameters(values: Mapping[str, str | None]) -> str:
    """ESMTP parameters, each with a blank before it (RFC 5321 4.1.2)."""
    for keyword, value in values.items():
        if not _KEYWORD.fullmatch(keyword):
            raise InvalidInput(f"SMTP parameter {keyword!r} is not a keyword", field="extra")
        if value is not None and not _VALUE.fullmatch(value):
            raise InvalidInput(f"SMTP parameter {keyword} has a value that is not allowed: {value!r}", field=keyword)
    return "".join(f" {keyword}" if value is None else f" {keyword}={value}" for keyword, value in values.items())


def mail(sender: Address | None, values: Mapping[str, str | None], utf8: bool = False) -> bytes:
    """MAIL with its parameters (RFC 5321 4.1.1.2); None is the null reverse-path."""
    path = "" if sender is None else sender.addr_spec
    return _line(f"MAIL FROM:<{path}>{parameters(values) if values else ''}", "sender", MAX_MAIL, utf8)


def rcpt(recipient: Recipient, values: Mapping[str, str | None], utf8: bool = False) -> bytes:
    """RCPT with its parameters (RFC 5321 4.1.1.3)."""
    path = recipient.address.addr_spec
    return _line(f"RCPT TO:<{path}>{parameters(values) if values else ''}", "recipients", MAX_RCPT, utf8)


def auth(mechanism: str, initial: str | None = None) -> bytes:
    """AUTH, with the initial response in base64 where there is one (RFC 4954 4)."""
    if not re.fullmatch(r"[A-Z0-9_-]{1,20}", mechanism):  # RFC 4422 3.1
        raise InvalidInput(f"{mechanism!r} is not the name of a SASL mechanism", field="auth_mechanisms")
    return _line(f"AUTH {mechanism}" if initial is None else f"AUTH {mechanism} {initial}", "credentials", MAX_AUTH)


def auth_response(response: str) -> bytes:
    """The answer to a challenge, in base64, or ``*`` to cancel (RFC 4954 4)."""
    return _line(response, "credentials", MAX_AUTH)


def bdat(size: int, last: bool) -> bytes:
    """The command before a chunk of ``size`` octets (RFC 3030 2)."""
    return b"BDAT %d LAST\r\n" % size if last else b"BDAT %d\r\n" % size


def vrfy(argument: str, utf8: bool = False) -> bytes:
    """RFC 5321 4.1.1.6."""
    argument = characters(argument)
    if not argument.strip():
        raise InvalidInput("VRFY needs an address or a name", field="address")
    return _line(f"VRFY {argument}" + (" SMTPUTF8" if utf8 else ""), "address", utf8=utf8)


def expn(argument: str) -> bytes:
    """RFC 5321 4.1.1.7."""
    return _line(f"EXPN {characters(argument)}", "list name")


def help_(argument: str = "") -> bytes:
    """RFC 5321 4.1.1.8."""
    return _line(f"HELP {characters(argument)}" if argument else "HELP", "argument")


def stuffed_whole(content: bytes) -> bytes:
    """A whole content as `stuffed` makes it."""
    if content.startswith(b"."):
        content = b"." + content
    return content.replace(b"\r\n.", b"\r\n..")


def stuffed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Content for DATA: a dot at the start of a line is doubled (RFC 5321 4.5.2). The lines end in CRLF already."""
    tail = b"\r\n"  # the last two octets: the content begins at the start of a line
    for chunk in chunks:
        if not chunk:
            continue
        joined = tail + chunk
        yield joined.replace(b"\r\n.", b"\r\n..")[len(tail) :] if b"\r\n." in joined else chunk
        tail = joined[-2:]
