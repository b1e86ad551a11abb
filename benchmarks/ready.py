"""How fast does mail leave whose content is ready? One connection to smtp-sink, in bulk."""

from __future__ import annotations

import asyncio
import smtplib
import socket
from collections.abc import Callable

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


def bare(port: int, count: int) -> Callable[[], int]:
    """The limit: a socket and ready octets, each content with the next group; no check, no error, no receipt."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    group = b"RSET\r\nMAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA\r\n" % (SENDER.encode(), TO[0].encode())
    mails = [content(TO, number) + b".\r\n" for number in range(count)]

    def await_replies(number: int) -> None:
        while number:
            number -= sock.recv(4096).count(b"\n")

    def work() -> int:
        await_replies(1)
        sock.sendall(b"HELO localhost\r\n")
        await_replies(1)
        sock.sendall(group)
        await_replies(4)
        for mail in mails[:-1]:
            sock.sendall(mail + group)
            await_replies(5)
        sock.sendall(mails[-1])
        await_replies(1)
        return count

    return work


def measure() -> Figures:
    with smtp_sink() as port:
        given = {"port": port, "count": MESSAGES}
        clients = {"ours": ours, "smtplib": standard, "aiosmtplib": other, "bare": bare}
        samples = interleaved({name: client(function, **given) for name, function in clients.items()})
    figures: Figures = {}
    for name, found in samples.items():
        figures[f"{name}_rate"] = MESSAGES / middle(found)
        figures[f"{name}_us_cpu"] = middle(found, "cpu") / MESSAGES * 1e6
        if name != "ours":
            figures[f"{name}_ratio"] = ratio(samples["ours"], found)
    return figures


def profile() -> list[list[object]]:
    """Where the time of it goes: function, calls, per cent."""
    with smtp_sink() as port:
        return profiled(ours, port=port, count=MESSAGES)
