"""What leaves ahead of its replies, and what a connection has to prove for it: BDAT, the window (DESIGN 5.1, 5.2)."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend import mime
from smtpbackend.errors import ConnectionLost, InvalidInput, ProtocolViolation, TimedOut
from smtpbackend.protocol.delivering import AT_ONCE, OVERLAP_PATIENCE
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.protocol.transacting import CHUNK, CHUNKS_AHEAD, MAX_TOGETHER, MAX_UNANSWERED
from smtpbackend.protocol.transaction import Transaction
from tests.protocol.script import CONTENT, LATER, Script, deliver, opened, proven, transaction
from tests.protocol.test_deliver import BOB, CARL, DATA, DOT, GO, MAIL, NO, OK, QUEUED, RSET, Failing, codes, two

PROBE = b"BDAT 1\r\nX" + RSET
REFUSED = b"503 5.5.1 MAIL first\r\n"
LAST = b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT
NOBODY = b"554 5.5.1 no valid recipients\r\n"


def chunking(*extensions: str, **options: Any) -> Session:
    return opened("PIPELINING", "CHUNKING", *extensions, **options)


def tried(*extensions: str) -> Session:
    """A connection that has proven everything."""
    return proven("PIPELINING", "CHUNKING", *extensions)


def large(octets: int) -> Transaction:
    return transaction(content=b"Subject: x\r\n\r\n" + b"line\r\n" * (octets // 6))


class TestProbe:
    """Content leaves beside its recipients on a connection that has shown that it discards what it refuses."""

    def test_it_stands_ahead_of_the_first_mail_and_in_its_flight(self) -> None:
        session, one = chunking(), two()
        script = deliver(session, [one], REFUSED + OK + OK * 3, QUEUED)
        assert script.sent == [PROBE + MAIL + BOB + CARL, LAST]
        assert script.order == "WRWR"
        assert codes(one) == (250, [250, 250], 250)
        assert session.discards
        assert not session.broken

    def test_the_next_message_takes_one_wait(self) -> None:
        session = chunking()
        script = deliver(session, [two(), two()], REFUSED + OK + OK * 3, QUEUED, OK * 4 + QUEUED)
        assert script.sent[2] == RSET + MAIL + BOB + CARL + LAST
        assert script.order == "WRWRWR"

    def test_a_later_delivery_does_not_prove_it_again(self) -> None:
        session = chunking()
        deliver(session, [transaction()], REFUSED + OK * 3, QUEUED)
        assert deliver(session, [transaction()], OK * 3 + QUEUED).sent == [RSET + MAIL + BOB + LAST]

    @pytest.mark.parametrize(
        "replies",
        [
            REFUSED + b"500 5.5.2 what is XRSET\r\n",  # go-smtp: the octet was read as the beginning of a command
            b"250 2.0.0 1 octet\r\n" + OK,  # it took a chunk that belongs to nothing
            b"500 5.5.1 unknown\r\n" * 2,
        ],
    )
    def test_unproven_the_content_waits_for_the_replies_to_the_recipients(self, replies: bytes) -> None:
        session = chunking()
        script = deliver(session, [two(), two()], replies + OK * 3, QUEUED, OK * 4, QUEUED)
        assert script.sent == [PROBE + MAIL + BOB + CARL, LAST, RSET + MAIL + BOB + CARL, LAST]
        assert not session.discards
        assert not session.broken

    @pytest.mark.parametrize("replies", [b"", REFUSED])
    @pytest.mark.parametrize("end", [b"", TimeoutError("timed out"), b"421 4.7.0 no such nonsense here\r\n"])
    def test_a_connection_that_ends_over_it_says_so(self, replies: bytes, end: Any) -> None:
        session, one = chunking(), transaction()
        script = deliver(session, [one], *filter(None, [replies]), end)
        assert session.probing
        assert session.broken
        assert not one.handed_over
        assert one.error is not None
        assert script.reads[0].timeout == Timeouts().reused

    def test_one_that_ends_later_does_not(self) -> None:
        session, one = chunking(), transaction()
        deliver(session, [one], REFUSED + OK, b"")
        assert not session.probing
        assert isinstance(one.error, ConnectionLost)

    @pytest.mark.parametrize(("how", "first"), [("always", MAIL + BOB + LAST), ("never", MAIL + BOB)])
    def test_who_is_told_asks_for_no_proof(self, how: str, first: bytes) -> None:
        script = Script(*([OK * 2 + QUEUED] if how == "always" else [OK * 2, QUEUED]), transactions=[transaction()])
        script.run(chunking().deliver("any", 1, how))
        assert script.sent[0] == first

    @pytest.mark.parametrize("extensions", [["CHUNKING"], ["PIPELINING"]])
    def test_without_both_extensions_there_is_none(self, extensions: list[str]) -> None:
        answers = [OK, OK, QUEUED] if "CHUNKING" in extensions else [OK * 2 + GO, QUEUED]
        script = deliver(opened(*extensions), [transaction()], *answers)
        assert b"X" not in b"".join(script.sent)

    def test_under_all_there_is_none(self) -> None:
        session = chunking()
        script = deliver(session, [two(), two()], OK * 3, QUEUED, OK * 4, QUEUED, policy="all")
        assert script.sent == [MAIL + BOB + CARL, LAST, RSET + MAIL + BOB + CARL, LAST]


class TestTogether:
    """A content in flight with its recipients."""

    def test_a_refused_recipient_is_left_out(self) -> None:
        one = two()
        deliver(tried(), [one], OK * 2 + NO + QUEUED)
        assert codes(one) == (250, [250, 550], 250)
        assert one.handed_over

    def test_everybody_refused_is_refused_once_more_and_harms_nobody(self) -> None:
        session, one = tried(), two()
        deliver(session, [one, other := transaction()], OK + NO * 2 + NOBODY, OK * 3 + QUEUED)
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
        for octets, flies in ((MAX_TOGETHER - 20, True), (MAX_TOGETHER + 20, False)):
            one = large(octets)
            script = deliver(tried(), [one], *([OK * 2 + QUEUED] if flies else [OK * 2, QUEUED, QUEUED]))
            assert (len(script.sent) == 1) is flies
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
        script = deliver(tried(), [one], OK * (MAX_UNANSWERED - 2), OK * (300 - 253) + QUEUED)
        assert script.order == "WRWR"
        assert script.sent[1].endswith(LAST)
        assert one.everybody_accepted

    def test_a_source_that_fails_has_said_nothing(self) -> None:
        """Unlike in mid-content, where the connection has to end."""
        session, file = tried(), Failing(CONTENT)
        one = transaction(content=mime.given(file))
        assert one.content.size
        file.fails_at = 2
        script = deliver(session, [one, other := transaction()], OK * 2 + QUEUED)
        assert isinstance(one.error, InvalidInput)
        assert script.sent == [MAIL + BOB + LAST]
        assert codes(other) == (250, [250], 250)
        assert not session.broken

    def test_552_ends_the_connection(self) -> None:
        """Exim over its limit reads the rest of the chunk as commands."""
        session, one = tried(), transaction()
        deliver(session, [one, transaction()], OK * 2 + b"552 5.3.4 too big\r\n")
        assert codes(one) == (250, [250], 552)
        assert one.error is None
        assert session.broken

    def test_a_reply_too_many_is_not_taken_for_the_last(self) -> None:
        one = transaction()
        deliver(tried(), [one], OK + OK + OK + b"554 5.7.1 spam\r\n")
        assert isinstance(one.error, ProtocolViolation)
        assert one.final is None

    def test_a_goodbye_behind_the_reply_leaves_it_accepted(self) -> None:
        one = transaction()
        deliver(tried(), [one], OK * 2 + QUEUED + b"421 4.4.2 bye\r\n")
        assert (codes(one), one.error) == ((250, [250], 250), None)


class TestChunks:
    """A large content, by several BDAT (RFC 3030 3)."""

    def test_it_leaves_in_chunks_several_of_them_ahead_and_the_last_alone(self) -> None:
        one = large(CHUNK * 10)
        script = deliver(tried(), [one], OK * 2, *[OK] * 20)
        assert script.order[:8] == "WR" + "W" * CHUNKS_AHEAD + "RW"
        sent = b"".join(script.sent[1:])
        content = b""
        while sent:
            head, _, sent = sent.partition(b"\r\n")
            size = int(head.split(b" ")[1])
            assert 0 < size <= CHUNK
            assert head.endswith(b"LAST") is (size == len(sent))
            content, sent = content + sent[:size], sent[size:]
        assert content == b"".join(one.content.chunks())
        assert one.handed_over
        assert codes(one) == (250, [250], 250)

    def test_a_refused_chunk_ends_the_connection_without_rset(self) -> None:
        session, one = tried(), large(CHUNK * 10)
        script = deliver(session, [one, transaction()], OK * 2, b"452 4.3.1 disk full\r\n")
        assert codes(one) == (250, [250], 452)
        assert not one.handed_over
        assert session.broken
        assert b"LAST" not in b"".join(script.sent)
        assert RSET not in b"".join(script.sent)

    def test_a_write_that_fails_reads_what_the_server_had_to_say(self) -> None:
        session, one = tried(), large(CHUNK * 10)
        deliver(session, [one], OK * 2, OK + b"552 5.3.4 too big\r\n", fails={3: BrokenPipeError(32, "Broken pipe")})
        assert codes(one) == (250, [250], 552)
        assert (one.error, one.handed_over, session.broken) == (None, False, True)

    def test_and_where_it_said_nothing_bad_the_connection_is_lost(self) -> None:
        session, one = tried(), large(CHUNK * 10)
        deliver(session, [one], OK * 2, OK * 3, fails={3: BrokenPipeError(32, "Broken pipe")})
        assert isinstance(one.error, ConnectionLost)
        assert not one.handed_over

    def test_the_next_message_may_follow_the_last_chunk(self) -> None:
        one, other = large(CHUNK * 3), transaction()
        script = deliver(tried(), [one, other], OK * 2, OK * 3, OK, OK * 3 + QUEUED, window=8)
        assert script.sent[-1].endswith(RSET + MAIL + BOB + LAST)
        assert script.settled == [one, other]
        assert codes(other) == (250, [250], 250)

    def test_in_lock_step_too(self) -> None:
        one = large(CHUNK * 2)
        script = deliver(opened("CHUNKING"), [one], OK, OK, OK, OK, OK)
        assert codes(one) == (250, [250], 250)
        assert DATA not in script.sent

    def test_lmtp_answers_the_last_chunk_for_each_recipient(self) -> None:
        session, one = chunking(lmtp=True), two()
        script = deliver(session, [one], OK * 3, OK + b"450 4.2.0 busy\r\n")
        assert script.sent == [MAIL + BOB + CARL, LAST]
        assert one.finals is not None
        assert [final.code if final else None for final in one.finals] == [250, 450]


class TestOverlap:
    """The window opens when the connection has answered what stood behind the end of a content."""

    def test_rset_alone_follows_the_first_content_in_the_same_write(self) -> None:
        session, mails = opened("PIPELINING"), [transaction() for _ in range(3)]
        script = deliver(session, mails, OK * 2 + GO, QUEUED + OK, OK * 2 + GO, QUEUED + OK * 3 + GO, QUEUED, window=8)
        group = MAIL + BOB + DATA
        assert script.sent == [group, CONTENT + DOT + RSET, group, CONTENT + DOT + RSET + group, CONTENT + DOT]
        assert script.settled == mails
        assert session.overlaps
        assert not session.overlapping

    def test_with_chunking_all_that_the_window_holds_leaves_in_one_write(self) -> None:
        session, mails = chunking(), [transaction() for _ in range(6)]
        answers = (REFUSED + OK * 3, QUEUED + OK, OK * 2 + QUEUED + (OK * 3 + QUEUED) * 3, OK * 3 + QUEUED)
        script = deliver(session, mails, *answers, window=4)
        assert script.sent[:2] == [PROBE + MAIL + BOB, LAST + RSET]
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
        assert script.sent[1:3] == [CONTENT + DOT + RSET, MAIL + BOB + DATA]
        assert session.overlaps

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
        assert session.overlapping
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
            b"502 no RSET here\r\n" + OK * 2 + GO,
            QUEUED,
            b"502 no RSET here\r\n" + OK * 2 + GO,
            QUEUED,
            window=8,
        )
        assert not session.overlaps
        assert [len(one) for one in script.sent].count(len(CONTENT + DOT)) == 2
        assert all(codes(one)[2] == 250 for one in mails)

    def test_a_refused_content_opens_it_too(self) -> None:
        session, one, other = opened("PIPELINING"), transaction(), transaction()
        deliver(session, [one, other], OK * 2 + GO, b"554 spam\r\n" + OK, OK * 2 + GO, QUEUED, window=8)
        assert codes(one)[2] == 554
        assert codes(other)[2] == 250
        assert session.overlaps

    def test_it_stays_open_for_later_deliveries(self) -> None:
        session = proven("PIPELINING")
        deliver(session, [transaction()], OK * 2 + GO, QUEUED, window=8)
        script = deliver(session, [transaction()] * 2, OK * 3 + GO, QUEUED + OK * 3 + GO, QUEUED, window=8)
        assert script.sent[1] == CONTENT + DOT + RSET + MAIL + BOB + DATA


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
        session = tried()
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

    def test_after_421_nothing_was_done(self) -> None:
        mails = [transaction() for _ in range(3)]
        deliver(tried(), mails, OK * 2 + QUEUED + OK + b"421 4.3.2 shutting down\r\n", window=8)
        assert [one.was_closed for one in mails] == [False, True, True]

    def test_it_is_bounded_in_messages(self) -> None:
        mails = [transaction() for _ in range(5)]
        script = deliver(tried(), mails, OK * 2 + QUEUED + (OK * 3 + QUEUED) * 2, (OK * 3 + QUEUED) * 2, window=3)
        assert script.sent[0].count(MAIL) == 3
        assert sum(sent.count(MAIL) for sent in script.sent) == 5

    def test_it_is_filled_again_when_half_of_it_is_free(self) -> None:
        """However replies trickle in: else each would let one message leave, in a write and a turn of its own."""
        mails = [transaction() for _ in range(22)]
        script = deliver(tried(), mails, OK * 2 + QUEUED + OK, *[OK * 3 + QUEUED] * 21, window=8)
        assert [sent.count(MAIL) for sent in script.sent] == [8, 4, 4, 4, 2]

    def test_a_reply_too_many_behind_the_last_one_is_not_left_for_the_next_conversation(self) -> None:
        session, mails = opened("PIPELINING"), [transaction() for _ in range(2)]
        deliver(session, mails, OK * 2 + GO, QUEUED + OK, OK * 2 + GO, QUEUED + OK, window=8)
        assert session.is_talkative
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
        mails = [large(MAX_TOGETHER - 100) for _ in range(8)]
        script = deliver(tried(), mails, OK * 2 + QUEUED + (OK * 3 + QUEUED) * 7, window=8)
        assert max(map(len, script.sent)) < 3 * MAX_TOGETHER
        assert script.settled == mails

    def test_552_lets_those_in_flight_end_and_takes_no_more(self) -> None:
        session, mails = tried(), [transaction() for _ in range(3)]
        deliver(session, mails, OK * 2 + b"552 5.2.2 full\r\n" + OK * 3 + QUEUED, window=2)
        assert [codes(one)[2] for one in mails] == [552, 250, None]
        assert session.broken

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
        script = Script(OK * 2 + GO, QUEUED, OK * 3 + GO, QUEUED, transactions=[one, again], enough=True)
        script.run(session.deliver("any", 8))
        assert script.settled == [one, again]
        assert script.sent[2] == RSET + MAIL + CARL + DATA
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
