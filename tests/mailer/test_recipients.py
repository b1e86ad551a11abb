"""Who gets a mail and who does not: badly written addresses, our own trouble, and the settings that say who may."""

from __future__ import annotations

import contextlib
import email.message
import email.policy
import pathlib
import smtplib
from collections.abc import Iterator
from typing import Any

import pytest

from smtpbackend import Attachment, Envelope, Message, Outcome, Recipient, Status
from smtpbackend.errors import CancelSend, ConnectFailed, InDoubt, InvalidInput, InvalidSetting, RecipientsRefused
from smtpbackend.events import MessageSending, RecipientRejected
from smtpbackend.testing import Play, ScriptedServer
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, Twin, hello

ANN, ZOE = "ann@example.com", "zoe@example.com"
BAD = [
    "bob\uff20example.org",
    "b\x01ob@example.org",
    "bob@example.org.",
    "bob@@example.org",
    "bob smith@example.org",
    "bob@exa mple.org",
    "bob@example..org",
    "bob@",
    "@example.org",
    "Bob <bob@example.org",
    '"bob@example.org',
]
E = Envelope(SENDER, [ANN, ZOE])


def fates(outcomes: tuple[Outcome, ...]) -> dict[str, str]:
    return {str(outcome.address): outcome.status.value for outcome in outcomes}


def path(command: str) -> str:
    """The address in MAIL or RCPT."""
    return command[command.index("<") + 1 : command.index(">")]


def got(server: ScriptedServer) -> list[list[str]]:
    """The recipients of each message that a server took."""
    return [[path(command) for command in message.recipients] for message in server.taken]


def as_ours(bad: str) -> Message:
    return hello(ANN, bad, ZOE)


def as_one_text(bad: str) -> Message:
    return Message("Hello", SENDER, f"{ANN}, {bad}, {ZOE}", text="x")


def as_copies(bad: str) -> Message:
    return hello(ANN, cc=[bad], bcc=[ZOE])


def as_header(bad: str) -> Message:
    return Message("Hello", SENDER, ANN, text="x", headers={"Cc": f"{bad}, {ZOE}"})


def as_email(bad: str) -> email.message.EmailMessage:
    message = email.message.EmailMessage()
    message["Subject"], message["From"], message["To"] = "Hello", SENDER, f"{ANN}, {bad}, {ZOE}"
    message.set_content("x")
    return message


def as_compat32(bad: str) -> email.message.Message:
    message = email.message.Message()
    message["Subject"], message["From"], message["To"] = "Hello", SENDER, f"{ANN}, {bad}, {ZOE}"
    message.set_payload("x")
    return message


class TestOneThatIsBadlyWritten:
    @pytest.mark.parametrize("make", [as_ours, as_one_text, as_copies, as_header, as_email, as_compat32])
    @pytest.mark.parametrize("bad", BAD)
    def test_does_not_sink_the_others(self, twin: Twin, scripted: Scripted, make: Any, bad: str) -> None:
        """It is rejected here, with its field and place; the others get the mail, and no header names it."""
        if bad.startswith(('"', "Bob <")) and make in (as_one_text, as_header, as_email, as_compat32):
            return  # in a text, what does not end makes one of the whole list
        if make is as_header and not bad.isprintable():
            return  # it is the header that is none
        server = scripted()
        heard: list[Any] = []
        receipt = twin(server.url, listeners=[heard.append]).send(make(bad))
        assert got(server) == [[ANN, ZOE]]
        (rejected,) = receipt.rejected
        assert fates(receipt.accepted) == {ANN: "accepted", ZOE: "accepted"}
        assert isinstance(rejected.error, InvalidInput)
        assert (rejected.reply, rejected.attempts, rejected.server) == (None, 0, None)
        assert rejected.no_such_mailbox
        assert not receipt.ok
        assert receipt.error is None
        (told,) = [event for event in heard if isinstance(event, RecipientRejected)]
        assert told.outcome is rejected
        if make is as_ours:
            assert (rejected.address, rejected.error.field) == (bad, "to[1]")
            assert "to[1]" in str(rejected.error)
            assert f"To: {ANN}, {ZOE}\r\n".encode() in server.taken[0].content

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("bob@example.org (see (old), eve@example.net, gone), bad@@x", ["bob@example.org"]),
            ("bob@example.org (eve@example.net, gone, bad@@x", []),
            ('Jane "JJ, eve@evil.example, <jane@example.org>', []),
            ('"Jane, eve@evil.example, jane@example.org', []),
            ("Jane <jane@example.org, eve@evil.example, bad@@x", []),
            ('"eve@evil.example, x" <jane@example.org>, bad@@x', ["jane@example.org"]),
            ("Ann, Inc. <ann@example.com>, bob@example.org", ["bob@example.org"]),
            ("root, bob@example.org, zoe@example.org, bad@@x", ["zoe@example.org"]),
        ],
    )
    @pytest.mark.parametrize("kind", ["text", "default", "compat32"])
    def test_makes_nobody_a_recipient_who_was_none(
        self, twin: Twin, scripted: Scripted, text: str, wanted: list[str], kind: str
    ) -> None:
        """Who stands in a name or a comment gets no mail, however a list goes on; nor does half a name."""
        server = scripted()
        message: Any = Message("Hello", SENDER, text, text="x")
        if kind != "text":
            message = email.message_from_string(f"From: {SENDER}\nTo: {text}\n\nx", policy=getattr(email.policy, kind))
        with contextlib.suppress(RecipientsRefused):
            twin(server.url).send(message)
        went_to = {one for each in got(server) for one in each}
        assert not went_to & {"eve@evil.example", "eve@example.net", "root", "Ann", "Jane"}
        if kind == "text":
            assert sorted(went_to) == wanted

    def test_alone_is_refused_as_smtplib_refuses(self, twin: Twin, scripted: Scripted) -> None:
        """Nobody is left: `except smtplib.SMTPException` catches it, and nothing was connected."""
        server = scripted()
        with pytest.raises(smtplib.SMTPException) as raised:
            twin(server.url).send(Message("x", SENDER, ["bob@@example.org", "@"], bcc="@", text="x"))
        error = raised.value
        assert isinstance(error, RecipientsRefused)
        assert not error.is_transient
        assert error.recipients.keys() == {"bob@@example.org", "@"}
        assert error.receipt is not None
        assert [outcome.status for outcome in error.receipt.outcomes] == [Status.REJECTED] * 2  # each once
        assert server.connections == 0

    def test_beside_refused_ones_is_refused_with_them(self, twin: Twin, scripted: Scripted) -> None:
        """The server turned the others away: one error names all."""
        server = scripted(Play({"RCPT": "550 5.1.1 unknown"}))
        with pytest.raises(RecipientsRefused) as raised:
            twin(server.url).send(hello(ANN, "bob@@example.org"))
        assert raised.value.recipients.keys() == {ANN, "bob@@example.org"}
        assert raised.value.server == server.name

    def test_does_not_hide_that_no_server_was_there(self, twin: Twin, unreachable: int) -> None:
        """The others may be tried again, and the error says so."""
        with pytest.raises(ConnectFailed) as raised:
            twin(f"smtp://127.0.0.1:{unreachable}", timeout=0.2).send(hello(ANN, "bob@@example.org"))
        assert raised.value.receipt is not None
        assert fates(raised.value.receipt.outcomes) == {ANN: "deferred", "bob@@example.org": "rejected"}

    def test_keeps_all_from_it_where_the_policy_says_so(self, twin: Twin, scripted: Scripted) -> None:
        """Under "all" nobody gets it unless everybody can."""
        server = scripted()
        with pytest.raises(RecipientsRefused, match="with recipient_policy='all' no recipient") as raised:
            twin(server.url, recipient_policy="all").send(hello(ANN, "bob@@example.org"))
        assert raised.value.receipt is not None
        assert fates(raised.value.receipt.outcomes) == {ANN: "deferred", "bob@@example.org": "rejected"}
        assert server.connections == 0

    @pytest.mark.parametrize("evil", ["bob@example.org\r\nBcc: x@y.org", "b\0ob@example.org", "bob\n@example.org"])
    @pytest.mark.parametrize("field", ["to", "cc", "bcc"])
    def test_refuses_the_whole_message_where_it_would_add_lines(
        self, twin: Twin, scripted: Scripted, evil: str, field: str
    ) -> None:
        """CR, LF and NUL are no slip of the pen: nobody gets it."""
        server = scripted()
        message = hello(ANN)
        setattr(message, field, [ZOE, evil])
        with pytest.raises(InvalidInput):
            twin(server.url).send(message)
        with pytest.raises(InvalidInput):
            Message("x", SENDER, **{"to": ANN, field: [evil]})  # type: ignore[arg-type]
        assert server.connections == 0

    def test_in_a_stream_changes_nothing_for_other_messages(self, twin: Twin, scripted: Scripted) -> None:
        """Receipts keep their order, whoever was refused in which."""
        server = scripted()
        receipts = twin(server.url).send_many([hello(ANN), hello("@"), hello(ZOE, "bob@@example.org"), hello(ZOE)])
        assert [list(fates(receipt.outcomes).values()) for receipt in receipts] == [
            ["accepted"],
            ["rejected"],
            ["accepted", "rejected"],
            ["accepted"],
        ]


class OurTrouble:
    """What goes wrong on our side, and the error that `send` raises for it."""

    @staticmethod
    def generator() -> Iterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        raise ConnectionResetError("db gone")

    @staticmethod
    def doubtful() -> Iterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        raise InDoubt("not of ours")


def trouble(kind: str, tmp_path: pathlib.Path) -> tuple[Any, Envelope | None, type[Exception]]:
    gone = tmp_path / "gone.pdf"
    match kind:
        case "an attachment that is not there":
            return hello(ANN, ZOE, attachments=[gone]), None, InvalidInput
        case "the same with an envelope":
            return hello(attachments=[gone]), E, InvalidInput
        case "an attachment that is a folder":
            return hello(ANN, ZOE, attachments=[Attachment(tmp_path, "x")]), None, InvalidInput
        case "a path that is not there":
            return gone, E, InvalidInput
        case "a generator":
            return OurTrouble.generator(), E, ConnectionResetError
        case "a generator that says in doubt":
            return OurTrouble.doubtful(), E, InDoubt
        case "a subject that is none":
            message = hello(ANN, ZOE)
            message.subject = 5  # type: ignore[assignment]
            return message, None, InvalidInput
        case "a sender who is none":
            message = hello(ANN, ZOE)
            message.from_ = "@"
            return message, None, InvalidInput
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "an attachment that is not there",
        "the same with an envelope",
        "an attachment that is a folder",
        "a path that is not there",
        "a generator",
        "a generator that says in doubt",
        "a subject that is none",
        "a sender who is none",
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_our_own_trouble_rejects_nobody(
    twin: Twin, scripted: Scripted, tmp_path: pathlib.Path, kind: str, alone: bool
) -> None:
    """Each recipient failed, once, with the error; `send` raises a source's own error; nothing was connected."""
    server = scripted()
    heard: list[Any] = []
    message, envelope, kind_of_error = trouble(kind, tmp_path)
    mailer = twin(server.url, listeners=[heard.append])
    if alone:
        with pytest.raises(kind_of_error) as raised:
            mailer.send(message, envelope)
        receipt = next(event for event in heard if event.name == "message_ended").receipt
        assert receipt.error is raised.value
    else:
        (receipt,) = mailer.send_many([message if envelope is None else (message, envelope)])
        assert type(receipt.error) is kind_of_error
    assert fates(receipt.outcomes) == {ANN: "failed", ZOE: "failed"}
    assert receipt.failed == receipt.outcomes
    assert receipt.rejected == receipt.deferred == receipt.in_doubt == ()
    assert [type(outcome.error) for outcome in receipt.outcomes] == [kind_of_error] * 2
    assert not any(outcome.no_such_mailbox for outcome in receipt.outcomes)
    assert not any(isinstance(event, RecipientRejected) for event in heard)
    assert server.connections == 0


def test_a_source_that_is_interrupted_interrupts(twin: Twin, scripted: Scripted) -> None:
    """KeyboardInterrupt is nobody's outcome."""

    def source() -> Iterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        twin(scripted().url).send(source(), E)


class TestAMailboxThatDoesNotExist:
    @pytest.mark.parametrize(
        ("play", "is_unknown"),
        [
            (Play({"RCPT": "550 5.1.1 unknown"}), True),
            (Play({"RCPT": "550 5.1.10 null MX"}), True),
            (Play({"RCPT": "550 5.7.1 not from here"}), False),
            (Play({"RCPT": "550 who knows"}), False),
            (Play({"RCPT": "550 5.1.8 bad sender"}), False),
            (Play({"RCPT": "550 5.1.0 <ann@example.org>: Sender address rejected: User unknown"}), False),
            (Play({"MAIL": "550 5.1.1 you"}), False),
            (Play({".": "554 5.1.1 spam"}), False),
            (Play({"RCPT": "450 4.1.1 later"}), False),
        ],
    )
    def test_is_told_from_what_else_is_refused(
        self, twin: Twin, scripted: Scripted, play: Play, is_unknown: bool
    ) -> None:
        """5.1.x to RCPT, but for that of the sender: whoever unsubscribes those loses no good address."""
        (receipt,) = twin(scripted(play).url).send_many([hello(ANN)])
        assert [outcome.no_such_mailbox for outcome in receipt.outcomes] == [is_unknown]


class TestABounceAddress:
    def test_is_the_sender_of_the_envelope_alone(self, twin: Twin, scripted: Scripted) -> None:
        """MAIL FROM is one address, From another."""
        server = scripted()
        twin(server.url, bounce_address="bounces@example.net").send(hello(ANN))
        assert path(server.taken[0].mail) == "bounces@example.net"
        assert b"From: ann@example.org\r\n" in server.taken[0].content

    def test_gives_way_to_an_envelope_of_ones_own(self, twin: Twin, scripted: Scripted) -> None:
        """Who gives one means it."""
        server = scripted()
        twin(server.url, bounce_address="bounces@example.net").send(hello(ANN), E)
        assert path(server.taken[0].mail) == SENDER

    def test_is_checked_when_the_mailer_is_made(self, twin: Twin) -> None:
        """And named."""
        with pytest.raises(InvalidSetting, match="bounce_address"):
            twin("smtp://localhost", bounce_address="bounces@@example.net")


class TestOnlyTo:
    def test_leaves_the_others_out(self, twin: Twin, scripted: Scripted) -> None:
        """Nothing of them reaches a server; addresses and domains, in any case of their letters."""
        server = scripted()
        mailer = twin(server.url, only_to=["Ann@Example.com", "example.net", "@example.edu"])
        receipt = mailer.send(
            hello("ANN@example.com", ZOE, cc=["x@EXAMPLE.net"], bcc=["y@example.edu", "z@sub.example.net"])
        )
        assert got(server) == [["ANN@example.com", "x@EXAMPLE.net", "y@example.edu"]]
        assert fates(receipt.rejected) == {ZOE: "rejected", "z@sub.example.net": "rejected"}
        for outcome in receipt.rejected:
            assert "only_to" in str(outcome.error)
            assert not outcome.no_such_mailbox

    @pytest.mark.parametrize(
        ("allowed", "other"),
        [("kate@example.com", "\u212aate@example.com"), ("i\u0307@example.com", "\u0130@example.com")],
    )
    def test_is_passed_by_no_letter_that_is_another(
        self, twin: Twin, scripted: Scripted, allowed: str, other: str
    ) -> None:
        """The Kelvin sign is a small k to Python, and another mailbox to a server."""
        server = scripted()
        with pytest.raises(RecipientsRefused, match="only_to"):
            twin(server.url, only_to=[allowed]).send(hello(other))
        assert server.connections == 0

    def test_is_split_at_commas_alone(self, twin: Twin, scripted: Scripted) -> None:
        """A name with a blank makes no domain of its first word."""
        mailer = twin(scripted().url, only_to="Ann <ann@example.com>, example.net")
        assert mailer.send(hello("ann@example.com", "x@example.net", "x@ann")).rejected[0].address.domain == "ann"

    def test_with_nobody_left_sends_nothing(self, twin: Twin, scripted: Scripted) -> None:
        """Not with an envelope of one's own either."""
        server = scripted()
        with pytest.raises(RecipientsRefused, match="only_to"):
            twin(server.url, only_to="example.net").send(hello(ANN), E)
        assert server.connections == 0

    @pytest.mark.parametrize("value", [[], "", 5, ["a@@b"], [None], [""]])
    def test_that_lets_nobody_through_is_told(self, twin: Twin, value: Any) -> None:
        """A guard that was forgotten or misspelt is no guard."""
        with pytest.raises(InvalidSetting, match="only_to"):
            twin("smtp://localhost", only_to=value)


class TestRedirectTo:
    def test_sends_all_mail_to_one_address(self, twin: Twin, scripted: Scripted) -> None:
        """With those it is for in a field; the outcomes are theirs."""
        server = scripted()
        heard: list[Any] = []
        receipt = twin(server.url, redirect_to="Team <team@example.net>", listeners=[heard.append]).send(
            hello(ANN, bcc=[ZOE])
        )
        (message,) = server.taken
        assert got(server) == [["team@example.net"]]
        assert message.content.startswith(f"X-Original-To: {ANN}, {ZOE}\r\n".encode())
        assert fates(receipt.outcomes) == {ANN: "accepted", ZOE: "accepted"}
        assert "redirect_to" in receipt.notes[-1]
        sending = next(event for event in heard if isinstance(event, MessageSending))
        assert [str(recipient.address) for recipient in sending.envelope.recipients] == [ANN, ZOE]  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("play", "status"),
        [
            (Play({"RCPT": "550 5.1.1 unknown"}), "rejected"),
            (Play({"RCPT": "450 later"}), "deferred"),
            (Play({".": "554 spam"}), "rejected"),
        ],
    )
    def test_tells_its_outcome_for_each_of_them(self, twin: Twin, scripted: Scripted, play: Play, status: str) -> None:
        """Whatever becomes of the one mail becomes of each recipient, and who is none is told beside."""
        (receipt,) = twin(scripted(play).url, redirect_to="team@example.net").send_many([hello(ANN, ZOE, "@")])
        assert fates(receipt.outcomes) == {ANN: status, ZOE: status, "@": "rejected"}
        assert receipt.error is not None
        assert [outcome.no_such_mailbox for outcome in receipt.outcomes] == [False, False, True]  # nobody refused Ann

    def test_signs_what_leaves_and_encodes_it_anew(self, twin: Twin, scripted: Scripted) -> None:
        """The field stands under the 7-bit form as well, once; a long list is folded."""
        server = scripted(Play(extensions=()))
        message = email.message.EmailMessage(policy=email.policy.SMTP)
        everybody = [f"reader{number}@example.com" for number in range(60)]
        message["Subject"], message["From"], message["To"] = "Hi", SENDER, ", ".join(everybody)
        message.set_content("grüße\n", cte="8bit")
        receipt = twin(server.url, redirect_to="team@example.net").send(message)
        content = server.taken[0].content
        assert content.isascii()
        assert content.count(b"X-Original-To:") == 1
        head = content[: content.index(b"\r\nSubject")]
        assert max(map(len, head.split(b"\r\n"))) <= 78
        assert head.replace(b"\r\n", b"") == f"X-Original-To: {', '.join(everybody)}".encode()
        assert len(receipt.accepted) == 60

    def test_and_only_to_are_not_both(self, twin: Twin) -> None:
        """Two answers to one question."""
        with pytest.raises(InvalidSetting, match="redirect_to"):
            twin("smtp://localhost", redirect_to=ANN, only_to=[ANN])


def test_who_cancels_fails_nobody(twin: Twin, scripted: Scripted) -> None:
    """It may be sent later."""

    def cancel(event: Any) -> None:
        if isinstance(event, MessageSending):
            raise CancelSend

    with pytest.raises(CancelSend) as raised:
        twin(scripted().url, listeners=[cancel]).send(hello(ANN, "@"))
    assert raised.value.receipt is not None
    assert fates(raised.value.receipt.outcomes) == {ANN: "deferred", "@": "rejected"}


def test_an_envelope_holds_what_can_be_sent() -> None:
    """It is made by who knows what it wants: the first that is none raises."""
    with pytest.raises(InvalidInput):
        Envelope(SENDER, [ANN, "bob@@example.org"])
    with pytest.raises(InvalidInput):
        Envelope.from_headers(hello(ANN, "bob@@example.org"))
    assert Envelope.from_headers(hello(ANN)).recipients == (Recipient(ANN),)
    assert Status.FAILED.value == "failed"
