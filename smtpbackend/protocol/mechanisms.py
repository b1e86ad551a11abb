"""The SASL mechanisms: the built-in ones, those that are registered, and which may be used on a connection.

The names and types that a mechanism is written with are in ``sasl.py``. Which mechanism follows another that failed is
decided in ``authentication.py``.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Collection, Iterable

from smtpbackend.errors import InvalidSetting
from smtpbackend.protocol.sasl import Credentials, Exchange, Mechanism, missing

__all__ = [
    "MECHANISMS",
    "check",
    "choose",
    "cram_md5",
    "known",
    "load",
    "login",
    "needs_nothing",
    "plain",
    "register",
    "unregister",
]


def plain(credentials: Credentials) -> Exchange:
    """RFC 4616: authorization identity (empty), name, password."""
    yield b"\0".join((b"", credentials.username.encode(), credentials.password.encode()))


def login(credentials: Credentials) -> Exchange:
    """LOGIN, never standardised (draft-murchison-sasl-login-00): name, then password, each upon a prompt.

    "The contents of both challenges SHOULD be ignored": servers send them in any form.
    """
    yield None
    yield credentials.username.encode()
    yield credentials.password.encode()


def cram_md5(credentials: Credentials) -> Exchange:
    """RFC 2195: a digest of the challenge, keyed with the password."""
    import hmac

    challenge = yield None
    if challenge is None:  # accepted without a challenge: this mechanism proves nothing about the server anyway
        return
    digest = hmac.new(credentials.password.encode(), challenge, "md5").hexdigest()
    yield f"{credentials.username} {digest}".encode()


def external(credentials: Credentials) -> Exchange:
    """RFC 4422 A: the server knows the client already, for example by its certificate. The name may be empty."""
    yield credentials.username.encode()


def anonymous(credentials: Credentials) -> Exchange:
    """RFC 4505: the name is optional trace information, such as a mail address."""
    yield credentials.username.encode()


# The larger ones have modules of their own, loaded when they are used


def _digest_md5(credentials: Credentials) -> Exchange:
    from smtpbackend.protocol.digest import digest_md5

    return digest_md5(credentials)


def _scram(name: str) -> Callable[[Credentials], Exchange]:
    def exchange(credentials: Credentials) -> Exchange:
        from smtpbackend.protocol.scram import scram

        return scram(name, credentials)

    return exchange


def _oauthbearer(credentials: Credentials) -> Exchange:
    from smtpbackend.protocol.bearer import oauthbearer

    return oauthbearer(credentials)


def _xoauth2(credentials: Credentials) -> Exchange:
    from smtpbackend.protocol.bearer import xoauth2

    return xoauth2(credentials)


_SCRAM = ("SCRAM-SHA-512", "SCRAM-SHA-256", "SCRAM-SHA-1")

MECHANISMS: tuple[Mechanism, ...] = (  # strongest first
    *(Mechanism(f"{name}-PLUS", _scram(f"{name}-PLUS"), in_clear=False, library="scramp") for name in _SCRAM),
    *(Mechanism(name, _scram(name), in_clear=False, library="scramp") for name in _SCRAM),
    # historic (RFC 6331)
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
    """Let every mailer of this process use a mechanism, before the built-in ones; it replaces one of the same name.

    Names are compared in upper case. Register it before you make the `Server` whose ``auth_mechanisms`` names it.
    """
    unregister(mechanism.name)
    _registered[mechanism.name.upper()] = mechanism._replace(name=mechanism.name.upper())


def unregister(name: str) -> None:
    """Undo `register`; a built-in mechanism of that name is used again."""
    _registered.pop(name.upper(), None)


def known() -> dict[str, Mechanism]:
    """Every mechanism by its name: the registered ones, the last first, then the built-in ones, strongest first."""
    registered = dict(reversed(_registered.items()))
    return {**registered, **{mechanism.name: mechanism for mechanism in MECHANISMS if mechanism.name not in registered}}


def load(wanted: Iterable[str] | None, *, password: bool, token: bool) -> None:
    """Load the modules of the built-in mechanisms that a login may use, as far as their libraries are installed."""
    names = list(known()) if wanted is None else [name.upper() for name in wanted]
    modules = ["smtpbackend.protocol.bearer"] if token else []
    if password and "DIGEST-MD5" in names:
        modules += ["smtpbackend.protocol.digest"]
    if password and any(name.startswith("SCRAM-") for name in names):
        modules += ["smtpbackend.protocol.scram", "scramp.core", "asn1crypto.x509"]
    for module in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def choose(
    offered: Iterable[str],
    wanted: Iterable[str] | None,
    clear_allowed: bool,
    credentials: Credentials | None = None,
) -> list[Mechanism]:
    """The mechanisms to try: strongest first, or in the order of ``wanted``.

    ``clear_allowed``: whether the channel may carry a secret in clear (DESIGN 4.7). With ``credentials``, only those
    mechanisms for which these are enough. Where both a token and a password are set, those that use the password come
    last, unless ``wanted`` has the order.
    """
    mechanisms = known()
    names = list(mechanisms) if wanted is None else [name.upper() for name in wanted]
    if wanted is None and credentials is not None and credentials.token:
        names.sort(key=lambda name: mechanisms[name].needs == "password")  # stable
    offered = set(offered)
    return [
        mechanism
        for mechanism in [mechanisms[name] for name in names if name in offered and name in mechanisms]
        if (clear_allowed or not mechanism.in_clear)
        and (wanted is not None or not mechanism.on_request)
        and (credentials is None or usable(mechanism, credentials))
    ]


def usable(mechanism: Mechanism, credentials: Credentials) -> bool:
    """Whether the credentials suffice for a mechanism: its secret, and for -PLUS a TLS channel (RFC 5801 3.2)."""
    if mechanism.name.endswith("-PLUS") and credentials.channel is None:
        return False
    if mechanism.needs == "password" and credentials.token and not credentials.password:
        return False
    return mechanism.needs != "token" or bool(credentials.token)


def needs_nothing(wanted: Collection[str] | None) -> bool:
    """Whether ``wanted``, which `check` has passed, names a mechanism that needs neither password nor token."""
    mechanisms = known()
    return any(not mechanisms[name].needs for name in wanted or ())


def check(wanted: Iterable[str], setting: str = "auth_mechanisms") -> None:
    """Raise `InvalidSetting` for an unknown mechanism, and `MissingExtra` for one whose library is not installed."""
    mechanisms = known()
    for name in wanted:
        mechanism = mechanisms.get(name.upper())
        if mechanism is None:
            raise InvalidSetting(
                f"{setting} has {name!r}, which is not known; known are {', '.join(mechanisms)}, and what is "
                "registered before the Server is made",
                field="auth_mechanisms",
            )
        if mechanism.library:
            try:
                importlib.import_module(mechanism.library)
            except ImportError as error:
                raise missing(mechanism.name, mechanism.library) from error
