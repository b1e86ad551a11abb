"""What happens to a stream of messages: one generator that decides, for both mailers.

It asks for what it needs (``asks.py``): the next item of the source, its parcel, a connection, a stretch of
conversation. It gives item and receipt together as soon as they are known, or the receipts in the order of the
messages. The rules are those of DESIGN section 4: which reply settles a recipient, what may be replayed, which server
comes next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from smtpbackend.delivery.asks import (
    END,
    GONE,
    NOT_ASKED,
    Effects,
    Give,
    Prepare,
    Pull,
    Release,
    Talk,
)
from smtpbackend.delivery.caller import Caller
from smtpbackend.delivery.connecting import Connecting, is_crowd
from smtpbackend.delivery.judgement import judge
from smtpbackend.delivery.lifecycle import Lifecycle
from smtpbackend.delivery.mail import Mail
from smtpbackend.delivery.ordering import AsKnown, InOrder
from smtpbackend.delivery.pacing import Pacing
from smtpbackend.delivery.pooling import Connection
from smtpbackend.delivery.route import Route
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.splitting import may_follow
from smtpbackend.delivery.waiting import Waiting
from smtpbackend.errors import ConnectionLost, DeliveryError, NotSupported, SMTPError, TimedOut
from smtpbackend.outcome import Status
from smtpbackend.protocol.effects import ENOUGH, LATER, Ended, Next, Settled
from smtpbackend.protocol.transaction import Transaction

__all__ = ["Dispatch"]

AWAKE = 5.0  # seconds since the server answered, in which content may leave ahead of replies: DESIGN 5.1
LEAVING = 5.0  # seconds for the replies in flight, once no receipts are taken any more: DESIGN 4.11
SLOW = 0.05  # seconds for an item: while a source that takes longer is asked, nothing is in flight


class Dispatch(Connecting):
    """A delivery of messages: ``run`` is the generator that a mailer performs.

    ``lifecycle`` begins and ends each message; ``moved`` is called when a message goes on from one server to the next;
    runs that share ``down`` do not try again what another of them could not reach. ``caller`` has the functions to ask
    about each message. ``pairs``: item and receipt are given together, else the receipts alone. They are given as soon
    as they are known, or ``in_order``.
    """

    def __init__(
        self,
        route: Route,
        lifecycle: Lifecycle,
        *,
        moved: Callable[[], object] = lambda: None,
        down: dict[Server, SMTPError] | None = None,
        caller: Caller | None = None,
        pairs: bool = False,
        in_order: bool = False,
    ) -> None:
        super().__init__(route, tell=lifecycle.tell, clock=lifecycle.clock, deadline=lifecycle.deadline, down=down)
        self.lifecycle = lifecycle
        self.rules = lifecycle.rules
        self.moved = moved
        self.caller = caller or Caller(iter(()))
        self.pacing = Pacing(self.caller, self.clock)
        self.pairs = pairs
        self._number = 0  # of the last message that was begun here
        self._drained = False
        self._is_alone = False  # the source had one item: another is asked for when that has its receipt
        self._is_list = False  # the source had more than one
        self._is_slow = False  # the source made us wait for its last item
        self._is_dry = False  # the source has no item now: it is asked again when something else was given
        self.begun: dict[int, Mail] = {}  # and not yet given, by number
        self._window = 1  # of the connection that is talked on
        self._settled_mail: AsKnown | InOrder = InOrder() if in_order else AsKnown()  # those that are to be given
        self._waiting = Waiting()  # those that need another attempt
        self._ready: Mail | None = None  # goes next over the connection that is talked on
        self._turned_away: list[tuple[Mail, bool, bool]] = []  # on it, which is one too many; see `_record`
        self.flying: deque[tuple[Mail, Transaction]] = deque()
        self._left: float | None = None  # when those in flight are given up, once no receipts are taken any more

    # The stream --------------------------------------------------------------------------------------------------

    def run(self, count: int = 0) -> Effects:
        """Everything that comes out of the source. ``count``: how many items it probably has; 0: not known."""
        self._is_alone, self._is_list = count == 1, count > 1
        try:
            while True:
                if self._waiting:
                    mail = self._waiting.take_newest() if any(self._barren.values()) else self._waiting.take()
                else:
                    mail = yield from self._pull(False)
                    if mail is None:
                        return
                while mail.pending:
                    server = yield from self._server_for(mail)
                    if server is None or self._is_late(mail):
                        self._give_up(mail)
                        break
                    connection = yield from self.connect(
                        server, mail.fresh is server, mail.deadline, mail.servers or ()
                    )
                    if connection is not None:
                        yield from self._converse(connection, mail)
                        break
                    mail.rejoin()
                    hurried = (mail.error is not None or self._had_no_turn) and self._is_late(mail)
                    mail.error = self._trouble
                    if hurried:  # it had only the time that others left, and may be tried for other messages
                        self._down.pop(server, None)
                    else:
                        yield from self._count_move(mail)
                yield from self._give()
        except BaseException:
            self.break_off()
            raise

    def _pull(self, unsent: bool) -> Effects:
        """The next mail that wants delivery; those that cannot be sent are settled on the way."""
        while not self._drained:
            if self._is_dry or (self.flying and len(self.begun) > self._window):
                return LATER
            asked = self.clock()
            item = yield Pull(unsent, bool(self.begun))
            if item is NOT_ASKED:
                return LATER
            if item is LATER:
                if self.begun:
                    self._is_dry = True
                    return LATER
                item = END
            mail = item if type(item) is Mail else None  # begun already: it was taken from a stream that is shared
            if mail is None and item is not END:
                mail = yield from self._begin(item)
            self._is_slow = self.clock() - asked > SLOW
            if mail is None:
                self._drained = True
                break
            self.begun[mail.number] = mail
            if mail.pending:
                return mail
            self._settled_mail.add(mail.number, mail)
            if unsent:
                return LATER
            yield from self._give()
        return None

    def _begin(self, item: Any) -> Effects:
        """From what the caller gave to a mail; None: no other message is begun."""
        message = item
        if self.caller.prepare is None:
            message, parcel = self.lifecycle.open(item, self.pairs)
        else:
            parcel = yield Prepare(item)
            if parcel is END:
                return None
        self._number += 1
        return self.lifecycle.begin(self._number, message, parcel)

    # Servers -----------------------------------------------------------------------------------------------------

    def _server_for(self, mail: Mail) -> Effects:
        if mail.servers is None:
            mail.servers = self.route.order(self.clock())
            mail.offered = len(mail.servers)
        while True:
            if self._down:
                mail.remember(self._down)
                mail.servers = [server for server in mail.servers if server not in self._down]
            if not mail.servers or not mail.servers[0].srv:
                return mail.servers[0] if mail.servers else None
            if self._is_late(mail):
                return None  # a look-up without time would say nothing against the server
            found = yield from self._targets(mail.servers[0], mail.deadline, mail.servers)
            mail.servers[:1] = found
            mail.offered += max(len(found) - 1, 0)

    def _next_server(self, mail: Mail) -> Effects:
        """This server has had its chance with this message."""
        if mail.servers and isinstance(mail.error, SMTPError):
            mail.remember({mail.servers[0]: mail.error})
        del (mail.servers or [])[:1]
        mail.goes_behind = False
        mail.rejoin()
        yield from self._count_move(mail)
        self._waiting.put(mail)

    def _replay(self, mail: Mail) -> None:
        """It goes again to the same server, on a fresh connection: the server has said nothing about it."""
        mail.fresh = mail.servers[0] if mail.servers else None
        self._waiting.put(mail)

    def _once_more(self, mail: Mail, connection: Connection[Any], is_free: bool) -> Effects:
        """The server ended the connection in reply to a command of this message: try it once more, after the others.

        With ``is_free`` the try is not counted: the server ends connections at this number of messages, or some of its
        recipients were settled, which also bounds its tries.
        """
        if not is_free and connection.server in mail.renewed:
            connection.session.history.refused_first = False  # that may be about the message, not the server
            yield from self._next_server(mail)
            if not mail.servers:  # it is settled by that reply
                connection.has_worked = True
            return
        if not is_free:
            mail.renewed |= {connection.server}
            mail.goes_behind = True
        self._replay(mail)

    def _count_move(self, mail: Mail) -> Effects:
        if not self._is_late(mail) and (yield from self._server_for(mail)) is not None:
            self.moved()

    def _give_up(self, mail: Mail) -> None:
        """No server is left, or no time."""
        mail.rejoin()
        if self._is_late(mail) and mail.error is None:
            mail.error = (
                TimedOut(
                    f"the deadline of {self.deadline:g} s passed before a server took the message; see "
                    f"{self.rules.spelling('deadline')}"
                )
                if self._left is None
                else DeliveryError("the stream was left before this message was sent")
            )
        passed = mail.passed or {}
        failed = [*passed.values(), *[error for server, error in self._down.items() if server not in passed]]
        mail.give_up(failed or [DeliveryError("no server could be tried")])
        self._note_end(mail)

    def _is_late(self, mail: Mail) -> bool:
        return self._left is not None or (mail.deadline is not None and self.clock() >= mail.deadline)

    # The conversation --------------------------------------------------------------------------------------------

    def _converse(self, connection: Connection[Any], mail: Mail) -> Effects:
        """Deliver ``mail``, and those behind it for as long as this connection does for them."""
        self._ready = mail
        self._window = connection.server.window
        talk = self.route.experience.deliver(
            connection, self.rules.recipient_policy, self._is_list, mail.deadline, self.clock()
        )
        connection.reads = connection.session.line.reads
        answer: Any = None
        while True:
            connection.deadline = self._until() if self.deadline is not None or self._left is not None else None
            step = yield Talk(connection, talk, answer)
            answer = None
            if type(step) is Next:
                answer = yield from self._next_transaction(connection, step.unsent)
            elif type(step) is Settled:
                yield from self._settled(connection)
                if not self._is_alone:
                    yield from self._give()
                elif self._ready is None:
                    answer = ENOUGH
            elif type(step) is Ended:
                break
        if self._ready is not None:
            self._waiting.put(self._ready)
        self.route.experience.learn(connection, self.clock())
        turned_away, self._turned_away = self._turned_away, []
        ours_is_open = yield Release(connection, bool(turned_away))
        for mail, was_closed, is_free in turned_away:
            if ours_is_open:  # the server is well, and one of our connections will be free
                self._waiting.put(mail)
            elif was_closed:
                yield from self._once_more(mail, connection, is_free)
            else:
                yield from self._next_server(mail)
        if not (turned_away and ours_is_open):
            self._assess(connection)

    def _next_transaction(self, connection: Connection[Any], unsent: bool) -> Effects:
        """What goes next over this connection: LATER where that is not known yet, None where nothing does."""
        while not connection.is_used_up:
            mail = self._ready or (yield from self._next_mail(connection, unsent))
            self._ready = None
            if mail is None or mail is LATER:
                return mail
            if not self._is_late(mail):
                admitted: Any = True
                if self.pacing.asks_the_caller or connection.server.rate is not None:
                    patient = not self.flying and not unsent
                    admitted = yield from self.pacing.admit(mail, connection.server, patient)
                if admitted is LATER:
                    self._ready = mail
                    return LATER
                if admitted is True:
                    transaction = self._transaction(mail, connection)
                    if transaction is not None:
                        transaction.is_last = self._is_alone
                        return transaction
                    yield from self._next_server(mail)
                    continue
                if admitted is GONE:
                    self._leave(0.0)
                else:
                    mail.error = admitted
            self._give_up(mail)
            yield from self._give()
        return None

    def _settled(self, connection: Connection[Any]) -> Effects:
        """The oldest in flight has all replies that it will ever have."""
        mail, transaction = self.flying.popleft()
        if connection.session.line.reads != connection.reads:  # else the reply came with others, some time ago
            connection.reads = connection.session.line.reads
            connection.heard = self.clock()
        final = transaction.final if transaction.is_accepted else None
        if final is not None and not (mail.behind or mail.aside):
            connection.has_worked = True
            self.route.end_rest(connection.server)
            mail.accept(final, connection.server.name)
            self._note_end(mail)
        elif transaction.is_unread:
            mail.answered = mail.answered or transaction.is_answered
            self._replay(mail)
        else:
            yield from self._record(mail, transaction, connection)

    def _until(self) -> float | None:
        """The deadline of whatever is said now: that of the oldest in flight."""
        deadline = self.flying[0][0].deadline if self.flying else None
        if self._left is None:
            return deadline
        return self._left if deadline is None else min(self._left, deadline)

    def _next_mail(self, connection: Connection[Any], unsent: bool) -> Effects:
        """The mail that goes next over this connection; LATER: not known yet; None: there is none."""
        while True:
            if self._waiting:
                mail = self._waiting.take()
            else:
                window = connection.server.window
                if len(self.begun) > window or self._left is not None or (self.flying and self._is_slow):
                    return LATER if self.flying and self._left is None else None
                mail = yield from self._pull(unsent)
                if mail is None or mail is LATER:
                    return mail
            server = yield from self._server_for(mail)
            if server is None or self._is_late(mail):
                self._give_up(mail)
                yield from self._give()
            elif (server is connection.server or server == connection.server) and not (
                mail.fresh is server and connection.reused
            ):
                return mail
            else:
                self._waiting.put(mail)
                return None

    def _transaction(self, mail: Mail, connection: Connection[Any]) -> Transaction | None:
        """A transaction with those still pending, or None where this server cannot be given the message."""
        session = connection.session
        is_awake = self.clock() - connection.heard <= AWAKE
        try:
            transaction = mail.transaction(
                session.capabilities,
                connection.server.name,
                session.secure,
                self.rules,
                is_awake,
                session.without_tls,
            )
        except NotSupported as trouble:
            mail.error = trouble
            mail.objections += 1
            return None
        mail.reserved = None
        self.flying.append((mail, transaction))
        return transaction

    def _record(self, mail: Mail, transaction: Transaction, connection: Connection[Any]) -> Effects:
        """Write down what a transaction says of each recipient, and send those still pending on their way."""
        server, session, error = connection.server, connection.session, transaction.error
        is_crowded = is_crowd(transaction.last_word)
        by_data = not is_crowded and self.route.experience.wants_data(connection, transaction, self.clock())
        judgement = judge(transaction, self.rules, server.name, by_data, session.without_tls, server.spelling)
        mail.record(transaction, judgement, server.name, server.spelling)
        had_worked = connection.has_worked  # then its end says nothing against the server
        if error is None:
            self.route.end_rest(server)
        connection.has_worked = (
            had_worked
            or (error is None and not is_crowded)
            or any(status is not Status.IN_DOUBT for _, status, _, _ in judgement.settled)
        )
        # recipients that were too many follow as long as one is settled; those that LIMITS kept back were not tried yet
        has_more = mail.behind and (judgement.settled or mail.most is None)
        if judgement.again or (has_more and may_follow(transaction)):
            mail.go_on(judgement.again, transaction.accepted)
            if self._ready is None:
                self._ready = mail
            else:  # another one goes on first
                self._waiting.put(mail)
            return
        mail.error = judgement.error or error  # it replaces what an earlier server said
        mail.call_up()
        if not mail.pending:
            self._note_end(mail)
            if any(status is Status.IN_DOUBT for _, status, _, _ in judgement.settled):
                self._blame(connection, error, mail.others)
            return
        if is_crowded:
            session.end("the server has too many connections")
            session.history.ended_by = session.history.ended_by or mail.error
            self._turned_away.append((mail, transaction.was_closed, bool(judgement.settled)))
        elif error is not None and session.history.is_on_trial:
            self._replay(mail)
        elif transaction.was_closed:
            is_free = bool(judgement.settled) or self.route.experience.found_limit(connection, transaction)
            yield from self._once_more(mail, connection, is_free)
        elif mail.pending and (error is not None or judgement.renew) and had_worked and server not in mail.renewed:
            mail.renewed |= {server}
            session.end("the message goes again on a fresh connection")
            self._replay(mail)
        else:
            self._blame(connection, error, mail.others)
            yield from self._next_server(mail)

    # Receipts ----------------------------------------------------------------------------------------------------

    def _note_end(self, mail: Mail) -> None:
        """Have a mail given to the caller, unless one of its recipients is still pending."""
        if not mail.pending:
            self._settled_mail.add(mail.number, mail)

    def _give(self) -> Effects:
        """Give the caller what is settled."""
        while (mail := self._settled_mail.take()) is not None:
            del self.begun[mail.number]
            receipt = self.lifecycle.end(mail)
            answer = yield Give(mail.number, (mail.message, receipt) if self.pairs else receipt)
            self._is_dry = False
            if answer is GONE:
                self._leave(LEAVING)

    def _leave(self, seconds: float) -> None:
        """The stream was left: what is in flight has so many seconds, and nothing else begins."""
        if self._left is None:
            self._left = self.clock() + seconds
            self._drained = True

    def break_off(self) -> None:
        """The delivery was cancelled: no receipt can be given any more, but the Listeners are told."""
        why = "the delivery was broken off"
        for mail, transaction in self.flying:
            if not transaction.is_settled:
                transaction.error = transaction.error or ConnectionLost(why)
            name = mail.servers[0].name if mail.servers else ""
            mail.record(transaction, judge(transaction, self.rules, name), name)
            mail.error = transaction.error
        for mail in self.begun.values():
            self.lifecycle.break_off(mail, why)
        self.begun.clear()
