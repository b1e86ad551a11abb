"""What is given as Listeners is looked at when it is given, and not when the first event comes."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from smtpbackend.errors import InvalidSetting
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.telling import names_of


def listener(event: Any) -> None:
    """A good one."""


async def coroutine(event: Any) -> None:
    """Nobody would await it."""


class Nothing:
    """Cannot be called."""

    def message_sent(self, event: Any) -> None: ...


class Awaited:
    async def __call__(self, event: Any) -> None: ...


WRONG = [
    (listener, "must be a list of callables, not listener; one Listener stands in a list too"),
    ("listener", "must be a list of callables, not a str"),
    (None, "must be a list of callables, not a NoneType"),
    (1, "must be a list of callables, not a int"),
    (["listener"], "holds a str, which cannot be called"),
    ([listener, None], "holds a NoneType, which cannot be called"),
    ([Nothing()], "holds a Nothing, which cannot be called"),
    ([coroutine], "holds coroutine, a coroutine function, which is not awaited"),
    ([functools.partial(coroutine)], "holds a partial, a coroutine function"),
    ([Awaited()], "holds a Awaited, a coroutine function"),
    ({"message_sent": listener}, "holds a str, which cannot be called"),
]


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_what_cannot_listen_is_told_at_once(twin: Twin, given: Any, words: str) -> None:
    with pytest.raises(InvalidSetting, match=words) as caught:
        twin.kind("smtp://localhost", listeners=given)
    assert caught.value.field == "listeners"
    with pytest.raises(InvalidSetting, match=words):
        twin.kind.from_settings({"host": "localhost"}, listeners=given)


@pytest.mark.parametrize(("given", "words"), WRONG)
def test_and_where_it_is_given_for_one_send(twin: Twin, scripted: Scripted, given: Any, words: str) -> None:
    """Nothing is sent then."""
    server = scripted()
    mailer = twin(server.url)
    with pytest.raises(InvalidSetting, match=words):
        mailer.send(hello(), listeners=given)
    with pytest.raises(InvalidSetting, match=words):
        mailer.send_many([hello()], listeners=given)
    assert server.connections == 0


@pytest.mark.parametrize("kind", [list, tuple, set, iter], ids=["list", "tuple", "set", "iterator"])
def test_whatever_has_callables_will_do(twin: Twin, scripted: Scripted, kind: Any) -> None:
    told: list[str] = []

    def note(event: Any) -> None:
        told.extend(names_of(event))

    mailer = twin(scripted().url, listeners=kind([note]))
    mailer.send(hello())
    mailer.send(hello(), listeners=kind([note]))
    assert told.count("message_sent") == 3
