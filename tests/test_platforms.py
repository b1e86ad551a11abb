"""What not every system has: each of these is done without, or told. `make test-windows` runs suites without all."""

from __future__ import annotations

import io
import os
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from smtpbackend import AsyncMailer, ConnectFailed, InvalidSetting, Mailer, Message
from smtpbackend.polling import READABLE, WRITABLE, new_poll
from smtpbackend.sources import source_of
from smtpbackend.testing import ScriptedServer

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_both_mailers_send_without_what_windows_has_not() -> None:
    done = run("-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.windows", "-q", "tests/mailer/test_send.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_really_taken_away() -> None:
    """Else the session without would be one like all others."""
    tried = """
import tests.windows, asyncio, os, select, socket
assert not any(hasattr(owner, name) for owner, names in tests.windows.TAKEN.items()
               if not isinstance(owner, type) for name in names)
async def main():
    for method in ("add_reader", "add_writer"):
        try: getattr(asyncio.get_running_loop(), method)(0, print)
        except NotImplementedError: print(method)
asyncio.run(main())
"""
    assert run("-c", tried).stdout.split() == ["add_reader", "add_writer"]


@pytest.mark.parametrize("kind", [Mailer, AsyncMailer])
@pytest.mark.parametrize("url", ["smtp+unix:///run/mail.sock", "lmtp+unix:///run/lmtp.sock"])
def test_a_unix_socket_where_there_are_none_is_told_as_the_mailer_is_made(
    kind: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX", raising=False)
    with pytest.raises(InvalidSetting, match=r"no unix sockets on this system.*give its host and port"):
        kind(url)


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as one,
        listening.accept()[0] as other,
    ):
        yield one, other


@pytest.fixture(params=["poll", "select"])
def poll(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What waits for sockets, with ``select.poll`` and without."""
    if request.param == "select":
        monkeypatch.delattr(select, "poll", raising=False)
    elif not hasattr(select, "poll"):
        pytest.skip("there is no select.poll here")
    return new_poll()


class TestPoll:
    def test_what_is_ready(self, poll: Any) -> None:
        with pair() as (one, other):
            poll.register(one, READABLE | WRITABLE)
            assert poll.poll(0) == [(one.fileno(), WRITABLE)]
            other.send(b"x")
            poll.register(one, READABLE)
            assert poll.poll(10_000) == [(one.fileno(), READABLE)]
            poll.register(one, READABLE | WRITABLE)
            assert poll.poll(0) == [(one.fileno(), READABLE | WRITABLE)]

    def test_the_end_is_read(self, poll: Any) -> None:
        with pair() as (one, other):
            poll.register(one, READABLE)
            other.close()
            ((number, events),) = poll.poll(10_000)
            assert number == one.fileno()
            assert events & READABLE

    def test_nothing_is_ready(self, poll: Any) -> None:
        with pair() as (one, _):
            poll.register(one, READABLE)
            assert poll.poll(1) == []
            poll.register(one, WRITABLE)
            poll.unregister(one)
            assert poll.poll(1) == []

    def test_by_number(self, poll: Any) -> None:
        with pair() as (one, _):
            poll.register(one.fileno(), WRITABLE)
            assert poll.poll(0) == [(one.fileno(), WRITABLE)]

    def test_a_socket_that_is_closed_is_an_error(self, poll: Any) -> None:
        """And waits for nothing."""

        def wait() -> None:
            poll.register(one, READABLE)
            poll.poll(10_000)

        with pair() as (one, _):
            one.close()
            with pytest.raises(ValueError, match="file descriptor"):
                wait()


class TestManyOpenFiles:
    """Without poll a descriptor of 1,024 or more cannot be waited for: an error of the connection, as any other."""

    @pytest.fixture
    def many(self) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, before[1]))
        held = [os.dup(0) for _ in range(1100)]
        yield
        for number in held:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    def test_each_message_has_its_error(
        self, many: None, smtp_server: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = smtp_server()
        message = Message("Hi", "ann@example.org", "bob@example.com", text="Good day")
        monkeypatch.delattr(select, "poll", raising=False)
        with Mailer(server.url) as mailer:
            receipts = list(mailer.send_many([message] * 3))
            assert [type(receipt.error) for receipt in receipts] == [ConnectFailed] * 3
            with pytest.raises(ConnectFailed, match="Too many open files"):
                mailer.send(message)
            assert mailer.stats().open == 0


class TestFilesWithoutPread:
    OCTETS = bytes(range(256)) * 4096

    @pytest.fixture(autouse=True)
    def without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "pread", raising=False)

    @pytest.mark.parametrize("buffering", [0, -1])
    def test_the_position_stays(self, tmp_path: Path, buffering: int) -> None:
        path = tmp_path / "a.bin"
        path.write_bytes(self.OCTETS)
        with path.open("rb", buffering=buffering) as file:
            file.read(10)
            source = source_of(file, "x", 7)
            assert b"".join(source.blocks(1000)) == self.OCTETS[7:]
            assert file.tell() == 10
            assert file.read() == self.OCTETS[10:]

    def test_several_threads_read_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        path.write_bytes(self.OCTETS)
        found: list[bytes] = []
        with path.open("rb", buffering=0) as file:
            source = source_of(file, "x", 0)
            threads = [threading.Thread(target=lambda: found.append(b"".join(source.blocks(97)))) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert [octets == self.OCTETS for octets in found] == [True] * 4

    def test_a_spool(self) -> None:
        source = source_of(io.BufferedReader(io.BytesIO(self.OCTETS * 2)), "x")  # type: ignore[arg-type]
        assert b"".join(source.blocks(5000)) == self.OCTETS * 2
