"""Measure everything, or what is named: `python -m benchmarks ready waits`.

`outbox` stands for all that is in that folder. `--save` (all of it in one run, or `outbox`) keeps the figures in
results.json and writes docs/performance.md and its charts; `--pages` writes these anew from what is kept. With
SMTPBACKEND_BENCH_QUICK=1 everything runs with little mail.
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

from benchmarks.lab.environments import django, versions, versions_of_queues
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


def print_goals(figures: dict[str, Figures | str]) -> None:
    """The table of the goals that there is a figure for."""
    from benchmarks.report.goals import OUTBOX, ROWS
    from benchmarks.report.page import table

    rows = [row for row in (*ROWS, *OUTBOX) if any(goal.figure.partition(".")[0] in figures for goal in row.goals)]
    print(f"\n| scenario | goal | reached | of peers |\n| --- | --- | --- | --- |\n{table({'figures': figures}, rows)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}")
    parser.add_argument("--save", action="store_true", help="keep the figures, and write the page")
    parser.add_argument("--pages", action="store_true", help="measure nothing, write the page anew")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - {*ALL, "outbox"}):
        parser.error(f"no measurement {', '.join(unknown)}; there are {', '.join(ALL)}")
    if given.save and given.names not in ([], ["outbox"]):
        parser.error('--save keeps what was measured in one run: name no measurement, or "outbox"')
    names = [one for name in given.names or ALL for one in (OUTBOX if name == "outbox" else [name])]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers that were started end with us
    failed = False
    if not given.pages:
        print(machine())
        figures = {name: measure(name) for name in names}
        print_goals(figures)
        failed = FAILED in figures.values()
        if not given.save:
            return failed
        kept: dict[str, Any] = {"machine": machine(), "measured": time.strftime("%Y-%m-%d", time.gmtime())}
        kept |= {"quick": QUICK, "rounds": ROUNDS}
        of_outbox = {name: figures.pop(name) for name in OUTBOX}
        results.save({**kept, "versions": versions_of_queues(), "figures": of_outbox}, results.OUTBOX_FILE)
        if figures:
            found = {**kept, "versions": versions(), "figures": figures, "profiles": {}}
            for name in PROFILED:
                module = importlib.import_module(f"benchmarks.{name}")
                try:
                    found["profiles"][module.profile.__doc__] = module.profile()
                except NotMeasured as reason:
                    print(f"  {name} was not profiled: {reason}")
            results.save(found)
    from benchmarks.report import charts, page

    page.write()
    if given.names != ["outbox"]:  # which has no chart
        charts.write()
    return failed


if __name__ == "__main__":
    sys.exit(main())
