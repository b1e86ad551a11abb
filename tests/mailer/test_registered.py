"""Messages of a framework that every mailer takes: what an adapter's function may do to the delivery of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from smtpbackend import Envelope, InvalidInput, Status
from smtpbackend.adapters import Parcel, register_messages
from smtpbackend.delivery import message_types
from smtpbackend.testing import Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello

HERE = __name__
MANY = pytest.mark.parametrize("connections", [1, 3])
ENVELOPE = Envelope(SENDER, ["eve@example.com", "bob@example.com"])


class Letter:
    """A message of a framework."""


class Whole(Letter):
    """One whose function works."""


def parcel_of(message: Letter, envelope: Envelope | None, bounce_address: Any) -> Parcel:
    return Parcel(envelope or Envelope(SENDER, ["ann@example.com"]), hello())


def nothing(message: Letter, envelope: Envelope | None, bounce_address: Any) -> None:
    return None


def text(message: Letter, envelope: Envelope | None, bounce_address: Any) -> str:
    return "Subject: Hi"


def nobody(message: Letter, envelope: Envelope | None, bounce_address: Any) -> Parcel:
    return Parcel(None, hello())


def failing(message: Letter, envelope: Envelope | None, bounce_address: Any) -> Parcel:
    raise LookupError("no template")


@pytest.fixture(autouse=True)
def registered_for_this_test_alone() -> Iterator[None]:
    before = dict(message_types.places)
    register_messages(Whole, HERE, "parcel_of")
    yield
    message_types.places.clear()
    message_types.places.update(before)


WRONG = [
    (HERE, "nothing", InvalidInput, rf"{HERE}\.nothing must return the Parcel of a Letter, not NoneType"),
    (HERE, "text", InvalidInput, rf"{HERE}\.text must return the Parcel of a Letter, not str"),
    (HERE, "nobody", InvalidInput, rf"{HERE}\.nobody gave the Parcel of a Letter no recipient"),
    (HERE, "failing", LookupError, "no template"),
    (HERE, "missing", InvalidInput, rf"a Letter is sent by {HERE}\.missing, which cannot be loaded: .*'missing'"),
    ("nowhere.letters", "parcel_of", InvalidInput, r"by nowhere\.letters\.parcel_of, .*No module named 'nowhere'"),
    ("tests.mailer.", "parcel_of", InvalidInput, r"by tests\.mailer\.\.parcel_of, which cannot be loaded"),
]


@MANY
@pytest.mark.parametrize(("module", "function", "error", "text"), WRONG)
def test_a_function_that_makes_no_parcel_fails_its_message_alone(
    twin: Twin,
    scripted: Scripted,
    module: str,
    function: str,
    error: type[Exception],
    text: str,
    connections: int,
) -> None:
    """Where it is sent, and not where a mailer is made, which may have nothing to do with it."""
    register_messages(Letter, module, function)
    server = scripted(Play())
    receipts = list(
        twin(server.url).send_many([Whole(), Letter(), (Letter(), ENVELOPE), Whole()], connections=connections)
    )
    assert [bool(receipt.accepted) for receipt in receipts] == [True, False, False, True]
    for receipt in receipts[1:3]:
        assert type(receipt.error) is error
        with pytest.raises(error, match=text):
            raise receipt.error
    assert [outcome.status for outcome in receipts[2].outcomes] == [Status.FAILED] * 2
    assert len(server.handed_over) == 2


@pytest.mark.parametrize(("module", "function", "error", "text"), WRONG)
def test_send_raises_what_it_was(
    twin: Twin, scripted: Scripted, module: str, function: str, error: type[Exception], text: str
) -> None:
    register_messages(Letter, module, function)
    mailer = twin(scripted(Play()).url)
    with pytest.raises(error, match=text):
        mailer.send(Letter())
    with pytest.raises(error, match=text):
        mailer.send(Letter(), ENVELOPE)
    assert mailer.send(Whole()).ok
