"""The Django app. The backend works without it; in ``INSTALLED_APPS`` it adds the system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

__all__ = ["SmtpbackendConfig"]


class SmtpbackendConfig(AppConfig):
    """Registers the checks."""

    name = "smtpbackend_django"
    label = "smtpbackend"
    verbose_name = _("Mail delivery")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from smtpbackend_django.checks import register_checks

        register_checks()
