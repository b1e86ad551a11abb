"""Bars for docs/performance.md, in SVG. The same figures make the same octets, with one version of matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchmarks.report.results import Results, figure, load

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "performance"
OURS, THEIRS = "#2a6f97", "#b8b8b8"


class Chart(NamedTuple):
    """``bars`` are words and figures; what is ours is coloured."""

    name: str
    title: str
    bars: tuple[tuple[str, str], ...]

    def measured(self, results: Results) -> list[tuple[str, float]]:
        """The bars that there is a figure for."""
        found = [(label, figure(results, name)) for label, name in self.bars]
        return [(label, value) for label, value in found if value is not None]


CHARTS = (
    Chart(
        "waits",
        "Waits for the server: one message to three recipients",
        (
            ("smtpbackend, new connection", "waits.cold_starttls"),
            ("smtplib, new connection", "waits.smtplib_cold"),
            ("smtpbackend, next message", "waits.warm"),
            ("smtplib, next message", "waits.smtplib_warm"),
        ),
    ),
    Chart(
        "round-trips",
        "Milliseconds a message: Postfix behind 50 ms, three recipients, one connection",
        (
            ("smtpbackend", "round_trips.ours_ms"),
            ("smtpbackend, no CHUNKING", "round_trips.without_chunking_ms"),
            ("nodemailer's pool", "round_trips.nodemailer_ms"),
            ("smtplib", "round_trips.smtplib_ms"),
        ),
    ),
    Chart(
        "ready",
        "Messages a second: content ready, one connection to smtp-sink",
        (
            ("smtpbackend", "ready.ours_rate"),
            ("smtplib", "ready.smtplib_rate"),
            ("aiosmtplib", "ready.aiosmtplib_rate"),
            ("a bare socket: the limit", "ready.bare_rate"),
        ),
    ),
    Chart(
        "frameworks",
        "Microseconds a message: plain text to smtp-sink",
        (
            *(
                (f"{whose} {version}, {words}", f"django_backend.{way}_{version}_{key}_us")
                for version in ("6.1", "5.2")
                for way, words in (("batch", "one list"), ("single", "one by one"))
                for whose, key in (("smtpbackend, Django", "ours"), ("Django", "django"))
            ),
            ("smtpbackend, Flask", "flask_connection.ours_us"),
            ("Flask-Mail", "flask_connection.flask_mail_us"),
        ),
    ),
    Chart(
        "at-once",
        "Milliseconds a message: 1,000 coroutines at once, Postfix behind 20 ms",
        (
            ("smtpbackend, 8 connections", "at_once.ours_ms"),
            ("aiosmtplib, 1 connection", "at_once.aiosmtplib_ms"),
        ),
    ),
    Chart(
        "attachments",
        "MB of memory above the start",
        (
            ("smtpbackend, Django, 25 MB as bytes", "attachments.ours_memory"),
            ("Django, 25 MB as bytes", "attachments.django_memory"),
            ("smtpbackend, 100 MB from a path", "attachments.path_memory"),
        ),
    ),
)


def label(value: float) -> str:
    """A figure as it stands beside its bar."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write() -> None:
    """Draw every chart that has figures."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # text stays text; the salt makes the identifiers the same each time
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "smtpbackend", "font.family": "sans-serif"})
    results = load()
    FOLDER.mkdir(exist_ok=True)
    for chart in CHARTS:
        bars = chart.measured(results)
        if not bars:
            continue
        drawing, axes = pyplot.subplots(figsize=(8, 0.7 + 0.36 * len(bars)), layout="constrained")
        labels, values = [name for name, _ in bars], [value for _, value in bars]
        drawn = axes.barh(labels, values, color=[OURS if "smtpbackend" in name else THEIRS for name in labels])
        axes.bar_label(drawn, [label(value) for value in values], padding=4)
        axes.set_title(chart.title, loc="left", fontsize=11)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.xaxis.set_visible(False)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        drawing.savefig(FOLDER / f"{chart.name}.svg", metadata={"Date": None})
        pyplot.close(drawing)
