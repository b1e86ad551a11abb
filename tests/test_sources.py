"""Sources: as often as they are read they give the same octets, or an error; and the caller's file stays as it was."""

from __future__ import annotations

import gc
import gzip
import io
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpbackend import sources
from smtpbackend.errors import InvalidInput
from smtpbackend.message import Attachment
from smtpbackend.sources import IN_MEMORY, Source, Spool, position_of, source_of

OCTETS = b"".join(b"%07d\n" % place for place in range(20_000))


def taken(content: Any) -> Source:
    """As a message is taken, or what is attached."""
    return source_of(content, "message", position_of(content, "message"))


def read(source: Source, size: int = 7000) -> bytes:
    octets = b"".join(source.blocks(size))
    assert len(octets) == source.size
    return octets


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(OCTETS)
    return path


@given(st.binary(max_size=300), st.integers(0, 310), st.integers(1, 100))
def test_any_octets_are_the_same_however_they_come(octets: bytes, start: int, size: int) -> None:
    """From the position of a file on, in blocks of any size, twice."""
    with tempfile.TemporaryFile() as file, tempfile.SpooledTemporaryFile() as other:
        for each in (file, other, memory := io.BytesIO()):
            each.write(octets)
            each.seek(start)
        for form in (file, other, memory):
            source = taken(form)
            assert [read(source, size), read(source, size)] == [octets[start:]] * 2
            assert form.tell() == start
            source.close()
        for whole in (octets, bytearray(octets), memoryview(octets), [octets], (octets[:5], octets[5:])):
            assert read(taken(whole), size) == octets


@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_file_is_read_from_where_it_stood_and_not_moved(path: Path, buffering: int) -> None:
    with path.open("r+b", buffering=buffering) as file:
        file.seek(100)
        source = taken(file)
        blocks = source.blocks(1000)
        assert next(blocks) == OCTETS[100:1100]
        assert file.tell() == 100
        file.seek(5)
        assert file.read(3) == OCTETS[5:8]
        assert next(blocks) == OCTETS[1100:2100]
        assert read(source) == OCTETS[100:]


def test_what_was_written_and_not_flushed_belongs_to_it(path: Path) -> None:
    with path.open("r+b") as file:
        start = position_of(file, "message")
        file.seek(0, os.SEEK_END)
        file.write(b"the end")
        assert read(source_of(file, "message", start)) == OCTETS + b"the end"


def test_a_file_whose_descriptor_has_other_octets_is_copied(path: Path) -> None:
    """GzipFile has a descriptor, of the compressed file."""
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(OCTETS))
    with gzip.open(packed) as file:
        file.read(10)
        source = taken(file)
        assert file.tell() == 10
    assert read(source) == OCTETS[10:]  # closed since: the copy is ours


class Moved(io.BytesIO):
    """A file that somebody else moves between two calls of ours."""

    def read(self, size: int | None = -1, /) -> bytes:
        octets = super().read(size)
        if len(octets) > 1000:
            self.seek(-1000, os.SEEK_CUR)
        return octets


def test_a_file_that_somebody_moves_while_it_is_copied_is_refused() -> None:
    with pytest.raises(InvalidInput, match="being read elsewhere"):
        taken(Moved(OCTETS))


def test_memory_that_is_written_to_later_is_what_it_was() -> None:
    """As who fills one buffer again for the next mail does it."""
    buffer = io.BytesIO(OCTETS)
    source = taken(buffer)
    buffer.truncate(0)
    buffer.write(b"for somebody else")
    assert read(source) == OCTETS


@pytest.mark.parametrize("size", [1000, IN_MEMORY + 1])
@pytest.mark.parametrize("once", ["generator", "stream"])
def test_a_copy_is_read_by_several_at_a_time(size: int, once: str) -> None:
    octets = os.urandom(size)
    content: Any = (octets[place : place + 999] for place in range(0, size, 999))
    if once == "stream":
        content = io.BufferedReader(_Stream(octets))
    source = taken(content)
    pairs = zip(source.blocks(5000), source.blocks(5000), strict=True)
    assert b"".join(one for one, other in pairs if one == other) == octets
    source.close()


class _Stream(io.RawIOBase):
    """Can be read once, and gives less than it is asked for."""

    def __init__(self, octets: bytes) -> None:
        self.rest = octets

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), 1000)
        part, self.rest = self.rest[:size], self.rest[size:]
        buffer[: len(part)] = part
        return len(part)


# Files that change


def appended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"X")


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def shortened(path: Path) -> None:
    os.truncate(path, len(OCTETS) - 1)


def set_back(path: Path) -> None:
    """So that its time tells the change, however coarse the clock of the file system is."""
    os.utime(path, ns=(1, 1))


class TestChanges:
    """Never part of two versions of a file, and never less than was announced."""

    @pytest.mark.parametrize("is_open", [False, True], ids=["path", "file"])
    @pytest.mark.parametrize("while_read", [False, True])
    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (appended, "was changed"),
            (overwritten, "was changed"),
            (replaced, "was changed"),
            (emptied, "became shorter"),
            (shortened, "became shorter"),
        ],
    )
    def test_are_told(
        self, path: Path, change: Callable[[Path], None], why: str, while_read: bool, is_open: bool
    ) -> None:
        set_back(path)
        with path.open("rb") as file:
            source = taken(file if is_open else path)
            blocks = source.blocks(1000)
            if while_read:
                next(blocks)
            change(path)
            if change is replaced and (is_open or while_read):  # what is open is the old one
                assert sum(map(len, blocks)) + 1000 * while_read == len(OCTETS)
                return
            with pytest.raises(InvalidInput, match=f"message: .*{why} while it was sent; give its octets"):
                list(blocks)

    def test_of_an_empty_file_too(self, tmp_path: Path) -> None:
        path = tmp_path / "empty"
        path.touch()
        source = taken(path)
        assert (source.size, read(source)) == (0, b"")
        appended(path)
        with pytest.raises(InvalidInput, match="was changed"):
            list(source.blocks(100))

    def test_a_file_that_is_closed(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its descriptor may be another file's in that moment, of which not one octet is given."""
        secret = path.with_suffix(".secret")
        secret.write_bytes(b"S" * len(OCTETS))
        given_out: list[bytes] = []
        with path.open("rb", buffering=0) as file:
            source = taken(file)

            def pread(descriptor: int, size: int, place: int) -> bytes:
                file.close()
                with secret.open("rb") as other:
                    assert other.fileno() == descriptor
                    given_out.append(os.read(other.fileno(), size))
                return given_out[-1]

            monkeypatch.setattr(os, "pread", pread, raising=False)
            with pytest.raises(InvalidInput, match=r"cannot be read.*closed file"):
                list(source.blocks(1000))
        assert given_out == [b"S" * 1000]

    def test_a_file_that_was_closed_before(self, path: Path) -> None:
        with path.open("rb") as file, io.BytesIO() as memory:
            pass
        for closed in (file, memory):
            with pytest.raises(InvalidInput, match=r"attachments: the file cannot be read.*closed"):
                Attachment(closed, "a.bin")
            with pytest.raises(InvalidInput, match=r"message: the file cannot be read.*closed"):
                taken(closed)

    def test_files_without_a_size_have_their_octets(self) -> None:
        """Those of /proc say that they are empty."""
        assert read(taken(Path("/proc/self/cmdline"))) == Path("/proc/self/cmdline").read_bytes() != b""


# What can be read once


class TestOnce:
    """Who comes first has it whole; who comes later is refused, and never sent what is left of it."""

    @pytest.mark.parametrize("kind", ["generator", "stream", "pipe", "iterator"])
    def test_a_second_message_is_refused(self, kind: str) -> None:
        content: Any
        if kind == "pipe":
            reading, writing = os.pipe()
            os.write(writing, OCTETS[:1000])
            os.close(writing)
            content = os.fdopen(reading, "rb")
        else:
            content = {
                "generator": (OCTETS[:1000] for _ in "1"),
                "stream": _Stream(OCTETS[:1000]),
                "iterator": iter([OCTETS[:1000]]),
            }[kind]
        assert read(taken(content)) == OCTETS[:1000]
        with pytest.raises(InvalidInput, match=r"message: .*(read only once|no octets to give)"):
            taken(content)
        if kind == "pipe":
            content.close()

    @pytest.mark.parametrize("kind", ["generator", "stream"])
    def test_what_broke_off_is_not_gone_on_with(self, kind: str) -> None:
        """The rest of it would be a short copy."""

        class Breaking(_Stream):
            def readinto(self, buffer: Any) -> int:
                if len(self.rest) == 5000:
                    self.rest = self.rest[1000:]
                    raise RuntimeError("once")
                return super().readinto(buffer)

        def blocks() -> Iterator[bytes]:
            yield b"a"
            raise RuntimeError("once")

        content: Any = blocks() if kind == "generator" else Breaking(OCTETS[:10_000])
        with pytest.raises(RuntimeError, match="once"):
            taken(content)
        with pytest.raises(InvalidInput, match="read only once"):
            taken(content)

    @pytest.mark.parametrize("is_known", [True, False], ids=["generator", "map"])
    def test_a_thread_that_comes_meanwhile_is_refused(self, is_known: bool) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def give(octets: bytes) -> bytes:
            begun.set()
            assert go_on.wait(20)
            return octets

        content = (give(one) for one in (b"a", b"b")) if is_known else map(give, (b"a", b"b"))
        found: list[bytes] = []
        first = threading.Thread(target=lambda: found.append(read(taken(content))))
        first.start()
        assert begun.wait(20)
        try:
            with pytest.raises(InvalidInput, match="being read for it"):
                taken(content)
        finally:
            go_on.set()
            first.join()
        assert found == [b"ab"]

    def test_a_list_is_no_such_thing(self) -> None:
        blocks = [b"a", b"b"]
        assert [read(taken(blocks)), read(taken(blocks))] == [b"ab", b"ab"]

    def test_two_attachments_on_one_pipe_are_not_halves(self) -> None:
        stream = _Stream(OCTETS)
        first, second = Attachment(stream, "a"), Attachment(stream, "b")  # type: ignore[arg-type]
        assert [read(first.source()), read(first.source())] == [OCTETS] * 2
        with pytest.raises(InvalidInput, match="one Attachment to all messages"):
            second.source()

    def test_nothing_is_kept_of_what_is_no_more(self) -> None:
        """Neither locks nor marks."""
        gc.collect()
        before = len(sources.locks.known), len(sources.readers.known), len(sources.at_present)
        for _ in range(100):
            read(taken(_Stream(b"a")))
            read(taken(b"a" for _ in "1"))
            read(taken(iter([b"a"])))
            read(Attachment(Moved(b"a"), "a").source())
        gc.collect()
        after = len(sources.locks.known), len(sources.readers.known), len(sources.at_present)
        assert after == before


def test_a_file_that_cannot_be_copied_is_left_where_it_stood(path: Path) -> None:
    """Else the next attempt would send the rest of it."""
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(os.urandom(200_000))[:-10])
    with gzip.open(packed) as file:
        for _ in range(2):
            with pytest.raises(EOFError):
                taken(file)
            assert file.tell() == 0


def test_text_is_told_to_be_opened_as_octets(path: Path) -> None:
    """Also what cannot be decoded, as a picture."""
    path.write_bytes(b"\xff\xfe\xfd")
    with path.open(encoding="utf-8") as text:
        for wrong in (text, io.StringIO("x")):
            with pytest.raises(InvalidInput, match="gave str and not bytes; open it as binary"):
                taken(wrong)
    with pytest.raises(InvalidInput, match="octets are wanted, not str"):
        taken(["text"])


def test_a_copy_that_fails_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although its error, and with that the frames, is kept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def blocks() -> Iterator[Any]:
        yield b"x" * (IN_MEMORY + 1)
        yield "text"

    with pytest.raises(InvalidInput) as raised:
        Spool(blocks(), "message")
    assert raised.value.__traceback__ is not None
    assert [name for name in map(_target, os.listdir("/proc/self/fd")) if name.startswith(str(tmp_path))] == []


def _target(number: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


FORKED = """
import hashlib, io, os, sys
from smtpbackend.message import Attachment
octets = os.urandom(1_500_000)
with open(sys.argv[1], "w+b") as file:
    file.write(octets)
    file.seek(0)
    class Once:
        read = io.BytesIO(octets).read
    shared = [Attachment(file, "a").source(), Attachment(Once(), "b").source()]
    started = [one.blocks(1000) for one in shared]
    begun = [next(blocks) for blocks in started]
    children = []
    for _ in range(4):
        if not (child := os.fork()):
            for begin, blocks in zip(begun, started):
                assert begin + b"".join(blocks) == octets
            os._exit(0)
        children.append(child)
    for begin, blocks in zip(begun, started):
        assert begin + b"".join(blocks) == octets
    print([os.waitpid(child, 0)[1] for child in children])
"""


def test_processes_that_were_forked_share_no_position(tmp_path: Path) -> None:
    """Parent and children have one open file between them, and read it at the same time."""
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path / "a.bin")], capture_output=True, text=True, timeout=300
    )
    assert (done.stdout, done.stderr) == ("[0, 0, 0, 0]\n", "")
