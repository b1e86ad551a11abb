"""Replies in the forms that servers give them: what nodemailer or smtplib understands, both mailers understand."""

from __future__ import annotations

from typing import Any

import pytest

from smtpbackend import Server, Status
from smtpbackend.errors import HelloRefused, ProtocolViolation, RecipientsRefused, TLSFailed
from smtpbackend.protocol.timeouts import Timeouts
from smtpbackend.testing import CUT, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import Twin, hello

TO = tuple(f"u{number}@example.com" for number in range(5))
GLUED = {"": b"220mx\r\n", "EHLO": b"250-mx\r\n250PIPELINING\r\n", "MAIL": b"250OK\r\n", "RCPT": b"250OK\r\n"}
GLUED |= {"DATA": b"354go\r\n", ".": b"250OK id=12345\r\n", "RSET": b"250OK\r\n"}
SEEN: dict[str, dict[str, Any]] = {
    "a blank line behind the greeting": {"": b"220 mx ESMTP\r\n\r\n"},
    "a blank line ahead of the greeting": {"": b"\r\n220 mx ESMTP\r\n"},
    "a tab behind the code": {"": b"220\tmx ESMTP\r\n", "EHLO": b"250-\tmx\r\n250\tPIPELINING\r\n"},
    "nothing behind the code": GLUED,
    "blank lines behind every reply": {verb: said + b" \t\r\n\n" for verb, said in GLUED.items()},
    "a blank line amid a reply": {"EHLO": b"250-mx.example.com\r\n\r\n250 PIPELINING\r\n"},
    "EHLO answered 4xx": {"EHLO": "451 4.3.0 later"},
    "EHLO answered 5xx": {"EHLO": "502 5.5.1 what?"},
}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("seen", SEEN)
def test_they_are_understood(twin: Twin, scripted: Scripted, seen: str, split: bool) -> None:
    """One after the other, and several in flight; each over one connection, be it read octet by octet."""
    server = scripted(Play(SEEN[seen], split=split))
    mailer = twin(server.url)
    assert mailer.send(hello()).ok
    assert all(receipt.ok for receipt in mailer.send_many([hello("u1@example.com", "u2@example.com")] * 3))
    assert len(server.handed_over) == 4
    if not split:  # a blank line that comes when all was said may be taken for the end of the connection
        assert server.connections == 1


def test_the_reply_to_the_content_is_read_where_nothing_stands_behind_its_code(twin: Twin, scripted: Scripted) -> None:
    receipt = twin(scripted({".": b"250OK id=1ABC-23\r\n"}).url).send(hello())
    assert receipt.queue_id == "1ABC-23"
    assert receipt.accepted


def test_mechanisms_behind_tabs_are_offered(twin: Twin, scripted: Scripted) -> None:
    server = scripted({"EHLO": b"250-mx\r\n250-AUTH\tLOGIN\tPLAIN\r\n250\tSIZE\t1000000\r\n", "AUTH": "235 2.7.0 in"})
    assert twin(Server("127.0.0.1", server.port, username="ann", password="secret")).send(hello()).ok
    assert server.speakers[0].verbs[:2] == ["EHLO", "AUTH"]


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"550 5.1.1 Bo\xeete inconnue\r\n", "Boîte inconnue"),
        (b"550 5.1.1 l\x92adresse\r\n", "l’adresse"),
        ("550 5.1.1 Gr\u00fc\u00dfe ".encode() + b"\xc3\r\n", "Grüße Ã"),
        (b"550 5.1.1 a\x1b[2J\tb\0\r\n", "a\\x1b[2J b\\x00"),
    ],
)
def test_what_is_not_utf_8_stays_readable(twin: Twin, scripted: Scripted, octets: bytes, text: str) -> None:
    with pytest.raises(RecipientsRefused) as caught:
        twin(scripted({"RCPT": octets}).url).send(hello())
    assert caught.value.receipt is not None
    assert caught.value.receipt.outcomes[0].reply is not None
    assert caught.value.receipt.outcomes[0].reply.text == text


class TestHello:
    def test_a_421_to_ehlo_is_no_reason_to_say_helo(self, twin: Twin, scripted: Scripted) -> None:
        server, other = scripted({"EHLO": "421 4.3.2 later"}), scripted()
        assert twin(server.url, other.url).send(hello()).server == other.name
        assert "HELO" not in server.speakers[0].verbs

    def test_where_a_login_is_wanted_the_4xx_is_the_reason(self, twin: Twin, scripted: Scripted) -> None:
        """Without EHLO there is none, and that is not what has to be mended."""
        server = scripted({"EHLO": "451 4.3.0 later"})
        with pytest.raises(HelloRefused, match="refused EHLO with 451") as caught:
            twin(Server("127.0.0.1", server.port, username="ann", password="secret")).send(hello())
        assert caught.value.is_transient
        assert "HELO" not in server.speakers[0].verbs

    def test_nor_does_it_talk_anybody_out_of_tls(self, twin: Twin, scripted: Scripted) -> None:
        server = scripted({"EHLO": "451 4.3.0 later"})
        with pytest.raises(HelloRefused, match="451"):
            twin(Server("127.0.0.1", server.port, tls="required")).send(hello())
        secure = Server("127.0.0.1", server.port, tls="opportunistic", on_tls_failure=lambda *_: "secure")
        with pytest.raises(TLSFailed):
            twin(secure).send(hello())
        assert not {"MAIL", "AUTH"} & {verb for speaker in server.speakers for verb in speaker.verbs}

    @pytest.mark.parametrize("reply", ["550 5.7.1 blocked", "451 4.7.1 later"])
    def test_who_hangs_up_at_helo_has_said_why(self, twin: Twin, scripted: Scripted, reply: str) -> None:
        with pytest.raises(HelloRefused, match=reply):
            twin(scripted({"EHLO": (reply, CUT)}).url).send(hello())


class TestBounds:
    @pytest.mark.parametrize("verb", ["", "MAIL"])
    def test_blank_lines_without_end_are_no_reply(self, twin: Twin, scripted: Scripted, verb: str) -> None:
        with pytest.raises(ProtocolViolation, match="256 lines"):
            twin(scripted({verb: b"\r\n" * 300}).url).send(hello())

    @pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING", "SIZE")])
    @pytest.mark.parametrize("verb", ["EHLO", "MAIL", "RCPT TO:<u0", "RCPT TO:<u1"])
    def test_a_blank_line_is_no_answer(
        self, twin: Twin, scripted: Scripted, verb: str, extensions: tuple[str, ...]
    ) -> None:
        """Those behind it are then taken for the one before: nobody is settled by another's reply."""
        server, other = scripted(Play({verb: b"\r\n", "RCPT TO:<u2": "550 5.1.1 no"}, extensions)), scripted()
        short = Server("127.0.0.1", server.port, timeout=Timeouts(reply=0.3, reused=0.3, final=0.3))
        receipt = twin(short, other.url).send(hello(*TO[:3]))
        assert receipt.ok or {outcome.status for outcome in receipt.outcomes} == {Status.IN_DOUBT}
        assert receipt.ok is not any(server.handed_over)
        assert len(other.handed_over) == receipt.ok

    @pytest.mark.parametrize("odd", [b"150 k\r\n", b"650 k\r\n", b"2500 k\r\n", b" 250 k\r\n", b"250-k\r\nk\r\n"])
    def test_what_is_no_reply_is_none_still(self, twin: Twin, scripted: Scripted, odd: bytes) -> None:
        server, other = scripted({"MAIL": odd}), scripted()
        assert twin(server.url, other.url).send(hello()).server == other.name
        with pytest.raises(ProtocolViolation):
            twin(scripted({"MAIL": odd}).url).send(hello())

    @pytest.mark.parametrize("blank", [b"\r\n", b"\n", b" "])
    def test_a_blank_line_ahead_of_tls_is_an_octet_too_many(self, twin: Twin, scripted: Scripted, blank: bytes) -> None:
        """RFC 3207 4.2: whoever is in between could have put it there."""
        server = scripted(Play({"STARTTLS": b"220 go\r\n" + blank}, ("STARTTLS",)), certificate="server")
        with pytest.raises(ProtocolViolation, match="ahead of the TLS handshake"):
            twin(Server("127.0.0.1", server.port, tls="required")).send(hello())
        assert not {"MAIL", "AUTH"} & set(server.speakers[0].verbs)


def limited(most: int, reply: str) -> dict[str, Any]:
    """A server that takes so many recipients in a transaction."""
    taken = 0

    def mail(_: str) -> str:
        nonlocal taken
        taken = 0
        return "250 2.1.0 ok"

    def rcpt(_: str) -> str:
        nonlocal taken
        if taken == most:
            return reply
        taken += 1
        return "250 2.1.5 ok"

    return {"MAIL": mail, "RCPT": rcpt}


LIMITS = [
    "452 4.5.3 Too many recipients",
    "452 Too many recipients",
    "452 #4.5.3 Too many recipients.",
    "451 4.5.3 Too many recipients",
    "552 5.5.3 Maximum limit of 2 recipients reached",
    "552 #5.5.3 Too many recipients",
    "552 Too many recipients",
]


@pytest.mark.parametrize("reply", LIMITS)
class TestTooManyRecipients:
    @pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING", "SIZE")])
    @pytest.mark.parametrize("scheme", ["smtp", "lmtp"])
    def test_they_follow_in_transactions_of_their_own(
        self, twin: Twin, scripted: Scripted, reply: str, extensions: tuple[str, ...], scheme: str
    ) -> None:
        server, never = scripted(Play(limited(2, reply), extensions), scheme=scheme), scripted(scheme=scheme)
        receipt = twin(server.url, never.url).send(hello(*TO))
        assert receipt.ok
        assert [[to[9:-1] for to in mail.recipients] for mail in server.handed_over] == [
            ["u0@example.com", "u1@example.com"],
            ["u2@example.com", "u3@example.com"],
            ["u4@example.com"],
        ]
        assert [outcome.attempts for outcome in receipt.outcomes] == [1, 1, 2, 2, 3]
        assert (server.connections, never.connections) == (1, 0)

    def test_each_message_of_a_window(self, twin: Twin, scripted: Scripted, reply: str) -> None:
        server = scripted(Play(limited(2, reply)))
        assert all(receipt.ok for receipt in twin(server.url).send_many([hello(*TO)] * 4))
        assert sum(len(mail.recipients) for mail in server.handed_over) == 20

    def test_one_by_one_they_take_as_many_transactions_as_there_are_recipients(
        self, twin: Twin, scripted: Scripted, reply: str
    ) -> None:
        server = scripted(limited(1, reply))
        assert twin(server.url).send(hello(*TO)).ok
        assert server.speakers[0].verbs.count("MAIL") == len(TO)

    def test_where_no_more_are_taken_the_reply_is_final(self, twin: Twin, scripted: Scripted, reply: str) -> None:
        """The further transaction settles nobody: there is no third one."""
        server = scripted({"RCPT": ["250 ok", reply]})
        receipt = twin(server.url).send(hello(*TO))
        status = Status.REJECTED if reply.startswith("5") else Status.DEFERRED
        assert [outcome.status for outcome in receipt.outcomes] == [Status.ACCEPTED, *[status] * 4]
        assert {str(outcome.reply)[:3] for outcome in receipt.outcomes[1:]} == {reply[:3]}
        assert server.speakers[0].verbs.count("MAIL") == 2
        assert len(server.handed_over) == 1

    def test_a_lost_connection_makes_none_of_them_permanent(self, twin: Twin, scripted: Scripted, reply: str) -> None:
        server, other = scripted({**limited(2, reply), "DATA": CUT}), scripted()
        receipt = twin(server.url, other.url).send(hello(*TO))
        assert receipt.ok
        assert {outcome.server for outcome in receipt.outcomes} == {other.name}

    def test_under_all_nobody_gets_the_mail(self, twin: Twin, scripted: Scripted, reply: str) -> None:
        server = scripted(limited(2, reply))
        with pytest.raises(RecipientsRefused) as caught:
            twin(server.url, recipient_policy="all").send(hello(*TO))
        assert not server.handed_over
        assert caught.value.is_transient is (reply == "452 Too many recipients")  # it may be a full mailbox


class TestFullMailboxes:
    @pytest.mark.parametrize("reply", ["552 5.2.2 full", "552 #5.2.2 full", "552 full", "550 5.2.2 full"])
    def test_one_is_refused_for_good_and_nobody_else(self, twin: Twin, scripted: Scripted, reply: str) -> None:
        server = scripted({"RCPT TO:<u1": reply})
        receipt = twin(server.url).send(hello(*TO))
        assert [outcome.address.addr_spec for outcome in receipt.rejected] == ["u1@example.com"]
        assert len(receipt.accepted) == 4
        assert len(server.handed_over) == 1

    @pytest.mark.parametrize("reply", ["452 4.2.2 full", "452 full", "452 4.3.1 no space"])
    def test_for_now_it_goes_to_the_next_server(self, twin: Twin, scripted: Scripted, reply: str) -> None:
        server, other = scripted({"RCPT TO:<u1": reply}), scripted()
        receipt = twin(server.url, other.url).send(hello(*TO))
        assert receipt.ok
        assert [mail.recipients for mail in other.handed_over] == [("RCPT TO:<u1@example.com>",)]
