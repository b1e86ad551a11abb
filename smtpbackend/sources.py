"""Where octets come from: memory, files, and streams that can be read only once.

A source is taken once. From then on every reader gets the same octets, whatever other threads and processes do: a file
is not read by its position, which it keeps. Where the file was changed or closed, reading raises `InvalidInput`. It
never yields fewer octets, nor others where a change can be seen (`_State`). Threads share the files of callers, so the
only locks of this floor are here.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

from smtpbackend.after_fork import at_fork
from smtpbackend.errors import InvalidInput

__all__ = ["IN_MEMORY", "Source", "Spool", "alone_with", "position_of", "source_of", "spooled"]

IN_MEMORY = 1024 * 1024  # octets of a copy that are kept in memory, and not in a temporary file
_BLOCK = 64 * 1024  # octets that are copied at a time


class Source:
    """``size`` octets, which can be read as often as needed."""

    size: int

    def blocks(self, size: int) -> Iterator[bytes]:
        """The octets, ``size`` at a time; the last block may be shorter. Raises `InvalidInput`."""
        raise NotImplementedError

    def close(self) -> None:
        """Close temporary files; files of the caller stay open."""


class _Octets(Source):
    """Octets in memory, from the position ``start`` on."""

    def __init__(self, octets: bytes, start: int = 0) -> None:
        self._octets, self._start = octets, start
        self.size = max(len(octets) - start, 0)

    def blocks(self, size: int) -> Iterator[bytes]:
        for place in range(self._start, len(self._octets), size):
            yield self._octets[place : place + size]


class Spool(Source):
    """A copy in memory, or a large one in a temporary file that lives as long as this object."""

    def __init__(self, blocks: Iterable[Any], field: str) -> None:
        self.size = 0
        self._file: Any = None
        memory = io.BytesIO()
        try:
            for block in blocks:
                if not isinstance(block, (bytes, bytearray, memoryview)):
                    raise InvalidInput(f"{field}: octets are wanted, not {type(block).__name__}", field=field)
                if self._file is None and memory.tell() + len(block) > IN_MEMORY:
                    import tempfile

                    self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by close
                    self._file.write(memory.getbuffer())
                (self._file or memory).write(block)
            self.size = (self._file or memory).tell()
            if self._file is not None:
                self._file.flush()
        except BaseException:
            self.close()  # else the file lives as long as the error
            raise
        self._octets = memory.getvalue() if self._file is None else b""

    def blocks(self, size: int) -> Iterator[bytes]:
        for place in range(0, self.size, size):
            if self._file is None:
                yield self._octets[place : place + size]
            else:
                yield _read_at(self._file.fileno(), min(size, self.size - place), place)

    def close(self) -> None:
        """Close the temporary file."""
        if self._file is not None:
            self._file.close()

    def __del__(self) -> None:
        self.close()


class _Lent(Source):
    """A source that its owner closes."""

    def __init__(self, source: Source) -> None:
        self.size, self.blocks = source.size, source.blocks  # type: ignore[method-assign]


class _State(NamedTuple):
    """Which file it is, how long, and when it was written last.

    A change of its octets changes one of these. Not seen is a change of the same length within a tick of the file
    system's clock (milliseconds), or whose time is put back. The ctime is not compared: it changes with an unlink.
    """

    device: int
    number: int
    size: int
    written: int


def _state_of(file: Any) -> _State:
    found = os.fstat(file.fileno())
    return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class _File(Source):
    """A regular file, at a path or open, from the position ``start`` on: as it is now."""

    def __init__(self, given: Any, file: Any, field: str, start: int = 0) -> None:
        self._given, self._field, self._start = given, field, start
        self._file = None if isinstance(given, os.PathLike) else file
        self._was = _state_of(file)
        self.size = max(self._was.size - start, 0)

    def blocks(self, size: int) -> Iterator[bytes]:
        if self._file is not None:
            yield from self._read(self._file, size)
            return
        with _reading(self._given, self._field):
            file = open(self._given, "rb", buffering=0)  # noqa: SIM115 -- closed below, whatever the reader does
        with file:
            yield from self._read(file, size)

    def _read(self, file: Any, size: int) -> Iterator[bytes]:
        place, end = self._start, self._start + self.size
        while True:
            wanted = max(min(size, end - place), 0)
            with _reading(self._given, self._field):
                block = _read_at(file.fileno(), wanted, place)
                # after each block: if the file was closed meanwhile, its descriptor may be that of another file
                state = _state_of(file)
            if state != self._was or len(block) < wanted:
                # SIZE or BDAT has declared the old size, and the octets would be of two versions of the file
                what = "became shorter" if len(block) < wanted or state.size < self._was.size else "was changed"
                raise InvalidInput(
                    f"{self._field}: {_name(self._given)} {what} while it was sent; give its octets, or a copy of it",
                    field=self._field,
                )
            if not block:
                return
            place += len(block)
            yield block


def _read_at(descriptor: int, size: int, place: int) -> bytes:
    """``size`` octets from ``place`` on, unless the file ends. Its position does not move."""
    read: Callable[[int, int, int], bytes] = getattr(os, "pread", _seek_and_read)
    block = read(descriptor, size, place)
    while len(block) < size and (more := read(descriptor, size - len(block), place + len(block))):
        block += more
    return block


def _seek_and_read(descriptor: int, size: int, place: int) -> bytes:
    """``os.pread`` for Windows, which has none. The position moves, and back: here one thread at a time does that."""
    with _seeking:
        stood = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, place, os.SEEK_SET)
            return os.read(descriptor, size)
        finally:
            os.lseek(descriptor, stood, os.SEEK_SET)


_seeking = threading.Lock()


# Taking


def position_of(content: Any, field: str) -> int | None:
    """The position of a file that can be read again; None for a stream that can be read only once, and for no file."""
    if not hasattr(content, "seekable"):
        return None
    try:
        with alone_with(content):  # a copy in another thread moves it, and back
            return int(content.tell()) if content.seekable() else None
    except (AttributeError, OSError):
        return None
    except ValueError as error:
        raise _unreadable(content, field, error) from error


def source_of(content: Any, field: str, start: int | None = None) -> Source:
    """The source of octets, a path, a file or an iterable of octets, as it is now. Raises `InvalidInput`.

    A file is read from ``start`` on, which is from `position_of`. A regular file is read when its octets are needed;
    another file with a position is copied now; a stream that can be read only once is read now.
    """
    if isinstance(content, Source):
        return _Lent(content)
    if isinstance(content, (bytes, bytearray, memoryview)):
        return _Octets(bytes(content))
    if isinstance(content, os.PathLike):
        return _at_path(content, field)
    if start is None:
        return spooled(content, field)
    with _reading(content, field):
        if type(content) is io.BytesIO:
            return _Octets(content.getvalue(), start)  # shares its memory until it is written to
        plain = _plain(content)
        if plain is not None:
            if plain.writable():
                plain.flush()
            return _File(content, plain, field, start)
        with alone_with(content):
            return _copied(content, field, start)


def _plain(file: Any) -> Any:
    """``file`` as a file of the ``io`` module that reads a regular file; None where it is none.

    Another class may have a descriptor of other octets: that of GzipFile is of the compressed file.
    """
    if type(file) is getattr(sys.modules.get("tempfile"), "_TemporaryFileWrapper", None):
        file = file.file
    is_buffered = type(file) in (io.BufferedReader, io.BufferedRandom)
    if type(file.raw if is_buffered else file) is not io.FileIO:
        return None
    return file if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None


def _at_path(path: os.PathLike[str], field: str) -> Source:
    with _reading(path, field), open(path, "rb", buffering=0) as file:
        kind = os.fstat(file.fileno())
        if stat.S_ISREG(kind.st_mode):
            if not kind.st_size and (octets := file.read()):  # files of /proc have no size
                return _Octets(octets)
            return _File(path, file, field)
        with _once((kind.st_dev, kind.st_ino), path, field):  # each of two readers would get a part
            spool = Spool(_blocks_of(file, field), field)
        if stat.S_ISFIFO(kind.st_mode) and not spool.size:
            raise _empty(path, field)
        return spool


def _copied(file: Any, field: str, start: int) -> Spool:
    """A copy from ``start`` to the end. The position is restored. Raises where another reader moves it meanwhile."""

    def blocks() -> Iterator[bytes]:
        place = start
        while True:
            file.seek(place)
            block = _read_full(file, _BLOCK, field)
            place += len(block)
            if file.tell() != place:
                why = f"{field}: {_name(file)} is being read elsewhere; give its octets, or another file"
                raise InvalidInput(why, field=field)
            if not block:
                return
            yield block

    stood = file.tell()
    try:
        return Spool(blocks(), field)
    finally:
        file.seek(stood)


@contextmanager
def _reading(content: Any, field: str) -> Iterator[None]:
    """Errors of a file are raised as `InvalidInput`."""
    try:
        yield
    except InvalidInput:
        raise
    except (OSError, ValueError) as error:  # ValueError: it was closed
        raise _unreadable(content, field, error) from error


# Streams that can be read only once


def spooled(content: Any, field: str) -> Spool:
    """A copy of a stream that can be read only once, such as a pipe or a generator; or of a list of octets.

    Raises `InvalidInput` where it was read here before, if only in part.
    """
    if hasattr(content, "read"):
        with _reading(content, field), _once(content, content, field):
            return Spool(_blocks_of(content, field), field)
    blocks = iter(content)
    if blocks is not content:
        return Spool(blocks, field)
    with _once(content, content, field):
        spool = Spool(blocks, field)
    if not spool.size:
        raise _empty(content, field)
    return spool


def _blocks_of(file: Any, field: str) -> Iterator[bytes]:
    return iter(lambda: _read_full(file, _BLOCK, field), b"")


def _read_full(file: Any, size: int, field: str) -> bytes:
    """``size`` octets unless the file ends: a raw file may return fewer."""
    found: Any = "" if isinstance(file, io.TextIOBase) else file.read(size)
    if not isinstance(found, bytes):
        raise InvalidInput(f"{field}: a file gave {type(found).__name__} and not bytes; open it as binary", field=field)
    block = found
    if not block or len(block) >= size:
        return block
    whole = bytearray(block)
    while len(whole) < size and (more := file.read(size - len(whole))):
        whole += more
    return bytes(whole)


class _OfObjects:
    """Values for objects of our callers, by identity, as long as each lives."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[weakref.ref[Any], Any]] = {}
        self.forget_all = self.known.clear

    def setdefault(self, thing: Any, value: Any) -> Any:
        """The value of ``thing``, set to ``value`` if it has none. Raises TypeError where it has no weak references."""
        key, known = id(thing), self.known
        found = known.get(key)
        if found is None:
            reference = weakref.ref(thing, lambda _: known.pop(key, None))
            found = known.setdefault(key, (reference, value))  # of several threads one is the first
        return found[1]


locks, readers = _OfObjects(), _OfObjects()
at_present: dict[Any, object] = {}
"""Streams that are being read, of those without weak references."""

# a child has not the threads of its parent
at_fork(in_child=locks.forget_all)
at_fork(in_child=at_present.clear)


def alone_with(thing: Any) -> AbstractContextManager[Any]:
    """The lock of a file or stream: one thread at a time reads it."""
    try:
        lock: AbstractContextManager[Any] = locks.setdefault(thing, threading.RLock())
    except TypeError:
        return nullcontext()
    return lock


@contextmanager
def _once(key: Any, content: Any, field: str) -> Iterator[None]:
    """Read ``content``, known by ``key``. A later or simultaneous reader is refused."""
    mine = object()
    try:
        is_first = readers.setdefault(key, mine) is mine
        is_known = True
    except TypeError:  # a tuple, or an iterator of Python's own
        key = key if isinstance(key, tuple) else id(key)
        is_first = at_present.setdefault(key, mine) is mine
        is_known = False
    if not is_first:
        raise _spent(content, field)
    try:
        yield
    finally:
        if not is_known:
            at_present.pop(key, None)


def _spent(content: Any, field: str) -> InvalidInput:
    return InvalidInput(
        f"{field}: {_name(content)} can be read only once, and was read for another message, or is being read for it; "
        "give its octets, or one Attachment to all messages",
        field=field,
    )


def _empty(content: Any, field: str) -> InvalidInput:
    return InvalidInput(f"{field}: {_name(content)} has no octets to give; was it read before?", field=field)


def _unreadable(content: Any, field: str, error: Exception) -> InvalidInput:
    return InvalidInput(f"{field}: {_name(content)} cannot be read: {error}", field=field)


def _name(content: Any) -> str:
    if isinstance(content, os.PathLike):
        return str(os.fspath(content))
    return "the file" if hasattr(content, "read") else f"the {type(content).__name__}"
