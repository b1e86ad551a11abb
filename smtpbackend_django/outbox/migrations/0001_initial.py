"""The tables of the outbox."""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models

from smtpbackend_django.outbox.models import Timestamp

UNREACHED = ("rejected", "expired", "in_doubt", "failed")
STATES = ("pending", "accepted", "rejected", "expired", "cancelled", "in_doubt", "failed")


def to_entry(**more: Any) -> Any:
    """A column with the entry's id. The database does not check it: one statement writes both."""
    return models.ForeignKey(
        to="smtpbackend_outbox.entry",
        on_delete=django.db.models.deletion.CASCADE,
        db_constraint=False,
        db_index=False,
        **more,
    )


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Entry",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("environment", models.CharField(max_length=255, verbose_name="environment")),
                ("alias", models.CharField(max_length=100, verbose_name="mailer")),
                ("envelope", models.TextField(verbose_name="envelope without recipients")),
                ("message_id", models.TextField(verbose_name="Message-ID")),
                ("subject", models.TextField(verbose_name="subject")),
                (
                    "priority",
                    models.SmallIntegerField(choices=[(0, "high"), (1, "normal"), (2, "low")], verbose_name="priority"),
                ),
                ("group_number", models.BigIntegerField(verbose_name="group")),
                ("place", models.IntegerField(verbose_name="place in its group")),
                ("key", models.CharField(max_length=200, null=True, verbose_name="key")),
                ("digest", models.CharField(max_length=64, null=True, verbose_name="digest")),
                ("version", models.SmallIntegerField(verbose_name="version of its format")),
                ("size", models.BigIntegerField(verbose_name="size")),
                ("is_8bit", models.BooleanField(verbose_name="has 8-bit octets")),
                ("created", Timestamp(verbose_name="created")),
                ("send_at", Timestamp(null=True, verbose_name="not to be sent before")),
                ("expires", Timestamp(verbose_name="expires")),
                ("finished", Timestamp(null=True, verbose_name="finished")),
                ("may_have_arrived", models.BooleanField(verbose_name="may have arrived more than once")),
                ("erased", models.BooleanField(verbose_name="content erased")),
            ],
            options={
                "db_table": "smtpbackend_outbox_entry",
                "verbose_name": "entry",
                "verbose_name_plural": "entries",
                "constraints": (
                    models.UniqueConstraint(
                        fields=("environment", "key"),
                        condition=models.Q(key__isnull=False),
                        name="smtpbackend_outbox_key",
                    ),
                ),
                "indexes": (
                    models.Index(
                        fields=["environment", "alias", "finished"],
                        condition=models.Q(finished__isnull=False),
                        name="smtpbackend_outbox_finished",
                    ),
                    models.Index(
                        fields=["environment", "alias", "finished"],
                        condition=models.Q(finished__isnull=False, erased=False),
                        name="smtpbackend_outbox_unerased",
                    ),
                ),
            },
        ),
        migrations.CreateModel(
            name="Recipient",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "entry_id", "position", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("entry", to_entry(related_name="recipients")),
                ("position", models.IntegerField(verbose_name="position")),
                ("address", models.CharField(max_length=320, verbose_name="address")),
                ("data", models.TextField(verbose_name="DSN parameters")),
                (
                    "state",
                    models.CharField(choices=[(one, one) for one in STATES], max_length=10, verbose_name="state"),
                ),
                ("attempts", models.IntegerField(verbose_name="attempts")),
                ("doubts", models.SmallIntegerField(verbose_name="times in doubt")),
                ("reply", models.TextField(verbose_name="last reply")),
                ("server", models.CharField(max_length=255, verbose_name="server")),
                ("error", models.TextField(verbose_name="error")),
            ],
            options={
                "db_table": "smtpbackend_outbox_recipient",
                "verbose_name": "recipient",
                "verbose_name_plural": "recipients",
                "indexes": (
                    models.Index(
                        fields=["state", "entry"],
                        condition=models.Q(state__in=UNREACHED),
                        name="smtpbackend_outbox_unreached",
                    ),
                ),
            },
        ),
        migrations.CreateModel(
            name="Content",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "entry_id", "number", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("entry", to_entry(related_name="+")),
                ("number", models.IntegerField()),
                ("octets", models.BinaryField()),
            ],
            options={"db_table": "smtpbackend_outbox_content"},
        ),
        migrations.CreateModel(
            name="Due",
            fields=[
                (
                    "entry",
                    models.OneToOneField(
                        to="smtpbackend_outbox.entry",
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        serialize=False,
                        related_name="due",
                        db_constraint=False,
                    ),
                ),
                ("environment", models.CharField(max_length=255)),
                ("alias", models.CharField(max_length=100)),
                ("lane", models.SmallIntegerField()),
                ("version", models.SmallIntegerField()),
                ("next_try", Timestamp()),
                ("expires", Timestamp()),
                ("lease", models.BigIntegerField()),
                ("leased", models.SmallIntegerField()),
                ("lapses", models.SmallIntegerField()),
                ("tries", models.IntegerField()),
            ],
            options={
                "db_table": "smtpbackend_outbox_due",
                "indexes": (
                    models.Index(fields=["environment", "alias", "lane", "next_try"], name="smtpbackend_outbox_claim"),
                    models.Index(fields=["expires"], name="smtpbackend_outbox_expires"),
                ),
            },
        ),
        migrations.CreateModel(
            name="Mailer",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "environment", "alias", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("environment", models.CharField(max_length=255)),
                ("alias", models.CharField(max_length=100)),
                ("paused", models.BooleanField()),
                ("rest", models.FloatField()),
                ("rest_until", Timestamp()),
                ("trial_until", Timestamp()),
                ("trial_entry", models.BigIntegerField()),
                ("backlog_by", models.CharField(max_length=100)),
                ("backlog_until", Timestamp()),
                ("down_since", Timestamp(null=True)),
                ("last_error", models.TextField()),
            ],
            options={"db_table": "smtpbackend_outbox_mailer"},
        ),
    )
