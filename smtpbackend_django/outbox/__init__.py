"""The outbox of a Django site: mail that leaves if, and only if, the transaction commits.

``BACKEND: "smtpbackend_django.outbox.OutboxBackend"`` with ``OPTIONS: {"using": alias}``; before Django 6.1
``EMAIL_BACKEND = "smtpbackend_django.outbox.OutboxBackend"``. The app ``"smtpbackend_django.outbox"`` has to be in
``INSTALLED_APPS``: it has the tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpbackend.adapters import on_first_use

if TYPE_CHECKING:
    from smtpbackend_django.outbox.backend import OutboxBackend, send
    from smtpbackend_django.outbox.delivering import deliver_now
    from smtpbackend_django.outbox.signals import entry_failed, mailer_down, message_expired

__all__ = ["OutboxBackend", "deliver_now", "entry_failed", "mailer_down", "message_expired", "send"]

_HOMES = {
    "smtpbackend_django.outbox.backend": ("OutboxBackend", "send"),
    "smtpbackend_django.outbox.delivering": ("deliver_now",),
    "smtpbackend_django.outbox.signals": ("entry_failed", "mailer_down", "message_expired"),
}

# The models must not be loaded before the apps are
__getattr__, __dir__ = on_first_use(__name__, _HOMES)
