"""The process of one sample: `python -m benchmarks.lab.sample MODULE CLIENT OPTIONS`, see ``samples``."""

from __future__ import annotations

import cProfile
import importlib
import json
import pstats
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

PROFILED = 15  # functions that a profile shows


def cpu() -> float:
    """Seconds of processor time so far, of the system's on our behalf too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak() -> float:
    """MB that this process has had at most since the peak was forgotten."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(match[1]) / 1024 if match else 0.0


def forget_peak() -> None:
    """Make what there is now the most that there was: proc(5), clear_refs."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def profile(work: Any, root: Path) -> list[list[Any]]:
    """Where the time goes: function, calls, and per cent of all, those with the most first."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    whole = sum(own for _, _, own, _, _ in stats.values())
    found = []
    for (path, _, name), (_, calls, own, _, _) in stats.items():
        place = Path(path)
        where = f"{place.relative_to(root)}: " if place.is_relative_to(root) else ""
        if not where and path not in ("~", ""):
            where = f"{place.name}: "
        found.append([where + name, calls, round(100 * own / whole, 1)])
    return sorted(found, key=lambda row: -row[2])[:PROFILED]


def main() -> None:
    module, name, given = sys.argv[1:]
    options = json.loads(given)
    is_profile = options.pop("profile", False)
    work = getattr(importlib.import_module(module), name)(**options)
    if is_profile:
        print(json.dumps(profile(work, Path(__file__).resolve().parents[2])))
        return
    forget_peak()
    memory, used, start = peak(), cpu(), time.perf_counter()
    sent = work()
    seconds, used, memory = time.perf_counter() - start, cpu() - used, peak() - memory
    print(json.dumps({"sent": sent, "seconds": seconds, "cpu": used, "memory": memory}))


if __name__ == "__main__":
    main()
