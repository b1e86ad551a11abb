"""smtpbackend for Django: ``EMAIL_BACKEND = "smtpbackend_django.EmailBackend"``.

It translates Django's settings, messages and signals; all else is in ``smtpbackend``.
"""

from __future__ import annotations

from smtpbackend_django.backend import EmailBackend, mailer_settings

__all__ = ["EmailBackend", "mailer_settings"]
