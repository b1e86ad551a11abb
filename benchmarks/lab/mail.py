"""The mail that is sent: the same for each client."""

from __future__ import annotations

SENDER = "ann@example.org"
SUBJECT = "Your order has left"
TEXT = "Good day,\n\n" + "Your order has left our house and will be with you in a day or two.\n" * 12


def recipients(number: int) -> list[str]:
    """Addresses that every server takes."""
    return [f"r{place}@example.net" for place in range(number)]


def content(to: list[str], number: int = 0) -> bytes:
    """A finished message of about a kilobyte."""
    head = (
        f"From: {SENDER}\r\nTo: {', '.join(to[:10])}\r\nSubject: {SUBJECT}\r\nMIME-Version: 1.0\r\n"
        f"Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{number}@example.org>\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"
    )
    return head.encode() + TEXT.replace("\n", "\r\n").encode()
