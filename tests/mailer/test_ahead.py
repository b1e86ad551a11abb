"""What leaves ahead of its replies, through real sockets: waits are counted, and servers have the faults of real ones.

The faults are those of go-smtp, Courier, Dovecot and Exim; content is made to look like commands, and none is ever run.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from smtpbackend import Envelope, Status
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

    def test_cold_and_told_that_it_is_safe(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=(*CHUNKING, "AUTH PLAIN", "STARTTLS")), certificate="server", patience=0.05)
        mailer = twin(
            {"host": "127.0.0.1", "port": server.port, "tls": "required", "ca_file": str(ca.ca_file)},
            username="ann",
            password="secret",
            chunk_in_flight="always",
        )
        assert mailer.send(hello(*THREE)).ok
        assert server.waits == 7

    @pytest.mark.parametrize("recipients", [1, 3, 100])
    @pytest.mark.parametrize(
        ("extensions", "policy", "waits"),
        [(CHUNKING, "any", 1), (EXTENSIONS, "any", 2), (CHUNKING, "all", 2), (("CHUNKING",), "any", None)],
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
        server = scripted(Play(extensions=extensions), patience=0.02)
        mailer = twin(server.url, recipient_policy=policy)
        assert mailer.send(hello()).ok
        before = server.waits
        assert mailer.send(hello(*(f"r{number}@example.com" for number in range(recipients)))).ok
        assert server.waits - before == (waits or recipients + 2)
        assert server.connections == 1

    def test_warm_after_a_silence(self, twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
        """Content waits for the replies to the recipients: the connection may be dead without anybody knowing."""
        monkeypatch.setattr("smtpbackend.delivery.dispatch.AWAKE", -1.0)
        server = scripted(Play(extensions=CHUNKING), patience=0.02)
        mailer = twin(server.url)
        assert mailer.send(hello()).ok
        before = server.waits
        assert mailer.send(hello(*THREE)).ok
        assert server.waits - before == 2

    def test_all_takes_two_without_chunking_three(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play(), patience=0.02)
        mailer = twin(server.url, recipient_policy="all")
        assert mailer.send(hello()).ok
        before = server.waits
        assert mailer.send(hello(*THREE)).ok
        assert server.waits - before == 3

    @pytest.mark.parametrize(("extensions", "most"), [(CHUNKING, 7), (EXTENSIONS, 103)])
    def test_a_hundred_messages(self, twin: Twin, scripted: Scripted, extensions: tuple[str, ...], most: int) -> None:
        """Behind EHLO: probe and envelope, content and RSET, then a window at a time."""
        server = scripted(Play(extensions=extensions), patience=0.02)
        receipts = twin(server.url).send_many([hello(*THREE, subject=f"nr {number}.") for number in range(100)])
        assert all(receipt.ok for receipt in receipts)
        assert server.connections == 1
        assert server.waits - 2 <= most
        subjects = [mail.content.split(b"Subject: ")[1].split(b"\r\n")[0] for mail in server.handed_over]
        assert subjects == [b"nr %d." % number for number in range(100)]


class TestContentIsNeverRun:
    """By a server that reads a refused chunk as commands, whatever it says to the probe (DESIGN 5.1)."""

    @pytest.mark.parametrize(
        "answers",
        [
            {},
            {"BDAT 1": "250 2.0.0 taken"},
            {"BDAT 1": "500 5.5.1 what"},
            {"BDAT 1": ["503 5.5.1 no", CUT]},
        ],
        ids=["503", "250", "500", "once"],
    )
    @pytest.mark.parametrize("refused", ["RCPT", "MAIL"])
    def test_who_does_not_discard(self, twin: Twin, scripted: Scripted, answers: dict[str, Any], refused: str) -> None:
        play = Play({**answers, refused: "550 5.7.1 no"}, CHUNKING, faults=[Fault.READS_REFUSED_CHUNKS])
        server = scripted(play)
        mailer = twin(server.url)
        receipts = mailer.send_many([disguised(), disguised("ada@example.com"), disguised()])
        assert [receipt.accepted for receipt in receipts] == [()] * 3
        assert executed(server) == []
        assert taken(server) == []

    @pytest.mark.parametrize("how", [CUT, SILENCE, "421 4.7.0 goodbye"])
    def test_who_hangs_up_on_the_probe_is_asked_once(self, twin: Twin, scripted: Scripted, how: Any) -> None:
        """The message goes out on a second connection, without it; nobody is blamed, and the third needs no second."""
        server, other = scripted(Play({"BDAT 1": how}, CHUNKING)), scripted()
        events: list[str] = []
        mailer = twin(
            server.url, other.url, timeout={"reused": 0.2}, listeners=[lambda event: events.append(event.name)]
        )
        for _ in range(3):
            receipt = mailer.send(disguised()[0], disguised()[1])
            assert receipt.server == server.name
            assert receipt.ok
        assert server.connections == 2
        assert "server_failed" not in events
        assert len(server.handed_over) == 3

    def test_who_changes_behind_a_balancer_is_asked_on_each_connection(self, twin: Twin, scripted: Scripted) -> None:
        """The first connection discards, the second does not: what one has proven says nothing of the next."""
        good = Play({"RCPT": "550 5.1.1 nobody"}, CHUNKING)
        bad = Play({"RCPT": "550 5.1.1 nobody"}, CHUNKING, faults=[Fault.READS_REFUSED_CHUNKS])
        server = scripted(good, bad, good, bad)
        mailer = twin(server.url, max_messages=2)
        receipts = mailer.send_many([disguised() for _ in range(8)])
        assert all(receipt.rejected for receipt in receipts)
        assert server.connections == 4
        assert executed(server) == []
        for speaker in server.speakers:
            assert speaker.commands.count("BDAT 1") == 1

    def test_a_proven_connection_discards_what_is_refused_in_the_middle_of_a_window(
        self, twin: Twin, scripted: Scripted
    ) -> None:
        server = scripted(Play({"RCPT TO:<bad@": "550 5.1.1 nobody"}, CHUNKING))
        mails = [disguised("bad@example.com" if number % 3 == 1 else "bob@example.com") for number in range(30)]
        receipts = twin(server.url).send_many(mails)
        assert [bool(receipt.accepted) for receipt in receipts] == [number % 3 != 1 for number in range(30)]
        assert executed(server) == []
        assert len(taken(server)) == 20
        assert server.connections == 1


class TestWindowByProof:
    """Courier, Dovecot and Exim, as they were seen to behave (DESIGN 5.2)."""

    @pytest.mark.parametrize("extensions", [EXTENSIONS, CHUNKING])
    def test_a_server_that_swallows_what_follows_the_dot(
        self, twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, extensions: tuple[str, ...]
    ) -> None:
        """Courier: the first message is accepted, nothing is in doubt, and the rest goes out one at a time."""
        monkeypatch.setattr("smtpbackend.protocol.delivering.OVERLAP_PATIENCE", 0.2)
        server = scripted(Play(extensions=extensions, faults=[Fault.SWALLOWS_BEHIND_DOT]))
        events: list[str] = []
        mailer = twin(server.url, listeners=[lambda event: events.append(event.name)], timeout=5)
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
        assert all(receipt.ok for receipt in twin(server.url).send_many([hello() for _ in range(50)]))
        assert server.connections == 1

    def test_a_server_that_keeps_the_old_sender(self, twin: Twin, scripted: Scripted) -> None:
        """Exim: nobody's mail goes out with somebody else's sender."""
        server = scripted(Play({"RCPT TO:<bad@": "550 5.1.1 nobody"}, CHUNKING, faults=[Fault.KEEPS_SENDER]))
        mails = [
            (b"Subject: x\r\n\r\n%d\r\n" % number, Envelope(f"s{number}@example.org", [to]))
            for number in range(40)
            for to in ["bad@example.com" if number % 4 == 2 else "bob@example.com"]
        ]
        receipts = twin(server.url).send_many(mails)
        assert [bool(receipt.accepted) for receipt in receipts] == [number % 4 != 2 for number in range(40)]
        for mail in taken(server):
            number = int(mail.content.split(b"\r\n\r\n")[1])
            assert f"<s{number}@" in mail.mail

    def test_a_server_that_crashes_on_rset_amid_chunks(self, twin: Twin, scripted: Scripted) -> None:
        """Exim: a large message whose chunk is refused ends with its connection, and never with RSET."""
        play = Play({"BDAT 2": "452 4.3.1 full"}, CHUNKING, faults=[Fault.CRASHES_ON_RSET_AMID_CHUNKS])
        server = scripted(play)
        large = (b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n", Envelope(SENDER, ["bob@example.com"]))
        huge = (b"Subject: x\r\n\r\n" + (b"x" * 70 + b"\r\n") * 20_000, Envelope(SENDER, ["bob@example.com"]))
        receipts = twin(server.url).send_many([large, huge, large])
        assert [receipt.outcomes[0].status for receipt in receipts] == [
            Status.ACCEPTED,
            Status.DEFERRED,
            Status.ACCEPTED,
        ]
        for speaker in server.speakers:
            chunks = [place for place, line in enumerate(speaker.commands) if line.startswith("BDAT 2")]
            assert all(speaker.commands[place + 1 : place + 2] != ["RSET"] for place in chunks)

    def test_neither_side_waits_for_the_other_to_read(self, twin: Twin, scripted: Scripted) -> None:
        """Thousands of recipients: replies pile up while commands do (RFC 2920 3.1)."""
        server = scripted(Play(extensions=CHUNKING))
        to = [f"recipient-{number}-of-a-long-list@example.com" for number in range(3000)]
        receipts = twin(server.url, timeout=20).send_many([hello(*to), hello(*to)])
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
        receipts = twin(server.url, recipient_policy=policy).send_many(mails)
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
    mailer = twin(server.url)
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


def test_a_reply_that_is_there_did_not_come_too_late(twin: Twin, scripted: Scripted) -> None:
    """Who takes receipts slowly finds the deadline of the others passed: they were answered long before."""
    server = scripted(Play(extensions=CHUNKING))
    mailer = twin(server.url, deadline=1.0)
    stream = iter(mailer.stream([hello(f"u{number}@example.com") for number in range(12)]))
    receipts = [next(stream), next(stream)]
    assert wait_until(lambda: len(server.handed_over) == 12, 10)
    time.sleep(1.1)
    receipts += stream
    assert [receipt.ok for receipt in receipts] == [True] * 12


def test_a_server_that_answers_too_much_is_sent_one_message_after_the_other(twin: Twin, scripted: Scripted) -> None:
    """Only counting tells replies apart, and there it cannot be relied on: for the last message, nobody knows."""
    server = scripted(Play({".": ["250 ok"] * 7 + [b"250 ok\r\n250 ok\r\n", "250 ok"]}, CHUNKING))
    mailer = twin(server.url)
    receipts = mailer.send_many([hello(f"u{number}@example.com") for number in range(8)])
    assert [receipt.outcomes[0].status for receipt in receipts] == [Status.ACCEPTED] * 7 + [Status.IN_DOUBT]
    before = server.waits
    assert all(receipt.ok for receipt in mailer.send_many([hello() for _ in range(5)]))
    assert server.waits - before >= 2 * 5
