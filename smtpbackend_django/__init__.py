"""smtpbackend for Django: ``EMAIL_BACKEND = "smtpbackend_django.EmailBackend"``.

It translates Django's settings, messages and signals; all else is in ``smtpbackend``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core import mail

from smtpbackend.adapters import on_first_use, register_messages

if TYPE_CHECKING:
    from smtpbackend_django.backend import EmailBackend, mailer_settings

__all__ = ["EmailBackend", "mailer_settings"]

register_messages(mail.EmailMessage, "smtpbackend_django.message", "parcel_of")

# An app in INSTALLED_APPS and receivers of signals need no backend
__getattr__, __dir__ = on_first_use(__name__, {"smtpbackend_django.backend": __all__})
