"""The limit: a socket that is kept, and octets that are ready. No check, no error, no receipt, nothing to render."""

from __future__ import annotations

import socket
from collections.abc import Callable

from benchmarks.lab.mail import SENDER, content, recipients

GROUP = b"RSET\r\nMAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\n" % (SENDER.encode(), recipients(1)[0].encode())


class Line:
    """A connection behind its HELO, and contents with their ends."""

    def __init__(self, port: int, count: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.contents = [content(recipients(1), number) + b".\r\n" for number in range(count)]
        self.wait(1)
        self.socket.sendall(b"HELO localhost\r\n")
        self.wait(1)

    def wait(self, replies: int) -> None:
        """For so many lines."""
        while replies:
            replies -= self.socket.recv(4096).count(b"\n")


def in_flight(port: int, count: int) -> Callable[[], int]:
    """Each content with the group of the next: one wait a message."""
    line = Line(port, count)

    def work() -> int:
        line.socket.sendall(GROUP)
        line.wait(4)
        for one in line.contents[:-1]:
            line.socket.sendall(one + GROUP)
            line.wait(5)
        line.socket.sendall(line.contents[-1])
        line.wait(1)
        return count

    return work


def one_by_one(port: int, count: int) -> Callable[[], int]:
    """Each message by itself: the group, then the content. Two waits, without CHUNKING the fewest."""
    line = Line(port, count)

    def work() -> int:
        for one in line.contents:
            line.socket.sendall(GROUP)
            line.wait(4)
            line.socket.sendall(one)
            line.wait(1)
        return count

    return work
