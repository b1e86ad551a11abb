"""What a type checker and an editor know of a call: settings by name, messages by kind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

IMPORTS = """\
import os
from collections.abc import AsyncIterator, Iterator
from email.message import EmailMessage
from email.mime.text import MIMEText
from pathlib import Path
from typing import Any
from smtpbackend import AsyncMailer, Envelope, Mailer, Message, Receipt, Secret, Server, Timeouts
from smtpbackend_flask import Message as FlaskMessage

MESSAGE = Message("s", "a@example.com", "b@example.org", text="x")
FLASK = FlaskMessage("s", ["b@example.org"], "x")
ENVELOPE = Envelope("a@example.com", "b@example.org")
CONFIG: dict[str, Any] = {}


def several() -> Iterator[Message]:
    yield MESSAGE


async def others() -> AsyncIterator[Message]:
    yield MESSAGE


async def fresh() -> str:
    return "token"

"""
GOOD = """\
from django.core.mail import EmailMultiAlternatives  # type: ignore[import-untyped,unused-ignore]

for kind in (Mailer, AsyncMailer):
    kind("smtp://localhost", deadline=5, timeout={"connect": 3}, tls="required", max_connections=8)
    kind(os.environ["URL"], password=Secret("x"), username=None, ca_file=Path("ca.pem"), only_to=["example.org"])
    kind({"url": "smtps://a.example", "username": "ann", "password": "x"}, Server("b.example"), timeout=Timeouts())
    kind(servers=["smtp://a.example", {"host": "b.example"}], ports=[25, 2525], dkim={"domain": "a", "key": "k"})
    kind(host="mx.example.com", token=lambda: "t", bounce_address=("Ann", "ann@example.org"))
    kind(host="mx.example.com", token=fresh, on_tls_failure=lambda server, error: "secure")
    kind(**CONFIG)
    kind.from_settings(CONFIG)
receipt: Receipt = Mailer().send(MESSAGE)
for email in (EmailMessage(), MIMEText("x")):
    Mailer().send(email)
Mailer().send(FLASK)
Mailer().send(EmailMultiAlternatives("s", "x", "a@example.com", ["b@example.org"]))
for octets in (b"x", Path("a.eml"), [b"a", b"b"], open("a.eml", "rb")):
    Mailer().send(octets, ENVELOPE)
accepted: list[bool] = [one.ok for one in Mailer().send_many(several(), connections=2)]
accepted += [one.ok for one in Mailer().send_many([MESSAGE, EmailMessage()])]
accepted += [one.ok for one in Mailer().send_many([(MESSAGE, ENVELOPE)])]
accepted += [one.ok for one in Mailer().send_many([FLASK, FlaskMessage("t")])]


async def main() -> None:
    async with AsyncMailer("smtp://localhost", deadline=5.5) as mailer:
        answer: Receipt = await mailer.send(MESSAGE)
        answer = await mailer.send(FLASK)
        print(answer, [one.ok async for one in mailer.send_many(others())])
"""
BAD = """\
Mailer(deadlin=5)
AsyncMailer(deadlin=5)
Mailer(deadline="soon")
Mailer(tls="yes")
Mailer(5)
Mailer(max_connections=1.5)
Mailer(timeout={"connect": "long"})
Mailer().send(5)
Mailer().send("text")
Mailer().send(object())
Mailer().send({"subject": "s"})
print(AsyncMailer().send(5))
Mailer().send_many([5])
Mailer().send_many(MESSAGE)
AsyncMailer().send_many([5])
Mailer().send(MESSAGE, "b@example.org")
"""

Check = Callable[[str], tuple[set[int], str]]
MYPY = ("mypy", "--strict", "--follow-imports", "silent", "--no-error-summary", "--hide-error-context")
PYRIGHT = ("pyright", "--level", "error", "--pythonpath", sys.executable)


def needs(library: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is not installed here")


@pytest.fixture(params=[pytest.param(MYPY, marks=needs("mypy")), pytest.param(PYRIGHT, marks=needs("pyright"))])
def check(request: pytest.FixtureRequest, tmp_path: Path) -> Check:
    """A type checker: the numbers of the lines that it complains of, and all that it says."""

    def run(source: str) -> tuple[set[int], str]:
        (tmp_path / "program.py").write_text(source)
        settings = {"typeCheckingMode": "strict", "reportUnusedImport": False, "extraPaths": [str(ROOT)]}
        (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
        done = subprocess.run(
            [sys.executable, "-m", request.param[0], *request.param[1:], "program.py"],
            cwd=tmp_path,
            env={"PATH": "", "HOME": str(tmp_path), "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        places = [line.partition("program.py:")[2] for line in done.stdout.splitlines() if "error:" in line]
        assert done.returncode == bool(places), done.stdout + done.stderr
        return {int(place.partition(":")[0]) for place in places if place}, done.stdout

    return run


@pytest.mark.slow
class TestCheckers:
    def test_good_calls_pass(self, check: Check) -> None:
        lines, said = check(IMPORTS + GOOD)
        assert not lines, said

    def test_each_bad_call_fails(self, check: Check) -> None:
        lines, said = check(IMPORTS + BAD)
        first = IMPORTS.count("\n") + 1
        assert sorted(lines) == list(range(first, first + BAD.count("\n"))), said


def test_the_types_are_not_loaded_when_a_mail_is_sent() -> None:
    program = """
import sys
from smtpbackend import AsyncMailer, Mailer, Message
from smtpbackend.testing import ScriptedServer
with ScriptedServer() as server, Mailer(server.url) as mailer:
    mailer.send(Message("s", "a@example.com", "b@example.org", text="x"))
AsyncMailer(server.url)
assert "smtpbackend.delivery.typed_settings" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)
