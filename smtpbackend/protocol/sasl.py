"""What a SASL mechanism is made of (RFC 4422, RFC 4954). ``mechanisms.py`` has the mechanisms and registers more.

An exchange is a generator: it yields responses and is sent challenges, as bytes; base64 is done elsewhere. The first
value is the initial response, or None where the mechanism has none. When the server says that the login succeeded, the
exchange is sent None: it ends, or raises `Refused` because the server has not proved that it knows the secret.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from smtpbackend.errors import MissingExtra

if TYPE_CHECKING:
    from smtpbackend.protocol.effects import Channel

__all__ = ["Credentials", "Exchange", "Long", "Mechanism", "Refused", "missing"]

Exchange = Generator["bytes | Long | None", Any, None]


class Long(NamedTuple):
    """Yielded by an exchange for work that takes long: `do` is called elsewhere, so that no event loop waits for it.

    The exchange is sent what it returned, or is thrown what it raised.
    """

    do: Callable[[], Any]


class Credentials(NamedTuple):
    """A name, its secret, and the server they are for.

    ``token`` is an OAuth 2.0 access token; ``host`` and ``port`` are the server's; ``channel`` is what a login can be
    bound to in TLS, None without TLS; ``offered`` are the names of the mechanisms that the server offers.
    """

    username: str
    password: str = ""
    token: str = ""
    host: str = ""
    port: int = 0
    channel: Channel | None = None
    offered: tuple[str, ...] = ()

    def __repr__(self) -> str:
        secrets = (("password", self.password), ("token", self.token))
        shown = "".join(f", {name}='***'" for name, value in secrets if value)
        return f"Credentials(username={self.username!r}{shown})"


class Refused(Exception):
    """Raised by an exchange that does not go on.

    ``answer`` is sent to the server; None cancels the exchange (RFC 4954 4). ``impostor``: the server failed to prove
    that it knows the secret, so no other mechanism is tried. ``by_server``: the server refused the credentials in a
    challenge. ``details`` is what it said there, decoded.
    """

    def __init__(
        self,
        message: str,
        *,
        answer: bytes | None = None,
        impostor: bool = False,
        by_server: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.answer = answer
        self.impostor = impostor
        self.by_server = by_server
        self.details = details


class Mechanism(NamedTuple):
    """A way to log in. ``in_clear``: whoever reads the connection learns the secret, so it needs a verified channel.

    ``needs`` names the field of `Credentials` without which it cannot be used: "password", "token", or "" for none.
    ``on_request``: it is used only where the setting ``auth_mechanisms`` names it. ``library`` is an optional module
    that it needs. ``prompted``: the challenges are prompts for people, and are not decoded. A name that ends in -PLUS
    binds the login to the TLS channel (RFC 5801 3.2), and is not used where there is none.
    """

    name: str
    exchange: Callable[[Credentials], Exchange]
    in_clear: bool
    needs: str = "password"
    on_request: bool = False
    library: str = ""
    prompted: bool = False


def missing(mechanism: str, library: str) -> MissingExtra:
    """The error of a mechanism whose library is not installed."""
    extra = ': pip install "smtpbackend[scram]"' if library == "scramp" else ""
    return MissingExtra(f"{mechanism} needs {library}{extra}")
