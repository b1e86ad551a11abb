"""What the tests of a site find: with Django's test runner, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import django
import pytest

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
from django.test import TestCase, override_settings

from smtpbackend_django.outbox import deliver_now, send
"""


def run(folder: Path, tests: str) -> None:
    (folder / "settings.py").write_text(SETTINGS + OUTBOX, encoding="utf-8")
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
