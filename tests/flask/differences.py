"""A row of a migration page: the same tried on the library that a site comes from, and on ours."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from flask import Flask

import smtpbackend_flask
from smtpbackend.testing import Play, ScriptedServer
from tests.servers.tls import Certificates


@dataclass
class Site:
    """One of the two libraries, with an app and a server. What is sent has Flask-Mail's names."""

    of: ModuleType
    app: Flask
    mail: Any
    server: ScriptedServer

    def message(self, **fields: Any) -> Any:
        return self.of.Message(**{"subject": "Hi", "recipients": ["ann@example.com"], "body": "Hello", **fields})

    def send(self, **fields: Any) -> Any:
        return self.mail.send(self.message(**fields))

    @property
    def content(self) -> Any:
        return message_from_bytes(self.server.handed_over[0].content)


Do = Callable[[Site], Any]


def started(site: Site) -> None:
    """Nothing but that there is an app and its Mail."""


class Row(NamedTuple):
    """What is done, and what comes of it there and here: a value, or the class that is raised.

    With ``instead`` something else is done here. ``"@client_cert"`` in ``config`` is that file of `Certificates`;
    what is None there is not set.
    """

    do: Do
    theirs: Any
    ours: Any
    config: Any = None
    play: Play = Play()
    instead: Do | None = None

    def check(self, library: ModuleType, ca: Certificates, their_site: type[Site] = Site) -> None:
        """Fail where ``library`` does not do what the row says of it."""
        is_ours = library is smtpbackend_flask
        wanted, kind, do = self.theirs, their_site, self.do
        if is_ours:
            wanted, kind, do = self.ours, Site, self.instead or self.do
        # Only a site that has SMTPBACKEND_CA_FILE trusts the authority of the certificate
        with ScriptedServer(self.play, context=ca.server_context("server")) as server:
            app = Flask("app")
            app.config.update(MAIL_SERVER="localhost", MAIL_PORT=server.port, MAIL_DEFAULT_SENDER="app@example.com")
            for key, value in (self.config or {}).items():
                is_file = isinstance(value, str) and value.startswith("@")
                app.config[key] = str(getattr(ca, value[1:])) if is_file else value
                if value is None:
                    del app.config[key]

            def run() -> Any:
                with app.app_context():
                    return do(kind(library, app, library.Mail(app), server))

            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                if isinstance(wanted, type):
                    with pytest.raises(wanted):
                        run()
                else:
                    found = run()
                    assert found == wanted, f"{found!r}, not {wanted!r}"
        if not is_ours:
            gc.collect()  # what it left open is found here, where `THEIRS_LEAK` is, and not in a later test


def sent(**fields: Any) -> Do:
    """What a message made of these comes to: the recipients that the server was told of."""

    def send(site: Site) -> Any:
        site.send(**fields)
        return sorted(to.split("<")[1].split(">")[0] for to in site.server.handed_over[0].recipients)

    return send


def content(read: Callable[[Any], Any], **fields: Any) -> Do:
    """What ``read`` finds in the message that arrives."""

    def send(site: Site) -> Any:
        site.send(**fields)
        return read(site.content)

    return send


def verbs(site: Site) -> Any:
    site.send()
    return [verb for speaker in site.server.speakers for verb in speaker.verbs if verb != "QUIT"]


def connections(site: Site) -> int:
    for _ in range(3):
        site.send()
    return site.server.connections


def in_one_connect(site: Site) -> int:
    with site.mail.connect() as connection:
        for _ in range(3):
            connection.send(site.message())
    return site.server.connections


def from_threads(site: Site) -> int:
    """How many connections three threads have, one after the other."""

    def run() -> None:
        with site.app.app_context():
            site.send()

    for _ in range(3):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(site.server.taken) == 3
    return site.server.connections


def when_tested_later(site: Site) -> int:
    site.app.testing = True
    site.send()
    return site.server.connections


@contextmanager
def on_a_machine() -> Iterator[list[str]]:
    """One whose own name has no domain, and one in the DNS; the list has what was looked up there."""
    asked: list[str] = []

    def getfqdn(name: str = "") -> str:
        asked.append(name)
        return "machine.example.org"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "machine")
        patch.setattr("socket.getfqdn", getfqdn)
        yield asked


def message_id(site: Site) -> str:
    with on_a_machine():
        site.send()
    return site.content["Message-ID"].strip("<>").partition("@")[2]


def greeted(site: Site) -> tuple[str, bool]:
    """The name in EHLO, and whether it was looked up."""
    with on_a_machine() as asked:
        site.send()
    return site.server.commands[0].split()[1], bool(asked)


IN_CLEAR = ["EHLO", "MAIL", "RCPT", "DATA"]
SECURED = ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA"]
TLS = Play(extensions=("STARTTLS",))
UTF8 = Play(extensions=("SMTPUTF8", "8BITMIME"))
BOB_REFUSED = Play({"RCPT TO:<bob@example.com>": "550 5.1.1 No such user"})
ALL_REFUSED = Play({"RCPT": "550 5.1.1 No such user"})
# its sockets stay open where it raises
THEIRS_LEAK = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
