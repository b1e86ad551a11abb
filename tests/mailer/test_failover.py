"""Several servers: when the next one is tried, and when not (DESIGN 4.3, 4.4)."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend import Envelope, Status
from smtpbackend.errors import (
    AuthenticationFailed,
    ConnectionRefused,
    ContentRefused,
    DeliveryError,
    InDoubt,
    RecipientsRefused,
    SenderRefused,
)
from smtpbackend.testing import CUT, DEAF, EXTENSIONS, HANG_UP, RESET, SILENCE, Play, when_heard
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello
from tests.servers.ports import free_ports
from tests.telling import names, names_of

LIMITLESS = ("PIPELINING",)  # no SIZE
THREE = ("ada@example.com", "bob@example.com", "carl@example.com")


def names_each(error: Any, *servers: Any) -> bool:
    """Whether the error has each of these servers, in this order."""
    places = [str(error).find(server.name) for server in servers]
    return str(error).startswith(f"{len(servers)} servers failed: ") and -1 not in places and places == sorted(places)


class TestMovesOn:
    @pytest.mark.parametrize(
        ("play", "phase"),
        [
            (Play({"": "554 5.3.2 no"}), "greeting"),
            (Play({"": "421 4.3.2 busy"}), "greeting"),
            (Play({"": CUT}), "greeting"),
            (Play({"": SILENCE}), "greeting"),
            (Play({"EHLO": "421 4.3.2 busy"}), "hello"),
            (Play({"EHLO": "550 no", "HELO": "550 no"}), "hello"),
            (Play({"EHLO": CUT}), "hello"),
            (Play({"AUTH": "535 5.7.8 no"}, ("AUTH PLAIN",)), "auth"),
            (Play({"AUTH": "454 4.7.0 later"}, ("AUTH PLAIN",)), "auth"),
            (Play(extensions=()), "auth"),
            (Play({"MAIL": CUT}, ("AUTH PLAIN",)), "mail"),
            (Play({"MAIL": "421 4.3.2 closing"}, ("AUTH PLAIN",)), "mail"),
        ],
    )
    def test_when_a_server_cannot_be_used(self, twin: Twin, scripted: Scripted, play: Play, phase: str) -> None:
        bad, good = scripted(play), scripted(Play(extensions=("AUTH PLAIN",)))
        events: list[Any] = []
        mailer = twin(
            bad.url, good.url, username="ann", password="secret", timeout={"reply": 2.0}, listeners=[events.append]
        )
        receipt = mailer.send(hello())
        assert receipt.ok
        assert receipt.server == good.name
        assert names(events) == ["message_sending", "server_failed", "message_sent"]
        assert (events[1].server, events[1].phase) == (bad.name, phase)

    @pytest.mark.parametrize("command", ["RCPT", "DATA", "."])
    @pytest.mark.parametrize("extensions", [(), EXTENSIONS])
    def test_when_a_message_is_answered_421_for_the_second_time(
        self, twin: Twin, scripted: Scripted, command: str, extensions: tuple[str, ...]
    ) -> None:
        """It is tried once more on a fresh connection; then it goes on, and nothing is said against the server."""
        bad, good = scripted(Play({command: ("421 4.3.2 closing", CUT)}, extensions)), scripted()
        events: list[str] = []
        receipt = twin(bad.url, good.url, listeners=[lambda event: events.extend(names_of(event))]).send(hello())
        assert (receipt.ok, receipt.server) == (True, good.name)
        assert receipt.outcomes[0].attempts == 3
        assert bad.connections == 2
        assert events == ["message_sending", "message_sent"]

    @pytest.mark.parametrize("command", ["RCPT", "DATA", "."])
    @pytest.mark.parametrize("extensions", [(), EXTENSIONS])
    def test_not_when_a_message_is_answered_421_once(
        self, twin: Twin, scripted: Scripted, command: str, extensions: tuple[str, ...]
    ) -> None:
        bad, other = (
            scripted(Play({command: ("421 4.3.2 closing", CUT)}, extensions), Play(extensions=extensions)),
            scripted(),
        )
        receipt = twin(bad.url, other.url).send(hello())
        assert (receipt.ok, receipt.server, receipt.outcomes[0].attempts) == (True, bad.name, 2)
        assert other.connections == 0

    def test_when_nobody_listens(self, twin: Twin, scripted: Scripted) -> None:
        [closed] = free_ports(1)
        good = scripted()
        events: list[Any] = []
        receipt = twin(f"smtp://127.0.0.1:{closed}", good.url, listeners=[events.append]).send(hello())
        assert receipt.server == good.name
        assert (events[1].name, events[1].phase) == ("server_failed", "connect")

    def test_when_tls_cannot_be_had(self, twin: Twin, scripted: Scripted) -> None:
        bad, good = scripted(), scripted()
        mailer = twin({"host": "127.0.0.1", "port": bad.port, "tls": "required"}, good.url)
        assert mailer.send(hello()).server == good.name
        assert bad.commands == ["EHLO " + bad.commands[0].split(" ")[1]]

    @pytest.mark.parametrize("command", ["MAIL", "DATA", "."])
    def test_when_the_message_is_answered_4xx(self, twin: Twin, scripted: Scripted, command: str) -> None:
        busy, good = scripted({command: "451 4.3.0 later"}), scripted()
        events: list[Any] = []
        receipt = twin(busy.url, good.url, listeners=[events.append]).send(hello())
        assert receipt.ok
        assert receipt.outcomes[0].attempts == 2
        assert "server_failed" not in [event.name for event in events]

    def test_with_those_alone_who_were_answered_4xx(self, twin: Twin, scripted: Scripted) -> None:
        first = scripted({"RCPT TO:<bob@": "450 4.2.0 busy", "RCPT TO:<carl@": "550 5.1.1 nobody"})
        second = scripted()
        receipt = twin(first.url, second.url).send(hello(*THREE))
        assert [outcome.status for outcome in receipt.outcomes] == [Status.ACCEPTED, Status.ACCEPTED, Status.REJECTED]
        assert [outcome.server for outcome in receipt.outcomes] == [first.name, second.name, first.name]
        assert [outcome.attempts for outcome in receipt.outcomes] == [1, 2, 1]
        assert first.handed_over[0].recipients == ("RCPT TO:<ada@example.com>",)
        assert second.handed_over[0].recipients == ("RCPT TO:<bob@example.com>",)

    def test_who_is_answered_4xx_everywhere_is_deferred_with_the_last_reply(
        self, twin: Twin, scripted: Scripted
    ) -> None:
        servers = [scripted({"RCPT TO:<bob@": f"450 4.2.{n} busy"}) for n in range(2)]
        receipt = twin(*(server.url for server in servers)).send(hello("ada@example.com", "bob@example.com"))
        [deferred] = receipt.deferred
        assert deferred.reply is not None
        assert deferred.reply.enhanced == (4, 2, 1)
        assert deferred.server == servers[1].name
        assert deferred.attempts == 2

    def test_nobody_accepted_anywhere_raises_what_is_transient(self, twin: Twin, scripted: Scripted) -> None:
        servers = [scripted({"RCPT": "450 4.2.0 busy"}) for _ in range(2)]
        with pytest.raises(RecipientsRefused) as caught:
            twin(*(server.url for server in servers)).send(hello())
        assert caught.value.is_transient
        assert caught.value.recipients == {"bob@example.com": (450, b"4.2.0 busy")}

    @pytest.mark.parametrize(("command", "kind"), [("MAIL", SenderRefused), (".", ContentRefused)])
    def test_4xx_everywhere_is_deferred(
        self, twin: Twin, scripted: Scripted, command: str, kind: type[DeliveryError]
    ) -> None:
        servers = [scripted({command: "451 4.3.0 later"}) for _ in range(2)]
        with pytest.raises(kind) as caught:
            twin(*(server.url for server in servers)).send(hello())
        assert caught.value.is_transient
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.DEFERRED]

    def test_the_error_of_the_last_server_is_raised_and_names_the_others(self, twin: Twin, scripted: Scripted) -> None:
        first, second = scripted(Play({"AUTH": "535 5.7.8 wrong"}, ("AUTH PLAIN",))), scripted({"": "554 second"})
        mailer = twin(f"smtp://ann:secret@127.0.0.1:{first.port}", second.url)
        for ask in (lambda: mailer.send(hello()), lambda: mailer.connect(), lambda: mailer.verify("bob@example.com")):
            with pytest.raises(ConnectionError) as caught:
                ask()
            assert names_each(caught.value, first, second)
        assert caught.value.smtp_code == 554
        assert isinstance(caught.value.others[0], AuthenticationFailed)

    def test_so_does_each_of_a_batch_and_the_outcomes(self, twin: Twin, scripted: Scripted) -> None:
        first, second = scripted({"": "554 first"}), scripted({"": "554 second"})
        for receipt in twin(first.url, second.url).send_many(hello() for _ in range(3)):
            assert names_each(receipt.error, first, second)
            assert names_each(receipt.outcomes[0].error, first, second)
        assert (first.connections, second.connections) == (1, 1)

    @pytest.mark.parametrize("command", ["MAIL", "RCPT", "."])
    def test_a_server_that_put_the_message_off_is_named_beside_one_that_is_down(
        self, twin: Twin, scripted: Scripted, command: str
    ) -> None:
        first, second = scripted({command: "451 4.3.0 later"}), scripted({"": "554 second"})
        with pytest.raises(DeliveryError) as caught:
            twin(second.url, first.url).send(hello())
        assert names_each(caught.value, second, first)
        assert caught.value.is_transient
        with pytest.raises(DeliveryError) as caught:
            twin(first.url, second.url).send(hello())
        assert caught.value.is_transient

    @pytest.mark.parametrize("command", ["MAIL", "RCPT"])
    @pytest.mark.parametrize("is_down_first", [False, True], ids=["down behind it", "down before it"])
    def test_each_server_is_named_once(self, twin: Twin, scripted: Scripted, command: str, is_down_first: bool) -> None:
        putting_off, down = scripted({command: "451 4.3.0 later"}).url, "smtp://127.0.0.1:1"
        urls = [down, putting_off] if is_down_first else [putting_off, down]
        with pytest.raises(DeliveryError, match=r"^2 servers failed: \(1\).*\(2\)") as caught:
            twin(*urls).send(hello())
        assert str(caught.value).count("cannot connect") == 1
        assert str(caught.value).count("451 4.3.0") == 1
        assert [type(other) for other in caught.value.others] == [ConnectionRefused]

    @pytest.mark.parametrize("command", ["MAIL", "RCPT", "."])
    def test_what_was_refused_for_good_is_no_failure_of_servers(
        self, twin: Twin, scripted: Scripted, command: str
    ) -> None:
        first, second = scripted({"": "554 first"}), scripted({command: "550 5.7.1 no"})
        with pytest.raises(DeliveryError) as caught:
            twin(first.url, second.url).send(hello())
        assert caught.value.others == ()
        assert not caught.value.is_transient


class TestStays:
    @pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "."])
    def test_for_a_5xx(self, twin: Twin, scripted: Scripted, command: str) -> None:
        server, never = scripted({command: "550 5.7.1 no"}), scripted()
        with pytest.raises(DeliveryError) as caught:
            twin(server.url, never.url).send(hello())
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.REJECTED]
        assert never.connections == 0

    def test_too_many_recipients_are_split_over_transactions(self, twin: Twin, scripted: Scripted) -> None:
        server, never = scripted({"RCPT": ["250 ok", "452 4.5.3 too many", "452 4.5.3 too many", "250 ok"]}), scripted()
        receipt = twin(server.url, never.url).send(hello(*THREE))
        assert receipt.ok
        assert [transaction.recipients for transaction in server.handed_over] == [
            ("RCPT TO:<ada@example.com>",),
            ("RCPT TO:<bob@example.com>", "RCPT TO:<carl@example.com>"),
        ]
        assert server.handed_over[0].content == server.handed_over[1].content
        assert server.connections == 1
        assert never.connections == 0

    def test_one_by_one_if_need_be_and_the_busy_one_goes_to_the_next_server(
        self, twin: Twin, scripted: Scripted
    ) -> None:
        answers = ["250 ok", "450 4.2.0 busy", "452 4.5.3 too many", "250 ok"]
        server, other = scripted({"RCPT": answers}), scripted()
        receipt = twin(server.url, other.url).send(hello(*THREE))
        assert receipt.ok
        assert [outcome.server for outcome in receipt.outcomes] == [server.name, other.name, server.name]

    def test_a_server_that_takes_no_recipient_for_too_many_is_left(self, twin: Twin, scripted: Scripted) -> None:
        server, other = scripted({"RCPT": "452 4.5.3 too many"}), scripted()
        receipt = twin(server.url, other.url).send(hello())
        assert receipt.ok
        assert receipt.server == other.name
        assert server.speakers[0].verbs.count("MAIL") == 1

    def test_too_many_messages_for_a_connection_means_a_fresh_one(self, twin: Twin, scripted: Scripted) -> None:
        server, never = scripted({"MAIL": ["250 ok", "452 4.5.3 enough"]}), scripted()
        mailer = twin(server.url, never.url)
        assert mailer.send(hello()).ok
        assert mailer.send(hello()).ok
        assert mailer.send(hello()).ok
        assert [len(speaker.handed_over) for speaker in server.speakers] == [1, 1, 1]
        assert never.connections == 0

    def test_also_within_send_many(self, twin: Twin, scripted: Scripted) -> None:
        server, never = scripted({"MAIL": ["250 ok", "250 ok", "452 4.5.3 enough"]}), scripted()
        receipts = twin(server.url, never.url).send_many(hello() for _ in range(5))
        assert all(receipt.ok for receipt in receipts)
        assert [len(speaker.handed_over) for speaker in server.speakers] == [2, 2, 1]

    def test_enough_on_a_fresh_connection_too_moves_on(self, twin: Twin, scripted: Scripted) -> None:
        server, other = scripted({"MAIL": "452 4.5.3 enough"}), scripted()
        assert twin(server.url, other.url).send(hello()).server == other.name
        assert server.connections == 1


class TestInDoubt:
    @pytest.mark.parametrize("how", [CUT, RESET, SILENCE, b"nonsense\r\n", b"250-ok\r\n251 ok\r\n", "354 go on"])
    def test_what_was_handed_over_without_an_answer_is_never_sent_again(
        self, twin: Twin, scripted: Scripted, how: Any
    ) -> None:
        server, other = scripted({".": how}), scripted()
        events: list[Any] = []
        mailer = twin(server.url, other.url, timeout={"final": 0.2}, listeners=[events.append])
        with pytest.raises(InDoubt, match="not sent again") as caught:
            mailer.send(hello())
        error = caught.value
        assert not error.is_transient
        assert not isinstance(error, ConnectionError)
        [outcome] = error.receipt.in_doubt
        assert outcome.server == server.name
        assert outcome.reply is None
        assert len(server.handed_over) == 1
        assert other.handed_over == []
        assert names(events) == ["message_sending", "server_failed", "message_in_doubt"]

    def test_also_on_a_connection_from_the_pool(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({".": ["250 ok", CUT]}, {})
        mailer = twin(server.url)
        mailer.send(hello(subject="first"))
        with pytest.raises(InDoubt):
            mailer.send(hello(subject="second"))
        assert len(server.handed_over) == 2

    def test_only_those_who_were_accepted_are_in_doubt(self, twin: Twin, scripted: Scripted) -> None:
        server, other = scripted({".": CUT, "RCPT TO:<bob@": "450 busy", "RCPT TO:<carl@": "550 no"}), scripted()
        receipt = twin(server.url, other.url).send(hello(*THREE))
        assert [outcome.status for outcome in receipt.outcomes] == [
            Status.IN_DOUBT,
            Status.ACCEPTED,
            Status.REJECTED,
        ]
        assert other.handed_over[0].recipients == ("RCPT TO:<bob@example.com>",)

    def test_421_to_the_content_says_that_it_was_not_taken(self, twin: Twin, scripted: Scripted) -> None:
        server, other = scripted({".": ("421 4.3.2 shutting down", CUT)}), scripted()
        assert twin(server.url, other.url).send(hello()).server == other.name

    def test_a_receipt_with_somebody_in_doubt_is_not_ok(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({".": CUT})
        [receipt] = twin(server.url).send_many([hello()])
        assert not receipt.ok
        with pytest.raises(InDoubt):
            receipt.raise_for_failure()


class TestLostBeforeHandOver:
    @pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
    @pytest.mark.parametrize("pipelining", [True, False])
    def test_it_is_replayed_on_the_next_server(
        self, twin: Twin, scripted: Scripted, command: str, pipelining: bool
    ) -> None:
        bad = scripted(Play({command: CUT}, ("PIPELINING",) if pipelining else ()))
        good = scripted()
        receipt = twin(bad.url, good.url).send(hello())
        assert receipt.server == good.name
        assert bad.connections == 1

    def test_content_cut_in_the_middle_was_not_handed_over(self, twin: Twin, scripted: Scripted) -> None:
        bad, good = scripted(Play({"DATA": ("354 go", CUT)}, ("PIPELINING",))), scripted(Play(extensions=()))
        receipt = twin(bad.url, good.url).send(hello(text="x" * 20_000_000))
        assert receipt.server == good.name

    @pytest.mark.parametrize("then", [SILENCE, DEAF, CUT], ids=["reads on", "reads no more", "closes"])
    def test_what_the_server_said_while_it_hung_up_is_heard(self, twin: Twin, scripted: Scripted, then: Any) -> None:
        play = Play({"DATA": ("354 go", when_heard(b"552 5.3.4 too large for us\r\n"), HANG_UP, then)}, LIMITLESS)
        server, never = scripted(play), scripted(Play(extensions=LIMITLESS))
        with pytest.raises(ContentRefused, match="too large for us") as caught:
            twin(server.url, never.url).send(hello(text="x" * 12_000_000))
        assert [outcome.status for outcome in caught.value.receipt.outcomes] == [Status.REJECTED]
        assert never.connections == 0


class TestOrder:
    def test_a_failed_server_rests(self, twin: Twin, scripted: Scripted) -> None:
        bad, good = scripted({"": "554 no"}, {}), scripted()
        mailer = twin(bad.url, good.url)
        mailer.send(hello())
        mailer.send(hello())
        assert bad.connections == 1
        assert len(good.handed_over) == 2

    def test_without_rest_it_is_tried_first_again(self, twin: Twin, scripted: Scripted) -> None:
        bad, good = scripted({"": "554 no"}, {}), scripted()
        mailer = twin(bad.url, good.url, rest=0)
        assert mailer.send(hello()).server == good.name
        assert mailer.send(hello()).server == bad.name

    def test_a_resting_server_is_tried_when_the_others_fail(self, twin: Twin, scripted: Scripted) -> None:
        first, second = scripted({"": "554 no"}, {}), scripted({}, {"": "554 no"})
        mailer = twin(first.url, second.url)
        assert mailer.send(hello()).server == second.name
        second.cut()
        assert mailer.send(hello()).server == first.name

    def test_the_last_server_left_is_always_tried(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"": "554 no"}, {})
        mailer = twin(server.url)
        with pytest.raises(ConnectionError):
            mailer.send(hello())
        assert mailer.send(hello()).ok

    def test_a_bad_recipient_never_rests_a_server(self, twin: Twin, scripted: Scripted) -> None:
        server, other = scripted({"RCPT TO:<bob@": "450 later"}), scripted()
        mailer = twin(server.url, other.url)
        assert mailer.send(hello("bob@example.com")).server == other.name
        assert mailer.send(hello("carl@example.com")).server == server.name

    def test_round_robin_takes_turns(self, twin: Twin, scripted: Scripted) -> None:
        servers = [scripted() for _ in range(3)]
        mailer = twin(*(server.url for server in servers), strategy="round_robin")
        for _ in range(6):
            mailer.send(hello())
        assert [len(server.handed_over) for server in servers] == [2, 2, 2]

    def test_ports_are_walked_in_tandem_with_servers(self, twin: Twin, scripted: Scripted) -> None:
        bad, good = scripted({"": "554 no"}), scripted()
        mailer = twin.kind.from_settings(
            {"servers": ["127.0.0.1", "localhost"], "ports": [bad.port, good.port, 9], "tls": "none"}
        )
        assert [server.name for server in mailer.configuration.servers] == [
            f"127.0.0.1:{bad.port}",
            f"localhost:{good.port}",
        ]
        driven = twin("127.0.0.1", "localhost", ports=[bad.port, good.port, 9], tls="none")
        assert driven.send(hello()).server == f"localhost:{good.port}"


class TestEverythingDown:
    def test_the_next_call_tries_again(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"": "554 no"}, {})
        mailer = twin(server.url)
        assert [receipt.ok for receipt in mailer.send_many([hello(), hello()])] == [False, False]
        assert [receipt.ok for receipt in mailer.send_many([hello(), hello()])] == [True, True]

    def test_a_server_that_dies_in_the_middle_of_a_batch_leaves_the_rest_to_the_next(
        self, twin: Twin, scripted: Scripted
    ) -> None:
        first, second = scripted({"MAIL": ["250 ok", "250 ok", CUT]}, {"": "554 no"}), scripted()
        receipts = twin(first.url, second.url).send_many(hello(subject=str(n)) for n in range(6))
        assert all(receipt.ok for receipt in receipts)
        assert [receipt.server for receipt in receipts] == [first.name] * 2 + [second.name] * 4
        subjects = [t.content.split(b"Subject: ")[1][:1] for t in first.handed_over + second.handed_over]
        assert subjects == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert Envelope(SENDER, ["bob@example.com"]).recipients[0].address == receipts[0].outcomes[0].address
