"""How long an import takes, beside others: each in fresh interpreters, in turn, everything compiled before."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 30
STANDARD = "import smtplib, email.message"
OURS = "from smtpbackend import Mailer, Message"
STATEMENTS = (STANDARD, OURS, "from smtpbackend import AsyncMailer, Message", "import aiosmtplib", "import asyncio")


def seconds(statement: str, env: dict[str, str]) -> float:
    """How long an interpreter takes for a statement, from start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], env=env, check=True)
    return time.perf_counter() - start


def main() -> None:
    print(f"Import, milliseconds above an empty program; {ROUNDS} rounds")
    times: dict[str, list[float]] = {statement: [] for statement in ("pass", *STATEMENTS)}
    with tempfile.TemporaryDirectory() as cache:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"PYTHONPYCACHEPREFIX": cache, "PYTHONPATH": str(Path(__file__).parents[1])}
        for round_ in range(ROUNDS + 1):
            for statement, found in times.items():
                taken = seconds(statement, env)
                if round_:  # the first one compiles
                    found.append(taken)
    nothing_least, nothing_middle = min(times["pass"]), statistics.median(times["pass"])
    standard = min(times[STANDARD]) - nothing_least
    print(f"{'':46}{'least':>8}{'median':>8}{'ratio':>8}")
    for statement in STATEMENTS:
        least = min(times[statement]) - nothing_least
        middle = statistics.median(times[statement]) - nothing_middle
        print(f"{statement:46}{least * 1000:8.1f}{middle * 1000:8.1f}{least / standard:8.2f}")


if __name__ == "__main__":
    main()
