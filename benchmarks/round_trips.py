"""What does a long line cost? 100 messages of three recipients, behind 50 ms, on one connection."""

from __future__ import annotations

import smtplib
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.lab.delay import DelayProxy
from benchmarks.lab.environments import node
from benchmarks.lab.mail import SENDER, content, recipients
from benchmarks.lab.samples import Figures, NotMeasured, Sample, amount, client, interleaved, middle, ratio, script
from benchmarks.lab.servers import postfix, smtp_sink
from smtpbackend import Envelope, Mailer

ROUND_TRIP = 0.05
MESSAGES = 100
PEERS_MESSAGES = amount(30)  # they take seconds for each ten: what is compared is the time a message
TO = recipients(3)


def ours(port: int, count: int) -> Callable[[], int]:
    mailer = Mailer(f"smtp://127.0.0.1:{port}?tls=none")
    mails = [(content(TO, number), Envelope(SENDER, TO)) for number in range(count)]

    def work() -> int:
        return sum(receipt.ok for receipt in mailer.send_many(mails))

    return work


def standard(port: int, count: int) -> Callable[[], int]:
    mails = [content(TO, number) for number in range(count)]

    def work() -> int:
        with smtplib.SMTP("127.0.0.1", port) as smtp:
            return sum(smtp.sendmail(SENDER, TO, mail) == {} for mail in mails)

    return work


def measure() -> Figures:
    with postfix() as port, DelayProxy("127.0.0.1", port, ROUND_TRIP) as proxy:
        figures: Figures = {}
        turns: list[int] = []
        rounds: list[int] = []

        def counting() -> Sample:
            proxy.forget()
            sample = client(ours, port=proxy.port, count=MESSAGES)()
            turns.append(proxy.turns_after_ehlo)
            rounds.append(proxy.rounds)
            return sample

        peers = {"smtplib": client(standard, port=proxy.port, count=PEERS_MESSAGES)}
        try:
            nodemailer = Path(__file__).with_name("nodemailer.js")
            options = {"port": proxy.port, "to": TO, "sender": SENDER, "mail": content(TO).decode()}
            peers["nodemailer"] = script(node(), nodemailer, count=PEERS_MESSAGES, **options)
        except NotMeasured as reason:
            figures["nodemailer_ratio"] = str(reason)
        samples = interleaved({"ours": counting, **peers})
    mine = samples.pop("ours")
    figures |= {"turns": statistics.median(turns), "rounds": statistics.median(rounds)}
    figures["ours_ms"] = middle(mine) / MESSAGES * 1000
    for name, theirs in samples.items():
        figures[f"{name}_ms"] = middle(theirs) / PEERS_MESSAGES * 1000
        figures[f"{name}_ratio"] = ratio(mine, theirs, times=PEERS_MESSAGES / MESSAGES)
    with smtp_sink() as port, DelayProxy("127.0.0.1", port, ROUND_TRIP) as proxy:
        figures["without_chunking_ms"] = client(ours, port=proxy.port, count=MESSAGES)().seconds / MESSAGES * 1000
        figures["turns_without_chunking"] = proxy.turns_after_ehlo
    return figures
