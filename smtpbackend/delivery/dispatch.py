"""What happens to a stream of messages: one generator that decides, for both mailers.

It yields what it needs: the next item of the source (`Pull`), a connection (`Lease`, `Release`), a stretch of
conversation (`Talk`); and each receipt when it is known (`Give`), in the order of the messages. The rules are those of
DESIGN section 4: which reply settles a recipient, what may be replayed, which server comes next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from smtpbackend import mime
from smtpbackend.delivery.credentials import wants_fresh
from smtpbackend.delivery.judgement import judge
from smtpbackend.delivery.pooling import Connection
from smtpbackend.delivery.receipts import failure, queue_id, report
from smtpbackend.delivery.route import Route
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.splitting import first_group, may_follow, rest_of
from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.errors import CancelSend, DeliveryError, InvalidInput, NotSupported, SMTPError, TimedOut
from smtpbackend.events import MessageSending, ServerFailed
from smtpbackend.outcome import Outcome, Receipt, Reply, Status
from smtpbackend.protocol import command
from smtpbackend.protocol.effects import LATER, Ended, Next, Settled
from smtpbackend.protocol.sasl import Login
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.transaction import Transaction, notes, objection

__all__ = ["END", "Dispatch", "Find", "Give", "Lease", "Pull", "Release", "Talk", "Token"]


class Pull(NamedTuple):
    """Give me the next item of the source, or `END`. With ``unsent``, answer `LATER` rather than wait for it."""

    unsent: bool


class Find(NamedTuple):
    """Give me the servers that the SRV records of this one name, in the order to try them.

    ``deadline`` is in seconds of the clock, or None.
    """

    server: Server
    deadline: float | None


class Lease(NamedTuple):
    """Give me a connection to this server: an idle one (``fresh`` forbids that), else a new one, not yet spoken on.

    ``deadline`` is in seconds of the clock, or None.
    """

    server: Server
    fresh: bool
    deadline: float | None


class Token(NamedTuple):
    """Give me an access token for this server, other than the one that it ``refused``; ``deadline`` as for `Lease`."""

    server: Server
    refused: str | None
    deadline: float | None


class Talk(NamedTuple):
    """Carry this conversation on with ``value``: answered with `Next`, `Settled` or `Ended`."""

    connection: Connection[Any]
    conversation: Generator[Any, Any, Any]
    value: Any


class Release(NamedTuple):
    """Take this connection back; a broken one is closed."""

    connection: Connection[Any]


class Give(NamedTuple):
    """A receipt, for the caller."""

    receipt: Receipt


END: Final = object()

Effects = Generator[Any, Any, Any]


class _Mail:
    """One message on its way: who is still pending, what became of the others, which servers were tried."""

    def __init__(self, message: Any, envelope: Envelope | None, content: mime.Content | None) -> None:
        self.message = message
        self.envelope = envelope
        self.content = content
        recipients = envelope.recipients if envelope else ()
        self.outcomes: dict[Recipient, Outcome] = {}
        self.attempts = dict.fromkeys(recipients, 0)
        self.heard: dict[Recipient, tuple[Reply | None, str | None, SMTPError | None]] = {}
        self.pending: tuple[Recipient, ...] = recipients
        self.aside: tuple[Recipient, ...] = ()  # for the next server, when this one is through with those pending
        self.deadline: float | None = None
        self.servers: list[Server] | None = None
        self.offered = 0  # how many servers there are, and how many of them
        self.objections = 0  # cannot be given this message
        self.renewed: set[Server] = set()  # had their one fresh connection
        self.fresh = False
        self.reply: Reply | None = None
        self.server: str | None = None
        self.error: SMTPError | None = None
        self.notes: tuple[str, ...] = ()

    def settle(
        self, recipient: Recipient, status: Status, reply: Reply | None, server: str | None, error: SMTPError | None
    ) -> None:
        self.outcomes[recipient] = Outcome(recipient.address, status, reply, server, error, self.attempts[recipient])
        self.pending = tuple(other for other in self.pending if other is not recipient)

    def rejoin(self) -> None:
        """Those set aside are pending again."""
        self.pending, self.aside = self.pending + self.aside, ()

    def settle_all(self, status: Status, error: SMTPError, server: str | None = None) -> None:
        for recipient in self.pending:
            reply, heard_from, last_error = self.heard.get(recipient, (None, None, None))
            if reply is None:
                self.settle(recipient, status, None, server or heard_from, error)
            else:  # the last word is that server's
                self.settle(recipient, status, reply, heard_from, last_error)


class Dispatch:
    """A delivery of messages: ``run`` is the generator that a mailer performs.

    ``tell`` takes each event; ``clock`` gives seconds of a monotonic clock; ``stamp`` the date and the unique part of
    the Message-ID for a message that lacks them; ``deadline`` is in seconds, for each message; ``dkim`` has the
    signers of what leaves.
    """

    def __init__(
        self,
        route: Route,
        *,
        policy: str,
        tell: Callable[[Any], object],
        clock: Callable[[], float],
        stamp: Callable[[], tuple[datetime, str]],
        window: int = 1,
        deadline: float | None = None,
        dkim: Sequence[Any] = (),
    ) -> None:
        self.route = route
        self.policy = policy
        self.tell = tell
        self.clock = clock
        self.stamp = stamp
        self.window = window
        self.deadline = deadline
        self.dkim = dkim
        self._line: deque[_Mail] = deque()  # begun and not yet given, in order
        self._down: dict[Server, SMTPError] = {}  # cannot be reached or logged in to: not tried again in this run
        self._found: dict[Server, list[Server]] = {}  # by SRV records
        self._drained = False

    # The stream --------------------------------------------------------------------------------------------------

    def run(self) -> Effects:
        """Everything that comes out of the source, one message after the other."""
        while True:
            mail = next((mail for mail in self._line if mail.pending), None)
            more = mail is None
            if mail is None:
                mail = yield from self._pull(False)
                if mail is None:
                    return
            yield from self._give()
            while mail.pending:
                server = yield from self._server_for(mail)
                if server is None or self._is_late(mail):
                    self._give_up(mail)
                    break
                connection = yield from self._connect(server, mail.fresh, mail.deadline)
                if connection is None:
                    mail.rejoin()
                    hurried = mail.error is not None and self._is_late(mail)
                    mail.error = self._down[server]
                    if hurried:  # it had what time others had left: nothing against it for the messages to come
                        del self._down[server]
                else:
                    yield from self._converse(connection, mail, more)
            yield from self._give()

    def _pull(self, unsent: bool) -> Effects:
        """The next mail that wants delivery; those that cannot be sent are settled on the way."""
        while not self._drained:
            item = yield Pull(unsent)
            if item is LATER:
                return LATER
            if item is END:
                self._drained = True
                break
            mail = self._prepare(item)
            self._line.append(mail)
            if mail.pending:
                return mail
            if len(self._line) == 1:
                yield from self._give()
        return None

    def _prepare(self, item: Any) -> _Mail:
        """From what the caller gave to envelope and content; what cannot be sent is settled here."""
        message, envelope = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        content = None
        mail = None
        try:
            envelope, content = compose(message, envelope, self.stamp)
            if self.dkim:
                from smtpbackend.delivery.dkim import signed

                content = signed(content, self.dkim, self.stamp()[0])
            mail = _Mail(message, envelope, content)
            self.tell(MessageSending(message, envelope))
        except CancelSend as cancelled:
            mail = mail or _Mail(message, envelope, content)
            mail.error = cancelled
            mail.settle_all(Status.DEFERRED, cancelled)
        except SMTPError as error:
            mail = _Mail(message, envelope if isinstance(envelope, Envelope) else None, content)
            mail.error = error
            mail.settle_all(Status.REJECTED, error)
        if self.deadline is not None:
            mail.deadline = self.clock() + self.deadline
        return mail

    # Servers -----------------------------------------------------------------------------------------------------

    def _server_for(self, mail: _Mail) -> Effects:
        if mail.servers is None:
            mail.servers = self.route.order(self.clock())
            mail.offered = len(mail.servers)
        while True:
            mail.servers = [server for server in mail.servers if server not in self._down]
            if not mail.servers or not mail.servers[0].srv:
                return mail.servers[0] if mail.servers else None
            if self._is_late(mail):
                return None  # a look-up without time would say nothing against the server
            found = yield from self._find(mail.servers[0], mail.deadline)
            mail.servers[:1] = found
            mail.offered += max(len(found) - 1, 0)

    def _find(self, server: Server, deadline: float | None) -> Effects:
        """The servers that SRV records name: the same for a whole run, those that rest last. None: see ``_down``."""
        if server not in self._found:
            try:
                found = yield Find(server, deadline)
            except SMTPError as error:
                self._down[server] = error
                if deadline is None or self.clock() < deadline:
                    self._failed(server, "connect", error)
                return []
            self.route.worked(server)
            now = self.clock()
            self._found[server] = sorted(found, key=lambda target: self.route.is_resting(target, now))
        return self._found[server]

    def _next_server(self, mail: _Mail) -> None:
        """This server has had its chance with this message."""
        del (mail.servers or [])[:1]
        mail.fresh = False
        mail.rejoin()

    def _give_up(self, mail: _Mail) -> None:
        """No server is left, or no time."""
        mail.rejoin()
        if self._is_late(mail) and mail.error is None:
            mail.error = TimedOut(
                f"the deadline of {self.deadline:g} s passed before a server took the message; see deadline"
            )
        error = mail.error or next(iter(reversed(self._down.values())), None)
        if error is None:
            error = DeliveryError("no server could be tried")
        mail.error = error
        if isinstance(error, NotSupported) and mail.objections == mail.offered:
            mail.settle_all(Status.REJECTED, error, error.server)
        else:
            mail.settle_all(Status.DEFERRED, error, error.server)

    def _connect(self, server: Server, fresh: bool, deadline: float | None) -> Effects:
        """A connection that is ready for mail, or None: then the server is out of this run, see ``_down``."""
        session = None
        try:
            connection = yield Lease(server, fresh, deadline)
            session = connection.session
            if connection.reused:
                session.resume()
                return connection
            tls = login = refused = None
            has_source = server.token is not None and not isinstance(server.token, str)
            while True:
                try:
                    if login is None:
                        session.phase = "auth"
                        login = yield from self._login(server, refused, deadline)
                        session.phase = "connect"
                    yield Talk(connection, open_session(connection, tls, login), None)
                    break
                except SMTPError as error:
                    session.broken = True  # also where nothing was said because no token could be had
                    yield Release(connection)
                    if session.may_go_on_in_clear and tls is None:
                        tls = "none"
                    elif refused is None and login and has_source and wants_fresh(error):
                        refused = login.token
                        login = yield from self._login(server, refused, deadline)
                        if login.token == refused:  # there is no other
                            raise
                    else:
                        raise
                connection = yield Lease(server, True, deadline)
                session = connection.session
        except SMTPError as error:  # InvalidSetting too: what a callable of the caller's answered, a file that is gone
            self._down[server] = error
            ours = session is None and isinstance(error, TimedOut)  # all our connections stayed in use
            if not ours and (deadline is None or self.clock() < deadline):
                self._failed(server, session.phase if session else "connect", error)
            return None
        self.route.worked(server)
        return connection

    def _login(self, server: Server, refused: str | None, deadline: float | None) -> Effects:
        """Name and secret for this server, with a token where it has a source of tokens; None: no login."""
        login = server.login
        if login is None or server.token is None:
            return login
        token = server.token if isinstance(server.token, str) else (yield Token(server, refused, deadline))
        return login._replace(token=token)

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
                servers[:0] = yield from self._find(server, deadline)
                error = self._down.get(server, error)
                continue
            for fresh in (False, True):
                connection = yield from self._connect(server, fresh, deadline)
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

    def _is_late(self, mail: _Mail) -> bool:
        return mail.deadline is not None and self.clock() >= mail.deadline

    def _failed(self, server: Server, phase: str, error: SMTPError) -> None:
        self.route.failed(server, self.clock())
        self.tell(ServerFailed(server.name, phase, error))

    # The conversation --------------------------------------------------------------------------------------------

    def _converse(self, connection: Connection[Any], mail: _Mail, more: bool) -> Effects:
        """Deliver ``mail``, and with ``more`` those behind it, for as long as this connection does for them."""
        session = connection.session
        ready = deque([mail])
        flying: deque[_Mail] = deque()
        talk = session.deliver(self.policy, self.window)
        answer: Any = None
        done_before = session.transactions
        while True:
            step = yield Talk(connection, talk, answer)
            answer = None
            if type(step) is Next:
                if connection.is_used_up:
                    continue  # who is ready goes on over a fresh connection
                if len(self._line) > self.window:
                    more = False
                if not ready and more:
                    pulled = yield from self._pull(step.unsent)
                    if pulled is LATER:
                        answer = LATER
                        continue
                    if pulled is None:
                        more = False
                    else:
                        mail = pulled
                        server = yield from self._server_for(mail)
                        if server == connection.server:
                            ready.append(mail)
                        else:
                            more = False
                if ready:
                    mail = ready.popleft()
                    answer = self._transaction(mail, connection)
                    if answer is None:
                        more = False
                    else:
                        flying.append(mail)
            elif type(step) is Settled:
                mail = flying.popleft()
                proven = connection.reused or session.transactions - done_before > 1
                if self._record(mail, step.transaction, connection, proven):
                    ready.append(mail)
                elif mail.pending:
                    more = False
                yield from self._give()
            elif type(step) is Ended:
                break
        yield Release(connection)

    def _transaction(self, mail: _Mail, connection: Connection[Any]) -> Transaction | None:
        """A transaction with those still pending, or None where this server cannot be given the message."""
        assert mail.envelope is not None
        assert mail.content is not None
        offered = connection.session.capabilities
        name = connection.server.name
        trouble = objection(mail.envelope, mail.content, offered, name, connection.session.secure)
        content = mail.content
        if trouble is not None:
            try:
                content = content.as_7bit()
            except SMTPError:
                pass
            else:
                trouble = objection(mail.envelope, content, offered, name, connection.session.secure)
        if trouble is not None:
            self._object(mail, trouble)
            return None
        group = first_group(mail.pending, offered.limits) if "LIMITS" in offered else mail.pending
        if self.policy == "all" and len(group) < len(mail.pending):
            why = (
                f"{name} takes no more than {len(group)} of these {len(mail.pending)} recipients in one transaction "
                f"(LIMITS {offered['LIMITS']}), and recipient_policy is 'all': nobody was sent the message"
            )
            self._object(mail, NotSupported(why, server=name))
            return None
        mail.notes = notes(mail.envelope, offered)
        connection.deadline = mail.deadline
        for recipient in group:
            mail.attempts[recipient] += 1
        return Transaction(mail.envelope, group, content)

    def _object(self, mail: _Mail, trouble: NotSupported) -> None:
        """This server cannot be given the message."""
        mail.error = trouble
        mail.objections += 1
        self._next_server(mail)

    def _record(self, mail: _Mail, transaction: Transaction, connection: Connection[Any], proven: bool) -> bool:
        """Write down what the transaction says of each recipient. True: another transaction on this connection follows.

        ``proven``: the connection had done its work before, so that its end says nothing about the server.
        """
        server = connection.server
        name = server.name
        judgement = judge(transaction, self.policy, name)
        follow = judgement.again
        if len(transaction.recipients) < len(mail.pending) and may_follow(transaction):
            follow += rest_of(mail.pending, transaction)
        for recipient, status, reply, error in judgement.settled:
            mail.settle(recipient, status, reply, name, error)
            if status is Status.ACCEPTED:
                mail.reply, mail.server = reply, name
        for recipient, reply, error in judgement.pending:
            mail.heard[recipient] = (reply, name, error)
        if follow:
            mail.aside += tuple(recipient for recipient in mail.pending if recipient not in follow)
            mail.pending = follow
            return True
        mail.error = transaction.error or judgement.error  # what an earlier server said is not the last word any more
        if not mail.pending:
            if mail.aside:
                self._next_server(mail)
            ours = transaction.was_closed or isinstance(transaction.error, InvalidInput)
            if connection.session.broken and transaction.error is not None and not ours:
                self._failed(server, connection.session.phase, transaction.error)
            return False
        if (transaction.error is not None or judgement.renew) and proven and server not in mail.renewed:
            mail.renewed.add(server)
            mail.fresh = True
            connection.session.broken = True
            return False
        if transaction.error is not None:
            self._failed(server, connection.session.phase, transaction.error)
        self._next_server(mail)
        return False

    # Receipts ----------------------------------------------------------------------------------------------------

    def _give(self) -> Effects:
        """The receipts of those at the head of the line who are done."""
        while self._line and not self._line[0].pending:
            mail = self._line.popleft()
            yield Give(self._receipt(mail))

    def _receipt(self, mail: _Mail) -> Receipt:
        recipients = mail.envelope.recipients if mail.envelope else ()
        receipt = Receipt(
            mail.content.message_id if mail.content else None,
            tuple(mail.outcomes[recipient] for recipient in recipients),
            mail.reply,
            mail.server,
            queue_id(mail.reply),
            None,
            mail.notes,
        )
        error = failure(receipt, mail.error)
        if error is not None:
            # frozen, and the error has to carry the receipt it stands in
            object.__setattr__(receipt, "error", error)
            error.receipt = receipt
        if mail.envelope is not None and not isinstance(mail.error, CancelSend):
            for event in report(mail.message, mail.envelope, receipt):
                self.tell(event)
        if mail.content is not None:
            mail.content.close()
        return receipt


def open_session(
    connection: Connection[Any], tls: str | None = None, login: Login | None = None
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
    )


def compose(
    message: Any, envelope: Envelope | None, stamp: Callable[[], tuple[datetime, str]]
) -> tuple[Envelope, mime.Content]:
    """What leaves for ``message``: a Message, an ``email.message.Message``; with an envelope also ready content."""
    from email.message import Message as EmailMessage

    from smtpbackend.message import Message

    if envelope is not None and not isinstance(envelope, Envelope):
        raise InvalidInput(f"envelope must be an Envelope, not {type(envelope).__name__}", field="envelope")
    try:
        if isinstance(message, (Message, EmailMessage)):
            date, token = stamp()
            envelope = envelope or Envelope.from_headers(message)
            return envelope, mime.render(message, date=date, token=token)
        if envelope is None:
            raise InvalidInput(
                f"a {type(message).__name__} has no originator and recipients that could be read: give an envelope",
                field="envelope",
            )
        return envelope, mime.given(message)
    except SMTPError:
        raise
    except Exception as error:
        # the email package has its own words for what it cannot render; a file may be missing, a source may raise
        raise InvalidInput(
            f"the message cannot be rendered: {type(error).__name__}: {error}", field="message"
        ) from error
