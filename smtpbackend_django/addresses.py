"""The addresses of a message in a form that Django writes into headers as the envelope has them.

Django knows no pairs, and encodes hosts by IDNA 2003, where "faß.de" is another host. A message that has either is
copied, with addresses that Django reads alike.
"""

from __future__ import annotations

import copy
import re
from email.header import Header
from typing import Any

from django.utils.functional import Promise

from smtpbackend import Address, InvalidInput
from smtpbackend.adapters import ADDRESS_FIELDS, ascii_domain

__all__ = ["mailbox", "with_our_addresses", "with_our_hosts"]

_host = re.compile(r'@([^\s<>()\[\]@,;:"\\]++)(?=\s*(?:[>,;(]|$))')


def with_our_addresses(message: Any) -> Any:
    """The message, or a copy of it in which Django reads what the envelope says: pairs, and hosts of IDNA 2008."""
    changed: dict[str, Any] = {}
    given = getattr(message, "from_email", None)
    if (written := _as_django_takes(given, "from_email")) != given:
        changed["from_email"] = written
    for attribute in ("to", "cc", "reply_to"):
        values = getattr(message, attribute, None) or ()
        listed = [_as_django_takes(one, attribute) for one in values]
        if listed != list(values):
            changed[attribute] = listed
    given = getattr(message, "extra_headers", None) or {}
    headers = {
        name: _as_django_takes(value, name) if name.lower() in ADDRESS_FIELDS else value
        for name, value in given.items()
    }
    if headers != given:
        changed["extra_headers"] = headers
    if not changed:
        return message
    message = copy.copy(message)
    message.__dict__.update(changed)
    return message


def _as_django_takes(given: Any, field: str) -> Any:
    if isinstance(given, (tuple, list)):
        given = mailbox(given, field)
    elif isinstance(given, (Promise, Header)):  # each is equal to its text, which Django uses
        given = str(given)
    return with_our_hosts(given) if isinstance(given, str) else given


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
    try:
        ours = ascii_domain(domain, "")
        djangos = domain.encode("idna").decode("ascii")
    except InvalidInput:
        return match[0]  # Django refuses it
    except UnicodeError:
        djangos = ""
    return match[0] if ours == djangos else f"@{ours}"
