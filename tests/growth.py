"""Whether work grows no faster than what it is given: shapes of hostile text, and what is counted.

Two things are counted while a text doubles: calls of functions, those of C too, which are the same number whenever they
are counted; and where it takes long enough to tell, the CPU time of this thread, for there are no calls inside a regular
expression or a copy. Double the text may take little more than double the calls. Time decides only where four times the
text takes far more than four times as long, again and again: a quadratic one takes sixteen times as long.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

SIZES = (2_000, 4_000, 8_000, 16_000, 64_000)
"""Characters: the calls are counted up to the fourth, and the time of the last is compared with that."""
ENOUGH = 0.4
"""Seconds of CPU that 64,000 characters may take without a further look: nothing quadratic that matters is as fast."""

UNITS = (
    *(
        " ",
        "\t",
        '"',
        "'",
        "(",
        ")",
        "<",
        ">",
        ",",
        ";",
        ":",
        ".",
        "@",
        "\\",
        "[",
        "]",
        "=",
        "?",
        "*",
        "%",
        "-",
        "/",
        "&",
    ),
    *(
        "a",
        "é",
        "1",
        "=?",
        "?=",
        "=?utf-8?q?",
        "=?utf-8?q?a?= ",
        "=?utf-8?b?YQ==?=",
        "()",
        "(a)",
        '""',
        '"a"',
        '\\"',
        "<>",
    ),
    *(
        "a ",
        "a,",
        "a.",
        "a@",
        "a@b,",
        "<a@b>",
        "a <a@b>,",
        "a:;",
        ";a=b",
        "; a=b",
        ';a="b"',
        ";a*0=b",
        "%41",
        "a=b,",
        "a=b&",
    ),
    *(
        '"a".',
        "é ",
        "é,",
        "=E9",
        " =?",
        "[a]",
        "{",
        '{"a":',
        '"a":1,',
        "1.",
        "a-",
        "\u3000",
        "a\t",
        ", ",
        '" (<,;@\\=?é',
    ),
)
SHAPES: dict[str, Callable[[int], str]] = {
    **{f"{unit!r} again and again": lambda n, unit=unit: unit * (n // len(unit)) for unit in UNITS},
    "x and blanks": lambda n: "x" + " " * n,
    "blanks between": lambda n: "x" + " " * n + "y",
    "blanks and a comma": lambda n: "x" + " " * n + ",",
    "blanks in quotes": lambda n: '"x' + " " * n + '" <a@b.example>',
    "quotes that do not end": lambda n: '"' + 'a"' * (n // 2) + '"',
    "a quote of backslashes": lambda n: '"' + "\\" * n + '"',
    "comments in comments": lambda n: "(" * (n // 2) + ")" * (n // 2) + "a@b.example",
    "comments that do not end": lambda n: "a@b.example (" + "(a)" * (n // 3),
    "a media type and blanks": lambda n: "a/b" + " " * n + "!",
    "a media type and semicolons": lambda n: "a/b" + ";" * n,
    "a media type of parameters": lambda n: "a/b" + "; a=b" * (n // 5) + "!",
    "a quoted parameter": lambda n: 'a/b; a="' + ";" * n,
    "a long parameter": lambda n: 'a/b; a="' + "b" * n + '"',
    "an address of dots": lambda n: "a." * (n // 2) + "a@b.example",
    "a domain of dots": lambda n: "a@" + "b." * (n // 2) + "example",
    "a domain in another script": lambda n: "a@" + "".join(chr(0x4E00 + i % 20_000) for i in range(n)) + ".example",
    "a literal": lambda n: "a@[IPv6:" + ":" * n + "]",
    "a quoted local part": lambda n: '"' + "\\a" * (n // 2) + '"@b.example',
    "many addresses": lambda n: ", ".join(f"a{i}@b{i}.example" for i in range(n // 18)),
    "many addresses of one name": lambda n: ", ".join(f"info@b{i}.example" for i in range(n // 18)),
    "a group": lambda n: "a: " + "b@c.example, " * (n // 13) + ";",
}


class _Late(Exception):
    """It took so long that nothing more need be counted."""


def calls_and_seconds(work: Callable[[], Any], errors: tuple[type[BaseException], ...]) -> tuple[int, float]:
    """How many calls of functions ``work`` makes in this thread, and the CPU time that it takes, counting aside."""
    count = 0

    def note(frame: Any, event: str, _: Any) -> None:
        nonlocal count
        if event == "call" or event == "c_call":
            count += 1

    sys.setprofile(note)
    try:
        work()
    except errors:
        pass
    finally:
        sys.setprofile(None)
    return count, 0.0


def seconds(work: Callable[[], Any], errors: tuple[type[BaseException], ...]) -> float:
    """CPU time of this thread."""
    begun = time.thread_time()
    try:
        work()
    except errors:
        pass
    return time.thread_time() - begun
