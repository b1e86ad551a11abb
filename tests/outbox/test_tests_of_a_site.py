"""What the tests of a site find: with Django's test runner, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
import pytest

from smtpbackend.testing import ScriptedServer
from tests.outbox.sites import OUTBOX_BACKEND, mail_settings
from tests.outbox.test_process import arrived

ROOT = Path(__file__).parents[2]

SETTINGS = """
SECRET_KEY = "only-for-tests"
USE_TZ = True
INSTALLED_APPS = ["smtpbackend_django", "smtpbackend_django.outbox"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
"""
OUTBOX = (
    """
MAILERS = {
    "default": {"BACKEND": "smtpbackend_django.outbox.OutboxBackend", "OPTIONS": {"using": "smtp"}},
    "smtp": {"BACKEND": "smtpbackend_django.EmailBackend", "OPTIONS": {"host": "localhost"}},
}
"""
    if django.VERSION >= (6, 1)
    else """
EMAIL_BACKEND = "smtpbackend_django.outbox.OutboxBackend"
"""
)

IMPORTS = """
from datetime import datetime

from django.core import mail
from django.core.mail import EmailMessage, send_mail
from django.test import TestCase, TransactionTestCase, override_settings

from smtpbackend_django.outbox import deliver_now, send
"""


def run(folder: Path, tests: str, **settings: Any) -> None:
    """Run tests of a site; ``settings`` are more of its settings, or other values of those above."""
    more = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
    (folder / "settings.py").write_text(SETTINGS + OUTBOX + more, encoding="utf-8")
    (folder / "tests.py").write_text(IMPORTS + tests, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test"],
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "DJANGO_SETTINGS_MODULE": "settings"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_what_the_site_sends_with_a_key_or_a_time_is_in_djangos_outbox(tmp_path: Path) -> None:
    """As what it sends by `send_mail`; what would be refused is refused there too."""
    run(
        tmp_path,
        """
class Sends(TestCase):
    def test_it(self):
        send_mail("One", "", "a@example.com", ["b@example.org"])
        stored = send(EmailMessage("Two", "", "a@example.com", ["b@example.org"]), key="two", priority="high")
        self.assertEqual([one.subject for one in mail.outbox], ["One", "Two"])
        self.assertTrue(stored.is_new)
        with self.assertRaisesMessage(ValueError, "send_at must be a datetime with its time zone"):
            send(EmailMessage("Three", "", "a@example.com", ["b@example.org"]), send_at=datetime(2030, 1, 1))
        self.assertEqual(len(mail.outbox), 2)
""",
    )


@pytest.mark.skipif(django.VERSION < (6, 1), reason="MAILERS is of Django 6.1")
def test_before_another_mailer_nothing_of_django_is_used_that_is_deprecated(tmp_path: Path) -> None:
    """Addresses are prepared as by Django's own backend."""
    run(
        tmp_path,
        """
@override_settings(
    MAILERS={
        "default": {"BACKEND": "smtpbackend_django.outbox.OutboxBackend", "OPTIONS": {"using": "smtp"}},
        "smtp": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"},
    }
)
class Delivers(TestCase):
    def test_it(self):
        send_mail("One", "", "a@example.com", ["b@example.org"])
        self.assertEqual(deliver_now(), 1)
        self.assertEqual([one.subject for one in mail.outbox], ["One"])
""",
    )


def test_a_message_in_djangos_outbox_has_the_lines_that_were_written(tmp_path: Path) -> None:
    """And no CRLF, which the wire has: a site compares them with its own text."""
    run(
        tmp_path,
        """
from django.conf import settings
from django.core.mail import EmailMultiAlternatives

@override_settings(**settings.WITH_OUTBOX)
class Delivers(TestCase):
    def test_it(self):
        subject = "Gr\xfc\xdfe" + " und noch ein Wort" * 10
        message = EmailMultiAlternatives(subject, "one\\ntwo \u2713", "a@example.com", ["b@example.org"])
        message.attach_alternative("<p>one\\ntwo</p>", "text/html")
        message.attach("a.txt", "one\\ntwo\\n", "text/plain")
        message.attach("a.bin", b"one\\r\\n", "application/octet-stream")
        message.send()
        self.assertEqual(deliver_now(), 1)
        [sent] = mail.outbox
        self.assertEqual((sent.subject, sent.body), (subject, "one\\ntwo \u2713"))
        self.assertEqual(sent.alternatives[0][0], "<p>one\\ntwo</p>")
        self.assertEqual([one[1] for one in sent.attachments], ["one\\ntwo\\n", b"one\\r\\n"])
""",
        WITH_OUTBOX=mail_settings(OUTBOX_BACKEND, {"host": "localhost"}, {}),
    )


@pytest.mark.parametrize("kind", ["TestCase", "TransactionTestCase"])
def test_what_is_delivered_goes_to_djangos_outbox_or_by_smtp_if_that_is_asked_for(
    tmp_path: Path, smtp_server: Callable[..., ScriptedServer], database: dict[str, Any], kind: str
) -> None:
    """In the thread and transaction of the test, which `TestCase` never commits."""
    server = smtp_server()
    options = {"host": server.host, "port": server.port, "tls": "none"}
    run(
        tmp_path,
        """
import threading

from django.conf import settings
from django.db import transaction

from smtpbackend_django.outbox.models import Entry, Recipient

@override_settings(**settings.WITH_OUTBOX)
class Delivers(KIND):
    def test_to_djangos_outbox(self):
        send_mail("One", "", "a@example.com", ["ann@example.com"])
        send_mail("Two", "", "a@example.com", ["bob@example.com"])
        self.assertEqual(mail.outbox, [])
        self.assertEqual(deliver_now(), 2)
        self.assertEqual([one.subject for one in mail.outbox], ["One", "Two"])
        self.assertEqual(deliver_now(), 0)

    def test_by_smtp(self):
        send_mail("Three", "", "a@example.com", ["cid@example.com"])
        with transaction.atomic():
            send_mail("Four", "", "a@example.com", ["dan@example.com"])
        self.assertEqual(deliver_now(smtp=True), 2)
        self.assertEqual(mail.outbox, [])
        self.assertEqual(deliver_now(smtp=True), 0)
        self.assertEqual({one.state for one in Recipient.objects.all()}, {"accepted"})
        self.assertNotIn(None, {one.finished for one in Entry.objects.all()})
        self.assertEqual([one.name for one in threading.enumerate() if "outbox" in one.name], [])
""".replace("KIND", kind),
        DATABASES={"default": database},
        WITH_OUTBOX=mail_settings(OUTBOX_BACKEND, options, {}),
    )
    assert arrived(server) == ["cid@example.com", "dan@example.com"]
