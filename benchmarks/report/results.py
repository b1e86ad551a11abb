"""The figures of the last runs that were kept: one of everything else, and one of the outbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
FILE = HERE / "results.json"
OUTBOX_FILE = HERE / "outbox" / "results.json"
Results = dict[str, Any]


def save(found: Results, file: Path = FILE) -> None:
    """Keep them; four significant digits are more than they are worth."""
    for name, figures in found["figures"].items():
        if isinstance(figures, dict):
            found["figures"][name] = {
                figure: value if isinstance(value, str) else float(f"{value:.4g}") for figure, value in figures.items()
            }
    file.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load() -> Results:
    """All figures; "outbox" is what else is known of the run of the outbox."""
    found: Results = json.loads(FILE.read_text(encoding="utf-8"))
    outbox: Results = json.loads(OUTBOX_FILE.read_text(encoding="utf-8"))
    found["figures"] |= outbox.pop("figures")
    return {**found, "outbox": outbox}


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
