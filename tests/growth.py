"""Whether work grows no faster than what it is given: shapes of hostile text, and what is counted.

Calls of functions are counted, those of C too: the same number whenever they are counted. Double the text may make no
more than double the calls. Inside a regular expression or a copy there are no calls, so the CPU time of the thread is
looked at as well. It decides only where there is so much of it that nothing linear can be meant, and where four times
the text then takes far more than four times as long, each time that it is tried: a quadratic one takes sixteen times.
"""

from __future__ import annotations

import contextlib
import cProfile
import time
from collections.abc import Callable
from typing import Any

SMALL, LARGE = 1_500, 3_000
"""Characters for which calls are counted."""
LONG = 16_000
"""Characters for which time is looked at."""
ENOUGH = 0.5
"""Seconds of CPU that a long text may take without a further look. What is quadratic takes far more."""
SLACK = 200
"""Calls that do not come from the text."""

UNITS = (
    *(
        " ",
        '"',
        "(",
        "<",
        ",",
        ";",
        ".",
        "@",
        "\\",
        "%",
        "a",
        "é",
        "=?",
        "=?utf-8?q?a?= ",
        "(a)",
        '""',
        "<>",
        "a ",
        "a,",
    ),
    *("a@b,", "a:;", ';a="b"', ";a*0=b", "a=b,", '"a".', "é ", "é,", '{"a":', '" (<,;@\\=?é'),
)
SHAPES: dict[str, Callable[[int], str]] = {
    **{f"{unit!r} again and again": lambda n, unit=unit: unit * (n // len(unit)) for unit in UNITS},
    "blanks at the end": lambda n: "x" + " " * n,
    "blanks between": lambda n: "x" + " " * n + "y",
    "blanks in quotes": lambda n: '"x' + " " * n + '" <a@b.example>',
    "quotes that do not end": lambda n: '"' + 'a"' * (n // 2) + '"',
    "quoted pairs in quotes that do not end": lambda n: '"' + '\\"' * (n // 2),
    "quoted pairs in a comment that does not end": lambda n: "(" + "\\(" * (n // 2),
    "backslashes in quotes": lambda n: '"' + "\\" * n + '"',
    "comments in comments": lambda n: "(" * (n // 2) + ")" * (n // 2) + "a@b.example",
    "comments that do not end": lambda n: "a@b.example (" + "(a)" * (n // 3),
    "a media type and blanks": lambda n: "a/b" + " " * n + "!",
    "a media type and semicolons": lambda n: "a/b" + ";" * n,
    "a parameter that does not end": lambda n: 'a/b; a="' + ";" * n,
    "a name and an address": lambda n: '"' + "é " * (n // 2) + '" <a@b.example>',
    "a domain in another script": lambda n: "a@" + "".join(chr(0x4E00 + i % 20_000) for i in range(n)) + ".example",
    "a quoted local part": lambda n: '"' + "\\a" * (n // 2) + '"@b.example',
    "many addresses": lambda n: ", ".join(f"a{i}@b{i}.example" for i in range(n // 18)),
    "one name at many hosts": lambda n: ", ".join(f"info@b{i}.example" for i in range(n // 18)),
}

Work = Callable[[], Any]


def calls(work: Work, expected: tuple[type[BaseException], ...] = ()) -> int:
    """How many functions ``work`` calls in this thread, Python's and C's."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        with contextlib.suppress(*expected):
            work()
    finally:
        profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


def seconds(work: Work, expected: tuple[type[BaseException], ...] = ()) -> float:
    """CPU time of this thread."""
    begun = time.thread_time()
    with contextlib.suppress(*expected):
        work()
    return time.thread_time() - begun


def check(make: Callable[[str], Work], name: str, expected: tuple[type[BaseException], ...]) -> int:
    """Fail where the work that ``make`` makes of a text of a shape grows faster than the text; else how many calls.

    ``make`` is not looked at: what others parse before we are given it.
    """
    shape = SHAPES[name]
    few, more = (calls(make(shape(size)), expected) for size in (SMALL, LARGE))
    if more > 2.2 * few + SLACK:  # it may be a step, where a long text takes another way: then the next is not as high
        most = calls(make(shape(2 * LARGE)), expected)
        assert most <= 2.2 * more, f"{name}: {few}, {more}, {most} calls for {SMALL} characters, twice and four times"
    took = seconds(make(shape(LONG)), expected)
    if took > ENOUGH:
        ratios = []
        for _ in range(3):
            quarter = seconds(make(shape(LONG // 4)), expected)
            ratios.append(seconds(make(shape(LONG)), expected) / quarter)
        assert min(ratios) < 9, (
            f"{name}: {LONG} characters take {took:.1f} s, {min(ratios):.0f} times as long as a quarter"
        )
    return more
