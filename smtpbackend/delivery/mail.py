"""One message on its way: which recipients are pending, what became of the others, which servers are left."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from smtpbackend import mime
from smtpbackend.address import Address
from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.guard import OnlyTo, redirected, with_original_to
from smtpbackend.delivery.judgement import Judgement
from smtpbackend.delivery.receipts import failure, of_all_servers, queue_id
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.splitting import by_domain, take
from smtpbackend.envelope import Envelope, Recipient
from smtpbackend.errors import InvalidInput, NotSupported, RecipientsRefused, SMTPError
from smtpbackend.outcome import Outcome, Receipt, Reply, Status, named, refusals
from smtpbackend.protocol.capabilities import Capabilities, Limits
from smtpbackend.protocol.transaction import Transaction, notes, objection
from smtpbackend.spelling import KEYWORDS, Spelling

__all__ = ["Mail"]

TAKEN = 100  # recipients of one transaction that every server takes, RFC 5321 4.5.3.1.8


class Mail:
    """What the caller gave, and all that is known of it. ``number`` is its place in the stream.

    As long as a recipient is not settled, some are ``pending``: those of the transaction that goes now, or next.
    """

    def __init__(self, number: int, message: Any) -> None:
        self.number = number
        self.message = message
        self.recipients: tuple[Recipient, ...] = ()  # all but those refused here
        self.pending: tuple[Recipient, ...] = ()
        self.outcomes: dict[Recipient, Outcome] = {}
        self.attempts: dict[Recipient, int] = {}  # more than one, or one that did not settle all
        self.last_replies: dict[Recipient, tuple[Reply | None, str | None, SMTPError | None]] = {}

    # most messages never have another value
    envelope: Envelope | None = None
    content: mime.Content | None = None
    refused: tuple[Outcome, ...] = ()  # here, before anything was sent
    redirected: Envelope | None = None  # what leaves instead, for one address
    redirected_by = ""  # the setting that says so
    behind: deque[Recipient] | None = None  # in transactions of their own to the same server, one after the other
    aside: list[Recipient] | None = None  # for the next server, when this one is through with the others
    most: int | None = None  # recipients of one transaction: how many this server has shown to take
    is_by_domain = False  # whether those of one domain stand next to each other
    deadline: float | None = None
    servers: list[Server] | None = None
    offered = 0  # how many servers there are
    objections = 0  # how many of them cannot be given this message
    renewed: frozenset[Server] = frozenset()  # had their one fresh connection
    passed: dict[Server, SMTPError] | None = None  # those that had their chance with it, and why they did not take it
    goes_behind = False  # behind the others, since a connection ended at a command of this one
    fresh: Server | None = None  # the server that gets it on a fresh connection
    reply: Reply | None = None
    server: str | None = None
    error: Exception | None = None
    answered = False  # whether any server answered its MAIL
    notes: tuple[str, ...] = ()
    parcel_notes: Any = None  # for the events
    has_nothing = False  # to send: its parcel is None
    reserved: tuple[Server, float] | None = None  # when it may begin on that server, as the caller's ``pace`` says
    spellings: Mapping[str, Spelling] = MappingProxyType({})  # of the servers that refused it for a recipient
    accepted_at_once: tuple[Outcome, ...] | None = None
    """What became of all recipients at once: a server took the message for all of them in one transaction."""

    def is_for(self, recipients: tuple[Recipient, ...]) -> None:
        """Set its recipients."""
        self.recipients = self.pending = recipients

    def keep_to(self, allowed: OnlyTo) -> None:
        """Refuse the recipients that may get no mail of this mailer."""
        left, refused = allowed.sift(self.recipients)
        if refused:
            self.refused += refused
            self.envelope = self.envelope.replace(recipients=left) if self.envelope and left else None
            self.is_for(left)

    def redirect(self, to: Address, setting: str) -> None:
        """Send it to one address instead, as ``setting`` says, under a field that names its recipients."""
        assert self.envelope is not None
        assert self.content is not None
        self.content = with_original_to(self.content, self.envelope)
        self.redirected = redirected(self.envelope, to)
        self.redirected_by = setting
        self.pending = self.redirected.recipients

    def send_to_nobody(self, spelled: Spelling) -> None:
        """Settle all: some were refused here, and the policy is "all" (DESIGN 4.2)."""
        names = named([(outcome.address, outcome.error) for outcome in self.refused])
        self.error = RecipientsRefused(
            f"{names} cannot be sent to; with {spelled('recipient_policy', 'all')} no recipient was sent the message",
            recipients=refusals(self.refused),
        )
        self.settle_all(Status.DEFERRED, self.error)

    @property
    def others(self) -> list[Server]:
        """The servers that come after the one that it is sent to."""
        return (self.servers or [])[1:]

    def accept(self, reply: Reply, server: str) -> None:
        """A server took the message for all that are pending."""
        self.reply, self.server, self.error = reply, server, None
        self.answered = True
        if self.outcomes or self.attempts:
            self.count_attempt(self.pending)
            for recipient in self.pending:
                self.settle(recipient, Status.ACCEPTED, reply, server, None)
        else:
            self.accepted_at_once = tuple(
                [Outcome(recipient, Status.ACCEPTED, reply, server, None, 1) for recipient in self.pending]
            )
        self.pending = ()

    def pretend(self) -> None:
        """Count it as accepted for all that are pending, where sending is suppressed."""
        self.accepted_at_once = tuple([Outcome(recipient, Status.ACCEPTED) for recipient in self.pending])
        self.notes = ("sending is suppressed: nothing was sent",)
        self.pending = ()

    def transaction(
        self,
        offered: Capabilities,
        server: str,
        secure: bool,
        rules: Rules,
        is_awake: bool,
        without_tls: SMTPError | None = None,
    ) -> Transaction:
        """A transaction with those still pending. Raises `NotSupported` where a server cannot be given the message.

        ``offered`` and ``secure`` are of the connection, ``is_awake``: whether the server answered on it lately,
        ``without_tls``: why it goes on in clear, where TLS was offered.
        """
        envelope, content = self.redirected or self.envelope, self.content
        assert envelope is not None
        assert content is not None
        trouble = objection(envelope, content, offered, server, secure)
        if trouble is not None:
            with contextlib.suppress(SMTPError):
                content = content.as_7bit()
                trouble = objection(envelope, content, offered, server, secure)
        if self.behind or self.most or "LIMITS" in offered:
            self._split(offered.limits)
        if trouble is None and rules.recipient_policy == "all" and self.behind:
            trouble = NotSupported(
                f"{server} takes no more than {len(self.pending)} of these {len(self.pending) + len(self.behind)} "
                f"recipients in one transaction (LIMITS): with {rules.spelling('recipient_policy', 'all')} no "
                "recipient was sent the message",
                server=server,
            )
        if trouble is not None:
            raise trouble
        self.notes = notes(envelope, offered)
        if without_tls is not None:
            self.notes += (f"sent in clear, for TLS was offered and failed: {without_tls}",)
        return Transaction(envelope, self.pending, content, is_awake)

    def _split(self, limits: Limits) -> None:
        """Keep those pending that may go in one transaction; the others follow in further ones."""
        queue = self.behind or deque()
        queue.extendleft(reversed(self.pending))
        if limits.rcptdomainmax is not None and not self.is_by_domain:
            queue, self.is_by_domain = by_domain(queue), True
        self.behind, self.pending = queue, take(queue, limits, self.most)

    def record(self, transaction: Transaction, judgement: Judgement, server: str, spelled: Spelling = KEYWORDS) -> None:
        """Write down what a transaction said of each recipient. ``spelled``: how errors write the server's settings."""
        self.spellings = {**self.spellings, server: spelled}
        self.answered = self.answered or transaction.is_answered
        self.count_attempt(transaction.recipients)
        for recipient, status, reply, error in judgement.settled:
            self.settle(recipient, status, reply, server, error)
            if status is Status.ACCEPTED:
                self.reply, self.server = reply, server
        for recipient, reply, error in judgement.pending:
            self.last_replies[recipient] = (reply, server, error)
        if judgement.settled:
            self.pending = tuple([recipient for recipient in self.pending if recipient not in self.outcomes])
            if transaction.error is not None:
                self.most = max(len(judgement.settled), TAKEN)  # see `go_on`

    def count_attempt(self, recipients: tuple[Recipient, ...]) -> None:
        """They were named in a transaction."""
        for recipient in recipients:
            self.attempts[recipient] = self.attempts.get(recipient, 0) + 1

    def settle(
        self, recipient: Recipient, status: Status, reply: Reply | None, server: str | None, error: Exception | None
    ) -> None:
        """Write down what became of a recipient. The caller takes it out of ``pending``."""
        attempts = self.attempts.get(recipient, 0)
        self.outcomes[recipient] = Outcome(recipient, status, reply, server, error, attempts)

    def go_on(self, again: tuple[Recipient, ...], most: int) -> None:
        """The same server is given those it wants ``again``, and those behind; the others are set aside.

        ``most``: how many it took, where it wants some again. From now on no more than these go at once, or a hundred
        if it took fewer. So each transaction that a server cuts short costs no more than the last one achieved, and the
        steps for a long list do not grow with the square of its length.
        """
        wanted = set(again)
        self.aside = self.aside or []
        self.aside.extend([recipient for recipient in self.pending if recipient not in wanted])
        self.pending = again
        if again:
            self.most = max(most, TAKEN)
        self.call_up()

    def call_up(self) -> None:
        """Have recipients pending, as long as some are not settled."""
        if not self.pending and self.behind:
            self.pending = (self.behind.popleft(),)
        elif not self.pending:
            self.rejoin()

    def rejoin(self) -> None:
        """Make all recipients that are not settled pending: another server may take more or fewer of them at once."""
        if self.behind or self.aside:
            self.pending = (*self.pending, *(self.behind or ()), *(self.aside or ()))
        self.behind = self.aside = self.most = None
        self.is_by_domain = False

    def settle_all(self, status: Status, error: Exception, server: str | None = None) -> None:
        """Settle every pending recipient."""
        for recipient in self.pending:
            reply, replied_by, last_error = self.last_replies.get(recipient, (None, None, None))
            if reply is None:
                self.settle(recipient, status, None, server or replied_by, error)
            else:  # its last reply says why, not the error that ended the attempts
                self.settle(recipient, status, reply, replied_by, last_error)
        self.pending = ()

    def remember(self, failed: Mapping[Server, SMTPError]) -> None:
        """Why servers of this message did not take it, in the order in which they failed."""
        gone = {server: error for server, error in failed.items() if server in (self.servers or ())}
        if gone:
            self.passed = {**(self.passed or {}), **gone}

    def give_up(self, failed: Sequence[SMTPError]) -> None:
        """No server is left, or no time. ``failed``: the errors of the servers, in the order in which they failed."""
        error = self.error = self.error or failed[-1]
        if isinstance(error, SMTPError) and any(one is error for one in failed):  # else no server has raised it
            error = self.error = of_all_servers(error, failed)
        is_impossible = isinstance(error, NotSupported) and self.objections == self.offered
        server = error.server if isinstance(error, SMTPError) else None
        self.settle_all(Status.FAILED if is_impossible else Status.DEFERRED, error, server)

    def receipt(self) -> Receipt:
        """What became of it, when no recipient is pending any more."""
        outcomes, notes = self.accepted_at_once, self.notes
        if outcomes is None:
            told = self.redirected.recipients if self.redirected else self.recipients
            outcomes = tuple([self.outcomes[recipient] for recipient in told])
        if self.redirected is not None:
            (outcome,) = outcomes
            if outcome.status is Status.REJECTED and outcome.error is None:  # its own recipients were not refused
                why = f"{outcome.address}, to which {self.redirected_by} sends all mail, was refused"
                outcome = outcome.replace(error=InvalidInput(why, field="redirect_to"))
            outcomes = tuple([outcome.replace(recipient=recipient) for recipient in self.recipients])
            notes += (f"for {self.redirected.recipients[0].address} alone, as {self.redirected_by} says",)
        outcomes += self.refused
        message_id = self.content.message_id if self.content else None
        receipt = Receipt(
            message_id,
            outcomes,
            self.reply,
            self.server,
            queue_id(self.reply),
            None,
            notes,
            self.envelope,
            self.answered,
        )
        if self.accepted_at_once is not None:
            return receipt
        # without a recipient nothing was tried: the reason is what kept the message from being made
        error = failure(receipt, self.error, self.spellings) if outcomes else self.error
        if error is not None:
            # the receipt is frozen, and its error refers to it
            receipt.__dict__["error"] = error
            if isinstance(error, SMTPError):
                error.receipt = receipt
        return receipt
