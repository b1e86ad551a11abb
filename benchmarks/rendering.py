"""From Django's message to octets for the wire: the way of Django's own backend beside ours, in turn.

Both prepare the addresses and render: what a backend does before it talks to a server. Of a large attachment also the
memory above the message itself.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from benchmarks.lab import sites

ROUNDS = 9
SECONDS = 0.05  # that each round of each side takes at least
LARGE = 25 * 1024 * 1024  # octets
TEXT = "Hello Ann,\n\nyour order 1234 has left our house today and should reach you by Friday.\n\n" * 4
HTML = "<p>Hello Ann,</p>\n<p>your order <b>1234</b> has left our house today.</p>\n" * 8


def messages() -> dict[str, Callable[[], Any]]:
    """What is rendered, by name; each call makes a message anew."""
    from django.core import mail
    from django.core.mail import EmailMessage, EmailMultiAlternatives

    addresses = "Shop <shop@example.com>", ["ann@example.org"]
    content = bytes(range(256)) * (LARGE // 256)

    def reset() -> Any:
        """As ``django.contrib.auth`` makes it and gives it to its backend."""
        sites.reset_password(1234)
        return mail.outbox[-1]

    def plain() -> Any:
        return EmailMessage("Your order 1234", TEXT, *addresses)

    def alternatives() -> Any:
        message = EmailMultiAlternatives("Your order 1234", TEXT, *addresses)
        message.attach_alternative(HTML, "text/html")
        return message

    def attachment() -> Any:
        message = EmailMessage("Your order 1234", TEXT, *addresses)
        message.attach("video.bin", content, "application/octet-stream")
        return message

    return {
        "plain text": plain,
        "text + HTML": alternatives,
        "password reset": reset,
        "notification from templates": lambda: sites.notification(1234),
        "25 MB attachment": attachment,
    }


def sides() -> tuple[Callable[[Any], int], Callable[[Any], int]]:
    """Django's way and ours; both return the number of octets."""
    sites.django_site("django.core.mail.backends.locmem.EmailBackend")
    from email import policy

    import django
    from django.core.mail import message as mail
    from django.core.mail.backends.smtp import EmailBackend

    from smtpbackend.delivery.composing import compose
    from smtpbackend.delivery.configuration import Rules
    from smtpbackend.delivery.date_and_id import stamp
    from smtpbackend.delivery.mail import Mail
    from smtpbackend.delivery.parcel import Parcel
    from smtpbackend_django.message import content_of, envelope_of

    is_modern = django.VERSION >= (6, 0)
    prepare: Any = EmailBackend(host="localhost", alias="default").prep_address if is_modern else None

    def theirs(message: Any) -> int:
        for address in (message.from_email, *message.recipients()):
            prepare(address) if is_modern else mail.sanitize_address(address, "utf-8")
        if is_modern:
            return len(message.message(policy=policy.SMTP).as_bytes())
        return len(message.message().as_bytes(linesep="\r\n"))

    def ours(message: Any) -> int:
        envelope = envelope_of(message, prepare)
        mail = Mail(1, message)
        assert compose(mail, Parcel(envelope, content_of(message, envelope)), Rules(), stamp) is None
        content = mail.content
        assert content is not None
        # what is asked of a content before it leaves, and its octets
        _, longest = content.is_8bit, content.longest_line
        assert longest <= 998
        return sum(map(len, content.chunks()))

    return theirs, ours


def seconds(render: Callable[[Any], int], message: Any, times: int) -> float:
    """CPU seconds that one rendering takes."""
    start = time.process_time()
    for _ in range(times):
        render(message)
    return (time.process_time() - start) / times


def memory(render: Callable[[Any], int], message: Any) -> int:
    """Octets that rendering needs at most, the message itself aside."""
    tracemalloc.start()
    try:
        render(message)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def measure() -> dict[str, float]:
    """Seconds and octets of both, and how many times Django's ours are."""
    found: dict[str, float] = {}
    theirs, ours = sides()
    for name, make in messages().items():
        message = make()
        assert abs(ours(message) - theirs(message)) <= 4, name  # a Message-ID may be a few digits longer
        times = max(1, int(SECONDS / max(seconds(theirs, message, 1), 1e-6)))
        taken: tuple[list[float], list[float]] = [], []
        for _ in range(ROUNDS):
            for render, into in zip((theirs, ours), taken, strict=True):
                into.append(seconds(render, message, times))
        found[f"{name}, Django, seconds"] = statistics.median(taken[0])
        found[f"{name}, smtpbackend, seconds"] = statistics.median(taken[1])
        found[f"{name}, ratio"] = statistics.median(one / other for one, other in zip(*taken, strict=True))
        if name.startswith("25 MB"):
            octets = memory(theirs, message), memory(ours, message)
            found[f"{name}, Django, octets"], found[f"{name}, smtpbackend, octets"] = octets
            found[f"{name}, ratio of octets"] = octets[0] / octets[1]
    return found


def main() -> None:
    print(f"Rendering, CPU microseconds; medians of {ROUNDS} rounds in turn")
    print(f"{'':28}{'Django':>12}{'smtpbackend':>14}{'ratio':>8}")
    found = measure()
    for name in messages():
        theirs, ours = found[f"{name}, Django, seconds"] * 1e6, found[f"{name}, smtpbackend, seconds"] * 1e6
        print(f"{name:28}{theirs:12.1f}{ours:14.1f}{found[f'{name}, ratio']:8.1f}")
    name = "25 MB attachment"
    theirs, ours = found[f"{name}, Django, octets"] / 1e6, found[f"{name}, smtpbackend, octets"] / 1e6
    print(f"{'its memory, MB':28}{theirs:12.1f}{ours:14.1f}{found[f'{name}, ratio of octets']:8.1f}")


if __name__ == "__main__":
    main()
