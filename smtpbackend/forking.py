"""What a fork must not cut in two, the sockets that a child closes, from their birth on, and the end of a process.

A child has one thread and a copy of everything else: of each socket, and of the locks that OpenSSL held for a thread
that is no more. A connection that a child holds too would not end when its parent closes it; on the locks the child
would wait for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from smtpbackend.after_fork import at_fork
from smtpbackend.errors import InvalidSetting
from smtpbackend.polling import MAX_POLL, WRITABLE, check_number, new_poll

if TYPE_CHECKING:
    from smtpbackend.delivery.server import Server

__all__ = ["Attempts", "at_end_of_process", "at_path", "sockets", "unforked"]

PATIENCE = 1.0  # seconds that a fork waits at most: what is done unforked never waits for a network
WORDS: dict[int, str] = getattr(socket, "errorTab", {})  # for Windows, where os.strerror does not know them


class _Unforked:
    """``with unforked:`` no other thread forks a child while this runs, for up to `PATIENCE`. May be nested."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()  # on an RLock: garbage may be collected, and closed, at any point
        self.inside: dict[int, int] = {}  # by thread, how deep
        self.forking: int | None = None  # which thread does

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            while self.forking not in (None, me) and me not in self.inside:
                self._changed.wait()
            self.inside[me] = self.inside.get(me, 0) + 1

    def __exit__(self, *exception: object) -> None:
        me = threading.get_ident()
        with self._changed:
            left = self.inside.get(me, 0) - 1
            if left > 0:
                self.inside[me] = left
            else:
                self.inside.pop(me, None)
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Let no other thread in, and wait for those that are."""
        me, end = threading.get_ident(), time.monotonic() + PATIENCE
        with self._changed:
            while self.forking is not None:
                self._changed.wait()
            self.forking = me
            while others := self.inside.keys() - {me}:
                if not self._changed.wait(max(end - time.monotonic(), 0.0)):
                    for one in others:  # an interrupt may have kept it from leaving: no other fork waits for it
                        del self.inside[one]

    def after_fork(self) -> None:
        """In the parent: all may go on."""
        with self._changed:
            self.forking = None
            self._changed.notify_all()

    def in_child(self) -> None:
        """Here the thread that forked is the only one."""
        me = threading.get_ident()
        mine = self.inside.get(me)
        self._reset()
        if mine:
            self.inside[me] = mine


def at_path(server: Server) -> tuple[Any, ...]:
    """The unix socket of a server, as ``getaddrinfo`` says an address. Raises `InvalidSetting` where there are none."""
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        why = f"{server.name}: Python has no unix sockets on this system (Windows); give its host and port"
        raise InvalidSetting(why, field="servers")
    return family, socket.SOCK_STREAM, 0, "", server.path


sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
"""What a child closes: each socket is put in as it is made, unforked."""


class Attempts:
    """The sockets on their way to the addresses of one host (RFC 8305), by what ``getaddrinfo`` said of each."""

    def __init__(self, source_address: str | None) -> None:
        self.under_way: dict[Any, socket.socket] = {}
        self._source_address = source_address

    def begin(self, info: tuple[Any, ...]) -> OSError | None:
        """Send one on its way, which never waits: the error where that cannot be."""
        try:
            self.under_way[info] = _begin(info, self._source_address)
        except OSError as error:
            return error
        return None

    def ready(self, seconds: float) -> list[Any]:
        """Those that have arrived or failed, as soon as there is one, at most so many seconds from now."""
        poll = new_poll()
        by_number = {}
        for info, sock in self.under_way.items():
            poll.register(sock, WRITABLE)
            by_number[sock.fileno()] = info
        return [by_number[number] for number, _ in poll.poll(min(seconds, MAX_POLL) * 1000)]

    def ended(self, infos: Iterable[Any]) -> dict[Any, OSError | None]:
        """For each that has arrived None; for each that has failed why, and it is closed."""
        answers: dict[Any, OSError | None] = {}
        for info in infos:
            code = self.under_way[info].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            answers[info] = OSError(code, WORDS.get(code) or os.strerror(code)) if code else None
            if code:
                self.close(info)
        return answers

    def close(self, info: Any) -> None:
        """Close this one."""
        self.under_way[info].close()
        del self.under_way[info]

    def close_all(self, but: Any = None) -> None:
        """Close each, or each but one."""
        for info in [info for info in self.under_way if info is not but]:
            self.close(info)


def _begin(info: tuple[Any, ...], source_address: str | None) -> socket.socket:
    family, kind, protocol, _, address = info
    sock: socket.socket | None = None
    try:
        with unforked:
            sock = socket.socket(family, kind, protocol)  # a kernel without IPv6 has no such sockets
            sockets.add(sock)
        check_number(sock)
        sock.setblocking(False)
        if family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source_address:
                sock.bind((source_address, 0))
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError) as error:
            if error.errno == errno.EAGAIN:  # nothing is under way: a unix socket's backlog is full
                raise
    except BaseException:
        if sock is not None:
            sock.close()
        raise
    return sock


def _close_sockets() -> None:
    """Else parent and child might both speak on one."""
    for sock in list(sockets):
        sock.close()
    sockets.clear()


_closers: list[Callable[[], object]] = []


def at_end_of_process(close: Callable[[], object], *, is_last: bool = False) -> None:
    """Have ``close`` called once as this process ends in a way of which ``atexit`` is not told.

    The children of multiprocessing (its pools, and the executors of concurrent.futures) and of billiard end by
    ``os._exit``, after the finalizers of ``multiprocessing.util``; those of a Celery worker too, after a signal.
    uvicorn ends by SIGTERM, which it sends to itself after its shutdown. A module that is not loaded cannot have
    started this process, and is not loaded for this. ``is_last``: after all that may still send.
    """
    _closers.insert(len(_closers) if is_last else 0, close)
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        util.Finalize(None, _end, exitpriority=-100)  # after the finalizers of others, which may still send
    if (signals := sys.modules.get("celery.signals")) is not None:
        signals.worker_process_shutdown.connect(_end, weak=False, dispatch_uid="smtpbackend")
    if (uvicorn := sys.modules.get("uvicorn.server")) is not None:
        _at_shutdown(uvicorn.Server)


def _end(**_: Any) -> None:
    """Call each of them, also if one raises."""
    with contextlib.ExitStack() as stack:
        while _closers:
            stack.callback(_closers.pop())  # the last one first, for a stack turns them round


def _at_shutdown(kind: Any) -> None:
    """End after the shutdown of the server that this process is, whose last requests are over.

    Too late is what first sends while it shuts down.
    """
    import asyncio
    import signal

    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not isinstance(server, kind) or "shutdown" in vars(server):
        return
    shutdown = server.shutdown

    async def shut_down(*args: Any, **kwargs: Any) -> None:
        await shutdown(*args, **kwargs)
        if not server.force_exit:  # a second Ctrl+C asks for the end at once
            await asyncio.to_thread(_end)

    server.shutdown = shut_down


unforked = _Unforked()
at_fork(before=unforked.before_fork, after_in_parent=unforked.after_fork, in_child=unforked.in_child)
at_fork(in_child=_close_sockets)
