"""Whole conversations with servers that say anything: what we send stays legal, and every outcome is true."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import strategies as st

from smtpbackend.delivery.configuration import Rules
from smtpbackend.delivery.judgement import judge
from smtpbackend.errors import NotSupported, SMTPError
from smtpbackend.outcome import Status
from smtpbackend.protocol.effects import LATER, Ended, Next, Settled
from smtpbackend.protocol.sasl import Credentials
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.transaction import Transaction, objection
from tests.fuzz.conftest import FACTOR, Fuzz
from tests.fuzz.ledger import Ledger, Mailing
from tests.fuzz.network import Network, Tape
from tests.fuzz.samples import ARRIVES, CONTENTS, ENVELOPES, SHAPES, SMALL, failing

pytestmark = pytest.mark.exhaustive

EXAMPLES = 14_000
RAW = [b"250 ok\r\n" * 9, b"250-", b"354 \r\n", b"2", b"\n", b"334 =\r\n"]


class Conversation:
    """One connection from its greeting to its end, and what became of each message."""

    def __init__(self, tape: bytes, raw: bytes) -> None:
        self.tape = Tape(tape)
        self.policy = ("any", "any", "any", "all")[self.tape.below(4)]
        self.window = (1, 2, 32)[self.tape.below(3)]
        self.probe_from = (1, 1, 2, None)[self.tape.below(4)]
        self.now = 0.0
        self.tls = ("none", "none", "none", "none", "required", "opportunistic", "implicit")[self.tape.below(7)]
        self.login = Credentials("ann", "secret") if self.tape.happens(48) else None
        self.lmtp = self.tape.happens(32) and self.policy == "any"
        in_clear = self.tape.happens(128)
        self.ledger = Ledger(self.policy, self.probe_from, self.lmtp, in_clear, self.window, lambda: self.now)
        self.network = Network(self.tape, raw, self.ledger, self.wait)
        self.session = Session(
            "mx:25",
            "client.example.org",
            lmtp=self.lmtp,
            local_peer=in_clear,
            transcript=(lambda way, line: line.encode()) if self.tape.happens(16) else None,
        )
        self.messages: list[tuple[Transaction, int]] = []
        self.waiting: list[Transaction] = []
        self.is_failing: set[int] = set()

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def run(self) -> None:
        session = self.session
        try:
            self.network.talk(
                session.open(
                    self.tls, self.login, on_tls_failure=lambda trouble: "insecure", xque=self.tape.happens(16)
                )
            )
        except SMTPError:
            assert session.broken
            return
        assert not session.broken
        assert session.line.phase == "idle"
        for _ in range(1 + self.tape.below(2)):
            if session.broken:
                break
            try:
                self.deliver()
            except SMTPError:
                assert session.broken  # it spoke before it was asked
            if self.tape.happens(64):
                session.line.resume()
        if not session.broken:
            with suppress(SMTPError):
                self.network.talk(session.quit())
        assert session.broken or session.line.phase == "idle"

    def deliver(self) -> None:
        """Some transactions, and what was learnt of each."""
        left = 1 + self.tape.below(3)
        talk = self.session.deliver(self.policy, self.window, self.probe_from)
        answer: Any = None
        while not isinstance(step := self.network.talk(talk, answer), Ended):
            answer = None
            if isinstance(step, Settled):
                assert step.transaction is self.waiting.pop(0), "not in order, or twice"
                self.judge(step.transaction)
            else:
                assert isinstance(step, Next)
                if self.waiting and self.tape.happens(32):
                    answer = LATER
                    continue
                while left and answer is None:
                    left -= 1
                    answer = self.transaction()
        assert not self.waiting, "a message got no answer"
        if not self.session.broken:
            assert self.session.line.phase == "idle"

    def transaction(self) -> Transaction | None:
        """The next one that this server can be given, or None."""
        number = len(self.messages)
        shape = self.tape.below(len(SHAPES) - 1) if not self.tape.happens(6) else len(SHAPES) - 1
        body = self.tape.below(SMALL) if not self.tape.happens(12) else self.tape.below(len(CONTENTS))
        envelope = ENVELOPES[number][shape]
        content = CONTENTS[body]
        fails = self.tape.happens(6)
        if fails:
            content = failing()
        trouble = objection(envelope, content, self.session.capabilities, "mx:25", self.session.secure)
        if trouble is not None:
            assert isinstance(trouble, NotSupported)
            return None
        if fails:
            self.is_failing.add(number)
        transaction = Transaction(envelope, envelope.recipients, content, not self.tape.happens(32))
        self.messages.append((transaction, body))
        self.waiting.append(transaction)
        return transaction

    # What is true of it --------------------------------------------------------------------------------------------

    def judge(self, transaction: Transaction) -> None:
        """Each recipient has one outcome, and the ledger agrees with it."""
        number = next(place for place, (one, _) in enumerate(self.messages) if one is transaction)
        assert transaction.envelope.sender is not None
        sender = str(transaction.envelope.sender).encode()
        begun = [mailing for mailing in self.ledger.mailings if mailing.sender == sender]
        assert len(begun) < 2, "begun twice"
        mailing = begun[0] if begun else None
        if mailing is not None and mailing.was_handed_over:
            assert mailing.content == ARRIVES[self.messages[number][1]], "another content"
            assert number not in self.is_failing
        judged = judge(transaction, Rules(self.policy), "mx:25")
        outcomes = [(recipient, status) for recipient, status, _, _ in judged.settled]
        outcomes += [(recipient, Status.DEFERRED) for recipient, _, _ in judged.pending]
        assert [one.address for one, _ in outcomes] != [] or not transaction.recipients
        assert sorted(map(id, transaction.recipients)) == sorted(id(recipient) for recipient, _ in outcomes)
        for recipient, status in outcomes:
            self.check(mailing, str(recipient.address.addr_spec).encode(), status, transaction.is_confused)
        if transaction.is_accepted:
            assert {status for _, status in outcomes} == {Status.ACCEPTED}

    def check(self, mailing: Mailing | None, path: bytes, status: Status, is_confused: bool) -> None:
        known = mailing is not None and path in mailing.rcpt
        if status is Status.ACCEPTED:
            assert known
            assert mailing is not None
            assert mailing.answered_yes(path), "accepted, and the server did not say so"
            assert mailing.was_handed_over
        elif status is Status.IN_DOUBT:
            assert mailing is not None
            assert mailing.was_handed_over, "in doubt, and never handed over"
            rcpt = mailing.rcpt[path].reply
            # where others are in flight, one of them may have shown that no reply behind its own can be trusted; and
            # where content was in flight, a reply too many that none of its own can be; or a blank line stood for one
            is_confused = is_confused or self.session.line.replies.has_skipped
            assert rcpt is None or rcpt.is_positive or self.window > 1 or is_confused, "in doubt, and refused"
        elif known:
            assert mailing is not None
            assert not mailing.may_have_arrived(path, self.ledger.ended_by_word), f"{status}, and may have arrived"
            if status is Status.REJECTED and not self.is_failing:
                replies = [mailing.mail, mailing.data, *mailing.rcpt.values(), *mailing.final.values()]
                codes = {due.reply.code for due in replies if due is not None and due.reply is not None}
                assert any(code >= 500 for code in codes) or codes & {451, 452}, "rejected, and no reply says so"


@pytest.mark.timeout(900 * FACTOR)
def test_conversations(fuzz: Fuzz) -> None:
    """From the greeting to QUIT, whatever the server says, however it is cut and whenever it ends."""

    def converse(tape: bytes, raw: bytes) -> None:
        Conversation(tape, raw).run()

    fuzz(
        EXAMPLES,
        converse,
        tape=st.binary(min_size=96, max_size=192),
        raw=st.binary(max_size=24)
        | st.sampled_from([b"250 ok\r\n" * 9, b"250-", b"354 \r\n", b"2", b"\n", b"334 =\r\n"]),
    )
