"""Servers that cut, fall silent and say odd things, and keep account of every message that they were given.

One thread serves all of them: a case has a pair of ports, and many cases may run at once. `Receiver` is one connection,
octets in and replies out; what goes wrong happens in `_Connection`, between it and the socket.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

from tests.faults.plan import RECIPIENTS, Case, Cut, Odd, Silence

__all__ = ["Handed", "Ledger", "Pair", "Receiver", "Said", "Servers"]

READ_SIZE = 65536


class Handed(NamedTuple):
    """A message as a server got it."""

    server: str
    connection: int
    sender: str
    recipients: tuple[str, ...]
    content: bytes


class Ledger:
    """What the servers of one case were given and did. Written by the servers' thread alone."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.handed: list[Handed] = []
        """Content that came to its end, before a cut or behind it, and was not refused."""
        self.accepted: list[Handed] = []
        """What a server took, whether or not its answer got out."""
        self.free: set[str] = set()
        """Senders whose content the client was free to send: behind an RST nobody sees whether it did."""
        self.struck = 0
        """How many connections the fault hit, and how many of them before the last message."""
        self.struck_before = 0
        self.connections: dict[str, list[_Connection]] = {"first": [], "second": []}
        self.open = 0
        self.trouble: list[str] = []


class Said(NamedTuple):
    """A reply, the octets heard up to the end of what it answers, and what is done behind it."""

    end: int
    point: str
    octets: bytes
    then: str = ""
    is_done: bool = True
    """Whether the server did as it was told; it did if what it says of it cannot be understood."""
    flood: Odd | None = None


class Receiver:
    """One connection to a server that takes everything, but what its fault is about."""

    def __init__(self, ledger: Ledger, server: str, odd: Odd | None = None) -> None:
        self.ledger = ledger
        self.server = server
        self.connection = len(ledger.connections[server])
        self.odd = odd
        self.is_cut = False
        """Nothing is done any more: it is only seen what came."""
        self.is_over = False
        """It said so (421): nothing is done any more, and nobody is in doubt about it."""
        self.secured = ledger.case.tls == "implicit"
        self.end = 0
        self.sender = ""
        self.recipients: list[str] = []
        self._number = 0  # of the message at hand, or of the one to come
        self._next = 0
        self._has_been_odd = False
        self._buffer = bytearray()
        self._content = False
        self._chunk = -1
        self._last = False
        self._chunks = bytearray()
        self._login: list[str] = []
        self._was_probed = False  # by the chunk before

    def greet(self) -> Said:
        """What is said before anything was heard."""
        return self._say("greeting", b"220 x\r\n")

    def hear(self, octets: bytes) -> Iterator[Said]:
        """Replies to octets."""
        buffer = self._buffer
        buffer += octets
        while True:
            if self._chunk >= 0:
                if len(buffer) < self._chunk:
                    return
                taken = self._chunk
            elif self._content:
                if buffer.startswith(b".\r\n"):
                    taken = 3
                elif (found := buffer.find(b"\r\n.\r\n")) >= 0:
                    taken = found + 5
                else:
                    return
            else:
                taken = buffer.find(b"\n") + 1
                if not taken:
                    return
            piece = bytes(buffer[:taken])
            del buffer[:taken]
            self.end += taken
            if self._chunk >= 0:
                yield self._chunk_end(piece)
            elif self._content:
                self._content = False
                yield self._content_end("END", piece[:-3].replace(b"\r\n..", b"\r\n.").removeprefix(b"."))
            else:
                said = self._command(piece.rstrip(b"\r\n").decode("ascii", "replace"))
                if said is not None:
                    yield said

    def _command(self, line: str) -> Said | None:
        if self._login:
            if line == "*":
                self._login = []
                return self._say("AUTH cancelled", b"501\r\n")
            point = self._login.pop(0)
            said = self._say(point, b"334 eA==\r\n" if self._login else b"235 k\r\n")
            if said.octets.lstrip()[:3] != b"334":
                self._login = []
            return said
        verb, _, rest = line.partition(" ")
        verb = verb.upper()
        if verb == "EHLO":
            if self.odd and self.odd.point == "HELO":
                return self._say("EHLO refused", b"502\r\n")
            offers = self.ledger.case.extensions
            if self.ledger.case.tls == "required" and not self.secured:
                offers = ("STARTTLS",)
            point = "EHLO again" if self.secured and self.ledger.case.tls == "required" else "EHLO"
            lines = ["x", *offers]
            text = "".join(f"250{' ' if offer is lines[-1] else '-'}{offer}\r\n" for offer in lines)
            return self._say(point, text.encode())
        if verb == "HELO":
            return self._say(
                "HELO again" if self.secured and self.ledger.case.tls == "required" else "HELO", b"250\r\n"
            )
        if verb == "STARTTLS":
            return self._say(verb, b"220\r\n", "tls")
        if verb == "AUTH":
            self._login = ["AUTH name", "AUTH password"]
            said = self._say("AUTH", b"334 eA==\r\n")
            if said.octets.lstrip()[:3] != b"334":
                self._login = []
            return said
        if verb == "MAIL":
            self._number = int(rest[rest.index("<") + 1 : rest.index("@")])
            self._next = self._number + 1
            said = self._say(verb, b"250\r\n")
            if said.is_done:
                self.sender, self.recipients = str(self._number), []
            return said
        if verb == "RCPT":
            if not self.sender:
                return self._say("RCPT out of order", b"503\r\n")
            address = rest[rest.index("<") + 1 : rest.index(">")]
            if self.odd and self.odd.unclean and self._number == 0:
                return self._say("RCPT refused", b"550\r\n")
            said = self._say(f"RCPT {RECIPIENTS.index(address) + 1}", b"250\r\n")
            if said.is_done:
                self.recipients.append(address)
            return said
        if verb == "DATA":
            if not self.recipients:
                return self._say("DATA out of order", b"503\r\n")
            said = self._say(verb, b"354\r\n")
            self._content = said.is_done
            return said
        if verb == "BDAT":
            self._chunk = int(rest.split()[0])
            self._last = rest.upper().endswith(" LAST")
            return None
        if verb == "RSET":
            self.sender, self.recipients = "", []
            self._chunks.clear()
            self._number = self._next
            was_probed, self._was_probed = self._was_probed, False
            return self._say("RSET of the probe" if was_probed else verb, b"250\r\n")
        if verb == "NOOP":
            return self._say(verb, b"250\r\n")
        if verb == "QUIT":
            return self._say(verb, b"221\r\n", "close")
        if verb == "XRSET" and self._was_probed:
            self._was_probed = False
            return self._say(verb, b"500\r\n")
        return self._say("unknown", b"500\r\n")

    def _chunk_end(self, chunk: bytes) -> Said:
        self._chunk = -1
        if not self.sender and not self._last:
            self._was_probed = True
            self._number = self._next
            return self._refused_chunk(chunk, self._say("probe", b"503\r\n"))
        if not self.recipients:  # RFC 3030 4.1: read and discarded
            return self._refused_chunk(chunk, self._say("BDAT out of order", b"503\r\n"))
        self._chunks += chunk
        if not self._last:
            return self._say("BDAT", b"250\r\n")
        content = bytes(self._chunks)
        self._chunks.clear()
        return self._refused_chunk(content, self._content_end("BDAT LAST", content))

    def _refused_chunk(self, chunk: bytes, said: Said) -> Said:
        """RFC 3030 4.1: it is discarded, which some do not (go-smtp)."""
        if self.ledger.case.runs_chunks and said.octets[:1] in (b"4", b"5"):
            self._buffer[:0] = chunk
        return said

    def _content_end(self, point: str, content: bytes) -> Said:
        handed = Handed(self.server, self.connection, self.sender, tuple(self.recipients), content)
        self.sender, self.recipients = "", []
        was_over = self.is_over
        said = self._say(point, b"250 k\r\n")
        if said.is_done and not was_over:
            self.ledger.handed.append(handed)
            if not self.is_cut:
                self.ledger.accepted.append(handed)
        return said

    def _say(self, point: str, good: bytes, then: str = "") -> Said:
        odd = self.odd
        if odd is None or self._has_been_odd or (odd.point, odd.message) != (point, self._number):
            return Said(self.end, point, good, then)
        self._has_been_odd = True
        self.ledger.struck += 1
        octets = odd.octets
        code = octets.lstrip()[:3]  # a blank line is of no reply
        if code == b"421" or odd.closes:
            then, self.is_over = "close", True
        elif then == "tls" and not odd.extra and code != b"220":
            then = ""
        refusals = (b"4", b"5", b"3") if point.startswith(("MAIL", "RCPT")) else (b"4", b"5")
        is_refused = code[:1] in refusals and not octets[3:4].isdigit() and not odd.extra
        said = good + octets if odd.extra else octets
        if odd.times > 1:
            return Said(self.end, point, good if odd.extra else b"", then, not is_refused, odd)
        return Said(self.end, point, said, then, not is_refused)


class _Connection:
    """A socket, TLS on it where that is due, and the fault."""

    def __init__(self, servers: Servers, sock: socket.socket, ledger: Ledger, name: str, context: Any) -> None:
        self.heard = self.said = 0
        """Octets in clear."""
        self.raw_heard = self.raw_said = 0
        self.replies = 0
        self.points: set[str] = set()
        """Where in the dialogue something was said."""
        fault = ledger.case.fault
        is_hit = fault is not None and name == "first" and (fault.every or not ledger.connections[name])
        self._fault = fault if is_hit else None
        self._cut = fault if is_hit and isinstance(fault, Cut) else None
        self._raw_cut = self._cut if self._cut and self._cut.raw else None
        if self._raw_cut:
            self._cut = None
        self._servers = servers
        self._socket = sock
        self._ledger = ledger
        self._context = context
        self._receiver = Receiver(ledger, name, fault if is_hit and isinstance(fault, Odd) else None)
        self._tls: ssl.SSLObject | None = None
        self._is_ready = False
        self._from_client = ssl.MemoryBIO()
        self._to_client = ssl.MemoryBIO()
        self._mute = False
        self._is_cut = self._is_finished = False
        self._is_closed = False
        self._out = bytearray()  # said, and not yet given to TLS or the socket
        self._left = memoryview(b"")  # what the socket did not take
        self._flood: Odd | None = None
        self._times = 0
        self._closing = False
        ledger.connections[name].append(self)
        ledger.open += 1

    def start(self) -> None:
        """Greet, or wait for the handshake."""
        if self._raw_cut and self._raw_cut.at == 0:
            self._strike()
        if self._ledger.case.tls == "implicit":
            self._begin_tls()
        else:
            self._greet()
        self._flush()
        self._finish()

    def ready(self, events: int) -> None:
        """The socket can be read or written."""
        if events & selectors.EVENT_WRITE and self._left:
            self._push()
        if events & selectors.EVENT_READ and not self._is_closed:
            try:
                data = self._socket.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self._read(data)
            self._flush()
            self._finish()

    # In

    def _read(self, data: bytes) -> None:
        """Octets as they came."""
        cut = self._raw_cut if self._raw_cut and self._raw_cut.of == "heard" and not self._is_cut else None
        rest = b""
        if cut:
            room = cut.at - self.raw_heard
            data, rest = data[:room], data[room:]
        self.raw_heard += len(data)
        ends = cut and self.raw_heard >= cut.at
        if ends:
            self._mute = True  # it is carried out, and the answer does not get out
        self._open(data)
        if ends:
            self._strike()
            self._open(rest)

    def _open(self, data: bytes) -> None:
        if self._tls is None:
            self._hear(data)
            return
        self._from_client.write(data)
        try:
            if not self._is_ready:
                self._handshake()
            while self._is_ready and (clear := self._tls.read(READ_SIZE)):
                self._hear(clear)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            if not self._is_cut:
                self._send_raw(self._to_client.read())
                self._closing = True

    def _hear(self, data: bytes) -> None:
        """Octets in clear."""
        cut = self._cut
        rest = b""
        if cut and cut.of == "heard" and not self._is_cut:
            room = cut.at - self.heard
            data, rest = data[:room], data[room:]
        self.heard += len(data)
        for said in self._receiver.hear(data):
            if cut and cut.of == "heard" and said.end >= cut.at:
                continue  # carried out, and nobody hears of it
            self._say(said)
        if cut and cut.of == "heard" and self.heard >= cut.at and not self._is_cut:
            self._strike()
            self._hear(rest)

    # Out

    def _greet(self) -> None:
        self._say(self._receiver.greet())
        if self._cut and self._cut.of == "heard" and self._cut.at == 0:
            self._strike()

    def _say(self, said: Said) -> None:
        if self._mute:
            return
        if isinstance(self._fault, Silence) and self.replies >= self._fault.reply:
            self._ledger.struck += 1
            self._mute = True
            return
        self.replies += 1
        self.points.add(said.point)
        cut = self._cut
        octets = said.octets
        if cut and cut.of == "said" and len(octets) >= cut.at - self.said:
            octets = octets[: cut.at - self.said]
            self._out += octets
            self.said += len(octets)
            if len(octets) == len(said.octets):
                self._free(said)
            self._strike()
            return
        self._out += octets
        self.said += len(octets)
        self._free(said)
        if said.flood is not None:
            self._flush()
            self._flood, self._times = said.flood, said.flood.times
            self._mute = True  # nothing could follow in its place
            self._push()
        if said.then == "tls":
            self._flush()
            self._begin_tls()
        elif said.then == "close":
            self._flush()
            self._closing = True
            self._mute = True

    def _free(self, said: Said) -> None:
        if self._receiver.sender and (
            said.point == "DATA" or (said.point == "RCPT 2" and "CHUNKING" in self._ledger.case.extensions)
        ):
            self._ledger.free.add(self._receiver.sender)

    def _flush(self) -> None:
        """What was said leaves in one write."""
        if not self._out or self._is_closed:
            return
        data, self._out = bytes(self._out), bytearray()
        self._send_raw(self._sealed(data))

    def _sealed(self, data: bytes) -> bytes:
        if self._tls is None:
            return data
        self._tls.write(data)
        return self._to_client.read()

    def _send_raw(self, data: bytes) -> None:
        cut = self._raw_cut
        if cut and cut.of == "said" and not self._is_cut and len(data) >= cut.at - self.raw_said:
            data = data[: cut.at - self.raw_said]
            self._push(data)
            self._strike()
        elif not (cut and self._mute):
            self._push(data)
        self.raw_said += len(data)

    def _push(self, data: bytes = b"") -> None:
        if self._is_closed:
            return
        self._left = memoryview(bytes(self._left) + data) if self._left else memoryview(data)
        while self._left or self._times:
            if not self._left:
                assert self._flood is not None
                self._times -= 1
                self._left = memoryview(self._sealed(self._flood.octets))
            try:
                self._left = self._left[self._socket.send(self._left) :]
            except BlockingIOError:
                break
            except OSError:  # the client has gone
                self._left = memoryview(b"")
                self._times = 0
        self._servers.wants(self._socket, self, bool(self._left))

    def _begin_tls(self) -> None:
        self._receiver.secured = True
        self._tls = self._context.wrap_bio(self._from_client, self._to_client, server_side=True)

    def _handshake(self) -> None:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        finally:
            if flight := self._to_client.read():
                self._send_raw(flight)
        self._is_ready = True
        if self._ledger.case.tls == "implicit":
            self._greet()

    # Ends

    def _strike(self) -> None:
        """From here on nothing is said and nothing is done."""
        self._ledger.struck += 1
        self._is_cut = self._mute = self._receiver.is_cut = True

    def _finish(self) -> None:
        if self._is_closed:
            return
        if self._closing and not self._left:
            self.close()
        elif self._is_cut and not self._is_finished:
            self._is_finished = True
            assert isinstance(self._fault, Cut)
            if self._fault.by == "fin":
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_WR)
                return
            with contextlib.suppress(OSError):
                while data := self._socket.recv(READ_SIZE):
                    self._open(data)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def close(self) -> None:
        """Close the socket."""
        if not self._is_closed:
            self._is_closed = True
            self._servers.forget(self._socket)
            self._socket.close()
            self._ledger.open -= 1


class Pair:
    """Two ports, for one case at a time."""

    def __init__(self, servers: Servers) -> None:
        self.ledger: Ledger | None = None
        self.ports = {}
        for name in ("first", "second"):
            listening = socket.create_server(("127.0.0.1", 0), backlog=64)
            listening.setblocking(False)
            self.ports[name] = listening.getsockname()[1]
            servers.listen(listening, self, name)

    def begin(self, case: Case) -> Ledger:
        """What comes from now on belongs to this case."""
        self.ledger = Ledger(case)
        return self.ledger


class Servers:
    """All of them, as a context manager: served by a thread, or by whoever calls `serve` when ``selector`` is ready."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.selector.register(self._woken, selectors.EVENT_READ, None)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self.selector.close()
        self._waker.close()

    def start(self) -> None:
        """Serve in a thread."""
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="faulty servers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, if there is one."""
        if self._thread is not None:
            self._is_stopping = True
            self._waker.send(b"x")
            self._thread.join(20)
            assert not self._thread.is_alive(), "the servers hang"
            self._thread = None

    def listen(self, listening: socket.socket, pair: Pair, name: str) -> None:
        """Serve one more port."""
        self.selector.register(listening, selectors.EVENT_READ, (listening, pair, name))

    def wants(self, sock: socket.socket, connection: _Connection, to_write: bool) -> None:
        """Whether a connection waits for its socket to take more."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if to_write else 0)
        if sock.fileno() >= 0 and self.selector.get_key(sock).events != events:
            self.selector.modify(sock, events, connection)

    def forget(self, sock: socket.socket) -> None:
        """A socket is going to be closed."""
        self.selector.unregister(sock)

    def serve(self, timeout: float | None = 0) -> None:
        """Do what is to be done now."""
        for key, events in self.selector.select(timeout):
            what = key.data
            if what is None:
                self._woken.recv(1)
            elif type(what) is _Connection:
                self._guarded(what, what.ready, events)
            else:
                self._accept(*what)

    def _run(self) -> None:
        while not self._is_stopping:
            self.serve(None)

    def _accept(self, listening: socket.socket, pair: Pair, name: str) -> None:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        assert pair.ledger is not None
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(self, sock, pair.ledger, name, self._context)
        self.selector.register(sock, selectors.EVENT_READ, connection)
        self._guarded(connection, connection.start)

    @staticmethod
    def _guarded(connection: _Connection, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except Exception:
            connection._ledger.trouble.append(traceback.format_exc())
            connection.close()
