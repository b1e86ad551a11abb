"""Logging in: each SASL mechanism is a generator that yields responses and is sent challenges (RFC 4422, RFC 4954).

The first value yielded is the initial response, or None where the mechanism has none. Bytes in, bytes out; base64 is
the session's matter. Which mechanisms may be used on which channel is decided here too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

__all__ = ["MECHANISMS", "Exchange", "Login", "Mechanism", "choose", "cram_md5", "login", "plain"]

Exchange = Generator[bytes | None, bytes, None]


class Login(NamedTuple):
    """A name and its secret."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, password='***')"


class Mechanism(NamedTuple):
    """A way to log in. ``in_clear``: whoever reads along learns the secret, so it needs a verified channel."""

    name: str
    exchange: Callable[[Login], Exchange]
    in_clear: bool


def plain(credentials: Login) -> Exchange:
    """RFC 4616: authorization identity (empty), name, password."""
    yield b"\0".join((b"", credentials.username.encode(), credentials.password.encode()))


def login(credentials: Login) -> Exchange:
    """LOGIN, never standardised (draft-murchison-sasl-login): name, then password, each upon a prompt."""
    yield None
    yield credentials.username.encode()
    yield credentials.password.encode()


def cram_md5(credentials: Login) -> Exchange:
    """RFC 2195: a digest of the challenge, keyed with the password."""
    import hmac

    challenge = yield None
    digest = hmac.new(credentials.password.encode(), challenge, "md5").hexdigest()
    yield f"{credentials.username} {digest}".encode()


MECHANISMS: tuple[Mechanism, ...] = (  # strongest first
    Mechanism("CRAM-MD5", cram_md5, in_clear=False),
    Mechanism("PLAIN", plain, in_clear=True),
    Mechanism("LOGIN", login, in_clear=True),
)


def choose(offered: Iterable[str], wanted: Iterable[str] | None, clear_allowed: bool) -> list[Mechanism]:
    """The mechanisms to try, strongest first, or in the order of ``wanted`` where that is given.

    ``clear_allowed``: whether the channel may carry a secret in clear (DESIGN 4.7).
    """
    known = {mechanism.name: mechanism for mechanism in MECHANISMS}
    names = list(known) if wanted is None else [name.upper() for name in wanted]
    offered = set(offered)
    found = [known[name] for name in names if name in offered and name in known]
    return [mechanism for mechanism in found if clear_allowed or not mechanism.in_clear]
