"""The tables of the outbox, for migrations and for queries of the site.

What writes them is the SQL of ``smtpbackend.outbox``. Rows of one entry are written and deleted together by it, so the
database checks no foreign keys: that would cost a look for each row.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from smtpbackend.outbox import Priority, State

__all__ = ["Content", "Due", "Entry", "Mailer", "Recipient", "moment"]

LATEST = datetime(9999, 12, 30, tzinfo=UTC).timestamp()  # a day more, and east of Greenwich it could not be shown


def moment(seconds: float) -> datetime:
    """The time in UTC, at the latest one that Python can show everywhere: a mail may expire behind it."""
    return datetime.fromtimestamp(min(seconds, LATEST), UTC)


class Timestamp(models.FloatField):
    """Seconds since 1970 in the table, an aware datetime in Python: the SQL of each database writes the same."""

    def deconstruct(self) -> Any:
        name, _path, args, kwargs = super().deconstruct()
        return name, "smtpbackend_django.outbox.models.Timestamp", args, kwargs

    def from_db_value(self, value: float | None, *_: Any) -> datetime | None:
        return None if value is None else moment(value)

    def get_prep_value(self, value: Any) -> Any:
        return value.timestamp() if isinstance(value, datetime) else super().get_prep_value(value)

    def to_python(self, value: Any) -> Any:
        return value if isinstance(value, datetime) else super().to_python(value)


class Entry(models.Model):
    """One message."""

    id = models.BigAutoField(primary_key=True)
    environment = models.CharField(_("environment"), max_length=255)
    alias = models.CharField(_("mailer"), max_length=100)
    envelope = models.TextField(_("envelope without recipients"))
    message_id = models.TextField(_("Message-ID"))
    subject = models.TextField(_("subject"))
    priority = models.SmallIntegerField(_("priority"), choices=[(one.value, one.name.lower()) for one in Priority])
    group_number = models.BigIntegerField(_("group"))
    place = models.IntegerField(_("place in its group"))
    key = models.CharField(_("key"), max_length=200, null=True)
    digest = models.CharField(_("digest"), max_length=64, null=True)
    version = models.SmallIntegerField(_("version of its format"))
    size = models.BigIntegerField(_("size"))
    is_8bit = models.BooleanField(_("has 8-bit octets"))
    created = Timestamp(_("created"))
    send_at = Timestamp(_("not to be sent before"), null=True)
    expires = Timestamp(_("expires"))
    finished = Timestamp(_("finished"), null=True)
    may_have_arrived = models.BooleanField(_("may have arrived more than once"))
    erased = models.BooleanField(_("content erased"))

    class Meta:
        db_table = "smtpbackend_outbox_entry"
        verbose_name = _("entry")
        verbose_name_plural = _("entries")
        constraints = (
            models.UniqueConstraint(
                fields=("environment", "key"),
                condition=models.Q(key__isnull=False),
                name="smtpbackend_outbox_key",
            ),
        )
        indexes = (
            models.Index(
                fields=("environment", "alias", "finished"),
                condition=models.Q(finished__isnull=False),
                name="smtpbackend_outbox_finished",
            ),
            models.Index(
                fields=("environment", "alias", "finished"),
                condition=models.Q(finished__isnull=False, erased=False),
                name="smtpbackend_outbox_unerased",
            ),
        )

    def __str__(self) -> str:
        return f"{self.pk}: {self.subject}"


class Recipient(models.Model):
    """One recipient of an entry."""

    pk = models.CompositePrimaryKey("entry_id", "position")
    entry = models.ForeignKey(Entry, models.CASCADE, related_name="recipients", db_constraint=False, db_index=False)
    position = models.IntegerField(_("position"))
    address = models.CharField(_("address"), max_length=320)
    data = models.TextField(_("DSN parameters"))
    state = models.CharField(_("state"), max_length=10, choices=[(one.value, one.value) for one in State])
    attempts = models.IntegerField(_("attempts"))
    doubts = models.SmallIntegerField(_("times in doubt"))
    reply = models.TextField(_("last reply"))
    server = models.CharField(_("server"), max_length=255)
    error = models.TextField(_("error"))

    class Meta:
        db_table = "smtpbackend_outbox_recipient"
        verbose_name = _("recipient")
        verbose_name_plural = _("recipients")
        indexes = (
            models.Index(
                fields=("state", "entry"),
                condition=models.Q(state__in=("rejected", "expired", "in_doubt", "failed")),
                name="smtpbackend_outbox_unreached",
            ),
        )

    def __str__(self) -> str:
        return f"{self.address}: {self.state}"


class Content(models.Model):
    """A part of the octets of an entry."""

    pk = models.CompositePrimaryKey("entry_id", "number")
    entry = models.ForeignKey(Entry, models.CASCADE, related_name="+", db_constraint=False, db_index=False)
    number = models.IntegerField()
    octets = models.BinaryField()

    class Meta:
        db_table = "smtpbackend_outbox_content"


class Due(models.Model):
    """What is pending: its turn, its next try and its lease. The row is deleted as the entry is finished."""

    entry = models.OneToOneField(Entry, models.CASCADE, primary_key=True, related_name="due", db_constraint=False)
    environment = models.CharField(max_length=255)
    alias = models.CharField(max_length=100)
    lane = models.SmallIntegerField()
    version = models.SmallIntegerField()
    next_try = Timestamp()
    expires = Timestamp()
    lease = models.BigIntegerField()
    leased = models.SmallIntegerField()
    lapses = models.SmallIntegerField()
    tries = models.IntegerField()

    class Meta:
        db_table = "smtpbackend_outbox_due"
        indexes = (
            models.Index(fields=("environment", "alias", "lane", "next_try"), name="smtpbackend_outbox_claim"),
            models.Index(fields=("expires",), name="smtpbackend_outbox_expires"),
        )


class Mailer(models.Model):
    """What all workers of a mailer share; alias "" is the whole environment."""

    pk = models.CompositePrimaryKey("environment", "alias")
    environment = models.CharField(max_length=255)
    alias = models.CharField(max_length=100)
    paused = models.BooleanField()
    rest = models.FloatField()
    rest_until = Timestamp()
    trial_until = Timestamp()
    trial_entry = models.BigIntegerField()
    backlog_by = models.CharField(max_length=100)
    backlog_until = Timestamp()
    down_since = Timestamp(null=True)
    last_error = models.TextField()

    class Meta:
        db_table = "smtpbackend_outbox_mailer"
