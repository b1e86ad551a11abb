"""The addresses of a message in a form that makes Django's headers name the addresses of the envelope.

Django takes no pairs of name and address, and encodes hosts by IDNA 2003, where "faß.de" is another host. A message
with either is copied, with addresses that mean the same to Django. A message with identifiers or URLs that Django would
write as encoded words is copied as well.
"""

from __future__ import annotations

import copy
import re
from email.header import Header
from typing import Any

from django.utils.functional import Promise

from smtpbackend import Address, InvalidInput
from smtpbackend.adapters import ADDRESS_FIELDS, IDENTIFIERS, ascii_domain, characters, identifier_text

__all__ = ["mailbox", "with_our_addresses", "with_our_hosts"]

# The host behind an @; what stands in quotes, or behind one that nothing closes, is a name or a local part
_host = re.compile(r'"(?:[^"\\]++|\\.?)*+"?+|@([^\s<>()\[\]@,;:"\\]++)(?=\s*(?:[>,;(]|$))', re.DOTALL)


def with_our_addresses(message: Any) -> Any:
    """The message, or a copy with pairs and hosts of IDNA 2008 in a form that Django reads as the envelope does."""
    changed: dict[str, Any] = {}
    given = getattr(message, "from_email", None)
    if _is_other(written := _as_django_takes(given, "from_email"), given):
        changed["from_email"] = written
    for attribute in ("subject", "body"):
        given = getattr(message, attribute, None)
        if _is_other(written := _plain(given), given):
            changed[attribute] = written
    for attribute in ("to", "cc", "reply_to"):
        values = getattr(message, attribute, None) or ()
        listed = [_as_django_takes(one, attribute) for one in values]
        if any(map(_is_other, listed, values)):
            changed[attribute] = listed
    given = getattr(message, "extra_headers", None) or {}
    headers = {_plain(name): _header(name, value) for name, value in given.items()}
    if any(map(_is_other, headers, given)) or any(map(_is_other, headers.values(), given.values())):
        changed["extra_headers"] = headers
    if not changed:
        return message
    message = copy.copy(message)
    message.__dict__.update(changed)
    return message


def _header(name: str, value: Any) -> Any:
    value, lower = _plain(value), name.lower()
    if lower in IDENTIFIERS and isinstance(value, str):
        return identifier_text(value)
    return _as_django_takes(value, name) if lower in ADDRESS_FIELDS else value


def _as_django_takes(given: Any, field: str) -> Any:
    if isinstance(given, (tuple, list)):
        given = mailbox(given, field)
    elif isinstance(given, (Promise, Header)):  # each is equal to its text, which Django uses
        given = str(given)
    given = _plain(given)
    return with_our_hosts(given) if isinstance(given, str) else given


def _is_other(written: Any, given: Any) -> bool:
    return bool(written != given) or (isinstance(given, str) and type(written) is not type(given))


def _plain(value: Any) -> Any:
    """The characters of a str. Django writes its ``__str__``, which is another text for an enumeration."""
    return characters(value) if isinstance(value, str) and str(value) != characters(value) else value


def mailbox(pair: Any, field: str) -> str:
    """A pair of name and address as Django takes it: one str."""
    address = Address.parse(pair, field)
    name = re.sub(r'(["\\])', r"\\\1", address.display_name)
    return f'"{name}" <{address.addr_spec}>' if name else address.addr_spec


def with_our_hosts(text: str) -> str:
    """``text`` with the A-labels of each domain that Django, by IDNA 2003, would encode otherwise or refuse."""
    return text if text.isascii() else _host.sub(_our_host, text)


def _our_host(match: re.Match[str]) -> str:
    domain = match[1]
    if domain is None:
        return match[0]
    try:
        ours = ascii_domain(domain, "")
        djangos = domain.encode("idna").decode("ascii")
    except InvalidInput:
        return match[0]  # Django refuses it
    except UnicodeError:
        djangos = ""
    return match[0] if ours == djangos else f"@{ours}"
