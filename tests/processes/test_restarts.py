"""Two real servers that are killed and rise again while mail goes out through them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Mailer, Receipt, Status
from tests.mailer.twins import hello
from tests.processes.conftest import Two
from tests.processes.crowd import Said, in_tasks, in_threads
from tests.processes.ledger import counted, disagreements, status, subject_of
from tests.servers.ports import wait_until

MESSAGES = 2000
WORKERS = 20
BATCH = 25  # messages of one send_many
KILLS = 6
DOWN = 100  # messages that go out before the server is back


def by_every_other(worker: int) -> list[Any]:
    """A worker's share of the messages: one by one for ``send``, or in batches for ``send_many``."""
    manner = "alone" if worker % 2 else "among others"
    messages = [hello(subject=f"{manner}, {worker}, {number}.") for number in range(MESSAGES // WORKERS)]
    if manner == "alone":
        return messages
    return [messages[start : start + BATCH] for start in range(0, len(messages), BATCH)]


def kill_in_turn(servers: Two, sent: Callable[[], int], over: threading.Event) -> None:
    """Kill one server and then the other, whenever so many messages are through; each comes back a little later."""
    for number in range(KILLS):
        server = servers[number % 2]
        first = (number + 1) * MESSAGES // (KILLS + 2)
        wait_until(lambda first=first: over.is_set() or sent() >= first, 60)
        server.kill()
        wait_until(lambda first=first: over.is_set() or sent() >= first + DOWN, 60)
        server.start()


def test_a_killed_server_has_kept_what_it_accepted(mortal_postfixes: Two) -> None:
    """So that what is missing below is missing because of us."""
    server, _ = mortal_postfixes
    with Mailer(f"smtp://{server.host}:{server.plain_port}?tls=none") as mailer:
        queue_ids = {receipt.queue_id for receipt in mailer.send_many(hello() for _ in range(100))}
        server.kill()
    server.start()
    assert {mail.queue_id for mail in server.mail()} == queue_ids


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("kind", [Mailer, AsyncMailer])
def test_the_receipts_agree_with_the_mailboxes(kind: Any, mortal_postfixes: Two) -> None:
    """Message by message: what is in doubt may be there, at most once; all else is as it was said."""
    one, other = mortal_postfixes
    names = {f"{one.host}:{one.plain_port}": one, f"{other.host}:{other.starttls_port}": other}
    mailer = kind(
        {"host": one.host, "port": one.plain_port, "tls": "none"},
        {
            "host": other.host,
            "port": other.starttls_port,
            "tls": "required",
            "ca_file": str(other.ca_file),
            "username": other.user,
            "password": other.password,
        },
        strategy="round_robin",
        rest=0.2,
    )
    cut_before = one.cut_connections + other.cut_connections
    said: Said = {}
    over = threading.Event()
    killer = threading.Thread(target=kill_in_turn, args=(mortal_postfixes, lambda: len(said), over))
    killer.start()
    try:
        (in_threads if kind is Mailer else in_tasks)(mailer, [by_every_other(n) for n in range(WORKERS)], said)
    finally:
        over.set()
        killer.join(30)
    if kind is Mailer:
        mailer.close()

    there: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)  # a copy has the server's name and queue id
    for name, server in names.items():
        for mail in server.mail():
            there[subject_of(mail.content)].add((name, mail.queue_id))
    statuses = {subject: status(what) for subject, what in said.items()}
    told = counted(statuses)
    assert len(statuses) == MESSAGES
    assert disagreements(statuses, there) == [], told
    for subject, receipt in said.items():
        if isinstance(receipt, Receipt) and receipt.accepted:
            assert there[subject] == {(receipt.server, receipt.queue_id)}

    in_doubt = [subject for subject, status in statuses.items() if status is Status.IN_DOUBT]
    cut = one.cut_connections + other.cut_connections - cut_before
    assert len([subject for subject in in_doubt if subject.startswith("alone")]) <= cut, told
    assert len(in_doubt) <= cut * BATCH, told
