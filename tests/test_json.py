"""Envelopes, outcomes, receipts and replies go to JSON and back: what an outbox keeps."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpbackend import Address, Envelope, Outcome, Receipt, Recipient, RecipientsRefused, Reply, Status, errors
from smtpbackend.errors import AuthenticationFailed, DeliveryError, InvalidSetting, SMTPError

names = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters='<>@\uff20\ufe6b,;:"()[]\\.'),
    min_size=1,
    max_size=9,
)
addresses = st.builds(
    Address, names, st.sampled_from(["example.org", "exämple.com", "[192.0.2.1]", ""]), st.text("ab é", max_size=5)
)
recipients = st.builds(
    Recipient,
    addresses,
    st.sampled_from([(), ("NEVER",), ("FAILURE", "DELAY")]),
    st.sampled_from([None, "old@example.org"]),
)
moments = st.datetimes(timezones=st.just(UTC), min_value=datetime(2026, 1, 1), max_value=datetime(2030, 1, 1))
envelopes = st.builds(
    Envelope,
    st.none() | addresses,
    st.lists(recipients, min_size=1, max_size=4),
    dsn_return=st.sampled_from([None, "FULL", "HDRS"]),
    envid=st.sampled_from([None, "id 1"]),
    require_tls=st.booleans(),
    hold_until=st.none() | moments,
    extra=st.sampled_from([{}, {"X-A": None, "X-B": "1"}]),
)
lines = st.lists(st.text(max_size=20), max_size=3).map(tuple)
replies = st.builds(Reply, st.integers(200, 599), st.none() | st.tuples(*[st.integers(2, 9)] * 3), lines)
problems = st.builds(
    DeliveryError, st.text(max_size=30), server=st.none() | st.just("mx:25"), reply=st.none() | replies
)
outcomes = st.builds(
    Outcome,
    recipients | st.text(max_size=20),
    st.sampled_from(Status),
    st.none() | replies,
    st.none() | st.just("mx:25"),
    st.none() | problems,
    st.integers(0, 3),
)
receipts = st.builds(
    Receipt,
    st.none() | st.text(max_size=10),
    st.lists(outcomes, max_size=4).map(tuple),
    st.none() | replies,
    st.none() | st.text(max_size=5),
    st.none() | st.text(min_size=1, max_size=5),
    st.none() | problems,
    st.lists(st.text(max_size=5), max_size=2).map(tuple),
    st.none() | envelopes,
    st.booleans(),
)


def again(value: Any) -> Any:
    """What comes back from a text of JSON."""
    return type(value).from_json(json.loads(json.dumps(value.to_json())))


def plain(value: Any) -> Any:
    """For comparing: errors are equal by what they say."""
    if isinstance(value, SMTPError):
        return type(value), str(value), value.server, value.reply, value.is_transient
    if isinstance(value, Outcome | Receipt):
        return {name: plain(getattr(value, name)) for name in value._fields}
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    return value


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(envelopes)
def test_an_envelope(envelope: Envelope) -> None:
    back = again(envelope)
    assert back == envelope
    assert [one.address.display_name for one in back.recipients] == [
        one.address.display_name for one in envelope.recipients
    ]


@given(replies)
def test_a_reply(reply: Reply) -> None:
    assert again(reply) == reply


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(outcomes)
def test_an_outcome(outcome: Outcome) -> None:
    assert plain(again(outcome)) == plain(outcome)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws them slowly
@given(receipts)
def test_a_receipt(receipt: Receipt) -> None:
    assert plain(again(receipt)) == plain(receipt)


def test_a_receipt_of_before_was_not_answered() -> None:
    """One that was kept before receipts said whether a server answered MAIL."""
    kept = Receipt(None, (), answered=True).to_json()
    assert kept.pop("answered") is True
    assert not Receipt.from_json(kept).answered


def test_a_time_in_the_future_keeps_its_zone() -> None:
    envelope = Envelope("a@example.org", ["b@example.org"], hold_until=datetime.now(UTC) + timedelta(hours=1))
    assert again(envelope).hold_until == envelope.hold_until


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error(name: str) -> None:
    error = getattr(errors, name)("what happened", server="mx:25", reply=Reply(450, (4, 2, 1), ("busy",)))
    outcome = again(Outcome("ann", Status.FAILED, error=error))
    assert type(outcome.error) is type(error)
    assert plain(outcome.error) == plain(error)


def test_fields_of_errors() -> None:
    assert again(Outcome("x", Status.FAILED, error=InvalidSetting("no", field="tls"))).error.field == "tls"
    assert again(Outcome("x", Status.FAILED, error=RecipientsRefused("no", transient=True))).error.is_transient
    assert isinstance(again(Outcome("x", Status.FAILED, error=AuthenticationFailed("no"))).error, AuthenticationFailed)


def test_an_error_that_is_not_ours_becomes_one_that_says_which() -> None:
    error = again(Outcome("x", Status.FAILED, error=KeyError("name"))).error
    assert type(error) is SMTPError
    assert not error.is_transient
    assert str(error) == "KeyError: 'name'"
