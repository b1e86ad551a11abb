"""What is printed of a check: by rich on a terminal where that is installed, else as plain text, or as JSON."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from smtpbackend.blocking.mailer import Mailer, checks
from smtpbackend.delivery.diagnosis import Check

__all__ = ["lines", "report"]

INDENT = 25  # characters in front of a detail
WIDTH = 120  # characters of a line that is not for a terminal


def report(
    mailers: Iterable[tuple[str, Mailer]], send_to: str | None, as_json: bool = False, out: TextIO | None = None
) -> int:
    """Check the servers of mailers, each with the name that stands above them, and print each as soon as it is known.

    JSON is one list for all. Returns the exit code: 1 where one of them is not ok.
    """
    out = out or sys.stdout
    code = 0
    records = []
    write = _writer(out)
    width = shutil.get_terminal_size().columns if out.isatty() else WIDTH
    for name, mailer in mailers:
        for check in checks(mailer, send_to):
            code = code if check.ok else 1
            if as_json:
                records.append({"mailer": name, **check.to_json()} if name else check.to_json())
                continue
            for line in lines(check, name, width):
                write(line)
            out.flush()
    if as_json:
        import json

        write(json.dumps(records, indent=2, ensure_ascii=False))
    return code


def lines(check: Check, name: str = "", width: int = WIDTH) -> Iterator[str]:
    """What is told of one server, line by line. The first sign of a line says what it is: ✓, ✗ or none."""
    yield f"{name}: {check.server}" if name else check.server
    for step in check.steps:
        begin = f"  {'✓' if step.ok else '✗'} {step.name:<9}{step.seconds * 1000:7.0f} ms"
        yield from _beside(begin, step.detail, width)
    for wait in check.waits:
        yield from _beside("    waits", wait, width)


def _beside(begin: str, detail: str, width: int) -> Iterator[str]:
    room = max(width - INDENT, INDENT)
    first, *others = textwrap.wrap(detail, room, break_long_words=False, break_on_hyphens=False) or [""]
    yield f"{begin:<{INDENT}}{first}".rstrip()
    yield from [f"{'':{INDENT}}{other}" for other in others]


def _writer(out: TextIO) -> Callable[[str], object]:
    """What writes a line."""
    if out.isatty():
        try:
            from rich.console import Console
            from rich.text import Text
        except ImportError:
            pass
        else:
            console = Console(file=out, highlight=False)
            styles = {"✓": "green", "✗": "red"}

            def write(line: str) -> None:
                style = styles.get(line.strip()[:1], "" if line.startswith(" ") else "bold")
                console.print(Text(line, style), soft_wrap=True)

            return write
    encoding = getattr(out, "encoding", None) or "utf-8"

    def plain(line: str) -> None:
        try:
            line.encode(encoding)
        except UnicodeEncodeError:
            line = line.replace("✓", "ok").replace("✗", "NO").encode(encoding, "replace").decode(encoding)
        out.write(f"{line}\n")

    return plain
