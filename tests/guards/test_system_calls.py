"""What a warm message asks of the kernel, as strace sees it: on a clear connection at most six calls."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from smtpbackend.testing import EXTENSIONS, Play, delay
from tests.conftest import missing_server
from tests.guards.figures import ASKED, OFFERS, QUIET
from tests.guards.worker import run
from tests.mailer.conftest import Scripted
from tests.servers.sink import Sink

MOST = 6


@pytest.fixture(scope="module")
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        missing_server("strace is not installed")
    elif subprocess.run([found, "-o", "/dev/null", "true"], capture_output=True).returncode:
        missing_server("strace may not trace here")
    return found or ""


def calls(strace: str, folder: Path, url: str, kind: str) -> list[list[str]]:
    """The calls of each of some warm messages, as strace writes them."""
    log = folder / "calls"
    run("calls", url, kind, under=[strace, "-f", "-qq", "-o", log])
    messages: list[list[str]] = []
    for line in log.read_text().splitlines():
        call = re.sub(r"^\d+ +", "", line)
        if call.startswith("getppid("):
            messages.append([])
        elif messages and not call.startswith("getpid("):  # asyncio below Python 3.12 asks for it at every turn
            messages[-1].append(call)
    return messages[:-1]


def names(message: list[str]) -> list[str]:
    """What the calls do: one name for each, whatever the C library and the kernel call it."""
    same = {"sendto": "send", "recvfrom": "recv", "ppoll": "poll", "epoll_wait": "epoll", "epoll_pwait": "epoll"}
    return [same.get(name, name) for call in message for name in [call.partition("(")[0]]]


@pytest.mark.parametrize(
    ("way", "kind", "wanted"),
    [
        ("BDAT", "blocking", "poll send recv"),
        ("DATA", "blocking", "poll send recv send recv"),
        # the loop looks around once more before it lets us go on: a call more for each wait
        ("BDAT", "asyncio", "poll send epoll recv epoll"),
        ("DATA", "asyncio", "poll send epoll recv send epoll recv epoll"),
    ],
)
def test_of_a_warm_message(strace: str, tmp_path: Path, way: str, kind: str, wanted: str) -> None:
    """The peek before reuse, and for each wait a write and a read. The fewest count: a slow server only adds."""
    with Sink(*OFFERS[way], patience=QUIET) as sink:
        messages = calls(strace, tmp_path, sink.url + ASKED, kind)
    fewest = min(messages, key=len)
    assert names(fewest) == wanted.split(), "\n".join(fewest)
    assert len(fewest) <= MOST or (way, kind) == ("DATA", "asyncio")


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("in_parts", [False, True], ids=["at once", "in parts"])
def test_replies_in_parts_are_acknowledged_at_once(
    strace: str, tmp_path: Path, scripted: Scripted, kind: str, in_parts: bool
) -> None:
    """A server may hold back the rest of a group until what it said is acknowledged; others cost us no call."""
    slowly: dict[str, Any] = {"RCPT": (b"250 2.1.5 recip", delay(0.03), b"ient ok\r\n")}
    server = scripted(Play(slowly if in_parts else {}, () if not in_parts else EXTENSIONS))
    armed = [sum("TCP_QUICKACK" in call for call in message) for message in calls(strace, tmp_path, server.url, kind)]
    assert max(armed) > 0 if in_parts else armed == [0] * len(armed)
