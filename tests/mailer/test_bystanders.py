"""Servers that end connections, count connections or punish errors: nobody pays for another's reply (DESIGN 4.4).

Replies and connections are counted; no time decides.
"""

from __future__ import annotations

import smtplib
from typing import Any

import pytest

from smtpbackend import Receipt, Status
from smtpbackend.testing import CUT, EXTENSIONS, HANG_UP, RESET, SILENCE, Play, ScriptedServer, delay
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Driven, Twin, hello, send_all
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates

A, D, R = Status.ACCEPTED, Status.DEFERRED, Status.REJECTED
POSTFIX = "220 mx.example.com ESMTP Postfix"  # takes the probe, so that content leaves by BDAT
NO = "550 5.1.1 unknown"
BY = {"DATA": EXTENSIONS, "BDAT": (*EXTENSIONS, "CHUNKING")}
WAYS = [("one by one", 32), ("list", 1), ("list", 8), ("list", 32)]


@pytest.fixture(params=list(BY))
def by(request: pytest.FixtureRequest) -> str:
    """What content leaves by."""
    name: str = request.param
    return name


def play(by: str, answers: dict[str, Any], **options: Any) -> Play:
    """A server that looks like Postfix and refuses whoever is dead."""
    return Play({"": POSTFIX, "RCPT TO:<dead": NO, **answers}, extensions=BY[by], **options)


def send(mailer: Driven, to: list[str], way: str) -> list[Receipt]:
    """A message to each, as a list or one after the other."""
    return send_all(mailer, [hello(address) for address in to], way != "list")


def names(count: int, other: str = "", every: int = 1, at: int = -1) -> list[str]:
    """``count`` addresses; of ``every`` so many the one at place ``at`` is another."""
    return [f"{other if number % every == at else 'u'}{number}@example.com" for number in range(count)]


def statuses(receipts: list[Receipt]) -> list[Status]:
    return [outcome.status for receipt in receipts for outcome in receipt.outcomes]


def attempts(receipts: list[Receipt]) -> set[int]:
    return {outcome.attempts for receipt in receipts for outcome in receipt.outcomes}


def taken(*servers: ScriptedServer) -> list[str]:
    """Whom the contents were for that the servers took."""
    return [
        line.partition("<")[2].partition(">")[0]
        for server in servers
        for transaction in server.taken
        for line in transaction.recipients
    ]


def count(server: ScriptedServer, verb: str) -> list[int]:
    """How often each connection heard a command."""
    return [speaker.verbs.count(verb) for speaker in server.speakers]


class TestRefusedReset:
    """Exim answers a RSET with 554 and hangs up behind ten of them (smtp_accept_max_nonmail)."""

    @pytest.mark.parametrize("end", ["fin", "rst", "ragged"])
    @pytest.mark.parametrize("window", [2, 8, 32])
    def test_whatever_is_in_flight_behind_it_is_sent_again(
        self, twin: Twin, scripted: Scripted, ca: Certificates, by: str, end: str, window: int
    ) -> None:
        """It was not read: nobody is in doubt, and to nobody it is an attempt."""
        tls = end == "ragged"
        # a client that has not read the refusal when the RST comes will never read it
        deeds = (delay(1.0), RESET) if end == "rst" else (HANG_UP, SILENCE)
        resets = ["250 reset"] * 4 + [("554 Too many nonmail commands", *deeds)]
        server = scripted(
            play(by, {"RSET": resets}, implicit_tls=tls),
            play(by, {}, implicit_tls=tls),
            certificate="server" if tls else None,
        )
        where = {"tls": "implicit", "ca_file": str(ca.ca_file)} if tls else {"tls": "none"}
        events: list[Any] = []
        mailer = twin({"host": "127.0.0.1", "port": server.port, **where}, window=window, listeners=[events.append])
        receipts = send(mailer, to := names(30, "dead", 2, 1), "list")
        assert statuses(receipts) == [A, R] * 15
        assert attempts(receipts) == {1}
        assert sorted(taken(server)) == sorted(to[::2])
        assert server.connections >= 2
        assert "server_failed" not in [event.name for event in events]

    @pytest.mark.parametrize(("way", "window"), WAYS)
    def test_on_every_connection(self, twin: Twin, scripted: Scripted, by: str, way: str, window: int) -> None:
        server = scripted(
            play(by, {"RSET": ["250 reset"] * 10 + [("554 Too many nonmail commands", HANG_UP, SILENCE)]})
        )
        receipts = send(twin(server.url, window=window), to := names(60, "dead", 2, 1), way)
        assert statuses(receipts) == [A, R] * 30
        assert sorted(taken(server)) == sorted(to[::2])

    @pytest.mark.parametrize("reply", ["421 4.7.0 Error: too many errors", "554 5.7.1 no more", "502 5.5.1 what"])
    def test_any_last_word_to_rset_is_no_message_s(self, twin: Twin, scripted: Scripted, by: str, reply: str) -> None:
        server = scripted(play(by, {"RSET": ["250 reset"] * 4 + [(reply, HANG_UP, SILENCE)]}), play(by, {}))
        receipts = send(twin(server.url), to := names(30), "list")
        assert statuses(receipts) == [A] * 30
        assert attempts(receipts) == {1}
        assert sorted(taken(server)) == sorted(to)

    def test_a_bare_close_there_tells_nothing(self, twin: Twin, scripted: Scripted) -> None:
        """What had been handed over may have been taken: it is not sent again."""
        server = scripted(play("BDAT", {"RSET": ["250 reset"] * 4 + [CUT]}), play("BDAT", {}))
        receipts = send(twin(server.url, window=4), names(20), "list")
        assert Status.IN_DOUBT in statuses(receipts)
        arrived = taken(server)
        assert len(arrived) == len(set(arrived))


class TestClosedAtOneMessage:
    """Postfix's smtpd_hard_error_limit, or an access table that says 421."""

    @pytest.mark.parametrize(("way", "window"), WAYS)
    def test_at_every_tenth(self, twin: Twin, scripted: Scripted, by: str, way: str, window: int) -> None:
        """The others go out; these end with the words of the server."""
        server = scripted(play(by, {"RCPT TO:<gone": ("421 4.7.0 go away", HANG_UP, SILENCE)}))
        receipts = send(twin(server.url, window=window), to := names(60, "gone", 10, 7), way)
        assert statuses(receipts) == [D if number % 10 == 7 else A for number in range(60)]
        assert sorted(taken(server)) == sorted(address for address in to if address.startswith("u"))
        for receipt in receipts[7::10]:
            reply = receipt.outcomes[0].reply
            assert reply is not None
            assert (reply.code, reply.enhanced, reply.text) == (421, (4, 7, 0), "go away")
            assert receipt.outcomes[0].attempts == 2
        assert attempts([receipt for receipt in receipts if receipt.ok]) == {1}
        assert sum(command.startswith("RCPT TO:<gone") for command in server.commands) == 12  # each twice

    @pytest.mark.parametrize("where", ["MAIL FROM:<gone", "RCPT TO:<gone"])
    def test_it_is_tried_once_more_and_then_elsewhere(
        self, twin: Twin, scripted: Scripted, by: str, where: str
    ) -> None:
        one, other = scripted(play(by, {where: ("421 4.7.0 go away", HANG_UP, SILENCE)})), scripted()
        to = names(20, "gone", 20, 5)
        messages = [hello(address) for address in to]
        if where.startswith("MAIL"):
            messages[5] = hello(to[5], from_="gone@example.org")
        receipts = twin(one.url, other.url).send_many(messages)
        assert statuses(receipts) == [A] * 20
        assert taken(other) == [to[5]]
        assert sorted(taken(one, other)) == sorted(to)
        assert sum(command.startswith(where) for command in one.commands) == 2

    def test_a_connection_that_settles_one_of_many_recipients_earns_the_next(
        self, twin: Twin, scripted: Scripted, by: str
    ) -> None:
        """Sixty recipients of one message, forty of them dead, and 421 at the thirtieth reply of each connection."""
        server = scripted(play(by, {}, goodbye_after=30))
        to = [f"{'u' if number % 3 == 2 else 'dead'}{number}@example.com" for number in range(60)]
        receipt = twin(server.url).send(hello(*to))
        assert statuses([receipt]) == [R, R, A] * 20
        assert sorted(taken(server)) == sorted(to[2::3])


class TestMessagesOfAConnection:
    """Exim's smtp_accept_max_per_connection."""

    @pytest.mark.parametrize(("way", "window"), WAYS)
    def test_a_server_that_ended_two_at_the_same_number_is_kept_below_it(
        self, twin: Twin, scripted: Scripted, by: str, way: str, window: int
    ) -> None:
        last = ("421 too many messages in this connection", HANG_UP, SILENCE)
        server = scripted(play(by, {"MAIL": ["250 ok"] * 7 + [last]}))
        mailer = twin(server.url, window=window)
        receipts = send(mailer, to := names(60), way)
        assert statuses(receipts) == [A] * 60
        assert sorted(taken(server)) == sorted(to)
        assert [len(speaker.taken) for speaker in server.speakers] == [7] * 8 + [4]
        assert count(server, "MAIL")[2:] == [7] * 6 + [4]
        mailer.close()
        send(mailer, to, way)
        assert count(server, "MAIL")[9:] == [7] * 8 + [4]


class TestServersThatAreDown:
    def test_421_to_the_first_mail_is_a_failure(self, twin: Twin, scripted: Scripted, by: str) -> None:
        """It is told once, and the next server takes all."""
        bad, good = scripted(play(by, {"MAIL": ("421 4.7.0 not now", HANG_UP, SILENCE)})), scripted(play(by, {}))
        events: list[Any] = []
        receipts = send(twin(bad.url, good.url, listeners=[events.append]), to := names(30), "list")
        assert statuses(receipts) == [A] * 30
        assert taken(good) == to
        assert bad.connections == 1
        failed = [event for event in events if event.name == "server_failed"]
        assert [(event.server, event.phase) for event in failed] == [(bad.name, "mail")]

    @pytest.mark.parametrize(("way", "window"), WAYS)
    def test_so_are_three_connections_in_a_row_that_settled_nobody(
        self, twin: Twin, scripted: Scripted, by: str, way: str, window: int
    ) -> None:
        """A message that went on to the next server is not settled by this one."""
        bad, good = scripted(play(by, {"RCPT": ("421 4.7.0 not now", HANG_UP, SILENCE)})), scripted(play(by, {}))
        events: list[Any] = []
        mailer = twin(bad.url, good.url, window=window, listeners=[events.append])
        receipts = send(mailer, to := names(30), way)
        assert statuses(receipts) == [A] * 30
        assert sorted(taken(good)) == sorted(to)
        if way == "list":
            assert bad.connections == 3
            failed = [event for event in events if event.name == "server_failed"]
            assert [(event.server, event.phase) for event in failed] == [(bad.name, "rcpt")]

    @pytest.mark.parametrize(("way", "window"), WAYS)
    def test_where_there_is_no_other_each_ends_with_its_own_reply(
        self, twin: Twin, scripted: Scripted, by: str, way: str, window: int
    ) -> None:
        """Behind two connections at most."""
        server = scripted(play(by, {"RCPT": ("421 4.7.0 not now", HANG_UP, SILENCE)}))
        receipts = send(twin(server.url, window=window), names(12), way)
        assert statuses(receipts) == [D] * 12
        replies = [receipt.outcomes[0].reply for receipt in receipts]
        assert [reply.code if reply else None for reply in replies] == [421] * 12
        assert server.connections <= 24


class TestTooManyConnections:
    """Microsoft 365 takes three at a time and tells it late; we would open four."""

    @pytest.mark.parametrize(
        ("where", "reply"),
        [
            ("", "421 4.3.2 Too many concurrent connections"),
            ("", "432 4.3.2 Concurrent connections limit exceeded"),
            ("MAIL", "432 4.3.2 Concurrent connections limit exceeded"),
            (".", "432 4.3.2 Concurrent connections limit exceeded. Visit https://example.com/x"),
        ],
    )
    def test_the_mail_waits_for_a_connection_of_ours(
        self, twin: Twin, scripted: Scripted, where: str, reply: str
    ) -> None:
        def took(line: str) -> str:
            assert wait_until(lambda: server.connections == 4, 10)  # else a fourth one might not be wanted
            return "250 2.0.0 ok"

        taking = Play({".": took})
        server = scripted(taking, taking, taking, Play({where: (reply, *([CUT] if where == "" else []))}))
        to = names(12)
        results = twin(server.url).send_at_once([hello(address) for address in to])
        assert [result.ok if isinstance(result, Receipt) else result for result in results] == [True] * 12
        assert sorted(taken(server)) == sorted(to)
        assert server.connections == 4

    @pytest.mark.parametrize("where", ["MAIL", "."])
    def test_where_none_of_ours_is_open_it_is_the_reply(self, twin: Twin, scripted: Scripted, where: str) -> None:
        server = scripted({where: "432 4.3.2 Concurrent connections limit exceeded"})
        [receipt] = send(twin(server.url), names(1), "one by one")
        reply = receipt.outcomes[0].reply
        assert receipt.outcomes[0].status is D
        assert reply is not None
        assert (reply.code, reply.enhanced) == (432, (4, 3, 2))


class TestTarpit:
    """Exchange delays each reply behind an error (TarpitInterval, 5 s): it is not asked for a proof."""

    OFFERED = ("SIZE 37748736", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES", "8BITMIME", "BINARYMIME", "CHUNKING")

    def exchange(self, errors: list[str]) -> Play:
        def punished(line: str) -> Any:
            errors.append(line)
            return "503 5.5.2 Need mail command"

        greeting = "220 ex.example.com Microsoft ESMTP MAIL Service ready"
        return Play({"": greeting, "BDAT": punished, "X": punished, "RSET": "250 2.0.0 Resetting"}, self.OFFERED)

    def test_no_reply_is_delayed_and_smtplib_waits_longer(self, twin: Twin, scripted: Scripted) -> None:
        errors: list[str] = []
        server = scripted(self.exchange(errors), patience=0.05)
        with smtplib.SMTP(server.host, server.port) as client:
            for _ in range(3):
                client.sendmail(SENDER, ["bob@example.com"], b"Subject: x\r\n\r\nHello\r\n")
        theirs = server.waits
        mailer = twin(server.url)
        for _ in range(3):
            assert mailer.send(hello()).ok
        mailer.close()
        assert server.waits - theirs < theirs
        assert errors == []

    def test_nor_in_a_list(self, twin: Twin, scripted: Scripted) -> None:
        errors: list[str] = []
        server = scripted(self.exchange(errors))
        receipts = send(twin(server.url), to := names(30), "list")
        assert statuses(receipts) == [A] * 30
        assert taken(server) == to
        assert errors == []
