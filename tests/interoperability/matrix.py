"""The rows and columns of the matrix, and the page that it is kept in."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from smtpbackend.delivery.server import from_url
from smtpbackend.delivery.settings import SERVER_KEYS
from smtpbackend.errors import InvalidSetting
from smtpbackend.protocol.mechanisms import MECHANISMS
from tests.interoperability.samples import NAMES
from tests.servers.dovecot import Dovecot
from tests.servers.exim import Exim
from tests.servers.postfix import EVERY_MECHANISM

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interoperability.md"
MODES = ("none", "opportunistic", "required", "implicit")
TWINS = ("blocking", "asyncio")
AS_SENT = "as sent"

# Where each TLS mode is tried, by the name of the server's port
EVERY_PORT = {
    "none": "plain_port",
    "opportunistic": "starttls_port",
    "required": "starttls_port",
    "implicit": "tls_port",
}


@dataclass(frozen=True)
class Offer:
    """A server as the matrix sees it: the fixture that runs it, the port for each TLS mode, what AUTH offers there.

    ``no_login``: whether it takes mail without one.
    """

    title: str
    fixture: str
    ports: dict[str, str]
    mechanisms: tuple[str, ...] = ()
    no_login: bool = True
    scheme: str = "smtp"


OFFERS = (
    Offer("Postfix", "running_postfix", EVERY_PORT, ("PLAIN", "LOGIN", "CRAM-MD5")),
    Offer(
        "Postfix, all of Cyrus SASL", "running_sasl_postfix", EVERY_PORT, tuple(EVERY_MECHANISM.split()), no_login=False
    ),
    Offer(
        "Dovecot submission",
        "running_dovecot",
        {**EVERY_PORT, "none": "starttls_port"},
        Dovecot.mechanisms,
        no_login=False,
    ),
    Offer("Exim", "running_exim", EVERY_PORT, Exim.mechanisms),
    Offer("aiosmtpd", "running_aiosmtpd", EVERY_PORT, ("PLAIN", "LOGIN")),
    Offer(
        "Dovecot LMTP",
        "running_dovecot",
        {"none": "lmtp_port", "opportunistic": "lmtp_port", "required": "lmtp_port"},
        scheme="lmtp",
    ),
    Offer(
        "Dovecot LMTP, unix socket",
        "running_dovecot",
        {"none": "lmtp_socket", "opportunistic": "lmtp_socket", "required": "lmtp_socket"},
        scheme="lmtp+unix",
    ),
)


def has_scheme(scheme: str) -> bool:
    """Whether our URLs know it."""
    try:
        from_url(f"{scheme}:///run/mail.sock" if scheme.endswith("+unix") else f"{scheme}://localhost:24")
    except InvalidSetting:
        return False
    return True


def usable(offer: Offer) -> list[str | None]:
    """The logins of that server: None for none, then each mechanism that it offers and we know, strongest first."""
    known = [mechanism.name for mechanism in MECHANISMS if mechanism.name in offer.mechanisms]
    if "token" not in SERVER_KEYS:
        known = [name for name in known if name not in ("OAUTHBEARER", "XOAUTH2")]
    return [*([None] if offer.no_login else []), *known]


def missing_library(mechanism: str | None) -> str | None:
    """The optional library that a mechanism needs and that is not installed, or None."""
    needed = {one.name: getattr(one, "library", "") for one in MECHANISMS}.get(mechanism or "")
    return needed if needed and importlib.util.find_spec(needed) is None else None


class Cell(NamedTuple):
    """One way of handing mail over; each is tried by both twins."""

    title: str
    login: str | None
    mode: str

    def __str__(self) -> str:
        return f"{self.title}-{self.login or 'no login'}-{self.mode}".replace(", ", " ")


def cells() -> Iterator[tuple[Offer, Cell]]:
    for offer in OFFERS:
        if not has_scheme(offer.scheme):
            continue
        for login in usable(offer):
            for mode in offer.ports:
                if login == "EXTERNAL" and mode == "none":
                    continue  # the certificate is shown in the TLS handshake
                yield offer, Cell(offer.title, login, mode)


FOUND: dict[tuple[Cell, str], dict[str, str]] = {}
"""What became of each sample, by cell and twin."""


def is_complete() -> bool:
    """Whether every cell was tried by both twins, so that the page can be written."""
    return set(FOUND) == {(cell, twin) for _, cell in cells() for twin in TWINS}


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def matrix() -> str:
    """How many of the samples arrived as sent, from each twin."""
    rows = [("server", "login", *(f"`{mode}`" for mode in MODES))]
    for title, login in dict.fromkeys((cell.title, cell.login) for _, cell in cells()):
        counts = []
        for mode in MODES:
            found = [FOUND.get((Cell(title, login, mode), twin)) for twin in TWINS]
            shown = ["?" if one is None else str(list(one.values()).count(AS_SENT)) for one in found]
            counts.append(" + ".join(shown) if any(found) else "")
        if any(counts):
            rows.append((title, login or "none", *counts))
    return table(rows)


def messages() -> str:
    """What became of each sample, by server: the same in every cell, else all of it is shown."""
    titles = list(dict.fromkeys(cell.title for _, cell in cells()))
    rows = [("message", *titles)]
    for name in NAMES:
        became = []
        for title in titles:
            all_of_it = {found[name] for (cell, _), found in FOUND.items() if cell.title == title}
            became.append("; ".join(sorted(all_of_it)))
        rows.append((name, *became))
    return table(rows)


def page(changes: Any) -> str:
    listed = "\n".join(f"- {title}: {change}" for title, change in changes) or "None."
    return f"""\
<!-- Written by tests/interoperability: change that, then `make interop`. -->
# Interoperability

The same {len(NAMES)} messages are sent to each of these servers over one connection, in each TLS mode (the setting
`tls`) and with each mechanism that the server offers and smtpbackend knows, by `Mailer` and by `AsyncMailer`. What
arrived is compared with what was sent: header fields and their order, the tree of parts with names and identifiers,
and every part's decoded octets; of what was given as octets, or is signed, every octet. Fields with which a server
records the way of a mail (`Received`, `Return-Path`, `Delivered-To`) stand aside; so do the refused recipient, who must
be refused, and the others, who must get one copy each. Each mail must say itself that it came by TLS and after a login,
where that was asked for.

A cell says how many of the messages arrived as sent, from `Mailer` + from `AsyncMailer`; it is empty where the server
has no such way, or where the way makes no sense (EXTERNAL shows a certificate in the TLS handshake).

{matrix()}

`opportunistic` found STARTTLS offered, and used it.

## The messages

A message that needs an extension is sent where the server offers that, and else refused before anything is sent.

{messages()}

## What the servers change

{listed}

`make interop` runs this again and writes this page; the tests fail where it is not what they found.
"""
