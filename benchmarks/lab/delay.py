"""A proxy that adds a round trip, half of it in each direction, and counts how often the client waits."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from typing import Self, TypeAlias

READ = 256 * 1024  # octets read at a time
REMEMBERED = 16  # octets of each flight: enough for its first command
ALONE = (b"EHLO", b"QUIT")  # commands that no mail is sent with

_UnderWay: TypeAlias = "queue.SimpleQueue[tuple[float, int, bytes]]"  # when it is due, its round, what it is


class DelayProxy:
    """A running proxy to ``host`` and ``port``, as a context manager. ``round_trip`` is in seconds.

    What is read leaves that much later, in order, however much is on its way: a long line, not a narrow one. With
    ``is_set_up`` the server hears of a new connection after a round trip too, which TCP takes to set it up; without,
    only what is said on it is delayed.
    """

    def __init__(self, host: str, port: int, round_trip: float, *, is_set_up: bool = False) -> None:
        self.round_trip = round_trip
        self._set_up = round_trip if is_set_up else 0.0
        self.flights: list[bytes] = []
        """How each flight of a client began that the server said something after, over all connections."""
        self.rounds = 0
        """Round trips one after the other, at most on one connection and but for EHLO and QUIT: how often the client
        said something when it had heard the answer to what it said before. Who goes on sending while answers come in
        has more turns than rounds."""
        self._server = (host, port)
        self._lock = threading.Lock()

    @property
    def turns(self) -> int:
        """How often it was the server's turn: a change from what a client says to what the server says, seen here."""
        return len(self.flights)

    @property
    def turns_after_ehlo(self) -> int:
        """Those that mail is sent in: neither EHLO nor QUIT."""
        return sum(not flight.upper().startswith(ALONE) for flight in self.flights)

    def forget(self) -> None:
        """Count anew."""
        self.flights = []
        self.rounds = 0

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
        time.sleep(self._set_up)
        with client, contextlib.suppress(OSError), socket.create_connection(self._server) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = _Line()
            there = threading.Thread(target=self._carry, args=(client, server, line, True), name="delay", daemon=True)
            there.start()
            self._carry(server, client, line, False)
            there.join()

    def _carry(self, source: socket.socket, target: socket.socket, line: _Line, is_client: bool) -> None:
        """Carry one direction to its end."""
        under_way: _UnderWay = queue.SimpleQueue()
        arguments = (under_way, target, line, is_client)
        delivery = threading.Thread(target=self._deliver, args=arguments, name="delay", daemon=True)
        delivery.start()
        data = b"?"
        while data:
            try:
                data = source.recv(READ)
            except OSError:
                data = b""
            with self._lock:
                round_ = self._note(line, data, is_client)
            under_way.put((time.monotonic() + self.round_trip / 2, round_, data))
        delivery.join()

    def _note(self, line: _Line, data: bytes, is_client: bool) -> int:
        """Count what was read; the round that it belongs to."""
        if is_client:
            line.flight += data[: max(REMEMBERED - len(line.flight), 0)]
            return line.heard + (not data.upper().startswith(ALONE))
        if data and line.flight:
            self.flights.append(bytes(line.flight))
            line.flight.clear()
            self.rounds = max(self.rounds, line.told)
        return line.told

    def _deliver(self, under_way: _UnderWay, target: socket.socket, line: _Line, to_server: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, round_, data = under_way.get()
                time.sleep(max(due - time.monotonic(), 0))
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                with self._lock:
                    if to_server:
                        line.told = max(line.told, round_)
                    else:
                        line.heard = max(line.heard, round_)
                target.sendall(data)


class _Line:
    """What is known of one connection: how the flight at hand began, and the rounds that arrived at either end."""

    def __init__(self) -> None:
        self.flight = bytearray()
        self.told = 0
        self.heard = 0
