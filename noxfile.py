"""The tests on each supported Django, each on a Python that it supports: `make test-all`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.error_on_missing_interpreters = False

# Django -> the Python to run it on
SUPPORTED = {"5.2": "3.11", "6.0": "3.12", "6.1": "3.13"}
# Counts the lines that are run, at no cost from Python 3.12 on; on 3.11 it would double the time
COVERAGE = ("--cov", "--cov-report=term-missing")
NEWEST = "6.1", "3.14"
"""The newest Django also on a Python that is not everywhere yet."""
# On 3.12 those are left out that drive real conversations, processes and servers for minutes: `make test` has them on
# the oldest Python, the last sessions on the newest.
OUTBOX = ("kills", "interruptions", "site_harm", "newsletter")
BETWEEN = (
    *("--ignore=tests/mailer", "--ignore=tests/processes", "--ignore=tests/interoperability"),
    *(f"--ignore=tests/outbox/test_{name}.py" for name in OUTBOX),
)


def interpreter(version: str) -> str | None:
    """Return the newest working Python of that version, from the path or pyenv's versions, or None."""
    candidates = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"), reverse=True)
    if on_path := shutil.which(f"python{version}"):
        candidates.insert(0, Path(on_path))
    for candidate in candidates:  # one of pyenv's shims is there but fails while its version is not chosen
        if subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return str(candidate)
    return None


def define(name: str, django: str, version: str) -> None:
    python = interpreter(version)
    less = BETWEEN if version == "3.12" else ()

    @nox.session(name=name, python=python or False)
    def run(session: nox.Session) -> None:
        if python is None:
            session.skip(f"Python {version} is not installed: Django {django} is not tested")
        groups = ["test", *(["uwsgi"] if os.environ.get("SMTPBACKEND_REQUIRE_SERVERS") else [])]
        session.install(
            *[word for group in groups for word in ("--group", group)], "-e", ".[django,flask]", f"Django~={django}.0"
        )
        several = ("-n", os.environ.get("WORKERS", "auto"))
        coverage = COVERAGE if version == max(SUPPORTED.values()) else ()
        chosen = session.posargs or (*several, "-m", "not exhaustive", *less, *coverage)
        session.run("python", "-m", "pytest", "tests", *chosen, env={"COVERAGE_CORE": "sysmon"})

    run.__doc__ = (
        f"Every test but the exhaustive ones, for which one Python is enough, with Django {django} on Python {version}."
        + (" With the coverage of smtpbackend/." if version == max(SUPPORTED.values()) else "")
        if not less
        else f"The tests that take seconds, with Django {django} on Python {version}."
    )


for django, version in SUPPORTED.items():
    define(f"django-{django}", django, version)
define(f"python-{NEWEST[1]}", *NEWEST)
