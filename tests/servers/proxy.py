"""A small proxy that speaks SOCKS5, SOCKS4, SOCKS4a and HTTP CONNECT, and remembers what it was asked."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any, Self

from tests.servers.ports import wait_until

__all__ = ["Proxy"]


class Proxy:
    """A running proxy, as a context manager.

    ``users``: names and passwords; with one or more, a login is asked for. ``names`` are those that it can look up.
    ``refuses``: it connects to nobody. ``in_one_piece``: its answer leaves together with what the server says first,
    as a proxy on a fast line may do. ``silent``: it never answers.
    """

    def __init__(
        self,
        *,
        users: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
        refuses: bool = False,
        in_one_piece: bool = False,
        silent: bool = False,
    ) -> None:
        self.users = dict(users or {})
        self.names = {"localhost": "127.0.0.1", **(names or {})}
        self.refuses = refuses
        self.in_one_piece = in_one_piece
        self.silent = silent
        self.asked: list[tuple[str, str, int]] = []
        """The dialect, the host as it was named, and the port."""
        self.peers: list[str] = []
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        assert wait_until(lambda: not any(thread.is_alive() for thread in self._threads), 20), "the proxy hangs"

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, peer = self._listening.accept()
            except OSError:
                return
            self.peers.append(peer[0])
            with self._lock:
                self._open.add(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            first = client.recv(1, socket.MSG_PEEK)
            if self.silent:
                while client.recv(65536):
                    pass
            elif first == b"\x05":
                self._socks5(client)
            elif first == b"\x04":
                self._socks4(client)
            elif first:
                self._http(client)
        except (OSError, _Over):
            pass
        finally:
            with self._lock:
                self._open.discard(client)
            client.close()

    # The dialects ------------------------------------------------------------------------------------------------

    def _socks5(self, client: socket.socket) -> None:
        """RFC 1928, RFC 1929"""
        _, count = self._read(client, 2)
        methods = self._read(client, count)
        wanted = 2 if self.users else 0
        if wanted not in methods:
            client.sendall(b"\x05\xff")
            return
        client.sendall(bytes((5, wanted)))
        if wanted:
            _, length = self._read(client, 2)
            username = self._read(client, length).decode()
            password = self._read(client, *self._read(client, 1)).decode()
            good = self.users.get(username) == password
            client.sendall(bytes((1, not good)))
            if not good:
                return
        _, _, _, kind = self._read(client, 4)
        if kind == 3:
            host = self._read(client, *self._read(client, 1)).decode()
        else:
            host = str(ipaddress.ip_address(self._read(client, 4 if kind == 1 else 16)))
        (port,) = struct.unpack("!H", self._read(client, 2))
        tail = b"\x00\x01" + bytes(6)
        self._connect(client, "socks5", host, port, b"\x05\x00" + tail, b"\x05\x05" + tail)

    def _socks4(self, client: socket.socket) -> None:
        """SOCKS4 and its extension 4a: 0.0.0.x, and the name behind the user"""
        _, _, port = struct.unpack("!BBH", self._read(client, 4))
        address = self._read(client, 4)
        username = self._until(client, b"\0").decode()
        dialect, host = "socks4", str(ipaddress.ip_address(address))
        if address[:3] == bytes(3):
            dialect, host = "socks4a", self._until(client, b"\0").decode()
        refused = b"\x00\x5b" + bytes(6)
        if self.users and username not in self.users:
            client.sendall(refused)
            return
        self._connect(client, dialect, host, port, b"\x00\x5a" + bytes(6), refused)

    def _http(self, client: socket.socket) -> None:
        """RFC 9110 9.3.6"""
        head = self._until(client, b"\r\n\r\n").decode()
        request, *lines = head.split("\r\n")
        _, target, _ = request.split(" ")
        host, _, port = target.rpartition(":")
        fields = dict(line.split(": ", 1) for line in lines)
        given = base64.b64decode(fields.get("Proxy-Authorization", "Basic ").removeprefix("Basic ")).decode("latin-1")
        if self.users and given not in [f"{name}:{password}" for name, password in self.users.items()]:
            client.sendall(f"HTTP/1.1 407 who are you, {given}?\r\n\r\n".encode("latin-1"))
            return
        good = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 a\r\n\r\n"
        self._connect(client, "http", host.strip("[]"), int(port), good, b"HTTP/1.1 502 Bad Gateway\r\n\r\n")

    # -------------------------------------------------------------------------------------------------------------

    def _connect(self, client: socket.socket, dialect: str, host: str, port: int, good: bytes, bad: bytes) -> None:
        self.asked.append((dialect, host, port))
        try:
            if self.refuses:
                raise ConnectionRefusedError
            server = socket.create_connection((self.names.get(host, host), port), 5)
        except OSError:
            client.sendall(bad)
            return
        with server:
            server.settimeout(None)
            with self._lock:
                self._open.add(server)
            if self.in_one_piece:
                client.sendall(good + server.recv(65536))
            else:
                for octet in good:  # a reply need not come in one piece
                    client.sendall(bytes([octet]))
            self._start(self._carry, client, server)
            self._carry(server, client)
            with self._lock:
                self._open.discard(server)

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _read(client: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = client.recv(count - len(data))
            if not piece:
                raise _Over
            data += piece
        return data

    def _until(self, client: socket.socket, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            data += self._read(client, 1)
        return data.removesuffix(end)


class _Over(Exception):
    """The client has gone."""
