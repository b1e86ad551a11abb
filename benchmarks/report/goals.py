"""What is promised about speed, and which figure shows it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Kind = Literal["count", "times", "share", "percent", "MB", "ms", "s"]


class Goal(NamedTuple):
    """``says`` is in the words of the table; ``figure`` is ``measurement.figure``.

    "times" and "share" are both how many times ours a peer's is, at least ``limit``: 8 is shown as 8 times or as 1/8.
    All others are at most ``limit``; of "percent" 1.1 is 10 % more.
    """

    says: str
    figure: str
    limit: float
    kind: Kind

    def is_reached(self, value: float) -> bool:
        return value >= self.limit if self.kind in ("times", "share") else value <= self.limit

    def show(self, value: float) -> str:
        """The value as the table has it."""
        match self.kind:
            case "count":
                return f"{value:.0f}"
            case "times":
                return f"{_short(value)} x"
            case "share":
                return f"1/{_short(value)}" if value >= 1 else f"{_short(1 / value)} x"
            case "percent":
                return f"{_up(100 * (value - 1), 0):+.0f} %"
            case "MB" | "ms":
                return f"{_up(value, 1):.1f} {self.kind}"
            case "s":
                return f"{_up(value, 2):.2f} s"


class Row(NamedTuple):
    """A scenario, its goals, and what to show of the peers: words, figure, unit."""

    scenario: str
    goals: tuple[Goal, ...]
    peers: tuple[tuple[str, str, str], ...] = ()


def _short(value: float) -> str:
    """Cut, never rounded up to what is wanted."""
    return f"{math.floor(value)}" if value >= 20 else f"{math.floor(value * 10) / 10:g}"


def _up(value: float, digits: int) -> float:
    """Never rounded down to what is wanted."""
    return math.ceil(round(value * 10**digits, 6)) / 10**digits


DJANGO = tuple(
    Row(
        f"Django {version}, 1,000 plain-text messages{words}, `smtp-sink`",
        (
            Goal(f"{limit} x Django's own backend", f"django_backend.{way}_{version}_ratio", limit, "times"),
            *(
                [Goal("1/8 of its CPU", f"django_backend.{way}_{version}_cpu", 8, "share")]
                if (version, way) == ("6.1", "batch")
                else []
            ),
        ),
        (
            ("ours", f"django_backend.{way}_{version}_ours_us", "us a message"),
            ("Django", f"django_backend.{way}_{version}_django_us", "us"),
            ("a bare socket", f"django_backend.{way}_{version}_bare_us", "us"),
        ),
    )
    for version, limit in (("6.1", 8), ("5.2", 3))
    for way, words in (("batch", " in one `send_messages`"), ("single", " by `message.send()` one by one"))
)

ROWS = (
    Row(
        "waits: cold, STARTTLS + AUTH PLAIN, one message, 3 recipients, CHUNKING",
        (
            Goal("8", "waits.cold_starttls", 8, "count"),
            Goal("implicit TLS: 6", "waits.cold_implicit", 6, "count"),
        ),
        (("smtplib", "waits.smtplib_cold", "with STARTTLS"),),
    ),
    Row(
        'waits: warm message within 5 s, 1 to 100 recipients, "any"',
        (
            Goal("CHUNKING: 1, from the third message of a connection on", "waits.warm", 1, "count"),
            Goal("the second: 2", "waits.second", 2, "count"),
            Goal("without: 2", "waits.warm_without_chunking", 2, "count"),
        ),
        (("smtplib", "waits.smtplib_warm", "with 3 recipients"),),
    ),
    Row(
        'waits: warm after longer silence, and "all"',
        (
            Goal("after silence: 2", "waits.warm_after_silence", 2, "count"),
            Goal('"all": 2', "waits.warm_all", 2, "count"),
        ),
    ),
    Row(
        "100 messages x 3 recipients, Postfix behind 50 ms, one connection",
        (
            Goal("at most 12 turns after EHLO", "round_trips.turns", 12, "count"),
            Goal("1/40 of smtplib's time", "round_trips.smtplib_ratio", 40, "share"),
            Goal("1/15 of nodemailer's", "round_trips.nodemailer_ratio", 15, "share"),
        ),
        (
            ("ours", "round_trips.rounds", "round trips one after the other"),
            ("ours", "round_trips.ours_ms", "ms a message"),
            ("smtplib", "round_trips.smtplib_ms", "ms"),
            ("nodemailer's pool with one connection", "round_trips.nodemailer_ms", "ms"),
        ),
    ),
    Row(
        "same without CHUNKING (`smtp-sink`)",
        (Goal("at most 105 turns", "round_trips.turns_without_chunking", 105, "count"),),
        (("ours", "round_trips.without_chunking_ms", "ms a message"),),
    ),
    Row(
        "content ready, `smtp-sink`, one connection, bulk",
        (
            Goal("3 x smtplib", "ready.smtplib_ratio", 3, "times"),
            Goal("6 x aiosmtplib", "ready.aiosmtplib_ratio", 6, "times"),
        ),
        (
            ("ours", "ready.ours_rate", "messages/s"),
            ("smtplib", "ready.smtplib_rate", "messages/s"),
            ("aiosmtplib", "ready.aiosmtplib_rate", "messages/s"),
            ("a bare socket", "ready.bare_rate", "messages/s"),
        ),
    ),
    *DJANGO,
    Row(
        "Flask, 1,000 messages on one `connect()`, ours by `send_many`",
        (Goal("5 x Flask-Mail", "flask_connection.ratio", 5, "times"),),
        (
            ("ours", "flask_connection.ours_us", "us a message"),
            ("ours by `send`, each waiting for its receipt", "flask_connection.one_by_one_us", "us"),
            ("Flask-Mail", "flask_connection.flask_mail_us", "us"),
            ("a bare socket", "flask_connection.bare_us", "us"),
        ),
    ),
    Row(
        "rendering, Django 6.1",
        (
            Goal("plain text: 1/10 of Django's time", "rendering.plain text, ratio", 10, "share"),
            Goal("text + HTML: 1/10", "rendering.text + HTML, ratio", 10, "share"),
            Goal("a password reset of `django.contrib.auth`: 1/10", "rendering.password reset, ratio", 10, "share"),
            Goal("text + HTML from templates: 1/10", "rendering.notification from templates, ratio", 10, "share"),
        ),
    ),
    Row(
        "one mail a request, made by templates; STARTTLS + AUTH, Postfix behind 20 ms",
        (
            Goal("Django 6.1, HTML: 11 x Django's own backend", "one_a_request.django_notification_ratio", 11, "times"),
            Goal("Django 6.1, password reset: 11 x", "one_a_request.django_reset_ratio", 11, "times"),
            Goal("Flask, HTML: 11 x Flask-Mail", "one_a_request.flask_ratio", 11, "times"),
        ),
        (
            ("ours in Django", "one_a_request.django_notification_ours_ms", "ms a mail"),
            ("Django", "one_a_request.django_notification_django_ms", "ms"),
            ("ours in Flask", "one_a_request.flask_ours_ms", "ms"),
            ("Flask-Mail", "one_a_request.flask_flask_mail_ms", "ms"),
        ),
    ),
    Row(
        "25 MB attachment as bytes in Django",
        (
            Goal("1/3 of Django's extra memory", "attachments.django_memory_ratio", 3, "share"),
            Goal("1/3 of its CPU", "attachments.django_cpu_ratio", 3, "share"),
        ),
        (
            ("ours", "attachments.ours_memory", "MB"),
            ("Django", "attachments.django_memory", "MB"),
            ("ours", "attachments.ours_cpu", "s"),
            ("Django", "attachments.django_cpu", "s of CPU"),
        ),
    ),
    Row(
        "100 MB attachment from a path, core",
        (Goal("8 MB above the start", "attachments.path_memory", 8, "MB"),),
    ),
    Row(
        "async: 1,000 `send()` at once, 20 ms round trip, 8 connections",
        (Goal("20 x aiosmtplib on one connection", "at_once.ratio", 20, "times"),),
        (
            ("ours", "at_once.ours_ms", "ms a message"),
            ("aiosmtplib", "at_once.aiosmtplib_ms", "ms"),
            ("ours without CHUNKING", "at_once.without_chunking_ours_ms", "ms"),
        ),
    ),
    Row(
        "Haraka's manner (delayed ACKs) on a scripted server",
        (Goal("not slower than one command at a time", "delayed_acks.ratio", 1, "times"),),
        (
            ("in groups", "delayed_acks.groups_ms", "ms a message"),
            ("one at a time", "delayed_acks.singly_ms", "ms"),
            ("smtplib", "delayed_acks.smtplib_ms", "ms"),
        ),
    ),
    Row(
        "cost as work grows, from 1,000 to 100,000 messages (generator in, receipts out)",
        (
            Goal("time a message within 10 %", "growth.time", 1.1, "percent"),
            Goal("under 2 MB more", "growth.memory", 2, "MB"),
        ),
        (("with 1,000", "growth.few_us", "us a message"), ("with 100,000", "growth.many_us", "us")),
    ),
)


def _outbox(kind: str, name: str) -> tuple[Row, ...]:
    """The outbox in one kind of database."""
    single, several = f"outbox/enqueue.{kind}_one", f"outbox/enqueue.{kind}_list"
    drain, latency = f"outbox/drain.{kind}", f"outbox/latency.{kind}"
    peers = (("ours", "ours"), ("django-mailer", "django_mailer"), ("django-post-office", "post_office"))
    most = {"process": 20, "run": 20 if kind == "postgresql" else 100}
    return (
        Row(
            f"{name}: a mail is stored, one a transaction",
            (
                *([Goal("1 statement", f"{single}_ours_statements", 1, "count")] if kind == "postgresql" else []),
                Goal("25 % more than django-mailer's time", f"{single}_of_django_mailer", 1.25, "percent"),
                Goal("1/1.2 of django-post-office's time", f"{single}_post_office_ratio", 1.2, "share"),
            ),
            tuple((whose, f"{single}_{side}_us", "us") for whose, side in peers),
        ),
        Row(
            f"{name}: lists of 100 are stored",
            (Goal("1/3 of django-post-office's time", f"{several}_post_office_ratio", 3, "share"),),
            tuple((whose, f"{several}_{side}_us", "us a mail") for whose, side in peers),
        ),
        *(
            Row(
                f"{name}: 500 stored mails leave, Postfix behind 20 ms, {words}",
                (
                    Goal(f"{faster} x django-post-office", f"{drain}_{number}_post_office_ratio", faster, "times"),
                    Goal(f"{5 * faster} x django-mailer", f"{drain}_{number}_django_mailer_ratio", 5 * faster, "times"),
                ),
                (
                    ("ours", f"{drain}_ours_{number}_rate", "mails/s"),
                    *(
                        [("ours with a window of 32 for all", f"{drain}_ours_4_narrow_rate", "mails/s")]
                        if number == 4
                        else []
                    ),
                    ("ours", f"{drain}_ours_{number}_statements", "statements a mail"),
                    ("django-post-office with 5 threads", f"{drain}_post_office_rate", "mails/s"),
                    ("django-post-office", f"{drain}_post_office_statements", "statements a mail"),
                    ("django-mailer", f"{drain}_django_mailer_rate", "mails/s"),
                    ("django-mailer", f"{drain}_django_mailer_statements", "statements a mail"),
                ),
            )
            for number, words, faster in ((4, "four connections", 10), (1, "one connection", 5))
        ),
        *(
            Row(
                f"{name}: from the commit to the content at the server, by {words}",
                (
                    Goal(f"median: {most[way]} ms", f"{latency}_{way}_median_ms", most[way], "ms"),
                    Goal(f"99th of 100: {most[way]} ms", f"{latency}_{way}_99th_ms", most[way], "ms"),
                ),
            )
            for way, words in (("process", "the process that stores"), ("run", "`outbox run`"))
        ),
        Row(
            f"{name}: a single mail behind a newsletter of 100,000",
            (
                Goal("on the wire within 5 s", f"outbox/newsletter.{kind}_normal_s", 5, "s"),
                Goal('with priority "high" within 1 s', f"outbox/newsletter.{kind}_high_s", 1, "s"),
                Goal("to store the newsletter takes under 8 MB", f"outbox/newsletter.{kind}_memory", 8, "MB"),
            ),
            (("to store it", f"outbox/newsletter.{kind}_enqueue_us", "us a mail"),),
        ),
        Row(
            f"{name}: a web process that is idle, 60 s",
            (Goal("2 looks into the database", f"outbox/idle.{kind}_connections", 2, "count"),),
            (("ours", f"outbox/idle.{kind}_statements", "statements"),),
        ),
    )


OUTBOX = _outbox("postgresql", "PostgreSQL") + _outbox("sqlite", "SQLite")
