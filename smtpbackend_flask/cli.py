"""``flask mail check``: what becomes of mail at each server of the app."""

from __future__ import annotations

import sys

import click
from flask import current_app
from flask.cli import AppGroup

__all__ = ["commands"]

commands = AppGroup("mail", help="The mail servers of this app.")


@commands.command("check")
@click.option("--send-to", metavar="ADDRESS", help="Send a short message to this address as well.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def check(send_to: str | None, as_json: bool) -> None:
    """Connect and log in to each server, as mail does, and tell each step; 1 where one would not take mail."""
    from smtpbackend.adapters import report_checks

    mailer = current_app.extensions["smtpbackend"].mailer
    sys.exit(report_checks([("", mailer)], send_to, as_json))
