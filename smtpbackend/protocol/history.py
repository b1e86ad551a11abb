"""What happened on one connection, and what that has proved.

| attribute | set by | read by |
| --- | --- | --- |
| transactions, latest, refused_reset | transaction_steps; `Session.reset` (latest) | pipeline, delivery/pooling |
| refusals, room | transaction_steps (refusals), pipeline | transaction_steps, delivery/pooling |
| discards, probed_slowly | transaction_steps; delivery/experience (discards) | delivery/experience |
| overlaps, probing, overlapping | transaction_steps; pipeline, at the end | pipeline, delivery/experience |
| mixes_up | transaction_steps | delivery/experience, delivery/connecting |
| ended_by, ended_at, refused_first | pipeline; delivery/dispatch | delivery/connecting, delivery/experience |
"""

from __future__ import annotations

from smtpbackend.errors import SMTPError
from smtpbackend.outcome import Reply
from smtpbackend.protocol.transaction import Transaction

__all__ = ["RATION", "History"]

# Errors in a row on one connection. From the tenth on Postfix sleeps a second before each reply, and ends the
# connection at the twentieth (smtpd_soft_error_limit, smtpd_hard_error_limit); Exim ends it at the eleventh RSET behind
# a refusal (smtp_accept_max_nonmail).
RATION = 9


class History:
    """What happened on one connection; it is kept from one `Session.deliver` to the next."""

    def __init__(self) -> None:
        self.transactions = 0
        """How many were begun."""
        self.latest: Transaction | None = None
        """The last one that was begun, where no RSET followed it."""
        self.refused_reset: Reply | None = None
        """The refusal of a RSET, until the next reply: it may be the last word of the server."""
        self.refusals = 0
        """Errors since the last accepted message: senders, recipients, contents; DATA without recipients; the probe."""
        self.room = RATION
        """How many messages may be in flight: refusals close the window, for servers punish errors."""
        self.discards: bool | None = None
        """Whether it has proved that it does not read the chunk of a refused BDAT as commands; None: not asked."""
        self.probing = False
        """Whether the connection was asked to prove that, and has not answered."""
        self.probed_slowly = False
        """Whether its answer took so long that it may have been a punishment."""
        self.overlaps: bool | None = None
        """Whether it has proved that it answers what follows the end of a content in one write; None: not asked."""
        self.overlapping = False
        """Whether the connection was asked to prove that, and has not answered."""
        self.mixes_up = False
        """Whether a group of commands was answered as if some of it had not been read."""
        self.ended_by: SMTPError | None = None
        """What ended the connection while mail was in flight."""
        self.ended_at: int | None = None
        """The number of the transaction at which the server ended it."""
        self.refused_first = False
        """Whether it did so in answer to the first MAIL."""

    @property
    def is_spent(self) -> bool:
        """Whether another error might be one too many for the server."""
        return self.refusals >= RATION

    @property
    def is_on_trial(self) -> bool:
        """Whether the connection ended over what was tried on it, and not over the message that was on its way."""
        return self.probing or self.overlapping or self.mixes_up
