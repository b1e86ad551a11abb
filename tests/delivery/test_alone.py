"""One message alone: no second is asked for, and what becomes of it is what becomes of it in a stream."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend import Receipt
from smtpbackend.delivery.translated import Translated, is_alone
from smtpbackend.testing import CUT, SILENCE
from tests.delivery.played import REFUSED, Played
from tests.delivery.test_dispatch import mail

MANY = "452 4.5.3 too many recipients"
PLAYS: dict[str, dict[str, list[Any]]] = {
    "accepted": {"a": [{}]},
    "nobody there": {"a": [REFUSED], "b": [{}]},
    "a recipient for later": {"a": [{"RCPT TO:<u2": "451 4.3.0 later"}], "b": [{}]},
    "a recipient refused": {"a": [{"RCPT TO:<u2": "550 5.1.1 nobody"}], "b": [{}]},
    "too many recipients, then cut": {"a": [{"RCPT TO:<u2": [MANY, "250 ok"], "MAIL": ["250 ok", CUT]}, {}]},
    "too many recipients": {"a": [{"RCPT TO:<u2": [MANY, "250 ok"]}]},
    "sender for later": {"a": [{"MAIL": "451 4.3.0 later"}], "b": [{}]},
    "content refused": {"a": [{".": "554 5.7.1 spam"}], "b": [{}]},
    "cut in the group": {"a": [{"RCPT": CUT}, {}], "b": [{}]},
    "cut at the end": {"a": [{".": CUT}, {}], "b": [{}]},
    "silence": {"a": [{"DATA": SILENCE}], "b": [{}]},
    "closed": {"a": [{"MAIL": ("421 4.3.2 down", CUT)}], "b": [{}]},
    "all down": {"a": [REFUSED], "b": [REFUSED]},
}


def told(receipt: Receipt) -> list[Any]:
    return [(o.address.addr_spec, o.status, str(o.reply), o.server, o.attempts) for o in receipt.outcomes]


@pytest.mark.parametrize("play", PLAYS)
@pytest.mark.parametrize("policy", ["any", "all"])
def test_its_receipt_is_the_same(play: str, policy: str) -> None:
    receipts, sent = [], []
    for alone in (True, False):
        world = Played(PLAYS[play], alone=alone, policy=policy)
        (receipt,) = world.send(mail("u1", "u2", "u3"))
        receipts.append(told(receipt))
        sent.append({host: world.handed_over(host) for host in PLAYS[play]})
        assert not world.out
    assert receipts[0] == receipts[1]
    assert sent[0] == sent[1]


def test_no_second_is_asked_for() -> None:
    world = Played({"a": [{}]}, alone=True)
    stream = world.stream(iter([mail(), mail()]))
    assert len(list(stream)) == 1
    assert world.pulled == 1


@pytest.mark.parametrize(
    ("messages", "alone"),
    [
        (["one"], True),
        (("one",), True),
        (Translated(["one"], str), True),
        ([], False),
        (["one", "two"], False),
        (Translated(["one", "two"], str), False),
        (Translated(iter(["one"]), str), False),
        (Translated((one for one in ["one"]), str), False),
        (iter(["one"]), False),  # somebody else may go on with it
        (type("Hinting", (list,), {})(["one"]), False),  # a hint is no promise
    ],
)
def test_what_is_known_to_be_alone(messages: Any, alone: bool) -> None:
    assert is_alone(messages) is alone
