"""How a message begins and how it ends: from its parcel to a `Mail`, and from there to its receipt.

The Listeners are told of both: `MessageSending` first, `MessageEnded` last, each exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from smtpbackend.content import Content
from smtpbackend.delivery import alarm
from smtpbackend.delivery.composing import compose
from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.mail import Mail
from smtpbackend.delivery.parcel import Parcel
from smtpbackend.delivery.receipts import recipient_events
from smtpbackend.errors import CancelSend, DeliveryError
from smtpbackend.events import MessageEnded, MessageSending, Telling
from smtpbackend.outcome import Receipt, Status
from smtpbackend.protocol.timeouts import Deadline

__all__ = ["Lifecycle"]


class Lifecycle:
    """Begins and ends the messages of one delivery.

    ``rules`` are those of the mailer; ``tell`` takes each event; ``clock`` gives seconds of a monotonic clock;
    ``stamp`` the date and the unique part of the Message-ID for a message that lacks them; ``deadline`` is in seconds,
    for each message; ``ended`` is called with each receipt. ``suppress``: all messages count as accepted.
    """

    def __init__(
        self,
        rules: Rules,
        tell: Telling,
        clock: Callable[[], float],
        stamp: Callable[[], tuple[datetime, str]],
        deadline: float | None = None,
        ended: Callable[[Receipt], object] = lambda _: None,
        suppress: bool = False,
    ) -> None:
        self.rules = rules
        self.tell = tell
        self.clock = clock
        self.stamp = stamp
        self.deadline = deadline
        self.ended = ended
        self.suppress = suppress

    def open(self, item: Any, pairs: bool) -> tuple[Any, Parcel | Exception]:
        """For an item of ``send_many``: the object that events and receipts show for it, and its parcel or an error.

        The object is the message, with ``pairs`` the item itself.
        """
        message, envelope = item if type(item) is tuple and len(item) == 2 else (item, None)
        known_as = item if pairs else message
        try:
            return known_as, Parcel.of(message, envelope, self.rules.bounce_address)
        except Exception as error:
            return known_as, error

    def begin(self, number: int, message: Any, parcel: Parcel | Exception | None) -> Mail:
        """A message on its way. What cannot be sent, or is cancelled by a Listener, is settled.

        ``parcel`` is what was prepared, or what was raised instead; None: there is nothing to send.
        """
        mail = Mail(number, message)
        if parcel is None or (isinstance(parcel, Parcel) and parcel.envelope is None and not parcel.refused):
            mail.has_nothing = True
            return mail
        error = compose(mail, parcel, self.rules, self.stamp)
        if self.tell.wants("message_sending"):
            try:
                self.tell(MessageSending(message, mail.envelope, mail.parcel_notes))
            except CancelSend as cancelled:
                if mail.pending and error is None:
                    error = cancelled
            except BaseException:
                self.break_off(mail, "a listener ended the delivery")
                raise
        if error is not None:  # no recipient is to blame
            mail.error = error
            mail.settle_all(Status.DEFERRED if isinstance(error, CancelSend) else Status.FAILED, error)
        elif self.suppress and mail.pending:
            mail.pretend()
        if self.deadline is not None:
            mail.deadline = Deadline.after(self.deadline, self.clock(), self.rules.spelling("deadline"))
        return mail

    def end(self, mail: Mail) -> Receipt | None:
        """The receipt of a mail whose recipients are settled; None where there was nothing to send."""
        if mail.has_nothing:
            return None
        receipt = mail.receipt()
        if receipt.in_doubt:
            alarm.in_doubt(receipt, self.clock())
        if mail.accepted_at_once is None or mail.refused:
            for event in recipient_events(mail.message, mail.envelope, receipt, mail.parcel_notes):
                self.tell(event)
        if self.tell.wants("message_ended"):
            self.tell(MessageEnded(mail.message, mail.envelope, mail.parcel_notes, receipt))
        if not self.suppress:
            self.ended(receipt)
        if mail.content is not None and type(mail.message) is not Content:  # what was given may be another's too
            mail.content.close()
        return receipt

    def break_off(self, mail: Mail, why: str) -> None:
        """End a mail that is not sent any more; its receipt is not given to the caller."""
        mail.rejoin()
        mail.error = mail.error or DeliveryError(why)
        mail.settle_all(Status.DEFERRED, mail.error)
        self.end(mail)
