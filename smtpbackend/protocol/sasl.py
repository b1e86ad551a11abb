"""Logging in: each SASL mechanism is a generator that yields responses and is sent challenges (RFC 4422, RFC 4954).

The first value yielded is the initial response, or None where the mechanism has none. Bytes in, bytes out; base64 is
the session's matter. What takes long is yielded as `Long` and done elsewhere, so that no event loop waits for it. When
the server says that the login succeeded, the mechanism is sent None: it ends, or raises `Refused` where the server
still owes its proof. Which mechanisms may be used on which channel, and which one after another, is decided here too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from smtpbackend.errors import InvalidSetting, MissingExtra

if TYPE_CHECKING:
    from smtpbackend.outcome import Reply
    from smtpbackend.protocol.effects import Channel

__all__ = [
    "MECHANISMS",
    "Attempt",
    "Exchange",
    "Login",
    "Long",
    "Mechanism",
    "Refused",
    "check",
    "choose",
    "cram_md5",
    "known",
    "login",
    "plain",
    "register",
]

Exchange = Generator["bytes | Long | None", Any, None]


class Long(NamedTuple):
    """Yielded by an exchange: do this, which takes long, and send me what it returned, or throw what it raised."""

    do: Callable[[], Any]


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
    it should be, and no other mechanism is tried. ``by_server``: it was the server that refused name and secret, in a
    challenge. ``details`` are what it said there, decoded.
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
    """A way to log in. ``in_clear``: whoever reads along learns the secret, so it needs a verified channel.

    ``needs`` names the field of `Login` without which it cannot be used, "" for none. ``on_request``: used only where
    the setting ``auth_mechanisms`` names it. ``library`` is an optional module that it needs. ``prompted``: what the
    server says to it is for people to read, and is not decoded.
    """

    name: str
    exchange: Callable[[Login], Exchange]
    in_clear: bool
    needs: str = "password"
    on_request: bool = False
    library: str = ""
    prompted: bool = False


def plain(credentials: Login) -> Exchange:
    """RFC 4616: authorization identity (empty), name, password."""
    yield b"\0".join((b"", credentials.username.encode(), credentials.password.encode()))


def login(credentials: Login) -> Exchange:
    """LOGIN, never standardised (draft-murchison-sasl-login-00): name, then password, each upon a prompt.

    "The contents of both challenges SHOULD be ignored": servers send them in any form.
    """
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
    # historic (RFC 6331); servers that go on to want a security layer behind it are lost for mail
    Mechanism("DIGEST-MD5", _digest_md5, in_clear=False, on_request=True),
    Mechanism("CRAM-MD5", cram_md5, in_clear=False),
    Mechanism("OAUTHBEARER", _oauthbearer, in_clear=True, needs="token"),
    Mechanism("XOAUTH2", _xoauth2, in_clear=True, needs="token"),
    Mechanism("PLAIN", plain, in_clear=True),
    Mechanism("LOGIN", login, in_clear=True, prompted=True),
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
    """Whether ``wanted``, which `check` has passed, has a mechanism that is used without a password or token."""
    mechanisms = known()
    return any(not mechanisms[name].needs for name in wanted or ())


def check(wanted: Iterable[str]) -> None:
    """Raise `InvalidSetting` for a mechanism that is not known, `MissingExtra` for one whose library is not there."""
    mechanisms = known()
    for name in wanted:
        mechanism = mechanisms.get(name.upper())
        if mechanism is None:
            raise InvalidSetting(
                f"auth_mechanisms has {name!r}, which is not known; known are {', '.join(mechanisms)}, and what was "
                "registered before the server was given",
                field="auth_mechanisms",
            )
        if mechanism.library:
            import importlib

            try:
                importlib.import_module(mechanism.library)
            except ImportError as error:
                raise missing(mechanism.name, mechanism.library) from error


def missing(mechanism: str, library: str) -> MissingExtra:
    """The error of a mechanism without its library."""
    extra = ': pip install "smtpbackend[scram]"' if library == "scramp" else ""
    return MissingExtra(f"{mechanism} needs {library}{extra}")


# RFC 5321 4.2.4 and RFC 4954 4, 6: of the command, its place or the mechanism, and not of the name and its secret
_OF_THE_MECHANISM = frozenset((500, 501, 502, 503, 504, 530, 534, 538))


class Attempt:
    """One login with one secret, over as many connections as it takes: what was tried, and what came of it.

    Servers lock an account after a few refused passwords, so one is tried once: again only where a challenge-response
    was refused, which needs the password stored in another form than PLAIN and LOGIN do, and not everybody has it so.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        """For each mechanism tried, what the server said, or why it did not go on."""
        self.reply: Reply | None = None
        """The one that tells most: of the secret, rather than of a mechanism."""
        self.details: Mapping[str, Any] | None = None
        self._tried: set[str] = set()
        self._is_over = False
        self._is_refused = False  # the secret
        self._is_proven = True  # nobody has failed a challenge-response yet

    def following(self, candidates: Iterable[Mechanism], verified: bool) -> Mechanism | None:
        """The next mechanism to try, each once. ``verified``: whether we know who is on the other side."""
        for mechanism in () if self._is_over else candidates:
            if mechanism.name in self._tried:
                continue
            if mechanism.in_clear and not (self._is_proven or verified):
                continue  # who failed it may be an impostor that is after the password
            if not self._is_refused or (verified and mechanism.in_clear and mechanism.needs == "password"):
                return mechanism
        return None

    def skip(self, mechanism: Mechanism) -> None:
        """Leave one out that cannot be used here."""
        self._tried.add(mechanism.name)

    def ended(self, mechanism: Mechanism, reply: Reply | None, refusal: Refused | None, cancelled: bool) -> None:
        """Take down how a mechanism ended that did not pass: by which reply, and why it did not go on itself."""
        self._note(mechanism, "; ".join(str(why) for why in (refusal, reply) if why is not None))
        refused = refusal is not None and refusal.by_server
        if refusal is not None:
            self.details = refusal.details or self.details
            self._is_over = refusal.impostor
        if reply is not None and not reply.is_positive:
            of_mechanism = cancelled or reply.code in _OF_THE_MECHANISM
            refused = refused or (reply.is_permanent and not of_mechanism)
            if refused or reply.is_transient or self.reply is None:
                self.reply = reply
            if reply.code < 400:
                self._is_over = True  # no answer to AUTH
        if refused:
            is_challenge = mechanism.needs == "password" and not mechanism.in_clear
            self._is_over = self._is_over or self._is_refused or not is_challenge
            self._is_refused = True

    def hung_up(self, mechanism: Mechanism) -> None:
        """Take down that the server closed the connection and said nothing to this mechanism."""
        self._note(mechanism, "the connection was closed")
        self._is_over = self._is_refused

    def _note(self, mechanism: Mechanism, what: str) -> None:
        self._tried.add(mechanism.name)
        self.said.append(f"{mechanism.name}: {what}")
        self._is_proven = self._is_proven and mechanism.in_clear

    @property
    def was_answered(self) -> bool:
        """Whether the server said something of the secret, or that it cannot tell now."""
        return self._is_refused or (self.reply is not None and self.reply.is_transient)
