"""`send_many`: lazily, in order, and never an exception for one message (DESIGN 4.11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from email.message import EmailMessage
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Envelope, Message, Status
from smtpbackend.errors import CancelSend, InvalidInput, RecipientsRefused
from smtpbackend.events import MessageSending
from smtpbackend.testing import Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello


class TestLazily:
    def test_the_source_is_asked_only_as_receipts_are_taken(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        asked: list[int] = []

        def source() -> Iterator[Message]:
            for number in range(100):
                asked.append(number)
                yield hello(subject=str(number))

        stream = twin(server.url).stream(source())
        assert asked == []
        for taken in range(1, 4):
            assert next(stream).ok
            assert len(asked) <= taken + 1
            assert len(server.handed_over) == taken
        stream.close()

    def test_nothing_is_opened_for_nothing(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        assert twin(server.url).send_many([]) == []
        assert server.connections == 0

    def test_an_abandoned_stream_frees_its_connection(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url, max_connections=1)
        stream = mailer.stream(hello() for _ in range(9))
        assert next(stream).ok
        stream.close()
        assert mailer.send(hello()).ok
        assert len(server.handed_over) == 2

    def test_the_stream_may_send_on_the_same_mailer_meanwhile(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        for number, receipt in enumerate(mailer.stream(hello() for _ in range(3))):
            assert receipt.ok
            assert mailer.send(hello(subject=f"inner {number}")).ok
        assert len(server.handed_over) == 6
        assert server.connections == 2


class TestInOrder:
    def test_everybody_gets_their_mail_over_one_connection(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        receipts = twin(server.url).send_many(hello(f"user{n}@example.com", subject=f"nr {n}") for n in range(50))
        assert [str(receipt.outcomes[0].address) for receipt in receipts] == [f"user{n}@example.com" for n in range(50)]
        assert all(receipt.ok for receipt in receipts)
        assert server.connections == 1
        for number, transaction in enumerate(server.handed_over):
            assert transaction.recipients == (f"RCPT TO:<user{number}@example.com>",)
            assert f"Subject: nr {number}\r\n".encode() in transaction.content
        assert len({receipt.message_id for receipt in receipts}) == 50

    @pytest.mark.parametrize("pipelining", [True, False])
    def test_what_is_refused_stands_in_its_place(self, twin: Twin, scripted: Scripted, pipelining: bool) -> None:
        extensions = ("PIPELINING",) if pipelining else ()
        server = scripted(
            Play(
                {"RCPT TO:<u1@": "550 no", "RCPT TO:<u3@": "450 later", ".": ["250 ok", "554 spam", "250 ok"]},
                extensions,
            )
        )
        receipts = twin(server.url).send_many(hello(f"u{n}@example.com") for n in range(6))
        assert [receipt.outcomes[0].status for receipt in receipts] == [
            Status.ACCEPTED,
            Status.REJECTED,
            Status.REJECTED,
            Status.DEFERRED,
            Status.ACCEPTED,
            Status.ACCEPTED,
        ]
        assert [receipt.ok for receipt in receipts] == [not receipt.error for receipt in receipts]

    def test_invalid_messages_stand_in_their_place_and_cost_nothing(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        nameless = EmailMessage()
        nameless["To"] = "bob@example.com"
        bad = [b"no envelope", hello(to=()), 7, (hello(), "no envelope"), (1, 2, 3), nameless]
        items: list[Any] = [bad[0], hello("a@example.com"), *bad[1:4], hello("b@example.com"), *bad[4:]]
        receipts = twin(server.url).send_many(items)
        assert [receipt.ok for receipt in receipts] == [False, True, False, False, False, True, False, False]
        for receipt in receipts:
            assert receipt.ok or isinstance(receipt.error, InvalidInput)
        assert len(server.handed_over) == 2

    def test_nothing_but_invalid_messages_opens_no_connection(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        receipts = twin(server.url).send_many([b"a", b"b"])
        assert len(receipts) == 2
        assert server.connections == 0

    def test_a_cancelled_message_has_a_receipt(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        second = hello("b@example.com")

        def veto(event: Any) -> None:
            if isinstance(event, MessageSending) and event.message is second:
                raise CancelSend

        receipts = twin(server.url).send_many(
            [hello("a@example.com"), second, hello("c@example.com")], listeners=[veto]
        )
        assert [receipt.outcomes[0].status for receipt in receipts] == [
            Status.ACCEPTED,
            Status.DEFERRED,
            Status.ACCEPTED,
        ]
        assert isinstance(receipts[1].error, CancelSend)
        assert isinstance(receipts[1].outcomes[0].error, CancelSend)

    def test_a_message_that_needs_another_server_is_sent_there(self, twin: Twin, scripted: Scripted) -> None:
        old, new = scripted(Play(extensions=("PIPELINING",))), scripted()
        messages = [hello("a@example.com"), hello("jürgen@example.com"), hello("c@example.com")]
        receipts = twin(old.url, new.url).send_many(messages)
        assert [receipt.server for receipt in receipts] == [old.name, new.name, old.name]

    def test_pairs_of_content_and_envelope(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        content = b"Subject: x\r\n\r\nhi\r\n"
        receipts = twin(server.url).send_many(
            [
                (content, Envelope("", ["a@example.com"])),
                (hello(), None),
                (hello(), Envelope(SENDER, ["b@example.com"])),
            ]
        )
        assert all(receipt.ok for receipt in receipts)
        assert [t.recipients for t in server.handed_over] == [
            ("RCPT TO:<a@example.com>",),
            ("RCPT TO:<bob@example.com>",),
            ("RCPT TO:<b@example.com>",),
        ]


class TestASourceThatRaises:
    def test_it_is_raised_after_the_receipts_of_what_came_before(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()

        def source() -> Iterator[Message]:
            yield hello("a@example.com")
            yield hello("b@example.com")
            raise LookupError("the database is gone")

        stream = twin(server.url).stream(source())
        receipts = [next(stream), next(stream)]
        with pytest.raises(LookupError, match="database"):
            next(stream)
        assert [receipt.ok for receipt in receipts] == [True, True]
        assert len(server.handed_over) == 2

    def test_its_connection_is_kept(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)

        def source() -> Iterator[Message]:
            yield hello()
            raise LookupError

        with pytest.raises(LookupError):
            mailer.send_many(source())
        assert mailer.send(hello()).ok
        assert server.connections == 1

    def test_an_error_of_ours_from_the_source_is_the_sources(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()

        def source() -> Iterator[Message]:
            yield hello("a@example.com")
            raise RecipientsRefused("mine")

        with pytest.raises(RecipientsRefused, match="mine"):
            twin(server.url).send_many(source())
        assert len(server.handed_over) == 1

    def test_an_interrupt_closes_the_connection(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()

        def source() -> Iterator[Message]:
            yield hello()
            raise GeneratorExit

        with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the runner makes of it
            twin(server.url).send_many(source())
        assert server.open_connections == 0 or not server.wait_for_end()


class TestAnAsynchronousSource:
    def run(self, server: Any, source: AsyncIterator[Any]) -> list[Any]:
        async def run() -> list[Any]:
            found: list[Any] = []
            async with AsyncMailer(server.url) as mailer:
                try:
                    async for receipt in mailer.send_many(source):
                        found.append(receipt)
                except LookupError as error:
                    found.append(error)
            await asyncio.sleep(0)
            return found

        return asyncio.run(run())

    def test_is_iterated(self, scripted: Scripted) -> None:
        async def source() -> AsyncIterator[Message]:
            for number in range(3):
                await asyncio.sleep(0)
                yield hello(f"u{number}@example.com")

        server = scripted()
        assert [receipt.ok for receipt in self.run(server, source())] == [True] * 3

    def test_may_raise(self, scripted: Scripted) -> None:
        async def source() -> AsyncIterator[Message]:
            yield hello()
            raise LookupError

        receipt, error = self.run(scripted(), source())
        assert receipt.ok
        assert isinstance(error, LookupError)
