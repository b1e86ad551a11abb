"""The settings of the example site, and its mail waits in the database until the mail server has taken it."""

from __future__ import annotations

import django

from example_site.settings import *  # noqa: F403

if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {"BACKEND": "smtpbackend_django.outbox.OutboxBackend", "OPTIONS": {"using": "smtp"}},
        "smtp": MAILERS["default"],  # noqa: F405
    }
else:
    EMAIL_BACKEND = "smtpbackend_django.outbox.OutboxBackend"
