"""Whether Django's rendering is still Django's own: only then may the core write in its place.

A subclass, or a function that somebody put in place of another, leaves a message as it alone knows. Looked at is what
``message()`` and ``as_bytes()`` go through; it is held against what was there when this module was imported, and that
is trusted only if it came from the files of Django and of the ``email`` package.
"""

from __future__ import annotations

import email.charset
import email.encoders
import email.generator
import email.header
import email.message
import email.policy
import os
from operator import attrgetter
from types import FunctionType
from typing import Any

import django
from django.core.mail import message as mail
from django.core.mail.backends import smtp

__all__ = ["is_stock", "prepares_as_django"]

_KINDS = (mail.EmailMessage, mail.EmailMultiAlternatives)
# What a message of Django does beside rendering; and what is called in Django's module, whatever it is by then.
_NOT_RENDERING = frozenset(
    (
        *("__init__", "send", "recipients", "get_connection", "attach", "attach_file", "attach_alternative"),
        *("body_contains", "datetime", "timezone", "get_current_timezone", "formatdate", "make_msgid", "DNS_NAME"),
        *("settings", "force_str", "EmailMessage", "EmailMultiAlternatives", "warnings"),
    )
)
_COMMON: tuple[Any, ...] = (email.message.Message, email.generator.Generator, email.generator.BytesGenerator)
if django.VERSION >= (6, 0):
    _CLASSES = (*_COMMON, email.message.MIMEPart, email.message.EmailMessage, email.policy.EmailPolicy)
else:
    _CLASSES = (
        *(*_COMMON, email.policy.Compat32, email.header.Header, email.charset.Charset, mail.MIMEBase, mail.MIMEText),
        *(mail.MIMEMultipart, mail.MIMEMixin, mail.SafeMIMEText, mail.SafeMIMEMultipart),
    )


def _names(place: Any) -> tuple[str, ...]:
    """What renders of a kind of message; and the functions and classes that Django's module goes by."""
    wanted = (FunctionType, type) if place is mail else FunctionType
    names = sorted(set(dir(place)) - _NOT_RENDERING)
    return tuple(name for name in names if isinstance(getattr(place, name), wanted))


_overridable = frozenset(_names(mail.EmailMultiAlternatives))
_looks: tuple[tuple[Any, Any], ...] = (
    *((place, attrgetter(*_names(place))) for place in (*_KINDS, mail)),
    (email.message, attrgetter("EmailMessage", "MIMEPart")),
    (email.generator, attrgetter("BytesGenerator", "Generator")),
    (email.encoders, attrgetter("encode_base64", "encode_7or8bit")),
)
_views = tuple(vars(one).values() for one in _CLASSES)  # which change with the classes


def _seen() -> list[Any]:
    """What is in each place now; and what is changed in place, such as the header classes that a site adds."""
    seen = [look(place) for place, look in _looks]
    seen += map(list, _views)
    policy: Any = email.policy.SMTP
    seen += (policy, policy.header_factory.registry, policy.content_manager.set_handlers)
    return seen


def _came_from_their_files(seen: list[Any]) -> bool:
    home, standard = (
        os.path.join(os.path.realpath(os.path.dirname(one)), "") for one in (django.__file__, os.__file__)
    )
    found = [one for place in seen for one in (place if isinstance(place, (tuple, list)) else ())]
    files = {os.path.realpath(one.__code__.co_filename) for one in found if isinstance(one, FunctionType)}
    return all(one.startswith(home) or (one.startswith(standard) and "-packages" not in one) for one in files)


_originals: list[Any] = [dict(one) if isinstance(one, dict) else one for one in _seen()]
_trusted = _came_from_their_files(_originals)


_prepare: Any = smtp.EmailBackend.prep_address if django.VERSION >= (6, 0) else mail.sanitize_address
_prepare_is_trusted = _came_from_their_files([(_prepare,)])


def prepares_as_django(prep_address: Any) -> bool:
    """Whether addresses are prepared by Django's own function: ``prep_address`` of the backend, None before 6.0."""
    if prep_address is None:
        return _prepare_is_trusted and mail.sanitize_address is _prepare
    return _prepare_is_trusted and getattr(prep_address, "__func__", None) is _prepare


def is_stock(message: Any) -> bool:
    """Whether nothing but Django's own functions would render this message."""
    if not _trusted or type(message) not in _KINDS or not _overridable.isdisjoint(message.__dict__):
        return False
    try:
        return _seen() == _originals
    except AttributeError:  # somebody took one away
        return False
