"""Sixty-four at once, and servers that cut connections wherever they like."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Mailer
from smtpbackend.testing import CUT, EXTENSIONS, RESET, Play
from tests.mailer.conftest import Scripted
from tests.mailer.twins import hello
from tests.processes.crowd import Said, in_tasks, in_threads
from tests.processes.ledger import counted, disagreements, status, subject_of

CROWD = 64
EACH = 200


def random_play(number: int, seed: int) -> Play:
    """How the nth connection goes: well for some messages, and then it is cut, somewhere."""
    chance = random.Random(f"{seed}/{number}")
    where, good = chance.choice(
        [
            ("", "220 mx.example.com ESMTP ready"),
            ("EHLO", "\n".join(["250-mx.example.com", *(f"250-{name}" for name in EXTENSIONS), "250 HELP"])),
            *[("MAIL", "250 2.1.0 sender ok")] * 3,
            *[("RCPT", "250 2.1.5 recipient ok")] * 3,
            *[("DATA", "354 go ahead")] * 3,
            *[(".", f"250 2.0.0 Ok: queued as {number}")] * 6,
            *[("RSET", "250 2.0.0 reset")] * 2,
        ]
    )
    ending = chance.choice([CUT, RESET])
    octets = good.encode()
    said = chance.choice(
        [
            ending,
            (good, ending),
            (octets[: chance.randrange(1, len(octets) + 1)], ending),
            ("421 4.3.2 shutting down", ending),
        ]
    )
    before = 0 if where in ("", "EHLO") else chance.randrange(60)
    return Play({where: [*[good] * before, said]})


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Mailer, AsyncMailer])
def test_every_message_is_where_its_receipt_says(kind: Any, scripted: Scripted) -> None:
    """64 x 200 messages by `send`; each connection cut leaves at most one of them in doubt."""
    seed = random.randrange(1 << 32)
    plays = [random_play(number, seed) for number in range(3000)]
    servers = [scripted(*plays[0::2]), scripted(*plays[1::2])]
    mailer = kind(*(server.url for server in servers), rest=0.05, strategy="round_robin")
    said: Said = {}
    works = [[hello(subject=f"{place} of the crowd, {number}.") for number in range(EACH)] for place in range(CROWD)]
    (in_threads if kind is Mailer else in_tasks)(mailer, works, said)
    if kind is Mailer:
        mailer.close()

    taken = defaultdict(set)  # a copy has the numbers of server and connection
    for number, server in enumerate(servers):
        for connection, speaker in enumerate(server.speakers):
            for transaction in speaker.taken:
                taken[subject_of(transaction.content)].add((number, connection))
    statuses = {subject: status(what) for subject, what in said.items()}
    told = f"{counted(statuses)}; seed {seed}"
    print(told, [server.connections for server in servers])
    assert len(statuses) == CROWD * EACH, told
    assert disagreements(statuses, taken) == [], told
