"""The figures of the last run that was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "results.json"
Results = dict[str, Any]


def save(found: Results) -> None:
    """Keep them; four significant digits are more than they are worth."""
    for name, figures in found["figures"].items():
        if isinstance(figures, dict):
            found["figures"][name] = {
                figure: value if isinstance(value, str) else float(f"{value:.4g}") for figure, value in figures.items()
            }
    FILE.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load() -> Results:
    found: Results = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def figure(results: Results, name: str) -> float | None:
    """That of ``measurement.figure``, or None where it was not measured."""
    found = _found(results, name)
    return None if isinstance(found, str) else found


def why_not(results: Results, name: str) -> str:
    """Why it was not measured, or nothing where nobody knows."""
    found = _found(results, name)
    return found if isinstance(found, str) else ""


def _found(results: Results, name: str) -> float | str | None:
    measurement, _, key = name.partition(".")
    figures = results["figures"].get(measurement)
    found: float | str | None = figures.get(key) if isinstance(figures, dict) else figures
    return found
