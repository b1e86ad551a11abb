"""A large content beside small mail: nobody waits behind it, and a worker never has the whole of it in memory."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import tally
from tests.outbox.sites import Site
from tests.outbox.tables import Tables, enqueue
from tests.outbox.test_process import run
from tests.servers.ports import wait_until

MakeSite = Callable[..., Site]

LARGE = 50_000_000
SMALL = 200
MORE = 25_000
"""Kilobytes that a worker may take more than for small mail alone: half of the content."""


class Stopping(socketserver.ThreadingTCPServer):
    """A server that keeps no content, and reads on amid that for large@example.com only when all small mail is here."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, small: int) -> None:
        super().__init__(("127.0.0.1", 0), _Talk)
        self.small = small
        self.sizes: dict[str, list[int]] = {}
        self.small_at_large = -1
        self._changed = threading.Condition()

    def stop_amid_large(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self.sizes) >= self.small, 60)
            self.small_at_large = len(self.sizes)

    def take(self, recipient: str, size: int) -> None:
        with self._changed:
            self.sizes.setdefault(recipient, []).append(size)
            self._changed.notify_all()


class _Talk(socketserver.StreamRequestHandler):
    server: Stopping

    def handle(self) -> None:
        recipient = ""
        self.wfile.write(b"220 mx.example.com\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"RCPT":
                recipient = line.decode().split("<")[1].split(">")[0]
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                self.server.take(recipient, self._content(recipient))
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")

    def _content(self, recipient: str) -> int:
        size, stops = 0, recipient == "large@example.com"
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            size += len(line)
            if stops and size > LARGE // 50:
                self.server.stop_amid_large()
                stops = False
        return size


@contextmanager
def stopping(small: int) -> Iterator[Stopping]:
    with Stopping(small) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def most_memory(pid: int) -> int:
    """Kilobytes that a process had in memory at most, see proc(5)."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def work(site: Site, tables: Tables) -> int:
    """Let a worker deliver all that is there; the memory it took."""
    worker = site.start_manage("outbox", "run")
    assert wait_until(lambda: worker.poll() is not None or tables.due() == 0, 120), site.log
    kilobytes = most_memory(worker.pid)
    worker.terminate()
    assert worker.wait(30) == 0, site.log
    return kilobytes


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc, which tells the memory")
def test_a_large_content_takes_no_memory_and_holds_up_nobody(
    make_site: MakeSite, tables: Tables, database: dict[str, Any]
) -> None:
    with stopping(SMALL) as server:
        options = {"host": "127.0.0.1", "port": server.server_address[1], "tls": "none"}
        site = make_site(server=options, outbox={"worker": "none", "connections": 2})
        enqueue(site, SMALL)
        without = work(site, tables)
        assert len(server.sizes) == SMALL
        server.sizes.clear()
        run(
            site,
            f"""
            import os
            from django.core.mail import EmailMessage
            message = EmailMessage("Hello", "Text", None, ["large@example.com"])
            message.attach("large.bin", os.urandom({LARGE} * 3 // 4), "application/octet-stream")
            message.send()
            """,
        )
        enqueue(site, SMALL)
        beside = work(site, tables)
    assert server.small_at_large == SMALL, "small mail waited for the large one"
    assert all(len(sizes) == 1 for sizes in server.sizes.values())
    assert server.sizes["large@example.com"][0] > LARGE
    assert tables.states() == {"accepted": 2 * SMALL + 1}
    kind = database["ENGINE"].rpartition(".")[2]
    tally.warnings.append(
        f"outbox: {kind}: a worker took {without} kB, and {beside} kB with a content of {LARGE} octets"
    )
    assert beside < without + MORE
