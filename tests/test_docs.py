"""The documentation is true: its code runs and prints what it says, its generated pages and tables fit the code.

In a page every ```python block is executed, those of one kind (a word behind "python", or none) in one process and in
order; the ```text block behind one is what it prints. "settings.py" makes a block the settings of the Django blocks, or
of those of a kind that stands behind it; what startproject writes stands before them. "django<6.1" and the like make a
block one for that version only. Blocks of the kinds "pytest" and "site-tests" (Django's) are tests, and pass.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.ports import free_ports

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SIGNALS = DOCS / "topics" / "signals.md"  # its server on this machine is down
installed_django = tuple(map(int, re.findall(r"\d+", version("django"))[:2]))

BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```\n(?:\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)

# Runs files one after the other, as one program.
DRIVER = """
import os, sys
if "DJANGO_SETTINGS_MODULE" in os.environ:
    import django
    django.setup()
    from django.conf import settings
    if settings.INSTALLED_APPS:
        from django.core.management import call_command
        call_command("migrate", verbosity=0)
namespace = {"__name__": "__main__"}
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        exec(compile(file.read(), name, "exec"), namespace)
    print("\\x1e", end="", flush=True)
"""


# What `startproject` writes into the settings of a site, as far as pages add to it.
STARTED = """
from pathlib import Path
SECRET_KEY = "x"
USE_TZ = True
BASE_DIR = Path(__file__).parent
INSTALLED_APPS = []
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
"""


class Block(NamedTuple):
    """Code, and what it prints, or None where the page does not say."""

    kind: str
    is_settings: bool
    code: str
    printed: str | None
    file: str = ""
    """The module that it is, which other blocks of the page import."""


def applies(condition: str) -> bool:
    """Whether "django>=6.1" or "django<6.1" is true here."""
    match = re.fullmatch(r"django(<|>=)(\d+)\.(\d+)", condition)
    assert match, f"{condition!r} is no condition"
    wanted = (int(match[2]), int(match[3]))
    return installed_django < wanted if match[1] == "<" else installed_django >= wanted


def blocks(page: Path) -> list[Block]:
    found = []
    for words, code, printed in BLOCK.findall(page.read_text(encoding="utf-8")):
        kind = ""
        is_settings = False
        file = ""
        conditions = []
        for word in words.split():
            if word == "settings.py":
                is_settings = True
            elif word.endswith(".py"):
                file = word
            elif re.search("[<>]", word):
                conditions.append(word)
            else:
                kind = word
        if all(map(applies, conditions)):
            if is_settings and not kind:
                kind = "django"
            found.append(Block(kind, is_settings, code, printed or None, file))
    return found


def run(codes: list[str], settings: str | None, folder: Path, server: AiosmtpdServer) -> list[str]:
    """Run code in a process of its own; what each piece printed."""

    def here(code: str) -> str:
        code = code.replace("smtp.example.com", "localhost").replace("backup.example.com", "localhost")
        return re.sub(r"\b(1025|587)\b", str(server.port), code)

    env = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "SSL_CERT_FILE": str(server.ca_file)}
    if settings is not None:
        (folder / "settings.py").write_text(STARTED + here(settings), encoding="utf-8")
        env["DJANGO_SETTINGS_MODULE"] = "settings"
    names = []
    for number, code in enumerate(codes):
        names.append(f"block{number}.py")
        (folder / names[-1]).write_text(here(code), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRIVER, *names],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\x1e")[:-1]


def cases() -> list[tuple[str, str]]:
    """Every page with code, and the kinds of code in it."""
    pages = [ROOT / "README.md", *sorted(set(DOCS.glob("**/*.md")) - {SIGNALS})]
    found = [
        (page.relative_to(ROOT).as_posix(), sorted({block.kind for block in blocks(page)} - {"pytest", "site-tests"}))
        for page in pages
    ]
    return [(page, kind) for page, kinds in found for kind in kinds]


CASES = cases()


def test_the_pages_have_code() -> None:
    """Else the tests below would be true of nothing."""
    wanted = {("README.md", ""), ("README.md", "django"), ("README.md", "flask")}
    wanted |= {("docs/quickstart.md", kind) for kind in ("", "django", "flask")}
    assert wanted | {("docs/coming-from.md", "")} <= set(CASES)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "kind"), CASES)
def test_code_runs_and_prints_what_the_page_says(
    page: str, kind: str, tmp_path: Path, aiosmtpd: Callable[..., AiosmtpdServer]
) -> None:
    """Against a real server: with TLS and a login where the page has them."""
    of_kind = [block for block in blocks(ROOT / page) if block.kind == kind]
    code = [block for block in of_kind if not block.is_settings and not block.file]
    settings: list[str | None] = [block.code for block in of_kind if block.is_settings]
    plain = page == "docs/quickstart.md"
    for number, one in enumerate(settings or [None]):
        folder = tmp_path / str(number)
        folder.mkdir()
        for block in of_kind:
            if block.file:
                (folder / block.file).write_text(block.code, encoding="utf-8")
        server = aiosmtpd(host="127.0.0.1") if plain else aiosmtpd(tls="starttls", users={"user": "secret"})
        shown = [block.code for block in code]
        expected = [block.printed for block in code]
        if plain and kind == "":
            # where hosts and ports are shown, there is nothing to connect to
            shown = [source for source in shown if "backup.example.com" not in source]
            expected = [block.printed for block in code if "backup.example.com" not in block.code]
        printed = run(shown, one, folder, server)
        assert [said for said, wanted in zip(printed, expected, strict=True) if wanted is not None] == [
            wanted for wanted in expected if wanted is not None
        ]
        assert server.arrived or not any("send" in source and "ScriptedServer" not in source for source in shown)
        if server.arrived and not plain:
            assert {(mail.login, mail.tls) for mail in server.arrived} == {("user", True)}


def test_the_adapter_of_the_page_has_forty_lines() -> None:
    """It is run by the test above."""
    [adapter] = [block for block in blocks(DOCS / "howto" / "adapter.md") if block.file]
    assert len([line for line in adapter.code.splitlines() if line.strip()]) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "django", "flask"])
def test_receivers_tell_the_administrators_while_the_server_is_down(
    kind: str, tmp_path: Path, aiosmtpd: Callable[..., AiosmtpdServer]
) -> None:
    """The page says so: mail fails over to, or is told of once by, a server that works; nothing goes round."""
    server = aiosmtpd(tls="starttls", users={"user": "secret"})
    (port,) = free_ports(1)
    of_kind = [block for block in blocks(SIGNALS) if block.kind == kind]
    codes = [re.sub(r"\b25\b", str(port), block.code) for block in of_kind if not block.is_settings]
    codes = [code.replace("@backup.example.com", f"@localhost:{server.port}") for code in codes]
    settings = "".join(re.sub(r"\b25\b", str(port), block.code) for block in of_kind if block.is_settings)
    printed = run(codes, settings or None, tmp_path, server)
    wanted = [block.printed or "" for block in of_kind if not block.is_settings]
    in_mailers = re.compile(r'MAILERS\["default"\]\["OPTIONS"\]\["(host|port)"\]')  # the page shows it by EMAIL_*
    printed = [in_mailers.sub(lambda match: f"EMAIL_{match[1].upper()}", said) for said in printed]
    assert [said.replace(str(port), "25") for said in printed] == wanted
    (arrived,) = server.arrived
    assert (arrived.login, arrived.recipients) == ("user", ("admin@example.com" if kind else "ann@example.org",))


@pytest.mark.slow
def test_tests_on_the_pages_pass(tmp_path: Path) -> None:
    """With the plugin that the page names."""
    sources = [block.code for block in blocks(DOCS / "howto" / "testing.md") if block.kind == "pytest"]
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["smtpbackend.testing"]\n', encoding="utf-8")
    (tmp_path / "test_page.py").write_text("".join(sources), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:asyncio", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert f"{''.join(sources).count('def test_')} passed" in done.stdout, done.stdout


@pytest.mark.slow
def test_tests_of_a_site_on_the_page_of_the_outbox_pass(tmp_path: Path) -> None:
    """With Django's test runner, on the settings that the page shows first."""
    found = blocks(DOCS / "topics" / "outbox.md")
    settings = next(block.code for block in found if block.is_settings)
    sources = "".join(block.code for block in found if block.kind == "site-tests")
    (tmp_path / "settings.py").write_text(STARTED + settings, encoding="utf-8")
    (tmp_path / "tests.py").write_text(sources, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "DJANGO_SETTINGS_MODULE": "settings"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert f"Ran {sources.count('def test_')} tests" in done.stderr


def test_the_servers_of_the_quickstart_are_what_it_says() -> None:
    """The one block that shows real host names."""
    from smtpbackend import Mailer

    (block,) = [block for block in blocks(DOCS / "quickstart.md") if "backup.example.com" in block.code]
    assert block.printed == "smtp.example.com:587 required\nbackup.example.com:465 implicit\n"
    mailer = Mailer("smtp://user:secret@smtp.example.com", "smtps://user:secret@backup.example.com", deadline=20)
    assert "".join(f"{one.name} {one.tls}\n" for one in mailer.configuration.servers) == block.printed


@pytest.mark.parametrize(
    ("path", "function"),
    [
        ("docs/reference/settings.md", "page"),
        ("docs/troubleshooting.md", "troubleshooting"),
        ("smtpbackend/delivery/typed_settings.py", "types"),
    ],
)
def test_what_is_generated_is_up_to_date(path: str, function: str) -> None:
    """`make docs` writes it from the table in the code."""
    before = (ROOT / path).read_text(encoding="utf-8")
    program = f"import sys; sys.path.insert(0, 'docs'); import generate; sys.stdout.write(generate.{function}())"
    made = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert made.stdout == before, "run `make docs`"


def test_every_setting_is_in_the_reference_under_its_names() -> None:
    from smtpbackend.delivery.settings import SETTINGS

    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    for name in ("servers", "ports", *(setting.name for setting in SETTINGS)):
        assert f"| `{name}` | `{name.upper()}` | `SMTPBACKEND_{name.upper()}` |" in page


def test_links_lead_somewhere() -> None:
    done = subprocess.run(
        [sys.executable, "docs/links.py"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_way_of_a_message_names_functions_that_are_there() -> None:
    """The table in docs/architecture.md."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    steps = re.findall(r"^\| (\d+) \| ([^|]+) \| `([^`]+)` \|", page, re.MULTILINE)
    assert [int(number) for number, _, _ in steps] == list(range(1, len(steps) + 1))
    assert len(steps) > 15
    for _, names, module in steps:
        source = (ROOT / "smtpbackend" / module).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^ *def {name}\(", source, re.MULTILINE), f"{module} has no {name}"


def test_the_drawing_names_the_rooms_that_are_there() -> None:
    """Every module of the house is in docs/architecture.md."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    drawing = set(re.findall(r"\w+", page.split("```")[1]))
    silent = {"__init__", "py", "effects", "timeouts", "transcript", "apps", "signals", "0001_initial"}
    for package in ("smtpbackend", "smtpbackend_django", "smtpbackend_flask"):
        names = {path.stem for path in (ROOT / package).rglob("*.py")}
        assert names - silent <= drawing, package


# The demo


VARIABLE = (
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"(Django|Flask) [\d.]+", r"\1 VERSION"),
    (r"^( +(?:Date|Message-ID): ).*", r"\1VALUE"),
    (r"(=_\d\.)[0-9a-f]{32}", r"\1VALUE"),  # a boundary
    (r"/reset/MQ/[\w-]+/", "/reset/MQ/TOKEN/"),
    (r"^ +Content-Transfer-Encoding: .*\n", ""),  # where it stands, and what it is, depends on the release of Django
    (r"=\n     ", ""),  # quoted-printable goes on
    (r"\d+ s later", "SECONDS later"),
)


def without_chance(output: str) -> str:
    """What the demo prints on every run, on every supported version."""
    for pattern, replacement in VARIABLE:
        output = re.sub(pattern, replacement, output, flags=re.MULTILINE)
    return re.sub(r"\n{2,}", "\n", output).strip()


@pytest.fixture(scope="module")
def demo() -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "docs/examples/demo.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
def test_the_demo_shows_what_was_sent_and_what_became_of_it(demo: str) -> None:
    """And ends with exit code 0 only then."""
    for line in (
        "ann@example.org    accepted  250 2.0.0 OK: queued as DEMO1",
        "gone@example.net   rejected  550 5.1.1 No such mailbox here",
        "signals  message_sending, recipient_rejected, message_sent",
        "1. MAIL FROM:<no-reply@example.com> RCPT TO:<ann@example.org>",
        "2. MAIL FROM:<notifier@example.com> RCPT TO:<ann@example.org>",
        "mail     waits in the database of the site; the outbox tries again in 5 s",
        "receipt  ann@example.org    accepted  250 2.0.0 OK: queued as DEMO3",
        "All of it is as expected.",
    ):
        assert line in demo


def test_the_readme_shows_the_output_of_the_demo(demo: str) -> None:
    """But for what differs from run to run."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"^<!-- demo output -->\n```text\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert without_chance(shown[1]) == without_chance(demo)


# The tests that pages name


def test_every_test_that_a_page_names_exists() -> None:
    pages = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    named = {name for page in pages for name in re.findall(r"`(tests/[\w/.-]+)[:`]", page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
