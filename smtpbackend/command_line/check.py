"""``check``: what becomes of mail at each server."""

from __future__ import annotations

import argparse
from typing import Any

from smtpbackend.command_line.report import report
from smtpbackend.command_line.servers import add_servers, settings_of

__all__ = ["add", "run"]


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser("check", help="connect and log in to each server, and tell each step")
    add_servers(parser, positional=True)
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: Any) -> None:
    """What the commands of Django and Flask take too."""
    parser.add_argument("--send-to", metavar="ADDRESS", help="send a short message to this address as well")
    parser.add_argument("--json", action="store_true", help="print the records as JSON")


def run(given: argparse.Namespace) -> int:
    """Check the servers; 1 where one of them would not take mail."""
    from smtpbackend.blocking.mailer import Mailer

    with Mailer.from_settings(settings_of(given)) as mailer:
        return report([("", mailer)], given.send_to, given.json)
