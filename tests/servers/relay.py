"""A relay in front of a server on loopback that can drop a connection without a word, as a firewall does."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Self

from tests.servers.ports import wait_until

__all__ = ["Relay"]


class Relay:
    """A running relay to ``port``, as a context manager."""

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._to = port
        self._dropped: set[int] = set()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it is, without TLS."""
        return f"smtp://127.0.0.1:{self.port}?tls=none"

    @property
    def name(self) -> str:
        """How errors call it."""
        return f"127.0.0.1:{self.port}"

    def drop(self) -> None:
        """Pass nothing on any more on the connections that are open now: no octet, no end. New ones are relayed."""
        with self._lock:
            self._dropped.update(range(self.connections))

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        assert wait_until(lambda: not any(thread.is_alive() for thread in self._threads), 20), "the relay hangs"
        for sock in self._open:
            sock.close()

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="relay", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            with self._lock:
                number, self.connections = self.connections, self.connections + 1
                self._open += [client, server]
            self._start(self._pass_on, number, client, server)
            self._start(self._pass_on, number, server, client)

    def _pass_on(self, number: int, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if number not in self._dropped:
                    target.sendall(data)
            if number not in self._dropped:
                target.shutdown(socket.SHUT_WR)
