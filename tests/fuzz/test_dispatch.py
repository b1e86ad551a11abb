"""Whole runs over servers that say anything: each recipient ends in one true state, and nothing is sent twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from smtpbackend.delivery.pooling import Connection
from smtpbackend.errors import ConnectFailed, SMTPError
from smtpbackend.outcome import Outcome, Receipt, Status
from smtpbackend.protocol.session import Session
from tests.delivery.played import Played
from tests.fuzz.conftest import FACTOR, Fuzz
from tests.fuzz.ledger import Ledger, Mailing
from tests.fuzz.network import Network, Tape
from tests.fuzz.samples import ARRIVES, ENVELOPES, GIVEN, MESSAGES, SHAPES, SMALL

pytestmark = pytest.mark.exhaustive

EXAMPLES = 9_000
MOST_LEASES = 100
"""More than any example needs: 6 messages, 3 recipients, 2 servers, and for each at most one more connection."""


class World(Played):
    """Servers that are a `Network`, each connection another one, and all of them one tape."""

    def __init__(self, tape: Tape, raw: bytes, **options: Any) -> None:
        self.tape = tape
        self.raw = raw
        self.may_probe = options["chunk_in_flight"] == "probe"  # "auto": it is of no known family
        self.window = options["window"]
        self.lines: list[tuple[str, Ledger, Network]] = []
        super().__init__({"one": [], "two": []} if tape.below(2) else {"one": []}, **options)

    def _lease(self, server: Any, fresh: bool) -> Any:
        assert len(self.leases) < MOST_LEASES, "this never ends"
        self.leases.append((server.host, fresh))
        if not fresh:
            for connection in self.idle:
                if connection.server == server and connection.session.line.replies.is_empty:
                    self.idle.remove(connection)
                    self.out.append(connection)
                    connection.reused = connection.has_worked = True
                    connection.heard = connection.idle_since
                    return connection
        if self.tape.happens(8):
            raise ConnectFailed(f"cannot connect to {server.name}", server=server.name)
        ledger = Ledger(
            self.options["policy"], 1 if self.may_probe else None, window=self.window, clock=lambda: self.now
        )
        network = Network(self.tape, self.raw, ledger, self._wait)
        self.lines.append((server.host, ledger, network))
        session = Session(server.name, "client.example.org", timeouts=server.timeout, local_peer=True)
        connection: Connection[Any] = Connection(server, network, session, self.max_messages)  # type: ignore[type-var]
        self.out.append(connection)  # type: ignore[arg-type]
        return connection

    def _wait(self, seconds: float) -> None:
        self.now += seconds


class Run:
    """Some messages over one or two servers, and a look at all that was said."""

    def __init__(self, octets: bytes, raw: bytes) -> None:
        tape = self.tape = Tape(octets, octets[-1] >= 192)
        self.world = World(
            tape,
            raw,
            policy=("any", "any", "all")[tape.below(3)],
            window=(1, 2, 32)[tape.below(3)],
            chunk_in_flight=("probe", "probe", "auto", "never")[tape.below(4)],
            strategy=("failover", "round_robin")[tape.below(2)],
            hesitant=tape.happens(64),
            deadline=90.0 if tape.happens(24) else None,
            **({"rate": 0.5} if tape.happens(24) else {}),
        )
        self.bodies: list[int] = []

    def run(self) -> None:
        """A run, one more on the same route a while later, and one when all is well again."""
        first = 1 + self.tape.below(MESSAGES - 2)
        self.send(0, first)
        self.world.now += (1.0, 6.0, 40.0)[self.tape.below(3)]
        self.send(first, MESSAGES - 1 if self.tape.happens(64) else first + 1)
        assert not self.world.out, "a connection was not given back"
        self.check_probes()
        self.world.idle.clear()
        self.world.tape = self.tape = Tape(b"")
        self.bodies += [0] * (MESSAGES - 1 - len(self.bodies))
        (receipt,) = self.send(MESSAGES - 1, MESSAGES)
        assert receipt.ok, "not even a good server was given the message"

    def send(self, start: int, end: int) -> list[Receipt]:
        """One run. The servers may be as they like: it ends, and says what became of each message, in order."""
        items = []
        for number in range(start, end):
            body = self.tape.below(SMALL) if not self.tape.happens(8) else self.tape.below(len(GIVEN))
            self.bodies.append(body)
            shape = self.tape.below(len(SHAPES) - 1)  # not the one of hundreds, each of which may be a transaction
            items.append((GIVEN[body], ENVELOPES[number][shape]))
        stream = self.world.stream(items, (0, len(items))[self.tape.below(2)])
        abandoned = self.tape.happens(16)
        receipts = [next(stream)] if abandoned else list(stream)
        stream.close()  # replies in flight are waited for
        assert len(receipts) == (1 if abandoned else len(items)), "a message got no receipt, or two"
        for number, (_, envelope), receipt in zip(range(start, end), items, receipts, strict=False):
            assert [outcome.address for outcome in receipt.outcomes] == [one.address for one in envelope.recipients]
            self.check(number, receipt)
        for number, (_, envelope) in list(zip(range(start, end), items, strict=True))[len(receipts) :]:
            for recipient in envelope.recipients:
                self.check_arrivals(recipient.address.addr_spec.encode(), self.begun(number))
        return receipts

    # What is true of it --------------------------------------------------------------------------------------------

    def begun(self, number: int) -> list[tuple[Mailing, bool]]:
        """The transactions of a message in their order, and whether their connection ended in 421."""
        sender = f"m{number}@example.org".encode()
        begun = [
            (mailing, ledger.ended_by_word)
            for _, ledger, _ in self.world.lines
            for mailing in ledger.mailings
            if mailing.sender == sender
        ]
        return sorted(begun, key=lambda each: each[0].order)

    def check_probes(self) -> None:
        """DESIGN 5.1: a probe that did not go well is the last that a server gets."""
        for host in ("one", "two"):
            ledgers = [ledger for each, ledger, _ in self.world.lines if each == host and ledger.probed_at >= 0]
            ledgers.sort(key=lambda ledger: ledger.probed_at)
            assert not any(ledger.probe_failed for ledger in ledgers[:-1]), "asked again for a proof"

    def check(self, number: int, receipt: Receipt) -> None:
        """The ledgers of all connections agree with a receipt."""
        begun = self.begun(number)
        for mailing, _ in begun:
            assert not mailing.was_handed_over or mailing.content == ARRIVES[self.bodies[number]], "another content"
        if self.world.options["policy"] == "all":
            assert len({outcome.status is Status.ACCEPTED for outcome in receipt.outcomes}) == 1, "all or nobody"
        for outcome in receipt.outcomes:
            self.check_outcome(outcome, begun)
        if receipt.accepted:
            assert receipt.error is None
            assert receipt.reply is not None
            assert receipt.reply.is_positive
        else:
            assert isinstance(receipt.error, SMTPError)
            assert receipt.error.receipt is receipt

    def check_arrivals(self, path: bytes, begun: list[tuple[Mailing, bool]]) -> list[Mailing]:
        """Where the message may have arrived for a recipient: at one place, and nobody was given it afterwards."""
        tried = [(mailing, ended) for mailing, ended in begun if path in mailing.rcpt]
        arrived = [mailing for mailing, ended in tried if mailing.may_have_arrived(path, ended)]
        assert len(arrived) < 2, "sent twice"
        assert not arrived or arrived[0] is tried[-1][0], "sent once more"
        return arrived

    def check_outcome(self, outcome: Outcome, begun: list[tuple[Mailing, bool]]) -> None:
        path = outcome.address.addr_spec.encode()
        tried = [mailing for mailing, _ in begun if path in mailing.rcpt]
        arrived = self.check_arrivals(path, begun)
        match outcome.status:
            case Status.ACCEPTED:
                assert any(mailing.answered_yes(path) for mailing in tried), "accepted, and no server said so"
            case Status.IN_DOUBT:
                assert any(mailing.was_handed_over for mailing in tried), "in doubt, and never handed over"
            case _:
                assert not arrived, f"{outcome.status}, and may have arrived"
        # what was not read, because the server had ended the connection before, is no attempt
        assert outcome.attempts >= sum(not ended for mailing, ended in begun if path in mailing.rcpt)


@pytest.mark.timeout(900 * FACTOR)
def test_runs(fuzz: Fuzz) -> None:
    """Runs on one route, which find what those before have left of its connections."""

    def dispatch(tape: bytes, raw: bytes) -> None:
        Run(tape, raw).run()

    fuzz(
        EXAMPLES,
        dispatch,
        tape=st.binary(min_size=96, max_size=256),
        raw=st.binary(max_size=24) | st.sampled_from([b"250 ok\r\n" * 9, b"250-", b"354 \r\n", b"2", b"\n"]),
    )
