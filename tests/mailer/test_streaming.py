"""Content that is larger than what may lie in memory: read and sent in blocks, and read again for another server."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from email import message_from_bytes
from pathlib import Path
from typing import IO, Any

import pytest

from smtpbackend import Attachment, Envelope, InvalidInput, Message
from smtpbackend.testing import CUT, EXTENSIONS, RESET, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello
from tests.servers.sink import Sink, told

WITHOUT_SIZE = tuple(extension for extension in EXTENSIONS if not extension.startswith("SIZE"))
CHUNKING = (*WITHOUT_SIZE, "CHUNKING")
BOTH = pytest.mark.parametrize("extensions", [WITHOUT_SIZE, CHUNKING], ids=["DATA", "CHUNKING offered"])
MOST = 8_000_000
"""Octets above the start that a delivery may take, whatever its size."""
TO_BOB = Envelope(SENDER, ["bob@example.com"])
HEAD = b"From: ann@example.org\r\nTo: bob@example.com\r\n\r\n"
SPOOLED_IN_MEMORY = 1024 * 1024


class Peak:
    """The most memory that a block took above its start."""

    octets = 0

    def __enter__(self) -> Peak:
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.octets = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


def large_file(folder: Path, octets: int, name: str = "large.bin") -> Path:
    """Octets that do not repeat within a block."""
    path = folder / name
    block = os.urandom(999_983)
    with path.open("wb") as file:
        while octets > 0:
            octets -= file.write(block[:octets])
    return path


def lines(number: int) -> Iterator[bytes]:
    """A content of as many lines of 72 octets, some of which begin with a dot."""
    yield HEAD
    for place in range(number):
        yield b"%s%069d\r\n" % (b"." if place % 3 else b"x", place)


def attached(content: bytes) -> bytes:
    """What the last part of a message has, by the standard library."""
    *_, last = message_from_bytes(content).walk()
    octets = last.get_payload(decode=True)
    assert isinstance(octets, bytes)
    return octets


class TestMemory:
    """Measured over everything that Python allocates in this process; the server is another one."""

    @pytest.mark.exhaustive
    @pytest.mark.slow
    @BOTH
    def test_a_hundred_megabytes_from_a_path(self, twin: Twin, tmp_path: Path, extensions: tuple[str, ...]) -> None:
        path = large_file(tmp_path, 100_000_000)
        self.check(twin, path, extensions, hello(attachments=[path]))

    @pytest.mark.exhaustive
    @BOTH
    @pytest.mark.parametrize("is_open", [False, True], ids=["path", "file"])
    def test_an_attachment(self, twin: Twin, tmp_path: Path, extensions: tuple[str, ...], is_open: bool) -> None:
        path = large_file(tmp_path, 32_000_000)
        with path.open("rb") as file:
            self.check(twin, path, extensions, hello(attachments=[Attachment(file) if is_open else path]))

    def check(self, twin: Twin, path: Path, extensions: tuple[str, ...], message: Message) -> None:
        """Everything arrives, and memory stays small."""
        octets = path.stat().st_size
        with Sink(*extensions) as sink:
            mailer = twin(sink.url)
            mailer.send(hello())  # what is loaded and opened once is not counted
            with Peak() as peak:
                receipt = mailer.send(message)
            mailer.close()
        assert receipt.ok
        assert told(receipt.reply).octets > -(-octets // 57) * 78
        assert peak.octets < MOST
        path.unlink()

    @pytest.mark.exhaustive
    @BOTH
    @pytest.mark.parametrize("form", ["path", "file", "generator"])
    def test_a_content(self, twin: Twin, tmp_path: Path, extensions: tuple[str, ...], form: str) -> None:
        """Given with an envelope: every octet arrives as it was."""
        number = 250_000
        path = tmp_path / "large.eml"
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for line in lines(number):
                digest.update(line)
                file.write(line)
        octets = path.stat().st_size
        with Sink(*extensions) as sink, path.open("rb") as file:
            forms: dict[str, Any] = {"path": path, "file": file, "generator": lines(number)}
            mailer = twin(sink.url)
            mailer.send(hello())
            with Peak() as peak:
                receipt = mailer.send(forms[form], TO_BOB)
            mailer.close()
        assert told(receipt.reply) == (digest.hexdigest(), octets)
        assert peak.octets < MOST

    @pytest.mark.exhaustive
    @BOTH
    def test_many_in_one_window(self, twin: Twin, tmp_path: Path, extensions: tuple[str, ...]) -> None:
        """What is in flight is bounded in octets, not only in messages."""
        path = large_file(tmp_path, 2_000_000)
        with Sink(*extensions) as sink:
            mailer = twin(sink.url)
            mailer.send_many([hello()] * 3)
            with Peak() as peak:
                receipts = mailer.send_many(hello(attachments=[path]) for _ in range(10))
            mailer.close()
        assert [told(receipt.reply).octets > 2_700_000 for receipt in receipts] == [True] * 10
        assert peak.octets < MOST


@BOTH
@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 47_879, 47_880, 47_881, 300_000])
def test_base64_is_that_of_the_standard_library(
    twin: Twin, scripted: Scripted, tmp_path: Path, extensions: tuple[str, ...], size: int
) -> None:
    """Whole lines, also where a block ends."""
    path = large_file(tmp_path, size)
    server = scripted(Play(extensions=extensions))
    twin(server.url).send(hello(attachments=[path]))
    [mail] = server.handed_over
    encoded = base64.encodebytes(path.read_bytes()).replace(b"\n", b"\r\n")
    assert b"\r\n\r\n" + encoded + b"\r\n--" in mail.content
    assert attached(mail.content) == path.read_bytes()


class TestAnotherServer:
    """Gets the same octets, whatever the source was and wherever the first one stopped (DESIGN 4.3)."""

    SOURCES: dict[str, Callable[[Path], Any]] = {  # noqa: RUF012 - a table
        "path": lambda path: path,
        "file": lambda path: path.open("rb"),
        "bytes": lambda path: path.read_bytes(),
        "generator": lambda path: iter([path.read_bytes()[:1000], path.read_bytes()[1000:]]),
        "pipe": lambda path: OneShot(path.read_bytes()),
    }

    @BOTH
    @pytest.mark.parametrize("source", SOURCES)
    @pytest.mark.parametrize(
        "answers",
        [
            {"MAIL": "451 4.3.0 later"},
            {".": "452 4.3.1 full"},
            {"BDAT": "452 4.3.1 full", "DATA": "452 4.3.1 full"},
        ],
        ids=["MAIL", "end", "begin"],
    )
    def test_gets_what_the_first_one_refused(
        self,
        twin: Twin,
        scripted: Scripted,
        tmp_path: Path,
        extensions: tuple[str, ...],
        source: str,
        answers: dict[str, str],
    ) -> None:
        path = tmp_path / "a.eml"
        path.write_bytes(b"".join(lines(20_000)))
        first, second = scripted(Play(answers, extensions)), scripted(Play(extensions=extensions))
        content = self.SOURCES[source](path)
        receipt = twin(first.url, second.url).send(content, TO_BOB)
        assert (receipt.ok, receipt.server) == (True, second.name)
        assert [mail.content for mail in second.taken] == [path.read_bytes()]
        assert first.taken == []
        if source == "file":
            assert not content.closed
            content.close()

    @BOTH
    @pytest.mark.parametrize(
        ("source", "cut_by"),
        [*((source, CUT) for source in SOURCES), ("path", RESET)],
        ids=lambda value: getattr(value, "name", value),
    )
    def test_gets_what_the_first_one_cut_in_the_middle(
        self, twin: Twin, scripted: Scripted, tmp_path: Path, extensions: tuple[str, ...], source: str, cut_by: Any
    ) -> None:
        """With more still to come than the buffers between the two hold: so it was not handed over."""
        path = tmp_path / "a.eml"
        path.write_bytes(b"".join(lines(220_000)))
        first = scripted(Play(extensions=extensions, cut_after_reading=700_000, cut_by=cut_by))
        content = self.SOURCES[source](path)
        with Sink(*extensions) as second:
            mailer = twin(first.url, second.url)
            receipt = mailer.send(content, TO_BOB)
            mailer.close()
        assert receipt.ok
        assert told(receipt.reply) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        assert first.taken == []
        path.unlink()
        if source == "file":
            assert not content.closed
            content.close()

    @BOTH
    @pytest.mark.parametrize("source", ["path", "file", "bytes", "pipe"])
    def test_gets_the_same_attachment(
        self, twin: Twin, scripted: Scripted, tmp_path: Path, extensions: tuple[str, ...], source: str
    ) -> None:
        """And the headers, and the boundaries."""
        path = large_file(tmp_path, 1_500_000)
        first = scripted(Play({".": "451 4.3.0 later"}, extensions))
        second = scripted(Play(extensions=extensions))
        content = self.SOURCES[source](path)
        assert twin(first.url, second.url).send(hello(attachments=[Attachment(content, "a.bin")])).ok
        [refused], [taken] = first.handed_over, second.taken
        assert refused.content == taken.content
        assert attached(taken.content) == path.read_bytes()
        if source == "file":
            assert not content.closed
            content.close()


class OneShot(io.RawIOBase):
    """A stream that can be read once, and gives less than it was asked for."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._place = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._octets[self._place : self._place + min(len(buffer), 10_007)]
        self._place += len(part)
        buffer[: len(part)] = part
        return len(part)


class TestOneShot:
    """What can be read only once is kept before anything is said to a server."""

    @pytest.mark.parametrize(("size", "in_files"), [(SPOOLED_IN_MEMORY // 2, 0), (SPOOLED_IN_MEMORY * 2, 1)])
    @pytest.mark.parametrize("source", ["generator", "pipe"])
    def test_is_spooled_to_a_file_that_has_no_name(
        self,
        twin: Twin,
        scripted: Scripted,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        size: int,
        in_files: int,
        source: str,
    ) -> None:
        """In the folder that `tempfile` chooses, from 1 MiB on; it is gone when the message is."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        octets = HEAD + b"x" * 70 + b"\r\n" + b"y\r\n" * (size // 3)
        content = iter([octets]) if source == "generator" else OneShot(octets)
        seen: list[int] = []
        server = scripted(Play({"MAIL": lambda line: (seen.append(len(opened(tmp_path))), "250 ok")[1]}))
        assert twin(server.url).send(content, TO_BOB).ok
        assert seen == [in_files]
        assert opened(tmp_path) == os.listdir(tmp_path) == []
        assert [mail.content for mail in server.taken] == [octets]

    def test_that_fails_is_no_word_to_a_server(self, twin: Twin, scripted: Scripted) -> None:
        def source() -> Iterator[bytes]:
            yield HEAD
            raise RuntimeError("the template broke")

        server = scripted()
        mailer = twin(server.url)
        with pytest.raises(RuntimeError, match="the template broke"):
            mailer.send(source(), TO_BOB)
        assert server.commands == []

    def test_attachment_can_be_sent_again(self, twin: Twin, scripted: Scripted) -> None:
        """The message keeps what it could read only once."""
        octets = os.urandom(100_000)
        server = scripted()
        mailer = twin(server.url)
        message = hello(attachments=[Attachment(OneShot(octets), "a.bin")])
        for _ in range(2):
            assert mailer.send(message).ok
        assert [attached(mail.content) for mail in server.taken] == [octets] * 2


def opened(folder: Path) -> list[str]:
    """The files of a folder that this process has open, those without a name too."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # the one that listed them
            continue
        if target.startswith(f"{folder}/"):
            found.append(target)
    return found


@pytest.mark.parametrize("kind", ["content", "attachment"])
def test_a_file_is_read_from_where_it_stands_and_left_open(
    twin: Twin, scripted: Scripted, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"not this\n" + HEAD + b"Good day\r\n")
    server = scripted()
    mailer = twin(server.url)
    with path.open("rb") as file:
        file.readline()
        if kind == "content":
            assert mailer.send(file, TO_BOB).ok
            assert server.taken[0].content == HEAD + b"Good day\r\n"
        else:
            message = hello(attachments=[Attachment(file)])
            for place in range(2):
                file.seek(3)  # where it stands later does not matter
                assert mailer.send(message).ok
                assert attached(server.taken[place].content) == HEAD + b"Good day\r\n"
        assert not file.closed


class TestAFileThatChanges:
    """Between the pass that measures it and the one that sends it. No server accepts half a message."""

    @staticmethod
    def vanish(path: Path, file: IO[bytes]) -> None:
        path.unlink()

    @staticmethod
    def shrink(path: Path, file: IO[bytes]) -> None:
        os.truncate(path, path.stat().st_size // 2)

    @staticmethod
    def grow(path: Path, file: IO[bytes]) -> None:
        with path.open("ab") as other:
            other.write(b"more")

    @staticmethod
    def rewrite(path: Path, file: IO[bytes]) -> None:
        """As long as before, and other octets in its middle."""
        size = path.stat().st_size
        with path.open("r+b") as other:
            other.seek(size // 2)
            other.write(b"other octets")
        os.utime(path, ns=(1, 1))  # a coarse clock might not tell

    @staticmethod
    def close(path: Path, file: IO[bytes]) -> None:
        file.close()

    @BOTH
    @pytest.mark.parametrize("kind", ["content", "attachment"])
    @pytest.mark.parametrize("size", [30_000, 200_000, 2_000_000])
    @pytest.mark.parametrize("moment", ["before MAIL", "after MAIL"])
    @pytest.mark.parametrize(
        ("change", "is_open", "why"),
        [
            (vanish, False, "cannot be read.*No such file"),
            (shrink, False, "became shorter"),
            (shrink, True, "became shorter"),
            (grow, False, "was changed while it was sent"),
            (rewrite, False, "was changed while it was sent"),
            (rewrite, True, "was changed while it was sent"),
            (close, True, "closed file"),
        ],
        ids=[
            "vanishes",
            "shrinks",
            "shrinks while open",
            "grows",
            "is rewritten",
            "is rewritten while open",
            "is closed",
        ],
    )
    def test_is_an_error_of_that_message_alone(
        self,
        twin: Twin,
        scripted: Scripted,
        tmp_path: Path,
        extensions: tuple[str, ...],
        kind: str,
        size: int,
        moment: str,
        change: Callable[[Path, IO[bytes]], None],
        is_open: bool,
        why: str,
    ) -> None:
        path = tmp_path / "a.bin"
        path.write_bytes(HEAD + b"Good day, good day\r\n" * (size // 20))
        changed: list[str] = []

        def now(*_: object) -> None:
            if not changed:
                changed.append(moment)
                change(path, file)

        def listen(event: Any) -> None:
            if moment == "before MAIL" and event.name == "message_sending" and "carl" in str(event.envelope.sender):
                now()

        def answer(line: str) -> str:
            now()
            return "250 2.1.0 ok"

        during = {"MAIL FROM:<carl@": answer} if moment == "after MAIL" else {}
        server, other = scripted(Play(during, extensions)), scripted(Play(extensions=extensions))
        mailer = twin(server.url, other.url)
        assert mailer.send(hello()).ok
        with path.open("rb") as file:
            source: Any = file if is_open else path
            item: Any = source if kind == "content" else hello(attachments=[Attachment(source, "a.bin")])
            mails = [hello(), (item, Envelope("carl@example.org", ["bob@example.com"])), hello()]
            before, failed, after = mailer.send_many(mails, listeners=[listen])
        assert changed
        assert (before.ok, after.ok) == (True, True)
        if failed.error is None:  # it was read in one piece before MAIL was answered
            assert moment == "after MAIL"
            assert size < 300_000
            return
        assert isinstance(failed.error, InvalidInput)
        with pytest.raises(InvalidInput, match=why):
            failed.raise_for_failure()
        assert len(failed.failed) == 1
        assert [mail for each in (server, other) for mail in each.taken if "carl@" in mail.mail] == []
