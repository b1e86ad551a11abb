"""Does the cost of a message stay the same? From 1,000 to 100,000, a generator in and receipts out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.lab.mail import SENDER, content, recipients
from benchmarks.lab.samples import Figures, amount, client, interleaved, middle
from benchmarks.lab.servers import smtp_sink
from smtpbackend import Envelope, Mailer

FEW = amount(1000)
MANY = amount(100_000)
TO = recipients(1)


def ours(port: int, count: int) -> Callable[[], int]:
    mailer = Mailer(f"smtp://127.0.0.1:{port}?tls=none", max_messages=MANY * 2)

    def mails(number: int) -> Iterator[tuple[bytes, Envelope]]:
        return ((content(TO, place), Envelope(SENDER, TO)) for place in range(number))

    def send(number: int) -> int:
        return sum(receipt.ok for receipt in mailer.send_many(mails(number)))

    send(FEW)  # what is only done once is done
    return lambda: send(count)


def measure() -> Figures:
    with smtp_sink() as port:
        # many short ones for each long one: a tenth of a second is at the mercy of whatever else runs
        few = client(ours, port=port, count=FEW)
        names = [f"few{number}" for number in range(5)]
        samples = interleaved({**dict.fromkeys(names, few), "many": client(ours, port=port, count=MANY)}, rounds=5)
    short = [sample for name in names for sample in samples[name]]
    short_us, long_us = middle(short) / FEW * 1e6, middle(samples["many"]) / MANY * 1e6
    return {
        "time": long_us / short_us,
        "cpu": middle(samples["many"], "cpu") / MANY / (middle(short, "cpu") / FEW),
        "memory": middle(samples["many"], "memory") - middle(short, "memory"),
        "few_us": short_us,
        "many_us": long_us,
    }
