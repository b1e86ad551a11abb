"""A proxy that adds a round trip, half of it in each direction, and counts how often the client waits."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import Self

READ = 256 * 1024  # octets read at a time
REMEMBERED = 16  # octets of each flight: enough for its first command


class DelayProxy:
    """A running proxy to ``host`` and ``port``, as a context manager. ``round_trip`` is in seconds.

    What is read leaves that much later, in order, however much is on its way: a long line, not a narrow one. Setting up
    a connection is not delayed.
    """

    def __init__(self, host: str, port: int, round_trip: float) -> None:
        self.round_trip = round_trip
        self.flights: list[bytes] = []
        """How each flight of the client began. One ends, and is a turn, when the server says something after it."""
        self._server = (host, port)
        self._lock = threading.Lock()

    @property
    def turns(self) -> int:
        """How often it was the server's turn, over all connections."""
        return len(self.flights)

    @property
    def turns_after_ehlo(self) -> int:
        """Those that mail is sent in: neither EHLO nor QUIT."""
        return sum(not flight.upper().startswith((b"EHLO", b"QUIT")) for flight in self.flights)

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.host, self.port = self._listening.getsockname()
        threading.Thread(target=self._accept, name="delay", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), name="delay", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._server) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            flight = bytearray()  # what the client has said since the server spoke last
            there = threading.Thread(target=self._carry, args=(client, server, flight, True), name="delay", daemon=True)
            there.start()
            self._carry(server, client, flight, False)
            there.join()

    def _carry(self, source: socket.socket, target: socket.socket, flight: bytearray, is_client: bool) -> None:
        """Carry one direction to its end."""
        under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        delivery = threading.Thread(target=self._deliver, args=(under_way, target), name="delay", daemon=True)
        delivery.start()
        data = b"?"
        while data:
            try:
                data = source.recv(READ)
            except OSError:
                data = b""
            under_way.put((time.monotonic() + self.round_trip / 2, data))
            with self._lock:
                if is_client:
                    flight += data[: max(REMEMBERED - len(flight), 0)]
                elif data and flight:
                    self.flights.append(bytes(flight))
                    flight.clear()
        delivery.join()

    @staticmethod
    def _deliver(under_way: queue.SimpleQueue[tuple[float, bytes]], target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = under_way.get()
                time.sleep(max(due - time.monotonic(), 0))
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)
