"""Bytecode instructions a message, and the figures of `kept.json` that they are compared with.

``python -m tests.guards.figures`` writes them anew for the Python that runs it, which needs Django and Flask.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.guards.worker import run
from tests.servers.sink import Sink

KEPT = Path(__file__).parent / "kept.json"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

OFFERS = {
    "DATA": ("PIPELINING", "8BITMIME", "SIZE 0"),
    "BDAT": ("PIPELINING", "8BITMIME", "SIZE 0", "CHUNKING"),
}
ASKED = "&chunk_in_flight=probe"
"""Of a `Sink`, which is of no family that is asked for the proof by default."""
QUIET = 0.002
"""Seconds for a flight that the kernel might have cut in two; see `Sink`."""

SCENARIOS = {
    "send_many by DATA": ("DATA", "send_many", 200),
    "send_many by BDAT": ("BDAT", "send_many", 200),
    "send by DATA": ("DATA", "send", 100),
    "send by BDAT": ("BDAT", "send", 100),
    "render text": ("text", "render", 100),
    "render text and HTML": ("html", "render", 100),
    "Flask, send_many by DATA": ("DATA", "flask", 200),
    "Django, send_messages by DATA": ("DATA", "django", 200),
    "Django, one by one by DATA": ("DATA", "django_one_by_one", 100),
    "Django, password reset": ("DATA", "django_reset", 60),
    "Django, HTML notification": ("DATA", "django_notification", 60),
    "Flask, HTML notification": ("DATA", "flask_notification", 60),
}


def measure(scenario: str) -> float:
    """Instructions a message, of this package and of the ``email`` package."""
    where, what, number = SCENARIOS[scenario]
    return instructions(where, what, number)


def instructions(where: str, what: str, number: int) -> float:
    """A message, over so many."""
    if where not in OFFERS:
        return int(run("instructions", where, what, number)) / number
    with Sink(*OFFERS[where], patience=QUIET) as sink:
        return int(run("instructions", sink.url + (ASKED if where == "BDAT" else ""), what, number)) / number


def kept() -> dict[str, int]:
    """The figures for this Python; none where it has none."""
    figures: dict[str, int] = json.loads(KEPT.read_text()).get(PYTHON, {})
    return figures


def keep(scenario: str, figure: float) -> None:
    """Write one of them anew."""
    every = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    figures = every.get(PYTHON, {}) | {scenario: round(figure)}
    every[PYTHON] = {name: figures[name] for name in SCENARIOS if name in figures}
    KEPT.write_text(json.dumps(dict(sorted(every.items())), indent=2) + "\n")


if __name__ == "__main__":
    for each in SCENARIOS:
        keep(each, figure := measure(each))
        print(f"{PYTHON}  {each}: {figure:.0f}")
