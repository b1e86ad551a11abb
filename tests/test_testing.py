"""The scripted server itself, by plain sockets: what it hears, says and does, without any of our mailers."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from smtpbackend.testing import (
    CUT,
    DEAF,
    EXTENSIONS,
    HANG_UP,
    RESET,
    SILENCE,
    TLS,
    Deed,
    Fault,
    Play,
    ScriptedServer,
    Speaker,
    Transaction,
    delay,
    drip,
    flood,
    when_heard,
)
from tests.servers.ports import wait_until
from tests.servers.tls import Certificates

ROOT = Path(__file__).parents[1]
CHUNKING = (*EXTENSIONS, "CHUNKING")
MAIL, ANN, BOB = b"MAIL FROM:<a@example.com>\r\n", b"RCPT TO:<ann@example.com>\r\n", b"RCPT TO:<bob@example.com>\r\n"
GROUP = MAIL + ANN
RSET, NOOP, QUIT = b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n"
CONTENT = b"Subject: x\r\n\r\nhi\r\n"
LAST = b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT
DOT = b".\r\n"


def speaker(answers: Any = MappingProxyType({}), hello: bytes = b"EHLO c\r\n", **options: Any) -> Speaker:
    """One that offers CHUNKING and has been greeted."""
    speaker = Speaker(Play(answers, **{"extensions": CHUNKING, **options}))
    speaker.greet()
    speaker.hear(hello)
    return speaker


def codes(said: list[bytes | Deed]) -> list[Any]:
    """The codes of what is said, and the deeds."""
    return [int(part[:3]) if isinstance(part, bytes) else part for part in said]


class Client:
    """A plain socket with a few words."""

    def __init__(self, server: ScriptedServer) -> None:
        self.sock = socket.create_connection((server.host, server.port), timeout=10)
        self.file = self.sock.makefile("rb")

    def read(self) -> int:
        """The code of one reply; 0 at the end of the stream."""
        while (line := self.file.readline())[3:4] == b"-":
            pass
        return int(line[:3] or 0)

    def ask(self, data: bytes, replies: int = 1) -> list[int]:
        self.sock.sendall(data)
        return [self.read() for _ in range(replies)]

    def rest(self) -> bytes:
        """Everything to the end of the stream."""
        return self.file.read()

    def secure(self, certificates: Certificates) -> None:
        self.file.close()
        self.sock = certificates.client_context().wrap_socket(self.sock, server_hostname="localhost")
        self.file = self.sock.makefile("rb")

    def close(self) -> None:
        self.file.close()
        self.sock.close()


@pytest.fixture
def connect() -> Iterator[Callable[[ScriptedServer], Client]]:
    clients: list[Client] = []

    def connect(server: ScriptedServer) -> Client:
        clients.append(Client(server))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


Connect = Callable[[ScriptedServer], Client]
Start = Callable[..., ScriptedServer]


class TestGoodServer:
    """What is not scripted is answered as RFC 5321 has it."""

    def test_a_message(self) -> None:
        server = speaker()
        assert codes(server.hear(MAIL + ANN + BOB + b"DATA\r\n")) == [250, 250, 250, 354]
        assert codes(server.hear(CONTENT + b"..dot\r\n" + DOT + QUIT)) == [250, 221, CUT]
        whole = Transaction(
            "MAIL FROM:<a@example.com>",
            ("RCPT TO:<ann@example.com>", "RCPT TO:<bob@example.com>"),
            CONTENT + b".dot\r\n",
        )
        assert server.handed_over == server.taken == [whole]
        assert server.verbs == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]

    def test_it_makes_no_difference_how_the_octets_come(self) -> None:
        dialogue = GROUP + b"DATA\r\n" + CONTENT + DOT + GROUP + LAST + GROUP + b"BDAT 3\r\na\r\nBDAT 0 LAST\r\n" + QUIT
        whole, single = speaker(), speaker()
        said = whole.hear(dialogue)
        assert codes(said) == [250, 250, 354, 250] + [250, 250, 250] * 2 + [250, 221, CUT]
        assert [part for octet in dialogue for part in single.hear(bytes([octet]))] == said
        assert [one.content for one in single.handed_over] == [CONTENT, CONTENT, b"a\r\n"]
        assert single.handed_over == whole.handed_over
        assert single.commands == whole.commands

    @pytest.mark.parametrize(
        ("content", "arrives"),
        [(b"", b""), (b"..\r\n", b".\r\n"), (b"\r\n", b"\r\n"), (b"a\r\n..b\r\n...\r\n", b"a\r\n.b\r\n..\r\n")],
    )
    def test_dots_are_unstuffed_and_a_content_may_be_empty(self, content: bytes, arrives: bytes) -> None:
        server = speaker()
        server.hear(GROUP + b"DATA\r\n" + content + DOT)
        assert [one.content for one in server.taken] == [arrives]

    @pytest.mark.parametrize(
        ("dialogue", "expected"),
        [
            (ANN, [503]),
            (MAIL + MAIL, [250, 503]),
            (MAIL + b"DATA\r\n", [250, 554]),
            (GROUP + RSET + ANN, [250, 250, 250, 503]),
            (GROUP + b"EHLO c\r\n" + ANN, [250, 250, 250, 503]),
            (b"mail from:<a@example.com> BODY=BINARYMIME\r\n" + ANN + b"DATA\r\n", [250, 250, 503]),
            (b"VRFY ann\r\nHELP\r\nEXPN x\r\n", [252, 214, 500]),
            (QUIT + NOOP, [221, CUT]),
        ],
    )
    def test_the_order_of_commands(self, dialogue: bytes, expected: list[Any]) -> None:
        assert codes(speaker().hear(dialogue)) == expected

    def test_octets_behind_starttls_are_forgotten_and_so_is_the_transaction(self) -> None:
        """RFC 3207 4.2 and 6."""
        server = speaker(extensions=("STARTTLS",))
        assert codes(server.hear(GROUP + b"STARTTLS\r\n" + NOOP)) == [250, 250, 220, TLS]
        server.secured = True
        assert server.hear(b"EHLO c\r\n") == [b"250 mx.example.com\r\n"]
        assert codes(server.hear(ANN)) == [503]

    @pytest.mark.parametrize(
        ("mechanism", "challenges"), [("PLAIN", 1), ("LOGIN", 2), ("CRAM-MD5", 1), ("PLAIN AGE=", 0)]
    )
    def test_logins(self, mechanism: str, challenges: int) -> None:
        server = speaker()
        said = server.hear(f"AUTH {mechanism}\r\n".encode() + b"x\r\n" * challenges)
        assert codes(said) == [334] * challenges + [235]
        assert codes(server.hear(b"AUTH PLAIN\r\n*\r\n")) == [334, 501]

    def test_lmtp_answers_a_content_for_each_accepted_recipient(self) -> None:
        """RFC 2033 4.2."""
        server = speaker({"RCPT TO:<bob": "550 no"}, hello=b"LHLO c\r\n")
        assert codes(server.hear(GROUP + BOB + ANN + b"DATA\r\n" + DOT)) == [250, 250, 550, 250, 354, 250, 250]
        assert codes(server.hear(GROUP + ANN + b"BDAT 2\r\n\r\n" + LAST)) == [250] * 6
        assert len(server.taken) == 2

    def test_lmtp_takes_for_those_it_does_not_refuse(self) -> None:
        server = speaker({".": ("250 ann", "550 bob", CUT)}, hello=b"LHLO c\r\n")
        server.hear(GROUP + BOB + ANN + b"DATA\r\n" + DOT)
        assert len(server.handed_over[0].recipients) == 3
        assert server.taken[0].recipients == ("RCPT TO:<ann@example.com>",) * 2
        refusing = speaker({".": "450 later"}, hello=b"LHLO c\r\n")
        assert codes(refusing.hear(GROUP + BOB + LAST)) == [250, 250, 250, 450, 450]
        assert refusing.taken == []


class TestChunking:
    """BDAT, RFC 3030."""

    def test_it_is_unknown_where_it_is_not_offered(self) -> None:
        server = speaker(extensions=EXTENSIONS)
        assert codes(server.hear(GROUP + b"BDAT 6 LAST\r\n" + NOOP)) == [250, 250, 500, 250]

    def test_it_is_known_where_an_answer_offers_it(self) -> None:
        assert codes(speaker({"EHLO": "250-mx\n250 chunking"}, extensions=()).hear(GROUP + LAST)) == [250] * 3

    def test_each_chunk_has_a_reply_and_the_last_ends_the_transaction(self) -> None:
        server = speaker()
        assert codes(server.hear(GROUP + b"BDAT 12\r\n" + CONTENT[:12])) == [250, 250, 250]
        assert server.handed_over == []
        assert codes(server.hear(b"bdat 6 last\r\n" + CONTENT[12:] + ANN)) == [250, 503]
        assert server.taken[0].content == CONTENT
        assert b"queued" in speaker().hear(GROUP + LAST)[-1]  # type: ignore[operator]

    def test_a_chunk_may_hold_anything(self) -> None:
        server, content = speaker(), b"\r\n.\r\nQUIT\r\n..\r\n\x00\xff\r\n"
        server.hear(GROUP + b"BDAT %d LAST\r\n" % len(content) + content + NOOP)
        assert server.taken[0].content == content
        assert server.verbs[-2:] == ["BDAT", "NOOP"]

    @pytest.mark.parametrize("last", [b"", b" LAST"])
    def test_what_is_refused_is_discarded(self, last: bytes) -> None:
        server = speaker({"RCPT": "550 no"})
        chunk = b"BDAT 6" + last + b"\r\n" + NOOP
        assert codes(server.hear(chunk + RSET + MAIL + chunk + ANN + chunk)) == [503, 250, 250, 503, 550, 503]
        assert "NOOP" not in server.commands
        assert server.handed_over == server.taken == []

    def test_rset_drops_the_chunks_that_came(self) -> None:
        server = speaker()
        server.hear(GROUP + b"BDAT 3\r\nx\r\n" + RSET + GROUP + LAST)
        assert [one.content for one in server.taken] == [CONTENT]

    def test_after_a_chunk_there_is_neither_data_nor_a_recipient(self) -> None:
        assert codes(speaker().hear(GROUP + b"BDAT 1\r\nx" + b"DATA\r\n" + ANN + MAIL + NOOP)) == [
            *(250, 250, 250),
            *(503, 503, 503, 250),
        ]

    def test_after_a_refused_chunk_the_others_are_discarded_up_to_the_last(self) -> None:
        server = speaker({"BDAT": ["250 ok", "452 full"], "BDAT 0": "503 no"})
        chunk = b"BDAT 1\r\nx"
        assert codes(server.hear(GROUP + chunk + chunk + b"DATA\r\nBDAT 0 LAST\r\n" + MAIL)) == [
            *(250, 250, 250, 452),
            *(503, 503, 250),
        ]
        assert server.handed_over == []

    @pytest.mark.parametrize("line", [b"BDAT", b"BDAT x", b"BDAT -1", b"BDAT 1 FIRST"])
    def test_what_has_no_size_is_refused(self, line: bytes) -> None:
        assert codes(speaker().hear(line + b"\r\n" + NOOP)) == [501, 250]

    def test_it_is_scripted_like_other_commands(self) -> None:
        server = speaker({"BDAT": "452 full", "BDAT 1": ["554 spam", "250 ok"]})
        group = GROUP + b"BDAT 1 LAST\r\nx"
        assert codes(server.hear(group + group + GROUP + b"BDAT 2 LAST\r\nxx")) == [
            250,
            250,
            554,
            250,
            250,
            250,
            250,
            250,
            452,
        ]
        assert [len(server.handed_over), len(server.taken)] == [3, 1]

    def test_the_answer_to_a_content_is_that_to_its_last_chunk(self) -> None:
        server = speaker({".": "554 spam"})
        assert codes(server.hear(GROUP + b"BDAT 1\r\nx" + LAST)) == [250, 250, 250, 554]
        assert [len(server.handed_over), len(server.taken)] == [1, 0]

    def test_an_answer_is_made_of_the_command(self) -> None:
        server = speaker({"BDAT": lambda line: f"250 heard {line}"})
        assert server.hear(GROUP + LAST)[-1] == b"250 heard BDAT 18 LAST\r\n"

    def test_one_that_hangs_up(self, smtp_server: Start, connect: Connect) -> None:
        client = connect(smtp_server(Play({"BDAT": CUT}, CHUNKING)))
        client.ask(b"EHLO c\r\n" + GROUP, 4)
        client.sock.sendall(LAST)
        assert client.rest() == b""


class TestFaults:
    """What real servers do wrong."""

    def test_a_refused_chunk_is_read_as_commands(self) -> None:
        faulty = speaker(faults=[Fault.READS_REFUSED_CHUNKS])
        assert codes(faulty.hear(b"BDAT 1\r\nX" + RSET)) == [503, 500]
        assert faulty.commands[-1] == "XRSET"
        assert codes(faulty.hear(GROUP + b"BDAT 6\r\n" + NOOP)) == [250, 250, 250]
        assert faulty.commands[-1] == "BDAT 6"
        full = speaker({".": "552 too big"}, faults=[Fault.READS_REFUSED_CHUNKS])
        assert codes(full.hear(GROUP + b"BDAT 6 LAST\r\n" + NOOP)) == [250, 250, 552, 250]

    def test_a_good_one_discards_it(self) -> None:
        good = speaker()
        assert codes(good.hear(b"BDAT 1\r\nX" + RSET)) == [503, 250]

    def test_a_dot_swallows_what_came_with_it(self) -> None:
        server = speaker(faults=[Fault.SWALLOWS_BEHIND_DOT])
        assert codes(server.hear(GROUP + b"DATA\r\n" + CONTENT + DOT + RSET + NOOP + QUIT)) == [250, 250, 354, 250]
        assert server.verbs[-1] == "DATA"
        assert codes(server.hear(NOOP)) == [250]
        assert codes(server.hear(GROUP + LAST + NOOP)) == [250] * 4

    @pytest.mark.parametrize("end", [b"DATA\r\n" + CONTENT + DOT, LAST])
    def test_mail_behind_a_content_crashes_it(self, end: bytes) -> None:
        faults = [Fault.CRASHES_ON_MAIL_BEHIND_CONTENT]
        server = speaker(faults=faults)
        assert codes(server.hear(GROUP + end + NOOP + GROUP))[-2:] == [250 if end == LAST else 354, CUT]
        assert len(server.taken) == 1
        for harmless in (RSET + GROUP, QUIT, NOOP, b""):
            assert CUT not in speaker(faults=faults).hear(GROUP + end + harmless)[:-1]
        patient = speaker(faults=faults)
        patient.hear(GROUP + end)
        assert codes(patient.hear(GROUP)) == [250, 250]

    def test_rset_amid_chunks_crashes_it(self) -> None:
        faulty = {"faults": [Fault.CRASHES_ON_RSET_AMID_CHUNKS]}
        assert speaker(**faulty).hear(GROUP + b"BDAT 1\r\nx" + RSET)[-1] == CUT
        for harmless in (GROUP + RSET, b"BDAT 1\r\nX" + RSET, GROUP + LAST + RSET):
            assert codes(speaker(**faulty).hear(harmless))[-1] == 250

    def test_the_old_sender_is_kept(self) -> None:
        server = speaker({"RCPT TO:<bob": "550 no"}, faults=[Fault.KEEPS_SENDER])
        other = b"MAIL FROM:<other@example.com>\r\n" + ANN + LAST
        assert codes(server.hear(MAIL + BOB + LAST + other)) == [250, 550, 503, 503, 250, 250]
        assert [one.mail for one in server.taken] == ["MAIL FROM:<a@example.com>"]
        assert codes(server.hear(MAIL + BOB + LAST + RSET + other)) == [250, 550, 503, 250, 250, 250, 250]
        assert server.taken[1].mail == "MAIL FROM:<other@example.com>"
        assert codes(speaker({"RCPT TO:<bob": "550 no"}).hear(MAIL + BOB + LAST + other))[3:] == [250, 250, 250]

    def test_replies_wait_for_acknowledgements(self, smtp_server: Start, connect: Connect) -> None:
        """TCP_NODELAY is off there, and on elsewhere."""
        for nagle in (False, True):
            server = smtp_server(Play(nagle=nagle))
            client = connect(server)
            client.read()
            [line] = server._open
            assert bool(line.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is not nagle
            assert client.ask(b"EHLO c\r\n" + GROUP + NOOP, 4) == [250] * 4


DIALOGUE = [b"EHLO c\r\n", GROUP + b"DATA\r\n", CONTENT + DOT, GROUP + LAST, QUIT]
SAID = [1, 1, 3, 1, 3, 1]
SCRIPT = {".": "250 2.0.0 queued"}  # without a number


def octets(said: list[bytes | Deed]) -> bytes:
    return b"".join(part for part in said if isinstance(part, bytes))


def talk(client: Client, secure: Callable[[], None] | None = None) -> bytes:
    """Hold the dialogue as far as the server lets one, and give what was read."""
    read = b""
    try:
        for write, replies in zip([b"", *DIALOGUE], SAID, strict=True):
            client.sock.sendall(write)
            for _ in range(replies):
                line = b"-" * 4
                while line[3:4] == b"-" and line:
                    line = client.file.readline()
                    read += line
        read += client.rest()
    except (ConnectionError, ssl.SSLError):
        pass
    return read


class TestCuts:
    """After an octet, exactly."""

    @pytest.fixture(params=["clear", "tls"])
    def cut_everywhere(
        self, request: pytest.FixtureRequest, ca: Certificates, smtp_server: Start, connect: Connect
    ) -> Callable[..., tuple[ScriptedServer, list[bytes]]]:
        """Talk to a server with each of these plays, and give it and what was read from it."""
        is_secure = request.param == "tls"

        def run(plays: list[Play]) -> tuple[ScriptedServer, list[bytes]]:
            plays = [replace(play, implicit_tls=is_secure) for play in plays]
            server = smtp_server(*plays, context=ca.server_context() if is_secure else None)
            read = []
            for _ in plays:
                try:
                    client = connect(server)
                    if is_secure:
                        client.secure(ca)
                except ConnectionResetError:  # already
                    read.append(b"")
                else:
                    read.append(talk(client))
                    client.close()
            server.wait_for_end()
            return server, read

        return run

    @pytest.mark.parametrize("cut_by", [CUT, RESET, HANG_UP], ids=lambda deed: deed.name)
    def test_after_any_octet_that_is_read(self, cut_everywhere: Callable[..., Any], cut_by: Deed) -> None:
        """What the last one completes is done and not answered; all before it is answered."""
        whole = b"".join(DIALOGUE)
        cuts = range(len(whole) + 1)
        server, read = cut_everywhere([Play(SCRIPT, CHUNKING, cut_after_reading=n, cut_by=cut_by) for n in cuts])
        assert [bytes(speaker.received) for speaker in server.speakers] == [whole[:n] for n in cuts]
        end = whole.index(DOT) + len(DOT)
        assert [len(speaker.taken) for speaker in server.speakers[end - 1 : end + 1]] == [0, 1]
        if cut_by == HANG_UP:  # RST may overtake what was said
            good = Speaker(Play(SCRIPT, CHUNKING))
            said = [b"", *map(octets, [good.greet(), *(good.hear(bytes([octet])) for octet in whole[:-1])])]
            assert read == list(accumulate(said))

    @pytest.mark.parametrize("cut_by", [CUT, RESET, HANG_UP], ids=lambda deed: deed.name)
    def test_after_any_octet_that_is_said(self, cut_everywhere: Callable[..., Any], cut_by: Deed) -> None:
        good = Speaker(Play(SCRIPT, CHUNKING))
        whole = octets([*good.greet(), *good.hear(b"".join(DIALOGUE))])
        cuts = range(len(whole) + 1)
        server, read = cut_everywhere([Play(SCRIPT, CHUNKING, cut_after_saying=n, cut_by=cut_by) for n in cuts])
        assert [len(speaker.taken) for speaker in server.speakers] == sorted(
            len(speaker.taken) for speaker in server.speakers
        )
        if cut_by == RESET:
            assert all(whole[:n].startswith(said) for n, said in zip(cuts, read, strict=True))
        else:
            assert read == [whole[:n] for n in cuts]

    def test_both_at_once(self) -> None:
        server = Speaker(Play(cut_after_reading=10, cut_after_saying=40))
        said = [*server.greet(), *server.hear(b"EHLO c\r\nNOOP\r\n"), *server.hear(b"x")]
        assert (len(octets(said)), said[-1], len(server.received)) == (40, CUT, 8 + 2)

    def test_a_flood_and_a_drip_end_there_too(self) -> None:
        for deed in (flood(b"250-x\r\n"), drip("250-")):
            server = Speaker(Play({"": deed}, cut_after_saying=1001))
            said = server.greet()
            assert (len(octets(said)), said[-1]) == (1001, CUT)

    def test_fin_or_rst(self, smtp_server: Start, connect: Connect) -> None:
        """HANG_UP is FIN although octets were left unread, RESET is RST although none were."""
        client = connect(smtp_server(Play(cut_after_reading=3, cut_by=HANG_UP)))
        client.read()
        client.sock.sendall(b"EHLO c\r\n" * 1000)
        assert client.rest() == b""
        client.sock.sendall(b"EHLO c\r\n" * 1000)
        client = connect(smtp_server(Play(cut_after_reading=3, cut_by=RESET)))
        client.read()
        client.sock.sendall(b"EHL")
        with pytest.raises(ConnectionResetError):
            client.rest()


class TestDeeds:
    """What is done besides speaking."""

    def test_a_deed_may_stand_among_words(self, smtp_server: Start, connect: Connect) -> None:
        server = smtp_server(Play({"NOOP": (b"25", delay(0.05), b"0 o", delay(0.05), "k", CUT)}))
        client = connect(server)
        assert client.ask(NOOP + NOOP)[:1] == [220]
        before = time.monotonic()
        assert client.rest() == b"250 ok\r\n"
        assert time.monotonic() - before > 0.02
        assert server.commands == ["NOOP"]

    def test_silence(self, smtp_server: Start, connect: Connect) -> None:
        """Whatever comes is read, and nothing is said."""
        server = smtp_server({"NOOP": SILENCE})
        client = connect(server)
        client.ask(NOOP + RSET)
        client.sock.sendall(MAIL)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
        assert server.received == NOOP + RSET + MAIL
        assert server.commands == ["NOOP"]

    def test_silence_and_a_cut_after_octets(self) -> None:
        server = Speaker(Play({"": SILENCE}, cut_after_reading=5))
        assert server.greet() == [SILENCE]
        assert (server.room, server.hear(b"EHL"), server.room) == (5, [], 2)
        assert server.hear(b"O c") == [CUT]
        assert server.received == b"EHLO "

    def test_it_reads_no_more(self, smtp_server: Start, connect: Connect) -> None:
        server = smtp_server({"NOOP": DEAF})
        client = connect(server)
        client.ask(NOOP)
        assert wait_until(lambda: server.received == NOOP, 10)
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.sock.sendall(bytes(100_000_000))
        assert server.received == NOOP

    def test_a_flood_does_not_end_before_the_server(self, smtp_server: Start, connect: Connect) -> None:
        client = connect(smtp_server({"EHLO": flood()}))
        client.ask(b"EHLO c\r\n", 0)
        client.read()
        assert {client.file.readline() for _ in range(50_000)} <= {
            b"220 mx.example.com ESMTP ready\r\n",
            b"250-and so on\r\n",
        }

    def test_a_drip_never_ends_a_line(self, smtp_server: Start, connect: Connect) -> None:
        client = connect(smtp_server({"EHLO": drip("250-")}))
        client.ask(b"EHLO c\r\n")
        assert client.file.read(10) == b"250-250-25"

    def test_injected_when_something_was_sent(self, smtp_server: Start, connect: Connect) -> None:
        """Before the client's own octets are read."""
        server = smtp_server({"": when_heard(b"220 late\r\n"), "NOOP": CUT})
        client = connect(server)
        assert client.ask(b"NO") == [220]
        assert server.received in (b"", b"NO")

    def test_octets_beside_the_reply_to_starttls(self, smtp_server: Start, connect: Connect, ca: Certificates) -> None:
        """Injected in clear, and said in the same segment."""
        server = smtp_server({"STARTTLS": (b"220 go\r\n250 injected\r\n", TLS)}, context=ca.server_context())
        client = connect(server)
        assert client.ask(b"STARTTLS\r\n", 2) == [220, 220]
        client.sock.settimeout(10)
        assert client.read() == 250
        client.secure(ca)
        assert client.ask(NOOP) == [250]
        assert server.speakers[0].secured

    def test_a_deed_that_is_none(self, connect: Connect) -> None:
        """What goes wrong in a script is raised where the server stops."""
        with pytest.raises(ValueError, match="no deed"):
            self.ask_once({"NOOP": Deed("juggle")}, connect)

    def test_a_function_that_fails(self, connect: Connect) -> None:
        with pytest.raises(ZeroDivisionError):
            self.ask_once({"NOOP": lambda line: 1 / 0}, connect)

    def test_but_an_error_of_the_test_goes_first(self, connect: Connect) -> None:
        with pytest.raises(KeyError):
            self.ask_once({"NOOP": Deed("juggle")}, connect, KeyError())

    def ask_once(self, answers: Any, connect: Connect, error: Exception | None = None) -> None:
        with ScriptedServer(answers) as server:
            client = connect(server)
            assert client.ask(NOOP) == [220]
            assert client.rest() == b""
            if error:
                raise error


class TestPlay:
    """What a script can say."""

    def test_the_longest_beginning_counts_and_case_does_not(self) -> None:
        server = speaker({"rcpt": "450 later", "RCPT TO:<ANN": "550 no"})
        assert codes(server.hear(MAIL + ANN + BOB)) == [250, 550, 450]

    def test_a_list_has_an_answer_for_each_time(self) -> None:
        assert codes(speaker({"NOOP": ["250 a", ("251 b", "252 c"), lambda line: "253 d"]}).hear(NOOP * 4)) == [
            *(250, 251, 252, 253, 253)
        ]

    def test_lines_and_octets(self) -> None:
        assert speaker({"NOOP": "250-a\n250 é"}).hear(NOOP) == ["250-a\r\n250 é\r\n".encode()]
        assert speaker({"NOOP": b"250 a\n"}).hear(NOOP) == [b"250 a\n"]

    def test_a_refusal_changes_nothing(self) -> None:
        server = speaker({"MAIL": ["250 ok", "550 no"], "RSET": ["500 no", "250 ok"], "DATA": "451 no"})
        assert codes(server.hear(GROUP + MAIL + b"DATA\r\n" + RSET + ANN + RSET + ANN)) == [
            *(250, 250, 550, 451),
            *(500, 250, 250, 503),
        ]

    def test_data_may_be_answered_although_nobody_was_accepted(self) -> None:
        """RFC 2920 3.1 wants the lone dot then."""
        server = speaker({"DATA": "354 go"})
        assert codes(server.hear(MAIL + b"DATA\r\n" + DOT)) == [250, 354, 250]
        assert server.taken == [Transaction("MAIL FROM:<a@example.com>", (), b"")]

    @pytest.mark.parametrize("replies", range(9))
    def test_421_anywhere(self, replies: int) -> None:
        """In place of any reply, and nothing is done or said after it."""
        server = Speaker(Play(extensions=CHUNKING, goodbye_after=replies))
        said = [*server.greet(), *server.hear(b"".join(DIALOGUE))]
        assert codes(said) == [*[220, 250, 250, 250, 354, 250, 250, 250, 250][:replies], 421, CUT]
        assert len(server.taken) == max(0, (replies > 5) + (replies > 8))

    def test_421_amid_a_login(self) -> None:
        server = Speaker(Play(goodbye_after=2))
        server.greet()
        assert codes(server.hear(b"AUTH LOGIN\r\nx\r\n")) == [334, 421, CUT]

    def test_replies_octet_by_octet(self, smtp_server: Start, connect: Connect) -> None:
        play = Play(split=True)
        server = Speaker(play)
        assert all(len(part) == 1 for part in [*server.greet(), *server.hear(b"EHLO c\r\n")])  # type: ignore[arg-type]
        assert server.waits == 2
        assert connect(smtp_server(play)).ask(b"EHLO c\r\n" + NOOP, 3) == [220, 250, 250]

    def test_each_octet_is_a_record_of_its_own_inside_tls(
        self, smtp_server: Start, connect: Connect, ca: Certificates
    ) -> None:
        client = connect(smtp_server(Play(split=True, implicit_tls=True), context=ca.server_context()))
        client.secure(ca)
        assert [client.sock.recv(100) for _ in range(4)] == [b"2", b"2", b"0", b" "]

    def test_extensions_before_and_after_tls(self) -> None:
        offer = ("SIZE", "STARTTLS")
        for after, expected in ((None, ("SIZE",)), (("AUTH PLAIN", "X"), ("AUTH PLAIN", "X")), ((), ())):
            server = speaker(extensions=offer, after_tls=after)
            server.secured = True
            (said,) = server.hear(b"EHLO c\r\n")
            assert said.splitlines()[1:] == [  # type: ignore[union-attr]
                f"250{' ' if one == expected[-1] else '-'}{one}".encode() for one in expected
            ]


class TestWaits:
    """How often a client stops and waits."""

    GREETED = 2  # the greeting and EHLO

    @pytest.mark.parametrize(
        ("flights", "waits"),
        [
            ([MAIL, ANN, BOB, b"DATA\r\n", CONTENT + DOT], 5),
            ([MAIL + ANN + BOB + b"DATA\r\n", CONTENT + DOT], 2),
            ([MAIL + ANN + BOB + LAST], 1),
            ([GROUP + LAST + RSET + GROUP + LAST, QUIT], 1),
            ([QUIT], 0),
            ([GROUP + LAST + QUIT], 1),
            ([NOOP[:2], NOOP[2:], NOOP], 2),
            ([GROUP + b"DATA\r\n", CONTENT[:5], CONTENT[5:], DOT + GROUP + b"DATA\r\n", DOT], 3),
            ([GROUP + b"BDAT 2 LAST\r\n", b"\r", b"\n" + NOOP[:1], NOOP[1:]], 1),
            ([b"AUTH LOGIN\r\n", b"x\r\n", b"x\r\n"], 3),
        ],
    )
    def test_a_flight_that_is_answered_is_one(self, flights: list[bytes], waits: int) -> None:
        """However many replies there are, and however it is cut unless exactly between two commands."""
        server = speaker()
        for flight in flights:
            server.hear(flight)
        assert server.waits == self.GREETED + waits

    def test_the_greeting_and_a_handshake_are_one_each(self) -> None:
        server = Speaker(Play(implicit_tls=True))
        server.greet()
        assert server.waits == 2
        server = speaker(extensions=("STARTTLS",))
        server.hear(b"STARTTLS\r\n")
        server.hear(b"EHLO c\r\n")
        assert server.waits == self.GREETED + 3

    def test_what_is_not_answered_is_none(self) -> None:
        server = speaker({"NOOP": SILENCE})
        server.hear(NOOP)
        server.hear(NOOP)
        assert server.waits == self.GREETED

    @pytest.mark.parametrize("secure", [False, True], ids=["clear", "tls"])
    def test_a_patient_server_reads_a_flight_before_it_answers(
        self, smtp_server: Start, connect: Connect, ca: Certificates, secure: bool
    ) -> None:
        """So a pause between two commands is not taken for a wait: here there is one behind every octet."""
        server = smtp_server(Play(extensions=CHUNKING, implicit_tls=secure), context=ca.server_context(), patience=0.25)
        client = connect(server)
        if secure:
            client.secure(ca)
        client.read()
        client.ask(b"EHLO c\r\n")
        for octet in GROUP + LAST + RSET:
            client.sock.sendall(bytes([octet]))
            time.sleep(0.0005)
        assert [client.read() for _ in range(4)] == [250] * 4
        assert server.waits == self.GREETED + secure + 1
        assert client.ask(QUIT) == [221]
        assert client.rest() == b""
        assert server.waits == self.GREETED + secure + 1

    def test_a_patient_server_reads_no_more_than_it_may(self, smtp_server: Start, connect: Connect) -> None:
        server = smtp_server(Play(cut_after_reading=9), patience=0.02)
        client = connect(server)
        client.read()
        client.sock.sendall(b"EHL")
        client.sock.sendall(b"O c\r\nNOOP\r\n")
        assert client.read() == 250
        server.wait_for_end()
        assert server.received == b"EHLO c\r\nN"

    def test_large_contents_in_one_flight(self, smtp_server: Start, connect: Connect) -> None:
        """The client writes while nobody answers, more than any buffer holds."""
        server = smtp_server(Play(extensions=CHUNKING), patience=0.02)
        client = connect(server)
        client.read()
        client.ask(b"EHLO c\r\n")
        large = GROUP + b"BDAT 3000000 LAST\r\n" + bytes(3_000_000)
        assert client.ask(large + GROUP + b"DATA\r\n", 6) == [250] * 5 + [354]
        assert client.ask(bytes(3_000_000) + b"\r\n" + DOT) == [250]
        assert server.waits == self.GREETED + 2
        assert [len(one.content) for one in server.handed_over] == [3_000_000, 3_000_002]


class TestScriptedServer:
    """The server on its port."""

    def test_each_connection_has_its_play(self, smtp_server: Start, connect: Connect) -> None:
        server = smtp_server({"": "554 a"}, Play({"": "554 b"}), {"": "554 c"})
        assert [connect(server).file.readline() for _ in range(4)] == [b"554 a\r\n", b"554 b\r\n", *[b"554 c\r\n"] * 2]
        assert server.connections == server.open_connections == 4
        assert server.peers == ["127.0.0.1"] * 4

    def test_contents_are_numbered_over_all_connections(self, smtp_server: Start, connect: Connect) -> None:
        server = smtp_server(Play(extensions=CHUNKING))
        for number in (b"00001ABC", b"00002ABC"):
            client = connect(server)
            client.ask(b"EHLO c\r\n" + GROUP + LAST, 4)
            assert client.file.readline().endswith(number + b"\r\n")
        assert len(server.handed_over) == 2

    def test_it_says_something_unasked(self, smtp_server: Start, connect: Connect, ca: Certificates) -> None:
        """Inside TLS too, while its reader waits."""
        server = smtp_server(Play(implicit_tls=True), context=ca.server_context())
        client = connect(server)
        client.secure(ca)
        client.read()
        server.say(b"421 4.4.2 bye\r\n")
        assert client.read() == 421
        assert client.ask(NOOP) == [250]
        server.cut()
        assert server.open_connections == 0
        assert client.rest() == b""

    def test_it_cannot_wait_for_ever(
        self, smtp_server: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("smtpbackend.testing.server.PATIENCE", 0.05)
        server = smtp_server()
        assert connect(server).read() == 220
        with pytest.raises(TimeoutError, match="stayed open"):
            server.wait_for_end()

    def test_a_handshake_that_fails_is_noted(self, smtp_server: Start, connect: Connect, ca: Certificates) -> None:
        server = smtp_server(Play(implicit_tls=True), context=ca.server_context())
        names = server.note_names()
        client = connect(server)
        client.sock.sendall(b"EHLO c\r\n")
        server.wait_for_end()
        assert isinstance(server.handshakes[0], ssl.SSLError)
        good = connect(server)
        good.secure(ca)
        assert good.read() == 220
        assert (server.handshakes[1], names, server.resumed) == (None, ["localhost"], [False])

    def test_a_play_that_wants_tls_without_a_context_says_so(self, connect: Connect) -> None:
        def run() -> None:
            with ScriptedServer(Play(implicit_tls=True)) as server:
                assert connect(server).rest() == b""

        with pytest.raises(ValueError, match="context="):
            run()

    def test_on_ipv6_and_on_a_unix_socket(self, smtp_server: Start, tmp_path: Path) -> None:
        server = smtp_server(host="::1")
        with closing(socket.create_connection(("::1", server.port), timeout=10)) as sock:
            assert sock.recv(3) == b"220"
        assert (server.url, server.name) == (f"smtp://[::1]:{server.port}?tls=none", f"[::1]:{server.port}")
        server = smtp_server(path=str(tmp_path / "s"), scheme="lmtp")
        with closing(socket.socket(socket.AF_UNIX)) as sock:
            sock.connect(server.path)
            assert sock.recv(3) == b"220"
        assert (server.url, server.name) == (f"lmtp+unix://{tmp_path}/s?tls=none", f"unix:{tmp_path}/s")

    def test_stopping_ends_what_is_open(self, connect: Connect, ca: Certificates) -> None:
        """Whatever it does at the moment."""
        plays = [Play({"": deed}) for deed in (SILENCE, DEAF, flood(), drip("220"), delay(60), when_heard(b""), TLS)]
        with ScriptedServer(*plays, context=ca.server_context()) as server:
            clients = [connect(server) for _ in plays]
            assert clients[2].file.readline() == b"250-and so on\r\n"
        assert server.open_connections == 0


class TestFixture:
    """`smtp_server` for the tests of others."""

    def test_in_a_project_of_its_own(self, tmp_path: Path) -> None:
        """The plugin gives the fixture; a script that goes wrong is an error of its test; nothing is warned about."""
        (tmp_path / "conftest.py").write_text(
            'from smtpbackend.testing import Play\npytest_plugins = ["smtpbackend.testing"]\n'
        )
        (tmp_path / "test_it.py").write_text(
            "import smtplib\n"
            "from smtpbackend.testing import Play, Deed\n"
            "def test_refused(smtp_server):\n"
            '    server = smtp_server(Play({"RCPT": "550 no"}))\n'
            "    with smtplib.SMTP(server.host, server.port) as client:\n"
            "        client.ehlo()\n"
            '        assert client.mail("a@example.com")[0] == 250\n'
            '        assert client.rcpt("b@example.com")[0] == 550\n'
            "def test_wrong(smtp_server):\n"
            '    server = smtp_server({"": Deed("juggle")})\n'
            "    try:\n"
            "        smtplib.SMTP(server.host, server.port)\n"
            "    except smtplib.SMTPServerDisconnected:\n"
            "        pass\n"
        )
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-W",
                "error",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:asyncio",
                str(tmp_path),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
        assert "no deed of a scripted server" in done.stdout

    def test_pytest_is_imported_for_it_alone(self) -> None:
        code = (
            "import sys; sys.modules['pytest'] = None\n"
            "from smtpbackend import testing\n"
            "assert 'smtp_server' in dir(testing)\n"
            "for name in testing.__all__:\n"
            "    if name != 'smtp_server': getattr(testing, name)\n"
            "try: testing.smtp_server\n"
            "except ImportError: print('needs pytest')\n"
            "try: testing.nonsense\n"
            "except AttributeError: print('is not there')\n"
            "ours = [name for name in sorted(sys.modules) if name.startswith('smtpbackend.')]\n"
            "print([name for name in ours if 'testing' not in name])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT, check=True
        )
        assert done.stdout == "needs pytest\nis not there\n['smtpbackend.public_names']\n"
