"""`make demo`: mail from the two examples beside this file, through a server that refuses one of the recipients.

An SMTP server (aiosmtpd) listens on a free port of this machine. The password-reset view of the Django site and the
notification view of the Flask app are called through their test clients. What was sent, what became of each recipient,
which signals fired and what the server received is printed. Then the server is stopped, and the Django site answers
once more, with its outbox: the mail arrives when the server is back. All of it is checked: the exit code is 0 only if
it is true.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

from aiosmtpd.smtp import SMTP

HERE = Path(__file__).resolve().parent
REFUSED = "gone@example.net"
SIGNALS = (
    *("message_sending", "message_sent", "message_failed", "message_in_doubt"),
    *("recipient_rejected", "recipient_deferred", "server_failed"),
)
problems: list[str] = []


def check(expected: Any, found: Any, what: str) -> None:
    """Note a problem unless what was found is what was expected."""
    if found != expected:
        problems.append(f"{what}: expected {expected!r}, found {found!r}")


def show(name: str, lines: Iterable[str]) -> None:
    """Print a name and what belongs to it, aligned."""
    for line in lines:
        print(f"  {name:9}{line}".rstrip())
        name = ""


# The server


class Received(NamedTuple):
    """A message as the server got it."""

    sender: str
    recipients: list[str]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.content, policy=policy.default)


class Inbox:
    """What aiosmtpd calls for each command: refuses one recipient, and keeps what arrives."""

    def __init__(self) -> None:
        self.received: list[Received] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        if address == REFUSED:
            return "550 5.1.1 No such mailbox here"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.received.append(Received(envelope.mail_from, envelope.rcpt_tos, envelope.original_content))
        return f"250 2.0.0 OK: queued as DEMO{len(self.received)}"


@contextmanager
def smtp_server(inbox: Inbox, port: int = 0) -> Iterator[int]:
    """A server in a thread of its own; gives its port, which is a free one unless it is named."""
    listening = socket.create_server(("127.0.0.1", port))
    loop = asyncio.new_event_loop()

    def serve() -> None:
        made = loop.create_server(lambda: SMTP(inbox, hostname="mx.example.com", loop=loop), sock=listening)
        server = loop.run_until_complete(made)
        loop.run_forever()
        server.close()
        loop.run_until_complete(asyncio.sleep(0.05))  # whoever said QUIT is gone then
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


# The applications


class Fired:
    """Collects the signals of a package, and the receipts in them."""

    def __init__(self, signals: Any, sender: Any = None, **others: Any) -> None:
        self.names: list[str] = []
        self.receipts: list[Any] = []
        wanted = {name: getattr(signals, name) for name in SIGNALS} | others
        self._receivers = [self._connect(signal, name, sender) for name, signal in wanted.items()]

    def _connect(self, signal: Any, name: str, sender: Any) -> Any:
        def receiver(sender: Any, **fields: Any) -> None:
            self.names.append(name)
            if "receipt" in fields:
                self.receipts.append(fields["receipt"])

        signal.connect(receiver) if sender is None else signal.connect(receiver, sender=sender)
        return receiver  # signals hold it weakly

    def show(self, expected: dict[str, str], signals: list[str], what: str) -> None:
        """Print the receipt and the signals, and check them."""
        outcomes = [outcome for receipt in self.receipts for outcome in receipt.outcomes]
        show("receipt", (f"{o.address!s:18} {o.status.value:9} {o.reply or o.error}" for o in outcomes))
        show("signals", [", ".join(self.names)])
        check(expected, {str(outcome.address): outcome.status.value for outcome in outcomes}, f"receipt of the {what}")
        check(signals, self.names, f"signals of the {what}")


def django_site(port: int, folder: str, inbox: Inbox) -> None:
    """Ann, who forgot her password, asks for a new one; then the link in the mail is followed."""
    sys.path.insert(0, str(HERE / "django_site"))
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "example_site.settings",
        "DATABASE": str(Path(folder, "site.sqlite3")),
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(port),
    }
    import django
    from django.core.management import call_command
    from django.test import Client

    django.setup()
    call_command("migrate", verbosity=0)
    call_command("loaddata", "users", verbosity=0)

    from smtpbackend_django import signals
    from smtpbackend_django.conf import close_mailers

    fired = Fired(signals)
    browser = Client()
    answer = browser.post("/accounts/password_reset/", {"email": "ann@example.org"})
    check(302, answer.status_code, "answer of the password-reset view")

    print(f"\nDjango {django.get_version()}: the password-reset view")
    show_sent(inbox, 1)
    fired.show({"ann@example.org": "accepted"}, ["message_sending", "message_sent"], "password reset")
    for received in inbox.received[:1]:
        check(["ann@example.org"], received.recipients, "recipients of the password reset")
        link = re.search(r"https?://[^/\s]+(/\S+)", received.message.get_content())
        page = browser.get(link[1], follow=True) if link else None
        check(True, page is not None and b"new_password1" in page.content, "page behind the link in the mail")
        show("link", ["opens the form for a new password" if page and page.status_code == 200 else "is broken"])
    close_mailers()


def flask_app(port: int, inbox: Inbox) -> None:
    """Two people are notified, one of whom is gone."""
    sys.path.insert(0, str(HERE / "flask_app"))
    from importlib.metadata import version

    from app import create_app

    import smtpbackend_flask

    app = create_app({"MAIL_SERVER": "127.0.0.1", "MAIL_PORT": port})
    fired = Fired(smtpbackend_flask, sender=app)
    note = {"subject": "Deployed", "text": "1.2 is live.", "recipients": ["Ann <ann@example.org>", REFUSED]}
    answer = app.test_client().post("/notify", json=note)
    check(200, answer.status_code, "answer of the notification view")

    print(f"\nFlask {version('flask')}: the notification view")
    show_sent(inbox, 2)
    expected = {"ann@example.org": "accepted", REFUSED: "rejected"}
    fired.show(expected, ["message_sending", "recipient_rejected", "message_sent"], "notification")
    told = {address: one["status"] for address, one in answer.get_json().get("recipients", {}).items()}
    show("answer", [", ".join(f"{address}: {status}" for address, status in told.items())])
    check(expected, told, "recipients in the answer")
    for received in inbox.received[1:]:
        check(["ann@example.org"], received.recipients, "recipients of the notification")
        bodies = [received.message.get_body((kind,)) for kind in ("plain", "html")]
        texts = [body.get_content() if body is not None else "" for body in bodies]
        check([True, True], ["1.2 is live." in text for text in texts], "text and HTML of the notification")
    app.extensions["smtpbackend"].close()


def django_outbox(port: int, inbox: Inbox) -> None:
    """Ann asks again, while the mail server is down. The site is the same one, with its outbox as mail backend."""
    from django.db import connections
    from django.test import Client, override_settings
    from example_site import settings_with_outbox

    from smtpbackend_django import outbox, signals
    from smtpbackend_django.conf import close_mailers
    from smtpbackend_django.outbox.models import Due, Mailer
    from smtpbackend_django.outbox.process import stop_workers

    print("\nDjango again, with its outbox: the password-reset view while the mail server is down")
    mail = {name: value for name, value in vars(settings_with_outbox).items() if name in ("EMAIL_BACKEND", "MAILERS")}
    fired = Fired(signals, mailer_down=outbox.mailer_down)
    with override_settings(**mail):
        answer = Client().post("/accounts/password_reset/", {"email": "ann@example.org"})
        check(302, answer.status_code, "answer of the password-reset view without a server")
        show("answer", [f"{answer.status_code} {answer.reason_phrase}, while nothing listens on 127.0.0.1:{port}"])

        wait_for(lambda: "mailer_down" in fired.names, "the signal mailer_down")
        show("signals", [", ".join(fired.names)])
        check(["message_sending", "server_failed", "mailer_down"], fired.names, "signals without a server")
        fired.names.clear()
        fired.receipts.clear()
        rests = [f"the outbox tries again in {mailer.rest:.0f} s" for mailer in Mailer.objects.all()]
        show("mail", [f"waits in the database of the site; {', '.join(rests)}"])
        check((1, 1), (Due.objects.count(), len(rests)), "mails that wait, and mailers that rest")

        with smtp_server(inbox, port):
            back = time.monotonic()
            wait_for(lambda: len(inbox.received) == 3, "the mail, by itself")
            show("server", [f"is back on its port; the mail came by itself, {time.monotonic() - back:.0f} s later"])
            wait_for(lambda: not Due.objects.exists() and "message_sent" in fired.names, "the record of the mail")
            show_sent(inbox, 3)
            fired.show({"ann@example.org": "accepted"}, ["message_sending", "message_sent"], "mail from the outbox")
            stop_workers()
            close_mailers()
    connections.close_all()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Look again and again, for half a minute."""
    until = time.monotonic() + 30
    while not condition():
        if time.monotonic() > until:
            problems.append(f"{what}: has not come within 30 s")
            return
        time.sleep(0.02)


def show_sent(inbox: Inbox, count: int) -> None:
    """Print what was sent last; so many messages must have arrived by now."""
    check(count, len(inbox.received), "messages at the server")
    for received in inbox.received[count - 1 : count]:
        show("sent", [f'"{received.message["Subject"]}" from {received.message["From"]}'])


def main() -> int:
    logging.disable(logging.ERROR)  # what the examples log is shown as signals and receipts
    inbox = Inbox()
    with tempfile.TemporaryDirectory() as folder:
        with smtp_server(inbox) as port:
            print(f"An SMTP server listens on 127.0.0.1:{port}. It has no mailbox {REFUSED}.")
            django_site(port, folder, inbox)
            flask_app(port, inbox)

        print("\nWhat the server received")
        for number, received in enumerate(inbox.received, 1):
            print(f"\n  {number}. MAIL FROM:<{received.sender}>", *(f"RCPT TO:<{one}>" for one in received.recipients))
            print(*(f"     {line}".rstrip() for line in received.content.decode("ascii").splitlines()), sep="\n")
        django_outbox(port, inbox)

    print(*("", "Not as expected:", *problems) if problems else ("", "All of it is as expected."), sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
