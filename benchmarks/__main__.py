"""Run every measurement, or those named: `python -m benchmarks imports`."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ALL = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
LIBRARIES = ("smtpbackend", "aiosmtplib", "aiosmtpd", "Django", "Flask")


def machine() -> str:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return f"{cpu}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}"


def versions() -> str:
    """What was measured."""
    found = [f"{platform.python_implementation()} {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def main(wanted: list[str]) -> int:
    unknown = sorted(set(wanted) - set(ALL))
    if unknown:
        print(f"no measurement {', '.join(unknown)}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    print(machine(), versions(), sep="\n")
    for name in wanted or ALL:
        print()
        importlib.import_module(f"benchmarks.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
