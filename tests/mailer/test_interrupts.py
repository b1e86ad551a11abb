"""Ctrl-C in a thread that sends, wherever it comes: nothing is left half done, and the mailer goes on (DESIGN 4.5)."""

from __future__ import annotations

import gc
import itertools
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from types import FrameType
from typing import Any

import pytest

from smtpbackend import Mailer, Message
from smtpbackend.blocking.idle import watch
from smtpbackend.delivery import addresses
from smtpbackend.errors import ConnectFailed, ContentRefused
from smtpbackend.forking import sockets
from smtpbackend.testing import DEAF, SILENCE, Play, ScriptedServer
from tests.mailer.conftest import Names, Scripted
from tests.mailer.leftovers import Leftovers, taken
from tests.mailer.twins import PATIENCE, hello
from tests.servers.ports import free_ports, wait_until
from tests.servers.tls import Certificates
from tests.telling import names_of

Interrupt = Callable[..., Any]

NAMES = ("message_sending", "message_sent", "recipient_rejected", "recipient_deferred", "message_failed")


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    """Have KeyboardInterrupt raised in the main thread, as Ctrl-C does; whatever it is given, silence is its answer."""

    def raise_interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def interrupt(_: Any = None) -> Any:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        return SILENCE

    before = signal.signal(signal.SIGUSR1, raise_interrupt)
    yield interrupt
    signal.signal(signal.SIGUSR1, before)


def alive() -> list[socket.socket]:
    """The sockets of all mailers that are open."""
    return [sock for sock in list(sockets) if sock.fileno() >= 0]


def when_in(function: str, interrupt: Interrupt) -> threading.Thread:
    """Interrupt the main thread as soon as the innermost function of the package that it runs is this one."""

    def watch() -> None:
        last = 0

        def is_there() -> bool:
            nonlocal last
            frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
            while frame is not None and "/smtpbackend/" not in frame.f_code.co_filename:
                frame = frame.f_back
            there = frame is not None and frame.f_code.co_qualname == function
            before, last = last, frame.f_lasti if there and frame is not None else 0
            return there and before == last  # it does not move: it waits

        if wait_until(is_there, PATIENCE):
            interrupt()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def look_after(mailer: Mailer, servers: list[ScriptedServer], leftovers: Leftovers, where: str) -> None:
    """Nothing is left, nothing went out twice, and the next message finds a connection at its beginning."""
    leftovers.check(mailer._pool, servers, where)
    receipt = mailer.send(hello(subject=f"after {where}"))
    [server] = [server for server in servers if server.name == receipt.server]
    assert receipt.queue_id == f"{len(server.handed_over):05}ABC", where
    assert max(taken(servers).values()) == 1, where
    mailer.close()
    leftovers.check(mailer._pool, servers, f"{where}, closed")


class TestWhileTheServerIsAwaited:
    PLAY = Play(extensions=("STARTTLS",), after_tls=("AUTH PLAIN",))

    @pytest.mark.parametrize("command", ["EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "."])
    def test_a_send(self, scripted: Scripted, ca: Certificates, interrupt: Interrupt, command: str) -> None:
        first = Play({command: interrupt}, self.PLAY.extensions, self.PLAY.after_tls)
        server = scripted(first, self.PLAY, certificate="server")
        url = {"host": "127.0.0.1", "port": server.port, "tls": "required", "ca_file": str(ca.ca_file)}
        mailer = Mailer(url, username="ann", password="secret", max_connections=1)
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            look_after(mailer, [server], leftovers, command)
        assert server.connections == 2

    @pytest.mark.parametrize("command", ["RSET", "MAIL", "RCPT", "DATA", "."])
    @pytest.mark.parametrize("extensions", [(), ("PIPELINING",)], ids=["lock step", "pipelining"])
    def test_a_send_on_a_kept_connection(
        self, scripted: Scripted, interrupt: Interrupt, command: str, extensions: tuple[str, ...]
    ) -> None:
        answers: dict[str, Any] = {command: [Play().answers.get(command), interrupt]}
        good = {"RSET": "250 ok", "MAIL": "250 ok", "RCPT": "250 ok", "DATA": "354 go", ".": "250 queued as 00001ABC"}
        answers[command][0] = good[command]
        if command == "RSET":  # which stands only where something has to be cleared
            answers = {"RSET": interrupt, ".": ["550 5.7.1 no", "250 queued as 00001ABC"]}
        server = scripted(Play(answers, extensions), Play(extensions=extensions))
        mailer = Mailer(server.url, max_connections=1)
        with nullcontext() if command != "RSET" else pytest.raises(ContentRefused):
            mailer.send(hello(subject="before"))
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            look_after(mailer, [server], leftovers, command)
        assert server.connections == 2

    @pytest.mark.parametrize("tls", ["none", "implicit"], ids=["greeting", "handshake"])
    def test_what_comes_before_the_first_command(
        self, scripted: Scripted, ca: Certificates, interrupt: Interrupt, tls: str
    ) -> None:
        server = scripted({"": SILENCE}, Play(implicit_tls=tls == "implicit"), certificate="server")
        url = {"host": "127.0.0.1", "port": server.port, "tls": tls, "ca_file": str(ca.ca_file)}
        mailer = Mailer(url, max_connections=1)
        with Leftovers() as leftovers:
            watching = when_in("Wire._wait", interrupt)
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            watching.join()
            look_after(mailer, [server], leftovers, tls)
        assert server.connections == 2

    @pytest.mark.parametrize("ask", ["verify", "expand", "help", "check", "connect"])
    def test_a_question(self, scripted: Scripted, interrupt: Interrupt, ask: str) -> None:
        commands = {"verify": "VRFY", "expand": "EXPN", "help": "HELP", "check": "EHLO", "connect": "EHLO"}
        server = scripted({commands[ask]: interrupt}, {})
        mailer = Mailer(server.url, max_connections=1)
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                getattr(mailer, ask)(*(["ann"] if ask in ("verify", "expand") else []))
            look_after(mailer, [server], leftovers, ask)

    def test_a_close(self, scripted: Scripted, interrupt: Interrupt) -> None:
        """Two connections are told QUIT; the second is closed too."""
        servers = [scripted({"QUIT": interrupt}, {}), scripted({})]
        mailer = Mailer(*(server.url for server in servers), max_connections=1, strategy="round_robin")
        for server in servers:
            assert mailer.send(hello(subject=f"before, to {server.port}")).server == server.name
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                mailer.close()
            look_after(mailer, servers, leftovers, "close")

    def test_a_goodbye_to_what_was_idle_for_too_long(
        self, scripted: Scripted, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch, "add", lambda pool: None)  # the send says goodbye, and not the thread for idle ones
        server = scripted({"QUIT": interrupt}, {})
        mailer = Mailer(server.url, max_connections=1, max_idle=1e-9)
        mailer.connect()
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            look_after(mailer, [server], leftovers, "goodbye")

    def test_the_second_server(self, scripted: Scripted, interrupt: Interrupt) -> None:
        servers = [scripted({"MAIL": "451 4.3.2 later"}), scripted({"RCPT": interrupt}, {})]
        mailer = Mailer(*(server.url for server in servers), max_connections=1)
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            look_after(mailer, servers, leftovers, "second server")

    def test_content_that_the_server_does_not_read(self, scripted: Scripted, interrupt: Interrupt) -> None:
        watching: list[threading.Thread] = []

        def go_ahead(_: str) -> Any:
            watching.append(when_in("Wire._wait", interrupt))
            return "354 go ahead", DEAF

        server = scripted(Play({"DATA": go_ahead}, ("PIPELINING",)), {})
        mailer = Mailer(server.url, max_connections=1)
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted", text=("x" * 70 + "\n") * 100_000))
            watching[0].join()
            leftovers.check(mailer._pool, [], "content")  # a deaf server does not hear the end either
            assert mailer.send(hello(subject="after")).ok
            mailer.close()
        assert set(taken([server])) == {"after"}


class TestWhileSomethingElseIsAwaited:
    def test_a_connection_to_nowhere(self, scripted: Scripted, interrupt: Interrupt, unreachable: int) -> None:
        server = scripted({})
        mailer = Mailer(f"smtp://127.0.0.1:{unreachable}", server.url, max_connections=1, timeout={"connect": PATIENCE})
        with Leftovers() as leftovers:
            watching = when_in("Attempts.ready", interrupt)
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            watching.join()
            leftovers.check(mailer._pool, [server], "connecting")
        assert server.connections == 0

    def test_one_of_several_addresses(
        self, scripted: Scripted, interrupt: Interrupt, names: Names, several_unreachable: list[int]
    ) -> None:
        """All that are under way are closed."""
        server = scripted({})
        names["mx.example.com"] = [("127.0.0.1", port) for port in several_unreachable]
        mailer = Mailer("smtp://mx.example.com?tls=none", max_connections=1, timeout={"connect": PATIENCE})
        with Leftovers() as leftovers:
            watching = when_in(
                "Attempts.ready", lambda: wait_until(lambda: len(alive()) == 3, PATIENCE) and interrupt()
            )
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            watching.join()
            leftovers.check(mailer._pool, [server], "connecting")
            assert alive() == []

    def test_a_connection_of_the_pool(self, scripted: Scripted, interrupt: Interrupt) -> None:
        """The only one is in use by another thread, which gets through."""
        free = threading.Event()

        def answer(_: str) -> str:
            free.wait(PATIENCE)
            return "250 ok"

        server = scripted({"MAIL": answer})
        mailer = Mailer(server.url, max_connections=1)
        receipts: list[Any] = []
        other = threading.Thread(target=lambda: receipts.append(mailer.send(hello(subject="other"))))
        with Leftovers() as leftovers:
            other.start()
            assert wait_until(lambda: "MAIL" in " ".join(server.commands), PATIENCE)
            watching = when_in("Pool._find", interrupt)
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            free.set()
            other.join()
            watching.join()
            assert [receipt.ok for receipt in receipts] == [True]
            look_after(mailer, [server], leftovers, "waiting")
        assert server.connections == 1

    def test_a_name(self, scripted: Scripted, interrupt: Interrupt, monkeypatch: pytest.MonkeyPatch) -> None:
        server, go = scripted({}), threading.Event()
        ask = socket.getaddrinfo

        def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
            if host == "mx.example.com":
                interrupt()
                go.wait(PATIENCE)
                raise socket.gaierror(socket.EAI_AGAIN, "try again")
            return ask(host, *args, **options)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        mailer = Mailer("mx.example.com", server.url, max_connections=1)
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            go.set()
            leftovers.check(mailer._pool, [server], "looking up")
        assert server.connections == 0

    def test_a_token(self, scripted: Scripted, interrupt: Interrupt) -> None:
        """Its callable is where the interrupt comes."""
        server = scripted(Play(extensions=("AUTH XOAUTH2",)))
        turns = itertools.count()

        def token() -> str:
            if next(turns) == 0:
                raise KeyboardInterrupt
            return "fresh"

        mailer = Mailer(server.url, username="ann", token=token, max_connections=1)
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            look_after(mailer, [server], leftovers, "token")

    def test_the_source_of_a_stream(self, scripted: Scripted) -> None:
        server = scripted({})
        mailer = Mailer(server.url, max_connections=1)

        def source() -> Iterator[Message]:
            yield hello(subject="1")
            yield hello(subject="2")
            raise KeyboardInterrupt

        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                list(mailer.send_many(source()))
            look_after(mailer, [server], leftovers, "source")
        assert {"1", "2"} <= set(taken([server]))


class TestInAListener:
    @pytest.mark.parametrize("name", [*NAMES, "server_failed", "message_in_doubt"])
    def test_it_leaves_send(self, scripted: Scripted, name: str) -> None:
        """The one that raises is not an Exception: it is not logged and forgotten."""
        raised: list[str] = []

        def listen(event: Any) -> None:
            if name in names_of(event) and not raised:
                raised.append(name)
                raise KeyboardInterrupt

        plays: dict[str, Play] = {
            "recipient_rejected": Play({"RCPT": "550 no"}),
            "recipient_deferred": Play({"RCPT": "450 no"}),
            "message_failed": Play({"MAIL": "550 no"}),
            "server_failed": Play({"EHLO": "502 no", "HELO": "502 no"}),
            "message_in_doubt": Play({".": b"nonsense\r\n"}),
        }
        first, second = scripted(plays.get(name, Play()), {}), scripted({})
        servers = [first, second] if name == "server_failed" else [first]
        mailer = Mailer(*(server.url for server in servers), max_connections=1, listeners=[listen], rest=0)
        with Leftovers() as leftovers:
            with pytest.raises(KeyboardInterrupt):
                mailer.send(hello(subject="interrupted"))
            assert raised
            if name in ("recipient_rejected", "recipient_deferred", "message_failed"):
                leftovers.check(mailer._pool, servers, name)
                mailer.close()
                leftovers.check(mailer._pool, servers, name)
            else:
                look_after(mailer, servers, leftovers, name)


class TestAtEveryCall:
    """Python looks for signals where a function begins and where one of C returns."""

    MOMENTS = ("Pool._find, ", "Pool.release, ")
    """Where a connection changes hands: what is held is not yet, or not any more, in the hands of who would free it."""

    @pytest.mark.parametrize("kept", [False, True], ids=["new connection", "kept connection"])
    def test_nothing_is_left(self, scripted: Scripted, kept: bool) -> None:
        """At the moments when a connection changes hands one may be lost, but never one used that is out of step."""
        server = scripted(Play(extensions=("PIPELINING",)))
        points: list[str] = []
        with Leftovers() as leftovers:
            while True:
                mailer = Mailer(server.url)
                if kept:
                    mailer.send(hello(subject=f"before {len(points)}"))
                stepping = _Stepping(len(points) + 1)
                with suppress(KeyboardInterrupt), stepping:
                    mailer.send(hello(subject=f"interrupted {len(points)}"))
                if not stepping.where:
                    mailer.close()
                    break
                points.append(stepping.where)
                if stepping.where.startswith(self.MOMENTS):
                    receipt = mailer.send(hello(subject=f"after {len(points)}"))
                    assert receipt.queue_id == f"{len(server.handed_over):05}ABC", stepping.where
                    mailer.close()
                    gc.collect()
                    leftovers.found.clear()
                else:
                    look_after(mailer, [server], leftovers, f"{len(points)}, {stepping.where}")
        assert len(points) > 50
        assert sum(point.startswith(self.MOMENTS) for point in points) < len(points) / 4
        assert max(taken([server]).values()) == 1

    def test_no_socket_is_left_of_several_addresses(
        self, scripted: Scripted, names: Names, unreachable: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One refuses, one is silent, one is not of this machine, one is well; then nobody is."""
        monkeypatch.setattr(addresses, "DELAY", 0.005)
        server = scripted({})
        [closed] = free_ports(1)
        found = [("::1", closed), ("127.0.0.1", unreachable), ("127.0.0.1", server.port)]
        points: list[str] = []
        for well in (True, False):
            names["mx.example.com"] = found if well else found[:2]
            with Leftovers() as leftovers:
                for at in itertools.count(1):
                    addresses.remembered.clear()
                    mailer = Mailer("smtp://mx.example.com?tls=none", timeout={"connect": 5 if well else 0.02})
                    stepping = _Stepping(at, ("/blocking/dial.py", "/blocking/wire.py"))
                    with suppress(KeyboardInterrupt, ConnectFailed), stepping:
                        mailer.send(hello(subject=f"interrupted {at}"))
                    leftovers.check(mailer._pool, [], stepping.where)
                    mailer.close()
                    assert alive() == [], stepping.where
                    if not stepping.where:
                        break
                    points.append(stepping.where)
        assert sum("dial" in point for point in points) > 20


class _Stepping:
    """Raises KeyboardInterrupt at the nth such point of the blocking twin, in this thread, within the block."""

    ROOMS = ("/smtpbackend/base_mailer.py", "/smtpbackend/streams.py", "/smtpbackend/blocking/")

    def __init__(self, at: int, rooms: tuple[str, ...] = ROOMS) -> None:
        self.where = ""
        self._at = at
        self._rooms = rooms
        self._points = 0

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        sys.setprofile(self._look)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(self._before)

    def _look(self, frame: FrameType, event: str, function: Any) -> None:
        if event in ("call", "c_return") and any(room in frame.f_code.co_filename for room in self._rooms):
            self._points += 1
            if self._points == self._at:
                behind = f" behind {function.__name__}" if event == "c_return" else ""
                self.where = f"{frame.f_code.co_qualname}, line {frame.f_lineno}{behind}"
                sys.setprofile(None)
                raise KeyboardInterrupt
