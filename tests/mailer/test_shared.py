"""One source for many messages, threads and connections: every copy that is delivered is the file.

Each test prints how many copies it has compared (``pytest -rP``).
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import os
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest

from smtpbackend import AsyncMailer, Attachment, Envelope, InvalidInput, Mailer, Message, Receipt, Server, mime, sources
from smtpbackend.delivery.credentials import Grant, Provider
from smtpbackend.delivery.tls import client_context
from smtpbackend.testing import EXTENSIONS, Play, Transaction
from tests.dkim_keys import DkimKeys
from tests.mailer.conftest import Scripted
from tests.mailer.test_streaming import HEAD, OneShot, attached
from tests.mailer.twins import SENDER, Twin, hello
from tests.servers.ports import wait_until

pytestmark = pytest.mark.exhaustive  # nothing in it depends on the Python or the framework

MANY = 64
SIZE = 70_000  # octets: more than one block of what is read and of what is encoded
TO_BOB = Envelope(SENDER, ["bob@example.com"])


class ReadAlone:
    """What has ``read``, and nothing else that files have."""

    def __init__(self, octets: bytes) -> None:
        self.read = io.BytesIO(octets).read


def _temporary(kind: Callable[..., Any], path: Path) -> Any:
    file = kind()
    file.write(path.read_bytes())
    file.seek(0)
    return file


def _gzipped(path: Path) -> Any:
    """Its descriptor is that of other octets."""
    with gzip.open(path.with_suffix(".gz"), "wb") as file:
        file.write(path.read_bytes())
    return gzip.open(path.with_suffix(".gz"))


def _zipped(path: Path) -> Any:
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, "a.bin")
    with zipfile.ZipFile(path.with_suffix(".zip")) as archive:
        return archive.open("a.bin")


def _fed(path: Path, descriptor: int | Path) -> None:
    octets = path.read_bytes()

    def feed() -> None:
        with open(descriptor, "wb") as file:
            file.write(octets)

    threading.Thread(target=feed, daemon=True).start()


def _pipe(path: Path) -> Any:
    reading, writing = os.pipe()
    _fed(path, writing)
    return open(reading, "rb")


def _named_pipe(path: Path) -> Any:
    pipe = path.with_suffix(".pipe")
    os.mkfifo(pipe)
    _fed(path, pipe)
    return pipe


AGAIN: dict[str, Callable[[Path], Any]] = {  # can be read as often as somebody wants
    "path": lambda path: path,
    "bytes": lambda path: path.read_bytes(),
    "file": lambda path: path.open("rb"),
    "raw file": lambda path: path.open("rb", buffering=0),
    "writable file": lambda path: path.open("r+b"),
    "NamedTemporaryFile": lambda path: _temporary(tempfile.NamedTemporaryFile, path),
    "SpooledTemporaryFile": lambda path: _temporary(tempfile.SpooledTemporaryFile, path),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "gzip": _gzipped,
    "zip": _zipped,
}
ONCE: dict[str, Callable[[Path], Any]] = {
    "pipe": _pipe,
    "named pipe": _named_pipe,
    "stream": lambda path: OneShot(path.read_bytes()),
    "read alone": lambda path: ReadAlone(path.read_bytes()),
}
ITERATORS: dict[str, Callable[[Path], Any]] = {
    "generator": lambda path: (path.read_bytes()[place : place + 999] for place in range(0, SIZE * 2, 999)),
    "map": lambda path: map(bytes, [path.read_bytes()[:999], path.read_bytes()[999:]]),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in which no two places are alike."""
    path = tmp_path / "a.bin"
    path.write_bytes(HEAD + b"".join(b"%09d\r\n" % place for place in range(SIZE // 11)))
    return path


@pytest.fixture
def opened(path: Path) -> Iterator[Callable[[str], Any]]:
    """Make what a table says, and close it behind the test."""
    made: list[Any] = []

    def make(kind: str) -> Any:
        made.append({**AGAIN, **ONCE, **ITERATORS}[kind](path))
        return made[-1]

    yield make
    for one in made:
        if hasattr(one, "close"):
            one.close()


def digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def count(copies: Counter[str], wanted: str, what: str) -> None:
    """Tell how many copies there are, and that they are all the file."""
    assert copies.keys() == {wanted}
    print(f"{what}: {copies.total()} copies delivered, each of them the file")


def check_all_delivered(receipts: list[Any], number: int) -> None:
    assert [receipt for receipt in receipts if not (isinstance(receipt, Receipt) and receipt.ok)] == []
    assert len(receipts) == number


def sent(mailer: Any, items: list[Any], way: str) -> list[Any]:
    """Their receipts, by as many threads (tasks) as there are, or over eight connections."""
    return mailer.send_at_once(items) if way == "at once" else mailer.send_many(items, connections=8)


WAYS = pytest.mark.parametrize("way", ["at once", "connections=8"])


class TestAttachment:
    """One `Attachment`, as a site has for the logo in each of its mails."""

    @pytest.mark.parametrize(
        ("kind", "way"),
        [
            *((kind, "at once") for kind in (*AGAIN, *ONCE)),
            *((kind, "connections=8") for kind in ("path", "file", "BytesIO", "gzip", "pipe")),
        ],
    )
    def test_in_many_messages(
        self, twin: Twin, scripted: Scripted, path: Path, opened: Callable[[str], Any], kind: str, way: str
    ) -> None:
        server = scripted()
        logo = Attachment(opened(kind), "logo.png")
        mailer = twin(server.url, max_connections=8)
        check_all_delivered(sent(mailer, [hello(attachments=[logo]) for _ in range(MANY)], way), MANY)
        copies = Counter(digest(attached(mail.content)) for mail in server.taken)
        assert copies.total() == MANY
        count(copies, digest(path.read_bytes()), f"{twin.name}, {kind}, {way}")

    @pytest.mark.parametrize("kind", ["file", "stream"])
    def test_that_is_large(self, twin: Twin, scripted: Scripted, tmp_path: Path, kind: str) -> None:
        """What is copied goes to a temporary file, which all read at the same time."""
        path = tmp_path / "large.bin"
        path.write_bytes(os.urandom(1_500_000))
        server = scripted()
        content = path.open("rb") if kind == "file" else OneShot(path.read_bytes())
        with content:
            film = Attachment(content, "film.bin")
            mailer = twin(server.url, max_connections=8)
            check_all_delivered(mailer.send_at_once([hello(attachments=[film]) for _ in range(8)]), 8)
        count(
            Counter(digest(attached(mail.content)) for mail in server.taken),
            digest(path.read_bytes()),
            f"{twin.name}, {kind} of 1.5 MB",
        )

    @pytest.mark.parametrize("kind", ["path", "file", "BytesIO", "gzip", "pipe", "named pipe"])
    def test_twice_in_one_message_and_the_message_by_all(
        self, twin: Twin, scripted: Scripted, path: Path, opened: Callable[[str], Any], kind: str
    ) -> None:
        """And once more in a row."""
        server = scripted()
        one = Attachment(opened(kind), "a.bin")
        message = hello(attachments=[one, one])
        mailer = twin(server.url, max_connections=8)
        check_all_delivered([*mailer.send_at_once([message] * 16), mailer.send(message)], 17)
        copies: Counter[str] = Counter()
        for mail in server.taken:
            _, _, first, second = parts(mail)
            copies.update([digest(first), digest(second)])
        count(copies, digest(path.read_bytes()), f"{twin.name}, {kind}, twice in a message")

    @pytest.mark.parametrize("kind", ["file", "SpooledTemporaryFile"])
    def test_of_each_message_its_own_on_one_file(
        self, twin: Twin, scripted: Scripted, path: Path, opened: Callable[[str], Any], kind: str
    ) -> None:
        """It is read from where it stood when each was made, and left there."""
        server = scripted()
        file = opened(kind)
        file.seek(1000)
        mailer = twin(server.url, max_connections=8)
        items = [hello(attachments=[Attachment(file, "a.bin")]) for _ in range(MANY)]
        check_all_delivered(mailer.send_at_once(items), MANY)
        assert file.tell() == 1000
        copies = Counter(digest(attached(mail.content)) for mail in server.taken)
        count(copies, digest(path.read_bytes()[1000:]), f"{twin.name}, {kind}, an Attachment for each")

    @pytest.mark.parametrize("kind", ["file", "NamedTemporaryFile", "BytesIO"])
    def test_of_a_file_that_its_owner_goes_on_reading(
        self, twin: Twin, scripted: Scripted, path: Path, opened: Callable[[str], Any], kind: str
    ) -> None:
        """Both have their own octets: the owner's position is not ours."""
        file, octets = opened(kind), path.read_bytes()
        logo = Attachment(file, "a.bin")
        server = scripted()
        mailer = twin(server.url, max_connections=8)
        is_over, wrong = threading.Event(), []

        def read() -> None:
            while not is_over.is_set():
                for place in range(0, len(octets), 7777):
                    file.seek(place)
                    if file.read(500) != octets[place : place + 500]:
                        wrong.append(place)

        owner = threading.Thread(target=read)
        owner.start()
        try:
            receipts = mailer.send_many([hello(attachments=[logo]) for _ in range(16)], connections=8)
        finally:
            is_over.set()
            owner.join()
        check_all_delivered(receipts, 16)
        assert wrong == []
        copies = Counter(digest(attached(mail.content)) for mail in server.taken)
        count(copies, digest(octets), f"{twin.name}, {kind}, read by its owner too")

    @pytest.mark.parametrize("kind", ["file", "stream"])
    def test_that_is_replayed(
        self, twin: Twin, scripted: Scripted, path: Path, opened: Callable[[str], Any], kind: str
    ) -> None:
        """Each message is refused for now by the first server, which has read its content."""
        first, second = scripted(Play({".": "451 4.3.0 later"})), scripted()
        logo = Attachment(opened(kind), "a.bin")
        mailer = twin(first.url, second.url, max_connections=8)
        check_all_delivered(mailer.send_at_once([hello(attachments=[logo]) for _ in range(16)]), 16)
        assert first.taken == []
        copies = Counter(digest(attached(mail.content)) for mail in [*first.handed_over, *second.taken])
        assert copies.total() > 16
        count(copies, digest(path.read_bytes()), f"{twin.name}, {kind}, replayed")


def parts(mail: Transaction) -> list[bytes]:
    """The octets of each part of a message, the multipart's own among them, which are none."""
    return [part.get_payload(decode=True) or b"" for part in message_from_bytes(mail.content).walk()]  # type: ignore[misc]


class TestContent:
    """The whole of a message, given with an envelope."""

    @WAYS
    @pytest.mark.parametrize("kind", ["path", "file", "BytesIO", "gzip"])
    def test_for_many_envelopes(
        self, twin: Twin, scripted: Scripted, path: Path, opened: Callable[[str], Any], kind: str, way: str
    ) -> None:
        """A file stays where it stands, so that each message begins there."""
        server = scripted()
        content = opened(kind)
        items: list[Any] = [(content, TO_BOB)] * MANY
        mailer = twin(server.url, max_connections=8)
        check_all_delivered(sent(mailer, items, way), MANY)
        copies = Counter(digest(mail.content) for mail in server.taken)
        assert copies.total() == MANY
        count(copies, digest(path.read_bytes()), f"{twin.name}, {kind} as content, {way}")

    @WAYS
    @pytest.mark.parametrize("kind", ["pipe", "read alone", *ITERATORS])
    def test_that_can_be_read_once_is_one_messages(
        self, twin: Twin, scripted: Scripted, path: Path, opened: Callable[[str], Any], kind: str, way: str
    ) -> None:
        """Of those that are given it one is sent whole, and the others are refused: none is short, and none empty."""
        server = scripted()
        mailer = twin(server.url, max_connections=8)
        content = opened(kind)
        results = sent(mailer, [(content, TO_BOB)] * 16, way)
        errors = [getattr(result, "error", result) for result in results]
        assert errors.count(None) == 1
        for error in errors:
            if error is not None:
                assert isinstance(error, InvalidInput)
                assert "read before" in str(error) or "was read for another message" in str(error)
        [mail] = server.taken
        assert mail.content == path.read_bytes()
        with pytest.raises(InvalidInput, match=r"give its octets|read before"):
            mailer.send(content, TO_BOB)


class TestMessage:
    """One message object, sent by many."""

    @WAYS
    def test_of_ours(self, twin: Twin, scripted: Scripted, way: str) -> None:
        message = hello(
            "Bób <bob@example.com>", subject="Grüße " * 30, html="<b>ü</b>", message_id="a@example.org", cc="c@x.org"
        )
        self.check(twin, scripted, message, way)

    @WAYS
    def test_of_the_email_package(self, twin: Twin, scripted: Scripted, way: str) -> None:
        """Whose headers are folded, and whose multiparts get boundaries, when it is written."""
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "Jörg <ann@example.org>", "bob@example.com", "Grüße " * 30
        message["Message-ID"] = "<a@example.org>"
        message.set_content("Grüße\n" * 100)
        message.add_attachment(os.urandom(5_000), "application", "octet-stream", filename="ü.bin")
        self.check(twin, scripted, message, way)

    def check(self, twin: Twin, scripted: Scripted, message: Any, way: str) -> None:
        server = scripted()
        mailer = twin(server.url, max_connections=8)
        check_all_delivered(sent(mailer, [message] * MANY, way), MANY)
        seen = set()
        for mail in server.taken:
            found = message_from_bytes(mail.content)
            seen.add((str(found["Subject"]), str(found["From"]), str(found["Cc"]), *parts(mail)))
            assert found.defects == []
        assert len(server.taken) == MANY
        assert len(seen) == 1


def test_event_loops_in_threads_share_a_mailer_and_a_file(scripted: Scripted, path: Path) -> None:
    """Each loop has connections of its own."""
    server = scripted()
    mailer = AsyncMailer(server.url)
    receipts: list[Any] = []
    with path.open("rb") as file:
        logo = Attachment(file, "a.bin")

        async def send() -> None:
            sending = (mailer.send(hello(attachments=[logo])) for _ in range(4))
            receipts.extend(await asyncio.gather(*sending, return_exceptions=True))
            await mailer.close()

        threads = [threading.Thread(target=asyncio.run, args=(send(),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    check_all_delivered(receipts, 32)
    copies = Counter(digest(attached(mail.content)) for mail in server.taken)
    count(copies, digest(path.read_bytes()), "eight event loops")


@WAYS
def test_messages_of_one_generator_go_once(twin: Twin, scripted: Scripted, way: str) -> None:
    """Who asks it while another does is told so by Python; no message is lost, and none goes twice."""
    server = scripted()
    mailer = twin(server.url, max_connections=8)
    messages = (hello(subject=str(number)) for number in range(MANY))
    if way == "connections=8":
        check_all_delivered(mailer.send_many(messages, connections=8), MANY)
    else:
        streams = [mailer.stream(messages), mailer.stream(messages)]
        receipts = [receipt for stream in streams for receipt in stream]
        check_all_delivered(receipts, MANY)
    subjects = [message_from_bytes(mail.content)["Subject"] for mail in server.taken]
    assert sorted(subjects, key=int) == [str(number) for number in range(MANY)]


@pytest.mark.parametrize("connections", [1, 8])
def test_one_message_that_is_changed_for_each_recipient(twin: Twin, scripted: Scripted, connections: int) -> None:
    """The source is not asked for the next before the last one is composed: nobody gets what is another's."""
    server = scripted()
    mailer = twin(server.url, max_connections=8)

    class Changing(Message):
        """Lets others go on in the middle of its being composed."""

        def check(self) -> None:
            super().check()
            if composing:
                time.sleep(0.001)

    composing: list[bool] = []
    message = Changing("Your code", SENDER, "nobody@example.com", text="")
    composing.append(True)

    def messages() -> Iterator[Any]:
        for number in range(MANY):
            message.to = [f"user{number}@example.com"]
            message.text = f"The code of user{number}\n"
            yield message

    check_all_delivered(mailer.send_many(messages(), connections=connections), MANY)
    for mail in server.taken:
        [recipient] = [line.partition("<")[2].partition(">")[0] for line in mail.recipients]
        assert f"The code of {recipient.partition('@')[0]}\r\n".encode() in mail.content
        assert f"To: {recipient}".encode() in mail.content
    assert len(server.taken) == MANY


def test_one_provider_of_tokens_fetches_once_for_all(scripted: Scripted) -> None:
    """For threads and for each event loop: who rotates refresh tokens takes one that is used twice for stolen."""
    fetched: list[str] = []
    first_fetch, all_wait = threading.Event(), threading.Event()

    class Rotating(Provider):
        def fetch(self, timeout: float = 20.0) -> Grant:
            fetched.append(threading.current_thread().name)
            first_fetch.set()
            assert all_wait.wait(20)
            return Grant("one", 3600)

    server = scripted(Play(extensions=(*EXTENSIONS, "AUTH XOAUTH2")))
    settings: dict[str, Any] = {"username": "ann", "token": Rotating()}
    receipts: list[Any] = []
    asked: list[int] = []

    def blocking() -> None:
        with Mailer(server.url, **settings) as mailer:
            asked.append(1)
            receipts.append(mailer.send(hello()))

    async def loop() -> None:
        async with AsyncMailer(server.url, **settings) as mailer:
            asked.append(1)
            receipts.extend(await asyncio.gather(*(mailer.send(hello()) for _ in range(2))))

    threads = [threading.Thread(target=asyncio.run, args=(loop(),)) for _ in range(3)]
    threads += [threading.Thread(target=blocking) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert first_fetch.wait(20)
    wait_until(lambda: len(asked) == 6 and len(server.speakers) >= 6, 20)
    all_wait.set()
    for thread in threads:
        thread.join()
    check_all_delivered(receipts, 9)
    assert len(fetched) == 1


def test_a_tls_session_is_resumed_by_one_of_many() -> None:
    """However many threads connect at the same time (RFC 8446 C.4)."""
    context = client_context(Server("mail.example.com", tls="required"))

    class Closed:
        session = type("Session", (), {"has_ticket": True, "id": b"1"})()

    taken: list[Any] = []
    for _ in range(200):
        context.keep_session(cast(Any, Closed()))
        barrier = threading.Barrier(4)

        def take(barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            taken.append(context.take_session())

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(taken) - taken.count(None) == 200


@pytest.mark.parametrize("is_signed", [False, True])
def test_content_that_is_given_to_several_deliveries_stays_open(
    twin: Twin, scripted: Scripted, tmp_path: Path, is_signed: bool
) -> None:
    """An adapter renders once for many envelopes: who is done with it does not close it for the others."""
    server = scripted()
    octets = HEAD + b"x" * 70 + b"\r\n" + b"y\r\n" * (sources.IN_MEMORY // 3)
    content = mime.given(iter([octets]))
    settings = {"dkim": DkimKeys(tmp_path).setting("ed25519")} if is_signed else {}
    mailer = twin(server.url, max_connections=4, **settings)
    for _ in range(2):
        check_all_delivered(mailer.send_at_once([(content, TO_BOB)] * 4), 4)
    assert [mail.content.endswith(octets) for mail in server.taken] == [True] * 8
    content.close()
