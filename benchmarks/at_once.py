"""What do many coroutines gain that send at once? Behind 20 ms, eight connections, beside one of aiosmtplib."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.lab.delay import DelayProxy
from benchmarks.lab.mail import SENDER, content, recipients
from benchmarks.lab.samples import Figures, amount, client, interleaved, middle, ratio
from benchmarks.lab.servers import postfix, smtp_sink
from smtpbackend import AsyncMailer, Envelope

ROUND_TRIP = 0.02
CONNECTIONS = 8
MESSAGES = amount(1000)
PEERS_MESSAGES = amount(50)  # each takes five round trips: what is compared is the time a message
TO = recipients(1)


def ours(port: int, count: int) -> Callable[[], int]:
    mails = [(content(TO, number), Envelope(SENDER, TO)) for number in range(count)]

    async def send() -> int:
        async with AsyncMailer(f"smtp://127.0.0.1:{port}?tls=none", max_connections=CONNECTIONS) as mailer:
            receipts = await asyncio.gather(*(mailer.send(mail, envelope) for mail, envelope in mails))
            return sum(receipt.ok for receipt in receipts)

    return lambda: asyncio.run(send())


def other(port: int, count: int) -> Callable[[], int]:
    import aiosmtplib

    mails = [content(TO, number) for number in range(count)]

    async def send() -> int:
        async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False) as smtp:
            sent = await asyncio.gather(*(smtp.sendmail(SENDER, TO, mail) for mail in mails))
            return sum(refused == {} for refused, _ in sent)

    return lambda: asyncio.run(send())


def compared(server: AbstractContextManager[int]) -> dict[str, float]:
    with server as port, DelayProxy("127.0.0.1", port, ROUND_TRIP) as proxy:
        samples = interleaved(
            {
                "ours": client(ours, port=proxy.port, count=MESSAGES),
                "aiosmtplib": client(other, port=proxy.port, count=PEERS_MESSAGES),
            }
        )
    return {
        "ratio": ratio(samples["ours"], samples["aiosmtplib"], times=PEERS_MESSAGES / MESSAGES),
        "ours_ms": middle(samples["ours"]) / MESSAGES * 1000,
        "aiosmtplib_ms": middle(samples["aiosmtplib"]) / PEERS_MESSAGES * 1000,
    }


def measure() -> Figures:
    """With CHUNKING and without."""
    without = {f"without_chunking_{name}": value for name, value in compared(smtp_sink()).items()}
    return {**compared(postfix()), **without}
