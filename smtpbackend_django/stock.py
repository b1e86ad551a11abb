"""Whether Django's rendering is still Django's own: only then may the core write in its place.

A subclass, or a function that somebody put in place of another, leaves a message as it alone knows. Looked at is what
``message()`` and ``as_bytes()`` go through; it is held against what was there when this module was imported, and that
is trusted only if it came from the files of Django and of the ``email`` package.
"""

from __future__ import annotations

import email.charset
import email.contentmanager
import email.encoders
import email.generator
import email.header
import email.message
import email.mime.base
import email.policy
import inspect
import os
from collections.abc import Iterator
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
_COMMON: tuple[Any, ...] = (email.message.Message, email.generator.BytesGenerator, email.generator.Generator)
if django.VERSION >= (6, 0):
    _CLASSES = (email.message.EmailMessage, email.message.MIMEPart, *_COMMON, email.policy.EmailPolicy)
    _MODULES = (email.message, email.generator, email.contentmanager)
else:
    _CLASSES = (
        *(mail.SafeMIMEMultipart, mail.SafeMIMEText, mail.MIMEMixin, mail.MIMEMultipart, mail.MIMEText, mail.MIMEBase),
        *(*_COMMON, email.policy.Compat32, email.header.Header, email.charset.Charset),
    )
    _MODULES = (email.message, email.generator, email.encoders)


def _names(place: Any) -> tuple[str, ...]:
    """The functions of a class or of a module, and the classes of a module."""
    wanted: Any = FunctionType if inspect.isclass(place) else (FunctionType, type)
    found = {
        name for base in getattr(place, "__mro__", (place,)) for name, one in vars(base).items() if one is not None
    }
    return tuple(
        sorted(
            name
            for name in (found - _NOT_RENDERING if place in (mail, *_KINDS) else found)
            if name.isidentifier() and isinstance(getattr(place, name, None), wanted)
        )
    )


_overridable = frozenset(_names(mail.EmailMultiAlternatives))


def _places() -> Iterator[tuple[Any, Any]]:
    """Where to look, and what takes all that is there at once; what a class above would show alike is left out."""
    above: list[Any] = []
    for place in (mail.EmailMultiAlternatives, mail.EmailMessage, *_CLASSES, mail, *_MODULES):
        subclasses = [one for one in above if inspect.isclass(place) and issubclass(one, place)]
        names = [
            name for name in _names(place) if all(getattr(one, name) is not getattr(place, name) for one in subclasses)
        ]
        above += [place] if inspect.isclass(place) else []
        if names:
            yield place, attrgetter(*names)


_looks = tuple(_places())


def _seen() -> list[Any]:
    """What is in each place now; and what is changed in place, such as the header classes that a site adds."""
    policy: Any = email.policy.SMTP
    seen = [look(place) for place, look in _looks]
    return [*seen, policy, policy.header_factory.registry, policy.content_manager.set_handlers]


def _came_from_their_files(seen: list[Any]) -> bool:
    home, standard = (
        os.path.join(os.path.realpath(os.path.dirname(one)), "") for one in (django.__file__, os.__file__)
    )
    found = [one for place in seen for one in (place if isinstance(place, tuple) else (place,))]
    functions = [one for one in found if isinstance(one, FunctionType)]
    files = {os.path.realpath(one.__code__.co_filename) for one in functions}
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
