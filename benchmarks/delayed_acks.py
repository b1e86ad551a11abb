"""Do groups of commands cost time where the server answers each in a packet of its own, as Haraka does?

Such a packet waits until the one before it was acknowledged, and systems acknowledge late: 40 to 50 ms a group.
"""

from __future__ import annotations

import smtplib
from collections.abc import Callable

from benchmarks.lab.mail import SENDER, content, recipients
from benchmarks.lab.samples import Figures, amount, client, interleaved, middle, ratio
from smtpbackend import Envelope, Mailer
from smtpbackend.testing import Play, ScriptedServer

MESSAGES = amount(100)
TO = recipients(3)


def ours(port: int, count: int, ignored: list[str]) -> Callable[[], int]:
    """One message after the other, as requests send them."""
    mailer = Mailer(f"smtp://127.0.0.1:{port}?tls=none", ignore_extensions=ignored, max_messages=count + 1)
    mailer.connect()
    mails = [(content(TO, number), Envelope(SENDER, TO)) for number in range(count)]
    return lambda: sum(mailer.send(mail, envelope).ok for mail, envelope in mails)


def standard(port: int, count: int) -> Callable[[], int]:
    smtp = smtplib.SMTP("127.0.0.1", port)
    mails = [content(TO, number) for number in range(count)]
    return lambda: sum(smtp.sendmail(SENDER, TO, mail) == {} for mail in mails)


def measure() -> Figures:
    with ScriptedServer(Play(nagle=True)) as server:
        given = {"port": server.port, "count": MESSAGES}
        samples = interleaved(
            {
                "groups": client(ours, ignored=[], **given),
                "singly": client(ours, ignored=["PIPELINING"], **given),
                "smtplib": client(standard, **given),
            }
        )
    return {
        "ratio": ratio(samples["groups"], samples["singly"]),
        "smtplib_ratio": ratio(samples["groups"], samples["smtplib"]),
        **{f"{name}_ms": middle(found) / MESSAGES * 1000 for name, found in samples.items()},
    }
