"""When an entry is tried, and what a receipt means for each of its recipients.

Pure: times, counts and chance are arguments. Nothing here knows a database, a thread or a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from smtpbackend.errors import (
    AuthenticationFailed,
    CancelSend,
    MailerClosed,
    NotSupported,
    SenderRefused,
    SMTPError,
    TLSFailed,
)
from smtpbackend.outbox.entry import State
from smtpbackend.outcome import Outcome, Receipt, Reply, Status

__all__ = [
    "FIRST_OF_GROUP",
    "LANES",
    "LEASE",
    "MARGIN",
    "MAX_LAPSES",
    "RENEW",
    "SUSPECT",
    "SUSPECTS",
    "TRIAL",
    "Turns",
    "Verdict",
    "backoff",
    "deferred",
    "is_of_mailer",
    "lane_of",
    "rest_after",
    "verdict_on",
]

# Leases, in seconds
LEASE = 60.0
RENEW = 20.0
MARGIN = 10.0
"""What must be left of a lease where a transaction begins: within it the worker may be stopped, or a clock drift."""
TRIAL = 60.0
"""How long one worker alone may try a mailer that rests."""

SUSPECT = 2
"""From so many lapsed leases on an entry is claimed alone: it may be what makes workers die."""
MAX_LAPSES = 5
"""At so many an entry is not tried any more."""

# Retries


def backoff(tries: int, chance: float) -> float:
    """Seconds until an entry is tried again after ``tries`` tries: 1 minute to 4 hours.

    ``chance`` is from 0 to 1: what was deferred together does not come back together.
    """
    least = min(4 * 3600 / 1.5, 60.0 * float(1 << min(tries - 1, 12)))
    return least * (1 + chance / 2)


def rest_after(rest: float) -> float:
    """How long a mailer rests whose last rest was ``rest`` seconds, and none where it is 0: 5 s, doubled up to 60 s."""
    return min(60.0, max(5.0, rest * 2))


CROWDED = 5.0
"""How long a worker alone leaves a server that has too many connections, and works for others."""
TOOK_MAIL = 90.0
"""A server that took mail within this time works: connections that nobody uses are kept open for a minute."""

# Turns

FIRST_OF_GROUP = 10
"""So many entries of one transaction, or of one list, go with the single mails; the rest of them behind."""
_FIRST, _REST, _DEFERRED = range(3)
_EACH = 3  # lanes of a priority
SUSPECTS = 9
"""The lane of entries that are claimed alone."""
LANES = 10


def lane_of(priority: int, place: int) -> int:
    """The lane of a new entry that is the ``place``-th of its group, counted from 0."""
    return priority * _EACH + (_FIRST if place < FIRST_OF_GROUP else _REST)


def deferred(priority: int) -> int:
    """The lane of an entry that is tried again."""
    return priority * _EACH + _DEFERRED


class Turns:
    """In which order the lanes are served.

    A higher priority goes first, but each lower one is owed a tenth of what is claimed. Within a priority the lanes
    take turns, so that neither a newsletter nor what was deferred holds up single mails, or is held up by them.
    """

    _orders = (
        (_FIRST, _REST, _DEFERRED),
        (_REST, _FIRST, _DEFERRED),
        (_FIRST, _DEFERRED, _REST),
        (_DEFERRED, _FIRST, _REST),
    )
    _tenth = 0.1

    def __init__(self) -> None:
        self._claims = 0
        self._owed = [0.0, 0.0, 0.0]

    def branches(self, count: int) -> list[tuple[int, int]]:
        """Lanes in the order of a claim of ``count``, each with how many it may give at most."""
        order = self._orders[self._claims % len(self._orders)]
        self._claims += 1
        owed = [(p, min(count, int(self._owed[p]))) for p in (1, 2)]
        lanes = [(p * _EACH + place, most) for p, most in owed if most > 0 for place in order]
        lanes += [(p * _EACH + place, count) for p in range(3) for place in order]
        return lanes

    def note(self, lanes: Iterable[int]) -> None:
        """What a claim gave: the lane of each entry."""
        given = [0, 0, 0]
        for lane in lanes:
            given[lane // _EACH] += 1
        share = self._tenth * sum(given)
        for p in (1, 2):
            # Where it had nothing, little is owed to it later; each of its three lanes may have given what was owed
            self._owed[p] = min(1 + share, max(-2 * (1 + share), self._owed[p] + share - given[p]))


# Receipts


class Verdict(NamedTuple):
    """What one try means for one recipient. ``state`` is PENDING where it is tried again."""

    state: State
    is_doubtful: bool
    reply: Reply | None
    server: str | None
    error: str | None


def is_of_mailer(receipt: Receipt) -> bool:
    """Whether a try says something of the mailer and nothing of the message: then every other entry fails as well.

    That is what failed before MAIL was answered, a login that is wanted or was refused (530, 5.7.0, 5.7.8), and a
    quota that is used up (5.4.5, or its text).
    """
    if receipt.error is None or isinstance(receipt.error, CancelSend):
        return False
    if any(outcome.status in (Status.ACCEPTED, Status.IN_DOUBT) for outcome in receipt.outcomes):
        return False
    tried = [o for o in receipt.outcomes if o.status is Status.DEFERRED or o.reply is not None]
    if not tried:
        return False
    if not receipt.answered:
        return all(o.status is Status.DEFERRED and not _is_of_message(o.error) for o in tried)
    return all(_is_of_account(o) for o in tried)


def _is_of_message(error: Exception | None) -> bool:
    """Whether a server would take another message, or nobody was asked."""
    others = error.others if isinstance(error, SMTPError) else ()  # of the servers that were tried before
    return isinstance(error, MailerClosed) or any(isinstance(one, NotSupported) for one in (error, *others))


def _is_of_account(outcome: Outcome) -> bool:
    """Whether a reply is of the account that sends, and not of the recipient or the message."""
    reply = outcome.reply
    if reply is None:
        return False
    if reply.enhanced is not None and reply.enhanced[1:] == (4, 5):
        return True
    wants_login = reply.code == 530 or (reply.is_permanent and reply.enhanced in ((5, 7, 0), (5, 7, 8)))
    if wants_login and isinstance(outcome.error, (AuthenticationFailed, SenderRefused, TLSFailed)):  # to AUTH or MAIL
        return True
    return _says_quota(reply.text) is not None


_says_quota = re.compile(
    # What an account may send is used up; the sources stand in known_replies.py
    r"submissionquota|daily (?:user )?(?:message |sending |smtp relay )(?:quota|limit) exceeded|"
    r"maximum (?:credits|sending rate) exceeded",
    re.I,
).search


def verdict_on(outcome: Outcome, doubts: int, retry_in_doubt: int) -> Verdict:
    """What the outcome of a try means for its recipient, which was in doubt ``doubts`` times before."""
    said = None if outcome.error is None else str(outcome.error)

    def verdict(state: State, is_doubtful: bool = False) -> Verdict:
        return Verdict(state, is_doubtful, outcome.reply, outcome.server, said)

    if outcome.status is Status.ACCEPTED:
        return verdict(State.ACCEPTED)
    if outcome.status is Status.REJECTED:
        # What is refused for the account is tried again, also beside recipients that were accepted
        return verdict(State.PENDING if _is_of_account(outcome) else State.REJECTED)
    if outcome.status is Status.FAILED:
        return verdict(State.FAILED)
    if outcome.status is Status.IN_DOUBT:
        return verdict(State.PENDING if doubts < retry_in_doubt else State.IN_DOUBT, True)
    if isinstance(outcome.error, CancelSend):
        return verdict(State.CANCELLED)
    return verdict(State.PENDING)
