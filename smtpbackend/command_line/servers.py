"""The servers of a command: how they are given, and what settings they make."""

from __future__ import annotations

import argparse
import getpass
from typing import Any

from smtpbackend.errors import InvalidInput
from smtpbackend.spelling import Spelling

__all__ = ["Options", "add_servers", "settings_of"]


class Options(Spelling):
    """How errors write settings here: as they stand in the URL of a server, behind "?", but for three options."""

    def __call__(self, setting: str, *value: Any) -> str:
        """As `Spelling` does."""
        if option := _OPTIONS.get(setting):
            return option
        return f"{setting}={value[0]} in the URL" if value else f"{setting} in the URL"


_OPTIONS = {"servers": "the command", "username": "--username", "password": "--password-file"}


def add_servers(parser: argparse.ArgumentParser, positional: bool) -> None:
    """The arguments that name servers."""
    about = (
        "smtp://host:port, smtps://host, smtp+srv://domain, lmtp://host:24 or a host name; settings stand in the query"
    )
    if positional:
        parser.add_argument("servers", nargs="*", metavar="URL", help=f"{about} (default: smtp://localhost)")
    else:
        parser.add_argument("--server", dest="servers", action="append", metavar="URL", help=about)
    parser.add_argument(
        "--username", help="name to log in with; its password is asked for, or read from --password-file"
    )
    parser.add_argument("--password-file", metavar="FILE", help="file that has the password in its first line")


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """The settings of a mailer from these arguments. A password is never an argument: others can see these."""
    settings: dict[str, Any] = {"servers": given.servers or ["smtp://localhost"], "spelling": Options()}
    if given.username:
        settings |= {"username": given.username, "password": _password(given)}
    return settings


def _password(given: argparse.Namespace) -> str:
    if given.password_file is None:
        return getpass.getpass(f"Password of {given.username}: ")
    try:
        with open(given.password_file, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except OSError as error:
        raise InvalidInput(f"--password-file {given.password_file} cannot be read: {error.strerror}") from error
