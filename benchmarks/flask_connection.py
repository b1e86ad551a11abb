"""What does a Flask app gain? 1,000 messages on one ``connect()`` to smtp-sink, beside Flask-Mail."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.lab import bare
from benchmarks.lab.mail import SENDER, SUBJECT, TEXT, recipients
from benchmarks.lab.samples import Figures, amount, client, interleaved, middle, profiled, ratio
from benchmarks.lab.servers import smtp_sink

MESSAGES = amount(1000)


def connected(port: int, count: int, extension: str, in_flight: bool = False) -> Callable[[], int]:
    from importlib import import_module

    from flask import Flask

    flask_mail = import_module(extension)
    app = Flask(__name__)
    app.config.update(MAIL_SERVER="127.0.0.1", MAIL_PORT=port, MAIL_DEFAULT_SENDER=SENDER, MAIL_MAX_EMAILS=None)
    mail = flask_mail.Mail(app)
    first, *messages = [flask_mail.Message(SUBJECT, recipients(1), TEXT, sender=SENDER) for _ in range(count + 1)]
    with app.app_context():
        mail.send(first)  # what is only done once in a process is done

    def work() -> int:
        with app.app_context(), mail.connect() as connection:
            if in_flight:
                assert all(receipt.ok for receipt in connection.send_many(messages))
            else:
                for message in messages:
                    connection.send(message)
        return count

    return work


def measure() -> Figures:
    with smtp_sink() as port:
        sent = {"port": port, "count": MESSAGES}
        samples = interleaved(
            {
                "ours": client(connected, **sent, extension="smtpbackend_flask", in_flight=True),
                "one_by_one": client(connected, **sent, extension="smtpbackend_flask"),
                "flask_mail": client(connected, **sent, extension="flask_mail"),
                "bare": client(bare.in_flight, **sent),
            }
        )
    return {
        "ratio": ratio(samples["ours"], samples["flask_mail"]),
        "bare_ratio": ratio(samples["bare"], samples["flask_mail"]),
        "cpu": ratio(samples["ours"], samples["flask_mail"], "cpu"),
        "one_by_one_ratio": ratio(samples["one_by_one"], samples["flask_mail"]),
        **{f"{name}_us": middle(found) / MESSAGES * 1e6 for name, found in samples.items()},
    }


def profile() -> list[list[object]]:
    """Flask, `Connection.send_many`"""
    with smtp_sink() as port:
        return profiled(connected, port=port, count=MESSAGES, extension="smtpbackend_flask", in_flight=True)
