"""Sixty-four at once, and servers that cut connections wherever they like."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from smtpbackend import AsyncMailer, Mailer
from smtpbackend.testing import CUT, EXTENSIONS, RESET, Play, ScriptedServer
from tests.mailer.conftest import Scripted
from tests.mailer.twins import hello
from tests.processes.crowd import in_tasks, in_threads
from tests.processes.ledger import counted, disagreements, status

CROWD = 64
EACH = 200


def random_play(number: int, seed: int) -> Play:
    """How the nth connection goes: well for some messages, and then it is cut, somewhere."""
    chance = random.Random(f"{seed}/{number}")
    where, good = chance.choice(
        [
            ("", "220 mx.example.com ESMTP ready"),
            ("EHLO", "250-mx.example.com\n" + "\n".join(f"250-{name}" for name in EXTENSIONS) + "\n250 HELP"),
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


def one_of_the_crowd(place: int) -> list[str]:
    return [f"{place} of the crowd, {number}." for number in range(EACH)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Mailer, AsyncMailer])
def test_every_message_is_where_its_receipt_says(kind: Any, scripted: Scripted) -> None:
    seed = random.randrange(1 << 32)
    plays = [random_play(number, seed) for number in range(3000)]
    servers = [scripted(*plays[0::2]), scripted(*plays[1::2])]
    mailer = kind(*(server.url for server in servers), rest=0.05)
    works = [[hello(subject=subject) for subject in one_of_the_crowd(place)] for place in range(CROWD)]
    import time
    t=time.time()
    said = (in_threads if kind is Mailer else in_tasks)(mailer, works)
    mailer.close() if kind is Mailer else None
    print(time.time()-t)
    statuses = {subject: status(one) for subject, one in said.items()}

    taken = defaultdict(list)
    for number, server in enumerate(servers):
        for connection, speaker in enumerate(server.speakers):
            for transaction in speaker.taken:
                subject = re.search(rb"(?m)^Subject: (.*)\r$", transaction.content)
                taken[subject[1].decode()].append(f"server {number}, connection {connection}")
    print(counted(statuses), [server.connections for server in servers])
    from collections import Counter
    print(Counter(str(o)[:90] for o in said.values() if not hasattr(o,'ok')))
    assert len(said) == CROWD * EACH
    assert disagreements(statuses, taken) == [], f"seed {seed}"
