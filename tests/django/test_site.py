"""The example site: a password reset, with Django's own view, form and template loaders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.django.conftest import Start
from tests.servers.ports import free_ports

SITE = Path(__file__).parents[2] / "docs" / "examples" / "django_site"

RESET = """
from django.test import Client
client = Client()
assert client.get("/").status_code == 200
assert client.get("/accounts/login/").status_code == 200
answer = client.post("/accounts/password_reset/", {"email": "ann@example.org"}, follow=True)
assert answer.redirect_chain == [("/accounts/password_reset/done/", 302)], answer.status_code
"""

FOLLOW = """
import sys
from django.test import Client
client = Client()
answer = client.get(sys.argv[-1], follow=True)
assert b"new_password1" in answer.content
answer = client.post(answer.redirect_chain[-1][0], {"new_password1": "n3w-pass-w0rd", "new_password2": "n3w-pass-w0rd"})
assert answer.status_code == 302, answer.content
assert client.login(username="ann", password="n3w-pass-w0rd")
"""


@pytest.fixture
def manage(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Run the site's manage.py on a new database, warnings being errors."""
    environment = {**os.environ, "DATABASE": str(tmp_path / "db.sqlite3"), "PYTHONPATH": str(SITE.parents[2])}
    environment.pop("DJANGO_SETTINGS_MODULE", None)

    def run(*arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "manage.py", *arguments],
            cwd=SITE,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("migrate", "--verbosity=0")
    run("loaddata", "users", "--verbosity=0")
    return run


@pytest.mark.slow
def test_password_reset(manage, aiosmtpd: Start) -> None:  # type: ignore[no-untyped-def]
    """The mail arrives, its link works, and the site's receivers were told."""
    server = aiosmtpd()
    told = manage("shell", "--command", RESET, SMTP_HOST=server.host, SMTP_PORT=str(server.port))
    (one,) = server.arrived
    assert one.sender == "no-reply@example.com"
    assert one.recipients == ("ann@example.org",)
    assert b"Subject: Your new password at testserver" in one.content
    assert "example_site.mail" in told
    assert "ann@example.org" in told

    (link,) = [line for line in one.content.decode().split() if line.startswith("http://testserver/")]
    manage("shell", "--command", f"import sys; sys.argv.append({link!r})\n{FOLLOW}")


@pytest.mark.slow
def test_password_reset_whose_mail_is_refused(manage, aiosmtpd: Start) -> None:  # type: ignore[no-untyped-def]
    """Django's view does not tell who has an account; the log does."""
    server = aiosmtpd(refused={"ann@example.org": "550 5.1.1 No such user"})
    told = manage("shell", "--command", RESET, SMTP_HOST=server.host, SMTP_PORT=str(server.port))
    assert "refused for ann@example.org: 550 5.1.1 No such user" in told
    assert "Failed to send password reset email" in told


@pytest.mark.slow
def test_password_reset_while_the_server_is_down(manage) -> None:  # type: ignore[no-untyped-def]
    """The visitor sees what everybody sees; the log has a line of it, which is no error that would be mailed."""
    (port,) = free_ports(1)
    told = manage("shell", "--command", RESET, SMTP_HOST="127.0.0.1", SMTP_PORT=str(port))
    assert f"WARNING example_site.mail: 127.0.0.1:{port} failed (connect)" in told
    assert "ERROR example_site" not in told


@pytest.mark.slow
@pytest.mark.parametrize("settings", ["settings", "settings_with_outbox"])
def test_the_site_passes_the_checks(manage, settings: str) -> None:  # type: ignore[no-untyped-def]
    module = f"example_site.{settings}"
    assert "no issues" in manage("check", DJANGO_SETTINGS_MODULE=module)
    manage("makemigrations", "--check", "--dry-run", DJANGO_SETTINGS_MODULE=module)
