"""One message on its way: who is still pending, what became of the others, which servers were tried."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from smtpbackend import mime
from smtpbackend.delivery.judgement import Judgement
from smtpbackend.delivery.receipts import failure, queue_id
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.splitting import by_domain, take
from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.errors import InvalidInput, NotSupported, SMTPError
from smtpbackend.outcome import Outcome, Receipt, Reply, Status
from smtpbackend.protocol.capabilities import Capabilities, Limits
from smtpbackend.protocol.transaction import Transaction, notes, objection

__all__ = ["Mail", "compose"]

TAKEN = 100  # recipients of one transaction that every server takes, RFC 5321 4.5.3.1.8


class Mail:
    """What the caller gave, and all that is known of it. ``number`` is its place in the stream.

    As long as anybody is not settled, somebody is ``pending``: those of the transaction that goes now, or next.
    """

    def __init__(self, number: int, message: Any, envelope: Envelope | None, content: mime.Content | None) -> None:
        self.number = number
        self.message = message
        self.envelope = envelope
        self.content = content
        self.pending: tuple[Recipient, ...] = envelope.recipients if envelope else ()
        self.outcomes: dict[Recipient, Outcome] = {}
        self.attempts: dict[Recipient, int] = {}  # of those whose first one did not settle everybody
        self.heard: dict[Recipient, tuple[Reply | None, str | None, SMTPError | None]] = {}

    # most messages never have another value
    behind: deque[Recipient] | None = None  # in transactions of their own to the same server, one after the other
    aside: list[Recipient] | None = None  # for the next server, when this one is through with the others
    most: int | None = None  # recipients of one transaction: how many this server has shown to take
    is_by_domain = False  # whether those of one domain stand next to each other
    deadline: float | None = None
    servers: list[Server] | None = None
    offered = 0  # how many servers there are, and how many of them
    objections = 0  # cannot be given this message
    renewed: frozenset[Server] = frozenset()  # had their one fresh connection
    turn = 0  # 1: behind those in flight, since a connection ended at a command of this one
    fresh: Server | None = None  # which one it is to have a fresh connection to
    reply: Reply | None = None
    server: str | None = None
    error: SMTPError | None = None
    notes: tuple[str, ...] = ()
    settled: tuple[Outcome, ...] | None = None
    """What became of all recipients at once: a server took the message for all of them in one transaction."""

    @property
    def others(self) -> list[Server]:
        """The servers that come after the one that it is sent to."""
        return (self.servers or [])[1:]

    def accept(self, reply: Reply, server: str) -> None:
        """A server took the message for all that are pending."""
        self.reply, self.server, self.error = reply, server, None
        if self.outcomes or self.attempts:
            self.count_attempt(self.pending)
            for recipient in self.pending:
                self.settle(recipient, Status.ACCEPTED, reply, server, None)
        else:
            self.settled = tuple(
                [Outcome(recipient.address, Status.ACCEPTED, reply, server, None, 1) for recipient in self.pending]
            )
        self.pending = ()

    def transaction(self, offered: Capabilities, server: str, secure: bool, policy: str, is_awake: bool) -> Transaction:
        """A transaction with those still pending. Raises `NotSupported` where a server cannot be given the message.

        ``offered`` and ``secure`` are of the connection, ``is_awake``: whether the server was heard on it lately.
        """
        assert self.envelope is not None
        assert self.content is not None
        content = self.content
        trouble = objection(self.envelope, content, offered, server, secure)
        if trouble is not None:
            with contextlib.suppress(SMTPError):
                content = content.as_7bit()
                trouble = objection(self.envelope, content, offered, server, secure)
        if self.behind or self.most or "LIMITS" in offered:
            self._split(offered.limits)
        if trouble is None and policy == "all" and self.behind:
            trouble = NotSupported(
                f"{server} takes no more than {len(self.pending)} of these {len(self.pending) + len(self.behind)} "
                f"recipients in one transaction (LIMITS {offered.get('LIMITS')}), and recipient_policy is 'all': "
                "nobody was sent the message",
                server=server,
            )
        if trouble is not None:
            raise trouble
        self.notes = notes(self.envelope, offered)
        return Transaction(self.envelope, self.pending, content, is_awake)

    def _split(self, limits: Limits) -> None:
        """Let those be pending who may go in one transaction, and the others stand behind them."""
        line = self.behind or deque()
        line.extendleft(reversed(self.pending))
        if limits.rcptdomainmax is not None and not self.is_by_domain:
            line, self.is_by_domain = by_domain(line), True
        self.behind, self.pending = line, take(line, limits, self.most)

    def record(self, transaction: Transaction, judgement: Judgement, server: str) -> None:
        """Write down what a transaction said of each recipient."""
        self.count_attempt(transaction.recipients)
        for recipient, status, reply, error in judgement.settled:
            self.settle(recipient, status, reply, server, error)
            if status is Status.ACCEPTED:
                self.reply, self.server = reply, server
        for recipient, reply, error in judgement.pending:
            self.heard[recipient] = (reply, server, error)
        if judgement.settled:
            self.pending = tuple([recipient for recipient in self.pending if recipient not in self.outcomes])
            if transaction.error is not None:
                self.most = max(len(judgement.settled), TAKEN)  # see `go_on`

    def count_attempt(self, recipients: tuple[Recipient, ...]) -> None:
        """They were named in a transaction."""
        for recipient in recipients:
            self.attempts[recipient] = self.attempts.get(recipient, 0) + 1

    def settle(
        self, recipient: Recipient, status: Status, reply: Reply | None, server: str | None, error: SMTPError | None
    ) -> None:
        """Write down what became of a recipient; whoever does so ends that it is pending."""
        attempts = self.attempts.get(recipient, 0)
        self.outcomes[recipient] = Outcome(recipient.address, status, reply, server, error, attempts)

    def go_on(self, again: tuple[Recipient, ...], most: int) -> None:
        """The same server is given those it wants ``again``, and those behind; the others are set aside.

        ``most``: how many it took, where it wants some again. From now on no more go at once (but always a hundred):
        what one transaction got done pays for the next, and however often a server says so, the steps that a long list
        takes do not grow with the square of its length.
        """
        wanted = set(again)
        self.aside = self.aside or []
        self.aside.extend([recipient for recipient in self.pending if recipient not in wanted])
        self.pending = again
        if again:
            self.most = max(most, TAKEN)
        self.call_up()

    def call_up(self) -> None:
        """Have somebody pending, as long as anybody is not settled."""
        if not self.pending and self.behind:
            self.pending = (self.behind.popleft(),)
        elif not self.pending:
            self.rejoin()

    def rejoin(self) -> None:
        """All that are not settled are pending: for another server, which may take more or fewer at once."""
        if self.behind or self.aside:
            self.pending = (*self.pending, *(self.behind or ()), *(self.aside or ()))
        self.behind = self.aside = self.most = None
        self.is_by_domain = False

    def settle_all(self, status: Status, error: SMTPError, server: str | None = None) -> None:
        """Write down what became of all that are pending."""
        for recipient in self.pending:
            reply, heard_from, last_error = self.heard.get(recipient, (None, None, None))
            if reply is None:
                self.settle(recipient, status, None, server or heard_from, error)
            else:  # the last word is that server's
                self.settle(recipient, status, reply, heard_from, last_error)
        self.pending = ()

    def give_up(self, last: SMTPError) -> None:
        """No server is left, or no time. ``last``: why, where nothing was said about this message."""
        error = self.error = self.error or last
        is_impossible = isinstance(error, NotSupported) and self.objections == self.offered
        self.settle_all(Status.REJECTED if is_impossible else Status.DEFERRED, error, error.server)

    def receipt(self) -> Receipt:
        """What became of it, when nobody is pending any more."""
        outcomes = self.settled
        if outcomes is None:
            recipients = self.envelope.recipients if self.envelope else ()
            outcomes = tuple([self.outcomes[recipient] for recipient in recipients])
        message_id = self.content.message_id if self.content else None
        receipt = Receipt(message_id, outcomes, self.reply, self.server, queue_id(self.reply), None, self.notes)
        if self.settled is None and (error := failure(receipt, self.error)) is not None:
            # frozen, and the error has to carry the receipt it stands in
            object.__setattr__(receipt, "error", error)
            error.receipt = receipt
        return receipt


def compose(
    message: Any,
    envelope: Envelope | None,
    stamp: Callable[[], tuple[datetime, str]],
    dkim: Sequence[Any] = (),
) -> tuple[Envelope, mime.Content]:
    """What leaves for ``message``: a Message, an ``email.message.Message``; with an envelope also ready content.

    ``stamp`` gives the date and a token for what lacks them; ``dkim`` has the signers.
    """
    envelope, content = _composed(message, envelope, stamp)
    if dkim:
        from smtpbackend.delivery.dkim import signed

        content = signed(content, dkim, stamp()[0])
    return envelope, content


def _composed(
    message: Any, envelope: Envelope | None, stamp: Callable[[], tuple[datetime, str]]
) -> tuple[Envelope, mime.Content]:
    from email.message import Message as EmailMessage

    from smtpbackend.message import Message

    if envelope is not None and not isinstance(envelope, Envelope):
        raise InvalidInput(f"envelope must be an Envelope, not {type(envelope).__name__}", field="envelope")
    if envelope is not None and type(message) is mime.Content:
        return envelope, message  # an adapter has it ready
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
