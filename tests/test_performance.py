"""docs/performance.md is made from benchmarks/results.json, and says of each goal whether it is reached."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab.environments import PEERS
from benchmarks.report import page
from benchmarks.report.charts import CHARTS, FOLDER, label
from benchmarks.report.goals import OUTBOX, ROWS, Goal
from benchmarks.report.results import load

ROOT = Path(__file__).parents[1]
RESULTS = load()
GOALS = [goal for row in (*ROWS, *OUTBOX) for goal in row.goals]
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def with_figure(name: str, value: float) -> dict[str, Any]:
    """The results, but for that figure."""
    results = copy.deepcopy(RESULTS)
    measurement, _, key = name.partition(".")
    results["figures"].setdefault(measurement, {})[key] = value
    return results


def test_the_page_is_what_the_results_make() -> None:
    """Nobody copies a figure by hand."""
    assert page.text(RESULTS) == PAGE, "run `python -m benchmarks --pages`"


@pytest.mark.parametrize("row", [*ROWS, *OUTBOX], ids=lambda row: row.scenario)
def test_every_goal_is_on_the_page(row: Any) -> None:
    first = f"| {row.scenario} | {row.goals[0].says} | "
    assert first in PAGE
    below = PAGE.partition(first)[2].splitlines()[1 : len(row.goals)]
    assert [line.split(" | ")[1] for line in below] == [goal.says for goal in row.goals[1:]]


def test_the_scenarios_of_the_goals_are_all_there() -> None:
    """None is dropped because it was not reached."""
    assert (len(ROWS), len(OUTBOX)) == (18, 16)
    assert len(GOALS) == 33 + 31
    assert len({goal.figure for goal in GOALS}) == len(GOALS)


def test_every_figure_of_a_goal_is_measured() -> None:
    """A misspelt name would be shown as not measured for ever. What could not be measured here says why."""
    goals = [goal.figure for goal in GOALS]
    others = [name for row in (*ROWS, *OUTBOX) for _, name, _ in row.peers] + [
        name for chart in CHARTS for _, name in chart.bars
    ]
    for name in goals + others:
        if name.startswith("rendering.") and "rendering" not in RESULTS["figures"]:
            continue
        measurement, _, key = name.partition(".")
        figures = RESULTS["figures"][measurement]
        if isinstance(figures, dict) and (
            name in goals or not any(isinstance(value, str) for value in figures.values())
        ):
            assert key in figures, name


@pytest.mark.parametrize(
    ("goal", "value", "shown"),
    [
        (Goal("3 x", "ready.smtplib_ratio", 3, "times"), 3.04, "3 x"),
        (Goal("3 x", "ready.smtplib_ratio", 3, "times"), 2.4, "**not reached**: 2.4 x of 3 x"),
        (Goal("3 x", "ready.smtplib_ratio", 3, "times"), 2.99, "**not reached**: 2.9 x of 3 x"),
        (Goal("1/8", "django_backend.batch_6.1_cpu", 8, "share"), 10, "1/10"),
        (Goal("1/8", "django_backend.batch_6.1_cpu", 8, "share"), 0.5, "**not reached**: 2 x of 1/8"),
        (Goal("12", "round_trips.turns", 12, "count"), 12, "12"),
        (Goal("12", "round_trips.turns", 12, "count"), 13, "**not reached**: 13 of 12"),
        (Goal("10 %", "growth.time", 1.1, "percent"), 0.95, "-5 %"),
        (Goal("10 %", "growth.time", 1.1, "percent"), 1.2, "**not reached**: +20 % of +10 %"),
        (Goal("2 MB", "growth.memory", 2, "MB"), 2.6, "**not reached**: 2.6 MB of 2.0 MB"),
        (Goal("20 ms", "outbox/latency.sqlite_run_median_ms", 20, "ms"), 20.01, "**not reached**: 20.1 ms of 20.0 ms"),
        (Goal("5 s", "outbox/newsletter.sqlite_normal_s", 5, "s"), 1.234, "1.24 s"),
    ],
)
def test_what_is_not_reached_is_said(goal: Goal, value: float, shown: str) -> None:
    assert page.reached(with_figure(goal.figure, value), goal) == shown


def test_what_was_not_measured_is_said_with_the_reason() -> None:
    results = copy.deepcopy(RESULTS)
    results["figures"]["ready"] = "smtp-sink is not installed"
    goal = next(goal for goal in GOALS if goal.figure == "ready.smtplib_ratio")
    assert page.reached(results, goal) == "not measured: smtp-sink is not installed"
    assert "Not measured: smtp-sink is not installed" in page.text(results)
    results["figures"]["ready"] = {"smtplib_ratio": "no smtplib", "aiosmtplib_ratio": 7.0}
    assert page.reached(results, goal) == "not measured: no smtplib"
    assert "| smtplib_ratio | no smtplib |" in page.text(results)


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_charts_show_the_results(chart: Any) -> None:
    """Each bar has its words and its figure, as text."""
    drawn = ElementTree.parse(FOLDER / f"{chart.name}.svg")
    words = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    for name, value in chart.measured(RESULTS):
        assert name in words
        assert label(value) in words
    assert f"performance/{chart.name}.svg" in PAGE


def test_what_names_no_whole_run_is_not_kept() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "outbox/idle", "--save"],
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 300},
    )
    assert done.returncode == 2
    assert "name no measurement" in done.stderr


@pytest.mark.exhaustive
@pytest.mark.servers
@pytest.mark.skipif(not (PEERS / "queues" / ".ready").exists(), reason="`make bench` has not installed the peers")
@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks" / "outbox").glob("[!_]*.py")))
def test_the_outbox_can_be_measured(name: str) -> None:
    """With little mail."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", f"outbox/{name}"],
        env={**os.environ, "SMTPBACKEND_BENCH_QUICK": "1"},
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 500},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not measured" not in done.stdout
    assert "| PostgreSQL: " in done.stdout
    assert "| SQLite: " in done.stdout


RENDERED = """
import json
from benchmarks import rendering
theirs, ours = rendering.sides()
made = {name: make for name, make in rendering.messages().items() if not name.startswith("25 MB")}
print(json.dumps({name: [render(make()) for render in (theirs, ours)] for name, make in made.items()}))
"""


def test_both_sides_of_the_rendering_write_the_same() -> None:
    """With the Django that is here; the large one is left out."""
    done = subprocess.run([sys.executable, "-c", RENDERED], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 4
    assert all(abs(theirs - ours) <= 4 for theirs, ours in found.values()), found


def test_there_is_a_command_for_some_measurements() -> None:
    """And it names those that there are."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nonsense"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "no measurement nonsense" in done.stderr
    for name in RESULTS["figures"]:
        assert name in done.stderr
