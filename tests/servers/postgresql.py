"""A private PostgreSQL: own cluster, on a free port of 127.0.0.1 and a socket in its own folder.

Everybody who reaches it is let in as `user`, who may do anything. What is committed survives `kill` and `restart`, not
a crash of the machine: nothing waits for the disk, unless `waits_for_disk` as in production.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.processes.sockets import children
from tests.servers import process
from tests.servers.ports import free_ports, wait_until

POSTGRESQL_CONF = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 100
fsync = {disk}
full_page_writes = {disk}
logging_collector = on
log_directory = '{folder}'
log_filename = 'postgresql.log'
log_file_mode = 0644
"""


def programs() -> Path | None:
    """Return the folder of the newest PostgreSQL that is installed, or None."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


class Postgresql:
    """A running PostgreSQL, as a context manager. It may be stopped, killed and started again on its port."""

    def __init__(self, *, waits_for_disk: bool = False) -> None:
        self._disk = "on" if waits_for_disk else "off"
        self.host = "127.0.0.1"
        self.user = "postgres"
        # PostgreSQL does not start for root; the package has made this user
        self._owner = "postgres" if os.geteuid() == 0 else None
        self._running: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """Return why PostgreSQL cannot be started here, or None."""
        return None if programs() else "postgresql is not installed: /usr/lib/postgresql/*/bin/initdb"

    def __enter__(self) -> Self:
        # Not below pytest's folder: that one is closed to the user postgres
        self._folder = Path(tempfile.mkdtemp(prefix="smtpbackend-postgresql-"))
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _prepare(self) -> None:
        found = programs()
        assert found is not None
        self._programs = found
        self._cluster = self._folder / "cluster"
        if self._owner:
            shutil.chown(self._folder, self._owner, self._owner)
        subprocess.run(
            [
                *(self._programs / "initdb", "--pgdata", self._cluster, "--username", self.user, "--auth=trust"),
                *("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"),
            ],
            cwd=self._folder,
            user=self._owner,
            group=self._owner,
            extra_groups=[] if self._owner else None,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (self.port,) = free_ports(1, self.host)
        with (self._cluster / "postgresql.conf").open("a") as conf:
            conf.write(POSTGRESQL_CONF.format(host=self.host, port=self.port, folder=self._folder, disk=self._disk))

    def start(self) -> None:
        """Start it, unless it runs, and return when it answers. Raises RuntimeError with its log."""
        if self._running is not None:
            return
        self._running = running = process.start(
            [self._programs / "postgres", "-D", self._cluster],
            self.host,
            [self.port],
            lambda: self.log,
            user=self._owner,
        )
        # It listens before it has recovered what was committed
        if not wait_until(lambda: running.poll() is not None or self._is_ready(), 60) or running.poll() is not None:
            self.kill()
            raise RuntimeError(f"postgresql does not answer:\n{self.log}")

    def _is_ready(self) -> bool:
        asked = [self._programs / "pg_isready", "--quiet", "--host", self.host, "--port", str(self.port)]
        return subprocess.run(asked).returncode == 0

    def stop(self) -> None:
        """End it as its service does: transactions are rolled back, connections closed, and its processes gone."""
        if self._running is None:
            return
        pids = self.pids
        if pids:
            # "Fast"; SIGTERM, which is sent next, would wait for the clients, and is ignored once this one has come
            os.kill(pids[0], signal.SIGINT)
        process.stop(self._running)
        self._running = None
        self._wait_for_the_end(pids)

    def kill(self) -> None:
        """End all of its processes at once, as when the machine fails."""
        if self._running is None:
            return
        if pids := self.pids:
            # It would notice the death of a child, and start another one: it is the first to stop, and to die
            os.kill(pids[0], signal.SIGSTOP)
            wait_until(lambda: state(pids[0]) in ("T", None), 10)
            pids = self.pids
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.stop(self._running)
        self._running = None
        self._wait_for_the_end(pids)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    @property
    def pids(self) -> list[int]:
        """Its processes, the one that starts the others first; none if it does not run."""
        if self._running is None:
            return []
        with suppress(FileNotFoundError, ProcessLookupError):
            [postmaster] = children(self._running.pid)
            return [postmaster, *children(postmaster)]
        return []

    def _wait_for_the_end(self, pids: list[int]) -> None:
        if not wait_until(lambda: not any(map(state, pids)), 30):
            raise TimeoutError(f"postgresql did not end: {[pid for pid in pids if state(pid)]}\n{self.log}")

    @property
    def log(self) -> str:
        """What it has logged so far."""
        path = self._folder / "postgresql.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def create_database(self, name: str, template: str = "template1") -> None:
        """Make an empty database, or a copy of `template`. One of that name is dropped, and its connections closed."""
        subprocess.run(
            [
                *(self._programs / "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"),
                *("--host", self.host, "--port", str(self.port), "--username", self.user),
                *("--command", "SET client_min_messages = warning"),
                *("--command", f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'),
                *("--command", f'CREATE DATABASE "{name}" TEMPLATE "{template}"', "postgres"),
            ],
            check=True,
        )

    def settings(self, name: str) -> dict[str, Any]:
        """Return an entry of Django's DATABASES for a database."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "HOST": self.host,
            "PORT": str(self.port),
            "USER": self.user,
            "PASSWORD": "",
        }

    def dsn(self, name: str) -> str:
        """Return the URI of a database."""
        return f"postgresql://{self.user}@{self.host}:{self.port}/{name}"


def state(pid: int) -> str | None:
    """Return the letter of what a process does, see proc(5), or None if it has ended: nobody may wait for an orphan."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if letter in "ZX" else letter
