"""Against Postfix, Exim, Dovecot and aiosmtpd as they come: the proof, refused messages in a row, the server's limits.

What the servers themselves have logged is counted, so that no time decides (DESIGN 4.4, 5.1, 5.2).
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from smtpbackend import Envelope, Receipt, Server, Status
from tests.conftest import missing_server
from tests.mailer.twins import SENDER, Twin, hello, send_all
from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.dovecot import Dovecot
from tests.servers.exim import Exim
from tests.servers.ports import wait_until
from tests.servers.postfix import Postfix
from tests.servers.tls import Certificates

pytestmark = pytest.mark.servers

A, R = Status.ACCEPTED, Status.REJECTED
DEAD = "rejected@example.com"
BORNE = 9  # errors: behind the tenth Postfix sleeps (smtpd_soft_error_limit)
EXIM_ENDS = (
    r"(?m:^.{20}(?:SMTP connection from .*(?: closed by | lost)|SMTP call from .* dropped|TLS error|unexpected disc).*)"
)
TOLD = {"log_selector": "+smtp_connection +smtp_protocol_error +smtp_syntax_error"}


class Counted:
    """A server of ours, and what it has logged since."""

    def __init__(self, server: Postfix | Exim, port: int, **settings: Any) -> None:
        self.server = server
        self._settings = {"host": "127.0.0.1", "port": port, "tls": "none", "timeout": 30, **settings}
        self._begin = 0
        self.begin()

    def begin(self) -> None:
        """Forget what was before."""
        assert wait_until(self._is_over, 20), self.log
        self.server.clear()
        self._begin = len(self.server.log)

    def at(self, **settings: Any) -> Server:
        """Where a mailer finds it."""
        return Server(**{**self._settings, **settings})

    @property
    def log(self) -> str:
        return self.server.log[self._begin :]

    def _is_over(self) -> bool:
        if isinstance(self.server, Postfix):
            began, ended = r"\]: connect from", r"\]: disconnect from"
        else:
            began, ended = r"\(TCP/IP connection count", EXIM_ENDS
        return len(re.findall(began, self.server.log)) == len(re.findall(ended, self.server.log))

    def ended(self) -> str:
        """All that was logged, once every connection has ended."""
        assert wait_until(self._is_over, 20), self.log
        return self.log

    @property
    def connections(self) -> int:
        """How many said at least EHLO."""
        if isinstance(self.server, Postfix):
            return len(re.findall(r"\]: disconnect from .* ehlo=", self.ended()))
        return len(re.findall(f"(?={EXIM_ENDS}).* from \\(", self.ended()))

    def errors(self) -> list[int]:
        """How many commands were refused on each connection to Postfix."""
        found = re.findall(r"\]: disconnect from .* ehlo=.* commands=(\d+)(?:/(\d+))?", self.ended())
        return [int(every or good) - int(good) for good, every in found]


@pytest.fixture(scope="module")
def servers(ca: Certificates) -> Iterator[Callable[..., Any]]:
    """Start each kind of server once: `servers(Exim, settings={...})`."""
    running: dict[str, Any] = {}
    with ExitStack() as stack:

        def start(kind: Any, *args: Any, **options: Any) -> Any:
            key = f"{kind.__name__} {options}"
            if key not in running:
                if reason := kind.missing():
                    missing_server(reason)
                running[key] = stack.enter_context(kind(ca, *args, **options))
            return running[key]

        yield start


@pytest.fixture
def counted(servers: Callable[..., Any]) -> Callable[..., Counted]:
    """One of the servers, by its name; ``settings`` are lines of its configuration."""

    def start(name: str, size_limit: int = 1 << 20, **settings: str) -> Counted:
        kind, _, how = name.partition(" ")
        if kind == "exim":
            server = servers(Exim, size_limit=size_limit, settings={**TOLD, **settings})
            login = {"username": server.user, "password": server.password} if how == "login" else {}
            return Counted(server, server.plain_port, **login)
        if how == "debian":
            settings["smtpd_banner"] = "$myhostname ESMTP $mail_name (Debian/GNU)"
        postfix = servers(Postfix, settings=settings)
        if kind == "dovecot":
            dovecot = servers(Dovecot, postfix)
            login = {"username": dovecot.user, "password": dovecot.password}
            return Counted(postfix, dovecot.starttls_port, **login)
        if how == "login":
            secure = {"tls": "required", "ca_file": str(postfix.ca_file)}
            login = {"username": postfix.user, "password": postfix.password}
            return Counted(postfix, postfix.starttls_port, **secure, **login)
        return Counted(postfix, postfix.plain_port)

    return start


def recipients(pattern: str) -> list[str]:
    """A name of its own for each "g", the dead address for each "d"."""
    return [DEAD if letter == "d" else f"u{number}@example.com" for number, letter in enumerate(pattern)]


def statuses(receipts: list[Receipt]) -> list[Status]:
    return [outcome.status for receipt in receipts for outcome in receipt.outcomes]


def expected(pattern: str) -> list[Status]:
    return [R if letter == "d" else A for letter in pattern]


def arrived_once(counted: Counted, to: list[str]) -> bool:
    """Whether each good address of them has exactly one mail."""
    good = [address for address in to if address != DEAD]
    return Counter(mail.delivered_to for mail in counted.server.mail(wait_for=len(good))) == Counter(good)


class Wire:
    """What went over the wire, by the transcript: lines said (">") and heard ("<")."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.DEBUG, "smtpbackend.wire")

    def of(self, act: Callable[[], object]) -> list[tuple[str, str]]:
        """What an act says and hears."""
        self._caplog.clear()
        act()
        found = (record.getMessage().split(" ", 2) for record in self._caplog.records if "wire" in record.name)
        return [(direction, line) for _, direction, line in found]


def said(lines: list[tuple[str, str]]) -> list[str]:
    """The first words of the commands."""
    return [line.split(" ")[0] for direction, line in lines if direction == ">" and not line.startswith(("<", "."))]


def waits(lines: list[tuple[str, str]]) -> int:
    """How often something was heard behind something said."""
    turns = "".join(direction for direction, _ in lines)
    return len(re.findall("><", turns))


class TestProof:
    """The evidence for the table in ``delivery/probing.py``."""

    @pytest.mark.parametrize(
        "name", ["postfix", "postfix login", "postfix debian", "exim", "exim login", "dovecot login"]
    )
    def test_it_is_given_behind_the_first_message_and_costs_one_error(
        self, twin: Twin, counted: Callable[..., Counted], caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        """503 and 250; then a message leaves in one flight."""
        wire, server = Wire(caplog), counted(name)
        mailer = twin(server.at())
        first, second, third, fourth = (wire.of(lambda n=n: mailer.send(hello(f"u{n}@example.com"))) for n in range(4))
        assert "BDAT" not in said(first)
        assert said(second) == ["BDAT", "RSET", "MAIL", "RCPT", "DATA"]
        replies = [line for direction, line in second if direction == "<"]
        assert [reply[:3] for reply in replies] == ["503", "250", "250", "250", "354", "250"]
        for later in (third, fourth):
            assert said(later) == ["MAIL", "RCPT", "BDAT"]
            assert waits(later) == 1
        mailer.close()
        log = server.ended()
        assert arrived_once(server, recipients("gggg"))
        assert server.connections == 1
        if name.startswith("exim"):
            assert len(re.findall("SMTP (?:protocol|syntax) error", log)) == 1
            assert "dropped" not in log
        else:  # Dovecot's own relay sees nothing of it
            assert server.errors() == [1 if name.startswith("postfix") else 0]

    @pytest.mark.parametrize("name", ["postfix", "exim", "dovecot login"])
    def test_a_list_gives_it_with_its_first_message(
        self, twin: Twin, counted: Callable[..., Counted], caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        wire, server = Wire(caplog), counted(name)
        to = recipients("g" * 12)
        lines = wire.of(lambda: twin(server.at()).send_many([hello(address) for address in to]))
        assert said(lines).count("DATA") == 1
        assert said(lines).count("BDAT") == 1 + 11
        assert arrived_once(server, to)

    def test_a_postfix_that_does_not_say_so_is_not_asked(
        self, twin: Twin, counted: Callable[..., Counted], caplog: pytest.LogCaptureFixture
    ) -> None:
        wire, server = Wire(caplog), counted("postfix", smtpd_banner="$myhostname ESMTP")
        mailer = twin(server.at())
        to = recipients("g" * 9)
        lines = wire.of(lambda: [mailer.send(hello(address)) for address in to[:3]])
        lines += wire.of(lambda: mailer.send_many([hello(address) for address in to[3:]]))
        assert "BDAT" not in said(lines)
        assert said(lines).count("DATA") == 9
        mailer.close()
        assert server.errors() == [0]
        assert arrived_once(server, to)

    def test_the_setting_asks_it_all_the_same(
        self, twin: Twin, counted: Callable[..., Counted], caplog: pytest.LogCaptureFixture
    ) -> None:
        wire, server = Wire(caplog), counted("postfix", smtpd_banner="$myhostname ESMTP")
        mailer = twin(server.at(), chunk_in_flight="probe")
        third = [wire.of(lambda: mailer.send(hello())) for _ in range(3)][-1]
        assert said(third) == ["MAIL", "RCPT", "BDAT"]

    def test_aiosmtpd_is_not_asked(
        self, twin: Twin, aiosmtpd: Callable[..., AiosmtpdServer], caplog: pytest.LogCaptureFixture
    ) -> None:
        wire, server = Wire(caplog), aiosmtpd()
        mailer = twin(host="127.0.0.1", port=server.port, tls="none")
        assert "BDAT" not in said(wire.of(lambda: mailer.send_many([hello() for _ in range(4)])))
        assert len(server.arrived) == 4

    @pytest.mark.parametrize("large", [False, True])
    def test_an_exim_that_is_not_told_the_size_is_given_no_chunk(
        self, twin: Twin, counted: Callable[..., Counted], caplog: pytest.LogCaptureFixture, large: bool
    ) -> None:
        """Over its limit it would read the rest of a chunk as commands, proof or not."""
        wire, server = Wire(caplog), counted("exim", size_limit=20_000)
        mailer = twin(server.at(ignore_extensions=["SIZE"]), chunk_in_flight="probe")
        messages = [hello(address) for address in recipients("g" * 6)]
        if large:
            rest = b"RSET\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<victim@example.com>\r\n" * 400
            content = b"From: ann@example.org\r\nSubject: x\r\n\r\n" + rest
            messages[3:5] = [(content, Envelope(SENDER, ["bob@example.com"]))] * 2  # type: ignore[list-item]
        receipts: list[Receipt] = []
        lines = wire.of(lambda: receipts.extend(mailer.send_many(messages)))
        assert statuses(receipts) == expected("gggddg" if large else "gggggg")
        assert "BDAT" not in said(lines)
        mailer.close()
        log = server.ended()
        assert "protocol error" not in log
        assert "victim" not in log
        assert len(server.server.mail(wait_for=4 if large else 6)) == (4 if large else 6)


HOW = [("one by one", 32), ("list", 1), ("list", 8), ("list", 32)]


class TestDeadAddresses:
    """A run of them gets no more errors out of a connection than the server bears."""

    PATTERN = "d" * 40 + "g" * 20

    @pytest.mark.exhaustive
    @pytest.mark.parametrize(("way", "window"), HOW)
    @pytest.mark.parametrize("name", ["postfix", "exim", "dovecot login"])
    def test_forty_and_then_twenty_good_ones(
        self, twin: Twin, counted: Callable[..., Counted], name: str, way: str, window: int
    ) -> None:
        server, to = counted(name), recipients(self.PATTERN)
        mailer = twin(server.at(), window=window)
        receipts = send_all(mailer, [hello(address) for address in to], way == "one by one")
        assert statuses(receipts) == expected(self.PATTERN)
        mailer.close()
        log = server.ended()
        if name == "exim":
            assert "dropped" not in log
        else:
            assert max(server.errors()) <= BORNE
        assert "too many" not in log
        assert server.connections <= 6  # seven or eight dead addresses on each
        assert arrived_once(server, to)

    @pytest.mark.parametrize(("way", "window"), HOW)
    def test_on_a_server_without_pipelining(
        self, twin: Twin, aiosmtpd: Callable[..., AiosmtpdServer], way: str, window: int
    ) -> None:
        server = aiosmtpd(refused={DEAD: "550 5.1.1 User unknown"})
        mailer = twin(host="127.0.0.1", port=server.port, tls="none", window=window)
        messages = [hello(address) for address in recipients(self.PATTERN)]
        assert statuses(send_all(mailer, messages, way == "one by one")) == expected(self.PATTERN)
        assert server.connections == 5  # nine dead addresses on each but the last
        assert len(server.arrived) == 20


class TestLimits:
    """A healthy server that ends connections loses no mail, and nobody pays for another's reply."""

    @pytest.mark.parametrize(("way", "window"), HOW)
    @pytest.mark.parametrize("name", ["postfix", "exim"])
    def test_every_second_message_to_a_dead_address(
        self, twin: Twin, counted: Callable[..., Counted], name: str, way: str, window: int
    ) -> None:
        """Exim refuses a RSET and hangs up behind ten of them (smtp_accept_max_nonmail)."""
        server, to = counted(name), recipients("gd" * 30)
        mailer = twin(server.at(), window=window)
        receipts = send_all(mailer, [hello(address) for address in to], way == "one by one")
        assert statuses(receipts) == expected("gd" * 30)
        mailer.close()
        assert "too many errors" not in server.ended()
        assert arrived_once(server, to)

    @pytest.mark.parametrize("one_by_one", [True, False])
    @pytest.mark.parametrize("name", ["postfix", "exim"])
    def test_forty_of_sixty_recipients_of_one_message(
        self, twin: Twin, counted: Callable[..., Counted], name: str, one_by_one: bool
    ) -> None:
        """Postfix ends each connection at the twentieth error (smtpd_hard_error_limit)."""
        settings = {}
        if name == "postfix":
            refused = "check_recipient_access regexp:{{/^rejected@/ 550 5.1.1 User unknown}}"
            settings = {"smtpd_error_sleep_time": "0", "smtpd_recipient_restrictions": f"{refused}, permit_mynetworks"}
        server = counted(name, **settings)
        good = [f"u{number}@example.com" for number in range(20)]
        dead = [f"rejected@d{number}.example.net" for number in range(40)]
        to = [address for number in range(20) for address in (*dead[2 * number : 2 * number + 2], good[number])]
        [receipt] = send_all(twin(server.at()), [hello(*to)], one_by_one)
        assert statuses([receipt]) == expected("ddg" * 20)
        assert arrived_once(server, good)

    @pytest.mark.exhaustive
    @pytest.mark.parametrize(("way", "window"), HOW)
    def test_an_exim_that_takes_seven_messages_a_connection(
        self, twin: Twin, counted: Callable[..., Counted], way: str, window: int
    ) -> None:
        """smtp_accept_max_per_connection: it says 421, and from the third connection on it does not have to."""
        server = counted("exim", smtp_accept_max_per_connection="7")
        mailer = twin(server.at(), window=window)
        for pattern, ended in (("g" * 60, 2), ("g" * 20, 0)):
            to = recipients(pattern)
            receipts = send_all(mailer, [hello(address) for address in to], way == "one by one")
            assert statuses(receipts) == expected(pattern)
            mailer.close()
            assert len(re.findall(" closed by QUIT", server.ended())) == server.connections - ended
            assert ("too many messages" in server.log) is (ended > 0)
            assert arrived_once(server, to)
            server.begin()
