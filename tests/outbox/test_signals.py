"""The signals of an outbox, as a site receives them."""

from __future__ import annotations

from pathlib import Path

import django

from tests.outbox.test_tests_of_a_site import run
from tests.servers.ports import free_ports

AGAIN = (
    """
outbox = override_settings(MAILERS={{
    "default": {{"BACKEND": "smtpbackend_django.outbox.OutboxBackend", "OPTIONS": {{"using": "smtp"}}}},
    "smtp": {{
        "BACKEND": "smtpbackend_django.EmailBackend", "OPTIONS": {{"host": "127.0.0.1", "port": {port}, "tls": "none"}}
    }},
}})
"""
    if django.VERSION >= (6, 1)
    else """
outbox = override_settings(
    EMAIL_BACKEND="smtpbackend_django.outbox.OutboxBackend", EMAIL_HOST="127.0.0.1", EMAIL_PORT={port},
    SMTPBACKEND={{"TLS": "none"}},
)
"""
)


def test_what_a_site_is_told(tmp_path: Path) -> None:
    """Each with its fields, its sender, and the alias of the mailer that sends."""
    (port,) = free_ports(1)
    alias = "smtp" if django.VERSION >= (6, 1) else "default"
    run(
        tmp_path,
        AGAIN.format(port=port)
        + f"ALIAS = {alias!r}\n"
        + """
from smtpbackend_django.outbox import OutboxBackend, entry_failed, mailer_down, message_expired
from smtpbackend_django.outbox.models import Due, Entry


@outbox
class Signals(TestCase):
    def setUp(self):
        self.told = []
        for signal in (entry_failed, mailer_down, message_expired):
            signal.connect(self.note)
            self.addCleanup(signal.disconnect, self.note)

    def note(self, sender, signal, **fields):
        assert sender is OutboxBackend
        self.told.append((signal, fields))

    def stored(self):
        return send(EmailMessage("One", "", "a@example.com", ["b@example.org"])).id

    def test_expired(self):
        number = self.stored()
        Due.objects.update(expires=1)
        deliver_now()
        self.assertEqual(self.told, [(message_expired, {"entry": number, "alias": ALIAS})])

    def test_failed(self):
        number = self.stored()
        Entry.objects.update(envelope="no JSON")
        deliver_now()
        ((signal, fields),) = self.told
        self.assertIs(signal, entry_failed)
        self.assertEqual((fields["entry"], fields["alias"], fields["state"]), (number, ALIAS, "failed"))
        self.assertIn("cannot be read", fields["error"])

    def test_down(self):
        self.stored()
        deliver_now(smtp=True)
        ((signal, fields),) = self.told
        self.assertIs(signal, mailer_down)
        self.assertEqual(fields["alias"], ALIAS)
        self.assertIn("cannot connect", fields["error"])
""",
    )
