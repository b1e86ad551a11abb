"""Measure everything, or what is named: `python -m benchmarks ready waits`.

`--save` (all of it, in one run) keeps the figures in results.json and writes docs/performance.md and its charts;
`--pages` writes these anew from results.json. With SMTPBACKEND_BENCH_QUICK=1 everything runs with little mail.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.lab.environments import django, versions
from benchmarks.lab.samples import QUICK, ROUNDS, Figures, NotMeasured, within
from benchmarks.report import results

HERE = Path(__file__).parent
OUTBOX = sorted(f"outbox/{path.stem}" for path in (HERE / "outbox").glob("[!_]*.py"))
ALL = sorted(path.stem for path in HERE.glob("[!_]*.py")) + OUTBOX
PROFILED = ("ready", "django_backend", "flask_connection")
FAILED = "the measurement failed"
OF_DJANGO = {"rendering": "6.1"}  # measured as a whole where that Django is


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


def question(name: str) -> str:
    """What a measurement asks: the first line of its module."""
    return (HERE / f"{name}.py").read_text(encoding="utf-8").splitlines()[0].strip('"')


def measure(name: str) -> Figures | str:
    """Its figures, or why there are none: what goes wrong in one does not take the others' with it."""
    print(f"\n{name}: {question(name)}", flush=True)
    start = time.perf_counter()
    try:
        if name in OF_DJANGO:
            figures = within(django(OF_DJANGO[name]), f"benchmarks.{name}", "measure")
        else:
            figures = importlib.import_module(f"benchmarks.{name.replace('/', '.')}").measure()
    except NotMeasured as reason:
        print(f"  not measured: {reason}")
        return str(reason)
    except Exception:
        traceback.print_exc()
        return FAILED
    for figure, value in figures.items():
        print(f"  {figure:36}{value if isinstance(value, str) else format(value, '12.4g')}")
    print(f"  ({time.perf_counter() - start:.0f} s)", flush=True)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}")
    parser.add_argument("--save", action="store_true", help="keep the figures, and write the page")
    parser.add_argument("--pages", action="store_true", help="measure nothing, write the page anew")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(ALL)):
        parser.error(f"no measurement {', '.join(unknown)}; there are {', '.join(ALL)}")
    if given.save and given.names:
        parser.error("--save keeps what was measured in one run: name no measurement")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers that were started end with us
    failed = False
    if not given.pages:
        print(machine())
        figures = {name: measure(name) for name in given.names or ALL}
        found: dict[str, Any] = {
            "machine": machine(),
            "measured": time.strftime("%Y-%m-%d", time.gmtime()),
            "quick": QUICK,
            "rounds": ROUNDS,
            "versions": versions(),
            "figures": figures,
        }
        failed = FAILED in figures.values()
        if not given.save:
            return failed
        found["profiles"] = {}
        for name in PROFILED:
            module = importlib.import_module(f"benchmarks.{name}")
            try:
                found["profiles"][module.profile.__doc__] = module.profile()
            except NotMeasured as reason:
                print(f"  {name} was not profiled: {reason}")
        results.save(found)
    from benchmarks.report import charts, page

    page.write()
    charts.write()
    return failed


if __name__ == "__main__":
    sys.exit(main())
