"""What does a request gain that sends one mail? STARTTLS and AUTH behind 20 ms, beside Django and Flask-Mail.

One by one, in a process that has sent mail before. Each mail is made anew, its templates rendered: an HTML
notification, and a password reset as ``django.contrib.auth`` sends it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.django_backend import BACKENDS
from benchmarks.lab import sites
from benchmarks.lab.delay import DelayProxy
from benchmarks.lab.environments import django
from benchmarks.lab.samples import Figures, NotMeasured, Taker, amount, client, interleaved, middle, ratio
from benchmarks.lab.servers import submission

ROUND_TRIP = 0.02
MESSAGES = amount(15)
BEFORE = 2  # mails that the process has sent
EXTENSIONS = {"ours": "smtpbackend_flask", "flask_mail": "flask_mail"}


def one_by_one(send: Callable[[int], object], count: int) -> Callable[[], int]:
    """``send`` raises for what is not sent."""
    for place in range(BEFORE):
        send(place)

    def work() -> int:
        for place in range(count):
            send(place)
        return count

    return work


def notification(count: int, backend: str, **options: Any) -> Callable[[], int]:
    sites.django_site(backend, **options)
    return one_by_one(lambda place: sites.notification(place).send(), count)


def reset(count: int, backend: str, **options: Any) -> Callable[[], int]:
    sites.django_site(backend, **options)
    return one_by_one(sites.reset_password, count)


def flask(count: int, extension: str, **config: Any) -> Callable[[], int]:
    module = import_module(extension)
    app, mail = sites.flask_app(module, **config)

    def send(place: int) -> None:
        with app.app_context():
            mail.send(sites.flask_notification(module, place))

    return one_by_one(send, count)


def measure() -> Figures:
    figures: Figures = {}
    with submission() as server, DelayProxy("127.0.0.1", server.port, ROUND_TRIP, is_set_up=True) as proxy:

        def compare(start: str, takers: dict[str, Taker], theirs: str) -> None:
            samples = interleaved(takers)
            figures[f"{start}_ratio"] = ratio(samples["ours"], samples[theirs])
            for name, found in samples.items():
                figures[f"{start}_{name}_ms"] = middle(found) / MESSAGES * 1000

        sent: dict[str, Any] = {"trusted": server.ca_file, "count": MESSAGES}
        options = {"host": "127.0.0.1", "port": proxy.port, "use_tls": True}
        options |= {"username": server.username, "password": server.password}
        try:
            sent_by_django = {**sent, **options, "python": django("6.1")}
            for way in (notification, reset):
                takers = {name: client(way, backend=one, **sent_by_django) for name, one in BACKENDS.items()}
                compare(f"django_{way.__name__}", takers, "django")
        except NotMeasured as reason:
            figures |= {f"django_{way.__name__}_ratio": str(reason) for way in (notification, reset)}
        config = {"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": proxy.port, "MAIL_USE_TLS": True}
        config |= {"MAIL_USERNAME": server.username, "MAIL_PASSWORD": server.password}
        takers = {name: client(flask, extension=one, **sent, **config) for name, one in EXTENSIONS.items()}
        compare("flask", takers, "flask_mail")
    return figures
