"""When an entry is tried, in which order, and what the receipts of real deliveries mean for it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpbackend import CancelSend, Envelope, InvalidSetting, Mailer, Receipt
from smtpbackend.adapters import Parcel
from smtpbackend.outbox import State, schedule
from smtpbackend.outbox.schedule import (
    FIRST_OF_GROUP,
    LANES,
    SUSPECTS,
    Turns,
    backoff,
    deferred,
    is_of_mailer,
    lane_of,
    rest_after,
    verdict_on,
)
from smtpbackend.testing import CUT, EXTENSIONS, SILENCE, Play, ScriptedServer
from tests.servers.ports import free_ports

CHANCES = st.floats(0, 1)
HIGH, NORMAL, LOW = range(3)


class TestTimes:
    @given(st.integers(1, 10_000), CHANCES)
    def test_a_try_follows_within_a_minute_to_four_hours(self, tries: int, chance: float) -> None:
        assert 60 <= backoff(tries, chance) <= 4 * 3600

    @given(st.integers(1, 100), CHANCES)
    def test_each_takes_at_least_as_long_as_the_one_before(self, tries: int, chance: float) -> None:
        assert backoff(tries + 1, chance) >= backoff(tries, chance)

    @given(st.integers(1, 100), CHANCES, CHANCES)
    def test_what_was_deferred_together_does_not_come_back_together(self, tries: int, one: float, other: float) -> None:
        if abs(one - other) > 0.01:
            assert backoff(tries, one) != backoff(tries, other)

    def test_three_days_are_some_thirty_tries(self) -> None:
        def tries(chance: float) -> int:
            waited, count = 0.0, 0
            while waited < 3 * 86400:
                count += 1
                waited += backoff(count, chance)
            return count

        assert (tries(1.0), tries(0.0)) == (25, 34)

    def test_a_rest_doubles_to_a_minute(self) -> None:
        rests = [0.0]
        for _ in range(6):
            rests.append(rest_after(rests[-1]))
        assert rests[1:] == [5, 10, 20, 40, 60, 60]

    def test_three_hours_are_few_rests(self) -> None:
        """A mailer that is down is asked once a rest, by all workers together."""
        waited = rest = 0.0
        tries = 0
        while waited < 3 * 3600:
            rest = rest_after(rest)
            waited += rest
            tries += 1
        assert tries < 250


class Queue:
    """What is due in each lane, as a claim sees it: lane to how many, or None without end."""

    def __init__(self, due: Mapping[int, int | None]) -> None:
        self.due = dict(due)
        self.turns = Turns()
        self.given: Counter[int] = Counter()

    def claim(self, count: int) -> list[int]:
        """As the statement does: each lane gives as many as it may, until there are enough."""
        left = {lane: count if due is None else due for lane, due in self.due.items()}
        claimed: list[int] = []
        for lane, most in self.turns.branches(count):
            many = min(most, left.get(lane, 0), count - len(claimed))
            claimed += [lane] * many
            if lane in left:
                left[lane] -= many
        for lane in claimed:
            due = self.due[lane]
            self.due[lane] = None if due is None else due - 1
        self.turns.note(claimed)
        self.given.update(claimed)
        return claimed

    def of(self, priority: int) -> int:
        return sum(many for lane, many in self.given.items() if lane // 3 == priority)


class TestLanes:
    def test_the_first_of_a_group_go_with_single_mails(self) -> None:
        assert len({lane_of(NORMAL, place) for place in range(FIRST_OF_GROUP)}) == 1
        assert lane_of(NORMAL, FIRST_OF_GROUP) == lane_of(NORMAL, 100_000) != lane_of(NORMAL, 0)

    def test_each_lane_has_one_meaning(self) -> None:
        lanes = [lane for p in range(3) for lane in (lane_of(p, 0), lane_of(p, FIRST_OF_GROUP), deferred(p))]
        assert lanes == list(range(9))
        assert SUSPECTS == 9 == LANES - 1


class TestTurns:
    def test_every_lane_has_its_turn(self) -> None:
        turns = Turns()
        for count in (1, 32):
            assert sorted(lane for lane, _ in turns.branches(count)) == list(range(9))

    @pytest.mark.parametrize("window", [1, 2, 8, 10, 32, 100])
    @pytest.mark.parametrize("lanes_of_low", [1, 3])
    def test_endless_high_leaves_low_a_tenth(self, window: int, lanes_of_low: int) -> None:
        low = {6 + lane: None for lane in range(lanes_of_low)}
        queue = Queue({lane_of(HIGH, 0): None, **low})
        for _ in range(1000):
            assert len(queue.claim(window)) == window
        assert 0.09 < queue.of(LOW) / (1000 * window) < 0.11

    @pytest.mark.parametrize("window", [1, 8, 32])
    def test_each_lower_priority_has_its_tenth(self, window: int) -> None:
        queue = Queue(dict.fromkeys(range(9)))
        for _ in range(1000):
            queue.claim(window)
        for priority in (NORMAL, LOW):
            assert 0.09 < queue.of(priority) / (1000 * window) < 0.11

    def test_where_there_is_nothing_no_debt_grows(self) -> None:
        """Low mail that comes after a long time of high mail takes no more than its tenth."""
        queue = Queue({lane_of(HIGH, 0): None})
        for _ in range(1000):
            queue.claim(32)
        queue.due[lane_of(LOW, 0)] = None
        for _ in range(10):
            queue.claim(32)
        assert queue.of(LOW) <= 40

    def test_high_goes_first(self) -> None:
        queue = Queue({lane_of(HIGH, 0): 20, lane_of(NORMAL, 0): None, lane_of(LOW, 0): None})
        assert Counter(queue.claim(32)) == {lane_of(HIGH, 0): 20, lane_of(NORMAL, 0): 12}

    def test_a_single_mail_waits_for_one_claim_at_most(self) -> None:
        """Whatever there is of a newsletter, and of what was deferred."""
        for before in range(4):
            queue = Queue({lane_of(NORMAL, FIRST_OF_GROUP): None, deferred(NORMAL): None})
            for _ in range(before):
                queue.claim(32)
            queue.due[lane_of(NORMAL, 0)] = 1
            queue.claim(32)
            queue.claim(32)
            assert queue.due[lane_of(NORMAL, 0)] == 0

    def test_neither_the_rest_of_a_group_nor_what_was_deferred_starves(self) -> None:
        queue = Queue(dict.fromkeys((3, 4, 5)))
        for _ in range(1000):
            queue.claim(32)
        for lane in (lane_of(NORMAL, 0), lane_of(NORMAL, FIRST_OF_GROUP), deferred(NORMAL)):
            assert queue.given[lane] >= 0.2 * 32_000


# Receipts of real deliveries

LOGIN = (*EXTENSIONS, "AUTH PLAIN")
Deliver = Callable[..., Receipt]


@pytest.fixture
def deliver() -> Iterator[Deliver]:
    """What becomes of one message at servers that play this: `deliver({"MAIL": "451 later"}, to=[...])`."""
    with ExitStack() as stack:

        def deliver(
            *plays: Play | Mapping[str, Any] | int,
            to: tuple[str, ...] = ("ann@example.com",),
            envelope: Mapping[str, Any] = {},
            listener: Callable[[Any], None] | None = None,
            **options: Any,
        ) -> Receipt:
            urls = [
                f"smtp://127.0.0.1:{play}?tls=none"
                if isinstance(play, int)
                else stack.enter_context(ScriptedServer(play)).url
                for play in plays
            ]
            mailer = stack.enter_context(Mailer(servers=urls, **{"rest": 0, **options}))
            parcel = Parcel(Envelope("shop@example.com", list(to), **envelope), b"From: shop@example.com\r\n\r\nT\r\n")
            listeners = [listener] if listener is not None else []
            ((_, receipt),) = mailer.deliver([1], prepare=lambda _: parcel, listeners=listeners)
            assert receipt is not None
            return receipt

        yield deliver


def states(receipt: Receipt, doubts: int = 0, retry_in_doubt: int = 2) -> list[str]:
    return [verdict_on(outcome, doubts, retry_in_doubt).state.value for outcome in receipt.outcomes]


class TestOfTheMailer:
    """What every other entry would meet as well is charged to the mailer, and no entry is."""

    @pytest.mark.parametrize(
        "play",
        [
            {"": "421 4.3.2 busy"},
            {"": "554 5.7.1 go away"},
            {"": CUT},
            {"EHLO": "550 no", "HELO": "550 no"},
            {"EHLO": "421 bye"},
            {"MAIL": CUT},
            {"MAIL": "530 5.7.0 Authentication required"},
            {"MAIL": "530 Must issue a STARTTLS command first"},
            {"MAIL": "535 5.7.8 Bad login"},
            {"MAIL": "550 5.7.0 Log in"},
            {"MAIL": "550 5.4.5 Daily user sending quota exceeded"},
            {"RCPT": "550 5.4.5 Daily user sending quota exceeded"},
            {"RCPT": "452 4.4.5 Later"},
            {"RCPT": "550 Daily SMTP relay limit exceeded for user."},
            {"DATA": "550 5.4.5 Quota"},
            {".": "550 5.4.5 Quota"},
            {".": "454 Throttling failure: Maximum sending rate exceeded."},
            {".": "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException"},
        ],
        ids=str,
    )
    def test_replies(self, deliver: Deliver, play: dict[str, Any]) -> None:
        receipt = deliver(play)
        assert is_of_mailer(receipt)
        assert set(states(receipt)) == {"pending"}, "also if it were recorded"

    @pytest.mark.parametrize("reply", ["535 5.7.8 Bad", "530 5.7.0 TLS first", "454 4.7.0 Later", "421 Bye"])
    def test_a_login_that_fails(self, deliver: Deliver, reply: str) -> None:
        receipt = deliver(Play({"AUTH": reply}, extensions=LOGIN), username="ann", password="secret")
        assert is_of_mailer(receipt)
        assert states(receipt) == ["pending"]

    def test_a_login_that_is_not_offered(self, deliver: Deliver) -> None:
        assert is_of_mailer(deliver(Play(), username="ann", password="secret"))

    def test_nobody_listens(self, deliver: Deliver) -> None:
        (port,) = free_ports(1)
        assert is_of_mailer(deliver(port))
        assert is_of_mailer(deliver({"": "421 busy"}, port))

    @pytest.mark.parametrize("starttls", ["454 TLS not available", "502 no"])
    def test_no_tls(self, smtp_server: Callable[..., ScriptedServer], starttls: str) -> None:
        server = smtp_server(Play({"STARTTLS": starttls}, extensions=(*EXTENSIONS, "STARTTLS")))
        url = server.url.replace("tls=none", "tls=required")
        envelope = Envelope("shop@example.com", ["ann@example.com"])
        with Mailer(servers=[url], rest=0) as mailer:
            ((_, receipt),) = mailer.deliver([1], prepare=lambda _: Parcel(envelope, b"Subject: S\r\n\r\nT\r\n"))
        assert is_of_mailer(receipt)

    def test_no_time_for_a_connection(self, deliver: Deliver) -> None:
        assert is_of_mailer(deliver({"": SILENCE}, deadline=0.2))
        assert is_of_mailer(deliver({"MAIL": SILENCE}, deadline=0.2))

    def test_who_was_left_out_here_changes_nothing(self, deliver: Deliver) -> None:
        to = ("ann@example.com", "bob@example.org")
        receipt = deliver({"": "421 busy"}, to=to, only_to=["example.com"])
        assert is_of_mailer(receipt)
        assert states(receipt) == ["pending", "rejected"]

    def test_wrong_settings_make_no_mailer(self) -> None:
        """So a worker has none, and every entry waits."""
        with pytest.raises(InvalidSetting, match="dkim"):
            Mailer(
                servers=["smtp://localhost?tls=none"],
                dkim={"domain": "example.com", "selector": "s", "key": "/nowhere/key.pem"},
            )


class TestOfTheEntry:
    @pytest.mark.parametrize(
        ("play", "state"),
        [
            ({"MAIL": "451 4.7.1 Greylisted"}, "pending"),
            ({"MAIL": "550 5.1.8 No such sender"}, "rejected"),
            ({"MAIL": "553 5.7.1 Not your address"}, "rejected"),
            ({"MAIL": "421 4.7.0 Bye"}, "pending"),
            ({"RCPT": "450 4.2.1 Later"}, "pending"),
            ({"RCPT": "550 5.1.1 Nobody"}, "rejected"),
            ({"RCPT": "550 5.7.0 Relay access denied"}, "rejected"),
            ({"RCPT": "552 5.2.2 Mailbox full: quota exceeded"}, "rejected"),
            ({"RCPT": CUT}, "pending"),
            ({"DATA": "451 Later"}, "pending"),
            ({"DATA": CUT}, "pending"),
            ({".": "451 4.3.0 Later"}, "pending"),
            ({".": "421 4.4.2 Bye"}, "pending"),
            ({".": "554 5.7.1 Spam"}, "rejected"),
            ({".": "552 5.3.4 Too big"}, "rejected"),
            ({".": CUT}, "pending"),
        ],
        ids=str,
    )
    def test_replies(self, deliver: Deliver, play: dict[str, Any], state: str) -> None:
        receipt = deliver(play)
        assert not is_of_mailer(receipt)
        assert states(receipt) == [state]

    def test_accepted(self, deliver: Deliver) -> None:
        receipt = deliver({})
        assert not is_of_mailer(receipt)
        assert states(receipt) == ["accepted"]

    def test_in_doubt_so_often_as_it_may_be(self, deliver: Deliver) -> None:
        receipt = deliver({".": CUT})
        assert [states(receipt, doubts)[0] for doubts in range(4)] == ["pending", "pending", "in_doubt", "in_doubt"]
        assert states(receipt, 0, 0) == ["in_doubt"]
        assert verdict_on(receipt.outcomes[0], 0, 2).is_doubtful

    def test_no_time_once_mail_was_answered(self, deliver: Deliver) -> None:
        receipt = deliver(Play({"RCPT": SILENCE}, extensions=()), deadline=3)
        assert not is_of_mailer(receipt)
        assert states(receipt) == ["pending"]

    def test_each_recipient_has_its_own(self, deliver: Deliver) -> None:
        to = tuple(f"{name}@example.com" for name in ("ann", "bob", "cid"))
        play = {"RCPT TO:<bob@example.com": "450 later", "RCPT TO:<cid@example.com": "550 5.1.1 nobody"}
        receipt = deliver(play, to=to)
        assert not is_of_mailer(receipt)
        assert states(receipt) == ["accepted", "pending", "rejected"]

    def test_a_quota_amid_the_recipients_rejects_nobody(self, deliver: Deliver) -> None:
        """What the account may send was used up with the first: the others are owed it."""
        to = tuple(f"{name}@example.com" for name in ("ann", "bob", "cid"))
        quota = "550 5.4.5 Daily user sending quota exceeded"
        receipt = deliver({"RCPT TO:<bob@example.com": quota, "RCPT TO:<cid@example.com": "550 5.1.1 nobody"}, to=to)
        assert not is_of_mailer(receipt)
        assert states(receipt) == ["accepted", "pending", "rejected"]

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_server_that_cannot_take_this_one_message(self, deliver: Deliver, order: int) -> None:
        """Beside another that is down: other mail goes by the first. Neither order of the two blames the mailer."""
        plays = (Play(extensions=("PIPELINING",)), Play({"": "554 down"}))[::order]
        receipt = deliver(*plays, to=("änne@example.com",))
        assert not is_of_mailer(receipt)
        assert states(receipt) == ["pending"]

    def test_what_no_server_can_take(self, deliver: Deliver) -> None:
        plain = Play(extensions=("PIPELINING",))
        for plays in ((plain,), (plain, plain)):
            receipt = deliver(*plays, to=("änne@example.com",))
            assert not is_of_mailer(receipt)
            assert states(receipt) == ["failed"]
        assert states(deliver(Play(extensions=("SIZE 10",)))) == ["failed"]
        assert states(deliver({}, envelope={"require_tls": True})) == ["failed"]

    def test_what_one_of_two_servers_can_take(self, deliver: Deliver) -> None:
        receipt = deliver(Play(extensions=("PIPELINING",)), Play(), to=("änne@example.com",))
        assert states(receipt) == ["accepted"]

    def test_a_receiver_cancels(self, deliver: Deliver) -> None:
        def cancel(event: Any) -> None:
            if event.name == "message_sending":
                raise CancelSend("not wanted")

        receipt = deliver({"": "421 busy"}, listener=cancel)
        assert not is_of_mailer(receipt)
        assert states(receipt) == ["cancelled"]

    def test_what_is_told_of_a_try(self, deliver: Deliver) -> None:
        receipt = deliver({"RCPT": "450 4.2.1 Later"})
        verdict = verdict_on(receipt.outcomes[0], 0, 2)
        assert (verdict.state, verdict.is_doubtful) == (State.PENDING, False)
        assert verdict.reply is not None
        assert verdict.reply.code == 450
        assert verdict.server == receipt.outcomes[0].server


def test_no_clock_and_no_chance() -> None:
    """Times and chance are arguments."""
    source = inspect.getsource(schedule)
    assert "import time" not in source
    assert "import random" not in source
