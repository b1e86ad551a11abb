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
from collections.abc import Iterator
from operator import attrgetter, call
from types import FunctionType
from typing import Any

import django
from django.core.mail import message as mail
from django.core.mail.backends import smtp

__all__ = ["is_stock", "is_untouched", "prepares_as_django"]

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
# Each behind its subclasses
if django.VERSION >= (6, 0):
    _CLASSES = (email.message.EmailMessage, email.message.MIMEPart, *_COMMON, email.policy.EmailPolicy)
else:
    _CLASSES = (
        *(mail.SafeMIMEMultipart, mail.SafeMIMEText, mail.MIMEMixin, mail.MIMEMultipart, mail.MIMEText, mail.MIMEBase),
        *(*_COMMON, email.policy.Compat32, email.header.Header, email.charset.Charset),
    )


def _names(place: Any) -> tuple[str, ...]:
    """The functions of a class; of a kind of message those that render; of Django's module the classes too."""
    wanted = (FunctionType, type) if place is mail else FunctionType
    names = sorted(set(dir(place)) - (_NOT_RENDERING if place in (mail, *_KINDS) else set()))
    return tuple(name for name in names if isinstance(getattr(place, name), wanted))


def _places() -> Iterator[tuple[Any, Any]]:
    """Where to look, and what takes all that is there at once; what a subclass shows alike is left out."""
    done: list[Any] = []
    for place in (*reversed(_KINDS), *_CLASSES):
        below = [one for one in done if issubclass(one, place)]
        names = [name for name in _names(place) if all(getattr(one, name) is not getattr(place, name) for one in below)]
        done.append(place)
        if names:
            yield place, attrgetter(*names)
    yield mail, attrgetter(*_names(mail))
    yield email.message, attrgetter("EmailMessage", "MIMEPart")
    yield email.generator, attrgetter("BytesGenerator", "Generator")
    yield email.encoders, attrgetter("encode_base64", "encode_7or8bit")


_overridable = frozenset(_names(mail.EmailMultiAlternatives))
_looks = tuple(zip(*_places(), strict=True))


def _seen() -> list[Any]:
    """What is in each place now; and what is changed in place, such as the header classes that a site adds."""
    policy: Any = email.policy.SMTP
    places, looks = _looks
    seen = [*map(call, looks, places)]
    seen += (policy, policy.header_factory.registry, policy.content_manager.set_handlers)
    return seen


def _came_from_their_files(seen: list[Any]) -> bool:
    home, standard = (
        os.path.join(os.path.realpath(os.path.dirname(one)), "") for one in (django.__file__, os.__file__)
    )
    found = [one for place in seen for one in (place if isinstance(place, tuple) else (place,))]
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


def is_untouched() -> bool:
    """Whether all functions that render are those that were there at import."""
    try:
        return _trusted and _seen() == _originals
    except AttributeError:  # somebody took one away
        return False


def is_stock(message: Any, untouched: bool | None = None) -> bool:
    """Whether nothing but Django's own functions would render this message. ``untouched``: where that was asked."""
    if type(message) not in _KINDS or not _overridable.isdisjoint(message.__dict__):
        return False
    return is_untouched() if untouched is None else untouched
