"""``send``: one message made of arguments, or messages that are files."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from smtpbackend.command_line.servers import add_servers, settings_of
from smtpbackend.envelope import Envelope
from smtpbackend.errors import InvalidInput
from smtpbackend.message import Attachment, Message
from smtpbackend.outcome import Receipt

__all__ = ["add", "run"]

LARGE = 1 << 20  # octets of attachments from which on progress is shown


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser("send", help="send a message, or files that are messages")
    add_servers(parser, positional=False)
    parser.add_argument("--from", dest="from_", metavar="ADDRESS", help="who it is from")
    for field in ("to", "cc", "bcc"):
        parser.add_argument(f"--{field}", action="append", default=[], metavar="ADDRESS")
    parser.add_argument("--subject", default="")
    parser.add_argument("--text", metavar="FILE", help="file with the text; - is the standard input")
    parser.add_argument("--html", metavar="FILE", help="file with the same text in HTML")
    parser.add_argument("--attach", action="append", default=[], metavar="FILE")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE")
    parser.add_argument(
        "--message", action="append", default=[], metavar="FILE", help="a whole message (.eml); - is the standard input"
    )
    parser.add_argument("--envelope-from", metavar="ADDRESS", help="MAIL FROM, where it is not the address of From")
    parser.add_argument("--json", action="store_true", help="print the receipts as JSON, one a line")
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Send; 1 where a recipient was not accepted."""
    from smtpbackend.blocking.mailer import Mailer

    settings = settings_of(given)
    if given.envelope_from is not None:
        settings["bounce_address"] = given.envelope_from
    with contextlib.ExitStack() as stack:
        advance: Callable[[int], object] = _untold
        if given.message:
            items = [_whole(name, given) for name in given.message]
            if len(items) > 1:
                advance = stack.enter_context(_progress(len(items), "messages"))
        else:
            size = sum(os.path.getsize(name) for name in given.attach if os.path.isfile(name))
            if size >= LARGE:
                advance = stack.enter_context(_progress(size, "octets of attachments"))
            items = [_made(given, stack, advance)]
        mailer = stack.enter_context(Mailer.from_settings(settings))
        well = True
        for receipt in mailer.send_many(items):
            if given.message:
                advance(1)
            well = _tell(receipt, given.json) and well
    return 0 if well else 1


def _made(given: argparse.Namespace, stack: contextlib.ExitStack, advance: Callable[[int], object]) -> Message:
    """The message that the arguments describe."""
    if given.from_ is None or not (given.to or given.cc or given.bcc):
        raise InvalidInput("send needs --from and one of --to, --cc and --bcc, or --message")
    message = Message(
        given.subject,
        given.from_,
        given.to,
        cc=given.cc,
        bcc=given.bcc,
        text=None if given.text is None else _read(given.text, "--text").decode("utf-8", "surrogateescape"),
        html=None if given.html is None else _read(given.html, "--html").decode("utf-8", "surrogateescape"),
        headers=[_header(one) for one in given.header],
    )
    for name in given.attach:
        path = Path(name)
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise InvalidInput(f"--attach {name} cannot be read: {error.strerror}") from error
        kind = Attachment(path).content_type
        message.attachments.append(Attachment(cast(IO[bytes], _Counted(file, advance)), path.name, kind))
    return message


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise InvalidInput(f"--header {text!r} has no colon behind its name")
    return name.strip(), value.strip()


def _whole(name: str, given: argparse.Namespace) -> Any:
    """A message as it stands in a file; with ``--to`` it goes to these instead of those that it names."""
    from smtpbackend.content_type import parsed

    octets = _read(name, "--message")
    message = parsed(octets, "--message")
    to = [*given.to, *given.cc, *given.bcc]
    if not to:
        return message
    sender = given.envelope_from or given.from_ or Envelope.from_headers(message).sender
    return message, Envelope(sender, to)


def _read(name: str, option: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{option} {name} cannot be read: {error.strerror}") from error


def _tell(receipt: Receipt, as_json: bool) -> bool:
    """Print what became of one message; whether all went well."""
    if as_json:
        print(json.dumps(receipt.to_json(), ensure_ascii=False))
    else:
        for outcome in receipt.outcomes:
            said = outcome.reply or outcome.error or ""
            print(f"{outcome.status.value}: {outcome.address}{f' ({said})' if said else ''}")
        if receipt.error is not None and not receipt.outcomes:
            print(f"failed: {receipt.error}")
        elif receipt.error is not None:
            print(receipt.error, file=sys.stderr)
    return receipt.ok


class _Counted(io.RawIOBase):
    """A file that tells how much of it was read; it has no descriptor, for then it would not be asked."""

    def __init__(self, file: Any, advance: Callable[[int], object]) -> None:
        self._file = file
        self._advance = advance

    def readable(self) -> bool:
        """As a file that is open for reading."""
        return True

    def seekable(self) -> bool:
        """As a file on a disk."""
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        """As a file."""
        return int(self._file.seek(place, whence))

    def tell(self) -> int:
        """As a file."""
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        """As a file."""
        size = int(self._file.readinto(buffer))
        self._advance(size)
        return size


@contextlib.contextmanager
def _progress(total: int, what: str) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal where rich is installed: what advances it."""
    if sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import Progress
        except ImportError:
            pass
        else:
            with Progress(console=Console(stderr=True)) as bar:
                task = bar.add_task(what, total=total)
                yield lambda done: bar.advance(task, done)
            return
    yield _untold


def _untold(done: int) -> None:
    """Progress that is not shown."""
