"""What lies in a server's Maildir: the message as the client sent it, and what the servers wrote before it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# One header field, as it lies in a file: LF line ends
_REST = rb"[^\n]*\n(?:[ \t][^\n]*\n)*"
# What a final delivery puts before the message: Postfix's virtual(8), Dovecot's LMTP, Exim's appendfile
_DELIVERY = rb"(?:(?:Return-Path|X-Original-To|Delivered-To|Envelope-To|Delivery-Date):" + _REST + rb")*"


@dataclass(frozen=True)
class ArrivedMail:
    """A file of a mailbox: `raw` as it lies there, with LF line ends and the servers' own trace fields before it.

    `hops` is how many of our servers it went through, each of which put a Received field before it; `mailbox` is
    whose it is, where a server does not write that down.
    """

    raw: bytes
    hops: int = 1
    mailbox: str = ""

    @property
    def trace(self) -> bytes:
        """The fields that our servers put before the message."""
        fields = rb"(?i)\A" + _DELIVERY + rb"(?:Received:" + _REST + rb"){0,%d}" % self.hops
        found = re.match(fields, self.raw)
        return found[0] if found else b""

    @property
    def content(self) -> bytes:
        """The message as the client sent it: without the trace fields, with CRLF line ends."""
        return self.raw[len(self.trace) :].replace(b"\n", b"\r\n")

    @property
    def return_path(self) -> str:
        """The reverse-path, "" for the null one."""
        return self._field("Return-Path").removeprefix("<").removesuffix(">")

    @property
    def delivered_to(self) -> str:
        """The recipient whose copy this is."""
        return self.mailbox or self._field("Delivered-To") or self._field("Envelope-To")

    @property
    def received(self) -> str:
        """The Received field of the server that the client spoke to, on one line.

        Protocol (ESMTPSA), cipher and, from Postfix, the client's certificate stand there.
        """
        return self._field("Received")

    @property
    def queue_id(self) -> str:
        """What the server that the client spoke to called it."""
        found = re.search(r"\bid (\w+)", self.received)
        return found[1] if found else ""

    def _field(self, name: str) -> str:
        found = re.findall(rf"(?im)^{name}:[ \t]*([^\n]*(?:\n[ \t][^\n]*)*)", self.trace.decode())
        return " ".join(found[-1].split()) if found else ""


def oldest_first(files: Iterable[Path]) -> list[Path]:
    """Return the files of one or several Maildirs in the order in which they were written."""
    return sorted(files, key=lambda path: path.stat().st_mtime_ns)
