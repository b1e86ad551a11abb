"""Connections that end: who is charged, who goes again, and when it is the server that has failed (DESIGN 4.4)."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend.errors import ConnectionLost
from smtpbackend.testing import CUT, EXTENSIONS, RESET
from tests.delivery.played import Play, Played
from tests.delivery.test_dispatch import A, D, I, R, mail, statuses
from tests.delivery.test_window import CHUNKING, mails

GONE = "421 4.7.0 go away"


def failures(world: Played) -> list[str]:
    return [name for name in world.names() if name.startswith("server_failed")]


@pytest.mark.parametrize("window", [1, 8, 32])
@pytest.mark.parametrize("extensions", [EXTENSIONS, CHUNKING])
class TestBystanders:
    """What follows the reply that ends a connection was not read: it goes again, and no message pays for another."""

    def test_421_to_one_recipient(self, extensions: tuple[str, ...], window: int) -> None:
        """Tried once more, behind the others; then it is settled by that reply."""
        play = Play({f"RCPT TO:<u{number}@": (GONE, CUT) for number in range(7, 60, 10)}, extensions)
        world = Played({"a": [play]}, window=window)
        receipts = world.send(*mails(60))
        assert [statuses(receipt)[0] for receipt in receipts] == [D if n % 10 == 7 else A for n in range(60)]
        assert sorted(world.handed_over("a", refused=False)) == sorted((f"u{n}",) for n in range(60) if n % 10 != 7)
        for receipt in receipts[7::10]:
            assert str(receipt.outcomes[0].reply) == GONE
            assert receipt.outcomes[0].attempts == 2
            assert isinstance(receipt.error, ConnectionLost)
            assert receipt.error.reply == receipt.outcomes[0].reply
        assert {receipt.outcomes[0].attempts for receipt in receipts if receipt.ok} == {1}
        assert failures(world) == []

    def test_with_another_server_only_that_one_moves_on(self, extensions: tuple[str, ...], window: int) -> None:
        world = Played({"a": [Play({"RCPT TO:<u3@": (GONE, CUT)}, extensions)], "b": [{}]}, window=window)
        receipts = world.send(*mails(12))
        assert [receipt.server for receipt in receipts] == [f"{'b' if n == 3 else 'a'}:25" for n in range(12)]
        assert failures(world) == []

    @pytest.mark.parametrize("end", [CUT, RESET])
    def test_a_refused_rset_and_the_end(self, extensions: tuple[str, ...], window: int, end: Any) -> None:
        """Exim, after ten refused messages (smtp_accept_max_nonmail)."""
        answers = {"RCPT TO:<dead": "550 5.1.1 nobody", "RSET": ["250 ok"] * 10 + [("554 5.7.0 too many", end)]}
        world = Played({"a": [Play(answers, extensions)]}, window=window)
        names = ["dead" if number % 2 else "good" for number in range(60)]
        receipts = world.send(*(mail(name) for name in names))
        assert [statuses(receipt)[0] for receipt in receipts] == [A if name == "good" else R for name in names]
        assert len(world.handed_over("a", refused=False)) == 30
        assert failures(world) == []

    def test_recipients_of_one_message(self, extensions: tuple[str, ...], window: int) -> None:
        """Postfix ends a connection at the twentieth error: each one settles some, and earns the next."""
        names = [f"{'good' if number % 3 == 0 else 'dead'}{number}" for number in range(60)]

        def rcpt(line: str) -> Any:
            speaker = world.speakers["a"][-1]
            if "<good" in line:
                return "250 ok"
            errors = sum("<dead" in command for command in speaker.commands)
            return (GONE, CUT) if errors >= 20 else "550 5.1.1 nobody"

        world = Played({"a": [Play({"RCPT": rcpt}, extensions)]}, window=window)
        [receipt] = world.send(mail(*names))
        assert statuses(receipt) == [A if name.startswith("good") else R for name in names]
        [arrived] = world.handed_over("a", refused=False)
        assert sorted(arrived) == sorted(name for name in names if name.startswith("good"))
        assert failures(world) == []

    def test_a_run_of_dead_addresses(self, extensions: tuple[str, ...], window: int) -> None:
        """No connection gets more errors out of its server than it bears."""
        world = Played({"a": [Play({"RCPT TO:<dead": "550 5.1.1 nobody"}, extensions)]}, window=window)
        receipts = world.send(*(mail(f"dead{n}") for n in range(40)), *(mail(f"good{n}") for n in range(20)))
        assert [statuses(receipt)[0] for receipt in receipts] == [R] * 40 + [A] * 20
        for speaker in world.speakers["a"]:
            assert sum("<dead" in line for line in speaker.commands) <= 9
        assert len(world.speakers["a"]) <= 6

    def test_a_bare_end_leaves_in_doubt_what_was_handed_over(self, extensions: tuple[str, ...], window: int) -> None:
        """It does not say what was read."""
        world = Played({"a": [Play({"RCPT TO:<u4@": CUT}, extensions), Play(extensions=extensions)]}, window=window)
        receipts = world.send(*mails(12))
        in_doubt = sum(statuses(receipt) == [I] for receipt in receipts)
        assert in_doubt <= (8 if extensions is CHUNKING else 0)
        assert [statuses(receipt)[0] for receipt in receipts].count(A) == 12 - in_doubt


class TestWhenTheServerHasFailed:
    @pytest.mark.parametrize("window", [1, 8])
    def test_421_to_the_first_mail_of_a_fresh_connection(self, window: int) -> None:
        world = Played({"a": [{"MAIL": (GONE, CUT)}] * 9, "b": [{}]}, window=window)
        receipts = world.send(*mails(20))
        assert [receipt.server for receipt in receipts] == ["b:25"] * 20
        assert failures(world) == ["server_failed a mail"]
        assert len(world.speakers["a"]) == 1

    def test_without_another_server_all_have_its_reason(self) -> None:
        world = Played({"a": [{"MAIL": (GONE, CUT)}] * 9})
        receipts = world.send(*mails(5))
        assert [statuses(receipt) for receipt in receipts] == [[D]] * 5
        assert all("421 4.7.0 go away" in str(receipt.error) for receipt in receipts)
        assert len(world.speakers["a"]) == 1

    def test_three_connections_in_a_row_that_settled_nobody(self) -> None:
        world = Played({"a": [{"RCPT": (GONE, CUT)}] * 9, "b": [{}]}, window=4)
        receipts = world.send(*mails(20))
        assert [receipt.server for receipt in receipts] == ["b:25"] * 20
        assert failures(world) == ["server_failed a rcpt"]
        assert len(world.speakers["a"]) == 3

    def test_a_kept_connection_that_ends_is_not_the_servers_failure(self) -> None:
        world = Played({"a": [{"MAIL": ["250 ok", ("421 4.4.2 idle", CUT)]}, {}], "b": [{}]})
        for _ in range(2):
            assert world.send(mail())[0].server == "a:25"
        assert failures(world) == []


class TestTooManyConnections:
    """Said to MAIL or to the content; while another one of ours is open the mail waits for it."""

    SAID = ("432 4.3.2 Concurrent connections limit exceeded", "421 4.3.2 too many connections")

    @pytest.mark.parametrize("said", SAID)
    @pytest.mark.parametrize("place", ["MAIL", "."])
    def test_it_goes_again_uncharged(self, place: str, said: str) -> None:
        world = Played({"a": [{place: said}, {}], "b": [{}]})
        world.ours = 1
        [receipt] = world.send(mail())
        assert (receipt.ok, receipt.server) == (True, "a:25")
        assert failures(world) == []

    @pytest.mark.parametrize("said", SAID)
    @pytest.mark.parametrize("place", ["MAIL", "."])
    def test_without_another_of_ours_it_is_an_ordinary_failure(self, place: str, said: str) -> None:
        world = Played({"a": [{place: said}] * 9, "b": [{}]})
        [receipt] = world.send(mail())
        assert receipt.server == "b:25"

    def test_421_4_7_0_is_not_that(self) -> None:
        world = Played({"a": [{"MAIL": "421 4.7.0 try again later"}] * 9, "b": [{}]})
        world.ours = 1
        [receipt] = world.send(mail())
        assert receipt.server == "b:25"


def test_a_single_message_gives_its_connection_back_before_anybody_is_told() -> None:
    """A Listener that sends mail itself must not wait for the connection of its own send."""
    world = Played(
        {"a": [{"RCPT TO:<gone@": "550 5.1.1 nobody"}]}, listeners=[lambda event: out.append(len(world.out))]
    )
    out: list[int] = []
    world.send(mail("ann", "gone"))
    told = [name for name in world.names() if name != "message_sending"]
    assert told == ["recipient_rejected", "message_sent"]
    assert out[-2:] == [0, 0]
