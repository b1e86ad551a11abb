"""Logging in: each SASL mechanism is a generator that yields responses and is sent challenges (RFC 4422, RFC 4954).

The first value yielded is the initial response, or None where the mechanism has none. Bytes in, bytes out; base64 is
the session's matter. When the server says that the login succeeded, the mechanism is sent None: it ends, or raises
`Refused` where the server still owes its proof. Which mechanisms may be used on which channel is decided here too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from smtpbackend.protocol.effects import Channel

__all__ = [
    "MECHANISMS",
    "Exchange",
    "Login",
    "Mechanism",
    "Refused",
    "choose",
    "cram_md5",
    "known",
    "login",
    "plain",
    "register",
]

Exchange = Generator[bytes | None, bytes | None, None]


class Login(NamedTuple):
    """A name and its secret, and where they are used: what a mechanism is given.

    ``token`` is an OAuth 2.0 access token; ``host`` and ``port`` are the server's; ``channel`` is what is known of TLS,
    None without; ``offered`` are the mechanisms that the server offers.
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
        return f"Login(username={self.username!r}{shown})"


class Refused(Exception):
    """Raised by an exchange that does not go on.

    ``answer`` is said to the server, None cancels the exchange (RFC 4954 4). With ``impostor`` the server is not who
    it should be, and no other mechanism is tried. ``details`` are what the server said in the challenge, decoded.
    """

    def __init__(
        self,
        message: str,
        *,
        answer: bytes | None = None,
        impostor: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.answer = answer
        self.impostor = impostor
        self.details = details


class Mechanism(NamedTuple):
    """A way to log in. ``in_clear``: whoever reads along learns the secret, so it needs a verified channel.

    ``needs`` names the field of `Login` without which it cannot be used, "" for none. ``on_request``: used only where
    the setting ``auth_mechanisms`` names it. ``library`` is an optional module that it needs.
    """

    name: str
    exchange: Callable[[Login], Exchange]
    in_clear: bool
    needs: str = "password"
    on_request: bool = False
    library: str = ""


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
    if challenge is None:  # accepted without being asked: this mechanism proves nothing of the server anyhow
        return
    digest = hmac.new(credentials.password.encode(), challenge, "md5").hexdigest()
    yield f"{credentials.username} {digest}".encode()


def external(credentials: Login) -> Exchange:
    """RFC 4422 A: who we are is known from below, such as from a client certificate. The name may be empty."""
    yield credentials.username.encode()


def anonymous(credentials: Login) -> Exchange:
    """RFC 4505: the name, if any, is a trace such as a mail address."""
    yield credentials.username.encode()


# The larger ones have rooms of their own, entered when they are needed


def _digest_md5(credentials: Login) -> Exchange:
    from smtpbackend.protocol.digest import digest_md5

    return digest_md5(credentials)


def _scram(name: str) -> Callable[[Login], Exchange]:
    def exchange(credentials: Login) -> Exchange:
        from smtpbackend.protocol.scram import scram

        return scram(name, credentials)

    return exchange


def _oauthbearer(credentials: Login) -> Exchange:
    from smtpbackend.protocol.bearer import oauthbearer

    return oauthbearer(credentials)


def _xoauth2(credentials: Login) -> Exchange:
    from smtpbackend.protocol.bearer import xoauth2

    return xoauth2(credentials)


_SCRAM = ("SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1")

MECHANISMS: tuple[Mechanism, ...] = (  # strongest first
    *(Mechanism(f"{name}-PLUS", _scram(f"{name}-PLUS"), in_clear=False, library="scramp") for name in _SCRAM),
    *(Mechanism(name, _scram(name), in_clear=False, library="scramp") for name in _SCRAM),
    Mechanism("DIGEST-MD5", _digest_md5, in_clear=False),
    Mechanism("CRAM-MD5", cram_md5, in_clear=False),
    Mechanism("OAUTHBEARER", _oauthbearer, in_clear=True, needs="token"),
    Mechanism("XOAUTH2", _xoauth2, in_clear=True, needs="token"),
    Mechanism("PLAIN", plain, in_clear=True),
    Mechanism("LOGIN", login, in_clear=True),
    Mechanism("EXTERNAL", external, in_clear=False, needs="", on_request=True),
    Mechanism("ANONYMOUS", anonymous, in_clear=False, needs="", on_request=True),
)

_registered: dict[str, Mechanism] = {}


def register(mechanism: Mechanism) -> None:
    """Make a mechanism known to every mailer of this process, ahead of ours; it takes the place of one so named."""
    _registered.pop(mechanism.name.upper(), None)
    _registered[mechanism.name.upper()] = mechanism._replace(name=mechanism.name.upper())


def known() -> dict[str, Mechanism]:
    """Every mechanism by its name: those registered, the last first, then ours, strongest first."""
    found = dict(reversed(_registered.items()))
    return {**found, **{mechanism.name: mechanism for mechanism in MECHANISMS if mechanism.name not in found}}


def choose(
    offered: Iterable[str],
    wanted: Iterable[str] | None,
    clear_allowed: bool,
    credentials: Login | None = None,
) -> list[Mechanism]:
    """The mechanisms to try, strongest first, or in the order of ``wanted`` where that is given.

    ``clear_allowed``: whether the channel may carry a secret in clear (DESIGN 4.7). With ``credentials`` only those
    that can be used with what they hold.
    """
    mechanisms = known()
    names = list(mechanisms) if wanted is None else [name.upper() for name in wanted]
    offered = set(offered)
    found = [mechanisms[name] for name in names if name in offered and name in mechanisms]
    return [
        mechanism
        for mechanism in found
        if (clear_allowed or not mechanism.in_clear)
        and (wanted is not None or not mechanism.on_request)
        and (credentials is None or usable(mechanism, credentials))
    ]


def usable(mechanism: Mechanism, credentials: Login) -> bool:
    """Whether what is there suffices: the secret, and for -PLUS what is known of the channel."""
    if mechanism.name.endswith("-PLUS") and mechanism.library == "scramp" and credentials.channel is None:
        return False
    if mechanism.needs == "password" and credentials.token and not credentials.password:
        return False
    return mechanism.needs != "token" or bool(credentials.token)


def needs_nothing(wanted: Collection[str] | None) -> bool:
    """Whether ``wanted`` has a mechanism that is used without a password or token; one not known may be such."""
    mechanisms = known()
    return any(name not in mechanisms or not mechanisms[name].needs for name in wanted or ())
