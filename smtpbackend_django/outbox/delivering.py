"""Delivering in the thread and on the connection of the caller, for tests of a site."""

from __future__ import annotations

from collections.abc import Iterator

from django.core import mail

from smtpbackend import Outcome, Receipt, Status
from smtpbackend.outbox import Due, deliver_due
from smtpbackend_django.outbox import conf
from smtpbackend_django.outbox.database import store
from smtpbackend_django.outbox.process import DjangoSite
from smtpbackend_django.outbox.stored import StoredMessage

__all__ = ["deliver_now"]


def deliver_now(*, smtp: bool = False) -> int:
    """Deliver what is due in all outboxes of the site, and return how many entries were finished.

    It runs in the thread and on the connection of the caller, also within a ``TestCase``. Where Django's tests have
    ``mail.outbox``, messages are put there; with ``smtp`` they are sent by the mailer of the settings.
    """
    finished = 0
    for outbox in conf.outboxes().values():
        site = DjangoSite(outbox.database, outbox.options.environment)
        deliver = None if smtp or not conf.in_tests() else _into_mail_outbox
        finished += deliver_due(site, store(outbox.database, outbox.options.environment), outbox.alias, deliver)
    return finished


def _into_mail_outbox(dues: list[Due]) -> Iterator[tuple[Due, Receipt]]:
    for due in dues:
        mail.outbox.append(StoredMessage(due).message())
        outcomes = tuple(Outcome(one, Status.ACCEPTED, attempts=1) for one in due.envelope.recipients)
        yield due, Receipt(due.message_id, outcomes, envelope=due.envelope)
