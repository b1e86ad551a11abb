"""A server in a process of its own that throws away what it is sent, and tells what that was.

Its memory and its CPU are not the client's, nothing is too large for it, and it answers the end of a content with the
SHA-256 and the number of the octets that came. All replies to a flight are one write, and a flight ends when nothing is
incomplete and nothing more has come for `patience` seconds: then the client reads the same number of times whenever the
same is sent. A transaction may have a limit of recipients, and some recipients may be refused.
"""

from __future__ import annotations

import hashlib
import re
import select
import socket
import subprocess
import sys
import threading
from typing import NamedTuple, Self

ROOM = 1 << 18


class Told(NamedTuple):
    """What a reply of the sink says of a content."""

    digest: str
    octets: int


class Sink:
    """A running sink, as a context manager.

    ``most``: recipients of one transaction, the others are answered 452; 0: any number. ``refused`` stands in the
    commands of recipients that are answered 550.
    """

    def __init__(self, *extensions: str, patience: float = 0.0, most: int = 0, refused: str = "nobody") -> None:
        self._extensions = extensions
        self._options = [str(patience), str(most), refused]

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, *self._options, *self._extensions]
        self._running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._running.stdout is not None
        self.port = int(self._running.stdout.readline())
        self.url = f"smtp://127.0.0.1:{self.port}?tls=none"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._running.stdin.close()  # tells it to end
        self._running.stdout.close()
        self._running.wait(10)


def told(reply: object) -> Told:
    """Of a reply."""
    match = re.search(r"([0-9a-f]{64}) (\d+)", str(reply))
    assert match, reply
    return Told(match[1], int(match[2]))


class _Speaker:
    """One connection: what came and is not yet understood, and what is to be said."""

    def __init__(self, extensions: list[str], most: int, refused: str) -> None:
        self.extensions = extensions
        self.most = most
        self.refused = refused.upper()
        self.recipients = 0
        self.heard = bytearray()
        self.said = bytearray(b"220 sink.example.com ESMTP\r\n")
        self.is_content = False
        self.chunk: tuple[int, bool] | None = None
        self.has_mail = False
        self.is_over = False
        self._begin()

    def _begin(self) -> None:
        self.hash = hashlib.sha256()
        self.octets = 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing that began has not ended."""
        return self.chunk is None and (len(self.heard) <= 2 if self.is_content else not self.heard)

    def understand(self) -> None:
        while self._content() if self.is_content else self._chunk() if self.chunk else self._command():
            pass

    def _take(self, octets: int) -> bytes:
        taken = bytes(self.heard[:octets])
        del self.heard[:octets]
        return taken

    def _keep(self, octets: bytes) -> None:
        self.hash.update(octets)
        self.octets += len(octets)

    def _command(self) -> bool:
        end = self.heard.find(b"\n")
        if end < 0:
            return False
        line = self._take(end + 1).decode().upper()
        words = line.split()
        if words[0] == "EHLO":
            self.said += "\r\n".join([f"250-{line}" for line in ["sink.example.com", *self.extensions]]).encode()
            self.said += b"\r\n250 HELP\r\n"
        elif words[0] == "DATA":
            self.said += b"354 go ahead\r\n"
            self.heard[:0] = b"\r\n"  # a line begins
            self.is_content = True
            self._begin()
        elif words[0] == "RCPT":
            self._recipient(line)
        elif words[0] == "BDAT":
            self.chunk = int(words[1]), words[-1] == "LAST"
        else:
            self.said += b"250 2.0.0 ok\r\n"
            self.is_over = words[0] == "QUIT"
            if words[0] in ("RSET", "MAIL"):
                self.has_mail = words[0] == "MAIL"
                self.recipients = 0
                self._begin()
        return True

    def _recipient(self, line: str) -> None:
        if self.refused in line:
            self.said += b"550 5.1.1 no such user\r\n"
        elif self.most and self.recipients == self.most:
            self.said += b"452 4.5.3 too many recipients\r\n"
        else:
            self.recipients += 1
            self.said += b"250 2.1.5 ok\r\n"

    def _chunk(self) -> bool:
        assert self.chunk is not None
        left, is_last = self.chunk
        taken = self._take(left)
        self._keep(taken)
        self.chunk = left - len(taken), is_last
        if left > len(taken):
            return False
        self.chunk = None
        if not self.has_mail:
            self.said += b"503 5.5.1 MAIL first\r\n"  # and the chunk is thrown away, as RFC 3030 2 wants
        elif is_last:
            self._end()
        else:
            self.said += b"250 2.0.0 chunk\r\n"
        return True

    def _content(self) -> bool:
        end = self.heard.find(b"\r\n.\r\n")
        cut = self.heard.rfind(b"\r\n") if end < 0 else end
        lines = self._take(cut).replace(b"\r\n..", b"\r\n.")
        self._keep(lines if self.octets else lines[2:])
        if end < 0:
            return False
        self._keep(b"\r\n")
        self._take(5)
        self.is_content = False
        self._end()
        return True

    def _end(self) -> None:
        self.has_mail = False
        self.said += f"250 2.0.0 {self.hash.hexdigest()} {self.octets}\r\n".encode()


def _serve(sock: socket.socket, patience: float, most: int, refused: str, extensions: list[str]) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    speaker = _Speaker(extensions, most, refused)
    with sock:
        try:
            while not speaker.is_over:
                if (
                    speaker.said
                    and speaker.is_complete
                    and not (patience and select.select([sock], [], [], patience)[0])
                ):
                    sock.sendall(speaker.said)
                    speaker.said.clear()
                data = sock.recv(ROOM)
                if not data:
                    return
                speaker.heard += data
                speaker.understand()
            sock.sendall(speaker.said)
        except OSError:
            pass


def main() -> None:
    patience, most, refused, *extensions = sys.argv[1:]
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            sock, _ = listening.accept()
            threading.Thread(
                target=_serve, args=(sock, float(patience), int(most), refused, extensions), daemon=True
            ).start()

    threading.Thread(target=accept, daemon=True).start()
    print(listening.getsockname()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
