"""The dialogues of `Session` but for deliveries, from scripts of bytes."""

from __future__ import annotations

import base64
import ssl
import traceback
from collections.abc import Sequence
from typing import Any

import pytest

from smtpbackend.errors import (
    AuthenticationFailed,
    CommandRefused,
    ConnectFailed,
    ConnectionLost,
    HelloRefused,
    InvalidInput,
    ProtocolViolation,
    SMTPError,
    TimedOut,
    TLSFailed,
)
from smtpbackend.outcome import Reply
from smtpbackend.protocol.capabilities import Capabilities
from smtpbackend.protocol.effects import Conversation, Read, StartTLS
from smtpbackend.protocol.sasl import Credentials
from smtpbackend.protocol.session import Session
from smtpbackend.protocol.timeouts import Deadline, Timeouts, time_is_up
from tests.protocol.script import Script, ehlo_reply, opened

SERVER = "mx.example.com:25"
HELLO = b"220 mx.example.com ESMTP\r\n"
EHLO = b"EHLO client.example.org\r\n"
HELO = b"HELO client.example.org\r\n"
STARTTLS = b"STARTTLS\r\n"
GO = b"220 2.0.0 go ahead\r\n"
PASSWORD = "s3cret-Pässword"
ANN = Credentials("ann", PASSWORD)


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


PLAIN = b"AUTH PLAIN " + b64(f"\0ann\0{PASSWORD}") + b"\r\n"


def new(**options: object) -> Session:
    return Session(SERVER, "client.example.org", **options)  # type: ignore[arg-type]


class TestOpening:
    def test_greeting_then_ehlo(self) -> None:
        session = new()
        script = Script(b"220-mx.example.com\r\n220 welcome\r\n", ehlo_reply("PIPELINING", "SIZE 1000"))
        script.run(session.open("none"))
        assert script.sent == [EHLO]
        assert script.order == "RWR"
        assert session.greeting == Reply(220, None, ("mx.example.com", "welcome"))
        assert dict(session.capabilities) == {"PIPELINING": "", "SIZE": "1000"}
        assert session.line.phase == "idle"
        assert not session.broken
        assert not session.secure

    def test_keywords_to_be_ignored_are_not_offered(self) -> None:
        session = opened("PIPELINING", "SIZE 1000", ignore=["pipelining"])
        assert dict(session.capabilities) == {"SIZE": "1000"}

    @pytest.mark.parametrize(
        "greeting", [b"554 5.7.1 no service for you\r\n", b"421 4.3.2 too busy\r\n", b"250 hm\r\n"]
    )
    def test_a_greeting_that_is_no_welcome(self, greeting: bytes) -> None:
        session, script = new(), Script(greeting)
        with pytest.raises(ConnectFailed, match=r"mx\.example\.com:25 refused the connection") as caught:
            script.run(session.open("none", ANN))
        assert caught.value.reply is not None
        assert caught.value.reply.code == int(greeting[:3])
        assert caught.value.is_transient
        assert script.sent == []
        assert session.broken
        assert session.line.phase == "greeting"

    @pytest.mark.parametrize(
        ("greeting", "kind"),
        [
            (b"", ConnectionLost),
            (ConnectionResetError(104, "reset"), ConnectionLost),
            (TimeoutError(), TimedOut),
            (b"SSH-2.0-OpenSSH_9.2\r\n", ProtocolViolation),
            (b"\x15\x03\x01\x00\x02\x02F\n", ProtocolViolation),
        ],
    )
    def test_no_greeting(self, greeting: bytes | OSError, kind: type[SMTPError]) -> None:
        session, script = new(), Script(greeting)
        with pytest.raises(kind, match=r"mx\.example\.com:25") as caught:
            script.run(session.open("none"))
        assert type(caught.value) is kind
        assert caught.value.server == SERVER
        assert session.broken

    def test_a_time_out_says_how_long_and_in_which_phase(self) -> None:
        session, script = new(timeouts=Timeouts(reply=7.5)), Script(HELLO, TimeoutError())
        with pytest.raises(TimedOut, match=r"did not answer in time \(hello, at most 7\.5 s\)"):
            script.run(session.open("none"))

    @pytest.mark.parametrize("silence", [TimeoutError(), b"", ConnectionResetError(104, "reset")])
    def test_without_a_word_of_greeting_the_settings_for_implicit_tls_are_named(self, silence: bytes | OSError) -> None:
        """A port of implicit TLS waits for the client to begin, whatever ``tls`` of ours speaks in clear."""
        for tls in ("none", "opportunistic", "required"):
            session, script = new(), Script(silence)
            with pytest.raises((TimedOut, ConnectionLost), match=r"implicit TLS \(465\).*tls='implicit', or port=587"):
                script.run(session.open(tls))

    def test_they_are_not_named_where_something_was_heard_or_tls_is_there(self) -> None:
        for session, script, tls in (
            (new(), Script(b"220-wel", b""), "required"),
            (new(), Script(b""), "implicit"),
            (new(), Script(HELLO, b""), "required"),
            (new(lmtp=True), Script(b""), "none"),
        ):
            with pytest.raises(ConnectionLost) as caught:
                script.run(session.open(tls))
            assert "465" not in str(caught.value)

    def test_the_greeting_has_a_time_out_of_its_own(self) -> None:
        session, script = new(timeouts=Timeouts(greeting=3, reply=7)), Script(HELLO, ehlo_reply("SIZE"))
        script.run(session.open("none"))
        assert script.reads == [Read(3), Read(7)]
        assert Timeouts().greeting == 20

    def test_the_handshake_of_implicit_tls_is_included(self) -> None:
        """One clock for both; STARTTLS has that of a connection, its replies have theirs."""
        session, script = new(timeouts=Timeouts(greeting=3, reply=7)), Script(HELLO, ehlo_reply("SIZE"))
        script.run(session.open("implicit"))
        assert script.handshakes == [StartTLS(3)]
        assert script.reads == [Read(3, goes_on=True), Read(7)]
        session = new(timeouts=Timeouts(connect=2, greeting=3, reply=7))
        script = Script(HELLO, ehlo_reply("STARTTLS"), GO, ehlo_reply("SIZE"))
        script.run(session.open("required"))
        assert script.handshakes == [StartTLS(2)]
        assert script.reads == [Read(3), Read(7), Read(7), Read(7)]

    @pytest.mark.parametrize(
        ("script", "tls"),
        [
            (Script(time_is_up(9.0, Deadline.after(4, 5.0))), "none"),
            (Script(HELLO, time_is_up(9.0, Deadline.after(4, 5.0))), "none"),
            (Script(tls=time_is_up(9.0, Deadline.after(4, 5.0))), "implicit"),
            (Script(HELLO, ehlo_reply("STARTTLS"), GO, tls=time_is_up(9.0, Deadline.after(4, 5.0))), "required"),
        ],
        ids=["greeting", "reply", "implicit", "starttls"],
    )
    def test_a_deadline_that_ended_a_wait_is_named_and_a_time_out_is_not_blamed(self, script: Script, tls: str) -> None:
        with pytest.raises(SMTPError, match=r"the deadline of 4 s passed, see deadline") as caught:
            script.run(new().open(tls))
        assert "at most" not in str(caught.value)

    @pytest.mark.parametrize("refusal", [b"500 5.5.1 what?\r\n", b"502 no\r\n", b"550 no\r\n", b"451 later\r\n"])
    def test_helo_follows_a_refused_ehlo_and_no_extension_is_assumed(self, refusal: bytes) -> None:
        session, script = new(), Script(HELLO, refusal, b"250-mx.example.com\r\n250 PIPELINING\r\n")
        script.run(session.open("opportunistic", on_tls_failure=lambda trouble: "insecure"))
        assert script.sent == [EHLO, HELO]
        assert not session.capabilities
        assert not session.broken

    @pytest.mark.parametrize(
        ("refusals", "remedy"),
        [
            ((b"550 go away\r\n", b"550 go away\r\n"), "if it refuses the name 'client.example.org', set client_name"),
            ((b"450 not now\r\n",), "if it refuses the name 'client.example.org', set client_name"),
            ((b"421 not now\r\n",), "send again later"),
        ],
    )
    def test_ehlo_and_helo_refused(self, refusals: tuple[bytes, ...], remedy: str) -> None:
        session, script = new(), Script(HELLO, *refusals)
        with pytest.raises(HelloRefused, match=rf"^mx\.example\.com:25 refused .*; {remedy}$") as caught:
            script.run(session.open("none", ANN))
        assert caught.value.smtp_code == int(refusals[-1][:3])
        assert script.sent == [EHLO, HELO][: len(refusals)]
        assert session.broken

    @pytest.mark.parametrize(("tls", "credentials"), [("none", ANN), ("required", None), ("required", ANN)])
    def test_helo_does_not_follow_a_4xx_where_only_ehlo_will_do(self, tls: str, credentials: Any) -> None:
        """Without STARTTLS or AUTH it would fail for another reason than the one that there is."""
        session, script = new(local_peer=True), Script(HELLO, b"451 4.3.0 later\r\n")
        with pytest.raises(HelloRefused, match="refused EHLO with 451") as caught:
            script.run(session.open(tls, credentials))
        assert caught.value.is_transient
        assert script.sent == [EHLO]

    def test_nor_inside_tls_where_there_is_a_login(self) -> None:
        script = Script(HELLO, ehlo_reply("STARTTLS"), GO, b"451 4.3.0 later\r\n")
        with pytest.raises(HelloRefused, match="451"):
            script.run(new().open("required", ANN))
        assert script.sent == [EHLO, STARTTLS, EHLO]

    def test_inside_tls_it_follows_where_there_is_none(self) -> None:
        session = new()
        script = Script(HELLO, ehlo_reply("STARTTLS", "PIPELINING"), GO, b"451 later\r\n", b"250 mx\r\n")
        script.run(session.open("required"))
        assert script.sent == [EHLO, STARTTLS, EHLO, HELO]
        assert session.secure
        assert not session.capabilities

    def test_nor_in_lmtp(self) -> None:
        script = Script(HELLO, b"451 later\r\n")
        with pytest.raises(HelloRefused, match="refused LHLO with 451"):
            script.run(new(lmtp=True).open("none"))

    @pytest.mark.parametrize(
        ("ehlo", "helo", "code"),
        [
            (b"451 later\r\n", b"502 no\r\n", 451),  # to ask again may help
            (b"451 later\r\n", b"450 busy\r\n", 450),
            (b"502 no\r\n", b"451 later\r\n", 451),
            (b"550 5.7.1 blocked\r\n", b"", 550),
            (b"550 5.7.1 blocked\r\n", ConnectionResetError(), 550),
            (b"451 4.7.1 later\r\n", b"", 451),
            (b"451 4.7.1 later\r\n", b"421 bye\r\n", 421),
        ],
    )
    def test_of_two_refusals_the_one_that_tells_more_is_given(self, ehlo: bytes, helo: Any, code: int) -> None:
        """Who hangs up has said why, and a 4xx is not made permanent by a server that knows no HELO."""
        session, script = new(), Script(HELLO, ehlo, helo)
        with pytest.raises(HelloRefused) as caught:
            script.run(session.open("none"))
        assert caught.value.smtp_code == code
        assert script.sent == [EHLO, HELO]
        assert session.broken

    def test_a_blank_line_behind_any_reply_is_nothing_that_was_said(self) -> None:
        session = new()
        script = Script(HELLO + b"\r\n", b"\r\n" + ehlo_reply("XQUE") + b" \r\n\r\n", b"250 queued\r\n\n")
        script.run(session.open("none", xque=True))
        assert "XQUE" in session.capabilities
        assert not session.broken
        assert session.line.replies.is_empty

    def test_tabs_separate_as_blanks_do(self) -> None:
        session = new(local_peer=True)
        octets = b"250-mx\r\n250-AUTH\tLOGIN\tPLAIN\r\n250\tSIZE\t1000\r\n"
        Script(HELLO, octets, b"235 welcome\r\n").run(session.open("none", ANN))
        assert session.capabilities == {"AUTH": "LOGIN PLAIN", "SIZE": "1000"}

    def test_a_word_before_it_was_asked_for_ends_it(self) -> None:
        session, script = new(), Script(HELLO + ehlo_reply("PIPELINING"))
        with pytest.raises(ProtocolViolation, match="spoke when it was not asked"):
            script.run(session.open("none"))
        assert script.sent == []
        assert session.broken

    @pytest.mark.parametrize("end", [b"", ConnectionResetError(104, "Connection reset by peer")])
    @pytest.mark.parametrize("ehlo", [b"550 5.7.1 go away\r\n", b"550 5.7.1 go away\r\n421 bye\r\n"])
    def test_a_refused_ehlo_is_the_reason_for_the_end_behind_it(self, ehlo: bytes, end: bytes | OSError) -> None:
        session, script = new(), Script(HELLO, ehlo, end)
        with pytest.raises(HelloRefused, match=r"refused EHLO with 550 5\.7\.1 go away"):
            script.run(session.open("none"))
        assert session.broken

    @pytest.mark.parametrize("end", [b"", ConnectionResetError(104, "Connection reset by peer")])
    @pytest.mark.parametrize("login", [None, ANN])
    def test_a_refused_starttls_is_the_reason_for_the_end_behind_it(
        self, login: Credentials | None, end: bytes | OSError
    ) -> None:
        """Where it would have gone on in clear: with the login, or with the first mail."""
        session = new(local_peer=True)
        refusal = b"554 5.7.3 no TLS for you\r\n"
        script = Script(HELLO, ehlo_reply("STARTTLS", "AUTH PLAIN LOGIN"), refusal, end)

        def talk() -> Conversation[None]:
            yield from session.open("opportunistic", login, on_tls_failure=lambda trouble: "insecure")
            yield from session.reset()

        with pytest.raises(ConnectionLost, match=r"behind 554 5\.7\.3 no TLS for you") as caught:
            script.run(talk())
        assert caught.value.is_transient
        assert session.broken
        assert not session.login_goes_on

    @pytest.mark.parametrize("welcome", [b"220-mx\r\n521 5.7.1 blocked\r\n", b"220-mx\r\n421-no\r\n421 blocked\r\n"])
    def test_a_greeting_that_ends_in_a_refusal_is_no_welcome(self, welcome: bytes) -> None:
        session, script = new(), Script(welcome, b"")
        with pytest.raises(ConnectFailed, match=r"refused the connection: [45]21 .*blocked"):
            script.run(session.open("none"))
        assert script.sent == []

    @pytest.mark.parametrize("cut", range(1, 22))
    @pytest.mark.parametrize("login", [None, ANN])
    def test_a_goodbye_behind_the_last_reply_is_the_reason_for_the_end(
        self, login: Credentials | None, cut: int
    ) -> None:
        """Dovecot, whose relay is down, says so behind 235, in the same segment."""
        goodbye = b"421 4.4.0 relay down\r\n"
        last = b"235 ok\r\n" if login else ehlo_reply("AUTH PLAIN")
        before = (HELLO, ehlo_reply("AUTH PLAIN")) if login else (HELLO,)
        session, script = new(local_peer=True), Script(*before, last + goodbye[:cut], goodbye[cut:])
        with pytest.raises(ConnectionLost, match=r"closed the connection: 421 4\.4\.0 relay down") as caught:
            script.run(session.open("none", login))
        assert caught.value.is_transient
        assert session.broken
        assert not session.login_goes_on

    def test_an_impossible_client_name_is_refused_at_birth(self) -> None:
        with pytest.raises(InvalidInput) as caught:
            Session(SERVER, "client\r\nMAIL FROM:<x@y>")
        assert caught.value.field == "client_name"

    def test_a_session_that_was_cancelled_while_it_opened_is_broken(self) -> None:
        session = new()
        conversation = session.open("none")
        next(conversation)
        conversation.close()
        assert session.broken

    def test_a_failed_write_reads_what_the_server_had_to_say(self) -> None:
        session = new()
        script = Script(HELLO, b"421 4.3.2 shutting down\r\n", fails={0: BrokenPipeError(32, "Broken pipe")})
        with pytest.raises(HelloRefused, match="shutting down"):
            script.run(session.open("none"))
        assert session.broken

    def test_a_connection_that_cannot_be_written_to_is_not_open_even_if_it_was_answered(self) -> None:
        session, script = new(), Script(HELLO, ehlo_reply(), fails={0: BrokenPipeError(32, "Broken pipe")})
        with pytest.raises(ConnectionLost, match="Broken pipe"):
            script.run(session.open("none"))
        assert session.broken

    def test_a_word_too_many_at_the_end_ends_it(self) -> None:
        session, script = new(), Script(HELLO, ehlo_reply() + b"250 and this\r\n")
        with pytest.raises(ProtocolViolation, match="spoke when it was not asked"):
            script.run(session.open("none"))
        assert session.broken


class TestStartTLS:
    def test_everything_is_asked_again_behind_the_handshake(self) -> None:
        session = new()
        script = Script(HELLO, ehlo_reply("STARTTLS", "SIZE 1", "XBEFORE"), GO, ehlo_reply("SIZE 2", "XAFTER"))
        script.run(session.open("required"))
        assert script.sent == [EHLO, STARTTLS, EHLO]
        assert script.order == "RWRWRSWR"
        assert dict(session.capabilities) == {"SIZE": "2", "XAFTER": ""}
        assert session.secure
        assert not session.broken

    def test_what_was_offered_before_is_forgotten_when_only_helo_works_behind_it(self) -> None:
        session = new()
        script = Script(HELLO, ehlo_reply("STARTTLS", "PIPELINING"), GO, b"502 no\r\n", b"250 hello\r\n")
        script.run(session.open("required"))
        assert not session.capabilities

    def test_login_offered_before_the_handshake_only_is_no_login(self) -> None:
        session = new()
        script = Script(HELLO, ehlo_reply("STARTTLS", "AUTH PLAIN"), GO, ehlo_reply("SIZE"))
        with pytest.raises(AuthenticationFailed, match="offers no login"):
            script.run(session.open("required", ANN))
        assert script.sent == [EHLO, STARTTLS, EHLO]

    def test_implicit_comes_before_the_greeting(self) -> None:
        session, script = new(), Script(HELLO, ehlo_reply("STARTTLS"))
        script.run(session.open("implicit"))
        assert script.order == "SRWR"
        assert session.secure

    def test_none_does_not_start_it(self) -> None:
        session, script = new(), Script(HELLO, ehlo_reply("STARTTLS"))
        script.run(session.open("none"))
        assert script.sent == [EHLO]
        assert not session.secure

    @pytest.mark.parametrize(
        ("answers", "what"),
        [
            ((HELLO, ehlo_reply("PIPELINING", "AUTH PLAIN")), "offers no STARTTLS"),
            ((HELLO, ehlo_reply("STARTTLS", "AUTH PLAIN"), b"454 4.7.0 not now\r\n"), "refused STARTTLS with 454"),
            ((HELLO, ehlo_reply("STARTTLS", "AUTH PLAIN"), b"250 ok\r\n"), "refused STARTTLS with 250"),
            ((HELLO, b"502 no\r\n", b"250 hello\r\n"), "offers no STARTTLS"),
        ],
    )
    def test_required_ends_where_it_is_missing_or_refused(self, answers: tuple[bytes, ...], what: str) -> None:
        session, script = new(), Script(*answers)
        asked: list[object] = []

        def never(trouble: object) -> str:
            asked.append(trouble)
            return "insecure"

        with pytest.raises(TLSFailed, match=what) as caught:
            script.run(session.open("required", ANN, allow_cleartext_auth=True, on_tls_failure=never))
        assert SERVER in str(caught.value)
        assert "tls='required' is set; check port; set tls='none' only if the path is private" in str(caught.value)
        assert asked == []
        assert b"AUTH" not in b"".join(script.sent)
        assert script.sent[-1] in (EHLO, HELO, STARTTLS)
        assert session.broken
        assert not session.may_go_on_in_clear

    @pytest.mark.parametrize(
        "answers",
        [
            (HELLO, ehlo_reply("PIPELINING")),
            (HELLO, ehlo_reply("STARTTLS", "PIPELINING"), b"454 4.7.0 not now\r\n"),
        ],
    )
    def test_opportunistic_goes_on_in_clear_where_it_may(self, answers: tuple[bytes, ...]) -> None:
        session, script = new(), Script(*answers)
        troubles: list[Reply | SMTPError] = []

        def insecure(trouble: Reply | SMTPError) -> str:
            troubles.append(trouble)
            return "insecure"

        script.run(session.open("opportunistic", on_tls_failure=insecure))
        assert not session.broken
        assert not session.secure
        assert "PIPELINING" in session.capabilities
        [trouble] = troubles
        assert isinstance(trouble, Reply if len(answers) == 3 else TLSFailed)

    @pytest.mark.parametrize(
        "answers",
        [(HELLO, ehlo_reply("AUTH PLAIN")), (HELLO, ehlo_reply("STARTTLS", "AUTH PLAIN"), b"454 not now\r\n")],
    )
    @pytest.mark.parametrize("verdict", ["secure", "nonsense"])
    def test_opportunistic_ends_where_it_may_not(self, answers: tuple[bytes, ...], verdict: str) -> None:
        session, script = new(), Script(*answers)
        with pytest.raises(TLSFailed, match="without TLS nothing may be sent there"):
            script.run(
                session.open("opportunistic", ANN, allow_cleartext_auth=True, on_tls_failure=lambda trouble: verdict)
            )
        assert b"AUTH" not in b"".join(script.sent)
        assert session.broken

    def test_secure_is_the_verdict_of_who_says_nothing(self) -> None:
        with pytest.raises(TLSFailed):
            Script(HELLO, ehlo_reply()).run(new().open("opportunistic"))

    def test_opportunistic_without_trouble_asks_nobody(self) -> None:
        session = new()
        script = Script(HELLO, ehlo_reply("STARTTLS"), GO, ehlo_reply())
        script.run(session.open("opportunistic"))
        assert session.secure

    def test_421_to_starttls_ends_it_whatever_the_policy(self) -> None:
        session, script = new(), Script(HELLO, ehlo_reply("STARTTLS"), b"421 4.3.2 bye\r\n")
        with pytest.raises(ConnectionLost, match="421"):
            script.run(session.open("opportunistic", on_tls_failure=lambda trouble: "insecure"))
        assert session.broken

    @pytest.mark.parametrize("tls", ["required", "opportunistic"])
    @pytest.mark.parametrize(
        "injected",
        [
            b"250 ok\r\n",
            b"2",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t\r\n",
            b"250-mx\r\n250 AUTH PLAIN\r\n",
            b"220 go\r\n250",
            b"\x16\x03\x03",
        ],
    )
    def test_bytes_behind_the_220_end_it_and_nothing_follows(self, tls: str, injected: bytes) -> None:
        session, script = new(), Script(HELLO, ehlo_reply("STARTTLS", "AUTH PLAIN"), GO + injected)
        with pytest.raises(ProtocolViolation, match=r"mx\.example\.com:25.* ahead of the TLS handshake"):
            script.run(session.open(tls, ANN, allow_cleartext_auth=True, on_tls_failure=lambda trouble: "insecure"))
        assert script.sent == [EHLO, STARTTLS]
        assert script.order == "RWRWR"
        assert session.broken
        assert not session.secure
        assert not session.may_go_on_in_clear

    @pytest.mark.parametrize("tls", ["required", "opportunistic"])
    def test_bytes_that_the_wire_finds_end_it_as_well(self, tls: str) -> None:
        """They came in a later segment: only the wire sees them."""
        found = ProtocolViolation("data ahead of the TLS handshake", server=SERVER)
        session, script = new(), Script(HELLO, ehlo_reply("STARTTLS"), GO, tls=found)
        with pytest.raises(ProtocolViolation):
            script.run(session.open(tls, on_tls_failure=lambda trouble: "insecure"))
        assert script.sent == [EHLO, STARTTLS]
        assert session.broken
        assert not session.may_go_on_in_clear

    @pytest.mark.parametrize("tls", ["required", "opportunistic", "implicit"])
    @pytest.mark.parametrize("verdict", ["secure", "insecure"])
    @pytest.mark.parametrize(
        ("error", "what", "remedy"),
        [
            (
                ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"),
                "WRONG_VERSION_NUMBER",
                "port and kind of TLS",
            ),
            (ConnectionResetError(104, "Connection reset by peer"), "reset by peer", "port and kind of TLS"),
            (TimeoutError(), "TimeoutError", "port and kind of TLS"),
        ],
    )
    def test_a_failed_handshake_ends_the_connection_whatever_the_policy(
        self, tls: str, verdict: str, error: OSError, what: str, remedy: str
    ) -> None:
        session = new()
        script = Script(*(() if tls == "implicit" else (HELLO, ehlo_reply("STARTTLS", "AUTH PLAIN"), GO)), tls=error)
        with pytest.raises(TLSFailed, match=what) as caught:
            script.run(session.open(tls, ANN, allow_cleartext_auth=True, on_tls_failure=lambda trouble: verdict))
        assert SERVER in str(caught.value)
        assert remedy in str(caught.value)
        assert caught.value.__cause__ is error
        assert caught.value.is_transient
        assert script.order[-1] == "S"
        assert session.broken
        assert not session.secure
        assert session.may_go_on_in_clear is (tls == "opportunistic" and verdict == "insecure")

    @pytest.mark.parametrize("verdict", ["secure", "insecure"])
    @pytest.mark.parametrize("tls", ["required", "opportunistic", "implicit"])
    @pytest.mark.parametrize("where", ["behind", "in"])
    def test_a_server_that_wants_a_client_certificate_failed_the_handshake(
        self, tls: str, verdict: str, where: str
    ) -> None:
        """In TLS 1.3 it says so behind the handshake, where the first reply is awaited (RFC 8446 4.4.2.4)."""
        alert = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required")
        alert.library, alert.reason = "SSL", "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        session, asked = new(), []
        clear = () if tls == "implicit" else (HELLO, ehlo_reply("STARTTLS"), GO)
        script = Script(*clear, alert) if where == "behind" else Script(*clear, tls=alert)

        def decide(trouble: object) -> str:
            asked.append(trouble)
            return verdict

        with pytest.raises(
            TLSFailed, match=r"handshake with .* failed: .*; it wants a client certificate: set "
        ) as caught:
            script.run(session.open(tls, on_tls_failure=decide))
        assert "client_cert and client_key" in str(caught.value)
        assert session.line.phase == "tls"
        assert session.broken
        assert not session.secure
        assert asked == ([caught.value] if tls == "opportunistic" else [])
        assert session.may_go_on_in_clear is (tls == "opportunistic" and verdict == "insecure")

    def test_trouble_with_tls_after_the_first_replies_is_a_lost_connection(self) -> None:
        trouble = ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed")
        trouble.library, trouble.reason = "SSL", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
        session, script = new(), Script(HELLO, ehlo_reply("AUTH PLAIN"), trouble)
        with pytest.raises(ConnectionLost):
            script.run(session.open("implicit", ANN))

    def test_an_untrusted_certificate_names_the_server_and_the_remedy(self) -> None:
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "Hostname mismatch, certificate is not valid for 'mx.example.com'."
        session, script = new(), Script(HELLO, ehlo_reply("STARTTLS"), GO, tls=error)
        with pytest.raises(
            TLSFailed, match=r"certificate of mx\.example\.com:25 is not trusted: Hostname mismatch"
        ) as caught:
            script.run(session.open("required"))
        assert "ca_file" in str(caught.value)
        assert session.broken


class TestLogin:
    def run(
        self,
        *answers: bytes,
        offered: str = "AUTH PLAIN LOGIN CRAM-MD5",
        mechanisms: Sequence[str] | None = None,
        credentials: Credentials = ANN,
        lines: list[str] | None = None,
    ) -> tuple[Session, Script, AuthenticationFailed | None]:
        """Log in behind TLS."""
        transcript = (lambda who, line: lines.append(f"{who} {line}")) if lines is not None else None
        session = new(transcript=transcript)
        script = Script(HELLO, ehlo_reply(offered), *answers)
        try:
            script.run(session.open("implicit", credentials, mechanisms=mechanisms))
        except AuthenticationFailed as error:
            del script.sent[0]
            return session, script, error
        del script.sent[0]
        return session, script, None

    def test_plain_goes_with_its_initial_response(self) -> None:
        session, script, error = self.run(b"235 2.7.0 welcome\r\n", mechanisms=["plain"])
        assert error is None
        assert script.sent == [PLAIN]
        assert not session.broken

    def test_login_answers_prompts(self) -> None:
        _, script, error = self.run(
            b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n", b"235 ok\r\n", mechanisms=["LOGIN"]
        )
        assert error is None
        assert script.sent == [b"AUTH LOGIN\r\n", b64("ann") + b"\r\n", b64(PASSWORD) + b"\r\n"]

    def test_cram_md5_comes_first(self) -> None:
        """The example of RFC 2195 2."""
        _, script, error = self.run(
            b"334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+\r\n",
            b"235 ok\r\n",
            credentials=Credentials("tim", "tanstaaftanstaaf"),
        )
        assert error is None
        assert script.sent == [
            b"AUTH CRAM-MD5\r\n",
            b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw\r\n",
        ]

    def test_an_empty_initial_response_is_an_equals_sign(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """RFC 4954 4. Of the mechanisms here none has one, so it is a mechanism of the test's."""
        from smtpbackend.protocol import mechanisms, sasl

        def external(credentials: Credentials) -> sasl.Exchange:
            yield b""

        monkeypatch.setattr(mechanisms, "MECHANISMS", (sasl.Mechanism("EXTERNAL", external, in_clear=False),))
        _, script, error = self.run(b"235 ok\r\n", offered="AUTH EXTERNAL")
        assert error is None
        assert script.sent == [b"AUTH EXTERNAL =\r\n"]

    def test_an_empty_challenge_is_answered(self) -> None:
        _, script, error = self.run(b"334 \r\n", b"334\r\n", b"235 ok\r\n", mechanisms=["LOGIN"])
        assert error is None
        assert script.sent[1:] == [b64("ann") + b"\r\n", b64(PASSWORD) + b"\r\n"]

    def test_the_next_mechanism_follows_a_refused_one(self) -> None:
        session, script, error = self.run(
            b"535 5.7.8 no\r\n", b"504 5.5.4 no\r\n", b"334 VXNlcm5hbWU6\r\n", b"334 UGFzc3dvcmQ6\r\n", b"235 ok\r\n"
        )
        assert error is None
        assert [line.split()[0:2] for line in script.sent[:3]] == [
            [b"AUTH", b"CRAM-MD5"],
            [b"AUTH", b"PLAIN"],
            [b"AUTH", b"LOGIN"],
        ]
        assert not session.broken

    def test_the_order_of_the_setting_counts(self) -> None:
        _, script, _ = self.run(b"504 no\r\n", b"235 ok\r\n", mechanisms=["LOGIN", "PLAIN"])
        assert script.sent == [b"AUTH LOGIN\r\n", PLAIN]

    def test_all_refused(self) -> None:
        session, script, error = self.run(b"535 5.7.8 no\r\n", b"535 5.7.8 no\r\n", offered="AUTH PLAIN CRAM-MD5")
        assert error is not None
        assert len(script.sent) == 2
        assert SERVER in str(error)
        assert "'ann'" in str(error)
        assert "CRAM-MD5: 535 5.7.8 no; PLAIN: 535 5.7.8 no" in str(error)
        assert "check username and password" in str(error)
        assert error.smtp_code == 535
        assert not error.is_transient
        assert session.broken

    def test_a_login_answered_250_has_passed(self) -> None:
        """RFC 4954 6 says 235; smtp-sink and others say 250."""
        session, _, error = self.run(b"250 ok\r\n")
        assert error is None
        assert not session.broken

    @pytest.mark.parametrize("password", ["secret", "hunter2-long"])
    def test_an_echoed_secret_is_not_repeated(self, password: str) -> None:
        """A server that quotes the command in its refusal does not get the secret into error or transcript."""
        lines: list[str] = []
        session = Session("mx:25", "client.example", local_peer=True, transcript=lambda way, line: lines.append(line))
        session.capabilities = Capabilities({"AUTH": "PLAIN"})
        encoded = base64.b64encode(f"\0ann\0{password}".encode()).decode()
        script = Script(f"535 what is AUTH PLAIN {encoded} for {password}\r\n".encode())
        with pytest.raises(AuthenticationFailed) as caught:
            script.run(session.login(Credentials("ann", password)))
        said = str(caught.value) + repr(caught.value.smtp_error) + " ".join(lines)
        assert password not in said
        assert encoded not in said

    @pytest.mark.parametrize("refusal", [b"535 5.7.8 no\r\n", b"504 5.5.4 no\r\n"])
    @pytest.mark.parametrize("together", [True, False])
    def test_a_goodbye_behind_a_refusal_ends_the_connection_and_not_the_login(
        self, refusal: bytes, together: bool
    ) -> None:
        """It may come with the refusal, or when the next mechanism is on its way."""
        session, goodbye = new(), b"421 4.7.0 too many errors\r\n"
        said = (refusal + goodbye,) if together else (refusal, goodbye)
        script = Script(HELLO, ehlo_reply("AUTH PLAIN CRAM-MD5"), *said)
        with pytest.raises(ConnectionLost, match=r"421 4\.7\.0 too many errors"):
            script.run(session.open("implicit", ANN))
        assert session.broken
        assert session.login_goes_on

    def test_a_server_that_says_goodbye_is_not_asked_again(self) -> None:
        session = new()
        script = Script(HELLO, ehlo_reply("AUTH PLAIN CRAM-MD5"), b"421 4.7.0 bye\r\n")
        with pytest.raises(ConnectionLost, match=r"421 4\.7\.0 bye") as caught:
            script.run(session.open("implicit", ANN))
        assert script.sent[1:] == [b"AUTH CRAM-MD5\r\n"]
        assert caught.value.is_transient
        assert caught.value.reply is not None
        assert session.broken
        assert not session.login_goes_on

    @pytest.mark.parametrize(
        "challenge",
        [b"334 !!!\r\n", b"334 abc\r\n", b"334 \xc3\xa4\r\n", b"334-YQ==\r\n334 YQ==\r\n", b"334 YQ==YQ==\r\n"],
    )
    def test_a_challenge_that_is_no_base64_is_cancelled(self, challenge: bytes) -> None:
        session, script, error = self.run(
            challenge, b"501 5.7.0 cancelled\r\n", b"235 ok\r\n", mechanisms=["CRAM-MD5", "PLAIN"]
        )
        assert error is None
        assert script.sent == [b"AUTH CRAM-MD5\r\n", b"*\r\n", PLAIN]
        assert not session.broken

    @pytest.mark.parametrize(
        "prompts",
        [
            (b"334 Username:\r\n", b"334 Password:\r\n"),
            (b"334 VXNlcm5hbWU6 \r\n", b"334 UGFzc3dvcmQ6 \r\n"),
            (b"334  VXNlcm5hbWU6\r\n", b"334  UGFzc3dvcmQ6\r\n"),
            (b"334 VXNlcm5hbWU\r\n", b"334 UGFzc3dvcmQ\r\n"),
            (b"334 ok, go on\r\n", b"334-and\r\n334 now?\r\n"),
            (b"334 \xff\xc3\xa4\r\n", b"334\r\n"),
        ],
    )
    def test_the_prompts_of_login_are_not_read(self, prompts: tuple[bytes, bytes]) -> None:
        """draft-murchison-sasl-login-00: "the contents of both challenges SHOULD be ignored"."""
        _, script, error = self.run(*prompts, b"235 ok\r\n", mechanisms=["LOGIN"])
        assert error is None
        assert script.sent == [b"AUTH LOGIN\r\n", b64("ann") + b"\r\n", b64(PASSWORD) + b"\r\n"]

    def test_a_challenge_too_many_is_cancelled(self) -> None:
        _, script, error = self.run(b"334 YQ==\r\n", b"501 cancelled\r\n", offered="AUTH PLAIN")
        assert error is not None
        assert script.sent == [PLAIN, b"*\r\n"]

    def test_a_server_that_goes_on_after_it_was_cancelled_is_left(self) -> None:
        session = new()
        script = Script(HELLO, ehlo_reply("AUTH PLAIN"), *[b"334 YQ==\r\n"] * 5)
        with pytest.raises(ProtocolViolation, match="cancelled"):
            script.run(session.open("implicit", ANN))
        assert script.sent[1:] == [PLAIN, b"*\r\n"]
        assert session.broken

    def test_credentials_over_the_limit_of_a_line_leave_a_broken_session(self) -> None:
        session = new()
        script = Script(HELLO, ehlo_reply("AUTH PLAIN"))
        with pytest.raises(InvalidInput) as caught:
            script.run(session.open("implicit", Credentials("ann", "x" * 20_000)))
        assert caught.value.field == "credentials"
        assert "xxxx" not in str(caught.value)
        assert session.broken

    @pytest.mark.parametrize("mechanisms", [None, ["PLAIN"], ["LOGIN", "PLAIN"]])
    def test_no_secret_leaves_over_a_channel_that_is_not_verified(self, mechanisms: Sequence[str] | None) -> None:
        session, script = new(), Script(HELLO, ehlo_reply("AUTH PLAIN LOGIN"))
        with pytest.raises(
            AuthenticationFailed, match=r"mx\.example\.com:25 would get the password in clear"
        ) as caught:
            script.run(session.open("none", ANN, mechanisms=mechanisms))
        assert "allow_cleartext_auth=True" in str(caught.value)
        assert script.sent == [EHLO]
        assert session.broken

    def test_cram_md5_may_go_over_a_clear_channel_and_nothing_weaker_follows_it(self) -> None:
        session = new()
        script = Script(HELLO, ehlo_reply("AUTH PLAIN LOGIN CRAM-MD5"), b"334 YQ==\r\n", b"535 no\r\n")
        with pytest.raises(AuthenticationFailed):
            script.run(session.open("none", ANN))
        assert len(script.sent) == 3
        assert b"AUTH PLAIN" not in b"".join(script.sent)

    def test_a_local_peer_gets_it(self) -> None:
        session, script = new(local_peer=True), Script(HELLO, ehlo_reply("AUTH PLAIN"), b"235 ok\r\n")
        script.run(session.open("none", ANN))
        assert script.sent == [EHLO, PLAIN]

    def test_whoever_allows_it_sends_it_in_clear(self) -> None:
        session, script = new(), Script(HELLO, ehlo_reply("AUTH=PLAIN"), b"235 ok\r\n")
        script.run(session.open("none", ANN, allow_cleartext_auth=True))
        assert script.sent == [EHLO, PLAIN]

    def test_a_server_without_auth(self) -> None:
        session, script = new(), Script(HELLO, ehlo_reply("SIZE"))
        with pytest.raises(AuthenticationFailed, match=r"mx\.example\.com:25 offers no login \(AUTH\)"):
            script.run(session.open("implicit", ANN))
        assert session.broken

    def test_no_mechanism_in_common(self) -> None:
        session, script = new(), Script(HELLO, ehlo_reply("AUTH GSSAPI NTLM"))
        with pytest.raises(
            AuthenticationFailed,
            match=r"offers GSSAPI, NTLM to log in, and none of SCRAM-.*CRAM-MD5, PLAIN, LOGIN",
        ) as caught:
            script.run(session.open("implicit", ANN))
        assert "auth_mechanisms" in str(caught.value)
        assert session.broken

    def test_a_mechanism_that_is_not_offered_is_not_tried(self) -> None:
        _, script, error = self.run(offered="AUTH PLAIN", mechanisms=["CRAM-MD5"])
        assert error is not None
        assert "none of CRAM-MD5" in str(error)
        assert script.sent == []

    @pytest.mark.parametrize(
        "answers",
        [
            (b"334 PDE@\r\n", b"501 no\r\n", b"535 no\r\n", b"334 YQ==\r\n", b"334 YQ==\r\n", b"535 no\r\n"),
            (b"334 PDE4\r\n", b"535 no\r\n", b"235 ok\r\n"),
            (b"535 no\r\n", b"334 YQ==\r\n", b"454 no\r\n", b"535 no\r\n"),
        ],
    )
    def test_the_secret_is_in_no_transcript_and_in_no_error(self, answers: tuple[bytes, ...]) -> None:
        lines: list[str] = []
        session, _, error = self.run(*answers, lines=lines)
        text = "\n".join([*lines, repr(session), repr(ANN), str(ANN), repr(error), str(error)])
        if error is not None:
            text += repr(error.__dict__) + "".join(traceback.format_exception(error))
        secrets = [PASSWORD, b64(PASSWORD).decode(), b64(f"\0ann\0{PASSWORD}").decode()]
        assert not [secret for secret in secrets if secret in text]
        assert "***" in text

    def test_the_transcript_shows_what_was_said(self) -> None:
        lines: list[str] = []
        self.run(
            b"504 5.5.4 no\r\n",
            b"334 YQ==\r\n",
            b"334 YQ==\r\n",
            b"235 ok\r\n",
            offered="AUTH PLAIN LOGIN",
            lines=lines,
        )
        assert lines == [
            "< 220 mx.example.com ESMTP",
            "> EHLO client.example.org",
            "< 250 mx.example.com AUTH PLAIN LOGIN",
            "> AUTH PLAIN ***",
            "< 504 5.5.4 no",
            "> AUTH LOGIN",
            "< 334 YQ==",
            "> ***",
            "< 334 YQ==",
            "> ***",
            "< 235 ok",
        ]


class TestAsking:
    @pytest.mark.parametrize(
        "reply",
        [b"250 Ann <ann@example.com>\r\n", b"251 forwarded\r\n", b"252 maybe\r\n", b"550 5.1.1 no\r\n", b"502 no\r\n"],
    )
    def test_verify_returns_the_reply_whatever_it_is(self, reply: bytes) -> None:
        session, script = opened(), Script(reply)
        assert script.run(session.verify("ann")).code == int(reply[:3])
        assert script.sent == [b"VRFY ann\r\n"]
        assert not session.broken

    def test_verify_asks_for_smtputf8_where_it_needs_it(self) -> None:
        script = Script(b"252 maybe\r\n")
        script.run(opened("SMTPUTF8").verify("bjørn"))
        assert script.sent == ["VRFY bjørn SMTPUTF8\r\n".encode()]
        script = Script(b"252 maybe\r\n")
        script.run(opened("SMTPUTF8").verify("ann"))
        assert script.sent == [b"VRFY ann\r\n"]

    def test_verify_refuses_what_the_server_cannot_take(self) -> None:
        session, script = opened(), Script()
        with pytest.raises(InvalidInput):
            script.run(session.verify("bjørn"))
        with pytest.raises(InvalidInput):
            script.run(session.verify("ann\r\nDATA"))
        assert script.sent == []

    def test_expand_gives_the_members(self) -> None:
        session, script = opened(), Script(b"250-ann@example.com\r\n250 bob@example.com\r\n")
        assert script.run(session.expand("staff")).lines == ("ann@example.com", "bob@example.com")
        assert script.sent == [b"EXPN staff\r\n"]

    def test_help(self) -> None:
        session, script = opened(), Script(b"214 2.0.0 no help\r\n", b"214-MAIL\r\n214 FROM\r\n")
        assert script.run(session.help()).text == "no help"
        assert script.run(session.help("MAIL")).text == "MAIL\nFROM"
        assert script.sent == [b"HELP\r\n", b"HELP MAIL\r\n"]

    def test_noop(self) -> None:
        session, script = opened(), Script(b"250 ok\r\n")
        assert script.run(session.noop()).code == 250
        assert script.sent == [b"NOOP\r\n"]
        assert not session.broken

    def test_reset(self) -> None:
        session, script = opened(), Script(b"250 ok\r\n")
        script.run(session.reset())
        assert script.sent == [b"RSET\r\n"]

    def test_a_refused_reset_breaks_the_session(self) -> None:
        session = opened()
        with pytest.raises(CommandRefused, match=r"mx\.example\.com:25 refused RSET with 502 no"):
            Script(b"502 no\r\n").run(session.reset())
        assert session.broken

    @pytest.mark.parametrize("reply", [b"221 bye\r\n", b"500 what?\r\n"])
    def test_quit_is_the_end(self, reply: bytes) -> None:
        session, script = opened(), Script(reply)
        script.run(session.quit())
        assert script.sent == [b"QUIT\r\n"]
        assert session.broken

    def test_421_breaks_the_session(self) -> None:
        session = opened()
        assert Script(b"421 4.4.2 idle for too long\r\n").run(session.noop()).code == 421
        assert session.broken

    @pytest.mark.parametrize(
        ("end", "kind"),
        [
            (b"", ConnectionLost),
            (ConnectionResetError(104, "reset"), ConnectionLost),
            (TimeoutError(), TimedOut),
            (TimedOut("the deadline passed"), TimedOut),
            (b"what?\r\n", ProtocolViolation),
        ],
    )
    def test_every_failure_breaks_the_session(self, end: bytes | OSError, kind: type[SMTPError]) -> None:
        for name in ("noop", "help", "reset", "quit"):
            session = opened()
            with pytest.raises(kind):
                Script(end).run(getattr(session, name)())
            assert session.broken

    def test_a_failed_write_breaks_the_session_and_reads_what_was_said(self) -> None:
        session, script = opened(), Script(b"250 late\r\n", fails={0: BrokenPipeError(32, "Broken pipe")})
        assert script.run(session.noop()).text == "late"
        assert script.reads[0].timeout == 10
        assert session.broken

    @pytest.mark.parametrize("unasked", [b"250 ok\r\n", b"250", b"451 idle\r\n", b"4\xff"])
    def test_a_reply_nobody_asked_for_is_a_dead_connection(self, unasked: bytes) -> None:
        session = opened()
        Script(b"250 ok\r\n" + unasked).run(session.noop())
        assert not session.line.replies.is_empty
        script = Script()
        with pytest.raises(ProtocolViolation, match="spoke when it was not asked"):
            script.run(session.noop())
        assert script.sent == []
        assert session.broken
        assert session.line.is_talkative

    @pytest.mark.parametrize("cut", range(1, 18))
    def test_a_goodbye_nobody_asked_for_is_the_reason_for_the_end(self, cut: int) -> None:
        """RFC 5321 3.8: 421 may come at any time; however much of it was read with the reply before it."""
        goodbye = b"421 4.4.2 idle\r\n"
        session = opened()
        Script(b"250 ok\r\n" + goodbye[:cut]).run(session.noop())
        script = Script(*([goodbye[cut:]] if cut < len(goodbye) else []))
        with pytest.raises(ConnectionLost, match=r"closed the connection: 421 4\.4\.2 idle") as caught:
            script.run(session.noop())
        assert caught.value.reply is not None
        assert (caught.value.reply.code, caught.value.is_transient) == (421, True)
        assert script.sent == []
        assert session.broken
        assert not session.line.is_talkative

    def test_what_begins_as_a_goodbye_and_is_none_is_a_dead_connection(self) -> None:
        session = opened()
        Script(b"250 ok\r\n4").run(session.noop())
        script = Script(b"50 no\r\n")
        with pytest.raises(ProtocolViolation, match="spoke when it was not asked"):
            script.run(session.noop())
        assert script.sent == []
        assert session.line.is_talkative

    def test_only_the_first_reply_on_a_pooled_connection_has_little_time(self) -> None:
        session, script = opened(), Script(b"250 ok\r\n", b"250 ok\r\n")
        session.line.resume()
        script.run(session.noop())
        script.run(session.noop())
        assert [read.timeout for read in script.reads] == [10, 60]

    def test_replies_octet_by_octet(self) -> None:
        session = new()
        stream = HELLO, ehlo_reply("STARTTLS", "SIZE 5"), GO, ehlo_reply("AUTH PLAIN", "SIZE 7"), b"235 ok\r\n"
        script = Script(*(bytes([octet]) for part in stream for octet in part))
        script.run(session.open("required", ANN))
        assert script.sent == [EHLO, STARTTLS, EHLO, PLAIN]
        assert dict(session.capabilities) == {"AUTH": "PLAIN", "SIZE": "7"}
        assert not script.answers
