"""LMTP by both mailers: each recipient is settled by its own reply."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller, UnixSocketController
from aiosmtpd.lmtp import LMTP

from smtpbackend import Server, Status
from smtpbackend.errors import ContentRefused, InDoubt, InvalidSetting
from smtpbackend.testing import CUT, SILENCE, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello
from tests.servers.ports import free_ports

TO = ("ann@example.com", "bob@example.com", "joe@example.com")


@pytest.fixture
def lmtp(scripted: Scripted) -> Callable[..., Any]:
    """Start an LMTP server that says these after a content: `lmtp("250 a", "550 b", CUT)`."""

    def start(*finals: Any, **answers: Any) -> Any:
        return scripted(Play({".": finals, "EHLO": "500 it is LMTP", **answers}), scheme="lmtp")

    return start


def statuses(receipt: Any) -> list[str]:
    return [outcome.status.name for outcome in receipt.outcomes]


def test_each_recipient_is_settled_by_its_own_reply(twin: Twin, lmtp: Callable[..., Any]) -> None:
    server = lmtp("250 2.0.0 <ann> saved", "550 5.2.1 bob is closed", "452 4.2.2 joe is full")
    receipt = twin(server.url).send(hello(*TO))
    assert statuses(receipt) == ["ACCEPTED", "REJECTED", "DEFERRED"]
    assert [outcome.reply.code for outcome in receipt.outcomes] == [250, 550, 452]
    assert receipt.reply.text == "<ann> saved"
    assert isinstance(receipt.outcomes[1].error, ContentRefused)
    assert "for bob@example.com" in str(receipt.outcomes[1].error)
    assert receipt.outcomes[1].error.server == server.name
    assert server.commands[0].startswith("LHLO ")


def test_a_recipient_answered_4xx_moves_on_alone(twin: Twin, lmtp: Callable[..., Any]) -> None:
    first = lmtp("250 ann", "452 4.2.2 bob is full", "550 no joe")
    second = lmtp("250 bob")
    receipt = twin(first.url, second.url).send(hello(*TO))
    assert statuses(receipt) == ["ACCEPTED", "ACCEPTED", "REJECTED"]
    assert [outcome.server for outcome in receipt.outcomes] == [first.name, second.name, first.name]
    assert [transaction.recipients for transaction in second.handed_over] == [("RCPT TO:<bob@example.com>",)]


def test_those_without_a_reply_of_their_own_are_in_doubt(twin: Twin, lmtp: Callable[..., Any]) -> None:
    first, second = lmtp("250 ann", CUT), lmtp()
    receipt = twin(first.url, second.url).send(hello(*TO))
    assert statuses(receipt) == ["ACCEPTED", "IN_DOUBT", "IN_DOUBT"]
    assert all(isinstance(outcome.error, InDoubt) for outcome in receipt.outcomes[1:])
    assert second.connections == 0


def test_silence_among_the_finals_is_doubt(twin: Twin, lmtp: Callable[..., Any]) -> None:
    server = lmtp("550 no ann", SILENCE)
    with pytest.raises(InDoubt) as caught:
        twin(server.url, timeout={"final": 2.0}).send(hello(*TO[:2]))
    assert statuses(caught.value.receipt) == ["REJECTED", "IN_DOUBT"]


def test_421_among_the_finals_is_its_recipients(twin: Twin, lmtp: Callable[..., Any]) -> None:
    """That one is tried once more, and those behind it have no reply."""
    first, second = lmtp("250 ann", "421 4.3.2 going down", CUT), lmtp("250 bob")
    receipt = twin(first.url, second.url).send(hello(*TO))
    assert statuses(receipt) == ["ACCEPTED", "ACCEPTED", "IN_DOUBT"]
    assert (receipt.outcomes[1].server, receipt.outcomes[1].attempts) == (first.name, 2)
    assert [len(mail.recipients) for mail in first.handed_over] == [3, 1]
    assert second.connections == 0


def test_cut_before_any_reply(twin: Twin, lmtp: Callable[..., Any]) -> None:
    with pytest.raises(InDoubt) as caught:
        twin(lmtp(CUT).url).send(hello(*TO))
    assert statuses(caught.value.receipt) == ["IN_DOUBT"] * 3


def test_all_refused_raises(twin: Twin, lmtp: Callable[..., Any]) -> None:
    with pytest.raises(ContentRefused) as caught:
        twin(lmtp("550 a", "552 b").url).send(hello(*TO[:2]))
    assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.REJECTED] * 2


def test_many_messages_share_a_connection(twin: Twin, lmtp: Callable[..., Any]) -> None:
    """The finals of one are not taken for the replies of the next."""
    server = lmtp("250 ann", "550 bob", "450 joe")
    receipts = twin(server.url).send_many([hello(*TO) for _ in range(20)])
    assert [statuses(receipt) for receipt in receipts] == [["ACCEPTED", "REJECTED", "DEFERRED"]] * 20
    assert server.connections == 1


def test_policy_all_is_refused_when_it_is_configured(twin: Twin) -> None:
    for url in ("lmtp://mx.example.com:24", "lmtp+unix:///run/lmtp.sock"):
        with pytest.raises(InvalidSetting, match="recipient_policy='all' is set") as caught:
            twin(url, recipient_policy="all")
        assert caught.value.field == "recipient_policy"


def test_there_is_no_default_port(twin: Twin) -> None:
    with pytest.raises(InvalidSetting, match="LMTP has no default port") as caught:
        twin("lmtp://mx.example.com")
    assert caught.value.field == "port"
    assert Server("mx.example.com", port=24, protocol="lmtp").name == "mx.example.com:24"
    assert twin("lmtp://mx.example.com", ports=[24]).raw.configuration.servers[0].port == 24


class _Handler:
    """One reply for each recipient."""

    def __init__(self) -> None:
        self.arrived: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.arrived.append((envelope.rcpt_tos, envelope.original_content))
        return "\r\n".join(f"{'550 no' if 'bob' in name else '250 yes'} {name}" for name in envelope.rcpt_tos)


@pytest.fixture(params=["tcp", *(["unix"] if hasattr(socket, "AF_UNIX") else [])])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, _Handler]]:
    """aiosmtpd's LMTP, and its URL."""
    handler = _Handler()
    path = str(tmp_path / "lmtp.sock")
    [port] = free_ports(1)
    is_unix = request.param == "unix"
    controller: Any = UnixSocketController(handler, path) if is_unix else Controller(handler, "127.0.0.1", port)
    controller.factory = lambda: LMTP(handler)
    controller.start()
    yield (f"lmtp+unix://{path}" if is_unix else f"lmtp://127.0.0.1:{port}"), handler
    controller.stop()


def test_a_server_of_lmtp(twin: Twin, real: tuple[str, _Handler]) -> None:
    url, handler = real
    receipt = twin(url).send(hello(*TO))
    assert statuses(receipt) == ["ACCEPTED", "REJECTED", "ACCEPTED"]
    assert handler.arrived[0][0] == list(TO)
