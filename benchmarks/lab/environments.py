"""Where the peers live: environments in benchmarks/.peers, made when first needed and never committed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.lab.samples import ROOT, NotMeasured

PEERS = ROOT / "benchmarks" / ".peers"
QUEUES = ("django-mailer==2.3.2", "django-post-office==3.12", "psycopg[binary]>=3.2")


@cache
def django(version: str, name: str = "", *more: str) -> Path:
    """The Python of an environment with that Django, such as "6.1", what it sends with, and more for a name."""
    from noxfile import SUPPORTED, interpreter  # not where a sample is taken: nox is not installed there

    wanted = SUPPORTED[version]
    folder = PEERS / (name or f"django-{version}")
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if ready.exists():
        return python
    made_with = interpreter(wanted)
    if made_with is None:
        raise NotMeasured(f"Django {version} needs Python {wanted}, which is not installed")
    subprocess.run([made_with, "-m", "venv", "--clear", folder], check=True)
    needed = ["blinker", "idna", f"Django~={version}.0", *more]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *needed], check=True)
    ready.touch()
    return python


def queues() -> Path:
    """The Python of an environment with what stores mail in Django; the last one where all of them run is 5.2."""
    return django("5.2", "queues", *QUEUES)


@cache
def node() -> list[str]:
    """The command of a Node.js that finds nodemailer."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise NotMeasured("node or npm is not installed")
    if not (PEERS / "node_modules" / "nodemailer").exists():
        PEERS.mkdir(exist_ok=True)
        npm = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", PEERS]
        subprocess.run([*npm, "nodemailer"], check=True, stdout=subprocess.DEVNULL)
    return ["env", f"NODE_PATH={PEERS / 'node_modules'}", "node"]


def versions() -> dict[str, str]:
    """What is installed, by name, in each environment that is there."""
    program = (
        "import json, platform; from importlib.metadata import distributions\n"
        "print(json.dumps({'Python': platform.python_version(), **{d.name: d.version for d in distributions()}}))"
    )
    found: dict[str, str] = {}
    for python in (Path(sys.executable), *sorted(PEERS.glob("django-*/bin/python"))):
        here = json.loads(subprocess.check_output([python, "-c", program], text=True))
        if python.is_relative_to(PEERS):
            found[f"Django {here['Django']}"] = f"on Python {here['Python']}"
        else:
            found |= {name: here[name] for name in ("Python", "aiosmtplib", "Flask", "Flask-Mail") if name in here}
    nodemailer = PEERS / "node_modules" / "nodemailer" / "package.json"
    if nodemailer.exists():
        found["nodemailer"] = json.loads(nodemailer.read_text())["version"]
        found["Node.js"] = subprocess.check_output(["node", "--version"], text=True).strip().removeprefix("v")
    if postconf := shutil.which("postconf", path="/usr/sbin:/usr/bin"):
        found["Postfix"] = subprocess.check_output([postconf, "-dh", "mail_version"], text=True).strip()
    return found


def versions_of_queues() -> dict[str, str]:
    """What the outbox was measured with."""
    from tests.servers.postgresql import programs

    program = (
        "import json, platform, sqlite3; from importlib.metadata import version\n"
        "names = ('Django', 'django-mailer', 'django-post-office', 'psycopg')\n"
        "print(json.dumps({'Python': platform.python_version(), **{name: version(name) for name in names}, "
        "'SQLite': sqlite3.sqlite_version}))"
    )
    found: dict[str, str] = {}
    if (python := PEERS / "queues" / "bin" / "python").exists():
        found = json.loads(subprocess.check_output([python, "-c", program], text=True))
    if server := programs():
        said = subprocess.check_output([server / "postgres", "--version"], text=True)
        found["PostgreSQL"] = said.split()[2]
    return found | {name: version for name, version in versions().items() if name == "Postfix"}
