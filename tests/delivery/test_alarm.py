"""What is logged at WARNING without being asked for: servers that failed, mail in doubt; once a minute and server."""

from __future__ import annotations

import logging

import pytest

from smtpbackend.delivery import alarm
from smtpbackend.delivery.alarm import is_due
from smtpbackend.testing import CUT
from tests.delivery.played import REFUSED, Play, Played
from tests.delivery.test_dispatch import mail


@pytest.fixture(autouse=True)
def at_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The names of what was logged, and the server."""
    assert {(record.name, record.levelname) for record in caplog.records} <= {("smtpbackend", "WARNING")}
    return [(record.getMessage().split()[0], record.__dict__["server"]) for record in caplog.records]


def test_a_server_that_failed_and_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """The line says which, when, why and what comes next; nobody's address is in it."""
    world = Played({"a": [REFUSED], "b": [{}]})
    assert world.send(mail("bob"))[0].ok
    (record,) = caplog.records
    assert record.getMessage().startswith("smtpbackend.failed_over server=a:25 phase=connect next=b:25 error=")
    assert "cannot connect to a:25" in record.getMessage()
    assert "bob" not in record.getMessage()
    assert (record.__dict__["phase"], record.__dict__["next"]) == ("connect", "b:25")


def test_a_server_without_another_is_the_callers_to_tell(caplog: pytest.LogCaptureFixture) -> None:
    """It is raised, and nothing took over."""
    world = Played({"a": [REFUSED] * 2})
    assert not world.send(mail("bob"))[0].ok
    assert caplog.records == []


def test_mail_in_doubt(caplog: pytest.LogCaptureFixture) -> None:
    """Not raised for a batch, and nobody sends it again: with the Message-ID that says which, and without addresses."""
    world = Played({"a": [Play({".": CUT})]})
    (receipt,) = world.send(mail("bob", "carl"))
    assert len(receipt.in_doubt) == 2
    (record,) = caplog.records
    assert record.getMessage().startswith("smtpbackend.in_doubt server=a:25 message_id=")
    assert (record.__dict__["message_id"], record.__dict__["recipients"]) == (receipt.message_id, 2)
    assert "bob" not in record.getMessage()


def test_once_a_minute_and_server(caplog: pytest.LogCaptureFixture) -> None:
    """However many messages and mailers meet it; another server, and another thing to tell, have their own minute."""
    for _ in range(3):
        for _ in range(2):
            world = Played({"a": [REFUSED] * 9, "b": [REFUSED] * 9, "c": [Play({".": CUT})] * 9}, rest=1.0)
            for _ in range(3):
                world.send(mail("bob"))
                world.now += 19.9
    assert told(caplog) == [
        *(("smtpbackend.failed_over", "a:25"), ("smtpbackend.failed_over", "b:25"), ("smtpbackend.in_doubt", "c:25")),
    ]
    world.now += 0.4
    world.send(mail("bob"))
    assert len(told(caplog)) == 6


def test_a_time_to_come_is_of_another_clock() -> None:
    """Two mailers may count from different starts: then it is told too often, and never not at all."""
    last = [5000.0]
    assert is_due(last, 10.0)
    assert not is_due(last, 69.9)
    assert is_due(last, 70.0)


def test_of_all_threads_one_tells() -> None:
    """Another one asks in the middle of the decision."""
    last = [float("-inf")]
    others = []

    class Interrupted(float):
        def __sub__(self, other: float) -> float:
            others.append(is_due(last, 1.0))
            return float(self) - other

    assert is_due(last, Interrupted(1.0))
    assert others == [False]
    assert not is_due(last, 2.0)


def test_what_is_remembered_is_bounded() -> None:
    """A mailer for each tenant may mean servers without end."""
    for number in range(3 * alarm.MOST):
        alarm.log_at_times("smtpbackend.in_doubt", f"server{number}:25", 1.0, {})
    assert len(alarm.last_logged) <= alarm.MOST
