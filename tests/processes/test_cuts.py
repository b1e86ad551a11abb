"""Sixty-four at once, and servers that cut connections wherever they like."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Mailer, Status
from smtpbackend.testing import CUT, EXTENSIONS, HANG_UP, RESET, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import hello
from tests.processes.crowd import Said, Work, in_tasks, in_threads
from tests.processes.ledger import counted, disagreements, status, subject_of

CROWD = 64
EACH = 200
BATCH = 20  # messages of one send_many


def alone(place: int) -> Work:
    """What one of the crowd sends by ``send``."""
    return [hello(subject=f"{place} of the crowd, {number}.") for number in range(EACH)]


def in_batches(place: int) -> Work:
    """What one of the crowd sends by ``send_many``."""
    return [alone(place)[start : start + BATCH] for start in range(0, EACH, BATCH)]


def random_play(number: int, seed: int) -> Play:
    """How the nth connection goes: well for some messages, and then it is cut at some octet, whoever speaks then."""
    chance = random.Random(f"{seed}/{number}")
    lock_step = EXTENSIONS[1:]
    where: dict[str, Any] = chance.choice(
        [
            {"cut_after_reading": chance.randrange(20000)},  # some 400 octets a message
            {"cut_after_saying": chance.randrange(6000)},  # some 120
            {"goodbye_after": chance.randrange(200)},
        ]
    )
    extensions = chance.choice([EXTENSIONS, (*EXTENSIONS, "CHUNKING"), lock_step, (*lock_step, "CHUNKING")])
    return Play(extensions=extensions, cut_by=chance.choice([CUT, RESET, HANG_UP]), **where)


@pytest.mark.exhaustive  # tens of thousands of messages
@pytest.mark.slow
@pytest.mark.parametrize("kind", [Mailer, AsyncMailer])
@pytest.mark.parametrize("work", [alone, in_batches])
def test_every_message_is_where_its_receipt_says(kind: Any, work: Any, scripted: Scripted) -> None:
    """Accepted: there exactly once. Not sent: not there. In doubt: at most once, and few are."""
    seed = random.randrange(1 << 32)
    plays = [random_play(number, seed) for number in range(3000)]
    servers = [scripted(*plays[0::2]), scripted(*plays[1::2])]
    mailer = kind(*(server.url for server in servers), rest=0.05, strategy="round_robin", chunk_in_flight="probe")
    said: Said = {}
    (in_threads if kind is Mailer else in_tasks)(mailer, [work(place) for place in range(CROWD)], said)
    if kind is Mailer:
        mailer.close()

    there = defaultdict(list)  # a copy has the numbers of server and connection
    for number, server in enumerate(servers):
        for connection, speaker in enumerate(server.speakers):
            for transaction in speaker.taken:
                there[subject_of(transaction.content)].append((number, connection))
    statuses = {subject: status(what) for subject, what in said.items()}
    told = f"{counted(statuses)}; seed {seed}"
    print(told, [server.connections for server in servers])
    assert len(statuses) == CROWD * EACH, told
    assert disagreements(statuses, there) == [], told

    cut = [speaker for server in servers for speaker in server.speakers if speaker.verbs[-1:] != ["QUIT"]]
    in_doubt = [subject for subject, status in statuses.items() if status is Status.IN_DOUBT]
    assert len(in_doubt) <= len(cut) * (1 if work is alone else 32), told
    assert len([status for status in statuses.values() if status is Status.ACCEPTED]) > CROWD * EACH * 0.9, told
