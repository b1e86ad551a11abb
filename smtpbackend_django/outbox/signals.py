"""The signals of the outbox, beside those of direct mail.

The signals of direct mail (``smtpbackend_django.signals``) are sent by the worker, with a `StoredMessage` as
``message`` and `OutboxBackend` as sender, after their outcome is recorded; a kill may lose one.

=====================  =================================  ====================================================
signal                 keyword arguments                  when
=====================  =================================  ====================================================
``message_expired``    ``entry, alias``                   what was pending of an entry is not tried any more
``entry_failed``       ``entry, alias, state, error``     an entry cannot be read, or its workers ended: see below
``mailer_down``        ``alias, error``                   no mail of a mailer can be sent; once, when that begins
=====================  =================================  ====================================================

``entry`` is the id of the entry. ``state`` is "failed" where it cannot be read, or where five workers ended with it in
hand, and "in_doubt" where one did and ``retry_in_doubt`` is 0: then it is the part of the entry that this one had.
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["entry_failed", "mailer_down", "message_expired"]

message_expired = Signal()
entry_failed = Signal()
mailer_down = Signal()
