"""Whether a function of Django was replaced: else the core may do its work.

The functions are remembered when this module is imported, and trusted only if they were defined in modules of Django
and of the standard library. ``message.py`` finds out whether a message overrides its own rendering.
"""

from __future__ import annotations

import email.charset
import email.encoders
import email.generator
import email.header
import email.message
import email.policy
import sys
from collections.abc import Iterator
from operator import attrgetter, call
from types import FunctionType
from typing import Any

import django
from django.core.mail import message as mail
from django.core.mail.backends import smtp

__all__ = ["RENDERING", "is_untouched", "prepares_as_django"]

_KINDS = (mail.EmailMessage, mail.EmailMultiAlternatives)
# What a message of Django does beside rendering; and names of Django's module that are looked up with each call.
_NOT_RENDERING = frozenset(
    (
        *("__init__", "send", "recipients", "get_connection", "attach", "attach_file", "attach_alternative"),
        *("body_contains", "datetime", "timezone", "get_current_timezone", "formatdate", "make_msgid", "DNS_NAME"),
        *("settings", "force_str", "EmailMessage", "EmailMultiAlternatives", "warnings"),
    )
)
_COMMON: tuple[Any, ...] = (email.message.Message, email.generator.BytesGenerator, email.generator.Generator)
# Each class comes after its subclasses
if django.VERSION >= (6, 0):
    _CLASSES = (email.message.EmailMessage, email.message.MIMEPart, *_COMMON, email.policy.EmailPolicy)
else:
    _CLASSES = (
        *(mail.SafeMIMEMultipart, mail.SafeMIMEText, mail.MIMEMixin, mail.MIMEMultipart, mail.MIMEText, mail.MIMEBase),
        *(*_COMMON, email.policy.Compat32, email.header.Header, email.charset.Charset),
    )


def _names(place: Any) -> tuple[str, ...]:
    """The functions of a class; of a class of messages those that render; of Django's module the classes too."""
    wanted = (FunctionType, type) if place is mail else FunctionType
    names = sorted(set(dir(place)) - (_NOT_RENDERING if place in (mail, *_KINDS) else set()))
    return tuple(name for name in names if isinstance(getattr(place, name), wanted))


def _places() -> Iterator[tuple[Any, Any]]:
    """Each class or module, and a getter of all its functions; those that a subclass inherits are left out."""
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


RENDERING = frozenset(_names(mail.EmailMultiAlternatives))
"""The methods of a message that render it."""
_looks = tuple(zip(*_places(), strict=True))


def _found() -> list[Any]:
    """The functions that are there now, and the registries that a site may add to, such as that of header classes."""
    policy: Any = email.policy.SMTP
    places, looks = _looks
    found = [*map(call, looks, places)]
    found += (policy, policy.header_factory.registry, policy.content_manager.set_handlers)
    return found


def _were_there(found: list[Any]) -> bool:
    """Whether each function and class was defined in a module of Django or of the standard library."""
    modules: set[str] = set()
    for place in found:
        for one in place if isinstance(place, tuple) else place.values() if isinstance(place, dict) else ():
            if isinstance(one, FunctionType):  # its __module__ may be copied from the one that it wraps
                modules.add(one.__globals__.get("__name__", ""))
            elif isinstance(one, type):
                modules.add(one.__module__)
    return {module.partition(".")[0] for module in modules} <= {"django", *sys.stdlib_module_names}


_originals: list[Any] = [dict(one) if isinstance(one, dict) else one for one in _found()]
_is_trusted = _were_there(_originals)


def is_untouched() -> bool:
    """Whether all functions that render are those that were there at import."""
    try:
        return _is_trusted and _found() == _originals
    except AttributeError:  # one was deleted
        return False


_prepare: Any = smtp.EmailBackend.prep_address if django.VERSION >= (6, 0) else mail.sanitize_address
_prepare_is_trusted = _were_there([(_prepare,)])


def prepares_as_django(prep_address: Any) -> bool:
    """Whether addresses are prepared by Django's own function: ``prep_address`` of the backend, None before 6.0."""
    prepare = mail.sanitize_address if prep_address is None else getattr(prep_address, "__func__", None)
    return _prepare_is_trusted and prepare is _prepare
