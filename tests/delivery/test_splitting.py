"""Which recipients share a transaction."""

from __future__ import annotations

from collections import deque

import pytest

from smtpbackend import mime
from smtpbackend.delivery.splitting import by_domain, may_follow, take
from smtpbackend.envelope import Envelope
from smtpbackend.errors import ConnectionLost
from smtpbackend.outcome import Reply
from smtpbackend.protocol.capabilities import Limits
from smtpbackend.protocol.transaction import Transaction

ENVELOPE = Envelope("", "a@one.example, b@TWO.example, c@ONE.example, d@exämple.com, e@xn--exmple-cua.com")


def transaction(*names: str) -> Transaction:
    recipients = tuple(one for one in ENVELOPE.recipients if one.address.local_part in names)
    return Transaction(ENVELOPE, recipients, mime.given(b"x\r\n"))


@pytest.mark.parametrize(
    ("limits", "names"),
    [
        (Limits(), "abcde"),
        (Limits(rcptmax=5), "abcde"),
        (Limits(rcptmax=2), "ab"),
        (Limits(rcptdomainmax=1), "ac"),
        (Limits(rcptdomainmax=2), "abc"),
        (Limits(rcptdomainmax=3), "abcde"),
        (Limits(rcptmax=1, rcptdomainmax=1), "a"),
        (Limits(mailmax=1), "abcde"),
    ],
)
def test_the_first_group(limits: Limits, names: str) -> None:
    line = deque(ENVELOPE.recipients) if limits.rcptdomainmax is None else by_domain(ENVELOPE.recipients)
    whole = tuple(line)
    taken = take(line, limits)
    assert "".join(sorted(one.address.local_part for one in taken)) == names
    assert taken + tuple(line) == whole  # nobody is lost, and the rest keeps its order


def test_one_domain_in_any_spelling() -> None:
    assert len(take(by_domain(ENVELOPE.recipients[3:]), Limits(rcptdomainmax=1))) == 2


def test_a_server_that_has_shown_how_many_it_takes_is_given_no_more() -> None:
    assert len(take(deque(ENVELOPE.recipients), Limits(rcptmax=4), most=3)) == 3
    assert len(take(deque(ENVELOPE.recipients), Limits(rcptmax=2), most=3)) == 2
    assert len(take(deque(ENVELOPE.recipients), Limits(), most=9)) == 5


def test_the_rest_follows_unless_the_server_has_no_time_now() -> None:
    ok, later, never = Reply(250), Reply(451), Reply(550)
    for mail, final, expected in [
        (ok, ok, True),
        (ok, never, True),
        (never, None, True),
        (ok, None, True),
        (later, None, False),
        (ok, later, False),
    ]:
        done = transaction("a")
        done.mail, done.final = mail, final
        assert may_follow(done) is expected
    done = transaction("a")
    done.error = ConnectionLost("gone")
    assert not may_follow(done)
