"""The outbox: mail that waits in the database of a site and leaves if, and only if, the transaction commits.

Its rooms, none of which knows a framework:

* ``options.py``: how it works for one mailer.
* ``entry.py``: what is stored of a message, and what a worker reads of it.
* ``schedule.py``: when it is tried again, and what a receipt means for each recipient. Pure: times are arguments.
* ``storing.py``: the statements that store mail, once for each dialect, on a connection that is given.
* ``sql.py``: all other statements, in the same way. It knows no SMTP.
* ``ledger.py``: from claimed rows to what is in hand, and from receipts to what is recorded.
* ``worker.py``: claims, drains by `Mailer.deliver`, and records. It knows no database driver.

``smtpbackend_django.outbox`` gives it models, settings and commands. The rules are those of ``docs/design.md`` 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpbackend.public_names import on_first_use

if TYPE_CHECKING:
    from smtpbackend.outbox.entry import Draft, Due, Priority, State, draft
    from smtpbackend.outbox.ledger import Entry, EntryFailed, MailerDown, MessageExpired
    from smtpbackend.outbox.options import Options
    from smtpbackend.outbox.schedule import lane_of
    from smtpbackend.outbox.sql import Store
    from smtpbackend.outbox.storing import Stored
    from smtpbackend.outbox.worker import Worker, clock, deliver_due

__all__ = [
    "Draft",
    "Due",
    "Entry",
    "EntryFailed",
    "MailerDown",
    "MessageExpired",
    "Options",
    "Priority",
    "State",
    "Store",
    "Stored",
    "Worker",
    "clock",
    "deliver_due",
    "draft",
    "lane_of",
]

_HOMES = {
    "smtpbackend.outbox.entry": ("Draft", "Due", "Priority", "State", "draft"),
    "smtpbackend.outbox.ledger": ("Entry", "EntryFailed", "MailerDown", "MessageExpired"),
    "smtpbackend.outbox.options": ("Options",),
    "smtpbackend.outbox.schedule": ("lane_of",),
    "smtpbackend.outbox.sql": ("Store",),
    "smtpbackend.outbox.storing": ("Stored",),
    "smtpbackend.outbox.worker": ("Worker", "clock", "deliver_due"),
}

__getattr__, __dir__ = on_first_use(__name__, _HOMES)
