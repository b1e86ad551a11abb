"""What importing costs, and what it must not load.

The cost is counted in bytecode instructions, in a process of its own: the same on every run, whatever else the machine
does. Seconds are measured by `make bench`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
OURS = "from smtpbackend import Mailer, Message"

# Loads nothing itself, so that nothing which an import needs is there before.
PROGRAM = """
import sys
code = compile(sys.argv[1], "<import>", "exec")
before = set(sys.modules)
count = 0
def trace(frame, event, argument):
    global count
    frame.f_trace_opcodes, frame.f_trace_lines = True, False
    count += event == "opcode"
    return trace
sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for it here, and only now
sys.settrace(trace)
exec(code, {})
sys.settrace(None)
print(count, *sorted(set(sys.modules) - before))
"""


class Import(NamedTuple):
    """What an import statement executed, and the modules it loaded."""

    instructions: int
    modules: frozenset[str]


Measure = Callable[[str], Import]


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Count an import in a fresh interpreter, which has every module compiled already."""
    cache = tmp_path_factory.mktemp("pycache")
    known: dict[str, Import] = {}

    def count(statement: str) -> Import:
        if statement not in known:
            for _ in range(2):  # the first run compiles
                known[statement] = run(statement)
        return known[statement]

    def run(statement: str) -> Import:
        unwanted = ("PYTHONDONTWRITEBYTECODE", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
        env = {name: value for name, value in os.environ.items() if name not in unwanted}
        env |= {"PYTHONPYCACHEPREFIX": str(cache), "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, statement], env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        instructions, *modules = done.stdout.split()
        return Import(int(instructions), frozenset(modules))

    return count


@pytest.mark.slow
def test_counting_is_repeatable(measure: Measure) -> None:
    """Else it could decide nothing: what is counted is a small part of what is executed, and it is all of it."""
    nothing, little = measure("pass"), measure("import smtplib")
    assert nothing.instructions < 10
    assert nothing.modules == frozenset()
    assert little.instructions > 50_000
    assert "smtplib" in little.modules


@pytest.mark.slow
def test_it_costs_at_most_1_8_times_the_standard_library(measure: Measure) -> None:
    """DESIGN 5.6"""
    standard = measure("import smtplib, email.message").instructions
    assert measure(OURS).instructions <= 1.8 * standard


@pytest.mark.slow
def test_it_costs_less_than_aiosmtplib(measure: Measure) -> None:
    assert measure(OURS).instructions < measure("import aiosmtplib").instructions


@pytest.mark.parametrize(
    "unwanted",
    [
        *("asyncio", "idna", "blinker", "uuid", "logging", "mimetypes", "tempfile", "multiprocessing"),
        *("django", "flask", "smtpbackend_django", "smtpbackend_flask", "smtpbackend.aio"),
        *("scramp", "dkim", "python_socks", "dns", "authlib", "sqlalchemy", "celery", "opentelemetry", "rich"),
    ],
)
def test_neither_asyncio_nor_a_framework_nor_an_optional_library_is_loaded(measure: Measure, unwanted: str) -> None:
    """Each is loaded when it is first needed."""
    loaded = measure(OURS).modules
    assert not [name for name in loaded if name == unwanted or name.startswith(f"{unwanted}.")]


def test_the_package_alone_loads_nothing(measure: Measure) -> None:
    """`import smtpbackend`: its public names come when they are asked for."""
    assert {name for name in measure("import smtpbackend").modules if name.startswith("smtpbackend")} == {"smtpbackend"}


def test_only_what_is_sent_to_a_name_in_another_script_loads_idna(measure: Measure) -> None:
    mail = "from smtpbackend import Message; Message('Hi', 'ann@example.org', '{}', text='Hello')"
    assert "idna" not in measure(mail.format("bob@example.com")).modules
    assert "idna" in measure(mail.format("bob@exämple.com")).modules


def test_the_async_mailer_loads_asyncio_and_no_blocking_wire(measure: Measure) -> None:
    loaded = measure("from smtpbackend import AsyncMailer").modules
    assert "asyncio" in loaded
    assert not [name for name in loaded if name.startswith("smtpbackend.blocking")]


def test_every_public_name_is_there_and_no_other() -> None:
    import smtpbackend

    for name in smtpbackend.__all__:
        value = getattr(smtpbackend, name)
        assert value.__name__ == name or name == "Listener"  # an alias of a type
    assert set(smtpbackend.__all__) <= set(dir(smtpbackend))
    with pytest.raises(AttributeError, match="no attribute 'Client'"):
        _ = smtpbackend.Client  # type: ignore[attr-defined]
