"""``settings``: every setting with its default and meaning, for who has no page of the documentation at hand."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import Any

from smtpbackend.delivery.settings import SETTINGS
from smtpbackend.text import nearest

__all__ = ["add", "run"]


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser("settings", help="list the settings of a mailer and its servers")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Print them; 2 where a name is not known."""
    known = {setting.name: setting for setting in SETTINGS}
    names = [name.lower() for name in given.names] or list(known)
    for name in names:
        if name not in known:
            near = nearest(name, known)
            print(f"error: no setting is called {name}{f'; did you mean {near}?' if near else ''}", file=sys.stderr)
            return 2
    for name in names:
        setting = known[name]
        default = "" if setting.default in (None, ()) else f" (default: {setting.default})"
        print(f"{name}{default}, of {'each server' if setting.owner == 'server' else 'the mailer'}")
        print(textwrap.indent(textwrap.fill(setting.meaning.replace("`", ""), 96), "    "))
    return 0
