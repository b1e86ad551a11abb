"""`Dispatch` with several messages in flight, played from scripts: what is replayed, what in doubt, who comes next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from smtpbackend import Message, Reply
from smtpbackend.delivery.dispatch import AWAKE, LEAVING
from smtpbackend.errors import InDoubt, TimedOut
from smtpbackend.protocol.effects import LATER as NOTHING_NOW
from smtpbackend.protocol.transaction import Transaction
from smtpbackend.testing import EXTENSIONS
from tests.delivery.played import BUSY, CUT, REFUSED, SILENCE, Play, Played
from tests.delivery.test_dispatch import FULL, LATER, NO, A, D, I, mail, statuses

CHUNKING = (*EXTENSIONS, "CHUNKING")


def mails(count: int) -> list[Message]:
    return [mail(f"u{number}") for number in range(count)]


def names(count: int) -> list[tuple[str, ...]]:
    return [(f"u{number}",) for number in range(count)]


class TestWindow:
    def test_receipts_come_in_order_and_one_connection_does_it_all(self) -> None:
        world = Played({"a": [Play(extensions=CHUNKING)]}, window=8)
        receipts = world.send(*mails(50))
        assert [statuses(receipt) for receipt in receipts] == [[A]] * 50
        assert world.handed_over("a") == names(50)
        assert world.leases == [("a", False)]

    def test_a_receipt_is_given_as_soon_as_it_is_known(self) -> None:
        world = Played({"a": [Play(extensions=CHUNKING)]}, window=4)
        stream = world.stream(iter(mails(20)))
        for number in range(20):
            assert next(stream).ok
            assert world.pulled <= number + 1 + 4 + 1

    def test_a_recipient_refused_for_now_without_another_server_keeps_the_window_full(self) -> None:
        """Nobody waits for a message that has nowhere to go."""
        world = Played({"a": [Play({"RCPT TO:<u7": LATER}, CHUNKING)]}, window=8)
        receipts = world.send(*mails(20))
        assert [statuses(receipt)[0] for receipt in receipts] == [D if n == 7 else A for n in range(20)]
        assert world.leases == [("a", False)]

    def test_a_message_that_needs_another_server_is_finished_there_and_keeps_its_place(self) -> None:
        world = Played({"a": [Play({"RCPT TO:<u3": LATER}, CHUNKING)], "b": [{}]}, window=4)
        receipts = world.send(*mails(12))
        assert [receipt.server for receipt in receipts] == [f"{'b' if n == 3 else 'a'}:25" for n in range(12)]
        assert world.handed_over("b") == [("u3",)]

    def test_what_was_not_handed_over_when_a_connection_dies_is_replayed_in_a_window(self) -> None:
        """On one fresh connection to the same server, which is not blamed: it had done its work."""
        first = Play({"MAIL": ["250 ok"] * 3 + [CUT]}, EXTENSIONS)
        world = Played({"a": [first, Play(extensions=EXTENSIONS)], "b": [{}]}, window=4)
        receipts = world.send(*mails(10))
        assert [statuses(receipt) for receipt in receipts] == [[A]] * 10
        assert world.leases == [("a", False), ("a", True)]
        assert [name for name in world.names() if name.startswith("server_failed")] == []

    def test_what_was_handed_over_is_in_doubt_message_by_message_and_the_rest_goes_on(self) -> None:
        first = Play({"MAIL": ["250 ok"] * 3 + [CUT]}, CHUNKING)
        world = Played({"a": [first, Play(extensions=CHUNKING)], "b": [{}]}, window=4)
        receipts = world.send(*mails(12))
        found = [statuses(receipt)[0] for receipt in receipts]
        in_doubt = found.count(I)
        assert found == [A] * 3 + [I] * in_doubt + [A] * (9 - in_doubt)
        assert 1 <= in_doubt <= 4
        taken = world.handed_over("a") + world.handed_over("b")
        assert len(taken) == len(set(taken)) == 12 - in_doubt

    def test_a_server_is_blamed_once_for_a_connection(self) -> None:
        world = Played({"a": [Play({"MAIL": ["250 ok"] * 3 + [CUT]}, CHUNKING)], "b": [{}]}, window=8)
        world.send(*mails(12))
        assert sum(name.startswith("server_failed a") for name in world.names()) <= 1

    def test_after_421_everything_unanswered_goes_on(self) -> None:
        first = Play({"MAIL": ["250 ok"] * 3 + ["421 4.3.2 shutting down"]}, CHUNKING)
        world = Played({"a": [first, Play(extensions=CHUNKING)]}, window=4)
        receipts = world.send(*mails(12))
        assert [statuses(receipt) for receipt in receipts] == [[A]] * 12

    @pytest.mark.parametrize("most", [2, 7])
    @pytest.mark.parametrize("window", range(1, 12))
    @pytest.mark.parametrize("extensions", [EXTENSIONS, CHUNKING], ids=["DATA", "BDAT"])
    def test_a_limit_of_messages_is_charged_to_nobody_twice(
        self, most: int, window: int, extensions: tuple[str, ...]
    ) -> None:
        """Whoever stood at it on one connection may stand at it on the next, behind all that were in flight."""
        play = Play({"MAIL": ["250 ok"] * most + ["421 too many messages"]}, extensions)
        world = Played({"a": [play] * 40}, window=window)
        receipts = world.send(*mails(20))
        assert [statuses(receipt) for receipt in receipts] == [[A]] * 20
        counts = [sum(line.startswith("MAIL") for line in speaker.commands) for speaker in world.speakers["a"]]
        assert max(counts[2:]) <= most

    def test_a_batch_survives_a_server_that_dies_again_and_again(self) -> None:
        dying = Play({"MAIL": ["250 ok"] * 3 + [CUT]}, EXTENSIONS)
        world = Played({"a": [dying] * 100, "b": [Play(extensions=EXTENSIONS)]}, window=4)
        receipts = world.send(*mails(30))
        assert all(receipt.ok for receipt in receipts)
        taken = world.handed_over("a") + world.handed_over("b")
        assert sorted(taken) == sorted(names(30))

    def test_the_deadline_of_the_oldest_bounds_the_connection(self) -> None:
        world = Played({"a": [Play({".": ["250 ok", SILENCE]})]}, window=4, deadline=30)
        receipts = world.send(*mails(5))
        assert statuses(receipts[0]) == [A]
        assert statuses(receipts[1]) == [I]

    def test_no_more_than_the_window_is_held_behind_one_that_waits(self) -> None:
        world = Played({"a": [Play(extensions=CHUNKING)]}, window=4)
        stream = world.stream(iter(mails(40)))
        next(stream)
        assert world.pulled <= 6

    def test_a_source_that_makes_us_wait_is_not_asked_while_a_receipt_is_due(self) -> None:
        """Else the receipt of the last message would come with the next message."""
        world = Played({"a": [{}]}, window=8)
        pulled_at: list[int] = []

        def source() -> Iterator[Message]:
            for number in range(5):
                world.now += 10
                pulled_at.append(len(world.handed_over("a")))
                yield mail(f"u{number}")

        receipts = list(world.stream(source()))
        assert all(receipt.ok for receipt in receipts)
        assert pulled_at == [0, 1, 2, 3, 4]


class TestProofs:
    """A server that does not survive being asked for a proof is not asked again, and not blamed (DESIGN 5.1, 5.2)."""

    @pytest.mark.parametrize("how", [CUT, SILENCE, "421 4.7.0 what is that"])
    def test_the_probe(self, how: Any) -> None:
        world = Played({"a": [Play({"BDAT 1": how}, CHUNKING)] * 9, "b": [{}]}, window=4)
        receipts = world.send(*mails(6))
        assert [receipt.server for receipt in receipts] == ["a:25"] * 6
        assert world.leases == [("a", False), ("a", True)]
        assert world.send(mail())[0].server == "a:25"
        probes = sum(
            command.startswith("BDAT 1") and "LAST" not in command
            for s in world.speakers["a"]
            for command in s.commands
        )
        assert probes == 1
        assert [name for name in world.names() if name.startswith("server_failed")] == []

    def test_a_server_that_dies_without_the_probe_too_has_failed(self) -> None:
        world = Played({"a": [Play({"BDAT 1": CUT}, CHUNKING), Play({"MAIL": CUT}, CHUNKING)], "b": [{}]})
        assert [receipt.server for receipt in world.send(mail(), mail())] == ["b:25"] * 2
        assert "server_failed a mail" in world.names()

    @pytest.mark.parametrize("how", [SILENCE, CUT])
    def test_the_window(self, how: Any) -> None:
        """Courier discards what it has read behind the dot."""
        world = Played({"a": [Play({"RSET": how})] * 9, "b": [{}]}, window=4)
        receipts = world.send(*mails(3))
        assert [receipt.server for receipt in receipts] == ["a:25"] * 3 or how is CUT
        assert all(receipt.ok for receipt in receipts)
        assert all(not receipt.in_doubt for receipt in receipts)
        [first, *_] = world.speakers["a"]
        assert [command.split(" ")[0] for command in first.commands] == ["EHLO", "MAIL", "RCPT", "DATA", "RSET"]
        assert not world.route.experience.allows(next(iter(world.servers)), "window", world.now)

    def test_a_window_of_one_asks_for_nothing(self) -> None:
        world = Played({"a": [{}]}, window=1)
        world.send(*mails(2))
        [speaker] = world.speakers["a"]
        verbs = [command.split(" ")[0] for command in speaker.commands]
        assert verbs == ["EHLO", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA"]

    def test_content_waits_after_a_silence(self) -> None:
        """DESIGN 5.1: a connection that nobody heard for 5 s may be dead; the content is kept for a replay."""
        world = Played(
            {
                "a": [
                    Play({"RSET": ["250 ok", CUT], "MAIL": ["250 ok"] * 2 + [CUT]}, CHUNKING),
                    Play(extensions=CHUNKING),
                ]
            }
        )
        assert all(receipt.ok for receipt in world.send(mail("first"), mail("second")))
        world.leases.clear()
        world.now += AWAKE + 1
        [receipt] = world.send(mail("third"))
        assert statuses(receipt) == [A]
        assert world.leases == [("a", False), ("a", True)]

    def test_and_flies_before_it(self) -> None:
        world = Played({"a": [Play({"MAIL": ["250 ok"] * 2 + [CUT]}, CHUNKING), Play(extensions=CHUNKING)]})
        assert all(receipt.ok for receipt in world.send(mail("first"), mail("second")))
        world.now += AWAKE - 1
        [receipt] = world.send(mail("third"))
        assert isinstance(receipt.error, InDoubt)

    def test_a_silence_begins_when_something_was_read(self) -> None:
        """And not when the last of the replies that came together was looked at, after a caller took his time."""

        def waits(pause: float) -> int:
            world = Played({"a": [Play(extensions=CHUNKING)]}, window=8)
            for receipt in world.stream(iter(mails(20))):
                assert receipt.ok
                world.now += pause
            return world.speakers["a"][0].waits

        assert waits(AWAKE + 1) > waits(0.0)


class TestTrial:
    def test_on_a_connection_that_was_kept_it_ends_the_rest(self) -> None:
        world = Played({"a": [{}], "b": [{}]})
        assert world.send(mail())[0].ok
        server = next(iter(world.servers))
        world.route.begin_rest(server, world.now)
        world.now += 31
        assert [world.send(mail())[0].server for _ in range(4)] == [server.name] * 4


class TestRate:
    def test_a_batch_keeps_to_it(self) -> None:
        world = Played({"a": [Play(extensions=CHUNKING)]}, window=8, rate=10)
        receipts = world.send(*mails(35))
        assert all(receipt.ok for receipt in receipts)
        assert world.paused == pytest.approx(2.5, abs=0.05)

    def test_replies_in_flight_are_read_before_it_makes_anybody_wait(self) -> None:
        world = Played({"a": [Play(extensions=CHUNKING)]}, window=8, rate=1)
        stream = world.stream(iter(mails(5)))
        assert next(stream).ok
        assert world.paused == 0

    def test_a_deadline_that_it_would_pass_defers(self) -> None:
        world = Played({"a": [{}]}, rate=0.1, deadline=5)
        first, second = world.send(*mails(2))
        assert first.ok
        assert statuses(second) == [D]
        assert isinstance(second.error, TimedOut)
        assert "rate" in str(second.error)


class TestAbandoned:
    """DESIGN 4.11: who stops taking receipts still has those in flight told to the Listeners."""

    @pytest.mark.parametrize("extensions", [EXTENSIONS, CHUNKING])
    def test_replies_in_flight_are_waited_for_and_told(self, extensions: tuple[str, ...]) -> None:
        world = Played({"a": [Play(extensions=extensions)]}, window=8)
        stream = world.stream(iter(mails(100)))
        next(stream)
        stream.close()
        sent = world.names().count("message_sent")
        assert sent == len(world.handed_over("a"))
        assert sent < 12
        assert world.names().count("message_sending") == sent + world.names().count("message_failed")
        assert not world.out
        assert len(world.idle) == 1

    def test_for_a_bounded_time(self) -> None:
        world = Played({"a": [Play({"MAIL": ["250 ok", SILENCE]}, CHUNKING)]}, window=8)
        stream = world.stream(iter(mails(100)), 100)
        next(stream)
        before = world.now
        stream.close()
        assert world.now - before == LEAVING
        told = [name for name in world.names() if name.startswith("message_") and name != "message_sending"]
        assert len(told) == world.pulled
        assert "message_in_doubt" in told

    def test_no_other_server_is_tried_then(self) -> None:
        world = Played({"a": [Play({"RCPT TO:<u1": LATER})], "b": [{}]}, window=8)
        stream = world.stream(iter(mails(3)))
        next(stream)
        stream.close()
        assert world.handed_over("b") == []

    def test_broken_off_in_the_middle_everybody_is_told(self) -> None:
        """As when a task is cancelled: nothing can be waited for, but the Listeners are told the truth."""
        world = Played({"a": [Play(extensions=CHUNKING)]}, window=8)
        dispatch = world.dispatch()
        run = dispatch.run()
        source = iter(mails(100))
        effect = next(run)
        from smtpbackend.delivery.asks import Lease, Pull, Talk

        handed_over = False
        connection = None
        while not handed_over:
            answer: Any = None
            if isinstance(effect, Pull):
                answer = next(source)
            elif isinstance(effect, Lease):
                answer = connection = world._lease(effect.server, effect.fresh)
            elif isinstance(effect, Talk):
                assert connection is not None
                answer = connection.wire.talk(effect.conversation, effect.value)
                handed_over = bool(world.handed_over("a"))
            effect = run.send(answer)
        run.close()
        told = [name for name in world.names() if name != "message_sending"]
        assert len(told) >= 1

    def test_what_was_settled_is_told_as_it_is(self) -> None:
        """All was said of the first; it only was not told yet."""
        world = Played({"a": [{}]})
        dispatch = world.dispatch()
        for place, message in enumerate(mails(2)):
            one = dispatch.lifecycle.begin(place + 1, *dispatch.lifecycle.open(message, False))
            transaction = Transaction(one.envelope, one.pending, one.content)
            transaction.mail = transaction.rcpt[0] = transaction.final = Reply(250)
            transaction.handed_over = True
            transaction.is_settled = place == 0
            dispatch.begun[place + 1] = one
            dispatch.flying.append((one, transaction))
        dispatch.break_off()
        told = [name for name in world.names() if name != "message_sending"]
        assert told == ["message_sent", "message_in_doubt"]


class TestLater:
    """A source of `deliver` that has no item now."""

    @pytest.mark.parametrize("window", [1, 8])
    @pytest.mark.parametrize("hesitant", [False, True])
    def test_what_is_under_way_is_given_before_it_is_asked_again(self, window: int, hesitant: bool) -> None:
        said: list[str] = []

        def source() -> Iterator[Any]:
            waiting = mails(12)
            while True:
                if waiting and said.count("item") - said.count("given") < 3:
                    said.append("item")
                    yield waiting.pop(0)
                else:
                    said.append("LATER")
                    yield NOTHING_NOW

        world = Played({"a": [{}]}, window=window, hesitant=hesitant)
        for receipt in world.stream(source()):
            assert receipt.ok
            said.append("given")
        assert said.count("item") == said.count("given") == 12
        assert said[-1] == "LATER"
        told = "".join({"item": "i", "LATER": "L", "given": "g"}[one] for one in said)
        assert not re.search("Li*L", told), "it was asked twice for one receipt"
        assert ("L" in told[:-1]) == (window > 1)

    def test_it_is_asked_while_replies_are_awaited(self) -> None:
        """Nothing waits for it: it says LATER as the reply to the first content is awaited."""
        world = Played({"a": [{}]}, window=8)
        seen: list[int] = []

        def source() -> Iterator[Any]:
            yield mails(1)[0]
            while True:
                seen.append(world.names().count("message_sent"))
                yield NOTHING_NOW

        [receipt] = world.stream(source())
        assert receipt.ok
        assert seen == [0, 1]

    def test_at_the_start_it_ends_the_stream(self) -> None:
        world = Played({"a": [{}]})
        assert list(world.stream(iter([NOTHING_NOW, mail()]))) == []
        assert world.leases == []
        assert world.pulled == 1

    @pytest.mark.parametrize("plays", [{"a": [REFUSED]}, {"a": [{"MAIL": CUT}]}, {"a": [{".": LATER}], "b": [{}]}])
    @pytest.mark.parametrize("pairs", [False, True])
    def test_what_goes_again_is_under_way(self, plays: Any, pairs: bool) -> None:
        """To another server, over another connection or nowhere: each has its receipt, and then it is asked."""
        world = Played(plays, window=8, pairs=pairs)
        source = iter([*mails(2), NOTHING_NOW, *mails(1), NOTHING_NOW, NOTHING_NOW, *mails(1)])
        given = len(list(world.stream(source)))
        left = [one for one in source if one is not NOTHING_NOW]
        assert given + len(left) == 4
        assert given >= 2


class TestMoves:
    def test_server_failed_says_what_comes_next(self) -> None:
        world = Played({"a": [REFUSED], "b": [{"": NO}], "c": [REFUSED]})
        world.send(mail())
        failures = [(event.server, event.phase, event.next) for event in world.events if event.name == "server_failed"]
        assert failures == [("a:25", "connect", "b:25"), ("b:25", "greeting", "c:25"), ("c:25", "connect", None)]

    def test_also_where_it_fails_later(self) -> None:
        world = Played({"a": [{"MAIL": CUT}], "b": [{}]})
        world.send(mail())
        assert [(e.phase, e.next) for e in world.events if e.name == "server_failed"] == [("mail", "b:25")]

    def test_moves_are_counted(self) -> None:
        moved: list[int] = []
        for plays in ({"a": [REFUSED], "b": [{}]}, {"a": [{"RCPT": LATER}], "b": [{}]}, {"a": [{}], "b": [{}]}):
            world = Played(plays)
            world.options["moved"] = lambda: moved.append(1)
            world.send(mail())
        assert len(moved) == 2

    def test_a_pool_that_is_busy_is_no_failure(self) -> None:
        world = Played({"a": [BUSY], "b": [{}]})
        assert world.send(mail())[0].server == "b:25"
        assert "server_failed" not in " ".join(world.names())


class TestCrowd:
    """DESIGN 4.4: "too many connections" to a new one waits for one of ours instead of resting the server."""

    @pytest.mark.parametrize("place", ["", "EHLO"], ids=["greeting", "EHLO"])
    @pytest.mark.parametrize(
        "reply",
        [
            "421 4.7.0 mx.example.com Error: too many connections from 192.0.2.1",
            "421 Too many concurrent SMTP connections; please try again later.",
            "421 4.3.2 The maximum number of concurrent server connections has exceeded a limit",
            "421 4.3.2 Connection rate limit exceeded.",
            "432 4.3.2 no more",
        ],
    )
    def test_it_goes_on_over_one_that_comes_back(self, reply: str, place: str) -> None:
        world = Played({"a": [{}, {place: reply, "HELO": reply}], "b": [{}]})
        assert world.send(mail("first"))[0].ok
        [ours] = world.idle
        world.idle.clear()
        world.out.append(ours)  # in use by somebody else

        lease = world._lease

        def give_back(server: Any, fresh: bool) -> Any:
            if len(world.speakers["a"]) == 2 and not fresh and ours in world.out:
                world.out.remove(ours)
                world.idle.append(ours)
            return lease(server, fresh)

        world._lease = give_back  # type: ignore[method-assign]
        [receipt] = world.send(mail("second"))
        assert receipt.server == "a:25"
        assert world.handed_over("a") == [("first",), ("second",)]
        assert "server_failed" not in " ".join(world.names())

    def test_without_one_of_ours_the_server_has_failed(self) -> None:
        world = Played({"a": [{"": "421 4.7.0 too many connections"}], "b": [{}]})
        assert world.send(mail())[0].server == "b:25"
        assert "server_failed a greeting" in world.names()


def test_too_many_recipients_still_split_in_a_window() -> None:
    world = Played({"a": [Play({"RCPT TO:<c": [FULL, "250 ok"]}, EXTENSIONS)]}, window=4)
    receipts = world.send(mail("a1", "b1", "c1"), mail("d1"))
    assert all(receipt.ok for receipt in receipts)
    assert sorted(world.handed_over("a")) == [("a1", "b1"), ("c1",), ("d1",)]
