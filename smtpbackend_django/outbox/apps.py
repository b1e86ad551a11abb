"""The Django app: a site that does not install it gets no tables."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

__all__ = ["OutboxConfig"]


class OutboxConfig(AppConfig):
    """Registers the checks, and starts the worker of a process with its first request."""

    name = "smtpbackend_django.outbox"
    label = "smtpbackend_outbox"
    verbose_name = _("Outbox")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django.core.signals import request_started

        from smtpbackend_django.outbox.checks import register_checks
        from smtpbackend_django.outbox.process import start_with_request

        register_checks()
        request_started.connect(start_with_request, dispatch_uid="smtpbackend_outbox")
