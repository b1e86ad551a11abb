"""How often does a message wait for the server? Counted by a scripted server; tests/mailer/test_ahead.py asserts it."""

from __future__ import annotations

import smtplib
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lab.mail import SENDER, content, recipients
from benchmarks.lab.samples import Figures
from smtpbackend import Envelope, Mailer
from smtpbackend.delivery.dispatch import AWAKE
from smtpbackend.testing import EXTENSIONS, Play, ScriptedServer
from tests.servers.tls import Certificates

CHUNKING = (*EXTENSIONS, "CHUNKING")
GREETING = "220 mx.example.com ESMTP Postfix"  # a server that is asked to prove that it discards what it refuses
PATIENCE = 0.02  # seconds


def send(mailer: Mailer, count: int) -> None:
    to = recipients(count)
    mailer.send(content(to), Envelope(SENDER, to))


def cold(certificates: Certificates, tls: str) -> int:
    """A new connection, TLS, AUTH PLAIN, one message to three recipients."""
    extensions = (*CHUNKING, "AUTH PLAIN", *(["STARTTLS"] if tls == "required" else []))
    play = Play({"": GREETING}, extensions, implicit_tls=tls == "implicit")
    with ScriptedServer(play, context=certificates.server_context(), patience=0.05) as server:
        place = {"host": "127.0.0.1", "port": server.port, "tls": tls, "ca_file": str(certificates.ca_file)}
        with Mailer(place, username="ann", password="secret") as mailer:
            send(mailer, 3)
            return server.waits


def warm(
    count: int, extensions: tuple[str, ...] = CHUNKING, silence: float = 0.0, first: int = 2, **settings: Any
) -> int:
    """A message on a connection that has carried ``first``, to so many recipients; the second one brings the proof."""
    with (
        ScriptedServer(Play({"": GREETING}, extensions), patience=PATIENCE) as server,
        Mailer(server.url, **settings) as mailer,
    ):
        for _ in range(first):
            send(mailer, 1)
        before = server.waits
        time.sleep(silence)
        send(mailer, count)
        return server.waits - before


def standard(certificates: Certificates) -> tuple[int, int]:
    """Of smtplib, on a new connection with STARTTLS and AUTH PLAIN, and of the next message; to three recipients."""
    play = Play(extensions=(*CHUNKING, "AUTH PLAIN", "STARTTLS"))
    to = recipients(3)
    with (
        ScriptedServer(play, context=certificates.server_context(), patience=0.05) as server,
        smtplib.SMTP("127.0.0.1", server.port) as smtp,
    ):
        smtp.starttls(context=certificates.client_context())
        smtp.login("ann", "secret")
        smtp.sendmail(SENDER, to, content(to))
        first = server.waits
        smtp.sendmail(SENDER, to, content(to))
        return first, server.waits - first


def measure() -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder))
        found = {tls: cold(certificates, tls) for tls in ("required", "implicit")}
        smtplib_cold, smtplib_warm = standard(certificates)
    return {
        "cold_starttls": found["required"],
        "cold_implicit": found["implicit"],
        "second": max(warm(count, first=1) for count in (1, 3, 100)),
        "warm": max(warm(count) for count in (1, 3, 100)),
        "warm_without_chunking": max(warm(count, EXTENSIONS) for count in (1, 3, 100)),
        "warm_after_silence": warm(3, silence=AWAKE + 0.2),
        "warm_all": warm(3, recipient_policy="all"),
        "smtplib_cold": smtplib_cold,
        "smtplib_warm": smtplib_warm,
    }
