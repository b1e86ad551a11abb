"""A relay that lets client and server speak in turns, as a long way between them does, and counts the turns."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Self


class Turns:
    """A relay to ``port`` for one connection after the other, as a context manager.

    A turn is everything that the client says until it waits, and everything that the server has to say to that, which
    the client gets in one piece. The greeting is none. A server has had its say when ``quiet`` seconds are without an
    octet: longer than it thinks about one message.
    """

    def __init__(self, port: int, quiet: float) -> None:
        self.turns = 0
        self._quiet = quiet
        self._to = port
        self._stopping = False

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(0.1)
        self.url = f"smtp://127.0.0.1:{self._listening.getsockname()[1]}?tls=none"
        self._thread = threading.Thread(target=self._serve, name="turns", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the relay hangs"
        self._listening.close()

    def _serve(self) -> None:
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                client, _ = self._listening.accept()
                with client, socket.create_connection(("127.0.0.1", self._to)) as server, contextlib.suppress(OSError):
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._take_turns(client, server)

    def _take_turns(self, client: socket.socket, server: socket.socket) -> None:
        client.sendall(self._all_of(server, self._quiet))
        while said := self._all_of(client, 0.02):
            server.sendall(said)
            replies = self._all_of(server, self._quiet)
            self.turns += bool(replies)
            client.sendall(replies)

    def _all_of(self, sock: socket.socket, quiet: float) -> bytes:
        """What one side says until it is quiet; nothing where it has ended."""
        said = b""
        while not self._stopping:
            if select.select([sock], [], [], quiet if said else 0.1)[0]:
                part = sock.recv(65536)
                said += part
                if not part:
                    break
            elif said:
                break
        return said
