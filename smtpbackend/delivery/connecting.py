"""From a server to a connection that is ready for mail: look-up, lease, login; and which server comes after a failure.

Decisions only; what they need is asked for by the effects of ``asks.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any

from smtpbackend.delivery.asks import Effects, Find, Give, Lease, Release, Talk, Token
from smtpbackend.delivery.credentials import wants_fresh
from smtpbackend.delivery.pooling import Connection
from smtpbackend.delivery.route import Route
from smtpbackend.delivery.server import Server
from smtpbackend.errors import DeliveryError, SMTPError, TimedOut
from smtpbackend.events import ServerFailed, Telling
from smtpbackend.protocol import command
from smtpbackend.protocol.sasl import Attempt, Login
from smtpbackend.protocol.session import Session

__all__ = ["Connecting", "open_session"]

# Postfix and Gmail "too many ... connections", Exim the same, Exchange "maximum number of concurrent ... connections",
# Sendmail "too many open connections" and "connection rate limit exceeded"
_crowd = re.compile(r"too many\b.*\b(?:connection|session)|maximum number\b.*\bconnection|connection\b.*\blimit", re.I)


class Connecting:
    """The servers of one run: those that cannot be used are ``down``, and are not tried again in it."""

    def __init__(
        self,
        route: Route,
        *,
        tell: Telling,
        clock: Callable[[], float],
        deadline: float | None = None,
        down: dict[Server, SMTPError] | None = None,
    ) -> None:
        self.route = route
        self.tell = tell
        self.clock = clock
        self.deadline = deadline
        self._down = {} if down is None else down
        self._found: dict[Server, list[Server]] = {}  # by SRV records

    def _find(self, server: Server, deadline: float | None, others: Sequence[Server]) -> Effects:
        """The servers that SRV records name: the same for a whole run, those that rest last. None: see ``_down``."""
        if server not in self._found:
            try:
                found = yield Find(server, deadline)
            except SMTPError as error:
                self._down[server] = error
                if deadline is None or self.clock() < deadline:
                    self._failed(server, "connect", error, others)
                return []
            self.route.worked(server)
            now = self.clock()
            self._found[server] = sorted(found, key=lambda target: self.route.is_resting(target, now))
        return self._found[server]

    def _connect(self, server: Server, fresh: bool, deadline: float | None, others: Sequence[Server]) -> Effects:
        """A connection that is ready for mail, or None: then the server is out of this run, see ``_down``.

        ``others`` are the servers that come after this one.
        """
        connection: Connection[Any] | None = None
        try:
            connection = yield Lease(server, fresh, deadline)
            tls = login = refused = without_tls = None
            attempt = Attempt()
            has_source = server.token is not None and not isinstance(server.token, str)
            while not connection.reused:
                session = connection.session
                session.without_tls = without_tls
                try:
                    if login is None:
                        session.phase = "auth"
                        login = yield from self._login(server, refused, deadline)
                        session.phase = "connect"
                    yield Talk(connection, open_session(connection, tls, login, attempt), None)
                    connection.heard = self.clock()
                    self.route.worked(server)
                    return connection
                except SMTPError as error:
                    session.broken = True  # also where nothing was said because no token could be had
                    crowded = is_crowd(session, error)
                    is_one_of_ours = yield Release(connection, crowded)
                    fresh = True
                    if crowded and is_one_of_ours:
                        connection, fresh = None, False  # DESIGN 4.4: the server is well, and one of ours will be free
                    elif session.may_go_on_in_clear and tls is None:
                        tls, without_tls = "none", error
                    elif session.login_goes_on:
                        pass
                    elif refused is None and login and has_source and wants_fresh(error):
                        refused = login.token
                        login = yield from self._login(server, refused, deadline)
                        if login.token == refused:  # there is no other
                            raise
                        attempt = Attempt()
                    else:
                        raise
                connection = yield Lease(server, fresh, deadline)
            connection.session.resume()
            return connection
        except SMTPError as error:  # InvalidSetting too: what a callable of the caller's answered, a file that is gone
            self._down[server] = error
            ours = connection is None and isinstance(error, TimedOut)  # all our connections stayed in use
            if not ours and (deadline is None or self.clock() < deadline):
                self._failed(server, connection.session.phase if connection else "connect", error, others)
            return None

    def _login(self, server: Server, refused: str | None, deadline: float | None) -> Effects:
        """Name and secret for this server, with a token where it has a source of tokens; None: no login."""
        login = server.login
        if login is None or server.token is None:
            return login
        token = server.token if isinstance(server.token, str) else (yield Token(server, refused, deadline))
        return login._replace(token=token)

    def _failed(self, server: Server, phase: str, error: SMTPError, others: Sequence[Server]) -> None:
        """Let a server rest, and tell what comes next."""
        self.route.failed(server, self.clock())
        following = next((other.name for other in others if other not in self._down and other != server), None)
        self.tell(ServerFailed(server.name, phase, error, following))

    # Questions ---------------------------------------------------------------------------------------------------

    def verify(self, address: str) -> Effects:
        """VRFY. What cannot be asked is refused here and below before a connection is opened."""
        command.vrfy(address, utf8=True)
        return self.ask(lambda session: session.verify(address))

    def expand(self, name: str) -> Effects:
        """EXPN."""
        command.expn(name)
        return self.ask(lambda session: session.expand(name))

    def help(self, argument: str) -> Effects:
        """HELP."""
        command.help_(argument)
        return self.ask(lambda session: session.help(argument))

    def ask(self, question: Callable[[Session], Effects]) -> Effects:
        """Put one question to the first server that can be asked; its answer is given, or the last error raised."""
        deadline = None if self.deadline is None else self.clock() + self.deadline
        error: SMTPError | None = None
        servers = self.route.order(self.clock())
        while servers:
            server = servers.pop(0)
            if server.srv:
                servers[:0] = yield from self._find(server, deadline, servers)
                error = self._down.get(server, error)
                continue
            for fresh in (False, True):
                connection = yield from self._connect(server, fresh, deadline, servers)
                if connection is None:
                    error = self._down[server]
                    break
                connection.deadline = deadline
                try:
                    ended = yield Talk(connection, question(connection.session), None)
                except DeliveryError as failed:
                    error = failed
                    yield Release(connection)
                    if not connection.reused:
                        break
                else:
                    yield Release(connection)
                    yield Give(ended.value)
                    return
        raise error or DeliveryError("no server could be asked")


def is_crowd(session: Session, error: SMTPError) -> bool:
    """Whether the server turned a connection away because it has too many."""
    reply = error.reply
    early = session.phase in ("greeting", "hello")
    return early and reply is not None and reply.is_transient and _crowd.search(reply.text) is not None


def open_session(
    connection: Connection[Any],
    tls: str | None = None,
    login: Login | None = None,
    attempt: Attempt | None = None,
) -> Generator[Any, Any, None]:
    """The conversation that makes a new connection ready for mail, as its server's settings say."""
    from smtpbackend.delivery.tls import on_failure

    server, session = connection.server, connection.session
    return session.open(
        tls or server.tls,
        login or server.login,
        mechanisms=server.auth_mechanisms,
        allow_cleartext_auth=server.allow_cleartext_auth,
        on_tls_failure=on_failure(server, session.local_peer),
        queue=server.queue,
        attempt=attempt,
    )
