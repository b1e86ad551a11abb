"""How long does an import take? The least above an empty program, in fresh interpreters, everything compiled before."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.lab.samples import QUICK, Figures

ROUNDS = 2 if QUICK else 30
STATEMENTS = {
    "smtplib": "import smtplib, email.message",
    "ours": "from smtpbackend import Mailer, Message",
    "ours_async": "from smtpbackend import AsyncMailer, Message",
    "aiosmtplib": "import aiosmtplib",
    "asyncio": "import asyncio",
}


def seconds(statement: str, env: dict[str, str]) -> float:
    """How long an interpreter takes for a statement, from start to end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], env=env, check=True)
    return time.perf_counter() - start


def measure() -> Figures:
    times: dict[str, list[float]] = {statement: [] for statement in ("pass", *STATEMENTS.values())}
    with tempfile.TemporaryDirectory() as cache:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"PYTHONPYCACHEPREFIX": cache, "PYTHONPATH": str(Path(__file__).parents[1])}
        for round_ in range(ROUNDS + 1):
            for statement, found in times.items():
                taken = seconds(statement, env)
                if round_:  # the first one compiles
                    found.append(taken)
    above = {name: min(found) - min(times["pass"]) for name, found in times.items()}
    figures: Figures = {}
    for name, statement in STATEMENTS.items():
        figures[f"{name}_ms"] = above[statement] * 1000
        figures[f"{name}_ratio"] = above[statement] / above[STATEMENTS["smtplib"]]
    return figures
