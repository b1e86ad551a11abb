"""What leaves ahead of its replies, through real sockets: waits are counted, and servers have the faults of real ones.

The faults are those of go-smtp, Courier, Dovecot and Exim; content is made to look like commands, and none is ever run.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from smtpbackend import Envelope, Status
from smtpbackend.protocol.transaction_steps import MAX_CHUNK
from smtpbackend.testing import CUT, EXTENSIONS, SILENCE, Fault, Play, ScriptedServer, Transaction
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates

CHUNKING = (*EXTENSIONS, "CHUNKING")
# looks like the end of a content and a whole transaction, wherever it is read as commands
COMMANDS = (
    b"Subject: x\r\n\r\nRSET\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\n.\r\nNOOP\r\n"
)
THREE = ("ada@example.com", "bob@example.com", "carl@example.com")
PROBED: dict[str, Any] = {"chunk_in_flight": "probe"}
POSTFIX = "220 mx.example.com ESMTP Postfix"


@pytest.fixture
def scripted(scripted: Scripted) -> Iterator[Scripted]:
    """Servers whose every connection is looked at in the end: see `check_chunks`."""
    servers: list[ScriptedServer] = []

    def start(*plays: Any, **options: Any) -> ScriptedServer:
        servers.append(scripted(*plays, **options))
        return servers[-1]

    yield start
    for server in servers:
        for speaker in server.speakers:
            check_chunks(speaker.commands)


def check_chunks(commands: list[str]) -> None:
    """DESIGN 5.1: each chunk is a whole content of up to 256 KiB whose size MAIL has declared, or the probe's octet.

    So Exim cannot crash over RSET amid chunks, and its limit of size cannot make it read one as commands.
    """
    declared = ""
    probes = 0
    for line in commands:
        if line.startswith("MAIL "):
            declared = (re.findall(r" SIZE=(\d+)", line) or [""])[0]
        elif line == "BDAT 1":
            probes += 1
        elif line.startswith("BDAT "):
            assert line == f"BDAT {declared} LAST", (line, declared)
            assert int(declared) <= MAX_CHUNK
    assert probes < 2


def chunked(server: ScriptedServer) -> int:
    """How many contents left as a chunk."""
    return sum(line.startswith("BDAT ") and line.endswith(" LAST") for line in server.commands)


def disguised(*to: str) -> tuple[bytes, Envelope]:
    return COMMANDS, Envelope(SENDER, to or ("bob@example.com",))


def executed(server: ScriptedServer) -> list[str]:
    """Commands that only the content could have given."""
    return [line for line in server.commands if "evil" in line or "victim" in line or line == "NOOP"]


def taken(server: ScriptedServer) -> list[Transaction]:
    """Every content that was not refused."""
    return [transaction for speaker in server.speakers for transaction in speaker.taken]


class TestWaits:
    """Counted by the server: a wait is a flight that it answers. The greeting and a TLS handshake count as one each."""

    @pytest.mark.parametrize(("tls", "waits"), [("required", 8), ("implicit", 6)])
    def test_cold(self, twin: Twin, scripted: Scripted, ca: Certificates, tls: str, waits: int) -> None:
        """TLS, AUTH PLAIN, one message to three recipients, with CHUNKING."""
        offers = (*CHUNKING, "AUTH PLAIN")
        play = Play(extensions=(*offers, *(["STARTTLS"] if tls == "required" else [])), implicit_tls=tls == "implicit")
        server = scripted(play, certificate="server", patience=0.05)
        mailer = twin(
            {"host": "127.0.0.1", "port": server.port, "tls": tls, "ca_file": str(ca.ca_file)},
            username="ann",
            password="secret",
        )
        assert mailer.send(hello(*THREE)).ok
        assert server.waits == waits

    @pytest.mark.parametrize("greeting", [POSTFIX, "220 mx.example.com ESMTP ready"])
    def test_one_by_one_on_a_kept_connection(self, twin: Twin, scripted: Scripted, greeting: str) -> None:
        """The probe goes with the second message, where the greeting is that of a family that takes it well."""
        server = scripted(Play({"": greeting}, CHUNKING), patience=0.05)
        mailer = twin(server.url)
        waits = []
        for _ in range(4):
            before = server.waits
            assert mailer.send(hello(*THREE)).ok
            waits.append(server.waits - before)
        assert waits == ([4, 2, 1, 1] if greeting == POSTFIX else [4, 2, 2, 2])
        assert server.commands.count("BDAT 1") == (greeting == POSTFIX)
        assert chunked(server) == (2 if greeting == POSTFIX else 0)
        assert "RSET" not in [
            line for number, line in enumerate(server.commands) if server.commands[number - 1] != "BDAT 1"
        ]

    @pytest.mark.parametrize("recipients", [1, 3, 100])
    @pytest.mark.parametrize(
        ("extensions", "policy", "waits"),
        [
            (CHUNKING, "any", 1),
            (EXTENSIONS, "any", 2),
            (CHUNKING, "all", 2),
            (EXTENSIONS, "all", 3),
            (("PIPELINING", "CHUNKING"), "any", 2),  # without SIZE there is no BDAT
            (("CHUNKING", "SIZE"), "any", None),  # without PIPELINING it has no proof
        ],
    )
    def test_warm(
        self,
        twin: Twin,
        scripted: Scripted,
        extensions: tuple[str, ...],
        policy: str,
        waits: int | None,
        recipients: int,
    ) -> None:
        """The third message of a connection, whose second had the probe."""
        server = scripted(Play(extensions=extensions), patience=0.02)
        mailer = twin(server.url, recipient_policy=policy, **PROBED)
        assert mailer.send(hello()).ok
        assert mailer.send(hello()).ok
        before = server.waits
        assert mailer.send(hello(*(f"r{number}@example.com" for number in range(recipients)))).ok
        assert server.waits - before == (waits or recipients + 3)
        assert server.connections == 1
        assert chunked(server) == (extensions == CHUNKING)

    def test_warm_after_a_silence(self, twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
        """Content waits for the replies to the recipients: the connection may be dead without anybody knowing."""
        monkeypatch.setattr("smtpbackend.delivery.dispatch.AWAKE", -1.0)
        server = scripted(Play(extensions=CHUNKING), patience=0.02)
        mailer = twin(server.url, **PROBED)
        assert mailer.send(hello()).ok
        assert mailer.send(hello()).ok
        before = server.waits
        assert mailer.send(hello(*THREE)).ok
        assert server.waits - before == 2
        assert chunked(server) == 1

    @pytest.mark.parametrize(("extensions", "most"), [(CHUNKING, 9), (EXTENSIONS, 103)])
    def test_a_hundred_messages(self, twin: Twin, scripted: Scripted, extensions: tuple[str, ...], most: int) -> None:
        """Behind EHLO: probe and envelope, content and RSET, then a window at a time, which opens from 9 on."""
        server = scripted(Play(extensions=extensions), patience=0.02)
        receipts = twin(server.url, **PROBED).send_many(
            [hello(*THREE, subject=f"nr {number}.") for number in range(100)]
        )
        assert all(receipt.ok for receipt in receipts)
        assert server.connections == 1
        assert server.waits - 2 <= most
        assert chunked(server) == (99 if extensions == CHUNKING else 0)
        subjects = [mail.content.split(b"Subject: ")[1].split(b"\r\n")[0] for mail in server.handed_over]
        assert subjects == [b"nr %d." % number for number in range(100)]


class Later(Collection[Fault]):
    """The faults of a server that has one of them only from the second time on that it matters."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = faults
        self._asked = False

    def __contains__(self, fault: object) -> bool:
        if fault not in self._faults:
            return False
        before, self._asked = self._asked, True
        return before

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._faults)

    def __len__(self) -> int:
        return len(self._faults)


MODES = pytest.mark.parametrize("mode", ["probe", "auto", "never"])
LARGE = (b"Subject: x\r\n\r\n" + COMMANDS + b"x" * 70 + b"\r\n") * 2500  # over 256 KiB


class TestContentIsNeverRun:
    """By a server that reads a refused chunk as commands, whatever it says to the probe (DESIGN 5.1)."""

    @MODES
    @pytest.mark.parametrize("refusal", ["503 5.5.1 no", "250 2.0.0 taken", *(f"{n} no" for n in (500, 502, 504, 451))])
    @pytest.mark.parametrize("refused", ["RCPT", "MAIL", "BDAT", "DATA"])
    def test_who_does_not_discard(self, twin: Twin, scripted: Scripted, refusal: str, refused: str, mode: str) -> None:
        play = Play({"BDAT 1": refusal, refused: "550 5.7.1 no"}, CHUNKING, faults=[Fault.READS_REFUSED_CHUNKS])
        server = scripted(play)
        mailer = twin(server.url, chunk_in_flight=mode)
        mails = [disguised(), disguised("ada@example.com"), (LARGE, disguised()[1]), disguised()]
        receipts = [mailer.send(*mails[0]) if refused == "BDAT" else None, *mailer.send_many(mails)]
        if refused == "BDAT":
            assert all(receipt is not None and receipt.ok for receipt in receipts)
        else:
            outcomes = [outcome for receipt in receipts if receipt is not None for outcome in receipt.outcomes]
            assert [outcome.status for outcome in outcomes] == [Status.REJECTED] * 4
            assert taken(server) == []
        assert executed(server) == []
        assert chunked(server) == 0
        assert server.commands.count("BDAT 1") == (mode == "probe")

    @MODES
    @pytest.mark.parametrize("code", [500, 502, 504, 451, 250])
    def test_who_discards_and_says_that_it_does_not_know_bdat(
        self, twin: Twin, scripted: Scripted, code: int, mode: str
    ) -> None:
        """A gateway that passes the EHLO of another on: its proof is none, and it is given its mail by DATA."""
        server = scripted(Play({"BDAT": f"{code} 5.5.1 what"}, CHUNKING))
        mailer = twin(server.url, chunk_in_flight=mode)
        assert all(receipt.ok for receipt in mailer.send_many([disguised() for _ in range(12)]))
        assert all(mailer.send(*disguised()).ok for _ in range(3))
        assert executed(server) == []
        assert chunked(server) == 0
        assert len(taken(server)) == 15
        assert server.commands.count("BDAT 1") == (mode == "probe")

    @pytest.mark.parametrize("mode", ["auto", "never"])
    @pytest.mark.parametrize("refused", ["RCPT", "MAIL", "."])
    def test_who_discards_at_the_probe_alone(self, twin: Twin, scripted: Scripted, refused: str, mode: str) -> None:
        """No proof could tell: it is not asked for one where it is of no family known to keep what it proves.

        Of those Exim alone has the fault, over its limit, and only where MAIL did not declare the SIZE: see
        `check_chunks`. Under "probe" nothing else protects from such a server.
        """
        play = Play({refused: "550 5.7.1 no"}, CHUNKING, faults=Later(Fault.READS_REFUSED_CHUNKS))
        server = scripted(play, play)
        mailer = twin(server.url, chunk_in_flight=mode)
        receipts = [*mailer.send_many([disguised() for _ in range(4)])]
        assert all(receipt.rejected for receipt in receipts)
        assert executed(server) == []

    @pytest.mark.parametrize(
        "options",
        [{"ignore_extensions": ("SIZE",)}, {"ignore_extensions": ("CHUNKING",)}, {"chunk_in_flight": "never"}],
    )
    def test_where_the_size_is_not_declared_there_is_no_chunk(
        self, twin: Twin, scripted: Scripted, options: dict[str, Any]
    ) -> None:
        """Exim refuses one that is over its limit at once, and reads the rest of it as commands."""
        play = Play({"": POSTFIX, "BDAT": "552 5.3.4 too big"}, CHUNKING, faults=Later(Fault.READS_REFUSED_CHUNKS))
        server = scripted(play)
        mailer = twin({"host": "127.0.0.1", "port": server.port, **{**PROBED, **options}})
        assert all(receipt.ok for receipt in mailer.send_many([disguised() for _ in range(4)]))
        assert executed(server) == []
        assert "BDAT" not in "".join(server.commands)

    @pytest.mark.parametrize("how", [CUT, SILENCE, "421 4.7.0 goodbye", "250 2.0.0 taken"])
    @pytest.mark.parametrize("as_list", [False, True])
    def test_who_hangs_up_on_the_probe_is_asked_once(
        self, twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, how: Any, as_list: bool
    ) -> None:
        """The message goes out on a second connection, without it; nobody is blamed, and the third needs no second."""
        monkeypatch.setattr("smtpbackend.protocol.transaction_steps.PROBE_PATIENCE", 0.2)
        # Exim, had it taken the octet, would crash on the RSET behind it
        play = Play({"BDAT 1": how}, CHUNKING, faults=[Fault.CRASHES_ON_RSET_AMID_CHUNKS])
        server, other = scripted(play), scripted()
        events: list[str] = []
        mailer = twin(server.url, other.url, listeners=[lambda event: events.append(event.name)], **PROBED)
        mails = [disguised() for _ in range(3)]
        receipts = mailer.send_many(mails) if as_list else [mailer.send(*mail) for mail in mails]
        receipts.append(mailer.send(*disguised()))
        assert [(receipt.ok, receipt.server) for receipt in receipts] == [(True, server.name)] * 4
        assert {outcome.attempts for receipt in receipts for outcome in receipt.outcomes} <= {1, 2}
        assert server.connections == 2
        assert "server_failed" not in events
        assert len(server.handed_over) == 4
        assert server.commands.count("BDAT 1") == 1

    def test_who_changes_behind_a_balancer_is_asked_on_each_connection(self, twin: Twin, scripted: Scripted) -> None:
        """The first two discard, the third does not: what one has proven says nothing of the next.

        Once one has failed, no other is asked or given a chunk.
        """
        rcpt = {"RCPT": ["250 2.1.5 ok", "550 5.1.1 nobody"]}
        good, bad = Play(rcpt, CHUNKING), Play(rcpt, CHUNKING, faults=[Fault.READS_REFUSED_CHUNKS])
        server = scripted(good, good, bad, good, bad)
        mailer = twin(server.url, max_messages=2, **PROBED)
        receipts = mailer.send_many([disguised() for _ in range(10)])
        assert [bool(receipt.accepted) for receipt in receipts] == [True, False] * 5
        assert server.connections == 5
        assert executed(server) == []
        assert [speaker.commands.count("BDAT 1") for speaker in server.speakers] == [1, 1, 1, 0, 0]
        assert [speaker.verbs.count("BDAT") for speaker in server.speakers] == [2, 2, 1, 0, 0]

    def test_a_proven_connection_discards_what_is_refused_in_the_middle_of_a_window(
        self, twin: Twin, scripted: Scripted
    ) -> None:
        server = scripted(Play({"RCPT TO:<bad@": "550 5.1.1 nobody"}, CHUNKING))
        mails = [disguised("bad@example.com" if number % 3 == 1 else "bob@example.com") for number in range(30)]
        receipts = twin(server.url, **PROBED).send_many(mails)
        assert [bool(receipt.accepted) for receipt in receipts] == [number % 3 != 1 for number in range(30)]
        assert executed(server) == []
        assert chunked(server) == 29
        assert len(taken(server)) == 20
        assert server.connections == 1


class TestWindowByProof:
    """Courier, Dovecot and Exim, as they were seen to behave (DESIGN 5.2)."""

    @pytest.mark.parametrize("extensions", [EXTENSIONS, CHUNKING])
    def test_a_server_that_swallows_what_follows_the_dot(
        self, twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, extensions: tuple[str, ...]
    ) -> None:
        """Courier: the first message is accepted, nothing is in doubt, and the rest goes out one at a time."""
        monkeypatch.setattr("smtpbackend.protocol.transaction_steps.OVERLAP_PATIENCE", 0.2)
        server = scripted(Play(extensions=extensions, faults=[Fault.SWALLOWS_BEHIND_DOT]))
        events: list[str] = []
        mailer = twin(server.url, listeners=[lambda event: events.append(event.name)], timeout=5, **PROBED)
        receipts = mailer.send_many([hello(subject=f"nr {number}.") for number in range(10)])
        assert all(receipt.ok for receipt in receipts)
        assert len(server.handed_over) == 10
        assert "server_failed" not in events
        if extensions == EXTENSIONS:  # it has no CHUNKING, and its fault is one of dots
            assert server.connections == 2
            assert all(receipt.ok for receipt in mailer.send_many([hello()] * 3))
            assert server.connections == 2

    @pytest.mark.parametrize("extensions", [EXTENSIONS, CHUNKING])
    def test_a_server_that_crashes_on_mail_without_rset(
        self, twin: Twin, scripted: Scripted, extensions: tuple[str, ...]
    ) -> None:
        """Dovecot: RSET stands ahead of each MAIL."""
        server = scripted(Play(extensions=extensions, faults=[Fault.CRASHES_ON_MAIL_BEHIND_CONTENT]))
        assert all(receipt.ok for receipt in twin(server.url, **PROBED).send_many([hello() for _ in range(50)]))
        assert server.connections == 1

    def test_a_server_that_keeps_the_old_sender(self, twin: Twin, scripted: Scripted) -> None:
        """Exim: nobody's mail goes out with somebody else's sender."""
        server = scripted(Play({"RCPT TO:<bad@": "550 5.1.1 nobody"}, CHUNKING, faults=[Fault.KEEPS_SENDER]))
        mails = [
            (b"Subject: x\r\n\r\n%d\r\n" % number, Envelope(f"s{number}@example.org", [to]))
            for number in range(40)
            for to in ["bad@example.com" if number % 4 == 2 else "bob@example.com"]
        ]
        receipts = twin(server.url, **PROBED).send_many(mails)
        assert [bool(receipt.accepted) for receipt in receipts] == [number % 4 != 2 for number in range(40)]
        for mail in taken(server):
            number = int(mail.content.split(b"\r\n\r\n")[1])
            assert f"<s{number}@" in mail.mail

    def test_a_server_that_crashes_on_rset_amid_chunks(self, twin: Twin, scripted: Scripted) -> None:
        """Exim: there is no RSET amid chunks, since a content is one chunk or none. See `check_chunks` too."""
        server = scripted(Play({}, CHUNKING, faults=[Fault.CRASHES_ON_RSET_AMID_CHUNKS]))
        lines = (1, 20_000, MAX_CHUNK // 72 - 1, MAX_CHUNK // 72 + 1, 1)
        mails = [
            (b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * number, Envelope(SENDER, ["bob@example.com"]))
            for number in lines
        ]
        assert all(receipt.ok for receipt in twin(server.url, **PROBED).send_many(mails))
        assert [mail.content for mail in server.handed_over] == [content for content, _ in mails]
        assert server.connections == 1
        assert chunked(server) == 2
        assert server.commands.count("DATA") == 3

    def test_neither_side_waits_for_the_other_to_read(self, twin: Twin, scripted: Scripted) -> None:
        """Thousands of recipients: replies pile up while commands do (RFC 2920 3.1)."""
        server = scripted(Play(extensions=CHUNKING))
        to = [f"recipient-{number}-of-a-long-list@example.com" for number in range(3000)]
        receipts = twin(server.url, timeout=20, **PROBED).send_many([hello(*to), hello(*to)])
        assert all(receipt.ok for receipt in receipts)

    @pytest.mark.parametrize("policy", ["any", "all"])
    @pytest.mark.parametrize("extensions", [EXTENSIONS, CHUNKING, ("PIPELINING",), ()])
    def test_refusals_in_the_middle_harm_no_neighbour(
        self, twin: Twin, scripted: Scripted, extensions: tuple[str, ...], policy: str
    ) -> None:
        play = Play(
            {
                "MAIL FROM:<bad@": "550 5.7.1 not you",
                "RCPT TO:<bad@": "550 5.1.1 nobody",
                "RCPT TO:<later@": "450 4.2.0 busy",
                "DATA": ["354 go"] * 50,
            },
            extensions,
        )
        server = scripted(play)
        senders = [("bad" if number % 7 == 3 else "ann") for number in range(42)]
        recipients = [
            ["ada", "bad"] if number % 5 == 1 else ["later"] if number % 5 == 2 else ["ada", "bob"]
            for number in range(42)
        ]
        mails = [
            (b"Subject: nr\r\n\r\n%d\r\n" % number, Envelope(f"{sender}@example.org", [f"{n}@example.com" for n in to]))
            for number, (sender, to) in enumerate(zip(senders, recipients, strict=True))
        ]
        receipts = twin(server.url, recipient_policy=policy, **PROBED).send_many(mails)
        expected = {"ada": Status.ACCEPTED, "bob": Status.ACCEPTED, "bad": Status.REJECTED, "later": Status.DEFERRED}
        for receipt, sender, to in zip(receipts, senders, recipients, strict=True):
            found = [outcome.status for outcome in receipt.outcomes]
            if sender == "bad":
                assert found == [Status.REJECTED] * len(to)
            elif policy == "all" and "bad" in to:
                assert found == [Status.DEFERRED, Status.REJECTED]
            else:
                assert found == [expected[name] for name in to]
        assert server.connections == 1


def test_a_window_is_shared_by_nobody(twin: Twin, scripted: Scripted) -> None:
    """Two streams at once have a connection each."""
    server = scripted(Play(extensions=CHUNKING))
    mailer = twin(server.url, **PROBED)
    if twin.name == "asyncio":
        streams = [mailer.stream([hello() for _ in range(40)]) for _ in range(2)]
        receipts = [receipt for pair in zip(*streams, strict=True) for receipt in pair]
    else:
        receipts = []
        threads = [
            threading.Thread(target=lambda: receipts.extend(mailer.send_many([hello() for _ in range(40)])))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(receipts) == 80
    assert all(receipt.ok for receipt in receipts)
    assert server.connections == 2
    assert len(server.handed_over) == 80


def test_a_reply_that_is_there_did_not_come_too_late(
    twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes receipts slowly finds the deadline of the others passed: they were answered long before.

    The first goes alone, and behind its receipt a whole window: 9, and one more for the first.
    """
    monkeypatch.setattr("smtpbackend.delivery.experience.PROBE_TIME", 0.0)  # else the deadline is too near for a probe
    server = scripted(Play(extensions=CHUNKING))
    mailer = twin(server.url, deadline=3.0, **PROBED)
    stream = iter(mailer.stream([hello(f"u{number}@example.com") for number in range(11)]))
    receipts = [next(stream), next(stream)]
    assert wait_until(lambda: len(server.handed_over) == 11, 20)
    time.sleep(3.1)
    receipts += stream
    assert [receipt.ok for receipt in receipts] == [True] * 11
    assert chunked(server) == 10


def test_a_server_that_answers_too_much_is_sent_one_message_after_the_other(twin: Twin, scripted: Scripted) -> None:
    """Only counting tells replies apart, and there it cannot be relied on: for the last message, nobody knows."""
    server = scripted(Play({".": ["250 ok"] * 7 + [b"250 ok\r\n250 ok\r\n", "250 ok"]}, CHUNKING))
    mailer = twin(server.url, **PROBED)
    receipts = mailer.send_many([hello(f"u{number}@example.com") for number in range(8)])
    assert [receipt.outcomes[0].status for receipt in receipts] == [Status.ACCEPTED] * 7 + [Status.IN_DOUBT]
    before = server.waits
    assert all(receipt.ok for receipt in mailer.send_many([hello() for _ in range(5)]))
    assert server.waits - before >= 2 * 5
    assert chunked(server) == 7
