"""What leaves ahead of its replies, and what a connection has to prove for it: BDAT, the window (DESIGN 5.1, 5.2)."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend.errors import ConnectionLost, InvalidInput, ProtocolViolation, TimedOut
from smtpbackend.protocol.history import RATION
from smtpbackend.protocol.pipeline import AT_ONCE
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.transaction import Transaction
from smtpbackend.protocol.transaction_steps import (
    GROUP,
    MAX_CHUNK,
    MAX_UNANSWERED,
    OVERLAP_PATIENCE,
    PROBE_PATIENCE,
    PROBE_SLOW,
)
from tests.protocol.script import CONTENT, LATER, Failing, Script, deliver, opened, proven, transaction
from tests.protocol.test_deliver import BOB, CARL, DATA, DOT, GO, NO, OK, QUEUED, RSET, codes, two

PROBE = b"BDAT 1\r\nX" + RSET
REFUSED = b"503 5.5.1 MAIL first\r\n"
MAIL = b"MAIL FROM:<ann@example.org> SIZE=%d\r\n" % len(CONTENT)
PLAIN = b"MAIL FROM:<ann@example.org>\r\n"  # where SIZE is not offered
LAST = b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT
NOBODY = b"554 5.5.1 no valid recipients\r\n"


def chunking(*extensions: str, **options: Any) -> Session:
    return opened("PIPELINING", "CHUNKING", "SIZE", *extensions, **options)


def tried(*extensions: str) -> Session:
    """A connection that has proven everything."""
    return proven("PIPELINING", "CHUNKING", "SIZE", *extensions)


def wide() -> Session:
    """One that has taken so many messages that its window is open."""
    session = tried()
    deliver(session, [transaction() for _ in range(32)], *[OK * 2 + QUEUED] * 32)
    return session


def large(octets: int) -> Transaction:
    return transaction(content=b"Subject: x\r\n\r\n" + b"line\r\n" * (octets // 6))


class TestProbe:
    """Content leaves by BDAT on a connection that has shown that it discards what it refuses."""

    def test_it_stands_ahead_of_mail_and_in_its_flight(self) -> None:
        session, one = chunking(), two()
        script = deliver(session, [one], REFUSED + OK + OK * 3 + GO, QUEUED, probe_from=1)
        assert script.sent == [PROBE + MAIL + BOB + CARL + DATA, CONTENT + DOT]
        assert script.order == "WRWR"
        assert codes(one) == (250, [250, 250], 250)
        assert session.history.discards
        assert not session.broken

    def test_it_does_not_stand_ahead_of_the_first_message_that_may_be_the_only_one(self) -> None:
        session = chunking()
        answers = (OK * 2 + GO, QUEUED, REFUSED + OK + OK * 2 + GO, QUEUED, OK * 2 + QUEUED)
        script = deliver(session, [transaction() for _ in range(3)], *answers, probe_from=2)
        group = MAIL + BOB + DATA
        assert script.sent == [group, CONTENT + DOT, PROBE + group, CONTENT + DOT, MAIL + BOB + LAST]

    def test_a_later_delivery_does_not_prove_it_again(self) -> None:
        session = chunking()
        deliver(session, [transaction()], REFUSED + OK * 3 + GO, QUEUED, probe_from=1)
        assert deliver(session, [transaction()], OK * 2 + QUEUED, probe_from=1).sent == [MAIL + BOB + LAST]

    def test_it_waits_until_there_is_nothing_that_rset_would_have_to_clear(self) -> None:
        """Its RSET might never be read as one."""
        session = chunking()
        answers = (OK + NO + NOBODY, OK * 3, GO, QUEUED, REFUSED + OK * 3 + GO, QUEUED)
        script = deliver(session, [transaction() for _ in range(3)], *answers, probe_from=2)
        assert [sent.startswith(PROBE) for sent in script.sent] == [False, False, False, False, True, False]
        assert script.sent[1].startswith(RSET)

    @pytest.mark.parametrize("code", [503, 501, 530, 550, 554])
    def test_a_refusal_that_knows_the_command_is_the_proof(self, code: int) -> None:
        session = chunking()
        deliver(session, [transaction()], b"%d no\r\n" % code + OK * 3 + GO, QUEUED, probe_from=1)
        assert session.history.discards

    @pytest.mark.parametrize(
        "replies",
        [
            REFUSED + b"500 5.5.2 what is XRSET\r\n",  # go-smtp: the octet was read as the beginning of a command
            REFUSED + b"503 5.5.1 sequence\r\n",
            REFUSED + b"252 2.0.0 well\r\n",
            b"250 2.0.0 1 octet\r\n" + OK,  # it took a chunk that belongs to nothing
            *(b"%d not here\r\n" % code + OK for code in (500, 502, 504, 421 - 1, 451, 354)),
        ],
    )
    def test_unproven_all_content_goes_by_data(self, replies: bytes) -> None:
        session = chunking()
        script = deliver(session, [two(), two()], replies + OK * 3 + GO, QUEUED, OK * 3 + GO, QUEUED, probe_from=1)
        group = MAIL + BOB + CARL + DATA
        assert script.sent == [PROBE + group, CONTENT + DOT, group, CONTENT + DOT]
        assert session.history.discards is False
        assert not session.broken

    @pytest.mark.parametrize("replies", [b"", REFUSED])
    @pytest.mark.parametrize("end", [b"", TimeoutError("timed out"), b"421 4.7.0 no such nonsense here\r\n"])
    def test_a_connection_that_ends_over_it_says_so(self, replies: bytes, end: Any) -> None:
        session, one = chunking(), transaction()
        script = deliver(session, [one], *filter(None, [replies]), end, probe_from=1)
        assert session.history.probing
        assert session.broken
        assert not one.handed_over
        assert not one.was_closed
        assert one.error is not None
        assert script.reads[0].timeout == PROBE_PATIENCE

    def test_one_that_ends_later_does_not(self) -> None:
        session, one = chunking(), transaction()
        deliver(session, [one], REFUSED + OK, b"", probe_from=1)
        assert not session.history.probing
        assert isinstance(one.error, ConnectionLost)

    def test_an_end_behind_its_refused_rset_leaves_the_message_unread(self) -> None:
        session, one = chunking(), transaction()
        deliver(session, [one], REFUSED + b"554 5.7.0 too many errors\r\n", b"", probe_from=1)
        assert (one.is_unread, one.was_closed, session.history.discards) == (True, False, False)
        assert session.history.probing  # it ended over the probe, and the server is not down for it

    def test_a_refused_rset_with_a_reply_behind_it_ends_nothing(self) -> None:
        session, one = chunking(), transaction()
        deliver(session, [one], REFUSED + b"554 5.7.0 too many errors\r\n" + OK, b"", probe_from=1)
        assert (one.is_unread, session.history.probing) == (False, False)

    @pytest.mark.parametrize(
        ("before", "took", "slow"),
        [(0.0, PROBE_SLOW, False), (0.0, PROBE_SLOW + 0.1, True), (0.9, 1.7, False), (0.9, 1.9, True)],
    )
    def test_it_was_slow_over_a_second_and_over_twice_the_slowest_other_reply(
        self, before: float, took: float, slow: bool
    ) -> None:
        session = chunking()
        session.line.slowest = before
        deliver(session, [transaction()], REFUSED + OK * 3 + GO, QUEUED, probe_from=1, delays=[took])
        assert session.history.probed_slowly is slow
        assert session.history.discards  # its proof holds for this connection all the same

    def test_the_replies_while_a_connection_is_opened_are_timed(self) -> None:
        session = Session("mx.example.com:25", "client.example.org")
        script = Script(b"220 welcome\r\n", b"250 mx.example.com\r\n")
        script.delays.extend([0.2, 0.7])
        script.run(session.open("none"))
        assert session.line.slowest == pytest.approx(0.7)

    def test_who_is_told_never_asks_for_no_proof(self) -> None:
        script = deliver(chunking(), [transaction()] * 2, OK * 2 + GO, QUEUED, OK * 2 + GO, QUEUED)
        assert b"BDAT" not in b"".join(script.sent)

    @pytest.mark.parametrize("missing", ["CHUNKING", "PIPELINING", "SIZE"])
    def test_without_all_three_extensions_there_is_none(self, missing: str) -> None:
        """Without SIZE in MAIL Exim reads a chunk over its limit as commands, proof or not."""
        session = opened(*{"CHUNKING", "PIPELINING", "SIZE"} - {missing})
        answers = [OK, OK, GO, QUEUED] if missing == "PIPELINING" else [OK * 2 + GO, QUEUED]
        script = deliver(session, [transaction()], *answers, probe_from=1)
        assert b"BDAT" not in b"".join(script.sent)

    def test_an_ignored_size_forbids_it(self) -> None:
        session = chunking(ignore=["SIZE"])
        session.history.discards = True
        script = deliver(session, [transaction()], OK * 2 + GO, QUEUED, probe_from=1)
        assert b"BDAT" not in b"".join(script.sent)

    def test_under_all_it_saves_a_wait_too(self) -> None:
        session = chunking()
        answers = (REFUSED + OK * 4, GO, QUEUED, OK * 3, QUEUED)
        script = deliver(session, [two(), two()], *answers, policy="all", probe_from=1)
        group = MAIL + BOB + CARL
        assert script.sent == [PROBE + group, DATA, CONTENT + DOT, group, LAST]

    def test_lmtp_has_none(self) -> None:
        """How many replies come to a chunk depends on those to the recipients."""
        session = chunking(lmtp=True)
        script = deliver(session, [two()], OK * 3 + GO, QUEUED * 2, probe_from=1)
        assert b"BDAT" not in b"".join(script.sent)


class TestTogether:
    """A content in flight with its recipients."""

    def test_a_refused_recipient_is_left_out(self) -> None:
        one = two()
        deliver(tried(), [one], OK * 2 + NO + QUEUED)
        assert codes(one) == (250, [250, 550], 250)
        assert one.handed_over

    def test_everybody_refused_is_refused_once_more_and_harms_nobody(self) -> None:
        session, one = tried(), two()
        deliver(session, [one, other := transaction()], OK + NO * 2 + NOBODY, OK * 3, QUEUED)
        assert codes(one) == (250, [550, 550], None)
        assert codes(other) == (250, [250], 250)
        assert not session.broken

    @pytest.mark.parametrize("refusal", [b"550 5.7.1 not you\r\n", b"451 4.3.0 later\r\n"])
    def test_a_refused_sender(self, refusal: bytes) -> None:
        session, one = tried(), transaction()
        deliver(session, [one], refusal + b"503 no\r\n" * 2)
        assert one.mail is not None
        assert one.mail.code == int(refusal[:3])
        assert (one.final, one.error, session.broken) == (None, None, False)

    def test_a_content_taken_after_a_refused_sender_is_no_smtp(self) -> None:
        """Whose mail was it? The connection ends, and what was said of the content is kept."""
        session, one = tried(), transaction()
        deliver(session, [one], b"451 4.3.0 later\r\n" + OK + QUEUED)
        assert isinstance(one.error, ProtocolViolation)
        assert one.final is not None
        assert session.broken

    def test_up_to_its_limit_only(self) -> None:
        for octets, flies in ((MAX_CHUNK - 20, True), (MAX_CHUNK + 20, False)):
            one = large(octets)
            script = deliver(tried(), [one], *([OK * 2 + QUEUED] if flies else [OK * 2 + GO, QUEUED]))
            assert (len(script.sent) == 1) is flies
            assert (b"BDAT" in b"".join(script.sent)) is flies
            assert (one.error, one.handed_over) == (None, True)

    def test_never_into_silence(self) -> None:
        one = transaction()
        one.is_awake = False
        script = deliver(tried(), [one], OK * 2, QUEUED)
        assert script.sent == [MAIL + BOB, LAST]

    def test_it_is_handed_over_by_the_first_write(self) -> None:
        one = two()
        deliver(tried(), [one], OK + OK, b"")
        assert one.handed_over
        assert isinstance(one.error, ConnectionLost)
        assert codes(one) == (250, [250, None], None)

    def test_more_recipients_than_may_be_unanswered(self) -> None:
        """Two groups; the content leaves with the second."""
        one = transaction(*(f"r{number}@example.com" for number in range(300)))
        script = deliver(tried(), [one], OK * GROUP, OK * (301 - GROUP) + QUEUED)
        assert script.order == "WRWR"
        assert script.sent[1].endswith(LAST)
        assert one.everybody_accepted

    def test_a_source_that_fails_has_said_nothing(self) -> None:
        """Unlike in mid-content, where the connection has to end."""
        session, file = tried(), Failing(CONTENT)
        one = transaction(content=file.content())
        file.fails_at = 2
        script = deliver(session, [one, other := transaction()], OK * 2 + QUEUED)
        assert isinstance(one.error, InvalidInput)
        assert script.sent == [MAIL + BOB + LAST]
        assert codes(other) == (250, [250], 250)
        assert not session.broken

    @pytest.mark.parametrize("code", [b"552", b"502", b"451"])
    def test_a_refusal_leaves_the_connection_as_it_was(self, code: bytes) -> None:
        """It has proven that it discards the chunk, and MAIL has declared its size."""
        session, one, other = tried(), transaction(), transaction()
        script = deliver(session, [one, other], OK * 2 + code + b" no\r\n", OK * 3, QUEUED)
        assert script.sent[1:] == [RSET + MAIL + BOB, LAST]
        assert (codes(one), one.error, one.is_chunked) == ((250, [250], int(code)), None, True)
        assert codes(other) == (250, [250], 250)
        assert not session.broken

    def test_a_reply_too_many_is_not_taken_for_the_last(self) -> None:
        one = transaction()
        deliver(tried(), [one], OK + OK + OK + b"554 5.7.1 spam\r\n")
        assert isinstance(one.error, ProtocolViolation)
        assert one.final is None

    def test_a_goodbye_behind_the_reply_leaves_it_accepted(self) -> None:
        one = transaction()
        deliver(tried(), [one], OK * 2 + QUEUED + b"421 4.4.2 bye\r\n")
        assert (codes(one), one.error) == ((250, [250], 250), None)


class TestLarge:
    """What does not fit one chunk goes by DATA: it gains nothing from chunks, and a refused one could be run."""

    def test_no_chunk_is_ever_followed_by_another(self) -> None:
        session, one = tried(), large(MAX_CHUNK * 10)
        script = deliver(session, [one], OK * 2 + GO, QUEUED)
        assert b"BDAT" not in b"".join(script.sent)
        assert script.sent[0] == b"MAIL FROM:<ann@example.org> SIZE=%d\r\n" % one.content.size + BOB + DATA
        assert codes(one) == (250, [250], 250)

    def test_the_next_message_may_follow_it(self) -> None:
        one, other = large(MAX_CHUNK * 3), transaction()
        script = deliver(tried(), [one, other], OK * 2 + GO, QUEUED + OK * 3 + QUEUED, window=8)
        assert script.sent[-1].endswith(DOT + RSET + MAIL + BOB + LAST)
        assert script.settled == [one, other]
        assert codes(other) == (250, [250], 250)


class TestOverlap:
    """The window opens when the connection has answered what stood behind the end of a content."""

    def test_rset_alone_follows_the_first_content_in_the_same_write(self) -> None:
        session, mails = opened("PIPELINING"), [transaction() for _ in range(3)]
        script = deliver(session, mails, OK * 2 + GO, QUEUED + OK, OK * 2 + GO, QUEUED + OK * 3 + GO, QUEUED, window=8)
        group = PLAIN + BOB + DATA
        assert script.sent == [group, CONTENT + DOT + RSET, group, CONTENT + DOT + RSET + group, CONTENT + DOT]
        assert script.settled == mails
        assert session.history.overlaps
        assert not session.history.overlapping

    def test_with_chunking_all_that_the_window_holds_leaves_in_one_write(self) -> None:
        session, mails = chunking(), [transaction() for _ in range(6)]
        answers = (REFUSED + OK * 3 + GO, QUEUED + OK, OK * 2 + QUEUED + (OK * 3 + QUEUED) * 3, OK * 3 + QUEUED)
        script = deliver(session, mails, *answers, window=4, probe_from=1)
        assert script.sent[:2] == [PROBE + MAIL + BOB + DATA, CONTENT + DOT + RSET]
        assert script.sent[2] == MAIL + BOB + LAST + (RSET + MAIL + BOB + LAST) * 3
        assert script.settled == mails
        assert all(codes(one) == (250, [250], 250) for one in mails)

    def test_no_proof_is_asked_for_when_nothing_follows(self) -> None:
        script = deliver(opened("PIPELINING"), [transaction()], OK * 2 + GO, QUEUED, window=8)
        assert script.sent[-1] == CONTENT + DOT

    def test_a_source_that_hesitates_has_it_proven_meanwhile(self) -> None:
        session = opened("PIPELINING")
        script = deliver(
            session, [transaction(), LATER, transaction()], OK * 2 + GO, QUEUED + OK, OK * 2 + GO, QUEUED, window=8
        )
        assert script.sent[1:3] == [CONTENT + DOT + RSET, PLAIN + BOB + DATA]
        assert session.history.overlaps

    def test_a_window_of_one_asks_for_none(self) -> None:
        script = deliver(opened("PIPELINING"), [transaction()] * 2, OK * 2 + GO, QUEUED, OK * 3 + GO, QUEUED)
        assert script.sent[1] == CONTENT + DOT

    def test_where_rset_is_swallowed_the_message_is_settled_and_the_next_was_not_begun(self) -> None:
        """Courier discards what it has read behind the dot."""
        session, one, other = opened("PIPELINING"), transaction(), transaction()
        script = deliver(session, [one, other], OK * 2 + GO, QUEUED, TimeoutError("timed out"), window=8)
        assert codes(one) == (250, [250], 250)
        assert one.error is None
        assert isinstance(other.error, TimedOut)
        assert not other.handed_over
        assert other.mail is None
        assert session.history.overlapping
        assert session.broken
        assert script.reads[-1].timeout == OVERLAP_PATIENCE
        assert script.sent[-1] == CONTENT + DOT + RSET

    def test_where_rset_is_refused_one_message_goes_at_a_time(self) -> None:
        session, mails = opened("PIPELINING"), [transaction() for _ in range(3)]
        script = deliver(
            session,
            mails,
            OK * 2 + GO,
            QUEUED + b"502 no RSET here\r\n",
            OK * 2 + GO,
            QUEUED,
            OK * 2 + GO,
            QUEUED,
            window=8,
        )
        assert not session.history.overlaps
        assert [len(one) for one in script.sent].count(len(CONTENT + DOT)) == 2
        assert all(codes(one)[2] == 250 for one in mails)

    def test_a_refused_content_opens_it_too(self) -> None:
        session, one, other = opened("PIPELINING"), transaction(), transaction()
        deliver(session, [one, other], OK * 2 + GO, b"554 spam\r\n" + OK, OK * 2, GO, QUEUED, window=8)
        assert codes(one)[2] == 554
        assert codes(other)[2] == 250
        assert session.history.overlaps

    def test_it_stays_open_for_later_deliveries(self) -> None:
        session = proven("PIPELINING")
        deliver(session, [transaction()], OK * 2 + GO, QUEUED, window=8)
        script = deliver(session, [transaction(), transaction()], OK * 2 + GO, QUEUED + OK * 3 + GO, QUEUED, window=8)
        assert script.sent[1] == CONTENT + DOT + RSET + PLAIN + BOB + DATA


class TestWindow:
    """Several messages in flight."""

    def test_refusals_in_the_middle_harm_no_neighbour(self) -> None:
        mails = [two() for _ in range(5)]
        answers = (
            OK * 3 + QUEUED,
            OK + b"550 not you\r\n" + b"503 no\r\n" * 3,
            OK * 2 + NO + NO + NOBODY,
            OK * 4 + b"554 5.6.0 spam\r\n",
            OK * 4 + QUEUED,
        )
        session = wide()
        deliver(session, mails, b"".join(answers), window=8)
        assert [codes(one) for one in mails] == [
            (250, [250, 250], 250),
            (550, [503, 503], None),
            (250, [550, 550], None),
            (250, [250, 250], 554),
            (250, [250, 250], 250),
        ]
        assert all(one.error is None for one in mails)
        assert not session.broken

    def test_a_cut_is_settled_message_by_message(self) -> None:
        mails = [transaction() for _ in range(4)]
        deliver(tried(), mails, OK * 2 + QUEUED, OK * 3 + QUEUED, OK + OK, b"", window=8)
        assert [one.error is None for one in mails] == [True, True, False, False]
        assert all(one.handed_over for one in mails)
        assert [codes(one) for one in mails[2:]] == [(250, [None], None), (None, [None], None)]

    def test_what_stands_behind_a_421_was_not_read(self) -> None:
        """It is told from the command that was answered so, and what was answered before stands."""
        session, mails = tried(), [transaction() for _ in range(4)]
        deliver(session, mails, OK * 2 + QUEUED + OK + b"421 4.3.2 shutting down\r\n", window=8)
        assert [one.was_closed for one in mails] == [False, True, False, False]
        assert [one.is_unread for one in mails] == [False, False, True, True]
        assert codes(mails[0]) == (250, [250], 250)
        assert session.history.ended_at == 2

    @pytest.mark.parametrize("end", [b"", ConnectionResetError(104, "reset")])
    @pytest.mark.parametrize("refusal", [b"554 5.7.0 too many commands\r\n", b"421 4.7.0 goodbye\r\n"])
    def test_a_refused_rset_and_the_end_leave_all_behind_it_unread(self, refusal: bytes, end: Any) -> None:
        """RSET is no message's: none is charged with it. Exim ends so (smtp_accept_max_nonmail)."""
        mails = [transaction() for _ in range(4)]
        ends = [end] if refusal.startswith(b"554") else []
        deliver(tried(), mails, OK * 2 + QUEUED + OK * 2 + NO + NOBODY + refusal, *ends, window=8)
        assert [one.was_closed for one in mails] == [False] * 4
        assert [one.is_unread for one in mails] == [False, False, True, True]

    def test_a_refused_rset_in_a_connection_that_goes_on_is_a_violation(self) -> None:
        """What stands behind it was read, and perhaps into the transaction that was not cleared."""
        session, mails = tried(), [transaction() for _ in range(3)]
        deliver(session, mails, OK + NO + NOBODY + b"502 5.5.1 what\r\n" + OK, window=8)
        assert [one.is_unread for one in mails] == [False] * 3
        assert isinstance(mails[1].error, ProtocolViolation)
        assert mails[2].handed_over

    def test_a_time_out_behind_a_refused_rset_tells_nothing(self) -> None:
        mails = [transaction() for _ in range(2)]
        deliver(tried(), mails, OK + NO + NOBODY + b"554 no\r\n", TimeoutError("timed out"), window=8)
        assert not mails[1].is_unread
        assert isinstance(mails[1].error, TimedOut)

    def test_replies_behind_421_are_not_held_against_the_server(self) -> None:
        """Exim answers what else it has read, and then closes."""
        session, mails = tried(), [transaction() for _ in range(3)]
        deliver(session, mails, OK * 2 + QUEUED + OK, OK + b"421 too many\r\n" + b"503 MAIL first\r\n" * 4, window=8)
        assert mails[1].was_closed
        assert mails[2].is_unread
        assert not session.line.is_talkative

    def test_a_bare_end_tells_nothing_either(self) -> None:
        session, mails = tried(), [transaction() for _ in range(3)]
        deliver(session, mails, OK * 2 + QUEUED + OK, b"", window=8)
        assert [one.is_unread for one in mails] == [False] * 3
        assert session.history.ended_at is None  # it may have been idle for too long

    def test_it_is_bounded_in_messages(self) -> None:
        mails = [transaction() for _ in range(5)]
        script = deliver(tried(), mails, OK * 2 + QUEUED + (OK * 3 + QUEUED) * 2, (OK * 3 + QUEUED) * 2, window=3)
        assert script.sent[0].count(MAIL) == 3
        assert sum(sent.count(MAIL) for sent in script.sent) == 5

    def test_it_is_filled_again_when_half_of_it_is_free(self) -> None:
        """However replies trickle in: else each would let one message leave, in a write and a turn of its own."""
        mails = [transaction() for _ in range(22)]
        script = deliver(wide(), mails, OK * 2 + QUEUED + OK, *[OK * 3 + QUEUED] * 21, window=8)
        assert [sent.count(MAIL) for sent in script.sent] == [8, 4, 4, 4, 2]

    def test_it_begins_small_and_opens_as_messages_are_accepted(self) -> None:
        mails = [transaction() for _ in range(100)]
        first, later = OK * 2 + QUEUED, OK * 3 + QUEUED
        script = deliver(tried(), mails, first + later * 8, later * 14, later * 28, later * 32, later * 17, window=32)
        assert [sent.count(MAIL) for sent in script.sent] == [RATION, 14, 28, 32, 17]

    @pytest.mark.parametrize("answer", [OK + NO + NOBODY, NO + b"503 no\r\n" * 2, OK * 2 + b"554 5.6.0 spam\r\n"])
    def test_each_refusal_closes_it_and_counts_its_errors(self, answer: bytes) -> None:
        session, mails = wide(), [transaction() for _ in range(20)]
        deliver(session, mails[:1], answer, window=32)
        errors = answer.count(b"\r\n5") + answer.startswith(b"5")
        assert session.history.refusals == errors
        script = Script(transactions=mails[1:])
        conversation = session.deliver("any", 32)
        with pytest.raises(AssertionError, match="nothing is scripted"):
            script.run(conversation)
        # BDAT waits for the recipients now, and the next message for BDAT
        assert script.sent == [(b"" if answer.startswith(b"5") else RSET) + MAIL + BOB]

    def test_refusals_use_the_connection_up(self) -> None:
        """A run of dead addresses gets no more errors out of a server than it bears: 9 on one connection.

        BDAT for nobody is one too, so behind the first it waits for the recipients.
        """
        session, mails = tried(), [transaction() for _ in range(8)]
        script = deliver(session, mails, OK + NO + NOBODY, *[OK * 2 + NO] * 7)
        assert script.sent == [MAIL + BOB + LAST] + [RSET + MAIL + BOB] * 7
        assert session.history.refusals == RATION
        assert session.history.is_spent

    def test_without_bdat_too(self) -> None:
        session, mails = opened("PIPELINING"), [transaction() for _ in range(8)]
        script = deliver(session, mails, OK + NO + NOBODY, *[OK * 2 + NO] * 7)
        assert [sent.endswith(DATA) for sent in script.sent] == [True] + [False] * 7
        assert session.history.is_spent

    def test_in_lock_step_a_dead_address_is_one_error(self) -> None:
        session, mails = opened(), [transaction() for _ in range(9)]
        deliver(session, mails[:8], OK, NO, *[OK, OK, NO] * 7)
        assert not session.history.is_spent
        deliver(session, mails[8:], OK, OK, NO)
        assert session.history.is_spent

    def test_the_one_behind_a_refusal_takes_a_wait_more_and_forgives_it(self) -> None:
        session, mails = tried(), [transaction() for _ in range(3)]
        script = deliver(session, mails, OK + NO + NOBODY, OK * 3, QUEUED, OK * 2 + QUEUED)
        assert script.sent == [MAIL + BOB + LAST, RSET + MAIL + BOB, LAST, MAIL + BOB + LAST]
        assert session.history.refusals == 0

    def test_the_probe_is_an_error_too(self) -> None:
        """Postfix counts it, and forgets it with the first message that it takes."""
        session, mails = chunking(), [transaction() for _ in range(2)]
        deliver(session, mails[:1], REFUSED + OK + OK + NO + NOBODY, probe_from=1)
        assert session.history.refusals == 3
        deliver(session, mails[1:], OK * 3, QUEUED)
        assert session.history.refusals == 0

    def test_an_accepted_message_forgives_them(self) -> None:
        session = tried()
        deliver(
            session,
            [transaction(), two(), transaction()],
            OK + NO + NOBODY,
            OK + OK + OK + NO,
            QUEUED,
            OK * 2 + QUEUED,
        )
        assert session.history.refusals == 0

    def test_a_reply_too_many_behind_the_last_one_is_not_left_for_the_next_conversation(self) -> None:
        session, mails = opened("PIPELINING"), [transaction() for _ in range(2)]
        deliver(session, mails, OK * 2 + GO, QUEUED + OK, OK * 2 + GO, QUEUED + OK, window=8)
        assert session.line.is_talkative
        assert session.broken
        assert all(codes(one)[2] == 250 for one in mails)

    def test_it_is_bounded_in_unanswered_commands(self) -> None:
        many = [transaction(*(f"r{n}@example.com" for n in range(100))) for _ in range(4)]
        answers = [OK * 101 + QUEUED, OK * 102 + QUEUED, OK * 102 + QUEUED, OK * 102 + QUEUED]
        script = deliver(tried(), many, *answers, window=32)
        outstanding = 0
        for sent in script.sent:
            outstanding = max(outstanding, sent.count(b"\r\nRCPT") + sent.count(b"RSET") + sent.count(b"MAIL"))
        assert outstanding <= MAX_UNANSWERED
        assert all(one.everybody_accepted for one in many)

    def test_large_contents_do_not_pile_up_before_they_leave(self) -> None:
        mails = [large(MAX_CHUNK - 100) for _ in range(8)]
        script = deliver(wide(), mails, OK * 2 + QUEUED + (OK * 3 + QUEUED) * 7, window=8)
        assert max(map(len, script.sent)) < 3 * MAX_CHUNK
        assert script.settled == mails

    @pytest.mark.parametrize("policy", ["any", "all"])
    def test_all_waits_for_its_recipients_and_lets_the_next_follow(self, policy: str) -> None:
        mails = [two(), two()]
        if policy == "all":
            script = deliver(tried(), mails, OK * 3, QUEUED + OK * 4, QUEUED, policy=policy, window=8)
            assert script.sent == [MAIL + BOB + CARL, LAST + RSET + MAIL + BOB + CARL, LAST]
        else:
            script = deliver(tried(), mails, OK * 3 + QUEUED + OK * 4 + QUEUED, policy=policy, window=8)
            assert len(script.sent) == 1
        assert all(codes(one) == (250, [250, 250], 250) for one in mails)


class TestTheLastOne:
    """Where none is known to come behind a transaction, its content does not wait until another was asked for."""

    @pytest.mark.parametrize("enough", [True, False])
    def test_no_other_is_asked_for_before_it_is_settled(self, enough: bool) -> None:
        session, one = proven("PIPELINING"), transaction()
        one.is_last = True
        script = Script(OK * 2 + GO, QUEUED, transactions=[one], enough=enough)
        script.run(session.deliver("any", 8))
        assert script.order == "WRWR"
        assert script.settled == [one]
        assert len(script.asked) == (1 if enough else 2)
        assert not session.broken

    def test_it_may_be_followed_after_all(self) -> None:
        """By itself, to those whom the server did not take at once."""
        session, one, again = proven("PIPELINING"), transaction(), transaction("carl@example.com")
        one.is_last = again.is_last = True
        script = Script(OK * 2 + GO, QUEUED, OK * 2 + GO, QUEUED, transactions=[one, again], enough=True)
        script.run(session.deliver("any", 8))
        assert script.settled == [one, again]
        assert script.sent[2] == PLAIN + CARL + DATA
        assert not session.broken

    def test_taken_while_a_reply_was_awaited(self) -> None:
        session, one, last = proven("PIPELINING"), transaction(), transaction()
        last.is_last = True
        script = Script(OK * 2 + GO, QUEUED + OK * 3 + GO, QUEUED, transactions=[one, LATER, last], enough=True)
        script.run(session.deliver("any", 8))
        assert script.settled == [one, last]
        assert not session.broken


class TestWhoIsToldWhen:
    """The server gets its next work first, where it has answered everything and the next message is prepared."""

    GROUP = OK * 3 + GO

    def test_a_receipt_does_not_keep_the_server_waiting(self) -> None:
        session, four = proven("PIPELINING"), [transaction() for _ in range(4)]
        script = deliver(session, four, OK * 2 + GO, *[QUEUED + self.GROUP] * 3, QUEUED, window=8)
        assert script.settled == four
        # the first group, the end of each content with the group behind it, the last content
        assert script.order == "WR" * 5
        assert script.settled_after == [3, 4, 4, 5]
        assert not session.broken

    def test_but_no_receipt_waits_for_what_might_have_to_wait_itself(self) -> None:
        session = proven("PIPELINING")
        four = [transaction(), large(AT_ONCE), large(AT_ONCE), transaction()]
        script = deliver(session, four, OK * 2 + GO, *[QUEUED + self.GROUP] * 3, QUEUED, window=8)
        assert script.settled_after == [2, 3, 4, 5]

    @pytest.mark.parametrize(
        "end",
        [b"", TimeoutError("timed out"), b"421 4.3.2 down\r\n", b"nonsense\r\n", OK * 3 + b"421 4.3.2 down\r\n"],
    )
    def test_in_order_whatever_comes_then(self, end: Any) -> None:
        """The second is told before the third, which the server says nothing of any more."""
        session, four = proven("PIPELINING"), [transaction() for _ in range(4)]
        script = deliver(session, four, OK * 2 + GO, QUEUED + self.GROUP, QUEUED, end, window=8)
        assert script.settled == four[: len(script.settled)]
        assert len(script.settled) >= 3
        assert [one.final is not None and one.final.code for one in four[:2]] == [250, 250]
        assert all(one.error is None for one in four[:2])
        assert all(one.error is not None for one in script.settled[2:])
        assert session.broken

    def test_when_what_leaves_next_cannot_be_written(self) -> None:
        session, three = proven("PIPELINING"), [transaction() for _ in range(3)]
        fails: dict[int, OSError] = {2: BrokenPipeError()}
        script = deliver(session, three, OK * 2 + GO, QUEUED + self.GROUP, b"", window=8, fails=fails)
        assert script.settled == three
        assert three[0].error is None
        assert session.broken
