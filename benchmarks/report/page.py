"""docs/performance.md, from benchmarks/results.json and the words in limits.md."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.report.charts import CHARTS, label
from benchmarks.report.goals import OUTBOX, ROWS, Goal, Row
from benchmarks.report.results import Results, figure, load, why_not

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
LIMITS = HERE / "limits.md"
LIMITS_OF_OUTBOX = HERE / "limits_of_outbox.md"

TOP = """\
<!-- Written by `make bench` from each results.json of benchmarks/ and the limits in its report/: change those. -->
# Performance

What is promised about speed, and what was measured beside the clients that could be used instead.{warning}

Measured on {measured}: {machine}. {versions}.

`make bench` installs the peers, starts the servers on loopback, measures everything in one run and writes this page.
The clients of a comparison take turns, each in a process of its own, and a ratio is the median over {rounds}. The
seconds are this machine's; the ratios hold elsewhere too. Waits are counted, and hold everywhere.

## Goals

{summary}

| scenario | goal | reached | of peers |
| --- | --- | --- | --- |
{goals}

## The outbox

What it costs to store mail in the database of a Django site, and how fast it leaves, beside django-mailer and
django-post-office. `make bench ARGS="outbox --save"` measures this by itself.{outbox_warning}

Measured on {outbox_measured}: {outbox_machine}. {outbox_versions}.

{outbox_summary}

| scenario | goal | reached | of peers |
| --- | --- | --- | --- |
{outbox_goals}

{outbox_limits}

## Charts

{charts}

## Limits

{limits}

## Where the time goes

The functions that take the most time in themselves. The profiler's own cost is in it, which makes short functions look
longer than they are.

{profiles}

## Every figure

{figures}
"""


QUICK = " **This was a quick run with little mail, to see that it works: its figures say nothing.**"


def versions(run: Results) -> str:
    return ", ".join(f"{name} {version}" for name, version in run["versions"].items())


def reached(results: Results, goal: Goal) -> str:
    value = figure(results, goal.figure)
    if value is None:
        reason = why_not(results, goal.figure)
        return f"not measured: {reason}" if reason else "not measured"
    if goal.is_reached(value):
        return goal.show(value)
    return f"**not reached**: {goal.show(value)} of {goal.show(goal.limit)}"


def lines_of(results: Results, row: Row) -> Iterator[str]:
    """The lines of the table: one for each goal, scenario and peers only in the first."""
    shown = [(words, figure(results, name), unit) for words, name, unit in row.peers]
    peers = ", ".join(f"{words} {label(value)} {unit}" for words, value, unit in shown if value is not None)
    for number, goal in enumerate(row.goals):
        first, last = (row.scenario, peers) if number == 0 else ("", "")
        yield f"| {first} | {goal.says} | {reached(results, goal)} | {last} |"


def table(results: Results, rows: Iterable[Row]) -> str:
    return "\n".join(line for row in rows for line in lines_of(results, row))


def summary(results: Results, rows: Iterable[Row]) -> str:
    goals = [goal for row in rows for goal in row.goals]
    values = [(goal, figure(results, goal.figure)) for goal in goals]
    good = sum(value is not None and goal.is_reached(value) for goal, value in values)
    missing = sum(value is None for _, value in values)
    text = f"{good} of {len(goals)} are reached"
    return f"{text}; {missing} were not measured." if missing else f"{text}."


def every_figure(results: Results) -> Iterator[str]:
    """What each measurement asks, and all that it found."""
    for name, figures in results["figures"].items():
        source = (HERE.parent / f"{name}.py").read_text(encoding="utf-8")
        yield f"### {name}\n\n{ast.get_docstring(ast.parse(source))}\n"
        if isinstance(figures, str):
            yield f"Not measured: {figures}\n"
        else:
            shown = {key: value if isinstance(value, str) else f"{value:,.4g}" for key, value in figures.items()}
            rows = "\n".join(f"| {key} | {value} |" for key, value in shown.items())
            yield f"| figure | |\n| --- | ---: |\n{rows}\n"


def profile(words: str, rows: list[list[Any]]) -> str:
    lines = "\n".join(f"| `{name}` | {calls:,} | {share} % |" for name, calls, share in rows)
    return f"### {words}\n\n| function | calls | of the time |\n| --- | ---: | ---: |\n{lines}"


def text(results: Results) -> str:
    """The page."""
    outbox = results["outbox"]
    charts = [f"![{chart.title}](performance/{chart.name}.svg)" for chart in CHARTS if chart.measured(results)]
    return TOP.format(
        warning=QUICK if results["quick"] else "",
        measured=results["measured"],
        machine=results["machine"],
        versions=versions(results),
        rounds=f"{results['rounds']} rounds" if results["rounds"] > 1 else "1 round",
        summary=summary(results, ROWS),
        goals=table(results, ROWS),
        outbox_warning=QUICK if outbox["quick"] else "",
        outbox_measured=outbox["measured"],
        outbox_machine=outbox["machine"],
        outbox_versions=versions(outbox),
        outbox_summary=summary(results, OUTBOX),
        outbox_goals=table(results, OUTBOX),
        outbox_limits=LIMITS_OF_OUTBOX.read_text(encoding="utf-8").strip(),
        charts="\n\n".join(charts),
        limits=LIMITS.read_text(encoding="utf-8").strip(),
        profiles="\n\n".join(profile(words, rows) for words, rows in results["profiles"].items()),
        figures="\n".join(every_figure(results)).strip(),
    )


def write() -> None:
    PAGE.write_text(text(load()), encoding="utf-8")
