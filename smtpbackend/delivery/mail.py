"""One message on its way: who is still pending, what became of the others, which servers were tried."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from smtpbackend import mime
from smtpbackend.address import Address
from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.guard import OnlyTo, above, redirected
from smtpbackend.delivery.judgement import Judgement
from smtpbackend.delivery.receipts import failure, queue_id
from smtpbackend.delivery.server import Server
from smtpbackend.delivery.splitting import first_group
from smtpbackend.delivery.translated import Parcel
from smtpbackend.envelope import Envelope, Recipient, Routing
from smtpbackend.errors import InvalidInput, NotSupported, RecipientsRefused, SMTPError
from smtpbackend.outcome import Outcome, Receipt, Reply, Status, named, refusals
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.transaction import Transaction, notes, objection

__all__ = ["Mail", "compose"]


class Mail:
    """What the caller gave, and all that is known of it. ``number`` is its place in the stream."""

    def __init__(self, number: int, message: Any) -> None:
        self.number = number
        self.message = message
        self.recipients: tuple[Recipient, ...] = ()  # all but those refused here
        self.pending: tuple[Recipient, ...] = ()
        self.outcomes: dict[Recipient, Outcome] = {}
        self.attempts: dict[Recipient, int] = {}  # of those whose first one did not settle everybody
        self.heard: dict[Recipient, tuple[Reply | None, str | None, SMTPError | None]] = {}

    # most messages never have another value
    envelope: Envelope | None = None
    content: mime.Content | None = None
    refused: tuple[Outcome, ...] = ()  # here, before anything was sent
    redirected: Envelope | None = None  # what leaves instead, for one address
    aside: tuple[Recipient, ...] = ()  # for the next server, when this one is through with those pending
    deadline: float | None = None
    servers: list[Server] | None = None
    offered = 0  # how many servers there are, and how many of them
    objections = 0  # cannot be given this message
    renewed: frozenset[Server] = frozenset()  # had their one fresh connection
    turn = 0  # 1: behind those in flight, since a connection ended at a command of this one
    fresh: Server | None = None  # which one it is to have a fresh connection to
    reply: Reply | None = None
    server: str | None = None
    error: Exception | None = None
    notes: tuple[str, ...] = ()
    settled: tuple[Outcome, ...] | None = None
    """What became of all recipients at once: a server took the message for all of them in one transaction."""

    def is_for(self, recipients: tuple[Recipient, ...]) -> None:
        """These are its recipients."""
        self.recipients = self.pending = recipients

    def keep_to(self, allowed: OnlyTo) -> None:
        """Refuse those who may get no mail of this mailer."""
        left, refused = allowed.sift(self.recipients)
        if refused:
            self.refused += refused
            self.envelope = replace(self.envelope, recipients=left) if self.envelope and left else None
            self.is_for(left)

    def redirect(self, to: Address) -> None:
        """Send it to one address instead, under a field that names those whom it is for."""
        assert self.envelope is not None
        assert self.content is not None
        self.content = above(self.content, self.envelope)
        self.redirected = redirected(self.envelope, to)
        self.pending = self.redirected.recipients

    def send_to_nobody(self) -> None:
        """Some were refused here, and under "all" then nobody gets it (DESIGN 4.2)."""
        self.error = RecipientsRefused(
            f"{named(self.refused)} cannot be sent to; recipient_policy is 'all', so nobody was sent the message",
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
        envelope, content = self.redirected or self.envelope, self.content
        assert envelope is not None
        assert content is not None
        trouble = objection(envelope, content, offered, server, secure)
        if trouble is not None:
            with contextlib.suppress(SMTPError):
                content = content.as_7bit()
                trouble = objection(envelope, content, offered, server, secure)
        group = first_group(self.pending, offered.limits) if "LIMITS" in offered else self.pending
        if trouble is None and policy == "all" and len(group) < len(self.pending):
            trouble = NotSupported(
                f"{server} takes no more than {len(group)} of these {len(self.pending)} recipients in one transaction "
                f"(LIMITS {offered['LIMITS']}), and recipient_policy is 'all': nobody was sent the message",
                server=server,
            )
        if trouble is not None:
            raise trouble
        self.notes = notes(envelope, offered)
        return Transaction(envelope, group, content, is_awake)

    def record(self, transaction: Transaction, judgement: Judgement, server: str) -> None:
        """Write down what a transaction said of each recipient."""
        self.count_attempt(transaction.recipients)
        for recipient, status, reply, error in judgement.settled:
            self.settle(recipient, status, reply, server, error)
            if status is Status.ACCEPTED:
                self.reply, self.server = reply, server
        for recipient, reply, error in judgement.pending:
            self.heard[recipient] = (reply, server, error)

    def count_attempt(self, recipients: tuple[Recipient, ...]) -> None:
        """They were named in a transaction."""
        for recipient in recipients:
            self.attempts[recipient] = self.attempts.get(recipient, 0) + 1

    def settle(
        self, recipient: Recipient, status: Status, reply: Reply | None, server: str | None, error: Exception | None
    ) -> None:
        """Write down what became of a recipient."""
        attempts = self.attempts.get(recipient, 0)
        self.outcomes[recipient] = Outcome(recipient.address, status, reply, server, error, attempts)
        if len(self.pending) == 1 and self.pending[0] is recipient:
            self.pending = ()
        else:
            self.pending = tuple([other for other in self.pending if other is not recipient])

    def set_aside(self, but: tuple[Recipient, ...]) -> None:
        """All that are pending but those, who go in a transaction of their own first."""
        self.aside += tuple(recipient for recipient in self.pending if recipient not in but)
        self.pending = but

    def rejoin(self) -> None:
        """Those set aside are pending again."""
        self.pending, self.aside = self.pending + self.aside, ()

    def settle_all(self, status: Status, error: Exception, server: str | None = None) -> None:
        """Write down what became of all that are pending."""
        for recipient in self.pending:
            reply, heard_from, last_error = self.heard.get(recipient, (None, None, None))
            if reply is None:
                self.settle(recipient, status, None, server or heard_from, error)
            else:  # the last word is that server's
                self.settle(recipient, status, reply, heard_from, last_error)

    def give_up(self, last: SMTPError) -> None:
        """No server is left, or no time. ``last``: why, where nothing was said about this message."""
        error = self.error = self.error or last
        is_impossible = isinstance(error, NotSupported) and self.objections == self.offered
        server = error.server if isinstance(error, SMTPError) else None
        self.settle_all(Status.FAILED if is_impossible else Status.DEFERRED, error, server)

    def receipt(self) -> Receipt:
        """What became of it, when nobody is pending any more."""
        outcomes, notes = self.settled, self.notes
        if outcomes is None:
            named = self.redirected.recipients if self.redirected else self.recipients
            outcomes = tuple([self.outcomes[recipient] for recipient in named])
        if self.redirected is not None:
            (outcome,) = outcomes
            outcomes = tuple([replace(outcome, address=recipient.address) for recipient in self.recipients])
            notes += (f"sent to {self.redirected.recipients[0].address} alone, as redirect_to says",)
        outcomes += self.refused
        message_id = self.content.message_id if self.content else None
        receipt = Receipt(message_id, outcomes, self.reply, self.server, queue_id(self.reply), None, notes)
        if self.settled is None and (error := failure(receipt, self.error)) is not None:
            # frozen, and the error has to carry the receipt it stands in
            object.__setattr__(receipt, "error", error)
            if isinstance(error, SMTPError):
                error.receipt = receipt
        return receipt


def compose(mail: Mail, envelope: Envelope | None, rules: Rules, stamp: Callable[[], tuple[datetime, str]]) -> None:
    """Find out who a message goes to, and make what leaves for it: ``envelope`` and ``content`` of ``mail``.

    Its message is a Message, an ``email.message.Message`` or a `Parcel`, with an envelope also octets and what has
    them. Where nobody is left of its recipients there is no envelope. ``stamp`` gives the date and a token for what
    lacks them. Raises `InvalidInput`, and whatever a source raises.
    """
    _address(mail, envelope, rules.bounce_address)
    if rules.only_to is not None:
        mail.keep_to(rules.only_to)
    if mail.refused and rules.recipient_policy == "all":
        mail.send_to_nobody()
    if not mail.pending:
        return
    mail.content = _content_of(mail.message, stamp)
    if rules.redirect_to is not None:
        mail.redirect(rules.redirect_to)
    if rules.dkim:
        from smtpbackend.delivery.dkim import signed

        mail.content = signed(mail.content, rules.dkim, stamp()[0])


def _address(mail: Mail, envelope: Envelope | None, bounce_address: Address | None) -> None:
    """Who it is from and for: as the caller says, else as its headers do."""
    if isinstance(mail.message, Parcel):
        envelope, mail.refused = mail.message.envelope, mail.message.refused
    elif envelope is None:
        envelope = _from_headers(mail, bounce_address)
    elif not isinstance(envelope, Envelope):
        raise InvalidInput(f"envelope must be an Envelope, not {type(envelope).__name__}", field="envelope")
    if envelope is not None:
        mail.envelope = envelope
        mail.is_for(envelope.recipients)


def _from_headers(mail: Mail, bounce_address: Address | None) -> Envelope | None:
    message = mail.message
    if not hasattr(message, "raw_items") and not hasattr(message, "address_fields"):
        raise InvalidInput(
            f"a {type(message).__name__} has no originator and recipients that could be read: give an envelope",
            field="envelope",
        )
    routing = Routing(message)
    recipients, refused = routing.recipients()
    mail.refused = tuple(Outcome(text, Status.REJECTED, error=error) for text, error in refused)
    if refused and not recipients:
        return None
    try:
        return Envelope(bounce_address or routing.originator(), recipients)
    except InvalidInput:
        if recipients:  # the receipt tells of them
            mail.is_for(Envelope(None, recipients).recipients)
        raise


def _content_of(message: Any, stamp: Callable[[], tuple[datetime, str]]) -> mime.Content:
    from email.message import Message as EmailMessage

    from smtpbackend.message import Message

    if isinstance(message, Parcel):
        message = message.content
    if type(message) is mime.Content:
        return message  # an adapter has it ready
    if not isinstance(message, (Message, EmailMessage)):
        return mime.given(message)  # what the caller's own source raises is the caller's own
    try:
        date, token = stamp()
        return mime.render(message, date=date, token=token)
    except SMTPError:
        raise
    except Exception as error:
        # the email package has its own words for what it cannot render; a file may be missing
        raise InvalidInput(
            f"the message cannot be rendered: {type(error).__name__}: {error}", field="message"
        ) from error
