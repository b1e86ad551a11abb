"""From a server to a connection that is ready for mail: look-up, lease, login; and the next server after a failure."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any

from smtpbackend.delivery import alarm
from smtpbackend.delivery.addresses import forget
from smtpbackend.delivery.asks import Effects, Find, Give, Lease, Release, Talk, Token
from smtpbackend.delivery.pooling import Connection
from smtpbackend.delivery.receipts import of_all_servers
from smtpbackend.delivery.route import Route
from smtpbackend.delivery.server import Server
from smtpbackend.errors import DeliveryError, InvalidInput, MailerClosed, SMTPError, TimedOut
from smtpbackend.events import ServerFailed, Telling
from smtpbackend.outcome import Reply
from smtpbackend.protocol import command
from smtpbackend.protocol.authentication import Attempt
from smtpbackend.protocol.sasl import Credentials
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.timeouts import Deadline

__all__ = ["Connecting", "is_crowd", "open_session"]

# "Too many connections" by code. Microsoft 365, to MAIL and content: "432 4.3.2 Concurrent connections limit
# exceeded", "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded". Sendmail and Exchange, greeting: 421 4.3.2
_crowd_codes = ((421, (4, 3, 2)), (432, (4, 3, 2)))
_kind = r"(?:open|active|new|concurrent|simultaneous|parallel|client|server|inbound|incoming|SMTP|TLS|TCP|IP)"
# By its text alone, in a transient reply. "Too many messages in this connection" is another matter. It is
# compiled when it is first needed: few processes ever do
_CROWD_TEXTS = (
    "(?i)"
    # Postfix "421 4.7.0 Error: too many connections from", Exim and Amazon SES "421 Too many concurrent SMTP
    # connections", Sendmail "Too many open connections", Comcast "421 Too many sessions opened"
    rf"\btoo many (?:{_kind} )*(?:connections|sessions)\b"
    # Exchange "The maximum number of concurrent server connections has exceeded a limit", Dovecot "Maximum number of
    # connections from user+IP exceeded"
    rf"|\bmax(?:imum)?(?: number of)? (?:{_kind} )*connections\b"
    # Microsoft 365 "Concurrent connections limit exceeded", Sendmail "Connection rate limit exceeded", Haraka
    # "connection concurrency limit exceeded"
    r"|(?<!per )(?<!per-)\bconnections? (?:rate |count |concurrency )?limit\b"
    # Postfix's postscreen
    r"|\ball server ports are busy\b"
)


BARREN = 3  # connections in a row without a recipient settled after which a server has failed: DESIGN 4.4


class _Opening:
    """How the next connection of one `Connecting._connect` is opened, after what failed on those before it."""

    tls: str | None = None  # "none": mail goes in clear
    without_tls: Any = None  # the failure of TLS that is the reason
    login: Credentials | None = None
    refused: str | None = None  # the token that the server refused

    def __init__(self) -> None:
        self.attempt = Attempt()


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
        self._known_targets: dict[Server, list[Server]] = {}  # by SRV records
        self._trouble: SMTPError | None = None  # why there was no connection, the last time
        self._had_no_turn = False  # and whether that was only because no turn came
        self._barren: dict[Server, int] = {}  # connections in a row that ended without a recipient settled

    def _targets(self, server: Server, deadline: float | None, others: Sequence[Server]) -> Effects:
        """The servers that SRV records name: the same for a whole run, those that rest last. None: see ``_down``."""
        if server not in self._known_targets:
            try:
                found = yield Find(server, deadline)
            except SMTPError as error:
                self._down[server] = error
                if deadline is None or self.clock() < deadline:
                    self._server_failed(server, "connect", error, others)
                return []
            self.route.end_rest(server)
            now = self.clock()
            self._known_targets[server] = sorted(found, key=lambda target: self.route.is_resting(target, now))
        return self._known_targets[server]

    def connect(self, server: Server, fresh: bool, deadline: float | None, others: Sequence[Server]) -> Effects:
        """A connection that is ready for mail, or None: then the server is out of this run, see ``_down``.

        ``others`` are the servers that come after this one.
        """
        connection: Connection[Any] | None = None
        crowded = False
        opening = _Opening()
        try:
            connection = yield Lease(server, fresh, deadline)
            while not connection.reused:
                try:
                    yield from self._open(connection, opening, deadline)
                    return connection
                except SMTPError as error:
                    if connection.server.watch is not None:
                        connection.server.watch("ended", error)
                    connection.session.end(str(error))  # also where nothing was said because no token could be had
                    forget(server)
                    crowded = is_crowd(error.reply)
                    is_one_of_ours = yield Release(connection, crowded)
                    fresh = not (crowded and is_one_of_ours)  # else there is one to wait for: DESIGN 4.4
                    if fresh and not (yield from self._may_try_again(connection, opening, error, deadline)):
                        raise
                connection = None  # a failure from here on is not that one's
                connection = yield Lease(server, fresh, deadline)
            connection.session.line.resume()
            return connection
        except SMTPError as error:  # also InvalidSetting: a callable's wrong answer, a file that is gone
            self._down[server] = self._trouble = error
            if connection is None:  # no turn came, or the mailer was closed
                ours = isinstance(error, (TimedOut, MailerClosed))
            else:  # one too many that was beyond our own limit
                ours = crowded and connection.lender is not None
            self._had_no_turn = ours
            if not ours and (deadline is None or self.clock() < deadline):
                phase = connection.session.line.phase if connection else "connect"
                self._server_failed(server, phase, error, others)
            return None

    def _open(self, connection: Connection[Any], opening: _Opening, deadline: float | None) -> Effects:
        """Make a new connection ready for mail."""
        server, session = connection.server, connection.session
        if server.watch is not None:
            server.watch("session", session)
        session.without_tls = opening.without_tls
        if opening.login is None:
            session.line.phase = "auth"
            opening.login = yield from self._login(server, opening.refused, deadline)
            session.line.phase = "connect"
        yield Talk(connection, open_session(connection, opening.tls, opening.login, opening.attempt), None)
        connection.heard = self.clock()
        self.route.end_rest(server)
        if session.without_tls is not None:
            alarm.in_clear(server.name, session.without_tls)

    def _may_try_again(
        self, connection: Connection[Any], opening: _Opening, error: SMTPError, deadline: float | None
    ) -> Effects:
        """Whether another connection is opened after this error: in clear, for the next mechanism, by another token."""
        server, session, login = connection.server, connection.session, opening.login
        if session.may_go_on_in_clear and opening.tls is None:
            opening.tls, opening.without_tls = "none", error
            return True
        if session.login_goes_on:
            return True
        if opening.refused is not None or not login or not server.has_token_source:
            return False
        from smtpbackend.delivery.credentials import wants_fresh

        if not wants_fresh(error):
            return False
        opening.refused = login.token
        opening.login = yield from self._login(server, opening.refused, deadline)
        opening.attempt = Attempt()
        return opening.login.token != opening.refused

    def _assess(self, connection: Connection[Any]) -> None:
        """Decide whether the end of a connection counts as a failure: not if it settled a recipient (DESIGN 4.4)."""
        server, history = connection.server, connection.session.history
        if connection.has_worked:
            self._barren[server] = 0
        elif history.ended_by is not None and not history.is_on_trial:
            is_sick = history.refused_first and server not in self._barren  # else it may be the message
            self._barren[server] = self._barren.get(server, 0) + 1
            if is_sick or self._barren[server] >= BARREN:
                del self._barren[server]
                self._down[server] = history.ended_by
                self._blame(connection, history.ended_by, self.route.servers)

    def _blame(self, connection: Connection[Any], error: SMTPError | None, others: Sequence[Server]) -> None:
        """Let the server of a connection that ended by an error rest: once, however many messages were in flight."""
        if error is None or isinstance(error, InvalidInput) or not connection.session.broken:
            return
        if not connection.has_failed:
            connection.has_failed = True
            self._server_failed(connection.server, connection.session.line.phase, error, others)

    def _login(self, server: Server, refused: str | None, deadline: float | None) -> Effects:
        """Name and secret for this server, with a token where it has a source of tokens; None: no login."""
        login = server.login
        if login is None or server.token is None:
            return login
        token = server.token if isinstance(server.token, str) else (yield Token(server, refused, deadline))
        return login._replace(token=token)

    def _server_failed(self, server: Server, phase: str, error: SMTPError, others: Sequence[Server]) -> None:
        """Let a server rest, and tell what comes next."""
        self.route.begin_rest(server, self.clock())
        following = next((other.name for other in others if other not in self._down and other != server), None)
        event = ServerFailed(server.name, phase, error, following)
        alarm.server_failed(event, self.clock())
        self.tell(event)

    # Questions ---------------------------------------------------------------------------------------------------

    def verify(self, address: str) -> Effects:
        """VRFY. In these three, a wrong argument is refused before a connection is opened."""
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
        """Put one question to the first server that can be asked; its answer is given, or the error of all raised."""
        deadline = None
        if self.deadline is not None:
            setting = self.route.servers[0].spelling("deadline")
            deadline = Deadline.after(self.deadline, self.clock(), setting)
        failed: dict[Server, SMTPError] = {}
        servers = self.route.order(self.clock())
        while servers:
            server = servers.pop(0)
            if server.srv:
                servers[:0] = yield from self._targets(server, deadline, servers)
                if server in self._down:
                    failed[server] = self._down[server]
                continue
            for fresh in (False, True):
                connection = yield from self.connect(server, fresh, deadline, servers)
                if connection is None:
                    failed[server] = self._down[server]
                    break
                connection.deadline = deadline
                try:
                    ended = yield Talk(connection, question(connection.session), None)
                except DeliveryError as error:
                    failed[server] = error
                    yield Release(connection)
                    if not connection.reused:
                        break
                else:
                    yield Release(connection)
                    yield Give(1, ended.value)
                    return
        errors = [*failed.values()] or [DeliveryError("no server could be asked")]
        raise of_all_servers(errors[-1], errors)


def is_crowd(reply: Reply | None) -> bool:
    """Whether a server says, to whatever command, that it has too many connections of ours."""
    if reply is None:
        return False
    by_code = (reply.code, reply.enhanced) in _crowd_codes
    return by_code or (reply.is_transient and re.search(_CROWD_TEXTS, " ".join(reply.lines)) is not None)


def open_session(
    connection: Connection[Any],
    tls: str | None = None,
    login: Credentials | None = None,
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
        xque=server.xque,
        attempt=attempt,
    )
