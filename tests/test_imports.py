"""What importing costs, and what it must not load; and what the first mail costs that the others do not.

Costs are counted in a process of its own, the same on every run, whatever else the machine does: bytecode instructions,
and what takes long in few of them: modules, code that is compiled (by a dataclass or a NamedTuple), regular
expressions, and looks at files. Seconds are measured by `make bench`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from smtpbackend.testing import Play, ScriptedServer

ROOT = Path(__file__).parents[1]
OURS = "from smtpbackend import Mailer, Message"

# Loads nothing itself, so that nothing which an import needs is there before.
PROGRAM = """
import sys
instructions = compiled = patterns = looks = 0
LOOKS = {"stat", "lstat", "readlink", "listdir", "scandir", "open"}
def trace(frame, event, argument):
    global instructions, patterns
    code = frame.f_code
    if event == "call" and code.co_name == "compile" and code.co_filename.endswith("_compiler.py"):
        patterns += 1
    frame.f_trace_opcodes, frame.f_trace_lines = True, False
    instructions += event == "opcode"
    return trace
def watch(frame, event, argument):
    global looks
    if event == "c_call" and argument.__name__ in LOOKS and "importlib" not in frame.f_code.co_filename:
        looks += 1
def hear(event, arguments):
    global compiled
    compiled += event == "compile"
steps = [compile(step, "<step>", "exec") for step in sys.argv[1:]]
sys.addaudithook(hear)
space = {}
for code in steps:
    instructions = compiled = patterns = looks = 0
    before = set(sys.modules)
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for it here, and only now
    sys.setprofile(watch)
    sys.settrace(trace)
    exec(code, space)
    sys.settrace(None)
    sys.setprofile(None)
    print(instructions, compiled, patterns, looks, *sorted(set(sys.modules) - before))
"""


class Step(NamedTuple):
    """What a statement executed, compiled and looked at, and the modules that it loaded."""

    instructions: int
    compiled: int
    patterns: int
    looks: int
    modules: frozenset[str]


Steps = Callable[..., list[Step]]
Measure = Callable[..., Step]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """Count statements, one after the other in a fresh interpreter, which has every module compiled already."""
    cache = tmp_path_factory.mktemp("pycache")

    def count(*statements: str) -> list[Step]:
        for _ in range(2):  # the first run compiles
            found = run(*statements)
        return found

    def run(*statements: str) -> list[Step]:
        unwanted = ("PYTHONDONTWRITEBYTECODE", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
        env = {name: value for name, value in os.environ.items() if name not in unwanted}
        env |= {"PYTHONPYCACHEPREFIX": str(cache), "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *statements], env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        found = []
        for line in done.stdout.splitlines():
            *counted, modules = line.split(" ", 4) if line.count(" ") >= 4 else [*line.split(" "), ""]
            found.append(Step(*map(int, counted), frozenset(modules.split())))
        return found

    return count


@pytest.fixture(scope="module")
def measure(steps: Steps) -> Measure:
    """Count an import, above those that are given before it."""
    known: dict[tuple[str, ...], Step] = {}

    def last(*statements: str) -> Step:
        if statements not in known:
            known[statements] = steps(*statements)[-1]
        return known[statements]

    return last


@pytest.mark.slow
def test_counting_is_repeatable(measure: Measure) -> None:
    """Else it could decide nothing: what is counted is a small part of what is executed, and it is all of it."""
    nothing, little = measure("pass"), measure("import smtplib")
    assert nothing.instructions < 10
    assert nothing[1:] == (0, 0, 0, frozenset())
    assert little.instructions > 50_000
    assert "smtplib" in little.modules


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "counted"),
    [
        ("@dataclasses.dataclass\nclass One: x: int", "compiled"),
        ("collections.namedtuple('One', 'x')", "compiled"),
        ("re.compile('a+b')", "patterns"),
        ("os.path.realpath('/usr/bin')", "looks"),
        ("open('/dev/null').close()", "looks"),
    ],
)
def test_what_takes_long_in_few_instructions_is_counted(measure: Measure, statement: str, counted: str) -> None:
    assert getattr(measure("import collections, dataclasses, os, re", statement), counted) > 0


@pytest.mark.slow
def test_it_costs_at_most_1_4_times_the_standard_library(measure: Measure) -> None:
    """DESIGN 5.6: of seconds at most 1.8 times on Python 3.11."""
    standard, ours = measure("import smtplib, email.message"), measure(OURS)
    assert ours.instructions <= 1.4 * standard.instructions
    assert len(ours.modules) <= len(standard.modules) + 25
    assert ours.compiled == standard.compiled
    assert ours.patterns <= standard.patterns + 14
    assert ours.looks == 0


@pytest.mark.slow
def test_djangos_backend_costs_little_above_the_one_of_django(measure: Measure) -> None:
    """Management commands, tests and each reload pay for it, and most of them send nothing."""
    ours = measure("import django.core.mail.backends.smtp", "import smtpbackend_django.backend")
    assert ours.instructions <= 75_000
    assert len(ours.modules) <= 22
    assert ours.compiled <= 15  # two named tuples
    assert ours.patterns == ours.looks == 0


@pytest.mark.slow
def test_an_app_of_django_costs_less_than_the_backend(measure: Measure) -> None:
    """Every process of a site that has it in ``INSTALLED_APPS`` loads the checks, and the signals if it hears them."""
    site = "import smtplib, django.conf, django.core.mail; django.conf.settings.configure(); django.setup()"
    ours = measure(
        f"{site}; import django.core.mail, smtplib", "import smtpbackend_django.checks, smtpbackend_django.signals"
    )
    assert not ours.modules & {"smtpbackend_django.backend", "smtpbackend.address", "smtpbackend.delivery.settings"}
    assert ours.compiled == ours.patterns == ours.looks == 0


@pytest.mark.slow
def test_the_flask_extension_costs_little_above_flask(measure: Measure) -> None:
    ours = measure("import flask", "import smtpbackend_flask")
    assert ours.instructions <= 350_000
    assert len(ours.modules) <= 50
    assert ours.compiled <= 70
    assert ours.patterns <= 28
    assert ours.looks == 0


# The first mail

SITES = {
    "core": (
        "import smtplib, email.message",
        OURS,
        "mailer = Mailer('smtp://127.0.0.1:{port}')",
        "mailer.send(Message('Hi', 'ann@example.org', 'bob@example.com', text='Good day'))",
    ),
    "django": (
        "import django; from django.conf import settings; ours = 'smtpbackend_django.EmailBackend'\n"
        "settings.configure(EMAIL_BACKEND=ours, EMAIL_HOST='127.0.0.1', EMAIL_PORT={port})\n"
        "django.setup(); from django.core import mail; import django.core.mail.backends.smtp",
        "import smtpbackend_django.backend",
        "import warnings; warnings.simplefilter('ignore'); mail.get_connection()",
        "mail.EmailMessage('Hi', 'Good day', 'ann@example.org', ['bob@example.com']).send()",
    ),
    "flask": (
        "import flask; app = flask.Flask('site'); app.config.update(MAIL_SERVER='127.0.0.1', MAIL_PORT={port})\n"
        "app.app_context().push()",
        "from smtpbackend_flask import Mail, Message",
        "mail = Mail(app)",
        "mail.send(Message('Hi', ['bob@example.com'], 'Good day', sender='ann@example.org'))",
    ),
}
UNTIL_THE_FIRST = {"core": (1_200_000, 175, 60), "django": (1_200_000, 165, 60), "flask": (1_050_000, 180, 65)}
"""Instructions, compiled code and patterns of an import, the making of a mailer and its first mail; neither may grow
because the other shrinks."""


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
def test_the_first_mail_costs_little_more_than_the_second(steps: Steps, smtp_server: Any, site: str) -> None:
    """A request waits for it: what mails need is loaded as the mailer is made, and that costs no more than it must."""
    server: ScriptedServer = smtp_server(*[Play(extensions=("PIPELINING", "8BITMIME"))] * 2)
    *before, mail = (statement.format(port=server.port) for statement in SITES[site])
    _, imported, made, first, second, third = steps(*before, mail, mail, mail)
    assert first.modules == second.modules == third.modules == frozenset()
    assert first.compiled == first.looks == 0
    assert first.patterns <= 1
    assert first.instructions <= 4 * second.instructions
    whole = [sum(one) for one in zip(imported[:3], made[:3], first[:3], strict=True)]
    assert all(one <= most for one, most in zip(whole, UNTIL_THE_FIRST[site], strict=True)), whole
    assert imported.looks == made.looks == 0


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
    loaded = {name for name in measure("import smtpbackend").modules if name.startswith("smtpbackend")}
    assert loaded == {"smtpbackend", "smtpbackend.public_names"}


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
