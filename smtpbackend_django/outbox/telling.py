"""What ``manage.py outbox`` says, as lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from smtpbackend.adapters import nearest
from smtpbackend_django.outbox.models import moment

__all__ = [
    "COUNTS",
    "counted",
    "entry_lines",
    "entry_row",
    "listed",
    "meant",
    "pause_line",
    "problem",
    "shown",
    "statistics_lines",
    "table",
    "time_text",
]

COUNTS = ("pending", "due", "in_hand", "lapsed", "deferred", "scheduled", "newer")
"""How mail of a mailer is counted, see `smtpbackend.outbox.Store.statistics`."""
DAY = 86400.0
UNCLAIMED = 120.0  # seconds after which mail that is due would have been claimed
OLD_TRANSACTION = 600.0  # seconds


def meant(given: str, known: Iterable[str]) -> str:
    found = nearest(given, list(known))
    return f"; did you mean {found!r}?" if found else ""


def listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def time_text(seconds: float | None) -> str | None:
    return None if seconds is None else moment(seconds).isoformat(timespec="seconds")


def lasting(seconds: float) -> str:
    for length, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def shown(line: str) -> str:
    """What a terminal shows, and does not obey: subjects and replies are the words of others."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Lines with columns as wide as they need to be."""
    cells = [list(head), *([shown(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def entry_row(told: dict[str, Any]) -> tuple[Any, ...]:
    states: dict[str, int] = {}
    for one in told["recipients"]:
        states[one["state"]] = states.get(one["state"], 0) + 1
    state = ", ".join(states) if len(states) < 2 else ", ".join(f"{count} {name}" for name, count in states.items())
    addresses = [one["address"] for one in told["recipients"]]
    to = ", ".join(addresses[:2]) + (", ..." if len(addresses) > 2 else "")
    return told["id"], told["mailer"], told["created"], state, to, told["subject"][:60]


def entry_lines(told: dict[str, Any]) -> Iterator[str]:
    for name, value in told.items():
        if name == "recipients":
            for one in value:
                yield f"recipient: {one['address'] or '(erased)'}: {one['state']}, {one['attempts']} attempts"
                for detail in ("server", "error"):
                    if one[detail]:
                        yield f"    {detail}: {one[detail]}"
                if one["reply"]:
                    yield f"    reply: {json.dumps(one['reply'], ensure_ascii=False)}"
        elif isinstance(value, Mapping):
            yield f"{name}: {json.dumps(value, ensure_ascii=False)}"
        elif value not in (None, ""):
            yield f"{name}: {value}"


def pause_line(told: dict[str, Any]) -> str:
    what = f"mailer {told['mailer']!r}" if told["mailer"] else f"environment {told['environment']!r}"
    if told["paused"]:
        command = f"manage.py outbox resume {told['mailer'] or ''}".rstrip()
        return f"Paused: {what}. Nothing of it is sent until `{command}`."
    also = ", ".join(f"mailer {name!r}" if name else "the whole environment" for name in told["also"])
    return f"Resumed: {what}." + (f" Still paused: {also}." if also else "")


def statistics_lines(told: dict[str, Any]) -> Iterator[str]:
    yield f"environment {told['environment']!r}" + (", paused" if told["paused"] else "")
    head = ("MAILER", "DUE", "IN HAND", "LAPSED", "DEFERRED", "SCHEDULED", "NEWER", "OLDEST DUE", "STATE")
    rows = []
    for one in told["mailers"]:
        states = ["paused"] if one["paused"] else []
        if one["down_since"]:
            states.append(f"down since {one['down_since']}: {one['last_error']}")
        if not one["is_known"]:
            states.append("not in the settings")
        oldest = "" if one["oldest"] is None else lasting(one["oldest"])
        counts = [one[key] for key in COUNTS if key != "pending"]
        rows.append((one["mailer"], *counts, oldest, "; ".join(states) or "well"))
    yield from table(head, rows)
    for name, count in told["other_environments"].items():
        yield f"{counted(count, 'mail', 'mails')} of another environment, {name!r}: see `manage.py outbox adopt`."
    snapshot = told["old_snapshot"]
    if snapshot is not None:
        age = snapshot["oldest_transaction"]
        yield (
            f"Oldest transaction of the database: {'none' if age is None else lasting(age)}; dead rows of what is "
            f"due: {snapshot['dead_rows'] or 0}."
            + (
                " Each claim reads the dead rows, which cannot be removed before that transaction ends."
                if age is not None and age >= OLD_TRANSACTION
                else ""
            )
        )


def problem(of: dict[str, Any], all_paused: bool, longest: float) -> str:
    """What is wrong with a mailer whose mail may wait for ``longest`` seconds, and what to do; "" if nothing is."""
    name, oldest, unclaimed = of["mailer"], of["oldest"], of["unclaimed"]
    waiting = counted(of["pending"], "mail waits", "mails wait")
    is_late = oldest is not None and oldest > longest
    if not of["is_known"]:
        if not of["pending"]:
            return ""
        return (
            f"{waiting} for mailer {name!r}, by which no outbox of the settings sends: put it back, or send them by "
            f"another one: `manage.py outbox retry --from {name} --using ALIAS`."
        )
    if of["down_since"]:
        return (
            f"Mailer {name!r} is down since {of['down_since']}, {waiting}: {of['last_error']}. It is tried again by "
            "itself; `manage.py smtpcheck` tells each step."
        )
    if of["paused"] or all_paused:
        command = f"manage.py outbox resume {name if of['paused'] else ''}".rstrip()
        return f"Mail of {name!r} is due for {lasting(oldest)}, but paused: run `{command}`." if is_late else ""
    if unclaimed is not None and unclaimed > UNCLAIMED and not of["in_hand"]:
        return (
            f"Mail of {name!r} is due for {lasting(unclaimed)}, and no process sends it: start `manage.py outbox run`, "
            "or see why the processes of the site do not."
        )
    if is_late and of["newer"] >= of["due"]:
        return (
            f"Mail of {name!r} is due for {lasting(oldest)}, and a newer smtpbackend stored it: start a worker of that "
            "version."
        )
    if is_late:
        return (
            f"Mail of {name!r} is due for {lasting(oldest)}, longer than {lasting(longest)}: mail comes faster than "
            "the server takes it. Raise `connections` of the outbox, or `rate` of the mailer."
        )
    return ""
