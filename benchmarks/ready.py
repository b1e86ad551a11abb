"""How fast does mail leave whose content is ready? One connection to smtp-sink, in bulk."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Callable

from benchmarks.lab.bare import in_flight
from benchmarks.lab.mail import SENDER, content, recipients
from benchmarks.lab.samples import Figures, amount, client, interleaved, middle, profiled, ratio
from benchmarks.lab.servers import smtp_sink
from smtpbackend import Envelope, Mailer

MESSAGES = amount(5000)
TO = recipients(1)


def ours(port: int, count: int) -> Callable[[], int]:
    mailer = Mailer(f"smtp://127.0.0.1:{port}?tls=none", max_messages=count + 1)
    mailer.connect()
    mails = [(content(TO, number), Envelope(SENDER, TO)) for number in range(count)]

    def work() -> int:
        return sum(receipt.ok for receipt in mailer.send_many(mails))

    return work


def standard(port: int, count: int) -> Callable[[], int]:
    smtp = smtplib.SMTP("127.0.0.1", port)
    smtp.ehlo()
    mails = [content(TO, number) for number in range(count)]

    def work() -> int:
        return sum(smtp.sendmail(SENDER, TO, mail) == {} for mail in mails)

    return work


def other(port: int, count: int) -> Callable[[], int]:
    import aiosmtplib

    mails = [content(TO, number) for number in range(count)]

    async def send() -> int:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False) as smtp:
            return sum([(await smtp.sendmail(SENDER, TO, mail))[0] == {} for mail in mails])

    return lambda: asyncio.run(send())


def measure() -> Figures:
    with smtp_sink() as port:
        given = {"port": port, "count": MESSAGES}
        clients = {"ours": ours, "smtplib": standard, "aiosmtplib": other, "bare": in_flight}
        samples = interleaved({name: client(function, **given) for name, function in clients.items()})
    figures: Figures = {}
    for name, found in samples.items():
        figures[f"{name}_rate"] = MESSAGES / middle(found)
        figures[f"{name}_us_cpu"] = middle(found, "cpu") / MESSAGES * 1e6
        if name != "ours":
            figures[f"{name}_ratio"] = ratio(samples["ours"], found)
    return figures


def profile() -> list[list[object]]:
    """Mail whose content is ready, in bulk"""
    with smtp_sink() as port:
        return profiled(ours, port=port, count=MESSAGES)
