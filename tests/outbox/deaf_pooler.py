"""A relay before PostgreSQL that keeps notifications, as pgbouncer in transaction mode does for an idle client."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

__all__ = ["DeafPooler"]

NOTIFICATION = b"A"
NO_ENCRYPTION = {"sslmode": "disable", "gssencmode": "disable"}
"""OPTIONS of the database: the relay reads messages."""


class DeafPooler:
    """A context manager with a `port`; ``kept`` counts notifications."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self.kept = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for relay in (self._to_server, self._to_client):
                    threading.Thread(target=relay, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), server:
            while octets := client.recv(65536):
                server.sendall(octets)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client, server.makefile("rb") as messages:
            while head := messages.read(5):
                whole = head + messages.read(int.from_bytes(head[1:]) - 4)
                if head[:1] == NOTIFICATION:
                    self.kept += 1
                else:
                    client.sendall(whole)
