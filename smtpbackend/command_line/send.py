"""``send``: one message made of arguments, or messages that are files."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from smtpbackend.address import Address, parse_addresses
from smtpbackend.address_list import entries
from smtpbackend.command_line.servers import add_servers, settings_of
from smtpbackend.delivery.parcel import Parcel
from smtpbackend.envelope import Envelope, Routing
from smtpbackend.errors import InvalidInput
from smtpbackend.events import MessageEnded
from smtpbackend.message import Attachment, Message
from smtpbackend.outcome import Outcome, Receipt
from smtpbackend.sources import Source

__all__ = ["add", "run"]

LARGE = 1 << 20  # octets of attachments from which on progress is shown
_OF_ONE_MESSAGE = ("from", "cc", "bcc", "subject", "text", "html", "attach", "header")  # whole messages have their own
_OPTIONS = {
    "from_": "--from",
    "headers": "--header",
    "attachments": "--attach",
}  # how errors call what is given so here
_OPTIONS |= {field: f"--{field}" for field in ("to", "cc", "bcc", "subject", "text", "html")}


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser("send", help="send a message, or files that are messages")
    add_servers(parser, positional=False)
    parser.add_argument("--from", metavar="ADDRESS", help="who it is from")
    parser.add_argument(
        "--to", action="append", metavar="ADDRESS", help="with --message: instead of the recipients that it names"
    )
    for field in ("cc", "bcc"):
        parser.add_argument(f"--{field}", action="append", metavar="ADDRESS")
    parser.add_argument("--subject")
    parser.add_argument("--text", metavar="FILE", help="file with the text, in UTF-8; - is the standard input")
    parser.add_argument("--html", metavar="FILE", help="file with the same text in HTML")
    parser.add_argument("--attach", action="append", metavar="FILE")
    parser.add_argument("--header", action="append", metavar="NAME:VALUE")
    parser.add_argument(
        "--message",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="whole messages (.eml), or mailboxes of them (mbox); - is the standard input",
    )
    parser.add_argument("--envelope-from", metavar="ADDRESS", help='MAIL FROM, where it is not that of From; "" is <>')
    parser.add_argument("--json", action="store_true", help="print the receipts as JSON, one a line")
    parser.set_defaults(run=run)


class _Item(NamedTuple):
    """A message: what it is called, and what makes it when its turn comes."""

    name: str
    message: Callable[[], Any]


def run(given: argparse.Namespace) -> int:
    """Send; 1 where a recipient was not accepted."""
    from smtpbackend.blocking.mailer import Mailer

    _check(given)
    with ExitStack() as stack:
        bar = _Bar()
        if given.message:
            items = [item for name in given.message for item in _whole(name, stack)]
            bar.total = len(items) if len(items) > 1 else 0
        else:
            message = _made(given, bar)
            items = [_Item("", lambda: message)]
        prepare = _prepare(given)
        mailer = stack.enter_context(Mailer.from_settings(settings_of(given)))
        stack.enter_context(bar.shown("messages" if given.message else "octets of attachments"))
        ended: dict[_Item, Receipt] = {}

        def note(event: Any) -> None:
            if isinstance(event, MessageEnded):
                ended[event.message] = event.receipt

        well = True
        several = len(items) > 1
        try:
            for item, receipt in mailer.deliver(
                items, prepare=lambda item: prepare(item.message()), in_order=True, listeners=[note]
            ):
                assert receipt is not None  # each item is a message
                ended.pop(item, None)
                if several:
                    bar.advance(1)
                well = _tell(item.name if several else "", receipt, given.json) and well
        except KeyboardInterrupt:
            for item, receipt in ended.items():  # what was under way
                _tell(item.name if several else "", receipt, given.json)
            raise
    return 0 if well else 1


def _check(given: argparse.Namespace) -> None:
    """Raise `InvalidInput` for options that do not go together."""
    if given.message:
        if others := [f"--{option}" for option in _OF_ONE_MESSAGE if getattr(given, option) is not None]:
            raise InvalidInput(
                f"--message sends messages as they are, and {', '.join(others)} cannot change them: give one or "
                "the other"
            )
    elif getattr(given, "from") is None or not (given.to or given.cc or given.bcc):
        raise InvalidInput("send needs --from and one of --to, --cc and --bcc, or --message")
    if [given.text, given.html, *(given.message or ())].count("-") > 1:
        raise InvalidInput("- is given twice, and the standard input can be read once")


def _prepare(given: argparse.Namespace) -> Callable[[Any], Parcel]:
    """What makes the parcel of a message, with the envelope that the options ask for."""
    to = [one for text in given.to for one in parse_addresses(text, "--to")] if given.message and given.to else []
    told = given.envelope_from is not None
    is_null = told and given.envelope_from.strip() in ("", "<>")
    sender = Address.parse(given.envelope_from, "--envelope-from") if told and not is_null else None

    def prepare(message: Any) -> Parcel:
        if to:
            return Parcel(Envelope(sender if told else Routing(message).originator(), to), message)
        parcel = Parcel.of(message, None, sender)
        if is_null and parcel.envelope is not None:
            return parcel._replace(envelope=parcel.envelope.replace(sender=None))
        return parcel

    return prepare


# One message


def _made(given: argparse.Namespace, bar: _Bar) -> Message:
    """The message that the arguments describe."""
    files = [Path(name) for name in given.attach or ()]
    for path in files:
        _check_file(path, "--attach")
    sizes = [path.stat().st_size for path in files if path.is_file()]
    bar.total = sum(sizes) if sum(sizes) >= LARGE else 0
    try:
        return Message(
            given.subject or "",
            getattr(given, "from"),
            *(_addresses(given, field) for field in ("to", "cc", "bcc")),
            text=_text(given.text, "--text"),
            html=_text(given.html, "--html"),
            headers=[_header(one) for one in given.header or ()],
            attachments=[_Watched(path, bar) if path.is_file() else Attachment(path) for path in files],
        )
    except InvalidInput as error:
        raise InvalidInput(_by_option(str(error))) from error


def _addresses(given: argparse.Namespace, field: str) -> list[Address | str]:
    return [one for text in getattr(given, field) or () for one in entries(text, field)]


def _by_option(text: str) -> str:
    """An error of a `Message` with the option in the place of the argument that it names."""
    field, colon, rest = text.partition(": ")
    return f"{_OPTIONS[field]}: {rest}" if colon and field in _OPTIONS else text


def _text(name: str | None, option: str) -> str | None:
    if name is None:
        return None
    try:
        return _read(name, option).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{option} {name} is not in UTF-8 (octet {error.start + 1:,}): convert it before") from error


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise InvalidInput(f"--header {text!r} has no colon behind its name")
    return name.strip(), value.strip()


class _Watched(Attachment):
    """A file that moves the bar as it is read, which is while it is sent."""

    def __init__(self, path: Path, bar: _Bar) -> None:
        super().__init__(path)
        self._bar = bar

    def source(self) -> Source:
        """Its octets for one message."""
        return _Counted(super().source(), self._bar)


class _Counted(Source):
    """A source that moves the bar. Where it is read again, for another server, the bar goes back."""

    def __init__(self, source: Source, bar: _Bar) -> None:
        self.size, self.close = source.size, source.close  # type: ignore[method-assign]
        self._source, self._bar, self._read = source, bar, 0

    def blocks(self, size: int) -> Iterator[bytes]:
        """As those of the source."""
        self._bar.advance(-self._read)
        self._read = 0
        for block in self._source.blocks(size):
            yield block
            self._read += len(block)
            self._bar.advance(len(block))


# Whole messages


def _whole(name: str, stack: ExitStack) -> list[_Item]:
    """The messages in a file: itself, or those of a mailbox. Each is read when its turn comes."""
    from smtpbackend.content_type import parsed

    path = Path(name)
    if name == "-":
        import tempfile

        path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "stdin")
        path.write_bytes(_read(name, "--message"))
    else:
        _check_file(path, "--message")
    if not path.is_file() or not _is_mailbox(path):
        return [_Item(name, lambda: parsed(_read(str(path), "--message"), "--message"))]
    import mailbox

    box = mailbox.mbox(path, create=False)
    stack.callback(box.close)
    return [
        _Item(f"{name}[{number}]", lambda key=key: parsed(box.get_bytes(key), "--message"))  # type: ignore[misc]
        for number, key in enumerate(box.keys(), 1)
    ]


def _is_mailbox(path: Path) -> bool:
    """Whether it begins as a message in a mailbox does (RFC 4155), and no message: a field has no blank in its name."""
    with path.open("rb") as file:
        return file.read(5) == b"From "


def _check_file(path: Path, option: str) -> None:
    """Raise `InvalidInput` where a file cannot be read, before anything is sent. A pipe is not opened: it would end."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.is_file():
            path.open("rb").close()
        else:
            path.stat()
    except OSError as error:
        raise _unreadable(option, path, error) from error


def _read(name: str, option: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise _unreadable(option, name, error) from error


def _unreadable(option: str, name: object, error: OSError) -> InvalidInput:
    return InvalidInput(f"{option} {name} cannot be read: {error.strerror}")


# What became of them


def _tell(name: str, receipt: Receipt, as_json: bool) -> bool:
    """Print what became of one message; whether all went well."""
    before = f"{name}: " if name else ""
    if as_json:
        print(json.dumps(receipt.to_json(), ensure_ascii=False), flush=True)
        return receipt.ok
    for outcome in receipt.outcomes:
        print(f"{before}{outcome.status.value}: {outcome.address}{_said(outcome, receipt)}", flush=True)
    if receipt.error is not None and not any(str(receipt.error) == str(one.error) for one in receipt.outcomes):
        print(f"{before}{'' if receipt.outcomes else 'failed: '}{_by_option(str(receipt.error))}", file=sys.stderr)
    for note in receipt.notes:
        print(f"{before}{note}", file=sys.stderr)
    return receipt.ok


def _said(outcome: Outcome, receipt: Receipt) -> str:
    said = str(outcome.reply) if outcome.reply is not None else _by_option(str(outcome.error or ""))
    queue_id = receipt.queue_id if outcome in receipt.accepted else None
    if queue_id and queue_id not in said:
        said = f"{said}, queue id {queue_id}"
    return f" ({said})" if said else ""


class _Bar:
    """A bar on a terminal where rich is installed, if it has a ``total``."""

    total = 0

    def __init__(self) -> None:
        self.advance: Callable[[int], object] = lambda done: None

    @contextmanager
    def shown(self, what: str) -> Iterator[None]:
        """Show it on the standard error, as long as the block runs."""
        if not self.total or not sys.stderr.isatty():
            yield
            return
        try:
            from rich.console import Console
            from rich.progress import Progress
        except ImportError:
            yield
            return
        # rich would write to the terminal what is printed into a file or pipe
        with Progress(console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as progress:
            self.advance = partial(progress.advance, progress.add_task(what, total=self.total))
            yield
