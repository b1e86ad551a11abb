"""Connections are kept and reused, and a dead one is replaced without anybody noticing."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from smtpbackend.delivery.statistics import Statistics
from smtpbackend.errors import ConnectFailed, ConnectionLost, InDoubt, TimedOut
from smtpbackend.testing import CUT, SILENCE, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Driven, Twin, hello
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates


class TestReuse:
    def test_messages_share_a_connection(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        for _ in range(3):
            assert mailer.send(hello()).ok
        assert server.connections == 1
        assert server.speakers[0].verbs.count("EHLO") == 1
        assert "NOOP" not in server.speakers[0].verbs

    def test_a_refused_message_leaves_a_connection_that_is_used_again(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(Play({"RCPT": ["550 no", "250 ok"]}, extensions=()))
        mailer = twin(server.url)
        with pytest.raises(Exception, match="550"):
            mailer.send(hello())
        assert mailer.send(hello()).ok
        assert server.connections == 1
        assert server.speakers[0].verbs == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA"]

    def test_close_says_quit_and_the_mailer_opens_anew(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        mailer.send(hello())
        mailer.close()
        server.wait_for_end()
        assert server.speakers[0].verbs[-1] == "QUIT"
        assert mailer.send(hello()).ok
        assert server.connections == 2

    def test_a_server_that_does_not_answer_quit_is_left(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"QUIT": CUT})
        mailer = twin(server.url)
        mailer.send(hello())
        mailer.close()
        mailer.close()
        server.wait_for_end()

    def test_a_connection_has_its_number_of_messages(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url, max_messages=2)
        for _ in range(5):
            mailer.send(hello())
        assert [len(speaker.handed_over) for speaker in server.speakers] == [2, 2, 1]
        assert server.speakers[0].verbs[-1] == "QUIT"

    def test_also_within_send_many(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        receipts = twin(server.url, max_messages=2).send_many(hello() for _ in range(5))
        assert all(receipt.ok for receipt in receipts)
        assert [len(speaker.handed_over) for speaker in server.speakers] == [2, 2, 1]

    def test_an_idle_connection_has_its_time(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url, max_idle=1e-9)
        mailer.send(hello())
        mailer.send(hello())
        assert server.connections == 2
        assert server.speakers[0].verbs[-1] == "QUIT"

    def test_every_connection_is_in_use_at_most_once(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url, max_connections=2)
        results = mailer.send_at_once([hello(subject=str(n)) for n in range(12)])
        assert all(result.ok for result in results)  # type: ignore[union-attr]
        assert 1 <= server.connections <= 2
        assert len(server.handed_over) == 12

    def test_a_fresh_one_takes_the_place_of_an_idle_one(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url, max_connections=1)
        mailer.connect()
        connection = mailer.on_pool("lease", mailer.raw.configuration.servers[0], True, None)
        assert not connection.reused
        assert server.speakers[0].verbs[-1] == "QUIT"
        connection.session.end("of a test")
        mailer.on_pool("release", connection)
        assert mailer.send(hello()).ok
        assert server.connections == 3

    def test_two_mailers_share_nothing(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        for _ in range(2):
            twin(server.url).send(hello())
        assert server.connections == 2


class TestThePeek:
    """Before it is used again a connection is looked at, without a round trip (DESIGN 4.5)."""

    def test_what_the_server_closed_is_replaced(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        mailer.send(hello())
        server.cut()
        assert mailer.send(hello()).ok
        assert server.connections == 2
        assert len(server.handed_over) == 2

    def test_what_has_a_421_waiting_is_replaced(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted()
        mailer = twin(server.url)
        mailer.send(hello())
        server.say(b"421 4.4.2 idle for too long\r\n")
        receipt = mailer.send(hello())
        assert receipt.ok
        assert server.connections == 2
        assert server.speakers[0].verbs.count("MAIL") == 1

    def test_a_line_behind_the_last_reply_is_bad_news_too(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({".": "250 ok\n421 4.3.2 shutting down"})
        mailer = twin(server.url)
        assert mailer.send(hello()).ok
        assert mailer.send(hello()).ok
        assert server.connections == 2

    def test_also_inside_tls(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play(extensions=("STARTTLS",)), certificate="server")
        mailer = twin({"host": "127.0.0.1", "port": server.port, "tls": "required", "ca_file": str(ca.ca_file)})
        mailer.send(hello())
        server.say(b"421 4.4.2 idle for too long\r\n")
        assert mailer.send(hello()).ok
        server.cut()
        assert mailer.send(hello()).ok
        assert server.connections == 3

    def test_a_line_behind_the_reply_inside_tls(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(Play({".": ("250 ok", b"421 bye\r\n")}, extensions=("STARTTLS",)), certificate="server")
        mailer = twin({"host": "127.0.0.1", "port": server.port, "tls": "required", "ca_file": str(ca.ca_file)})
        assert mailer.send(hello()).ok
        assert mailer.send(hello()).ok
        assert server.connections == 2


class TestLostWhileReused:
    @pytest.mark.parametrize("how", [CUT, "421 4.4.2 idle for too long", SILENCE, b"\x00\r\n"])
    def test_a_message_is_replayed_on_a_fresh_connection_to_the_same_server(
        self, twin: Twin, scripted: Scripted, how: object
    ) -> None:
        server, other = scripted({"RSET": how}, {}), scripted()
        events: list[object] = []
        mailer = twin(server.url, other.url, timeout={"reused": 0.2}, listeners=[events.append])
        mailer.send(hello(subject="first"))
        receipt = mailer.send(hello(subject="second"))
        assert receipt.ok
        assert receipt.server == server.name
        assert len(server.handed_over) == 2
        assert other.connections == 0
        assert [event.name for event in events if event.name == "server_failed"] == []  # type: ignore[attr-defined]

    def test_a_fresh_connection_that_dies_too_moves_on(self, twin: Twin, scripted: Scripted) -> None:
        server, other = scripted({"MAIL": ["250 ok", CUT]}, {"MAIL": CUT}), scripted()
        mailer = twin(server.url, other.url)
        mailer.send(hello())
        assert mailer.send(hello()).server == other.name
        assert server.connections == 2

    def test_a_question_is_put_again(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"VRFY": CUT}, {})
        mailer = twin(server.url)
        mailer.connect()
        assert mailer.verify("bob").code == 252
        assert server.connections == 2

    def test_a_question_to_a_fresh_connection_is_not(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"VRFY": CUT})
        with pytest.raises(ConnectionLost):
            twin(server.url).verify("bob")
        assert server.connections == 1


class TestWaiting:
    def test_those_who_wait_are_served_in_the_order_in_which_they_came(self, twin: Twin, scripted: Scripted) -> None:
        """One connection, held by a message whose reply is late."""
        go_on = threading.Event()

        def late(_: str) -> str:
            go_on.wait(20)
            return "250 ok"

        server = scripted({".": [late, "250 ok"]})
        mailer = twin(server.url, max_connections=1, timeout=30)
        results: list[object] = []

        def send_all() -> None:
            results.extend(mailer.send_at_once([hello(subject=f"nr {number}.") for number in range(6)]))

        waiting = threading.Thread(target=send_all)
        waiting.start()
        assert wait_until(lambda: mailer.raw.stats().waiting == 5, 10)
        shelf = next(iter(pool_of(mailer)._shelves.values()))
        assert (shelf.open, len(shelf.idle)) == (1, 0)
        go_on.set()
        waiting.join(30)
        assert all(result.ok for result in results)  # type: ignore[attr-defined]
        if twin.name == "asyncio":  # threads do not come in the order in which they are started
            subjects = [
                transaction.content.split(b"Subject: ")[1].split(b"\r\n")[0] for transaction in server.handed_over
            ]
            assert subjects == [b"nr %d." % number for number in range(6)]
        assert server.connections == 1

    def test_no_longer_than_the_deadline(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({".": SILENCE})
        mailer = twin(server.url, max_connections=1, deadline=0.5)
        first, second = mailer.send_at_once([hello(), hello()])
        # that of the message that had the connection; the other waited, or had the last moment of it
        assert any(isinstance(error, InDoubt) for error in (first, second))
        assert all(isinstance(error, InDoubt | TimedOut | ConnectFailed) for error in (first, second))
        assert mailer.raw.stats().waiting == 0


class TestGoodbye:
    def test_however_many_are_closed_it_takes_a_second(self, twin: Twin, scripted: Scripted) -> None:
        """A server that does not answer QUIT; one second each would be half a minute."""
        server = scripted({"QUIT": SILENCE, ".": delayed})
        mailer = twin(server.url, max_connections=30)
        assert all(result.ok for result in mailer.send_at_once([hello()] * 30))  # type: ignore[union-attr]
        connections = mailer.raw.stats().idle
        assert connections > 10
        begun = time.monotonic()
        mailer.close()
        assert time.monotonic() - begun < connections / 2
        server.wait_for_end()
        assert [speaker.verbs.count("QUIT") for speaker in server.speakers] == [1] * connections
        assert mailer.raw.stats().open == 0


class TestStatistics:
    def test_connections_and_what_was_done_are_counted(self, twin: Twin, scripted: Scripted) -> None:
        first, second = scripted({"RCPT TO:<later@": "450 later", "RCPT TO:<no@": "550 no"}), scripted()
        mailer = twin(first.url, second.url)
        assert mailer.raw.stats() == Statistics()
        mailer.send(hello())
        mailer.send(hello("later@example.com", "no@example.com", "bob@example.com"))
        assert mailer.raw.stats() == Statistics(open=2, idle=2, waiting=0, sent=2, refused=1, failed_over=1)
        mailer.close()
        assert mailer.raw.stats() == Statistics(open=0, idle=0, waiting=0, sent=2, refused=1, failed_over=1)

    def test_a_server_that_is_down_is_a_move(self, twin: Twin, scripted: Scripted) -> None:
        mailer = twin(scripted({"": "554 no"}).url, scripted().url)
        mailer.send(hello())
        assert mailer.raw.stats().failed_over == 1


class TestRate:
    def test_it_is_shared_by_all_who_send(self, twin: Twin, scripted: Scripted) -> None:
        """Two at once may go, the rest waits for its turn, and gives up at its deadline."""
        server = scripted()
        mailer = twin(server.url + "&rate=2", deadline=0.4, max_connections=8)
        results = mailer.send_at_once([hello() for _ in range(8)])
        sent = [result for result in results if not isinstance(result, BaseException)]
        assert 2 <= len(sent) < 8
        assert len(server.handed_over) == len(sent)
        for result in results:
            if isinstance(result, BaseException):
                assert isinstance(result, TimedOut)
                assert "rate in the URL (2 a second)" in str(result)


class TestCrowd:
    def test_a_server_that_has_too_many_connections_gets_no_more(self, twin: Twin, scripted: Scripted) -> None:
        """DESIGN 4.4: one of ours will be free; the server is well and does not rest."""
        crowd = Play({"": "421 4.7.0 mx.example.com Error: too many connections from 127.0.0.1"})
        welcome = Play({".": delayed})
        server, other = scripted(welcome, welcome, crowd), scripted()
        events: list[str] = []
        mailer = twin(server.url, other.url, max_connections=8, listeners=[lambda event: events.append(event.name)])
        results = mailer.send_at_once([hello() for _ in range(8)])
        assert [result.server for result in results] == [server.name] * 8  # type: ignore[union-attr]
        assert "server_failed" not in events
        assert other.connections == 0


def delayed(_: str) -> str:
    """Answers so late that others have come meanwhile."""
    time.sleep(0.05)
    return "250 ok"


def pool_of(mailer: Driven) -> Any:
    """Its pool; of an AsyncMailer that of the one loop."""
    raw = mailer.raw
    return next(iter(raw._pools.values())) if hasattr(raw, "_pools") else raw._pool
