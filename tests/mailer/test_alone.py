"""One message alone: no second is asked for, and what becomes of it is what becomes of it in a stream."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend import Receipt
from smtpbackend.testing import CUT, SILENCE
from tests.delivery.played import REFUSED, Played
from tests.delivery.test_dispatch import mail
from tests.mailer.conftest import Scripted
from tests.mailer.leftovers import taken
from tests.mailer.twins import Twin, hello

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
        world = Played(PLAYS[play], count=int(alone), policy=policy)
        (receipt,) = world.send(mail("u1", "u2", "u3"))
        receipts.append(told(receipt))
        sent.append({host: world.handed_over(host) for host in PLAYS[play]})
        assert not world.out
    assert receipts[0] == receipts[1]
    assert sent[0] == sent[1]


def test_a_second_is_sent_when_the_first_has_its_receipt() -> None:
    """A hint is no promise: what came to a list meanwhile goes out as well."""
    world = Played({"a": [{}]})
    messages = [mail("u1")]
    stream = world.stream(messages, 1)
    assert next(stream).ok
    assert world.pulled == 1
    messages.append(mail("u2"))
    assert [told(receipt)[0][0] for receipt in stream] == ["u2@example.com"]


@pytest.mark.parametrize("when", ["before", "sending", "after"])
def test_a_list_of_one_that_grows(twin: Twin, scripted: Scripted, when: str) -> None:
    server = scripted()
    messages = [hello(subject="1")]

    def grow(at: str) -> None:
        if at == when and len(messages) < 3:
            messages.append(hello(subject=str(len(messages) + 1)))

    listeners = [lambda event: grow("sending") if event.name == "message_sending" else grow("after")]
    stream = twin(server.url, listeners=listeners).stream(messages)
    grow("before")
    assert len(list(stream)) == len(messages)
    assert taken([server]) == {str(number + 1): 1 for number in range(len(messages))}
