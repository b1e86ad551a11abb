"""OAuth 2.0 access tokens: providers, how long a token is kept, and when a fresh one helps.

The mailers perform the effect `Token` of a dispatch with these; lock, clock and thread are theirs. The setting
``token`` may also be any callable that returns a token (for an AsyncMailer also a coroutine function), which is called
for each login.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

from smtpbackend.delivery.hostnames import is_loopback
from smtpbackend.errors import AuthenticationFailed, InvalidSetting, MissingExtra
from smtpbackend.hiding import Mask, Secret, discreet, keep_here

if TYPE_CHECKING:
    from smtpbackend.delivery.server import Server

__all__ = [
    "ClientCredentials",
    "Grant",
    "Provider",
    "RefreshToken",
    "google",
    "microsoft365",
    "microsoft365_app",
    "resolve",
    "wants_fresh",
]

MARGIN = 60.0  # seconds before its end that a token is not used any more, for a login and for clocks that differ
PATIENCE = 15.0  # seconds for the token endpoint
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", re.ASCII)


class Grant(NamedTuple):
    """The answer of a token endpoint (RFC 6749 5.1). ``lifetime`` is in seconds, None where it gave none."""

    token: str
    lifetime: float | None = None

    def __repr__(self) -> str:
        return f"Grant(token='***', lifetime={self.lifetime!r})"


class Provider:
    """Keeps a token until shortly before its end. A subclass implements `fetch`.

    ``margin`` is in seconds. One provider may serve many threads, tasks and mailers. A copy of it is itself, and it
    cannot be pickled.
    """

    def __init__(self, margin: float = MARGIN) -> None:
        self.margin = margin
        self._token = ""
        self._until = float("-inf")

    def current(self, now: float, refused: str | None = None) -> str | None:
        """The token that is kept, or None if one must be fetched. ``refused`` is one that a server refused."""
        return self._token if self._token and self._token != refused and now < self._until else None

    def keep(self, grant: Grant, now: float) -> str:
        """Keep a fetched token and return it; without a lifetime it is used once."""
        lifetime = grant.lifetime or 0.0
        # a lifetime of less than twice the margin is used by half
        self._token, self._until = Secret(grant.token), now + max(lifetime - self.margin, lifetime / 2)
        return self._token

    def check_extra(self) -> None:
        """Raise `MissingExtra` where a library for `fetch` is missing; called when a mailer is made."""

    def load(self) -> None:
        """Load what `fetch` needs; called when a mailer is made."""

    def fetch(self, timeout: float = PATIENCE) -> Grant:
        """Ask for a token; blocks. Raises `AuthenticationFailed`."""
        raise NotImplementedError

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        keep_here(f"a {type(self).__name__}")


class _Endpoint(Provider):
    """An OAuth 2.0 token endpoint, by way of Authlib and requests."""

    def __init__(
        self,
        token_url: str,
        client_id: str,
        client_secret: str | None,
        scope: str | None,
        *,
        auth_method: str = "client_secret_post",
        margin: float = MARGIN,
        ca_file: str | None = None,
    ) -> None:
        super().__init__(margin)
        self.token_url = _checked_url(token_url)
        self.client_id = client_id
        self.scope = scope
        self._client_secret = Secret(client_secret) if client_secret else None
        self._auth_method = auth_method if client_secret else "none"
        self._verify: Any = ca_file or True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.token_url} client_id={self.client_id!r}>"

    def check_extra(self) -> None:
        """Look for Authlib and requests, and do not load them yet."""
        if not (_is_module("authlib") and _is_module("requests")):
            raise MissingExtra(f'{type(self).__name__} needs Authlib and requests: pip install "smtpbackend[oauth2]"')

    def load(self) -> None:
        """Load Authlib and requests: a process forked while a thread loads them could never load them."""
        import importlib

        importlib.import_module("authlib.integrations.requests_client")

    def _request(self) -> dict[str, Any]:
        raise NotImplementedError

    def _granted(self, said: Mapping[str, Any]) -> None:
        """Use what else came with the token."""

    @discreet
    def fetch(self, timeout: float = PATIENCE) -> Grant:
        """Ask the endpoint; ``timeout`` is in seconds."""
        self.check_extra()
        import requests
        from authlib.integrations.base_client import OAuthError
        from authlib.integrations.requests_client import OAuth2Session

        client = OAuth2Session(
            self.client_id, self._client_secret, scope=self.scope, token_endpoint_auth_method=self._auth_method
        )
        with client:
            said: Any = None
            why, transient = "", False
            try:
                said = client.fetch_token(
                    self.token_url, timeout=timeout, verify=self._verify, allow_redirects=False, **self._request()
                )
            except OAuthError as error:  # RFC 6749 5.2
                why = f"{error.error}: {error.description}" if error.description else str(error.error)
            except requests.RequestException as error:
                # it holds the request, and with it the secrets: only its class is shown
                status = getattr(getattr(error, "response", None), "status_code", None)
                why, transient = f"{type(error).__name__}{f' {status}' if status else ''}", True
            except ValueError as error:
                why = f"its answer cannot be read ({type(error).__name__})"
        token = said.get("access_token") if isinstance(said, Mapping) else None
        if not why and (not isinstance(token, str) or not token):
            why = "its answer has no access_token"
        if why:
            raise failed(
                f"{self.token_url} gave no token ({Mask(*self._secrets())(why)}); check client_id and secrets",
                transient,
            )
        self._granted(said)
        try:
            lifetime = float(said["expires_in"])
        except (KeyError, TypeError, ValueError):
            lifetime = None
        return Grant(str(token), lifetime)

    def _secrets(self) -> list[str]:
        return [secret for secret in (self._client_secret,) if secret]


class ClientCredentials(_Endpoint):
    """The client-credentials grant (RFC 6749 4.4): an application that is allowed to send by itself."""

    @discreet
    def __init__(
        self, token_url: str, client_id: str, client_secret: str, scope: str | None = None, **options: Any
    ) -> None:
        super().__init__(token_url, client_id, client_secret, scope, **options)

    def _request(self) -> dict[str, Any]:
        return {"grant_type": "client_credentials"}


class RefreshToken(_Endpoint):
    """The refresh-token grant (RFC 6749 6): a user has allowed the application to send in their name.

    ``on_rotation`` is called with the new refresh token where the endpoint gives one; keep it for the next start.
    """

    @discreet
    def __init__(
        self,
        token_url: str,
        client_id: str,
        client_secret: str | None,
        refresh_token: str,
        scope: str | None = None,
        *,
        on_rotation: Callable[[str], object] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(token_url, client_id, client_secret, scope, **options)
        self._refresh_token = Secret(refresh_token)
        self._on_rotation = on_rotation

    def _request(self) -> dict[str, Any]:
        scope = {"scope": self.scope} if self.scope else {}
        return {"grant_type": "refresh_token", "refresh_token": self._refresh_token, **scope}

    def _granted(self, said: Mapping[str, Any]) -> None:
        new = said.get("refresh_token")
        if isinstance(new, str) and new and new != self._refresh_token:
            self._refresh_token = Secret(new)
            if self._on_rotation is not None:
                self._on_rotation(new)

    def _secrets(self) -> list[str]:
        return [*super()._secrets(), self._refresh_token]


@discreet
def google(client_id: str, client_secret: str, refresh_token: str, **options: Any) -> RefreshToken:
    """Gmail and Google Workspace (smtp.gmail.com): a user's refresh token."""
    url = "https://oauth2.googleapis.com/token"
    return RefreshToken(url, client_id, client_secret, refresh_token, "https://mail.google.com/", **options)


@discreet
def microsoft365(
    tenant: str, client_id: str, client_secret: str | None, refresh_token: str, **options: Any
) -> RefreshToken:
    """Microsoft 365 (smtp.office365.com): a user's refresh token. ``tenant`` is its id or domain, or "common"."""
    scope = "https://outlook.office.com/SMTP.Send offline_access"
    return RefreshToken(_microsoft(tenant), client_id, client_secret, refresh_token, scope, **options)


@discreet
def microsoft365_app(tenant: str, client_id: str, client_secret: str, **options: Any) -> ClientCredentials:
    """Microsoft 365 (smtp.office365.com): an application with the permission SMTP.SendAsApp."""
    scope = "https://outlook.office365.com/.default"
    return ClientCredentials(_microsoft(tenant), client_id, client_secret, scope, **options)


def _microsoft(tenant: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]+", tenant):
        raise InvalidSetting(
            "tenant is neither an id nor a domain; the client's secret is no part of it", field="token"
        )
    return f"https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"


# The host: a name in ASCII, an IPv4 address of four numbers, or an IPv6 address; and a port
_TOKEN_URL = re.compile(
    r"(https?)://(?:((?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?\.?)"
    r"|([0-9]{1,3}(?:\.[0-9]{1,3}){3})|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?(?:[/?](?:(?![\\#])[!-~])*)?"
)


def _checked_url(url: Any) -> str:
    """``url`` if it is that of a token endpoint, with a host that every client reads alike. Raises `InvalidSetting`.

    A browser reads a backslash as a slash, drops tabs and line ends, and reads full-width letters as plain ones
    (WHATWG URL 4.4). These are refused, and so is an "@", since the host follows it.
    """
    match = _TOKEN_URL.fullmatch(url) if isinstance(url, str) else None
    if match is None or not _is_host(*match.groups()[1:]):
        raise InvalidSetting(
            "token_url must be https:// and a host, with a port and a path where they are wanted: no user name or "
            "password, no '\\', '#', blank or line end, names outside ASCII as xn--, addresses in their usual form",
            field="token",
        )
    if match[1] == "http" and not is_loopback(match[2] or match[3] or match[4]):
        raise InvalidSetting("token_url must begin with https:// (http:// on this machine only)", field="token")
    return str(url)


def _is_host(name: str | None, *addresses: str | None) -> bool:
    import ipaddress

    try:
        return name is not None or all(ipaddress.ip_address(address) for address in addresses if address is not None)
    except ValueError:
        return False


# The setting -----------------------------------------------------------------------------------------------------


@discreet
def resolve(value: Any, setting: str = "token") -> Any:
    """The value of ``setting``, which is ``token``: a callable or `Provider`, the dotted path of one, or a token.

    A string is a path if it has names with dots between, and the first names a module. Raises `InvalidSetting`, which
    never repeats what may be a token.
    """
    if isinstance(value, str) and _PATH.fullmatch(value) and len(value) <= 255 and _is_module(value.partition(".")[0]):
        value = _imported(value, setting)
    if isinstance(value, str):
        if not value or not value.isascii() or not value.isprintable() or " " in value:  # RFC 6750 2.1
            raise InvalidSetting(f"{setting} is empty, or has characters that no token has", field="token")
    elif not callable(value) and not isinstance(value, Provider):
        raise InvalidSetting(
            f"{setting} must be a token, a callable that gives one, or the dotted path of one, not "
            f"{type(value).__name__}",
            field="token",
        )
    if isinstance(value, Provider):
        value.check_extra()
    return Secret(value) if isinstance(value, str) else value


def _imported(path: str, setting: str) -> Any:
    """The object at a dotted path, which may be a token after all: an error repeats no more than a module's name."""
    import importlib
    import sys

    module, _, name = path.rpartition(".")
    cause: Exception | None = None
    try:
        found = importlib.import_module(module)
    except (ImportError, AttributeError) as error:
        if not (isinstance(error, ModuleNotFoundError) and path.startswith(error.name or path)):
            cause = error  # of the module's own code
    else:
        if hasattr(found, name):
            return getattr(found, name)
    while module and module not in sys.modules:
        module = module.rpartition(".")[0]
    raise InvalidSetting(
        f"{setting} is a dotted path to something in {module!r}, and what follows there cannot be imported",
        field="token",
    ) from cause


def _is_module(name: str) -> bool:
    import importlib.util
    import sys

    try:
        return sys.modules.get(name) is not None or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


# For the mailers -------------------------------------------------------------------------------------------------


def failed(message: str, transient: bool = False, server: str | None = None) -> AuthenticationFailed:
    """The error where there is no token."""
    error = AuthenticationFailed(message, server=server)
    error._transient = transient
    return error


def too_late(server: Server) -> AuthenticationFailed:
    """The error where the token was not there in time."""
    late = f"the token for {server.name} did not come in time; see {server.spelling('deadline')}"
    return failed(late, True, server.name)


def raised(error: Exception, server: str) -> AuthenticationFailed:
    """The error of a callable that raised. Its text may hold secrets, and stays in the cause."""
    return failed(f"the token for {server} cannot be had: its callable raised {type(error).__name__}", True, server)


@discreet
def checked(token: Any, server: str, setting: str = "token") -> str:
    """The token that a callable returned. Raises `InvalidSetting` where it is none."""
    if inspect.isawaitable(token):
        if inspect.iscoroutine(token):
            token.close()
        raise InvalidSetting(f"{setting} for {server} is asynchronous: only an AsyncMailer can await it", field="token")
    if isinstance(token, Grant):
        token = token.token
    if not isinstance(token, str):
        raise InvalidSetting(f"{setting} for {server} gave a {type(token).__name__}, and no token", field="token")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidSetting(f"{setting} for {server} gave what is empty or no token", field="token")
    return Secret(token)


def wants_fresh(error: Exception) -> bool:
    """Whether a refused login may succeed with a fresh token: not where the server names another reason."""
    if not isinstance(error, AuthenticationFailed) or error.reply is None or not error.reply.is_permanent:
        return False
    # RFC 7628 3.2.2; Google's XOAUTH2 has numbers instead, and other servers only reply 535
    return str(error.details.get("status", "invalid_token")) in ("invalid_token", "400", "401")
