"""What happens to a stream of messages: one generator that decides, for both mailers.

It asks for what it needs (``asks.py``): the next item of the source, a connection, a stretch of conversation; and gives
each receipt when it is known, in the order of the messages. The rules are those of DESIGN section 4: which reply
settles a recipient, what may be replayed, which server comes next.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from smtpbackend.delivery.asks import END, GONE, Effects, Give, Pace, Pull, Release, Talk
from smtpbackend.delivery.connecting import Connecting
from smtpbackend.delivery.judgement import judge
from smtpbackend.delivery.mail import Mail, compose
from smtpbackend.delivery.pooling import Connection
from smtpbackend.delivery.receipts import failure, queue_id, report
from smtpbackend.delivery.route import Route
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.splitting import first_group, may_follow, rest_of
from smtpbackend.envelope import Envelope
from smtpbackend.errors import (
    CancelSend,
    ConnectionLost,
    DeliveryError,
    InvalidInput,
    NotSupported,
    SMTPError,
    TimedOut,
)
from smtpbackend.events import MessageSending, MessageSent, Telling
from smtpbackend.outcome import Receipt, Status
from smtpbackend.protocol.effects import ENOUGH, LATER, Ended, Next, Settled
from smtpbackend.protocol.transaction import Transaction, notes, objection

__all__ = ["Dispatch"]

AWAKE = 5.0  # seconds since a connection was heard, in which content may leave ahead of replies: DESIGN 5.1
LEAVING = 5.0  # seconds for the replies in flight when nobody takes receipts any more: DESIGN 4.11
SLOW = 0.05  # seconds in which a source gives its next item, for others to be in flight while it is asked


class Dispatch(Connecting):
    """A delivery of messages: ``run`` is the generator that a mailer performs.

    ``tell`` takes each event; ``clock`` gives seconds of a monotonic clock; ``stamp`` the date and the unique part of
    the Message-ID for a message that lacks them; ``deadline`` is in seconds, for each message; ``dkim`` has the
    signers of what leaves; ``moved`` is called when a message goes on from one server to the next, and
    ``ended`` with each receipt; runs that share ``down`` do not try again what another of them could not reach.
    """

    def __init__(
        self,
        route: Route,
        *,
        policy: str,
        tell: Telling,
        clock: Callable[[], float],
        stamp: Callable[[], tuple[datetime, str]],
        deadline: float | None = None,
        dkim: Sequence[Any] = (),
        moved: Callable[[], object] = lambda: None,
        ended: Callable[[Receipt], object] = lambda _: None,
        down: dict[Server, SMTPError] | None = None,
    ) -> None:
        super().__init__(route, tell=tell, clock=clock, deadline=deadline, down=down)
        self.policy = policy
        self.stamp = stamp
        self.dkim = dkim
        self.moved = moved
        self.ended = ended
        self._taken = 0  # of the source
        self._drained = False
        self._is_alone = False  # the source had one item: another is asked for when that has its receipt
        self._is_slow = False  # the source made us wait for its last item
        self._line: deque[Mail] = deque()  # begun and not yet given, in order
        self._waiting: list[tuple[int, Mail]] = []  # those in line who need another attempt, the oldest first
        self._flying: deque[tuple[Mail, Transaction]] = deque()
        self._left: float | None = None  # when those in flight are given up, where nobody takes receipts any more

    # The stream --------------------------------------------------------------------------------------------------

    def run(self, alone: bool = False) -> Effects:
        """Everything that comes out of the source, one message after the other. ``alone``: probably it has one."""
        self._is_alone = alone
        try:
            while True:
                if self._waiting:
                    mail = heapq.heappop(self._waiting)[1]
                else:
                    mail = yield from self._pull(False)
                    if mail is None:
                        return
                while mail.pending:
                    server = yield from self._server_for(mail)
                    if server is None or self._is_late(mail):
                        self._give_up(mail)
                        break
                    connection = yield from self._connect(server, mail.fresh, mail.deadline, mail.servers or ())
                    if connection is not None:
                        yield from self._converse(connection, mail)
                        break
                    mail.rejoin()
                    hurried = mail.error is not None and self._is_late(mail)
                    mail.error = self._down[server]
                    if hurried:  # it had what time others had left: nothing against it for the messages to come
                        self._down.pop(server, None)
                    else:
                        yield from self._count_move(mail)
                yield from self._give()
        except BaseException:
            self._break_off()
            raise

    def _pull(self, unsent: bool) -> Effects:
        """The next mail that wants delivery; those that cannot be sent are settled on the way."""
        while not self._drained:
            begun = self.clock()
            item = yield Pull(unsent)
            if item is LATER:
                return LATER
            self._is_slow = self.clock() - begun > SLOW
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

    def _prepare(self, item: Any) -> Mail:
        """From what the caller gave to envelope and content; what cannot be sent is settled here."""
        message, envelope = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        content = None
        mail = None
        self._taken = number = self._taken + 1
        try:
            envelope, content = compose(message, envelope, self.stamp)
            if self.dkim:
                from smtpbackend.delivery.dkim import signed

                content = signed(content, self.dkim, self.stamp()[0])
            mail = Mail(number, message, envelope, content)
            if self.tell.wants("message_sending"):
                self.tell(MessageSending(message, envelope))
        except CancelSend as cancelled:
            mail = mail or Mail(number, message, envelope, content)
            mail.error = cancelled
            mail.settle_all(Status.DEFERRED, cancelled)
        except SMTPError as error:
            mail = Mail(number, message, envelope if isinstance(envelope, Envelope) else None, content)
            mail.error = error
            mail.settle_all(Status.REJECTED, error)
        if self.deadline is not None:
            mail.deadline = self.clock() + self.deadline
        return mail

    def _wait(self, mail: Mail) -> None:
        heapq.heappush(self._waiting, (mail.number, mail))

    # Servers -----------------------------------------------------------------------------------------------------

    def _server_for(self, mail: Mail) -> Effects:
        if mail.servers is None:
            mail.servers = self.route.order(self.clock())
            mail.offered = len(mail.servers)
        while True:
            if self._down:
                mail.servers = [server for server in mail.servers if server not in self._down]
            if not mail.servers or not mail.servers[0].srv:
                return mail.servers[0] if mail.servers else None
            if self._is_late(mail):
                return None  # a look-up without time would say nothing against the server
            found = yield from self._find(mail.servers[0], mail.deadline, mail.servers)
            mail.servers[:1] = found
            mail.offered += max(len(found) - 1, 0)

    def _next_server(self, mail: Mail) -> Effects:
        """This server has had its chance with this message."""
        del (mail.servers or [])[:1]
        mail.fresh = False
        mail.rejoin()
        yield from self._count_move(mail)

    def _count_move(self, mail: Mail) -> Effects:
        if not self._is_late(mail) and (yield from self._server_for(mail)) is not None:
            self.moved()

    def _give_up(self, mail: Mail) -> None:
        """No server is left, or no time."""
        mail.rejoin()
        if self._is_late(mail) and mail.error is None:
            mail.error = (
                TimedOut(f"the deadline of {self.deadline:g} s passed before a server took the message; see deadline")
                if self._left is None
                else DeliveryError("nobody took the receipts any more before this message was sent")
            )
        error = mail.error or next(iter(reversed(self._down.values())), None)
        if error is None:
            error = DeliveryError("no server could be tried")
        mail.error = error
        if isinstance(error, NotSupported) and mail.objections == mail.offered:
            mail.settle_all(Status.REJECTED, error, error.server)
        else:
            mail.settle_all(Status.DEFERRED, error, error.server)

    def _is_late(self, mail: Mail) -> bool:
        return self._left is not None or (mail.deadline is not None and self.clock() >= mail.deadline)

    # The conversation --------------------------------------------------------------------------------------------

    def _converse(self, connection: Connection[Any], mail: Mail) -> Effects:
        """Deliver ``mail``, and those behind it for as long as this connection does for them."""
        server, session = connection.server, connection.session
        now = self.clock()
        window = server.window if self.route.trusts(server, "window", now) else 1
        chunk_in_flight = server.chunk_in_flight if self.route.trusts(server, "chunk_in_flight", now) else "never"
        ready: Mail | None = mail
        talk = session.deliver(self.policy, window, chunk_in_flight)
        go_on = Talk(connection, talk, None)
        heard = session.reads
        answer: Any = None
        while True:
            connection.deadline = self._until() if self.deadline is not None or self._left is not None else None
            step = yield (go_on if answer is None else Talk(connection, talk, answer))
            answer = None
            if type(step) is Next:
                if connection.is_used_up:
                    if ready is not None:
                        self._wait(ready)  # who is ready goes on over a fresh connection
                        ready = None
                    continue
                while answer is None:
                    mail = ready or (yield from self._next_mail(connection, step.unsent))
                    if mail is None:
                        break
                    if mail is LATER:
                        answer = LATER
                        break
                    ready = None
                    if self._is_late(mail):
                        self._give_up(mail)
                        yield from self._give()
                        continue
                    if server.rate is not None:
                        patient = not self._flying and not step.unsent
                        if not (yield Pace(server, patient, mail.deadline)):
                            if patient:
                                mail.error = mail.error or _too_fast(server)
                                self._give_up(mail)
                                yield from self._give()
                                continue
                            ready, answer = mail, LATER
                            break
                    answer = self._transaction(mail, connection)
                    if answer is not None:
                        answer.is_last = self._is_alone
                    else:
                        yield from self._next_server(mail)
                        self._wait(mail)
            elif type(step) is Settled:
                mail, transaction = self._flying.popleft()
                if session.reads != heard:  # not where several replies came together, and others took their time
                    heard = session.reads
                    connection.heard = self.clock()
                final = transaction.final if transaction.is_accepted else None
                if final is not None and len(transaction.recipients) == len(mail.pending) and not mail.aside:
                    connection.has_worked = True
                    self.route.worked(server)
                    mail.accept(final, server.name)
                elif (yield from self._record(mail, transaction, connection)):
                    if ready is None:
                        ready = mail
                    else:  # another one goes on first
                        self._wait(mail)
                elif mail.pending:
                    following = yield from self._server_for(mail)
                    if following is None or self._is_late(mail):
                        self._give_up(mail)
                    else:
                        self._wait(mail)
                yield from self._give()
                if self._is_alone and ready is None:
                    answer = ENOUGH
            elif type(step) is Ended:
                break
        self._learn(connection)
        if ready is not None:
            self._wait(ready)
        yield Release(connection)

    def _until(self) -> float | None:
        """The deadline of whatever is said now: that of the oldest in flight."""
        deadline = self._flying[0][0].deadline if self._flying else None
        if self._left is None:
            return deadline
        return self._left if deadline is None else min(self._left, deadline)

    def _next_mail(self, connection: Connection[Any], unsent: bool) -> Effects:
        """Who goes next over this connection: LATER where that cannot be said yet, None where nobody does."""
        while True:
            if self._waiting:
                mail = heapq.heappop(self._waiting)[1]
            else:
                window = connection.server.window
                if len(self._line) > window or self._left is not None or (self._flying and self._is_slow):
                    return LATER if self._flying and self._left is None else None
                mail = yield from self._pull(unsent)
                if mail is None or mail is LATER:
                    return mail
            server = yield from self._server_for(mail)
            if server is None or self._is_late(mail):
                self._give_up(mail)
                yield from self._give()
            elif (server is connection.server or server == connection.server) and not (
                mail.fresh and connection.reused
            ):
                return mail
            else:
                self._wait(mail)
                return None

    def _transaction(self, mail: Mail, connection: Connection[Any]) -> Transaction | None:
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
        group = first_group(mail.pending, offered.limits) if "LIMITS" in offered else mail.pending
        if trouble is None and self.policy == "all" and len(group) < len(mail.pending):
            trouble = NotSupported(
                f"{name} takes no more than {len(group)} of these {len(mail.pending)} recipients in one transaction "
                f"(LIMITS {offered['LIMITS']}), and recipient_policy is 'all': nobody was sent the message",
                server=name,
            )
        if trouble is not None:
            mail.error = trouble
            mail.objections += 1
            return None
        mail.notes = notes(mail.envelope, offered)
        is_awake = self.clock() - connection.heard <= AWAKE
        transaction = Transaction(mail.envelope, group, content, is_awake)
        self._flying.append((mail, transaction))
        return transaction

    def _record(self, mail: Mail, transaction: Transaction, connection: Connection[Any]) -> Effects:
        """Write down what a transaction says of each recipient. True: another one on this connection follows."""
        server, session = connection.server, connection.session
        name = server.name
        mail.count_attempt(transaction.recipients)
        judgement = judge(transaction, self.policy, name, session.without_tls)
        follow = judgement.again
        if len(transaction.recipients) < len(mail.pending) and may_follow(transaction):
            follow += rest_of(mail.pending, transaction)
        for recipient, status, reply, error in judgement.settled:
            mail.settle(recipient, status, reply, name, error)
            if status is Status.ACCEPTED:
                mail.reply, mail.server = reply, name
        for recipient, reply, error in judgement.pending:
            mail.heard[recipient] = (reply, name, error)
        # its end says nothing about the server where it had done its work before, or was asked for a proof
        proven = connection.has_worked or session.probing or session.overlapping
        if transaction.error is None:
            connection.has_worked = True
            self.route.worked(server)
        if follow:
            mail.aside += tuple(recipient for recipient in mail.pending if recipient not in follow)
            mail.pending = follow
            return True
        mail.error = judgement.error or transaction.error  # what an earlier server said is not the last word any more
        ended = transaction.error is not None or judgement.renew
        if mail.pending and ended and proven and server not in mail.renewed:
            mail.renewed |= {server}
            mail.fresh = True
            session.broken = True
            return False
        ours = isinstance(transaction.error, InvalidInput) or (transaction.was_closed and not mail.pending)
        if session.broken and transaction.error is not None and not ours and not connection.has_failed:
            connection.has_failed = True
            self._failed(server, session.phase, transaction.error, (mail.servers or [])[1:])
        if mail.pending or mail.aside:
            yield from self._next_server(mail)
        return False

    def _learn(self, connection: Connection[Any]) -> None:
        """Remember a server that did not survive being asked for a proof, or that answers what it was not asked."""
        session = connection.session
        if session.probing or session.is_talkative:
            self.route.distrust(connection.server, "chunk_in_flight", self.clock())
        if session.overlapping or session.is_talkative:
            self.route.distrust(connection.server, "window", self.clock())

    # Receipts ----------------------------------------------------------------------------------------------------

    def _give(self) -> Effects:
        """The receipts of those at the head of the line who are done."""
        while self._line and not self._line[0].pending:
            answer = yield Give(self._receipt(self._line.popleft()))
            if answer is GONE and self._left is None:
                self._left = self.clock() + LEAVING
                self._drained = True

    def _receipt(self, mail: Mail) -> Receipt:
        message, envelope, content = mail.message, mail.envelope, mail.content
        outcomes = mail.settled
        if outcomes is None:
            outcomes = tuple([mail.outcomes[recipient] for recipient in (envelope.recipients if envelope else ())])
        receipt = Receipt(
            content.message_id if content else None,
            outcomes,
            mail.reply,
            mail.server,
            queue_id(mail.reply),
            None,
            mail.notes,
        )
        if mail.settled is not None:
            if self.tell.wants("message_sent"):
                self.tell(MessageSent(message, envelope, receipt))
        else:
            error = failure(receipt, mail.error)
            if error is not None:
                # frozen, and the error has to carry the receipt it stands in
                object.__setattr__(receipt, "error", error)
                error.receipt = receipt
            if envelope is not None and not isinstance(mail.error, CancelSend):
                for event in report(message, envelope, receipt):
                    self.tell(event)
        self.ended(receipt)
        if content is not None:
            content.close()
        return receipt

    def _break_off(self) -> None:
        """Whoever performs this was cancelled: nobody is given a receipt any more, but the Listeners are told."""
        why = "the delivery was broken off"
        for mail, transaction in self._flying:
            if not transaction.is_settled:
                transaction.error = transaction.error or ConnectionLost(why)
            name = mail.servers[0].name if mail.servers else ""
            mail.count_attempt(transaction.recipients)
            for recipient, status, reply, error in judge(transaction, self.policy, name).settled:
                mail.settle(recipient, status, reply, name, error)
            mail.error = transaction.error
        for mail in self._line:
            mail.rejoin()
            mail.error = mail.error or DeliveryError(why)
            mail.settle_all(Status.DEFERRED, mail.error)
            self._receipt(mail)
        self._line.clear()


def _too_fast(server: Server) -> TimedOut:
    return TimedOut(
        f"the deadline passes before {server.name} may be sent another message; see rate ({server.rate:g} a second)",
        server=server.name,
    )
