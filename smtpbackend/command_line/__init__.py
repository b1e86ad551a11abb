"""The commands of ``python -m smtpbackend``: check, send, verify and settings.

Each has a module with ``add``, which describes its arguments, and ``run``, which returns the exit code: 0 where all
went well, 1 where a server or a recipient refused, 2 for wrong arguments and settings.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from smtpbackend.errors import InvalidInput, MissingExtra, SMTPError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    from smtpbackend.command_line import check, send, settings, verify

    parser = argparse.ArgumentParser("python -m smtpbackend", description="Find out about mail servers, and send mail.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in (check, send, verify, settings):
        command.add(commands)
    given = parser.parse_args(arguments)
    try:
        code: int = given.run(given)
        sys.stdout.flush()
    except (InvalidInput, MissingExtra) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SMTPError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads has read enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return code
