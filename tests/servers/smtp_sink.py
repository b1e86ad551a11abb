"""Postfix's ``smtp-sink``, which throws away what it is sent: PIPELINING without CHUNKING and SIZE."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from tests.servers import process
from tests.servers.ports import free_ports

SMTP_SINK = Path("/usr/sbin/smtp-sink")


class SmtpSink:
    """A running smtp-sink, as a context manager."""

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, or None."""
        return None if SMTP_SINK.exists() else f"{SMTP_SINK} is missing; install the package postfix"

    def __enter__(self) -> Self:
        (self.port,) = free_ports(1)
        command = [SMTP_SINK, "-u", "nobody", f"inet:127.0.0.1:{self.port}", "100"]
        self._running: subprocess.Popen[bytes] = process.start(command, "127.0.0.1", [self.port], lambda: "")
        return self

    def __exit__(self, *exc_info: object) -> None:
        process.stop(self._running)
