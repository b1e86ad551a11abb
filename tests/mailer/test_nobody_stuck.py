"""Whatever a server does or leaves undone, every send has its end, and nobody waits for another's (DESIGN 4.10)."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest

from smtpbackend import Envelope, Message, Receipt, Server, Status
from smtpbackend.errors import ConnectFailed, DeliveryError, InDoubt, SMTPError, TimedOut, TLSFailed
from smtpbackend.testing import CUT, DEAF, SILENCE, Play, ScriptedServer, drip
from tests.mailer.conftest import Scripted
from tests.mailer.leftovers import Leftovers, taken
from tests.mailer.twins import PATIENCE, Driven, Twin, hello
from tests.servers.ports import free_ports
from tests.servers.relay import Relay
from tests.servers.tls import Certificates
from tests.telling import names

SHORT = 0.5  # seconds: a busy machine stands still for a quarter of one
LONG = 60.0
LIMITLESS = ("PIPELINING", "8BITMIME")  # no SIZE
FIFTY = 50

Bounds = dict[str, float]
bounds = pytest.mark.parametrize("bounds", [{"timeout": SHORT}, {"timeout": LONG, "deadline": SHORT}], ids=" ".join)
HOW = {"says nothing": SILENCE, "drips": drip("250-"), "reads nothing": DEAF}


@pytest.fixture
def relayed() -> Iterator[Callable[[ScriptedServer], Relay]]:
    """Start a relay in front of a server, which stops with the test."""
    with ExitStack() as relays:
        yield lambda server: relays.enter_context(Relay(server.port))


@pytest.fixture
def accepted_by_nobody() -> Iterator[int]:
    """A port where the kernel accepts, and nobody else ever does."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Looking up names that begin with "hangs" takes for ever; the list has those that are still looked up."""
    asked: list[str] = []
    over = threading.Event()
    ask = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if not str(host).startswith("hangs"):
            return ask(host, *args, **options)
        asked.append(str(host))
        over.wait(PATIENCE)
        asked.remove(str(host))
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    over.set()


def failure(mailer: Driven, message: Any = None, **options: Any) -> SMTPError:
    """What a send that has its end ends with."""
    begun = time.monotonic()
    with pytest.raises(SMTPError) as caught:
        mailer.send(message or hello(), **options)
    assert time.monotonic() - begun < PATIENCE
    return caught.value


def failures(mailers: Mapping[str, Driven]) -> dict[str, Any]:
    """What sends end with that begin together, one by each of these mailers."""
    begun = {case: mailer.begin([hello()]) for case, mailer in mailers.items()}
    for case, sending in begun.items():
        assert sending.wait(), f"{case}: it does not end"
    return {case: sending.results[0] for case, sending in begun.items()}


def statuses(error: Any) -> list[Status]:
    return [outcome.status for outcome in error.receipt.outcomes]


class TestOneSend:
    """One server, one message: it ends within the time-outs, and within the deadline where they are long."""

    @bounds
    @pytest.mark.parametrize("extensions", [(), ("PIPELINING",)], ids=["lock step", "pipelining"])
    def test_before_hand_over(
        self, twin: Twin, scripted: Scripted, bounds: Bounds, extensions: tuple[str, ...]
    ) -> None:
        servers = {
            f"{how} after {command or 'connecting'}": scripted(Play({command: deed}, extensions))
            for how, deed in HOW.items()
            for command in ("", "EHLO", "MAIL", "RCPT", "DATA")
        }
        for case, error in failures({case: twin(server.url, **bounds) for case, server in servers.items()}).items():
            assert isinstance(error, TimedOut), f"{case}: {error!r}"
            assert error.is_transient
            assert statuses(error) == [Status.DEFERRED], case
            assert servers[case].connections == 1

    @bounds
    def test_after_hand_over(self, twin: Twin, scripted: Scripted, bounds: Bounds) -> None:
        other = scripted()
        servers = {how: scripted({".": deed}) for how, deed in HOW.items()}
        mailers = {how: twin(server.url, other.url, **bounds) for how, server in servers.items()}
        for how, error in failures(mailers).items():
            assert isinstance(error, InDoubt), f"{how}: {error!r}"
            assert statuses(error) == [Status.IN_DOUBT], how
            assert len(servers[how].handed_over) == 1
        assert other.connections == 0

    @bounds
    def test_in_the_handshake(self, twin: Twin, scripted: Scripted, bounds: Bounds) -> None:
        implicit = [scripted({"": deed}) for deed in (SILENCE, DEAF)]
        upgraded = scripted(Play({"STARTTLS": ("220 go", SILENCE)}, extensions=("STARTTLS",)))
        mailers = {
            f"{tls} {server.port}": twin(Server("127.0.0.1", server.port, tls=tls), **bounds)
            for tls, server in (*zip(("implicit", "implicit"), implicit, strict=True), ("required", upgraded))
        }
        for case, error in failures(mailers).items():
            assert isinstance(error, (TLSFailed, TimedOut)), f"{case}: {error!r}"
            assert error.is_transient
            assert statuses(error) == [Status.DEFERRED], case

    @bounds
    def test_in_the_login(self, twin: Twin, scripted: Scripted, bounds: Bounds) -> None:
        login = {"username": "ann", "password": "secret"}
        servers = {
            f"{mechanism}, {how}": scripted(Play({"AUTH": deed}, (f"AUTH {mechanism}",)))
            for mechanism in ("PLAIN", "LOGIN", "CRAM-MD5")
            for how, deed in HOW.items()
        }
        mailers = {case: twin(server.url, **login, **bounds) for case, server in servers.items()}
        for case, error in failures(mailers).items():
            # on a busy machine the deadline may pass before it is connected
            assert isinstance(error, TimedOut) or "the deadline of" in str(error), f"{case}: {error!r}"
            assert statuses(error) == [Status.DEFERRED], case

    @bounds
    def test_in_connecting(self, twin: Twin, bounds: Bounds, accepted_by_nobody: int, unreachable: int) -> None:
        """Only the kernel accepts, or not even that."""
        ports = {"accepted by nobody": accepted_by_nobody, "unreachable": unreachable}
        mailers = {case: twin(f"smtp://127.0.0.1:{port}", **bounds) for case, port in ports.items()}
        for case, error in failures(mailers).items():
            assert isinstance(error, (ConnectFailed, TimedOut)), f"{case}: {error!r}"
            assert statuses(error) == [Status.DEFERRED], case

    @bounds
    @pytest.mark.parametrize("content", ["given", "streamed"])
    def test_a_content_that_is_not_read(self, twin: Twin, scripted: Scripted, bounds: Bounds, content: str) -> None:
        """It is larger than what the two kernels keep for us."""
        server = scripted(Play({"DATA": ("354 go", DEAF)}, LIMITLESS))
        octets = b"Subject: large\r\n\r\n" + (b"x" * 996 + b"\r\n") * 16_000
        message = octets if content == "given" else (octets[at : at + 100_000] for at in range(0, len(octets), 100_000))
        error = failure(twin(server.url, **bounds), message, envelope=Envelope("ann@example.org", ["bob@example.com"]))
        assert isinstance(error, TimedOut)
        assert statuses(error) == [Status.DEFERRED]
        assert server.handed_over == []

    def test_a_content_that_is_not_read_goes_to_the_next_server(self, twin: Twin, scripted: Scripted) -> None:
        server, good = scripted(Play({"DATA": ("354 go", DEAF)}, LIMITLESS)), scripted(Play(extensions=LIMITLESS))
        message = hello(text=("x" * 996 + "\n") * 16_000)
        receipt = twin(server.url, good.url, timeout=SHORT).send(message)
        assert receipt.server == good.name
        assert server.handed_over == []

    def test_a_server_that_answers_every_command_late_has_the_deadline(self, twin: Twin, scripted: Scripted) -> None:
        """Each reply is well within its time-out; all of them are not."""
        late = threading.Event()

        def answer(_: str) -> str:
            late.wait(0.1)
            return "250 ok"

        server = scripted(Play({"EHLO": answer, "HELO": answer, "MAIL": answer, "RCPT": answer}, ()))
        mailer = twin(server.url, deadline=SHORT)
        error = failure(mailer, hello(*(f"u{number}@example.com" for number in range(30))))
        assert isinstance(error, TimedOut)
        assert set(statuses(error)) == {Status.DEFERRED}
        late.set()

    @pytest.mark.parametrize("where", ["connecting", "greeting", "envelope"])
    def test_the_deadline_is_for_all_servers_together(
        self, twin: Twin, scripted: Scripted, unreachable: int, where: str
    ) -> None:
        answers: dict[str, Any] = {"" if where == "greeting" else "MAIL": SILENCE}
        servers = [scripted(answers) for _ in range(3)]
        urls = [server.url for server in servers]
        if where == "connecting":
            urls[0] = f"smtp://127.0.0.1:{unreachable}"
        good = scripted()
        error = failure(twin(*urls, good.url, deadline=SHORT))
        assert statuses(error) == [Status.DEFERRED]
        assert good.handed_over == []

    def test_the_deadline_is_for_each_message(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"MAIL": [SILENCE]}, {})
        receipts = twin(server.url, deadline=SHORT).send_many([hello(), hello()])
        assert [receipt.ok for receipt in receipts] == [False, True]

    def test_a_send_that_waits_for_a_connection_has_its_limit(self, twin: Twin, scripted: Scripted) -> None:
        """The only connection is held by a stream that nobody goes on with."""
        server = scripted()
        mailer = twin(server.url, max_connections=1, deadline=SHORT)
        stream = mailer.stream([hello(), hello()])
        assert next(stream).ok
        begun = mailer.begin([hello(), hello(), hello()])
        assert begun.wait()
        for error in begun.results:
            assert isinstance(error, TimedOut)
            assert "max_connections" in str(error)
        stream.close()
        assert mailer.send(hello()).ok

    @pytest.mark.parametrize("question", ["verify", "expand", "help", "connect"])
    @pytest.mark.parametrize("how", HOW)
    def test_a_question(self, twin: Twin, scripted: Scripted, question: str, how: str) -> None:
        commands = {"verify": "VRFY", "expand": "EXPN", "help": "HELP", "connect": "EHLO"}
        server = scripted({commands[question]: HOW[how]})
        for bounds in ({"timeout": SHORT}, {"timeout": LONG, "deadline": SHORT}):
            with pytest.raises(TimedOut):
                twin(server.url, **bounds).ask(question, *(["ann"] if question in ("verify", "expand") else []))

    def test_a_check_of_every_server(self, twin: Twin, scripted: Scripted) -> None:
        stuck, good = [scripted({"EHLO": deed}) for deed in HOW.values()], scripted()
        found = twin(*(server.url for server in (*stuck, good)), timeout=SHORT).check()
        assert [one.server for one in found] == [server.name for server in (*stuck, good)]
        assert [type(one.error) for one in found] == [TimedOut, TimedOut, TimedOut, type(None)]


class TestAKeptConnection:
    """It was dropped on the way, and neither side was told."""

    def test_the_next_message_goes_out_on_a_fresh_one(
        self, twin: Twin, scripted: Scripted, relayed: Callable[[ScriptedServer], Relay]
    ) -> None:
        server = scripted()
        relay = relayed(server)
        told: list[str] = []
        mailer = twin(relay.url, timeout={"reused": SHORT}, listeners=[lambda event: told.append(event.name)])
        for number in range(3):
            receipt = mailer.send(hello(subject=str(number)))
            assert receipt.ok
            relay.drop()
        assert taken([server]) == {"0": 1, "1": 1, "2": 1}
        assert relay.connections == 3
        assert "server_failed" not in told

    def test_also_within_a_stream(
        self, twin: Twin, scripted: Scripted, relayed: Callable[[ScriptedServer], Relay]
    ) -> None:
        """A message that was handed over into the silence is in doubt; all others arrive once."""
        server = scripted()
        relay = relayed(server)
        receipts = []
        for receipt in twin(relay.url, timeout=SHORT).stream(hello(subject=str(number)) for number in range(8)):
            receipts.append(receipt)
            if len(receipts) in (2, 5):
                relay.drop()
        assert len(receipts) == 8
        arrived = taken([server])
        assert max(arrived.values()) == 1
        for number, receipt in enumerate(receipts):
            assert receipt.ok or [outcome.status for outcome in receipt.outcomes] == [Status.IN_DOUBT]
            assert not receipt.ok or str(number) in arrived
        assert sum(receipt.ok for receipt in receipts) >= 4

    def test_the_deadline_holds(
        self, twin: Twin, scripted: Scripted, relayed: Callable[[ScriptedServer], Relay]
    ) -> None:
        server = scripted()
        relay = relayed(server)
        mailer = twin(relay.url, deadline=SHORT)
        assert mailer.send(hello()).ok
        relay.drop()
        error = failure(mailer)
        assert isinstance(error, TimedOut)
        assert statuses(error) == [Status.DEFERRED]
        assert mailer.send(hello()).ok
        assert len(server.handed_over) == 2

    def test_a_question_is_put_again(
        self, twin: Twin, scripted: Scripted, relayed: Callable[[ScriptedServer], Relay]
    ) -> None:
        relay = relayed(scripted())
        mailer = twin(relay.url, timeout={"reused": SHORT})
        mailer.connect()
        relay.drop()
        assert mailer.verify("ann").code == 252

    def test_closing_does_not_wait_for_it(
        self,
        twin: Twin,
        scripted: Scripted,
        relayed: Callable[[ScriptedServer], Relay],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for room in ("blocking", "aio"):
            monkeypatch.setattr(f"smtpbackend.{room}.pool.GOODBYE", SHORT)
        relays = [relayed(scripted()) for _ in range(4)]
        mailer = twin(*(relay.url for relay in relays), strategy="round_robin")
        for _ in relays:
            mailer.send(hello())
        for relay in relays:
            relay.drop()
        begun = time.monotonic()
        mailer.close()
        assert time.monotonic() - begun < PATIENCE
        assert mailer.send(hello()).ok


@pytest.mark.exhaustive
class TestFiftyAtOnce:
    """A mailer with two servers, of which the first is stuck; fifty send at once."""

    STUCK: ClassVar = {"says nothing": {"": SILENCE}, "drips": {"EHLO": drip("250-")}, "reads nothing": {"EHLO": DEAF}}

    @pytest.mark.parametrize("how", [*STUCK, "takes no connections", "only its kernel accepts", "in doubt"])
    def test_all_of_them_end(
        self, twin: Twin, scripted: Scripted, unreachable: int, accepted_by_nobody: int, how: str
    ) -> None:
        """Four talk, for as long as a reply may take; the others wait for them, for as long as connecting may take."""
        good = scripted()
        stuck = scripted(self.STUCK.get(how, {".": SILENCE}))
        url = stuck.url
        if how == "takes no connections":
            url = f"smtp://127.0.0.1:{unreachable}"
        elif how == "only its kernel accepts":
            url = f"smtp://127.0.0.1:{accepted_by_nobody}"
        mailer = twin(url, good.url, timeout={"connect": 0.8, "reply": 1.2, "content": 1.2, "final": 1.2})
        begun = mailer.begin([hello(subject=str(number)) for number in range(FIFTY)])
        assert begun.wait(), f"only {len(begun.results)} ended"
        doubts = [result for result in begun.results if isinstance(result, InDoubt)]
        receipts = [result for result in begun.results if isinstance(result, Receipt)]
        assert len(doubts) + len(receipts) == FIFTY, set(map(str, begun.results))
        assert {receipt.server for receipt in receipts} == {good.name}
        assert taken([good, stuck]) == {str(number): 1 for number in range(FIFTY)}
        # nobody talked to it twice: who waited gave up, or took the place of one who had
        assert stuck.connections <= 8
        assert len(doubts) == len(stuck.handed_over)
        for receipt in receipts:
            assert [outcome.attempts for outcome in receipt.outcomes] == [1]
        assert good.connections <= 4

    def test_within_the_deadline(self, twin: Twin, scripted: Scripted) -> None:
        """The time-outs are long, and there is no other server."""
        stuck = scripted({"": SILENCE})
        mailer = twin(stuck.url, deadline=SHORT)
        begun = mailer.begin([hello() for _ in range(FIFTY)])
        assert begun.wait(), f"only {len(begun.results)} ended"
        for error in begun.results:
            assert isinstance(error, (TimedOut, ConnectFailed))
            assert statuses(error) == [Status.DEFERRED]
        assert stuck.connections >= 4

    def test_one_more_goes_to_the_other_server_once_the_first_rests(self, twin: Twin, scripted: Scripted) -> None:
        """The time-outs are long: it is answered while they are all waiting."""
        failing = threading.Event()

        def fail(_: str) -> Any:
            failing.wait(PATIENCE)
            return CUT

        silent = Play({"EHLO": SILENCE})
        stuck, good = scripted({"EHLO": fail}, *[silent] * 4, {"": CUT}), scripted()
        mailer = twin(stuck.url, good.url, timeout=LONG, rest=LONG)
        begun = mailer.begin([hello(subject=str(number)) for number in range(FIFTY)])
        assert begun.wait_until(lambda: stuck.commands.count(stuck.commands[0]) == 4 if stuck.commands else False)
        assert begun.results == []
        failing.set()
        assert begun.wait_until(lambda: begun.results)
        assert {result.server for result in begun.results} == {good.name}  # type: ignore[union-attr]
        for number in range(3):
            assert mailer.send(hello(subject=f"one more {number}")).server == good.name
        assert len(begun.results) <= FIFTY - 4
        assert stuck.open_connections >= 3
        stuck.cut()
        assert begun.wait()
        assert [result.server for result in begun.results] == [good.name] * FIFTY  # type: ignore[union-attr]
        assert max(taken([good, stuck]).values()) == 1

    def test_one_more_whose_turn_is_the_other_servers(self, twin: Twin, scripted: Scripted) -> None:
        """Under `round_robin` every second one goes there first, whoever is stuck with the first."""
        stuck, good = scripted(*[{"": SILENCE}] * 4, {"": CUT}), scripted()
        mailer = twin(stuck.url, good.url, timeout=LONG, strategy="round_robin")
        begun = mailer.begin([hello(subject=str(number)) for number in range(FIFTY)])
        assert begun.wait_until(lambda: stuck.connections == 4 and len(begun.results) >= FIFTY // 2 - 2)
        more = mailer.begin([hello(subject=f"one more {number}") for number in range(2)])
        assert more.wait_until(lambda: more.results)
        assert more.results[0].server == good.name  # type: ignore[union-attr]
        assert len(begun.results) <= FIFTY - 4
        assert stuck.connections == 4
        stuck.cut()
        assert begun.wait()
        assert more.wait()
        assert {result.server for result in begun.results + more.results} == {good.name}  # type: ignore[union-attr]
        assert max(taken([good, stuck]).values()) == 1


class TestANameThatIsNotFound:
    """The system's resolver hangs, which cannot be ended from here: nobody waits for it beyond the time to connect."""

    @bounds
    def test_a_send_ends(self, twin: Twin, hanging: list[str], bounds: Bounds) -> None:
        error = failure(twin({"host": "hangs.example.com", "tls": "none"}, **bounds))
        assert isinstance(error, (ConnectFailed, TimedOut))
        assert error.is_transient
        assert statuses(error) == [Status.DEFERRED]
        assert hanging == ["hangs.example.com"]

    def test_the_next_server_is_tried(self, twin: Twin, scripted: Scripted, hanging: list[str]) -> None:
        good = scripted()
        mailer = twin({"host": "hangs.example.com", "tls": "none", "timeout": SHORT}, good.url)
        assert mailer.send(hello()).server == good.name
        assert hanging == ["hangs.example.com"]

    def test_look_ups_that_pile_up_are_in_nobodys_way(self, twin: Twin, scripted: Scripted, hanging: list[str]) -> None:
        """The server with an address is reached as ever, however many threads hang in the resolver."""
        good = scripted()
        names = [f"hangs{number}.example.com" for number in range(10)]
        servers = [{"host": name, "tls": "none", "timeout": {"connect": 0.05}} for name in names]
        for _ in range(4):
            receipt = twin(*servers, good.url, rest=0).send(hello())
            assert receipt.server == good.name
        assert len(hanging) > 6

    def test_fifty_at_once(self, twin: Twin, scripted: Scripted, hanging: list[str]) -> None:
        good = scripted()
        mailer = twin({"host": "hangs.example.com", "tls": "none", "timeout": 0.6}, good.url)
        begun = mailer.begin([hello(subject=str(number)) for number in range(FIFTY)])
        assert begun.wait(), f"only {len(begun.results)} ended"
        assert [getattr(result, "server", result) for result in begun.results] == [good.name] * FIFTY
        assert taken([good]) == {str(number): 1 for number in range(FIFTY)}


class TestEverythingDown:
    """Every server fails before a message could be given to it."""

    @pytest.fixture
    def down(
        self, scripted: Scripted, ca: Certificates, unreachable: int, accepted_by_nobody: int
    ) -> tuple[list[Any], list[ScriptedServer]]:
        [closed] = free_ports(1)
        scripts = [
            scripted({"": "554 5.3.2 no"}),
            scripted({"": CUT}),
            scripted({"": SILENCE}),
            scripted({"EHLO": "502 no", "HELO": "502 no"}),
            scripted(Play({"AUTH": "535 5.7.8 no"}, ("AUTH PLAIN",))),
        ]
        untrusted = scripted(Play(extensions=("STARTTLS",)), certificate="self_signed")
        without = scripted(Play(extensions=()))
        servers: list[Any] = [server.url for server in scripts]
        for server in (untrusted, without):
            servers.append({"host": "127.0.0.1", "port": server.port, "tls": "required"})
        servers += [f"smtp://127.0.0.1:{port}" for port in (closed, unreachable, accepted_by_nobody)]
        return servers, [*scripts, untrusted, without]

    @pytest.mark.exhaustive
    @pytest.mark.parametrize("source", ["list", "generator", "asynchronous"])
    def test_a_batch_of_a_thousand_ends_after_one_round(
        self, twin: Twin, down: tuple[list[Any], list[ScriptedServer]], source: str
    ) -> None:
        servers, scripts = down
        events: list[Any] = []
        mailer = twin(*servers, username="ann", password="secret", timeout=SHORT, listeners=[events.append])
        messages: Any = [hello(f"u{number}@example.com", subject=str(number)) for number in range(1000)]
        if source == "generator":
            messages = (message for message in messages)
        elif source == "asynchronous":
            if twin.name == "blocking":
                pytest.skip("a Mailer takes no asynchronous source")
            messages = _asynchronous(messages)
        receipts = mailer.send_many(messages)
        assert len(receipts) == 1000
        for number, receipt in enumerate(receipts):
            [outcome] = receipt.outcomes
            assert str(outcome.address) == f"u{number}@example.com"
            assert outcome.status is Status.DEFERRED
            assert outcome.attempts == 0
            assert isinstance(receipt.error, DeliveryError)
            assert receipt.error.receipt is receipt
            assert outcome.error is not None
        assert [server.connections for server in scripts] == [1] * len(scripts)
        assert Counter(names(events)) == {
            "message_sending": 1000,
            "server_failed": len(servers),
            "recipient_deferred": 1000,
            "message_failed": 1000,
        }
        assert not any(server.handed_over for server in scripts)

    def test_a_deadline_that_passes_in_the_first_round_gives_the_next_message_its_own(
        self, twin: Twin, scripted: Scripted
    ) -> None:
        silent = [scripted({"": SILENCE}) for _ in range(3)]
        mailer = twin(*(server.url for server in silent), deadline=SHORT, timeout=LONG)
        receipts = mailer.send_many(hello(subject=str(number)) for number in range(3))
        assert [[outcome.status for outcome in receipt.outcomes] for receipt in receipts] == [[Status.DEFERRED]] * 3
        assert sum(server.connections for server in silent) <= 3

    @pytest.mark.exhaustive
    def test_the_next_batch_tries_once_more(self, twin: Twin, down: tuple[list[Any], list[ScriptedServer]]) -> None:
        servers, scripts = down
        mailer = twin(*servers, username="ann", password="secret", timeout=SHORT)
        for round_number in (1, 2):
            receipts = mailer.send_many(hello() for _ in range(5))
            assert {outcome.status for receipt in receipts for outcome in receipt.outcomes} == {Status.DEFERRED}
            assert [server.connections for server in scripts] == [round_number] * len(scripts)


async def _asynchronous(messages: list[Message]) -> AsyncIterator[Message]:
    for message in messages:
        yield message


def test_nothing_is_left_of_those_that_timed_out(
    twin: Twin, scripted: Scripted, accepted_by_nobody: int, unreachable: int
) -> None:
    """Every connection that was given up is closed, and not counted any more."""
    stuck = [scripted({command: SILENCE}) for command in ("", "EHLO", "MAIL", "RCPT", "DATA")]
    urls = [server.url for server in stuck]
    urls += [f"smtp://127.0.0.1:{port}" for port in (accepted_by_nobody, unreachable)]
    good = scripted()
    with Leftovers() as leftovers:
        mailer = twin(*urls, good.url, timeout=SHORT)
        assert mailer.send(hello()).server == good.name
        leftovers.check(mailer.pool(), [*stuck, good], "timed out")
