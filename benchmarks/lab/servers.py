"""The servers that are sent to, each on a loopback port, as context managers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.lab.samples import NotMeasured
from tests.servers import process
from tests.servers.ports import free_ports

SINK = Path("/usr/sbin/smtp-sink")


@contextmanager
def smtp_sink() -> Iterator[int]:
    """The port of Postfix's smtp-sink, which throws mail away at once; with PIPELINING, without SIZE and CHUNKING."""
    if not SINK.exists():
        raise NotMeasured("smtp-sink, of Debian's package postfix, is not installed")
    (port,) = free_ports(1)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    running = process.start([SINK, *user, f"127.0.0.1:{port}", "100"], "127.0.0.1", [port], lambda: "")
    try:
        yield port
    finally:
        process.stop(running)


@contextmanager
def postfix(*, in_memory: bool = False) -> Iterator[int]:
    """The port of a Postfix with CHUNKING and without TLS; it accepts mail for example.net and throws it away.

    It waits for the disk before it accepts a mail, unless its queue is ``in_memory``.
    """
    from tests.servers.postfix import Postfix  # not where a sample is taken: what makes certificates is not there
    from tests.servers.tls import Certificates

    if reason := Postfix.missing():
        raise NotMeasured(reason)
    below = Path("/dev/shm") if in_memory and os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory() as folder, Postfix(Certificates(Path(folder) / "tls"), below=below) as running:
        yield running.plain_port


class Submission(NamedTuple):
    """A server that asks for STARTTLS and a login; ``ca_file`` has the authority behind its certificate."""

    port: int
    username: str
    password: str
    ca_file: str


@contextmanager
def submission() -> Iterator[Submission]:
    """A Postfix as a provider has it, with CHUNKING, STARTTLS and AUTH; it throws away mail for example.net."""
    from tests.servers.postfix import Postfix
    from tests.servers.tls import Certificates

    if reason := Postfix.missing():
        raise NotMeasured(reason)
    with tempfile.TemporaryDirectory() as folder:
        certificates = Certificates(Path(folder) / "tls")
        with Postfix(certificates, mechanisms="PLAIN LOGIN") as running:
            yield Submission(running.starttls_port, running.user, running.password, str(certificates.ca_file))
