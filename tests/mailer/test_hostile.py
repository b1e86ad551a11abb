"""Faults that an attack found, each as the smallest case: a hostile server, a hurried user, a busy site.

Replies, connections and receipts are counted. Where a deadline is part of the case, the bound on time is wide.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from smtpbackend import Receipt, Status
from smtpbackend.delivery.mail import Mail
from smtpbackend.errors import SMTPError
from smtpbackend.testing import CUT, EXTENSIONS, HANG_UP, SILENCE, Play, delay
from tests.mailer.conftest import Scripted
from tests.mailer.twins import SENDER, BlockingTwin, Twin, hello
from tests.servers.ports import wait_until

A, D, R = Status.ACCEPTED, Status.DEFERRED, Status.REJECTED
POSTFIX = "220 mx.example.com ESMTP Postfix"  # takes the probe, so that content leaves by BDAT
BY = {"DATA": EXTENSIONS, "BDAT": (*EXTENSIONS, "CHUNKING")}
GO_AWAY = ("421 4.7.1 go away", HANG_UP, SILENCE)


def statuses(receipts: list[Receipt]) -> list[Status]:
    return [outcome.status for receipt in receipts for outcome in receipt.outcomes]


@pytest.mark.parametrize("window", [1, 32])
def test_a_sender_that_is_sent_away_twice_costs_nobody_else_the_delivery(
    twin: Twin, scripted: Scripted, window: int
) -> None:
    """421 to MAIL of one sender: its second try is the first MAIL of a connection, which says nothing of the server.

    DESIGN 4.4 charges the message whose own command was answered; the server takes everybody else's mail.
    """
    server = scripted({"MAIL FROM:<gone": GO_AWAY})
    senders = [f"gone{n}@example.org" if n in (5, 6) else SENDER for n in range(20)]
    receipts = twin(server.url, window=window).send_many([hello(from_=sender) for sender in senders])
    assert statuses(receipts) == [D if n in (5, 6) else A for n in range(20)]


@pytest.mark.parametrize("window", [1, 32])
def test_a_run_of_recipients_who_are_sent_away_costs_nobody_else_the_delivery(
    twin: Twin, scripted: Scripted, window: int
) -> None:
    """As with one message after the other: a bad recipient never rests a server (DESIGN 4.4), nor do several."""
    server = scripted(Play({"": POSTFIX, "RCPT TO:<gone": GO_AWAY}, extensions=BY["BDAT"]))
    to = [f"{'gone' if 20 <= n < 26 else 'u'}{n}@example.com" for n in range(60)]
    receipts = twin(server.url, window=window).send_many([hello(address) for address in to])
    assert statuses(receipts) == [D if 20 <= n < 26 else A for n in range(60)]


@pytest.mark.parametrize("twin", [BlockingTwin], indirect=True, ids=["blocking"])
def test_threads_of_a_stream_that_had_no_turn_at_the_same_time(
    twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes the server off what is down, where the others still look: KeyError, and the whole stream ends by it.

    Tasks do not interrupt each other there. Without the pause one of three streams ends so where threads take turns
    often (`sys.setswitchinterval(1e-6)`), which is what a busy site's do.
    """
    rejoin = Mail.rejoin

    def slowly(mail: Mail) -> None:
        time.sleep(0.02)
        rejoin(mail)

    monkeypatch.setattr(Mail, "rejoin", slowly)
    server = scripted()
    mailer = twin(server.url, max_connections=4, deadline=0.1)
    in_use = [mailer.on_pool("lease", mailer.raw.configuration.servers[0], False, None) for _ in range(4)]
    receipts = mailer.send_many([hello() for _ in range(12)], connections=4)
    assert statuses(receipts) == [D] * 12
    for connection in in_use:
        connection.session.end("of a test")
        mailer.on_pool("release", connection)


@pytest.mark.parametrize("half", [b"4", b"421-4.3.2 going\r\n"])
def test_half_a_goodbye_is_not_waited_for_beyond_the_deadline(twin: Twin, scripted: Scripted, half: bytes) -> None:
    """Behind each reply to a content comes the beginning of a reply, and no more: 20 s for each message of a list.

    Nothing is in flight then, so no deadline bounds it (``timeout["reused"]`` does), and nothing is remembered.
    """
    server = scripted({".": (b"250 ok\r\n" + half,)})
    begun = time.monotonic()
    receipts = twin(server.url, deadline=0.5, timeout={"reused": 20.0}).send_many([hello() for _ in range(3)])
    assert set(statuses(receipts)) <= {A, D}
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("twin", [BlockingTwin], indirect=True, ids=["blocking"])
@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_stream_whose_threads_cannot_all_be_started_leaves_none_behind(
    twin: Twin, scripted: Scripted, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Those that were started go on sending to nobody, and keep their connections for as long as the process lives."""
    server = scripted()
    mailer = twin(server.url, window=1, max_connections=3)
    start, started = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("smtpbackend-"):
            started.append(thread)
            if len(started) == 3:
                raise error
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(type(error)):
            mailer.send_many([hello() for _ in range(20)], connections=3)
    try:
        assert wait_until(lambda: not any(thread.is_alive() for thread in started[:2]), 20)
        assert mailer.raw.stats().open == mailer.raw.stats().idle
    finally:
        server.cut()


@pytest.mark.parametrize("window", [1, 32])
def test_a_server_that_dies_over_each_content_is_not_given_a_whole_list(
    twin: Twin, scripted: Scripted, window: int
) -> None:
    """It settled nobody: in doubt is who has no answer. Three connections in a row are its end (DESIGN 4.4).

    Every message after these is put in doubt, which nobody may send again, where DEFERRED would be certain.
    """
    server = scripted({".": CUT})
    receipts = twin(server.url, window=window).send_many([hello() for _ in range(50)])
    assert server.connections <= 3 + (window > 1)  # one more was asked for the proof of a window, and died of that
    assert Counter(statuses(receipts))[Status.IN_DOUBT] <= 3 + (window > 1)


@pytest.mark.parametrize("reply", ["554 5.5.1 no", "502 5.5.2 no"])
def test_a_server_that_ends_at_the_proof_of_a_window_is_not_asked_on_each_connection(
    twin: Twin, scripted: Scripted, reply: str
) -> None:
    """As with 421 there, or a bare close: it did not survive being asked, and is asked again in an hour (DESIGN 5.2).

    Nothing but the proof has it hear RSET, so one connection does for all; today it is one for each message.
    """
    server = scripted({"RSET": (reply, HANG_UP, SILENCE)})
    receipts = twin(server.url).send_many([hello() for _ in range(50)])
    assert statuses(receipts) == [A] * 50
    assert server.connections <= 4


@pytest.mark.parametrize("where", ["MAIL", "DATA", "."])
def test_a_server_that_has_too_many_connections_is_not_given_one_for_each_message(
    twin: Twin, scripted: Scripted, where: str
) -> None:
    """Where none of ours is open it is a failure like any other: three connections that settled nobody are enough.

    Each is left by us with that reply, and none of them counts.
    """
    server = scripted({where: "432 4.3.2 Concurrent connections limit exceeded"})
    receipts = twin(server.url).send_many([hello() for _ in range(50)])
    assert statuses(receipts) == [D] * 50
    assert server.connections <= 4


@pytest.mark.parametrize(
    ("policy", "extensions"), [("any", ("8BITMIME", "SIZE 10000000")), ("all", EXTENSIONS)], ids=["lock step", "all"]
)
def test_a_reply_too_many_is_not_taken_for_leave_to_send_the_content(
    twin: Twin, scripted: Scripted, policy: str, extensions: tuple[str, ...]
) -> None:
    """The last RCPT is answered twice, and DATA refused: the second 250 is no 354, and what follows is commands.

    DESIGN 5.1: no octet of content is written where a refusal could turn it into commands. 250 in place of 354 is
    believed wherever DATA goes alone (DESIGN 5.2), and there it may be the reply of the command before it as well.
    """
    server = scripted(
        Play({"RCPT": ("250 ok", delay(0.1), "250 ok"), "DATA": (delay(0.2), "451 4.3.0 later")}, extensions=extensions)
    )
    mailer = twin(server.url, recipient_policy=policy)
    with pytest.raises(SMTPError):
        mailer.send(hello(text="RSET\nMAIL FROM:<evil@example.org>\nRCPT TO:<victim@example.com>\nDATA\n"))
    server.wait_for_end() if not mailer.raw.stats().open else server.cut()
    assert [command for command in server.commands if "evil" in command or "victim" in command] == []
