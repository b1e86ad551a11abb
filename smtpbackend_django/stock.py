"""Whether Django's rendering is still Django's own: only then may the core write in its place.

A subclass, or a function that somebody put in place of another, leaves a message as it alone knows. What this module
looks at is all that ``message()`` and ``as_bytes()`` go through; what it holds it against was there when it was
imported, and is trusted only if it came from the files of Django and of the ``email`` package.
"""

from __future__ import annotations

import email.contentmanager
import email.encoders
import email.generator
import email.message
import email.mime.base
import email.policy
import os
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import django
from django.core.mail import message as mail

__all__ = ["is_stock"]

if django.VERSION >= (6, 0):
    _METHODS: tuple[str, ...] = (
        *("message", "_add_bodies", "_add_attachments", "_add_attachment"),
        *("_set_list_header_if_not_empty", "_idna_encode_address_header_domains"),
    )
    _OF_ALTERNATIVES: tuple[str, ...] = ()
    _PLACES: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (mail, ("email", "AddressHeader", "Address", "force_str", "force_bytes", "punycode")),
        (email.policy, ("SMTP",)),
        (email.message, ("EmailMessage",)),
        (email.generator, ("BytesGenerator",)),
        (email.contentmanager, ("raw_data_manager", "set_text_content", "set_bytes_content")),
        (
            email.message.EmailMessage,
            (
                *("__init__", "__setitem__", "set_content", "set_param", "set_payload", "set_boundary", "attach"),
                *("make_mixed", "make_alternative", "add_attachment", "add_alternative", "_add_multipart"),
                *("as_bytes", "raw_items", "items", "replace_header"),
            ),
        ),
        (email.generator.BytesGenerator, ("flatten", "_write", "_write_headers", "_handle_text", "_handle_multipart")),
        (email.policy.EmailPolicy, ("fold", "fold_binary", "_fold", "header_store_parse", "header_max_count")),
    )
else:
    _METHODS = (
        *("message", "_create_message", "_create_attachments", "_create_attachment", "_create_mime_attachment"),
        "_set_list_header_if_not_empty",
    )
    _OF_ALTERNATIVES = ("_create_alternatives",)
    _MESSAGE = (
        "__init__",
        "__setitem__",
        "as_bytes",
        "add_header",
        "attach",
        "set_payload",
        "set_charset",
        "set_param",
    )
    _PLACES = (
        (
            mail,
            (
                *("SafeMIMEText", "SafeMIMEMultipart", "SafeMIMEMessage", "MIMEBase", "Encoders", "Header"),
                *("forbid_multi_line_headers", "sanitize_address", "generator", "getaddresses", "punycode"),
                *("utf8_charset", "utf8_charset_qp", "RFC5322_EMAIL_LINE_LENGTH_LIMIT", "ADDRESS_HEADERS"),
            ),
        ),
        (mail.SafeMIMEText, _MESSAGE),
        (mail.SafeMIMEMultipart, _MESSAGE),
        (email.mime.base.MIMEBase, _MESSAGE),
        (mail.utf8_charset, ("body_encoding", "output_charset")),
        (mail.utf8_charset_qp, ("body_encoding", "output_charset")),
        (email.encoders, ("encode_base64", "encode_7or8bit")),
        (email.generator, ("BytesGenerator",)),
        (email.generator.BytesGenerator, ("flatten", "_write", "_write_headers", "_handle_text", "_handle_multipart")),
        (email.policy.Compat32, ("fold", "fold_binary", "_fold", "header_store_parse")),
    )

_overridable = frozenset(_METHODS + _OF_ALTERNATIVES)
_PLACES += ((mail.EmailMessage, _METHODS), (mail.EmailMultiAlternatives, _METHODS + _OF_ALTERNATIVES))
_looks: tuple[tuple[Any, Callable[[Any], Any]], ...] = tuple((place, attrgetter(*names)) for place, names in _PLACES)


def _seen() -> list[Any]:
    return [look(place) for place, look in _looks]


def _registries() -> tuple[Any, ...]:
    """What is changed in place: header classes and content managers that a site adds."""
    policy: Any = email.policy.SMTP
    return policy.header_factory.registry, policy.content_manager.set_handlers, policy.content_manager


def _is_from(function: Any, origin: str) -> bool:
    code = getattr(function, "__code__", None)
    return code is None or os.path.realpath(code.co_filename).startswith(origin)


def _came_from_their_files() -> bool:
    django_ = os.path.realpath(os.path.dirname(django.__file__))
    package = os.path.realpath(os.path.dirname(email.message.__file__))
    return all(
        _is_from(one, django_) or _is_from(one, package)
        for seen in _seen()
        for one in (seen if isinstance(seen, tuple) else (seen,))
    )


_originals = _seen()
_header_classes, _handlers, _content_manager = (
    dict(_registries()[0]),
    dict(_registries()[1]),
    _registries()[2],
)
_trusted = _came_from_their_files()


def is_stock(message: Any) -> bool:
    """Whether nothing but Django's own functions would render this message."""
    kind = type(message)
    if not _trusted or (kind is not mail.EmailMessage and kind is not mail.EmailMultiAlternatives):
        return False
    if not _overridable.isdisjoint(message.__dict__) or [look(place) for place, look in _looks] != _originals:
        return False
    policy: Any = email.policy.SMTP
    manager = policy.content_manager
    return (
        manager is _content_manager
        and manager.set_handlers == _handlers
        and policy.header_factory.registry == _header_classes
    )
