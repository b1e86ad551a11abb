"""What is learnt of a server: what it is not asked again, how many messages it lets a connection carry."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend.delivery.experience import AN_HOUR, PROBE_TIME
from smtpbackend.testing import CUT, EXTENSIONS, SILENCE
from tests.delivery.played import Play, Played
from tests.delivery.test_dispatch import A, D, R, mail, statuses
from tests.delivery.test_window import CHUNKING, mails

POSTFIX = "220 mx.example.com ESMTP Postfix"
STOCK = (
    "PIPELINING",
    "SIZE 10240000",
    "VRFY",
    "ETRN",
    "ENHANCEDSTATUSCODES",
    "8BITMIME",
    "DSN",
    "SMTPUTF8",
    "CHUNKING",
)
EXCHANGE = "220 mx.example.com Microsoft ESMTP MAIL Service ready"


def probes(world: Played, host: str = "a") -> int:
    """How many connections were probed."""
    return sum("BDAT 1" in speaker.commands for speaker in world.speakers[host])


def chunks(world: Played, host: str = "a") -> int:
    """How many contents left as a chunk."""
    return sum(line.endswith(" LAST") for speaker in world.speakers[host] for line in speaker.commands)


class TestWhoIsProbed:
    def world(self, greeting: str = POSTFIX, **options: Any) -> Played:
        options = {"chunk_in_flight": "auto", **options}
        return Played({"a": [Play({"": greeting, **options.pop("answers", {})}, STOCK)]}, **options)

    @pytest.mark.parametrize(("how", "known", "other"), [("auto", 1, 0), ("probe", 1, 1), ("never", 0, 0)])
    def test_as_the_setting_says(self, how: str, known: int, other: int) -> None:
        for greeting, expected in ((POSTFIX, known), ("220 mx.example.com ESMTP", other), (EXCHANGE, other)):
            world = self.world(greeting, chunk_in_flight=how)
            assert [statuses(receipt) for receipt in world.send(*mails(3))] == [[A]] * 3
            assert probes(world) == expected
            assert chunks(world) == 2 * expected

    def test_with_the_second_message_of_a_connection(self) -> None:
        world = self.world()
        for number, expected in enumerate((0, 1, 1, 1)):
            assert world.send(mail())[0].ok
            assert probes(world) == expected
            assert chunks(world) == max(number - 1, 0)

    def test_with_the_first_of_a_list(self) -> None:
        world = self.world()
        world.send(*mails(2))
        [speaker] = world.speakers["a"]
        assert speaker.verbs[:4] == ["EHLO", "BDAT", "RSET", "MAIL"]

    def test_not_with_the_first_of_a_source_that_does_not_say_how_many_it_has(self) -> None:
        world = self.world()
        list(world.stream(iter(mails(3))))
        [speaker] = world.speakers["a"]
        assert speaker.verbs[:5] == ["EHLO", "MAIL", "RCPT", "DATA", "BDAT"]

    @pytest.mark.parametrize(("deadline", "expected"), [(PROBE_TIME - 1, 0), (PROBE_TIME + 1, 1)])
    def test_not_where_the_deadline_leaves_no_time_for_another_connection(self, deadline: float, expected: int) -> None:
        world = self.world(deadline=deadline)
        world.send(*mails(2))
        assert probes(world) == expected

    @pytest.mark.parametrize("answer", ["500 what", "502 no", "504 no", "451 later", "250 taken", CUT, SILENCE])
    def test_never_again_where_it_did_not_go_well(self, answer: Any) -> None:
        """And its messages go out all the same, by DATA; nobody is blamed."""
        world = Played({"a": [Play({"": POSTFIX, "BDAT 1": answer}, STOCK)] * 9, "b": [{}]}, chunk_in_flight="auto")
        for _ in range(3):
            receipts = world.send(*mails(3))
            assert [receipt.server for receipt in receipts] == ["a:25"] * 3
            world.now += 100 * AN_HOUR
            world.idle.clear()
        assert probes(world) == 1
        assert chunks(world) == 0
        assert [name for name in world.names() if name.startswith("server_failed")] == []

    @pytest.mark.parametrize("count", [1, 5])
    def test_its_rset_refused_with_the_end_is_no_messages_fault(self, count: int) -> None:
        probed = Play({"": POSTFIX, "RSET": ("554 5.7.0 too many errors", CUT)}, STOCK)
        world = Played({"a": [probed, Play({"": POSTFIX}, STOCK)], "b": [{}]}, chunk_in_flight="auto", count=2)
        receipts = world.send(*mails(count))
        assert [receipt.server for receipt in receipts] == ["a:25"] * count
        assert all(receipt.outcomes[0].attempts == 1 for receipt in receipts)
        assert [name for name in world.names() if name.startswith("server_failed")] == []
        assert probes(world) == 1

    def test_never_again_where_it_was_slow(self) -> None:
        """The proof of the connection that gave it holds."""
        world = self.world()
        world.slow["BDAT 1"] = 1.5
        assert all(receipt.ok for receipt in world.send(*mails(3)))
        assert chunks(world) == 2
        world.idle.clear()
        assert all(receipt.ok for receipt in world.send(*mails(3)))
        assert (probes(world), chunks(world)) == (1, 2)


class TestChunksThatAreRefused:
    """Behind a proof: the server offers CHUNKING, and cannot do it, or it refuses this message."""

    @pytest.mark.parametrize("answer", ["500 what", "502 no"])
    @pytest.mark.parametrize("window", [1, 8])
    def test_as_not_known_the_content_goes_again_by_data(self, answer: str, window: int) -> None:
        play = Play({"BDAT": [answer], "BDAT 1": "503 no"}, CHUNKING)
        world = Played({"a": [play, play], "b": [{}]}, window=window)
        receipts = world.send(*mails(12))
        assert [receipt.server for receipt in receipts] == ["a:25"] * 12
        assert [statuses(receipt) for receipt in receipts] == [[A]] * 12
        arrived = sorted(names for speaker in world.speakers["a"] for names in speaker.taken)
        assert len(arrived) == 12
        world.idle.clear()
        before = chunks(world)
        assert world.send(*mails(2))[1].ok
        assert chunks(world) == before
        assert probes(world) == 1

    def test_for_now_it_goes_by_data_the_first_time_of_a_server_only(self) -> None:
        """A message that is refused for now must not go twice each time."""
        later = "451 4.3.0 try again"
        world = Played({"a": [Play({"BDAT": later, ".": ["250 ok", "250 ok", later], "BDAT 1": "503 no"}, CHUNKING)]})
        assert all(receipt.ok for receipt in (*world.send(mail("u0")), *world.send(mail("u1"))))
        for times in (2, 3, 4):
            [receipt] = world.send(mail("greylisted"))
            assert statuses(receipt) == [D]
            assert world.handed_over("a").count(("greylisted",)) == times

    @pytest.mark.parametrize("answer", ["451 4.3.0 try again", "452 4.3.1 disk full"])
    def test_of_several_in_flight_only_the_first_goes_again(self, answer: str) -> None:
        world = Played({"a": [Play({"BDAT": answer, "BDAT 1": "503 no"}, CHUNKING)]}, window=8)
        receipts = world.send(*mails(9))
        assert [statuses(receipt)[0] for receipt in receipts].count(
            A
        ) == 2  # by DATA: the first, and the one sent again

    def test_a_refusal_for_good_is_the_servers_answer(self) -> None:
        world = Played({"a": [Play({"BDAT": "550 5.7.1 spam", "BDAT 1": "503 no"}, CHUNKING)]})
        receipts = world.send(*mails(3))
        assert [statuses(receipt) for receipt in receipts] == [[A], [R], [R]]

    def test_a_bare_end_leaves_it_in_doubt(self) -> None:
        world = Played({"a": [Play({"BDAT": CUT, "BDAT 1": "503 no"}, CHUNKING)]})
        receipts = world.send(*mails(2))
        assert receipts[1].in_doubt


class TestWhereConnectionsEnd:
    def test_two_that_ended_at_the_same_number_have_a_limit_for_an_hour(self) -> None:
        limited = Play({"MAIL": ["250 ok"] * 7 + ["421 4.7.0 too many messages"]}, EXTENSIONS)
        world = Played({"a": [limited] * 99, "b": [{}]}, window=8)
        receipts = world.send(*mails(40))
        assert [receipt.server for receipt in receipts] == ["a:25"] * 40
        mailed = [speaker.verbs.count("MAIL") for speaker in world.speakers["a"]]
        assert mailed[:2] == [8, 8]
        assert max(mailed[2:]) == 7
        world.now += AN_HOUR
        world.idle.clear()
        before = len(world.speakers["a"])
        world.send(*mails(10))
        assert world.speakers["a"][before].verbs.count("MAIL") == 8

    def test_the_first_message_is_no_number(self) -> None:
        world = Played({"a": [{"RCPT": ["421 4.7.0 no", "250 ok"]}] * 2 + [{}]})
        world.send(mail())
        world.send(mail())
        assert all(receipt.ok for receipt in world.send(*mails(5)))


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("place", ["MAIL", "RCPT"])
def test_a_server_that_does_not_read_groups_is_spoken_to_in_lock_step(place: str, window: int) -> None:
    """503 is the reply to a command that it lost: nobody is rejected by it, and it is remembered for an hour."""

    def lost(line: str) -> str:
        groups = [speaker for speaker in world.speakers["a"] if b"DATA" in speaker.received and len(speaker.verbs) < 4]
        return "503 5.5.1 need MAIL" if groups else "250 ok"

    world = Played({"a": [Play({place: lost}, EXTENSIONS)] * 9, "b": [{}]}, window=window)
    receipts = world.send(*mails(5))
    assert [receipt.server for receipt in receipts] == ["a:25"] * 5
    assert [statuses(receipt) for receipt in receipts] == [[A]] * 5
    assert len(world.speakers["a"]) == 2
    assert [name for name in world.names() if name.startswith("server_failed")] == []


def test_503_in_lock_step_too_is_an_answer() -> None:
    world = Played({"a": [Play({"MAIL": "503 5.5.1 log in first"}, EXTENSIONS)] * 9})
    [receipt] = world.send(mail())
    assert statuses(receipt) == [R]
    assert receipt.outcomes[0].reply is not None
    assert receipt.outcomes[0].reply.code == 503
