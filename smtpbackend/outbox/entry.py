"""An entry: what the outbox stores of one message, and what a worker reads of it.

A `Draft` goes into the tables, a `Due` comes out of them. Octets are those that the settings of the mailer make,
without Bcc; DKIM signs as the mail is sent. Times are seconds since 1970 (UTC).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.header import decode_header, make_header
from enum import Enum, IntEnum
from typing import IO, Any

from smtpbackend.content import Content
from smtpbackend.content import given as content_of_octets
from smtpbackend.delivery.composing import content_of
from smtpbackend.delivery.parcel import Parcel
from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.errors import InvalidInput
from smtpbackend.outcome import Outcome
from smtpbackend.values import Value

__all__ = ["BLOCK", "VERSION", "Draft", "Due", "Priority", "State", "draft", "envelope_of"]

VERSION = 1
"""Of the format of an entry. A worker leaves entries of a newer version alone."""
BLOCK = 256 * 1024  # octets of one row of content: larger values cost a client hundreds of megabytes
MAX_SUBJECT = 200  # characters that are kept for lists
MAX_KEY = 200
HEAD = 64 * 1024  # octets in which the header fields below are looked for


to_json = json.JSONEncoder(separators=(",", ":")).encode
"""What is stored as JSON; ``json.dumps`` would make an encoder each time."""


def text_of(given: str) -> str:
    """A text that every database takes: without NUL and lone surrogates."""
    return given.replace("\0", "").encode("utf-8", "replace").decode()


class State(Enum):
    """What became of one recipient of an entry. All but PENDING are final."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    """A server took responsibility."""
    REJECTED = "rejected"
    """Refused for good, by a server or here."""
    EXPIRED = "expired"
    """Not accepted before the entry expired."""
    CANCELLED = "cancelled"
    """Cancelled before it was sent."""
    IN_DOUBT = "in_doubt"
    """Handed over without an answer, as often as ``retry_in_doubt`` allows: it may have arrived."""
    FAILED = "failed"
    """Not sent, through no fault of the recipient: the message or our side has to be mended."""


class Priority(IntEnum):
    """Which mail goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2

    @classmethod
    def of(cls, given: Any) -> Priority:
        """The priority of its name or member. Raises `InvalidInput`."""
        if isinstance(given, cls):
            return given
        names = [one.name.lower() for one in cls]
        if isinstance(given, str) and given.lower() in names:
            return cls[given.upper()]
        raise InvalidInput(f"priority must be one of {', '.join(names)}, not {given!r}", field="priority")


class Draft(Value):
    """A message as it is stored.

    ``refused`` are recipients that were refused before, ``blocks`` gives the octets anew in rows of at most `BLOCK`.
    ``send_at`` is None or the time before which it is not sent, ``expires`` the one after which it is not.
    """

    envelope: Envelope | None
    refused: tuple[Outcome, ...]
    content: Content | None
    message_id: str
    subject: str
    priority: Priority
    send_at: float | None
    expires: float
    key: str | None
    digest: str | None
    size: int
    is_8bit: bool
    envelope_json: str

    def blocks(self) -> Iterator[bytes]:
        """The octets, in rows."""
        return _rows(self.content.chunks()) if self.content is not None else iter(())


def _rows(chunks: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= BLOCK:
            octets = b"".join(held)
            for start in range(0, len(octets) - BLOCK + 1, BLOCK):
                yield octets[start : start + BLOCK]
            octets = octets[len(octets) - len(octets) % BLOCK :]
            held, size = [octets] if octets else [], len(octets)
    if held:
        yield b"".join(held)


def draft(
    parcel: Parcel,
    stamp: Callable[[], tuple[datetime, str]],
    now: float,
    *,
    lasts: float,
    priority: Any = None,
    send_at: datetime | None = None,
    expires: datetime | None = None,
    key: str | None = None,
) -> Draft:
    """What is stored of a message.

    ``stamp`` gives date and token for what lacks them. ``lasts``: seconds after which mail is not tried any more,
    unless ``expires`` says when. Raises `InvalidInput`, or what the message's own sources raise.
    """
    starts = _time("send_at", send_at)
    if starts is not None and starts <= now:
        starts = None
    until = _time("expires", expires)
    begin = now if starts is None else starts
    if until is None:
        until = begin + lasts
    elif until <= begin:
        raise InvalidInput("expires is not later than send_at and now: the mail could never be sent", field="expires")
    if key is not None and not _is_key(key):
        raise InvalidInput(f"key must be a string of 1 to {MAX_KEY} characters, not {key!r:.60}", field="key")
    wanted = None if priority is None else Priority.of(priority)
    if parcel.envelope is None:
        rank = Priority.NORMAL if wanted is None else wanted
        return Draft(None, tuple(parcel.refused), None, "", "", rank, starts, until, key, None, 0, False, "{}")
    content = content_of(parcel.content, stamp)
    head = _head(content)
    rank = wanted if wanted is not None else Priority.LOW if _is_bulk(head) else Priority.NORMAL
    envelope = parcel.envelope
    return Draft(
        envelope,
        tuple(parcel.refused),
        content,
        (content.message_id or _field(head, b"message-id"))[:998],
        _subject(head),
        rank,
        starts,
        until,
        key,
        _digest(envelope, content) if key is not None else None,
        content.size,
        content.is_8bit,
        to_json(envelope.to_json_without_recipients()),
    )


def _is_key(key: Any) -> bool:
    """Whether every database takes it."""
    return isinstance(key, str) and 0 < len(key) <= MAX_KEY and "\0" not in key and text_of(key) == key


def _time(name: str, given: Any) -> float | None:
    """A time of the caller: an aware one, for naive ones mean something else on each machine."""
    if given is None:
        return None
    if not isinstance(given, datetime) or given.utcoffset() is None:
        raise InvalidInput(f"{name} must be a datetime with its time zone, not {given!r:.60}", field=name)
    return given.timestamp()


def envelope_of(stored: str | Mapping[str, Any], recipients: Iterable[Recipient]) -> Envelope:
    """The envelope of what `Draft.envelope_json` holds, for these recipients. Raises ValueError."""
    given = json.loads(stored) if isinstance(stored, str) else dict(stored)
    return Envelope.from_json({**given, "recipients": [one.to_json() for one in recipients]})


_bulk = re.compile(rb"\r\n(?:list-unsubscribe|precedence[ \t]*:[ \t]*(?:bulk|list|junk))").search


def _head(content: Content) -> bytes:
    head = b""
    for chunk in content.chunks():
        head += chunk
        if (end := head.find(b"\r\n\r\n")) >= 0:
            return head[: end + 2]
        if len(head) >= HEAD:
            break
    return head[:HEAD]


def _is_bulk(head: bytes) -> bool:
    return _bulk(b"\r\n" + head.lower()) is not None


def _field(head: bytes, name: bytes) -> str:
    """The value of a header field, unfolded; "" where there is none."""
    head = b"\r\n" + head
    names, start = head.lower(), -1
    while (start := names.find(b"\r\n" + name, start + 1)) >= 0:
        before, colon, rest = head[start:].partition(b":")
        if colon and before[2:].rstrip(b" \t").lower() == name:
            first, *others = rest.split(b"\r\n")
            folded = itertools.takewhile(lambda line: line[:1] in (b" ", b"\t"), others)
            return b"".join((first, *folded)).decode("utf-8", "replace").strip()
    return ""


def _subject(head: bytes) -> str:
    """The subject as a person reads it, for lists; cut."""
    text = _field(head, b"subject")
    if "=?" in text:
        with contextlib.suppress(Exception):  # it is only shown
            text = str(make_header(decode_header(text)))
    text = text_of(text)
    return text if len(text) <= MAX_SUBJECT else text[: MAX_SUBJECT - 1] + "…"


_varies = re.compile(rb"(?:date|message-id)[ \t]*:", re.I).match
_boundary = re.compile(rb'boundary="?([^"\r\n;]{1,70})', re.I).search
MAX_BOUNDARIES = 100  # a message that has more of them has its own digest each time


def _digest(envelope: Envelope, content: Content) -> str:
    """Two messages of one key have the same digest where they say the same: dates, ids and boundaries may differ."""
    digest = hashlib.sha256(json.dumps(envelope.to_json(), sort_keys=True).encode())
    boundaries: list[bytes] = []
    is_head, is_left_out = True, False
    for line in _lines(content.chunks()):
        if is_head:
            is_left_out = bool(_varies(line)) or (is_left_out and line[:1] in (b" ", b"\t"))
            is_head = line != b"\r\n"
            if is_left_out:
                continue
        if b"boundary" in line.lower() and (found := _boundary(line)) and len(boundaries) < MAX_BOUNDARIES:
            boundaries.append(found[1])
            line = line.replace(found[1], b"")
        elif line.startswith(b"--"):
            for boundary in boundaries:
                line = line.replace(boundary, b"")
        digest.update(line)
    return digest.hexdigest()


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\r\n")
        for line in lines:
            yield line + b"\r\n"
        if len(rest) >= HEAD:
            yield rest
            rest = b""
    yield rest


class Due:
    """One part of an entry in the hands of a worker: recipients that are owed it, and how long the lease lasts.

    ``lease`` is the number that every later write names; ``begins_by`` and ``expires_at`` are times of the worker's
    clock after which nothing of it begins. Signals have it as their ``message``; `message` parses what is stored.
    """

    id: int
    alias: str
    lease: int
    begins_by: float
    expires_at: float
    created: float
    send_at: float | None
    lane: int
    lapses: int
    tries: int
    priority: int
    size: int
    is_8bit: bool
    message_id: str
    subject: str
    events: list[Any]
    envelope: Envelope
    positions: tuple[int, ...]
    """The number of each recipient of ``envelope`` within the entry."""
    doubts: tuple[int, ...]
    octets: bytes | IO[bytes]

    is_lost = False
    """Another worker has it."""
    is_returned = False
    """Nothing of it is begun any more."""
    has_untried = False
    """Recipients behind this part are still to be tried in this round."""
    others = 0
    """Recipients that are pending beside this part."""

    def __init__(self, **given: Any) -> None:
        self.events = []
        vars(self).update(given)

    def __repr__(self) -> str:
        return f"<entry {self.id} of {self.alias!r}>"

    def as_bytes(self) -> bytes:
        """All octets of the message, as they were stored."""
        if isinstance(self.octets, bytes):
            return self.octets
        self.octets.seek(0)
        return self.octets.read()

    def message(self) -> Any:
        """The message as an ``email.message.EmailMessage``."""
        import email
        import email.policy

        return email.message_from_bytes(self.as_bytes(), policy=email.policy.SMTP)

    @property
    def created_at(self) -> datetime:
        """When it was stored."""
        return datetime.fromtimestamp(self.created, UTC)

    def parcel(self) -> Parcel:
        """What `Mailer.deliver` is given."""
        content = content_of_octets(self.octets)
        return Parcel(self.envelope, content.or_7bit(_encoded_anew) if self.is_8bit else content)

    def close(self) -> None:
        """Let go of a temporary file."""
        if not isinstance(self.octets, bytes):
            self.octets.close()


def _encoded_anew(content: Content) -> Content | None:
    """For a server without 8BITMIME. Imported where it is needed, since it takes all of the package ``email``."""
    from smtpbackend.email_message import encoded_anew

    return encoded_anew(content)


def spooled(rows: Iterable[bytes]) -> IO[bytes]:
    """A file of the rows of a large content, so that no more than one is in memory."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 -- whoever has it in hand closes it
    for row in rows:
        file.write(row)
    file.seek(0)
    return file
