"""Tasks of Celery that send mail; the broker is the folder `queue`."""

import os
from pathlib import Path

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
app = Celery("site", broker="filesystem://")
queue = Path(__file__).parent / "queue"
queue.mkdir(exist_ok=True)
app.conf.broker_transport_options = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), str(queue))


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def note_end(**_: object) -> None:
    """A child ends, or the process that was started."""
    print("THE END", flush=True)


@app.task
def mail(to: str) -> None:
    """In a transaction of its own."""
    from django.core.mail import send_mail

    send_mail("Hello", "Text", None, [to])


@app.task
def order(to: str, fails: bool) -> None:
    """In one with an order, which may fail after its mail."""
    from django.db import transaction
    from site_app.models import Order

    with transaction.atomic():
        Order.objects.create(number=to)
        mail(to)
        if fails:
            raise RuntimeError("the order fails after its mail")


@app.task
def direct(to: str, port: int) -> None:
    """Past the outbox."""
    from smtpbackend import Mailer, Message

    mailer.append(Mailer(f"smtp://127.0.0.1:{port}?tls=none"))
    mailer[-1].send(Message(subject="Hello", from_="site@example.com", to=to, text="Text"))


mailer = []  # lives as long as the process
