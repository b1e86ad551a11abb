"""Samples: what a client takes, each in a process of its own, one client after the other and round after round.

A client is a function of a measurement's module. Called with its options it makes everything ready, and returns what is
measured: a callable that sends, and returns how many messages were accepted. A client in JavaScript does the same.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LONGEST_SAMPLE = 300  # seconds
QUICK = os.environ.get("SMTPBACKEND_BENCH_QUICK") == "1"
"""Whether this is only to see that everything runs: one round, little mail. Such figures say nothing."""

ROUNDS = 1 if QUICK else 5

Figures = dict[str, float | str]
"""What a measurement found, by name; of what it could not measure why."""


class NotMeasured(Exception):
    """Something that a measurement needs is not here; the text says what."""


class Sample(NamedTuple):
    """What sending took: seconds, those of the processor, and MB of memory at most above what there was before."""

    seconds: float
    cpu: float
    memory: float


Taker = Callable[[], Sample]


def amount(whole: int) -> int:
    """That many messages, or few where it is to be quick."""
    return max(whole // 50, 5) if QUICK else whole


def client(
    function: Callable[..., Any], *, python: Path | None = None, trusted: str | None = None, count: int, **options: Any
) -> Taker:
    """What takes a sample of that client, which sends ``count`` messages; ``trusted``: a file of authorities."""
    name = [function.__module__, function.__name__]
    command = [python or sys.executable, "-m", "benchmarks.lab.sample", *name]
    if trusted is not None:
        command = ["env", f"SSL_CERT_FILE={trusted}", *command]
    return lambda: _take(command, {"count": count, **options})


def within(python: Path, module: str, function: str, **options: Any) -> Any:
    """What a function returns in that Python."""
    program = f"import json, sys, {module} as module; print(json.dumps(module.{function}(**json.loads(sys.argv[1]))))"
    found = json.loads(_run([python, "-c", program], options).splitlines()[-1])
    return found


def profiled(
    function: Callable[..., Any], *, python: Path | None = None, count: int, **options: Any
) -> list[list[Any]]:
    """Where the time of that client goes: function, calls and per cent of all, those with the most first."""
    command = [python or sys.executable, "-m", "benchmarks.lab.sample", function.__module__, function.__name__]
    found: list[list[Any]] = json.loads(_run(command, {"count": count, "profile": True, **options}))
    return found


def script(node: list[str], path: Path, *, count: int, **options: Any) -> Taker:
    """What takes a sample of a client in JavaScript."""
    return lambda: _take([*node, path], {"count": count, **options})


def _take(command: list[Any], options: dict[str, Any]) -> Sample:
    found = json.loads(_run(command, options))
    if found.pop("sent") != options["count"]:
        raise RuntimeError(f"{command[-1]} did not send all of its mail")
    return Sample(**found)


def _run(command: list[Any], options: dict[str, Any]) -> bytes:
    """What it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*map(str, command), json.dumps(options)], env=env, cwd=ROOT, capture_output=True, timeout=LONGEST_SAMPLE
    )
    if done.returncode:
        raise RuntimeError(f"{command[-1]}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def interleaved(takers: Mapping[str, Taker], rounds: int = ROUNDS) -> dict[str, list[Sample]]:
    """Samples of each client, by its name: round after round, every second one backwards."""
    samples: dict[str, list[Sample]] = {name: [] for name in takers}
    for number in range(rounds):
        for name in list(takers)[:: -1 if number % 2 else 1]:
            samples[name].append(takers[name]())
    return samples


def ratio(ours: list[Sample], theirs: list[Sample], what: str = "seconds", *, times: float = 1.0) -> float:
    """How many times ours they took, the median over the rounds; ``times``: messages of theirs for one of ours."""
    pairs = zip(ours, theirs, strict=True)
    return statistics.median(getattr(their, what) / max(getattr(our, what), 1e-9) for our, their in pairs) / times


def middle(samples: list[Sample], what: str = "seconds") -> float:
    """The median."""
    return statistics.median(getattr(sample, what) for sample in samples)
