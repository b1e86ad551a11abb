"""Service extensions: what is asked for goes out where it is offered, and is an error or a note where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from smtpbackend import Envelope, Recipient, Status
from smtpbackend.errors import ContentRefused, DeliveryError, NotSupported
from smtpbackend.testing import CUT, Play, ScriptedServer
from tests.conftest import missing_server
from tests.mailer.conftest import Scripted
from tests.mailer.test_postfix import at
from tests.mailer.twins import SENDER, Twin, hello
from tests.servers.postfix import Postfix
from tests.servers.tls import Certificates

TO = "bob@example.com"


def offering(*extensions: str, **answers: Any) -> Play:
    return Play(answers, extensions=("PIPELINING", *extensions))


def groups(server: ScriptedServer) -> list[list[str]]:
    """The recipients of each transaction, local parts only."""
    return [
        [line.partition("<")[2].partition("@")[0] for line in transaction.recipients]
        for transaction in server.handed_over
    ]


@pytest.fixture(scope="module")
def small_postfix(ca: Certificates) -> Iterator[Postfix]:
    """One that takes 20,000 octets."""
    if reason := Postfix.missing():
        missing_server(reason)
    with Postfix(ca, size_limit=20_000) as server:
        yield server


class TestSize:
    """RFC 1870."""

    @pytest.mark.servers
    def test_too_large_is_refused_here_with_both_figures(self, twin: Twin, small_postfix: Postfix) -> None:
        """RFC 1870 6.1: nothing is sent that is sure to be refused."""
        before = small_postfix.log.count("client=")
        with pytest.raises(NotSupported, match=r"has \d\d,\d{3} octets, .* takes at most 20,000 \(SIZE\)") as raised:
            twin(at(small_postfix)).send(hello(text="x" * 70 + "\n" + "0123456789\n" * 2_000))
        assert raised.value.receipt is not None
        assert [outcome.status for outcome in raised.value.receipt.outcomes] == [Status.FAILED]
        assert small_postfix.log.count("client=") == before  # MAIL was not said

    @pytest.mark.servers
    def test_a_server_that_does_not_tell_refuses_it_itself(self, twin: Twin, small_postfix: Postfix) -> None:
        with pytest.raises(ContentRefused, match=r"552 5\.3\.4"):
            twin(at(small_postfix, ignore_extensions="SIZE")).send(hello(text="0123456789\n" * 2_000))

    @pytest.mark.servers
    def test_what_fits_is_sent(self, twin: Twin, small_postfix: Postfix) -> None:
        assert twin(at(small_postfix)).send(hello(text="0123456789\n" * 1_000)).ok

    def test_the_next_server_may_take_it(self, twin: Twin, scripted: Scripted) -> None:
        small, large = scripted(offering("SIZE 100")), scripted(offering("SIZE 0"))
        receipt = twin(small.url, large.url).send(hello())
        assert receipt.server == large.name
        assert not any(command.startswith("MAIL") for command in small.commands)
        [size] = [word for word in large.handed_over[0].mail.split() if word.startswith("SIZE=")]
        assert int(size[5:]) == len(large.handed_over[0].content)  # RFC 1870 5: octets, CRLF counted, dots not


class TestInternational:
    """RFC 6152 and RFC 6531."""

    def test_8bitmime_and_smtputf8_where_they_are_offered(self, twin: Twin, postfix: Postfix) -> None:
        content = "From: ann@example.org\r\nSubject: Grüße\r\n\r\nGrüße\r\n".encode()
        receipt = twin(at(postfix)).send(content, Envelope("änn@example.org", ["jürgen@example.com"]))
        assert receipt.ok
        [mail] = postfix.mail(wait_for=1)
        assert "UTF8SMTPSA" in mail.received
        assert mail.content.startswith(content[:40])
        assert mail.return_path == "änn@example.org"

    @pytest.mark.parametrize(
        ("content", "sender", "what"),
        [
            ("Subject: x\r\n\r\nGrüße\r\n", SENDER, "8BITMIME"),
            ("Subject: Grüße\r\n\r\nx\r\n", SENDER, "SMTPUTF8"),
            ("Subject: x\r\n\r\nx\r\n", "änn@example.org", "SMTPUTF8"),
        ],
    )
    def test_where_they_are_not_it_is_refused_here(
        self, twin: Twin, postfix: Postfix, content: str, sender: str, what: str
    ) -> None:
        with pytest.raises(NotSupported, match=what):
            twin(at(postfix, port=postfix.basic_port)).send(content.encode(), Envelope(sender, [TO]))


class TestDeliveryStatus:
    """RFC 3461, RFC 6533."""

    ENVELOPE = Envelope(
        SENDER,
        [
            Recipient("bob@example.com", notify="SUCCESS", orcpt="b+b=c@example.net"),
            Recipient("carl@example.com", notify=("SUCCESS", "FAILURE"), orcpt="jürgen@exämple.net"),
            Recipient("dora@example.com", notify="NEVER"),
        ],
        dsn_return="HDRS",
        envid="no 1+1=2",
    )

    def test_a_real_server_reports_as_it_was_asked(self, twin: Twin, postfix: Postfix) -> None:
        """NOTIFY, ORCPT, ENVID and RET come back in Postfix's notification to the sender."""
        assert twin(at(postfix)).send(hello(text="the secret text\n"), self.ENVELOPE).notes == ()
        found = postfix.mail(wait_for=4)
        assert sorted(mail.delivered_to for mail in found if mail.return_path) == [
            "bob@example.com",
            "carl@example.com",
            "dora@example.com",
        ]
        reports = [mail.raw.decode() for mail in found if not mail.return_path]
        text = "".join(reports)
        assert all("Original-Envelope-Id: no 1+1=2" in report for report in reports)
        assert "Original-Recipient: rfc822;b+b=c@example.net" in text
        assert "Original-Recipient: utf-8;" in text
        assert "Final-Recipient: rfc822; dora@example.com" not in text
        assert "the secret text" not in text
        assert "Subject: Hello" in text

    def test_as_the_line_says_it(self, twin: Twin, scripted: Scripted) -> None:
        """xtext of RFC 3461 4; utf-8-addr-xtext of RFC 6533 3."""
        server = scripted(offering("DSN"))
        assert twin(server.url).send(hello(), self.ENVELOPE).notes == ()
        [mail, bob, carl, dora] = [c for c in server.commands if c.startswith(("MAIL", "RCPT"))]
        assert mail == f"MAIL FROM:<{SENDER}> RET=HDRS ENVID=no+201+2B1+3D2"
        assert bob == "RCPT TO:<bob@example.com> NOTIFY=SUCCESS ORCPT=rfc822;b+2Bb+3Dc@example.net"
        assert carl == ("RCPT TO:<carl@example.com> NOTIFY=SUCCESS,FAILURE ORCPT=utf-8;j\\x{FC}rgen@ex\\x{E4}mple.net")
        assert dora == "RCPT TO:<dora@example.com> NOTIFY=NEVER"

    def test_without_it_the_mail_goes_out_and_the_notes_say_so(self, twin: Twin, postfix: Postfix) -> None:
        receipt = twin(at(postfix, port=postfix.basic_port)).send(hello(), self.ENVELOPE)
        assert receipt.ok
        assert receipt.notes == ("DSN was asked for and is not offered",)


class TestFutureRelease:
    """RFC 4865."""

    LIMITS = "FUTURERELEASE 3600 2026-12-31T12:00:00Z"

    def test_for_a_time(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(offering(self.LIMITS))
        assert twin(server.url).send(hello(), Envelope(SENDER, [TO], hold_for=3600)).notes == ()
        assert server.handed_over[0].mail == f"MAIL FROM:<{SENDER}> HOLDFOR=3600"

    def test_until_a_date_whatever_its_zone(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(offering(self.LIMITS))
        until = datetime(2026, 12, 31, 14, 0, tzinfo=timezone(timedelta(hours=2)))
        twin(server.url).send(hello(), Envelope(SENDER, [TO], hold_until=until))
        assert server.handed_over[0].mail == f"MAIL FROM:<{SENDER}> HOLDUNTIL=2026-12-31T12:00:00Z"

    @pytest.mark.parametrize(
        ("asked", "why"),
        [
            ({"hold_for": 3601}, r"hold_for is 3601 s, and .* at most 3600 s"),
            (
                {"hold_until": datetime(2026, 12, 31, 12, 0, 1, tzinfo=UTC)},
                "hold_until is 2026-12-31T12:00:01Z, and .* allows 2026-12-31T12:00:00Z at the latest",
            ),
        ],
    )
    def test_longer_than_the_server_holds_is_refused_here(
        self, twin: Twin, scripted: Scripted, asked: dict[str, Any], why: str
    ) -> None:
        server = scripted(offering(self.LIMITS))
        with pytest.raises(NotSupported, match=why):
            twin(server.url).send(hello(), Envelope(SENDER, [TO], **asked))
        assert not any(command.startswith("MAIL") for command in server.commands)

    def test_without_it_nothing_is_sent_at_once(self, twin: Twin, postfix: Postfix) -> None:
        with pytest.raises(NotSupported, match="it would be sent at once"):
            twin(at(postfix)).send(hello(), Envelope(SENDER, [TO], hold_for=60))
        assert postfix.mail() == []


class TestRequireTLS:
    """RFC 8689."""

    ENVELOPE = Envelope(SENDER, [TO], require_tls=True)

    def test_it_is_asked_for_inside_tls(self, twin: Twin, scripted: Scripted, ca: Certificates) -> None:
        server = scripted(offering("STARTTLS", "REQUIRETLS"), certificate="server")
        mailer = twin({"host": "localhost", "port": server.port, "tls": "required", "ca_file": str(ca.ca_file)})
        assert mailer.send(hello(), self.ENVELOPE).ok
        assert server.handed_over[0].mail == f"MAIL FROM:<{SENDER}> REQUIRETLS"

    def test_an_offer_in_clear_is_none(self, twin: Twin, scripted: Scripted) -> None:
        """RFC 8689 4.1"""
        server = scripted(offering("REQUIRETLS"))
        with pytest.raises(NotSupported, match="is not connected by TLS"):
            twin(server.url).send(hello(), self.ENVELOPE)
        assert not server.handed_over

    def test_without_it_nothing_is_sent(self, twin: Twin, postfix: Postfix) -> None:
        with pytest.raises(NotSupported, match="offers no REQUIRETLS"):
            twin(at(postfix, ignore_extensions="REQUIRETLS")).send(hello(), self.ENVELOPE)
        assert postfix.mail() == []


class TestLimits:
    """RFC 9422."""

    FIVE = ("a@one.example", "b@two.example", "c@one.example", "d@three.example", "e@one.example")

    @pytest.mark.parametrize(
        ("limits", "expected"),
        [
            ("RCPTMAX=2", [["a", "b"], ["c", "d"], ["e"]]),
            ("RCPTDOMAINMAX=1", [["a", "c", "e"], ["b"], ["d"]]),
            ("RCPTDOMAINMAX=2 RCPTMAX=3", [["a", "c", "e"], ["b", "d"]]),
            ("RCPTMAX=5 RCPTDOMAINMAX=3 MAILMAX=9 X-OTHER=1", [["a", "c", "e", "b", "d"]]),
            ("RCPTMAX=0 RCPTMAX=x", [["a", "b", "c", "d", "e"]]),
        ],
    )
    def test_transactions_are_split_on_the_same_connection(
        self, twin: Twin, scripted: Scripted, limits: str, expected: list[list[str]]
    ) -> None:
        server = scripted(offering(f"LIMITS {limits}"))
        receipt = twin(server.url).send(hello(*self.FIVE))
        assert receipt.ok
        assert [outcome.attempts for outcome in receipt.outcomes] == [1] * 5
        assert groups(server) == expected
        assert server.connections == 1

    def test_after_mailmax_comes_a_fresh_connection(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(offering("LIMITS MAILMAX=2"))
        receipts = twin(server.url).send_many(hello(f"u{number}@example.com") for number in range(5))
        assert [receipt.ok for receipt in receipts] == [True] * 5
        assert [len(speaker.handed_over) for speaker in server.speakers] == [2, 2, 1]

    def test_a_kept_connection_counts_on(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(offering("LIMITS MAILMAX=2"))
        mailer = twin(server.url)
        assert all(mailer.send(hello()).ok for _ in range(5))
        assert [len(speaker.handed_over) for speaker in server.speakers] == [2, 2, 1]

    def test_a_split_goes_on_over_a_fresh_connection(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(offering("LIMITS RCPTMAX=1 MAILMAX=2"))
        assert twin(server.url).send(hello(*self.FIVE)).ok
        assert groups(server) == [["a"], ["b"], ["c"], ["d"], ["e"]]
        assert [len(speaker.handed_over) for speaker in server.speakers] == [2, 2, 1]

    def test_each_recipient_has_its_own_answer(self, twin: Twin, scripted: Scripted) -> None:
        answers = {"RCPT TO:<b@": "550 5.1.1 unknown", "RCPT TO:<d@": "450 4.2.1 later"}
        server, second = scripted(offering("LIMITS RCPTMAX=2", **answers)), scripted()
        receipt = twin(server.url, second.url).send(hello(*self.FIVE))
        accepted, rejected = Status.ACCEPTED, Status.REJECTED
        assert [outcome.status for outcome in receipt.outcomes] == [accepted, rejected, accepted, accepted, accepted]
        assert groups(server) == [["a"], ["c"], ["e"]]
        assert groups(second) == [["d"]]

    def test_content_turned_away_for_now_moves_all_the_rest_on(self, twin: Twin, scripted: Scripted) -> None:
        first = scripted(Play({".": ["250 ok", "451 4.3.0 later"]}, extensions=("LIMITS RCPTMAX=2",)))
        second = scripted()
        assert twin(first.url, second.url).send(hello(*self.FIVE)).ok
        assert groups(first) == [["a", "b"], ["c", "d"]]
        assert groups(second) == [["c", "d", "e"]]

    def test_a_refused_sender_is_refused_for_each(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(offering("LIMITS RCPTMAX=2", MAIL="550 5.1.8 no"))
        with pytest.raises(DeliveryError) as raised:
            twin(server.url).send(hello(*self.FIVE))
        assert raised.value.receipt is not None
        assert all(outcome.status is Status.REJECTED for outcome in raised.value.receipt.outcomes)

    def test_a_connection_lost_in_between_loses_nobody(self, twin: Twin, scripted: Scripted) -> None:
        limits = ("PIPELINING", "LIMITS RCPTMAX=2")
        server = scripted(Play({"MAIL": ["250 ok", CUT]}, limits), Play(extensions=limits))
        receipt = twin(server.url).send(hello(*self.FIVE))
        assert receipt.ok
        assert groups(server) == [["a", "b"], ["c", "d"], ["e"]]

    def test_nobody_is_tried_twice_on_one_server_and_all_on_the_next(self, twin: Twin, scripted: Scripted) -> None:
        """The fresh connection that MAILMAX asks for fails: those who waited, and those answered 4xx, go on."""
        limits = ("LIMITS RCPTMAX=2 MAILMAX=1",)
        first = scripted(Play({"RCPT TO:<a@": "450 4.2.1 later"}, extensions=limits), Play({"": "421 4.3.2 not now"}))
        second = scripted()
        receipt = twin(first.url, second.url).send(hello(*self.FIVE))
        assert receipt.ok
        assert groups(first) == [["b"]]
        assert [sorted(names) for names in groups(second)] == [["a", "c", "d", "e"]]

    @pytest.mark.parametrize("limits", ["RCPTMAX=4", "RCPTDOMAINMAX=2"])
    def test_all_refuses_what_would_be_split(self, twin: Twin, scripted: Scripted, limits: str) -> None:
        """DESIGN 4.2"""
        server = scripted(offering(f"LIMITS {limits}"))
        with pytest.raises(NotSupported, match="recipient_policy='all' no recipient was sent the message") as raised:
            twin(server.url, recipient_policy="all").send(hello(*self.FIVE))
        assert raised.value.receipt is not None
        assert [outcome.status for outcome in raised.value.receipt.outcomes] == [Status.FAILED] * 5
        assert not any(command.startswith("MAIL") for command in server.commands)

    def test_all_goes_to_the_server_that_takes_it_whole(self, twin: Twin, scripted: Scripted) -> None:
        small, large = scripted(offering("LIMITS RCPTMAX=4")), scripted()
        assert twin(small.url, large.url, recipient_policy="all").send(hello(*self.FIVE)).server == large.name
        assert not small.handed_over


class TestEnhancedStatusCodes:
    """RFC 2034, RFC 3463."""

    def test_a_real_servers_status_is_in_the_reply(self, twin: Twin, postfix: Postfix) -> None:
        receipt = twin(at(postfix)).send(hello(TO, "rejected@example.com"))
        [rejected] = receipt.rejected
        assert rejected.reply is not None
        assert rejected.reply.enhanced == (5, 1, 1)
        assert rejected.reply.text.endswith("User unknown")
        assert receipt.reply is not None
        assert receipt.reply.enhanced == (2, 0, 0)


class TestQueue:
    """XQUE and QUED, as tcllib's -queue has them."""

    @pytest.mark.parametrize("answer", ["250 ok", "500 5.5.1 what?", "450 4.0.0 later"])
    def test_qued_is_said_once_where_xque_is_offered(self, twin: Twin, scripted: Scripted, answer: str) -> None:
        server = scripted(offering("XQUE", QUED=answer))
        mailer = twin(server.url, xque=True)
        assert mailer.send(hello()).ok
        assert mailer.send(hello()).ok
        assert server.commands[1] == "QUED"
        assert server.commands.count("QUED") == 1

    @pytest.mark.parametrize(("extensions", "xque"), [(["DSN"], True), (["XQUE"], False)])
    def test_else_it_is_not(self, twin: Twin, scripted: Scripted, extensions: list[str], xque: bool) -> None:
        server = scripted(offering(*extensions))
        assert twin(server.url, xque=xque).send(hello()).ok
        assert "QUED" not in server.commands

    def test_a_server_that_closes_is_no_server(self, twin: Twin, scripted: Scripted) -> None:
        server, second = scripted(offering("XQUE", QUED=("421 4.3.2 closing", CUT))), scripted()
        assert twin(server.url, second.url, xque=True).send(hello()).server == second.name


class TestOthers:
    """`Envelope.extra`."""

    ENVELOPE = Envelope(SENDER, [TO], extra={"BY": "120;R", "MT-PRIORITY": "3"})

    def test_they_are_sent_where_their_keyword_is_offered(self, twin: Twin, scripted: Scripted) -> None:
        """BY is the parameter of DELIVERBY (RFC 2852 4), MT-PRIORITY that of MT-PRIORITY (RFC 6710 4)."""
        server = scripted(offering("DELIVERBY 60", "MT-PRIORITY MIXER"))
        assert twin(server.url).send(hello(), self.ENVELOPE).notes == ()
        assert server.handed_over[0].mail == f"MAIL FROM:<{SENDER}> BY=120;R MT-PRIORITY=3"

    def test_else_the_mail_goes_without_and_the_notes_say_so(self, twin: Twin, postfix: Postfix) -> None:
        receipt = twin(at(postfix)).send(hello(), self.ENVELOPE)
        assert receipt.ok
        assert receipt.notes == (
            "BY was asked for and is not offered",
            "MT-PRIORITY was asked for and is not offered",
        )

    def test_a_server_without_the_keyword_is_not_told(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted(offering("MT-PRIORITY"))
        receipt = twin(server.url).send(hello(), self.ENVELOPE)
        assert receipt.notes == ("BY was asked for and is not offered",)
        assert server.handed_over[0].mail == f"MAIL FROM:<{SENDER}> MT-PRIORITY=3"


class TestIgnored:
    """`ignore_extensions`: servers lie."""

    def test_what_a_server_wrongly_offers_is_not_used(self, twin: Twin, scripted: Scripted) -> None:
        lies = Play({"RSET": CUT}, extensions=("SIZE 1", "DSN", "LIMITS RCPTMAX=1", "XQUE"))
        server = scripted(lies)
        mailer = twin(server.url, ignore_extensions=["size", "DSN", "Limits", "xque"], xque=True)
        receipt = mailer.send(hello("a@example.com", "b@example.com"), None)
        assert receipt.ok
        assert groups(server) == [["a", "b"]]
        assert server.handed_over[0].mail == f"MAIL FROM:<{SENDER}>"
        assert "QUED" not in server.commands

    def test_on_a_real_server(self, twin: Twin, postfix: Postfix) -> None:
        envelope = Envelope(SENDER, [Recipient(TO, notify="SUCCESS")])
        receipt = twin(at(postfix, ignore_extensions=["DSN", "PIPELINING"])).send(hello(), envelope)
        assert receipt.notes == ("DSN was asked for and is not offered",)
        assert len(postfix.mail(wait_for=1)) == 1
