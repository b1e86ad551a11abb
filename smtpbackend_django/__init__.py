"""smtpbackend for Django: ``EMAIL_BACKEND = "smtpbackend_django.EmailBackend"``.

It translates Django's settings, messages and signals; all else is in ``smtpbackend``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core import mail

from smtpbackend.adapters import register_messages

if TYPE_CHECKING:
    from smtpbackend_django.backend import EmailBackend, mailer_settings

__all__ = ["EmailBackend", "mailer_settings"]

register_messages(mail.EmailMessage, "smtpbackend_django.message", "parcel_of")


def __getattr__(name: str) -> Any:
    """The backend, when it is first asked for: an app in ``INSTALLED_APPS`` and receivers of signals need none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from smtpbackend_django import backend

    return getattr(backend, name)
