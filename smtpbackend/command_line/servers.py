"""The servers of a command: how they are given, and what settings they make."""

from __future__ import annotations

import argparse
import getpass
import warnings
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from smtpbackend.delivery.server import half_login
from smtpbackend.errors import InvalidInput
from smtpbackend.spelling import Spelling

__all__ = ["Options", "add_servers", "settings_of"]


class Options(Spelling):
    """How errors write settings here: as they stand in the URL of a server, behind "?", but for two options.

    ``place`` is where the URLs stand.
    """

    place: str = "the command"

    def __call__(self, setting: str, *value: Any) -> str:
        """As `Spelling` does."""
        if option := self.place if setting == "servers" else _OPTIONS.get(setting):
            return option
        return f"{setting}={value[0]} in the URL" if value else f"{setting} in the URL"


_OPTIONS = {"username": "--username", "password": "--password-file"}


def add_servers(parser: argparse.ArgumentParser, positional: bool) -> None:
    """The arguments that name servers."""
    about = (
        "smtp://host:port, smtps://host, smtp+srv://domain, lmtp://host:24 or a host name; settings stand in the query"
    )
    if positional:
        parser.add_argument("servers", nargs="*", metavar="URL", help=f"{about} (default: smtp://localhost)")
    else:
        parser.add_argument(
            "--server", dest="servers", action="append", metavar="URL", help=f"{about} (default: smtp://localhost)"
        )
    parser.add_argument(
        "--username", help="name to log in with; its password is asked for, or read from --password-file"
    )
    parser.set_defaults(spelling=Options() if positional else Options("--server"))
    parser.add_argument("--password-file", metavar="FILE", help="file that has the password in its first line")


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """The settings of a mailer from these arguments. A password is never an argument: others can see these."""
    settings: dict[str, Any] = {"servers": given.servers or ["smtp://localhost"], "spelling": given.spelling}
    if given.username:
        settings["username"] = given.username
    lacking = (_lacks_password(url, given.username) for url in settings["servers"])
    if given.password_file is not None:
        settings["password"] = _in_file(given.password_file)
    elif name := next(filter(None, lacking), None):
        settings["password"] = _asked(name)
    return settings


def _lacks_password(server: str, username: str | None) -> str | None:
    """The name to log in with, where a server needs its password and its URL has none."""
    try:
        parts = urlsplit(server)
        query = dict(parse_qsl(parts.query))
        username = unquote(parts.username or "") or query.get("username") or username
        password = query.get("password") if parts.password is None else parts.password
        lacking = half_login(username, password, query.get("token"), query.get("auth_mechanisms"))
    except ValueError:  # the mailer tells what is wrong with it
        return None
    return username if lacking == "password" else None


def _asked(name: str) -> str:
    """A password from the terminal; the standard input may be a message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # else it is read where it can be seen
            return getpass.getpass(f"Password of {name}: ")
    except (EOFError, getpass.GetPassWarning) as error:
        raise InvalidInput(f"there is no terminal to ask for the password of {name}: give --password-file") from error


def _in_file(name: str) -> str:
    try:
        with open(name, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except OSError as error:
        raise InvalidInput(f"--password-file {name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"--password-file {name} is not in UTF-8") from error
