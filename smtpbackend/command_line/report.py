"""What is printed of a check: by rich on a terminal where that is installed, else as plain text, or as JSON."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from smtpbackend.delivery.diagnosis import Check

__all__ = ["lines", "report"]

WIDTH = 96  # characters of a detail in one line


def report(checks: Sequence[Check], as_json: bool = False, out: TextIO | None = None, name: str = "") -> int:
    """Print them; returns the exit code: 1 where one of them is not ok. ``name`` is what stands above them."""
    out = out or sys.stdout
    if as_json:
        import json

        json.dump([check.to_json() for check in checks], out, indent=2, ensure_ascii=False)
        out.write("\n")
    else:
        write = _writer(out)
        for check in checks:
            for line in lines(check, name):
                write(line)
    return 0 if all(check.ok for check in checks) else 1


def lines(check: Check, name: str = "") -> Iterator[str]:
    """What is told of one server, line by line. The first sign of a line says what it is: ✓, ✗ or none."""
    yield f"{name}: {check.server}" if name else check.server
    for step in check.steps:
        first, *others = textwrap.wrap(step.detail, WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
        yield f"  {'✓' if step.ok else '✗'} {step.name:<9}{step.seconds * 1000:7.0f} ms  {first}".rstrip()
        yield from [f"{'':24}{other}" for other in others]
    for wait in check.waits:
        yield f"    {'waits':<20}{wait}"


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
                console.print(Text(line, style=styles.get(line.strip()[:1], "" if line.startswith(" ") else "bold")))

            return write
    encoding = getattr(out, "encoding", None) or "utf-8"

    def plain(line: str) -> None:
        try:
            line.encode(encoding)
        except UnicodeEncodeError:
            line = line.replace("✓", "ok").replace("✗", "NO").encode(encoding, "replace").decode(encoding)
        out.write(f"{line}\n")

    return plain
