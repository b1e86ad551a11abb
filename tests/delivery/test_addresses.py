"""Which addresses are tried, in which order and when, played on a clock of its own (RFC 8305)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from smtpbackend import Server
from smtpbackend.delivery import addresses
from smtpbackend.delivery.addresses import DELAY, LASTING, MAX_HOSTS, Begin, Use, Wait, each, forget, reach
from smtpbackend.errors import ConnectFailed, ConnectionRefused, ConnectTimedOut
from smtpbackend.protocol.timeouts import Deadline

IPV4, IPV6, UNIX = 2, 10, 1  # whatever numbers they have here

REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
NO_FAMILY = OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
FULL = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """Each test begins and ends without what another learnt."""
    addresses.remembered.clear()
    yield
    addresses.remembered.clear()


def at(*hosts: str) -> list[Any]:
    """What ``getaddrinfo`` says of these."""
    return [
        (UNIX, 1, 0, "", host)
        if host.startswith("/")
        else (IPV6, 1, 6, "", (host, 25, 0, 0))
        if ":" in host
        else (IPV4, 1, 6, "", (host, 25))
        for host in hosts
    ]


class World:
    """Addresses as they are: each is ``(seconds, error or None)`` after which its connection has ended; none: never.

    ``at_once`` are errors of the attempt itself, a list is for one time each; ``unready`` are those of what comes
    behind the connection, with the seconds that they take.
    """

    def __init__(
        self,
        ends: dict[str, Any] | None = None,
        at_once: dict[str, Any] | None = None,
        unready: dict[str, tuple[float, OSError]] | None = None,
    ) -> None:
        self.now = 1000.0
        self.ends = ends or {}
        self.at_once = at_once or {}
        self.unready = unready or {}
        self.begun: list[tuple[float, str]] = []
        self.waits = 0
        self.open: set[str] = set()

    def dial(self, *hosts: str, deadline: float | None = None, host: str = "mx.example.com", **settings: Any) -> str:
        """The address that a server of this name is connected to in the end."""
        start = self.now
        self.begun, self.waits, self.open = [], 0, set()
        server = Server(host, 25, tls="none", **settings)
        until = None if deadline is None else Deadline.after(deadline, start)
        race = reach(server, at(*hosts), lambda: self.now, until)
        due: dict[Any, tuple[float, OSError | None]] = {}
        answer: Any = None
        while True:
            step = race.send(answer)
            name = step.info[4] if isinstance(step, (Begin, Use)) else ""
            name = name if isinstance(name, str) else name[0]
            if isinstance(step, Begin):
                self.begun.append((round(self.now - start, 3), name))
                answer = self.at_once.get(name)
                if isinstance(answer, list):
                    answer = answer.pop(0) if answer else None
                if answer is None:
                    assert name not in self.open
                    self.open.add(name)
                    after, error = self.ends.get(name, (float("inf"), None))
                    due[step.info] = self.now + after, error
            elif isinstance(step, Wait):
                self.waits += 1
                assert self.waits < 1000, "it goes on and on"
                first = min((when for when, _ in due.values()), default=float("inf"))
                self.now = max(self.now, min(first, step.until))
                answer = {info: error for info, (when, error) in due.items() if when <= self.now}
                for info, error in answer.items():
                    del due[info]
                    if error is not None:
                        self.open.remove(info[4][0])
            else:
                assert isinstance(step, Use)
                if name not in self.unready:
                    race.close()
                    return str(name)
                seconds, answer = self.unready[name]
                self.now = min(self.now + seconds, step.until)
                self.open.remove(name)


OK = (0.02, None)


class TestOneAddress:
    def test_it_is_begun_waited_for_once_and_used(self) -> None:
        world = World({"192.0.2.1": OK})
        assert world.dial("192.0.2.1") == "192.0.2.1"
        assert (world.begun, world.waits) == ([(0.0, "192.0.2.1")], 1)

    def test_it_has_the_whole_time_of_a_connection(self) -> None:
        assert World({"192.0.2.1": (4.9, None)}).dial("192.0.2.1", timeout={"connect": 5}) == "192.0.2.1"
        with pytest.raises(ConnectTimedOut, match=r"192\.0\.2\.1: no answer in time"):
            World({"192.0.2.1": (5.1, None)}).dial("192.0.2.1", timeout={"connect": 5})

    def test_nothing_is_remembered_of_it(self) -> None:
        World({"192.0.2.1": OK}).dial("192.0.2.1")
        assert not addresses.remembered


class TestOverlapping:
    def test_the_next_is_begun_while_the_first_is_silent(self) -> None:
        world = World({"192.0.2.2": OK})
        assert world.dial("192.0.2.1", "192.0.2.2", "192.0.2.3") == "192.0.2.2"
        assert world.begun == [(0.0, "192.0.2.1"), (DELAY, "192.0.2.2")]

    def test_the_first_that_connects_wins_whichever_was_begun_first(self) -> None:
        world = World({"192.0.2.1": (0.6, None), "192.0.2.2": (9.0, None), "192.0.2.3": (0.05, None)})
        assert world.dial("192.0.2.1", "192.0.2.2", "192.0.2.3") == "192.0.2.3"
        world = World({"192.0.2.1": (0.6, None), "192.0.2.2": (9.0, None), "192.0.2.3": (0.5, None)})
        assert world.dial("192.0.2.1", "192.0.2.2", "192.0.2.3") == "192.0.2.1"

    def test_a_refusal_lets_the_next_begin_at_once(self) -> None:
        world = World({"192.0.2.1": (0.01, REFUSED), "192.0.2.3": OK}, at_once={"192.0.2.2": NO_FAMILY})
        assert world.dial("192.0.2.1", "192.0.2.2", "192.0.2.3") == "192.0.2.3"
        assert world.begun == [(0.0, "192.0.2.1"), (0.01, "192.0.2.2"), (0.01, "192.0.2.3")]

    def test_families_take_turns(self) -> None:
        """RFC 8305 4: a way that leads nowhere for one family costs one delay, not one for each of its addresses."""
        world = World({"192.0.2.1": OK})
        assert world.dial("2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2") == "192.0.2.1"
        assert world.begun == [(0.0, "2001:db8::1"), (DELAY, "192.0.2.1")]

    def test_an_address_that_is_named_twice_is_tried_once(self) -> None:
        world = World({"192.0.2.1": (0.01, REFUSED)})
        with pytest.raises(ConnectFailed):
            world.dial("192.0.2.1", "192.0.2.1")
        assert len(world.begun) == 1

    @pytest.mark.parametrize("count", [2, 15, 40])
    @pytest.mark.parametrize("patience", [0.1, 1.0, 5.0])
    def test_each_has_the_whole_time_of_a_connection(self, count: int, patience: float) -> None:
        """Whoever is reached with one time-out for each address, as smtplib has it, is reached here, and sooner."""
        hosts = [f"192.0.2.{number}" for number in range(count)]
        world = World({hosts[-1]: (patience * 0.95, None)})
        assert world.dial(*hosts, timeout={"connect": patience}) == hosts[-1]
        assert len(world.begun) == count
        assert world.now - 1000 <= min(DELAY, patience) * (count - 1) + patience

    def test_silence_of_all_costs_one_time_out_and_the_delays(self) -> None:
        hosts = [f"192.0.2.{number}" for number in range(5)]
        world = World()
        with pytest.raises(ConnectFailed) as caught:
            world.dial(*hosts, timeout={"connect": 5})
        assert world.now == pytest.approx(1000 + 4 * DELAY + 5)
        assert all(f"{host}: no answer in time" in str(caught.value) for host in hosts)

    def test_what_answers_late_wins_while_others_still_have_time(self) -> None:
        hosts = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
        assert World({"192.0.2.1": (1.2, None)}).dial(*hosts, timeout={"connect": 1}) == "192.0.2.1"

    @pytest.mark.parametrize(("last", "kind"), [(REFUSED, ConnectionRefused), (NO_FAMILY, ConnectFailed)])
    def test_the_class_is_that_of_the_last_address(self, last: OSError, kind: type[ConnectFailed]) -> None:
        """As with socket.create_connection, which smtplib calls."""
        with pytest.raises(ConnectFailed) as caught:
            World({"192.0.2.2": (0.01, last)}).dial("192.0.2.1", "192.0.2.2", timeout={"connect": 1})
        assert type(caught.value) is kind

    def test_each_reason_is_told_in_the_order_of_the_attempts(self) -> None:
        world = World({"192.0.2.1": (0.3, REFUSED)}, at_once={"2001:db8::1": NO_FAMILY})
        with pytest.raises(ConnectFailed) as caught:
            world.dial("2001:db8::1", "192.0.2.1", "192.0.2.2", timeout={"connect": 1})
        assert (
            "(2001:db8::1: Address family not supported by protocol; 192.0.2.1: Connection refused; "
            "192.0.2.2: no answer in time)" in str(caught.value)
        )
        assert caught.value.__cause__ is not None


class TestDeadline:
    def test_it_ends_all_and_is_named(self) -> None:
        world = World()
        with pytest.raises(ConnectFailed) as caught:
            world.dial("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", deadline=0.6)
        assert world.now == pytest.approx(1000.6)
        assert "192.0.2.3: no answer in time; 192.0.2.4: not tried in time" in str(caught.value)
        assert "the deadline of 0.6 s passed" in str(caught.value)

    def test_it_is_not_blamed_for_a_time_out_or_a_refusal(self) -> None:
        for world in (World(), World({"192.0.2.1": (0.01, REFUSED)}), World(at_once={"192.0.2.1": NO_FAMILY})):
            with pytest.raises(ConnectFailed) as caught:
                world.dial("192.0.2.1", deadline=60)
            assert "deadline" not in str(caught.value)

    def test_it_is_named_where_it_ended_what_comes_behind_the_connection(self) -> None:
        world = World({"192.0.2.1": OK}, unready={"192.0.2.1": (99.0, TimeoutError())})
        with pytest.raises(ConnectFailed, match=r"no answer in time\); the deadline of 2 s passed"):
            world.dial("192.0.2.1", deadline=2)

    def test_one_that_has_passed_begins_nothing(self) -> None:
        world = World({"192.0.2.1": OK})
        with pytest.raises(ConnectFailed, match="not tried in time"):
            world.dial("192.0.2.1", deadline=0.0)
        assert world.begun == []


class TestWhatComesBehindTheConnection:
    def test_a_proxy_that_refuses_counts_against_its_address(self) -> None:
        """The others are under way meanwhile: the next that is connected is used."""
        refusal = (0.1, ConnectionError("proxy: no"))
        world = World({"192.0.2.1": (0.3, None), "192.0.2.2": (0.05, None)}, unready={"192.0.2.1": refusal})
        assert world.dial("192.0.2.1", "192.0.2.2") == "192.0.2.2"
        world = World({"192.0.2.1": (0.3, None), "192.0.2.2": (0.05, None)}, unready={"192.0.2.2": refusal})
        assert world.dial("192.0.2.1", "192.0.2.2") == "192.0.2.1"

    def test_two_that_are_connected_at_once_are_used_in_turn(self) -> None:
        ends = {"192.0.2.1": (0.3, None), "192.0.2.2": (0.05, None)}
        world = World(ends, unready={"192.0.2.1": (0, ConnectionError("no"))})
        assert world.dial("192.0.2.1", "192.0.2.2") == "192.0.2.2"

    def test_what_is_connected_when_a_proxy_has_used_up_the_time_is_used(self) -> None:
        ends = {"192.0.2.1": OK, "192.0.2.2": OK}
        world = World(ends, unready={"192.0.2.1": (99.0, TimeoutError())})
        assert world.dial("192.0.2.1", "192.0.2.2", timeout={"connect": 1}) == "192.0.2.2"

    def test_all_refusals_are_told(self) -> None:
        refusal = (0.1, ConnectionError("proxy: no"))
        world = World({"192.0.2.1": OK, "192.0.2.2": OK}, unready=dict.fromkeys(("192.0.2.1", "192.0.2.2"), refusal))
        with pytest.raises(ConnectFailed, match=r"192\.0\.2\.1: proxy: no; 192\.0\.2\.2: proxy: no"):
            world.dial("192.0.2.1", "192.0.2.2")


class TestUnixSockets:
    def test_one_whose_backlog_is_full_is_asked_again(self) -> None:
        """A connect that waits is not begun there: the kernel only says "not now"."""
        world = World({"/run/mail": OK}, at_once={"/run/mail": [FULL, FULL]})
        assert world.dial("/run/mail") == "/run/mail"
        assert len(world.begun) == 3

    def test_until_its_time_is_up(self) -> None:
        world = World(at_once={"/run/mail": FULL})
        with pytest.raises(ConnectFailed, match=r"/run/mail: \w+"):
            world.dial("/run/mail", timeout={"connect": 1})
        assert 1 < len(world.begun) < 10
        assert world.now - 1000 <= 1 + DELAY


class TestTheOneThatWorked:
    HOSTS = ("192.0.2.1", "192.0.2.2", "192.0.2.3")

    def test_it_is_first_the_next_time(self) -> None:
        world = World({"192.0.2.3": OK})
        for first in ("192.0.2.1", "192.0.2.3"):
            assert world.dial(*self.HOSTS) == "192.0.2.3"
            assert world.begun[0] == (0.0, first)
        assert world.waits == 1

    def test_another_server_has_its_own(self) -> None:
        world = World({"192.0.2.3": OK})
        world.dial(*self.HOSTS)
        world.dial(*self.HOSTS, host="other.example.com")
        assert world.begun[0] == (0.0, "192.0.2.1")

    def test_it_is_forgotten_when_it_fails(self) -> None:
        world = World({"192.0.2.3": OK})
        world.dial(*self.HOSTS)
        world.ends = {"192.0.2.2": OK}
        world.dial(*self.HOSTS)
        assert [host for _, host in world.begun] == ["192.0.2.3", "192.0.2.1", "192.0.2.2"]
        world.dial(*self.HOSTS)
        assert [host for _, host in world.begun] == ["192.0.2.2"]
        world.ends = {"192.0.2.2": (0.01, REFUSED)}
        with pytest.raises(ConnectFailed):
            world.dial(*self.HOSTS)
        assert not addresses.remembered

    def test_it_is_forgotten_when_all_are_silent(self) -> None:
        world = World({"192.0.2.3": OK})
        world.dial(*self.HOSTS)
        world.ends = {}
        with pytest.raises(ConnectFailed):
            world.dial(*self.HOSTS)
        assert not addresses.remembered

    def test_it_is_forgotten_when_what_answers_there_is_unwell(self) -> None:
        world = World({"192.0.2.3": OK})
        world.dial(*self.HOSTS)
        forget(Server("mx.example.com", 25, tls="none"))
        world.dial(*self.HOSTS)
        assert world.begun[0] == (0.0, "192.0.2.1")

    def test_a_proxy_that_refuses_is_not_remembered(self) -> None:
        world = World(dict.fromkeys(self.HOSTS, OK), unready=dict.fromkeys(self.HOSTS, (0, ConnectionError("no"))))
        with pytest.raises(ConnectFailed):
            world.dial(*self.HOSTS)
        assert not addresses.remembered

    def test_the_systems_order_is_tried_again_after_a_while_however_often_it_works(self) -> None:
        world = World({"192.0.2.3": OK})
        world.dial(*self.HOSTS)
        begin = world.now
        for at in (0.3, 0.6, 0.9):
            world.now = begin + LASTING * at
            world.dial(*self.HOSTS)
            assert world.begun[0] == (0.0, "192.0.2.3")
        world.now = begin + LASTING + 1
        world.dial(*self.HOSTS)
        assert world.begun[0] == (0.0, "192.0.2.1")

    def test_one_that_is_not_among_the_addresses_any_more_is_not_tried(self) -> None:
        world = World(dict.fromkeys(self.HOSTS, OK))
        world.dial("192.0.2.2", "192.0.2.3")
        world.dial("192.0.2.1", "192.0.2.3")
        assert [host for _, host in world.begun] == ["192.0.2.1"]

    def test_what_is_remembered_is_bounded(self) -> None:
        world = World(dict.fromkeys(self.HOSTS, OK))
        for number in range(2 * MAX_HOSTS):
            world.dial(*self.HOSTS, host=f"mx{number}.example.com")
            assert len(addresses.remembered) <= MAX_HOSTS


def test_each_is_tried_at_once_and_those_that_do_not_connect_are_told() -> None:
    """All of them have the same time, however many are silent."""
    good, refused, no_family, silent, other = infos = at("1.1.1.1", "2.2.2.2", "::1", "3.3.3.3", "4.4.4.4")
    now = 1000.0
    steps = each(infos, 10.0, lambda: now)
    assert next(steps) == Begin(good)
    assert [steps.send(None), steps.send(None), steps.send(NO_FAMILY), steps.send(None)] == [
        Begin(info) for info in (refused, no_family, silent, other)
    ]
    assert steps.send(None) == Wait(1010.0)
    now = 1001.0
    assert steps.send({good: None}) == Wait(1010.0)
    assert steps.send({refused: REFUSED}) == Wait(1010.0)
    now = 1010.0
    with pytest.raises(StopIteration) as ended:
        steps.send({})
    causes = ended.value.value
    assert list(causes) == [no_family, refused, silent, other]
    assert causes[refused] is REFUSED
    assert [str(causes[info]) for info in (silent, other)] == ["no answer in time"] * 2
