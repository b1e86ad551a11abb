"""`Session.deliver`, from scripts of bytes: what leaves in which write, and what is known when a connection ends."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpbackend import mime
from smtpbackend.envelope import Recipient
from smtpbackend.errors import ConnectionLost, InvalidInput, ProtocolViolation, TimedOut
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.protocol.transaction import Transaction
from smtpbackend.protocol.transaction_steps import GROUP, MAX_UNANSWERED
from tests.protocol.script import CONTENT, LATER, Answer, Failing, Script, deliver, opened, proven, transaction

MAIL = b"MAIL FROM:<ann@example.org>\r\n"
BOB = b"RCPT TO:<bob@example.com>\r\n"
CARL = b"RCPT TO:<carl@example.com>\r\n"
DATA = b"DATA\r\n"
RSET = b"RSET\r\n"
DOT = b".\r\n"
OK = b"250 2.0.0 ok\r\n"
NO = b"550 5.1.1 nobody of that name\r\n"
GO = b"354 go ahead\r\n"
QUEUED = b"250 2.0.0 queued as 7\r\n"


def two(**options: Any) -> Transaction:
    return transaction("bob@example.com", "carl@example.com", **options)


def codes(one: Transaction) -> tuple[int | None, list[int | None], int | None]:
    """The replies to MAIL, to each RCPT and to the content."""
    return (
        one.mail.code if one.mail else None,
        [reply.code if reply else None for reply in one.rcpt],
        one.final.code if one.final else None,
    )


class TestGrouped:
    """With PIPELINING (RFC 2920)."""

    def test_any_sends_the_envelope_and_data_in_one_write_and_the_content_with_its_dot_in_another(self) -> None:
        session, one = opened("PIPELINING"), two()
        script = deliver(session, [one], OK + OK + OK + GO, QUEUED)
        assert script.sent == [MAIL + BOB + CARL + DATA, CONTENT + DOT]
        assert script.order == "WRWR"
        assert codes(one) == (250, [250, 250], 250)
        assert script.settled == [one]
        assert one.handed_over
        assert one.final is not None
        assert one.final.text == "queued as 7"
        assert one.error is None
        assert not session.broken
        assert session.line.phase == "idle"

    def test_all_asks_for_data_once_everybody_is_accepted(self) -> None:
        session, one = opened("PIPELINING"), two()
        script = deliver(session, [one], OK + OK + OK, GO, QUEUED, policy="all")
        assert script.sent == [MAIL + BOB + CARL, DATA, CONTENT + DOT]
        assert script.order == "WRWRWR"
        assert codes(one) == (250, [250, 250], 250)

    def test_all_sends_no_data_when_one_recipient_is_refused(self) -> None:
        session, one = opened("PIPELINING"), two()
        script = deliver(session, [one], OK + OK + NO, policy="all")
        assert script.sent == [MAIL + BOB + CARL]
        assert codes(one) == (250, [250, 550], None)
        assert not one.handed_over
        assert not session.broken

    def test_any_sends_the_content_to_those_who_were_accepted(self) -> None:
        session, one = opened("PIPELINING"), two()
        script = deliver(session, [one], OK + NO + OK + GO, QUEUED)
        assert script.sent == [MAIL + BOB + CARL + DATA, CONTENT + DOT]
        assert codes(one) == (250, [550, 250], 250)

    def test_a_lone_dot_answers_354_when_every_recipient_was_refused(self) -> None:
        session, one = opened("PIPELINING"), two()
        script = deliver(session, [one], OK + NO + NO + GO, b"554 5.5.1 no valid recipients\r\n")
        assert script.sent == [MAIL + BOB + CARL + DATA, DOT]
        assert codes(one) == (250, [550, 550], None)
        assert not one.handed_over
        assert not session.broken

    def test_an_accepted_lone_dot_hands_nothing_over(self) -> None:
        session, one = opened("PIPELINING"), two()
        deliver(session, [one], OK + NO + NO + GO, OK)
        assert codes(one) == (250, [550, 550], None)
        assert not one.handed_over

    def test_no_dot_is_sent_when_data_is_refused_with_the_recipients(self) -> None:
        session, one = opened("PIPELINING"), two()
        script = deliver(session, [one], OK + NO + NO + b"554 5.5.1 no valid recipients\r\n")
        assert script.sent == [MAIL + BOB + CARL + DATA]
        assert codes(one) == (250, [550, 550], None)
        assert not session.broken

    @pytest.mark.parametrize("refusal", [b"450 4.7.1 greylisted\r\n", b"550 5.7.1 not you\r\n"])
    def test_all_replies_of_the_group_are_read_when_mail_is_refused(self, refusal: bytes) -> None:
        session, one = opened("PIPELINING"), two()
        script = deliver(session, [one], refusal + b"503 5.5.1 MAIL first\r\n" * 3)
        assert script.sent == [MAIL + BOB + CARL + DATA]
        assert codes(one) == (int(refusal[:3]), [503, 503], None)
        assert not session.broken
        assert session.line.replies.is_empty

    def test_neither_content_nor_dot_follows_a_refused_data(self) -> None:
        session, one = opened("PIPELINING"), two()
        script = deliver(session, [one], OK + OK + OK + b"451 4.3.0 try later\r\n")
        assert script.sent == [MAIL + BOB + CARL + DATA]
        assert codes(one) == (250, [250, 250], 451)
        assert not one.handed_over
        assert not session.broken

    @pytest.mark.parametrize("refusal", [b"450 4.2.0 busy\r\n", b"554 5.7.1 spam\r\n"])
    def test_a_refused_content_is_a_reply(self, refusal: bytes) -> None:
        session, one = opened("PIPELINING"), two()
        deliver(session, [one], OK + OK + OK + GO, refusal)
        assert codes(one) == (250, [250, 250], int(refusal[:3]))
        assert one.handed_over
        assert one.error is None
        assert not session.broken

    def test_nothing_is_reset_where_nothing_is_left_to_clear(self) -> None:
        """Servers count RSET, and end connections for it."""
        session = opened("PIPELINING")
        refused = b"550 not you\r\n" + b"503 5.5.1 MAIL first\r\n" * 3
        script = deliver(session, [two(), two(), two()], OK * 3 + GO, QUEUED, refused, OK * 3, GO, QUEUED)
        group = MAIL + BOB + CARL
        assert script.sent == [group + DATA, CONTENT + DOT, group + DATA, group, DATA, CONTENT + DOT]
        assert [codes(one)[2] for one in script.settled] == [250, None, 250]

    @pytest.mark.parametrize("replies", [[OK + NO * 2 + b"554 5.5.1 nobody\r\n"], [OK * 3 + GO, b"554 spam\r\n"]])
    def test_the_next_one_begins_with_rset_in_its_flight_where_something_is(self, replies: list[bytes]) -> None:
        session = opened("PIPELINING")
        script = deliver(session, [two(), two()], *replies, OK * 4, GO, QUEUED)
        assert script.sent[-3:] == [RSET + MAIL + BOB + CARL, DATA, CONTENT + DOT]
        assert codes(script.settled[1]) == (250, [250, 250], 250)

    def test_a_later_delivery_on_the_same_session_does_so_too(self) -> None:
        session = opened("PIPELINING")
        deliver(session, [transaction()], OK + NO + b"554 5.5.1 nobody\r\n")
        script = deliver(session, [transaction()], OK * 3, GO, QUEUED)
        assert script.sent[0] == RSET + MAIL + BOB

    def test_a_refused_rset_ends_it(self) -> None:
        session, one, other = opened("PIPELINING"), transaction(), transaction()
        deliver(session, [one], OK * 2 + b"451 no\r\n")
        deliver(session, [other], b"502 5.5.1 what is RSET\r\n" + OK)
        assert isinstance(other.error, ProtocolViolation)
        assert "RSET" in str(other.error)
        assert not other.handed_over
        assert session.broken

    @pytest.mark.parametrize("window", [1, 8])
    @pytest.mark.parametrize("place", ["MAIL", "RCPT"])
    def test_a_group_that_was_not_read_whole_says_nothing_about_anybody(self, place: str, window: int) -> None:
        """VPOP3 loses the first command of a segment: 503 is DATA's, and stands where another reply is awaited."""
        session, one = opened("PIPELINING"), transaction()
        late = b"503 5.5.1 need MAIL\r\n"
        deliver(session, [one, transaction()], late if place == "MAIL" else OK + late, window=window)
        assert (one.mail, one.rcpt, one.final, one.handed_over) == (None, [None], None, False)
        assert isinstance(one.error, ProtocolViolation)
        assert session.history.mixes_up
        assert session.broken

    @pytest.mark.parametrize("extensions", [["PIPELINING"], []])
    def test_in_lock_step_503_is_the_answer(self, extensions: list[str]) -> None:
        session, one = opened(*extensions), transaction()
        script = deliver(session, [one], b"503 5.5.1 log in first\r\n", in_lock_step=True)
        assert script.sent == [MAIL]
        assert codes(one) == (503, [None], None)
        assert not session.history.mixes_up

    def test_503_to_data_behind_recipients_that_were_accepted_is_another_commands(self) -> None:
        session, one = opened("PIPELINING"), two()
        deliver(session, [one], OK * 3 + b"503 5.5.1 order\r\n")
        assert session.history.mixes_up
        assert (codes(one), one.handed_over) == ((None, [None, None], None), False)

    def test_503_for_a_recipient_of_a_refused_sender_is_in_order(self) -> None:
        session, one = opened("PIPELINING"), transaction()
        deliver(session, [one], NO + b"503 5.5.1 MAIL first\r\n" * 2)
        assert codes(one) == (550, [503], None)
        assert not session.history.mixes_up

    def test_503_behind_a_message_that_went_well_is_in_order(self) -> None:
        session, one = opened("PIPELINING"), transaction()
        deliver(session, [transaction(), one], OK * 2 + GO, QUEUED, OK + b"503 5.5.1 not now\r\n" * 2)
        assert codes(one) == (250, [503], None)
        assert not session.history.mixes_up

    def test_more_recipients_than_may_be_unanswered_go_in_several_groups(self) -> None:
        session = opened("PIPELINING")
        names = [f"r{number}@example.com" for number in range(600)]
        one = transaction(*names)
        first, second = GROUP - 1, GROUP
        script = deliver(session, [one], OK * (1 + first), OK * second, OK * (600 - first - second) + GO, QUEUED)
        groups = [re.findall(rb"RCPT TO:<(.*?)>", write) for write in script.sent]
        assert [len(group) for group in groups] == [first, second, 600 - first - second, 0]
        assert [name.decode() for group in groups for name in group] == names
        assert [write.count(b"\r\n") for write in script.sent[:3]] == [1 + first, second, 600 - first - second + 1]
        assert max(write.count(b"\r\n") for write in script.sent[:3]) <= MAX_UNANSWERED
        assert script.sent[2].endswith(DATA)
        assert script.sent[3] == CONTENT + DOT
        assert codes(one) == (250, [250] * 600, 250)

    def test_no_further_group_follows_a_refused_mail(self) -> None:
        session = opened("PIPELINING")
        one = transaction(*(f"r{number}@example.com" for number in range(300)))
        script = deliver(session, [one], b"550 no\r\n" + b"503 no\r\n" * (GROUP - 1))
        assert len(script.sent) == 1
        assert DATA not in script.sent[0]
        assert one.mail is not None
        assert one.mail.code == 550
        assert one.rcpt[-1] is None
        assert not session.broken

    def test_all_with_several_groups_asks_for_data_after_the_last(self) -> None:
        session = opened("PIPELINING")
        one = transaction(*(f"r{number}@example.com" for number in range(300)))
        script = deliver(session, [one], OK * 253, OK * 48, GO, QUEUED, policy="all")
        assert script.sent[2:] == [DATA, CONTENT + DOT]
        assert one.everybody_accepted

    @pytest.mark.parametrize(("extensions", "policy"), [([], "any"), (["PIPELINING"], "all")])
    def test_data_that_stands_alone_may_be_answered_with_success(self, extensions: list[str], policy: str) -> None:
        """Some servers say 250 for 354, and other clients go on."""
        answers = [OK * 2] if extensions else [OK, OK]
        session, one = opened(*extensions), transaction()
        script = deliver(session, [one], *answers, b"250 send it\r\n", TimeoutError(), QUEUED, policy=policy)
        assert script.sent[-1] == CONTENT + DOT
        assert codes(one) == (250, [250], 250)

    @pytest.mark.parametrize("more", [b"451 4.3.0 no\r\n", b"354 go ahead\r\n", b"4", b""])
    @pytest.mark.parametrize("apart", [True, False])
    def test_but_only_where_nothing_follows(self, more: bytes, apart: bool) -> None:
        """RCPT was answered twice then, and the server may have refused DATA: content would be read as commands."""
        session, one = opened(), transaction()
        last = [b"250 late\r\n", more] if apart else [b"250 late\r\n" + more, b""]
        script = deliver(session, [one], OK, OK, *last)
        assert script.sent[-1] == DATA
        assert not one.handed_over
        assert session.broken

    def test_behind_a_group_success_to_data_is_no_smtp(self) -> None:
        """It could be the reply to another command."""
        session, one = opened("PIPELINING"), transaction()
        deliver(session, [one], OK * 3)
        assert isinstance(one.error, ProtocolViolation)
        assert not one.handed_over
        assert session.broken

    def test_a_server_that_refuses_mail_and_wants_the_content_gets_none(self) -> None:
        session, one = opened("PIPELINING"), transaction()
        script = deliver(session, [one], NO + OK + GO)
        assert script.sent == [MAIL + BOB + DATA]
        assert isinstance(one.error, ProtocolViolation)
        assert session.broken

    def test_the_end_of_content_answered_with_3yz_is_no_smtp(self) -> None:
        session, one = opened("PIPELINING"), transaction()
        deliver(session, [one], OK * 2 + GO, GO)
        assert isinstance(one.error, ProtocolViolation)
        assert one.handed_over
        assert session.broken


class TestLockStep:
    """Without PIPELINING: a command, then its reply."""

    @pytest.mark.parametrize("policy", ["any", "all"])
    def test_each_command_waits_for_the_reply_to_the_one_before(self, policy: str) -> None:
        session, one = opened(), two()
        script = deliver(session, [one], OK, OK, OK, GO, QUEUED, policy=policy)
        assert script.sent == [MAIL, BOB, CARL, DATA, CONTENT + DOT]
        assert script.order == "WRWRWRWRWR"
        assert codes(one) == (250, [250, 250], 250)

    def test_nothing_follows_a_refused_mail(self) -> None:
        session, one = opened(), two()
        script = deliver(session, [one], NO)
        assert script.sent == [MAIL]
        assert codes(one) == (550, [None, None], None)
        assert not session.broken

    def test_any_goes_on_with_those_who_were_accepted(self) -> None:
        session, one = opened(), two()
        script = deliver(session, [one], OK, NO, OK, GO, QUEUED)
        assert script.sent == [MAIL, BOB, CARL, DATA, CONTENT + DOT]
        assert codes(one) == (250, [550, 250], 250)

    def test_data_is_not_sent_when_nobody_was_accepted(self) -> None:
        session, one = opened(), two()
        script = deliver(session, [one], OK, NO, NO)
        assert script.sent == [MAIL, BOB, CARL]
        assert codes(one) == (250, [550, 550], None)

    def test_all_stops_before_data_when_one_is_refused(self) -> None:
        session, one = opened(), two()
        script = deliver(session, [one], OK, OK, NO, policy="all")
        assert script.sent == [MAIL, BOB, CARL]
        assert not one.handed_over

    def test_a_refused_data_ends_the_transaction(self) -> None:
        session, one = opened(), transaction()
        script = deliver(session, [one], OK, OK, NO)
        assert script.sent == [MAIL, BOB, DATA]
        assert codes(one) == (250, [250], 550)
        assert not session.broken

    def test_no_rset_is_needed_after_a_clean_end(self) -> None:
        session = opened()
        script = deliver(session, [transaction(), transaction()], OK, OK, GO, QUEUED, OK, OK, GO, QUEUED)
        assert RSET not in script.sent

    def test_rset_stands_ahead_of_the_transaction_after_one_that_was_given_up(self) -> None:
        session = opened()
        script = deliver(session, [transaction(), transaction()], OK, NO, OK, OK, OK, GO, QUEUED)
        assert script.sent == [MAIL, BOB, RSET, MAIL, BOB, DATA, CONTENT + DOT]

    def test_one_transaction_at_a_time_whatever_the_window(self) -> None:
        session = opened()
        script = deliver(session, [transaction(), transaction()], OK, OK, GO, QUEUED, OK, OK, GO, QUEUED, window=8)
        assert script.order == "WR" * 8
        assert script.asked == [False] * 3


class TestParameters:
    def sent(self, one: Transaction, *extensions: str) -> list[bytes]:
        """The commands that left."""
        answers = OK * (1 + len(one.recipients)) + GO
        return deliver(opened("PIPELINING", *extensions), [one], answers, QUEUED).sent[0].split(b"\r\n")[:-1]

    def test_size_is_declared_where_it_is_offered(self) -> None:
        assert self.sent(transaction(content=b"a\n.b\n"), "SIZE 1000")[0] == b"MAIL FROM:<ann@example.org> SIZE=7"
        assert self.sent(transaction(content=b"a\n.b\n"), "SIZE")[0] == b"MAIL FROM:<ann@example.org> SIZE=7"

    def test_body_is_declared_for_8_bit_content_only(self) -> None:
        eight = transaction(content="Subject: x\n\nGrüße\n".encode())
        assert self.sent(eight, "8BITMIME")[0] == b"MAIL FROM:<ann@example.org> BODY=8BITMIME"
        assert self.sent(transaction(), "8BITMIME")[0] == b"MAIL FROM:<ann@example.org>"

    def test_smtputf8_is_asked_for_when_an_address_needs_it(self) -> None:
        one = transaction("bjørn@example.com")
        lines = self.sent(one, "8BITMIME", "SMTPUTF8")
        assert lines[0] == b"MAIL FROM:<ann@example.org> SMTPUTF8"
        assert lines[1] == "RCPT TO:<bjørn@example.com>".encode()
        assert self.sent(transaction("bob@münchen.example"), "SMTPUTF8")[:2] == [
            b"MAIL FROM:<ann@example.org>",
            b"RCPT TO:<bob@xn--mnchen-3ya.example>",
        ]

    def test_smtputf8_is_asked_for_when_a_header_needs_it(self) -> None:
        lines = self.sent(transaction(content="Subject: Grüße\n\nhello\n".encode()), "8BITMIME", "SMTPUTF8")
        assert lines[0] == b"MAIL FROM:<ann@example.org> BODY=8BITMIME SMTPUTF8"

    def test_delivery_status_is_asked_for_where_it_is_offered(self) -> None:
        def one() -> Transaction:
            return transaction(
                Recipient("bob@example.com", notify=("SUCCESS", "DELAY"), orcpt="b+b=c@example.net"),
                Recipient("carl@example.com", notify=("NEVER",)),
                dsn_return="HDRS",
                envid="id 1+2",
            )

        assert self.sent(one(), "DSN")[:3] == [
            b"MAIL FROM:<ann@example.org> RET=HDRS ENVID=id+201+2B2",
            b"RCPT TO:<bob@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bb+3Dc@example.net",
            b"RCPT TO:<carl@example.com> NOTIFY=NEVER",
        ]
        assert self.sent(one())[:3] == [MAIL.rstrip(), BOB.rstrip(), CARL.rstrip()]

    def test_further_parameters_are_given_to_a_server_that_offers_them(self) -> None:
        one = transaction(extra={"MT-PRIORITY": "3", "XFLAG": None, "XOTHER": "1"})
        assert self.sent(one, "MT-PRIORITY", "XFLAG")[0] == b"MAIL FROM:<ann@example.org> MT-PRIORITY=3 XFLAG"

    def test_the_null_reverse_path(self) -> None:
        assert self.sent(transaction(sender=""))[0] == b"MAIL FROM:<>"

    def test_a_line_over_the_limit_settles_its_transaction_alone(self) -> None:
        """Nothing of it was sent, so the connection is as good as before."""
        session, long, good = opened("PIPELINING", "XLONG"), transaction(extra={"XLONG": "x" * 2000}), transaction()
        script = deliver(session, [long, good], OK * 2 + GO, QUEUED)
        assert script.settled == [long, good]
        assert isinstance(long.error, InvalidInput)
        assert long.mail is None
        assert script.sent == [MAIL + BOB + DATA, CONTENT + DOT]
        assert codes(good) == (250, [250], 250)
        assert not session.broken

    def test_a_line_over_the_limit_in_an_open_window_settles_its_transaction_alone(self) -> None:
        session, long, good = proven("PIPELINING", "XLONG"), transaction(extra={"XLONG": "x" * 2000}), transaction()
        first = transaction()
        script = deliver(session, [first, long, good], OK * 2 + GO, QUEUED, OK * 2 + GO, QUEUED, window=2)
        assert script.settled == [first, long, good]
        assert [one.final.code if one.final else None for one in script.settled] == [250, None, 250]
        assert not session.broken


class TestContent:
    @pytest.mark.parametrize(
        ("content", "wire"),
        [
            (b".", b"..\r\n"),
            (b".\n", b"..\r\n"),
            (b"..\r\n", b"...\r\n"),
            (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n"),
            (b"a\n.b\n..c\nd.\n", b"a\r\n..b\r\n...c\r\nd.\r\n"),
            (b"a\r.\rb", b"a\r\n..\r\nb\r\n"),
            (b"a\r\r\n.\n\r.", b"a\r\n\r\n..\r\n\r\n..\r\n"),
        ],
    )
    def test_dots_at_the_start_of_a_line_are_doubled_and_line_ends_are_crlf(self, content: bytes, wire: bytes) -> None:
        script = deliver(opened("PIPELINING"), [transaction(content=content)], OK * 2 + GO, QUEUED)
        assert script.sent[1] == wire + DOT

    def test_a_large_content_leaves_in_pieces_and_its_end_is_the_last_write(self) -> None:
        session = opened("PIPELINING")
        body = b"".join(b".%d %s\r\n" % (number, b"x" * 70) for number in range(4000))
        assert len(body) > 4 * 65536
        one = transaction(content=body)
        script = deliver(session, [one], OK * 2 + GO, QUEUED)
        assert script.order[:3] == "WRW"
        assert script.order.count("R") == 2
        assert script.order.endswith("R")
        wire = b"".join(script.sent[1:])
        assert wire == re.sub(rb"(?m)^\.", b"..", body) + DOT
        assert len(script.sent) > 4
        assert max(map(len, script.sent)) <= 2 * 65536 + 10
        assert one.handed_over
        assert codes(one) == (250, [250], 250)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from([b".", b"\r\n", b"\r", b"\n", b"a", b"..", b"\xc3\xa4"]), max_size=30))
    def test_the_server_reads_what_was_given_and_never_a_dot_too_early(self, parts: list[bytes]) -> None:
        content = mime.given(b"Subject: x\r\n\r\n" + b"".join(parts))
        plain = b"".join(content.chunks())
        script = deliver(opened("PIPELINING", "8BITMIME"), [transaction(content=content)], OK * 2 + GO, QUEUED)
        lines = script.sent[1].split(b"\r\n")
        assert lines.index(b".") == len(lines) - 2
        read = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines[:-2]) + b"\r\n"
        assert read == plain
        assert b"\r" not in read.replace(b"\r\n", b"")
        assert b"\n" not in read.replace(b"\r\n", b"")


class TestFailingSource:
    @pytest.mark.parametrize("octets", [100, 400_000])
    def test_a_source_that_fails_in_mid_content_closes_the_connection_and_ends_nothing(self, octets: int) -> None:
        session, file = opened("PIPELINING"), Failing(b"Subject: x\r\n\r\n" + b"line\r\n" * (octets // 6))
        one = transaction(content=file.content())
        file.fails_at = octets // 2
        script = deliver(session, [one], OK * 2 + GO)
        assert len(script.sent) == 1 or octets > 65536
        assert DOT not in b"".join(script.sent[1:]).split(b"\r\n")
        assert not b"".join(script.sent).endswith(b"\r\n.\r\n")
        assert not one.handed_over
        assert one.final is None
        assert isinstance(one.error, InvalidInput)
        assert "the disk is gone" in str(one.error)
        assert one.error.server == "mx.example.com:25"
        assert session.broken

    def test_what_is_composed_of_it_is_not_sent_later(self) -> None:
        session, file = opened("PIPELINING"), Failing(b"Subject: x\r\n\r\n" + b"line\r\n" * 40_000)
        one = transaction(content=file.content())
        file.fails_at = 10
        script = deliver(session, [one, transaction()], OK * 2 + GO)
        assert script.settled == [one]
        assert session.broken


class TestWindow:
    """Two transactions in flight: DESIGN 5.2."""

    def test_the_end_of_content_and_the_next_group_leave_in_one_write(self) -> None:
        session = proven("PIPELINING")
        one, other = two(), transaction("carl@example.com", content=b"Subject: 2\r\n\r\n.second\r\n")
        script = deliver(session, [one, other], OK * 3 + GO, QUEUED + OK * 3 + GO, QUEUED, window=2)
        assert script.sent == [
            MAIL + BOB + CARL + DATA,
            CONTENT + DOT + RSET + MAIL + CARL + DATA,
            b"Subject: 2\r\n\r\n..second\r\n" + DOT,
        ]
        assert script.order == "WRWRWR"
        assert script.settled == [one, other]
        assert codes(one) == (250, [250, 250], 250)
        assert codes(other) == (250, [250], 250)
        assert script.asked == [False, True, True]
        assert not session.broken

    def test_a_window_of_one_waits_for_the_final_reply(self) -> None:
        session = proven("PIPELINING")
        script = deliver(session, [transaction(), transaction()], OK * 2 + GO, QUEUED, OK * 2 + GO, QUEUED)
        assert script.order == "WRWRWRWR"
        assert script.asked == [False] * 3

    def test_replies_belong_to_the_oldest_transaction_first(self) -> None:
        session = proven("PIPELINING")
        three = [transaction(), two(), transaction("carl@example.com")]
        script = deliver(
            session,
            three,
            OK * 2 + GO,
            b"554 5.7.1 spam\r\n" + OK + OK + NO + OK + GO,
            QUEUED + OK + b"451 4.7.1 later\r\n" + b"503 5.5.1 RCPT first\r\n",
            window=2,
        )
        assert [codes(one) for one in script.settled] == [
            (250, [250], 554),
            (250, [550, 250], 250),
            (451, [503], None),
        ]
        assert script.settled == three
        assert not session.broken

    def test_all_in_a_window_sends_the_end_of_content_with_the_next_envelope(self) -> None:
        session = proven("PIPELINING")
        script = deliver(
            session, [transaction(), transaction()], OK * 2, GO, QUEUED + OK * 3, GO, QUEUED, policy="all", window=2
        )
        assert script.sent == [MAIL + BOB, DATA, CONTENT + DOT + RSET + MAIL + BOB, DATA, CONTENT + DOT]

    def test_a_refused_content_does_not_disturb_the_next_transaction(self) -> None:
        session, one, other = proven("PIPELINING"), transaction(), transaction()
        deliver(session, [one, other], OK * 2 + GO, b"452 4.3.1 full\r\n" + OK * 3 + GO, QUEUED, window=2)
        assert codes(one) == (250, [250], 452)
        assert codes(other) == (250, [250], 250)

    def test_later_sends_what_is_composed_before_it_asks_again(self) -> None:
        session, one, other = proven("PIPELINING"), transaction(), transaction()
        # first while the reply to DATA is awaited, then behind the content
        script = deliver(session, [one, LATER, LATER, other], OK * 2 + GO, QUEUED + OK * 3 + GO, QUEUED, window=2)
        assert script.sent == [MAIL + BOB + DATA, CONTENT + DOT, RSET + MAIL + BOB + DATA, CONTENT + DOT]
        assert script.asked[:4] == [False, True, True, False]
        assert script.settled == [one, other]

    def test_nothing_new_is_begun_before_the_content_of_the_last_is_composed(self) -> None:
        session = proven("PIPELINING")
        script = deliver(
            session, [transaction(), transaction()], OK, OK, GO, QUEUED + OK, OK, OK + GO, QUEUED, window=2
        )
        assert script.order == "WRRRWRRRWR"
        assert script.asked == [False, True, True]

    def test_a_transaction_that_is_refused_leaves_its_place_to_the_next(self) -> None:
        session, one, other = proven("PIPELINING"), transaction(), transaction()
        script = deliver(session, [one, other], NO + b"503 no\r\n" * 2, OK * 2, GO, QUEUED, window=2)
        assert script.sent == [MAIL + BOB + DATA, MAIL + BOB, DATA, CONTENT + DOT]
        assert codes(one) == (550, [503], None)

    def test_a_connection_lost_settles_each_by_what_was_handed_over(self) -> None:
        session, one, other, third = proven("PIPELINING"), transaction(), transaction(), transaction()
        script = deliver(session, [one, other, third], OK * 2 + GO, b"", window=2)
        assert script.settled == [one, other]
        assert one.handed_over
        assert not other.handed_over
        assert isinstance(one.error, ConnectionLost)
        assert isinstance(other.error, ConnectionLost)
        assert session.broken

    def test_a_connection_lost_after_the_first_was_answered(self) -> None:
        session, one, other = proven("PIPELINING"), transaction(), transaction()
        deliver(session, [one, other], OK * 2 + GO, QUEUED + OK, b"", window=2)
        assert codes(one) == (250, [250], 250)
        assert one.error is None
        assert isinstance(other.error, ConnectionLost)
        assert not other.handed_over

    def test_421_closes_all_that_are_in_flight(self) -> None:
        session, one, other = proven("PIPELINING"), transaction(), transaction()
        deliver(session, [one, other], OK * 2 + GO, b"421 4.3.2 shutting down\r\n", window=2)
        assert (one.was_closed, one.is_unread) == (True, False)
        assert (other.was_closed, other.is_unread) == (False, True)
        for each in (one, other):
            assert isinstance(each.error, ConnectionLost)
            assert each.error.reply is not None
            assert each.error.reply.code == 421
            assert each.final is None
        assert session.broken

    def test_421_behind_a_positive_reply_leaves_that_one_accepted(self) -> None:
        session, one, other = proven("PIPELINING"), transaction(), transaction()
        deliver(session, [one, other], OK * 2 + GO, QUEUED + b"421 4.3.2 shutting down\r\n", window=2)
        assert codes(one) == (250, [250], 250)
        assert not one.was_closed
        assert (other.was_closed, other.is_unread) == (False, True)  # it was RSET that was answered so
        assert not other.handed_over

    def test_a_write_that_fails_takes_no_further_transaction(self) -> None:
        session, one, other = proven("PIPELINING"), transaction(), transaction()
        script = deliver(
            session,
            [one, LATER, LATER, other],
            OK * 2 + GO,
            QUEUED,
            window=2,
            fails={1: BrokenPipeError(32, "Broken pipe")},
        )
        assert script.settled == [one]
        assert codes(one) == (250, [250], 250)
        assert script.asked == [False, True, True]
        assert session.broken

    @pytest.mark.parametrize("end", [b"", b"421 4.3.2 closing\r\n", b"nonsense\r\n"])
    def test_one_that_was_taken_while_a_reply_was_awaited_is_settled_too(self, end: bytes) -> None:
        session, one, other = proven("PIPELINING"), transaction(), transaction()
        script = deliver(session, [one, other], end, window=2)
        assert script.sent == [MAIL + BOB + DATA]
        assert script.asked == [False, True]
        assert script.settled == [one, other]
        assert one.error
        assert other.error
        assert not other.handed_over

    def test_the_window_is_bounded_by_unanswered_commands(self) -> None:
        session = proven("PIPELINING")
        many = [transaction(*(f"r{number}@example.com" for number in range(253))) for _ in range(2)]
        script = deliver(session, many, *[OK * GROUP, OK + GO, QUEUED] * 2, window=9)
        assert script.settled == many
        assert script.sent[2] == CONTENT + DOT


GROUPED: tuple[bytes, ...] = (OK + NO + OK + GO, QUEUED)
LOCK_STEP: tuple[bytes, ...] = (OK, NO, OK, GO, QUEUED)


class TestReplies:
    @pytest.mark.parametrize(("extensions", "answers"), [(["PIPELINING"], GROUPED), ([], LOCK_STEP)])
    def test_replies_cut_anywhere_give_the_same_result(self, extensions: list[str], answers: tuple[bytes, ...]) -> None:
        whole = two()
        reference = deliver(opened(*extensions), [whole], *answers)
        for number, answer in enumerate(answers):
            for cut in range(1, len(answer)):
                one = two()
                pieces = [*answers[:number], answer[:cut], answer[cut:], *answers[number + 1 :]]
                script = deliver(opened(*extensions), [one], *pieces)
                assert (one.mail, one.rcpt, one.final) == (whole.mail, whole.rcpt, whole.final)
                assert script.sent == reference.sent
                assert not script.answers

    @pytest.mark.parametrize(("extensions", "answers"), [(["PIPELINING"], GROUPED), ([], LOCK_STEP)])
    def test_replies_octet_by_octet_give_the_same_result(
        self, extensions: list[str], answers: tuple[bytes, ...]
    ) -> None:
        whole, one = two(), two()
        reference = deliver(opened(*extensions), [whole], *answers)
        octets = [bytes([octet]) for answer in answers for octet in answer]
        script = deliver(opened(*extensions), [one], *octets)
        assert (one.mail, one.rcpt, one.final) == (whole.mail, whole.rcpt, whole.final)
        assert script.sent == reference.sent

    def test_a_dripping_reply_is_one_and_the_same_read(self) -> None:
        """So that the wire's clock runs on (DESIGN 4.10)."""
        session = opened("PIPELINING")
        script = Script(b"2", b"5", b"0 ok\r", b"\n", OK + GO, QUEUED, transactions=[transaction()])
        script.run(session.deliver())
        assert len({id(read) for read in script.reads[:4]}) == 1
        assert script.reads[4] is not script.reads[3]

    def test_each_reply_has_its_own_time_out(self) -> None:
        session = opened(timeouts=Timeouts(reply=7, final=70))
        script = deliver(session, [transaction()], OK, OK, GO, QUEUED)
        assert [read.timeout for read in script.reads] == [7, 7, 7, 70]

    def test_the_first_reply_on_a_pooled_connection_has_little_time(self) -> None:
        session = opened(timeouts=Timeouts(reply=60, reused=10))
        session.line.resume()
        script = deliver(session, [transaction()], OK, OK, GO, QUEUED)
        assert [read.timeout for read in script.reads] == [10, 60, 60, 300]

    @pytest.mark.parametrize("junk", [b"hello\r\n", b"\r\n" * 256, b"999 ok\r\n", b"250-a\r\n251 b\r\n", b"x" * 9000])
    @pytest.mark.parametrize("at", [0, 1])
    def test_what_is_no_reply_ends_it(self, junk: bytes, at: int) -> None:
        session, one = opened("PIPELINING"), two()
        script = deliver(session, [one, two()], *[GROUPED[0]][:at], junk)
        assert script.settled == [one]
        assert isinstance(one.error, ProtocolViolation)
        assert one.error.server == "mx.example.com:25"
        assert "mx.example.com:25" in str(one.error)
        assert one.handed_over is bool(at)
        assert not one.was_closed
        assert session.broken

    @pytest.mark.parametrize("end", [TimeoutError(), b"", b"421 4.3.2 bye\r\n", b"junk\r\n"])
    @pytest.mark.parametrize("blank", [b"\r\n", b""])
    def test_a_blank_line_may_have_been_meant_for_the_reply_that_stays_away(self, blank: bytes, end: Any) -> None:
        """Then all behind it are other commands' replies: nobody is refused by one of them."""
        session, one = opened("PIPELINING"), two()
        deliver(session, [one], OK + blank + NO, end)
        assert one.error is not None
        assert codes(one) == ((None, [None, None], None) if blank else (250, [550, None], None))

    def test_a_blank_line_in_a_flight_that_was_answered_says_nothing_of_the_next(self) -> None:
        session, one, other = opened("PIPELINING"), two(), two()
        deliver(session, [one, other], OK + b"\r\n" + OK * 2 + GO, QUEUED, OK + NO, TimeoutError())
        assert one.is_accepted
        assert codes(other) == (250, [550, None], None)

    @pytest.mark.parametrize("blank", [b"\r\n", b"\n \t\r\n", b"\r"])
    @pytest.mark.parametrize(("extensions", "window"), [(["PIPELINING"], 1), (["PIPELINING"], 8), ([], 1)])
    def test_a_blank_line_behind_each_reply_changes_nothing(
        self, blank: bytes, extensions: list[str], window: int
    ) -> None:
        """It is neither a reply nor a word that nobody asked for, at the end of a transaction too."""
        answers = [OK + blank, OK + blank, GO + blank, QUEUED + blank]
        if blank != b"\r":  # half a line is so only until more comes
            answers = [OK + blank + OK + blank, GO + blank, QUEUED + blank] if extensions else answers
        else:
            answers = [octets.removesuffix(blank) for octets in answers[:-1]] + answers[-1:]
        session, one, other = opened(*extensions), transaction(), transaction()
        again = [octets.removeprefix(b"\n") for octets in answers]
        if window > 1:
            again.insert(0, OK)  # to RSET
        again[0] = (b"\n" if blank == b"\r" else b"") + again[0]
        script = deliver(session, [one, other], *answers, *again, window=window)
        assert [codes(each) for each in script.settled] == [(250, [250], 250)] * 2
        assert [each.error for each in script.settled] == [None, None]
        assert not session.broken
        assert not session.line.is_talkative
        assert session.line.replies.is_empty

    def test_a_reply_nobody_asked_for_ends_the_connection_before_the_next_transaction(self) -> None:
        session, one, other = opened("PIPELINING"), transaction(), transaction()
        script = deliver(session, [one, other], OK * 2 + GO, QUEUED + b"250 and again\r\n")
        assert script.settled == [one]
        assert codes(one) == (250, [250], 250)
        assert script.asked == [False]
        assert session.broken
        assert not session.line.replies.is_empty

    @pytest.mark.parametrize(
        ("extensions", "answers"),
        [
            (["PIPELINING"], (OK * 2 + GO + QUEUED,)),
            (["PIPELINING"], (OK * 2 + GO + b"2",)),
            ([], (OK + OK,)),
            ([], (OK, OK + GO)),
            ([], (OK, OK, GO + QUEUED)),
        ],
    )
    def test_a_reply_to_what_was_not_sent_yet_is_not_believed(
        self, extensions: list[str], answers: tuple[bytes, ...]
    ) -> None:
        session, one = opened(*extensions), transaction()
        deliver(session, [one], *answers)
        assert isinstance(one.error, ProtocolViolation)
        assert not one.handed_over
        assert one.final is None
        assert session.broken

    def test_a_conversation_that_is_cancelled_in_mid_transaction_leaves_a_broken_session(self) -> None:
        session = opened("PIPELINING")
        conversation = session.deliver()
        next(conversation)
        conversation.send(transaction())
        conversation.close()
        assert session.broken

    def test_a_conversation_that_is_closed_between_transactions_leaves_a_good_one(self) -> None:
        session = opened("PIPELINING")
        conversation = session.deliver()
        next(conversation)
        conversation.close()
        assert not session.broken


POINTS = [
    *((["PIPELINING"], "any", GROUPED, number) for number in range(2)),
    *((["PIPELINING"], "all", (OK * 3, GO, QUEUED), number) for number in range(3)),
    *(([], "any", LOCK_STEP, number) for number in range(5)),
]


class TestEndings:
    """The connection ends before each of the reads."""

    @pytest.mark.parametrize(("extensions", "policy", "answers", "at"), POINTS)
    @pytest.mark.parametrize(
        ("end", "kind"),
        [
            (b"", ConnectionLost),
            (ConnectionResetError(104, "Connection reset by peer"), ConnectionLost),
            (TimeoutError("timed out"), TimedOut),
            (TimedOut("the deadline passed", server="mx.example.com:25"), TimedOut),
        ],
    )
    def test_handed_over_is_exact(
        self,
        extensions: list[str],
        policy: str,
        answers: tuple[bytes, ...],
        at: int,
        end: Answer,
        kind: type[Exception],
    ) -> None:
        session, one = opened(*extensions), two()
        script = deliver(session, [one, two()], *answers[:at], end, policy=policy)
        assert script.settled == [one]
        assert isinstance(one.error, kind)
        assert one.handed_over is (at == len(answers) - 1)
        assert one.handed_over is (CONTENT + DOT in script.sent)
        assert not one.was_closed
        assert one.final is None
        assert session.broken

    @pytest.mark.parametrize(("extensions", "policy", "answers", "at"), POINTS)
    def test_421_at_each_point_says_that_nothing_was_done(
        self, extensions: list[str], policy: str, answers: tuple[bytes, ...], at: int
    ) -> None:
        session, one = opened(*extensions), two()
        script = deliver(session, [one, two()], *answers[:at], b"421 4.3.2 shutting down\r\n", policy=policy)
        assert script.settled == [one]
        assert one.was_closed
        assert one.final is None
        assert one.handed_over is (at == len(answers) - 1)
        assert isinstance(one.error, ConnectionLost)
        assert "421 4.3.2 shutting down" in str(one.error)
        assert "mx.example.com:25" in str(one.error)
        assert session.broken

    @pytest.mark.parametrize("at", range(4))
    def test_421_inside_a_group(self, at: int) -> None:
        session, one = opened("PIPELINING"), two()
        replies = [OK, OK, OK, GO]
        deliver(session, [one], b"".join(replies[:at]) + b"421 bye\r\n")
        assert one.was_closed
        assert not one.handed_over
        assert [reply is not None for reply in (one.mail, *one.rcpt)] == [at > number for number in range(3)]

    @pytest.mark.parametrize(("extensions", "answers"), [(["PIPELINING"], GROUPED), ([], LOCK_STEP)])
    @pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), TimeoutError("timed out")])
    def test_a_failed_write_reads_what_the_server_had_to_say(
        self, extensions: list[str], answers: tuple[bytes, ...], error: OSError
    ) -> None:
        for at in range(len(answers)):
            session, one = opened(*extensions), two()
            script = deliver(
                session, [one, two()], *answers[:at], b"421 4.7.0 too many errors\r\n", b"", fails={at: error}
            )
            assert script.settled == [one]
            assert one.was_closed
            assert "too many errors" in str(one.error)
            assert one.handed_over is (at == len(answers) - 1)
            assert script.reads[-1].timeout == 10
            assert session.broken

    @pytest.mark.parametrize(("extensions", "answers"), [(["PIPELINING"], GROUPED), ([], LOCK_STEP)])
    def test_a_failed_write_without_a_word_is_a_lost_connection(
        self, extensions: list[str], answers: tuple[bytes, ...]
    ) -> None:
        for at in range(len(answers)):
            session, one = opened(*extensions), two()
            deliver(session, [one], *answers[:at], b"", fails={at: BrokenPipeError(32, "Broken pipe")})
            assert isinstance(one.error, ConnectionLost)
            assert one.handed_over is (at == len(answers) - 1)
            assert session.broken

    def test_a_refusal_while_the_content_is_written_is_its_reply(self) -> None:
        session, one = opened("PIPELINING"), transaction(content=b"Subject: x\r\n\r\n" + b"line\r\n" * 50_000)
        script = deliver(
            session,
            [one, transaction()],
            OK * 2 + GO,
            b"552 5.3.4 message too big\r\n",
            fails={2: BrokenPipeError(32, "Broken pipe")},
        )
        assert script.settled == [one]
        assert codes(one) == (250, [250], 552)
        assert not one.handed_over
        assert not b"".join(script.sent).endswith(DOT)
        assert one.error is None
        assert session.broken

    def test_the_end_of_the_stream_while_the_content_is_written(self) -> None:
        session, one = opened("PIPELINING"), transaction(content=b"Subject: x\r\n\r\n" + b"line\r\n" * 50_000)
        deliver(session, [one], OK * 2 + GO, b"", fails={2: ConnectionResetError(104, "reset")})
        assert isinstance(one.error, ConnectionLost)
        assert not one.handed_over
        assert session.broken

    def test_421_while_the_content_is_written(self) -> None:
        session, one = opened("PIPELINING"), transaction(content=b"Subject: x\r\n\r\n" + b"line\r\n" * 50_000)
        deliver(session, [one], OK * 2 + GO, b"421 no time\r\n", fails={1: ConnectionResetError(104, "reset")})
        assert one.was_closed
        assert not one.handed_over

    def test_an_acceptance_of_content_that_was_not_sent_is_no_smtp(self) -> None:
        session, one = opened("PIPELINING"), transaction(content=b"Subject: x\r\n\r\n" + b"line\r\n" * 50_000)
        deliver(session, [one], OK * 2 + GO, QUEUED, fails={2: ConnectionResetError(104, "reset")})
        assert isinstance(one.error, ProtocolViolation)
        assert one.final is None or not one.final.is_positive
        assert not one.handed_over
        assert session.broken

    def test_replies_after_a_failed_write_of_the_envelope_hand_nothing_over(self) -> None:
        """A server that answers everything although nothing reached it must not be believed."""
        session, one = opened("PIPELINING"), transaction()
        deliver(session, [one], OK * 2 + GO, QUEUED, fails={0: BrokenPipeError(32, "Broken pipe")})
        assert not one.handed_over
        assert isinstance(one.error, ConnectionLost)
        assert one.final is None
        assert session.broken

    def test_the_deadline_while_content_is_written_ends_it(self) -> None:
        session, one = opened("PIPELINING"), transaction(content=b"Subject: x\r\n\r\n" + b"line\r\n" * 50_000)
        error = TimedOut("the deadline passed", server="mx.example.com:25")
        deliver(session, [one], OK * 2 + GO, fails={2: error})
        assert one.error is error
        assert not one.handed_over
        assert session.broken


class TestGoodbyeUnasked:
    """421 that is read while no reply is due: whatever was to leave next was not read (RFC 5321 3.8)."""

    @pytest.mark.parametrize("goodbye", [b"421 4.3.2 bye\r\n", b"421-4.3.2 bye\r\n421 4.3.2 bye\r\n"])
    def test_behind_354_it_costs_the_message_nothing(self, goodbye: bytes) -> None:
        session, one = opened("PIPELINING"), transaction()
        script = deliver(session, [one], OK * 2 + GO + goodbye)
        assert (one.was_closed, one.is_unread, one.handed_over) == (False, True, False)
        assert len(script.sent) == 1
        assert isinstance(session.history.ended_by, ConnectionLost)
        assert session.history.ended_by.reply is not None
        assert session.history.ended_by.reply.code == 421

    def test_in_lock_step_it_costs_the_message_nothing(self) -> None:
        session, one = opened(), transaction()
        deliver(session, [one], OK + b"421 4.3.2 bye\r\n")
        assert (one.was_closed, one.is_unread) == (False, True)


class TestTranscript:
    def test_content_is_shown_as_a_number_of_octets(self) -> None:
        lines: list[str] = []
        session = opened("PIPELINING", transcript=lambda who, line: lines.append(f"{who} {line}"))
        lines.clear()
        deliver(session, [transaction(content=b"Subject: private\r\n\r\n.words\r\n")], OK * 2 + GO, QUEUED)
        assert lines == [
            "> MAIL FROM:<ann@example.org>",
            "> RCPT TO:<bob@example.com>",
            "> DATA",
            "< 250 2.0.0 ok",
            "< 250 2.0.0 ok",
            "< 354 go ahead",
            "> <29 octets>",
            "> .",
            "< 250 2.0.0 queued as 7",
        ]
