"""``manage.py smtpcheck``: what becomes of mail at each server of the settings."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from smtpbackend.adapters import report_checks
from smtpbackend_django import EmailBackend
from smtpbackend_django.checks import backends, behind

__all__ = ["Command"]


class Command(BaseCommand):
    """Connects and logs in to each server, as mail does, and tells each step; 1 where one would not take mail."""

    help = "Connect and log in to the mail servers of this site, and tell each step."
    requires_system_checks = ()  # settings that cannot work are told here

    def add_arguments(self, parser: ArgumentParser) -> None:
        """As Django asks for them."""
        parser.add_argument(
            "aliases", nargs="*", metavar="ALIAS", help="mailers of MAILERS; default: all that are ours"
        )
        parser.add_argument("--send-to", metavar="ADDRESS", help="send a short message to this address as well")
        parser.add_argument("--json", action="store_true", help="print the records as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check each mailer."""
        mailers = [(name, backend.mailer()) for name, backend in self._chosen(options["aliases"])]
        if code := report_checks(mailers, options["send_to"], options["json"], self.stdout):
            sys.exit(code)

    def _chosen(self, aliases: list[str]) -> list[tuple[str, EmailBackend]]:
        """The name and the backend of each mailer. Raises `CommandError` for settings that cannot work."""
        found = dict(backends())
        names = [f"MAILERS[{behind(alias)!r}]" for alias in aliases] or list(found)
        if others := [name for name in names if name not in found] or ([] if found else ["EMAIL_BACKEND"]):
            raise CommandError(f"{', '.join(others)}: not there, or not of smtpbackend_django", returncode=2)
        chosen = []
        for name in names:
            backend = found[name]
            if isinstance(backend, Exception):
                raise CommandError(str(backend), returncode=2) from backend
            chosen.append((name, backend))
        return chosen
