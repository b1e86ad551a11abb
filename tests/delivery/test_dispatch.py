"""`Dispatch`, played from scripts without a socket: every rule of DESIGN 4.2 to 4.4 and 4.11."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpbackend import Envelope, Message, Receipt, Status
from smtpbackend.errors import (
    AuthenticationFailed,
    CancelSend,
    ConnectFailed,
    ConnectionLost,
    ContentRefused,
    DeliveryError,
    InDoubt,
    InvalidInput,
    NotSupported,
    RecipientsRefused,
    SenderRefused,
    TimedOut,
)
from smtpbackend.events import MessageSending
from tests.delivery.played import BUSY, CUT, REFUSED, SILENCE, Play, Played

A, R, D, I = Status.ACCEPTED, Status.REJECTED, Status.DEFERRED, Status.IN_DOUBT  # noqa: E741
LATER, NO, FULL = "450 4.2.0 later", "550 5.1.1 no", "452 4.5.3 too many"


def mail(*to: str, **fields: Any) -> Message:
    return Message(
        subject="Hello",
        from_="ann@example.org",
        to=[f"{name}@example.com" for name in to or ("bob",)],
        text="Hi\n",
        **fields,
    )


def statuses(receipt: Receipt) -> list[Status]:
    return [outcome.status for outcome in receipt.outcomes]


class TestOneServer:
    def test_a_message_is_accepted(self) -> None:
        world = Played({"a": [{}]})
        [receipt] = world.send(mail("bob", "carl"))
        assert statuses(receipt) == [A, A]
        assert receipt.message_id == "<token@example.org>"
        assert (receipt.server, receipt.queue_id) == ("a:25", "00001ABC")
        assert world.names() == ["message_sending", "message_sent"]
        assert world.handed_over("a") == [("bob", "carl")]
        assert len(world.idle) == 1

    @pytest.mark.parametrize(
        ("answers", "expected", "kind"),
        [
            ({"RCPT TO:<bob": NO}, [R, A], None),
            ({"RCPT TO:<bob": LATER}, [D, A], None),
            ({"RCPT": NO}, [R, R], RecipientsRefused),
            ({"RCPT": LATER}, [D, D], RecipientsRefused),
            ({"RCPT TO:<bob": NO, "RCPT TO:<carl": LATER}, [R, D], RecipientsRefused),
            ({"MAIL": NO}, [R, R], SenderRefused),
            ({"MAIL": LATER}, [D, D], SenderRefused),
            ({"MAIL": FULL}, [D, D], SenderRefused),
            ({"DATA": NO}, [R, R], ContentRefused),
            ({"DATA": LATER}, [D, D], ContentRefused),
            ({".": NO}, [R, R], ContentRefused),
            ({".": LATER}, [D, D], ContentRefused),
            ({".": NO, "RCPT TO:<bob": LATER}, [D, R], ContentRefused),
            ({"RCPT": FULL}, [D, D], RecipientsRefused),
            ({"RCPT": [FULL, "250 ok"]}, [A, A], None),
            ({"MAIL": CUT}, [D, D], ConnectionLost),
            ({"MAIL": SILENCE}, [D, D], TimedOut),
            ({"MAIL": "421 4.3.2 closing"}, [D, D], ConnectionLost),
            ({"RCPT TO:<carl": CUT}, [D, D], ConnectionLost),
            ({"RCPT TO:<bob": NO, "RCPT TO:<carl": CUT}, [R, D], RecipientsRefused),
            ({".": CUT}, [I, I], InDoubt),
            ({".": SILENCE}, [I, I], InDoubt),
            ({".": CUT, "RCPT TO:<bob": NO}, [R, I], InDoubt),
            ({".": CUT, "RCPT TO:<bob": LATER}, [D, I], InDoubt),
            ({".": "421 4.3.2 closing"}, [D, D], ConnectionLost),
            ({"": NO}, [D, D], ConnectFailed),
            ({"EHLO": CUT}, [D, D], ConnectionLost),
        ],
    )
    def test_what_each_recipient_is_told(
        self, answers: dict[str, Any], expected: list[Status], kind: type[Exception] | None
    ) -> None:
        world = Played({"a": [answers]})
        [receipt] = world.send(mail("bob", "carl"))
        assert statuses(receipt) == expected
        assert type(receipt.error) is (kind or type(None))
        assert len(world.events) == len({id(event) for event in world.events})
        for outcome in receipt.outcomes:
            assert outcome.status is A or outcome.reply is not None or outcome.error is not None

    @pytest.mark.parametrize(
        ("answers", "expected"),
        [
            ({}, [A, A]),
            ({"RCPT TO:<bob": NO}, [R, D]),
            ({"RCPT TO:<bob": LATER}, [D, D]),
            ({"RCPT TO:<carl": FULL}, [D, R]),
            ({"RCPT": NO}, [R, R]),
            ({"RCPT TO:<bob": NO, "RCPT TO:<carl": LATER}, [R, D]),
            ({"RCPT TO:<bob": NO, "RCPT TO:<carl": CUT}, [R, D]),
            ({"MAIL": NO}, [R, R]),
            ({"DATA": NO}, [R, R]),
            ({".": CUT}, [I, I]),
            ({".": LATER}, [D, D]),
        ],
    )
    def test_under_all(self, answers: dict[str, Any], expected: list[Status]) -> None:
        world = Played({"a": [answers]}, policy="all")
        [receipt] = world.send(mail("bob", "carl"))
        assert statuses(receipt) == expected
        assert A not in expected or receipt.ok
        assert world.handed_over("a") == ([("bob", "carl")] if expected[0] in (A, I) or "." in answers else [])

    def test_the_split_goes_on_until_everybody_is_through(self) -> None:
        world = Played({"a": [{"RCPT": ["250 ok", FULL, FULL, "250 ok", FULL, "250 ok"]}]})
        [receipt] = world.send(mail("ada", "bob", "carl"))
        assert receipt.ok
        assert world.handed_over("a") == [("ada",), ("bob",), ("carl",)]
        assert [outcome.attempts for outcome in receipt.outcomes] == [1, 2, 3]

    def test_a_long_list_is_split_as_the_server_has_shown(self) -> None:
        """A hundred at least; and where it takes nobody more, all that are left go on together."""
        names = [f"u{number}" for number in range(400)]
        taken = iter(["250 ok"] * 120 + [FULL] * 280 + ["250 ok"] * 120 + [FULL] * 400)
        world = Played({"a": [{"RCPT": lambda line: next(taken)}], "b": [{}]})
        [receipt] = world.send(mail(*names))
        assert receipt.ok
        assert [len(group) for group in world.handed_over("a")] == [120, 120]
        assert [len(group) for group in world.handed_over("b")] == [160]
        assert sum(outcome.attempts for outcome in receipt.outcomes) == 400 + 120 + 120 + 160

    def test_those_set_aside_are_not_forgotten_where_the_split_ends_in_421(self) -> None:
        """The last of it is refused, and the connection ends: who was to come later goes to the next server."""
        first = {
            "RCPT TO:<ada": "250 ok",
            "RCPT TO:<bob": [FULL, NO],
            "RCPT TO:<carl": LATER,
            "DATA": ["354 go", "421 bye"],
        }
        world = Played({"a": [first, {"RCPT": LATER}], "b": [{}]})
        [receipt] = world.send(mail("ada", "bob", "carl"))
        assert statuses(receipt) == [A, R, A]

    def test_the_time_of_a_hand_over_is_nobodys_deadline(self) -> None:
        world = Played({"a": [{"MAIL": SILENCE}, {}]}, deadline=5.0)
        first, second = world.send(mail(), mail())
        assert statuses(first) == [D]
        assert isinstance(first.error, TimedOut)
        assert second.ok
        assert world.deadlines[0] == 1005.0

    def test_a_refused_sender_and_a_hang_up_is_a_refused_sender(self) -> None:
        world = Played({"a": [Play({"MAIL": ("550 5.7.1 no", CUT)}, ("PIPELINING",))]})
        [receipt] = world.send(mail("bob", "carl"))
        assert statuses(receipt) == [R, R]
        assert isinstance(receipt.error, SenderRefused)

    @pytest.mark.parametrize("last_word", ["554 5.7.0 too many errors", "421 4.7.0 bye"])
    def test_an_end_over_the_rset_of_the_probe_is_no_end_of_the_server(self, last_word: str) -> None:
        """DESIGN 5.1: the probe changes no outcome."""
        chunking = ("PIPELINING", "CHUNKING", "SIZE")
        world = Played({"a": [Play({"RSET": (last_word, CUT)}, chunking), Play({}, chunking)], "b": [{}]})
        receipts = world.send(mail(), mail())
        assert [(receipt.ok, receipt.server) for receipt in receipts] == [(True, "a:25")] * 2
        assert "server_failed" not in world.names()


class TestSeveralServers:
    @pytest.mark.parametrize(
        "bad",
        [
            REFUSED,
            {"": NO},
            {"EHLO": CUT},
            {"MAIL": CUT},
            {"MAIL": LATER},
            {"MAIL": FULL},
            {"RCPT": LATER},
            {"DATA": LATER},
            {".": LATER},
            {"RCPT": FULL},
        ],
    )
    def test_the_next_one_takes_over(self, bad: Any) -> None:
        world = Played({"a": [bad], "b": [{}]})
        [receipt] = world.send(mail())
        assert receipt.ok
        assert receipt.server == "b:25"
        assert world.leases == [("a", False), ("b", False)]

    @pytest.mark.parametrize("place", ["RCPT", "DATA", "."])
    def test_or_only_when_a_second_connection_ended_at_a_command_of_this_message(self, place: str) -> None:
        world = Played({"a": [{place: "421 closing"}], "b": [{}]})
        [receipt] = world.send(mail())
        assert receipt.server == "b:25"
        assert world.leases == [("a", False), ("a", True), ("b", False)]
        assert world.names() == ["message_sending", "message_sent"]  # nobody is blamed

    def test_or_at_once_when_the_first_mail_was_answered_so(self) -> None:
        world = Played({"a": [{"MAIL": "421 closing"}], "b": [{}]})
        [receipt] = world.send(mail())
        assert receipt.server == "b:25"
        assert world.leases == [("a", False), ("b", False)]
        assert world.names() == ["message_sending", "server_failed a mail", "message_sent"]

    @pytest.mark.parametrize("bad", [{"MAIL": NO}, {"RCPT": NO}, {"DATA": NO}, {".": NO}, {".": CUT}])
    def test_or_is_never_asked(self, bad: Any) -> None:
        world = Played({"a": [bad], "b": [{}]})
        [receipt] = world.send(mail())
        assert not receipt.ok
        assert world.leases == [("a", False)]

    def test_those_set_aside_in_a_split_are_tried_on_the_next_one(self) -> None:
        world = Played({"a": [{"RCPT": ["250 ok", LATER, FULL, "250 ok"]}], "b": [{}]})
        [receipt] = world.send(mail("ada", "bob", "carl"))
        assert [outcome.server for outcome in receipt.outcomes] == ["a:25", "b:25", "a:25"]

    def test_a_split_that_ends_badly_leaves_all_the_rest_to_the_next_one(self) -> None:
        world = Played({"a": [{"RCPT": ["250 ok", LATER, FULL, LATER]}], "b": [{}]})
        [receipt] = world.send(mail("ada", "bob", "carl"))
        assert world.handed_over("b") == [("carl", "bob")] or world.handed_over("b") == [("bob", "carl")]
        assert receipt.ok

    def test_a_login_that_fails_everywhere_is_the_error(self) -> None:
        world = Played({"a": [REFUSED], "b": [{"": NO}]})
        [receipt] = world.send(mail())
        assert isinstance(receipt.error, ConnectFailed)
        assert receipt.error.server == "b:25"
        assert world.names() == [
            "message_sending",
            "server_failed a connect",
            "server_failed b greeting",
            "recipient_deferred",
            "message_failed",
        ]

    def test_everything_down_settles_a_batch_in_one_round(self) -> None:
        world = Played({"a": [REFUSED], "b": [REFUSED]})
        receipts = world.send(*(mail() for _ in range(50)))
        assert [statuses(receipt) for receipt in receipts] == [[D]] * 50
        assert world.leases == [("a", False), ("b", False)]
        errors = [receipt.error for receipt in receipts]
        assert len({id(error) for error in errors}) == 50
        assert all(
            error is not None and error.receipt is receipt for error, receipt in zip(errors, receipts, strict=True)
        )

    def test_a_server_that_is_down_is_not_tried_for_those_that_another_deferred(self) -> None:
        world = Played({"a": [REFUSED], "b": [{"RCPT": LATER}]})
        receipts = world.send(mail(), mail())
        assert [statuses(receipt) for receipt in receipts] == [[D], [D]]
        assert [host for host, _ in world.leases].count("a") == 1

    def test_a_message_that_only_another_server_may_have_is_finished_there_in_order(self) -> None:
        plain = Play(extensions=("PIPELINING",))
        world = Played({"a": [plain], "b": [{}]})
        receipts = world.send(mail("ada"), mail("jürgen"), mail("carl"))
        assert [receipt.server for receipt in receipts] == ["a:25", "b:25", "a:25"]
        assert [host for host, _ in world.leases] == ["a", "b", "a"]

    def test_what_no_server_may_have_fails(self) -> None:
        world = Played({"a": [Play(extensions=())], "b": [Play(extensions=())]})
        [receipt] = world.send(mail("jürgen"))
        assert statuses(receipt) == [Status.FAILED]
        assert isinstance(receipt.error, NotSupported)

    def test_what_one_may_not_have_and_the_other_could_is_deferred(self) -> None:
        world = Played({"a": [Play(extensions=())], "b": [REFUSED]})
        [receipt] = world.send(mail("jürgen"))
        assert statuses(receipt) == [D]

    def test_the_deadline_ends_the_round(self) -> None:
        world = Played({"a": [{"MAIL": SILENCE}], "b": [{}]}, deadline=10.0)
        [receipt] = world.send(mail())
        assert statuses(receipt) == [D]
        assert isinstance(receipt.error, TimedOut)
        assert world.leases == [("a", False)]

    def test_a_deadline_that_passes_between_two_servers(self) -> None:
        def slowly(heard: str) -> str:
            world.now += 20
            return LATER

        world = Played({"a": [{"RCPT": slowly}], "b": [{}]}, deadline=10.0)
        [receipt] = world.send(mail())
        assert statuses(receipt) == [D]
        assert receipt.outcomes[0].reply is not None
        assert world.leases == [("a", False)]

    def test_a_pool_that_is_busy_says_nothing_against_the_server(self) -> None:
        world = Played({"a": [BUSY], "b": [{}]})
        [receipt] = world.send(mail())
        assert receipt.server == "b:25"
        assert world.names() == ["message_sending", "message_sent"]
        assert world.route.order(world.now)[0].host == "a"

    def test_a_deadline_that_passes_while_a_turn_is_awaited_is_that_messages_alone(self) -> None:
        """The next one in the list has a deadline of its own, and a server that nothing is known against."""
        world = Played({"a": [{}]}, deadline=5)
        world.turns = [6.0]
        receipts = world.send(mail("late"), mail("early"))
        assert [statuses(receipt) for receipt in receipts] == [[D], [A]]
        assert world.names().count("server_failed a connect") == 0

    def test_round_robin(self) -> None:
        world = Played({"a": [{}], "b": [{}]}, strategy="round_robin")
        receipts = world.send(*(mail() for _ in range(4)))
        assert [receipt.server for receipt in receipts] == ["a:25", "b:25", "a:25", "b:25"]


class TestAConnectionFromThePool:
    def world(self, first: dict[str, Any], *later: Any, **options: Any) -> Played:
        """One in which a connection to server a is idle already."""
        world = Played({"a": [first, *later], "b": [{}]}, **options)
        assert world.send(mail("first"))[0].ok
        world.leases.clear()
        world.events.clear()
        return world

    @pytest.mark.parametrize("how", [CUT, SILENCE, "421 4.4.2 idle", b"nonsense\r\n"])
    def test_is_replaced_by_a_fresh_one(self, how: Any) -> None:
        world = self.world({"MAIL": ["250 ok", how]}, {})
        [receipt] = world.send(mail())
        assert receipt.server == "a:25"
        assert world.leases == [("a", False), ("a", True)]
        assert world.names() == ["message_sending", "message_sent"]

    def test_the_first_reply_has_ten_seconds(self) -> None:
        world = self.world({"MAIL": ["250 ok", SILENCE]}, {})
        before = world.now
        assert world.send(mail())[0].ok
        assert world.now == before + 10

    def test_a_fresh_one_that_fails_too_is_the_servers_failure(self) -> None:
        world = self.world({"MAIL": ["250 ok", CUT]}, {"MAIL": CUT})
        [receipt] = world.send(mail())
        assert receipt.server == "b:25"
        assert world.leases == [("a", False), ("a", True), ("b", False)]
        assert world.names() == ["message_sending", "server_failed a mail", "message_sent"]

    def test_enough_messages_means_a_fresh_one(self) -> None:
        world = self.world({"MAIL": ["250 ok", FULL]}, {})
        [receipt] = world.send(mail())
        assert receipt.server == "a:25"
        assert world.leases == [("a", False), ("a", True)]

    def test_a_content_lost_after_hand_over_is_not_replayed(self) -> None:
        world = self.world({".": ["250 ok", CUT]}, {})
        [receipt] = world.send(mail())
        assert statuses(receipt) == [I]
        assert world.leases == [("a", False)]

    def test_a_question_is_asked_again_on_a_fresh_one(self) -> None:
        world = self.world({"VRFY": CUT}, {})
        assert world.ask(lambda session: session.verify("bob")).code == 252
        assert world.leases == [("a", False), ("a", True)]

    def test_a_question_that_nobody_answers_is_the_last_error(self) -> None:
        world = Played({"a": [{"VRFY": CUT}], "b": [REFUSED]})
        with pytest.raises(ConnectFailed, match="b:25"):
            world.ask(lambda session: session.verify("bob"))

    def test_in_the_middle_of_a_batch(self) -> None:
        world = Played({"a": [{"MAIL": ["250 ok", "250 ok", CUT]}, {}], "b": [{}]})
        receipts = world.send(*(mail(f"u{n}") for n in range(5)))
        assert [receipt.server for receipt in receipts] == ["a:25"] * 5
        assert world.handed_over("a") == [(f"u{n}",) for n in range(5)]
        assert world.leases == [("a", False), ("a", True)]


class TestTheStream:
    def test_a_message_is_pulled_when_the_last_is_answered(self) -> None:
        world = Played({"a": [{}]})
        stream = world.stream(mail() for _ in range(100))
        for taken in range(1, 6):
            assert next(stream).ok
            assert world.pulled <= taken + 1
        stream.close()

    def test_a_batch_has_one_connection(self) -> None:
        world = Played({"a": [{}]})
        assert all(receipt.ok for receipt in world.send(*(mail() for _ in range(30))))
        assert world.leases == [("a", False)]

    def test_or_as_many_as_max_messages_says(self) -> None:
        world = Played({"a": [{}]})
        world.max_messages = 3
        world.send(*(mail() for _ in range(7)))
        assert [len(speaker.handed_over) for speaker in world.speakers["a"]] == [3, 3, 1]

    def test_the_invalid_stand_in_their_place(self) -> None:
        world = Played({"a": [{}]})
        items = [b"no envelope", mail(), 5, mail(), (1, 2, 3)]
        receipts = world.send(*items)
        assert [receipt.ok for receipt in receipts] == [False, True, False, True, False]
        assert isinstance(receipts[0].error, InvalidInput)
        assert [event.message for event in world.events if event.name == "message_sending"] == items
        assert [event.message for event in world.events if event.name == "message_ended"] == items

    def test_the_cancelled_too(self) -> None:
        def veto(event: Any) -> None:
            if isinstance(event, MessageSending) and event.envelope.recipients[0].address.local_part == "bob":
                raise CancelSend

        world = Played({"a": [{}]}, listeners=[veto])
        receipts = world.send(mail("ada"), mail("bob"), mail("carl"))
        assert [statuses(receipt) for receipt in receipts] == [[A], [D], [A]]
        assert world.names().count("recipient_deferred") == 0

    def test_with_a_window_receipts_keep_their_order(self) -> None:
        answers = {"RCPT TO:<u2": NO, "RCPT TO:<u4": LATER}
        world = Played({"a": [answers], "b": [{}]}, window=4)
        receipts = world.send(*(mail(f"u{n}") for n in range(8)))
        assert [str(receipt.outcomes[0].address) for receipt in receipts] == [f"u{n}@example.com" for n in range(8)]
        assert [statuses(receipt)[0] for receipt in receipts] == [A, A, R, A, A, A, A, A]
        assert receipts[4].server == "b:25"

    @pytest.mark.parametrize("window", [1, 2, 4])
    def test_a_source_that_hesitates_lets_what_is_composed_leave_first(self, window: int) -> None:
        world = Played({"a": [{"RCPT TO:<u1": NO}]}, window=window, hesitant=True)
        receipts = world.send(*(mail(f"u{n}") for n in range(5)), b"no envelope", mail("u6"))
        assert [receipt.ok for receipt in receipts] == [True, False, True, True, True, False, True]

    def test_with_a_window_what_was_in_flight_is_settled_message_by_message(self) -> None:
        world = Played({"a": [{".": ["250 ok", "250 ok", CUT]}, {}], "b": [{}]}, window=4)
        receipts = world.send(*(mail(f"u{n}") for n in range(6)))
        assert len(receipts) == 6
        assert [statuses(receipt)[0] for receipt in receipts].count(I) <= 2
        handed = [name for names in world.handed_over("a") + world.handed_over("b") for name in names]
        assert len(handed) == len(set(handed))


class TestARandomWorld:
    """Whatever servers say: each message has one receipt, nobody gets it twice, and who is accepted has it."""

    answer = st.sampled_from(
        ["250 ok", "250 ok", "250 ok", NO, LATER, FULL, CUT, SILENCE, "421 4.3.2 closing", b"what\r\n"]
    )
    play = st.one_of(
        st.just(REFUSED),
        st.builds(
            Play,
            st.dictionaries(
                st.sampled_from(["MAIL", "RCPT", "RCPT TO:<u1", ".", "RSET", "EHLO", ""]),
                st.lists(answer, min_size=1, max_size=5),
                max_size=4,
            ),
            st.sampled_from([("PIPELINING", "ENHANCEDSTATUSCODES"), ()]),
        ),
    )

    @settings(max_examples=150, deadline=None)
    @given(
        servers=st.lists(st.lists(play, min_size=1, max_size=3), min_size=1, max_size=3),
        policy=st.sampled_from(["any", "all"]),
        count=st.integers(1, 5),
        window=st.sampled_from([1, 3]),
        deadline=st.sampled_from([None, 100.0]),
    )
    def test_holds(
        self, servers: list[list[Any]], policy: str, count: int, window: int, deadline: float | None
    ) -> None:
        world = Played(
            {f"s{number}": plays for number, plays in enumerate(servers)},
            policy=policy,
            window=window,
            deadline=deadline,
        )
        sent = [[f"m{number}u{place}" for place in range(3)] for number in range(count)]
        receipts = world.send(*(mail(*names) for names in sent))
        assert [[outcome.address.local_part for outcome in receipt.outcomes] for receipt in receipts] == sent
        taken: list[str] = []
        for host in world.speakers:
            for names in world.handed_over(host, refused=False):
                taken += names
        assert len(taken) == len(set(taken))
        for receipt in receipts:
            assert bool(receipt.error) == (not receipt.accepted)
            for outcome in receipt.outcomes:
                name = outcome.address.local_part
                if outcome.status in (A, I):
                    assert name in taken
                if outcome.status is A:
                    assert outcome.reply is not None
                    assert outcome.reply.is_positive
                elif outcome.reply is None:
                    assert outcome.error is not None
            if policy == "all" and receipt.accepted:
                assert receipt.ok
        starts = [event for event in world.events if event.name == "message_sending"]
        ends = [event for event in world.events if event.name == "message_ended"]
        assert len(starts) == count
        assert [event.message for event in starts] == [event.message for event in ends]


def test_a_source_is_not_asked_again_after_its_end() -> None:
    asked = []

    def source() -> Iterator[Message]:
        asked.append(1)
        yield mail()
        asked.append(2)

    world = Played({"a": [{}]})
    assert len(list(world.stream(source()))) == 1
    assert asked == [1, 2]


def test_an_envelope_and_its_content() -> None:
    world = Played({"a": [{}]})
    [receipt] = world.send((b"Subject: x\r\n\r\nhi", Envelope("", ["bob@example.com"])))
    assert receipt.ok
    assert receipt.message_id is None
    assert world.speakers["a"][0].handed_over[0].content == b"Subject: x\r\n\r\nhi\r\n"


def test_a_dispatch_without_servers_that_answer_has_an_error_of_its_own() -> None:
    world = Played({})
    [receipt] = world.send(mail())
    assert type(receipt.error) is DeliveryError
    with pytest.raises(DeliveryError, match="no server"):
        world.ask(lambda session: session.noop())
    assert AuthenticationFailed("x").is_transient is False
