"""Scripts: programs of a few lines, run as a user would run them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

# What every script begins with
BEGINNING = """\
import asyncio, atexit, gc, multiprocessing, os, signal, sys, threading, time, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded")  # Python 3.12 on: that is what is tested
from smtpbackend import AsyncMailer, Mailer, Message
from smtpbackend.errors import SMTPError
from tests.processes.sockets import held, towards

def hello(subject="Hello"):
    return Message(subject=subject, from_="ann@example.org", to="bob@example.com", text="Good day")

"""


class Script:
    """A script that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def read(self) -> str:
        """The next line that it prints, waited for at most two minutes."""
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], 120)[0], "the script says nothing"
        return self._process.stdout.readline().strip()

    def write(self, line: str = "") -> None:
        """Write a line to it, if it is only to let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def end(self, code: int = 0) -> str:
        """Wait for its end, at most five minutes; what it wrote to stderr."""
        _, errors = self._process.communicate(timeout=300)
        assert self._process.returncode == code, errors
        return errors


@contextmanager
def running(folder: Path, source: str, *arguments: object) -> Iterator[Script]:
    """Start a script, and end it with the block if it has not ended by itself."""
    path = folder / "script.py"
    path.write_text(BEGINNING + textwrap.dedent(source))
    with subprocess.Popen(
        [sys.executable, "-u", path, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            yield Script(process)
        finally:
            process.kill()


def run(folder: Path, source: str, *arguments: object, code: int = 0) -> str:
    """Run a script to its end, and return what it wrote to stderr."""
    with running(folder, source, *arguments) as script:
        return script.end(code)
