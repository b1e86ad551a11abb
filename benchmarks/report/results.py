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
            found["figures"][name] = {figure: float(f"{value:.4g}") for figure, value in figures.items()}
    FILE.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load() -> Results:
    found: Results = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def figure(results: Results, name: str) -> float | None:
    """That of ``measurement.figure``, or None where it was not measured."""
    measurement, _, key = name.partition(".")
    figures = results["figures"].get(measurement)
    return figures.get(key) if isinstance(figures, dict) else None
