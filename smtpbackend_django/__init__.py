"""smtpbackend for Django: ``EMAIL_BACKEND = "smtpbackend_django.EmailBackend"``.

What is about mail stands in ``smtpbackend``; here Django's settings, messages and signals are translated.
"""

from __future__ import annotations

from smtpbackend_django.backend import EmailBackend

__all__ = ["EmailBackend"]
