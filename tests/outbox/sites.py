"""Throw-away Django projects: the files of `site/` with settings of their own, and the programs that run them."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import django

from tests.processes.sockets import children
from tests.servers import process
from tests.servers.ports import answers, free_ports, wait_until

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
HAS_MAILERS = django.VERSION >= (6, 1)
EMAIL_BACKEND = "smtpbackend_django.EmailBackend"
OUTBOX_BACKEND = "smtpbackend_django.outbox.OutboxBackend"
APPS = ("smtpbackend_django", "smtpbackend_django.outbox")


def sqlite(path: Path) -> dict[str, Any]:
    """Return an entry of Django's DATABASES for a file, as it is advised for a site whose mail waits in it."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": "PRAGMA journal_mode=WAL"},
    }


def mail_settings(
    backend: str, server: Mapping[str, Any], outbox: Mapping[str, Any], *, mailers: bool = HAS_MAILERS
) -> dict[str, Any]:
    """Return what names `backend`: MAILERS where this Django has them, else EMAIL_BACKEND and SMTPBACKEND."""
    is_outbox = backend != EMAIL_BACKEND
    if mailers:
        smtp = {"BACKEND": EMAIL_BACKEND, "OPTIONS": dict(server)}
        before = {"BACKEND": backend, "OPTIONS": {"using": "smtp", **outbox}}
        return {"MAILERS": {"default": before, "smtp": smtp} if is_outbox else {"default": smtp}}
    options: dict[str, Any] = {name.upper(): value for name, value in server.items()}
    if is_outbox:
        options["OUTBOX"] = {name.upper(): value for name, value in outbox.items()}
    return {"EMAIL_BACKEND": backend, "SMTPBACKEND": options}


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Web:
    """A site that is served, by the process `process` and those that it starts."""

    def __init__(self, running: subprocess.Popen[bytes], port: int) -> None:
        self.process = running
        self.url = f"http://{HOST}:{port}"

    def get(self, path: str, timeout: float = 60.0) -> Answer:
        """Return the answer to a request on a connection of its own; `timeout` is in seconds."""
        with closing(http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout)) as connection:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())

    def pids(self) -> list[int]:
        """The process that starts the others (gunicorn's arbiter, the reloader of runserver), and then those."""
        return [self.process.pid, *children(self.process.pid)]

    def stop(self, timeout: float = 60.0) -> int:
        """Ask it to end, and return its exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        self.process.terminate()
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End all of its processes at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Site:
    """A Django project in an empty folder, as a context manager that ends all programs which it has started.

    database: the entry "default" of DATABASES; see `sqlite` and `Postgresql.settings`.
    server: options of the SMTP server, in lower case, such as {"host": "127.0.0.1", "port": 2525}.
    outbox: options of the outbox, in lower case; they go where this Django has them.
    backend, apps: what sends, and what is in INSTALLED_APPS beside those of Django and `site_app`.
    mailers: whether the settings are MAILERS, or those that Django had before 6.1 and deprecates since.
    settings: more settings, or other values of those below, such as `MIDDLEWARE=[...]`. Their repr must be Python.
    """

    def __init__(
        self,
        folder: Path,
        database: Mapping[str, Any],
        *,
        server: Mapping[str, Any],
        outbox: Mapping[str, Any] | None = None,
        backend: str = OUTBOX_BACKEND,
        apps: tuple[str, ...] = APPS,
        mailers: bool = HAS_MAILERS,
        **settings: Any,
    ) -> None:
        self.folder, self.apps = folder, apps
        self._warnings = "error" if mailers is HAS_MAILERS else "default"
        self._programs: list[subprocess.Popen[bytes]] = []
        shutil.copytree(
            Path(__file__).parent / "site", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        written = {
            "SECRET_KEY": "only-for-tests",
            "ALLOWED_HOSTS": [HOST, "testserver"],
            "ROOT_URLCONF": "urls",
            "WSGI_APPLICATION": "wsgi.application",
            "ASGI_APPLICATION": "asgi.application",
            "USE_TZ": True,
            "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
            "DEFAULT_FROM_EMAIL": "site@example.com",
            "INSTALLED_APPS": ["django.contrib.contenttypes", "django.contrib.auth", *apps, "site_app"],
            "TEMPLATES": [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
            "DATABASES": {"default": dict(database)},
            "LOGGING": {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {"line": {"format": "%(process)d %(levelname)s %(name)s: %(message)s"}},
                "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
                "root": {"handlers": ["stderr"], "level": "INFO"},
            },
            **mail_settings(backend, server, outbox or {}, mailers=mailers),
            **settings,
        }
        (folder / "settings.py").write_text("".join(f"{name} = {value!r}\n" for name, value in written.items()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._programs:
            process.stop(self._programs.pop())

    @property
    def log(self) -> str:
        """What the programs have written that were started and not waited for."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of its programs, with some more variables."""
        paths = [str(self.folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": "settings",
            **variables,
        }

    def manage(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command of manage.py to its end; `variables` are of its environment.

        Warnings are errors; but those of a site whose settings are deprecated are written to stderr.
        """
        return subprocess.run(
            [sys.executable, "-W", self._warnings, "manage.py", *arguments],
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def migrate(self) -> None:
        """Make the tables."""
        done = self.manage("migrate", "--verbosity=0")
        assert done.returncode == 0, done.stdout + done.stderr

    def start_manage(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command of manage.py, which ends with the site at the latest. What it writes is in `log`."""
        return self._start([sys.executable, "manage.py", *arguments], variables)

    def start_celery(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a worker of Celery for `tasks.py`, which ends with the site at the latest."""
        quiet = ("--loglevel=WARNING", "--without-mingle", "--without-gossip", "--without-heartbeat")
        return self._start([sys.executable, "-m", "celery", "-A", "tasks", "worker", *quiet, *arguments], variables)

    @contextmanager
    def gunicorn(
        self,
        *arguments: str,
        workers: int = 2,
        threads: int = 1,
        worker_class: str = "sync",
        preload: bool = False,
        **variables: str,
    ) -> Iterator[Web]:
        """Serve the site with gunicorn; `arguments` are more of its options."""
        (port,) = free_ports(1)
        command = [
            *(sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}", "--worker-class", worker_class),
            *("--workers", str(workers), "--threads", str(threads), *(["--preload"] if preload else [])),
            *("--no-control-socket", *arguments, "wsgi"),  # it would lie in the home of who runs this
        ]
        with self._served(self._start(command, variables), port) as web:
            yield web

    @contextmanager
    def uvicorn(self, *, workers: int = 1, **variables: str) -> Iterator[Web]:
        """Serve the site by ASGI; with several workers there is a process that starts them."""
        (port,) = free_ports(1)
        command = [
            *(sys.executable, "-m", "uvicorn", "--host", HOST, "--port", str(port), "--workers", str(workers)),
            "asgi:application",
        ]
        with self._served(self._start(command, variables), port) as web:
            yield web

    @contextmanager
    def serve(self, *command: str, port: int, **variables: str) -> Iterator[Web]:
        """Serve the site with a command that listens on `port`."""
        with self._served(self._start(list(command), variables), port) as web:
            yield web

    @contextmanager
    def runserver(self, *arguments: str, **variables: str) -> Iterator[Web]:
        """Serve the site with Django's own server, which reloads what changes unless it is given "--noreload"."""
        (port,) = free_ports(1)
        with self._served(self.start_manage("runserver", *arguments, f"{HOST}:{port}", **variables), port) as web:
            yield web

    @contextmanager
    def _served(self, running: subprocess.Popen[bytes], port: int) -> Iterator[Web]:
        try:
            assert wait_until(lambda: running.poll() is not None or answers(HOST, port), 120), self.log
            assert running.poll() is None, self.log
            yield Web(running, port)
        finally:
            self._programs.remove(running)
            process.stop(running)

    def _start(self, command: list[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            running = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that it can be ended with all that it has started
            )
        self._programs.append(running)
        return running
