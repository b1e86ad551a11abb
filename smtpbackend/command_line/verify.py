"""``verify``: ask a server whether it knows mailboxes (VRFY)."""

from __future__ import annotations

import argparse
import json
from typing import Any

from smtpbackend.command_line.servers import add_servers, settings_of
from smtpbackend.errors import CommandRefused
from smtpbackend.outcome import Reply

__all__ = ["add", "run"]

_MEANINGS = {  # RFC 5321 3.5
    250: "it is there",
    251: "it is not here, and mail for it is forwarded",
    252: "the server does not tell, and would take mail for it",
    500: "the server does not answer VRFY",
    502: "the server does not answer VRFY",
    504: "the server does not answer VRFY",
    550: "it is not there",
    551: "it is not here, and mail for it is not forwarded",
    553: "it is no address, or one of several",
}


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser("verify", help="ask a server about mailboxes (VRFY); most do not tell")
    add_servers(parser, positional=False)
    parser.add_argument("addresses", nargs="+", metavar="ADDRESS")
    parser.add_argument("--json", action="store_true", help="print the replies as JSON, one a line")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Ask; 1 where one of them is refused."""
    from smtpbackend.blocking.mailer import Mailer

    well = True
    with Mailer.from_settings(settings_of(given)) as mailer:
        for address in given.addresses:
            reply = _asked(mailer, address)
            well = well and reply.is_positive
            meaning = _meaning(reply)
            if given.json:
                told = {"address": address, "reply": reply.to_json(), "meaning": meaning}
                print(json.dumps(told, ensure_ascii=False))
            else:
                print(f"{address}: {meaning} ({reply})")
    return 0 if well else 1


def _meaning(reply: Reply) -> str:
    return _MEANINGS.get(reply.code, f"the server does not tell{' now' if reply.is_transient else ''}")


def _asked(mailer: Any, address: str) -> Reply:
    try:
        reply: Reply = mailer.verify(address)
    except CommandRefused as refused:
        if refused.reply is None:
            raise
        return refused.reply
    return reply
